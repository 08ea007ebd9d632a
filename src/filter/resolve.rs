//! From what is written to a filter. The only step that can fail; it goes through everything
//! before it does.

use std::path::Path;

use bson::Document;

use super::declaration::Declaration;
use super::meaning::{self, Understood};
use super::tree::Tree;
use super::value::ParamType;
use super::{
    Access, Filter, FullDocument, FullDocumentBeforeChange, Namespace, Operations, Params, access,
    advice, contradiction, example, json, literal, mistakes, params, snapshot,
};
use crate::diagnostic::{Diagnostic, Reporter, Severity, nearest};
use crate::matcher::pattern::TOTAL_BYTES;
use crate::matcher::projection::Projection;
use crate::matcher::{Claim, ParseError, Placeholder, PlaceholderUse, Role, Template};
use crate::yaml::{self, Entry, Node, Place};

/// The longest description, in characters.
const MAX_DESCRIPTION_CHARS: usize = 1000;

/// Judges one filter file. `name` is the stream's name, `path` is only for showing.
///
/// # Errors
/// Everything that was found, warnings too, in the order of the text; at least one is an error.
pub fn parse_filter(name: &str, path: &Path, text: &str) -> Result<Filter, Vec<Diagnostic>> {
    let mut reporter = Reporter::new(path, text);
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json && !text.trim().is_empty() && !json::check(text, &mut reporter) {
        return Err(reporter.finish());
    }
    let filter = resolve(name, text, &mut reporter);
    match filter {
        Some(mut filter) if !reporter.has_errors() => {
            filter.warnings = reporter.finish();
            Ok(filter)
        }
        _ => Err(reporter.finish()),
    }
}

/// What is returned is of use only if no error was reported; `None` only with one.
fn resolve(name: &str, text: &str, reporter: &mut Reporter<'_>) -> Option<Filter> {
    let root = match yaml::parse(text) {
        Ok(Some(root)) if !root.is_null() => root,
        Ok(_) => {
            let hint = "start with `collection: database.collection`";
            reporter.error(Place::START, "the file is empty", hint);
            return None;
        }
        Err(problems) => {
            for yaml::YamlError { place, message, hint } in problems {
                reporter.add(Severity::Error, place, message, hint);
            }
            return None;
        }
    };
    let declaration = Declaration::read(&root, reporter)?;

    let description = declaration.description.and_then(|entry| description(entry, reporter));
    let namespace = match declaration.collection {
        Some(entry) => collection(entry, reporter),
        None if declaration.is_misspelt("collection") => None,
        None => {
            let hint = "write `collection: database.collection`";
            reporter.error(Place::START, "`collection` is missing", hint);
            None
        }
    };
    let operations =
        declaration.operations.map_or(Operations::ALL, |entry| operations(entry, reporter));
    let matching = match declaration.matching {
        Some(entry) => compile(entry, Template::parse, reporter),
        None => Some(Compiled {
            document: Document::new(),
            parsed: parse_empty(),
            has_all_values: true,
        }),
    };
    let params = declaration.params.map(|entry| params::read(entry, reporter)).unwrap_or_default();
    let projection = declaration.project.and_then(|entry| projection(entry, reporter));
    let full_document = declaration.full_document.map_or(FullDocument::UpdateLookup, |entry| {
        word(entry, &FullDocument::KNOWN, reporter).unwrap_or(FullDocument::UpdateLookup)
    });
    let before_image = declaration.before_image.map_or(FullDocumentBeforeChange::Off, |entry| {
        word(entry, &FullDocumentBeforeChange::KNOWN, reporter)
            .unwrap_or(FullDocumentBeforeChange::Off)
    });
    let has_snapshot = declaration.snapshot.is_some_and(|entry| snapshot::read(entry, reporter));
    let examples = declaration.examples;
    let examples = examples.map(|entry| example::read(entry, before_image, reporter));
    let access = match declaration.access {
        Some(entry) => {
            let declared = (&params, declaration.params);
            access::read(entry, declared, reporter)
                .inspect(|access| access::advise(access, entry, &params, reporter))
        }
        None if declaration.is_misspelt("access") => None,
        None => {
            reporter.error(
                Place::START,
                "`access` is missing: a filter says who may open its stream",
                "write `access: public` to admit everyone, or `access: authenticated`",
            );
            None
        }
    };

    let Compiled { document, parsed, has_all_values } = matching?;
    // Conditions with a mistake are looked through as well: everything is told at once.
    if let Some(entry) = declaration.matching {
        let uses = match &parsed {
            Some(template) => template.placeholders(),
            None => Template::placeholders_in(&document),
        };
        let declared = (&params, declaration.params);
        check_placeholders(&uses, entry, declared, access.as_ref(), reporter);
        mistakes::look_for(&document, entry, reporter);
        if has_all_values {
            contradiction::look_for(&document, entry, &params, reporter);
        }
    }
    if let Some(template) = &parsed {
        if let Some(entry) = declaration.matching {
            check_claims_stay(template, entry, &params, reporter);
        }
        // Of conditions that could not be read it is not known what they use.
        advice::unused_params(template, access.as_ref(), declaration.params, reporter);
    }
    // Where there was an error, the filter is thrown away in the end: what stands in is never used.
    let template = parsed.or_else(parse_empty)?;
    check_regexes(&[Some(&template), access_template(access.as_ref())], &params, reporter);
    let needs_source = access
        .as_ref()
        .zip(declaration.access)
        .and_then(|(access, entry)| access::without_source(access, entry, reporter));
    let namespace = namespace?;
    let understood = Understood {
        namespace: &namespace,
        operations,
        full_document,
        before_image,
        matching: template.meaning(),
        projection: projection.as_ref(),
        params: &params,
        access: access.as_ref(),
    };
    let meaning = meaning::digest(&root, &understood);
    let filter = Filter {
        name: name.to_owned(),
        description,
        namespace,
        operations,
        value_names: super::bind::names_of(&params, &template),
        template,
        params,
        projection,
        full_document,
        before_image,
        access: access.unwrap_or(Access::Authenticated),
        has_snapshot,
        examples: examples.unwrap_or_default(),
        at_collection: reporter.make(
            Severity::Warning,
            declaration.collection.map_or(Place::START, |entry| entry.value.place),
            String::new(),
            None,
        ),
        needs_source,
        warnings: Vec::new(),
        meaning,
    };
    match has_snapshot {
        true => snapshot::check(&filter, &document, &declaration, reporter),
        false => advice::advise(&filter, &document, &declaration, reporter),
    }
    Some(filter)
}

