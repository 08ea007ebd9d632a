//! The connections to the app: its addresses, and a small pool of idle connections.
//!
//! The pool is our own: pingora's costs a task, a channel and a lock around the socket each time a
//! connection is returned, a large part of the cost of a request here. Ours is checked when a
//! connection is taken or returned, and by one task that closes connections that were idle for too
//! long and ends when the pool is empty.

pub mod answer;
pub mod body;
pub mod connection;
pub mod socket;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::connections::Connections;
use super::io::MAX_UNSENT;
use super::tls::Secure;
use crate::access::Limited;
use crate::config::AppAddress;
pub use connection::{AppConnection, Broken};
pub use socket::Socket;

/// An app that has not accepted a connection by then is too slow: 504.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to the app are kept this long, less than most apps keep them.
pub const APP_IDLE: Duration = Duration::from_secs(4);
/// How many of them, at most.
const MAX_IDLE: usize = 128;
/// How long a resolved name of the app is used.
const RESOLVED_FOR: Duration = Duration::from_secs(5);
/// How long it counts that it could not be resolved: nobody asks for each request.
const UNRESOLVED_FOR: Duration = Duration::from_secs(1);
/// How long connections that were closed may take to give their descriptors back.
const ROOM_TAKES: Duration = Duration::from_millis(20);

/// Logs that the app did not answer a request. Anybody can send requests while it is down, and must not
/// fill the log: a line of each kind now and then.
pub fn log_failure(status: u16, error: &dyn fmt::Display) {
    static BROKEN: Limited = Limited::new();
    static TOO_SLOW: Limited = Limited::new();
    let kind = match status {
        502 => &BROKEN,
        504 => &TOO_SLOW,
        _ => return debug!(status, %error, "request not forwarded"),
    };
    match kind.turn() {
        None => debug!(status, %error, "request not forwarded"),
        Some(0) => warn!(status, %error, "request not forwarded"),
        Some(more) => {
            warn!(status, %error, "request not forwarded, like {more} more since the last line");
        }
    }
}

/// Why there is no connection to the app.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("the app's host name cannot be resolved: {0}")]
    Unresolved(Arc<io::Error>),
    #[error("the app's host name has no address")]
    NoAddress,
    #[error("connecting to the app: {0}")]
    Refused(io::Error),
    #[error("the app did not accept the connection in time")]
    TimedOut,
}

impl Unreachable {
    /// The response for clients: the app is down, or too slow.
    pub fn status(&self) -> u16 {
        match self {
            Unreachable::TimedOut => 504,
            _ => 502,
        }
    }
}

/// Opens connections to the app and pools idle ones. Cheap to clone; all clones share one pool.
#[derive(Debug, Clone)]
pub struct App {
    shared: Arc<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    address: AppAddress,
    /// For an app that speaks TLS.
    secure: Option<Secure>,
    resolved: Mutex<Option<Resolved>>,
    /// Of those who want to know, one asks and the others wait.
    resolving: tokio::sync::Mutex<()>,
    /// What makes room when descriptors run out.
    connections: Arc<Connections>,
    /// The one that was given back last is taken first. Never locked over an await.
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    connections: Vec<(Socket, Instant)>,
    /// A task closes them when their time is over.
    is_watched: bool,
}

/// The app's addresses, and when they were looked up.
#[derive(Debug)]
struct Resolved {
    addresses: Result<Vec<SocketAddr>, NotResolved>,
    at: Instant,
}

#[derive(Debug, Clone)]
enum NotResolved {
    Failed(Arc<io::Error>),
    TimedOut,
}

impl From<NotResolved> for Unreachable {
    fn from(not: NotResolved) -> Unreachable {
        match not {
            NotResolved::Failed(error) => Unreachable::Unresolved(error),
            NotResolved::TimedOut => Unreachable::TimedOut,
        }
    }
}

impl App {
    /// Where it is.
    pub fn address(&self) -> &AppAddress {
        &self.shared.address
    }

    /// Nothing is connected before the first request.
    pub fn new(address: AppAddress, connections: Arc<Connections>) -> App {
        let secure = match &address {
            AppAddress::Tcp { host, tls: true, .. } => Some(Secure::new(host)),
            _ => None,
        };
        let shared = PoolState {
            address,
            secure,
            resolved: Mutex::new(None),
            resolving: tokio::sync::Mutex::new(()),
            connections,
            idle: Mutex::new(Idle::default()),
        };
        App { shared: Arc::new(shared) }
    }

