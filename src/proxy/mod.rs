//! The public port: the app, or the reserved path.
//!
//! Accepts connections, does the TLS handshake where one is wanted, and gives each connection to
//! the [`door::Door`]. Never depends on MongoDB: a sidecar whose event side is broken is still a
//! good proxy.

pub mod app;
pub mod carry;
pub mod chunks;
pub mod door;
pub mod exchange;
pub mod fields;
pub mod follow;
pub mod forward;
pub mod gate;
pub mod h2;
pub mod io;
pub mod outgoing;
pub mod path;
pub mod reserved;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerOptions;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::config::{AppAddress, Config};
use crate::drain::Drain;
use app::App;
use door::Door;
use forward::{Forward, Side};
use h2::Site;
use io::Socket;
use reserved::Desk;
use tls::Secure;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after accept failed, which means that descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Handshakes at the same time: they cost CPU, and a flood of them must not starve the rest.
const MAX_HANDSHAKES: usize = 1024;

/// The public port, ready to be served.
pub struct PublicPort {
    door: Door,
    tls: Option<TlsAcceptor>,
    drain: Drain,
}

impl PublicPort {
    pub fn new(config: &Config, desk: Arc<Desk>, drain: Drain, tls: Option<TlsAcceptor>) -> Self {
        let prefix: Arc<str> = config.prefix.as_str().into();
        let side = Arc::new(Side {
            app: config.app.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            scheme: if tls.is_some() { "https" } else { "http" },
        });
        let forward = Forward {
            side: side.clone(),
            desk: desk.clone(),
            prefix: prefix.clone(),
            resolved: parking_lot::Mutex::new(None),
            secure: match &config.app {
                AppAddress::Tcp { host, tls: true, .. } => Some(Secure::new(host)),
                _ => None,
            },
        };
        let mut proxy = http_proxy(&Arc::new(ServerConf::default()), forward);
        let mut options = HttpServerOptions::default();
        // The door hands over only what begins with the HTTP/2 preface.
        options.h2c = true;
        proxy.server_options = Some(options);
        let (say_shutdown, shutdown) = watch::channel(false);
        let watched = drain.clone();
        tokio::spawn(async move {
            watched.begun().await;
            let _ = say_shutdown.send(true);
            // HTTP/2 connections look at it until they are closed.
            say_shutdown.closed().await;
        });
        let site = Arc::new(Site {
            desk: desk.clone(),
            app: App::new(config.app.clone()),
            prefix: prefix.clone(),
            side: side.clone(),
            drain: drain.clone(),
        });
        let door = Door {
            proxy: Arc::new(proxy),
            desk,
            prefix,
            side,
            drain: drain.clone(),
            site,
            shutdown,
        };
        PublicPort { door, tls, drain }
    }

    /// Accepts connections until draining is finished: a load balancer may send requests until it
    /// has noticed that this sidecar is no longer ready.
    pub async fn serve(self, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.finished() => return,
            };
            match accepted {
                Ok((tcp, _)) => self.take(tcp, &handshakes),
                Err(error) => {
                    warn!(%error, "no connection accepted; are the file descriptors used up?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, tcp: TcpStream, handshakes: &Arc<Semaphore>) {
        if let Err(error) = tcp.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY not set");
        }
        let door = self.door.clone();
        let Some(tls) = self.tls.clone() else {
            tokio::spawn(door.serve(Socket::Plain(tcp)));
            return;
        };
        let Ok(turn) = handshakes.clone().try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(tcp)).await;
            drop(turn);
            match shaken {
                Ok(Ok(stream)) => door.serve(Socket::Tls(Box::new(stream))).await,
                Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                Err(_) => debug!("TLS handshake took too long"),
            }
        });
    }
}
