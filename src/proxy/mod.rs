//! The public port: the app, or the reserved path.
//!
//! Accepts connections, does the TLS handshake if one is needed, and gives each connection to the
//! [`dispatcher::Dispatcher`]. It never depends on MongoDB: if the event side of a sidecar is
//! broken, the proxy still works.

pub mod app;
pub mod chunks;
pub mod connections;
pub mod date;
pub mod dispatcher;
mod forwarded;
pub mod gate;
mod grpc;
pub mod http1;
pub mod http2;
pub mod io;
pub mod limits;
mod observed;
pub mod path;
mod pieces;
pub mod plain;
mod side;
mod streams;
pub mod tls;

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Resource;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::access::Limited;
use crate::api::reserved::Handler;
use crate::config::Config;
use crate::drain::Drain;
use app::App;
use connections::{Connections, Registration};
use dispatcher::Dispatcher;
use http1::Forwarder;
use http1::exchange::Patience;
use http2::Site;
use io::Socket;
use side::Side;
use tls::Certificates;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after accept failed, which means that descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The public port, ready to be served.
pub struct PublicPort {
    dispatcher: Arc<Dispatcher>,
    tls: Option<Arc<Certificates>>,
    drain: Drain,
    connections: Arc<Connections>,
}

impl PublicPort {
    /// Needs no socket yet: see [`PublicPort::serve`]. Without `tls`, it speaks plain HTTP.
    pub fn new(
        config: &Config,
        handler: Arc<Handler>,
        drain: Drain,
        tls: Option<Arc<Certificates>>,
    ) -> Self {
        let prefix: Arc<str> = config.prefix.as_str().into();
        let side = Arc::new(Side {
            trusted_proxies: config.trusted_proxies.clone(),
            scheme: if tls.is_some() { "https" } else { "http" },
        });
        let connections = Connections::new(
            rustix::process::getrlimit(Resource::Nofile).current,
            config.clients.max_requests_per_address,
            (
                handler.metrics.refused_total.with_label_values(&["waiting"]),
                handler.metrics.task_panics_total.with_label_values(&["connection"]),
            ),
        );
        let patience =
            Patience { client: config.clients.send_timeout, app: config.app_read_timeout };
        let app = App::new(config.app.clone(), connections.clone());
        let forwarder = Forwarder {
            app: app.clone(),
            side: side.clone(),
            metrics: handler.metrics.clone(),
            drain: drain.clone(),
            patience,
        };
        let site = Arc::new(Site {
            handler: handler.clone(),
            app,
            prefix: prefix.clone(),
            side: side.clone(),
            drain: drain.clone(),
            patience,
        });
        let dispatcher =
            Dispatcher { forwarder, handler, prefix, side, drain: drain.clone(), site };
        PublicPort { dispatcher: Arc::new(dispatcher), tls, drain, connections }
    }

    /// Accepts connections until draining is finished: a load balancer may send requests until it
    /// has noticed that this sidecar is no longer ready.
    pub async fn serve(self, listener: TcpListener) {
        tokio::select! {
            () = self.accept(listener) => {}
            _ = self.drain.finished() => {}
        }
    }

    async fn accept(&self, listener: TcpListener) {
        let tls = self.tls.as_ref().map(|tls| tls.acceptor());
        let failed = Limited::new();
        loop {
            while tls.is_some()
                && let Some(wait) = self.connections.wait_for_handshake()
            {
                tokio::time::sleep(wait).await;
            }
            match listener.accept().await {
                Ok((tcp, peer)) => self.take(tcp, peer.ip(), tls.as_ref()),
                Err(error) if self.connections.make_room() > 0 => {
                    debug!(%error, "idle connections make room for new ones");
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    // As long as descriptors are used up, that is many times a second.
                    if failed.turn().is_some() {
                        warn!(%error, "no connection accepted; are the file descriptors used up?");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, tcp: TcpStream, address: IpAddr, tls: Option<&TlsAcceptor>) {
        if let Err(error) = tcp.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY not set");
        }
        let descriptor = usize::try_from(tcp.as_raw_fd()).unwrap_or(0);
        let entered = self.connections.enter(Some(address), descriptor, tls.is_some());
        let registration = match entered {
            Ok(registration) => registration,
            Err(full) => {
                let metrics = &self.dispatcher.forwarder.metrics;
                return metrics.refused_total.with_label_values(&[full.name()]).inc();
            }
        };
        let dispatcher = self.dispatcher.clone();
        let handle = registration.handle();
        let task = match tls.cloned() {
            None => tokio::spawn(dispatcher.serve(Socket::Plain(tcp), registration)),
            Some(tls) => tokio::spawn(async move {
                match shake(tls, tcp, &registration).await {
                    Ok(socket) => dispatcher.serve(socket, registration).await,
                    Err(error) => debug!(%error, "TLS handshake failed"),
                }
            }),
        };
        handle.is_for(task.abort_handle());
    }
}

/// The handshake. One that does not begin is a task with a socket, and nothing of TLS.
async fn shake(
    tls: TlsAcceptor,
    tcp: TcpStream,
    registration: &Registration,
) -> std::io::Result<Socket> {
    let shaking = async {
        tcp.readable().await?;
        registration.stir();
        // Boxed: most connections are past this.
        Box::pin(tls.accept(tcp)).await
    };
    let stream = timeout(HANDSHAKE_DEADLINE, shaking).await.map_err(std::io::Error::from)??;
    registration.has_shaken();
    Ok(Socket::Tls(Box::new(stream)))
}
