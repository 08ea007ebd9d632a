//! Conditions that no document can fulfil: two that exclude each other, a list without values.
//!
//! Only what is certain for a field with one value is reported. A list may have one value for each
//! of two conditions (`{ tags: { $gt: 5, $lt: 3 } }` matches `[1, 9]`), so these are warnings.
//! Operators that express this for lists on purpose (`$all`, `$elemMatch`) are not reported.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{Bson, Document};

use crate::diagnostic::Reporter;
use crate::event::raw::Owned;
use crate::filter::tree::Tree;
use crate::filter::{Params, mistakes, value};
use crate::matcher::Step;
use crate::matcher::value::compare::{self, Comparison};
use crate::yaml::Entry;

/// Longer lists are not compared value by value.
const MAX_VALUES: usize = 200;
/// A condition is compared with so many earlier ones on the same field.
const MAX_EARLIER: usize = 16;

/// Looks through the conditions below an entry.
pub(in crate::filter) fn look_for(
    document: &Document,
    entry: &Entry,
    params: &Params,
    reporter: &mut Reporter<'_>,
) {
    let mut search = Search { tree: Tree::new(entry), path: Vec::new(), params, reporter };
    search.scope(document, &Facts::default());
}

/// What is known of a field, by its dotted path.
type Facts = BTreeMap<String, Vec<Fact>>;

/// What one condition says of a field that has one value.
#[derive(Clone)]
struct Fact {
    kind: Kind,
    /// The parameter that it comes from.
    param: Option<String>,
}

#[derive(Clone)]
enum Kind {
    /// One of these; several from a list, in the order in which they are written.
    OneOf(Arc<[Bson]>),
    NoneOf(Arc<[Bson]>),
    Range(Comparison, Bson),
    Exists(bool),
}

fn is_comparison(operator: &str) -> bool {
    matches!(operator, "$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte" | "$cmp" | "$in")
}

/// Whether an expression has neither a field, nor a variable or a client's value in it.
fn is_constant(expression: &Bson) -> bool {
    match expression {
        Bson::String(text) => !text.starts_with('$'),
        Bson::Array(values) => values.iter().all(is_constant),
        Bson::Document(document) => {
            !mistakes::is_placeholder(document)
                && (document.contains_key("$literal") || document.values().all(is_constant))
        }
        _ => true,
    }
}

struct Search<'s, 't, 'a> {
    tree: Tree<'t>,
    path: Vec<Step>,
    params: &'s Params,
    reporter: &'s mut Reporter<'a>,
}

