//! What a filter becomes: `sidestream explain`.
//!
//! Reads the same files, and builds the same pipeline, predicate and query, as a running sidecar would;
//! asks no MongoDB.

use std::fmt;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use serde_json::{Value, json};

use crate::event::json::write_relaxed_document;
use crate::feed::routes::index;
use crate::feed::{Collections, FeedKey};
use crate::filter::{Access, BindError, Bound, Filter, FilterSet, Operations};
use crate::upstream::cursor;
use crate::upstream::inspection::{Plan, create_indexes};
use crate::upstream::snapshot;

/// One stream, explained.
#[derive(Debug)]
pub struct Explanation {
    pub stream: String,
    pub upstream: FeedKey,
    /// The streams that share its cursor, itself included.
    pub shared_with: Vec<String>,
    /// The stages after `$changeStream`, in relaxed Extended JSON.
    pub pipeline: Vec<Value>,
    /// Who may open it.
    pub access: Value,
    pub operations: Vec<&'static str>,
    /// The conditions as declared, in relaxed Extended JSON.
    pub declared: Value,
    /// The bound parameters; `null`: left out, and its condition with it.
    pub values: Vec<(String, Value)>,
    /// How an event finds the clients with these values.
    pub index: index::Description,
    pub projection: bool,
    /// What a snapshot asks MongoDB for.
    pub find: Option<Find>,
}

/// The query of a snapshot.
#[derive(Debug)]
pub struct Find {
    pub database: String,
    pub collection: String,
    /// What `find` decides as the stream does; the rest of `match` is decided in the sidecar.
    pub query: Document,
    /// The fields that it brings: those that are compared or shown. `None`: all of them.
    pub projection: Option<Document>,
    /// How MongoDB carries it out, where it was asked.
    pub plan: Option<Plan>,
}

impl Explanation {
    /// Explains one filter of a set, with these values for its parameters and claims.
    ///
    /// # Errors
    /// Values that do not fit, as a client would be told.
    pub fn of(
        filter: &Filter,
        set: &FilterSet,
        query: &[(String, String)],
        claims: &RawDocument,
    ) -> Result<Explanation, BindError> {
        let Bound { predicate } = filter.bind_unasked(query, Some(claims))?;
        let upstream = FeedKey::of(filter);
        let sharing: Vec<_> =
            set.0.values().filter(|other| FeedKey::of(other) == upstream).collect();
        let is_whole = sharing.iter().any(|other| other.namespace.collection.is_none());
        let collections = match is_whole {
            true => Collections::All,
            false => Collections::These(
                sharing.iter().filter_map(|other| other.namespace.collection.clone()).collect(),
            ),
        };
        let find = filter.snapshot().map(|collection| Find {
            database: filter.namespace.database.clone(),
            collection: collection.to_owned(),
            query: predicate.query(),
            projection: snapshot::needed(&predicate, filter.projection.as_ref()),
            plan: None,
        });
        Ok(Explanation {
            stream: filter.name.clone(),
            find,
            shared_with: sharing.iter().map(|other| other.name.clone()).collect(),
            pipeline: cursor::pipeline(&collections).iter().map(relaxed).collect(),
            upstream,
            access: match &filter.access {
                Access::Public => json!("public"),
                Access::Authenticated => json!("authenticated"),
                Access::Match(rule) => json!({ "match": relaxed(rule.template.declared()) }),
            },
            operations: Operations::names(filter.operations).collect(),
            declared: relaxed(filter.template.declared()),
            values: predicate
                .values()
                .iter(filter)
                .map(|(name, value)| (name.to_string(), value.as_ref().map_or(Value::Null, shown)))
                .collect(),
            index: index::describe(&predicate),
            projection: filter.projection.is_some(),
        })
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let values: serde_json::Map<String, Value> = self.values.iter().cloned().collect();
        let mut told = json!({
            "stream": self.stream,
            "upstream": {
                "database": self.upstream.database,
                "mode": self.upstream.mode(),
                "shared_with": self.shared_with,
                "pipeline": self.pipeline,
            },
            "sidecar": {
                "access": self.access,
                "operations": self.operations,
                "match": self.declared,
                "values": values,
                "index": self.index.to_string(),
                "project": self.projection,
            },
        });
        if let Some(find) = &self.find {
            told["snapshot"] = find.to_json();
        }
        told
    }
}

