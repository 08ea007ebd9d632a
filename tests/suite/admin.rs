//! The admin port: what platform teams look at.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use sidestream::event::Position;

use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::{self, Stream};
use crate::support::{http, mongo, unique, until};

/// Dashboards are built on these.
const METRICS: [&str; 24] = [
    "build_info{version=\"",
    "filter_state{state=\"ready\",stream=\"a\"}",
    "auth_total{result=\"refused\"}",
    "refused_total{limit=\"connections\"}",
    "streams_ended_total{reason=\"client-closed\"}",
    "log_lines_dropped_total ",
    "replay_cursors ",
    "connections{transport=\"sse\"}",
    "connections_total{outcome=\"accepted\",transport=\"sse\"}",
    "events_read_total{upstream=\"",
    "events_sent_total{stream=\"a\"}",
    "upstream_lag_seconds{upstream=\"",
    "upstream_restarts_total{reason=\"collections\",upstream=\"",
    "upstream_cursors ",
    "subscriptions{stream=\"a\"}",
    "replays_total{source=\"memory\"}",
    "replays_total{source=\"oplog\"}",
    "resets_total{reason=\"filter-changed\"}",
    "slow_clients_total ",
    "delivery_seconds_bucket{le=\"",
    "auth_total{result=\"allowed\"}",
    "filter_reloads_total{result=\"ok\"}",
    "proxy_requests_total{code=\"502\"}",
    "proxy_request_seconds_count ",
];

