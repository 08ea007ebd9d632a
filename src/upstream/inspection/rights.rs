//! What the user of the connection string may do. Every user may ask that about itself.

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::command;

/// What a change stream needs.
const ACTIONS: [&str; 2] = ["find", "changeStream"];

/// The privileges of the authenticated user.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Name and database; `None` if authentication is off.
    user: Option<(String, String)>,
    privileges: Vec<Privilege>,
}

#[derive(Debug)]
struct Privilege {
    resource: Resource,
    actions: Vec<String>,
}

#[derive(Debug)]
enum Resource {
    Any,
    /// An empty name stands for all of them.
    Within {
        database: String,
        collection: String,
    },
    Other,
}

/// The rights of the user of this connection; none where MongoDB knows no users.
///
/// # Errors
/// Those of the driver.
pub(super) async fn ask(client: &Client) -> Result<Rights, Error> {
    let asked = doc! { "connectionStatus": 1, "showPrivileges": true };
    let answer = command(client, "admin", asked).await?;
    Ok(Rights::read(&answer).unwrap_or_default())
}

impl Rights {
    fn read(answer: &Document) -> Option<Rights> {
        let info = answer.get_document("authInfo").ok()?;
        let user = info.get_array("authenticatedUsers").ok()?.first()?.as_document()?;
        let user = (user.get_str("user").ok()?.to_owned(), user.get_str("db").ok()?.to_owned());
        let privileges = info.get_array("authenticatedUserPrivileges").ok()?;
        let privileges = privileges.iter().filter_map(Privilege::read).collect();
        Some(Rights { user: Some(user), privileges })
    }

    /// Whether the change stream of a collection may be read, or that of its database, where none is
    /// named. A database's covers its collections.
    pub fn may_read(&self, database: &str, collection: Option<&str>) -> bool {
        self.may_read_at(database, "")
            || collection.is_some_and(|collection| self.may_read_at(database, collection))
    }

    /// Whether rights on a database's collections are not rights on the database.
    pub fn may_not_read_all(&self, database: &str) -> bool {
        !self.may_read_at(database, "")
    }

    fn may_read_at(&self, database: &str, collection: &str) -> bool {
        let may = |action: &&str| {
            self.privileges.iter().any(|privilege| {
                privilege.actions.iter().any(|known| known == action)
                    && privilege.resource.covers(database, collection)
            })
        };
        self.user.is_none() || ACTIONS.iter().all(may)
    }

    /// The commands that give this user what a database's change stream needs, and no more.
    pub fn grant(&self, database: &str) -> String {
        let (user, of) = self.names();
        commands(database, user, of)
    }

    /// The command that gives this user a role.
    pub fn grant_role(&self, role: &str, database: &str) -> String {
        let (user, of) = self.names();
        format!(
            "db.getSiblingDB({of:?}).grantRolesToUser({user:?}, [{{ role: {role:?}, db: \
             {database:?} }}])"
        )
    }

    /// The commands that let this user do one thing of the whole cluster. No built-in role that only
    /// reads may ask for cluster parameters.
    pub fn grant_cluster_action(&self, action: &str) -> String {
        let (user, of) = self.names();
        format!(
            "db.getSiblingDB(\"admin\").createRole({{ role: {action:?}, privileges: [{{ resource: {{ \
             cluster: true }}, actions: [{action:?}] }}], roles: [] }}); \
             db.getSiblingDB({of:?}).grantRolesToUser({user:?}, [{{ role: {action:?}, db: \"admin\" }}])"
        )
    }

    fn names(&self) -> (&str, &str) {
        self.user.as_ref().map_or(("USER", "admin"), |(user, of)| (user, of))
    }
}

/// The commands that give a user what a database's change stream needs, and no more.
pub fn grant(database: &str) -> String {
    commands(database, "USER", "admin")
}

fn commands(database: &str, user: &str, of: &str) -> String {
    let role = format!("changeStreamOf_{database}");
    format!(
        "db.getSiblingDB(\"admin\").createRole({{ role: {role:?}, privileges: [{{ resource: {{ db: \
         {database:?}, collection: \"\" }}, actions: [\"find\", \"changeStream\"] }}], roles: [] \
         }}); db.getSiblingDB({of:?}).grantRolesToUser({user:?}, [{{ role: {role:?}, db: \"admin\" \
         }}])"
    )
}

impl Privilege {
    fn read(privilege: &Bson) -> Option<Privilege> {
        let privilege = privilege.as_document()?;
        let resource = privilege.get_document("resource").ok()?;
        let names = (resource.get_str("db").ok(), resource.get_str("collection").ok());
        let resource = match names {
            (Some(database), Some(collection)) => Resource::Within {
                database: database.to_owned(),
                collection: collection.to_owned(),
            },
            _ if resource.get_bool("anyResource").unwrap_or(false) => Resource::Any,
            _ => Resource::Other,
        };
        let actions = privilege.get_array("actions").ok()?.iter();
        let actions = actions.filter_map(|action| action.as_str().map(str::to_owned)).collect();
        Some(Privilege { resource, actions })
    }
}

impl Resource {
    fn covers(&self, database: &str, collection: &str) -> bool {
        match self {
            Resource::Any => true,
            Resource::Within { database: of, collection: within } => {
                (of.is_empty() || of == database) && (within.is_empty() || within == collection)
            }
            Resource::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(resource: Document, actions: &[&str]) -> Rights {
        let actions: Vec<Bson> = actions.iter().map(|action| Bson::from(*action)).collect();
        Rights::read(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "ada", "db": "shop" }],
            "authenticatedUserPrivileges": [{ "resource": resource, "actions": actions }],
        } })
        .unwrap()
    }

    #[test]
    fn what_covers_a_database() {
        let rows = [
            (doc! { "db": "shop", "collection": "" }, &ACTIONS[..], true),
            (doc! { "db": "", "collection": "" }, &ACTIONS, true),
            (doc! { "anyResource": true }, &ACTIONS, true),
            (doc! { "db": "shop", "collection": "" }, &["find"], false),
            (doc! { "db": "shop", "collection": "orders" }, &ACTIONS, true),
            (doc! { "db": "shop", "collection": "bills" }, &ACTIONS, false),
            (doc! { "db": "shpo", "collection": "" }, &ACTIONS, false),
            (doc! { "cluster": true }, &ACTIONS, false),
        ];
        for (resource, actions, expected) in rows {
            let rights = rights(resource.clone(), actions);
            assert_eq!(rights.may_read("shop", Some("orders")), expected, "{resource}");
        }
        let collection = rights(doc! { "db": "shop", "collection": "orders" }, &ACTIONS);
        assert!(!collection.may_read("shop", None) && collection.may_not_read_all("shop"));
        // Where nobody signs in, everybody may everything.
        assert!(Rights::default().may_read("shop", None));
    }

    #[test]
    fn names_are_quoted_as_they_are() {
        let rights = rights(doc! {}, &[]);
        assert_eq!(
            rights.grant("shop"),
            "db.getSiblingDB(\"admin\").createRole({ role: \"changeStreamOf_shop\", privileges: [{ \
             resource: { db: \"shop\", collection: \"\" }, actions: [\"find\", \"changeStream\"] }], \
             roles: [] }); db.getSiblingDB(\"shop\").grantRolesToUser(\"ada\", [{ role: \
             \"changeStreamOf_shop\", db: \"admin\" }])"
        );
    }
}
