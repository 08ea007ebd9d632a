//! Who may open a stream.

use super::Params;
use super::params::Param;
use super::tree::Tree;
use crate::diagnostic::{Diagnostic, Reporter, Severity, nearest};
use crate::matcher::{Placeholder, Template};
use crate::yaml::Entry;

/// Who may open a stream. There is no default: a file says it.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody.
    Public,
    /// Whoever the app or a token vouches for.
    Authenticated,
    /// Those whose claims match.
    Match(Template),
}

/// Reads `access`. `None` after an error, which is reported.
pub(super) fn read(entry: &Entry, reporter: &mut Reporter<'_>) -> Option<Access> {
    const FORMS: &str = "write `public`, `authenticated`, or `{ match: { role: admin } }`";
    let node = &entry.value;
    if let Some(scalar) = node.scalar() {
        return match scalar.text.as_str() {
            "public" => Some(Access::Public),
            "authenticated" => Some(Access::Authenticated),
            other => {
                let hint = match nearest(other, ["public", "authenticated"]) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => FORMS.to_owned(),
                };
                reporter.error(node.place, format!("`{other}` is no kind of access"), hint);
                None
            }
        };
    }
    let inner = match node.entries() {
        Some([inner]) if inner.key == "match" => inner,
        _ => {
            reporter.error(node.place, "not a kind of access", FORMS);
            return None;
        }
    };
    super::resolve::compile(inner, Template::parse, reporter)
        .map(|(_, template)| Access::Match(template))
}

/// What is said of a protected stream where the settings name nobody who could vouch for a caller:
/// such a stream is not served, since it must never be served without looking at one.
pub(super) fn without_source(
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
        "nobody can be signed in: the settings have neither `auth.jwt` nor `auth.forward`".into(),
        Some(
            "set `auth.forward.url` to what your app answers only to those who are signed in, or \
             a key under `auth.jwt`; or write `access: public`"
                .into(),
        ),
    ))
}

/// The claims' conditions are on claims; parameters may stand in them, if they are always there.
pub(super) fn check_placeholders(
    access: &Access,
    entry: &Entry,
    (params, written): (&Params, Option<&Entry>),
    reporter: &mut Reporter<'_>,
) {
    let Access::Match(template) = access else { return };
    let Some(inner) = entry.value.get("match") else { return };
    let mut tree = Tree::new(inner);
    for placeholder_use in template.placeholders() {
        let node = tree.node_at(&placeholder_use.path);
        match &placeholder_use.placeholder {
            Placeholder::Claim(claim) => reporter.error(
                node.place,
                format!("`$claim: {claim}` among conditions on the claims themselves"),
                "write the value that the claim must have, or a `$param`",
            ),
            Placeholder::Param(name) => {
                if params.get(name).is_some_and(Param::is_optional) {
                    reporter.error(
                        node.place,
                        format!("`{name}` may be left out, and the condition with it"),
                        "make it required: who may listen must not be up to the client",
                    );
                }
            }
        }
    }
    super::resolve::check_params(&template.placeholders(), inner, (params, written), reporter);
}
