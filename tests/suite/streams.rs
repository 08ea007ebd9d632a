//! Streams, from a write in MongoDB to the bytes that a browser reads.

use mongodb::Client;
use mongodb::bson::{Document, doc};

use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique};

fn filter(collection: &str, rest: &str) -> String {
    format!("collection: {collection}\naccess: public\n{rest}")
}

async fn client() -> Client {
    Client::with_uri_str(mongo::uri()).await.expect("a client")
}

#[tokio::test]
async fn a_change_reaches_a_client() {
    let database = unique("live");
    let filters = Filters::new(&[("orders", &filter(&format!("{database}.orders"), ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;

    let orders = client().await.database(&database).collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1, "total": 5 }).await.unwrap();
    let event = stream.event().await;
    assert_eq!(event.name(), "insert");
    assert_eq!(event.json()["fullDocument"], serde_json::json!({ "_id": 1, "total": 5 }));
    sidecar.finish().await;
}
