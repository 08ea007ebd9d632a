//! The parameters that a filter file declares, and the limits of their values.

use bson::Bson;
use regex::RegexBuilder;

use crate::config::RESERVED_QUERY;
use crate::diagnostic::{Reporter, nearest};
use crate::event::json;
use crate::filter::declaration::unknown_key;
use crate::filter::limits::{Allowed, Limit, Pattern, ValueLimits};
use crate::filter::literal;
use crate::filter::value::{self, ParamType};
use crate::matcher::pattern::RegexBudget;
use crate::matcher::value::compare::Comparison;
use crate::yaml::{Entry, Node, Place};

/// The most that `maxLength` may be, in characters.
pub(in crate::filter) const MAX_LENGTH: usize = 16 * 1024;
/// The most values of an array, and the most parameters of a filter.
pub(in crate::filter) const MAX_VALUES: usize = 100;
const MAX_PARAMS: usize = 100;
/// The most values of an `enum`.
const MAX_ALLOWED: usize = 10_000;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;

pub(in crate::filter) const KEYS: [&str; 8] =
    ["type", "required", "default", "enum", "min", "max", "maxLength", "pattern"];

/// The declared parameters, in the order in which they are written.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pub(in crate::filter) list: Vec<Param>,
    /// About what their patterns take when compiled.
    pub(in crate::filter) regex_bytes: usize,
}

/// One declared parameter.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub kind: ParamType,
    /// Whether it is given as `name=a&name=b`, a set of values.
    pub is_array: bool,
    /// Whether leaving it out is an error. Otherwise its default stands in; without one, its
    /// conditions go.
    pub is_required: bool,
    /// Of the declared type; an array for an array.
    pub default: Option<Bson>,
    pub(in crate::filter) limits: ValueLimits,
}

impl Param {
    /// Whether a client may leave it out, and the condition with it.
    pub fn is_optional(&self) -> bool {
        !self.is_required && self.default.is_none()
    }
}

impl Params {
    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// By its exact name; `None` if it is not declared.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|param| param.name == name)
    }

    /// Whether the filter declares no parameters.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The declaration as JSON, for the list of streams: `{"status":{"type":"string",…}}`.
    pub fn to_json(&self) -> serde_json::Value {
        let entries = self.list.iter().map(|param| (param.name.clone(), param.to_json()));
        serde_json::Value::Object(entries.collect())
    }
}

impl Param {
    /// The declaration as JSON. Numbers, truth values and text are themselves; values of other
    /// types are text as one would write it in a query.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Map, Value, json};
        let mut shown = Map::new();
        let name = self.kind.name();
        shown.insert("type".into(), if self.is_array { json!([name]) } else { json!(name) });
        shown.insert("required".into(), json!(self.is_required));
        let ValueLimits { allowed, least, most, max_length, pattern } = &self.limits;
        if let Some(default) = &self.default {
            shown.insert("default".into(), json_value(default));
        }
        if let Some(allowed) = allowed {
            let values = allowed.written.iter().map(json_value);
            shown.insert("enum".into(), Value::Array(values.collect()));
        }
        if let Some(least) = least {
            shown.insert("min".into(), json_value(&least.written));
        }
        if let Some(most) = most {
            shown.insert("max".into(), json_value(&most.written));
        }
        if let Some(max_length) = max_length {
            shown.insert("maxLength".into(), json!(max_length));
        }
        if let Some(pattern) = pattern {
            shown.insert("pattern".into(), json!(pattern.written));
        }
        Value::Object(shown)
    }
}

/// Numbers that a reader of JSON would round are written as in events.
fn json_value(value: &Bson) -> serde_json::Value {
    match value {
        Bson::Int32(value) => (*value).into(),
        Bson::Int64(value) if json::is_exact(*value) => (*value).into(),
        Bson::Int64(value) => serde_json::json!({ "$numberLong": value.to_string() }),
        Bson::Double(value) => (*value).into(),
        Bson::Boolean(value) => (*value).into(),
        Bson::Array(values) => values.iter().map(json_value).collect(),
        other => value::text(other).into(),
    }
}

/// Reads `params`. What could not be read is reported and left out.
pub(in crate::filter) fn read(entry: &Entry, reporter: &mut Reporter<'_>) -> Params {
    let Some(entries) = entry.value.entries() else {
        reporter.error(
            entry.value.place,
            format!("`params` must be a mapping, not {}", entry.value.noun()),
            "write `params: { status: { type: string } }`",
        );
        return Params::default();
    };
    if entries.len() > MAX_PARAMS {
        let message = format!("more than {MAX_PARAMS} parameters");
        reporter.error(entry.key_place, message, "split the filter into several streams");
    }
    let mut regexes = RegexBudget::default();
    let params = entries.iter().take(MAX_PARAMS);
    let list = params.filter_map(|entry| param(entry, &mut regexes, reporter)).collect();
    Params { list, regex_bytes: regexes.spent() }
}

