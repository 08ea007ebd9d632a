//! Clients that do not take Sidestream's own answers: lists of streams, long polls, refusals. What they
//! hold must not keep others out.

use std::net::SocketAddr;

use h2::client::Builder;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::proxy::NO_MONGODB;
use crate::proxy::app::App;
use crate::proxy::bodies::resident_peak;
use crate::proxy::frames::{ask as ask_h2, get, head_of, open_with};
use crate::proxy::raw::ask;
use crate::support::process::memory_of;
use crate::support::sidecar::{self, Filters, Program};
use crate::support::sse::Stream;
use crate::support::{PATIENCE, mongo, unique, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIST: &str = "GET /_events HTTP/1.1\r\nHost: a\r\n\r\n";

/// So many streams that their list is longer than what the kernels hold of it.
fn many() -> Filters {
    let filters = Filters::new(&[]);
    for number in 0..200 {
        let about = "x".repeat(1000);
        let text = format!("description: {about}\ncollection: a.b{number}\naccess: public\n");
        filters.write(&format!("s{number}"), &text);
    }
    filters
}

/// What a process has in memory now, in bytes.
fn resident(id: u32) -> u64 {
    memory_of(id).expect("it runs").resident
}

/// A connection of a client that takes little.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
    socket.connect(address).await.expect("a connection")
}

/// A program with few descriptors before an app.
async fn few_descriptors(app: &App, filters: &Filters) -> Program {
    let path = filters.path().display().to_string();
    let address = format!("http://{}", app.address);
    let arguments = ["--app", &address, "--filters", &path, "--mongodb", NO_MONGODB, "--wait"];
    Program::start_with_descriptors(300, &arguments).await
}

