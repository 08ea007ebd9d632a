//! `sidestream webhook`: the mutating admission webhook.
//!
//! For each new pod, the API server sends a request over TLS and waits for the answer. An answer is
//! therefore computed from memory alone ([`super::review`]), everything that is read is bounded,
//! and nothing here sends a request to the API server while a request waits.
//!
//! - [`server`]: TLS, HTTP, limits
//! - [`body`]: reading a review without filling the memory
//! - [`certificate`]: the certificate in use, and creating one
//! - [`manager`]: keeps it valid: read from files, or created by one leader among the replicas
//! - [`lease`]: the leader election
//! - [`api`]: the Kubernetes API
//! - [`metrics`]: metrics, and the pages for kubelet and Prometheus

mod api;
mod body;
mod certificate;
mod lease;
mod manager;
mod metrics;
mod open;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

pub use api::{ApiError, ApiServer};

use super::{Platform, Version};
use crate::tasks::Tasks;
use api::Api;
use certificate::Certificate;
use manager::CertificateManager;
use metrics::WebhookMetrics;

/// How long the last requests and giving up the lead may take.
const END: Duration = Duration::from_secs(15);

/// All settings of the webhook.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the API server asks.
    pub listen: SocketAddr,
    /// `/healthz`, `/readyz` and `/metrics`, for kubelet and Prometheus.
    pub probes: SocketAddr,
    pub platform: Platform,
    /// `None`: the API server is asked.
    pub version: Option<Version>,
    pub certificate: CertificateSource,
    /// How to reach the Kubernetes API; `None`: as a pod does.
    pub access: Option<ApiServer>,
    /// How long requests are still taken after the stop, while the pod leaves its Service.
    pub leave: Duration,
}

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// Files in PEM, read again when they change: a mounted Secret, as cert-manager fills it.
    Files { certificate: PathBuf, key: PathBuf },
    /// Made here, and kept where all replicas find it.
    Own(Own),
}

/// Names of what the webhook makes and writes to.
#[derive(Debug, Clone)]
pub struct Own {
    /// Of everything below but the webhook configuration, which has none.
    pub namespace: String,
    /// The Service by which the API server finds the webhook.
    pub service: String,
    /// The Secret with the certificate.
    pub secret: String,
    /// The Lease by which one replica leads.
    pub lease: String,
    /// The Deployment that owns both, so that they go with it.
    pub deployment: String,
    /// The MutatingWebhookConfiguration whose `caBundle` is written.
    pub configuration: String,
    /// The name of this replica: its pod's.
    pub identity: String,
}

/// Why the webhook does not start.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error(
        "cannot listen on {address}: {source}; choose another address, or stop the program \
             that uses it"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the Kubernetes API cannot be used: {0}")]
    Access(#[from] ApiError),
}

/// What requests are answered from.
struct WebhookState {
    platform: Platform,
    version: RwLock<Option<Version>>,
    certificate: Certificate,
    metrics: WebhookMetrics,
    is_leaving: watch::Sender<bool>,
}

impl WebhookState {
    fn tasks(&self) -> Tasks {
        Tasks::counting(self.metrics.task_panics_total.clone())
    }

    fn is_ready(&self) -> bool {
        !*self.is_leaving.borrow() && self.certificate.is_there() && self.version.read().is_some()
    }
}

/// A running webhook.
pub struct Webhook {
    /// Where the API server asks, as bound.
    pub listen: SocketAddr,
    /// The pages for kubelet, as bound.
    pub probes: SocketAddr,
    shared: Arc<WebhookState>,
    leave: Duration,
    closing: watch::Sender<bool>,
    /// Ends by itself when the webhook shuts down.
    work: Tasks,
    /// The pages for kubelet, to the very end.
    pages: Tasks,
}

impl Webhook {
    /// Binds the ports and starts everything. A certificate and the cluster's version are waited
    /// for in the background: until both are there, `/readyz` says no.
    ///
    /// # Errors
    /// A port that is not free, or no way to the Kubernetes API where it is needed.
    pub async fn start(options: Options) -> Result<Webhook, WebhookError> {
        let needs_api =
            options.version.is_none() || matches!(options.certificate, CertificateSource::Own(_));
        let api = match (needs_api, options.access) {
            (false, _) => None,
            (true, Some(access)) => Some(Api::new(access)?),
            (true, None) => Some(Api::new(ApiServer::of_pod()?)?),
        };
        let (listen, listener) = bind(options.listen).await?;
        let (probes, probes_listener) = bind(options.probes).await?;
        let asks_version = options.version.is_none();
        let has_election = matches!(options.certificate, CertificateSource::Own(_));
        let shared = Arc::new(WebhookState {
            platform: options.platform,
            version: RwLock::new(options.version),
            certificate: Certificate::default(),
            metrics: WebhookMetrics::new(has_election),
            is_leaving: watch::Sender::new(false),
        });
        let closing = watch::Sender::new(false);
        let (work, pages) = (shared.tasks(), shared.tasks());
        let serve = {
            let (listener, shared, closing) = (Arc::new(listener), shared.clone(), closing.clone());
            move || server::serve(listener.clone(), shared.clone(), closing.subscribe())
        };
        work.keep("server", |_| {}, serve);
        let keep = {
            let (shared, source) = (shared.clone(), options.certificate);
            move || {
                let (shared, source) = (shared.clone(), source.clone());
                CertificateManager::new(shared, source, api.clone(), asks_version).run()
            }
        };
        work.keep("certificate-manager", |_| {}, keep);
        let probe = {
            let (listener, shared) = (Arc::new(probes_listener), shared.clone());
            move || metrics::serve(listener.clone(), shared.clone())
        };
        pages.keep("probes", |_| {}, probe);
        Ok(Webhook { listen, probes, leave: options.leave, work, pages, shared, closing })
    }

    /// Whether pods can be answered for.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Says that it leaves, goes on answering for a while, and ends when the last request has its
    /// answer. The lead is given up, so that another replica need not wait for it to lapse.
    pub async fn finish(self) {
        self.shared.is_leaving.send_replace(true);
        tokio::time::sleep(self.leave).await;
        self.closing.send_replace(true);
        if tokio::time::timeout(END, self.work.finished()).await.is_err() {
            warn!("the webhook did not end within {END:?}");
        }
        self.work.stop();
        self.pages.stop();
    }

    /// The tasks that answering for pods needs.
    pub fn tasks(&self) -> &Tasks {
        &self.work
    }
}

async fn bind(address: SocketAddr) -> Result<(SocketAddr, TcpListener), WebhookError> {
    let error = |source| WebhookError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((bound, listener))
}