#[tokio::test]
async fn health_streams_and_metrics() {
    let database = unique("admin");
    let file = |collection: &str| format!("collection: {database}.{collection}\naccess: public\n");
    let filters = Filters::new(&[("a", &file("a"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    assert_eq!(http::get(admin, "/healthz").await.head.status, 200);
    assert_eq!(http::get(admin, "/readyz").await.head.status, 200);
    assert_eq!(http::get(admin, "/nothing").await.head.status, 404);
    assert_eq!(http::request(admin, "POST", "/metrics", "").await.head.status, 405);
    assert_eq!(http::get(sidecar.listen, "/page").await.head.status, 502);

    let mut first = Stream::open(sidecar.listen, "/_events/a").await;
    let mut second = Stream::open(sidecar.listen, "/_events/a").await;
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    client.database(&database).collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    first.event().await;
    second.event().await;
    filters.write("b", &file("b"));
    let restarts = format!(
        "sidestream_upstream_restarts_total{{reason=\"collections\",upstream=\"{database}/updateLookup\"}}"
    );
    until("the cursor reads more", || async { metric(admin, &restarts).await == 1.0 }).await;

    let streams = http::get(admin, "/streams").await.json();
    assert_eq!(streams["streams"][0]["name"], "a");
    assert_eq!(streams["streams"][0]["connections"], 2);
    assert_eq!(streams["streams"][0]["subscriptions"], 2);
    let upstream = &streams["upstreams"][0];
    assert_eq!(upstream["database"], database);
    assert_eq!(upstream["mode"], "updateLookup");
    assert!(upstream["lag_seconds"].is_number());
    // Of no document: its key may be nobody's business here.
    let position = Position::parse(upstream["position"].as_str().unwrap()).unwrap();
    assert!(!position.names_document(), "{position}");

    let text = http::get(admin, "/metrics").await.text();
    for name in METRICS {
        assert!(text.contains(&format!("\nsidestream_{name}")), "{name} in\n{text}");
    }
    let sent = "sidestream_events_sent_total{stream=\"a\"}";
    until("both are counted", || async { metric(admin, sent).await == 2.0 }).await;
    drop((first, second));
    let open = "sidestream_connections{transport=\"sse\"}";
    until("closed streams are noticed", || async { metric(admin, open).await == 0.0 }).await;
    sidecar.finish().await;
}

// One connection may have a stream more than once, under other names.
#[tokio::test]
async fn connections_and_subscriptions_are_counted_apart() {
    let database = unique("admin");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text), ("b", &text), ("broken", "acess: x\n")]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let (admin, listen) = (sidecar.admin, sidecar.listen);
    let counts = async || {
        let told = http::get(admin, "/streams").await.json();
        let count = |at: usize, what: &str| told["streams"][at][what].as_i64().unwrap();
        [0, 1, 2].map(|at| (count(at, "connections"), count(at, "subscriptions")))
    };
    let mut one = Stream::open(listen, "/_events/a").await;
    let target = "/_events?stream=a&stream=again:a&stream=more:a&stream=b";
    let mut many = Stream::open(listen, target).await;
    let mut others = Stream::open(listen, "/_events?stream=a&stream=b").await;
    for stream in [&mut one, &mut many, &mut others] {
        stream.until_ready().await;
    }
    assert_eq!(counts().await, [(3, 5), (2, 2), (0, 0)]);
    drop(many);
    until("it is noticed", || async { counts().await == [(2, 2), (1, 1), (0, 0)] }).await;
    drop((one, others));
    until("all have gone", || async { counts().await == [(0, 0); 3] }).await;
    sidecar.finish().await;
}

const SECRET: &str = "a secret of the test that is long enough";

/// Ends a listener as the console's page does, with fields beside.
async fn end(admin: std::net::SocketAddr, id: &str, fields: &str) -> u16 {
    let target = format!("/listeners/end?id={id}");
    http::request(admin, "POST", &target, fields).await.head.status
}

async fn page_token(admin: std::net::SocketAddr) -> String {
    let page = http::get(admin, "/").await.text();
    let (_, rest) = page.split_once("name=\"sidestream-token\" content=\"").expect("a token");
    rest.split('"').next().unwrap().to_string()
}

#[tokio::test]
async fn listeners_are_told_of_and_ended_by_the_page_alone() {
    let database = unique("admin");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("a", &text), ("b", &text), ("broken", "acess: x\n")]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let (admin, listen) = (sidecar.admin, sidecar.listen);
    // It is among the streams, and was never in force.
    let told = http::get(admin, "/listeners?stream=broken").await;
    assert_eq!(told.head.status, 200);
    assert_eq!(told.json(), json!({ "stream": "broken", "total": 0, "listeners": [] }));
    for (target, status) in [
        ("/listeners", 400),
        ("/listeners?stream=nothing", 404),
        ("/listeners?stream=a&limit=0", 400),
        ("/listeners?stream=a&limit=1001", 400),
        ("/listeners?stream=a&who=me", 400),
    ] {
        assert_eq!(http::get(admin, target).await.head.status, status, "{target}");
    }

    let (_, address) = tokio::sync::watch::channel(listen);
    let source = sse::EventSource::open(address, "/_events/a");
    until("a page listens", || async { source.has_seen("ready", 1) }).await;
    let mut many = Stream::open(listen, "/_events?stream=a&stream=b").await;
    many.until_ready().await;
    let told = http::get(admin, "/listeners?stream=a").await.json();
    assert_eq!((&told["stream"], &told["total"]), (&"a".into(), &2.into()));
    let one = |has_others: bool| {
        let listeners = told["listeners"].as_array().unwrap();
        listeners.iter().find(|it| it["has_other_streams"] == has_others).unwrap().clone()
    };
    assert_eq!(
        (&one(false)["transport"], &one(false)["source"]),
        (&"sse".into(), &"memory".into())
    );
    assert_eq!((&one(false)["lag_seconds"], &one(false)["subject"]), (&0.0.into(), &().into()));
    assert_eq!(
        http::get(admin, "/listeners?stream=a&limit=1").await.json()["listeners"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let token = page_token(admin).await;
    let own = format!("Sidestream-Token: {token}\r\n");
    let id = one(false)["id"].as_str().unwrap().to_string();
    for fields in [
        String::new(),
        format!("Sidestream-Token: {}\r\n", "0".repeat(32)),
        format!("{own}Origin: https://evil.example\r\n"),
        format!("{own}Sec-Fetch-Site: cross-site\r\n"),
    ] {
        assert_eq!(end(admin, &id, &fields).await, 403, "{fields}");
    }
    assert_eq!(http::request(admin, "POST", "/try?stream=a", "").await.head.status, 403);
    let mut trying = http::Connection::open(admin).await;
    let event =
        r#"{"operationType":"insert","documentKey":{"_id":1},"fullDocument":{"_id":1,"x":2}}"#;
    let fields = format!("Host: {admin}\r\n{own}Content-Length: {}\r\n", event.len());
    trying.send(format!("POST /try?stream=a HTTP/1.1\r\n{fields}\r\n{event}")).await;
    let tried = trying.answer("POST").await.unwrap().json();
    assert_eq!((&tried["sent"], &tried["event"]), (&true.into(), &"insert".into()), "{tried}");
    let mut connection = http::Connection::open(admin).await;
    let target = format!("/listeners/end?id={id}");
    connection.send(format!("POST {target} HTTP/1.1\r\nHost: evil.example\r\n{own}\r\n")).await;
    assert_eq!(connection.head().await.unwrap().status, 421);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let head = http::request(admin, method, &target, &own).await.head;
        assert_eq!((head.status, head.field("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(source.seen.lock().iter().filter(|block| block.name() == "ready").count(), 1);

    let same_origin = format!("{own}Origin: http://{admin}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(end(admin, &id, &same_origin).await, 200);
    until("the page comes back", || async { source.has_seen("ready", 2) }).await;
    assert_eq!(end(admin, &id, &own).await, 404);
    // One of several streams takes its connection along.
    assert_eq!(end(admin, one(true)["id"].as_str().unwrap(), &own).await, 200);
    while many.block().await.is_some() {}
    let ended = "sidestream_streams_ended_total{reason=\"operator\"}";
    until("both are counted", || async { metric(admin, ended).await == 2.0 }).await;
    sidecar.finish().await;
}

/// Who reads nothing, of a stream that sends a lot, is first; who it is, is told as the setting says.
#[tokio::test]
async fn who_lags_most_is_first() {
    let database = unique("admin");
    let text = format!("collection: {database}.a\naccess: authenticated\n");
    let filters = Filters::new(&[("a", &text)]);
    let auth =
        [("SIDESTREAM_AUTH__JWT__SECRET", SECRET), ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256")];
    let bearer = |name: &str| {
        let claims = json!({ "sub": name, "exp": 4_102_444_800_u64 });
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        format!("Authorization: Bearer {token}\r\n")
    };
    for subjects in ["hashed", "shown"] {
        let settings = [auth[0], auth[1], ("SIDESTREAM_CONSOLE__SUBJECTS", subjects)];
        let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
        let (admin, listen) = (sidecar.admin, sidecar.listen);
        let mut slow = Stream::open_with(listen, "/_events/a", &bearer("slow")).await;
        slow.until_ready().await;
        let quick = Stream::open_with(listen, "/_events/a", &bearer("quick")).await;
        let reading = tokio::spawn(async move {
            let mut quick = quick;
            while quick.block().await.is_some() {}
        });
        let client = Client::with_uri_str(mongo::uri()).await.unwrap();
        let collection = client.database(&database).collection("a");
        // Ten megabytes a second, whatever the machine: the journal holds several seconds.
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
        let writing = async {
            loop {
                pace.tick().await;
                collection.insert_one(doc! { "text": "x".repeat(1_000_000) }).await.unwrap();
            }
        };
        let watching = until("one lags", || async {
            let told = http::get(admin, "/listeners?stream=a").await.json();
            told["listeners"][0]["lag_seconds"].as_f64().is_some_and(|lag| lag >= 1.0)
        });
        tokio::select! { () = writing => {}, () = watching => {} }
        let told = http::get(admin, "/listeners?stream=a").await.json();
        let lag = |at: usize| told["listeners"][at]["lag_seconds"].as_f64().unwrap();
        assert!(lag(0) >= lag(1), "{told}");
        match subjects {
            "shown" => assert_eq!(told["listeners"][0]["subject"], "slow"),
            _ => {
                let digest = told["listeners"][0]["subject"].as_str().unwrap();
                assert!(digest.len() == 16 && !told.to_string().contains("slow"), "{told}");
            }
        }
        let id = told["listeners"][0]["id"].as_str().unwrap();
        let own = format!("Sidestream-Token: {}\r\n", page_token(admin).await);
        assert_eq!(end(admin, id, &own).await, 200);
        // It takes nothing, and is cut all the same.
        let open = "sidestream_connections{transport=\"sse\"}";
        until("it is gone", || async { metric(admin, open).await == 1.0 }).await;
        sidecar.drain();
        reading.await.unwrap();
        drop(slow);
        sidecar.finish().await;
    }
}

/// As Prometheus itself would have it, after some of everything; and however many paths, methods and
/// parameters clients make up, there are no more series.
#[tokio::test]
async fn metrics_are_as_prometheus_wants_them() {
    const PROMTOOL: &str = "promtool";
    let database = unique("admin");
    let text = format!(
        "collection: {database}.a\naccess: public\nmatch: {{ x: {{ $param: x }} }}\n\
         params: {{ x: {{ type: string, required: false }} }}\n"
    );
    let filters = Filters::new(&[("a", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let (admin, listen) = (sidecar.admin, sidecar.listen);
    let some_of_everything = async |name: usize| {
        let mut stream = Stream::open(listen, &format!("/_events/a?x={name}")).await;
        stream.until_ready().await;
        for transport in ["poll", "ndjson", "none"] {
            http::request(
                listen,
                "HEAD",
                &format!("/_events/a?transport={transport}&x={name}"),
                "",
            )
            .await;
        }
        for target in [format!("/page/{name}"), format!("/_events/{name}")] {
            http::request(listen, "GET", &target, &format!("User-Agent: {name}\r\n")).await;
        }
        http::request(listen, &format!("M{name}"), "/page", "").await;
        http::get(listen, &format!("/_events/a?lastEventId={name}&transport=poll&wait=0s")).await;
    };
    some_of_everything(0).await;
    // What MongoDB is found to be comes by and by: the oplog's hours, findings about collections.
    let series = async || {
        let text = http::get(admin, "/metrics").await.text();
        let comes_later = |line: &str| line.contains("oplog") || line.contains("finding");
        let names = text.lines().filter(|line| !line.starts_with('#') && !comes_later(line));
        names.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
    };
    let ended = "sidestream_streams_ended_total{reason=\"client-closed\"}";
    until("its end is noticed", || async { metric(admin, ended).await >= 1.0 }).await;
    let before: Vec<String> = series().await;
    for name in 1..20 {
        some_of_everything(name).await;
    }
    let after: Vec<String> = series().await;
    assert_eq!(after, before);
    let text = http::get(admin, "/metrics").await.text();
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("sidestream_build_info{{version=\"{version}\"}} 1\n")));

    let checking = std::process::Command::new(PROMTOOL)
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut checking) = checking else {
        assert!(std::env::var_os("CI").is_none(), "{PROMTOOL} is missing");
        eprintln!("SKIPPED: {PROMTOOL} is missing; try `apt-get install prometheus`");
        return sidecar.finish().await;
    };
    std::io::Write::write_all(&mut checking.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(checked.status.success() && said.is_empty(), "{said}");
    sidecar.finish().await;
}

#[tokio::test]
async fn events_are_shown_to_the_page_alone_and_only_where_the_settings_say_so() {
    let database = unique("tap");
    let text = format!("collection: {database}.a\nproject: {{ n: 1 }}\naccess: public\n");
    let filters = Filters::new(&[("a", &text), ("b", &text)]);
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let collection = client.database(&database).collection::<Document>("a");
    for may_tap in ["false", "true"] {
        let settings = [("SIDESTREAM_CONSOLE__TAP", may_tap)];
        let sidecar = sidecar::start(&mongo::uri(), &filters, &settings).await;
        let admin = sidecar.admin;
        let token = format!("Sidestream-Token: {}\r\n", page_token(admin).await);
        let ask = async |target: &str, fields: &str| {
            let answer = http::request(admin, "POST", target, fields).await;
            (answer.head.status, answer.json())
        };
        if may_tap == "false" {
            assert_eq!(ask("/tap?stream=a", &token).await.0, 403);
            sidecar.finish().await;
            continue;
        }
        assert_eq!(http::request(admin, "POST", "/tap?stream=a", "").await.head.status, 403);
        assert_eq!(http::get(admin, "/tap?stream=a").await.head.status, 405);
        assert_eq!(ask("/tap?stream=nothing", &token).await.0, 404);
        assert_eq!(ask("/tap", &token).await.0, 400);

        let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
        stream.until_ready().await;
        let (status, first) = ask("/tap?stream=a", &token).await;
        assert_eq!((status, &first["events"]), (200, &Value::Array(Vec::new())));
        // At once again: too often.
        until("it is too soon", || async { ask("/tap?stream=a", &token).await.0 == 429 }).await;
        for n in 0..30 {
            let document = doc! { "_id": n, "n": n, "secret": "hidden" };
            collection.insert_one(document).await.unwrap();
        }
        stream.events(30).await;
        let target = format!("/tap?stream=a&after={}", first["next"]);
        let told = loop {
            match ask(&target, &token).await {
                (200, told) => break told,
                (status, _) => assert_eq!(status, 429, "it is too soon"),
            }
        };
        let events = told["events"].as_array().unwrap();
        let ids: Vec<_> = events.iter().map(|it| it["data"]["fullDocument"]["n"].clone()).collect();
        assert_eq!(ids, (10..30).map(Value::from).collect::<Vec<_>>(), "the newest twenty");
        assert!(!told.to_string().contains("hidden"), "{told}");
        assert_eq!(events[0]["event"], "insert");
        sidecar.finish().await;
    }
}
