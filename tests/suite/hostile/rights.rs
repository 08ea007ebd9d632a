//! Attacks on rights: what is given after a right has ended, files that take one away, secrets that can
//! be guessed, pages that reach the admin port.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mongodb::bson::doc;
use serde_json::json;

use crate::access::forward::{cookie, files, me, start};
use crate::access::insert;
use crate::access::server::{Question, Reply, Server};
use crate::reload;
use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique, until};

/// A full window must not keep a stream from hearing that its caller has signed out.
#[tokio::test]
async fn what_is_written_after_signing_out_is_not_given_to_a_stalled_stream() {
    const AFTER: i64 = 1000;
    let app = Server::start(me).await;
    let database = unique("forward");
    // The stream is not to end for being stalled, however long the writes take; and an answer of the app
    // that is late on a busy machine is not to count as none, after which events go on for a while.
    let settings = [
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "300ms"),
        ("SIDESTREAM_AUTH__FORWARD__CACHE", "0s"),
        ("SIDESTREAM_AUTH__FORWARD__TIMEOUT", "30s"),
        ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "10m"),
    ];
    let sidecar = start(&app, &files(&database), &settings).await;
    let mut ada = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("ada")).await;
    ada.settled().await;
    // Far more than the sockets' buffers hold, and nobody reads.
    let filler = "x".repeat(64 * 1024);
    for number in 0..300_i64 {
        let order = doc! { "_id": number, "customer": "ada", "filler": &filler };
        insert(&database, "orders", order).await;
    }
    // Asked once more, it is not asked again.
    let refusals = Arc::new(AtomicUsize::new(0));
    app.answer_with({
        let refusals = refusals.clone();
        move |_| {
            refusals.fetch_add(1, Ordering::AcqRel);
            Reply::status(401)
        }
    });
    until("the app is asked again", || async { refusals.load(Ordering::Acquire) > 0 }).await;
    for number in AFTER..AFTER + 20 {
        insert(&database, "orders", doc! { "_id": number, "customer": "ada" }).await;
    }
    let mut given = 0;
    let end = loop {
        let event = ada.event().await;
        if event.name() == "end" {
            break event;
        }
        let id = event.json()["documentKey"]["_id"].as_i64().expect("an id");
        assert!(id < AFTER, "{id} was written after the caller had signed out");
        given += 1;
    };
    assert_eq!(end.json(), json!({ "reason": "unauthorized" }));
    assert!(given < 300, "the stream was not stalled");
    assert_eq!(ada.block().await, None);
    sidecar.finish().await;
}

