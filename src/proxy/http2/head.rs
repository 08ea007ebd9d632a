//! Heads on their way between HTTP/2 and the app's HTTP/1.1.
//!
//! Pure. What concerns one connection stays, everything else passes in its order.

use std::net::IpAddr;
use std::time::SystemTime;

use bytes::{BufMut, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::gate;
use crate::proxy::app::answer::{Body, Head, Named, lines};
use crate::proxy::chunks;
use crate::proxy::forwarded;
use crate::proxy::side::Side;

/// How a request's body goes to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length,
    Chunked,
}

/// The head that the app gets for a request that passed the gate.
pub fn request(
    request: &Parts,
    has_body: bool,
    side: &Side,
    peer: Option<IpAddr>,
) -> (BytesMut, Framing) {
    let framing = match (has_body, request.headers.contains_key(header::CONTENT_LENGTH)) {
        (false, _) => Framing::None,
        (true, true) => Framing::Length,
        (true, false) => Framing::Chunked,
    };
    let mut out = BytesMut::with_capacity(1024);
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    let host = gate::host_of(request);
    let is_trusted = side.is_trusted(peer);
    put(&mut out, "host", host);
    for name in request.headers.keys() {
        let values = request.headers.get_all(name);
        match name.as_str() {
            "host"
            | "te"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host" => {}
            "trailer" if framing != Framing::Chunked => {}
            claim if !is_trusted && forwarded::is_claim(claim.as_bytes()) => {}
            // HTTP/2 clients send a cookie a field, for the sake of compression; HTTP/1.1 knows one
            // field with all of them (RFC 9113 section 8.2.3).
            "cookie" => {
                let crumbs: Vec<&[u8]> = values.iter().map(HeaderValue::as_bytes).collect();
                put(&mut out, "cookie", &crumbs.join(&b"; "[..]));
            }
            name => values.iter().for_each(|value| put(&mut out, name, value.as_bytes())),
        }
    }
    if request.headers.contains_key(header::TE) {
        out.put_slice(b"TE: trailers\r\nConnection: TE\r\n");
    }
    if framing == Framing::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let values = |name: &str| -> Vec<Vec<u8>> {
        request.headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    };
    for (name, value) in side.forwarded(peer, values, Some(host.to_vec())) {
        put(&mut out, name, &value);
    }
    out.put_slice(b"\r\n");
    (out, framing)
}

/// Names are written as most clients write them: some apps look for that.
fn put(out: &mut BytesMut, name: &str, value: &[u8]) {
    let mut is_first = true;
    for byte in name.bytes() {
        out.put_u8(if is_first { byte.to_ascii_uppercase() } else { byte });
        is_first = byte == b'-';
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// What the client gets for a head of the app's, informational or final.
///
/// # Errors
/// It has what no HTTP/2 message can have; why it is refused.
pub fn answer(head: &Head, bytes: &[u8]) -> Result<http::Response<()>, &'static str> {
    let named = Named::of(bytes).map_err(|_| "it has too many Connection fields")?;
    let mut fields = HeaderMap::new();
    for line in lines(bytes) {
        let is_dropped = match line.name.len() {
            2 => line.is("te"),
            7 => line.is("upgrade"),
            10 => line.is("connection") || line.is("keep-alive"),
            // Said twice, it is still one length; in chunks, none.
            14 if line.is("content-length") => {
                let is_none = head.status == 204 || head.is_informational();
                is_none || head.body == Body::Chunked || fields.contains_key(header::CONTENT_LENGTH)
            }
            14 => false,
            16 => line.is("proxy-connection"),
            17 => line.is("transfer-encoding"),
            _ => false,
        };
        let is_named = || named.has(line.name) && !line.is("content-length");
        if is_dropped || is_named() {
            continue;
        }
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(line.name), HeaderValue::from_bytes(line.value))
        else {
            return Err("it has an invalid header field");
        };
        // An error is that there are thousands of them.
        fields.try_append(name, value).map_err(|_| "it has too many header fields")?;
    }
    if !head.is_informational() && !fields.contains_key(header::DATE) {
        fields.insert(header::DATE, date());
    }
    let mut answer = http::Response::new(());
    *answer.status_mut() =
        http::StatusCode::from_u16(head.status).map_err(|_| "its status is invalid")?;
    *answer.headers_mut() = fields;
    Ok(answer)
}

