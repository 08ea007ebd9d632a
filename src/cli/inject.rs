//! `sidestream inject`: manifests in, manifests with sidecars out.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::BAD_INPUT;
use super::print::{complain, print};
use crate::config::parse_duration;
use crate::kubernetes::injection::{names, platform};
use crate::kubernetes::{Platform, Version, manifest};

/// A larger text is no set of manifests.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Print Kubernetes manifests with the sidecar added.
#[derive(Args)]
pub struct InjectArgs {
    /// A file of manifests, YAML or JSON; `-`: standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The version of the cluster, which decides what kind of container the sidecar becomes
    #[arg(long, value_name = "VERSION", default_value_t = Version::CURRENT)]
    kubernetes_version: Version,
    #[command(flatten)]
    platform: PlatformArgs,
}

/// What the platform decides: the same for `inject` and `webhook`.
#[derive(Args)]
pub struct PlatformArgs {
    /// The sidecar's image [default: sidestream and this version]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When the image is pulled
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: Option<String>,
    /// The user that the sidecar runs as; 0: none is set, for clusters that choose one (OpenShift)
    #[arg(long, value_name = "UID", default_value_t = platform::USER)]
    run_as_user: u32,
    /// The address on which the sidecar listens; `::` if pods have IPv6 only
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind: IpAddr,
    /// Networks whose X-Forwarded-* is trusted, in CIDR notation; may be repeated [default: private
    /// networks]
    #[arg(long = "trusted-proxy", value_name = "NETWORK", value_parser = network)]
    trusted_proxies: Vec<String>,
    /// The time over which the sidecar closes its streams after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = drain)]
    drain: Duration,
    /// How long the sidecar waits before SIGTERM, while the pod leaves its Services
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pre_stop: Duration,
    /// CPU that the sidecar requests
    #[arg(long, value_name = "QUANTITY", value_parser = names::cpu)]
    cpu: Option<String>,
    /// Memory that the sidecar requests, which is also its limit
    #[arg(long, value_name = "QUANTITY", value_parser = names::memory)]
    memory: Option<String>,
}

impl PlatformArgs {
    /// With the defaults of what is not given.
    pub fn resolve(self) -> Platform {
        let defaults = Platform::default();
        Platform {
            image: self.image.unwrap_or(defaults.image),
            pull_policy: self.pull_policy,
            run_as_user: Some(self.run_as_user).filter(|&user| user != 0),
            bind: self.bind,
            trusted_proxies: match self.trusted_proxies {
                none if none.is_empty() => defaults.trusted_proxies,
                given => given,
            },
            drain: self.drain,
            pre_stop: self.pre_stop,
            cpu: self.cpu.unwrap_or(defaults.cpu),
            memory: self.memory.unwrap_or(defaults.memory),
        }
    }
}

/// A duration with its unit, such as `5s`, for clap.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|invalid| format!("{}; {}", invalid.message, invalid.hint))
}

/// As the sidecar takes it: one that refuses it would not start, in any pod.
fn drain(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(60 * 60);
    match duration(text)? {
        time if time <= MOST => Ok(time),
        _ => Err(format!("`{text}` is too long; write at most 1h")),
    }
}

fn network(text: &str) -> Result<String, String> {
    let is_network = text.parse::<ipnet::IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
    if is_network { Ok(text.to_owned()) } else { Err("write a network as 10.0.0.0/8".to_owned()) }
}

/// Prints the manifests, with warnings on standard error. Exit code 1: they cannot be used, and
/// nothing is printed.
pub fn inject(args: InjectArgs) -> ExitCode {
    let is_stdin = args.file == Path::new("-");
    let shown = if is_stdin { Path::new("stdin") } else { args.file.as_path() };
    let text = match read(if is_stdin { None } else { Some(&args.file) }) {
        Ok(text) => text,
        Err(why) => {
            complain(format_args!("{}: error: {why}", shown.display()));
            return ExitCode::from(BAD_INPUT);
        }
    };
    let injected =
        manifest::inject(shown, &text, &args.platform.resolve(), args.kubernetes_version);
    for diagnostic in &injected.diagnostics {
        complain(diagnostic);
    }
    if injected.has_errors() {
        // Half of it, applied, would be worse than nothing.
        return ExitCode::from(BAD_INPUT);
    }
    print(injected.text, ExitCode::SUCCESS)
}

fn read(file: Option<&Path>) -> Result<String, String> {
    let mut text = String::new();
    let found = match file {
        Some(file) => std::fs::File::open(file)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text)),
        None => std::io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text),
    };
    match found {
        Ok(bytes) if bytes as u64 > MAX_BYTES => {
            Err(format!("larger than {} MiB", MAX_BYTES / 1024 / 1024))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}
