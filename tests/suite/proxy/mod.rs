//! The public port before an app: a request through the proxy and the same request directly to
//! the app see the same bytes both ways.

pub mod app;
mod bodies;
mod connections;
mod desync;
mod failures;
mod frames;
mod hostile;
mod http2;
mod raw;
mod same;
mod slow;
mod trailers;

use std::net::SocketAddr;

use sidestream::Sidecar;

use crate::support::sidecar::{self, Filters};
use app::App;

/// A MongoDB that is not there: forwarding never depends on it.
const NO_MONGODB: &str = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500";

/// An app and a sidecar before it.
struct Pair {
    app: App,
    sidecar: Sidecar,
    _filters: Filters,
}

impl Pair {
    async fn start() -> Pair {
        Pair::start_with(&[]).await
    }

    async fn start_with(more: &[(&str, &str)]) -> Pair {
        let app = App::start().await;
        let filters = Filters::new(&[]);
        let sidecar = sidecar::start_before(app.address, NO_MONGODB, &filters, more).await;
        Pair { app, sidecar, _filters: filters }
    }

    fn proxy(&self) -> SocketAddr {
        self.sidecar.listen
    }

    async fn finish(self) {
        self.sidecar.finish().await;
    }
}
