//! Frames to bytes, and the loop that sends them.
//!
//! Knows neither HTTP version nor socket: it writes to a [`Sink`], and the proxy brings one for
//! each way in.

use std::future::Future;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::futures::Notified;

use crate::api::reserved::Desk;
use crate::api::sse::{self, Style};
use crate::drain::Drain;
use crate::feed::routes::{Delivery, Kind};
use crate::metrics::Metrics;
use crate::session::subscription::{Frame, Subscription};

/// A client that takes nothing for this long is let go; it comes back with its last id.
pub const MAX_WRITE_STALL: Duration = Duration::from_secs(120);
/// How many bytes go together, at most; a larger event goes alone.
const MAX_WRITE: usize = 64 * 1024;
/// A larger event goes in pieces of so many bytes, for each of which a client has
/// [`MAX_WRITE_STALL`]: what it gets over a slow line in several minutes is not lost to it.
const PIECE: usize = 256 * 1024;

/// Where a stream's bytes go.
pub trait Sink: Send {
    /// Sends the pieces in order and flushes. Many clients may be in the middle of the same ones: a
    /// sink copies no more than is worth it.
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
    pub desk: &'a Desk,
    /// Opens the stream again after its filter was edited, if that is still possible.
    pub reopen: &'a (dyn Fn(&Subscription) -> Option<Subscription> + Send + Sync),
    pub right_ended: RightEnded<'a>,
    pub style: Style,
}

/// Sends a subscription's frames until it ends. The head of the answer has been sent.
///
/// There are many of these, almost all of them idle: what they hold meanwhile is small, or boxed
/// where few have it.
pub async fn serve_sse<S: Sink>(
    sink: &mut S,
    subscription: &mut Subscription,
    serve: &mut Serve<'_>,
) -> Ended {
    let mut ear = pin!(serve.desk.drain.ear());
    let mut last_call = serve.last_call();
    loop {
        // Each in a future of its own: two that never live at the same time share their room.
        let next = wait(sink, subscription, serve, ear.as_mut(), &mut last_call).await;
        match next {
            Next::Frame(frame) => {
                if let Err(ended) =
                    deliver(sink, subscription, &serve.desk.metrics, serve.style, frame).await
                {
                    return ended;
                }
            }
            Next::Retired => match (serve.reopen)(subscription) {
                Some(next) => *subscription = next,
                None => return farewell(sink, "filter-changed", Ended::FilterChanged).await,
            },
            Next::Draining => last_call = LastCall::at_turn(&serve.desk.drain),
            Next::Unauthorized => {
                return farewell(sink, "unauthorized", Ended::Unauthorized).await;
            }
            Next::Ended(ended) => return ended,
        }
    }
}

/// What a stream waits for.
enum Next {
    Frame(Frame),
    /// The filter is no longer the one in force.
    Retired,
    Draining,
    Unauthorized,
    Ended(Ended),
}

async fn wait<S: Sink>(
    sink: &mut S,
    subscription: &mut Subscription,
    serve: &mut Serve<'_>,
    ear: Pin<&mut Notified<'_>>,
    last_call: &mut LastCall,
) -> Next {
    tokio::select! {
        biased;
        // First: a stream that always has something to send must end all the same.
        () = has_ended(&mut serve.right_ended) => Next::Unauthorized,
        () = serve.desk.drain.begun_since(ear), if last_call.is_not_for_drain() => Next::Draining,
        ended = last_call.wait() => Next::Ended(ended),
        frame = subscription.next() => frame.map_or(Next::Retired, Next::Frame),
        () = sink.closed() => Next::Ended(Ended::ClientGone),
    }
}

async fn deliver<S: Sink>(
    sink: &mut S,
    subscription: &mut Subscription,
    metrics: &Metrics,
    style: Style,
    frame: Frame,
) -> Result<(), Ended> {
    let (pieces, large, sent) = gather(subscription, frame, style);
    if !pieces.is_empty() {
        send(sink, &pieces).await?;
    }
    if let Some(large) = large {
        Box::pin(send_large(sink, large)).await?;
    }
    count(metrics, subscription, &sent);
    Ok(())
}

/// Tells the client why, if it still listens.
async fn farewell<S: Sink>(sink: &mut S, reason: &str, ended: Ended) -> Ended {
    let _ = send(sink, &[sse::end(reason)]).await;
    ended
}

async fn send_large<S: Sink>(sink: &mut S, mut rest: Bytes) -> Result<(), Ended> {
    while !rest.is_empty() {
        let piece = rest.split_to(PIECE.min(rest.len()));
        send(sink, &[piece]).await?;
    }
    Ok(())
}

