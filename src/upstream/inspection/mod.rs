//! Whether a deployment can do what the filters need, and if not, what to do about it.
//!
//! Needs no rights beyond those for reading the change streams. What such a user may not see is
//! reported as unknown, with the grant that would show it.

mod collections;
mod finding;
mod images;
mod known;
mod limits;
mod names;
mod oplog;
mod plan;
mod rights;
mod snapshots;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::Error;
use parking_lot::Mutex;

use crate::config::MongodbUri;
use crate::filter::Filter;
use crate::upstream::connect::{ProbeError, Server};
use crate::upstream::failure;
use crate::upstream::patience::Silence;
use crate::upstream::snapshot::Bounds;
use collections::{Collection, Listing};
pub use finding::{Finding, FindingKind, Weight};
pub use known::{Known, Report, Step};
pub use limits::LookError;
use limits::{AT_A_TIME, within, within_more};
use names::FilterContext;
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
        Ok(_) => {
            let known = Mutex::new(Known::default());
            let tell = |report| known.lock().add(report);
            let client = server.client().await;
            inspect(&client, filters, replay_window, Some(bounds), &tell)
                .await
                .map(|()| known.lock().inspection())
                .map_err(|error| ProbeError::Unavailable(error.to_string()))
        }
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
        Ok(_) => {
            let client = server.client().await;
            let planned = plan::explain(&client, namespace, query, Some(bounds.time)).await;
            // Where that may not be seen, the index is created with a collation: never wrong, only longer.
            let listing = collections::list(&client, namespace.0).await.unwrap_or_default();
            let listed = listing.find(namespace.1).and_then(|it| it.options.as_ref());
            let has_collation = listed.is_none_or(|options| options.locale.is_some());
            planned
                .map(|plan| Plan { has_collation, ..plan })
                .map_err(|error| ProbeError::Unusable(failure::message(&error)))
        }
        Err(error) => Err(error),
    };
    server.close().await;
    planned
}

/// Looks at what these filters need, a few databases at a time and in the order of the filters; with
/// `bounds` also at what their snapshots cost, by asking. Whatever is found is told as soon as it is
/// found, and what cannot be looked at keeps nothing else from being looked at.
///
/// # Errors
/// MongoDB does not answer, or knows nobody of this name: what was told so far holds.
pub async fn inspect(
    client: &Client,
    filters: &[Arc<Filter>],
    replay_window: Duration,
    bounds: Option<Bounds>,
    tell: &(dyn Fn(Report) + Sync),
) -> Result<(), LookError> {
    let hello = within(command(client, "admin", doc! { "hello": 1 })).await?;
    let is_sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    let keeps_images = hello.get_i32("maxWireVersion").unwrap_or(WITH_IMAGES) >= WITH_IMAGES;
    let mut look = Look {
        client,
        tell,
        rights: Rights::default(),
        names: None,
        keeps_images,
        snapshots: Snapshots { client, is_sharded, bounds },
    };

    let mut by_database: Vec<(&str, Vec<&Arc<Filter>>)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for filter in filters {
        let database = filter.namespace.database.as_str();
        let place = *places.entry(database).or_insert(by_database.len());
        if place == by_database.len() {
            by_database.push((database, Vec::new()));
        }
        by_database[place].1.push(filter);
    }

    let rights = within(rights::ask(client)).await;
    if let Some(rights) = look.outcome(Step::Rights, "what the MongoDB user may do", rights)? {
        let without_rights = places.keys().filter(|database| rights.may_not_read_all(database));
        let without_rights: BTreeSet<String> = without_rights.map(|it| (*it).to_owned()).collect();
        tell(Report::WithoutRights(without_rights));
        look.rights = rights;
    }
    let names = within(collections::databases(client)).await;
    look.names = look.outcome(Step::Databases, "the list of databases", names)?;
    look.deployment(filters, replay_window).await?;

    let waiting = Mutex::new(VecDeque::from(by_database));
    let one_by_one = || async {
        loop {
            let Some((database, filters)) = waiting.lock().pop_front() else { return Ok(()) };
            look.database(database, &filters).await?;
        }
    };
    const { assert!(AT_A_TIME == 4, "as many as here") };
    tokio::try_join!(one_by_one(), one_by_one(), one_by_one(), one_by_one()).map(|_| ())
}

/// What is known while a deployment is looked at.
struct Look<'a> {
    client: &'a Client,
    tell: &'a (dyn Fn(Report) + Sync),
    /// Everything may be read, where they are not known.
    rights: Rights,
    /// Of all databases, as far as they may be seen; `None`: it is not known which there are.
    names: Option<Vec<String>>,
    keeps_images: bool,
    snapshots: Snapshots<'a>,
}

