//! Who holds event streams for many clients: the product and its rivals, by the same few questions.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::Bench;
use super::crowd::{Crowd, WAVE, Wants};
use super::process::{Process, free_port, log_in, loopback, wait_for_port};
use super::rivals::{self, Rival};
use super::sidecar::{How, Sidecar, post};
use super::websocket::{PARSE_APP, PARSE_CLASS, Speaks};

const PATIENCE: Duration = Duration::from_secs(10);
/// So that an event's `data` has about 300 bytes.
const PAD: usize = 40;
/// The same for those who are told the data, and not the change.
const WHOLE_PAD: usize = 280;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Sidestream,
    /// The same by its other transports.
    Ndjson,
    Poll,
    WebSocket,
    /// The same, compressed; by itself, or by nginx in front of it.
    Gzip,
    NginxGzip,
    /// The thirty lines that people write, over a bare WebSocket.
    Ws,
    /// A `write()` for each socket, and nothing else, in a thread for each processor.
    Floor,
    Nchan,
    Pushpin,
    BetterSse,
    SocketIo,
    Parse,
}

/// One that runs, and ends when this is dropped.
pub struct Held {
    holder: Holder,
    running: Running,
    pub address: SocketAddr,
    publish: SocketAddr,
}

enum Running {
    Ours(Sidecar),
    Own(Process),
    Rival(Rival),
    /// With Sidestream behind it.
    Before(Rival, #[expect(dead_code, reason = "held so that it runs")] Sidecar),
    /// With the app that it asks.
    Behind(Rival, #[expect(dead_code, reason = "held so that it runs")] Process),
}

impl Holder {
    pub fn name(self) -> &'static str {
        match self {
            Holder::Sidestream => "Sidestream",
            Holder::Ndjson => "Sidestream, NDJSON",
            Holder::Poll => "Sidestream, long poll",
            Holder::WebSocket => "Sidestream, WebSocket",
            Holder::Gzip => "Sidestream, gzip",
            Holder::NginxGzip => "nginx's gzip before Sidestream",
            Holder::Ws => "ws, a shared change stream",
            Holder::Floor => "bare write() loops",
            Holder::Nchan => "Nchan",
            Holder::Pushpin => "Pushpin",
            Holder::BetterSse => "better-sse, a shared change stream",
            Holder::SocketIo => "Socket.IO, its MongoDB adapter",
            Holder::Parse => "Parse LiveQuery",
        }
    }

    /// For the names of rows.
    pub fn slug(self) -> &'static str {
        match self {
            Holder::Sidestream => "sidestream",
            Holder::Ndjson => "ndjson",
            Holder::Poll => "poll",
            Holder::WebSocket => "websocket",
            Holder::Gzip => "gzip",
            Holder::NginxGzip => "nginx-gzip",
            Holder::Ws => "ws",
            Holder::Floor => "bare",
            Holder::Nchan => "nchan",
            Holder::Pushpin => "pushpin",
            Holder::BetterSse => "better-sse",
            Holder::SocketIo => "socketio",
            Holder::Parse => "parse",
        }
    }

    /// Whether events that come soon after each other come in their order. Socket.IO's adapter
    /// writes each into its collection before it sends it, and Parse asks who may see it.
    pub fn keeps_order(self) -> bool {
        !matches!(self, Holder::SocketIo | Holder::Parse)
    }

    /// How many streams may be gone before anything was sent: Pushpin loses some of the many that
    /// come at once.
    pub fn may_lose(self, clients: usize) -> u64 {
        if self == Holder::Pushpin { clients as u64 / 20 } else { 0 }
    }

    pub fn start(self, bench: &Bench) -> Result<Held, String> {
        let (dir, uri) = (bench.dir.path(), bench.mongo.uri.as_str());
        let own = |kind: &str| {
            let port = free_port();
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let arguments = [kind.to_owned(), port.to_string()];
            let process = Process::start(&program, &arguments, &[], &log_in(dir, kind));
            match wait_for_port(port, PATIENCE) {
                true => Ok((process, loopback(port))),
                false => Err(process.said()),
            }
        };
        let running = match self {
            Holder::Sidestream | Holder::Ndjson | Holder::Poll | Holder::WebSocket => {
                Running::Ours(bench.start(&How::default()))
            }
            Holder::Gzip => {
                Running::Ours(bench.start(&How { is_compressing: true, ..How::default() }))
            }
            Holder::NginxGzip => {
                let sidecar = bench.start(&How::default());
                Running::Before(rivals::nginx_gzip(dir, sidecar.address)?, sidecar)
            }
            Holder::Ws => Running::Rival(rivals::node(dir, "ws.mjs", "ws", uri)?),
            Holder::Floor => {
                let (process, address) = own("serve-floor")?;
                let running = Running::Own(process);
                return Ok(Held { holder: self, running, address, publish: address });
            }
            Holder::Nchan => Running::Rival(rivals::nchan(dir)?),
            Holder::Pushpin => {
                let (process, app) = own("serve-app")?;
                Running::Behind(rivals::pushpin(dir, app)?, process)
            }
            Holder::BetterSse => {
                Running::Rival(rivals::node(dir, "shared.mjs", "better-sse", uri)?)
            }
            Holder::SocketIo => {
                Running::Rival(rivals::node(dir, "socketio.mjs", "socket.io", uri)?)
            }
            Holder::Parse => Running::Rival(rivals::node(dir, "parse.mjs", "parse-server", uri)?),
        };
        let (address, publish) = match &running {
            Running::Ours(sidecar) => (sidecar.address, sidecar.address),
            Running::Rival(rival) | Running::Behind(rival, _) | Running::Before(rival, _) => {
                (rival.address, rival.publish)
            }
            Running::Own(_) => unreachable!("returned above"),
        };
        Ok(Held { holder: self, running, address, publish })
    }
}

