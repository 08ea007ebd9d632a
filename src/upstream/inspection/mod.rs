//! Whether a deployment can do what the filters need, and if not, what to do about it.
//!
//! Needs no rights beyond those for reading the change streams. What such a user may not see is
//! reported as unknown, with the grant that would show it.

mod collections;
mod finding;
mod oplog;
mod plan;
mod rights;
mod snapshots;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::Error;

use crate::config::MongodbUri;
use crate::filter::{Filter, FullDocument, FullDocumentBeforeChange};
use crate::upstream::connect::{ProbeError, Server};
use crate::upstream::failure::{self, Failure};
use crate::upstream::snapshot::Bounds;
use collections::{Collection, Listing};
pub use finding::{Finding, FindingKind, Weight};
pub use oplog::oldest as oldest_in_oplog;
pub use plan::{Plan, Run};
use rights::Rights;
pub use rights::grant;
use snapshots::Snapshots;
pub use snapshots::create_indexes;

/// The wire version of MongoDB 6.0, the first that keeps images.
const WITH_IMAGES: i32 = 17;
/// Connections of a look from the command line.
const POOL: u32 = 4;

/// What a look at a deployment found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inspection {
    /// In the order of the filters; those about the deployment first.
    pub findings: Vec<Finding>,
    /// How far back the oplog reaches, where that may be seen.
    pub oplog: Option<Duration>,
    /// Databases that may not be read as a whole.
    pub without_rights: BTreeSet<String>,
}

/// Looks at a deployment once, with a client of its own: for the command line. What a snapshot costs
/// is tried.
///
/// # Errors
/// Nothing answers, or the URI is of no use. What answers and is no replica set is a finding.
pub async fn inspect_uri(
    uri: &MongodbUri,
    filters: &[Arc<Filter>],
    replay_window: Duration,
    bounds: Bounds,
) -> Result<Inspection, ProbeError> {
    let server = Server::default();
    server.connect(uri, POOL).await.map_err(ProbeError::Invalid)?;
    let found = match server.probe().await {
        Ok(_) => inspect(&server.client().await, filters, replay_window, Some(bounds))
            .await
            .map_err(|error| ProbeError::Unavailable(failure::message(&error))),
        Err(ProbeError::Unusable(reason)) => {
            let findings = vec![Finding::general(FindingKind::Deployment, reason, None)];
            Ok(Inspection { findings, ..Inspection::default() })
        }
        Err(error) => Err(error),
    };
    server.close().await;
    found
}

/// How MongoDB carries out the query of one snapshot, with a client of its own: for the command line.
///
/// # Errors
/// Nothing answers, or the URI is of no use; MongoDB refuses.
pub async fn plan_uri(
    uri: &MongodbUri,
    namespace: (&str, &str),
    query: &Document,
    bounds: Bounds,
) -> Result<Plan, ProbeError> {
    let server = Server::default();
    server.connect(uri, POOL).await.map_err(ProbeError::Invalid)?;
    let planned = match server.probe().await {
        Ok(_) => plan::explain(&server.client().await, namespace, query, Some(bounds.time))
            .await
            .map_err(|error| ProbeError::Unusable(failure::message(&error))),
        Err(error) => Err(error),
    };
    server.close().await;
    planned
}

/// Looks at what these filters need; with `bounds` also at what their snapshots cost, by asking.
///
/// # Errors
/// Those of the driver, but for missing rights, which are findings.
pub async fn inspect(
    client: &Client,
    filters: &[Arc<Filter>],
    replay_window: Duration,
    bounds: Option<Bounds>,
) -> Result<Inspection, Error> {
    let rights = rights::ask(client).await?;
    let hello = command(client, "admin", doc! { "hello": 1 }).await?;
    let is_sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    let keeps_images = hello.get_i32("maxWireVersion").unwrap_or(WITH_IMAGES) >= WITH_IMAGES;

    let mut by_database: BTreeMap<&str, Vec<&Filter>> = BTreeMap::new();
    for filter in filters {
        by_database.entry(&filter.namespace.database).or_default().push(filter);
    }
    let names = collections::databases(client).await?;
    let snapshots = Snapshots { client, is_sharded, bounds };
    let mut inspection = Inspection::default();
    for (database, filters) in by_database {
        if rights.may_not_read_all(database) {
            inspection.without_rights.insert(database.to_owned());
        }
        let listing = collections::list(client, database).await?;
        let look = FilterContext {
            database,
            rights: &rights,
            listing: &listing,
            names: &names,
            keeps_images,
        };
        for filter in filters {
            if let Some(collection) = look.at(filter, &mut inspection.findings) {
                let options = collection.options.as_ref();
                snapshots.look(filter, options, &mut inspection.findings).await?;
                let namespace = (database, collection.name.as_str());
                types::look(client, namespace, filter, &mut inspection.findings).await?;
            }
        }
    }
    if keeps_images && filters.iter().any(|filter| needs_images(filter)) {
        inspection.findings.extend(image_expiry(client, &rights, replay_window).await?);
    }
    if !is_sharded {
        let seen = oplog::look(client, &rights, replay_window).await?;
        inspection.oplog = seen.reach;
        inspection.findings.extend(seen.finding);
    }
    inspection.findings.sort();
    Ok(inspection)
}

