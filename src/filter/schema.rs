//! The JSON Schema of filter files, for editors and CI: from the tables by which the files are read.

use serde_json::{Map, Value, json};

use super::declaration::KEYS;
use super::example::{self, Expect};
use super::params;
use super::value::ParamType;
use super::{FullDocument, FullDocumentBeforeChange, Operations};
use crate::config::RESERVED_QUERY;

/// The schema, draft 2020-12.
pub fn schema() -> Value {
    let properties: Map<String, Value> =
        KEYS.iter().map(|key| ((*key).to_owned(), property(key))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sidestream filter file",
        "description": "One file is one stream: filters/orders.yaml is the stream `orders`.",
        "type": "object",
        "properties": properties,
        "required": ["collection", "access"],
        "additionalProperties": false,
        "$defs": {
            "conditions": conditions(),
            "type": { "enum": ParamType::KNOWN.map(|(_, name)| name) },
            "param": param(),
            "example": example(),
        },
    })
}

fn property(key: &str) -> Value {
    match key {
        "description" => json!({
            "type": "string",
            "maxLength": 1000,
            "description": "A description for people, shown in the list of streams.",
        }),
        "collection" => json!({
            "type": "string",
            "pattern": r"^[^/\\. \x22$*<>:|?]{1,63}\.[^$]+$",
            "description": "database.collection, or database.* for the whole database.",
            "examples": ["shop.orders", "shop.*"],
        }),
        "operations" => json!({
            "type": "array",
            "items": { "enum": Operations::ALL.names().collect::<Vec<_>>() },
            "minItems": 1,
            "uniqueItems": true,
            "default": Operations::ALL.names().collect::<Vec<_>>(),
            "description": "The operations whose events are sent.",
        }),
        "match" => json!({
            "$ref": "#/$defs/conditions",
            "description": "Conditions on the document after the change, in MongoDB's query language. \
                { $param: name } and { $claim: name } stand where a value stands.",
        }),
        "params" => json!({
            "type": "object",
            "propertyNames": {
                "pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,63}$",
                "not": { "enum": RESERVED_QUERY },
            },
            "additionalProperties": { "$ref": "#/$defs/param" },
            "maxProperties": 100,
            "description": "The parameters that a client may send, by name.",
        }),
        "project" => json!({
            "type": "object",
            "additionalProperties": { "$ref": "#/properties/project/$defs/shown" },
            "$defs": {
                "shown": {
                    "anyOf": [
                        { "type": ["number", "boolean"] },
                        { "type": "object", "additionalProperties": { "$ref": "#/properties/project/$defs/shown" } },
                    ],
                },
            },
            "description": "The fields that leave the server, as in find(): 1 includes, 0 excludes.",
            "examples": [{ "status": 1, "total": 1 }],
        }),
        "fullDocument" => json!({
            "enum": FullDocument::KNOWN.map(|(_, name)| name),
            "default": FullDocument::UpdateLookup.name(),
            "description": "Which version of the document an update carries.",
        }),
        "fullDocumentBeforeChange" => json!({
            // Without quotes, `off` is a truth value to YAML 1.1.
            "enum": FullDocumentBeforeChange::KNOWN.map(|(_, name)| name),
            "default": FullDocumentBeforeChange::Off.name(),
            "description": "Whether events carry the document before the change. The collection has \
                to record it: changeStreamPreAndPostImages.",
        }),
        "access" => json!({
            "anyOf": [
                {
                    "enum": ["public", "authenticated"],
                    "description": "public: everyone. authenticated: every signed-in user.",
                },
                {
                    "type": "object",
                    "properties": { "match": { "$ref": "#/$defs/conditions" } },
                    "required": ["match"],
                    "additionalProperties": false,
                    "description": "The callers whose claims match.",
                },
            ],
            "description": "Who may open the stream. There is no default.",
        }),
        "snapshot" => json!({
            "type": "boolean",
            "default": false,
            "description": "Whether a client first receives the documents that match now, then \
             every change.",
        }),
        "examples" => json!({
            "type": "array",
            "items": { "$ref": "#/$defs/example" },
            "maxItems": 100,
            "description": "Changes, and what a client receives for them. Run by `sidestream \
             check`.",
        }),
        // A test holds that there is no other key.
        _ => json!({}),
    }
}

