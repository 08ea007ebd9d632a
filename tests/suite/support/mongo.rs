//! Real `mongod`s: one shared by all tests of this binary, a replica set of one; and [`Own`] ones
//! that a test may configure, kill, freeze and restart.
//!
//! The program comes from `MONGOD`, else from `scripts/fetch-mongod`. Every server ends with
//! the test process, however that ends: a small shell holds the other end of a pipe, and kills
//! `mongod` when the pipe closes; another one then removes the data.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use mongodb::error::{ErrorKind, Result};
use mongodb::options::FindOneOptions;
use rustix::process::{Pid, Signal, kill_process};

use super::mongod::program;
use super::{free_port, until};

/// The address of the shared server; the first caller starts it. Clients belong to a runtime, so
/// each test makes its own. Its oplog holds what all tests together write: some read their events
/// from it again, and know when it began.
pub fn uri() -> String {
    static SERVER: OnceLock<Own> = OnceLock::new();
    // It is always there: on a busy machine it may only be slow.
    let setup = Setup { oplog_mib: 2048, connect_timeout_ms: 60_000, ..Setup::default() };
    // A thread of its own, since the caller may be inside a runtime.
    let start = move || {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(Own::start(setup))
        })
        .join()
        .expect("the starting thread")
    };
    SERVER.get_or_init(start).uri()
}

/// The one of these that has become the primary.
#[allow(dead_code, reason = "not every test binary that shares this file needs it")]
pub async fn elected(servers: &[Client]) -> Client {
    let found = std::sync::Mutex::new(None);
    until("another is elected", || async {
        for server in servers {
            let hello = server.database("admin").run_command(doc! { "hello": 1 }).await;
            if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                *found.lock().unwrap() = Some(server.clone());
                return true;
            }
        }
        false
    })
    .await;
    found.into_inner().unwrap().expect("a primary")
}

/// Keeps a secondary from reading on in the oplog of the others, or no longer.
#[allow(dead_code, reason = "not every test binary that shares this file needs it")]
pub async fn hold_replication(secondary: &Client, is_held: bool) {
    let mode = if is_held { "alwaysOn" } else { "off" };
    let point = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    secondary.database("admin").run_command(point).await.expect("test commands");
}

/// A time of the shared server, after everything that was written so far: a stream that has read up
/// to it has read all of that.
pub async fn now(client: &Client) -> Timestamp {
    let write = doc! {
        "insert": "times",
        "documents": [{}],
        "writeConcern": { "w": "majority" },
    };
    let answer = client.database("clock").run_command(write).await.expect("it is written");
    answer.get_timestamp("operationTime").expect("a time")
}

/// Writes until an own server with a small oplog no longer has what was at this time.
pub async fn roll_oplog_past(client: &Client, time: Timestamp) {
    let noise = client.database("noise").collection::<Document>("noise");
    let pad = "x".repeat(100_000);
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let first = || async {
        let options = FindOneOptions::builder().sort(doc! { "$natural": 1 }).build();
        let first = oplog.find_one(doc! {}).with_options(options).await.unwrap().unwrap();
        first.get_timestamp("ts").unwrap()
    };
    until("the oplog begins later", || async {
        noise.insert_many((0..20).map(|_| doc! { "pad": &pad })).await.unwrap();
        first().await > time
    })
    .await;
}

/// How an own server is started.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Zero: a standalone server.
    pub members: usize,
    pub is_initiated: bool,
    /// With access control; [`Own::uri`] is then that of [`ROOT`].
    pub auth: bool,
    /// Takes TLS too, with a certificate for 127.0.0.1 that is its own authority.
    pub tls: bool,
    pub oplog_mib: u32,
    /// How long a client waits for a server that is asked whether it is there.
    pub connect_timeout_ms: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            members: 1,
            is_initiated: true,
            auth: false,
            tls: false,
            oplog_mib: 64,
            connect_timeout_ms: 2_000,
        }
    }
}

/// Name and password of the administrator, where there is access control.
pub const ROOT: (&str, &str) = ("root", "the-root-password");

/// A private deployment.
pub struct Own {
    setup: Setup,
    nodes: Vec<Node>,
    /// By which names the members know each other, if not by their own.
    advertised: Option<Vec<String>>,
    _home: Home,
}

struct Node {
    port: u16,
    data: PathBuf,
    running: Option<Running>,
}

struct Running {
    /// Ends with `mongod`.
    shell: Child,
    pid: Pid,
    /// Open as long as the server may live.
    lifeline: Option<ChildStdin>,
}

