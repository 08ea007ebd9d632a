//! What a filter becomes: `sidestream explain`.
//!
//! Reads the same files, and builds the same pipeline and predicate, as a running sidecar would;
//! asks no MongoDB.

use std::fmt;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use serde_json::{Value, json};

use crate::event::json::write_relaxed_document;
use crate::feed::routes::index;
use crate::feed::{Collections, FeedKey};
use crate::filter::{Access, BindError, Bound, Filter, FilterSet, Operations};
use crate::upstream::cursor;

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
        let Bound { predicate, values } = filter.bind_unasked(query, Some(claims))?;
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
        Ok(Explanation {
            stream: filter.name.clone(),
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
            values: values
                .iter()
                .map(|(name, value)| (name.to_string(), value.as_ref().map_or(Value::Null, shown)))
                .collect(),
            index: index::describe(&predicate),
            projection: filter.projection.is_some(),
        })
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let values: serde_json::Map<String, Value> = self.values.iter().cloned().collect();
        json!({
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
        })
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
                Value::Null => writeln!(f, "  {name} is left out, and its condition with it")?,
                value => writeln!(f, "  {name} = {value}")?,
            }
        }
        writeln!(f, "  index        {}", self.index)?;
        writeln!(f, "  then         the whole of `match` is evaluated on what the index finds")?;
        if self.projection {
            writeln!(f, "  project      applied to every document before it is encoded")?;
        }
        Ok(())
    }
}