/// Now, as `Date` has it.
pub fn date() -> HeaderValue {
    let date = httpdate::fmt_http_date(SystemTime::now());
    HeaderValue::try_from(date).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Trailer lines, each with its CR LF and judged before, for the client.
pub fn answer_trailers(lines: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            let _ = trailers.try_append(name, value);
        }
    }
    trailers
}

/// Appends the end of a body in chunks, with those of a request's trailers that belong there.
pub fn put_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if chunks::is_kept(name.as_str()) && gate::is_field_name(name.as_str()) {
            put(out, name.as_str(), value.as_bytes());
        }
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::app::answer::{HeadState, RequestKind, inspect};
    use crate::proxy::gate::{Body as GatedBody, Gate, Verdict};

    fn written(uri: &str, fields: &[(&str, &str)], has_body: bool) -> (String, Framing) {
        let side = Side { trusted_proxies: Vec::new(), scheme: "https" };
        let mut built = http::Request::post(uri);
        for (name, value) in fields {
            built = built.header(*name, *value);
        }
        let (parts, ()) = built.body(()).unwrap().into_parts();
        let (head, framing) = request(&parts, has_body, &side, Some("192.0.2.1".parse().unwrap()));
        (String::from_utf8(head.to_vec()).unwrap().replace("\r\n", "\n"), framing)
    }

    #[test]
    fn requests_are_as_http_1_1_clients_send_them() {
        let ours = |host: &str| {
            format!(
                "X-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: {host}\n\n"
            )
        };
        for (uri, fields, has_body, head, framing) in [
            (
                "http://a:8/%2e//x?y=%20",
                &[][..],
                false,
                "/%2e//x?y=%20 HTTP/1.1\nHost: a:8\n",
                Framing::None,
            ),
            (
                "http://a:8",
                &[
                    ("x-b", "1"),
                    ("cookie", "a=1"),
                    ("host", "a:8"),
                    ("x-a", "2"),
                    ("x-b", "3"),
                    ("cookie", "b=2"),
                    ("te", "trailers"),
                    ("x-forwarded-for", "evil"),
                    ("x_real_ip", "evil"),
                    ("forwarded", "for=evil"),
                    ("http2-settings", "x"),
                    ("trailer", "x"),
                    ("content-length", "5"),
                ],
                true,
                "/ HTTP/1.1\nHost: a:8\nX-B: 1\nX-B: 3\nCookie: a=1; b=2\nX-A: 2\n\
                 Content-Length: 5\nTE: trailers\nConnection: TE\n",
                Framing::Length,
            ),
            (
                "http://a:8/",
                &[("trailer", "x"), ("expect", "100-continue")],
                true,
                "/ HTTP/1.1\nHost: a:8\nTrailer: x\nExpect: 100-continue\n\
                 Transfer-Encoding: chunked\n",
                Framing::Chunked,
            ),
        ] {
            let expected = format!("POST {head}{}", ours("a:8"));
            assert_eq!(written(uri, fields, has_body), (expected, framing));
        }
    }

    fn told(said: &str) -> (u16, Vec<(String, String)>) {
        let said = said.replace('\n', "\r\n");
        let asked = RequestKind { is_head: false, is_upgrade: false };
        let HeadState::Head(head) = inspect(said.as_bytes(), &mut 0, asked) else {
            panic!("{said}")
        };
        let answer = answer(&head, &said.as_bytes()[..head.length]).unwrap();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_string();
        let fields = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
        (answer.status().as_u16(), fields.collect())
    }

    #[test]
    fn answers_keep_what_concerns_the_client() {
        for (said, status, fields) in [
            (
                "HTTP/1.1 599 Because\nDATE: x\nA:1\nSet-Cookie: a\nSet-Cookie: b\nContent-Length: 2\n\
                 Content-Length: 2\nKeep-Alive: 5\nConnection: keep-alive, A, content-length\n\n",
                599,
                &[("date", "x"), ("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "2")]
                    [..],
            ),
            (
                "HTTP/1.1 200 OK\nDate: x\nTransfer-Encoding: chunked\nTrailer: y\nUpgrade: h2c\nTE: x\n\n",
                200,
                &[("date", "x"), ("trailer", "y")],
            ),
            ("HTTP/1.1 103 Early\nLink: </a>\nConnection: x\n\n", 103, &[("link", "</a>")]),
            ("HTTP/1.1 204 No\nDate: x\nContent-Length: 5\n\n", 204, &[("date", "x")]),
        ] {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(told(said), (status, fields), "{said}");
        }
        // A date is added where there is none.
        let (_, fields) = told("HTTP/1.1 200 OK\nContent-Length: 0\n\n");
        assert!(fields.iter().any(|(name, value)| name == "date" && value.ends_with("GMT")));
    }

    #[test]
    fn trailers_pass_both_ways() {
        let trailers = answer_trailers(b"X-Sum: 1\r\nx-sum:  2 \r\nother:\r\n");
        let found: Vec<_> = trailers.get_all("x-sum").iter().collect();
        assert_eq!(found, ["1", "2"]);
        assert_eq!(trailers.len(), 3);
        let mut out = BytesMut::new();
        put_last_chunk(&mut out, None);
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", HeaderValue::from_static("1"));
        fields.insert("host", HeaderValue::from_static("evil"));
        put_last_chunk(&mut out, Some(&fields));
        assert_eq!(&out[..], b"0\r\n\r\n0\r\nX-Sum: 1\r\n\r\n");
    }

    proptest! {
        /// The gate of HTTP/1 is the judge of what passes that of HTTP/2.
        #[test]
        fn what_passes_is_one_request_of_http_1(
            path in "/[ -~\u{7f}-\u{ff}]{0,20}",
            authority in "[a-z:@,\\[\\]0-9.]{1,8}",
            fields in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "host", "content-length", "te", "trailer", "cookie", "expect", "x_y", "x-real-ip",
                        "x-forwarded-for", "forwarded", "transfer_encoding", "upgrade", "x",
                    ]),
                    prop_oneof!["[ -~\t\u{80}-\u{ff}]{0,12}", Just("trailers".to_string()), "[0-9]{1,3}"],
                ),
                0..6,
            ),
            has_body in any::<bool>(),
        ) {
            let mut built = http::Request::post(format!("http://{authority}{path}"));
            for (name, value) in &fields {
                let bytes: Vec<u8> = value.chars().map(|one| one as u8).collect();
                built = built.header(*name, HeaderValue::from_bytes(&bytes).unwrap());
            }
            let Ok(built) = built.body(()) else { return Ok(()) };
            let (parts, ()) = built.into_parts();
            let length = parts.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
            // The library resets what ends before its length.
            let is_short = !has_body && length.is_some_and(|length| length.iter().any(|b| *b != b'0'));
            if gate::check(&parts).is_err() || is_short {
                return Ok(());
            }
            let side = Side { trusted_proxies: Vec::new(), scheme: "https" };
            let (head, framing) = request(&parts, has_body, &side, None);
            let text = String::from_utf8_lossy(&head);
            let Verdict::Request(passed) = Gate::default().inspect(&head) else {
                return Err(TestCaseError::fail(format!("refused: {text:?}")));
            };
            prop_assert_eq!(passed.length, head.len(), "{}", text);
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            prop_assert_eq!(passed.target(&head), target.as_bytes());
            prop_assert_eq!(framing == Framing::Chunked, passed.body == GatedBody::Chunked);
            let claims = lines(&head).filter(|line| forwarded::is_claim(line.name)).count();
            prop_assert_eq!(claims, 3, "{}", text);
        }
    }
}
