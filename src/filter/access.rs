//! Who may open a stream.

use super::diagnostic::Reporter;
use crate::matcher::Template;
use crate::yaml::{Entry, nearest};

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

/// The one place that says which kinds of access this version can keep. What it cannot keep is
/// refused when the file is loaded: a stream that asks for a caller must never be served without
/// looking at one. To be lifted together with `auth` in the settings.
pub(super) fn require_enforceable(access: &Access, entry: &Entry, reporter: &mut Reporter<'_>) {
    match access {
        Access::Public => {}
        Access::Authenticated | Access::Match(_) => reporter.error(
            entry.value.place,
            "this version has no authentication yet, so this stream cannot be protected",
            "only `access: public` can be served; remove the file until then",
        ),
    }
}
