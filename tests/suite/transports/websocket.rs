use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{filter, insert, key};
use crate::access::issuer::{claims, secret};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::{PATIENCE, http, mongo, unique, until};

pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

async fn connect(
    address: SocketAddr,
    target: &str,
    fields: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    let mut request = format!("ws://{address}{target}").into_client_request()?;
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    connect_async(request).await.map(|(socket, _)| Socket(socket))
}

impl Socket {
    pub async fn open(address: SocketAddr, target: &str) -> Socket {
        connect(address, target, &[]).await.expect("a WebSocket")
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("it is sent");
    }

    async fn message(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a message in time");
        next.and_then(Result::ok)
    }

    /// The next message that is an event or an error.
    pub async fn event(&mut self) -> Value {
        loop {
            if let Some(Message::Text(text)) = self.message().await {
                let json: Value = serde_json::from_str(&text).expect("JSON");
                if json.get("event").is_some() || json.get("error").is_some() {
                    return json;
                }
            }
        }
    }

    /// Reads to the close frame.
    async fn closed(&mut self) -> (u16, String) {
        let closed = async {
            loop {
                match self.message().await.expect("a close frame") {
                    Message::Close(Some(frame)) => {
                        return (frame.code.into(), frame.reason.to_string());
                    }
                    Message::Close(None) => panic!("a close frame without a code"),
                    _ => {}
                }
            }
        };
        // Signs of life come all the while.
        tokio::time::timeout(PATIENCE, closed).await.expect("a close frame in time")
    }
}

fn files(database: &str) -> Filters {
    Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"), "")),
        (
            "chat",
            &filter(
                &format!("{database}.chat"),
                "match: { _id: { $param: id } }\nparams: { id: { type: int } }\n",
            ),
        ),
        ("mine", &format!("collection: {database}.orders\naccess: authenticated\n")),
    ])
}

const AUTH: [(&str, &str); 2] = [
    ("SIDESTREAM_AUTH__JWT__SECRET", "a secret that is long enough for HS256"),
    ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
];

#[tokio::test]
async fn the_same_events_come_as_messages() {
    let database = unique("websocket");
    let filters = files(&database);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    let mut socket = Socket::open(sidecar.listen, "/_events/orders").await;
    let ready = socket.event().await;
    assert_eq!((&ready["event"], ready.get("stream")), (&"ready".into(), None));
    insert(&database, "orders", 0..3).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let event = socket.event().await;
        assert_eq!((&event["event"], key(&event)), (&"insert".into(), number));
        ids.push(event["id"].as_str().expect("an id").to_string());
    }
    // A sign of life is a ping, and a message that a page can see.
    let ping = socket.message().await.expect("it goes on");
    assert!(matches!(ping, Message::Ping(_)), "{ping:?}");
    let Some(Message::Text(text)) = socket.message().await else { panic!("no message") };
    assert!(text.starts_with('{') && !text.contains("event"), "{text}");
    socket.0.send(Message::Ping("here?".into())).await.unwrap();
    while socket.message().await.expect("it goes on") != Message::Pong("here?".into()) {}

    let target = format!("/_events/orders?lastEventId={}", ids[0]);
    let mut resumed = Socket::open(sidecar.listen, &target).await;
    assert_eq!(key(&resumed.event().await), 1);
    let open = "sidestream_connections{transport=\"websocket\"}";
    assert_eq!(metric(sidecar.admin, open).await, 2.0);
    resumed.0.close(None).await.unwrap();
    until("it is closed", || async { metric(sidecar.admin, open).await == 1.0 }).await;
    drop(socket);
    until("who leaves is noticed", || async { metric(sidecar.admin, open).await == 0.0 }).await;
    sidecar.finish().await;
}

