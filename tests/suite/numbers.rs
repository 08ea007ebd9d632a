//! Whole numbers of 64 bits: a browser's `JSON.parse` makes one of two that are further from zero than
//! 2^53 and close to each other. So they leave the house as text, wherever JSON does.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::sidecar::{self, Filters};
use crate::support::sse::{Block, Stream};
use crate::support::{http, mongo, unique};

const LARGE: i64 = 1_098_765_432_109_876_543;
const EXACT: i64 = 1 << 53;

fn long(value: i64) -> Value {
    json!({ "$numberLong": value.to_string() })
}

#[tokio::test]
async fn neighbours_stay_two_numbers_in_a_page() {
    let database = unique("numbers");
    let file = format!(
        "collection: {database}.orders\naccess: public\nmatch: {{ seller: {{ $param: seller }} }}\n\
         params:\n  seller: {{ type: long, default: {LARGE}, min: {EXACT}, max: {} }}\n",
        i64::MAX
    );
    let filters = Filters::new(&[("orders", file.as_str())]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let listed = http::get(sidecar.listen, "/_events").await.json();
    let declared = &listed["streams"][0]["params"]["seller"];
    assert_eq!(declared["default"], long(LARGE));
    assert_eq!((&declared["min"], &declared["max"]), (&json!(EXACT), &long(i64::MAX)));

    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection::<Document>("orders");
    let values = || vec![EXACT, EXACT + 1, -EXACT, -EXACT - 1];
    for id in [LARGE, LARGE + 1] {
        orders.insert_one(doc! { "_id": id, "seller": LARGE, "of": values() }).await.unwrap();
        orders
            .update_one(doc! { "_id": id }, doc! { "$set": { "to": { "a": id } } })
            .await
            .unwrap();
    }
    let events: Vec<Value> = stream.events(4).await.iter().map(Block::json).collect();
    for (event, id) in events.iter().zip([LARGE, LARGE, LARGE + 1, LARGE + 1]) {
        assert_eq!(event["documentKey"]["_id"], long(id));
        let document = &event["fullDocument"];
        assert_eq!((&document["_id"], &document["seller"]), (&long(id), &long(LARGE)));
        assert_eq!(
            document["of"],
            json!([EXACT, long(EXACT + 1), -EXACT, long(-EXACT - 1)]),
            "those that are exact are numbers"
        );
    }
    assert_eq!(events[3]["updateDescription"]["updatedFields"]["to"]["a"], long(LARGE + 1));
    sidecar.finish().await;
}
