//! Filter files that are edited, broken and mended in a loop while 1,000 clients listen and somebody
//! writes all the time: nobody loses an event, and only those whose own file changes are told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use sidestream::Sidecar;

use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

/// A document belongs to one of these, and each client listens to one.
const GROUPS: i64 = 20;
const ROUNDS: usize = 12;
/// Who listens to what: `still` is never touched, `mended` is broken and mended again, `edited`
/// changes its meaning.
const CLIENTS: [(&str, usize); 3] = [("still", 500), ("mended", 250), ("edited", 250)];
/// Documents written in each round, at least.
const WRITES: i64 = 40;
/// Between two writes, so that a fast machine does not drown the clients.
const PACE: Duration = Duration::from_millis(4);
/// Behind everything else in each group.
const LAST: &str = "last";

fn filter(database: &str, version: &str, project: &str) -> String {
    format!(
        "description: {version}\ncollection: {database}.events\nmatch: {{ group: {{ $param: group }} }}\n\
         params: {{ group: {{ type: int }} }}\nproject: {{ {project} }}\naccess: public\n"
    )
}

/// What a client was told.
struct Heard {
    resets: usize,
    events: usize,
}

/// Reads one group up to its last document. A client that is reset asks the database again, as a page
/// does.
async fn listen(mut stream: Stream, group: i64, events: Collection<Document>) -> Heard {
    let mut heard = Heard { resets: 0, events: 0 };
    let (mut seen, mut known) = (group - GROUPS, -1);
    loop {
        let event = stream.event().await;
        let data = event.json();
        match event.name() {
            "reset" => {
                assert_eq!(data["reason"], "filter-changed");
                let numbers = doc! { "group": group, "_id": { "$type": "number" } };
                let newest = events.find_one(numbers).sort(doc! { "_id": -1 }).await;
                let newest = newest.expect("an answer");
                known = newest.map_or(-1, |newest| newest.get_i64("_id").expect("a number"));
                heard.resets += 1;
            }
            "insert" => {
                if data["documentKey"]["_id"] == format!("{LAST} {group}") {
                    return heard;
                }
                let number = data["documentKey"]["_id"].as_i64().expect("a number");
                assert!(number > seen, "group {group}: {number} behind {seen}");
                let is_next = number == seen + GROUPS;
                assert!(
                    is_next || number - GROUPS <= known,
                    "group {group}: {seen}, then {number}"
                );
                seen = number;
                heard.events += 1;
            }
            other => panic!("group {group}: {other} {data}"),
        }
    }
}

/// Writes until it is told to stop, then the last of each group; returns how many were written.
async fn write(
    events: Collection<Document>,
    committed: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
) -> i64 {
    let mut number = 0;
    let mut pace = tokio::time::interval(PACE);
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let document = doc! { "_id": number, "group": number % GROUPS, "note": "some text" };
        events.insert_one(document).await.expect("an insert");
        committed.store(number, Ordering::SeqCst);
        number += 1;
    }
    for group in 0..GROUPS {
        let document = doc! { "_id": format!("{LAST} {group}"), "group": group };
        events.insert_one(document).await.expect("an insert");
    }
    number
}

async fn is_in_force(sidecar: &Sidecar, version: &str) -> bool {
    http::get(sidecar.listen, "/_events").await.text().contains(&format!("\"{version}\""))
}

async fn broken_reloads(sidecar: &Sidecar) -> f64 {
    metric(sidecar.admin, "sidestream_filter_reloads_total{result=\"broken\"}").await
}

/// One round of what people do to a directory of filter files.
async fn edit(round: usize, database: &str, filters: &Filters, sidecar: &Sidecar) {
    // Another meaning.
    let project = if round.is_multiple_of(2) { "group: 1" } else { "group: 1, note: 1" };
    filters.write("edited", &filter(database, &format!("edited {round}"), project));
    // A file of its own collection comes, and the last one goes: the cursor is opened anew.
    let visitor = |round: usize| format!("visitor{round}");
    let text = format!("collection: {database}.{}\naccess: public\n", visitor(round));
    filters.write(&visitor(round), &text);
    if round > 0 {
        filters.remove(&visitor(round - 1));
    }
    // Half of a file, where it is, as some editors leave it for a moment.
    let whole = filter(database, &format!("mended {round}"), "group: 1");
    let before = broken_reloads(sidecar).await;
    std::fs::write(filters.path().join("mended.yaml"), &whole[..whole.len() / 2]).expect("a file");
    until("the broken file was read", || async { broken_reloads(sidecar).await > before }).await;
    std::fs::write(filters.path().join("mended.yaml"), whole).expect("a file");
    for version in [format!("edited {round}"), format!("mended {round}")] {
        until("it is in force", || is_in_force(sidecar, &version)).await;
    }
}

#[tokio::test]
async fn a_thousand_clients_notice_only_what_changes_their_own_file() {
    let database = unique("reload_load");
    let plain = |name: &str| filter(&database, name, "group: 1");
    let filters = Filters::new(&[
        ("still", &plain("still")),
        ("mended", &plain("mended")),
        ("edited", &filter(&database, "edited", "group: 1, note: 1")),
    ]);
    // Signs of life to 1,000 clients five times a second would be most of the work.
    let heartbeat = [("SIDESTREAM_CLIENTS__HEARTBEAT", "5s")];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &heartbeat).await;
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    let events = client.database(&database).collection::<Document>("events");

    let committed = Arc::new(AtomicI64::new(-1));
    let mut open = Vec::new();
    for (name, count) in CLIENTS {
        for index in 0..count {
            let group = index as i64 % GROUPS;
            let mut stream =
                Stream::open(sidecar.listen, &format!("/_events/{name}?group={group}")).await;
            stream.settled().await;
            open.push((name, group, stream));
        }
    }
    // Now that there is soon something to hear: to open so many takes a while.
    let listening: Vec<_> = open
        .into_iter()
        .map(|(name, group, stream)| (name, tokio::spawn(listen(stream, group, events.clone()))))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(events, committed.clone(), stop.clone()));
    for round in 0..ROUNDS {
        let before = committed.load(Ordering::SeqCst);
        edit(round, &database, &filters, &sidecar).await;
        until("there is a load", || async { committed.load(Ordering::SeqCst) >= before + WRITES })
            .await;
    }
    stop.store(true, Ordering::SeqCst);
    let written = writing.await.expect("the writer");

    for (name, task) in listening {
        let heard = task.await.unwrap_or_else(|error| panic!("{name}: {error}"));
        match name {
            "edited" => assert!((1..=ROUNDS).contains(&heard.resets), "{} resets", heard.resets),
            _ => {
                assert_eq!(heard.resets, 0, "{name}");
                let all = written / GROUPS..=written / GROUPS + 1;
                assert!(all.contains(&(heard.events as i64)), "{name}: {} events", heard.events);
            }
        }
    }
    // Nobody came back: who was there at the start is there at the end.
    let opened = "sidestream_connections_total{outcome=\"accepted\",transport=\"sse\"}";
    let clients: usize = CLIENTS.iter().map(|(_, count)| count).sum();
    assert_eq!(metric(sidecar.admin, opened).await, clients as f64);
    sidecar.finish().await;
}
