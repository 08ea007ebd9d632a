//! An HTTP server that answers as a test says: the app that is asked who somebody is, and the
//! issuer that publishes its keys.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// One question.
#[derive(Debug, Clone)]
pub struct Question {
    pub line: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Question {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status, a body, and a further header field.
    Now(u16, String, Option<(&'static str, String)>),
    /// Nothing, for as long as the test lasts.
    Never,
}

impl Reply {
    pub fn json(body: &serde_json::Value) -> Reply {
        Reply::Now(200, body.to_string(), None)
    }

    pub fn status(status: u16) -> Reply {
        Reply::Now(status, String::new(), None)
    }
}

type Answerer = Arc<dyn Fn(&Question) -> Reply + Send + Sync>;

/// Answers each request as a test says, and remembers it.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    answerer: Arc<Mutex<Answerer>>,
    questions: Arc<Mutex<Vec<Question>>>,
    /// While held, questions wait for their answer.
    held: Arc<Mutex<bool>>,
    released: Arc<Notify>,
}

impl Server {
    pub async fn start(answerer: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server {
            address: listener.local_addr().expect("an address"),
            answerer: Arc::new(Mutex::new(Arc::new(answerer))),
            questions: Arc::default(),
            held: Arc::default(),
            released: Arc::default(),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(socket));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn answer_with(&self, answerer: impl Fn(&Question) -> Reply + Send + Sync + 'static) {
        *self.answerer.lock() = Arc::new(answerer);
    }

    pub fn questions(&self) -> Vec<Question> {
        self.questions.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.questions.lock().len()
    }

    pub fn hold(&self) {
        *self.held.lock() = true;
    }

    pub fn release(&self) {
        *self.held.lock() = false;
        self.released.notify_waiters();
    }

    async fn wait_until_released(&self) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if !*self.held.lock() {
                return;
            }
            released.await;
        }
    }

    async fn serve(self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end;
                }
                match socket.read_buf(&mut bytes).await {
                    Ok(1..) => {}
                    _ => return,
                }
            };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 4);
            let mut lines = head.split("\r\n");
            let line = lines.next().unwrap_or_default().to_owned();
            let fields = lines.filter_map(|line| line.split_once(": "));
            let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
            let question = Question { line, fields: fields.collect() };
            self.questions.lock().push(question.clone());
            self.wait_until_released().await;
            let answerer = self.answerer.lock().clone();
            let Reply::Now(status, body, field) = answerer(&question) else {
                return std::future::pending().await;
            };
            let field = field.map(|(name, value)| format!("{name}: {value}\r\n"));
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{}\r\n{body}",
                body.len(),
                field.unwrap_or_default()
            );
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
