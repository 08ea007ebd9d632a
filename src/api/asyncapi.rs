//! `GET {prefix}/asyncapi.json`: the streams that a client may open, as an AsyncAPI 3 document.

use serde_json::{Map, Value, json};

use crate::filter::{Filter, FullDocumentBeforeChange, Params};
use crate::session::control::Ended;

/// The name under the reserved path.
pub const NAME: &str = "asyncapi.json";
/// Of [AsyncAPI](https://www.asyncapi.com/docs/reference/specification/v3.0.0), as JSON.
pub const CONTENT_TYPE: &str = "application/vnd.aai.asyncapi+json;version=3.0.0";

/// The document. Addresses begin with `prefix`, the reserved path.
pub fn document<'f>(filters: impl IntoIterator<Item = &'f Filter>, prefix: &str) -> Value {
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), control_messages());
    for filter in filters {
        // `__` stands for `/` in file names, so no two streams share a key.
        let key = filter.name.replace('/', "__");
        let mut of_channel = Map::new();
        for operation in filter.operations.names() {
            let name = format!("{key}.{operation}");
            of_channel.insert(operation.to_owned(), reference("components/messages", &name));
            messages.insert(name, change_message(filter, operation));
        }
        let has_snapshot = filter.snapshot().is_some();
        if has_snapshot {
            let name = format!("{key}.document");
            of_channel.insert("document".to_owned(), reference("components/messages", &name));
            messages.insert(name, document_message());
        }
        for name in CONTROL {
            let is_told = match name {
                "reset" => !has_snapshot,
                "snapshot" => has_snapshot,
                _ => true,
            };
            if is_told {
                of_channel.insert(name.to_owned(), reference("components/messages", name));
            }
        }
        let operation_messages: Vec<Value> = of_channel
            .keys()
            .map(|name| reference(&format!("channels/{key}/messages"), name))
            .collect();
        channels.insert(
            key.clone(),
            json!({
                "address": format!("{prefix}/{}", filter.name),
                "title": filter.name,
                "description": filter.description.as_deref().unwrap_or("Changes of documents."),
                "messages": of_channel,
            }),
        );
        operations.insert(
            key.clone(),
            json!({
                "action": "send",
                "channel": reference("channels", &key),
                "messages": operation_messages,
                "bindings": { "http": {
                    "method": "GET",
                    "query": query(&filter.params),
                    "bindingVersion": "0.3.0",
                } },
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Event streams",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Changes of MongoDB documents as Server-Sent Events. The name of an \
                event is that of its message.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas() },
    })
}

fn reference(within: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/{within}/{name}") })
}

/// What every stream may say beside changes.
const CONTROL: [&str; 4] = ["ready", "reset", "snapshot", "end"];
/// Why a client has to load its data anew.
const RESETS: [&str; 5] =
    ["started", "history-lost", "invalid-token", "invalidated", "filter-changed"];

fn control_messages() -> Map<String, Value> {
    let reason = |reasons: &[&str]| {
        json!({
            "type": "object",
            "properties": { "reason": { "type": "string", "enum": reasons } },
            "required": ["reason"],
        })
    };
    let texts = [
        "Every missed event has been sent: load the data now.",
        "The client's data may be incomplete: load it again.",
        "The documents that match now come next, and replace what the client has at `ready`.",
        "The stream ends.",
    ];
    let ended = [
        Ended::Unauthorized,
        Ended::FilterChanged,
        Ended::SnapshotTooLarge,
        Ended::SnapshotUnavailable,
        Ended::SnapshotBusy,
    ];
    let payloads = [
        json!({
            "type": "object",
            "properties": { "documents": {
                "type": "integer",
                "description": "How many documents came, where a snapshot did.",
            } },
        }),
        reason(&RESETS),
        reason(&[&["new"][..], &RESETS].concat()),
        reason(&ended.map(Ended::reason)),
    ];
    CONTROL
        .iter()
        .zip(texts.into_iter().zip(payloads))
        .map(|(name, (summary, payload))| {
            let message = json!({ "name": name, "summary": summary, "payload": payload });
            ((*name).to_owned(), message)
        })
        .collect()
}

fn document_message() -> Value {
    let schema = |name: &str| reference("components/schemas", name);
    json!({
        "name": "document",
        "summary": "A document of a snapshot.",
        "payload": {
            "type": "object",
            "properties": {
                "operationType": { "const": "snapshot" },
                "ns": schema("namespace"),
                "documentKey": schema("documentKey"),
                "fullDocument": schema("document"),
            },
            "required": ["operationType", "ns", "documentKey", "fullDocument"],
        },
    })
}

fn change_message(filter: &Filter, operation: &str) -> Value {
    let schema = |name: &str| reference("components/schemas", name);
    let mut properties = Map::new();
    let mut add = |name: &str, schema: Value| {
        properties.insert(name.to_owned(), schema);
    };
    add("operationType", json!({ "const": operation }));
    add("ns", schema("namespace"));
    add("documentKey", schema("documentKey"));
    if operation != "delete" {
        add("fullDocument", schema("document"));
    }
    if operation == "update" {
        add("updateDescription", schema("updateDescription"));
    }
    if filter.before_image != FullDocumentBeforeChange::Off {
        add("view", json!({ "enum": ["enter", "stay", "leave"] }));
        if operation != "insert" {
            add("fullDocumentBeforeChange", schema("document"));
        }
    }
    add("clusterTime", json!({ "type": "object" }));
    add("wallTime", json!({ "type": "object" }));
    json!({
        "name": operation,
        "payload": {
            "type": "object",
            "properties": properties,
            "required": ["operationType", "ns", "documentKey"],
        },
    })
}

fn schemas() -> Value {
    json!({
        "namespace": {
            "type": "object",
            "properties": { "db": { "type": "string" }, "coll": { "type": "string" } },
        },
        "documentKey": { "type": "object", "description": "`_id`, and the fields of a shard key." },
        "document": {
            "type": ["object", "null"],
            "description": "The document in relaxed MongoDB Extended JSON, as far as the stream shows it.",
        },
        "updateDescription": {
            "type": "object",
            "properties": {
                "updatedFields": { "type": "object" },
                "removedFields": { "type": "array", "items": { "type": "string" } },
                "truncatedArrays": { "type": "array", "items": { "type": "object" } },
            },
        },
    })
}

/// Values as they are written in a query: an integer that JSON numbers cannot hold exactly is text.
fn as_asked(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(as_asked).collect(),
        value => value.get("$numberLong").unwrap_or(value).clone(),
    }
}