async fn send<S: Sink>(sink: &mut S, pieces: &[Bytes]) -> Result<(), Ended> {
    let mut sending = pin!(sink.send(pieces));
    let at_once = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    let sent = match at_once {
        Poll::Ready(sent) => Ok(sent),
        // Boxed, as few writes wait: there is no room for a timer in each idle stream.
        Poll::Pending => Box::pin(tokio::time::timeout(MAX_WRITE_STALL, sending)).await,
    };
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::ClientGone),
        Err(_) => Err(Ended::Stalled),
    }
}

/// When a stream has to end for our reasons, if it has to.
struct LastCall(Option<(Ended, Time)>);

type Time = Pin<Box<dyn Future<Output = ()> + Send>>;

impl LastCall {
    /// This stream's own time within the drain.
    fn at_turn(drain: &Drain) -> LastCall {
        let drain = drain.clone();
        LastCall(Some((Ended::Draining, Box::pin(async move { drain.my_turn().await }))))
    }

    fn is_not_for_drain(&self) -> bool {
        !matches!(self.0, Some((Ended::Draining, _)))
    }

    async fn wait(&mut self) -> Ended {
        match &mut self.0 {
            Some((ended, time)) => {
                time.await;
                *ended
            }
            None => std::future::pending().await,
        }
    }
}

impl Serve<'_> {
    /// `clients.max_duration`, spread, so that clients that came together do not come back together.
    fn last_call(&self) -> LastCall {
        if self.desk.max_duration.is_zero() {
            return LastCall(None);
        }
        let time = self.desk.max_duration.mul_f64(1.0 - fastrand::f64() / 10.0);
        LastCall(Some((Ended::Expired, Box::pin(tokio::time::sleep(time)))))
    }
}

async fn has_ended(right: &mut RightEnded<'_>) {
    match right {
        Some(ended) => ended.await,
        None => std::future::pending().await,
    }
}

/// What is to be sent next: small pieces that go into one write, then perhaps a large one; and the
/// deliveries among them.
type Gathered = (Vec<Bytes>, Option<Bytes>, Vec<Arc<Delivery>>);

/// Takes everything that is ready, as much as goes together.
fn gather(subscription: &mut Subscription, first: Frame, style: Style) -> Gathered {
    let (mut pieces, mut large, mut sent) = (Vec::new(), None, Vec::new());
    let mut size = 0;
    let mut next = Some(first);
    while let Some(frame) = next {
        let piece = sse::encode(&frame, style);
        size += piece.len();
        match piece.len() > MAX_WRITE {
            true => large = Some(piece),
            false => pieces.push(piece),
        }
        if let Frame::Delivery(delivery) = frame {
            sent.push(delivery);
        }
        next = if size < MAX_WRITE { subscription.next_ready() } else { None };
    }
    (pieces, large, sent)
}

fn count(metrics: &Metrics, subscription: &Subscription, sent: &[Arc<Delivery>]) {
    let events = sent.iter().filter(|delivery| matches!(delivery.kind, Kind::Event(_)));
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
        subscription.count_sent(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so long for each piece.
    struct Slow {
        pause: Duration,
        taken: Vec<u8>,
        sizes: Vec<usize>,
    }

    impl Sink for Slow {
        async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
            tokio::time::sleep(self.pause).await;
            self.sizes.push(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| self.taken.extend_from_slice(piece));
            Ok(())
        }

        async fn closed(&mut self) {
            std::future::pending().await
        }
    }

    async fn sent(pause: Duration, event: &Bytes) -> (Result<(), Ended>, Slow) {
        let mut sink = Slow { pause, taken: Vec::new(), sizes: Vec::new() };
        let sent = send_large(&mut sink, event.clone()).await;
        (sent, sink)
    }

    // Otherwise it would be cut in its middle, and again each time that the client comes back.
    #[tokio::test(start_paused = true)]
    async fn a_large_event_may_take_longer_than_a_stall() {
        let event: Bytes = (0..3 * PIECE + 1).map(|at| (at % 251) as u8).collect();
        let (result, sink) = sent(MAX_WRITE_STALL - Duration::from_secs(1), &event).await;
        assert_eq!((result, sink.taken == *event), (Ok(()), true));
        assert_eq!(sink.sizes, [PIECE, PIECE, PIECE, 1]);
        let (result, sink) = sent(MAX_WRITE_STALL + Duration::from_secs(1), &event).await;
        assert_eq!((result, sink.taken.len()), (Err(Ended::Stalled), 0));
    }
}
