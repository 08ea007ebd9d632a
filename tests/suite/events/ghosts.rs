//! Documents that are gone before they are looked up.

use mongodb::bson::doc;

use super::{client, collection, filter, next};
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

// In one transaction, so that the document is gone whenever it is looked up. The delete's own image
// is that after the update, and says nothing of who saw the document before.
#[tokio::test]
async fn a_document_that_is_updated_out_of_the_filter_and_deleted_leaves_it() {
    let database = unique("ghosts");
    let more = "match: { status: new }\nproject: { n: 1 }\n";
    let text = |images: &str| filter(&format!("{database}.orders"), &format!("{more}{images}"));
    let filters = Filters::new(&[
        ("whenAvailable", &text("fullDocumentBeforeChange: whenAvailable\n")),
        ("required", &text("fullDocumentBeforeChange: required\n")),
    ]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut streams = Vec::new();
    for name in ["whenAvailable", "required"] {
        let mut stream = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
        stream.settled().await;
        streams.push(stream);
    }
    for (n, status) in [(1_i64, "new"), (2, "new"), (3, "old")] {
        orders.insert_one(doc! { "_id": n, "n": n, "status": status }).await.unwrap();
    }
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for (id, update) in
        [(1_i64, doc! { "status": "old" }), (2, doc! { "n": 5 }), (3, doc! { "n": 6 })]
    {
        let update = doc! { "$set": update };
        orders.update_one(doc! { "_id": id }, update).session(&mut session).await.unwrap();
        orders.delete_one(doc! { "_id": id }).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    orders.insert_one(doc! { "_id": 4_i64, "n": 4_i64, "status": "new" }).await.unwrap();

    for stream in &mut streams {
        for n in [1, 2] {
            assert_eq!(next(stream).await, ("insert".to_string(), Some(n)));
        }
        let mut left = Vec::new();
        for _ in 0..3 {
            let event = stream.event().await;
            let json = event.json();
            assert_eq!(json["view"], "leave");
            assert!(json.get("fullDocument").is_none() && json.get("updateDescription").is_none());
            let before = json["fullDocumentBeforeChange"]["n"].as_i64();
            left.push((event.name().to_string(), json["documentKey"]["_id"].as_i64(), before));
        }
        // The second one was still in the filter when it was deleted.
        let expected = [("update", 1, 1), ("update", 2, 2), ("delete", 2, 5)];
        let expected = expected.map(|(name, id, n)| (name.to_string(), Some(id), Some(n)));
        assert_eq!(left, expected);
        assert_eq!(next(stream).await, ("insert".to_string(), Some(4)));
    }
    sidecar.finish().await;
}

// Without its image it may have left, or come, or neither: that cannot be told, and is no silence
// either. The key may decide all the same.
#[tokio::test]
async fn an_update_whose_image_is_not_there_resets_whom_it_may_concern() {
    let database = unique("imageless");
    let more = "fullDocument: whenAvailable\n";
    let text = |rest: &str| filter(&format!("{database}.orders"), &format!("{more}{rest}"));
    let filters = Filters::new(&[
        ("both", &text("match: { status: new }\nfullDocumentBeforeChange: whenAvailable\n")),
        ("after", &text("match: { status: new }\n")),
        ("one", &text("match: { _id: 1 }\n")),
    ]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut streams = Vec::new();
    for name in ["both", "after", "one"] {
        let mut stream = Stream::open(sidecar.listen, &format!("/_events/{name}")).await;
        stream.settled().await;
        streams.push(stream);
    }
    for (n, status) in [(1_i64, "new"), (2, "old")] {
        orders.insert_one(doc! { "_id": n, "n": n, "status": status }).await.unwrap();
    }
    let keep_images = async |enabled: bool| {
        let images = doc! { "enabled": enabled };
        let command = doc! { "collMod": "orders", "changeStreamPreAndPostImages": images };
        client.database(&database).run_command(command).await.unwrap();
    };
    keep_images(false).await;
    for id in [1_i64, 2] {
        let update = doc! { "$set": { "status": "other" } };
        orders.update_one(doc! { "_id": id }, update).await.unwrap();
    }
    keep_images(true).await;
    orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "status": "new" } }).await.unwrap();
    let told = async |stream: &mut Stream, count: usize| {
        let mut told = Vec::new();
        for _ in 0..count {
            let event = stream.event().await;
            told.push(match event.name() {
                "reset" => event.json()["reason"].as_str().unwrap().to_owned(),
                name => format!("{name} {}", event.json()["fullDocument"]["status"]),
            });
        }
        told
    };
    let reset = "history-lost";
    let expected = ["insert \"new\"", reset, reset, "update \"new\""];
    assert_eq!(told(&mut streams[0], 4).await, expected);
    assert_eq!(told(&mut streams[1], 4).await, expected);
    let expected = ["insert \"new\"", "update null", "update \"new\""];
    assert_eq!(told(&mut streams[2], 3).await, expected);
    sidecar.finish().await;
}
