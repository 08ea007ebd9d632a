//! The sidecar: in process on port 0, or as the real program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sidestream::Sidecar;
use sidestream::config::{Config, Flags, Sources};

use super::{PATIENCE, http, until};

/// A directory of filter files.
pub struct Filters {
    dir: tempfile::TempDir,
}

impl Filters {
    pub fn new(files: &[(&str, &str)]) -> Filters {
        let filters = Filters { dir: tempfile::tempdir().expect("a directory") };
        for (name, text) in files {
            filters.write(name, text);
        }
        filters
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes as editors do: beside, then over.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(format!("{name}.yaml"));
        let beside = path.with_extension("yaml~");
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&beside, text).expect("a file");
        std::fs::rename(&beside, &path).expect("a file");
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(format!("{name}.yaml"))).expect("a file");
    }
}

/// Settings for tests: quick heartbeats, ports that are free.
pub fn settings(mongodb: &str, filters: &Path, app: SocketAddr, more: &[(&str, &str)]) -> Config {
    settings_on("127.0.0.1:0", mongodb, filters, app, more)
}

/// The same on an address that is known.
pub fn settings_on(
    listen: &str,
    mongodb: &str,
    filters: &Path,
    app: SocketAddr,
    more: &[(&str, &str)],
) -> Config {
    let mut env = vec![
        ("SIDESTREAM_CLIENTS__HEARTBEAT", "200ms".to_string()),
        ("SIDESTREAM_DRAIN", "2s".to_string()),
        ("SIDESTREAM_ADMIN", "127.0.0.1:0".to_string()),
        // A test may do other things for long before it reads what its streams were sent.
        ("SIDESTREAM_CLIENTS__SEND_TIMEOUT", "10m".to_string()),
    ];
    env.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
    Config::load(Sources {
        config_file: None,
        leaves_secrets: false,
        working_dir: filters.to_path_buf(),
        env: env.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        flags: Flags::from([
            ("listen", listen),
            ("app", &format!("http://{app}")),
            ("filters", &filters.display().to_string()),
            ("mongodb.uri", mongodb),
        ]),
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

/// Somewhere where nobody listens.
pub fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

/// Starts in process and waits until it is ready.
pub async fn start(mongodb: &str, filters: &Filters, more: &[(&str, &str)]) -> Sidecar {
    let sidecar = start_before(nowhere(), mongodb, filters, more).await;
    until("the sidecar is ready", || async { sidecar.is_ready() }).await;
    sidecar
}

/// Starts in process before an app, and waits for nothing.
pub async fn start_before(
    app: SocketAddr,
    mongodb: &str,
    filters: &Filters,
    more: &[(&str, &str)],
) -> Sidecar {
    let config = settings(mongodb, filters.path(), app, more);
    Sidecar::start(config).await.expect("it starts")
}

/// One metric's value, by its name with labels as the text format has them; 0 when it is not there.
pub async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = http::get(admin, "/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

/// The real program.
pub struct Program {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Program {
    /// Starts the program and waits until it says where it listens.
    pub async fn start(arguments: &[&str], env: &[(&str, &str)]) -> Program {
        let command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
        Program::spawn(command, arguments, env).await
    }

    /// The same, by a command that runs the program with the arguments that are added to it.
    pub async fn spawn(mut command: Command, arguments: &[&str], env: &[(&str, &str)]) -> Program {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let child = command
            .arg("run")
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(arguments)
            .env("SIDESTREAM_LOG__FORMAT", "json")
            .envs(env.iter().copied())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a file"))
            .spawn()
            .expect("the program");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut program = Program { child, listen: nowhere, admin: nowhere, log, _dir: dir };
        until("the program listens", || {
            let found = program.find_addresses();
            async move { found }
        })
        .await;
        program
    }

    /// As [`Program::start`], with so many descriptors and no way to get more.
    pub async fn start_with_descriptors(most: u32, arguments: &[&str]) -> Program {
        Program::start_with_descriptors_and(most, arguments, &[]).await
    }

    /// The same with variables.
    pub async fn start_with_descriptors_and(
        most: u32,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_sidestream"));
        Program::spawn(command, arguments, env).await
    }

    pub async fn start_ready(arguments: &[&str], env: &[(&str, &str)]) -> Program {
        let program = Program::start(arguments, env).await;
        let admin = program.admin;
        until("the program is ready", || async move {
            http::get(admin, "/readyz").await.head.status == 200
        })
        .await;
        program
    }

    fn find_addresses(&mut self) -> bool {
        if let Some(status) = self.child.try_wait().expect("its status") {
            panic!("the program ended with {status}:\n{}", self.log());
        }
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        for line in lines {
            let line: serde_json::Value = line;
            let address = |name: &str| line["fields"][name].as_str()?.parse().ok();
            if let (Some(listen), Some(admin)) = (address("listen"), address("admin")) {
                (self.listen, self.admin) = (listen, admin);
                return true;
            }
        }
        false
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The log, once these words are in it: a thread of its own writes it.
    pub async fn log_with(&self, words: &str) -> String {
        until(&format!("the log says `{words}`"), || async { self.log().contains(words) }).await;
        self.log()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let id = rustix::process::Pid::from_raw(id).expect("a process id");
        rustix::process::kill_process(id, signal).expect("the process is ours");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ours, and perhaps gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