/// Where many listen, one loop writes to all of them, beside the tasks that ask the app. In one thread: a question
/// that comes is either counted before the answers change, or waits.
#[tokio::test]
async fn what_is_written_while_the_app_is_asked_waits_for_its_answer_where_many_listen() {
    const OTHERS: usize = 19;
    // The same person by two sessions: one route.
    let ada = json!({ "sub": "ada" });
    let app = Server::start({
        let ada = ada.clone();
        move |_| Reply::json(&ada)
    })
    .await;
    let database = unique("forward");
    let settings = [
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "300ms"),
        ("SIDESTREAM_AUTH__FORWARD__CACHE", "0s"),
        ("SIDESTREAM_AUTH__FORWARD__TIMEOUT", "30s"),
    ];
    let sidecar = start(&app, &files(&database), &settings).await;
    let mut public = Stream::open(sidecar.listen, "/_events/public").await;
    let mut all = Vec::new();
    for number in 0..=OTHERS {
        let fields = cookie(if number == OTHERS { "last" } else { "first" });
        all.push(Stream::open_with(sidecar.listen, "/_events/mine", &fields).await);
    }
    for stream in all.iter_mut().chain([&mut public]) {
        stream.until_ready().await;
    }
    let asked = || {
        let is_last = |question: &&Question| {
            question.field("cookie").is_some_and(|it| it.contains("session=last"))
        };
        app.questions().iter().filter(is_last).count()
    };
    let key = |event: &Block| event.json()["documentKey"]["_id"].as_i64();
    // From here on, their tasks wait.
    insert(&database, "orders", doc! { "_id": 1, "customer": "ada" }).await;
    for stream in all.iter_mut().chain([&mut public]) {
        assert_eq!(key(&stream.event().await), Some(1));
    }
    app.answer_with(move |question| match question.field("cookie") {
        Some(cookies) if cookies.contains("session=last") => Reply::status(401),
        _ => Reply::json(&ada),
    });
    app.hold();
    let before = asked();
    until("it is asked about the last one", || async { asked() > before }).await;
    insert(&database, "orders", doc! { "_id": 2, "customer": "ada" }).await;
    assert_eq!(key(&public.event().await), Some(2));
    app.release();
    let mut last = all.pop().expect("it was opened");
    let end = last.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "unauthorized" })));
    for stream in &mut all {
        assert_eq!(key(&stream.event().await), Some(2));
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_file_that_takes_a_right_away_ends_its_streams() {
    let database = unique("reload");
    let filters = Filters::new(&[
        ("a", &reload::filter(&database, "a", "")),
        ("b", &reload::filter(&database, "b", "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut a = Stream::open(sidecar.listen, "/_events/a").await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    a.settled().await;
    b.settled().await;
    // Nobody can vouch for a caller here.
    filters.write("a", &format!("collection: {database}.a\naccess: authenticated\n"));
    assert_eq!(a.event().await.name(), "end");
    assert_eq!(a.block().await, None);
    assert_ne!(http::get(sidecar.listen, "/_events/a").await.head.status, 200);
    let told = http::get(sidecar.admin, "/streams").await.json();
    assert_eq!(told["streams"][0]["state"], "broken");
    assert!(
        told["streams"][0]["reason"].as_str().unwrap().contains("no caller can be authenticated")
    );
    reload::insert(&database, "b", doc! { "_id": 1 }).await;
    assert_eq!(b.event().await.name(), "insert");
    sidecar.finish().await;
}

/// A page of a site whose name leads to this host is on the same origin as we are, for a browser.
#[tokio::test]
async fn a_page_whose_name_leads_here_is_told_nothing() {
    let database = unique("admin");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text)]);
    let settings = [("SIDESTREAM_CONSOLE__HOSTS", "Ops.internal")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    for (hosts, status) in [
        (&["127.0.0.1:9180"][..], 200),
        (&["10.0.0.7"], 200),
        (&["[::1]:9180"], 200),
        (&["localhost:9180"], 200),
        (&["LOCALHOST"], 200),
        (&["ops.internal:80"], 200),
        (&["ops.internal."], 200),
        (&["evil.example:9180"], 421),
        (&["localhost.evil.example"], 421),
        (&["127.0.0.1.evil.example"], 421),
        (&["127.0.0.1@evil.example"], 421),
        (&["[::1"], 421),
        (&["localhost:x"], 421),
        (&[""], 421),
        (&["localhost", "evil.example"], 421),
    ] {
        let mut connection = http::Connection::open(sidecar.admin).await;
        let fields: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        connection.send(format!("GET /streams HTTP/1.1\r\n{fields}\r\n")).await;
        // What can be no host at all, the server may drop before anything is asked.
        let Some(head) = connection.head().await else {
            assert_eq!(status, 421, "{hosts:?}");
            continue;
        };
        assert_eq!(head.status, status, "{hosts:?}");
        assert_eq!(head.field("access-control-allow-origin"), None);
    }
    sidecar.finish().await;
}

/// Where somebody can vouch for callers, those whom nobody has vouched for are let go.
#[tokio::test]
async fn a_file_that_asks_for_a_caller_ends_the_streams_of_nobody() {
    let database = unique("hostile");
    let public = format!("collection: {database}.a\naccess: public\n");
    for tightened in [
        public.replace("public", "authenticated"),
        public.replace("public", "{ match: { role: admin } }"),
        public.replace("public", "authenticated") + "match: { owner: { $claim: sub } }\n",
    ] {
        let filters = Filters::new(&[("a", &public)]);
        let settings = [
            ("SIDESTREAM_AUTH__JWT__SECRET", crate::access::SECRET),
            ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ];
        let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
        let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
        stream.settled().await;
        filters.write("a", &tightened);
        let end = stream.event().await;
        assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "filter-changed" })));
        assert_eq!(stream.block().await, None, "{tightened}");
        assert_eq!(http::get(sidecar.listen, "/_events/a").await.head.status, 401, "{tightened}");
        sidecar.finish().await;
    }
}
