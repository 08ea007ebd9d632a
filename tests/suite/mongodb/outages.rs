//! Servers that go away under open streams: restarts, elections, frozen machines, errors of every
//! kind. What can go on goes on, with exactly what came in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mongodb::bson::doc;
use rustix::process::Signal;
use sidestream::event::Position;

use super::{collection, expect, expect_reset, filter, id, insert};
use crate::support::mongo::{self, Own, Setup};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{http, until};

/// Reads on until a sign of life that is no position; gives the inserts that came before it.
async fn until_comment(stream: &mut Stream) -> Vec<i64> {
    let mut found = Vec::new();
    loop {
        let block = stream.block().await.expect("the stream goes on");
        if block.is_comment {
            return found;
        }
        if block.data.is_some() && block.name() != "ready" {
            found.push(id(&block));
        }
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back() {
    let mut own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");
    let mut next = 0;
    for signal in [Signal::KILL, Signal::TERM] {
        let end = next + 10;
        insert(&orders, next..next + 5).await;
        expect(&mut stream, next..next + 5).await;
        next += 5;
        // Whether these are read before the server's end is a matter of luck. They come, now or
        // when it is back.
        insert(&orders, next..next + 2).await;
        own.end(0, signal);
        for found in until_comment(&mut stream).await {
            assert_eq!(found, next);
            next += 1;
        }
        // It was ready once: streams wait for MongoDB, and are let in.
        assert_eq!(http::get(sidecar.admin, "/readyz").await.head.status, 200);
        let last = stream.last_event_id.clone().unwrap();
        let mut early = Stream::resume(sidecar.listen, "/_events/orders", &last).await;
        let mut next_early = next;
        for found in until_comment(&mut early).await {
            assert_eq!(found, next_early);
            next_early += 1;
        }
        own.restart(0);
        insert(&orders, end - 3..end).await;
        expect(&mut stream, next..end).await;
        expect(&mut early, next_early..end).await;
        next = end;
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_primary_that_is_killed_steps_down_or_freezes() {
    let mut own = Own::start(Setup { members: 3, ..Setup::default() }).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");

    insert(&orders, 0..5).await;
    let killed = own.primary().await;
    own.kill(killed);
    insert(&orders, 5..10).await;
    expect(&mut stream, 0..10).await;
    own.restart(killed);

    // The primary may refuse while no other has caught up.
    until("the primary steps down", || async {
        let step_down = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 4 };
        own.admin(step_down).await.is_ok()
    })
    .await;
    insert(&orders, 10..15).await;
    expect(&mut stream, 10..15).await;

    let frozen = own.primary().await;
    own.freeze(frozen);
    let mut others = Vec::new();
    for index in (0..3).filter(|index| *index != frozen) {
        others.push(own.direct(index).await);
    }
    let elected = mongo::elected(&others).await;
    insert(&collection(&elected, "shop", "orders"), 15..20).await;
    expect(&mut stream, 15..20).await;
    own.thaw(frozen);
    insert(&orders, 20..22).await;
    expect(&mut stream, 20..22).await;
    sidecar.finish().await;
}

/// Errors after which nothing is lost: by the server's own lists, and those that it gives when
/// something else has gone wrong.
const PASSING: [i32; 8] = [43, 91, 189, 10107, 11600, 13388, 136, 1];

#[tokio::test]
async fn errors_of_the_cursor() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let uri = format!("{}&appName=sidecar-under-test", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");
    let mut next = 0;
    for code in PASSING {
        for commands in [&["getMore"][..], &["getMore", "aggregate"]] {
            own.fail(commands, doc! { "times": 3 }, "sidecar-under-test", code).await;
            insert(&orders, next..next + 2).await;
            expect(&mut stream, next..next + 2).await;
            own.heal().await;
            next += 2;
        }
    }
    // What a cursor says once is asked again, and costs nobody a reset.
    for (code, reason) in [(280, "fatal"), (286, "history-lost")] {
        own.fail(&["getMore"], doc! { "times": 1 }, "sidecar-under-test", code).await;
        insert(&orders, next..next + 2).await;
        expect(&mut stream, next..next + 2).await;
        let restarts = format!(
            "sidestream_upstream_restarts_total{{reason=\"{reason}\",upstream=\"shop/updateLookup\"}}"
        );
        until("the cursor has said it", || async {
            sidecar::metric(sidecar.admin, &restarts).await >= 1.0
        })
        .await;
        // The next one has read something: what that says is once again, and not twice.
        next += 2;
        insert(&orders, next..next + 2).await;
        expect(&mut stream, next..next + 2).await;
        next += 2;
    }
    for (command, code, times) in
        [("getMore", 280, 2), ("getMore", 286, 2), ("aggregate", 280, 2), ("aggregate", 286, 1)]
    {
        // The sidecar looks into the oplog by an aggregate as well.
        let data = doc! {
            "failCommands": [command], "errorCode": code, "appName": "sidecar-under-test",
        };
        own.fail_streams("shop", data, times).await;
        if command == "aggregate" {
            // The cursor is gone, and the driver's own attempt to resume fails for good.
            own.admin(doc! { "killAllSessions": [] }).await.expect("the right to");
        }
        expect_reset(&mut stream, "history-lost").await;
        insert(&orders, next..next + 2).await;
        expect(&mut stream, next..next + 2).await;
        next += 2;
    }
    let metric = "sidestream_resets_total{reason=\"history-lost\"}";
    assert_eq!(sidecar::metric(sidecar.admin, metric).await, 4.0);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_deployment_that_is_set_up_anew_is_found_and_read() {
    let mut own = Own::start(Setup::default()).await;
    // An election more than the new one will have had, so that its primary looks outdated.
    own.kill(0);
    own.restart(0);
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    insert(&collection(&own.client().await, "shop", "orders"), 0..2).await;
    expect(&mut stream, 0..2).await;

    own.kill(0);
    own.wipe(0);
    own.restart(0);
    own.initiate().await;
    insert(&collection(&own.client().await, "shop", "orders"), 2..4).await;
    // An event's token is none of the new deployment, and leads to a reset. A high-water mark is
    // only a time, and a young oplog takes it: then the stream goes on without one.
    let first = stream.event().await;
    if first.name() == "reset" {
        assert_eq!(first.json()["reason"], "history-lost");
        insert(&collection(&own.client().await, "shop", "orders"), 4..6).await;
        while id(&stream.event().await) != 5 {}
    } else {
        assert_eq!(id(&first), 2);
        expect(&mut stream, 3..4).await;
    }
    sidecar.finish().await;
}

// The new oplog is empty at first, so the old place is taken there, and the sidecar goes on from where that
// leads: that it was lost shows with the first event, which is about the place that nobody is at any more.
#[tokio::test]
async fn a_deployment_that_is_set_up_anew_is_found_by_its_first_event() {
    let mut own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let position = || async {
        let streams = http::get(sidecar.admin, "/streams").await.json();
        let text = streams["upstreams"][0]["position"].as_str().expect("a position").to_owned();
        (streams["upstreams"][0]["status"].clone(), text)
    };
    let mut next = 0;
    let id_before = loop {
        insert(&collection(&own.client().await, "shop", "orders"), next..next + 1).await;
        expect(&mut stream, next..next + 1).await;
        next += 1;
        own.kill(0);
        // Before a mark of time took the place of the event's own token.
        let id = stream.last_event_id.clone().expect("an id");
        let of_event = Position::parse(&id).expect("a position").without_document().to_string();
        if position().await.1 == of_event {
            break id;
        }
        own.restart(0);
    };
    let time = Position::parse(&id_before).expect("a position").time();
    own.wipe(0);
    own.restart(0);
    own.initiate().await;
    until("the new one is read", || async {
        let (status, text) = position().await;
        status == "live" && Position::parse(&text).is_ok_and(|position| position.time() > time)
    })
    .await;
    insert(&collection(&own.client().await, "shop", "orders"), next..next + 1).await;
    expect_reset(&mut stream, "history-lost").await;
    // Who comes back is told, too.
    let mut again = Stream::resume(sidecar.listen, "/_events/orders", &id_before).await;
    assert_eq!(again.event().await.name(), "reset");
    let orders = collection(&own.client().await, "shop", "orders");
    insert(&orders, next + 1..next + 2).await;
    for stream in [&mut stream, &mut again] {
        expect(stream, next + 1..next + 2).await;
    }
    sidecar.finish().await;
}

// Nothing here waits for the other: writes, kills and reconnecting clients as they fall.
#[tokio::test]
async fn writes_kills_and_reconnects_at_once() {
    const WRITES: i64 = 600;
    let mut own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let settings = [("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let sidecar = sidecar::start(&own.uri(), &filters, &settings).await;
    let mut faithful = Stream::open(sidecar.listen, "/_events/orders").await;
    faithful.settled().await;
    let mut fickle = Stream::open(sidecar.listen, "/_events/orders").await;
    fickle.settled().await;
    let client = own.client().await;
    let written = Arc::new(AtomicI64::new(0));
    let writer = tokio::spawn({
        let orders = collection(&client, "shop", "orders");
        let written = written.clone();
        async move {
            let pad = "x".repeat(1000);
            for id in 0..WRITES {
                // An answer that was lost is no write that was: the second attempt tells.
                while let Err(error) = orders.insert_one(doc! { "_id": id, "pad": &pad }).await {
                    if error.to_string().contains("E11000") {
                        break;
                    }
                }
                written.store(id + 1, Ordering::Release);
            }
        }
    });
    let reader = tokio::spawn({
        let listen = sidecar.listen;
        async move {
            for wanted in 0..WRITES {
                let event = fickle.event().await;
                assert_eq!(id(&event), wanted);
                if fastrand::u8(..) < 16 {
                    let last = event.id.expect("an id");
                    fickle = Stream::resume(listen, "/_events/orders", &last).await;
                }
            }
        }
    });
    for share in 1..4 {
        until("some more is written", || async {
            written.load(Ordering::Acquire) >= WRITES / 4 * share
        })
        .await;
        own.kill(0);
        own.restart(0);
    }
    expect(&mut faithful, 0..WRITES).await;
    reader.await.expect("exactly what was written");
    writer.await.expect("written");
    sidecar.finish().await;
}

// The driver resumes by itself once, and forgets from where when that is cut too and tried again: it
// would read anew all that came since the cursor was opened.
#[tokio::test]
async fn connections_that_break_twice_let_nothing_be_read_again() {
    const READ: &str = "sidestream_events_read_total{upstream=\"shop/updateLookup\"}";
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let uri = format!("{}&appName=cut", own.uri());
    let sidecar = sidecar::start(&uri, &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = own.client().await;
    let orders = collection(&client, "shop", "orders");
    let mut next = 0;
    for cuts in 1..4 {
        insert(&orders, next..next + 5).await;
        expect(&mut stream, next..next + 5).await;
        own.cut_streams("shop", &["getMore", "aggregate"], cuts, "cut").await;
        insert(&orders, next + 5..next + 7).await;
        expect(&mut stream, next + 5..next + 7).await;
        own.heal().await;
        next += 7;
    }
    assert_eq!(sidecar::metric(sidecar.admin, READ).await, next as f64);
    sidecar.finish().await;
}