impl Own {
    pub async fn start(setup: Setup) -> Own {
        let home = Home::new();
        let count = setup.members.max(1);
        let nodes = (0..count).map(|index| {
            let data = home.path.join(index.to_string());
            std::fs::create_dir(&data).expect("a directory");
            std::fs::write(data.join("key"), "aKeyThatOnlyTheseTestsKnow").expect("a file");
            use std::os::unix::fs::PermissionsExt;
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(data.join("key"), private).expect("permissions");
            if setup.tls {
                let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]);
                let signed = signed.expect("a certificate");
                let (cert, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
                std::fs::write(data.join("cert.pem"), &cert).expect("a file");
                std::fs::write(data.join("server.pem"), cert + &key).expect("a file");
            }
            Node { port: free_port(), data, running: None }
        });
        let nodes = nodes.collect();
        let mut own = Own { setup, nodes, advertised: None, _home: home };
        for index in 0..count {
            own.run(index);
        }
        // Whoever is given one that does not answer yet may be given up on.
        own.listens().await;
        if setup.members > 0 && setup.is_initiated {
            own.initiate().await;
        }
        own
    }

    pub async fn standalone() -> Own {
        Own::start(Setup { members: 0, ..Setup::default() }).await
    }

    pub fn host(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index].port)
    }

    /// Calls the members of a set that is still to be initiated otherwise: everybody reaches them
    /// there, the members each other too.
    #[allow(dead_code, reason = "not every test binary that shares this file needs it")]
    pub fn advertise(&mut self, hosts: Vec<String>) {
        self.advertised = Some(hosts);
    }

    fn advertised(&self, index: usize) -> String {
        match &self.advertised {
            Some(hosts) => hosts[index].clone(),
            None => self.host(index),
        }
    }

    /// What a user would write; tests are in a hurry, so dead servers are noticed soon.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> =
            (0..self.nodes.len()).map(|index| self.advertised(index)).collect();
        let user = match self.setup.auth {
            true => format!("{}:{}@", ROOT.0, ROOT.1),
            false => String::new(),
        };
        let set = if self.setup.members > 0 { "replicaSet=rs0&" } else { "" };
        let patience = self.setup.connect_timeout_ms;
        let hurry = format!("heartbeatFrequencyMS=500&connectTimeoutMS={patience}");
        format!("mongodb://{user}{}/?{set}{hurry}", hosts.join(","))
    }

    /// The certificate that a client of its TLS has to trust.
    pub fn certificate(&self, index: usize) -> PathBuf {
        self.nodes[index].data.join("cert.pem")
    }

    pub async fn client(&self) -> Client {
        Client::with_uri_str(self.uri()).await.expect("a client")
    }

    /// A client of one server, whatever it is; without a user.
    pub async fn direct(&self, index: usize) -> Client {
        let options = "directConnection=true&serverSelectionTimeoutMS=20000&connectTimeoutMS=500";
        let uri = format!("mongodb://{}/?{options}&heartbeatFrequencyMS=500", self.host(index));
        Client::with_uri_str(uri).await.expect("a client")
    }

    async fn listens(&self) {
        for index in 0..self.nodes.len() {
            let host = self.host(index);
            until("every member listens", || async {
                tokio::net::TcpStream::connect(&host).await.is_ok()
            })
            .await;
        }
    }

    /// Makes it a replica set, and waits for its primary and the others' copies.
    pub async fn initiate(&mut self) {
        self.setup.members = self.nodes.len();
        let members: Vec<Document> = (0..self.nodes.len())
            .map(|index| doc! { "_id": index as i32, "host": self.advertised(index) })
            .collect();
        let config = doc! {
            "_id": "rs0",
            "members": members,
            // Elections as quick as they may be.
            "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300 },
        };
        // The first asks the others, and does not wait for them to come up.
        self.listens().await;
        let first = self.direct(0).await;
        let admin = first.database("admin");
        // A busy machine can be too slow for the client, whose command has arrived then, or not.
        until("the replica set is initiated", || async {
            match admin.run_command(doc! { "replSetInitiate": config.clone() }).await {
                Ok(_) => true,
                Err(error) => match error.kind.as_ref() {
                    ErrorKind::Command(command) if command.code_name == "AlreadyInitialized" => {
                        true
                    }
                    ErrorKind::Command(_) => {
                        panic!("the replica set is not initiated: {error}\n{}", self.log(0))
                    }
                    _ => false,
                },
            }
        })
        .await;
        // The localhost exception ends with the first user.
        until("the server is primary", || async {
            let hello = admin.run_command(doc! { "hello": 1 }).await;
            hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        })
        .await;
        // One whose first copy is under way when its source is killed waits for that for a day.
        for index in 1..self.nodes.len() {
            let member = self.direct(index).await;
            until("every member has its copy", || async {
                let hello = member.database("admin").run_command(doc! { "hello": 1 }).await;
                hello.is_ok_and(|hello| {
                    let is = |role| hello.get_bool(role).unwrap_or(false);
                    is("secondary") || is("isWritablePrimary")
                })
            })
            .await;
            member.shutdown().immediate(true).await;
        }
        if self.setup.auth {
            let root = doc! { "createUser": ROOT.0, "pwd": ROOT.1, "roles": ["root"] };
            admin.run_command(root).await.expect("a user");
        }
        first.shutdown().await;
    }

    fn run(&mut self, index: usize) {
        const SHELL: &str = r#"
"$@" >"$DATA/log" 2>&1 </dev/null &
pid=$!
echo "$pid"
exec 3<&0
(cat <&3 >/dev/null; kill -9 "$pid") >/dev/null 2>&1 &
killer=$!
wait "$pid" 2>/dev/null
kill "$killer" 2>/dev/null
"#;
        let node = &mut self.nodes[index];
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "watchdog", program()]).env("DATA", &node.data);
        command.args(["--bind_ip", "127.0.0.1", "--port", &node.port.to_string()]);
        command.arg("--dbpath").arg(&node.data).arg("--unixSocketPrefix").arg(&node.data);
        command.args(["--wiredTigerCacheSizeGB", "1", "--syncdelay", "1"]);
        command.args(["--setParameter", "enableTestCommands=1"]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        if self.setup.members > 0 {
            command.args(["--replSet", "rs0"]);
            command.args(["--oplogSize", &self.setup.oplog_mib.to_string()]);
        }
        if self.setup.auth {
            command.arg("--keyFile").arg(node.data.join("key"));
        }
        if self.setup.tls {
            command.args(["--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"]);
            command.arg("--tlsCertificateKeyFile").arg(node.data.join("server.pem"));
            command.arg("--tlsCAFile").arg(node.data.join("cert.pem"));
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = pipes.spawn().expect("a shell");
        let mut line = String::new();
        let said = shell.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).expect("a line");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        let lifeline = shell.stdin.take();
        node.running = Some(Running { shell, pid, lifeline });
    }

    fn signal(&self, index: usize, signal: Signal) {
        let running = self.nodes[index].running.as_ref().expect("it runs");
        // Not reaped before its shell is waited for, so the id is still its own.
        kill_process(running.pid, signal).expect("the process is ours");
    }

    /// Ends it by a signal, and waits for its end.
    pub fn end(&mut self, index: usize, signal: Signal) {
        self.signal(index, signal);
        let mut running = self.nodes[index].running.take().expect("it runs");
        running.shell.wait().expect("its end");
    }

    pub fn kill(&mut self, index: usize) {
        self.end(index, Signal::KILL);
    }

    /// As a machine that hangs: connections stay, and nothing is said.
    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    /// Starts it again on its port and data.
    pub fn restart(&mut self, index: usize) {
        self.run(index);
    }

    /// Forgets everything, as long as it does not run: another deployment at the same address.
    pub fn wipe(&mut self, index: usize) {
        for entry in std::fs::read_dir(&self.nodes[index].data).expect("its data") {
            let path = entry.expect("its data").path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("removed");
            } else if path.file_name().is_none_or(|name| name != "key") {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }

    /// Starts a standalone server again as a member of a set that is still to be initiated.
    pub fn restart_as_member(&mut self) {
        self.setup.members = self.nodes.len();
        self.run(0);
    }

    /// The server that takes writes, once there is one.
    pub async fn primary(&self) -> usize {
        let client = self.client().await;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
        let hello = hello.expect("a primary");
        let me = hello.get_str("me").expect("its name");
        (0..self.nodes.len()).find(|index| self.advertised(*index) == me).expect("one of ours")
    }

    /// Runs a command on `admin`.
    pub async fn admin(&self, command: Document) -> Result<Document> {
        let client = self.client().await;
        let answer = client.database("admin").run_command(command).await;
        client.shutdown().immediate(true).await;
        answer
    }

    /// Makes commands of clients with this `appName` fail.
    pub async fn fail(&self, commands: &[&str], mode: Document, app: &str, code: i32) {
        let data = doc! { "failCommands": commands, "errorCode": code, "appName": app };
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.admin(point).await.expect("test commands");
    }

    /// The same for commands of change streams on a whole database: not for others, which would count.
    #[allow(dead_code, reason = "not every test binary that shares this file needs it")]
    pub async fn fail_streams(&self, database: &str, data: Document, times: i32) {
        let mut data = data;
        data.insert("namespace", format!("{database}.$cmd.aggregate"));
        let mode = doc! { "times": times };
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.admin(point).await.expect("test commands");
    }

    /// Closes the connections on which clients with this `appName` send such commands of change streams.
    #[allow(dead_code, reason = "not every test binary that shares this file needs it")]
    pub async fn cut_streams(&self, database: &str, commands: &[&str], times: i32, app: &str) {
        let data = doc! { "failCommands": commands, "closeConnection": true, "appName": app };
        self.fail_streams(database, data, times).await;
    }

    pub async fn heal(&self) {
        let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.admin(point).await.expect("test commands");
    }

    /// The end of a server's log.
    pub fn log(&self, index: usize) -> String {
        let log = std::fs::read_to_string(self.nodes[index].data.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifeline = None;
        // Killed by its watchdog now; the data may be removed after that.
        let _ = self.shell.wait();
    }
}

/// A directory that is removed when this process ends.
struct Home {
    path: PathBuf,
    watchdog: Child,
}

impl Home {
    fn new() -> Home {
        // A server that is just being killed may still write.
        const SHELL: &str = r#"
cat >/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" 2>/dev/null && exit
    sleep 0.2
done
"#;
        let path = tempfile::tempdir().expect("a directory").keep();
        let watchdog = Command::new("sh")
            .args(["-c", SHELL, "watchdog"])
            .arg(Path::new(&path))
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        Home { path, watchdog }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.watchdog.stdin = None;
        let _ = self.watchdog.wait();
    }
}
