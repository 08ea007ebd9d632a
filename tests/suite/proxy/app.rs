//! An app behind the sidecar, on bare sockets: remembers what reached it byte for byte, and
//! answers as the test asks it to, politely or not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The field by which a request chooses its script.
pub const CASE: &str = "X-Case";

/// One request as it reached the app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Request line and fields, with the empty line.
    pub head: Vec<u8>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// The trailer section's lines.
    pub trailers: Vec<String>,
    /// Whether the body was read to its end.
    pub is_whole: bool,
    /// Counts the connections of the app.
    pub connection: usize,
}

impl Reached {
    pub fn line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let text = latin1(&self.head);
        text.split("\r\n").map(str::to_string).collect::<Vec<_>>().into_iter()
    }

    /// Names as they were written, in order.
    pub fn fields(&self) -> Vec<(String, String)> {
        let lines = self.lines().skip(1).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a field");
                (name.to_string(), value.trim().to_string())
            })
            .collect()
    }

    pub fn field(&self, name: &str) -> Option<String> {
        let mut fields = self.fields().into_iter();
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Bytes as text, one character each, so that nothing is lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// What the app does once it has a request's head.
#[derive(Clone)]
pub enum Step {
    /// Reads the request's body and remembers it.
    Body,
    /// Reads the request's body and forgets it, counting the bytes that are those of [`pattern`].
    Drain(Arc<AtomicUsize>),
    Send(Vec<u8>),
    /// Sends so many bytes of [`pattern`].
    Generate(usize),
    /// Waits until the test says so.
    Wait(Arc<Notify>),
    /// Sends back whatever comes, until the end.
    Echo,
    /// Says that everything before it is done.
    Tell(Arc<Notify>),
    /// Waits for the end of the connection, and says so.
    UntilGone(Arc<Notify>),
    Close,
}

pub fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// What big bodies are made of: not the same everywhere, and cheap.
pub fn pattern() -> Vec<u8> {
    (0..64 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[derive(Default)]
struct Shared {
    reached: Mutex<Vec<Reached>>,
    scripts: Mutex<HashMap<String, Vec<Step>>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// A running app.
pub struct App {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Vec<JoinHandle<()>>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

/// For connections on which much is sent that nobody reads. The kernel has memory for all TCP of a machine,
/// and where hundreds of buffers use it up, it resets whatever connection is closed next, of any test.
pub fn limit_buffers(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    socket.set_send_buffer_size(64 * 1024).expect("SO_SNDBUF");
    socket.set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
}

impl App {
    pub async fn start() -> App {
        App::start_with(|_| {}).await
    }

    /// The same, with something done to each connection.
    pub async fn start_with(prepare: fn(&TcpStream)) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        let listening = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).expect("TCP_NODELAY");
                prepare(&socket);
                tokio::spawn(serve(serving.clone(), socket));
            }
        });
        App { address, shared, listening: vec![listening] }
    }

    /// Listens on a Unix socket too.
    pub fn listen_at(&mut self, path: &Path) {
        let listener = UnixListener::bind(path).expect("a socket");
        let serving = self.shared.clone();
        self.listening.push(tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(serving.clone(), socket));
            }
        }));
    }

    /// Listens where the clients are to speak TLS.
    pub async fn listen_tls(&mut self, acceptor: TlsAcceptor) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = self.shared.clone();
        self.listening.push(tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        serve(serving, socket).await;
                    }
                });
            }
        }));
        address
    }

    /// What to do for requests of a case.
    pub fn on(&self, case: &str, steps: impl Into<Vec<Step>>) {
        self.shared.scripts.lock().insert(case.to_string(), steps.into());
    }

    pub fn reached(&self) -> Vec<Reached> {
        self.shared.reached.lock().clone()
    }

    /// What reached the app since the last time.
    pub fn take(&self) -> Vec<Reached> {
        std::mem::take(&mut *self.shared.reached.lock())
    }

    /// Connections that are not closed.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Connections since the start.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

