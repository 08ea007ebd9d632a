//! Other programs that do a part of the same, where they are installed. `scripts/bench-rivals`
//! installs what can be had; none is needed.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memchr::memmem;

use super::process::{Process, find_program, free_port, log_in, loopback, wait_for_port};
use super::sidecar::post;

const PATIENCE: Duration = Duration::from_secs(40);

/// One that runs.
pub struct Rival {
    pub process: Process,
    /// Where clients go.
    pub address: SocketAddr,
    /// Where events are posted.
    pub publish: SocketAddr,
}

/// How one is started: its program, the template of its configuration, and the words in capitals
/// that are replaced there.
struct Start<'a> {
    program: PathBuf,
    config: &'a str,
    words: &'a [(&'a str, String)],
    env: &'a [(&'a str, &'a str)],
    /// From the configuration's path.
    arguments: &'a dyn Fn(String) -> Vec<String>,
}

fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/rivals").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn installed(program: &str) -> Result<PathBuf, String> {
    find_program(program).ok_or_else(|| "not installed".to_owned())
}

impl Start<'_> {
    fn start(&self, dir: &Path) -> Result<Rival, String> {
        let port = free_port();
        let name = self.config;
        let home = dir.join(format!("{name}-{port}"));
        std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        let mut text = template(name);
        text = text.replace("@HOME@", &home.display().to_string());
        text = text.replace("@PORT@", &port.to_string());
        for (word, value) in self.words {
            text = text.replace(&format!("@{word}@"), value);
        }
        let file = home.join(name);
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let log = log_in(dir, &format!("{name}-{port}"));
        let home = home.display().to_string();
        let mut env = vec![("HOME", home.as_str()), ("XDG_DATA_HOME", &home)];
        env.push(("XDG_CONFIG_HOME", &home));
        env.extend(self.env);
        let arguments = (self.arguments)(file.display().to_string());
        let process = Process::start(&self.program, &arguments, &env, &log);
        started(process, port)
    }
}

fn started(mut process: Process, port: u16) -> Result<Rival, String> {
    let began = Instant::now();
    while !wait_for_port(port, Duration::from_millis(100)) {
        let why = match process.has_ended() {
            true => "does not start".to_owned(),
            false if began.elapsed() < PATIENCE => continue,
            false => format!("is not there after {} s", PATIENCE.as_secs()),
        };
        return Err(format!("{why}: {}", last_of(&process.said())));
    }
    let address = loopback(port);
    Ok(Rival { process, address, publish: address })
}

/// Where a program says why, it says so last.
fn last_of(said: &str) -> String {
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing said");
    last.chars().take(200).collect()
}

fn nginx_arguments(file: String) -> Vec<String> {
    vec!["-c".to_owned(), file, "-e".to_owned(), "stderr".to_owned()]
}

/// nginx as a plain proxy with one worker.
pub fn nginx(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let program = installed("nginx")?;
    let words = [("APP", app.to_string())];
    let arguments = &nginx_arguments;
    Start { program, config: "nginx.conf", words: &words, env: &[], arguments }.start(dir)
}

/// nginx that compresses event streams, flushed with each piece.
pub fn nginx_gzip(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let program = installed("nginx")?;
    let words = [("APP", app.to_string())];
    let arguments = &nginx_arguments;
    Start { program, config: "nginx-gzip.conf", words: &words, env: &[], arguments }.start(dir)
}

/// nginx with TLS and HTTP/2, for attacks.
pub fn nginx_hostile(
    dir: &Path,
    app: SocketAddr,
    tls: u16,
    http2: u16,
    (cert, key): (&Path, &Path),
) -> Result<Rival, String> {
    let program = installed("nginx")?;
    let words = [
        ("APP", app.to_string()),
        ("TLS", tls.to_string()),
        ("H2", http2.to_string()),
        ("CERT", cert.display().to_string()),
        ("KEY", key.display().to_string()),
    ];
    let arguments = &nginx_arguments;
    Start { program, config: "nginx-hostile.conf", words: &words, env: &[], arguments }.start(dir)
}

/// nginx with the Nchan module, which fans out what is posted to it.
pub fn nchan(dir: &Path) -> Result<Rival, String> {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
    let program = installed("nginx")?;
    if !Path::new(MODULE).exists() {
        return Err("its module is not installed".to_owned());
    }
    let words = [("MODULE", MODULE.to_owned())];
    let arguments = &nginx_arguments;
    Start { program, config: "nchan.conf", words: &words, env: &[], arguments }.start(dir)
}

pub fn haproxy(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let program = installed("haproxy")?;
    let words = [("APP", app.to_string())];
    let arguments = &|file| vec!["-db".to_owned(), "-f".to_owned(), file];
    Start { program, config: "haproxy.cfg", words: &words, env: &[], arguments }.start(dir)
}

