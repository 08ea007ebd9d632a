//! A storm: clients whose connections broke at different moments of the last minutes all come back
//! at once, each with an id of its own, and each is owed every event since.
//!
//!     scripts/cargo bench --bench storm                                  10,000 clients, five minutes
//!     scripts/cargo bench --bench storm -- --clients 500 --seconds 10    to see that it runs
//!
//! Three storms on the same history: 1,000 filter values, ten clients each; ten values, a thousand
//! clients each; and a value for every client. The journal holds two fifths of the history, as it
//! does of five minutes by default.
//!
//! Prints for each how long it takes until the last one has everything, how many change streams
//! and how much processor time that cost the sidecar, and what was lost, doubled or out of order;
//! beside it what a change stream for each client takes, for as many clients as are worth waiting
//! for. Fails if anything was lost, doubled or reset, and never because of a time. The `mongod` is
//! the one in MONGOD, else what `scripts/fetch-mongod` finds or fetches.

mod crowd;
#[allow(dead_code)]
#[path = "../../tests/suite/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crowd::{Outcome, Plan};
use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::ChangeStreamOptions;
use support::mongo::{Own, Setup};
use support::process::{cpu_of, memory_of};
use support::sidecar::{Filters, Program, metric};

/// Writes in a second.
const RATE: usize = 200;
/// Clients with a change stream each, for comparison.
const COMPARED: usize = 100;
/// When a client that still lacks something has waited long enough for it to count as lost.
const PATIENCE: Duration = Duration::from_secs(180);

/// Filter values: each event is for one of `of`, each client asks for one of the first `asked`.
#[derive(Clone, Copy)]
struct Values {
    name: &'static str,
    of: i64,
    asked: i64,
}

const STORMS: [Values; 3] = [
    Values { name: "bucket", of: 1_000, asked: 1_000 },
    Values { name: "bucket", of: 1_000, asked: 10 },
    Values { name: "own", of: 10_000, asked: 10_000 },
];

impl Values {
    /// The value of the document with this number; neighbours differ.
    fn of(self, number: i64) -> i64 {
        number * 7919 % self.of
    }
}

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
    let filter = |name: &str| {
        format!(
            "collection: shop.orders\naccess: public\nmatch: {{ {name}: {{ $param: {name} }} }}\n\
             params: {{ {name}: {{ type: long }} }}\n"
        )
    };
    let (bucket, alone) = (filter("bucket"), filter("own"));
    let filters = Filters::new(&[("bucket", &bucket), ("own", &alone)]);
    let (uri, path) = (own.uri(), filters.path().to_str().expect("a path"));
    let arguments = ["--mongodb", &uri, "--filters", path, "--app", "http://127.0.0.1:9"];
    let window = format!("{}s", settings.seconds * 2 / 5);
    let env = [("SIDESTREAM_REPLAY__WINDOW", window.as_str())];
    let program = Program::start_ready(&arguments, &env).await;

    eprintln!("writing {} events in {} seconds", RATE * settings.seconds, settings.seconds);
    let client = own.client().await;
    let events = Arc::new(history(&client, settings.seconds).await);
    println!(
        "{} clients come back at once, with ids spread over {} s and {} events, {window} of them in \
         memory",
        settings.clients,
        settings.seconds,
        events.len()
    );
    let mut is_right = true;
    for (number, values) in STORMS.into_iter().enumerate() {
        // Source addresses of its own: the ports of the last storm are not free yet.
        let host = 2 + 8 * u8::try_from(number).expect("a few");
        is_right &= storm(&program, &events, settings.clients, values, host).await;
    }
    let compared = one_stream_each(&client, &events, COMPARED.min(settings.clients)).await;
    println!(
        "beside: {} clients with a change stream each {:.2} s",
        COMPARED.min(settings.clients),
        compared.as_secs_f64()
    );
    is_right
}

