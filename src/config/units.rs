//! Durations, sizes, counts and networks, from text. Each error says what to write instead.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::diagnostic::{Diagnostic, Severity, Source};

/// What is wrong with a value, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub message: String,
    pub hint: String,
}

pub(super) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Invalid {
    Invalid { message: message.into(), hint: hint.into() }
}

/// A mistake at a setting; the key is empty where the file as a whole is meant.
pub(super) fn mistake(
    key: &str,
    origin: Source,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Diagnostic {
    Diagnostic::new(Severity::Error, origin, message).key(key).hint(hint)
}

/// A value as it may be shown in an error: short, on one line, and without anything that could be
/// a credential put under the wrong key.
pub(super) fn show(value: &str) -> String {
    const MAX_CHARS: usize = 60;
    if value.contains('@') {
        return "the value".to_owned();
    }
    let mut shown: String = value.escape_debug().take(MAX_CHARS).collect();
    if shown.len() < value.len() && value.chars().count() > MAX_CHARS {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// `250ms`, `30s`, `5m`, `1h`: a whole number and a unit, nothing between them.
///
/// # Errors
/// A number without a unit, with another unit, with a fraction, or too large to count.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    const EXAMPLE: &str = "write a whole number with ms, s, m or h, for example 30s";
    let (number, unit) = split(text);
    let Ok(number) = number.parse::<u64>() else {
        return Err(invalid(format!("{} is not a duration", show(text)), EXAMPLE));
    };
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60 * 1000),
        "h" => number.checked_mul(3600 * 1000),
        "" => {
            return Err(invalid(
                format!("{} has no unit", show(text)),
                format!("write {number}s for seconds or {number}ms for milliseconds"),
            ));
        }
        _ => return Err(invalid(format!("{} is not a duration", show(text)), EXAMPLE)),
    };
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| invalid(format!("{} is too long", show(text)), EXAMPLE))
}

/// `512B`, `64KiB`, `16MiB`, `1GiB`; in bytes.
///
/// # Errors
/// A number without a unit, with another unit (`MB` means two things), or too large to count.
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    const EXAMPLE: &str = "write a whole number with B, KiB, MiB or GiB, for example 64MiB";
    let (number, unit) = split(text);
    let Ok(number) = number.parse::<u64>() else {
        return Err(invalid(format!("{} is not a size", show(text)), EXAMPLE));
    };
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => {
            return Err(invalid(
                format!("{} has no unit", show(text)),
                format!("write {number}B for bytes or {number}MiB for mebibytes"),
            ));
        }
        _ => return Err(invalid(format!("{} is not a size", show(text)), EXAMPLE)),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| invalid(format!("{} is too large", show(text)), EXAMPLE))
}

/// A whole number.
pub(super) fn parse_count(text: &str) -> Result<u64, Invalid> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| {
            invalid(format!("{} is too large", show(text)), "write a smaller number")
        });
    }
    Err(invalid(
        format!("{} is not a whole number", show(text)),
        "write digits only, for example 256",
    ))
}

/// A name as a `Host` field has it, without the port.
pub(super) fn parse_host_name(text: &str) -> Result<String, Invalid> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_of_name) {
        return Ok(text.to_owned());
    }
    Err(invalid(
        format!("{} is not a host name", show(text)),
        "write the name alone, without scheme, port and path; addresses need not be listed",
    ))
}

/// A network in CIDR notation; an address alone is the network of just that address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, Invalid> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| {
        invalid(
            format!("{} is not a network", show(text)),
            "write it in CIDR notation, for example 10.0.0.0/8",
        )
    })?;
    let truncated = network.trunc();
    if truncated != network {
        return Err(invalid(
            format!("{} has address bits beyond its prefix", show(text)),
            format!("write {truncated}, or {} for the one address", network.addr()),
        ));
    }
    Ok(network)
}

/// A duration as one would write it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        _ if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
        _ if milliseconds.is_multiple_of(60_000) => format!("{}m", milliseconds / 60_000),
        _ if milliseconds.is_multiple_of(1000) => format!("{}s", milliseconds / 1000),
        _ => format!("{milliseconds}ms"),
    }
}

/// A size as one would write it.
pub(super) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Leading digits, and the rest.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)]
        {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(show_duration(duration), text);
        }
        let rows = [
            ("30", "`30` has no unit", "write 30s for seconds or 30ms for milliseconds"),
            ("1.5s", "`1.5s` is not a duration", ""),
            ("-1s", "`-1s` is not a duration", ""),
            ("5 m", "`5 m` is not a duration", ""),
            ("1d", "`1d` is not a duration", ""),
            ("", "`` is not a duration", ""),
            ("99999999999999999h", "`99999999999999999h` is too long", ""),
            ("99999999999999999999s", "`99999999999999999999s` is not a duration", ""),
        ];
        for (text, message, hint) in rows {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.message, message);
            assert!(error.hint.contains(hint), "{}", error.hint);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("512B", 512), ("64KiB", 65_536), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("0B", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        for text in ["64", "64MB", "64kib", "1.5MiB", "", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), shown);
        }
        let error = parse_network("10.1.0.0/8").unwrap_err();
        assert_eq!(error.hint, "write 10.0.0.0/8, or 10.1.0.0 for the one address");
        for text in ["10.0.0.0/33", "localhost", "", "10.0.0"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }
}
