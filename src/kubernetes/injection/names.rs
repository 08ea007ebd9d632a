//! Names and quantities by the rules of Kubernetes. What it would refuse later, with a message about
//! a generated pod, is refused here with one about the annotation.

use super::shown;

/// The name of a ConfigMap or Secret (a DNS subdomain).
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn object_name(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 253;
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last))
            if is_inner(first) && is_inner(last))
            && bytes.iter().all(|&byte| is_inner(byte) || byte == b'-')
    };
    if text.len() <= MAX_BYTES && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a name of an object in the pod's namespace; write lower-case letters, digits, \
         `-` and `.`, without the namespace or the kind",
        shown(text)
    ))
}

/// The name of a port: at most 15 lower-case letters, digits and single dashes, with a letter.
pub fn is_port_name(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_PORT_NAME).contains(&text.len())
        && text.bytes().all(is_known)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// The longest name of a port, in bytes.
pub const MAX_PORT_NAME: usize = 15;

/// An amount of CPU, in thousandths of a core at least 1, as written: `250m`, `0.5`, `2`.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn cpu(text: &str) -> Result<String, String> {
    /// More cores than this are surely thousandths whose `m` was forgotten.
    const MAX_CORES: f64 = 64.0;
    let cores = match quantity(text) {
        Some((number, "m")) => number / 1000.0,
        Some((number, "")) => number,
        _ => return Err(format!("{} is not an amount of CPU; write 100m or 0.5", shown(text))),
    };
    if cores > MAX_CORES {
        return Err(format!(
            "{} is {cores} cores; for thousandths of a core write `{text}m`",
            shown(text)
        ));
    }
    if cores < 0.001 {
        return Err(format!("{} is less than 1m; write 100m or 0.5", shown(text)));
    }
    Ok(text.to_owned())
}

/// An amount of memory, as written: `128Mi`, `1Gi`.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn memory(text: &str) -> Result<String, String> {
    /// The program itself does not start in less.
    const MIN_BYTES: f64 = 32.0 * 1024.0 * 1024.0;
    let factor = match quantity(text) {
        Some((number, suffix)) => match suffix {
            "" => Some(1.0),
            "m" => Some(0.001),
            "k" => Some(1e3),
            "M" => Some(1e6),
            "G" => Some(1e9),
            "T" => Some(1e12),
            "Ki" => Some(1024.0),
            "Mi" => Some(1024.0 * 1024.0),
            "Gi" => Some(1024.0 * 1024.0 * 1024.0),
            "Ti" => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
            _ => None,
        }
        .map(|factor: f64| number * factor),
        None => None,
    };
    match factor {
        Some(bytes) if bytes >= MIN_BYTES => Ok(text.to_owned()),
        Some(bytes) => Err(format!(
            "{} is {bytes} bytes, and the sidecar needs 32Mi at least; write for example 128Mi",
            shown(text)
        )),
        None => Err(format!("{} is not an amount of memory; write for example 128Mi", shown(text))),
    }
}

/// A number without a sign, and its suffix.
fn quantity(text: &str) -> Option<(f64, &str)> {
    const MAX_BYTES: usize = 20;
    if text.len() > MAX_BYTES {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
        return None;
    }
    Some((number.parse().ok()?, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names() {
        for good in ["a", "shop-filters", "a.b", "1"] {
            assert_eq!(object_name(good).as_deref(), Ok(good));
        }
        let long = "a".repeat(254);
        for bad in ["", "Shop", "shop/filters", "-a", "a-", "a..b", "a b", "ä", &long] {
            assert!(object_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_names() {
        for good in ["http", "h2c", "a-b", "123456789012345a".get(1..).unwrap()] {
            assert!(is_port_name(good), "{good}");
        }
        for bad in ["", "8080", "-a", "a-", "a--b", "A", "abcdefghijklmnop", "a_b"] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }

    #[test]
    fn quantities() {
        for good in ["100m", "0.5", "2", "1m"] {
            assert!(cpu(good).is_ok(), "{good}");
        }
        for bad in ["", "500", "0", "-1", "1e3", "1 ", "0.1m", ".5", "1.", "1Gi", "1.2.3"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
        for good in ["128Mi", "1Gi", "0.5Gi", "134217728", "200M"] {
            assert!(memory(good).is_ok(), "{good}");
        }
        for bad in ["", "512", "128m", "1Mi", "128mi", "128MB", "-1Gi", "1 Gi", "Gi"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert!(cpu("500").unwrap_err().contains("`500m`"));
    }
}
