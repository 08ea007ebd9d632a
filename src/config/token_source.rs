//! Where a request carries a token. A file of its own, so that the fuzzer compiles it alone.

/// Where a request carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    Authorization,
    Cookie(String),
    /// Ends up in the logs of whatever is in front of the sidecar; never a default.
    Query(String),
}