/// The app is served, while more connections than there are descriptors wait for their clients.
async fn serves(program: &Program, beside: usize) {
    let asked = tokio::time::timeout(PATIENCE, ask(program.listen, "GET", GET));
    let answer = asked.await.unwrap_or_else(|_| panic!("no answer beside {beside}"));
    assert_eq!(answer.status(), 200, "beside {beside}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_keep_no_descriptors_from_the_app() {
    let app = App::start().await;
    let filters = many();
    let program = few_descriptors(&app, &filters).await;
    let mut deaf = Vec::new();
    for at in 0..400 {
        let mut socket = narrow(program.listen).await;
        // Those that make room for others may be closed by now.
        let _ = socket.write_all(LIST.repeat(20).as_bytes()).await;
        // An answer has begun.
        let _ = tokio::time::timeout(PATIENCE, socket.peek(&mut [0])).await.expect("an answer");
        deaf.push(socket);
        if at % 50 == 0 {
            serves(&program, at).await;
        }
    }
    for _ in 0..20 {
        serves(&program, deaf.len()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_over_http2_keep_no_descriptors_from_the_app() {
    let app = App::start().await;
    let filters = many();
    let program = few_descriptors(&app, &filters).await;
    let mut settings = Builder::new();
    settings.initial_window_size(10);
    let mut deaf = Vec::new();
    for at in 0..400 {
        let (sender, ending) = open_with(program.listen, &settings).await;
        let answer = head_of(ask_h2(&sender, get("/_events", "")).await).await;
        assert_eq!(answer.status(), 200);
        deaf.push((sender, ending, answer));
        if at % 50 == 0 {
            serves(&program, at).await;
        }
    }
    for _ in 0..20 {
        serves(&program, deaf.len()).await;
    }
}

/// Clients that may open the same streams are sent the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_take_little_memory() {
    let app = App::start().await;
    let filters = many();
    let program = few_descriptors(&app, &filters).await;
    assert_eq!(ask(program.listen, "GET", LIST).await.status(), 200);
    let before = resident_peak(program.id());
    let mut settings = Builder::new();
    settings.initial_window_size(10).initial_connection_window_size(1 << 30);
    let (mut deaf, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (sender, ending) = open_with(program.listen, &settings).await;
        for target in ["/_events", "/_events/asyncapi.json"].into_iter().cycle().take(200) {
            let answer = head_of(ask_h2(&sender, get(target, "")).await).await;
            assert_eq!(answer.status(), 200);
            deaf.push(answer);
        }
        connections.push((sender, ending));
    }
    // Each is 200 KB and more: 600 of them are 120 MB.
    let grown = resident_peak(program.id()) - before;
    assert!(grown < 48 * 1024, "{grown} KiB");
    serves(&program, deaf.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_that_nobody_reads_take_little_memory() {
    const POLLS: usize = 150;
    let database = unique("polls");
    let text = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &text)]);
    let (path, uri) = (filters.path().display().to_string(), mongo::uri());
    let program = Program::start_ready(&["--filters", &path, "--mongodb", &uri], &[]).await;
    let mut stream = Stream::open(program.listen, "/_events/orders").await;
    let begin = stream.settled().await;
    let orders = Client::with_uri_str(&uri).await.expect("a client");
    let orders = orders.database(&database).collection::<Document>("orders");
    // More than an answer may hold.
    for number in 0..80 {
        let document = doc! { "_id": number, "pad": "x".repeat(16 * 1024) };
        orders.insert_one(document).await.expect("an insert");
        stream.event().await;
    }
    let poll = format!(
        "GET /_events/orders?transport=poll&lastEventId={begin} HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    // Who reads gets as much as ever.
    let whole = ask(program.listen, "GET", poll.as_str()).await;
    assert!(whole.json()["events"].as_array().expect("events").len() > 50);
    let before = resident_peak(program.id());
    let mut deaf = Vec::new();
    for _ in 0..POLLS {
        let mut socket = narrow(program.listen).await;
        socket.write_all(poll.as_bytes()).await.expect("it is taken");
        tokio::time::timeout(PATIENCE, socket.peek(&mut [0]))
            .await
            .expect("in time")
            .expect("an answer");
        deaf.push(socket);
    }
    let held = "sidestream_connections{transport=\"poll\"}";
    assert!(sidecar::metric(program.admin, held).await > 0.0, "they hold their places");
    let grown = resident_peak(program.id()) - before;
    // Each is a mebibyte.
    assert!(grown < 96 * 1024, "{grown} KiB");
    // And who reads then still gets on, if by smaller steps.
    let mut seen = 0;
    let mut from = begin;
    while seen < 80 {
        let next = format!(
            "GET /_events/orders?transport=poll&lastEventId={from} HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = ask(program.listen, "GET", next).await.json();
        for event in answer["events"].as_array().expect("events") {
            assert_eq!(event["data"]["documentKey"]["_id"], seen);
            seen += 1;
        }
        from = answer["resume"].as_str().expect("a position").to_owned();
    }
}

// A snapshot goes into one answer, however large. Each client has values of its own, so none shares
// the documents of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_by_long_poll_that_nobody_reads_take_little_memory() {
    const POLLS: usize = 20;
    const DOCUMENTS: usize = 80;
    let (database, uri) = (unique("begun"), mongo::uri());
    let text = format!(
        "collection: {database}.orders\naccess: public\noperations: [insert]\nsnapshot: true\n\
         match: {{ n: {{ $ne: {{ $param: n }} }} }}\nparams: {{ n: {{ type: long }} }}\n"
    );
    let filters = Filters::new(&[("orders", &text)]);
    let orders = Client::with_uri_str(&uri).await.expect("a client");
    let orders = orders.database(&database).collection::<Document>("orders");
    for number in 0..DOCUMENTS {
        let document = doc! { "_id": number as i64, "n": 0, "pad": "x".repeat(100 * 1024) };
        orders.insert_one(document).await.expect("an insert");
    }
    let path = filters.path().display().to_string();
    // A loaded machine may take long for eight megabytes.
    let bound =
        [("SIDESTREAM_SNAPSHOT__MAX_BYTES", "16MiB"), ("SIDESTREAM_SNAPSHOT__MAX_TIME", "5m")];
    let program = Program::start_ready(&["--filters", &path, "--mongodb", &uri], &bound).await;
    let poll =
        |n: usize| format!("GET /_events/orders?transport=poll&n={n} HTTP/1.1\r\nHost: a\r\n\r\n");
    let is_whole = |answer: serde_json::Value| {
        let events = answer["events"].as_array().expect("events");
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!((names.first(), names.last()), (Some(&"snapshot"), Some(&"ready")));
        let again = names.iter().rposition(|name| *name == "snapshot").expect("a snapshot");
        assert_eq!(names.len() - again, DOCUMENTS + 2);
        assert!(answer["resume"].is_string());
    };
    is_whole(ask(program.listen, "GET", poll(1)).await.json());
    let before = resident(program.id());
    let mut deaf = Vec::new();
    for n in 0..POLLS {
        let mut socket = narrow(program.listen).await;
        socket.write_all(poll(2 + n).as_bytes()).await.expect("it is taken");
        let begun = tokio::time::timeout(PATIENCE, socket.peek(&mut [0])).await;
        assert_eq!(begun.expect("in time").expect("an answer"), 1);
        deaf.push(socket);
    }
    let held = "sidestream_connections{transport=\"poll\"}";
    assert!(sidecar::metric(program.admin, held).await > 0.0, "they hold their places");
    // Each is eight megabytes. Not the peak: the allocator gives back what was read a moment later.
    until("the memory is given back", || async {
        resident(program.id()).saturating_sub(before) < 110 * 1024 * 1024
    })
    .await;
    // Who reads gets all of it: beside them, and of those too.
    is_whole(ask(program.listen, "GET", poll(1)).await.json());
    let mut late = deaf.swap_remove(0);
    let mut read = Vec::new();
    let all = late.read_to_end(&mut read);
    tokio::time::timeout(PATIENCE, all).await.expect("an end").expect("a clean one");
    let text = String::from_utf8(read).expect("text");
    assert!(text.ends_with("\r\n0\r\n\r\n"), "it is complete");
}

/// What has come of a message is held until its end.
#[tokio::test]
async fn a_message_that_does_not_end_is_not_waited_for() {
    let database = unique("messages");
    let text = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &text)]);
    let soon = [("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "2s")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &soon).await;
    let mut socket = TcpStream::connect(sidecar.listen).await.expect("a connection");
    let handshake = "GET /_events/orders HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // A text of 4 KiB, and one byte of it.
    let begun = [&[0x81, 0x80 | 126, 0x10, 0x00, 1, 2, 3, 4][..], b"x"].concat();
    socket.write_all(&[handshake.as_bytes(), &begun].concat()).await.expect("it is taken");
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut said)).await;
    read.expect("an end").expect("a clean one");
    // The last frame: to close, with 4400.
    let is_close = |frame: &[u8]| frame[0] == 0x88 && frame[2..] == 4400_u16.to_be_bytes();
    assert!(said.windows(4).any(is_close), "{}", String::from_utf8_lossy(&said));
    sidecar.finish().await;
}
