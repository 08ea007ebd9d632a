//! What a WebSocket client sends: however its bytes come, they are understood as the same, and a message
//! that subscribes carries values, never operators.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::api::websocket::incoming::{Broken, Heard, Incoming};
use sidestream_fuzz::api::websocket::message::Message;
use sidestream_fuzz::event::seal::Ids;

/// All that is heard in bytes that come in pieces of this size.
fn heard(bytes: &[u8], size: usize) -> (Vec<Heard>, Option<Broken>) {
    let (mut incoming, mut all) = (Incoming::default(), Vec::new());
    for piece in bytes.chunks(size) {
        incoming.bytes.extend_from_slice(piece);
        loop {
            match incoming.take() {
                Ok(Some(heard)) => all.push(heard),
                Ok(None) => break,
                Err(broken) => return (all, Some(broken)),
            }
        }
    }
    (all, None)
}

fn subscribe(text: &str) {
    let Ok(message) = Message::parse(text) else { return };
    let name = message.subscribe.clone();
    let Ok(wanted) = message.wanted(&Ids::Token) else { return };
    assert_eq!(wanted.label.stream(), name.unwrap_or_default());
    // Each value is a text of the message: objects are refused before.
    assert!(wanted.query.iter().map(|(_, value)| value.len()).sum::<usize>() <= text.len() * 8);
}

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        subscribe(text);
    }
    let whole = heard(input, input.len().max(1));
    assert_eq!(whole, heard(input, 1));
    assert_eq!(whole, heard(input, 7));
    for heard in &whole.0 {
        match heard {
            Heard::Text(text) => {
                assert!(text.len() <= 64 * 1024);
                subscribe(text);
            }
            Heard::Ping(payload) => assert!(payload.len() <= 125),
            Heard::Close(code) => assert!(code.is_none_or(|code| code >= 1000)),
        }
    }
});
