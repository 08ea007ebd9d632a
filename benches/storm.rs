//! A storm: clients whose connections broke at different moments of the last minutes all come back
//! at once, each with an id and filter values of its own, and each is owed every event since.
//!
//!     cargo bench --bench storm                                  10,000 clients, five minutes
//!     cargo bench --bench storm -- --clients 500 --seconds 10    to see that it runs
//!
//! Prints how long it takes until the last one has everything, how many change streams that cost,
//! and what was lost, doubled or out of order; beside it what a change stream for each client
//! takes, for as many clients as are worth waiting for. Fails if anything was lost or doubled, and
//! never because of a time. Needs `mongod` on the PATH or in MONGOD.

#[allow(dead_code)]
#[path = "../tests/suite/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::ChangeStreamOptions;
use support::mongo::{Own, Setup};
use support::sidecar::{Filters, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Filter values; each event is for one of them, each client asks for one of them.
const BUCKETS: i64 = 1000;
/// Writes in a second.
const RATE: usize = 200;
/// Connections that are being opened at the same time.
const OPENING: usize = 512;
/// Clients with a change stream each, for comparison.
const COMPARED: usize = 100;
/// When a client that still lacks something has waited long enough for it to count as lost.
const PATIENCE: Duration = Duration::from_secs(120);

struct Event {
    token: ResumeToken,
    id: String,
    number: i64,
}

struct Settings {
    clients: usize,
    seconds: usize,
}

fn main() {
    let settings =
        Settings { clients: argument("--clients", 10_000), seconds: argument("--seconds", 300) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let is_right = runtime.expect("a runtime").block_on(run(settings));
    if !is_right {
        std::process::exit(1);
    }
}

fn argument(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

async fn run(settings: Settings) -> bool {
    let own = Own::start(Setup { oplog_mib: 990, ..Setup::default() }).await;
    let text = "collection: shop.orders\naccess: public\nmatch: { bucket: { $param: bucket } }\n\
                params: { bucket: { type: long } }\n";
    let filters = Filters::new(&[("orders", text)]);
    let (uri, path) = (own.uri(), filters.path().to_str().expect("a path"));
    let arguments = ["--mongodb", &uri, "--filters", path, "--app", "http://127.0.0.1:9"];
    let program = Program::start_ready(&arguments, &[]).await;

    eprintln!("writing {} events in {} seconds", RATE * settings.seconds, settings.seconds);
    let client = own.client().await;
    let events = Arc::new(history(&client, settings.seconds).await);
    let (listen, admin) = (program.listen, program.admin);

    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch_cursors(admin, stop.clone()));
    let opening = Arc::new(Semaphore::new(OPENING));
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..settings.clients {
        let (events, opening) = (events.clone(), opening.clone());
        // Spread evenly over the whole time.
        let from = number * events.len() / settings.clients;
        clients.spawn(async move {
            let outcome = come_back(listen, &events, from, number, &opening).await;
            (outcome, began.elapsed())
        });
    }
    let (mut lost, mut doubled, mut delivered) = (0, 0, 0);
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        let (outcome, took) = client.expect("a client");
        lost += outcome.lost;
        doubled += outcome.doubled;
        delivered += outcome.delivered;
        times.push(took);
    }
    stop.store(true, Ordering::Relaxed);
    let most = watching.await.expect("the watching");
    times.sort();
    let compared = one_stream_each(&client, &events, COMPARED.min(settings.clients)).await;

    let metric = async |name: &str| support::sidecar::metric(admin, name).await;
    println!(
        "{} clients come back at once, with ids from the last {} s",
        settings.clients, settings.seconds
    );
    println!("  events in that time                {:>9}", events.len());
    println!("  deliveries that were owed          {:>9}", delivered + lost);
    println!("  lost, doubled or out of order      {:>9}", lost + doubled);
    println!(
        "  from memory                        {:>9}",
        metric("sidestream_replays_total{source=\"memory\"}").await
    );
    println!(
        "  from the oplog                     {:>9}",
        metric("sidestream_replays_total{source=\"oplog\"}").await
    );
    println!("  change streams for that, at a time {most:>9}");
    println!(
        "  half of them have everything after {:>9.2} s",
        times[times.len() / 2].as_secs_f64()
    );
    println!(
        "  the last one has everything after  {:>9.2} s",
        times[times.len() - 1].as_secs_f64()
    );
    println!(
        "  beside: {} clients with a change stream each {:.2} s",
        COMPARED.min(settings.clients),
        compared.as_secs_f64()
    );
    lost + doubled == 0
}

/// Writes at an even pace, and remembers each event's token.
async fn history(client: &Client, seconds: usize) -> Vec<Event> {
    let orders = client.database("shop").collection::<Document>("orders");
    let mut stream = orders.watch().await.expect("a change stream").with_type::<RawDocumentBuf>();
    let total = RATE * seconds;
    let writing = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for from in (0..total).step_by(RATE / 20) {
            tick.tick().await;
            let documents = (from..from + RATE / 20).map(|number| {
                let number = number as i64;
                doc! { "_id": number, "bucket": number * 7919 % BUCKETS, "text": "x".repeat(200) }
            });
            orders.insert_many(documents).await.expect("written");
        }
    };
    let reading = async {
        let mut events = Vec::with_capacity(total);
        while events.len() < total {
            let Some(raw) = stream.next_if_any().await.expect("an event") else { continue };
            let token = stream.resume_token().expect("a token");
            let id = raw.get_document("_id").and_then(|id| Ok(id.get_str("_data")?.to_string()));
            let key = raw.get_document("documentKey").expect("a key");
            let number = key.get_i64("_id").expect("a number");
            events.push(Event { token, id: id.expect("a token"), number });
        }
        events
    };
    tokio::join!(writing, reading).1
}

