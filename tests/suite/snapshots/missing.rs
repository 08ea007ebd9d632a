//! Snapshots of a collection that comes and goes: what one shows is what the collection held at the
//! position that came with it, and it is empty only where nothing was there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection, Database};
use sidestream::Sidecar;
use sidestream::event::Position;

use super::{OWN_QUERY, Page, client, fill, filter};
use crate::support::mongo::{Own, Setup, hold_replication};
use crate::support::sidecar::{self, Filters};
use crate::support::{mongo, unique, until};

/// What pages showed, and at which position.
type Shown = Vec<(Position, BTreeSet<i64>)>;

/// Opens so many pages, which nobody had before, up to the end of their first snapshots.
async fn open(sidecar: &Sidecar, pages: std::ops::Range<i64>) -> Shown {
    let opened = pages.map(async |page| {
        let target = format!("/_events/orders?page=-{}", page + 1);
        let mut page = Page::open(sidecar.listen, &target).await;
        page.complete(1).await;
        let id = page.stream.last_event_id.as_ref().expect("an id with `ready`");
        (Position::parse(id).unwrap(), page.ids().into_iter().collect())
    });
    join_all(opened).await
}

/// `orders`, whose writes wait for so many members.
fn orders(database: &Database, members: Acknowledgment) -> Collection<Document> {
    let concern = WriteConcern::builder().w(members).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    database.collection_with_options("orders", options)
}

/// What happened in a database, as MongoDB tells it.
struct History {
    database: Database,
    events: ChangeStream<Document>,
    /// The `_id`s of each collection's documents behind the last event.
    collections: BTreeMap<String, BTreeSet<i64>>,
    /// Those of `orders` behind each event.
    orders: Vec<(Position, BTreeSet<i64>)>,
}

impl History {
    /// Of a database in which there is nothing.
    async fn of(database: &Database) -> History {
        let events = database.watch().await.unwrap().with_type::<Document>();
        let (collections, orders) = (BTreeMap::new(), Vec::new());
        History { database: database.clone(), events, collections, orders }
    }

    /// Takes in what has happened by now.
    async fn read(&mut self) {
        let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let end = self.database.collection::<Document>("end");
        end.insert_one(doc! {}).write_concern(majority).await.unwrap();
        loop {
            let event = self.events.next_if_any().await.expect("the history");
            let Some(event) = event else { continue };
            let text = |path: [&str; 2]| {
                let value = event.get_document(path[0]).unwrap().get_str(path[1]).unwrap();
                value.to_string()
            };
            let name = text(["ns", "coll"]);
            match event.get_str("operationType").unwrap() {
                "insert" if name == "end" => return,
                "insert" => {
                    let id = event.get_document("documentKey").unwrap().get_i64("_id").unwrap();
                    self.collections.entry(name).or_default().insert(id);
                }
                "drop" => drop(self.collections.remove(&name)),
                "rename" => {
                    let documents = self.collections.remove(&name).unwrap_or_default();
                    self.collections.insert(text(["to", "coll"]), documents);
                }
                other => panic!("{other}: {event}"),
            }
            let behind = Position::from_server(&text(["_id", "_data"])).expect("its token");
            let orders = self.collections.get("orders").cloned().unwrap_or_default();
            self.orders.push((behind, orders));
        }
    }

    /// Leaves a server that is gone: the driver would look for it for half a minute.
    async fn begin_again(&mut self) {
        let behind = self.events.resume_token();
        let events = self.database.watch().resume_after(behind).await.unwrap();
        self.events = events.with_type();
    }

    /// Reads on, and compares.
    async fn holds(&mut self, shown: &Shown) {
        self.read().await;
        for (position, ids) in shown {
            let last = self.orders.iter().rev().find(|(behind, _)| behind <= position);
            let there = last.map(|(_, ids)| ids.clone()).unwrap_or_default();
            assert_eq!(*ids, there, "shown, and there, at {position} ({:?})", position.time());
        }
    }
}

async fn rename(client: &Client, database: &Database, from: &str, to: &str) {
    let (from, to) = (format!("{}.{from}", database.name()), format!("{}.{to}", database.name()));
    let one = doc! { "w": 1 };
    let command =
        doc! { "renameCollection": from, "to": to, "dropTarget": true, "writeConcern": one };
    client.database("admin").run_command(command).await.unwrap();
}