    /// A connection that was used before, if there is one that is still good, or else a new one.
    ///
    /// # Errors
    /// There is none to be had.
    pub async fn take(&self) -> Result<AppConnection, Unreachable> {
        match self.take_idle() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// A connection that was used before, if there is one that is still good.
    pub fn take_idle(&self) -> Option<AppConnection> {
        loop {
            let (mut socket, since) = self.shared.idle.lock().connections.pop()?;
            let is_good =
                since.elapsed() < APP_IDLE && socket.is_quiet() && socket.is_quiet_by_now();
            if is_good {
                return Some(AppConnection::new(socket, true));
            }
        }
    }

    /// Keeps a connection for others, if its exchange is over and it can be used again.
    pub fn give_back(&self, connection: AppConnection) {
        if !connection.is_clean() {
            return;
        }
        let mut idle = self.shared.idle.lock();
        if idle.connections.len() >= MAX_IDLE {
            return;
        }
        idle.connections.push((connection.into_parts().0, Instant::now()));
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_idle(Arc::downgrade(&self.shared)));
        }
    }

    /// A new connection: to the first of the app's addresses that accepts it. Where descriptors run
    /// out, clients that have nothing to ask make room.
    ///
    /// # Errors
    /// None does; told is what became of the last one.
    pub async fn connect(&self) -> Result<AppConnection, Unreachable> {
        let connections = &self.shared.connections;
        match self.try_connect().await {
            Err(Unreachable::Refused(error))
                if is_out_of_descriptors(&error) && connections.make_room() > 0 =>
            {
                tokio::time::sleep(ROOM_TAKES).await;
                self.try_connect().await
            }
            Ok(connection) if connections.is_crowded(connection.descriptor()) => {
                connections.make_room();
                Ok(connection)
            }
            other => other,
        }
    }

    async fn try_connect(&self) -> Result<AppConnection, Unreachable> {
        let (host, port) = match &self.shared.address {
            AppAddress::Unix { path } => {
                let socket = in_time(UnixStream::connect(path)).await?;
                return Ok(AppConnection::new(Socket::Unix(socket), false));
            }
            AppAddress::Tcp { host, port, .. } => (host, *port),
        };
        let mut why = Unreachable::NoAddress;
        for address in self.addresses(host, port).await? {
            match in_time(self.connect_to(address)).await {
                Ok(socket) => return Ok(AppConnection::new(socket, false)),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<Socket> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        // What an app does not take of uploads stays with the clients.
        let _ = socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(MAX_UNSENT);
        match &self.shared.secure {
            None => Ok(Socket::Tcp(tcp)),
            Some(secure) => Ok(Socket::Tls(Box::new(secure.connect(tcp).await?))),
        }
    }

    /// The app's addresses, resolved again every few seconds.
    ///
    /// # Errors
    /// Its name cannot be resolved.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Unreachable> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if let Some(known) = self.known_addresses() {
            return known;
        }
        let _asking = self.shared.resolving.lock().await;
        if let Some(known) = self.known_addresses() {
            return known;
        }
        let found = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, port))).await;
        let addresses = match found {
            Ok(Ok(found)) => Ok(found.collect()),
            Ok(Err(error)) => Err(NotResolved::Failed(Arc::new(error))),
            Err(_) => Err(NotResolved::TimedOut),
        };
        let resolved = Resolved { addresses: addresses.clone(), at: Instant::now() };
        *self.shared.resolved.lock() = Some(resolved);
        Ok(addresses?)
    }

    fn known_addresses(&self) -> Option<Result<Vec<SocketAddr>, Unreachable>> {
        let resolved = self.shared.resolved.lock();
        let known = resolved.as_ref()?;
        let holds = if known.addresses.is_ok() { RESOLVED_FOR } else { UNRESOLVED_FOR };
        let is_fresh = known.at.elapsed() < holds;
        is_fresh.then(|| known.addresses.clone().map_err(Unreachable::from))
    }
}

/// Of the process, or of the whole system.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}

async fn in_time<T>(connecting: impl Future<Output = io::Result<T>>) -> Result<T, Unreachable> {
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Unreachable::TimedOut),
        Ok(Err(error)) => Err(Unreachable::Refused(error)),
        Err(_) => Err(Unreachable::TimedOut),
    }
}

/// Closes connections that have been idle for too long, until there are none.
async fn close_idle(shared: std::sync::Weak<PoolState>) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let mut idle = shared.idle.lock();
            let now = Instant::now();
            idle.connections.retain(|(_, since)| now.duration_since(*since) < APP_IDLE);
            // The oldest is the first.
            match idle.connections.first() {
                Some((_, since)) => *since + APP_IDLE,
                None => {
                    idle.is_watched = false;
                    return;
                }
            }
        };
        sleep_until(next).await;
    }
}
