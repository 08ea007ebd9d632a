//! Request heads: the verdict does not depend on the pieces in which they come, and what passes has
//! one reading.
//!
//! The first byte of the input says where the rest is cut in two, in 255ths.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::gate::{Body, Verdict, header_values, inspect};
use sidestream_fuzz::path::{Target, classify};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = inspect(bytes, &mut 0);
    let mut seen = 0;
    let cut = usize::from(*cut) * bytes.len() / 255;
    let first = inspect(&bytes[..cut], &mut seen);
    let pieced = if first == Verdict::Partial { inspect(bytes, &mut seen) } else { first };
    let kind = std::mem::discriminant::<Verdict>;
    assert_eq!(kind(&pieced), kind(&whole));
    if bytes.len() <= 256 {
        seen = 0;
        let mut ends = 0..=bytes.len();
        let by_byte = ends.find_map(|end| match inspect(&bytes[..end], &mut seen) {
            Verdict::Partial => None,
            other => Some(other),
        });
        assert_eq!(kind(&by_byte.unwrap_or(Verdict::Partial)), kind(&whole));
    }
    classify(bytes, "/_events");

    let Verdict::Request(request) = whole else { return };
    let head = &bytes[..request.length];
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    assert_eq!(parsed.parse(head), Ok(httparse::Status::Complete(request.length)));
    assert_eq!(parsed.method, Some(request.method(bytes)));
    assert_eq!(parsed.path.map(str::as_bytes), Some(request.target(bytes)));
    for name in ["host", "content-length", "transfer-encoding", "connection"] {
        // Two ways to find a field: they must see the same ones.
        let found = parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let found: Vec<&[u8]> = found.map(|field| field.value.trim_ascii()).collect();
        assert_eq!(header_values(head, name), found, "{name}");
    }
    assert!(request.minor == 0 || header_values(head, "host").len() == 1);
    let lengths = header_values(head, "content-length");
    let codings = header_values(head, "transfer-encoding");
    match request.body {
        Body::None => assert!(codings.is_empty() && lengths.len() <= 1),
        Body::Length(length) => {
            assert!(codings.is_empty() && lengths.len() == 1);
            let written = String::from_utf8_lossy(lengths[0]);
            assert_eq!(written.trim_start_matches('0'), length.to_string());
        }
        Body::Chunked => assert!(codings.len() == 1 && lengths.is_empty()),
    }
    if let Target::Reserved { rest } = classify(request.target(bytes), "/_events") {
        assert!(!rest.split('/').any(|segment| matches!(segment, "." | "..")));
    }
});
