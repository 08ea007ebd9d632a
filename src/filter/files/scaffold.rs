//! A filter file to begin with: what `sidestream new` writes.

use std::fmt::Write;

use crate::filter::{Namespace, ParamType};

/// What a look at a collection has shown. No values: the file may go into a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionShape {
    /// How many documents were looked at.
    pub documents: usize,
    /// Top-level fields but `_id`, the most common first, each with its BSON types.
    pub fields: Vec<(String, Vec<&'static str>)>,
    /// The fields of each index but that on `_id`.
    pub indexes: Vec<Vec<String>>,
    /// Whether the collection records pre-images; `None`: that could not be seen.
    pub has_pre_images: Option<bool>,
}

/// So many fields are listed.
const MAX_FIELDS: usize = 40;

/// The text of the file of a stream.
pub fn scaffold(stream: &str, namespace: &Namespace, seen: Option<&CollectionShape>) -> String {
    let mut out = String::new();
    let collection = namespace.collection.as_deref();
    let what = collection.unwrap_or("everything in the database");
    let nothing = CollectionShape::default();
    let fields = seen.unwrap_or(&nothing);
    // Writing to a text does not fail.
    let _ = write!(
        out,
        "# For completion in an editor: `sidestream schema filter > filter.schema.json`, and as the first\n\
         # line of this file:\n\
         # yaml-language-server: $schema={}filter.schema.json\n\n\
         description: {}\n\n\
         # database.collection, as MongoDB names them.\n\
         collection: {}\n",
        "../".repeat(stream.matches('/').count() + 1),
        quoted(&format!("Changes of {what}")),
        quoted(&namespace.to_string())
    );
    // Of a whole database, no collection was looked at.
    if let Some(seen) = seen.filter(|_| collection.is_some()) {
        list_fields(seen, &mut out);
    }
    let owner = owner(fields).unwrap_or("customer");
    let (example, kind) = condition(fields, owner).unwrap_or(("status", ParamType::String));
    let kind = kind.name();
    let _ = write!(
        out,
        "\n# Which documents: MongoDB's query language, on the document after the change.\n\
         # {{ $param: name }} is a value from the client, {{ $claim: name }} a claim about the \
         caller.\n\
         # match:\n\
         #   {owner}: {{ $claim: sub, type: objectId }}\n\
         #   {example}: {{ $param: {example} }}\n\
         # params:\n\
         #   {example}: {{ type: {kind}, required: false }}\n\n\
         # Which fields leave the server, as in find(). Without it, all of them do.\n"
    );
    let shown: Vec<&str> =
        fields.fields.iter().map(|(name, _)| name.as_str()).filter(|name| is_plain(name)).collect();
    match shown.as_slice() {
        [] => out.push_str("# project: { status: 1, total: 1 }\n"),
        shown => {
            let listed: Vec<String> =
                shown.iter().take(MAX_FIELDS).map(|name| format!("{name}: 1")).collect();
            let _ = writeln!(out, "# project: {{ {} }}", listed.join(", "));
        }
    }
    images(collection, fields.has_pre_images, &mut out);
    // A snapshot is of one collection.
    if collection.is_some() {
        out.push_str(
            "\n# What matches now comes first, then every change, so that a page loads nothing itself. With\n\
             # conditions it needs `fullDocumentBeforeChange`, so that documents that leave can be told.\n\
             # snapshot: true\n",
        );
    }
    out.push_str(
        "\n# Who may open the stream: public, authenticated, or { match: { role: admin } } on the \
         claims.\n\
         # There is no default. `authenticated` needs `auth` in the settings.\n\
         access: authenticated\n",
    );
    let id = "507f1f77bcf86cd799439011";
    let _ = write!(
        out,
        "\n# Tests, run by `sidestream check`.\n\
         # examples:\n\
         #   - claims: {{ sub: \"{id}\" }}\n\
         #     after: {{ _id: 1, {owner}: {{ $oid: \"{id}\" }} }}\n\
         #     expect: sent\n"
    );
    out
}

/// A field that may name the user to whom a document belongs: of ObjectIds, and of such a name where
/// there is one.
fn owner(seen: &CollectionShape) -> Option<&str> {
    const WORDS: [&str; 8] =
        ["user", "owner", "customer", "author", "account", "member", "creat", "student"];
    let is_owner = |name: &str| {
        let lower = name.to_ascii_lowercase();
        WORDS.iter().any(|word| lower.contains(word))
    };
    let ids = seen.fields.iter().filter(|(_, types)| types.as_slice() == ["objectId"]);
    let names: Vec<&str> = ids.map(|(name, _)| name.as_str()).filter(|it| is_plain(it)).collect();
    names.iter().find(|name| is_owner(name)).or(names.first()).copied()
}

/// A field to show a parameter with, and the parameter's type: one that its values have.
fn condition<'s>(seen: &'s CollectionShape, owner: &str) -> Option<(&'s str, ParamType)> {
    seen.fields.iter().filter(|(name, _)| is_plain(name) && name != owner).find_map(
        |(name, types)| {
            let [kind] = types.as_slice() else { return None };
            Some((name.as_str(), ParamType::named(kind)?))
        },
    )
}