/// Field names are anything; operators at the top are those that there are.
fn conditions() -> Value {
    json!({
        "type": "object",
        "propertyNames": {
            "anyOf": [
                { "not": { "pattern": "^\\$" } },
                { "enum": ["$and", "$or", "$nor", "$expr", "$jsonSchema", "$comment", "$alwaysTrue", "$alwaysFalse"] },
            ],
        },
        "properties": {
            "$and": { "$ref": "#/$defs/conditions/$defs/branches" },
            "$or": { "$ref": "#/$defs/conditions/$defs/branches" },
            "$nor": { "$ref": "#/$defs/conditions/$defs/branches" },
        },
        "$defs": {
            "branches": { "type": "array", "items": { "$ref": "#/$defs/conditions" }, "minItems": 1 },
        },
    })
}

fn param() -> Value {
    let properties: Map<String, Value> = params::KEYS
        .iter()
        .map(|key| {
            let schema = match *key {
                "type" => json!({
                    "anyOf": [
                        { "$ref": "#/$defs/type" },
                        { "type": "array", "items": { "$ref": "#/$defs/type" }, "minItems": 1, "maxItems": 1 },
                    ],
                    "description": "The type of its value; in brackets for a set, given as a=1&a=2.",
                }),
                "required" => json!({
                    "type": "boolean",
                    "description": "true: omitting it is a 400. false: omitting it drops its \
                     condition.",
                }),
                "default" => json!({ "description": "The value if the client omits it." }),
                "enum" => json!({
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 10_000,
                    "description": "The values that are allowed.",
                }),
                "min" => json!({ "description": "The minimum." }),
                "max" => json!({ "description": "The maximum." }),
                "maxLength" => json!({
                    "type": "integer",
                    "minimum": 1,
                    "maximum": params::MAX_LENGTH,
                    "description": "The maximum length of a text, in characters.",
                }),
                "pattern" => json!({
                    "type": "string",
                    "description": "A regular expression that the whole text has to match.",
                }),
                _ => json!({}),
            };
            ((*key).to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": ["type"],
        "additionalProperties": false,
    })
}

fn example() -> Value {
    let properties: Map<String, Value> = example::KEYS
        .iter()
        .map(|key| {
            let schema = match *key {
                "name" => json!({ "type": "string", "description": "What the example shows." }),
                "operation" => json!({
                    "enum": Operations::ALL.names().collect::<Vec<_>>(),
                    "description": "Default: insert with `after`, delete with `before`, update with both.",
                }),
                "claims" => json!({
                    "type": "object",
                    "description": "The caller's claims. Without them, the caller is not signed \
                     in.",
                }),
                "params" => json!({ "type": "object", "description": "The client's parameters." }),
                "before" => json!({ "type": "object", "description": "The document before the change." }),
                "after" => json!({ "type": "object", "description": "The document after the change." }),
                "expect" => json!({
                    "enum": Expect::KNOWN.map(|(_, name)| name),
                    "description": "enter, stay, leave or none with before-images; otherwise sent \
                     or none.",
                }),
                "shows" => json!({
                    "type": "object",
                    "description": "The document that the client receives.",
                }),
                _ => json!({}),
            };
            ((*key).to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": ["expect"],
        "anyOf": [{ "required": ["before"] }, { "required": ["after"] }],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_description() {
        let schema = schema();
        let described = |of: &Value, path: &str| {
            let properties = of["properties"].as_object().unwrap();
            assert!(properties.len() >= 8, "{path}");
            for (key, property) in properties {
                assert!(property["description"].is_string(), "{path} {key}");
            }
        };
        described(&schema, "file");
        described(&schema["$defs"]["param"], "param");
        described(&schema["$defs"]["example"], "example");
    }
}
