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

use std::future::Future;
use std::time::Duration;

/// Long enough for a loaded machine, short enough to see a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
