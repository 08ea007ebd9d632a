//! Header fields that say for whom a request is forwarded, and what may stand in them.
//!
//! Pure. Who is believed is decided in [`super::side`]; here is what there is to be believed.

use std::net::{IpAddr, SocketAddr};

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
}