fn list_fields(seen: &CollectionShape, out: &mut String) {
    if seen.documents == 0 {
        out.push_str("# There are no documents in it yet.\n");
        return;
    }
    let noun = if seen.documents == 1 { "document" } else { "documents" };
    let _ = writeln!(out, "#\n# Seen in {} {noun}:", seen.documents);
    let widest =
        seen.fields.iter().take(MAX_FIELDS).map(|(name, _)| escaped(name).chars().count()).max();
    let width = widest.unwrap_or_default().min(30);
    for (name, types) in seen.fields.iter().take(MAX_FIELDS) {
        let _ = writeln!(out, "#   {:width$}  {}", escaped(name), types.join(", "));
    }
    if seen.fields.len() > MAX_FIELDS {
        let _ = writeln!(out, "#   … and {} more", seen.fields.len() - MAX_FIELDS);
    }
    for index in &seen.indexes {
        let fields: Vec<String> = index.iter().map(|field| escaped(field)).collect();
        let _ = writeln!(out, "# Index: {}", fields.join(", "));
    }
}

fn images(collection: Option<&str>, has_pre_images: Option<bool>, out: &mut String) {
    out.push_str(
        "\n# A delete carries only its key. With the document before the change, deletes and documents\n\
         # that leave the filter are sent, and events have `view`: enter, stay or leave.\n",
    );
    let name = collection.unwrap_or("NAME");
    let command = format!(
        "db.runCommand({{ collMod: {name:?}, changeStreamPreAndPostImages: {{ enabled: true }} }})"
    );
    match has_pre_images {
        Some(true) => {
            out.push_str("# The collection records it.\nfullDocumentBeforeChange: whenAvailable\n")
        }
        Some(false) => {
            let _ = write!(
                out,
                "# The collection does not record it yet:\n#   {command}\n\
                 # fullDocumentBeforeChange: whenAvailable\n"
            );
        }
        None => {
            let _ = write!(
                out,
                "# The collection has to record it:\n#   {command}\n\
                 # fullDocumentBeforeChange: whenAvailable\n"
            );
        }
    }
}

/// Whether a field's name needs no quotes, in braces either.
fn is_plain(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(is_word)
        && name.len() <= 60
}

/// A name as it may stand in a comment: on one line.
fn escaped(name: &str) -> String {
    name.escape_debug().take(60).collect()
}

fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.- ".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.ends_with(' ');
    if text.chars().all(is_plain) && is_word {
        return text.to_owned();
    }
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::filter::parse_filter;

    fn check(text: &str) {
        let filter = parse_filter("orders", Path::new("orders.yaml"), text)
            .unwrap_or_else(|found| panic!("{text}\n{found:#?}"));
        assert!(filter.warnings.is_empty(), "{text}\n{:#?}", filter.warnings);
        assert!(text.lines().all(|line| line.chars().count() <= 400));
    }

    #[test]
    fn what_is_written_is_a_good_file() {
        let namespace = |text| Namespace::read(text).unwrap();
        for name in ["shop.orders", "shop.*", "shop.my orders", "shop.a'b\"c", "1shop.x: y"] {
            check(&scaffold("orders", &namespace(name), None));
            check(&scaffold("orders", &namespace(name), Some(&CollectionShape::default())));
        }
        let seen = CollectionShape {
            documents: 100,
            fields: vec![
                ("status".into(), vec!["string"]),
                ("total".into(), vec!["int", "double"]),
                ("odd: {\n$name".into(), vec!["object"]),
            ],
            indexes: vec![vec!["status".into(), "placed".into()]],
            has_pre_images: Some(true),
        };
        let text = scaffold("orders", &namespace("shop.orders"), Some(&seen));
        check(&text);
        for line in [
            "#   total          int, double",
            "# Index: status, placed",
            "fullDocumentBeforeChange: whenAvailable",
            "# project: { status: 1, total: 1 }",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    /// What is commented out is right, too.
    #[test]
    fn the_comments_are_good_as_well() {
        let namespace = Namespace::read("shop.orders").unwrap();
        let seen = |fields: &[(&str, &'static str)]| {
            let fields = fields.iter().map(|(name, kind)| (name.to_string(), vec![*kind]));
            CollectionShape { documents: 3, fields: fields.collect(), ..CollectionShape::default() }
        };
        // What is seen, and the conditions that are shown of it.
        let rows = [
            (None, "customer", "status", "string"),
            (Some(seen(&[])), "customer", "status", "string"),
            (Some(seen(&[("total", "int"), ("userId", "objectId")])), "userId", "total", "int"),
            (Some(seen(&[("ownerId", "objectId"), ("due", "date")])), "ownerId", "due", "date"),
            // Of these types no parameter can be.
            (Some(seen(&[("items", "array"), ("open", "bool")])), "customer", "open", "bool"),
            (Some(seen(&[("room", "objectId")])), "room", "status", "string"),
            (
                Some(seen(&[("room", "objectId"), ("authorId", "objectId")])),
                "authorId",
                "room",
                "objectId",
            ),
        ];
        for (seen, owner, field, kind) in rows {
            let text = uncommented(&scaffold("orders", &namespace, seen.as_ref()));
            for part in [
                format!("\nmatch:\n  {owner}: {{ $claim: sub, type: objectId }}\n"),
                format!("\n  {field}: {{ $param: {field} }}\n"),
                format!("\nparams:\n  {field}: {{ type: {kind}, required: false }}\n"),
                "\nsnapshot: true\n".to_owned(),
            ] {
                assert!(text.contains(&part), "{part}\n{text}");
            }
            check(&text);
        }
    }

    fn uncommented(text: &str) -> String {
        const KEYS: [&str; 6] =
            ["match:", "params:", "project:", "fullDocument", "snapshot:", "examples:"];
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with(' ') && is_yaml(rest) => format!("{rest}\n"),
            Some(rest) if KEYS.iter().any(|key| rest.starts_with(key)) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        });
        lines.collect()
    }

    /// Neither a command nor the list of fields.
    fn is_yaml(line: &str) -> bool {
        !line.contains("db.runCommand") && (line.contains(':') || line.contains("- "))
    }
}