impl Search<'_, '_, '_> {
    fn at<R>(&mut self, step: Step, inner: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step);
        let result = inner(self);
        self.path.pop();
        result
    }

    fn warn(&mut self, message: String, hint: &str) {
        let place = self.tree.locate(&self.path);
        self.reporter.warning(place, message, hint);
    }

    /// Conditions that hold together, beside those of the scopes around.
    fn scope(&mut self, document: &Document, around: &Facts) {
        let mut facts = around.clone();
        self.gather(document, &mut facts);
        self.branches(document, &facts);
    }

    fn gather(&mut self, document: &Document, facts: &mut Facts) {
        for (key, value) in document {
            self.at(Step::Key(Arc::from(key.as_str())), |search| match (key.as_str(), value) {
                ("$and", Bson::Array(branches)) => {
                    for (index, branch) in branches.iter().enumerate() {
                        let Bson::Document(branch) = branch else { continue };
                        search.at(Step::Index(index), |search| search.gather(branch, facts));
                    }
                }
                ("$jsonSchema", Bson::Document(schema)) => search.schema(schema, facts),
                ("$expr", value) => search.expression(value),
                (key, _) if key.starts_with('$') => {}
                (key, value) => search.field(key, value, facts),
            });
        }
    }

    /// Comparisons of constants come out the same for every document: a `$` was forgotten, most likely.
    fn expression(&mut self, value: &Bson) {
        match value {
            Bson::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    self.at(Step::Index(index), |search| search.expression(value));
                }
            }
            Bson::Document(document) => {
                for (key, value) in document {
                    self.at(Step::Key(Arc::from(key.as_str())), |search| match value {
                        Bson::Array(sides)
                            if is_comparison(key) && sides.iter().all(is_constant) =>
                        {
                            let name = sides.iter().find_map(Bson::as_str);
                            let hint = match name {
                                Some(name) => format!("did you mean `${name}`, the field?"),
                                None => "a field is written with a `$`, as `$total`".to_owned(),
                            };
                            let message = format!("`{key}` compares constants: no field decides");
                            search.warn(message, &hint);
                        }
                        value => search.expression(value),
                    });
                }
            }
            _ => {}
        }
    }

    /// Each branch of an `$or` is a scope of its own; so are those within `$and`.
    fn branches(&mut self, document: &Document, facts: &Facts) {
        for key in ["$or", "$and"] {
            let Some(Bson::Array(branches)) = document.get(key) else { continue };
            self.at(Step::Key(Arc::from(key)), |search| {
                for (index, branch) in branches.iter().enumerate() {
                    let Bson::Document(branch) = branch else { continue };
                    search.at(Step::Index(index), |search| match key {
                        "$or" => search.scope(branch, facts),
                        _ => search.branches(branch, facts),
                    });
                }
            });
        }
    }

    /// The values that a `$jsonSchema` leaves to a field.
    fn schema(&mut self, schema: &Document, facts: &mut Facts) {
        let Some(Bson::Document(properties)) = schema.get("properties") else { return };
        for (field, property) in properties {
            let Some(Bson::Array(values)) = property.as_document().and_then(|p| p.get("enum"))
            else {
                continue;
            };
            let kind = Kind::OneOf(values.clone().into());
            self.add(field, Fact { kind, param: None }, facts);
        }
    }

    fn field(&mut self, field: &str, value: &Bson, facts: &mut Facts) {
        let Bson::Document(operators) = value else {
            return self.equality(field, value, facts);
        };
        if mistakes::is_placeholder(operators) || !starts_with_operator(operators) {
            return self.equality(field, value, facts);
        }
        for (operator, value) in operators {
            self.at(Step::Key(Arc::from(operator.as_str())), |search| {
                search.operator(field, operator, value, facts);
            });
        }
    }

    fn operator(&mut self, field: &str, operator: &str, value: &Bson, facts: &mut Facts) {
        let comparison = match operator {
            "$gt" => Some(Comparison::Greater),
            "$gte" => Some(Comparison::GreaterOrEqual),
            "$lt" => Some(Comparison::Less),
            "$lte" => Some(Comparison::LessOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            if is_fixed(value) && !matches!(value, Bson::MinKey | Bson::MaxKey | Bson::Null) {
                let kind = Kind::Range(comparison, value.clone());
                self.add(field, Fact { kind, param: None }, facts);
            }
            return;
        }
        match (operator, value) {
            ("$eq", value) => self.equality(field, value, facts),
            ("$in" | "$all", Bson::Array(values)) if values.is_empty() => self.warn(
                format!("`{operator}` of an empty list matches nothing"),
                "list the values, or remove the condition",
            ),
            ("$in", Bson::Array(values)) if is_list(values) => {
                self.add(
                    field,
                    Fact { kind: Kind::OneOf(values.clone().into()), param: None },
                    facts,
                );
            }
            ("$nin", Bson::Array(values)) if is_list(values) => {
                self.add(
                    field,
                    Fact { kind: Kind::NoneOf(values.clone().into()), param: None },
                    facts,
                );
            }
            ("$ne", value) if is_fixed(value) => {
                let kind = Kind::NoneOf([value.clone()].into());
                self.add(field, Fact { kind, param: None }, facts);
            }
            ("$exists", Bson::Boolean(exists)) => {
                self.add(field, Fact { kind: Kind::Exists(*exists), param: None }, facts);
            }
            ("$elemMatch", Bson::Document(inner)) if starts_with_operator(inner) => {
                // Conditions on one element: a field of its own.
                let mut of_element = Facts::default();
                for (operator, value) in inner {
                    self.at(Step::Key(Arc::from(operator.as_str())), |search| {
                        search.operator(field, operator, value, &mut of_element);
                    });
                }
            }
            ("$elemMatch", Bson::Document(inner)) => self.scope(inner, &Facts::default()),
            _ => {}
        }
    }

    fn equality(&mut self, field: &str, value: &Bson, facts: &mut Facts) {
        if is_fixed(value) {
            if !matches!(value, Bson::RegularExpression(_) | Bson::Array(_)) {
                let kind = Kind::OneOf([value.clone()].into());
                self.add(field, Fact { kind, param: None }, facts);
            }
            return;
        }
        let Some(name) = value.as_document().and_then(|inner| inner.get_str("$param").ok()) else {
            return;
        };
        let Some(param) = self.params.get(name) else { return };
        let limits = &param.limits;
        let mut kinds = Vec::new();
        kinds.extend(
            limits.allowed.as_ref().map(|allowed| Kind::OneOf(allowed.written.clone().into())),
        );
        if kinds.is_empty() {
            let range = |comparison, limit: &crate::filter::limits::Limit| {
                Kind::Range(comparison, limit.written.clone())
            };
            kinds.extend(
                limits.least.as_ref().map(|least| range(Comparison::GreaterOrEqual, least)),
            );
            kinds.extend(limits.most.as_ref().map(|most| range(Comparison::LessOrEqual, most)));
        }
        for kind in kinds {
            self.add(field, Fact { kind, param: Some(name.to_owned()) }, facts);
        }
    }

    fn add(&mut self, field: &str, fact: Fact, facts: &mut Facts) {
        let known = facts.entry(field.to_owned()).or_default();
        let clash = known.iter().take(MAX_EARLIER).find_map(|earlier| clash(field, earlier, &fact));
        known.push(fact);
        if let Some((message, hint)) = clash {
            self.warn(message, hint);
        }
    }
}

