//! MongoDB answers, but slowly.

use std::time::Duration;

use super::*;

const PAGE: &str = "mongodb.md";

#[tokio::test]
async fn mongodb_is_slow() {
    let own = Own::start(Setup::default()).await;
    let filters = Filters::new(&[("orders", &file("shop.orders"))]);
    let program = start(&format!("{}&appName=slow", own.uri()), &filters, &[]).await;
    let mut stream = open(&program, "orders").await;
    // Each answer to the sidecar's change stream takes two seconds more.
    let data = doc! {
        "failCommands": ["getMore"], "appName": "slow", "blockConnection": true, "blockTimeMS": 2_000,
    };
    let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    own.admin(point).await.unwrap();
    let uri = own.uri();
    let writing = async {
        loop {
            write(&uri, "shop", 1, 1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let reading = async { while stream.block().await.is_some() {} };
    let metric = async |name: &str| View::of(&program).await.metric(name);
    let late = "sidestream_delivery_seconds_bucket{le=\"0.5\"}";
    let watching = until("events come late", || async {
        let all = metric("sidestream_delivery_seconds_count").await;
        all - metric(late).await >= 20.0
    });
    tokio::select! { () = writing => {}, () = reading => {}, () = watching => {} }
    let view = View::of(&program).await;
    view.show(
        "MongoDB is slow",
        &["upstream_", "delivery_seconds", "slow_clients_total", "filter_state", "events_read"],
    );
    // Nothing is wrong with the sidecar, and it says so: late is what MongoDB brings late.
    assert_eq!(view.streams["upstreams"][0]["status"], "live");
    assert_eq!(view.stream("orders")["state"], "ready");
    assert_eq!(view.overview["troubles"], Value::Array(Vec::new()));
    assert_eq!(view.metric("sidestream_slow_clients_total"), 0.0);
    let restarts: Vec<&str> = view
        .metrics
        .lines()
        .filter(|line| {
            line.starts_with("sidestream_upstream_restarts_total") && !line.ends_with(" 0")
        })
        .collect();
    assert!(restarts.is_empty(), "{restarts:?}");
    let listeners = http::get(program.admin, "/listeners?stream=orders").await.json();
    println!("/listeners {listeners}");
    assert_eq!(listeners["listeners"][0]["source"], "memory", "{listeners}");
    hold(PAGE, "## MongoDB answers slowly", &view.text());
    own.heal().await;
}
