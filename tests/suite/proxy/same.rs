//! The table: each row goes directly to the app and through the proxy, and both see the same.

use super::Pair;
use super::app::{Reached, Step, send};
use super::raw::{Answer, Raw, ask};

/// Concern one connection each, and are made anew for the next.
const HOP_BY_HOP: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "te"];
const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn without(fields: &[(String, String)], names: &[&str]) -> Vec<(String, String)> {
    let is_named = |name: &str| names.iter().any(|other| name.eq_ignore_ascii_case(other));
    fields.iter().filter(|(name, _)| !is_named(name)).cloned().collect()
}

/// The order of fields with different names has no meaning; of those with one name it has.
fn sorted(mut fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    fields
}

fn assert_same_request(row: &str, direct: &Reached, proxied: &Reached) {
    assert_eq!(direct.line(), proxied.line(), "{row}");
    assert_eq!(
        sorted(without(&direct.fields(), &HOP_BY_HOP)),
        sorted(without(&without(&proxied.fields(), &FORWARDED), &HOP_BY_HOP)),
        "{row}"
    );
    assert!(direct.body == proxied.body, "{row}: bodies differ");
    assert_eq!(direct.trailers, proxied.trailers, "{row}");
    assert_eq!(direct.is_whole, proxied.is_whole, "{row}");
}

fn assert_same_answer(row: &str, direct: &Answer, proxied: &Answer) {
    assert_eq!(direct.before, proxied.before, "{row}");
    assert_eq!(direct.line, proxied.line, "{row}");
    let mut added = vec!["connection", "keep-alive"];
    if direct.field("date").is_none() {
        // A recipient with a clock adds it (RFC 9110 section 6.6.1).
        added.push("date");
    }
    let is_delimited = ["content-length", "transfer-encoding"];
    if is_delimited.iter().all(|name| direct.field(name).is_none()) {
        // The connection to the client outlives an answer that ended with the app's.
        added.push("transfer-encoding");
    }
    assert_eq!(
        sorted(without(&direct.fields, &["connection", "keep-alive"])),
        sorted(without(&proxied.fields, &added)),
        "{row}"
    );
    assert!(direct.body == proxied.body, "{row}: bodies differ");
    assert_eq!(direct.trailers, proxied.trailers, "{row}");
}

/// Runs one row.
async fn same(pair: &Pair, row: &str, method: &str, request: String, steps: &[Step]) -> Answer {
    let request = request.replacen("\r\n", &format!("\r\nHost: app.test\r\nX-Case: {row}\r\n"), 1);
    pair.app.on(row, steps);
    let direct = ask(pair.app.address, method, &request).await;
    let reached_directly = pair.app.take();
    let proxied = ask(pair.proxy(), method, &request).await;
    let reached_through = pair.app.take();
    assert_eq!(reached_directly.len(), 1, "{row}");
    assert_eq!(reached_through.len(), 1, "{row}");
    assert_same_request(row, &reached_directly[0], &reached_through[0]);
    assert_same_answer(row, &direct, &proxied);
    proxied
}

#[tokio::test]
async fn methods_and_targets() {
    let pair = Pair::start().await;
    let steps = [Step::Body, send(OK)];
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-1!"] {
        let body = if method == "HEAD" { "" } else { "Content-Length: 3\r\n" };
        let end = if method == "HEAD" { "\r\n" } else { "\r\nabc" };
        let request = format!("{method} /x HTTP/1.1\r\n{body}{end}");
        same(&pair, method, method, request, &steps).await;
    }
    for target in [
        "/",
        "*",
        "/?",
        "/x?",
        "//",
        "/%2e%2e//a/./b?x=%20&y",
        "/a/../b",
        "/a%2Fb%00c",
        "/%",
        "/%zz",
        "/a;b=c,d/e:f@g!$&'()*+",
        "/?a=b?c=d&&e[]=1|2^`{}~",
        "/h\u{e9}llo/\u{4e16}\u{754c}?q=\u{1f600}",
        "http://app.test/absolute?x",
        "/\"quoted\"",
        "/back\\slash",
    ] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        same(&pair, target, method, format!("{method} {target} HTTP/1.1\r\n\r\n"), &steps).await;
    }
    let long = format!("/{}", "x".repeat(50_000));
    same(&pair, "a long target", "GET", format!("GET {long} HTTP/1.1\r\n\r\n"), &steps).await;
    pair.finish().await;
}

