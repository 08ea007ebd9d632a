//! Forward auth: the app decides, and is not asked more than it has to be.

use std::time::{Duration, Instant};

use mongodb::bson::doc;
use serde_json::json;

use super::server::{Question, Reply, Server};
use super::{SECRET, filter, insert, knock};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

pub fn files(database: &str) -> Filters {
    let bound = "match: { customer: { $claim: sub } }\noperations: [insert]\n";
    Filters::new(&[
        ("public", &filter(database, "public", "")),
        ("mine", &filter(database, "authenticated", bound)),
        ("admins", &filter(database, "{ match: { role: admin } }", "")),
    ])
}

/// An app with cookie sessions: the session's name is the user's.
pub fn me(question: &Question) -> Reply {
    match question.field("cookie").and_then(|cookies| cookies.split_once("session=")) {
        Some((_, "admin")) => Reply::json(&json!({ "sub": "root", "role": "admin" })),
        Some((_, "banned")) => Reply::status(403),
        Some((_, "page")) => Reply::Now(200, "<html>please sign in</html>".into(), None),
        Some((_, "nobody")) => Reply::Now(200, "null".into(), None),
        Some((_, "elsewhere")) => Reply::Now(302, String::new(), Some(("Location", "/in".into()))),
        Some((_, "broken")) => Reply::status(500),
        Some((_, name)) => Reply::json(&json!({ "sub": name })),
        None => Reply::status(401),
    }
}

pub async fn start(app: &Server, filters: &Filters, more: &[(&str, &str)]) -> sidestream::Sidecar {
    let url = app.url("/me");
    let settings = [&[("SIDESTREAM_AUTH__FORWARD__URL", url.as_str())][..], more].concat();
    sidecar::start(&mongo::uri(), filters, &settings).await
}

pub fn cookie(name: &str) -> String {
    format!("Cookie: theme=dark; session={name}\r\n")
}

#[tokio::test]
async fn the_app_decides() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let sidecar = start(&app, &files(&database), &[]).await;
    for (stream, session, status) in [
        ("public", None, 200),
        ("mine", None, 401),
        ("mine", Some("ada"), 200),
        ("mine", Some("banned"), 403),
        ("mine", Some("nobody"), 401),
        ("mine", Some("elsewhere"), 401),
        ("mine", Some("page"), 503),
        ("mine", Some("broken"), 503),
        ("admins", Some("ada"), 403),
        ("admins", Some("admin"), 200),
    ] {
        let fields = session.map(cookie).unwrap_or_default();
        let answer = knock(sidecar.listen, &format!("/_events/{stream}"), &fields).await;
        assert_eq!(answer.head.status, status, "{stream} {session:?}");
        assert_eq!(answer.head.field("retry-after").is_some(), status == 503, "{session:?}");
        assert_eq!(answer.head.field("www-authenticate").is_some(), status == 401, "{session:?}");
    }
    let answer = knock(sidecar.listen, "/_events/mine", "X-Session: ada\r\n").await;
    assert_eq!(answer.head.status, 401);
    let asked = app.questions();
    let first = &asked[0];
    assert_eq!(first.line, "GET /me HTTP/1.1");
    assert_eq!(first.field("cookie"), Some("theme=dark; session=ada"));
    assert_eq!(first.field("x-forwarded-host"), Some(sidecar.listen.to_string().as_str()));
    assert!(asked.iter().all(|question| question.field("cookie").is_some()), "nothing to ask with");
    sidecar.finish().await;
}

#[tokio::test]
async fn a_thousand_reconnects_are_one_question() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let sidecar = start(&app, &files(&database), &[]).await;
    app.hold();
    let listen = sidecar.listen;
    let all: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(async move { knock(listen, "/_events/mine", &cookie("ada")).await }))
        .collect();
    until("it is asked", || async { app.count() > 0 }).await;
    app.release();
    for answer in all {
        assert_eq!(answer.await.unwrap().head.status, 200);
    }
    assert_eq!(app.count(), 1);
    sidecar.finish().await;
}

