//! What a request tells of itself, whichever way it came in: where its client is, how the app is told
//! of that, and what the desk has to know.

use std::net::IpAddr;

use super::forwarded;
use super::gate;
use super::path;
use crate::access::{Guard, Origin};
use crate::api::reserved::Ask;

/// The way to the app, for every way in.
#[derive(Debug)]
pub struct Side {
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `https` when the public port speaks TLS.
    pub scheme: &'static str,
}

impl Side {
    /// Whether this peer's `X-Forwarded-*` are believed.
    pub fn is_trusted(&self, peer: Option<IpAddr>) -> bool {
        gate::is_trusted(&self.trusted_proxies, peer)
    }

    /// Where the client is: the peer, or, behind trusted proxies, the last address in
    /// `X-Forwarded-For` that is not one of theirs.
    pub fn client_address(&self, peer: Option<IpAddr>, chain: &[&[u8]]) -> Option<IpAddr> {
        let mut client = peer?;
        let hops = chain.iter().rev().flat_map(|value| value.rsplit(|b| *b == b','));
        for hop in hops {
            if !self.is_trusted(Some(client)) {
                break;
            }
            match forwarded::address_of(hop) {
                Some(address) => client = address,
                // What is written there is no address: as far as it can be believed, we are here.
                None => break,
            }
        }
        Some(client.to_canonical())
    }

    /// The client that a trusted proxy names, where one does; `chain` is `X-Forwarded-For`.
    pub fn forwarded_for<'a>(
        &self,
        peer: Option<IpAddr>,
        chain: impl FnOnce() -> Vec<&'a [u8]>,
    ) -> Option<IpAddr> {
        if !self.is_trusted(peer) {
            return None;
        }
        let chain = chain();
        if chain.is_empty() { None } else { self.client_address(peer, &chain) }
    }

    /// The `X-Forwarded-*` fields that the app gets; what was there is believed only from trusted
    /// proxies.
    pub fn forwarded(
        &self,
        peer: Option<IpAddr>,
        values: impl Fn(&str) -> Vec<Vec<u8>>,
        host: Option<Vec<u8>>,
    ) -> Vec<(&'static str, Vec<u8>)> {
        let is_trusted = self.is_trusted(peer);
        let client = peer.map_or_else(|| "unknown".to_string(), |ip| ip.to_canonical().to_string());
        let believed = |name| if is_trusted { values(name) } else { Vec::new() };
        let mut chain = believed("x-forwarded-for");
        chain.push(client.into_bytes());
        let first = |name| believed(name).into_iter().next();
        let proto = first("x-forwarded-proto").unwrap_or_else(|| self.scheme.into());
        let host = first("x-forwarded-host").or(host).unwrap_or_default();
        vec![
            ("X-Forwarded-For", chain.join(&b", "[..])),
            ("X-Forwarded-Proto", proto),
            ("X-Forwarded-Host", host),
        ]
    }
}

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
    /// What the desk has to know of a request; `values` gives header fields by name.
    pub fn ask_of<'a>(
        &'a self,
        request: Request<'a>,
        values: &dyn Fn(&str) -> Vec<&'a [u8]>,
        guard: &Guard,
    ) -> Ask<'a> {
        let first = |name: &str| values(name).into_iter().next();
        let believed = |name| if self.is_trusted(request.peer) { first(name) } else { None };
        let own_scheme = (self.scheme == "https").then_some(self.scheme.as_bytes());
        let origin = Origin {
            origin: first("origin"),
            fetch_site: first("sec-fetch-site"),
            host: believed("x-forwarded-host").or(request.host),
            scheme: believed("x-forwarded-proto").or(own_scheme),
        };
        let mut query = path::pairs_of(request.query);
        let address = self.client_address(request.peer, &values("x-forwarded-for"));
        let credentials = guard.credentials(values, &mut query, origin, address);
        Ask {
            method: request.method,
            rest: request.rest,
            query,
            accept: values("accept"),
            last_event_id: first("last-event-id"),
            origin,
            address,
            is_websocket: request.is_upgrade && asks_for_websocket(&values("upgrade")),
            is_preflight: first("access-control-request-method").is_some(),
            has_cookies: first("cookie").is_some(),
            credentials,
        }
    }
}

/// Whether `websocket` is among what a request would rather speak.
fn asks_for_websocket(upgrade: &[&[u8]]) -> bool {
    let mut protocols = upgrade.iter().flat_map(|value| value.split(|b| *b == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_behind_the_trusted_proxies_and_not_further() {
        let side = Side { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], scheme: "http" };
        for (peer, chain, client) in [
            ("192.0.2.1", vec![], "192.0.2.1"),
            ("192.0.2.1", vec!["203.0.113.7"], "192.0.2.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", vec!["198.51.100.2, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7", "10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7, nonsense"], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.7:567, 10.0.0.2:80"], "203.0.113.7"),
            ("10.0.0.1", vec!["[2001:db8::1]:80"], "2001:db8::1"),
            ("::ffff:10.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
        ] {
            let values: Vec<&[u8]> = chain.iter().map(|value| value.as_bytes()).collect();
            let found = side.client_address(Some(peer.parse().unwrap()), &values);
            assert_eq!(found, Some(client.parse().unwrap()), "{peer} {chain:?}");
        }
    }
}
