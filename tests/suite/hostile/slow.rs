//! Clients that are slow on purpose: [slowhttptest](https://github.com/shekyan/slowhttptest) in
//! each of its ways against the app and against a stream, and everybody else is served meanwhile.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::proxy::app::App;
use crate::proxy::raw::ask;
use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

const PROGRAM: &str = "slowhttptest";
const CONNECTIONS: &str = "200";
const SECONDS: &str = "6";

fn is_there() -> bool {
    std::process::Command::new(PROGRAM).arg("-h").stdout(Stdio::null()).status().is_ok()
}

/// Slow headers, bodies, ranges or reads, from now on.
fn attack(way: &[&str], url: &str) -> Child {
    Command::new(PROGRAM)
        .args(["-c", CONNECTIONS, "-r", CONNECTIONS, "-i", "1", "-l", SECONDS, "-p", "5"])
        .args(way)
        .args(["-u", url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("slowhttptest runs")
}

#[tokio::test]
async fn slow_clients_keep_nobody_from_being_served() {
    if !is_there() {
        assert!(std::env::var_os("CI").is_none(), "{PROGRAM} is missing");
        eprintln!("SKIPPED: {PROGRAM} is missing; try `apt-get install {PROGRAM}`");
        return;
    }
    let app = App::start().await;
    let database = unique("slow");
    let text = format!("collection: {database}.orders\naccess: public\n");
    let filters = Filters::new(&[("orders", &text)]);
    let sidecar = sidecar::start_before(app.address, &mongo::uri(), &filters, &[]).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    let client = mongodb::Client::with_uri_str(mongo::uri()).await.expect("a client");
    let orders = client.database(&database).collection("orders");
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.settled().await;

    let page = format!("http://{}/page", sidecar.listen);
    let events = format!("http://{}/_events/orders", sidecar.listen);
    let mut attacks = Vec::new();
    for way in [&["-H"][..], &["-B"], &["-R"], &["-X", "-k", "3"]] {
        for url in [&page, &events] {
            attacks.push(attack(way, url));
        }
    }
    let mut served = 0_i64;
    let request = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    while attacks.iter_mut().any(|attack| attack.try_wait().expect("a status").is_none()) {
        assert_eq!(ask(sidecar.listen, "GET", request).await.status(), 200);
        let document = mongodb::bson::doc! { "_id": served };
        orders.insert_one(document).await.expect("written");
        let event = stream.event().await;
        assert_eq!(event.json()["documentKey"]["_id"], served);
        // New streams come in as well.
        Stream::open(sidecar.listen, "/_events/orders").await.settled().await;
        served += 1;
    }
    assert!(served > 0);
    for mut attack in attacks {
        assert!(attack.wait().await.expect("a status").success());
    }
    sidecar.finish().await;
}