impl Look<'_> {
    /// Tells the outcome of a step, of a filter or of the deployment. Says if there was no answer.
    fn tell_of(
        &self,
        filter: Option<&Arc<Filter>>,
        step: Step,
        what: &str,
        found: Result<Vec<Finding>, LookError>,
    ) -> Result<Option<Silence>, LookError> {
        let (found, silence) = match found {
            Ok(found) => (Ok(found), None),
            Err(error) if error.is_of_all() => return Err(error),
            Err(error) => {
                let finding = error.finding(filter.map(|filter| &**filter), what);
                (Err(finding), error.silence())
            }
        };
        (self.tell)(Report::Outcome { filter: filter.cloned(), step, found });
        Ok(silence)
    }

    /// As [`Look::tell_of`], of a step that finds nothing by itself.
    fn outcome<T>(
        &self,
        step: Step,
        what: &str,
        outcome: Result<T, LookError>,
    ) -> Result<Option<T>, LookError> {
        let (found, outcome) = match outcome {
            Ok(outcome) => (Ok(Vec::new()), Some(outcome)),
            Err(error) => (Err(error), None),
        };
        self.tell_of(None, step, what, found).map(|_| outcome)
    }

    /// What concerns all filters.
    async fn deployment(
        &self,
        filters: &[Arc<Filter>],
        replay_window: Duration,
    ) -> Result<(), LookError> {
        let has_images =
            self.keeps_images && filters.iter().any(|filter| names::needs_images(filter));
        let found = match has_images {
            true => within(images::expiry(self.client, &self.rights, replay_window)).await,
            false => Ok(None),
        };
        let what = "how long images of documents are kept";
        self.tell_of(None, Step::ImageExpiry, what, found.map(Vec::from_iter))?;
        if self.snapshots.is_sharded {
            return Ok(());
        }
        let seen = within(oplog::look(self.client, &self.rights, replay_window)).await;
        let found = seen.map(|seen| {
            (self.tell)(Report::Reach(seen.reach));
            Vec::from_iter(seen.finding)
        });
        self.tell_of(None, Step::Oplog, "how far back the oplog reaches", found).map(|_| ())
    }

    /// The filters of one database: one request at a time.
    async fn database(&self, database: &str, filters: &[&Arc<Filter>]) -> Result<(), LookError> {
        for filter in filters {
            (self.tell)(Report::Turn((*filter).clone()));
        }
        let listing = match within(collections::list(self.client, database)).await {
            Err(error) if error.is_of_all() => return Err(error),
            listing => listing,
        };
        let mut silence = None;
        let mut to_read = Vec::new();
        for filter in filters {
            let mut collection = None;
            let found = match (names::without_rights(&self.rights, filter), &listing) {
                // What it cannot read, it may not see either.
                (Some(finding), _) => Ok(vec![finding]),
                (None, Ok(listing)) => {
                    let (found, its_own) = self.context(database, listing).look(filter);
                    collection = its_own;
                    Ok(found)
                }
                (None, Err(error)) => {
                    let what = format!("the collections of `{database}`");
                    Err(error.finding(Some(filter), &what))
                }
            };
            if found.is_ok() {
                to_read.push((*filter, collection));
            }
            let (filter, step) = (Some((*filter).clone()), Step::Collection);
            (self.tell)(Report::Outcome { filter, step, found });
        }
        for (filter, collection) in to_read {
            silence = self.read(filter, collection, silence).await?;
        }
        Ok(())
    }

    fn context<'l>(&'l self, database: &'l str, listing: &'l Listing) -> FilterContext<'l> {
        FilterContext {
            database,
            rights: &self.rights,
            listing,
            names: self.names.as_deref(),
            keeps_images: self.keeps_images,
        }
    }

    /// What only reading its collection tells of a filter. Once its database gave no answer, that is
    /// not waited for again.
    async fn read(
        &self,
        filter: &Arc<Filter>,
        collection: Option<&Collection>,
        mut silence: Option<Silence>,
    ) -> Result<Option<Silence>, LookError> {
        if silence.is_none() {
            (self.tell)(Report::Turn(filter.clone()));
        }
        for (step, noun) in [(Step::Snapshot, "snapshot"), (Step::Values, "values")] {
            let found = match (collection, silence) {
                (Some(collection), None) => self.step(filter, collection, step).await,
                (Some(_), Some(silence)) if asks(filter, step) => Err(silence.into()),
                _ => Ok(Vec::new()),
            };
            let what = format!("the {noun} of `{}`", filter.namespace);
            silence = silence.or(self.tell_of(Some(filter), step, &what, found)?);
        }
        Ok(silence)
    }

    async fn step(
        &self,
        filter: &Filter,
        collection: &Collection,
        step: Step,
    ) -> Result<Vec<Finding>, LookError> {
        if !asks(filter, step) {
            return Ok(Vec::new());
        }
        if step == Step::Snapshot {
            let options = collection.options.as_ref();
            let cost = self.snapshots.bounds.map_or(Duration::ZERO, |bounds| bounds.time);
            return within_more(cost, self.snapshots.look(filter, options)).await;
        }
        let namespace = (filter.namespace.database.as_str(), collection.name.as_str());
        within(types::look(self.client, namespace, filter)).await
    }
}

/// Whether a step has to ask MongoDB about this filter.
fn asks(filter: &Filter, step: Step) -> bool {
    match step {
        Step::Snapshot => filter.snapshot().is_some(),
        Step::Values => types::compares_text(filter),
        _ => true,
    }
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
