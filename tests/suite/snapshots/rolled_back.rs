//! What only a primary had, which was lost and takes it back when it returns.

use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection};

use super::{OWN_QUERY, Page, fill, filter, of_majority, orders, up_to};
use crate::support::mongo::{Own, Setup, elected, hold_replication};
use crate::support::sidecar::{self, Filters};
use crate::support::until;

/// From here on, a document's `n` is one that is taken back.
const LOST: i64 = 100;

/// Reads on until the page shows these, and looks at all it is told meanwhile.
async fn shows(page: &mut Page, ids: &[i64]) {
    let is_so = |page: &Page| {
        let pending = page.pending.iter().flat_map(|(_, documents)| documents.values());
        for document in page.shown.values().chain(pending) {
            assert!(document["n"].as_i64().unwrap() < LOST, "it was taken back: {document}");
        }
        page.pending.is_none() && page.ids() == ids
    };
    page.until("what a majority has", is_so).await;
}

/// `orders`, whose writes are acknowledged when this server alone has them.
fn alone(server: &Client) -> Collection<Document> {
    let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    let options = CollectionOptions::builder().write_concern(one).build();
    server.database("shop").collection_with_options("orders", options)
}

#[tokio::test]
async fn what_only_a_lost_primary_had_is_told_to_nobody() {
    let own = Own::start(Setup { members: 3, ..Setup::default() }).await;
    let client = own.client().await;
    let kept = orders(&client, "shop").await;
    fill(&kept, 0..5).await;
    let filters = Filters::new(&[("orders", &filter("shop", OWN_QUERY))]);
    let sidecar = sidecar::start(&own.uri(), &filters, &[]).await;
    let mut early = Page::open(sidecar.listen, "/_events/orders?page=-1").await;
    early.complete(1).await;

    let lost = own.primary().await;
    let old = own.direct(lost).await;
    let mut others = Vec::new();
    for index in (0..3).filter(|index| *index != lost) {
        let other = own.direct(index).await;
        hold_replication(&other, true).await;
        others.push(other);
    }
    fill(&alone(&old), LOST..LOST + 3).await;
    let taken_back = doc! { "$set": { "n": 2 * LOST } };
    alone(&old).update_one(doc! { "_id": 0_i64 }, taken_back).await.unwrap();
    // Its query is asked while there is more on the primary than a majority has.
    let mut late = Page::open(sidecar.listen, "/_events/orders?page=-2").await;
    shows(&mut late, &up_to(5)).await;

    own.freeze(lost);
    for other in &others {
        hold_replication(other, false).await;
    }
    let new = elected(&others).await;
    fill(&of_majority(&new, "shop"), 5..8).await;
    shows(&mut early, &up_to(8)).await;

    own.thaw(lost);
    until("it has taken them back", || async {
        let left = alone(&old).count_documents(doc! { "n": { "$gte": LOST } }).await;
        let all = alone(&old).count_documents(doc! {}).await;
        left.is_ok_and(|left| left == 0) && all.is_ok_and(|all| all == 8)
    })
    .await;
    fill(&kept, 8..10).await;
    shows(&mut early, &up_to(10)).await;
    shows(&mut late, &up_to(10)).await;
    assert_eq!((early.reasons, late.reasons), (vec!["new".to_string()], vec!["new".to_string()]));
    sidecar.finish().await;
}