#[derive(Default)]
struct Outcome {
    delivered: usize,
    lost: usize,
    doubled: usize,
}

/// One client, until it has what it is owed; late doubles would come with the next events.
async fn come_back(
    listen: SocketAddr,
    events: &[Event],
    from: usize,
    client: usize,
    opening: &Semaphore,
) -> Outcome {
    let bucket = client as i64 % BUCKETS;
    let owed: Vec<i64> = events[from + 1..]
        .iter()
        .map(|event| event.number)
        .filter(|number| number * 7919 % BUCKETS == bucket)
        .collect();
    let mut socket = {
        let _turn = opening.acquire().await.expect("a turn");
        let mut socket = TcpStream::connect(listen).await.expect("a connection");
        let request = format!(
            "GET /_events/orders?bucket={bucket} HTTP/1.1\r\nHost: a\r\nLast-Event-ID: {}\r\n\r\n",
            events[from].id
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        socket
    };
    let mut outcome = Outcome::default();
    let mut text = Vec::new();
    let reading = async {
        while outcome.delivered < owed.len() {
            let mut piece = [0; 4096];
            let read = socket.read(&mut piece).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            text.extend_from_slice(&piece[..read]);
            for number in numbers(&mut text) {
                if owed.get(outcome.delivered) == Some(&number) {
                    outcome.delivered += 1;
                } else {
                    outcome.doubled += 1;
                }
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
    outcome.lost = owed.len() - outcome.delivered;
    outcome
}

/// Takes the documents' numbers out of the whole lines that have come.
fn numbers(text: &mut Vec<u8>) -> Vec<i64> {
    const BEFORE: &[u8] = b"\"documentKey\":{\"_id\":";
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
    let lines: Vec<u8> = text.drain(..=end).collect();
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"data: {\"operationType\""))
        .map(|line| {
            let at = line.windows(BEFORE.len()).position(|part| part == BEFORE).expect("a key");
            let digits = line[at + BEFORE.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        })
        .collect()
}

/// The most change streams for replays at any time.
async fn watch_cursors(admin: SocketAddr, stop: Arc<AtomicBool>) -> usize {
    let mut most = 0.0_f64;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(support::sidecar::metric(admin, "sidestream_replay_cursors").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    most as usize
}

/// What people write first: each client has a change stream, and takes what is its own.
async fn one_stream_each(client: &Client, events: &Arc<Vec<Event>>, clients: usize) -> Duration {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let (client, events) = (client.clone(), events.clone());
        tasks.spawn(async move {
            let from = number * events.len() / clients;
            let bucket = number as i64 % BUCKETS;
            let owed =
                events[from + 1..].iter().filter(|e| e.number * 7919 % BUCKETS == bucket).count();
            let mut options = ChangeStreamOptions::default();
            options.start_after = Some(events[from].token.clone());
            let orders = client.database("shop").collection::<Document>("orders");
            // A condition on the document could leave out the token's own event, and then the
            // server refuses to resume.
            let stream = orders.watch().with_options(options).await;
            let mut stream = stream.expect("a change stream").with_type::<RawDocumentBuf>();
            let mut seen = 0;
            while seen < owed {
                let Some(raw) = stream.next_if_any().await.expect("an event") else { continue };
                let document = raw.get_document("fullDocument").expect("a document");
                seen += usize::from(document.get_i64("bucket").is_ok_and(|b| b == bucket));
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a client");
    }
    began.elapsed()
}
