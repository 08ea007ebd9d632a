//! From a client's query to a predicate.
//!
//! A query is hostile until it is typed: each value becomes a value of the declared type, or a
//! refusal that names the parameter. A value never becomes an operator.

use std::collections::BTreeSet;

use bson::{Bson, RawDocument};

use crate::config::RESERVED_QUERY;
use crate::diagnostic::nearest;
use crate::event::raw::Owned;
use crate::filter::access::AccessRule;
use crate::filter::limits::MAX_VALUE_BYTES;
use crate::filter::params::{MAX_VALUES, Param};
use crate::filter::{Access, Filter, Params, claims};
use crate::matcher::{BoundValues, Placeholder, Predicate, Role, Template};

/// A filter with its values in.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Bound to the values, which it keeps.
    pub predicate: Predicate,
}

impl Bound {
    /// Of every parameter and every claim.
    pub fn values(&self) -> &BoundValues {
        self.predicate.values()
    }
}

impl BoundValues {
    /// Name and value of every parameter, in the order of the declaration, and of every claim that was
    /// needed; `None`: left out. `filter` is the one that they were bound to.
    pub fn iter<'v>(&'v self, filter: &'v Filter) -> impl Iterator<Item = (&'v str, Option<Bson>)> {
        let names = &filter.value_names;
        let value = |name: &str| Some(self.owned(place_of(names, name)?)?.to_bson());
        let params = filter.params.iter().map(|param| param.name.as_str());
        let claims = names.iter().map(|name| &**name).filter(|name| claims::is_shown(name));
        let bound_claims = claims.filter_map(move |name| Some((name, Some(value(name)?))));
        params.map(move |name| (name, value(name))).chain(bound_claims)
    }

    /// The query that says the same, defaults written out; `filter` is the one that they were bound to.
    pub fn query(&self, filter: &Filter) -> Vec<(String, String)> {
        let params = self.iter(filter).filter(|(name, _)| !claims::is_shown(name));
        let texts = |(name, value): (&str, Option<Bson>)| {
            let values = match value {
                None => Vec::new(),
                Some(Bson::Array(values)) => values,
                Some(value) => vec![value],
            };
            let name = name.to_string();
            values.into_iter().map(move |value| (name.clone(), super::value::text(&value)))
        };
        params.flat_map(texts).collect()
    }

    /// Whether a query says these values and nothing else, by the same texts: then it need not be
    /// kept, since [`BoundValues::query`] is as good.
    pub fn say_all_of(&self, filter: &Filter, query: &[(String, String)]) -> bool {
        let own = self.query(filter);
        let given = query.iter().filter(|(name, _)| !RESERVED_QUERY.contains(&name.as_str()));
        let (mut own, mut given): (Vec<_>, Vec<_>) = (own.iter().collect(), given.collect());
        own.sort_unstable();
        given.sort_unstable();
        own == given
    }
}

/// A query that does not fit the declared parameters: the client's mistake, a 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter `{parameter}`: {message}")]
pub struct ParamError {
    /// The name as the client wrote it, cut to a reasonable length.
    pub parameter: String,
    pub message: String,
}

/// Values on their way to be bound, by the names that they have in a filter.
struct Values<'f> {
    names: &'f [Box<str>],
    values: Vec<Option<Owned>>,
}

fn place_of(names: &[Box<str>], name: &str) -> Option<usize> {
    names.binary_search_by(|known| (**known).cmp(name)).ok()
}

impl Values<'_> {
    fn get(&self, name: &str) -> Option<Owned> {
        self.values[place_of(self.names, name)?].clone()
    }

    fn put(&mut self, name: &str, value: Option<Owned>) {
        if let Some(place) = place_of(self.names, name) {
            self.values[place] = value;
        }
    }
}

/// The names of all values that can be bound to a filter, in their order.
pub(in crate::filter) fn names_of(params: &Params, template: &Template) -> Box<[Box<str>]> {
    let claims = template.uses().iter().filter_map(|used| match &used.placeholder {
        Placeholder::Claim(claim) => Some(claims::shown(claim)),
        Placeholder::Param(_) => None,
    });
    let names = params.iter().map(|param| param.name.clone()).chain(claims);
    let names: BTreeSet<Box<str>> = names.map(String::into_boxed_str).collect();
    names.into_iter().collect()
}

