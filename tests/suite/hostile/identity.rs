//! Attacks on who somebody is, by name, each over real sockets.

use std::net::SocketAddr;
use std::time::Instant;

use mongodb::bson::doc;
use serde_json::json;

use crate::access::issuer::{claims, secret};
use crate::access::server::{Reply, Server};
use crate::access::{SECRET, filter, insert, knock};
use crate::proxy::NO_MONGODB;
use crate::proxy::frames::{get, open, status_of};
use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

fn files(database: &str) -> Filters {
    Filters::new(&[
        ("mine", &filter(database, "authenticated", "")),
        ("admins", &filter(database, "{ match: { role: admin } }", "")),
    ])
}

/// How many lines of one kind there may be: one in ten seconds, and one more at either end.
fn at_most(began: Instant) -> usize {
    usize::try_from(began.elapsed().as_secs() / 10).expect("a few") + 2
}

async fn start(app: &Server, filters: &Filters, more: &[(&str, &str)]) -> sidestream::Sidecar {
    let url = app.url("/me");
    let settings = [&[("SIDESTREAM_AUTH__FORWARD__URL", url.as_str())][..], more].concat();
    sidecar::start(&mongo::uri(), filters, &settings).await
}

/// A request of a client with this cookie, at this address by what a trusted proxy says.
fn from(address: &str, cookie: impl std::fmt::Display) -> String {
    format!("X-Forwarded-For: {address}\r\nCookie: session={cookie}\r\n")
}

/// Asks for the list, without waiting for the answer.
fn ask_for_list(listen: SocketAddr, fields: String) -> tokio::task::JoinHandle<u16> {
    tokio::spawn(async move { http::request(listen, "GET", "/_events", &fields).await.head.status })
}

#[tokio::test]
async fn a_user_name_that_looks_like_claims_is_a_name() {
    const NAME: &str = r#"{"sub":"ada","role":"admin"}"#;
    let app =
        Server::start(|_| Reply::Now(204, String::new(), Some(("X-User", NAME.into())))).await;
    let database = unique("hostile");
    for (claims, status) in [("header:X-User", 403), ("header-json:X-User", 200)] {
        let settings = [("SIDESTREAM_AUTH__FORWARD__CLAIMS", claims)];
        let sidecar = start(&app, &files(&database), &settings).await;
        let cookie = "Cookie: session=ada\r\n";
        assert_eq!(knock(sidecar.listen, "/_events/mine", cookie).await.head.status, 200);
        assert_eq!(knock(sidecar.listen, "/_events/admins", cookie).await.head.status, status);
        sidecar.finish().await;
    }
}

