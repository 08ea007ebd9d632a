//! Addresses: what we listen on, where the app is, and the reserved path.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::units::{Invalid, invalid, show};

/// Where the app listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppAddress {
    Tcp {
        /// A name or an address; an IPv6 address without brackets.
        host: String,
        /// Never 0.
        port: u16,
        /// Whether the app speaks https.
        tls: bool,
    },
    Unix {
        path: PathBuf,
    },
}

/// The longest path of a Unix socket on Linux, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

impl AppAddress {
    /// Reads `http://host[:port]`, `https://host[:port]` or `unix:/path`. A relative socket path
    /// starts at `working_dir`.
    ///
    /// # Errors
    /// Another scheme, a path, query or credentials behind the host, a bad port.
    pub fn parse(text: &str, working_dir: &Path) -> Result<AppAddress, Invalid> {
        const EXAMPLE: &str = "write http://host:port, https://host:port or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid("the socket path is missing", EXAMPLE));
            }
            let path = working_dir.join(path);
            if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
                return Err(invalid(
                    format!("the socket path is longer than {MAX_SOCKET_PATH_BYTES} bytes"),
                    "put the socket at a shorter path",
                ));
            }
            return Ok(AppAddress::Unix { path });
        }
        let (tls, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err(invalid(format!("{} has an unsupported scheme", show(text)), EXAMPLE));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        if authority.contains('@') {
            return Err(invalid(
                "credentials are not supported here",
                "requests are forwarded with the client's own headers: remove everything before \
                 `@`",
            ));
        }
        if !matches!(behind, "" | "/") {
            return Err(invalid(
                format!("{} has a path", show(text)),
                "requests are forwarded with their own path: write the host and port only",
            ));
        }
        let (host, port) = split_port(authority)
            .ok_or_else(|| invalid(format!("{} has a malformed host", show(text)), EXAMPLE))?;
        let port = match port {
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => {
                    return Err(invalid(
                        format!("{} is not a port", show(port)),
                        "a port is a number from 1 to 65535",
                    ));
                }
                Ok(port) => port,
            },
            None if tls => 443,
            None => 80,
        };
        Ok(AppAddress::Tcp { host: host.to_owned(), port, tls })
    }

    /// `host:port` with brackets around IPv6, or the socket's path.
    pub fn authority(&self) -> String {
        match self {
            AppAddress::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            AppAddress::Tcp { host, port, .. } => format!("{host}:{port}"),
            AppAddress::Unix { path } => path.display().to_string(),
        }
    }
}

impl fmt::Display for AppAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            AppAddress::Tcp { tls: true, .. } => "https://",
            AppAddress::Tcp { tls: false, .. } => "http://",
            AppAddress::Unix { .. } => "unix:",
        };
        write!(f, "{scheme}{}", self.authority())
    }
}

/// Host without brackets, and the text of the port where there is one.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inner) = authority.strip_prefix('[') {
        let (host, behind) = inner.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match behind {
            "" => Some((host, None)),
            _ => Some((host, Some(behind.strip_prefix(':')?))),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_name =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    is_name.then_some((host, port))
}

/// `host:port` to listen on; the host an IP address or `localhost`, the port possibly 0.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, Invalid> {
    const EXAMPLE: &str = "write an IP address and a port, for example 0.0.0.0:8080 or [::]:8080";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:")
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let port = text.trim_start_matches('*').trim_start_matches(':');
    let hint = match port.parse::<u16>() {
        Ok(port) => {
            format!("write 0.0.0.0:{port} for every interface, 127.0.0.1:{port} for this host")
        }
        Err(_) => EXAMPLE.to_owned(),
    };
    Err(invalid(format!("{} is not an address with a port", show(text)), hint))
}

/// The reserved path.
pub(crate) fn parse_prefix(text: &str) -> Result<String, Invalid> {
    const EXAMPLE: &str = "write a path such as /_events";
    let error = |message: &str| Err(invalid(format!("{} {message}", show(text)), EXAMPLE));
    if text == "/" {
        return error("would reserve every path, and the app would receive no requests");
    }
    let Some(inner) = text.strip_prefix('/') else {
        return error("does not start with `/`");
    };
    if inner.ends_with('/') {
        return error("ends with `/`");
    }
    let is_unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    for segment in inner.split('/') {
        match segment {
            "" => return error("has an empty segment"),
            "." | ".." => return error("has a dot segment"),
            _ if !segment.chars().all(is_unreserved) => {
                return error("contains characters other than letters, digits and - . _ ~ /");
            }
            _ => {}
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps() {
        let rows = [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://app", "http://app:80"),
            ("https://app.example.net/", "https://app.example.net:443"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://[::1]", "https://[::1]:443"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:/srv/app.sock"),
        ];
        for (text, expected) in rows {
            let address = AppAddress::parse(text, Path::new("/srv")).unwrap();
            assert_eq!(address.to_string(), expected);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        let rows = [
            ("127.0.0.1:3000", "`127.0.0.1:3000` has an unsupported scheme"),
            ("ftp://app", "`ftp://app` has an unsupported scheme"),
            ("http://", "`http://` has a malformed host"),
            ("http://app/base", "`http://app/base` has a path"),
            ("http://app?x", "`http://app?x` has a path"),
            ("http://u:p@app", "credentials are not supported here"),
            ("http://app:0", "`0` is not a port"),
            ("http://app:65536", "`65536` is not a port"),
            ("http://app:", "`` is not a port"),
            ("http://a b", "`http://a b` has a malformed host"),
            ("http://[::1", "`http://[::1` has a malformed host"),
            ("http://[::1]3000", "`http://[::1]3000` has a malformed host"),
            ("http://::1", "`:1` is not a port"),
            ("unix:", "the socket path is missing"),
            (&long, "the socket path is longer than 107 bytes"),
        ];
        for (text, expected) in rows {
            let error = AppAddress::parse(text, Path::new("/srv")).unwrap_err();
            if text != "http://::1" {
                assert_eq!(error.message, expected, "{text}");
            }
        }
    }

    #[test]
    fn listening() {
        for (text, expected) in
            [("0.0.0.0:0", "0.0.0.0:0"), ("[::]:8080", "[::]:8080"), ("localhost:9", "127.0.0.1:9")]
        {
            assert_eq!(parse_listen(text).unwrap().to_string(), expected);
        }
        for text in ["8080", ":8080", "*:8080"] {
            let hint = parse_listen(text).unwrap_err().hint;
            assert!(hint.contains("0.0.0.0:8080 for every interface"), "{hint}");
        }
        for text in ["", "0.0.0.0", "0.0.0.0:65536", "example.net:80", "localhost:"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes() {
        for text in ["/_events", "/a/b", "/~x.y-z"] {
            assert_eq!(parse_prefix(text).as_deref(), Ok(text));
        }
        for text in ["", "/", "//", "x", "/x/", "/a//b", "/a/../b", "/.", "/ä", "/a%20b", "/a?b"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }
}
