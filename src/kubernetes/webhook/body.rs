//! The bodies of reviews, read so that no number of clients fills the memory.
//!
//! A review has a few kilobytes. Before more than [`SMALL_BYTES`] of one are read, it takes one of a
//! few turns, and keeps it until it was answered. So clients that send large ones wait for each other,
//! and the API server's pass them.

use std::fmt::Display;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The API server takes no larger object.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;
/// As many connections as there may be hold as much each.
const SMALL_BYTES: usize = 64 * 1024;
/// Each may become some ten times as much when it is answered.
pub const LARGE_AT_A_TIME: usize = 2;

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("{0}")]
    Broken(String),
}

/// A whole body, and its turn if it is a large one.
///
/// # Errors
/// See [`BodyError`].
pub async fn read<B>(
    mut body: B,
    large: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let (mut whole, mut turn) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > MAX_BYTES {
            return Err(BodyError::TooLarge);
        }
        if length > SMALL_BYTES && turn.is_none() {
            // It is never closed.
            turn = large.acquire().await.ok();
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), turn))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn body(bytes: usize) -> Full<Bytes> {
        Full::new(Bytes::from(vec![b'x'; bytes]))
    }

    /// One that stalls after this much.
    fn stalled(bytes: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let data = Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; bytes])));
        StreamBody::new(stream::iter([data]).chain(stream::pending()))
    }

    #[test]
    fn large_bodies_wait_for_each_other_and_small_ones_for_none() {
        let large = Semaphore::new(1);
        let first = read(stalled(SMALL_BYTES + 1), &large);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(large.available_permits(), 0);
        let (small, turn) = read(body(SMALL_BYTES), &large).now_or_never().unwrap().unwrap();
        assert!(small.len() == SMALL_BYTES && turn.is_none());
        let second = read(body(SMALL_BYTES + 1), &large);
        tokio::pin!(second);
        assert!(second.as_mut().now_or_never().is_none());
        first.set(read(stalled(0), &large));
        let (_, turn) = second.now_or_never().unwrap().unwrap();
        assert!(turn.is_some());
    }

    #[test]
    fn none_is_larger_than_the_api_servers() {
        let large = Semaphore::new(1);
        let read =
            |bytes| read(body(bytes), &large).now_or_never().unwrap().map(|(all, _)| all.len());
        assert_eq!(read(MAX_BYTES), Ok(MAX_BYTES));
        assert_eq!(read(MAX_BYTES + 1), Err(BodyError::TooLarge));
        assert_eq!(read(0), Ok(0));
    }
}