const FOR_LISTS: &str = "remove one of the two; if the field is a list, write the conditions on its \
                         elements under `$all` or `$elemMatch`";

/// Why two conditions on one field cannot both hold.
fn clash(field: &str, one: &Fact, other: &Fact) -> Option<(String, &'static str)> {
    // Two limits of one parameter are judged where it is declared.
    if one.param.is_some() && one.param == other.param {
        return None;
    }
    let (first, second) = match (&one.kind, &other.kind) {
        (Kind::OneOf(a), Kind::OneOf(b)) => {
            if a.iter().any(|a| b.iter().any(|b| passes(Comparison::Equal, a, b))) {
                return None;
            }
            return Some(match (&a[..], &b[..], &one.param, &other.param) {
                ([a], [b], None, None) => (
                    format!("`{field}` cannot be both {} and {}", shown(a), shown(b)),
                    "write { $in: […] } for either of them, or { $all: […] } for a list that holds both",
                ),
                _ => (format!("`{field}` cannot be both {} and {}", of(one), of(other)), FOR_LISTS),
            });
        }
        (Kind::OneOf(values), Kind::Range(comparison, limit)) => {
            let fits = values.iter().any(|value| passes(*comparison, value, limit));
            (!fits).then_some((of(one), of(other)))?
        }
        (Kind::Range(comparison, limit), Kind::OneOf(values)) => {
            let fits = values.iter().any(|value| passes(*comparison, value, limit));
            (!fits).then_some((of(one), of(other)))?
        }
        (Kind::OneOf(values), Kind::NoneOf(excluded))
        | (Kind::NoneOf(excluded), Kind::OneOf(values)) => {
            let is_left = values.iter().any(|value| {
                !excluded.iter().any(|excluded| passes(Comparison::Equal, value, excluded))
            });
            (!is_left).then_some((of(one), of(other)))?
        }
        (Kind::Range(a, low), Kind::Range(b, high)) => {
            is_apart((*a, low), (*b, high)).then_some((of(one), of(other)))?
        }
        (Kind::Exists(false), Kind::OneOf(values)) | (Kind::OneOf(values), Kind::Exists(false)) => {
            (!values.contains(&Bson::Null)).then_some((of(one), of(other)))?
        }
        (Kind::Exists(false), Kind::Range(..) | Kind::Exists(true))
        | (Kind::Range(..) | Kind::Exists(true), Kind::Exists(false)) => (of(one), of(other)),
        _ => return None,
    };
    Some((format!("`{field}` cannot be both {first} and {second}"), FOR_LISTS))
}