/// What is known when a filter is looked at.
struct FilterContext<'a> {
    database: &'a str,
    rights: &'a Rights,
    listing: &'a Listing,
    /// Of all databases, where they may be seen.
    names: &'a [String],
    keeps_images: bool,
}

impl FilterContext<'_> {
    /// Returns the filter's collection, where it can be read.
    fn at(&self, filter: &Filter, findings: &mut Vec<Finding>) -> Option<&Collection> {
        let (database, name) = (self.database, filter.namespace.collection.as_deref());
        if !self.rights.may_read(database, name) {
            let message =
                format!("the MongoDB user may not read the change stream of {}", filter.namespace);
            findings.push(Finding::of(
                filter,
                FindingKind::Rights,
                message,
                self.rights.grant(database),
            ));
            // What it cannot read, it may not see either.
            return None;
        }
        let Some(name) = name else {
            findings.extend(self.missing_database(filter));
            return None;
        };
        let Some(collection) = self.listing.find(name) else {
            findings.push(self.missing_collection(filter, name));
            return None;
        };
        self.collection(filter, collection, findings);
        (collection.kind == "collection").then_some(collection)
    }

    fn missing_database(&self, filter: &Filter) -> Option<Finding> {
        let database = self.database;
        if !self.listing.collections.is_empty() || self.names.iter().any(|name| name == database) {
            return None;
        }
        let same = self.names.iter().find(|name| name.eq_ignore_ascii_case(database));
        Some(match same {
            Some(other) => Finding::of(
                filter,
                FindingKind::OtherCase,
                format!("there is no database `{database}`, but there is `{other}`"),
                format!("write `collection: {other}.*`"),
            ),
            None => Finding::of(
                filter,
                FindingKind::MissingDatabase,
                format!(
                    "there is no database `{database}`: the stream is silent until it is \
                     created, with its first collection"
                ),
                format!("db.getSiblingDB({database:?}).createCollection(\"NAME\")"),
            ),
        })
    }

    fn missing_collection(&self, filter: &Filter, name: &str) -> Finding {
        let database = self.database;
        let similar = self.listing.collections.keys();
        if let Some(other) = { similar }.find(|other| other.eq_ignore_ascii_case(name)) {
            let message = format!("`{database}` has no collection `{name}`, but it has `{other}`");
            let fix = format!("write `collection: {database}.{other}`");
            return Finding::of(filter, FindingKind::OtherCase, message, fix);
        }
        let other = self
            .names
            .iter()
            .find(|other| *other != database && other.eq_ignore_ascii_case(database));
        if let (true, Some(other)) = (self.listing.collections.is_empty(), other) {
            let message = format!("there is no database `{database}`, but there is `{other}`");
            let fix = format!("write `collection: {other}.{name}`");
            return Finding::of(filter, FindingKind::OtherCase, message, fix);
        }
        let message = format!(
            "there is no collection `{database}.{name}`: the stream is silent until it is created"
        );
        let fix = format!("db.getSiblingDB({database:?}).createCollection({name:?})");
        Finding::of(filter, FindingKind::MissingCollection, message, fix)
    }

    fn collection(&self, filter: &Filter, collection: &Collection, findings: &mut Vec<Finding>) {
        let (database, name) = (self.database, collection.name.as_str());
        match collection.kind.as_str() {
            "view" => {
                let message = format!(
                    "`{database}.{name}` is a view, and views have no change stream: the stream \
                     would never send an event"
                );
                let fix = match &collection.view_on {
                    Some(on) => format!(
                        "name the underlying collection, `collection: {database}.{on}`, and write \
                         what the view selects as `match` and `project`"
                    ),
                    None => "name the underlying collection".to_owned(),
                };
                findings.push(Finding::of(filter, FindingKind::View, message, fix));
                return;
            }
            "timeseries" => {
                let message = format!(
                    "`{database}.{name}` is a time-series collection, and those have no change \
                     stream: the stream would never send an event"
                );
                let fix = "name an ordinary collection to which the app writes as well";
                findings.push(Finding::of(
                    filter,
                    FindingKind::TimeSeries,
                    message,
                    fix.to_owned(),
                ));
                return;
            }
            _ => {}
        }
        let Some(options) = &collection.options else {
            if needs_images(filter) {
                let message = format!(
                    "this user may not see whether `{database}.{name}` records images of its \
                     documents, nor its default collation"
                );
                let fix = self.rights.grant_role("read", database);
                findings.push(Finding::of(filter, FindingKind::Unknown, message, fix));
            }
            return;
        };
        findings.extend(collation(filter, options, (database, name)));
        if needs_images(filter) && !has_images(options) {
            findings.push(self.images(filter, name));
        }
    }

    fn images(&self, filter: &Filter, name: &str) -> Finding {
        let asks = match filter.before_image {
            FullDocumentBeforeChange::Off => {
                format!("fullDocument: {}", filter.full_document.name())
            }
            before => format!("fullDocumentBeforeChange: {}", before.name()),
        };
        let takes_post_image = filter.full_document == FullDocument::WhenAvailable;
        let consequence = match filter.snapshot() {
            Some(_) => "every change without one begins the snapshot again",
            None if filter.requires_image() => "every change without one resets the stream",
            None if takes_post_image => "an update that its key does not decide is a reset",
            None => "events come without them",
        };
        let message = format!(
            "`{}.{name}` does not record images of its documents, which `{asks}` needs: \
             {consequence}",
            self.database
        );
        let fix = match self.keeps_images {
            true => format!(
                "db.getSiblingDB({:?}).runCommand({{ collMod: {name:?}, \
                 changeStreamPreAndPostImages: {{ enabled: true }} }})",
                self.database
            ),
            false => "MongoDB 6.0 or newer is needed".to_owned(),
        };
        Finding::of(filter, FindingKind::Images, message, fix)
    }
}