/// Whether claims match `access`, with the values of parameters where they are known yet.
fn is_admitted(rule: &AccessRule, claims: &RawDocument, values: Option<&Values<'_>>) -> bool {
    let mut is_complete = true;
    let predicate = rule.template.bind_owned(&mut |placeholder| {
        let value = match placeholder {
            Placeholder::Param(name) => values.and_then(|values| values.get(name)),
            Placeholder::Claim(_) => None,
        };
        is_complete &= value.is_some() || values.is_none();
        value
    });
    // Such a filter does not load. Should it ever, an absent value must not let anybody in.
    is_complete && predicate.matches(&rule.read(claims))
}

/// So much of a client's own text is given back in an error, in characters.
const MAX_ECHO_CHARS: usize = 64;

fn echo(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_ECHO_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn refuse<T>(parameter: &str, message: impl Into<String>) -> Result<T, ParamError> {
    Err(ParamError { parameter: echo(parameter), message: message.into() })
}

/// Why a client may not open a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Parameter(#[from] ParamError),
    /// A 401.
    #[error("this stream is for signed-in users only")]
    NoCaller,
    /// A 403.
    #[error("this caller may not open this stream")]
    NotAdmitted,
    /// A 403. Names the claim, never a value.
    #[error("this stream needs the claim `{0}`, which this caller lacks")]
    MissingClaim(String),
    /// A 403. Names the claim, never a value.
    #[error(
        "this stream needs {wants} in the claim `{path}`, and this caller's claim is something else"
    )]
    UnusableClaim { path: String, wants: &'static str },
}

impl BindError {
    /// The HTTP status that says it.
    pub fn status(&self) -> u16 {
        match self {
            BindError::Parameter(_) => 400,
            BindError::NoCaller => 401,
            BindError::NotAdmitted
            | BindError::MissingClaim(_)
            | BindError::UnusableClaim { .. } => 403,
        }
    }
}

impl Filter {
    /// Decides whether a client may open the stream, and puts its values in: those of a query,
    /// names and values already percent-decoded, and those of its claims; `None`: not signed in.
    /// The query names with a meaning of their own ([`RESERVED_QUERY`]) are passed over.
    ///
    /// # Errors
    /// The first mistake: no caller where one is needed; a parameter that is required and missing,
    /// not declared, given twice though it is no array, in bracket notation, or with a value that
    /// is not of its type or outside its limits; claims that do not match `access`; a claim that
    /// `match` needs and the caller lacks.
    pub fn bind(
        &self,
        query: &[(String, String)],
        claims: Option<&RawDocument>,
    ) -> Result<Bound, BindError> {
        let values = match (&self.access, claims) {
            (Access::Public, _) => self.values(query)?,
            (_, None) => return Err(BindError::NoCaller),
            (Access::Authenticated, Some(_)) => self.values(query)?,
            (Access::Match(rule), Some(claims)) => {
                let values = self.values(query)?;
                if !is_admitted(rule, claims, Some(&values)) {
                    return Err(BindError::NotAdmitted);
                }
                values
            }
        };
        self.bind_values(values, claims)
    }

    /// As [`Filter::bind`], for people who can read the files anyway: does not check `access`.
    ///
    /// # Errors
    /// As there.
    pub fn bind_unasked(
        &self,
        query: &[(String, String)],
        claims: Option<&RawDocument>,
    ) -> Result<Bound, BindError> {
        self.bind_values(self.values(query)?, claims)
    }

    /// Whether a client may open the stream with one query or another.
    pub fn may_open(&self, claims: Option<&RawDocument>) -> bool {
        let is_admitted = match (&self.access, claims) {
            (Access::Public, _) => return true,
            (_, None) => false,
            (Access::Authenticated, Some(_)) => true,
            (Access::Match(rule), Some(claims)) => is_admitted(rule, claims, None),
        };
        is_admitted
            && self.template.uses().iter().all(|used| match &used.placeholder {
                Placeholder::Claim(claim) => claims::value(claims, claim).is_ok(),
                Placeholder::Param(_) => true,
            })
    }

