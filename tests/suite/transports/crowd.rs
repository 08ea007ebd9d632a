//! Where many listen to the same stream, one loop writes to all of them: by each transport, with clients
//! that take their time, and while other things happen to their connections.

use mongodb::bson::doc;
use serde_json::json;
use tokio::task::JoinSet;

use super::ndjson::Lines;
use super::websocket::Socket;
use super::{collection, filter, insert, key};
use crate::access::forward;
use crate::access::server::{Reply, Server};
use crate::proxy::app::limit_buffers;
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

/// Of each transport.
const CLIENTS: usize = 12;

/// One client by any of them.
enum Client {
    Sse(Box<Stream>),
    Ndjson(Box<Lines>),
    WebSocket(Box<Socket>),
}

impl Client {
    /// The key of its next event.
    async fn next(&mut self) -> i64 {
        match self {
            Client::Sse(stream) => {
                let event = stream.event().await.json();
                event["documentKey"]["_id"].as_i64().expect("a key")
            }
            Client::Ndjson(lines) => key(&lines.event().await),
            Client::WebSocket(socket) => key(&socket.event().await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_is_given_everything_once() {
    let database = unique("crowd");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    // Signs of life come between the events.
    let settings = [("SIDESTREAM_CLIENTS__HEARTBEAT", "1s")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
        stream.until_ready().await;
        if number % 4 == 0 {
            limit_buffers(stream.socket());
        }
        clients.push(Client::Sse(Box::new(stream)));
        let mut lines = Lines::open(sidecar.listen, "/_events/a", "").await;
        assert_eq!(lines.event().await["event"], "ready");
        clients.push(Client::Ndjson(Box::new(lines)));
        let mut socket = Socket::open(sidecar.listen, "/_events/a").await;
        assert_eq!(socket.event().await["event"], "ready");
        clients.push(Client::WebSocket(Box::new(socket)));
    }
    // One at a time: everybody waits.
    for number in 0..20 {
        insert(&database, "a", number..number + 1).await;
        for client in &mut clients {
            assert_eq!(client.next().await, number);
        }
    }
    // More than the sockets of those hold who do not read meanwhile.
    const EVENTS: i64 = 800;
    let events = collection(&database, "a").await;
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        let pad = "x".repeat(3_000);
        for number in 20..20 + EVENTS {
            events.insert_one(doc! { "_id": number, "pad": &pad }).await.expect("a write");
        }
    });
    // As of above.
    let (quick, slow): (Vec<_>, Vec<_>) =
        (0..).zip(clients).partition(|(number, _)| number % 12 > 0);
    let mut reading = JoinSet::new();
    for (_, mut client) in quick {
        reading.spawn(async move {
            for number in 20..20 + EVENTS {
                assert_eq!(client.next().await, number);
            }
            client
        });
    }
    let mut clients = reading.join_all().await;
    writer.join_all().await;
    for (_, mut client) in slow {
        for number in 20..20 + EVENTS {
            assert_eq!(client.next().await, number);
        }
        clients.push(client);
    }
    // Those who leave take nobody along.
    clients.truncate(20);
    let metrics = |name: &'static str| metric(sidecar.admin, name);
    let open = || metrics("sidestream_subscriptions{stream=\"a\"}");
    until("the others are gone", || async { open().await == 20.0 }).await;
    insert(&database, "a", 5_000..5_001).await;
    for client in &mut clients {
        assert_eq!(client.next().await, 5_000);
    }
    // Counted together, soon after they were written.
    let all = (3 * CLIENTS) as f64 * (20 + EVENTS) as f64 + 20.0;
    let sent = || metrics("sidestream_events_sent_total{stream=\"a\"}");
    until("all are counted", || async { sent().await == all }).await;
    sidecar.finish().await;
}

// The loop has written what it could, and nothing comes after it that would show that the client takes no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_nothing_any_more_is_let_go_without_another_event() {
    let database = unique("stalled");
    let filters = Filters::new(&[("a", &filter(&format!("{database}.a"), ""))]);
    // A sign of life would show it, too.
    let settings =
        [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "1s"), ("SIDESTREAM_CLIENTS__HEARTBEAT", "10m")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let stalled = Stream::open(sidecar.listen, "/_events/a").await;
    limit_buffers(stalled.socket());
    let mut others = Vec::new();
    for _ in 0..2 * CLIENTS {
        let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
        stream.until_ready().await;
        others.push(stream);
    }
    let all = others.len() + 1;
    let ended = || metric(sidecar.admin, "sidestream_streams_ended_total{reason=\"stalled\"}");
    let sent = || metric(sidecar.admin, "sidestream_events_sent_total{stream=\"a\"}");
    let events = collection(&database, "a").await;
    let pad = "x".repeat(12_000);
    let mut number = 0;
    while ended().await == 0.0 {
        events.insert_one(doc! { "_id": number, "pad": &pad }).await.expect("a write");
        for stream in &mut others {
            assert_eq!(stream.event().await.json()["documentKey"]["_id"], number);
        }
        number += 1;
        // There is no next one before this one was taken, or nobody is there any more who could.
        let taken = (number as usize * all) as f64;
        until("it takes it, or is let go", || async {
            sent().await == taken || ended().await == 1.0
        })
        .await;
    }
    drop(stalled);
    let open = || metric(sidecar.admin, "sidestream_subscriptions{stream=\"a\"}");
    until("nobody else was", || async { open().await == others.len() as f64 }).await;
    sidecar.finish().await;
}

// The app is asked all the while, by tasks that run beside the loops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_whose_right_is_asked_for_again_is_given_everything_once() {
    const EVENTS: i64 = 500;
    let app = Server::start(|_| Reply::json(&json!({ "sub": "ada" }))).await;
    let database = unique("crowd");
    let settings = [
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "100ms"),
        ("SIDESTREAM_AUTH__FORWARD__CACHE", "0s"),
        ("SIDESTREAM_AUTH__FORWARD__TIMEOUT", "30s"),
        ("SIDESTREAM_AUTH__FORWARD__MAX_OUTAGE", "10m"),
    ];
    let sidecar = forward::start(&app, &forward::files(&database), &settings).await;
    let mut clients = Vec::new();
    for number in 0..2 * CLIENTS {
        let fields = forward::cookie(&format!("session-{number}"));
        let mut stream = Stream::open_with(sidecar.listen, "/_events/mine", &fields).await;
        stream.until_ready().await;
        clients.push(stream);
    }
    let before = app.count();
    let mut reading = JoinSet::new();
    for mut stream in clients {
        reading.spawn(async move {
            for number in 0..EVENTS {
                assert_eq!(stream.event().await.json()["documentKey"]["_id"], number);
            }
        });
    }
    let orders = collection(&database, "orders").await;
    for number in 0..EVENTS {
        orders.insert_one(doc! { "_id": number, "customer": "ada" }).await.expect("a write");
    }
    reading.join_all().await;
    assert!(app.count() > before + 2 * CLIENTS, "it was asked about each meanwhile");
    sidecar.finish().await;
}
