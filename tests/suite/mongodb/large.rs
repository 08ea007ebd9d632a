//! An event of more than 16 MB, and a server that cannot split it and does not answer when the event is
//! read without its documents. That step has a limit; what it does not reach is tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::impossible::{SMALL_JOURNAL, shared, splits};
use super::{collection, expect, expect_reset, filter, insert};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

/// A relay to the shared server. While it is closed, it holds back one kind of request: to read events
/// without their documents. Everything else passes, also what the driver sends to see whether the server
/// is there, so that nothing but the step's own limit ends it.
struct Relay {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    held_back: AtomicUsize,
    /// Requests of these whose connection the sidecar closed while they were held back.
    given_up: AtomicUsize,
}

impl Relay {
    async fn new(is_open: bool) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Relay { address, is_open: watch::Sender::new(is_open), seen: Arc::default() };
        let (opened, seen) = (relay.is_open.clone(), relay.seen.clone());
        tokio::spawn(async move {
            let uri = mongo::uri();
            let host = uri.strip_prefix("mongodb://").unwrap().split('/').next().unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(host).await.unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
                tokio::spawn(pass_on(from_client, to_server, opened.subscribe(), seen.clone()));
            }
        });
        relay
    }

    fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    async fn is_given_up(&self) {
        let has = async |seen: &AtomicUsize| seen.load(Ordering::Relaxed) > 0;
        until("the step is taken", || has(&self.seen.held_back)).await;
        until("its limit is over", || has(&self.seen.given_up)).await;
    }
}

/// Passes on what a client asks, message by message.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_open: watch::Receiver<bool>,
    seen: Arc<Seen>,
) -> std::io::Result<()> {
    loop {
        // Its length in bytes, itself included, comes first.
        let length = from.read_u32_le().await?;
        let mut message = length.to_le_bytes().to_vec();
        message.resize(length as usize, 0);
        from.read_exact(&mut message[4..]).await?;
        let has = |part: &[u8]| message.windows(part.len()).any(|window| window == part);
        if has(b"$changeStream") && has(b"$project") && !*is_open.borrow() {
            seen.held_back.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                opened = is_open.wait_for(|is_open| *is_open) => drop(opened),
                // The driver sends nothing more before it has the answer.
                _ = from.read_u8() => {
                    seen.given_up.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
        to.write_all(&message).await?;
    }
}

/// Two streams, of which one is told of images: those of one replacement are more than 16 MB.
struct Shop {
    filters: Filters,
    orders: Collection<Document>,
    chat: Collection<Document>,
}

impl Shop {
    /// `None` where the server splits such events, and nothing is read without its documents.
    async fn new() -> Option<Shop> {
        let client = shared().await;
        if splits(&client).await {
            return None;
        }
        let database = unique("step");
        let file = |name: &str| {
            let file = filter(&format!("{database}.{name}"));
            format!("{file}fullDocumentBeforeChange: whenAvailable\nproject: {{ pad: 0 }}\n")
        };
        let filters = Filters::new(&[("orders", &file("orders")), ("chat", &file("chat"))]);
        let images =
            doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
        client.database(&database).run_command(images).await.unwrap();
        let [orders, chat] = ["orders", "chat"].map(|name| collection(&client, &database, name));
        Some(Shop { filters, orders, chat })
    }

    async fn write_before(&self) {
        self.orders.insert_one(large("a")).await.unwrap();
        insert(&self.chat, 0..2).await;
    }

    /// The large event, and some behind it.
    async fn write_large(&self) {
        self.orders.replace_one(doc! { "_id": 0 }, large("b")).await.unwrap();
        insert(&self.chat, 2..4).await;
        insert(&self.orders, 1..3).await;
    }
}

fn large(letter: &str) -> Document {
    doc! { "_id": 0_i64, "pad": letter.repeat(9_000_000) }
}

/// What comes behind the large event: a reset in its place for those whom it concerns, and nothing is
/// missing.
async fn expect_rest(orders: &mut Stream, chat: &mut Stream) {
    expect_reset(orders, "history-lost").await;
    expect(orders, 1..3).await;
    expect(chat, 2..4).await;
}

#[tokio::test]
async fn a_live_step_past_a_large_event_that_gets_no_answer_is_tried_again() {
    let Some(shop) = Shop::new().await else { return };
    let silences = format!(
        "sidestream_upstream_restarts_total{{reason=\"network\",upstream=\"{}/updateLookup+whenAvailable\"}}",
        shop.orders.namespace().db
    );
    let relay = Relay::new(false).await;
    let sidecar = sidecar::start(&relay.uri(), &shop.filters, &[]).await;
    let mut orders = Stream::open(sidecar.listen, "/_events/orders").await;
    let mut chat = Stream::open(sidecar.listen, "/_events/chat").await;
    orders.settled().await;
    chat.settled().await;
    shop.write_before().await;
    expect(&mut orders, 0..1).await;
    expect(&mut chat, 0..2).await;
    // Behind an event, that is looked for first, which has a limit of its own.
    assert!(orders.is_quiet_up_to(mongo::now(&shared().await).await).await);
    shop.write_large().await;

    relay.is_given_up().await;
    until("the silence is counted", || async { metric(sidecar.admin, &silences).await >= 1.0 })
        .await;
    assert_eq!(
        metric(sidecar.admin, "sidestream_resets_total{reason=\"history-lost\"}").await,
        0.0
    );

    relay.is_open.send_replace(true);
    expect_rest(&mut orders, &mut chat).await;
    insert(&shop.orders, 3..5).await;
    insert(&shop.chat, 4..6).await;
    expect(&mut orders, 3..5).await;
    expect(&mut chat, 4..6).await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_replays_step_past_a_large_event_that_gets_no_answer_is_tried_again() {
    let Some(shop) = Shop::new().await else { return };
    let relay = Relay::new(true).await;
    let sidecar = sidecar::start(&relay.uri(), &shop.filters, &[SMALL_JOURNAL]).await;
    let mut live = Stream::open(sidecar.listen, "/_events/chat").await;
    let first = live.settled().await;
    shop.write_before().await;
    shop.write_large().await;
    // More than the journal holds.
    for id in 4..6_i64 {
        let document = doc! { "_id": id, "pad": "x".repeat(100_000) };
        shop.chat.insert_one(document).await.unwrap();
    }
    expect(&mut live, 0..6).await;

    relay.is_open.send_replace(false);
    let mut orders = Stream::resume(sidecar.listen, "/_events/orders", &first).await;
    let mut chat = Stream::resume(sidecar.listen, "/_events/chat", &first).await;
    expect(&mut orders, 0..1).await;
    expect(&mut chat, 0..2).await;
    relay.is_given_up().await;
    // The others hear nothing of it.
    insert(&shop.chat, 6..8).await;
    expect(&mut live, 6..8).await;
    assert_eq!(
        metric(sidecar.admin, "sidestream_resets_total{reason=\"history-lost\"}").await,
        0.0
    );

    relay.is_open.send_replace(true);
    expect_rest(&mut orders, &mut chat).await;
    expect(&mut chat, 4..8).await;
    insert(&shop.orders, 3..5).await;
    insert(&shop.chat, 8..10).await;
    expect(&mut orders, 3..5).await;
    expect(&mut chat, 8..10).await;
    sidecar.finish().await;
}
