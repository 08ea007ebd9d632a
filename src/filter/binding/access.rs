//! Which callers may open a stream.

use bson::spec::BinarySubtype;
use bson::{Bson, Document, RawDocument, RawDocumentBuf};

use crate::diagnostic::{Diagnostic, Reporter, Severity, nearest};
use crate::filter::params::Param;
use crate::filter::tree::Tree;
use crate::filter::value::ParamType;
use crate::filter::{Params, claims, contradiction, elements, mistakes, resolve};
use crate::matcher::{Placeholder, PlaceholderUse, Step, Template};
use crate::yaml::Entry;

/// Who may open a stream. There is no default: a file says it.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everyone.
    Public,
    /// Every authenticated caller.
    Authenticated,
    /// The callers whose claims match.
    Match(AccessRule),
}

/// Conditions on the caller's claims.
#[derive(Debug, Clone)]
pub struct AccessRule {
    pub template: Template,
    /// The dotted claims that are compared with a type that JSON has not, and that type.
    typed: Vec<(String, ParamType)>,
}

impl AccessRule {
    fn new(template: Template, params: &Params) -> AccessRule {
        let mut typed = Vec::new();
        collect_typed(template.declared(), "", params, &mut typed);
        AccessRule { template, typed }
    }

    /// The claims with their texts read as what they are compared with, where they can be. What
    /// cannot be read stays text, which equals no such value.
    pub(in crate::filter) fn read(&self, claims: &RawDocument) -> RawDocumentBuf {
        if self.typed.is_empty() {
            return claims.to_owned();
        }
        let Ok(document) = Document::try_from(claims) else { return RawDocumentBuf::new() };
        let mut value = Bson::Document(document);
        for (path, kind) in &self.typed {
            let parts: Vec<&str> = path.split('.').collect();
            read_at(&mut value, &parts, *kind);
        }
        let read = value.as_document().map(RawDocumentBuf::try_from);
        // It fails for nothing that was raw before; should it ever, nobody is admitted.
        read.and_then(Result::ok).unwrap_or_default()
    }
}

/// Reads the texts at a path as a type, also those in lists on the way and at its end.
fn read_at(value: &mut Bson, parts: &[&str], kind: ParamType) {
    match (value, parts) {
        (Bson::Array(values), parts) => {
            values.iter_mut().for_each(|value| read_at(value, parts, kind));
        }
        (Bson::Document(document), [first, rest @ ..]) => {
            if let Some(inner) = document.get_mut(*first) {
                read_at(inner, rest, kind);
            }
        }
        (value, []) => {
            if let Some(read) = claims::read_one(kind, value) {
                *value = read;
            }
        }
        _ => {}
    }
}

/// The types that JSON has not, and which claims carry as text.
fn is_text_in_json(kind: ParamType) -> bool {
    matches!(kind, ParamType::ObjectId | ParamType::Uuid | ParamType::Date)
}

/// Finds what is compared with such a type: parameters, and values written in the file.
fn collect_typed(
    document: &Document,
    path: &str,
    params: &Params,
    typed: &mut Vec<(String, ParamType)>,
) {
    for (key, value) in document {
        match (key.as_str(), value) {
            ("$param", Bson::String(name)) => {
                let kind = params.get(name).map(|param| param.kind);
                typed.extend(
                    kind.filter(|kind| is_text_in_json(*kind)).map(|kind| (path.to_owned(), kind)),
                );
            }
            // It names fields in other ways.
            ("$expr" | "$jsonSchema", _) => {}
            (key, value) if key.starts_with('$') => collect_value(value, path, params, typed),
            (key, value) if path.is_empty() => collect_value(value, key, params, typed),
            (key, value) => collect_value(value, &format!("{path}.{key}"), params, typed),
        }
    }
}

fn collect_value(value: &Bson, path: &str, params: &Params, typed: &mut Vec<(String, ParamType)>) {
    let kind = match value {
        Bson::Document(document) => return collect_typed(document, path, params, typed),
        Bson::Array(values) => {
            return values.iter().for_each(|value| collect_value(value, path, params, typed));
        }
        Bson::ObjectId(_) => ParamType::ObjectId,
        Bson::DateTime(_) => ParamType::Date,
        Bson::Binary(binary) if binary.subtype == BinarySubtype::Uuid => ParamType::Uuid,
        _ => return,
    };
    typed.push((path.to_owned(), kind));
}

/// Reads `access`. `None` after an error, which is reported.
pub(in crate::filter) fn read(
    entry: &Entry,
    declared: (&Params, Option<&Entry>),
    reporter: &mut Reporter<'_>,
) -> Option<Access> {
    const FORMS: &str = "write `public`, `authenticated`, or `{ match: { role: admin } }`";
    let node = &entry.value;
    if let Some(scalar) = node.scalar() {
        return match scalar.text.as_str() {
            "public" => Some(Access::Public),
            "authenticated" => Some(Access::Authenticated),
            other => {
                let hint = match (other, nearest(other, ["public", "authenticated"])) {
                    ("true" | "all" | "everyone" | "anyone" | "none" | "open" | "false", _) => {
                        "write `public` to admit everyone, signed in or not".to_owned()
                    }
                    ("private" | "protected" | "user" | "users" | "login", _) => {
                        "write `authenticated` to admit every signed-in user, or `{ match: { \
                         role: admin } }` to admit some of them"
                            .to_owned()
                    }
                    (_, Some(known)) => format!("did you mean `{known}`?"),
                    (_, None) => FORMS.to_owned(),
                };
                reporter.error(node.place, format!("`{other}` is not a kind of access"), hint);
                None
            }
        };
    }
    let inner = match node.entries() {
        Some([inner]) if inner.key == "match" => inner,
        Some([inner])
            if !inner.key.starts_with('$') && nearest(&inner.key, ["match"]).is_none() =>
        {
            let key = &inner.key;
            let hint = format!("write `{{ match: {{ {key}: … }} }}` for a condition on a claim");
            reporter.error(inner.key_place, format!("`{key}` is not a kind of access"), hint);
            return None;
        }
        _ => {
            reporter.error(node.place, "not a kind of access", FORMS);
            return None;
        }
    };
    let compiled = resolve::compile(inner, Template::parse, reporter)?;
    let uses = match &compiled.parsed {
        Some(template) => template.placeholders(),
        None => Template::placeholders_in(&compiled.document),
    };
    check_placeholders(&uses, inner, declared, reporter);
    compiled.parsed.map(|template| Access::Match(AccessRule::new(template, declared.0)))
}

