//! What the tests stand on: a real MongoDB, a real app, the sidecar itself, and clients that read
//! what comes over the socket with their own eyes.

pub mod app;
pub mod http;
pub mod mongo;
pub mod mongod;
// Not every binary asks what a process costs.
#[allow(dead_code)]
pub mod process;
pub mod sidecar;
pub mod sse;
// Nor does every one speak TLS.
#[allow(dead_code)]
pub mod tls;
// Nor mounts every one a Secret.
#[allow(dead_code)]
pub mod volume;

use std::future::Future;
use std::time::Duration;

/// Long enough for a loaded machine, short enough to see a hang, and shorter than `clients.send_timeout`:
/// what ends only by that is not seen.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// Waits for something to become true, asking again and again.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("not within {PATIENCE:?}: {what}");
    }
}

/// A port where nobody listens, and that the system gives to nobody who asks for any: for servers that
/// are started on it a moment later, or again.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Below those for connections. Another run of the tests beside this one begins elsewhere.
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 97).unwrap_or(0) * 200;
    for _ in 0..COUNT {
        let at = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + at % COUNT;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
