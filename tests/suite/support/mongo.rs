//! A real `mongod`, shared by all tests of this binary: a replica set of one on a free port.
//!
//! The program comes from `MONGOD`, else from the path. It ends with the test process, however
//! that ends: a small shell holds the other end of a pipe, and kills `mongod` and removes its data
//! when the pipe closes.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::doc;

struct Server {
    uri: String,
    /// Holds the other end of the pipe. Never waited for: it outlives this process.
    _watchdog: Child,
}

/// The address of the shared server; the first caller starts it. Clients belong to a runtime, so
/// each test makes its own.
pub fn uri() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start).uri.clone()
}

const WATCHDOG: &str = r#"
"$1" --replSet rs0 --bind_ip 127.0.0.1 --port "$2" --dbpath "$3" --wiredTigerCacheSizeGB 0.25 \
    --oplogSize 64 --setParameter enableTestCommands=1 --unixSocketPrefix "$3" \
    >"$3/log" 2>&1 </dev/null &
pid=$!
cat >/dev/null
kill -9 "$pid"
wait "$pid" 2>/dev/null
rm -rf "$3"
"#;

fn start() -> Server {
    let program = std::env::var("MONGOD").unwrap_or_else(|_| "mongod".to_owned());
    let data = tempfile::tempdir().expect("a directory for mongod").keep();
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let watchdog = Command::new("sh")
        .args(["-c", WATCHDOG, "watchdog", &program, &port.to_string()])
        .arg(&data)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let host = format!("127.0.0.1:{port}");
    // A thread of its own, since the caller may be inside a runtime.
    let ready = std::thread::spawn({
        let host = host.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(initiate(&host))
        }
    });
    if let Err(error) = ready.join().expect("the starting thread") {
        let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        panic!("`{program}` (set MONGOD to another) does not start: {error}\n{end:#?}");
    }
    Server { uri: format!("mongodb://{host}/?replicaSet=rs0"), _watchdog: watchdog }
}

async fn initiate(host: &str) -> mongodb::error::Result<()> {
    let direct = format!(
        "mongodb://{host}/?directConnection=true&serverSelectionTimeoutMS=20000&connectTimeoutMS=500"
    );
    let client = Client::with_uri_str(direct).await?;
    let admin = client.database("admin");
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
    admin.run_command(doc! { "replSetInitiate": config }).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // The server itself waits for a change of state, so this does not spin.
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        if hello.get_bool("isWritablePrimary").unwrap_or(false) {
            client.shutdown().await;
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(mongodb::error::Error::custom("no primary within 30 s"));
        }
        let version = hello.get_document("topologyVersion").cloned().unwrap_or_default();
        let wait = doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 1000 };
        admin.run_command(wait).await?;
    }
}
