//! Sidestream: live updates for an existing web app, as a sidecar in front of it.
//!
//! This file is the map of the code. Data flows one way, and a room (a top-level module) uses only
//! rooms above it in this list:
//!
//! - [`redact`], [`trace`], [`metrics`], [`drain`], [`tasks`], [`watched`]: small things that every room may use
//! - [`yaml`]: text to a tree that knows the place of every key; pure
//! - [`diagnostic`]: one mistake in what a person wrote: place, source line, caret, hint
//! - [`config`]: layers of settings to one validated `Config`
//! - [`event`]: one change event as raw BSON, its resume token, its position
//! - [`matcher`]: the MongoDB query language over raw BSON; pure
//! - [`filter`]: filter files, from what is written to what is bound for one client
//! - [`feed`]: what the readers of one upstream share: journal, routes, look-back
//! - [`upstream`]: owns the change stream cursors and the replays; alone touches MongoDB
//! - [`access`]: who the caller is, and which pages may open streams; alone touches keys
//! - [`session`]: the streams in force, and one client's cursor
//! - [`api`]: the reserved path: opening, listing, refusals, capacity, transports
//! - [`proxy`]: the public port: the app, or the reserved path; alone speaks to the app for clients
//! - [`admin`]: health, metrics, what is open, and the console
//! - [`kubernetes`]: adds the sidecar to pods: files, and the admission webhook; alone touches the
//!   Kubernetes API
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
pub mod kubernetes;
pub mod matcher;
pub mod metrics;
pub mod proxy;
pub mod redact;
pub mod session;
pub mod tasks;
pub mod trace;
pub mod upstream;
pub mod watched;
pub mod yaml;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tracing::{error, warn};

use access::Guard;
use admin::{Admin, Pages};
use api::reserved::Handler;
use config::{Config, Mongodb};
use drain::Drain;
use event::seal::{Ids, Keys};
use feed::journal::JournalLimits;
use metrics::{Metrics, RequestLog};
use proxy::PublicPort;
use session::catalog::{Catalog, FeedSettings};
use session::reload::{LastRead, LatestFindings, Reload};
use session::subscription::Shared;
use session::survey::Survey;
use tasks::Tasks;
use trace::Tracer;
use upstream::budget::{self, CursorBudget};
use upstream::connect::{ProbeError, Server};
use upstream::replay::Replayer;
use upstream::snapshot::{Bounds, Snapshots};

/// Connections that the kernel completes before they are accepted here.
const BACKLOG: u32 = 4096;

/// Why the sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{key}: cannot listen on {address}: {source}; choose another address, or stop the program \
         that uses it"
    )]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] proxy::tls::TlsError),
    #[error(
        "ids.keys_file: {path}: {reason}; write one key per line, as made by `openssl rand -hex 64`"
    )]
    Ids { path: String, reason: String },
    #[error("trace.otlp: {0}; write http://host:4318, where a collector takes OTLP over HTTP")]
    Trace(String),
}

/// A running sidecar.
pub struct Sidecar {
    /// The public port, as bound.
    pub listen: SocketAddr,
    /// The admin port, as bound.
    pub admin: SocketAddr,
    /// The port for kubelet and Prometheus, as bound, where there is one.
    pub probes: Option<SocketAddr>,
    /// Filter files that were broken at the start.
    pub broken_filters: usize,
    drain: Drain,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    server: Server,
    tasks: Tasks,
}

