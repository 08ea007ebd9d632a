//! The opaque id of several streams, as a client may make it up: what is read says the same when it is
//! written again, and a sealed one is only what was sealed here.
//!
//! The first byte says whether the rest is the text, or what the text says.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::event::Position;
use sidestream_fuzz::event::seal::{Ids, Keys};
use sidestream_fuzz::session::bookmark::{Bookmark, MAX_LENGTH};

static SEALED: LazyLock<Ids> =
    LazyLock::new(|| Ids::Sealed(Keys::parse(&"5e".repeat(32)).expect("a key")));

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let text = match kind % 2 {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        _ => URL_SAFE_NO_PAD.encode(bytes),
    };
    assert!(Bookmark::parse(&text, &SEALED).is_err(), "nobody sealed this");
    if let Ok(position) = Position::parse(&text) {
        // Small letters are taken, and the order is that of capitals.
        assert_eq!(position.as_str(), text.to_ascii_uppercase());
    }
    let Ok(bookmark) = Bookmark::parse(&text, &Ids::Token) else { return };
    for ids in [&Ids::Token, &*SEALED] {
        if let Some(again) = bookmark.to_text(ids) {
            assert!(again.len() <= MAX_LENGTH);
            assert_eq!(Bookmark::parse(&again, ids).as_ref(), Ok(&bookmark));
        }
    }
    assert!(bookmark.to_text(&Ids::Token).is_some(), "it was short enough before");
});