// Nobody has to be signed in to open one, and each takes a place.
#[tokio::test]
async fn a_connection_that_subscribes_to_nothing_has_to_go() {
    let database = unique("websocket");
    let filters = files(&database);
    let settings = [&AUTH[..], &[("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "500ms")]].concat();
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let mut refused = Socket::open(sidecar.listen, "/_events").await;
    let mut silent = Socket::open(sidecar.listen, "/_events").await;
    let mut used = Socket::open(sidecar.listen, "/_events").await;
    refused.say(json!({ "subscribe": "mine" })).await;
    assert_eq!(refused.event().await["error"]["status"], 401);
    used.say(json!({ "subscribe": "orders" })).await;
    assert_eq!(used.event().await["event"], "ready");
    // It may wait for its next stream as long as it likes.
    used.say(json!({ "unsubscribe": "orders" })).await;
    for socket in [&mut silent, &mut refused] {
        assert_eq!(socket.closed().await.0, 4400);
    }
    used.say(json!({ "subscribe": "orders" })).await;
    assert_eq!(used.event().await["event"], "ready");
    sidecar.finish().await;
}

#[tokio::test]
async fn streams_come_and_go_by_the_clients_word() {
    let database = unique("websocket");
    let filters = files(&database);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    let token = format!(
        "Bearer {}",
        secret("a secret that is long enough for HS256").sign(&claims(json!({})))
    );
    let fields = [("authorization", token.as_str())];
    let mut socket = connect(sidecar.listen, "/_events", &fields).await.expect("a WebSocket");
    socket.say(json!({ "subscribe": "orders", "as": "1" })).await;
    let ready = socket.event().await;
    assert_eq!((&ready["event"], &ready["as"]), (&"ready".into(), &"1".into()));
    insert(&database, "orders", 0..2).await;
    let first = socket.event().await;
    assert_eq!((&first["as"], key(&first)), (&"1".into(), 0));
    assert_eq!(key(&socket.event().await), 1);
    let resume = first["id"].clone();

    for (message, status, name) in [
        (json!({ "subscribe": "orders", "as": "1" }), 400, Some("1")),
        (json!({ "subscribe": "nothing", "as": "2" }), 404, Some("2")),
        (json!({ "subscribe": "chat", "as": "3", "params": { "id": "x" } }), 400, Some("3")),
        (
            json!({ "subscribe": "chat", "as": "4", "params": { "id": { "$ne": 1 } } }),
            400,
            Some("4"),
        ),
        // One that is no message otherwise is named all the same.
        (json!({ "subscribe": "chat", "as": "6", "parms": { "id": 7 } }), 400, Some("6")),
        (json!({ "subscribe": "chat", "as": "7", "params": [] }), 400, Some("7")),
        (json!({ "subscribe": "chat", "as": "8", "resume": 8 }), 400, Some("8")),
        (json!({ "unsubscribe": "5" }), 404, Some("5")),
        (json!({ "listen": "orders" }), 400, None),
        (json!([1]), 400, None),
    ] {
        socket.say(message.clone()).await;
        let error = socket.event().await;
        assert_eq!(error["error"]["status"], status, "{message}");
        assert_eq!(error.get("as").and_then(Value::as_str), name, "{message}");
    }
    // Without an alias, it is the stream that is named.
    socket.say(json!({ "subscribe": "nothing" })).await;
    let error = socket.event().await;
    assert_eq!((&error["stream"], &error["error"]["status"]), (&json!("nothing"), &json!(404)));
    // None of that has closed anything.
    socket.say(json!({ "subscribe": "mine", "as": "again", "resume": resume })).await;
    let event = socket.event().await;
    assert_eq!((&event["as"], key(&event)), (&"again".into(), 1));
    assert_eq!(socket.event().await["event"], "ready");
    socket.say(json!({ "unsubscribe": "1" })).await;
    socket.say(json!({ "subscribe": "chat", "as": "c", "params": { "id": 7 } })).await;
    assert_eq!(socket.event().await["as"], "c");
    insert(&database, "chat", 6..8).await;
    assert_eq!(key(&socket.event().await), 7);
    insert(&database, "orders", 9..10).await;
    let event = socket.event().await;
    assert_eq!((&event["as"], key(&event)), (&"again".into(), 9));
    sidecar.finish().await;
}

#[tokio::test]
async fn refusals_are_close_codes_and_foreign_pages_a_403() {
    let database = unique("websocket");
    let filters = files(&database);
    let settings = [&AUTH[..], &[("SIDESTREAM_CLIENTS__MAX_CONNECTIONS", "1")]].concat();
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let listen = sidecar.listen;
    for (target, code) in [
        ("/_events/nothing", 4404),
        ("/_events/chat?id=x", 4400),
        ("/_events/mine", 4401),
        ("/_events?stream=orders&stream=nothing", 4404),
    ] {
        let (got, reason) = Socket::open(listen, target).await.closed().await;
        assert_eq!(got, code, "{target}: {reason}");
        assert!(!reason.is_empty() && reason.len() <= 123);
    }
    let foreign =
        connect(listen, "/_events/orders", &[("origin", "http://elsewhere.example")]).await;
    assert!(matches!(foreign, Err(Error::Http(answer)) if answer.status() == 403));
    // Cookies without an origin are nobody's page.
    let lost = connect(listen, "/_events/orders", &[("cookie", "a=1")]).await;
    assert!(matches!(lost, Err(Error::Http(answer)) if answer.status() == 403));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let answer = http::request(listen, "GET", "/_events/orders", upgrade).await;
    assert_eq!(answer.head.status, 400);

    let mut only = Socket::open(listen, "/_events/orders").await;
    assert_eq!(only.event().await["event"], "ready");
    let (code, reason) = Socket::open(listen, "/_events/orders").await.closed().await;
    assert_eq!(code, 1013, "{reason}");
    sidecar.drain();
    assert_eq!(only.closed().await.0, 1001);
    assert_eq!(Socket::open(listen, "/_events/orders").await.closed().await.0, 1001);
    sidecar.finish().await;
}

// If it were offered, browsers would send the app's own WebSockets over HTTP/2 as well (RFC 8441).
#[tokio::test]
async fn http2_does_not_offer_websockets() {
    let filters = files(&unique("websocket"));
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    let socket = TcpStream::connect(sidecar.listen).await.expect("a connection");
    let (client, connection) = h2::client::handshake(socket).await.expect("a handshake");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("a client");
    let request = hyper::Request::get(format!("http://{}/_events", sidecar.listen));
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).expect("a request");
    // The server's settings come before any answer.
    assert_eq!(answer.await.expect("an answer").status(), 200);
    assert!(!client.is_extended_connect_protocol_enabled());
    sidecar.finish().await;
}

// As an app of one page does that shows one thing after the other.
#[tokio::test]
async fn values_of_streams_that_were_unsubscribed_are_given_back() {
    let database = unique("given-back");
    let rest = "match: { n: { $param: n } }\nparams: { n: { type: int } }\noperations: [insert]\n";
    let mine = format!("collection: {database}.orders\naccess: authenticated\n{rest}");
    let filters = Filters::new(&[("mine", &mine)]);
    let settings = [AUTH[0], AUTH[1], ("SIDESTREAM_CLIENTS__MAX_VALUES_PER_SUBJECT", "2")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let bearer = format!("Bearer {}", secret(AUTH[0].1).sign(&claims(json!({}))));
    let fields = [("authorization", &*bearer)];
    let mut socket = connect(sidecar.listen, "/_events", &fields).await.expect("a WebSocket");
    for n in 0..6 {
        socket.say(json!({ "subscribe": "mine", "params": { "n": n } })).await;
        assert_eq!(socket.event().await["event"], "ready", "{n}");
        socket.say(json!({ "unsubscribe": "mine" })).await;
    }
    // Also to the caller's other connections; and what is open counts.
    let mut other = connect(sidecar.listen, "/_events", &fields).await.expect("a WebSocket");
    let subscribe =
        |n: i64| json!({ "subscribe": "mine", "as": n.to_string(), "params": { "n": n } });
    for n in [7, 8] {
        other.say(subscribe(n)).await;
        assert_eq!(other.event().await["event"], "ready", "{n}");
    }
    other.say(subscribe(9)).await;
    assert_eq!(other.event().await["error"]["status"], 429);
    sidecar.finish().await;
}

// The right is watched from when the caller is known, whatever became of the stream that asked for it.
#[tokio::test]
async fn a_right_ends_that_no_stream_came_of() {
    let database = unique("unused-right");
    let filters = files(&database);
    let mine = format!(
        "collection: {database}.orders\naccess: authenticated\nmatch: {{ n: {{ $param: n }} }}\n\
         params: {{ n: {{ type: int }} }}\noperations: [insert]\n"
    );
    filters.write("mine", &mine);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &AUTH).await;
    // It is over, but for what clocks may differ.
    let ends = jiff::Timestamp::now().as_second() - 3;
    let token = secret(AUTH[0].1).sign(&claims(json!({ "exp": ends })));
    let fields = [("authorization", &*format!("Bearer {token}"))];
    let mut socket = connect(sidecar.listen, "/_events", &fields).await.expect("a WebSocket");
    socket.say(json!({ "subscribe": "orders" })).await;
    assert_eq!(socket.event().await["event"], "ready");
    let mut statuses = Vec::new();
    let ended = async {
        while statuses.last() != Some(&401) {
            socket.say(json!({ "subscribe": "mine", "params": { "n": "x" } })).await;
            statuses.push(socket.event().await["error"]["status"].as_i64().expect("a status"));
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the right ends");
    assert_eq!(statuses[0], 400, "{statuses:?}");
    socket.say(json!({ "subscribe": "mine", "params": { "n": 1 } })).await;
    assert_eq!(socket.event().await["error"]["status"], 401);
    // The stream that needs no right goes on.
    insert(&database, "orders", 1..2).await;
    assert_eq!(key(&socket.event().await), 1);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_client_is_heard_while_it_is_sent_what_it_missed() {
    const MISSED: i64 = 12_000;
    let database = unique("heard");
    let filters = files(&database);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut first = Socket::open(sidecar.listen, "/_events/orders").await;
    let resume = first.event().await["id"].as_str().expect("an id").to_owned();
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection("orders");
    let pad = "x".repeat(1_500);
    for from in (0..MISSED).step_by(1_000) {
        let documents =
            (from..from + 1_000).map(|id| mongodb::bson::doc! { "_id": id, "pad": &pad });
        orders.insert_many(documents).await.unwrap();
    }
    while key(&first.event().await) != MISSED - 1 {}

    let mut socket = Socket::open(sidecar.listen, "/_events").await;
    socket.say(json!({ "subscribe": "orders", "resume": resume })).await;
    assert_eq!(key(&socket.event().await), 0);
    socket.say(json!({ "unsubscribe": "orders" })).await;
    socket.say(json!({ "subscribe": "none" })).await;
    let mut count = 1;
    let error = loop {
        let event = socket.event().await;
        match event.get("error") {
            Some(error) => break error.clone(),
            None => count += 1,
        }
    };
    assert_eq!(error["status"], 404);
    assert!(count < MISSED, "it was heard when everything was sent");
    sidecar.finish().await;
}