/// Whether no value lies in both ranges.
fn is_apart(one: (Comparison, &Bson), other: (Comparison, &Bson)) -> bool {
    let is_lower_bound =
        |comparison| matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
    let (a, b) = (Owned::from_bson(one.1), Owned::from_bson(other.1));
    // Ranges hold values of their limit's type only.
    if compare::rank(a.get().tag) != compare::rank(b.get().tag) {
        return true;
    }
    let ((lower, low), (upper, high)) = match (is_lower_bound(one.0), is_lower_bound(other.0)) {
        (true, false) => ((one.0, &a), (other.0, &b)),
        (false, true) => ((other.0, &b), (one.0, &a)),
        _ => return false,
    };
    match compare::order(low.get(), high.get()) {
        Ordering::Greater => true,
        Ordering::Equal => lower == Comparison::Greater || upper == Comparison::Less,
        Ordering::Less => false,
    }
}

fn passes(comparison: Comparison, value: &Bson, operand: &Bson) -> bool {
    let (value, operand) = (Owned::from_bson(value), Owned::from_bson(operand));
    compare::passes(comparison, Some(value.get()), operand.get())
}

/// A condition in words, behind "cannot be both".
fn of(fact: &Fact) -> String {
    if let Some(param) = &fact.param {
        return match &fact.kind {
            Kind::OneOf(_) => format!("a value of the parameter `{param}`"),
            _ => format!("a value within the limits of the parameter `{param}`"),
        };
    }
    match &fact.kind {
        Kind::OneOf(values) if values.len() == 1 => shown(&values[0]),
        Kind::OneOf(values) => format!("one of {}", listed(values)),
        Kind::NoneOf(values) if values.len() == 1 => format!("anything but {}", shown(&values[0])),
        Kind::NoneOf(values) => format!("none of {}", listed(values)),
        Kind::Range(comparison, limit) => {
            let words = match comparison {
                Comparison::Greater => "above",
                Comparison::GreaterOrEqual => "at least",
                Comparison::Less => "below",
                Comparison::LessOrEqual => "at most",
                Comparison::Equal => "equal to",
            };
            format!("{words} {}", shown(limit))
        }
        Kind::Exists(true) => "there".to_owned(),
        Kind::Exists(false) => "missing".to_owned(),
    }
}

fn listed(values: &[Bson]) -> String {
    const MOST: usize = 5;
    let mut listed: Vec<String> = values.iter().take(MOST).map(shown).collect();
    if values.len() > MOST {
        listed.push("…".to_owned());
    }
    listed.join(", ")
}

fn shown(value: &Bson) -> String {
    const MOST: usize = 40;
    let text = match value {
        Bson::Null => "null".to_owned(),
        Bson::Document(_) => "this document".to_owned(),
        Bson::String(text) if text.is_empty() => "the empty string".to_owned(),
        Bson::String(text) => format!("`{text}`"),
        value => match value::text(value) {
            text if text.is_empty() => "this value".to_owned(),
            text => text,
        },
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn starts_with_operator(document: &Document) -> bool {
    let first = document.keys().next();
    first.is_some_and(|key| key.starts_with('$') && !matches!(key.as_str(), "$ref" | "$id" | "$db"))
}

/// Whether a value holds no placeholder.
fn is_fixed(value: &Bson) -> bool {
    match value {
        Bson::Document(document) => {
            !mistakes::is_placeholder(document) && document.values().all(is_fixed)
        }
        Bson::Array(values) => values.iter().all(is_fixed),
        _ => true,
    }
}

/// A list that can be compared: no placeholders, no patterns, not too long.
fn is_list(values: &[Bson]) -> bool {
    let is_plain = |value: &Bson| is_fixed(value) && !matches!(value, Bson::RegularExpression(_));
    !values.is_empty() && values.len() <= MAX_VALUES && values.iter().all(is_plain)
}
