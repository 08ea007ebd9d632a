//! What a request says about itself, over HTTP/1 and HTTP/2 alike: where its client is, how the app
//! is told, and what the handler needs to know.

use std::net::IpAddr;

use super::forwarded::is_claim;
use super::path;
use crate::access::{Guard, Origin};
use crate::api::reserved::Ask;
use crate::trace::Span;

pub use super::forwarded::Side;

/// A request on the reserved path, whichever way it came in.
pub struct Request<'a> {
    pub method: &'a str,
    /// What follows the prefix.
    pub rest: &'a str,
    pub query: &'a [u8],
    /// `Host` or `:authority`.
    pub host: Option<&'a [u8]>,
    pub peer: Option<IpAddr>,
    pub is_upgrade: bool,
}

impl Side {
    /// What the handler has to know of a request; `values` gives header fields by name.
    pub fn ask_of<'a>(
        &'a self,
        request: Request<'a>,
        values: &dyn Fn(&str) -> Vec<&'a [u8]>,
        guard: &Guard,
    ) -> Ask<'a> {
        let first = |name: &str| values(name).into_iter().next();
        // Of several proxies, each may have added its own: the first one is the browser's.
        let first_of_list = |name: &str| {
            let value = first(name)?;
            Some(value.split(|byte| *byte == b',').next().unwrap_or(value).trim_ascii())
        };
        let believed =
            |name| if self.is_trusted(request.peer) { first_of_list(name) } else { None };
        let own_scheme = (self.scheme == "https").then_some(self.scheme.as_bytes());
        let origin = Origin {
            origin: first("origin"),
            fetch_site: first("sec-fetch-site"),
            host: believed("x-forwarded-host").or(request.host),
            scheme: believed("x-forwarded-proto").or(own_scheme),
        };
        let mut query = path::pairs_of(request.query);
        let address = self.client_address(request.peer, &values("x-forwarded-for"));
        // As the app would not get them either: a setting may name one of them as credentials.
        let believed_or_own = |name: &str| match is_claim(name.as_bytes()) {
            true if !self.is_trusted(request.peer) => Vec::new(),
            _ => values(name),
        };
        let websocket_key = first("sec-websocket-key");
        let credentials = guard.credentials(&believed_or_own, &mut query, origin, address);
        Ask {
            method: request.method,
            rest: request.rest,
            query,
            accept: values("accept"),
            accept_encoding: values("accept-encoding"),
            last_event_id: first("last-event-id"),
            origin,
            address,
            is_websocket: request.is_upgrade
                && asks_for_websocket(&values("upgrade"), websocket_key.is_some()),
            websocket_key,
            websocket_version: first("sec-websocket-version"),
            is_preflight: first("access-control-request-method").is_some(),
            has_cookies: first("cookie").is_some(),
            traceparent: first("traceparent"),
            span: Span::default(),
            credentials,
        }
    }
}

/// Whether a request would rather speak `websocket`. Where that is one protocol of several, only if it
/// brings a key as well: else another one is meant, which the client can do without.
fn asks_for_websocket(upgrade: &[&[u8]], has_key: bool) -> bool {
    let protocols = || upgrade.iter().flat_map(|value| value.split(|b| *b == b','));
    let is_websocket = |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"websocket");
    match has_key {
        true => protocols().any(is_websocket),
        false => !upgrade.is_empty() && protocols().all(is_websocket),
    }
}
