//! Values that must not be shown, and the MongoDB connection string, which is one.

use std::fmt;
use std::path::{Path, PathBuf};

use mongodb::error::ErrorKind;
use mongodb::options::ConnectionString;

use super::resolve::read_text;
use super::units::{Invalid, invalid};

/// Text that shows itself as `***`. [`Secret::expose`] is the one way to it, and easy to search
/// for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value as soon as it is read, so that no later `Debug` shows it.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Never for logs, errors or output.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A MongoDB connection string. Its `Debug` is `***`; [`MongodbUri::redacted`] keeps the hosts.
#[derive(Clone, PartialEq, Eq)]
pub struct MongodbUri {
    text: Secret,
    /// The file that it is from.
    file: Option<PathBuf>,
}

/// Options whose values say nothing secret; all others are hidden, so that a new secret option of
/// the driver is hidden from the start.
const SHOWN_OPTIONS: &[&str] = &[
    "appname",
    "authmechanism",
    "authsource",
    "compressors",
    "connecttimeoutms",
    "directconnection",
    "heartbeatfrequencyms",
    "loadbalanced",
    "localthresholdms",
    "maxidletimems",
    "maxpoolsize",
    "minpoolsize",
    "readconcernlevel",
    "readpreference",
    "replicaset",
    "retryreads",
    "retrywrites",
    "serverselectiontimeoutms",
    "sockettimeoutms",
    "srvservicename",
    "ssl",
    "tls",
    "w",
];

/// Options of other languages' drivers, or of their older versions, that the driver here refuses. They say
/// nothing about where the servers are, who signs in, or how safely, and an app's own connection string
/// often has them.
const OPTIONS_OF_OTHERS: &[&str] = &[
    "autoreconnect",
    "keepalive",
    "maxlifetimems",
    "poolsize",
    "reconnectinterval",
    "reconnecttries",
    "slaveok",
    "sockettimeoutms",
    "timeoutms",
    "tz_aware",
    "usenewurlparser",
    "useunifiedtopology",
    "waitqueuemultiple",
    "waitqueuesize",
    "zlibcompressionlevel",
];
/// What the driver here is built without. A server speaks without compression as well.
const COMPRESSORS_OF_OTHERS: &[&str] = &["zlib"];

/// Stands for a connection string in a file that was left alone.
const UNREAD: &str = "mongodb://unread.invalid";

impl MongodbUri {
    /// Checks the shape: scheme, hosts, and credentials that are percent-encoded where they must
    /// be. What the options mean, the driver judges.
    ///
    /// # Errors
    /// What is wrong, without any part of the text but what [`MongodbUri::redacted`] shows as well.
    pub fn parse(text: &str) -> Result<MongodbUri, Invalid> {
        const EXAMPLE: &str = "write mongodb://host:27017/?replicaSet=rs0 or mongodb+srv://host";
        let parts = Parts::of(text).ok_or_else(|| {
            invalid("a connection string starts with mongodb:// or mongodb+srv://", EXAMPLE)
        })?;
        if text.contains(char::is_control) {
            return Err(invalid(
                "the connection string has a line break, or another control character",
                "write it on one line, and nothing else beside it",
            ));
        }
        if parts.rest.contains('@') {
            return Err(invalid(
                "there is an `@` after the hosts",
                "percent-encode / ? # [ ] @ and : in user name, password and options (@ is %40)",
            ));
        }
        if parts.user.is_some_and(|user| user.contains('@')) {
            return Err(invalid(
                "the user name or password holds an `@`",
                "percent-encode it: @ is %40",
            ));
        }
        if parts.hosts.is_empty() {
            return Err(invalid("the connection string has no host", EXAMPLE));
        }
        if !parts.hosts.split(',').all(is_host) {
            return Err(invalid("the connection string has a malformed host list", EXAMPLE));
        }
        let uri = MongodbUri { text: Secret::new(text), file: None };
        uri.ask_driver().map(|()| uri)
    }

    /// What the driver has against it, as far as it says so before it looks up a name.
    fn ask_driver(&self) -> Result<(), Invalid> {
        let Err(error) = ConnectionString::parse(self.for_driver().0) else { return Ok(()) };
        let said = match *error.kind {
            ErrorKind::InvalidArgument { message, .. } => message,
            other => other.to_string(),
        };
        if let Some(what) = left_out_of_driver(&said) {
            return Err(invalid(
                format!("{what} is not supported by Sidestream"),
                "remove it; a user signs in by SCRAM-SHA-256, SCRAM-SHA-1 or MONGODB-X509",
            ));
        }
        let is_shown = self.hidden().all(|hidden| !said.contains(hidden));
        let message = match is_shown {
            true => format!("the connection string is not valid: {said}"),
            false => "an option of the connection string is not valid".to_owned(),
        };
        Err(invalid(message, "correct it, or remove the option"))
    }

