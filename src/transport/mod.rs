//! Frames to bytes, and the loop that sends them.
//!
//! Knows neither HTTP version nor socket: it writes to a [`Sink`], and the proxy brings one for
//! each way in.

pub mod problem;
pub mod sse;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::routes::{Delivery, Kind};
use crate::subscription::{Frame, Subscription};

/// A client that takes nothing for this long is let go; it comes back with its last id.
pub const MAX_WRITE_STALL: Duration = Duration::from_secs(120);
/// What goes into one write at most, in bytes, short of a single larger event.
const MAX_WRITE: usize = 64 * 1024;

/// Where a stream's bytes go.
pub trait Sink: Send {
    /// Sends the pieces in order, as one chunk, and flushes.
    fn send(&mut self, pieces: &[Bytes]) -> impl Future<Output = io::Result<()>> + Send;
    /// Resolves when the client has gone. May be dropped and called again.
    fn closed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    ClientGone,
    /// The client took nothing for [`MAX_WRITE_STALL`].
    Stalled,
    Draining,
    /// `clients.max_duration`
    Expired,
    /// The filter changed, and the client's parameters no longer fit, or it is gone.
    FilterChanged,
    /// The caller's right has ended.
    Unauthorized,
}

impl Ended {
    /// For the metric `streams_ended_total{reason}`.
    pub fn reason(self) -> &'static str {
        match self {
            Ended::ClientGone => "client-closed",
            Ended::Stalled => "stalled",
            Ended::Draining => "drained",
            Ended::Expired => "expired",
            Ended::FilterChanged => "filter-changed",
            Ended::Unauthorized => "unauthorized",
        }
    }
}

/// Resolves when the caller's right to listen has ended; `None` for a public stream, which has no
/// caller and must not pay for one.
pub type RightEnded<'a> = Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>;

/// What the loop needs besides the subscription.
pub struct Serve<'a> {
    pub metrics: &'a Metrics,
    pub drain: &'a Drain,
    /// Zero: no limit.
    pub max_duration: Duration,
    /// Opens the stream again after its filter was edited, if that is still possible.
    pub reopen: &'a (dyn Fn(&Subscription) -> Option<Subscription> + Send + Sync),
    pub right_ended: RightEnded<'a>,
}

/// Sends a subscription's frames until it ends. The head of the answer has been sent.
pub async fn serve_sse<S: Sink>(
    sink: &mut S,
    mut subscription: Subscription,
    mut serve: Serve<'_>,
) -> Ended {
    let draining = serve.drain.my_turn();
    tokio::pin!(draining);
    let expired = async {
        match serve.max_duration.is_zero() {
            true => std::future::pending().await,
            // Spread, so that clients that came together do not come back together.
            false => {
                tokio::time::sleep(serve.max_duration.mul_f64(1.0 - fastrand::f64() / 10.0)).await
            }
        }
    };
    tokio::pin!(expired);
    let mut pieces: Vec<Bytes> = Vec::new();
    loop {
        let frame = tokio::select! {
            biased;
            // First: a stream that always has something to send must end all the same.
            () = has_ended(&mut serve.right_ended) => {
                pieces.clear();
                pieces.push(sse::end("unauthorized"));
                let _ = tokio::time::timeout(MAX_WRITE_STALL, sink.send(&pieces)).await;
                return Ended::Unauthorized;
            }
            () = &mut draining => return Ended::Draining,
            () = &mut expired => return Ended::Expired,
            frame = subscription.next() => frame,
            () = sink.closed() => return Ended::ClientGone,
        };
        pieces.clear();
        let mut sent: Vec<Arc<Delivery>> = Vec::new();
        match frame {
            Some(frame) => gather(&mut subscription, frame, &mut pieces, &mut sent),
            None => match (serve.reopen)(&subscription) {
                Some(next) => {
                    subscription = next;
                    continue;
                }
                None => {
                    pieces.push(sse::end("filter-changed"));
                    let _ = tokio::time::timeout(MAX_WRITE_STALL, sink.send(&pieces)).await;
                    return Ended::FilterChanged;
                }
            },
        }
        match tokio::time::timeout(MAX_WRITE_STALL, sink.send(&pieces)).await {
            Ok(Ok(())) => count(serve.metrics, &subscription, &sent),
            Ok(Err(_)) => return Ended::ClientGone,
            Err(_) => return Ended::Stalled,
        }
    }
}

async fn has_ended(right: &mut RightEnded<'_>) {
    match right {
        Some(ended) => ended.await,
        None => std::future::pending().await,
    }
}

/// Everything that is ready goes into one write.
fn gather(
    subscription: &mut Subscription,
    first: Frame,
    pieces: &mut Vec<Bytes>,
    sent: &mut Vec<Arc<Delivery>>,
) {
    let mut size = 0;
    let mut next = Some(first);
    while let Some(frame) = next {
        let piece = sse::encode(&frame);
        size += piece.len();
        pieces.push(piece);
        if let Frame::Delivery(delivery) = frame {
            sent.push(delivery);
        }
        next = if size < MAX_WRITE { subscription.next_ready() } else { None };
    }
}

fn count(metrics: &Metrics, subscription: &Subscription, sent: &[Arc<Delivery>]) {
    let events = sent.iter().filter(|delivery| matches!(delivery.kind, Kind::Event(_)));
    let stream = &subscription.filter().name;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let mut count = 0;
    for delivery in events {
        count += 1;
        if let Some(wall) = delivery.wall_millis.and_then(|wall| u128::try_from(wall).ok()) {
            // Clocks differ: an event from the future took no time.
            let millis = u32::try_from(now.saturating_sub(wall)).unwrap_or(u32::MAX);
            metrics.delivery_seconds.observe(f64::from(millis) / 1000.0);
        }
    }
    if count > 0 {
        metrics.events_sent_total.with_label_values(&[stream]).inc_by(count);
    }
}