/// HAProxy before two replicas, each with its public and its admin address.
pub fn haproxy_before(dir: &Path, [a, b]: [(SocketAddr, SocketAddr); 2]) -> Result<Rival, String> {
    let program = installed("haproxy")?;
    let port = |address: SocketAddr| address.port().to_string();
    let words = [
        ("A", a.0.to_string()),
        ("B", b.0.to_string()),
        ("A_ADMIN", port(a.1)),
        ("B_ADMIN", port(b.1)),
    ];
    let arguments = &|file| vec!["-db".to_owned(), "-f".to_owned(), file];
    Start { program, config: "haproxy-rollout.cfg", words: &words, env: &[], arguments }.start(dir)
}

/// Caddy, with one thread that runs Go's code.
pub fn caddy(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let program = installed_in_python("bin/caddy").map_or_else(|| installed("caddy"), Ok)?;
    let words = [("APP", app.to_string())];
    let env = &[("GOMAXPROCS", "1")];
    let arguments = &|file| {
        let words = ["run", "--adapter", "caddyfile", "--config"].map(str::to_owned);
        words.into_iter().chain([file]).collect()
    };
    Start { program, config: "Caddyfile", words: &words, env, arguments }.start(dir)
}

pub fn envoy(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    // The package's `bin/envoy` is a script around this.
    let packaged = python_home().into_iter().flat_map(|home| {
        let versions = std::fs::read_dir(home.join("lib")).into_iter().flatten().flatten();
        versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
    });
    let packaged = packaged.into_iter().find(|file| file.is_file());
    let program = packaged.map_or_else(|| installed("envoy"), Ok)?;
    let words = [("APP_PORT", app.port().to_string())];
    let arguments = &|file| {
        let words = "--concurrency 1 --log-level error --disable-hot-restart -c".split(' ');
        words.map(str::to_owned).chain([file]).collect()
    };
    Start { program, config: "envoy.yaml", words: &words, env: &[], arguments }.start(dir)
}

/// Pushpin: a proxy that holds streams where the app asks for it, and a family of processes.
pub fn pushpin(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let program = installed("pushpin")?;
    let publish = free_port();
    let words = [("PUBLISH", publish.to_string())];
    let arguments = &|file| {
        let route = format!("--route=* {app}");
        vec![format!("--config={file}"), "--merge-output".to_owned(), route]
    };
    let start = Start { program, config: "pushpin.conf", words: &words, env: &[], arguments };
    let rival = start.start(dir)?;
    // Its processes find each other after they have opened their ports.
    if !wait_for_port(publish, PATIENCE) || !delivers(rival.address, loopback(publish)) {
        return Err(format!("holds no streams: {}", last_of(&rival.process.said())));
    }
    Ok(Rival { publish: loopback(publish), ..rival })
}

/// Waits until Pushpin holds a stream and sends an event on it; says whether that happened.
fn delivers(address: SocketAddr, publish: SocketAddr) -> bool {
    let event = r#"{"items":[{"channel":"none","formats":{"http-stream":{"content":"ready"}}}]}"#;
    let try_it = || {
        let mut socket = TcpStream::connect(address)?;
        // What comes before everybody is there may be lost.
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(socket, "GET /hold/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while memmem::find(&said, b"ready").is_none() {
            let length = socket.read(&mut buffer)?;
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let was_silent = said.is_empty();
            said.extend_from_slice(&buffer[..length]);
            if was_silent {
                post(publish, "/publish/", "application/json", event);
            }
        }
        std::io::Result::Ok(())
    };
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if try_it().is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// One of the programs for Node.js in `benches/rivals/node`, which needs that package. They are
/// looked for where `scripts/bench-rivals` puts them.
pub fn node(dir: &Path, program: &str, package: &str, uri: &str) -> Result<Rival, String> {
    let node = find_program("node").ok_or("Node.js is not installed")?;
    let home = cached("BENCH_NODE", "bench-node");
    let home = home.filter(|home| home.join("node_modules").join(package).exists());
    let home = home.ok_or("its packages are not installed: run scripts/bench-rivals")?;
    // Node looks for packages beside the program.
    let file = home.join(program);
    std::fs::write(&file, template(&format!("node/{program}"))).map_err(|e| e.to_string())?;
    let port = free_port();
    let arguments = [file.display().to_string(), port.to_string(), uri.to_owned()];
    // Parse would make a directory for its logs where it is started.
    let env = [("NODE_ENV", "production"), ("PARSE_SERVER_LOGS_FOLDER", "null")];
    let process = Process::start(&node, &arguments, &env, &log_in(dir, program));
    started(process, port)
}

/// The virtual environment with what PyPI has.
fn python_home() -> Option<PathBuf> {
    cached("BENCH_PYTHON", "bench-python")
}

fn installed_in_python(file: &str) -> Option<PathBuf> {
    Some(python_home()?.join(file)).filter(|file| file.is_file())
}

fn cached(variable: &str, name: &str) -> Option<PathBuf> {
    // scripts/cargo keeps SIDESTREAM_* from what it starts, so scripts/bench says it anew.
    if let Some(home) = std::env::var_os(variable) {
        return Some(PathBuf::from(home));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Some(cache?.join("sidestream").join(name))
}
