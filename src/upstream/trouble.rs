//! What an error of the driver means, whether time heals it, and what a person should do.
//!
//! Codes are MongoDB's: <https://www.mongodb.com/docs/manual/reference/error-codes/>.

use mongodb::error::{Error, ErrorKind};

const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
const COMMAND_NOT_FOUND: i32 = 59;
const CHANGE_STREAM_FATAL: i32 = 280;
const INVALID_RESUME_TOKEN: i32 = 260;
/// "Required" images that the server did not keep.
const NO_MATCHING_DOCUMENT: i32 = 47;
/// An event of more than 16 MB.
const BSON_OBJECT_TOO_LARGE: i32 = 10334;
const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
/// "The $changeStream stage is only supported on replica sets".
const NOT_A_REPLICA_SET: i32 = 40573;
/// "Unrecognized pipeline stage name".
const UNKNOWN_STAGE: i32 = 40324;

/// What went wrong with a change stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The oplog no longer holds the place to go on from.
    HistoryLost,
    /// The server will never go on from this token.
    Fatal,
    /// The next event is larger than a message may be, and the server cannot split it.
    TooLarge,
    /// The server cannot give the next event, however often it is asked.
    Unreadable,
    Privileges,
    Authentication,
    Standalone,
    /// The driver makes nothing of it; only another one helps.
    ConnectionString,
    /// A member of a replica set that nobody has initiated.
    NotInitiated,
    /// A member of another replica set than the one that is asked for.
    WrongSet,
    /// It answers, but it has no change streams.
    Unsupported,
    /// No server could be chosen: down, unreachable, or no primary.
    Unreachable,
    /// An error that the server gave for this very command, and not a passing one.
    Command(i32),
    /// Network errors, elections, restarts: will pass.
    Passing,
}

impl Trouble {
    pub fn of(error: &Error) -> Trouble {
        match error.kind.as_ref() {
            ErrorKind::Authentication { .. } => Trouble::Authentication,
            ErrorKind::ServerSelection { .. } | ErrorKind::DnsResolve { .. } => {
                Trouble::Unreachable
            }
            ErrorKind::Command(command) => match command.code {
                CHANGE_STREAM_HISTORY_LOST => Trouble::HistoryLost,
                CHANGE_STREAM_FATAL | INVALID_RESUME_TOKEN => Trouble::Fatal,
                BSON_OBJECT_TOO_LARGE => Trouble::TooLarge,
                NO_MATCHING_DOCUMENT => Trouble::Unreadable,
                UNAUTHORIZED => Trouble::Privileges,
                AUTHENTICATION_FAILED => Trouble::Authentication,
                NOT_A_REPLICA_SET => Trouble::Standalone,
                COMMAND_NOT_FOUND | UNKNOWN_STAGE => Trouble::Unsupported,
                // The driver marks what a change stream may be resumed after.
                _ if error.contains_label("ResumableChangeStreamError")
                    || error.contains_label("RetryableWriteError")
                    || is_of_a_changing_server(command.code) =>
                {
                    Trouble::Passing
                }
                code => Trouble::Command(code),
            },
            _ => Trouble::Passing,
        }
    }

    /// For the metric `upstream_restarts_total{reason}`.
    pub fn reason(self) -> &'static str {
        match self {
            Trouble::HistoryLost => "history-lost",
            Trouble::Fatal => "fatal",
            Trouble::TooLarge => "too-large",
            Trouble::Unreadable => "unreadable",
            Trouble::Privileges => "privileges",
            Trouble::Authentication => "authentication",
            Trouble::Standalone => "standalone",
            Trouble::ConnectionString => "connection-string",
            Trouble::NotInitiated => "not-initiated",
            Trouble::WrongSet => "wrong-set",
            Trouble::Unsupported => "unsupported",
            Trouble::Unreachable => "unreachable",
            Trouble::Command(_) => "command",
            Trouble::Passing => "network",
        }
    }

    /// Whether what came after the place can no longer be read.
    pub fn is_loss(self) -> bool {
        matches!(self, Trouble::HistoryLost | Trouble::Fatal | Trouble::Unreadable)
    }

    /// Whether somebody has to do something before it can work; tried again slowly meanwhile.
    pub fn needs_a_person(self) -> bool {
        matches!(
            self,
            Trouble::Privileges
                | Trouble::Authentication
                | Trouble::Standalone
                | Trouble::ConnectionString
                | Trouble::NotInitiated
                | Trouble::WrongSet
                | Trouble::Unsupported
        )
    }

    /// What to do, in a sentence.
    pub fn advice(self, database: &str) -> String {
        match self {
            Trouble::HistoryLost => "the oplog is too small for the outage: clients are told to \
                refetch; a larger oplog keeps more history"
                .to_string(),
            Trouble::Fatal => {
                "clients are told to refetch, and reading goes on from now".to_string()
            }
            Trouble::TooLarge => "an event is larger than 16 MB: it is skipped, and clients of \
                its collection are told to refetch; MongoDB 6.0.9 and newer can split it"
                .to_string(),
            Trouble::Unreadable => "an image of the document was not kept: clients are told to \
                refetch, and reading goes on from now"
                .to_string(),
            Trouble::Privileges => format!(
                "the MongoDB user needs `find` and `changeStream` on the database `{database}` as a \
                 whole, which {{ role: \"read\", db: \"{database}\" }} holds, or on each collection \
                 that the filters name; for a role with nothing else, run in mongosh: {}",
                super::inspection::grant(database)
            ),
            Trouble::Authentication => "check user, password and authSource in mongodb.uri \
                (special characters in a password are percent-encoded)"
                .to_string(),
            Trouble::Standalone => "change streams need a replica set, and one member is enough: \
                start mongod with --replSet rs0 and run rs.initiate() once in mongosh"
                .to_string(),
            Trouble::ConnectionString => "correct mongodb.uri and start again".to_string(),
            Trouble::NotInitiated => "run rs.initiate() once in mongosh".to_string(),
            Trouble::WrongSet => "make the name in mongodb.uri that of the set".to_string(),
            Trouble::Unsupported => "this server answers like MongoDB but has no change streams; \
                MongoDB 4.0 or newer is needed, as a replica set or a sharded cluster"
                .to_string(),
            Trouble::Unreachable => "check that MongoDB runs, that mongodb.uri names its hosts as \
                the replica set itself does (rs.conf()), and that no firewall is in between"
                .to_string(),
            Trouble::Command(code) => {
                format!("MongoDB refused the change stream with code {code}; it is tried again")
            }
            Trouble::Passing => "it is tried again by itself".to_string(),
        }
    }
}

/// The driver's message without what is only for its own ears (labels, sources), and without
/// secrets.
pub fn message(error: &Error) -> String {
    crate::redact::uris(&error.kind.to_string())
}

/// Not primary, shutting down, interrupted, stale: the "not writable primary" and "node is
/// recovering" lists of the driver specification on server discovery, and interruptions.
fn is_of_a_changing_server(code: i32) -> bool {
    const CODES: [i32; 24] = [
        6, 7, 43, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10058, 10107, 11600, 11601, 11602,
        13388, 13435, 13436, 50, 112, 237, 317,
    ];
    CODES.contains(&code)
}
