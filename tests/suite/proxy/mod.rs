//! The public port before an app: a request through the proxy and the same request directly to
//! the app see the same bytes both ways.

pub mod app;
pub mod bodies;
mod connections;
mod exchanges;
mod failures;
pub mod frames;
mod http2;
mod http2_client;
pub mod raw;
mod same;
mod trailers;

use std::net::SocketAddr;

use sidestream::Sidecar;

use crate::support::sidecar::{self, Filters};
use app::App;

/// A MongoDB that is not there: forwarding never depends on it.
pub const NO_MONGODB: &str = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500";

/// An app and a sidecar before it.
pub struct Pair {
    pub app: App,
    pub sidecar: Sidecar,
    _filters: Filters,
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::start_with(&[]).await
    }

    pub async fn start_with(more: &[(&str, &str)]) -> Pair {
        let app = App::start().await;
        let filters = Filters::new(&[]);
        let sidecar = sidecar::start_before(app.address, NO_MONGODB, &filters, more).await;
        Pair { app, sidecar, _filters: filters }
    }

    pub fn proxy(&self) -> SocketAddr {
        self.sidecar.listen
    }

    pub async fn finish(self) {
        self.sidecar.finish().await;
    }
}
