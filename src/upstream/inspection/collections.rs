//! The collections of a database, as far as this user may see them.

use std::collections::BTreeMap;

use bson::{Document, RawDocument, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::{command, limits};
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
    pub options: Option<Options>,
    /// What a view is made of.
    pub view_on: Option<String>,
}

/// What of a collection's options matters.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// That of its default collation, where it has one.
    pub locale: Option<String>,
    /// Whether it records images of its documents.
    pub has_images: bool,
    pub is_capped: bool,
}

impl Collection {
    /// As `listCollections` describes it. A view's pipeline, a validator or a comment may hold what is
    /// no text, and does not matter.
    fn read(described: &RawDocument) -> Option<Collection> {
        let options = described.get_document("options").ok();
        let view_on = options.and_then(|options| options.get_str("viewOn").ok());
        Some(Collection {
            name: described.get_str("name").ok()?.to_owned(),
            kind: described.get_str("type").unwrap_or("collection").to_owned(),
            view_on: view_on.map(str::to_owned),
            options: options.map(Options::read),
        })
    }
}

impl Options {
    fn read(options: &RawDocument) -> Options {
        let collation = options.get_document("collation").ok();
        let locale = collation.and_then(|collation| collation.get_str("locale").ok());
        let images = options.get_document("changeStreamPreAndPostImages");
        Options {
            locale: locale.map(str::to_owned),
            has_images: images.is_ok_and(|images| images.get_bool("enabled").unwrap_or(false)),
            is_capped: options.get_bool("capped").unwrap_or(false),
        }
    }
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
    let all = doc! { "listCollections": 1, "maxTimeMS": limits::max_time_millis() };
    let mut names_only = all.clone();
    names_only.extend(doc! { "nameOnly": true, "authorizedCollections": true });
    let is_refused = |error: &Error| Failure::of(error) == Failure::Privileges;
    let listed = match run(client, database, all).await {
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
        let collection = Collection::read(cursor.current());
        found.collections.extend(collection.map(|it| (it.name.clone(), it)));
    }
    Ok(found)
}

/// The names of the databases that this user may see.
///
/// # Errors
/// Those of the driver, but for missing rights.
pub(super) async fn databases(client: &Client) -> Result<Vec<String>, Error> {
    let asked = doc! {
        "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true,
        "maxTimeMS": limits::max_time_millis(),
    };
    let answer = match command(client, "admin", asked).await {
        Err(error) if Failure::of(&error) == Failure::Privileges => return Ok(Vec::new()),
        answer => answer?,
    };
    let databases = answer.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &bson::Bson| Some(entry.as_document()?.get_str("name").ok()?.to_owned());
    Ok(databases.iter().filter_map(name).collect())
}
