//! What `project` and `access` hold back, and ways round that: ids, guessed tokens, odd field names.

use mongodb::bson::{Document, doc};
use sidestream::event::Position;

use crate::events::ids::expect_exact;
use crate::events::{SMALL_JOURNAL, client, collection, filter, n, next, push_out};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

#[tokio::test]
async fn an_id_tells_nothing_of_a_key_that_is_hidden() {
    let database = unique("keyless");
    let more = "fullDocumentBeforeChange: whenAvailable\nproject: { n: 1, _id: 0 }\n";
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), more))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let without_memory = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let key = |n: i64| format!("secret{n}");
    let document = |n: i64| doc! { "_id": key(n), "n": n };
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for n in 0..3 {
        orders.insert_one(document(n)).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    let update = doc! { "$set": { "n": 7_i64 } };
    orders.update_one(doc! { "_id": key(0) }, update).await.unwrap();
    orders.delete_one(doc! { "_id": key(1) }).await.unwrap();
    let events = stream.events(5).await;
    let hex: String = "secret".bytes().map(|byte| format!("{byte:02X}")).collect();
    for event in &events {
        let (id, data) = (event.id.as_ref().unwrap(), event.data.as_ref().unwrap());
        assert!(!id.contains(&hex) && !data.contains("secret"), "{event:?}");
        assert!(!Position::parse(id).unwrap().names_document());
    }
    push_out(&orders, &mut stream).await;
    expect_exact(&events, &[sidecar.listen, without_memory.listen]).await;
    // Neither does the admin port, whatever the newest event is.
    let shown = http::get(sidecar.admin, "/streams").await.json();
    let position = shown["upstreams"][0]["position"].as_str().unwrap();
    assert!(!Position::parse(position).unwrap().names_document());
    sidecar.finish().await;
    without_memory.finish().await;
}

#[tokio::test]
async fn sealed_ids_tell_nothing_and_hold_across_replicas_and_keys() {
    let database = unique("sealed");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), ""))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let (old, new) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(8));
    let keys = tempfile::tempdir().unwrap();
    let start = async |name: &str, text: String, more: &[(&str, &str)]| {
        let path = keys.path().join(name);
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let sealed = [("SIDESTREAM_IDS__MODE", "sealed"), ("SIDESTREAM_IDS__KEYS_FILE", &*path)];
        sidecar::start(&mongo::uri(), &filters, &[&sealed, more].concat()).await
    };
    let first = start("old", old.clone(), &[]).await;
    let other = start("both", format!("{new}\n{old}\n"), &[SMALL_JOURNAL]).await;
    let last = start("new", new, &[]).await;
    let mut stream = Stream::open(first.listen, "/_events/orders").await;
    let quiet = stream.settled().await;
    for n in 0..3_i64 {
        orders.insert_one(doc! { "_id": format!("secret{n}"), "n": n }).await.unwrap();
    }
    let events = stream.events(3).await;
    push_out(&orders, &mut stream).await;
    let hex: String = "secret".bytes().map(|byte| format!("{byte:02X}")).collect();
    for (at, id) in
        [&quiet].into_iter().chain(events.iter().filter_map(|it| it.id.as_ref())).enumerate()
    {
        assert!(Position::parse(id).is_err() && !id.contains(&hex), "{id}");
        for listen in [first.listen, other.listen] {
            let mut resumed = Stream::resume(listen, "/_events/orders", id).await;
            for n in [0, 1, 2, -1, -2].into_iter().skip(at) {
                assert_eq!(next(&mut resumed).await, ("insert".to_string(), Some(n)));
            }
        }
        // One that no longer has the key, and tokens where ids are sealed.
        let mut refused = Stream::resume(last.listen, "/_events/orders", id).await;
        assert_eq!(refused.event().await.name(), "reset");
    }
    let token = "82000000010000000100";
    let mut refused = Stream::resume(first.listen, "/_events/orders", token).await;
    assert_eq!(refused.event().await.json()["reason"], "invalid-token");
    for sidecar in [first, other, last] {
        sidecar.finish().await;
    }
}

