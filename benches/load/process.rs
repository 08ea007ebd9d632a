//! Processes of our own: they end with the harness, however that ends, and tell what they cost.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends the program when the other end of the pipe closes: with grace first, since some rivals are
/// families whose parent has to take its children along.
const SHELL: &str = r#"
"$@" >"$LOG" 2>&1 </dev/null &
pid=$!
echo "$pid"
exec 3<&0
(cat <&3 >/dev/null; kill -TERM "$pid"; sleep 2; kill -9 "$pid") >/dev/null 2>&1 &
killer=$!
wait "$pid" 2>/dev/null
kill "$killer" 2>/dev/null
"#;

/// A running program.
pub struct Process {
    shell: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
    pub log: PathBuf,
}

impl Process {
    pub fn start(program: &Path, arguments: &[String], env: &[(&str, &str)], log: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "watchdog"]).arg(program).args(arguments).env("LOG", log);
        command.envs(env.iter().copied());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = pipes.spawn().expect("a shell");
        let mut line = String::new();
        let said = shell.stdout.take().expect("its output");
        BufReader::new(said).read_line(&mut line).expect("a line");
        let pid = line.trim().parse().expect("a process id");
        let lifeline = shell.stdin.take();
        Process { shell, lifeline, pid, log: log.to_path_buf() }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("a process id");
        // Not reaped before its shell is waited for, so the id is still its own.
        let _ = kill_process(pid, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.shell.try_wait().is_ok_and(|ended| ended.is_some())
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in bytes, with its children; what they share, once.
    pub fn rss(&self) -> u64 {
        let (own, shared): (Vec<_>, Vec<_>) = family(self.pid).into_iter().map(rss_of).unzip();
        own.into_iter().sum::<u64>() + shared.into_iter().max().unwrap_or(0)
    }

    /// Processor time since the start, user and system, with its children that still run. The
    /// grain is 10 ms.
    pub fn cpu(&self) -> Duration {
        family(self.pid).into_iter().map(cpu_of).sum()
    }

    /// Processor time of the threads that run now, without children, to the nanosecond: for what
    /// takes less than a tick. For differences between moments with the same threads.
    pub fn exact_cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid));
        let time_of = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        };
        threads.into_iter().flatten().flatten().filter_map(time_of).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let born = |pid: u32| Some((pid, stat_of(pid)?.into_iter().nth(19)?));
        let children: Vec<_> = family(self.pid).into_iter().skip(1).filter_map(born).collect();
        drop(self.lifeline.take());
        // A stopped process would not hear of its end.
        self.signal(Signal::CONT);
        let _ = self.shell.wait();
        // Not every parent takes its children along. Born at the same time, it is the same process.
        for child in children.into_iter().filter(|child| born(child.0).as_ref() == Some(child)) {
            let pid = Pid::from_raw(child.0.cast_signed()).expect("a process id");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn family(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(fields) = stat_of(pid) {
            parents.push((pid, fields[1].parse().unwrap_or(0)));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// The fields of `/proc/PID/stat` after the name, which may hold blanks.
fn stat_of(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// In bytes: what is its own, and its shared memory.
fn rss_of(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    let shared = bytes("RssShmem:");
    (bytes("VmRSS:") - shared, shared)
}

fn cpu_of(pid: u32) -> Duration {
    let ticks: u64 = stat_of(pid)
        .map(|fields| fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum())
        .unwrap_or(0);
    // A tick is 10 ms on every Linux that is in use.
    Duration::from_millis(ticks * 10)
}

/// Processor time of this process, user and system. The grain is 10 ms.
pub fn own_cpu() -> Duration {
    cpu_of(std::process::id())
}

/// A port where nobody listens now, and that nobody was given before: who asks for two would sometimes get
/// the same one twice.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        if GIVEN.lock().expect("nobody panics with it").insert(port) {
            return port;
        }
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until somebody listens; says whether that happened.
pub fn wait_for_port(port: u16, patience: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < patience {
        if TcpStream::connect(loopback(port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Where a program lies, if it is there.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Daemons lie where ordinary users do not look.
    let also = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(also).map(|dir| dir.join(name)).find(|file| file.is_file())
}

pub fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// An empty log file's path in a directory.
pub fn log_in(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(format!("{name}.log"));
    File::create(&path).expect("a log file");
    path
}