#[tokio::test]
async fn one_that_comes_and_goes_while_pages_open() {
    const PAGES: i64 = 4;
    let name = unique("comes");
    let client = client().await;
    let filters = Filters::new(&[("orders", &filter(&name, OWN_QUERY))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let database = client.database(&name);
    let mut history = History::of(&database).await;
    let orders = orders(&database, Acknowledgment::Nodes(1));
    let mut ids = 0..;
    let mut next = || {
        let first = ids.next().unwrap() * 3;
        first..first + 3
    };
    for round in 0..8 {
        let writing = async {
            for _ in 0..4 {
                fill(&orders, next()).await;
                orders.drop().await.unwrap();
                fill(&orders, next()).await;
                rename(&client, &database, "orders", "aside").await;
            }
            match round % 3 {
                0 => {}
                1 => fill(&orders, next()).await,
                _ => rename(&client, &database, "aside", "orders").await,
            }
        };
        let pages = open(&sidecar, round * PAGES..(round + 1) * PAGES);
        let (shown, ()) = tokio::join!(pages, writing);
        history.holds(&shown).await;
    }
    sidecar.finish().await;
}

/// Has a server keep what it is asked in a database.
async fn keep_questions(server: &Client, database: &str) {
    server.database(database).run_command(doc! { "profile": 2 }).await.unwrap();
}

/// How many pages' queries a server has answered since then. Sidestream's own looks want one document.
async fn questions(server: &Client, database: &str) -> u64 {
    let kept = server.database(database).collection::<Document>("system.profile");
    let wanted = doc! { "command.find": "orders", "command.limit": { "$ne": 1 } };
    kept.count_documents(wanted).await.unwrap()
}

/// Leaves the primary what it is, also where the machine is so busy that members seem to be gone.
/// Without a vote of the secondary, what the primary has is what a majority has.
async fn settle(own: &Own, secondary: usize, has_vote: bool) {
    // One that is just made does not take another configuration at once.
    until("the primary stays", || async {
        let told = own.admin(doc! { "replSetGetConfig": 1 }).await.unwrap();
        let mut config = told.get_document("config").unwrap().clone();
        let version = config.get_i32("version").unwrap();
        config.insert("version", version + 1);
        let members = config.get_array_mut("members").unwrap();
        let member = members[secondary].as_document_mut().unwrap();
        member.insert("priority", 0);
        member.insert("votes", i32::from(has_vote));
        let settings = config.get_document_mut("settings").unwrap();
        settings.insert("electionTimeoutMillis", 60_000);
        own.admin(doc! { "replSetReconfig": config }).await.is_ok()
    })
    .await;
}

// The server that drops it no longer shows it. A position is of what a majority has.
#[tokio::test]
async fn one_that_is_gone_on_the_primary_and_not_yet_for_a_majority() {
    let own = Own::start(Setup { members: 2, ..Setup::default() }).await;
    let primary = own.primary().await;
    settle(&own, 1 - primary, true).await;
    let (client, name) = (own.client().await, unique("gone"));
    let database = client.database(&name);
    let filters = Filters::new(&[("orders", &filter(&name, OWN_QUERY))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut history = History::of(&database).await;
    let (primary, other) = (own.direct(primary).await, own.direct(1 - primary).await);
    keep_questions(&primary, &name).await;
    for page in 0..2 {
        let ids = page * 3..page * 3 + 3;
        fill(&orders(&database, Acknowledgment::Majority), ids).await;
        hold_replication(&other, true).await;
        match page {
            0 => orders(&database, Acknowledgment::Nodes(1)).drop().await.unwrap(),
            _ => rename(&client, &database, "orders", "aside").await,
        }
        let before = questions(&primary, &name).await;
        let letting_go = async {
            // That which finds no collection, and that which asks at a known time.
            let is_asked = || async { questions(&primary, &name).await >= before + 2 };
            until("it is asked for", is_asked).await;
            hold_replication(&other, false).await;
        };
        let (shown, ()) = tokio::join!(open(&sidecar, page..page + 1), letting_go);
        history.holds(&shown).await;
    }
    sidecar.finish().await;
}

/// Makes the member that is left a set of its own, in which it takes writes.
async fn go_on_alone(own: &Own, left: usize) {
    let admin = own.direct(left).await.database("admin");
    let told = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut config = told.get_document("config").unwrap().clone();
    let mut member = config.get_array("members").unwrap()[left].clone();
    member.as_document_mut().unwrap().insert("priority", 1);
    config.insert("members", [member]);
    let alone = doc! { "replSetReconfig": config, "force": true };
    until("it is configured", || async { admin.run_command(alone.clone()).await.is_ok() }).await;
    until("it is the primary", || async {
        let hello = admin.run_command(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap())
    })
    .await;
}

// It is there again, since only a server that is lost had dropped it, and no event ever says so.
#[tokio::test]
async fn one_that_is_gone_on_a_primary_that_is_lost_before_a_majority_knows() {
    const PAGES: i64 = 4;
    let mut own = Own::start(Setup { members: 2, ..Setup::default() }).await;
    let primary = own.primary().await;
    let left = 1 - primary;
    settle(&own, left, true).await;
    let (client, name) = (own.client().await, unique("lost"));
    let database = client.database(&name);
    let filters = Filters::new(&[("orders", &filter(&name, OWN_QUERY))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut history = History::of(&database).await;
    fill(&orders(&database, Acknowledgment::Majority), 0..3).await;
    let (lost, other) = (own.direct(primary).await, own.direct(left).await);
    hold_replication(&other, true).await;
    orders(&database, Acknowledgment::Nodes(1)).drop().await.unwrap();
    keep_questions(&lost, &name).await;
    let losing = async {
        // Each page's, that finds no collection, and that asks at a known time.
        let is_asked = || async { questions(&lost, &name).await >= 2 * PAGES as u64 };
        until("it is asked for", is_asked).await;
        own.kill(primary);
        hold_replication(&other, false).await;
        go_on_alone(&own, left).await;
    };
    let (shown, ()) = tokio::join!(open(&sidecar, 0..PAGES), losing);
    history.begin_again().await;
    history.holds(&shown).await;
    assert!(shown.iter().all(|(_, ids)| ids.len() == 3), "it was never gone: {shown:?}");
    sidecar.finish().await;
}

/// How many clients with this `appName` a server lets wait for the documents of `orders`.
async fn waiting(server: &Client, app: &str) -> usize {
    let wanted = doc! { "appName": app, "command.find": "orders" };
    let stages = [doc! { "$currentOp": {} }, doc! { "$match": wanted }];
    let found = server.database("admin").aggregate(stages).await.unwrap();
    found.try_collect::<Vec<Document>>().await.unwrap().len()
}

// One that is not there on a member that is behind, while the position is what the other one tells. Of so
// many pages, whose queries go to either, it is a few of which that is so.
#[tokio::test]
async fn one_that_a_member_does_not_know_yet() {
    const PAGES: i64 = 32;
    let own = Own::start(Setup { members: 2, ..Setup::default() }).await;
    let primary = own.primary().await;
    settle(&own, 1 - primary, false).await;
    let (client, name) = (own.client().await, unique("behind"));
    let database = client.database(&name);
    let behind = own.direct(1 - primary).await;
    // The stream reads from the primary, whatever the queries do, and is not held up.
    let data = doc! { "failCommands": ["aggregate"], "appName": &name, "errorCode": 6 };
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    behind.database("admin").run_command(point).await.expect("test commands");
    let filters = Filters::new(&[("orders", &filter(&name, OWN_QUERY))]);
    let nearest = "readPreference=nearest&localThresholdMS=60000";
    let uri = format!("{}&{nearest}&appName={name}", own.uri());
    let more =
        [("SIDESTREAM_SNAPSHOT__MAX_CONCURRENT", "32"), ("SIDESTREAM_SNAPSHOT__MAX_TIME", "60s")];
    let sidecar = sidecar::start(&uri, &filters, &more).await;
    let mut history = History::of(&database).await;
    hold_replication(&behind, true).await;
    fill(&orders(&database, Acknowledgment::Majority), 0..3).await;
    let done = AtomicUsize::new(0);
    let opening = (0..PAGES).map(async |page| {
        let shown = open(&sidecar, page..page + 1).await;
        done.fetch_add(1, Ordering::Relaxed);
        shown
    });
    let letting_go = async {
        until("every page is shown, or waits for the member that is behind", || async {
            let waiting = waiting(&behind, &name).await;
            done.load(Ordering::Relaxed) + waiting >= PAGES as usize
        })
        .await;
        hold_replication(&behind, false).await;
    };
    let (shown, ()) = tokio::join!(join_all(opening), letting_go);
    history.holds(&shown.concat()).await;
    sidecar.finish().await;
}
