//! Claims that are read as a type: users by ObjectId, as most documents refer to them, while tokens
//! carry text.

use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use serde_json::json;

use super::issuer::{claims, secret};
use super::{SECRET, bearer, filter, insert, knock};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{mongo, unique};

const SETTINGS: [(&str, &str); 2] =
    [("SIDESTREAM_AUTH__JWT__SECRET", SECRET), ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256")];

/// The next event that tells of a document.
async fn change(stream: &mut Stream) -> Block {
    loop {
        let event = stream.event().await;
        if event.name() != "ready" {
            return event;
        }
    }
}

fn number(event: &Block) -> i64 {
    event.json()["fullDocument"]["n"].as_i64().expect("a number")
}

async fn order(database: &str, n: i32, fields: Document) {
    let mut document = doc! { "n": n };
    document.extend(fields);
    insert(database, "orders", document).await;
}

#[tokio::test]
async fn everyone_gets_the_orders_of_their_own_object_id() {
    let database = unique("typed");
    let mine = "match: { customer: { $claim: sub, type: objectId } }\noperations: [insert]\n";
    let ours =
        "match: { team: { $in: { $claim: teams, type: objectId } } }\noperations: [insert]\n";
    let filters = Filters::new(&[
        ("mine", &filter(&database, "authenticated", mine)),
        ("ours", &filter(&database, "authenticated", ours)),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &SETTINGS).await;
    let key = secret(SECRET);
    let token = |more: serde_json::Value| bearer(&key.sign(&claims(more)));

    let (ada, bob) = (ObjectId::new(), ObjectId::new());
    let [red, blue, green] = [ObjectId::new(), ObjectId::new(), ObjectId::new()];
    let hex = |ids: &[ObjectId]| ids.iter().map(|id| id.to_hex()).collect::<Vec<_>>();
    let open = |stream: &str, more: serde_json::Value| {
        let (target, fields) = (format!("/_events/{stream}"), token(more));
        async move { Stream::open_with(sidecar.listen, &target, &fields).await }
    };
    let mut of_ada = open("mine", json!({ "sub": ada.to_hex() })).await;
    let mut of_bob = open("mine", json!({ "sub": bob.to_hex().to_uppercase() })).await;
    let mut of_teams = open("ours", json!({ "teams": hex(&[red, blue]) })).await;
    let mut of_none = open("ours", json!({ "teams": [] })).await;

    // The same text is another value, and stays with nobody.
    order(&database, 1, doc! { "customer": ada.to_hex(), "team": red.to_hex() }).await;
    order(&database, 2, doc! { "customer": bob, "team": green }).await;
    order(&database, 3, doc! { "customer": ada, "team": red }).await;
    order(&database, 4, doc! { "customer": bob, "team": [green, blue] }).await;
    order(&database, 5, doc! { "customer": Bson::Null }).await;
    order(&database, 6, doc! { "customer": ada, "team": blue }).await;

    for (stream, expected) in
        [(&mut of_ada, [3, 6]), (&mut of_bob, [2, 4])].into_iter().chain([(&mut of_teams, [3, 4])])
    {
        for n in expected {
            assert_eq!(number(&change(stream).await), n);
        }
    }
    assert_eq!(number(&change(&mut of_teams).await), 6);
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.unwrap();
    assert!(of_none.is_quiet_up_to(mongo::now(&client).await).await);

    let rows = [
        ("mine", json!({ "sub": "ada" }), 403),
        ("mine", json!({ "sub": 7 }), 403),
        ("mine", json!({ "sub": null }), 403),
        ("ours", json!({ "teams": { "$oid": red.to_hex() } }), 403),
        ("ours", json!({ "teams": { "$ne": null } }), 403),
        ("ours", json!({ "teams": ["red"] }), 403),
        ("ours", json!({ "teams": [red.to_hex(), "blue"] }), 403),
        ("ours", json!({ "teams": red.to_hex() }), 200),
        ("ours", json!({}), 403),
    ];
    for (stream, more, status) in rows {
        let answer =
            knock(sidecar.listen, &format!("/_events/{stream}"), &token(more.clone())).await;
        assert_eq!(answer.head.status, status, "{stream} {more}");
    }
    sidecar.finish().await;
}

#[tokio::test]
async fn a_room_by_object_id_opens_to_those_whose_claims_name_it() {
    let database = unique("typed");
    let room = "match: { room: { $param: room } }\nparams: { room: { type: objectId } }\n\
                operations: [insert]\n";
    let filters = Filters::new(&[(
        "room",
        &filter(&database, "{ match: { rooms: { $param: room } } }", room),
    )]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &SETTINGS).await;
    let key = secret(SECRET);
    let (lobby, vault) = (ObjectId::new(), ObjectId::new());
    let rows = [
        (lobby.to_hex(), json!([lobby.to_hex()]), 200),
        (lobby.to_hex(), json!(lobby.to_hex()), 200),
        (vault.to_hex(), json!([lobby.to_hex()]), 403),
        (vault.to_hex(), json!({ "$ne": null }), 403),
        (vault.to_hex(), json!(null), 403),
        ("lobby".to_owned(), json!(["lobby"]), 400),
    ];
    for (room, rooms, status) in rows {
        let fields = bearer(&key.sign(&claims(json!({ "rooms": rooms }))));
        let answer = knock(sidecar.listen, &format!("/_events/room?room={room}"), &fields).await;
        assert_eq!(answer.head.status, status, "{room} {rooms}");
    }
    let fields = bearer(&key.sign(&claims(json!({ "rooms": [lobby.to_hex()] }))));
    let target = format!("/_events/room?room={}", lobby.to_hex());
    let mut stream = Stream::open_with(sidecar.listen, &target, &fields).await;
    order(&database, 1, doc! { "room": vault }).await;
    order(&database, 2, doc! { "room": lobby }).await;
    assert_eq!(number(&change(&mut stream).await), 2);
    sidecar.finish().await;
}