    /// What nobody is shown of it, as it is written.
    fn hidden(&self) -> impl Iterator<Item = &str> {
        let parts = Parts::of(self.expose());
        let user = parts.as_ref().and_then(|parts| parts.user).unwrap_or_default();
        let rest = parts.map_or("", |parts| parts.rest);
        let options = rest.split_once('?').map_or("", |(_, options)| options).split('&');
        let values = options.filter_map(|option| option.split_once('='));
        let hidden = values.filter(|(name, _)| !is_option_shown(name)).map(|(_, value)| value);
        // What is shorter stands in other words, too.
        user.split(':').chain(hidden).filter(|hidden| hidden.len() > 3)
    }

    /// Reads it from a file that contains nothing else.
    ///
    /// # Errors
    /// What is wrong with the file, without any part of its text.
    pub(super) fn read(file: &Path) -> Result<MongodbUri, Invalid> {
        let uri = MongodbUri::parse(&read_text(file)?)
            .map_err(|error| invalid(format!("in the file: {}", error.message), error.hint))?;
        Ok(MongodbUri { file: Some(file.to_path_buf()), ..uri })
    }

    /// Reads it again from the file that it is from; `None` if it is from none.
    ///
    /// # Errors
    /// What is wrong with the file, without any part of its text.
    pub fn read_again(&self) -> Option<Result<MongodbUri, String>> {
        let file = self.file.as_deref()?;
        Some(MongodbUri::read(file).map_err(|error| error.message))
    }

    /// Stands for a connection string in a file that was left alone; it leads nowhere.
    pub(super) fn unread() -> MongodbUri {
        MongodbUri { text: Secret::new(UNREAD), file: None }
    }

    /// Whether it only stands for a file that was left alone.
    pub fn is_unread(&self) -> bool {
        self.expose() == UNREAD
    }

    /// The connection string with its secrets, for the driver alone.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// The connection string with its secrets, as the driver takes it, and what of other drivers it is
    /// without: names of options, and `compressors=` with those of others.
    pub fn for_driver(&self) -> (String, Vec<String>) {
        let Some((before, options)) = self.expose().split_once('?') else {
            return (self.expose().to_owned(), Vec::new());
        };
        let (mut kept, mut left_out) = (Vec::new(), Vec::new());
        for option in options.split('&') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let lower = name.to_ascii_lowercase();
            if OPTIONS_OF_OTHERS.contains(&lower.as_str()) {
                left_out.push(name.to_owned());
            } else if lower == "compressors" {
                let (other, known): (Vec<&str>, Vec<&str>) =
                    value.split(',').partition(|it| COMPRESSORS_OF_OTHERS.contains(it));
                if !other.is_empty() {
                    left_out.push(format!("{name}={}", other.join(",")));
                }
                if !known.is_empty() {
                    kept.push(format!("{name}={}", known.join(",")));
                }
            } else {
                kept.push(option.to_owned());
            }
        }
        match kept.is_empty() {
            true => (before.to_owned(), left_out),
            false => (format!("{before}?{}", kept.join("&")), left_out),
        }
    }

    /// The connection string for logs: scheme, hosts, database and harmless options; user and
    /// password, and the values of all other options, are `***`.
    pub fn redacted(&self) -> String {
        // `parse` was there before, so the parts are there.
        let Some(parts) = Parts::of(self.expose()) else { return "***".to_owned() };
        let (path, options) = parts.rest.split_once('?').unwrap_or((parts.rest, ""));
        let user = if parts.user.is_some() { "***@" } else { "" };
        let mut shown = format!("{}{user}{}{path}", parts.scheme, parts.hosts);
        for (index, option) in options.split('&').filter(|o| !o.is_empty()).enumerate() {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = if is_option_shown(name) { value } else { "***" };
            shown.push(if index == 0 { '?' } else { '&' });
            shown.push_str(&format!("{name}={value}"));
        }
        shown
    }
}

impl fmt::Debug for MongodbUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// What the driver here is built without, in its words for whoever builds a program with it.
fn left_out_of_driver(said: &str) -> Option<&str> {
    const AROUND: [(&str, &str); 3] = [
        ("", " is only supported with the"),
        ("feature must be enabled to specify ", " in the URI"),
        ("cannot specify ", " if "),
    ];
    let told = AROUND.iter().filter(|_| said.contains("feature")).find_map(|(before, behind)| {
        let (_, rest) = said.split_once(before)?;
        Some(rest.split_once(behind)?.0)
    });
    told.filter(|what| !what.is_empty())
}

fn is_option_shown(name: &str) -> bool {
    SHOWN_OPTIONS.contains(&name.to_ascii_lowercase().as_str())
}

