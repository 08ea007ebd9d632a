//! Forwarding header fields: which they are, whose are trusted, and what the app is told.
//!
//! Pure.

use std::net::{IpAddr, SocketAddr};

use super::gate;

/// What is told to the app of a request beside itself, for every way in.
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
            match address_of(hop) {
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

/// Whether a field claims to tell where a request came from, or what it was before somebody rewrote
/// it. Servers that hand fields on as variables take `_` for `-`, so that both are one here.
pub fn is_claim(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 8] = [
        b"forwarded",
        b"x-forwarded",
        b"x-real-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-rewrite-url",
    ];
    const FAMILIES: [&[u8]; 2] = [b"x-forwarded-", b"x-original-"];
    // Most names begin otherwise.
    matches!(name.first(), Some(b'f' | b'F' | b'x' | b'X' | b't' | b'T' | b'c' | b'C'))
        && (NAMES.iter().any(|known| is_same(name, known))
            || FAMILIES
                .iter()
                .any(|family| name.len() > family.len() && is_same(&name[..family.len()], family)))
}

/// `known` is in lower case, with dashes.
fn is_same(name: &[u8], known: &[u8]) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len()
        && name.iter().zip(known).all(|(byte, expected)| plain(*byte) == *expected)
}

/// The address of a hop in `X-Forwarded-For`, with or without a port: `192.0.2.1`, `192.0.2.1:567`,
/// `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
pub fn address_of(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(|| text.parse().ok().map(|to: SocketAddr| to.ip()));
    address.or_else(|| bracketed().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_known_whatever_their_case_and_dashes() {
        for name in [
            "Forwarded",
            "X-Forwarded",
            "x-forwarded-for",
            "X-Forwarded-Port",
            "X-Forwarded-Ssl",
            "X_Forwarded_Server",
            "X-Real-IP",
            "X_REAL_IP",
            "True-Client-Ip",
            "CF-Connecting-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-URL",
            "X-Original-Forwarded-For",
            "X-Rewrite-Url",
        ] {
            assert!(is_claim(name.as_bytes()), "{name}");
        }
        for name in
            ["", "X", "Cookie", "X-Forwarder", "X-Original", "X-Original-", "X-Real-IPs", "From"]
        {
            assert!(!is_claim(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn hops_may_have_a_port() {
        for (hop, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            (" 192.0.2.1:567\t", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[::1]:80", Some("::1")),
            ("192.0.2.1:", None),
            ("192.0.2.1:70000", None),
            ("[192.0.2.1]", None),
            ("[::1", None),
            ("_hidden", None),
            ("unknown", None),
            ("", None),
        ] {
            let expected = address.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(address_of(hop.as_bytes()), expected, "{hop}");
        }
    }

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
