//! Sidestream: live updates for an existing web app, as a sidecar in front of it.
//!
//! This file is the map of the house. Data flows one way, and a room uses the rooms above it in
//! this list and none below it:
//!
//! - [`redact`], [`metrics`], [`drain`]: small things that every room may use
//! - [`yaml`]: text to a tree that knows the place of every key; pure
//! - [`diagnostic`]: one mistake of what people wrote: place, source line, caret, hint
//! - [`config`]: layers of settings to one validated `Config`
//! - [`event`]: one change event as raw BSON, its resume token, its position
//! - [`matcher`]: the MongoDB query language over raw BSON; pure
//! - [`filter`]: filter files, from what is written to what is bound for one client
//! - [`feed`]: what the readers of one upstream share: journal, routes, look-back
//! - [`upstream`]: owns the change stream cursors and the replays; alone touches MongoDB
//! - [`access`]: who somebody is, and from which pages; alone touches keys
//! - [`session`]: the streams in force, and one client's cursor
//! - [`api`]: the reserved path: opening, listing, refusals, capacity, transports
//! - [`proxy`]: the public port: the app, or the reserved path; alone speaks to the app for clients
//! - [`admin`]: health, metrics, what is open
//! - [`cli`]: the commands, one file each
//!
//! [`Sidecar::start`] wires the rooms, so that tests start it in process on port 0.

pub mod access;
pub mod admin;
pub mod api;
pub mod cli;
pub mod config;
#[cfg(test)]
mod cpu_time;
pub mod diagnostic;
pub mod drain;
pub mod event;
pub mod feed;
pub mod filter;
pub mod matcher;
pub mod metrics;
pub mod proxy;
pub mod redact;
pub mod session;
pub mod upstream;
pub mod yaml;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::error;

use access::Guard;
use admin::Admin;
use api::reserved::Desk;
use config::Config;
use drain::Drain;
use feed::journal::Limits;
use metrics::Metrics;
use proxy::PublicPort;
use session::catalog::{Catalog, FeedSettings};
use session::reload;
use session::subscription::Shared;
use upstream::connect::{ProbeError, Server};
use upstream::replay::Replayer;

/// Connections that the kernel completes before we accept them.
const BACKLOG: u32 = 4096;

/// Why the sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{key}: cannot listen on {address}: {source}; choose another address, or end what uses it"
    )]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] proxy::tls::TlsError),
}

/// A running sidecar.
pub struct Sidecar {
    /// The public port, as bound.
    pub listen: SocketAddr,
    /// The admin port, as bound.
    pub admin: SocketAddr,
    /// Filter files that were broken at the start.
    pub broken_filters: usize,
    drain: Drain,
    catalog: Arc<Catalog>,
    server: Server,
    stop: watch::Sender<bool>,
    public: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

impl Sidecar {
    /// Binds the ports, reads the filters, and starts everything. MongoDB is not waited for: see
    /// [`Sidecar::probe`].
    ///
    /// # Errors
    /// A port that is not free, a certificate that cannot be read.
    pub async fn start(config: Config) -> Result<Sidecar, StartError> {
        let tls = proxy::tls::acceptor(config.tls.as_ref())?;
        let public_listener = listen("listen", config.listen)?;
        let admin_listener = listen("admin", config.admin)?;
        let bound = |key, listener: &TcpListener| {
            listener.local_addr().map_err(|source| StartError::Listen {
                key,
                address: config.listen,
                source,
            })
        };
        let (listen, admin) =
            (bound("listen", &public_listener)?, bound("admin", &admin_listener)?);

        let metrics = Arc::new(Metrics::default());
        let drain = Drain::new(config.drain);
        let (stop, stopped) = watch::channel(false);
        let server = Server::default();
        let limits = Limits { window: config.replay.window, max_bytes: config.replay.max_bytes };
        let catalog = Arc::new(Catalog::new(
            server.clone(),
            FeedSettings {
                limits,
                keep: config.clients.max_buffered,
                window: config.replay.window,
            },
            Shared {
                replayer: Replayer::new(
                    server.clone(),
                    limits,
                    config.replay.max_concurrent,
                    metrics.clone(),
                ),
                metrics: metrics.clone(),
                heartbeat: config.clients.heartbeat,
            },
            stopped,
        ));
        let has_source = config.auth.has_source();
        let broken_filters = reload::load(&config.filters, has_source, &catalog, &metrics);

        let guard = Guard::new(config.auth.clone());
        let desk =
            Desk::new(catalog.clone(), drain.clone(), metrics.clone(), guard, &config.clients);
        let desk = Arc::new(desk);
        let public = PublicPort::new(&config, desk.clone(), drain.clone(), tls);
        let admin_app =
            Admin { catalog: catalog.clone(), metrics: metrics.clone(), drain: drain.clone() };
        let connecting = server.clone();
        let uri = config.mongodb.uri.clone();
        let background = vec![
            tokio::spawn(async move {
                if let Err(reason) = connecting.connect(&uri).await {
                    error!("mongodb.uri cannot be used: {reason}; streams stay away");
                }
            }),
            tokio::spawn(admin_app.serve(admin_listener)),
            tokio::spawn(reload::watch(
                config.filters.clone(),
                has_source,
                catalog.clone(),
                metrics,
            )),
            tokio::spawn(async move { desk.guard.warm_up().await }),
        ];
        Ok(Sidecar {
            listen,
            admin,
            broken_filters,
            drain,
            catalog,
            server,
            stop,
            public: tokio::spawn(public.serve(public_listener)),
            background,
        })
    }

    /// Asks MongoDB once what it is; the proxy works meanwhile.
    ///
    /// # Errors
    /// [`ProbeError`], with what to do. The sidecar keeps trying all the same.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.server.probe().await.map(|_| ())
    }

    /// Whether every stream can be opened.
    pub fn is_ready(&self) -> bool {
        self.catalog.is_ready()
    }

    /// Begins to say goodbye: new streams are refused, open ones are closed spread over `drain`.
    pub fn drain(&self) {
        self.drain.begin();
    }

    /// Says goodbye, waits until every connection is closed or `drain` is over, and ends
    /// everything.
    pub async fn finish(self) {
        self.drain.begin();
        if let Err(error) = self.public.await {
            error!(%error, "the public port ended badly");
        }
        // Cursors go before the client, and the client before the runtime: the driver's workers
        // panic otherwise.
        self.stop.send_replace(true);
        self.catalog.closed().await;
        for task in self.background {
            task.abort();
        }
        self.server.close().await;
    }
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| StartError::Listen { key, address, source })
}
