//! How long a look may take, and how much it may ask at a time.

use std::future::Future;
use std::time::Duration;

use mongodb::error::Error;

use super::{Finding, FindingKind};
use crate::filter::Filter;
use crate::upstream::failure::{self, Failure};
use crate::upstream::patience::Silence;

/// How many databases are looked at together. A request at a time for each of them is little for
/// MongoDB, and the smallest pool of connections has as many.
pub(super) const AT_A_TIME: usize = 4;
/// How long the server may work on one request.
pub(super) const MAX_TIME: Duration = Duration::from_secs(10);
/// How long the answers to one step may take. Longer than the driver looks for a server, so that one
/// that cannot be reached is told as that.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why something could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Silent(#[from] Silence),
    #[error("{}", failure::message(.0))]
    Driver(#[from] Error),
}

impl LookError {
    /// Whether nothing else can be looked at, either.
    pub(super) fn is_of_all(&self) -> bool {
        match self {
            LookError::Silent(_) => false,
            LookError::Driver(error) => {
                matches!(Failure::of(error), Failure::Unreachable | Failure::Authentication)
            }
        }
    }

    /// That there was no answer.
    pub(super) fn silence(&self) -> Option<Silence> {
        match self {
            LookError::Silent(silence) => Some(*silence),
            LookError::Driver(_) => None,
        }
    }

    /// That this could not be looked at, for a filter or for all of them.
    pub(super) fn finding(&self, filter: Option<&Filter>, what: &str) -> Finding {
        Finding {
            stream: filter.map(|filter| filter.name.clone()),
            kind: FindingKind::NotInspected,
            message: format!("{what} could not be inspected: {self}"),
            fix: Some("if this stays so, see MongoDB's own log".to_owned()),
        }
    }
}

/// The outcome of one step of a look, which may consist of several requests.
///
/// # Errors
/// Those of the driver, and that it takes too long.
pub(super) async fn within<T>(
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, LookError> {
    within_more(Duration::ZERO, step).await
}

/// As [`within`], of a step that may take so much longer.
///
/// # Errors
/// Those of the driver, and that it takes too long.
pub(super) async fn within_more<T>(
    more: Duration,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, LookError> {
    let limit = PATIENCE.saturating_add(more);
    match tokio::time::timeout(limit, step).await {
        Ok(outcome) => outcome.map_err(LookError::Driver),
        Err(_) => Err(LookError::Silent(Silence(limit))),
    }
}

/// [`MAX_TIME`] as commands have it.
pub(super) fn max_time_millis() -> i64 {
    i64::try_from(MAX_TIME.as_millis()).unwrap_or(i64::MAX)
}