/// What is said of a protected stream where the settings name nobody who could vouch for a caller:
/// such a stream is not served, since it must never be served without looking at one.
pub(in crate::filter) fn without_source(
    access: &Access,
    entry: &Entry,
    reporter: &Reporter<'_>,
) -> Option<Diagnostic> {
    if matches!(access, Access::Public) {
        return None;
    }
    Some(reporter.make(
        Severity::Error,
        entry.value.place,
        "no caller can be authenticated: the settings have neither `auth.jwt` nor \
         `auth.forward`".into(),
        Some(
            "set `auth.forward.url` to a URL of your app that succeeds only for signed-in users, \
             or set a key under `auth.jwt`; or write `access: public`"
                .into(),
        ),
    ))
}

/// Rules that no caller can fulfil, or that have no effect.
pub(in crate::filter) fn advise(
    access: &Access,
    entry: &Entry,
    params: &Params,
    reporter: &mut Reporter<'_>,
) {
    let Access::Match(rule) = access else { return };
    let Some(inner) = entry.value.get("match") else { return };
    let declared = rule.template.declared();
    if declared.is_empty() {
        reporter.warning(
            inner.value.place,
            "there are no conditions: every signed-in user may open the stream",
            "write `access: authenticated` if that is meant",
        );
    }
    mistakes::look_for(declared, inner, reporter);
    contradiction::look_for(declared, inner, params, reporter);
    if let Some((kind, path)) = not_in_claims(declared, &mut Vec::new()) {
        reporter.warning(
            Tree::new(inner).locate(&path),
            format!("a claim is never {kind}, so no caller may open the stream"),
            "claims are JSON: compare with text, a number, true or false",
        );
    }
}

/// A value of a type that no claim has, and where it stands.
fn not_in_claims(document: &Document, path: &mut Vec<Step>) -> Option<(&'static str, Vec<Step>)> {
    let find = |value: &Bson, path: &mut Vec<Step>| match value {
        Bson::Document(inner) => not_in_claims(inner, path),
        Bson::Timestamp(_) => Some(("a timestamp", path.clone())),
        Bson::Binary(binary) if binary.subtype != BinarySubtype::Uuid => {
            Some(("binary data", path.clone()))
        }
        _ => None,
    };
    for (key, value) in document {
        // It computes values of other types.
        if key == "$expr" {
            continue;
        }
        path.push(Step::Key(key.as_str().into()));
        let found = match value {
            Bson::Array(values) => values.iter().enumerate().find_map(|(index, value)| {
                path.push(Step::Index(index));
                let found = find(value, path);
                path.pop();
                found
            }),
            value => find(value, path),
        };
        if found.is_some() {
            return found;
        }
        path.pop();
    }
    None
}

/// Whether a condition on a set holds only where it does for each of the set's values.
fn needs_all(path: &[Step]) -> bool {
    let named = |step: &Step, names: &[&str]| match step {
        Step::Key(key) => names.contains(&&**key),
        Step::Index(_) => false,
    };
    path.last().is_some_and(|last| named(last, &["$all", "$nin", "$ne"]))
        && !path.iter().any(|step| named(step, &["$not", "$nor"]))
}

/// The claims' conditions are on claims; parameters may stand in them, if they are always there.
fn check_placeholders(
    uses: &[PlaceholderUse],
    conditions: &Entry,
    (params, written): (&Params, Option<&Entry>),
    reporter: &mut Reporter<'_>,
) {
    let mut tree = Tree::new(conditions);
    for placeholder_use in uses {
        let node = tree.node_at(&placeholder_use.path);
        match &placeholder_use.placeholder {
            Placeholder::Claim(claim) => reporter.error(
                node.place,
                format!("`$claim: {}` among conditions on the claims themselves", claim.path),
                "write the value that the claim must have, or a `$param`; a condition on the \
                 document goes under the file's own `match`",
            ),
            Placeholder::Param(name) => {
                let may_be_several = params.get(name).is_some_and(|param| param.is_array);
                if may_be_several && !needs_all(&placeholder_use.path) {
                    reporter.error(
                        node.place,
                        format!(
                            "`{name}` is a set: one value that the caller has would open the \
                             stream for all the others"
                        ),
                        format!("write {{ $all: {{ $param: {name} }} }}, or give it one value"),
                    );
                }
                if params.get(name).is_some_and(Param::is_optional) {
                    reporter.error(
                        node.place,
                        format!("`{name}` is optional, and omitting it drops the condition"),
                        "make it required: the client must not decide who may open the stream",
                    );
                }
            }
        }
    }
    elements::advise(&conditions.value, reporter);
    resolve::check_params(uses, conditions, (params, written), reporter);
}