fn holds_text(value: &Value) -> bool {
    value.is_string() || value.as_array().is_some_and(|values| values.iter().any(holds_text))
}

/// The parameters of a stream, as the query of its request.
fn query(params: &Params) -> Value {
    let mut properties = Map::new();
    for param in params.iter() {
        let kind = match param.kind.name() {
            "int" | "long" => json!({ "type": "integer" }),
            "double" => json!({ "type": "number" }),
            "bool" => json!({ "type": "boolean" }),
            "date" => json!({ "type": "string", "format": "date-time" }),
            "uuid" => json!({ "type": "string", "format": "uuid" }),
            "objectId" => json!({ "type": "string", "pattern": "^[0-9a-fA-F]{24}$" }),
            _ => json!({ "type": "string" }),
        };
        let declared = param.to_json();
        let mut schema = kind;
        if let Some(length) = declared.get("maxLength") {
            schema["maxLength"] = length.clone();
        }
        if let Some(values) = declared.get("enum") {
            schema["enum"] = as_asked(values);
        }
        for (of_ours, of_schema) in [("min", "minimum"), ("max", "maximum")] {
            if let Some(value) = declared.get(of_ours).filter(|value| value.is_number()) {
                schema[of_schema] = value.clone();
            }
        }
        let default = declared.get("default").map(as_asked);
        let has_text = [schema.get("enum"), default.as_ref()].into_iter().flatten().any(holds_text);
        if schema["type"] == "integer" && has_text {
            schema["type"] = json!(["integer", "string"]);
        }
        if param.is_array {
            schema = json!({ "type": "array", "items": schema });
        }
        if let Some(default) = default {
            schema["default"] = default;
        }
        properties.insert(param.name.clone(), schema);
    }
    let required: Vec<&str> =
        params.iter().filter(|param| param.is_required).map(|param| param.name.as_str()).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}
