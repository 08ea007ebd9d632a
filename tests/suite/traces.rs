//! Traces, as a collector gets them: what it is sent is read by the protocol's own definitions.

use std::net::SocketAddr;
use std::sync::Arc;

use mongodb::Client;
use mongodb::bson::doc;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::app::App;
use crate::support::sidecar::{Filters, Program};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "a secret of the test that is long enough";

/// Takes what a collector takes at `/v1/traces`.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Collector {
            address: listener.local_addr().unwrap(),
            spans: Arc::default(),
            services: Arc::default(),
        };
        let (spans, services) = (collector.spans.clone(), collector.services.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(take(socket, spans.clone(), services.clone()));
            }
        });
        collector
    }

    fn named(&self, name: &str) -> Vec<Span> {
        self.spans.lock().iter().filter(|span| span.name == name).cloned().collect()
    }

    async fn wait_for(&self, name: &str) -> Vec<Span> {
        until(&format!("a span `{name}`"), || async { !self.named(name).is_empty() }).await;
        self.named(name)
    }
}

/// One connection of an exporter's.
async fn take(
    mut socket: TcpStream,
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 => return,
                None => {}
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let whole = end + length.parse::<usize>().unwrap();
        while bytes.len() < whole {
            assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let request = ExportTraceServiceRequest::decode(&bytes[end..whole]).expect("its message");
        bytes.drain(..whole);
        for resource in request.resource_spans {
            for attribute in resource.resource.unwrap().attributes {
                if attribute.key == "service.name"
                    && let Some(Value::StringValue(name)) = attribute.value.unwrap().value
                {
                    services.lock().push(name);
                }
            }
            for scope in resource.scope_spans {
                spans.lock().extend(scope.spans);
            }
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

fn bearer() -> String {
    let claims = serde_json::json!({ "sub": "planted-subject", "exp": 4_102_444_800_u64 });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// The program before an app, with a protected stream, and these variables.
async fn start(app: &App, database: &str, more: &[(&str, &str)]) -> (Program, Filters) {
    let text = format!("collection: {database}.a\naccess: authenticated\n");
    let filters = Filters::new(&[("a", &text)]);
    let (path, app) = (filters.path().display().to_string(), format!("http://{}", app.address));
    let uri = mongo::uri();
    let arguments = ["--app", &app, "--filters", &path, "--mongodb", &uri];
    let mut env = vec![
        ("SIDESTREAM_AUTH__JWT__SECRET", SECRET),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    env.extend(more);
    (Program::start_ready(&arguments, &env).await, filters)
}

/// Asks for a page within the client's trace; what the app was told of it.
async fn ask(program: &Program, app: &App) -> Vec<String> {
    app.take_seen();
    let fields = format!("Traceparent: 00-{TRACE}-{PARENT}-01\r\nTracestate: v=1\r\n");
    let answer = http::request(program.listen, "GET", "/page?planted=query", &fields).await;
    assert_ne!(answer.head.status, 502);
    let seen = app.take_seen();
    assert_eq!(seen[0].fields_named("tracestate"), ["v=1"]);
    seen[0].fields_named("traceparent").into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn without_a_collector_nothing_is_touched() {
    let app = App::start().await;
    let (program, _filters) = start(&app, &unique("traces"), &[]).await;
    assert_eq!(ask(&program, &app).await, [format!("00-{TRACE}-{PARENT}-01")]);
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_SDK_DISABLED", "true")];
    let (program, _filters) = start(&app, &unique("traces"), &off).await;
    assert_eq!(ask(&program, &app).await, [format!("00-{TRACE}-{PARENT}-01")]);
}

#[tokio::test]
async fn requests_and_streams_are_traced() {
    let (app, collector) = (App::start().await, Collector::start().await);
    let database = unique("traces");
    let endpoint = format!("http://{}", collector.address);
    let on = [("SIDESTREAM_TRACE__OTLP", &*endpoint), ("OTEL_SERVICE_NAME", "shop")];
    let (mut program, filters) = start(&app, &database, &on).await;

    // Forwarded: the client's trace goes on, by way of ours.
    let told = ask(&program, &app).await;
    until("both spans", || async { collector.named("GET").len() == 2 }).await;
    let spans = collector.named("GET");
    let of = |kind: SpanKind| spans.iter().find(|span| span.kind == kind as i32).unwrap();
    let (server, client) = (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!((hex(&client.trace_id), &client.parent_span_id), (TRACE.into(), &server.span_id));
    assert_eq!(told, [format!("00-{TRACE}-{}-01", hex(&client.span_id))]);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/page"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
    ] {
        assert_eq!(attribute(server, name).as_deref(), Some(value), "{name}");
    }
    let status = attribute(server, "http.response.status_code");
    assert!(status.is_some() && status == attribute(client, "http.response.status_code"));
    assert!(collector.services.lock().iter().all(|name| name == "shop"));

    // A stream: its opening, and what that takes; not how long it is open.
    let authorization = format!("Authorization: Bearer {}\r\n", bearer());
    let fields = format!("Traceparent: 00-{TRACE}-{PARENT}-01\r\n{authorization}");
    let mut stream = Stream::open_with(program.listen, "/_events/a", &fields).await;
    stream.until_ready().await;
    let opening = collector.wait_for("open stream").await.remove(0);
    assert_eq!(hex(&opening.parent_span_id), PARENT);
    assert_eq!(attribute(&opening, "sidestream.transport").as_deref(), Some("sse"));
    for name in ["access", "bind"] {
        let spans = collector.wait_for(name).await;
        assert_eq!(spans[0].parent_span_id, opening.span_id, "{name}");
    }

    // What MongoDB sends: a span for what came together, and none for each delivery.
    let mongodb = Client::with_uri_str(mongo::uri()).await.unwrap();
    let collection = mongodb.database(&database).collection("a");
    let documents = (0..500).map(|_| doc! { "text": "planted-document" });
    collection.insert_many(documents.collect::<Vec<_>>()).await.unwrap();
    stream.events(500).await;
    collector.wait_for("batch").await;
    let text = format!("collection: {database}.a\nsnapshot: true\naccess: public\n");
    filters.write("b", &text);
    until("the reload", || async { collector.named("load filter files").len() >= 2 }).await;
    let with_snapshot = Stream::open(program.listen, "/_events/b").await;
    let snapshot = collector.wait_for("snapshot").await.remove(0);
    assert_eq!(attribute(&snapshot, "sidestream.stream").as_deref(), Some("b"));
    assert_eq!(attribute(&snapshot, "sidestream.documents").as_deref(), Some("500"));
    drop(with_snapshot);
    assert!(collector.named("batch").len() < 100);

    // A refusal is told as what it is; the last spans are sent at the end.
    let refused = http::get(program.listen, "/_events/a").await;
    assert_eq!(refused.head.status, 401);
    program.signal(rustix::process::Signal::TERM);
    drop(stream);
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.log());
    let openings = collector.named("open stream");
    let refused = openings.iter().filter_map(|it| attribute(it, "http.response.status_code"));
    assert!(refused.into_iter().any(|status| status == "401"));
    let everything = format!("{:?}", collector.spans.lock());
    for planted in ["planted", SECRET, &bearer()] {
        assert!(!everything.contains(planted), "{planted} is in a span");
    }
}

/// A client whose position is no longer in memory: one span for the reading, however much is read.
#[tokio::test]
async fn replays_are_traced() {
    let (app, collector) = (App::start().await, Collector::start().await);
    let database = unique("traces");
    let endpoint = format!("http://{}", collector.address);
    let on = [("SIDESTREAM_TRACE__OTLP", &*endpoint), ("SIDESTREAM_REPLAY__MAX_BYTES", "64KiB")];
    let (program, _filters) = start(&app, &database, &on).await;
    let authorization = format!("Authorization: Bearer {}\r\n", bearer());
    let mut stream = Stream::open_with(program.listen, "/_events/a", &authorization).await;
    stream.until_ready().await;
    let mongodb = Client::with_uri_str(mongo::uri()).await.unwrap();
    let collection = mongodb.database(&database).collection("a");
    let write = async |count: usize| {
        let documents = (0..count).map(|_| doc! { "text": "x".repeat(20_000) });
        collection.insert_many(documents.collect::<Vec<_>>()).await.unwrap();
    };
    write(1).await;
    let old = stream.event().await.id.unwrap();
    write(20).await;
    stream.events(20).await;
    let again = format!("{authorization}Last-Event-ID: {old}\r\n");
    let mut again = Stream::open_with(program.listen, "/_events/a", &again).await;
    again.events(20).await;
    let passes = collector.wait_for("replay pass").await;
    assert!(passes.len() < 20, "{passes:?}");
    assert_eq!(passes[0].kind, SpanKind::Internal as i32);
}

/// None of its own, those of clients that are traced, by the standard variables.
#[tokio::test]
async fn what_is_sampled_is_as_the_variables_say() {
    let (app, collector) = (App::start().await, Collector::start().await);
    let endpoint = format!("http://{}", collector.address);
    let on = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ];
    let (program, _filters) = start(&app, &unique("traces"), &on).await;
    http::request(program.listen, "GET", "/page", "").await;
    let seen = app.take_seen();
    // The app is told that this trace is not kept.
    let told = seen[0].fields_named("traceparent");
    assert!(told.len() == 1 && told[0].ends_with("-00"), "{told:?}");
    ask(&program, &app).await;
    let spans = async || collector.named("GET");
    until("the client's trace", || async { spans().await.len() >= 2 }).await;
    for span in spans().await {
        assert_eq!(hex(&span.trace_id), TRACE);
    }
}

/// A WebSocket of the app's counts up to its switch.
#[tokio::test]
async fn a_switched_connection_is_no_long_request() {
    let (app, collector) = (App::start().await, Collector::start().await);
    app.script(
        "socket",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        false,
    );
    let endpoint = format!("http://{}/v1/traces", collector.address);
    let on = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint)];
    let (program, _filters) = start(&app, &unique("traces"), &on).await;
    let mut connection = http::Connection::open(program.listen).await;
    let fields = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    connection.send(format!("GET /script/socket HTTP/1.1\r\n{fields}\r\n")).await;
    assert_eq!(connection.head().await.unwrap().status, 101);
    // While it is open.
    let spans = collector.wait_for("GET").await;
    let status = attribute(&spans[0], "http.response.status_code");
    assert_eq!(status.as_deref(), Some("101"));
    let counted = crate::support::sidecar::metric(
        program.admin,
        "sidestream_proxy_requests_total{code=\"101\"}",
    )
    .await;
    assert_eq!(counted, 1.0);
    drop(connection);
}

#[tokio::test]
async fn a_collector_that_takes_nothing_is_told_once() {
    let app = App::start().await;
    let nowhere = [("SIDESTREAM_TRACE__OTLP", "http://127.0.0.1:9")];
    let (program, _filters) = start(&app, &unique("traces"), &nowhere).await;
    const LOST: &str = "traces are lost: the collector cannot be reached";
    program.log_with(LOST).await;
    for _ in 0..3 {
        http::get(program.listen, "/page").await;
    }
    assert_eq!(program.log().matches(LOST).count(), 1);
}