#[tokio::test]
async fn signing_out_ends_open_streams_within_recheck() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let recheck = [("SIDESTREAM_AUTH__FORWARD__RECHECK", "1s")];
    let sidecar = start(&app, &files(&database), &recheck).await;
    let mut ada = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("ada")).await;
    let mut also = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("ada")).await;
    let mut bob = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("bob")).await;
    ada.settled().await;
    bob.settled().await;
    insert(&database, "orders", doc! { "_id": 1, "customer": "ada" }).await;
    insert(&database, "orders", doc! { "_id": 2, "customer": "bob" }).await;
    assert_eq!(ada.event().await.json()["documentKey"]["_id"], 1);
    assert_eq!(bob.event().await.json()["documentKey"]["_id"], 2);

    app.answer_with(|question| match me(question) {
        Reply::Now(200, body, _) if body.contains("ada") => Reply::status(401),
        reply => reply,
    });
    let began = Instant::now();
    let end = ada.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "unauthorized" })));
    assert_eq!(ada.block().await, None);
    // A second, and what a loaded machine needs.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    also.event().await;
    assert_eq!(also.event().await.name(), "end");
    // Bob's stream has been asked about as often, and goes on.
    let before = app.count();
    until("bob is asked about again", || async { app.count() > before }).await;
    insert(&database, "orders", doc! { "_id": 3, "customer": "bob" }).await;
    assert_eq!(bob.event().await.json()["documentKey"]["_id"], 3);
    sidecar.finish().await;
}

#[tokio::test]
async fn other_claims_end_what_they_no_longer_open_and_leave_the_rest() {
    let app =
        Server::start(|_| Reply::json(&json!({ "sub": "ada", "role": "admin", "n": 1 }))).await;
    let database = unique("forward");
    let recheck = [("SIDESTREAM_AUTH__FORWARD__RECHECK", "300ms")];
    let sidecar = start(&app, &files(&database), &recheck).await;
    let mut mine = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("s")).await;
    let mut admins = Stream::open_with(sidecar.listen, "/_events/admins", &cookie("s")).await;
    mine.settled().await;
    app.answer_with(|_| Reply::json(&json!({ "sub": "ada", "role": "user", "n": 2 })));
    assert_eq!(admins.event().await.name(), "end");
    insert(&database, "orders", doc! { "_id": 1, "customer": "ada" }).await;
    assert_eq!(mine.event().await.json()["documentKey"]["_id"], 1);
    app.answer_with(|_| Reply::json(&json!({ "sub": "bob" })));
    assert_eq!(mine.event().await.name(), "end");
    sidecar.finish().await;
}

#[tokio::test]
async fn an_app_that_is_away_keeps_new_streams_out_and_open_ones_for_a_while() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let settings = [
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "300ms"),
        ("SIDESTREAM_AUTH__FORWARD__CACHE", "0s"),
        ("SIDESTREAM_AUTH__FORWARD__TIMEOUT", "300ms"),
        ("SIDESTREAM_AUTH__FORWARD__MAX_OUTAGE", "8s"),
    ];
    let sidecar = start(&app, &files(&database), &settings).await;
    let mut ada = Stream::open_with(sidecar.listen, "/_events/mine", &cookie("ada")).await;
    ada.settled().await;
    app.answer_with(|_| Reply::Never);
    let began = Instant::now();
    let before = app.count();
    let answer = knock(sidecar.listen, "/_events/mine", &cookie("bob")).await;
    assert_eq!(answer.head.status, 503);
    assert!(answer.head.field("retry-after").is_some());
    until("the open stream is asked about", || async { app.count() > before + 1 }).await;
    insert(&database, "orders", doc! { "_id": 1, "customer": "ada" }).await;
    assert_eq!(ada.event().await.json()["documentKey"]["_id"], 1);
    // A clean end without `end`: its page comes back by itself, and needs no sign-in.
    while let Some(block) = ada.block().await {
        assert_ne!(block.event.as_deref(), Some("end"), "{block:?}");
    }
    // Its last answer may be a recheck old, and that be late on a loaded machine.
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());

    app.answer_with(me);
    until("the app is asked again", || async {
        knock(sidecar.listen, "/_events/mine", &cookie("bob")).await.head.status == 200
    })
    .await;
    assert!(metric(sidecar.admin, "sidestream_auth_total{result=\"unavailable\"}").await >= 1.0);
    let ended = "sidestream_streams_ended_total{reason=\"auth-unavailable\"}";
    assert!(metric(sidecar.admin, ended).await >= 1.0);
    sidecar.finish().await;
}

