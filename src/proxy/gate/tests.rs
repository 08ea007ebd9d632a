//! What passes the gate and what does not.

use proptest::prelude::*;

use super::*;

fn inspect(bytes: &[u8]) -> Verdict {
    Gate::default().inspect(bytes)
}

fn status(head: &[u8]) -> Option<u16> {
    match inspect(head) {
        Verdict::Refused(refusal) => Some(refusal.status),
        Verdict::Request(_) => None,
        other => panic!("{other:?} for {}", String::from_utf8_lossy(head)),
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for (fields, refused) in [
        ("Host: a\r\n", None),
        ("Host: a\r\nContent-Length: 3\r\n", None),
        ("Host: a\r\nTransfer-Encoding: chunked\r\n", None),
        ("Host: a\r\nTransfer-Encoding: Chunked\r\n", None),
        ("", Some(400)),
        ("Host: a\r\nHost: a\r\n", Some(400)),
        ("Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n", Some(400)),
        ("Host: a\r\nContent-Length: 3, 3\r\n", Some(400)),
        ("Host: a\r\nContent-Length: +3\r\n", Some(400)),
        ("Host: a\r\nContent-Length: -3\r\n", Some(400)),
        ("Host: a\r\nContent-Length: 0x3\r\n", Some(400)),
        ("Host: a\r\nContent-Length: \r\n", Some(400)),
        ("Host: a\r\nContent-Length: 99999999999999999999\r\n", Some(400)),
        ("Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n", Some(400)),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(400)),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", Some(400)),
        ("Host: a\r\nTransfer-Encoding: chunked, identity\r\n", Some(400)),
        ("Host: a\r\nTransfer-Encoding : chunked\r\n", Some(400)),
        ("Host: a\r\nTransfer-Encoding: \x0bchunked\r\n", Some(400)),
        ("Host: a\r\nX: 1\r\n 2\r\n", Some(400)),
        ("Host: a\r\nX: 1\nY: 2\r\n", Some(400)),
        ("Host: a\r\nX: 1\rY: 2\r\n", Some(400)),
        ("Host: a\r\nX: a\0b\r\n", Some(400)),
        (" Host: a\r\n", Some(400)),
        ("Host: a\r\nContent_Length: 3\r\n", Some(400)),
        ("Host: a\r\nX_Forwarded-For: 1\r\n", Some(400)),
        ("Host: a\r\nx_y: 1\r\n", None),
        ("Host: a, b\r\n", Some(400)),
        ("Host: [::1]:80\r\n", None),
    ] {
        let head = format!("POST /x HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(status(head.as_bytes()), refused, "{fields:?}");
    }
    assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), None);
    assert_eq!(status(b"GET http://a/ HTTP/1.0\r\n\r\n"), None);
    assert_eq!(status(b"GET http://a@b,c/ HTTP/1.0\r\n\r\n"), Some(400));
    assert_eq!(status(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(400));
    assert_eq!(status(b"GET / HTTP/1.1\nHost: a\n\n"), Some(400));
    assert_eq!(status(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Some(505));
}

#[test]
fn a_head_may_come_byte_by_byte_and_not_grow_for_ever() {
    let head = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nrest";
    for end in 0..head.len() - 4 {
        assert_eq!(inspect(&head[..end]), Verdict::Partial, "{end}");
    }
    let Verdict::Request(request) = inspect(head) else { panic!("a request") };
    assert_eq!((request.length, request.is_keep_alive), (head.len() - 4, false));
    for end in 1..H2_PREFACE.len() {
        assert_eq!(inspect(&H2_PREFACE[..end]), Verdict::Partial);
    }
    assert_eq!(inspect(H2_PREFACE), Verdict::Http2);
    let Verdict::Refused(refusal) = Gate::late().inspect(H2_PREFACE) else { panic!("refused") };
    assert_eq!(refusal.status, 505);
    let endless = [b"GET /x HTTP/1.1\r\nX: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
    assert_eq!(status(&endless), Some(431));
}

#[test]
fn header_values_are_found_whatever_their_case() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nACCEPT: text/html\r\naccept:  */* \r\n\r\n";
    assert_eq!(header_values(head, "Accept"), [b"text/html".as_slice(), b"*/*"]);
}

/// Requests, mostly nearly right ones.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::sample::select(vec![
        "GET / HTTP/1.1",
        "POST /x?y HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "PRI * HTTP/2.0",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        "\0",
        "Host: a",
        "Host: b",
        "Content-Length: 3",
        "Content-Length: 3, 3",
        "Transfer-Encoding: chunked",
        "X: y",
        ":",
        "SM",
        "\u{e9}",
    ]);
    let known = prop::collection::vec(parts, 0..14).prop_map(|parts| parts.concat().into_bytes());
    prop_oneof![known, prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #[test]
    fn whatever_passes_has_one_reading(bytes in heads(), fields in "[ -~\r\n]{0,60}") {
        let framed = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes();
        for bytes in [bytes, framed] {
            let Verdict::Request(head) = inspect(&bytes) else { continue };
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            let parsed = request.parse(&bytes);
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.length)));
            prop_assert_eq!(request.method, Some(head.method(&bytes)));
            prop_assert_eq!(request.path.map(str::as_bytes), Some(head.target(&bytes)));
            for header in request.headers.iter() {
                let values = header_values(&bytes[..head.length], header.name);
                prop_assert!(values.contains(&header.value.trim_ascii()));
            }
        }
    }

    #[test]
    fn it_is_one_verdict_however_the_bytes_come(
        bytes in heads(),
        padding in prop_oneof![Just(0), MAX_HEAD - 40..MAX_HEAD + 40],
        cuts in prop::collection::vec(1_usize..4000, 1..8),
    ) {
        let mut padded = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(padding));
        padded.push_str(&String::from_utf8_lossy(&bytes));
        for bytes in [bytes, padded.into_bytes()] {
            let whole = inspect(&bytes);
            let mut gate = Gate::default();
            let mut end = 0;
            let mut verdict = Verdict::Partial;
            let mut cuts = cuts.iter().cycle();
            while verdict == Verdict::Partial && end < bytes.len() {
                end = (end + cuts.next().unwrap()).min(bytes.len());
                verdict = gate.inspect(&bytes[..end]);
            }
            prop_assert_eq!(&verdict, &whole);
        }
    }
}