#[tokio::test]
async fn header_fields() {
    let pair = Pair::start().await;
    let steps = [Step::Body, send(OK)];
    let many: String = (0..100).map(|at| format!("X-{at}: {at}\r\n")).collect();
    for (row, fields) in [
        ("case", "x-lower: a\r\nX-UPPER: b\r\nX-mIxEd: c\r\n"),
        ("repeated", "X-A: 1\r\nX-B: 2\r\nX-A: 3\r\nx-a: 4\r\n"),
        ("empty", "X-Empty:\r\nX-Blank:   \r\n"),
        ("bytes", "X-Bytes: caf\u{e9} \u{1f600}\r\n"),
        ("punctuation", "X!#$%&'*+-.^_`|~1: a\r\nx_under: 1\r\nx-under: 2\r\n"),
        ("cookies", "Cookie: a=1; b=2\r\nCookie: c=3\r\nAuthorization: Basic YTpi\r\n"),
        ("encodings", "Accept-Encoding: gzip, br\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n"),
        ("hop by hop", "Connection: close, X-Mine\r\nKeep-Alive: 5\r\nX-Other: 1\r\n"),
        ("others' forwarding", "Forwarded: for=1.2.3.4\r\nVia: 1.1 them\r\nX-Real-IP: 1.2.3.4\r\n"),
        ("many", many.as_str()),
    ] {
        same(&pair, row, "GET", format!("GET / HTTP/1.1\r\n{fields}\r\n"), &steps).await;
    }
    // What a Connection field names is for us alone.
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n";
    ask(pair.proxy(), "GET", request).await;
    let reached = pair.app.take();
    assert_eq!((reached[0].field("x-mine"), reached[0].field("connection")), (None, None));
    assert_eq!((reached[0].field("via"), reached[0].field("server")), (None, None));
    pair.finish().await;
}