// Who waits is answered, it is told and counted, and the next one is let in.
#[tokio::test]
async fn a_question_that_panics_keeps_nobody_out_for_good() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let sidecar = start(&app, &files(&database), &[]).await;
    app.hold();
    let listen = sidecar.listen;
    let waiting = tokio::spawn(async move { knock(listen, "/_events/mine", &cookie("ada")).await });
    until("the app is asked", || async { app.count() == 1 }).await;
    sidecar.tasks().make_panic("auth-question");
    assert_eq!(waiting.await.unwrap().head.status, 503);
    let panics = "sidestream_task_panics_total{task=\"auth-question\"}";
    assert_eq!(metric(sidecar.admin, panics).await, 1.0);
    app.release();
    until("she is let in", || async {
        knock(listen, "/_events/mine", &cookie("ada")).await.head.status == 200
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn claims_can_come_in_a_header_and_tokens_beside_the_app() {
    let app = Server::start(|question| match question.field("authorization") {
        Some("Basic x") => Reply::Now(204, String::new(), Some(("X-User", "ada".into()))),
        _ => Reply::status(401),
    })
    .await;
    let database = unique("forward");
    let settings = [
        ("SIDESTREAM_AUTH__FORWARD__CLAIMS", "header:X-User"),
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = start(&app, &files(&database), &settings).await;
    let fields = "Authorization: Basic x\r\n";
    let mut ada = Stream::open_with(sidecar.listen, "/_events/mine", fields).await;
    ada.settled().await;
    let asked = app.count();
    let token = super::issuer::secret(super::SECRET).sign(&super::issuer::claims(json!({})));
    let fields = super::bearer(&token);
    let mut also = Stream::open_with(sidecar.listen, "/_events/mine", &fields).await;
    also.settled().await;
    assert_eq!(app.count(), asked, "a good token needs no question");
    insert(&database, "orders", doc! { "_id": 1, "customer": "ada" }).await;
    assert_eq!(ada.event().await.json()["documentKey"]["_id"], 1);
    assert_eq!(also.event().await.json()["documentKey"]["_id"], 1);
    let answer =
        http::request(sidecar.listen, "GET", "/_events/mine", "Authorization: x\r\n").await;
    assert_eq!(answer.head.status, 401);
    assert_eq!(answer.json()["title"], "Unauthorized");
    sidecar.finish().await;
}

#[tokio::test]
async fn a_file_that_changes_while_the_app_is_asked_counts() {
    let app = Server::start(me).await;
    let database = unique("forward");
    let filters = files(&database);
    let sidecar = start(&app, &filters, &[]).await;
    app.hold();
    let listen = sidecar.listen;
    let opening =
        tokio::spawn(
            async move { Stream::open_with(listen, "/_events/mine", &cookie("ada")).await },
        );
    until("it is asked", || async { app.count() > 0 }).await;
    filters.write("mine", &filter(&database, "{ match: { role: admin } }", ""));
    let reloads = "sidestream_filter_reloads_total{result=\"ok\"}";
    until("the file was read", || async { metric(sidecar.admin, reloads).await >= 2.0 }).await;
    app.release();
    let mut stream = opening.await.unwrap();
    let end = stream.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "filter-changed" })));
    sidecar.finish().await;
}
