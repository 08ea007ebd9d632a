//! `sidestream drain`: tells the sidecar of this pod or host that its end is near, and waits.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::UNAVAILABLE;
use super::inject::duration;
use super::print::complain;

/// How long the admin port may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tell the sidecar of this pod or host to drain, and wait; for a preStop hook.
#[derive(Args)]
pub struct DrainArgs {
    /// How long to wait while load balancers stop using this sidecar
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    wait: Duration,
    /// The sidecar's admin port
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SIDESTREAM_ADMIN",
        default_value = "127.0.0.1:9180"
    )]
    admin: String,
}

/// Waits as long as `--for` says in any case. Exit code 3: the admin port did not answer.
pub fn drain(args: &DrainArgs) -> ExitCode {
    let started = Instant::now();
    let told = tell(&args.admin);
    // Also where nobody answers: a `preStop` hook waits for the endpoints to move in any case.
    std::thread::sleep(args.wait.saturating_sub(started.elapsed()));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(format_args!(
                "error: the drain request to the admin port {} failed: {why}; set the address \
                 with --admin or SIDESTREAM_ADMIN",
                args.admin
            ));
            ExitCode::from(UNAVAILABLE)
        }
    }
}

fn tell(admin: &str) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let address = admin.to_socket_addrs().map_err(text)?.next().ok_or("it is not an address")?;
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT).map_err(text)?;
    socket.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    socket.set_write_timeout(Some(TIMEOUT)).map_err(text)?;
    let request = format!(
        "POST /drain HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).map_err(text)?;
    // The status line is all that is needed, and it comes first.
    let mut answer = [0; 64];
    let read = socket.read(&mut answer).map_err(text)?;
    let status = std::str::from_utf8(&answer[..read]).unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some(status) => Err(format!("it answered with status {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}
