//! Versions of Kubernetes, as far as injection depends on them.

use std::fmt;
use std::str::FromStr;

/// A minor version of Kubernetes. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Native sidecars (`restartPolicy: Always` of an init container) are on by default.
    pub const NATIVE_SIDECARS: Version = Version { major: 1, minor: 29 };
    /// Services find the named ports of native sidecars (kubernetes#128850).
    pub const NATIVE_PORTS: Version = Version { major: 1, minor: 32 };
    /// What `inject` assumes where no other is named.
    pub const CURRENT: Version = Version { major: 1, minor: 37 };
}

/// A text that is no version of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version of Kubernetes: write it as 1.32 or v1.32.4")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Reads `1.32`, `v1.32.4`, `v1.30.2-eks-1552ad0` and the `30+` of some providers.
    fn from_str(text: &str) -> Result<Version, InvalidVersion> {
        let text = text.trim();
        let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let number = |part: Option<&str>| {
            let digits = part?.trim_end_matches('+');
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        };
        let major = number(parts.next()).ok_or(InvalidVersion)?;
        let minor = number(parts.next()).ok_or(InvalidVersion)?;
        Ok(Version { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_they_are_written() {
        for text in ["1.30", "v1.30", "v1.30.2", "1.30.2-eks-1552ad0", "1.30+", " v1.30.0-rc.1\n"] {
            assert_eq!(text.parse(), Ok(Version { major: 1, minor: 30 }), "{text}");
        }
        for text in ["", "1", "v", "1.", ".30", "1.x", "one.two", "1.-3", "1.99999999999"] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text}");
        }
        assert!(Version::NATIVE_SIDECARS < Version::NATIVE_PORTS);
        assert!("1.9".parse::<Version>().unwrap() < Version::NATIVE_SIDECARS);
    }
}