impl Sidecar {
    /// Binds the ports, reads the filters, and starts everything. Does not wait for MongoDB: see
    /// [`Sidecar::probe`].
    ///
    /// # Errors
    /// A port that is not free; a certificate or keys that cannot be read.
    pub async fn start(config: Config) -> Result<Sidecar, StartError> {
        let tls = config.tls.as_ref().map(proxy::tls::Certificates::read).transpose()?;
        let ids = ids(&config.ids)?;
        let (public_listener, listen) = bind("listen", config.listen)?;
        let (admin_listener, admin) = bind("admin", config.admin)?;
        let (probes_listener, probes) =
            config.probes.map(|address| bind("probes", address)).transpose()?.unzip();

        let tracer = Tracer::start(config.trace.otlp.as_deref()).map_err(StartError::Trace)?;
        let every = if config.log.requests { config.log.requests_every } else { 0 };
        let metrics = Arc::new(Metrics::with(tracer, RequestLog::new(every as u64)));
        let drain = Drain::new(config.drain);
        let tasks = Tasks::new(&metrics);
        let server = Server::default();
        let budget = CursorBudget::new(
            config.mongodb.max_cursors,
            config.replay.max_concurrent,
            budget::pool_of(config.mongodb.uri.expose()),
        );
        let news = Arc::new(Notify::new());
        let limits =
            JournalLimits { window: config.replay.window, max_bytes: config.replay.max_bytes };
        let catalog = Arc::new(Catalog::new(
            server.clone(),
            FeedSettings {
                limits,
                keep: config.clients.max_buffered,
                window: config.replay.window,
                budget: budget.clone(),
                news: news.clone(),
            },
            Shared {
                replayer: Replayer::within(
                    server.clone(),
                    limits,
                    config.replay.max_concurrent,
                    metrics.clone(),
                    (tasks.clone(), budget),
                ),
                snapshots: Snapshots::new(
                    server.clone(),
                    Bounds {
                        documents: config.snapshot.max_documents,
                        bytes: config.snapshot.max_bytes,
                        time: config.snapshot.max_time,
                    },
                    config.snapshot.max_concurrent,
                    metrics.clone(),
                    tasks.clone(),
                ),
                metrics: metrics.clone(),
                heartbeat: config.clients.heartbeat,
                ids,
                listeners: Arc::default(),
                began: tokio::time::Instant::now(),
            },
            tasks.clone(),
        ));
        let reload = Reload {
            dir: config.filters.clone(),
            has_source: config.auth.has_source(),
            catalog: catalog.clone(),
            metrics: metrics.clone(),
            findings: LatestFindings::default(),
        };
        let (seen, broken_filters) = reload.load();

        let guard = Guard::new(config.auth.clone(), &tasks);
        let handler = Handler::new(catalog.clone(), drain.clone(), metrics.clone(), guard, &config);
        let handler = Arc::new(handler);
        let public = PublicPort::new(&config, handler.clone(), drain.clone(), tls.clone());
        let admin_app = Arc::new(Admin::new(admin::Parts {
            catalog: catalog.clone(),
            metrics: metrics.clone(),
            drain: drain.clone(),
            findings: reload.findings.clone(),
            journal_limit: config.replay.max_bytes,
            console: config.console,
        }));
        let sidecar = Sidecar {
            listen,
            admin,
            probes,
            broken_filters,
            drain,
            catalog,
            metrics: metrics.clone(),
            server,
            tasks,
        };
        let survey = Survey {
            catalog: sidecar.catalog.clone(),
            server: sidecar.server.clone(),
            metrics,
            window: config.replay.window,
            news,
        };
        if let Some(tls) = tls {
            let follow = move || {
                let tls = tls.clone();
                async move { tls.follow().await }
            };
            sidecar.tasks.keep("certificate", |_| {}, follow);
        }
        sidecar.connect(config.mongodb, config.snapshot.max_concurrent);
        sidecar.start_tasks((reload, seen), survey, handler);
        let ports = [
            ("admin-port", Some(admin_listener), Pages::All),
            ("probes-port", probes_listener, Pages::Probes),
        ];
        for (name, listener, pages) in ports {
            let Some(listener) = listener.map(Arc::new) else { continue };
            let admin = admin_app.clone();
            let serve = move || admin.clone().serve(listener.clone(), pages);
            sidecar.tasks.keep(name, |_| {}, serve);
        }
        sidecar.tasks.require("public-port", public.serve(public_listener));
        Ok(sidecar)
    }

    /// Makes the MongoDB client.
    fn connect(&self, mongodb: Mongodb, max_snapshots: usize) {
        let server = self.server.clone();
        let connect = move || {
            let (server, mongodb) = (server.clone(), mongodb.clone());
            async move {
                let pool = CursorBudget::pool(mongodb.max_cursors, max_snapshots);
                if let Err(reason) = server.connect(&mongodb.uri, pool).await {
                    error!("mongodb.uri cannot be used: {reason}; no streams are served");
                }
            }
        };
        self.tasks.keep("connect", |_| {}, connect);
    }

    /// What goes on beside the ports.
    fn start_tasks(
        &self,
        (reload, seen): (Reload, LastRead),
        survey: Survey,
        handler: Arc<Handler>,
    ) {
        // After a panic, what is in force is looked at again.
        let mut seen = Some(seen);
        self.tasks.keep("reload", |_| {}, move || reload.clone().watch(seen.take()));
        self.tasks.keep("survey", |_| {}, move || survey.clone().run());
        let keep_keys = move || {
            let handler = handler.clone();
            async move { handler.guard.keep_keys().await }
        };
        self.tasks.keep("keys", |_| {}, keep_keys);
    }

    /// Asks MongoDB once what kind of deployment it is; the proxy already works meanwhile.
    ///
    /// # Errors
    /// [`ProbeError`], with what to do. The sidecar keeps trying all the same.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.server.probe().await.map(|_| ())
    }

    /// The readiness that `/readyz` reports, apart from draining: see [`Catalog::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.catalog.is_ready()
    }

    /// Begins the drain: new streams are refused, open ones are closed spread over `drain`.
    pub fn drain(&self) {
        self.drain.begin();
        // Idle streams wait for this, and for nothing smaller.
        self.catalog.shared.listeners.wake_all();
    }

    /// The metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The supervised tasks of the process.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Drains, waits until every connection is closed or `drain` has passed, and stops
    /// everything.
    pub async fn finish(self) {
        self.drain();
        let cut = self.drain.finished().await;
        if cut > 0 {
            warn!("{cut} connections are cut: `drain` is over, and they were not");
        }
        // Cursors go before the client, and the client before the runtime: the driver's workers
        // panic otherwise.
        self.tasks.stop();
        self.tasks.finished().await;
        self.server.close().await;
        self.metrics.tracer.finish().await;
    }
}

/// How clients see positions.
fn ids(config: &config::Ids) -> Result<Ids, StartError> {
    let config::Ids::Sealed { keys_file } = config else { return Ok(Ids::Token) };
    let error = |reason: String| StartError::Ids { path: keys_file.display().to_string(), reason };
    let text = std::fs::read_to_string(keys_file).map_err(|source| error(source.to_string()))?;
    Keys::parse(&text).map(Ids::Sealed).map_err(|wrong| error(wrong.to_string()))
}

/// Listens on the address of a setting; gives the address that it became.
fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = || -> io::Result<_> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listen().map_err(|source| StartError::Listen { key, address, source })
}