impl Find {
    /// The commands that make the indexes which it wants, where MongoDB has said that there is none.
    fn missing_index(&self) -> Option<String> {
        let plan = self.plan.as_ref().filter(|plan| plan.reads_all)?;
        let namespace = (self.database.as_str(), self.collection.as_str());
        create_indexes(namespace, &self.query, plan.has_collation)
    }

    fn to_json(&self) -> Value {
        let mut told = json!({
            "find": format!("{}.{}", self.database, self.collection),
            "filter": relaxed(&self.query),
            "projection": self.projection.as_ref().map(relaxed),
            "collation": { "locale": "simple" },
            "readConcern": { "level": "snapshot" },
        });
        if let Some(plan) = &self.plan {
            told["plan"] = json!({
                "indexes": plan.indexes,
                "reads_whole_collection": plan.reads_all,
                "create_index": self.missing_index(),
                "documents": plan.run.map(|run| run.documents),
                "examined": plan.run.map(|run| run.examined),
                "milliseconds": plan.run.map(|run| run.time.as_millis() as u64),
            });
        }
        told
    }
}

impl fmt::Display for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nfirst, in MongoDB: one query for all clients with the same values")?;
        writeln!(f, "  find         {}.{}", self.database, self.collection)?;
        writeln!(f, "  filter       {}", relaxed(&self.query))?;
        match &self.projection {
            Some(fields) => writeln!(f, "  projection   {}", relaxed(fields))?,
            None => writeln!(f, "  projection   none: whole documents")?,
        }
        writeln!(
            f,
            "  read         at one moment (readConcern snapshot), with the simple collation"
        )?;
        let Some(plan) = &self.plan else {
            return writeln!(f, "  index        `--mongodb URI` asks whether one carries it");
        };
        writeln!(f, "  index        {}", plan.way())?;
        if let Some(cost) = plan.cost() {
            writeln!(f, "  finds        {cost}")?;
        }
        if let Some(command) = self.missing_index() {
            writeln!(f, "  hint: {command}")?;
        }
        Ok(())
    }
}

/// In relaxed Extended JSON, as clients see it.
fn relaxed(document: &Document) -> Value {
    let written = RawDocumentBuf::try_from(document).ok().and_then(|raw| {
        let mut text = Vec::new();
        write_relaxed_document(&raw, &mut text);
        serde_json::from_slice(&text).ok()
    });
    // Neither fails for a document that was read from a filter file.
    written.unwrap_or(Value::Null)
}

fn shown(value: &Bson) -> Value {
    relaxed(&doc! { "value": value })["value"].take()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "stream {}", self.stream)?;
        writeln!(f, "\nin MongoDB: one change stream")?;
        writeln!(f, "  database     {}", self.upstream.database)?;
        writeln!(f, "  image mode   {}", self.upstream.mode())?;
        writeln!(f, "  shared with  {}", self.shared_with.join(", "))?;
        match self.pipeline.as_slice() {
            [] => writeln!(f, "  pipeline     none: the whole database")?,
            stages => {
                for stage in stages {
                    writeln!(f, "  pipeline     {stage}")?;
                }
            }
        }
        writeln!(f, "\nin the sidecar: once for all clients with the same values")?;
        match &self.access {
            Value::String(word) => writeln!(f, "  access       {word}")?,
            rule => writeln!(f, "  access       {rule}")?,
        }
        writeln!(f, "  operations   {}", self.operations.join(", "))?;
        writeln!(f, "  match        {}", self.declared)?;
        for (name, value) in &self.values {
            match value {
                Value::Null => writeln!(f, "  {name} is omitted, and its condition is dropped")?,
                value => writeln!(f, "  {name} = {value}")?,
            }
        }
        writeln!(f, "  index        {}", self.index)?;
        writeln!(f, "  then         the whole of `match` is evaluated on what the index finds")?;
        if self.projection {
            writeln!(f, "  project      applied to every document before it is encoded")?;
        }
        match &self.find {
            Some(find) => write!(f, "{find}"),
            None => Ok(()),
        }
    }
}
