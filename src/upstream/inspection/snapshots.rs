//! Whether MongoDB can take the snapshots that filters ask for, and what one costs.

use bson::{Document, RawDocumentBuf, doc};
use mongodb::Client;
use mongodb::error::Error;

use super::collections::Options;
use super::limits::MAX_TIME;
use super::plan::{self, Plan, helpful_indexes};
use super::{Finding, FindingKind};
use crate::filter::Filter;
use crate::upstream::failure::Failure;
use crate::upstream::snapshot::{Bounds, SnapshotError};

/// MongoDB's code for a query that took longer than it may.
const MAX_TIME_EXPIRED: i32 = 50;

/// What is known when a snapshot is looked at.
pub(super) struct Snapshots<'a> {
    pub client: &'a Client,
    pub is_sharded: bool,
    /// Where queries are carried out, too: the bounds of `snapshot` in the settings.
    pub bounds: Option<Bounds>,
}

impl Snapshots<'_> {
    /// Looks at a filter whose collection is there, and has these options as far as they are known.
    ///
    /// # Errors
    /// Those of the driver, but for missing rights, which others tell.
    pub async fn look(
        &self,
        filter: &Filter,
        options: Option<&Options>,
    ) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let Some(collection) = filter.snapshot() else { return Ok(findings) };
        let namespace = (filter.namespace.database.as_str(), collection);
        if let Some(finding) = self.is_possible(filter, namespace, options).await? {
            return Ok(vec![finding]);
        }
        for gives_all in [false, true] {
            let query = filter.sample(gives_all).query();
            let plan = match plan::explain(self.client, namespace, &query, None).await {
                Err(error) if Failure::of(&error) == Failure::Privileges => return Ok(findings),
                plan => plan?,
            };
            // A client that leaves every value out asks for everything, and gets it.
            let asks_for_all = query.is_empty() && !gives_all && filter.has_values();
            let finding = (!asks_for_all)
                .then(|| without_index(filter, namespace, options, &query, &plan))
                .flatten();
            if let Some(finding) = finding {
                findings.push(finding);
                break;
            }
        }
        // With values, how many documents there are depends on them.
        if let Some(bounds) = self.bounds
            && !filter.has_values()
        {
            findings.push(self.cost(filter, namespace, bounds).await?);
        }
        Ok(findings)
    }

    async fn is_possible(
        &self,
        filter: &Filter,
        (database, collection): (&str, &str),
        options: Option<&Options>,
    ) -> Result<Option<Finding>, Error> {
        let fix = "remove `snapshot`, and have the page load its data at `ready`";
        let refused = |message: String| {
            Some(Finding::of(filter, FindingKind::Snapshot, message, fix.to_owned()))
        };
        if self.is_sharded {
            return Ok(refused(SnapshotError::Sharded.to_string()));
        }
        let is_capped = options.is_some_and(|options| options.is_capped);
        match try_read(self.client, (database, collection)).await {
            Ok(()) | Err(SnapshotError::Privileges(_)) => Ok(None),
            Err(error @ SnapshotError::Unsupported(_)) => Ok(refused(error.to_string())),
            Err(SnapshotError::Passed(_)) if is_capped => Ok(refused(format!(
                "`{database}.{collection}` is a capped collection, of which MongoDB before 8.0 reads no \
                 snapshot"
            ))),
            // The moment was an unlucky one, as after an index was built.
            Err(SnapshotError::Passed(_) | SnapshotError::Silent) => Ok(None),
            Err(SnapshotError::Driver(error)) => Err(error),
            // Not the limit of the settings, but that of a look.
            Err(SnapshotError::TooLarge(_)) => {
                Err(Error::custom("the server needs too long to find one document"))
            }
            Err(error @ SnapshotError::Sharded) => Ok(refused(error.to_string())),
        }
    }

    /// Carries the query out.
    async fn cost(
        &self,
        filter: &Filter,
        namespace: (&str, &str),
        bounds: Bounds,
    ) -> Result<Finding, Error> {
        let narrow = "narrow it by a parameter, or raise the limit; see docs/snapshots.md";
        let query = filter.sample(false).query();
        let plan = match plan::explain(self.client, namespace, &query, Some(bounds.time)).await {
            Err(error) if code(&error) == Some(MAX_TIME_EXPIRED) => {
                let message = format!(
                    "the snapshot's query takes longer than snapshot.max_time ({} s): clients will be \
                     refused",
                    bounds.time.as_secs_f64()
                );
                return Ok(Finding::of(
                    filter,
                    FindingKind::SnapshotSize,
                    message,
                    narrow.to_owned(),
                ));
            }
            plan => plan?,
        };
        let Some(run) = plan.run else {
            let message = "MongoDB does not say what the snapshot's query costs".to_owned();
            return Ok(Finding::of(filter, FindingKind::Unknown, message, None));
        };
        let found = format!(
            "the snapshot's query finds {}, by {}",
            plan.cost().unwrap_or_default(),
            plan.way()
        );
        if run.documents > bounds.documents as u64 {
            let message = format!(
                "{found}; more than snapshot.max_documents ({}): clients will be refused",
                bounds.documents
            );
            return Ok(Finding::of(filter, FindingKind::SnapshotSize, message, narrow.to_owned()));
        }
        Ok(Finding::of(filter, FindingKind::SnapshotCost, found, None))
    }
}