impl Held {
    /// What its memory and its time are looked at of.
    pub fn process(&self) -> &Process {
        match &self.running {
            Running::Ours(sidecar) => &sidecar.process,
            Running::Own(process) => process,
            Running::Rival(rival) | Running::Behind(rival, _) | Running::Before(rival, _) => {
                &rival.process
            }
        }
    }

    /// Pushpin answers 502 when more than a hundred requests wait in one of its queues.
    fn wave(&self) -> usize {
        if self.holder == Holder::Pushpin { 50 } else { WAVE }
    }

    /// Clients who are told everything.
    pub fn listen_to_all(&self, clients: usize) -> Result<Crowd, String> {
        let (speaks, path) = match self.holder {
            Holder::Sidestream => (Speaks::Sse, "/_events/all"),
            Holder::Ndjson => (Speaks::Ndjson, "/_events/all"),
            Holder::Poll => (Speaks::Poll, "/_events/all"),
            Holder::WebSocket => (Speaks::WebSocket, "/_events/all"),
            Holder::Gzip | Holder::NginxGzip => (Speaks::Gzip, "/_events/all"),
            Holder::Ws => (Speaks::WebSocket, "/"),
            Holder::Floor | Holder::BetterSse => (Speaks::Sse, "/"),
            Holder::Nchan => (Speaks::Sse, "/subscribe/all"),
            Holder::Pushpin => (Speaks::Sse, "/hold/all"),
            Holder::SocketIo => (Speaks::SocketIo, "/socket.io/?EIO=4&transport=websocket"),
            Holder::Parse => (Speaks::Parse, "/parse"),
        };
        let wants = if self.holder.keeps_order() { Wants::All } else { Wants::AnyOrder };
        Crowd::open_as(speaks, self.wave(), self.address, clients, |_| (path.to_owned(), wants))
    }

    /// Clients of which one in `own` has a channel, or a filter value, of its own; zero: nobody.
    /// Who has no such thing tells everybody everything.
    pub fn listen_to_own(&self, clients: usize, own: usize) -> Result<Crowd, String> {
        let path = match self.holder {
            Holder::Sidestream => "/_events/one?key=",
            Holder::Nchan => "/subscribe/",
            Holder::Pushpin => "/hold/",
            _ => return self.listen_to_all(clients),
        };
        Crowd::open_as(Speaks::Sse, self.wave(), self.address, clients, |number| {
            let key = if own > 0 && number % own == 0 { number } else { 1 };
            (format!("{path}{key}"), Wants::All)
        })
    }

    /// Publishes events of these numbers to all. `size` is that of an event on Sidestream's wire.
    pub fn publish(&self, bench: &Bench, from: u64, count: u64, size: usize) {
        let numbers = from..from + count;
        let data = |seq: u64| json!({ "seq": seq, "pad": "x".repeat(WHOLE_PAD) });
        match self.holder {
            Holder::Sidestream
            | Holder::Ndjson
            | Holder::Poll
            | Holder::WebSocket
            | Holder::Gzip
            | Holder::NginxGzip
            | Holder::Ws
            | Holder::BetterSse
            | Holder::SocketIo => {
                bench.runtime.block_on(bench.mongo.insert(from, count, 1, PAD));
            }
            Holder::Floor => {
                for seq in numbers {
                    let start = format!("data: {{\"seq\":{seq},\"pad\":\"");
                    let pad = "x".repeat(size.saturating_sub(start.len() + 4));
                    self.post("/", "text/plain", &format!("{start}{pad}\"}}\n\n"));
                }
            }
            Holder::Nchan => {
                for seq in numbers {
                    self.post("/publish/all", "application/json", &data(seq).to_string());
                }
            }
            Holder::Pushpin => {
                let items: Vec<_> = numbers
                    .map(|seq| format!("data: {}\n\n", data(seq)))
                    .map(|text| json!({ "http-stream": { "content": text } }))
                    .map(|formats| json!({ "channel": "all", "formats": formats }))
                    .collect();
                let body = json!({ "items": items }).to_string();
                self.post("/publish/", "application/json", &body);
            }
            Holder::Parse => {
                for seq in numbers {
                    let mut item = data(seq);
                    // As its clients in browsers say it.
                    item["_ApplicationId"] = PARSE_APP.into();
                    let path = format!("/parse/classes/{PARSE_CLASS}");
                    self.post(&path, "text/plain", &item.to_string());
                }
            }
        }
    }

    fn post(&self, path: &str, kind: &str, body: &str) {
        let answer = post(self.publish, path, kind, body);
        let is_good = answer.as_ref().is_some_and(|(status, _)| (200..300).contains(status));
        if !is_good {
            // What does not come is missed by the crowd, which says so.
            println!("  {} did not take an event: {answer:?}", self.holder.name());
        }
    }
}
