//! The host names for which the admin port answers.
//!
//! The port has no sign-in, and often is on loopback. A page of `evil.example` can make its own
//! name resolve to 127.0.0.1 (DNS rebinding); for the browser, it is then on the same origin as
//! this port. The page cannot change the `Host` that the browser sends.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, header};

/// Whether a request asks for an address, for `localhost` or for one of these names. One without
/// any `Host`, of HTTP/1.0, comes from no browser.
pub(super) fn is_known(headers: &HeaderMap, names: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(host), None) => host.to_str().is_ok_and(|host| is_known_name(host, names)),
        // Whichever is meant.
        (Some(_), Some(_)) => false,
    }
}

fn is_known_name(host: &str, names: &[String]) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, port)) => {
                return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
            }
            None => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    // A dot at the end is the same name.
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_one = |known: &str| name.eq_ignore_ascii_case(known);
    let is_known = name.parse::<IpAddr>().is_ok()
        || is_one("localhost")
        || names.iter().any(|known| is_one(known.strip_suffix('.').unwrap_or(known)));
    is_known && !name.is_empty() && is_port(port)
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}