fn needs_images(filter: &Filter) -> bool {
    filter.before_image != FullDocumentBeforeChange::Off
        || matches!(filter.full_document, FullDocument::WhenAvailable | FullDocument::Required)
}

fn has_images(options: &Document) -> bool {
    let images = options.get_document("changeStreamPreAndPostImages");
    images.is_ok_and(|images| images.get_bool("enabled").unwrap_or(false))
}

fn collation(
    filter: &Filter,
    options: &Document,
    (database, name): (&str, &str),
) -> Option<Finding> {
    let locale = options.get_document("collation").ok()?.get_str("locale").ok()?;
    // A snapshot is read as the stream compares.
    if locale == "simple" || filter.snapshot().is_some() {
        return None;
    }
    let message = format!(
        "`{database}.{name}` has a default collation ({locale}), which `find` uses to compare \
         text, and a stream does not: the page's own query may find documents whose changes the stream does not send"
    );
    let fix = format!(
        "query with the comparison of the stream, for example \
         db.getSiblingDB({database:?}).getCollection({name:?}).find(…).collation({{ locale: \
         \"simple\" }})"
    );
    Some(Finding::of(filter, FindingKind::Collation, message, fix))
}

/// Images that go before the events do that need them.
async fn image_expiry(
    client: &Client,
    rights: &Rights,
    replay_window: Duration,
) -> Result<Option<Finding>, Error> {
    let asked = doc! { "getClusterParameter": "changeStreamOptions" };
    let answer = match command(client, "admin", asked).await {
        Ok(answer) => answer,
        Err(error) if Failure::of(&error) == Failure::Privileges => {
            let message = "this user may not see how long images of documents are kept";
            let fix = rights.grant_cluster_action("getClusterParameter");
            return Ok(Some(Finding::general(FindingKind::Unknown, message.to_owned(), fix)));
        }
        // Older, or not the server's to tell.
        Err(error) if matches!(Failure::of(&error), Failure::Command(_) | Failure::Unsupported) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let parameters = answer.get_array("clusterParameters").ok();
    let expiry = parameters
        .and_then(|parameters| parameters.first()?.as_document())
        .and_then(|options| options.get_document("preAndPostImages").ok())
        .and_then(|images| whole(images, "expireAfterSeconds"));
    let Some(seconds) = expiry.filter(|seconds| *seconds < replay_window.as_secs()) else {
        return Ok(None);
    };
    let needed = replay_window.as_secs();
    let message = format!(
        "images of documents are kept for {seconds} s, less than replay.window ({needed} s): \
         clients that reconnect later are reset, or receive events without images"
    );
    let fix = format!(
        "db.adminCommand({{ setClusterParameter: {{ changeStreamOptions: {{ preAndPostImages: {{ \
         expireAfterSeconds: {needed} }} }} }} }})"
    );
    Ok(Some(Finding::general(FindingKind::ImageExpiry, message, fix)))
}

/// A whole number, of whatever type.
fn whole(document: &Document, key: &str) -> Option<u64> {
    let number = document.get(key)?;
    let number = number.as_i64().or_else(|| number.as_i32().map(i64::from));
    number.or_else(|| document.get_f64(key).ok().map(|number| number as i64))?.try_into().ok()
}

/// Runs a command where the connection string wants to read.
async fn command(client: &Client, database: &str, command: Document) -> Result<Document, Error> {
    let database = client.database(database);
    let mut running = database.run_command(command);
    if let Some(criteria) = client.selection_criteria().cloned() {
        running = running.selection_criteria(criteria);
    }
    running.await
}