/// One storm; says whether everybody got what was owed, once and in order.
async fn storm(
    program: &Program,
    events: &Arc<Vec<Event>>,
    clients: usize,
    values: Values,
    host: u8,
) -> bool {
    let (listen, admin) = (program.listen, program.admin);
    let counted = async || {
        let replays = async |source: &str| {
            metric(admin, &format!("sidestream_replays_total{{source=\"{source}\"}}")).await
        };
        (replays("memory").await, replays("oplog").await)
    };
    let (before, cpu) = (counted().await, cpu_of(program.id()).unwrap_or_default());
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(admin, program.id(), stop.clone()));
    let crowd = {
        let events = events.clone();
        tokio::task::spawn_blocking(move || come_back(listen, host, &events, clients, values))
    };
    let outcome = crowd.await.expect("the crowd").expect("its sockets");
    stop.store(true, Ordering::Relaxed);
    let cpu = cpu_of(program.id()).unwrap_or_default().saturating_sub(cpu);
    let (most, rss) = watching.await.expect("the watching");
    let now = counted().await;
    report(values, &outcome);
    println!(
        "  from memory, from the oplog        {:>9} {:>9}",
        now.0 - before.0,
        now.1 - before.1
    );
    println!("  change streams for that, at a time {most:>9}");
    println!("  processor time of the sidecar      {:>9.2} s", cpu.as_secs_f64());
    println!("  most memory of the sidecar         {:>9} MiB", rss >> 20);
    support::until("the streams are closed", || async {
        metric(admin, "sidestream_connections{transport=\"sse\"}").await == 0.0
    })
    .await;
    outcome.lost + outcome.wrong + outcome.resets == 0
}

fn report(values: Values, outcome: &Outcome) {
    let times = &outcome.times;
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64();
    println!("{} values, of {}:", values.asked, values.of);
    println!("  deliveries that were owed          {:>9}", outcome.delivered + outcome.lost);
    println!("  bytes                              {:>9} MiB", outcome.bytes >> 20);
    println!("  lost                               {:>9}", outcome.lost);
    println!("  doubled, or out of order           {:>9}", outcome.wrong);
    println!("  resets                             {:>9}", outcome.resets);
    println!("  the last one is connected after    {:>9.2} s", outcome.opened.as_secs_f64());
    println!("  half of them have everything after {:>9.2} s", at(50));
    println!("  the last one has everything after  {:>9.2} s", at(100));
}

fn come_back(
    listen: SocketAddr,
    host: u8,
    events: &[Event],
    clients: usize,
    values: Values,
) -> std::io::Result<Outcome> {
    // For each value, the places and the numbers of its events.
    let mut owed: HashMap<i64, (Vec<usize>, Vec<i64>)> = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        let (places, numbers) = owed.entry(values.of(event.number)).or_default();
        places.push(place);
        numbers.push(event.number);
    }
    let plans: Vec<Plan<'_>> = (0..clients)
        .map(|number| {
            // Spread evenly over the whole time.
            let from = number * events.len() / clients;
            let value = number as i64 % values.asked;
            let owed = owed.get(&value).map_or(&[][..], |(places, numbers)| {
                &numbers[places.partition_point(|place| *place <= from)..]
            });
            let name = values.name;
            Plan {
                path: format!("/_events/{name}?{name}={value}"),
                last_id: &events[from].id,
                owed,
            }
        })
        .collect();
    crowd::come_back(listen, host, &plans, PATIENCE)
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
                let (bucket, own) = (STORMS[0].of(number), STORMS[2].of(number));
                doc! { "_id": number, "bucket": bucket, "own": own, "text": "x".repeat(200) }
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

/// The most change streams for replays, and the most memory, at any time.
async fn watch(admin: SocketAddr, id: u32, stop: Arc<AtomicBool>) -> (usize, u64) {
    let (mut most, mut rss) = (0.0_f64, 0);
    while !stop.load(Ordering::Relaxed) {
        most = most.max(metric(admin, "sidestream_replay_cursors").await);
        rss = rss.max(memory_of(id).map_or(0, |memory| memory.resident));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (most as usize, rss)
}

/// What people write first: each client has a change stream, and takes what is its own.
async fn one_stream_each(client: &Client, events: &Arc<Vec<Event>>, clients: usize) -> Duration {
    let values = STORMS[0];
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let (client, events) = (client.clone(), events.clone());
        tasks.spawn(async move {
            let from = number * events.len() / clients;
            let bucket = number as i64 % values.asked;
            let is_owed = |event: &&Event| values.of(event.number) == bucket;
            let owed = events[from + 1..].iter().filter(is_owed).count();
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