    fn values(&self, query: &[(String, String)]) -> Result<Values<'_>, ParamError> {
        for (name, _) in query {
            self.check_declared(name)?;
        }
        let names = &self.value_names;
        let mut values = Values { names, values: vec![None; names.len()] };
        for param in &self.params.list {
            values.put(&param.name, value_of(param, query)?.as_ref().map(Owned::from_bson));
        }
        Ok(values)
    }

    fn bind_values(
        &self,
        mut values: Values<'_>,
        claims: Option<&RawDocument>,
    ) -> Result<Bound, BindError> {
        for used in self.template.uses() {
            if let Placeholder::Claim(claim) = &used.placeholder {
                // An absent claim must never widen a filter.
                let value = claims::value(claims, claim)?;
                values.put(&claims::shown(claim), Some(Owned::from_bson(&value)));
            }
        }
        self.check_sets(claims)?;
        let Values { names, values } = values;
        let predicate =
            self.template.bind_values(BoundValues::new(values), &|placeholder| match placeholder {
                Placeholder::Param(name) => place_of(names, name),
                Placeholder::Claim(claim) => place_of(names, &claims::shown(claim)),
            });
        Ok(Bound { predicate })
    }

    /// A claim that is read as a type and holds a list is a set, which fits only where a set does.
    fn check_sets(&self, claims: Option<&RawDocument>) -> Result<(), BindError> {
        for used in self.template.uses() {
            if let Placeholder::Claim(claim) = &used.placeholder
                && used.role == Role::Value
                && claim.kind.is_some()
            {
                claims::single(claims, claim)?;
            }
        }
        Ok(())
    }

    fn check_declared(&self, name: &str) -> Result<(), ParamError> {
        if RESERVED_QUERY.contains(&name) || self.params.get(name).is_some() {
            return Ok(());
        }
        if let Some((base, _)) = name.split_once('[') {
            return refuse(
                name,
                format!(
                    "brackets are not supported: write `{0}=a`, and `{0}=a&{0}=b` for a list",
                    echo(base)
                ),
            );
        }
        let known = self.params.iter().map(|param| param.name.as_str());
        match nearest(&echo(name), known) {
            Some(known) => refuse(name, format!("not declared; did you mean `{known}`?")),
            None if self.params.is_empty() => refuse(name, "this stream has no parameters"),
            None => {
                let names: Vec<_> = self.params.iter().map(|p| p.name.as_str()).collect();
                refuse(name, format!("not declared; this stream has {}", names.join(", ")))
            }
        }
    }
}

fn value_of(param: &Param, query: &[(String, String)]) -> Result<Option<Bson>, ParamError> {
    let name = param.name.as_str();
    let given: Vec<&str> = query
        .iter()
        .filter(|(given, _)| given == name)
        // One more than allowed is enough to refuse.
        .take(MAX_VALUES + 1)
        .map(|(_, value)| value.as_str())
        .collect();
    if given.is_empty() {
        return match &param.default {
            Some(default) => Ok(Some(default.clone())),
            None if param.is_required => refuse(name, "missing"),
            None => Ok(None),
        };
    }
    if !param.is_array {
        let [value] = given.as_slice() else {
            return refuse(name, "given more than once");
        };
        return typed(param, value).map(Some);
    }
    if given.len() > MAX_VALUES {
        return refuse(name, format!("more than {MAX_VALUES} values"));
    }
    let values: Result<Vec<Bson>, ParamError> =
        given.into_iter().map(|value| typed(param, value)).collect();
    Ok(Some(set_of(values?)))
}

fn typed(param: &Param, text: &str) -> Result<Bson, ParamError> {
    // Before anything is parsed, copied or matched. A character has at most four bytes.
    let most = param.limits.max_length.map_or(MAX_VALUE_BYTES, |characters| characters * 4);
    if text.len() > most {
        let unit = match param.limits.max_length {
            Some(characters) => format!("{characters} characters"),
            None => format!("{most} bytes"),
        };
        return refuse(&param.name, format!("longer than {unit}"));
    }
    let value = param
        .kind
        .parse(text)
        .or_else(|wants| refuse(&param.name, format!("`{}` is not {wants}", echo(text))))?;
    match param.limits.check(&value) {
        Ok(()) => Ok(value),
        Err(message) => refuse(&param.name, format!("`{}` {message}", echo(text))),
    }
}

/// The values as a set in canonical order: all of one type, so their text orders them.
pub(in crate::filter) fn set_of(mut values: Vec<Bson>) -> Bson {
    values.sort_by_cached_key(crate::filter::value::text);
    values.dedup();
    Bson::Array(values)
}