fn param(entry: &Entry, regexes: &mut RegexBudget, reporter: &mut Reporter<'_>) -> Option<Param> {
    let name = entry.key.as_str();
    check_name(name, entry.key_place, reporter);
    let Some(entries) = entry.value.entries() else {
        reporter.error(
            entry.value.place,
            format!("a parameter must be a mapping, not {}", entry.value.noun()),
            format!("write `{name}: {{ type: string }}`"),
        );
        return None;
    };
    for inner in entries.iter().filter(|inner| !KEYS.contains(&inner.key.as_str())) {
        unknown_key(&inner.key, inner, &KEYS, reporter);
    }
    let get = |key: &str| entry.value.get(key);
    let Some(kind_entry) = get("type") else {
        let hint = format!("write `{name}: {{ type: string }}`");
        reporter.error(entry.key_place, format!("the parameter `{name}` has no type"), hint);
        return None;
    };
    let (kind, is_array) = kind_of(&kind_entry.value, reporter)?;
    let limits = limits(kind, &entry.value, regexes, reporter);
    let default =
        get("default").and_then(|entry| default(kind, is_array, &limits, &entry.value, reporter));
    let has_default = get("default").is_some();
    let required = get("required").and_then(|entry| {
        let text = entry.value.scalar().map(|scalar| scalar.text.as_str());
        match text {
            Some("true") => Some((true, entry)),
            Some("false") => Some((false, entry)),
            _ => {
                let hint = "write true or false";
                reporter.error(entry.value.place, "`required` is not true or false", hint);
                None
            }
        }
    });
    if let Some((true, required)) = required
        && has_default
    {
        reporter.error(
            required.key_place,
            "a parameter with a default cannot be required",
            "remove `required: true` or `default`",
        );
    }
    let is_required = required.map_or(!has_default, |(is_required, _)| is_required);
    Some(Param { name: name.to_owned(), kind, is_array, is_required, default, limits })
}

fn check_name(name: &str, place: Place, reporter: &mut Reporter<'_>) {
    if RESERVED_QUERY.contains(&name) {
        reporter.error(
            place,
            format!("`{name}` is reserved: it means something else in the query string"),
            "give the parameter another name",
        );
    }
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !is_word || name.len() > MAX_NAME_BYTES {
        reporter.error(
            place,
            "not a valid parameter name",
            format!("use up to {MAX_NAME_BYTES} letters, digits, _ and -, a letter or _ first"),
        );
    }
}

/// `string`, or `[string]`.
fn kind_of(node: &Node, reporter: &mut Reporter<'_>) -> Option<(ParamType, bool)> {
    let (inner, is_array) = match node.items() {
        Some([inner]) => (inner, true),
        Some(_) => {
            let hint = "for an array, write the type of its items in brackets, as in [string]";
            reporter.error(node.place, "a parameter has one type", hint);
            return None;
        }
        None => (node, false),
    };
    let names = ParamType::KNOWN.map(|(_, name)| name);
    let Some(scalar) = inner.scalar() else {
        let hint = format!("the types are {}", names.join(", "));
        reporter.error(inner.place, format!("a type must be a word, not {}", inner.noun()), hint);
        return None;
    };
    let written = scalar.text.as_str();
    if let Some(kind) = ParamType::named(written) {
        return Some((kind, is_array));
    }
    let hint = type_hint(written);
    reporter.error(inner.place, format!("`{written}` is not a type"), hint);
    None
}

/// The type of the items in `string[]` and `array<string>`, as other languages write them.
pub(in crate::filter) fn item_type(written: &str) -> Option<&'static str> {
    let item = written.strip_suffix("[]").or_else(|| {
        let (outer, item) = written.strip_suffix('>')?.split_once('<')?;
        matches!(outer.to_lowercase().as_str(), "array" | "list" | "set").then_some(item)
    });
    nearest(item?, ParamType::KNOWN.map(|(_, name)| name))
}

/// What to write instead of a word that is no type.
pub(in crate::filter) fn type_hint(written: &str) -> String {
    let names = ParamType::KNOWN.map(|(_, name)| name);
    if let Some(item) = item_type(written) {
        return format!("write the type of the items in brackets: [{item}]");
    }
    match written {
        "number" | "float" => "write int, long, double or decimal".to_owned(),
        "integer" => "did you mean `int` or `long`?".to_owned(),
        "boolean" => "did you mean `bool`?".to_owned(),
        "array" | "list" | "set" => {
            "write the type of the items in brackets, as in [string]".to_owned()
        }
        "oid" | "id" => "did you mean `objectId`?".to_owned(),
        "text" | "str" | "varchar" => "did you mean `string`?".to_owned(),
        "timestamp" | "datetime" | "time" => "did you mean `date`?".to_owned(),
        _ => match nearest(written, names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("the types are {}", names.join(", ")),
        },
    }
}