#[tokio::test]
async fn made_up_cookies_cannot_ask_the_app_by_the_list_of_streams_without_a_place() {
    let app = Server::start(|_| Reply::status(401)).await;
    let database = unique("hostile");
    let settings = [("SIDESTREAM_CLIENTS__MAX_CONNECTIONS_PER_ADDRESS", "5")];
    let sidecar = start(&app, &files(&database), &settings).await;
    app.hold();
    let asked: Vec<_> =
        (0..50).map(|number| ask_for_list(sidecar.listen, from("192.0.2.1", number))).collect();
    let refused = "sidestream_refused_total{limit=\"address\"}";
    until("the others are refused", || async { metric(sidecar.admin, refused).await >= 45.0 })
        .await;
    until("those with a place ask", || async { app.count() >= 5 }).await;
    assert_eq!(app.count(), 5);
    app.release();
    let mut statuses = Vec::new();
    for asked in asked {
        statuses.push(asked.await.unwrap());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 45, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    sidecar.finish().await;
}

#[tokio::test]
async fn one_address_does_not_take_all_turns_to_ask_the_app() {
    let app = Server::start(|_| Reply::status(401)).await;
    let database = unique("hostile");
    let sidecar = start(&app, &files(&database), &[]).await;
    app.hold();
    let mut asked: Vec<_> =
        (0..100).map(|number| ask_for_list(sidecar.listen, from("192.0.2.1", number))).collect();
    until("its turns are taken", || async { app.count() >= 32 }).await;
    asked.push(ask_for_list(sidecar.listen, from("192.0.2.2", "somebody else")));
    until("somebody else has a turn", || async {
        let questions = app.questions();
        questions.iter().any(|question| question.field("cookie") == Some("session=somebody else"))
    })
    .await;
    assert!(app.count() <= 33, "{}", app.count());
    app.release();
    for asked in asked {
        asked.await.unwrap();
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn another_cookie_does_not_make_another_person() {
    // An app that lets in without saying who it is.
    let app = Server::start(|_| Reply::status(204)).await;
    let database = unique("hostile");
    let settings = [("SIDESTREAM_CLIENTS__MAX_CONNECTIONS_PER_SUBJECT", "2")];
    let sidecar = start(&app, &files(&database), &settings).await;
    let mut held = Vec::new();
    for number in 0..2 {
        let fields = from("192.0.2.1", format!("ada; j={number}"));
        held.push(Stream::open_with(sidecar.listen, "/_events/mine", &fields).await);
    }
    let more = async |address: &str| {
        knock(sidecar.listen, "/_events/mine", &from(address, "ada; j=3")).await.head.status
    };
    assert_eq!(more("192.0.2.1").await, 429);
    assert_eq!(more("192.0.2.2").await, 200, "somebody else, as far as anybody can tell");
    drop(held);
    sidecar.finish().await;
}

#[tokio::test]
async fn the_app_is_told_where_the_client_is_and_no_cached_answer_passes_to_another_place() {
    let app = Server::start(|question| match question.field("x-forwarded-for") {
        Some("192.0.2.1") => Reply::json(&json!({ "sub": "ada" })),
        _ => Reply::status(403),
    })
    .await;
    let database = unique("hostile");
    let sidecar = start(&app, &files(&database), &[]).await;
    for (address, status) in [("192.0.2.1", 200), ("192.0.2.2", 403), ("192.0.2.1", 200)] {
        let answer = knock(sidecar.listen, "/_events/mine", &from(address, "ada")).await;
        assert_eq!(answer.head.status, status, "{address}");
    }
    assert_eq!(app.count(), 2);
    sidecar.finish().await;
}

#[tokio::test]
async fn junk_cookies_of_the_tokens_name_do_not_crowd_out_the_real_one() {
    let database = unique("hostile");
    let settings = [
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_AUTH__JWT__FROM", "cookie:__Host-token"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &files(&database), &settings).await;
    let real = secret(SECRET).sign(&claims(json!({})));
    let forged = secret("somebody else's secret, long enough").sign(&claims(json!({})));
    let with = |junk: &str, token: &str| format!("Cookie: {junk}__Host-token={token}\r\n");
    let knock =
        async |fields: String| knock(sidecar.listen, "/_events/mine", &fields).await.head.status;
    assert_eq!(knock(with(&"__Host-token=junk; ".repeat(100), &real)).await, 200);
    assert_eq!(knock(with(&format!("__Host-token={forged}; ").repeat(20), &real)).await, 200);
    // A name that only looks like it: any subdomain can set that one.
    assert_eq!(knock(with("\u{2000}", &real)).await, 401);
    assert_eq!(knock(with("\u{a0}", &real)).await, 401);
    sidecar.finish().await;
}

#[tokio::test]
async fn strangers_do_not_fill_the_log_while_the_app_is_down() {
    let database = unique("hostile");
    let filters = files(&database);
    let env = [("SIDESTREAM_AUTH__FORWARD__URL", "http://127.0.0.1:9/me")];
    let (uri, path) = (mongo::uri(), filters.path().to_str().unwrap());
    let program = Program::start_ready(&["--mongodb", &uri, "--filters", path], &env).await;
    let began = Instant::now();
    for number in 0..30 {
        let answer = knock(program.listen, "/_events/mine", &from("192.0.2.1", number)).await;
        assert_eq!(answer.head.status, 503);
    }
    let words = "auth.forward.url gave no";
    let log = program.log_with(words).await;
    let lines = log.lines().filter(|line| line.contains(words)).count();
    assert!(lines <= at_most(began), "{lines}");
}

/// `mongod` tells documents with the same fields in another order apart, and so does the matcher.
#[tokio::test]
async fn claims_with_the_same_fields_in_another_order_are_not_one_stream() {
    let app = Server::start(|question| match question.field("cookie") {
        Some("session=ada") => {
            Reply::Now(200, r#"{"sub":"ada","team":{"id":1,"area":2}}"#.into(), None)
        }
        _ => Reply::Now(200, r#"{"sub":"bob","team":{"area":2,"id":1}}"#.into(), None),
    })
    .await;
    let database = unique("hostile");
    let bound = "match: { team: { $claim: team } }\n";
    let filters = Filters::new(&[("team", &filter(&database, "authenticated", bound))]);
    let sidecar = start(&app, &filters, &[]).await;
    let mut streams = Vec::new();
    for name in ["ada", "bob"] {
        let fields = from("192.0.2.1", name);
        let mut stream = Stream::open_with(sidecar.listen, "/_events/team", &fields).await;
        stream.settled().await;
        streams.push(stream);
    }
    for (id, team) in [(1, doc! { "id": 1, "area": 2 }), (2, doc! { "area": 2, "id": 1 })] {
        insert(&database, "orders", doc! { "_id": id, "team": team }).await;
    }
    for (stream, id) in streams.iter_mut().zip([1, 2]) {
        assert_eq!(stream.event().await.json()["documentKey"]["_id"], id);
    }
    // Nor does the first one get what is the other's.
    for (id, team) in [(3, doc! { "area": 2, "id": 1 }), (4, doc! { "id": 1, "area": 2 })] {
        insert(&database, "orders", doc! { "_id": id, "team": team }).await;
    }
    assert_eq!(streams[0].event().await.json()["documentKey"]["_id"], 4);
    sidecar.finish().await;
}

#[tokio::test]
async fn requests_while_the_app_is_down_do_not_fill_the_log() {
    let filters = Filters::new(&[]);
    let path = filters.path().to_str().unwrap();
    let arguments =
        ["--app", "http://127.0.0.1:9", "--mongodb", NO_MONGODB, "--filters", path, "--wait"];
    let program = Program::start(&arguments, &[]).await;
    let began = Instant::now();
    for _ in 0..30 {
        assert_eq!(http::get(program.listen, "/page").await.head.status, 502);
    }
    let (sender, _ending) = open(program.listen).await;
    for _ in 0..30 {
        assert_eq!(status_of(&sender, get("/page", "")).await, 502);
    }
    let words = "request not forwarded";
    let log = program.log_with(words).await;
    let lines = log.lines().filter(|line| line.contains(words)).count();
    assert!(lines <= at_most(began), "{lines}");
}

#[tokio::test]
async fn secrets_that_are_shorter_than_their_hash_are_refused() {
    for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        for (length, is_taken) in [(least - 1, false), (least, true)] {
            let dir = tempfile::tempdir().unwrap();
            let secret = "s".repeat(length);
            // Whether it starts is not asked: `check` reads the settings as `run` does.
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_sidestream"))
                .args(["check", "."])
                .env("SIDESTREAM_AUTH__JWT__SECRET", &secret)
                .env("SIDESTREAM_AUTH__JWT__ALGORITHMS", algorithm)
                .current_dir(dir.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_refused = said.contains("auth.jwt.secret");
            assert_eq!(is_refused, !is_taken, "{algorithm} {length}: {said}");
            assert!(!said.contains(&secret), "{said}");
        }
    }
}
