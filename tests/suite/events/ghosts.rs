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

// Without its image it may have left, or not: that cannot be told, and is no silence either.
#[tokio::test]
async fn an_update_whose_image_is_not_there_resets_those_who_had_the_document() {
    let database = unique("imageless");
    let more = "match: { status: new }\nfullDocument: whenAvailable\n\
                fullDocumentBeforeChange: whenAvailable\n";
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), more))]);
    let client = client().await;
    let orders = collection(&client, &database, "orders").await;
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    for (n, status) in [(1_i64, "new"), (2, "old")] {
        orders.insert_one(doc! { "_id": n, "n": n, "status": status }).await.unwrap();
    }
    assert_eq!(next(&mut stream).await, ("insert".to_string(), Some(1)));
    // Of a transaction, images after a change are those after all of it; there is none of what is
    // deleted in it.
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in [1_i64, 2] {
        let update = doc! { "$set": { "status": "other" } };
        orders.update_one(doc! { "_id": id }, update).session(&mut session).await.unwrap();
        orders.delete_one(doc! { "_id": id }).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    orders.insert_one(doc! { "_id": 4_i64, "n": 4_i64, "status": "new" }).await.unwrap();
    let mut told = Vec::new();
    loop {
        let event = stream.event().await;
        told.push(match event.name() {
            "reset" => event.json()["reason"].to_string(),
            name => format!("{name} {}", event.json()["view"]),
        });
        if event.name() == "insert" {
            break;
        }
    }
    println!("{told:?}");
    assert_eq!(told.last().unwrap(), "insert \"enter\"");
    // Either the server computes the image, or the client is told that it is not there.
    let first = told.first().unwrap();
    assert!(["\"history-lost\"", "update \"leave\""].contains(&first.as_str()), "{told:?}");
    sidecar.finish().await;
}
