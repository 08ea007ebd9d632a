//! Other programs that do a part of the same, where they are installed. `scripts/bench-rivals`
//! installs what can be had; none is needed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{Process, find_program, free_port, log_in, loopback, wait_for_port};

const PATIENCE: Duration = Duration::from_secs(10);

/// One that runs.
pub struct Rival {
    pub process: Process,
    /// Where clients go.
    pub address: SocketAddr,
    /// Where events are posted.
    pub publish: SocketAddr,
}

/// Configurations, with words in capitals to be replaced.
fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/rivals").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn start(
    program: &str,
    config: (&str, &[(&str, String)]),
    dir: &Path,
    port: u16,
    arguments: impl Fn(&Path) -> Vec<String>,
) -> Result<Rival, String> {
    let found = find_program(program).ok_or("not installed")?;
    let (name, words) = config;
    let home = dir.join(format!("{name}-{port}"));
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    let mut text = template(name);
    text = text.replace("@HOME@", &home.display().to_string());
    text = text.replace("@PORT@", &port.to_string());
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    let file = home.join(name);
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let log = log_in(dir, &format!("{name}-{port}"));
    let mut process = Process::start(&found, &arguments(&file), &[], &log);
    if !wait_for_port(port, PATIENCE) || process.has_ended() {
        let said = process.said();
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing said");
        return Err(format!("does not start: {first}"));
    }
    let address = loopback(port);
    Ok(Rival { process, address, publish: address })
}

fn nginx_arguments(file: &Path) -> Vec<String> {
    ["-c", &file.display().to_string(), "-e", "stderr"].map(str::to_owned).to_vec()
}

/// nginx as a plain proxy with one worker.
pub fn nginx(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let words = [("APP", app.to_string())];
    start("nginx", ("nginx.conf", &words), dir, free_port(), nginx_arguments)
}

/// nginx with the Nchan module, which fans out what is posted to it.
pub fn nchan(dir: &Path) -> Result<Rival, String> {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
    if !Path::new(MODULE).exists() {
        return Err("its module is not installed".to_owned());
    }
    let words = [("MODULE", MODULE.to_owned())];
    start("nginx", ("nchan.conf", &words), dir, free_port(), nginx_arguments)
}

pub fn haproxy(dir: &Path, app: SocketAddr) -> Result<Rival, String> {
    let words = [("APP", app.to_string())];
    start("haproxy", ("haproxy.cfg", &words), dir, free_port(), |file| {
        vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()]
    })
}

/// One of the programs for Node.js in `benches/rivals/node`. Its packages are looked for where
/// `scripts/bench-rivals` puts them.
pub fn node(dir: &Path, program: &str, uri: &str) -> Result<Rival, String> {
    let node = find_program("node").ok_or("Node.js is not installed")?;
    let home = node_home().filter(|home| home.join("node_modules/mongodb").exists());
    let home = home.ok_or("its packages are not installed: run scripts/bench-rivals")?;
    // Node looks for packages beside the program.
    let file = home.join(program);
    std::fs::write(&file, template(&format!("node/{program}"))).map_err(|e| e.to_string())?;
    let port = free_port();
    let arguments = [file.display().to_string(), port.to_string(), uri.to_owned()];
    let process = Process::start(&node, &arguments, &[], &log_in(dir, program));
    if !wait_for_port(port, PATIENCE) {
        return Err(format!("does not start: {}", process.said()));
    }
    Ok(Rival { process, address: loopback(port), publish: loopback(port) })
}

fn node_home() -> Option<PathBuf> {
    // scripts/cargo keeps SIDESTREAM_* from what it starts, so scripts/bench says it anew.
    if let Some(home) = std::env::var_os("BENCH_NODE") {
        return Some(PathBuf::from(home));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Some(cache?.join("sidestream/bench-node"))
}
