//! Request heads: the verdict does not depend on the pieces in which they come, and what passes has
//! one reading.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::gate::{Body, Verdict, header_values, inspect};
use sidestream_fuzz::path::{Target, classify};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = inspect(bytes, &mut 0);
    let mut seen = 0;
    let cut = usize::from(*cut).min(bytes.len());
    let first = inspect(&bytes[..cut], &mut seen);
    let pieced = if first == Verdict::Partial { inspect(bytes, &mut seen) } else { first };
    let kind = std::mem::discriminant::<Verdict>;
    assert_eq!(kind(&pieced), kind(&whole));

    let Verdict::Request(request) = whole else { return };
    let head = &bytes[..request.length];
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    assert_eq!(parsed.parse(head), Ok(httparse::Status::Complete(request.length)));
    let lengths = header_values(head, "content-length");
    let codings = header_values(head, "transfer-encoding");
    match request.body {
        Body::None => assert!(codings.is_empty() && lengths.len() <= 1),
        Body::Length(_) => assert!(codings.is_empty() && lengths.len() == 1),
        Body::Chunked => assert!(codings.len() == 1 && lengths.is_empty()),
    }
    if let Target::Reserved { rest } = classify(&request.target, "/_events") {
        assert!(!rest.split('/').any(|segment| matches!(segment, "." | "..")));
    }
});