fn access_template(access: Option<&Access>) -> Option<&Template> {
    match access {
        Some(Access::Match(rule)) => Some(&rule.template),
        _ => None,
    }
}

/// Each part of the file keeps to the limit by itself; so does the whole.
fn check_regexes(templates: &[Option<&Template>], params: &Params, reporter: &mut Reporter<'_>) {
    let templates = templates.iter().flatten().map(|template| template.regex_bytes());
    if templates.sum::<usize>() + params.regex_bytes > TOTAL_BYTES {
        let most = TOTAL_BYTES >> 20;
        reporter.error(
            Place::START,
            format!("all regular expressions of the filter take more than {most} MiB"),
            "join some of them with `|`, or use `$in`",
        );
    }
}

/// A filter without `match`: every document.
fn parse_empty() -> Option<Template> {
    Template::parse(&Document::new()).ok()
}

fn description(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = format!("write text of up to {MAX_DESCRIPTION_CHARS} characters");
    let Some(scalar) = entry.value.scalar() else {
        let message = format!("`description` must be text, not {}", entry.value.noun());
        reporter.error(entry.value.place, message, hint);
        return None;
    };
    if scalar.text.chars().count() > MAX_DESCRIPTION_CHARS {
        reporter.error(entry.value.place, "the description is too long", hint);
    }
    Some(scalar.text.trim().to_owned())
}