#[tokio::test]
async fn forwarded_fields_are_believed_from_trusted_proxies_only() {
    let claimed = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 1.2.3.4\r\n\
                   X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.test\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: app.test:81\r\n\r\n";
    for (trusted, request, expected) in [
        ("127.0.0.0/8", claimed, ["1.2.3.4, 127.0.0.1", "https", "shop.test"]),
        ("10.0.0.0/8", claimed, ["127.0.0.1", "http", "app.test"]),
        ("10.0.0.0/8", plain, ["127.0.0.1", "http", "app.test:81"]),
    ] {
        let pair = Pair::start_with(&[("SIDESTREAM_TRUSTED_PROXIES", trusted)]).await;
        ask(pair.proxy(), "GET", request).await;
        let reached = pair.app.take();
        let found = FORWARDED.map(|name| {
            let fields = without(&reached[0].fields(), &[]);
            let is_it = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
            fields.iter().filter(is_it).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map(|value| vec![value.to_string()]), "{trusted} {request}");
        pair.finish().await;
    }
}

#[tokio::test]
async fn request_bodies() {
    let pair = Pair::start().await;
    let steps = [Step::Body, send(OK)];
    let big = "0123456789abcdef".repeat(70_000);
    for (row, rest) in [
        ("no body", "\r\n".to_string()),
        ("no bytes", "Content-Length: 0\r\n\r\n".to_string()),
        ("one byte", "Content-Length: 1\r\n\r\nx".to_string()),
        ("big", format!("Content-Length: {}\r\n\r\n{big}", big.len())),
        ("chunked", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n".into()),
        ("no chunks", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_string()),
        (
            "a big chunk",
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{big}\r\n0\r\n\r\n", big.len()),
        ),
        (
            "trailers",
            "Trailer: X-Sum, x-b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
             X-Sum: 1\r\nx-b: 2\r\n\r\n"
                .to_string(),
        ),
        (
            "unannounced trailers",
            "Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\nX-Sum: 1\r\n\r\n".to_string(),
        ),
    ] {
        same(&pair, row, "POST", format!("POST / HTTP/1.1\r\n{rest}"), &steps).await;
    }
    pair.finish().await;
}

#[tokio::test]
async fn answers() {
    let pair = Pair::start().await;
    let rows: &[(&str, &str, &str)] = &[
        ("204", "GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n"),
        ("404", "GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope"),
        ("500", "GET", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        ("odd", "GET", "HTTP/1.1 299 Fine, more or less\r\nContent-Length: 1\r\n\r\nx"),
        ("odder", "GET", "HTTP/1.1 599 Because\r\nContent-Length: 1\r\n\r\nx"),
        ("no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx"),
        ("redirect", "GET", "HTTP/1.1 302 Found\r\nLocation: //x/%2e\r\nContent-Length: 0\r\n\r\n"),
        ("head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"),
        ("head of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("head of neither", "HEAD", "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n"),
        (
            "fields",
            "GET",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nserver: mine/1\r\nX-cAsE: caf\u{e9}\r\n\
             Set-Cookie: b=2\r\nVia: 1.1 me\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "date",
            "GET",
            "HTTP/1.1 200 OK\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "connection",
            "GET",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
             Content-Length: 0\r\n\r\n",
        ),
        (
            "chunked",
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
        ("no chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "early hints",
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
             HTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "encoded",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: *\r\nContent-Length: 3\r\n\r\n\x01\x02\x03",
        ),
    ];
    for (row, method, answer) in rows {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        same(&pair, row, method, request, &[Step::Body, send(answer)]).await;
    }
    for (row, answer) in [
        ("until close", "HTTP/1.1 200 OK\r\n\r\nsome bytes"),
        ("nothing until close", "HTTP/1.1 200 OK\r\n\r\n"),
        ("http 1.0", "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold"),
    ] {
        let steps = [Step::Body, send(answer), Step::Close];
        let pair_row = same_but_version(&pair, row, &steps).await;
        assert_eq!(pair_row.field("content-length"), None);
    }
    pair.finish().await;
}

/// An answer that the end of the app's connection delimits: goes on in chunks, as HTTP/1.1.
async fn same_but_version(pair: &Pair, row: &str, steps: &[Step]) -> Answer {
    let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Case: {row}\r\n\r\n");
    pair.app.on(row, steps);
    let direct = ask(pair.app.address, "GET", &request).await;
    let mut proxied = ask(pair.proxy(), "GET", &request).await;
    pair.app.take();
    proxied.line.clone_from(&direct.line);
    assert_same_answer(row, &direct, &proxied);
    proxied
}

#[tokio::test]
async fn trailers_of_answers() {
    let pair = Pair::start().await;
    let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\n0\r\n\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-other: 2\r\n\r\n";
    let steps = [Step::Body, send(answer)];
    for (row, fields) in [("asked for", "TE: trailers\r\nConnection: TE\r\n"), ("unasked", "")] {
        let request = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let proxied = same(&pair, row, "GET", request, &steps).await;
        assert_eq!(proxied.trailers, ["X-Sum: 1", "x-other: 2"], "{row}");
    }
    // The answer that follows on the connection is whole.
    let mut raw = Raw::open(pair.proxy()).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Case: unasked\r\n\r\n").await;
        let answer = raw.answer("GET").await.expect("an answer");
        assert_eq!((answer.text().as_str(), answer.trailers.len()), ("0\r\n\r\nabc", 2));
    }
    assert!(pair.app.take().iter().all(|one| one.connection == 1), "the app's connection stays");
    pair.finish().await;
}