/// Whether a collection can be read at a moment that MongoDB names.
async fn try_read(
    client: &Client,
    (database, collection): (&str, &str),
) -> Result<(), SnapshotError> {
    let mut session = client.start_session().snapshot(true).await?;
    // Whether it can be decoded is not asked, nor is it needed as a whole.
    let collection = client.database(database).collection::<RawDocumentBuf>(collection);
    let one = collection
        .find_one(Document::new())
        .projection(doc! { "_id": 1 })
        .max_time(MAX_TIME)
        .session(&mut session)
        .await;
    one.map(|_| ()).map_err(SnapshotError::of)
}

fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// That each snapshot looks at the whole collection, though it asks for a part of it.
fn without_index(
    filter: &Filter,
    (database, collection): (&str, &str),
    options: Option<&Options>,
    query: &Document,
    plan: &Plan,
) -> Option<Finding> {
    if !plan.reads_all || filter.template.is_empty() {
        return None;
    }
    let cost = format!("each one looks at every document of `{database}.{collection}`");
    if query.is_empty() {
        let message = format!(
            "of `match`, `find` decides nothing as the stream does, so no index helps a snapshot: {cost}"
        );
        let fix = "add a condition that compares an indexed field with a value";
        return Some(Finding::of(filter, FindingKind::SnapshotIndex, message, fix.to_owned()));
    }
    let message = format!("no index carries the snapshot's query: {cost}");
    let has_collation = options.is_some_and(|options| options.locale.is_some());
    Some(Finding::of(
        filter,
        FindingKind::SnapshotIndex,
        message,
        create_indexes((database, collection), query, has_collation),
    ))
}

/// The commands that make the indexes which a query wants. With `has_collation` the collection has a
/// default collation, which an index would get and snapshots do not use.
pub fn create_indexes(
    (database, collection): (&str, &str),
    query: &Document,
    has_collation: bool,
) -> Option<String> {
    let options = if has_collation { ", { collation: { locale: \"simple\" } }" } else { "" };
    let command = |keys: &Document| {
        let keys: Vec<String> = keys.keys().map(|key| format!("{}: 1", shell_key(key))).collect();
        format!(
            "db.getSiblingDB({database:?}).getCollection({collection:?}).createIndex({{ {} }}{options})",
            keys.join(", ")
        )
    };
    let commands: Vec<String> = helpful_indexes(query).iter().map(command).collect();
    (!commands.is_empty()).then(|| commands.join("; "))
}

fn shell_key(key: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_plain = key.chars().all(is_word) && !key.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { key.to_owned() } else { format!("{key:?}") }
}
