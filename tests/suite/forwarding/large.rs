//! Bodies that do not fit into memory.

use super::{NO_MONGODB, exchange};
use crate::support::app::{App, is_pattern, send_pattern};
use crate::support::http::Connection;
use crate::support::process::memory_of;
use crate::support::sidecar::{Filters, Program};

/// What a process holds, in bytes.
fn held(process: u32) -> u64 {
    memory_of(process).expect("its memory").anonymous
}

#[tokio::test]
async fn a_gigabyte_passes_both_ways_with_flat_memory() {
    const SIZE: u64 = 1 << 30;
    let app = App::start().await;
    let filters = Filters::new(&[]);
    let (dir, url) = (filters.path().display().to_string(), format!("http://{}", app.address));
    let arguments =
        ["--wait", "--mongodb", NO_MONGODB, "--filters", dir.as_str(), "--app", url.as_str()];
    let program = Program::start(&arguments, &[]).await;
    exchange(program.listen, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET").await.expect("an answer");
    let before = held(program.id());

    let down = async {
        let mut connection = Connection::open(program.listen).await;
        connection.send(format!("GET /flood/{SIZE} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let head = connection.head().await.expect("a head");
        assert_eq!(head.field("content-length"), Some(SIZE.to_string().as_str()));
        let mut at = 0u64;
        let mut most = 0;
        while at < SIZE {
            let part = usize::try_from((SIZE - at).min(1 << 20)).unwrap();
            let bytes = connection.exactly(part).await.expect("the body");
            assert!(is_pattern(&bytes, at));
            at += part as u64;
            most = most.max(held(program.id()));
        }
        most
    };
    let up = async {
        let mut connection = Connection::open(program.listen).await;
        let head = format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
        connection.send(head).await;
        send_pattern(&mut connection.socket, SIZE).await.expect("the body is taken");
        let answer = connection.answer("POST").await.expect("an answer");
        assert_eq!(answer.text(), SIZE.to_string());
    };
    let (most, ()) = tokio::join!(down, up);
    let growth = most.saturating_sub(before);
    assert!(growth < 32 << 20, "memory grew by {growth} bytes");
}
