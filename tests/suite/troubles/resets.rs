//! Clients load their data again, for each of the reasons but an oplog that is too short.

use super::*;

const PAGE: &str = "resets.md";

async fn reason(stream: &mut Stream) -> String {
    let event = stream.event().await;
    assert_eq!(event.name(), "reset");
    event.json()["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn clients_are_reset() {
    let mut own = Own::start(Setup::default()).await;
    write(&own.uri(), "shop", 1, 1).await;
    own.kill(0);
    let filters = Filters::new(&[("orders", &file("shop.orders"))]);
    let (path, app) = (filters.path().display().to_string(), format!("http://{}", nowhere()));
    let uri = own.uri();
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri, "--wait"];
    let env = [("SIDESTREAM_CLIENTS__HEARTBEAT", "200ms")];
    let program = Program::start(&arguments, &env).await;
    let mut stream = Stream::open(program.listen, "/_events/orders").await;
    // Else it may find MongoDB at its first look.
    until("MongoDB is missed", || async { program.log().contains("change stream is unavailable") })
        .await;
    own.restart(0);
    assert_eq!(reason(&mut stream).await, "started");
    stream.until_ready().await;

    let mut foreign = Stream::resume(program.listen, "/_events/orders", "nonsense").await;
    assert_eq!(reason(&mut foreign).await, "invalid-token");
    drop(foreign);

    filters.write("orders", "collection: shop.orders\naccess: public\noperations: [insert]\n");
    assert_eq!(reason(&mut stream).await, "filter-changed");

    let client = own.client().await;
    client.database("shop").collection::<Document>("orders").drop().await.unwrap();
    assert_eq!(reason(&mut stream).await, "invalidated");

    until("the log says so", || async { program.log().contains("filters changed") }).await;
    let view = View::of(&program).await;
    view.show("clients are reset", &["resets_total"]);
    for reason in ["started", "invalid-token", "filter-changed", "invalidated"] {
        assert_eq!(view.overview["resets"][reason], 1, "{reason}: {}", view.overview);
        let metric = format!("sidestream_resets_total{{reason=\"{reason}\"}}");
        assert_eq!(view.metric(&metric), 1.0, "{reason}");
    }
    hold(PAGE, "## What each looks like", &view.text());
}
