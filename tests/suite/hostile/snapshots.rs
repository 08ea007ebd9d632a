//! A queue that strangers can fill for nothing: that of snapshots. Each query with other values waits
//! in it by itself.

use std::time::Duration;

use serde_json::json;

use crate::access::SECRET;
use crate::access::issuer::{claims, secret};
use crate::snapshots::{Page, fill, filter, hold_find, orders, up_to};
use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

/// So many wait, by the setting: one query is under way at a time.
const LINE: usize = 256;
/// More than there is room for.
const CROWD: usize = LINE + 45;
/// What each query takes: all of the line, longer than any test waits.
const HELD: Duration = Duration::from_millis(500);
const BUSY: &str = "sidestream_snapshots_total{outcome=\"busy\",stream=\"orders\"}";

fn from(address: &str) -> String {
    format!("X-Forwarded-For: {address}\r\n")
}

/// Opens streams with values that nobody else has.
async fn crowd(address: std::net::SocketAddr, fields: &str) -> Vec<Stream> {
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        let target = format!("/_events/orders?n={}", 1_000 + n);
        crowd.push(Stream::open_with(address, &target, fields).await);
    }
    crowd
}

/// The documents of a stream that begins, as numbers.
async fn shown(stream: Stream) -> Vec<i64> {
    let mut page = Page::of(stream);
    page.complete(1).await;
    page.ids()
}

// Each query takes so long that whoever waits for the whole line does not get there.
#[tokio::test]
async fn one_address_leaves_the_snapshots_to_others() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let database = unique("fair");
    fill(&orders(&own.client().await, &database).await, 0..3).await;
    let more = "match: { n: { $ne: { $param: n } } }\nparams: { n: { type: long } }\n";
    let filters = Filters::new(&[("orders", &filter(&database, more))]);
    let uri = format!("{}&appName=fair", own.uri());
    let one =
        [("SIDESTREAM_SNAPSHOT__MAX_CONCURRENT", "1"), ("SIDESTREAM_SNAPSHOT__MAX_TIME", "60s")];
    let sidecar = sidecar::start(&uri, &filters, &one).await;
    until("it is ready", || async { sidecar.is_ready() }).await;
    hold_find(&own, "fair", HELD).await;
    let mut crowd = crowd(sidecar.listen, &from("203.0.113.1")).await;
    until("the line is full", || async { metric(sidecar.admin, BUSY).await > 0.0 }).await;
    let others = (0..3).map(|other| {
        let (target, fields) = (
            format!("/_events/orders?n={}", 100 + other),
            from(&format!("203.0.113.{}", 2 + other)),
        );
        async move { shown(Stream::open_with(sidecar.listen, &target, &fields).await).await }
    });
    for ids in futures_util::future::join_all(others).await {
        assert_eq!(ids, up_to(3));
    }
    // Who came first is not forgotten for it.
    own.heal().await;
    assert_eq!(shown(crowd.swap_remove(LINE / 2)).await, up_to(3));
    drop(crowd);
    sidecar.finish().await;
}

// Behind a balancer that is not trusted all clients have one address: they may have the whole line,
// and a caller who is known is another one than the strangers beside it.
#[tokio::test]
async fn strangers_behind_the_same_balancer_leave_the_snapshots_to_callers() {
    let own = mongo::Own::start(mongo::Setup::default()).await;
    let database = unique("balanced");
    fill(&orders(&own.client().await, &database).await, 0..3).await;
    let more = "match: { n: { $ne: { $param: n } } }\nparams: { n: { type: long } }\n";
    let public = filter(&database, more);
    let mine = public.replace("access: public", "access: authenticated");
    let filters = Filters::new(&[("orders", &public), ("mine", &mine)]);
    let uri = format!("{}&appName=balanced", own.uri());
    let more = [
        ("SIDESTREAM_SNAPSHOT__MAX_CONCURRENT", "1"),
        ("SIDESTREAM_SNAPSHOT__MAX_TIME", "60s"),
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
    ];
    let sidecar = sidecar::start(&uri, &filters, &more).await;
    until("it is ready", || async { sidecar.is_ready() }).await;
    hold_find(&own, "balanced", HELD).await;
    let mut crowd = crowd(sidecar.listen, "").await;
    until("the line is full", || async { metric(sidecar.admin, BUSY).await > 0.0 }).await;
    let token = secret(SECRET).sign(&claims(json!({ "sub": "ada" })));
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let stream = Stream::open_with(sidecar.listen, "/_events/mine?n=100", &bearer).await;
    assert_eq!(shown(stream).await, up_to(3));
    own.heal().await;
    // Nobody else wanted the rest of the line.
    assert_eq!(shown(crowd.swap_remove(LINE - 1)).await, up_to(3));
    drop(crowd);
    sidecar.finish().await;
}
