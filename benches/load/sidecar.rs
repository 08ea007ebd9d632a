//! The product, as users run it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::{Process, free_port, log_in, loopback};

const PATIENCE: Duration = Duration::from_secs(30);

/// How to start it.
#[derive(Default)]
pub struct How<'a> {
    pub app: Option<SocketAddr>,
    /// Certificate and key.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Worker threads; its own choice where there is none.
    pub threads: Option<usize>,
    /// How many descriptors it may have; the system's limit where there is none.
    pub descriptors: Option<u32>,
    /// Whether it compresses by gzip.
    pub is_compressing: bool,
    /// Its filter files; those of [`filters`] where there are none.
    pub filters: Option<&'a Path>,
    /// `clients.heartbeat`; the default where there is none.
    pub heartbeat: Option<&'a str>,
}

pub struct Sidecar {
    pub process: Process,
    pub address: SocketAddr,
    admin: SocketAddr,
    /// From the start of the process to the first good answer of `/readyz`.
    pub ready_after: Duration,
}

impl Sidecar {
    pub fn start(program: &Path, dir: &Path, uri: &str, how: &How<'_>) -> Sidecar {
        let filters = how.filters.map_or_else(|| filters(dir), Path::to_path_buf);
        let (address, admin) = (loopback(free_port()), loopback(free_port()));
        let app = how.app.unwrap_or(loopback(9));
        let mut arguments = vec![
            "run".to_owned(),
            format!("--listen={address}"),
            format!("--admin={admin}"),
            format!("--app=http://{app}"),
            format!("--filters={}", filters.display()),
            format!("--mongodb={uri}"),
        ];
        let mut env: Vec<(&str, String)> = Vec::new();
        if let Some((cert, key)) = how.tls {
            env.push(("SIDESTREAM_TLS__CERT_FILE", cert.display().to_string()));
            env.push(("SIDESTREAM_TLS__KEY_FILE", key.display().to_string()));
        }
        if how.is_compressing {
            env.push(("SIDESTREAM_CLIENTS__COMPRESSION", "gzip".to_owned()));
        }
        if let Some(heartbeat) = how.heartbeat {
            env.push(("SIDESTREAM_CLIENTS__HEARTBEAT", heartbeat.to_owned()));
        }
        if let Some(threads) = how.threads {
            env.push(("TOKIO_WORKER_THREADS", threads.to_string()));
        }
        let env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let began = Instant::now();
        let log = log_in(dir, &format!("sidestream-{}", address.port()));
        let mut program = program.to_owned();
        if let Some(most) = how.descriptors {
            let limited = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
            let shell = ["-c".to_owned(), limited, program.display().to_string()];
            arguments.splice(0..0, shell);
            program = PathBuf::from("sh");
        }
        let process = Process::start(&program, &arguments, &env, &log);
        while get(admin, "/readyz").is_none_or(|(status, _)| status != 200) {
            assert!(began.elapsed() < PATIENCE, "it is not ready: {}", process.said());
            std::thread::sleep(Duration::from_millis(1));
        }
        Sidecar { process, address, admin, ready_after: began.elapsed() }
    }

    /// Status and body of a page of the admin port.
    pub fn ask_admin(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin, path)
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = get(self.admin, "/metrics").unwrap_or_default();
        let of_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text.lines().filter(of_it).filter_map(|line| line.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }
}

/// `all`: everything; `one`: what has the key of the client's choice.
pub fn filters(dir: &Path) -> PathBuf {
    let filters = dir.join("filters");
    if !filters.exists() {
        std::fs::create_dir(&filters).expect("a directory");
        let all = "collection: bench.items\naccess: public\nproject: { pad: 1, seq: 1, sent: 1 }\n";
        let one = "collection: bench.items\naccess: public\nmatch: { key: { $param: key } }\n\
                   params: { key: { type: int } }\n";
        std::fs::write(filters.join("all.yaml"), all).expect("a file");
        std::fs::write(filters.join("one.yaml"), one).expect("a file");
    }
    filters
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"),
    )
}

pub fn post(address: SocketAddr, path: &str, kind: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    let fields = format!("Host: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}");
    let head = format!("POST {path} HTTP/1.1\r\n{fields}\r\nContent-Length: {length}\r\n\r\n");
    request(address, &(head + body))
}

fn request(address: SocketAddr, bytes: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.write_all(bytes.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = socket.read(&mut buffer).unwrap_or(0);
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if length == 0 {
                return None;
            }
            continue;
        };
        let wanted = super::servers::content_length(head.as_bytes());
        if length == 0 || wanted.is_some_and(|wanted| body.len() >= wanted) {
            let status = head.split(' ').nth(1)?.parse().ok()?;
            return Some((status, body.to_owned()));
        }
    }
}
