//! How many streams: in all, by address, by caller, by values; and what is left for the app.

use serde_json::json;

use super::issuer::{claims, secret};
use super::{SECRET, bearer, filter, knock};
use crate::support::app::App;
use crate::support::sidecar::{self, Filters, Program, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

const REFUSED: &str = "sidestream_refused_total{limit=\"";

#[tokio::test]
async fn each_limit_refuses_with_its_name_and_counts() {
    let database = unique("limits");
    let by_number = "match: { n: { $param: n } }\nparams: { n: { type: int } }\n\
                     operations: [insert]\n";
    let filters = Filters::new(&[
        ("open", &filter(&database, "public", "")),
        ("mine", &filter(&database, "authenticated", by_number)),
    ]);
    let settings = [
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_CLIENTS__MAX_CONNECTIONS", "6"),
        ("SIDESTREAM_CLIENTS__MAX_CONNECTIONS_PER_ADDRESS", "4"),
        ("SIDESTREAM_CLIENTS__MAX_CONNECTIONS_PER_SUBJECT", "3"),
        ("SIDESTREAM_CLIENTS__MAX_VALUES_PER_SUBJECT", "2"),
    ];
    let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
    let listen = sidecar.listen;
    let key = secret(SECRET);
    // Another token of the same caller counts for the same caller.
    let ada = |n: i64| bearer(&key.sign(&claims(json!({ "jti": n }))));
    let from = |address: &str| format!("X-Forwarded-For: 192.0.2.{address}\r\n");
    let refused = async |target: &str, fields: &str, limit: &str| {
        let answer = knock(listen, target, fields).await;
        assert_eq!(answer.head.status, 429, "{limit}");
        assert!(answer.head.field("retry-after").is_some(), "{limit}");
        let name = format!("{REFUSED}{limit}\"}}");
        assert_eq!(metric(sidecar.admin, &name).await, 1.0, "{limit}");
    };
    let mut held = Vec::new();
    for n in [1, 2] {
        let target = format!("/_events/mine?n={n}");
        held.push(Stream::open_with(listen, &target, &format!("{}{}", ada(n), from("1"))).await);
    }
    refused("/_events/mine?n=3", &format!("{}{}", ada(3), from("1")), "values").await;
    held.push(
        Stream::open_with(listen, "/_events/mine?n=1", &format!("{}{}", ada(4), from("1"))).await,
    );
    refused("/_events/mine?n=1", &format!("{}{}", ada(5), from("2")), "subject").await;
    held.push(Stream::open_with(listen, "/_events/open", &from("1")).await);
    refused("/_events/open", &from("1"), "address").await;
    for _ in 0..2 {
        held.push(Stream::open_with(listen, "/_events/open", &from("2")).await);
    }
    refused("/_events/open", &from("3"), "connections").await;
    drop(held);
    until("places are given back", || async {
        knock(listen, "/_events/mine?n=3", &ada(6)).await.head.status == 200
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn streams_leave_descriptors_for_the_app() {
    let database = unique("limits");
    let app = App::start().await;
    let filters = Filters::new(&[("open", &filter(&database, "public", ""))]);
    let path = filters.path().to_str().unwrap();
    let (address, uri) = (format!("http://{}", app.address), mongo::uri());
    let arguments = ["--app", &address, "--mongodb", &uri, "--filters", path];
    let program = Program::start_with_descriptors(256, &arguments).await;
    let admin = program.admin;
    until("it is ready", || async move { http::get(admin, "/readyz").await.head.status == 200 })
        .await;
    let mut held = Vec::new();
    let refused = loop {
        let mut connection = http::Connection::open(program.listen).await;
        let head = "GET /_events/open HTTP/1.1\r\nHost: a\r\n\r\n";
        connection.send(head).await;
        let head = connection.head().await.expect("a head");
        match head.status {
            200 => held.push(connection),
            _ => break head,
        }
        assert!(held.len() < 256, "it takes whatever comes");
    };
    assert_eq!((held.len(), refused.status), (192, 503));
    assert!(refused.field("retry-after").is_some());
    for _ in 0..20 {
        assert_eq!(http::get(program.listen, "/page").await.head.status, 200);
    }
    assert!(metric(admin, &format!("{REFUSED}descriptors\"}}")).await >= 1.0);
}
