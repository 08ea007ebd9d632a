//! The app's answers: the verdict on a head does not depend on the pieces in which it comes, what
//! passes has one reading, and so has what the client gets for it.
//!
//! The first byte of the input says where the rest is cut in two, in 255ths, and, by its lowest
//! bits, what was asked.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::proxy::app::answer::{Body, HeadState, RequestKind, inspect, lines};
use sidestream_fuzz::proxy::app::body::Body as Passing;
use sidestream_fuzz::proxy::http1::answer::{To, write};

/// The fields that an answer may have, and those that we may add: `Date`, `Connection` and
/// `Transfer-Encoding`.
const MAX_FIELDS: usize = 256;
const ADDED: usize = 3;

/// What is written of a body that comes in these pieces, and what lies behind it.
fn pass(mut body: Passing, pieces: &[&[u8]]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut written, mut behind) = (Vec::new(), Vec::new());
    for piece in pieces {
        if body.is_done() {
            behind.extend_from_slice(piece);
            continue;
        }
        let mut buffer = BytesMut::from(*piece);
        behind.extend(body.pass(&mut buffer).ok()?);
        written.extend(buffer);
    }
    Some((written, behind))
}

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let asked = RequestKind { is_head: first & 1 != 0, is_upgrade: first & 2 != 0 };
    let to = To { minor: u8::from(first & 4 != 0), is_last: first & 8 != 0 };
    let cut = usize::from(*first) * bytes.len() / 255;
    let whole = inspect(bytes, &mut 0, asked);
    let mut seen = 0;
    let pieced = match inspect(&bytes[..cut], &mut seen, asked) {
        HeadState::Partial => inspect(bytes, &mut seen, asked),
        other => other,
    };
    // Why it is refused may differ, by what was seen first.
    let kind = std::mem::discriminant::<HeadState>;
    assert_eq!(kind(&pieced), kind(&whole));
    let HeadState::Head(head) = whole else { return };
    let (bytes, rest) = bytes.split_at(head.length);

    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(bytes), Ok(httparse::Status::Complete(head.length)));
    assert_eq!(parsed.code, Some(head.status));
    // Two ways to find the fields: they must see the same ones.
    let found: Vec<_> = lines(bytes).map(|line| (line.name, line.value)).collect();
    let expected: Vec<_> = parsed
        .headers
        .iter()
        .map(|field| (field.name.as_bytes(), field.value.trim_ascii()))
        .collect();
    assert_eq!(found, expected);

    // With what we add, it may be more than a reader as strict as ours takes.
    if found.len() + ADDED > MAX_FIELDS {
        return;
    }
    let mut out = BytesMut::new();
    let Ok(begun) = write(&head, bytes, to, &mut out) else { return };
    // What the client gets is a head that says the same.
    let again = inspect(&out, &mut 0, asked);
    let HeadState::Head(passed) = again else { panic!("{again:?} for {out:?}") };
    assert_eq!((passed.length, passed.status), (out.len(), head.status));
    match (head.body, to.minor) {
        (Body::UntilClose, 1) => assert_eq!(passed.body, Body::Chunked),
        (Body::Chunked | Body::UntilClose, _) if to.minor == 0 => {
            assert_eq!(passed.body, Body::UntilClose);
        }
        _ => assert_eq!(passed.body, head.body),
    }
    assert!(!begun.is_last || head.status == 101 || !passed.is_keep_alive);

    // Where the body ends does not depend on the pieces in which it comes.
    let again = || match begun.body {
        Passing::Done => Passing::Done,
        Passing::Length(length) => Passing::length(length),
        Passing::Chunks(_) => Passing::chunks(),
        Passing::Bare(_) => Passing::bare(),
        Passing::IntoChunks | Passing::UntilClose => Passing::UntilClose,
    };
    let cut = usize::from(*first) * rest.len() / 255;
    let (one, other) = rest.split_at(cut);
    assert_eq!(pass(again(), &[rest]), pass(again(), &[one, other]));
});
