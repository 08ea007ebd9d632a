//! What a filter's collection is, by the list of its database: missing, a view, without images.

use super::collections::{Collection, Listing, Options};
use super::rights::Rights;
use super::{Finding, FindingKind};
use crate::filter::{Filter, FullDocument, FullDocumentBeforeChange};

/// What is known when a filter is looked at.
pub(super) struct FilterContext<'a> {
    pub database: &'a str,
    pub rights: &'a Rights,
    pub listing: &'a Listing,
    /// Of all databases, as far as they may be seen; `None`: it is not known which there are.
    pub names: Option<&'a [String]>,
    pub keeps_images: bool,
}

/// How many collections a sentence names.
const SHOWN: usize = 5;

/// That the user may not read its change stream.
pub(super) fn without_rights(rights: &Rights, filter: &Filter) -> Option<Finding> {
    let (database, name) = (&filter.namespace.database, filter.namespace.collection.as_deref());
    if rights.may_read(database, name) {
        return None;
    }
    let message =
        format!("the MongoDB user may not read the change stream of {}", filter.namespace);
    Some(Finding::of(filter, FindingKind::Rights, message, rights.grant(database)))
}

impl<'a> FilterContext<'a> {
    /// What there is to say of a filter, and its collection where that has a change stream. The user
    /// may read it.
    pub fn look(&self, filter: &Filter) -> (Vec<Finding>, Option<&'a Collection>) {
        let Some(name) = filter.namespace.collection.as_deref() else {
            let mut found = Vec::from_iter(self.missing_database(filter));
            self.all_collections(filter, &mut found);
            return (found, None);
        };
        let Some(collection) = self.listing.find(name) else {
            return (vec![self.missing_collection(filter, name)], None);
        };
        let mut found = Vec::new();
        self.collection(filter, collection, &mut found);
        (found, (collection.kind == "collection").then_some(collection))
    }

    /// What a stream of the whole database lacks in some of the collections that are there now.
    fn all_collections(&self, filter: &Filter, findings: &mut Vec<Finding>) {
        let all = self.listing.collections.values();
        let ordinary = all.filter(|it| it.kind == "collection" && !it.name.starts_with("system."));
        let known = ordinary.filter_map(|it| Some((it.name.as_str(), it.options.as_ref()?)));
        let known: Vec<(&str, &Options)> = known.collect();
        let without = known.iter().filter(|(_, options)| !options.has_images);
        let without: Vec<&str> = without.map(|(name, _)| *name).collect();
        if needs_images(filter) && !without.is_empty() {
            findings.push(self.images(filter, &without));
        }
        let database = self.database;
        findings.extend(
            known.iter().find_map(|(name, options)| collation(filter, options, (database, name))),
        );
    }

    fn missing_database(&self, filter: &Filter) -> Option<Finding> {
        let database = self.database;
        let names = self.names?;
        if !self.listing.collections.is_empty() || names.iter().any(|name| name == database) {
            return None;
        }
        let same = names.iter().find(|name| name.eq_ignore_ascii_case(database));
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
            .unwrap_or_default()
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
        if needs_images(filter) && !options.has_images {
            findings.push(self.images(filter, &[name]));
        }
    }

    /// These collections keep none.
    fn images(&self, filter: &Filter, names: &[&str]) -> Finding {
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
            None => "events come without them, and it is not told what leaves the filter",
        };
        let database = self.database;
        let shown: Vec<String> =
            names.iter().take(SHOWN).map(|name| format!("`{database}.{name}`")).collect();
        let (list, more) = (shown.join(", "), names.len().saturating_sub(SHOWN));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let verb = if names.len() == 1 { "does not" } else { "do not" };
        let message = format!(
            "{list}{more} {verb} record images of documents, which `{asks}` needs: {consequence}"
        );
        let images = "changeStreamPreAndPostImages: { enabled: true }";
        let fix = match (self.keeps_images, names) {
            (true, [name]) => {
                format!(
                    "db.getSiblingDB({database:?}).runCommand({{ collMod: {name:?}, {images} }})"
                )
            }
            (true, names) => format!(
                "{names:?}.forEach(name => db.getSiblingDB({database:?}).runCommand({{ collMod: \
                 name, {images} }}))"
            ),
            (false, _) => "MongoDB 6.0 or newer is needed".to_owned(),
        };
        Finding::of(filter, FindingKind::Images, message, fix)
    }
}

/// Whether it asks for what the collection has to be told to record.
pub(super) fn needs_images(filter: &Filter) -> bool {
    filter.before_image != FullDocumentBeforeChange::Off
        || matches!(filter.full_document, FullDocument::WhenAvailable | FullDocument::Required)
}

fn collation(
    filter: &Filter,
    options: &Options,
    (database, name): (&str, &str),
) -> Option<Finding> {
    let locale = options.locale.as_deref()?;
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
