//! The public port: the app, or the reserved path.
//!
//! Accepts connections, does the TLS handshake where one is wanted, and gives each connection to
//! the [`door::Door`]. Never depends on MongoDB: a sidecar whose event side is broken is still a
//! good proxy.

pub mod app;
pub mod chunks;
pub mod date;
pub mod door;
pub mod gate;
pub mod http1;
pub mod http2;
pub mod io;
pub mod path;
pub mod pause;
mod pieces;
pub mod plain;
mod side;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::api::reserved::Desk;
use crate::config::Config;
use crate::drain::Drain;
use app::App;
use door::Door;
use http1::Lane;
use http2::Site;
use io::Socket;
use side::Side;

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
            trusted_proxies: config.trusted_proxies.clone(),
            scheme: if tls.is_some() { "https" } else { "http" },
        });
        let app = App::new(config.app.clone());
        let lane = Lane {
            app: app.clone(),
            side: side.clone(),
            metrics: desk.metrics.clone(),
            drain: drain.clone(),
        };
        let site = Arc::new(Site {
            desk: desk.clone(),
            app,
            prefix: prefix.clone(),
            side: side.clone(),
            drain: drain.clone(),
        });
        let door = Door { lane, desk, prefix, side, drain: drain.clone(), site };
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