struct Peer<S> {
    socket: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        matches!(self.socket.read_buf(&mut self.buffer).await, Ok(1..))
    }

    async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|part| part == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Takes so many bytes, a piece at a time.
    async fn pass(&mut self, mut length: usize, mut to: impl FnMut(&[u8])) -> Option<()> {
        while length > 0 {
            if self.buffer.is_empty() && !self.fill().await {
                return None;
            }
            let part = length.min(self.buffer.len());
            to(&self.buffer[..part]);
            self.buffer.drain(..part);
            length -= part;
        }
        Some(())
    }

    /// Reads a body to its end; the trailer lines, if all of it came.
    async fn body(&mut self, head: &Reached, mut to: impl FnMut(&[u8])) -> Option<Vec<String>> {
        if let Some(length) = head.field("content-length") {
            self.pass(length.parse().expect("a length"), to).await?;
            return Some(Vec::new());
        }
        if head.field("transfer-encoding").is_none() {
            return Some(Vec::new());
        }
        loop {
            let line = latin1(&self.until(b"\r\n").await?);
            let length = usize::from_str_radix(line.trim_end().split(';').next()?, 16).ok()?;
            if length == 0 {
                break;
            }
            self.pass(length, &mut to).await?;
            self.until(b"\r\n").await?;
        }
        let mut trailers = Vec::new();
        loop {
            let line = latin1(&self.until(b"\r\n").await?);
            match line.trim_end_matches("\r\n") {
                "" => return Some(trailers),
                line => trailers.push(line.to_string()),
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, socket: S) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
    shared.open.fetch_add(1, Ordering::SeqCst);
    converse(&shared, connection, socket).await;
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    connection: usize,
    socket: S,
) {
    let mut peer = Peer { socket, buffer: Vec::new() };
    while let Some(head) = peer.until(b"\r\n\r\n").await {
        let head = Reached { head, connection, ..Reached::default() };
        let at = {
            let mut reached = shared.reached.lock();
            reached.push(head.clone());
            reached.len() - 1
        };
        let case = head.field(CASE).unwrap_or_default();
        let steps = shared.scripts.lock().get(&case).cloned();
        let default = || vec![Step::Body, send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")];
        for step in steps.unwrap_or_else(default) {
            let done = match step {
                Step::Body => {
                    let shared = shared.clone();
                    let edit = |change: &mut dyn FnMut(&mut Reached)| {
                        if let Some(reached) = shared.reached.lock().get_mut(at) {
                            change(reached);
                        }
                    };
                    let read = peer.body(&head, |part| {
                        edit(&mut |reached| reached.body.extend_from_slice(part));
                    });
                    let trailers = read.await;
                    if let Some(trailers) = &trailers {
                        edit(&mut |reached| {
                            reached.trailers.clone_from(trailers);
                            reached.is_whole = true;
                        });
                    }
                    trailers.map(drop)
                }
                Step::Drain(count) => {
                    let block = pattern();
                    let mut at = 0;
                    let count = |mut part: &[u8]| {
                        while !part.is_empty() {
                            let length = part.len().min(block.len() - at);
                            if part[..length] == block[at..at + length] {
                                count.fetch_add(length, Ordering::SeqCst);
                            }
                            at = (at + length) % block.len();
                            part = &part[length..];
                        }
                    };
                    peer.body(&head, count).await.map(drop)
                }
                Step::Send(bytes) => {
                    let written = peer.socket.write_all(&bytes).await;
                    written.and(peer.socket.flush().await).ok()
                }
                Step::Generate(mut length) => {
                    let block = pattern();
                    let mut done = Some(());
                    while length > 0 && done.is_some() {
                        let part = length.min(block.len());
                        done = peer.socket.write_all(&block[..part]).await.ok();
                        length -= part;
                    }
                    done
                }
                Step::Wait(notify) => {
                    notify.notified().await;
                    Some(())
                }
                Step::Echo => {
                    let mut done = peer.socket.write_all(&peer.buffer).await.ok();
                    while done.is_some() {
                        peer.buffer.clear();
                        done = match peer.fill().await {
                            true => peer.socket.write_all(&peer.buffer).await.ok(),
                            false => None,
                        };
                    }
                    None
                }
                Step::Tell(notify) => {
                    notify.notify_one();
                    Some(())
                }
                Step::UntilGone(notify) => {
                    while peer.fill().await {}
                    notify.notify_one();
                    None
                }
                Step::Close => None,
            };
            if done.is_none() {
                // Says goodbye, so that what was sent is read.
                let _ = peer.socket.shutdown().await;
                return;
            }
        }
    }
}
