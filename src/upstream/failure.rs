//! What an error of the driver means, whether it can pass by itself, and what to do about it.
//!
//! Codes are MongoDB's: <https://www.mongodb.com/docs/manual/reference/error-codes/>.

use mongodb::error::{Error, ErrorKind};

pub(super) const UNAUTHORIZED: i32 = 13;
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
const ONLY_ON_REPLICA_SETS: i32 = 40573;
/// "Unrecognized pipeline stage name".
const UNKNOWN_STAGE: i32 = 40324;

/// What went wrong with a change stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
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
    /// A member of a replica set that has not been initiated.
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

impl Failure {
    /// By the server's code, or by the kind of error.
    pub fn of(error: &Error) -> Failure {
        match error.kind.as_ref() {
            ErrorKind::Authentication { .. } => Failure::Authentication,
            // All connections were closed, since a new one was refused so.
            ErrorKind::ConnectionPoolCleared { message, .. }
                if message.contains("Authentication failed") =>
            {
                Failure::Authentication
            }
            ErrorKind::ServerSelection { .. } | ErrorKind::DnsResolve { .. } => {
                Failure::Unreachable
            }
            ErrorKind::Command(command) => match command.code {
                CHANGE_STREAM_HISTORY_LOST => Failure::HistoryLost,
                CHANGE_STREAM_FATAL | INVALID_RESUME_TOKEN => Failure::Fatal,
                BSON_OBJECT_TOO_LARGE => Failure::TooLarge,
                NO_MATCHING_DOCUMENT => Failure::Unreadable,
                UNAUTHORIZED if is_signed_out(error) => Failure::Authentication,
                UNAUTHORIZED => Failure::Privileges,
                AUTHENTICATION_FAILED => Failure::Authentication,
                ONLY_ON_REPLICA_SETS => Failure::Standalone,
                COMMAND_NOT_FOUND | UNKNOWN_STAGE => Failure::Unsupported,
                // The driver marks what a change stream may be resumed after.
                _ if error.contains_label("ResumableChangeStreamError")
                    || error.contains_label("RetryableWriteError")
                    || is_of_a_changing_server(command.code) =>
                {
                    Failure::Passing
                }
                code => Failure::Command(code),
            },
            _ => Failure::Passing,
        }
    }

    /// For the metric `upstream_restarts_total{reason}`.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::HistoryLost => "history-lost",
            Failure::Fatal => "fatal",
            Failure::TooLarge => "too-large",
            Failure::Unreadable => "unreadable",
            Failure::Privileges => "privileges",
            Failure::Authentication => "authentication",
            Failure::Standalone => "standalone",
            Failure::ConnectionString => "connection-string",
            Failure::NotInitiated => "not-initiated",
            Failure::WrongSet => "wrong-set",
            Failure::Unsupported => "unsupported",
            Failure::Unreachable => "unreachable",
            Failure::Command(_) => "command",
            Failure::Passing => "network",
        }
    }

    /// Whether what came after the place can no longer be read.
    pub fn is_loss(self) -> bool {
        matches!(self, Failure::HistoryLost | Failure::Fatal | Failure::Unreadable)
    }

    /// Whether an operator has to act before it can work. Meanwhile it is tried again slowly.
    pub fn needs_a_person(self) -> bool {
        matches!(
            self,
            Failure::Privileges
                | Failure::Authentication
                | Failure::Standalone
                | Failure::ConnectionString
                | Failure::NotInitiated
                | Failure::WrongSet
                | Failure::Unsupported
        )
    }

    /// What to do, in a sentence.
    pub fn advice(self, database: &str) -> String {
        match self {
            Failure::HistoryLost => "the oplog is too small for the outage: clients are reset; a \
                                     larger oplog keeps more history"
                .to_string(),
            Failure::Fatal => {
                "clients are reset, and reading continues from the present".to_string()
            }
            Failure::TooLarge => "an event is larger than 16 MB: it is skipped, and clients of \
                                  its collection are reset; MongoDB 6.0.9 and newer can split it"
                .to_string(),
            Failure::Unreadable => "MongoDB did not keep an image of the document: clients are \
                                    reset, and reading continues from the present"
                .to_string(),
            Failure::Privileges => format!(
                "the MongoDB user needs `find` and `changeStream` on the database `{database}` as \
                 a whole, which {{ role: \"read\", db: \"{database}\" }} grants, or on \
                 each collection that the filters name; for a role with only these privileges, run \
                 in mongosh: {}",
                super::inspection::grant(database)
            ),
            Failure::Authentication => "check user, password and authSource in mongodb.uri \
                (special characters in a password are percent-encoded)"
                .to_string(),
            Failure::Standalone => "change streams need a replica set, and one member is enough: \
                start mongod with --replSet rs0 and run rs.initiate() once in mongosh"
                .to_string(),
            Failure::ConnectionString => "correct mongodb.uri and start again".to_string(),
            Failure::NotInitiated => "run rs.initiate() once in mongosh".to_string(),
            Failure::WrongSet => "write the set's name as replicaSet in mongodb.uri".to_string(),
            Failure::Unsupported => "this server answers like MongoDB but has no change streams; \
                MongoDB 4.0 or newer is needed, as a replica set or a sharded cluster"
                .to_string(),
            Failure::Unreachable => "check that MongoDB is running, that mongodb.uri names the \
                                     hosts as rs.conf() does, and that no firewall blocks the \
                                     connection"
                .to_string(),
            Failure::Command(code) => {
                format!(
                    "MongoDB refused the change stream with code {code}; Sidestream keeps \
                         trying"
                )
            }
            Failure::Passing => "Sidestream keeps trying".to_string(),
        }
    }
}

