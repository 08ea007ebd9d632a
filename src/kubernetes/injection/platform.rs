//! What the platform team sets for all pods: the values of the chart, or flags of `inject`.
//! Annotations cannot override it.

use std::net::IpAddr;
use std::time::Duration;

/// The platform's decisions.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The image of the sidecar.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; `None`: what Kubernetes takes for the image's tag.
    pub pull_policy: Option<String>,
    /// The user and group that sidecars run as; `None`: whom the cluster chooses, never root.
    pub run_as_user: Option<u32>,
    /// The address that the public port and the probes are bound to; `::` where pods have IPv6.
    pub bind: IpAddr,
    /// Whose `X-Forwarded-*` is believed: networks in CIDR notation.
    pub trusted_proxies: Vec<String>,
    /// Over how long streams are closed after SIGTERM.
    pub drain: Duration,
    /// How long the sidecar waits before SIGTERM, while the pod leaves its Services.
    pub pre_stop: Duration,
    /// CPU that is requested. There is no limit: a throttled sidecar delays the app's answers.
    pub cpu: String,
    /// Memory that is requested, and the limit.
    pub memory: String,
}

/// Private networks, and the pod itself.
pub const TRUSTED_PROXIES: &[&str] = &[
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
];

/// Any user but root; the same as in the image.
pub const USER: u32 = 65532;

/// What is left between the last stream's end and the end of the grace period.
const MARGIN: Duration = Duration::from_secs(5);

impl Platform {
    /// How long a pod needs to end, in whole seconds.
    pub fn grace_seconds(&self) -> u64 {
        let whole = self.pre_stop + self.drain + MARGIN;
        whole.as_secs() + u64::from(whole.subsec_nanos() > 0)
    }
}

impl Default for Platform {
    fn default() -> Platform {
        Platform {
            image: concat!("sidestream:", env!("CARGO_PKG_VERSION")).to_owned(),
            pull_policy: None,
            run_as_user: Some(USER),
            bind: IpAddr::from([0, 0, 0, 0]),
            trusted_proxies: TRUSTED_PROXIES.iter().map(|&network| network.to_owned()).collect(),
            drain: Duration::from_secs(10),
            pre_stop: Duration::from_secs(5),
            cpu: "50m".to_owned(),
            memory: "256Mi".to_owned(),
        }
    }
}
