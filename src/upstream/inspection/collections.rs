//! The collections of a database, as far as this user may see them.

use std::collections::BTreeMap;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::command;
use crate::upstream::failure::Failure;

/// Of one database, by name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub collections: BTreeMap<String, Collection>,
}

/// A collection, or what goes by the name of one.
#[derive(Debug)]
pub(super) struct Collection {
    pub name: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// `None` where this user may see names only.
    pub options: Option<Document>,
    /// What a view is made of.
    pub view_on: Option<String>,
}

impl Listing {
    /// By its exact name. `None` if it does not exist, or if this user may not see it.
    pub fn find(&self, name: &str) -> Option<&Collection> {
        self.collections.get(name)
    }
}

/// Lists a database; names only where no more may be seen.
///
/// # Errors
/// Those of the driver, but for missing rights.
pub(super) async fn list(client: &Client, database: &str) -> Result<Listing, Error> {
    let names_only = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
    let is_refused = |error: &Error| Failure::of(error) == Failure::Privileges;
    let listed = match run(client, database, doc! { "listCollections": 1 }).await {
        Err(error) if is_refused(&error) => run(client, database, names_only).await,
        listed => listed,
    };
    match listed {
        Err(error) if is_refused(&error) => Ok(Listing::default()),
        listed => listed,
    }
}

async fn run(client: &Client, database: &str, command: Document) -> Result<Listing, Error> {
    let database = client.database(database);
    let mut listing = database.run_cursor_command(command);
    if let Some(criteria) = client.selection_criteria().cloned() {
        listing = listing.selection_criteria(criteria);
    }
    let mut cursor = listing.await?;
    let mut found = Listing::default();
    while cursor.advance().await? {
        let described: Document = cursor.deserialize_current()?;
        let Ok(name) = described.get_str("name") else { continue };
        let options = described.get_document("options").ok().cloned();
        let view_on = options.as_ref().and_then(|options| options.get_str("viewOn").ok());
        let collection = Collection {
            name: name.to_owned(),
            kind: described.get_str("type").unwrap_or("collection").to_owned(),
            view_on: view_on.map(str::to_owned),
            options,
        };
        found.collections.insert(name.to_owned(), collection);
    }
    Ok(found)
}

/// The names of the databases that this user may see.
///
/// # Errors
/// Those of the driver, but for missing rights.
pub(super) async fn databases(client: &Client) -> Result<Vec<String>, Error> {
    let asked = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
    let answer = match command(client, "admin", asked).await {
        Err(error) if Failure::of(&error) == Failure::Privileges => return Ok(Vec::new()),
        answer => answer?,
    };
    let databases = answer.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &bson::Bson| Some(entry.as_document()?.get_str("name").ok()?.to_owned());
    Ok(databases.iter().filter_map(name).collect())
}