/// Whether a cursor ended for a reason that has nothing to do with what it reads: the connection, or
/// the part that its server has in the replica set.
pub(super) fn is_of_the_way(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Command(_) | ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => {
            Failure::of(error) == Failure::Passing
        }
        _ => false,
    }
}

/// Whether the server does not, or no longer, count a connection's user as signed in. The latter
/// happens to all connections when the user is dropped, and they stay so when it is created again.
pub(super) fn is_signed_out(error: &Error) -> bool {
    // The code is that of missing privileges.
    let is_told = |message: &str| message.contains("requires authentication");
    matches!(
        error.kind.as_ref(),
        ErrorKind::Command(command) if command.code == UNAUTHORIZED && is_told(&command.message)
    )
}

/// The driver's message without what is only for its own ears (labels, sources), and without
/// secrets.
pub fn message(error: &Error) -> String {
    crate::redact::uris(&without_internals(error.kind.to_string()))
}

/// Without what is for whoever debugs the driver or the server: an error within another one as a value of
/// Rust, and a refused command with everything that was sent in it.
fn without_internals(text: String) -> String {
    const WITHIN: &str = " because another operation failed with: Kind: ";
    let text = match text.split_once(WITHIN) {
        Some((_, cause)) => {
            let end = [", labels: ", ", source: "].iter().filter_map(|end| cause.find(end)).min();
            cause[..end.unwrap_or(cause.len())].to_owned()
        }
        None => text,
    };
    match text.split_once(" to execute command {") {
        Some((refused, command)) => {
            let name = command.split(':').next().unwrap_or_default().trim();
            format!("{refused} to execute `{name}`")
        }
        None => text,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_debugging_needs_is_not_told() {
        for (said, told) in [
            (
                "Connection pool for h:1 cleared because another operation failed with: Kind: SCRAM \
                 failure: Authentication failed., source: Some(Error { kind: Command(CommandError { code: \
                 18 }) }), labels: {}",
                "SCRAM failure: Authentication failed.",
            ),
            (
                "Command failed: Error code 13 (Unauthorized): not authorized on shop to execute command { \
                 aggregate: \"orders\", lsid: { id: UUID(\"1\") } }",
                "Command failed: Error code 13 (Unauthorized): not authorized on shop to execute `aggregate`",
            ),
            ("an I/O error: refused", "an I/O error: refused"),
        ] {
            assert_eq!(without_internals(said.to_owned()), told);
        }
    }
}