fn collection(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<Namespace> {
    let Some(scalar) = entry.value.scalar() else {
        let message = format!("`collection` must be text, not {}", entry.value.noun());
        reporter.error(entry.value.place, message, "write database.collection");
        return None;
    };
    match Namespace::parse(&scalar.text) {
        Ok(namespace) => Some(namespace),
        Err((message, hint)) => {
            reporter.error(entry.value.place, message, hint);
            None
        }
    }
}

fn operations(entry: &Entry, reporter: &mut Reporter<'_>) -> Operations {
    let items = match entry.value.items() {
        Some(items) if !items.is_empty() => items,
        _ => {
            reporter.error(
                entry.value.place,
                "`operations` must be a list with at least one operation",
                "write some of [insert, update, replace, delete], or remove the key for all of them",
            );
            return Operations::ALL;
        }
    };
    let known = Operations::KNOWN.map(|(_, name)| name);
    let mut operations = Operations::NONE;
    for item in items {
        let name = item.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        match operations.with(name) {
            Some(with) if with == operations => {
                let hint = "remove one of them";
                reporter.error(item.place, format!("`{name}` is listed twice"), hint);
            }
            Some(with) => operations = with,
            None => {
                let hint = match (name, nearest(name, known)) {
                    ("create" | "created" | "add" | "upsert", _) => {
                        "did you mean `insert`?".to_owned()
                    }
                    ("remove" | "removed", _) => "did you mean `delete`?".to_owned(),
                    ("save" | "modify" | "change" | "changed", _) => {
                        "write `update`, and `replace` for whole documents".to_owned()
                    }
                    ("drop" | "rename" | "dropDatabase" | "invalidate", _) => {
                        "clients receive `event: reset` for it in any case".to_owned()
                    }
                    (_, Some(known)) => format!("did you mean `{known}`?"),
                    (_, None) => format!("the operations are {}", known.join(", ")),
                };
                reporter.error(item.place, format!("`{name}` is not an operation"), hint);
            }
        }
    }
    operations
}

/// One of the words of a table.
fn word<T: Copy>(entry: &Entry, known: &[(T, &str)], reporter: &mut Reporter<'_>) -> Option<T> {
    let names = || known.iter().map(|(_, name)| *name);
    let Some(scalar) = entry.value.scalar() else {
        let message = format!("`{}` must be a word, not {}", entry.key, entry.value.noun());
        let hint = format!("write one of {}", names().collect::<Vec<_>>().join(", "));
        reporter.error(entry.value.place, message, hint);
        return None;
    };
    let text = scalar.text.as_str();
    let found = known.iter().find(|(_, name)| *name == text).map(|(value, _)| *value);
    if found.is_none() {
        let switch = match (entry.key.as_str(), text) {
            ("fullDocument", "true" | "yes" | "on") => Some("updateLookup"),
            ("fullDocument", "false" | "no" | "off" | "none") => Some("default"),
            ("fullDocumentBeforeChange", "true" | "yes" | "on") => Some("whenAvailable"),
            ("fullDocumentBeforeChange", "false" | "no" | "none") => Some("off"),
            _ => None,
        };
        let hint = match (switch, nearest(text, names())) {
            (Some(meant), _) => format!("write `{meant}`"),
            (None, Some(name)) => format!("did you mean `{name}`?"),
            (None, None) => format!("write one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        let message = format!("`{text}` is not a value of `{}`", entry.key);
        reporter.error(entry.value.place, message, hint);
    }
    found
}

fn projection(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<Projection> {
    // As in find(): an empty projection is none.
    if entry.value.entries().is_some_and(|entries| entries.is_empty()) {
        return None;
    }
    compile(entry, Projection::parse, reporter)?.parsed
}

/// The mapping of an entry, and what a parser of the matcher made of it.
pub(super) struct Compiled<T> {
    pub document: Document,
    /// `None`: there are mistakes, which have been reported.
    pub parsed: Option<T>,
    /// Whether every value could be read. What could not is null in the document.
    pub has_all_values: bool,
}

/// Reads the mapping of an entry and hands it to one of the matcher's parsers. Mistakes in values
/// and in what they stand for are reported together. `None` where it is no mapping, which is
/// reported too.
pub(super) fn compile<T>(
    entry: &Entry,
    parse: fn(&Document) -> Result<T, Vec<ParseError>>,
    reporter: &mut Reporter<'_>,
) -> Option<Compiled<T>> {
    let literal::Read { document, broken } = literal::document(entry, reporter)?;
    let has_all_values = broken.is_empty();
    let parsed = match parse(&document) {
        Ok(parsed) => has_all_values.then_some(parsed),
        Err(errors) => {
            let mut tree = Tree::new(entry);
            for error in errors {
                // What is said about a value that could not be read is about its stand-in.
                if broken.contains(&tree.node_at(&error.path).place) {
                    continue;
                }
                let place = tree.locate(&error.path);
                reporter.add(Severity::Error, place, error.message, error.hint);
            }
            None
        }
    };
    Some(Compiled { document, parsed, has_all_values })
}

/// Every placeholder stands for something, and for something that fits where it stands.
fn check_placeholders(
    uses: &[PlaceholderUse],
    entry: &Entry,
    declared: (&Params, Option<&Entry>),
    access: Option<&Access>,
    reporter: &mut Reporter<'_>,
) {
    let mut tree = Tree::new(entry);
    for placeholder_use in uses {
        let node = tree.node_at(&placeholder_use.path);
        let Placeholder::Claim(claim) = &placeholder_use.placeholder else { continue };
        check_claim_type(claim, node, reporter);
        if matches!(access, Some(Access::Public)) {
            reporter.error(
                node.place,
                format!("`$claim: {}` under `access: public`", claim.path),
                "a public stream has no caller, hence no claims: use `$param`, or another `access`",
            );
        }
    }
    check_params(uses, entry, declared, reporter);
}

/// The times that a token carries, in seconds.
const TIME_CLAIMS: [&str; 5] = ["exp", "iat", "nbf", "auth_time", "updated_at"];

/// `type` beside a `$claim` is a type that there is.
fn check_claim_type(claim: &Claim, node: &Node, reporter: &mut Reporter<'_>) {
    let Some(name) = &claim.kind else { return };
    let place = node.get("type").map_or(node.place, |entry| entry.value.place);
    match ParamType::named(name) {
        None => {
            let hint = match params::item_type(name) {
                Some(item) => format!("write `type: {item}`: a list in the claim is a set of it"),
                None => params::type_hint(name),
            };
            reporter.error(place, format!("`{name}` is not a type"), hint);
        }
        Some(ParamType::Date) if TIME_CLAIMS.contains(&claim.path.as_str()) => reporter.warning(
            place,
            format!("`{}` is in seconds, and a number is read as milliseconds", claim.path),
            "compare it under `access: { match: … }` as a number, or remove it: expired tokens \
             are refused in any case",
        ),
        Some(_) => {}
    }
}

/// A parameter that is left out removes its condition. A claim in the same condition would go with
/// it, and what a client leaves out must not give it other people's documents.
fn check_claims_stay(
    template: &Template,
    entry: &Entry,
    params: &Params,
    reporter: &mut Reporter<'_>,
) {
    let uses = template.placeholders();
    for condition in template.together() {
        let claim = condition.iter().find_map(|placeholder| match placeholder {
            Placeholder::Claim(claim) => Some(&claim.path),
            Placeholder::Param(_) => None,
        });
        let optional = condition.iter().find_map(|placeholder| match placeholder {
            Placeholder::Param(name)
                if params.get(name).is_some_and(params::Param::is_optional) =>
            {
                Some((placeholder, name))
            }
            _ => None,
        });
        let (Some(claim), Some((placeholder, name))) = (claim, optional) else { continue };
        let mut tree = Tree::new(entry);
        let used = uses.iter().find(|used| used.placeholder == *placeholder);
        let place = used.map_or(entry.value.place, |used| tree.node_at(&used.path).place);
        reporter.error(
            place,
            format!(
                "`{name}` is optional, and omitting it drops the whole condition, with \
                     `$claim: {claim}`"
            ),
            "make it required or give it a default, or write the claim's condition by itself",
        );
    }
}

/// Every parameter is declared, and fits where it stands.
pub(super) fn check_params(
    uses: &[PlaceholderUse],
    entry: &Entry,
    (params, written): (&Params, Option<&Entry>),
    reporter: &mut Reporter<'_>,
) {
    let mut tree = Tree::new(entry);
    for placeholder_use in uses {
        let Placeholder::Param(name) = &placeholder_use.placeholder else { continue };
        let node = tree.node_at(&placeholder_use.path);
        let Some(param) = params.get(name) else {
            // Declared, but wrongly: that has been said.
            let is_list = |entry: &Entry| entry.value.entries().is_none();
            if written.is_some_and(|entry| is_list(entry) || entry.value.get(name).is_some()) {
                continue;
            }
            let place = node.get("$param").map_or(node.place, |entry| entry.value.place);
            let known = params.iter().map(|param| param.name.as_str());
            let hint = match nearest(name, known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("declare it: `params: {{ {name}: {{ type: string }} }}`"),
            };
            reporter.error(place, format!("`{name}` is not a declared parameter"), hint);
            continue;
        };
        let kind = param.kind.name();
        match (&placeholder_use.role, param.is_array) {
            (Role::Value, true) => reporter.error(
                node.place,
                format!("`{name}` is an array, and this place takes one value"),
                format!("declare it as `type: {kind}`, or use it under `$in`"),
            ),
            (Role::Set, false) => reporter.error(
                node.place,
                format!("`{name}` is one value, and this place takes a list"),
                format!("declare it as `type: [{kind}]`, or write `[{{ $param: {name} }}]`"),
            ),
            _ => {}
        }
    }
}