struct Parts<'a> {
    scheme: &'static str,
    user: Option<&'a str>,
    hosts: &'a str,
    /// From the first `/` or `?` behind the hosts.
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Parts<'a>> {
        let (scheme, after) = ["mongodb://", "mongodb+srv://"]
            .into_iter()
            .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?)))?;
        let end = after.find(['/', '?']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        Some(Parts { scheme, user, hosts, rest })
    }
}

/// `host`, `host:port`, `[::1]:port`, or a percent-encoded socket path.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let is_name =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._%:".contains(c));
    is_name && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacted_keeps_hosts_and_hides_the_rest() {
        let rows = [
            (
                "mongodb://127.0.0.1:27017/?replicaSet=rs0",
                "mongodb://127.0.0.1:27017/?replicaSet=rs0",
            ),
            (
                "mongodb://u:p%40ss@a:1,b:2/shop?authSource=admin&tlsCAFile=x",
                "mongodb://***@a:1,b:2/shop?authSource=admin&tlsCAFile=***",
            ),
            ("mongodb+srv://u@cluster.example.net", "mongodb+srv://***@cluster.example.net"),
            (
                "mongodb://[::1]:27017/?authMechanismProperties=AWS_SESSION_TOKEN:x",
                "mongodb://[::1]:27017/?authMechanismProperties=***",
            ),
        ];
        for (text, expected) in rows {
            let uri = MongodbUri::parse(text).unwrap();
            assert_eq!(uri.redacted(), expected);
            assert_eq!(format!("{uri:?}"), "***");
            assert_eq!(uri.expose(), text);
        }
    }

    #[test]
    fn options_of_other_drivers_are_left_out() {
        let rows: [(&str, &str, &[&str]); 6] = [
            ("mongodb://a/?replicaSet=rs0", "mongodb://a/?replicaSet=rs0", &[]),
            ("mongodb://a", "mongodb://a", &[]),
            ("mongodb://a/shop?useNewUrlParser=true", "mongodb://a/shop", &["useNewUrlParser"]),
            (
                "mongodb://u:p%3Fx@a/?socketTimeoutMS=1000&w=majority&useUnifiedTopology&replicaSet=rs0",
                "mongodb://u:p%3Fx@a/?w=majority&replicaSet=rs0",
                &["socketTimeoutMS", "useUnifiedTopology"],
            ),
            ("mongodb://a/?compressors=zlib", "mongodb://a/", &["compressors=zlib"]),
            (
                "mongodb://a/?compressors=snappy,zlib,zstd",
                "mongodb://a/?compressors=snappy,zstd",
                &["compressors=zlib"],
            ),
        ];
        for (text, expected, left_out) in rows {
            let uri = MongodbUri::parse(text).unwrap();
            let left_out = left_out.iter().map(ToString::to_string).collect();
            assert_eq!(uri.for_driver(), (expected.to_owned(), left_out));
        }
    }

    #[test]
    fn what_the_driver_refuses_is_told_without_secrets() {
        let shown = "the connection string is not valid: ";
        let rows = [
            ("a/?readPreference=nearby", format!("{shown}'nearby' is not a valid read preference")),
            (
                "a/?connectTimeoutMS=soon",
                format!(
                    "{shown}connection string `connecttimeoutms` option must be a non-negative integer"
                ),
            ),
            ("u:hun%zzter2@a/", format!("{shown}password cannot contain unescaped %")),
            (
                "u:x@a/?authMechanism=GSSAPI",
                "GSSAPI auth is not supported by Sidestream".to_owned(),
            ),
            (
                "a/?tlsCertificateKeyFilePassword=hunter2",
                "tlsCertificateKeyFilePassword is not supported by Sidestream".to_owned(),
            ),
            ("a/?compressors=lz4", format!("{shown}Unsupported compressor: lz4")),
            ("a/?proxyHost=b", "proxyhost is not supported by Sidestream".to_owned()),
        ];
        for (text, message) in rows {
            let error = MongodbUri::parse(&format!("mongodb://{text}")).unwrap_err();
            assert_eq!(error.message, message);
        }
        let hidden = MongodbUri::parse("mongodb://a/?authMechanismProperties=hunter2").unwrap_err();
        assert!(!hidden.message.contains("hunter2"), "{}", hidden.message);
        assert!(MongodbUri::parse("mongodb+srv://cluster.example.net/?retryWrites=true").is_ok());
    }

    #[test]
    fn malformed_is_refused_without_showing_it() {
        for text in [
            "postgres://hunter2",
            "mongodb://",
            "mongodb:///db",
            "mongodb://u:hunter2",
            "mongodb://u:hun@ter2@host",
            "mongodb://u:hun/ter2@host",
            "mongodb://u:hun?ter2@host/",
            "mongodb://a:0",
            "mongodb://a,,b",
            "mongodb://[::1",
            "mongodb://[::1]x",
            "",
        ] {
            let error = MongodbUri::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("ter2"), "{text}");
        }
    }
}
