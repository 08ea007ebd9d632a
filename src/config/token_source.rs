//! The query of the reserved path: which names it has taken, and where a request carries a token. A
//! file of its own, so that the fuzzer compiles it alone.

/// Query names that the reserved path itself reads. Neither a parameter of a filter nor a token may
/// have one of them.
pub const RESERVED_QUERY: [&str; 6] =
    ["lastEventId", "since", "stream", "transport", "wait", "heartbeat"];

/// Where a request carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    Authorization,
    Cookie(String),
    /// Ends up in the logs of whatever is in front of the sidecar; never a default.
    Query(String),
}
