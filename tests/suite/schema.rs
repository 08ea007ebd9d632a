//! The JSON Schema of filter files: the file in the repository, and what it takes and refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};
use sidestream::filter;
use sidestream::yaml::{self, Node, NodeKind, Typed};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_file_is_what_the_command_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_sidestream")).args(["schema", "filter"]).output();
    let printed = String::from_utf8(output.unwrap().stdout).unwrap();
    let file = root().join("schemas/filter.schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &printed).unwrap();
    }
    assert_eq!(printed, std::fs::read_to_string(file).unwrap());
}

/// As an editor would read it.
fn json(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Mapping(entries) => {
            let entries = entries.iter().map(|entry| (entry.key.clone(), json(&entry.value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        NodeKind::Sequence(items) => items.iter().map(json).collect(),
        NodeKind::Scalar(scalar) => match scalar.typed() {
            Ok(Typed::Null) => Value::Null,
            Ok(Typed::Bool(value)) => value.into(),
            Ok(Typed::Int(value)) => value.into(),
            Ok(Typed::Double(value)) => value.into(),
            Ok(Typed::String(text)) => text.into(),
            Err(_) => scalar.text.clone().into(),
        },
    }
}

fn read(text: &str) -> Value {
    json(&yaml::parse(text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}")).unwrap())
}

/// The filter files that are shipped or shown.
fn good() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("filters"), root().join("examples")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_filter = path.extension().is_some_and(|end| end == "yaml")
                && path
                    .strip_prefix(root())
                    .expect("it is below")
                    .components()
                    .any(|part| part.as_os_str() == "filters");
            if path.is_dir() {
                directories.push(path);
            } else if is_filter {
                found.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    let mut documents = vec![root().join("docs")];
    while let Some(directory) = documents.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                documents.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                let blocks = text.split("```yaml\n# filters/").skip(1);
                let blocks = blocks.filter_map(|block| block.split("```").next());
                found
                    .extend(blocks.map(|block| (path.display().to_string(), format!("# {block}"))));
            }
        }
    }
    found
}

const BAD: [&str; 24] = [
    "access: public",
    "collection: shop.orders",
    "collection: orders\naccess: public",
    "collection: [shop.orders]\naccess: public",
    "collection: shop.orders\naccess: private",
    "collection: shop.orders\naccess: { role: admin }",
    "collection: shop.orders\naccess: { match: admin }",
    "collection: shop.orders\naccess: public\nacess: public",
    "collection: shop.orders\naccess: public\nfilter: {}",
    "collection: shop.orders\naccess: public\noperations: insert",
    "collection: shop.orders\naccess: public\noperations: []",
    "collection: shop.orders\naccess: public\noperations: [create]",
    "collection: shop.orders\naccess: public\noperations: [insert, insert]",
    "collection: shop.orders\naccess: public\nmatch: [a]",
    "collection: shop.orders\naccess: public\nmatch: { $where: x }",
    "collection: shop.orders\naccess: public\nmatch: { $or: { a: 1 } }",
    "collection: shop.orders\naccess: public\nparams: { a: string }",
    "collection: shop.orders\naccess: public\nparams: { a: { type: text } }",
    "collection: shop.orders\naccess: public\nparams: { a: { type: string, optional: true } }",
    "collection: shop.orders\naccess: public\nparams: { since: { type: date } }",
    "collection: shop.orders\naccess: public\nproject: [a]",
    "collection: shop.orders\naccess: public\nfullDocument: always",
    "collection: shop.orders\naccess: public\nexamples: [{ after: { _id: 1 } }]",
    "collection: shop.orders\naccess: public\nexamples: [{ expect: sent }]",
];

#[test]
fn good_files_are_taken_and_bad_ones_refused() {
    let validator = jsonschema::draft202012::new(&filter::schema()).expect("a schema");
    let good = good();
    assert!(good.len() > 10, "{} files", good.len());
    for (name, text) in &good {
        let errors: Vec<String> =
            validator.iter_errors(&read(text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}\n{text}\n{errors:#?}");
        let parsed = filter::parse_filter("good", Path::new("good.yaml"), text);
        assert!(parsed.is_ok(), "{name}");
    }
    assert!(BAD.len() > 20);
    for text in BAD {
        assert!(!validator.is_valid(&read(text)), "{text}");
        assert!(filter::parse_filter("bad", Path::new("bad.yaml"), text).is_err(), "{text}");
    }
}

/// What the program takes, with warnings at most, an editor must not underline.
#[test]
fn whatever_is_taken_is_valid() {
    let validator = jsonschema::draft202012::new(&filter::schema()).expect("a schema");
    let cases = include_str!("../../src/filter/tests/diagnostics.txt");
    let mut count = 0;
    for case in cases.trim_start_matches("=== ").split("\n=== ") {
        let (title, rest) = case.split_once('\n').expect("a title");
        let (text, _) = rest.split_once("---\n").expect("a file");
        let parsed = filter::parse_filter("case", Path::new("case.yaml"), text);
        if title.ends_with("(json)") || parsed.is_err() {
            continue;
        }
        let errors: Vec<String> =
            validator.iter_errors(&read(text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{title}\n{text}\n{errors:#?}");
        count += 1;
    }
    assert!(count > 40, "{count} files");
}

/// Shipped files say where their schema is.
#[test]
fn shipped_filters_open_with_their_schema() {
    let shipped = good().into_iter().filter(|(name, _)| name.ends_with(".yaml"));
    let mut count = 0;
    for (name, text) in shipped {
        let line = text.lines().next().unwrap_or_default();
        let relative = line.strip_prefix("# yaml-language-server: $schema=");
        let relative = relative.unwrap_or_else(|| panic!("{name}: {line}"));
        let schema = Path::new(&name).parent().unwrap().join(relative);
        assert!(schema.exists(), "{name}: {}", schema.display());
        count += 1;
    }
    assert!(count >= 4, "{count}");
}