fn limits(
    kind: ParamType,
    node: &Node,
    regexes: &mut RegexBudget,
    reporter: &mut Reporter<'_>,
) -> ValueLimits {
    let mut limits = ValueLimits::default();
    let of_kind = |key: &str, is_fitting: bool, wants: &str, reporter: &mut Reporter<'_>| {
        let entry = node.get(key)?;
        if !is_fitting {
            let message = format!("`{key}` is not supported for the type {}", kind.name());
            reporter.error(entry.key_place, message, format!("it is for {wants}"));
            return None;
        }
        Some(entry)
    };
    let is_text = kind == ParamType::String;
    let ordered = "int, long, double, decimal and date";

    if let Some(entry) = of_kind("maxLength", is_text, "string", reporter) {
        let length = entry.value.scalar().and_then(|scalar| scalar.text.parse().ok());
        match length {
            Some(length @ 1..=MAX_LENGTH) => limits.max_length = Some(length),
            _ => reporter.error(
                entry.value.place,
                "not a length for `maxLength`",
                format!("write a whole number of characters from 1 to {MAX_LENGTH}"),
            ),
        }
    }
    if let Some(entry) = of_kind("pattern", is_text, "string", reporter) {
        limits.pattern = pattern(&entry.value, regexes, reporter);
    }
    for key in ["min", "max"] {
        let Some(entry) = of_kind(key, kind.is_ordered(), ordered, reporter) else { continue };
        let value = typed(kind, &entry.value, reporter).map(Limit::new);
        if key == "min" {
            limits.least = value;
            continue;
        }
        limits.most = value;
        if let (Some(least), Some(most)) = (&limits.least, &limits.most)
            && !least.admits(Comparison::GreaterOrEqual, &most.value)
        {
            let hint = "swap them: no value satisfies both";
            reporter.error(entry.value.place, "`max` is less than `min`", hint);
        }
    }
    if let Some(entry) = node.get("enum") {
        limits.allowed = allowed(kind, &limits, &entry.value, reporter);
    }
    limits
}

fn pattern(node: &Node, regexes: &mut RegexBudget, reporter: &mut Reporter<'_>) -> Option<Pattern> {
    let Some(scalar) = node.scalar() else {
        let message = format!("`pattern` must be text, not {}", node.noun());
        reporter.error(node.place, message, "write a regular expression for the whole value");
        return None;
    };
    let written = scalar.text.clone();
    // The whole value: an unanchored pattern that was meant to be anchored lets everything in.
    let compiled = RegexBudget::check_source(&written)
        .and_then(|()| regexes.compile(&mut RegexBuilder::new(&format!(r"\A(?:{written})\z"))));
    match compiled {
        Ok(regex) => Some(Pattern { written, regex }),
        Err((message, hint)) => {
            let syntax =
                "the syntax is that of the Rust crate regex: no look-around, no back-references";
            reporter.error(node.place, message, hint.unwrap_or_else(|| syntax.to_owned()));
            None
        }
    }
}

fn allowed(
    kind: ParamType,
    limits: &ValueLimits,
    node: &Node,
    reporter: &mut Reporter<'_>,
) -> Option<Allowed> {
    let items = match node.items() {
        Some(items) if !items.is_empty() => items,
        _ => {
            let hint = "write the values that are allowed, as in [new, paid]";
            reporter.error(node.place, "`enum` must be a list with at least one value", hint);
            return None;
        }
    };
    if items.len() > MAX_ALLOWED {
        let message = format!("more than {MAX_ALLOWED} values");
        reporter.error(node.place, message, "limit them with `pattern`, `min` and `max`");
        return None;
    }
    let mut values = Vec::new();
    for item in items {
        let Some(value) = typed(kind, item, reporter) else { continue };
        if let Err(message) = limits.check(&value) {
            let message = format!("`{}` {message}", value::text(&value));
            reporter.error(item.place, message, "no client can send it: remove it");
        }
        values.push(value);
    }
    Some(Allowed::new(values))
}

fn default(
    kind: ParamType,
    is_array: bool,
    limits: &ValueLimits,
    node: &Node,
    reporter: &mut Reporter<'_>,
) -> Option<Bson> {
    let mut one = |node: &Node| {
        let value = typed(kind, node, reporter)?;
        if let Err(message) = limits.check(&value) {
            let message = format!("the default `{}` {message}", value::text(&value));
            reporter.error(
                node.place,
                message,
                "a default must satisfy the parameter's own \
                                                 limits",
            );
        }
        Some(value)
    };
    if !is_array {
        return one(node);
    }
    match node.items() {
        Some(items) if !items.is_empty() => {
            let values: Vec<Bson> = items.iter().filter_map(one).collect();
            Some(crate::filter::bind::set_of(values))
        }
        _ => {
            reporter.error(
                node.place,
                "the default of an array must be a list with at least one value",
                "without a default, leaving the parameter out removes its condition",
            );
            None
        }
    }
}

/// One value of the declared type: as text of a query, or as Extended JSON.
fn typed(kind: ParamType, node: &Node, reporter: &mut Reporter<'_>) -> Option<Bson> {
    let parsed = match node.scalar() {
        Some(_) if node.is_null() => None,
        Some(scalar) => kind.parse(&scalar.text).ok(),
        None => Some(literal::any(node, reporter)?).filter(|value| kind.holds(value)),
    };
    if parsed.is_none() {
        reporter.error(
            node.place,
            format!("not a value of the type {}", kind.name()),
            format!("write {}", kind.wants()),
        );
    }
    parsed
}