// Whoever may open a stream can make up tokens of documents that are not his.
#[tokio::test]
async fn whether_a_token_is_taken_does_not_hang_on_its_event() {
    let database = unique("oracle");
    let filters = Filters::new(&[
        ("orders", &filter(&format!("{database}.orders"), "match: { n: { $lt: 100 } }\n")),
        ("chat", &filter(&format!("{database}.chat"), "")),
    ]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let chat = collection(&client, &database, "chat").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let without_memory = sidecar::start(&mongo::uri(), &filters, &[SMALL_JOURNAL]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let mut other = Stream::open(sidecar.listen, "/_events/chat").await;
    other.settled().await;
    let insert = async |n: i64| {
        orders.insert_one(doc! { "_id": format!("key{n}"), "n": n }).await.unwrap();
    };
    for n in [0, 200, 1] {
        insert(n).await;
    }
    let events = stream.events(2).await;
    let token = events[0].id.clone().unwrap();
    chat.insert_one(doc! { "_id": 1, "n": 1_i64 }).await.unwrap();
    let of_chat = other.event().await.id.unwrap();

    let hex = |key: &str| key.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let guess = |key: &str| token.replace(&hex("key0"), &hex(key));
    assert_ne!(guess("other"), token);
    // The time of the event that this client may not see: between the two that he may.
    let time = Position::parse(&token).unwrap().time();
    let later = |seconds: u32, increment: u32| {
        let head = format!("82{:08X}{increment:08X}", time.time + seconds);
        format!("{head}{}", &guess("key200")[18..])
    };
    push_out(&orders, &mut stream).await;
    for listen in [sidecar.listen, without_memory.listen] {
        for id in [&token, &guess("key1"), &guess("j"), &guess("zzzzzzzz")] {
            // One with a smaller key sorts before the event of its time.
            let mut resumed = Stream::resume(listen, "/_events/orders", id).await;
            let first = if *id < token { 0 } else { 1 };
            for n in [0, 1, -1, -2].into_iter().skip(first) {
                assert_eq!(next(&mut resumed).await, ("insert".to_string(), Some(n)), "{id}");
            }
        }
        for increment in time.increment + 1..time.increment + 4 {
            let id = later(0, increment);
            let mut resumed = Stream::resume(listen, "/_events/orders", &id).await;
            let event = resumed.event().await;
            assert_eq!(event.name(), "insert", "{id}");
        }
        // Known by its collection, and there alone.
        let mut resumed = Stream::resume(listen, "/_events/orders", &of_chat).await;
        let reset = resumed.event().await;
        assert_eq!(reset.name(), "reset");
        assert_eq!(reset.json()["reason"], "invalid-token");
    }

    // The same for a sidecar that has seen nothing of the collection: it asks MongoDB for it.
    let noise = client.database(&database).collection::<Document>("noise");
    until("all of it is older than what a sidecar reads at its start", || async {
        noise.insert_one(doc! {}).await.unwrap();
        newest(&orders).await.time > time.time + 2
    })
    .await;
    let fresh = [("SIDESTREAM_REPLAY__WINDOW", "1s")];
    let fresh = sidecar::start(&mongo::uri(), &filters, &fresh).await;
    for id in [&token, &guess("key1"), &guess("zzzzzzzz")] {
        let mut resumed = Stream::resume(fresh.listen, "/_events/orders", id).await;
        assert_eq!(next(&mut resumed).await, ("insert".to_string(), Some(1)), "{id}");
    }
    let ahead = later(3, 1);
    let mut resumed = Stream::resume(fresh.listen, "/_events/orders", &ahead).await;
    while Position::parse(&ahead).unwrap().time() >= newest(&orders).await {
        insert(50).await;
        orders.delete_one(doc! { "n": 50_i64 }).await.unwrap();
    }
    insert(60).await;
    loop {
        let event = resumed.event().await;
        assert_ne!(event.name(), "reset", "replicas differ by what one has not read yet");
        if n(&event) == Some(60) {
            break;
        }
    }
    for sidecar in [sidecar, without_memory, fresh] {
        sidecar.finish().await;
    }
}

/// The cluster time of the newest write.
async fn newest(collection: &mongodb::Collection<Document>) -> mongodb::bson::Timestamp {
    let told =
        collection.client().database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    told.get_document("lastWrite")
        .unwrap()
        .get_document("majorityOpTime")
        .unwrap()
        .get_timestamp("ts")
        .unwrap()
}

// Names may hold dots and be numbers: an update's description does not tell `pub.x`, the name, from
// `x` in `pub`.
#[tokio::test]
async fn field_names_with_dots_and_numbers_show_nothing_that_project_hides() {
    let database = unique("names");
    let more = "fullDocument: whenAvailable\nfullDocumentBeforeChange: whenAvailable\n";
    let file = |project: &str| {
        filter(&format!("{database}.orders"), &format!("{more}project: {project}\n"))
    };
    let filters =
        Filters::new(&[("named", &file("{ pub: 1 }")), ("numbered", &file("{ a.pub: 1 }"))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut streams = Vec::new();
    for name in ["named", "numbered"] {
        let mut stream = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
        stream.settled().await;
        streams.push(stream);
    }
    let start = doc! { "_id": 1, "pub": { "y": 1 }, "a": { "0": { "pub": 1, "other": 1 } } };
    orders.insert_one(start).await.unwrap();
    let set = |name: &str| {
        let field = doc! {
            "$setField": { "field": { "$literal": name }, "input": "$$ROOT", "value": "SECRET" },
        };
        vec![doc! { "$replaceWith": field }]
    };
    // None of these is a field that the projections let through, and nothing of them may be told, not
    // even that something changed.
    for name in ["pub.x", "a.0.pub", "pub.y.z", "", "$pub"] {
        orders.update_one(doc! { "_id": 1 }, set(name)).await.unwrap();
    }
    let inner = doc! { "$set": { "a.0.other": "SECRET" } };
    orders.update_one(doc! { "_id": 1 }, inner).await.unwrap();
    orders.insert_one(doc! { "_id": 2 }).await.unwrap();
    for stream in &mut streams {
        loop {
            let event = stream.event().await;
            assert!(!event.data.as_deref().unwrap().contains("SECRET"), "{event:?}");
            if event.json()["documentKey"]["_id"] == 2 {
                break;
            }
            assert_eq!(event.name(), "insert", "{event:?}");
        }
    }
    sidecar.finish().await;
}
