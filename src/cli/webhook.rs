//! `sidestream webhook`: the admission webhook, from its arguments to its exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use tracing::{error, info};

use super::inject::{PlatformArgs, duration};
use super::{BAD_INPUT, StopSignals, UNAVAILABLE, log, serving_runtime};
use crate::config::{Log, LogFormat, LogLevel, Words};
use crate::kubernetes::Version;
use crate::kubernetes::webhook::{
    ApiServer, CertificateSource, Options, Own, Webhook, WebhookError,
};

/// Run the admission webhook that adds the sidecar to new pods.
#[derive(Args)]
pub struct WebhookArgs {
    /// The address for requests from the API server, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// The address of /healthz, /readyz and /metrics, for kubelet and Prometheus
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9181")]
    probes: SocketAddr,
    /// The version of the cluster [default: asked from the API server]
    #[arg(long, value_name = "VERSION")]
    kubernetes_version: Option<Version>,
    /// How long the webhook keeps answering after SIGTERM, while the pod leaves its Service
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    leave: Duration,
    #[command(flatten)]
    platform: PlatformArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    own: OwnArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    #[arg(long, value_enum, default_value = "info")]
    log_level: LogLevel,
}

/// A certificate from files, read again when they change.
#[derive(Args)]
struct FileArgs {
    /// The certificate chain, PEM. Without it, the webhook creates a certificate
    #[arg(long, value_name = "FILE", requires = "key_file")]
    certificate_file: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<PathBuf>,
}

/// A certificate that the webhook makes: kept in a Secret, by one leader among the replicas.
#[derive(Args)]
struct OwnArgs {
    /// The namespace of the objects named below
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    namespace: Option<String>,
    /// The name of this replica in the leader election: the pod's name
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    identity: Option<String>,
    /// The Service through which the API server reaches the webhook
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    service: Option<String>,
    /// The Deployment that owns the Secret and the Lease
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    deployment: Option<String>,
    /// The Lease of the leader election
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    lease: Option<String>,
    /// The Secret with the certificate
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    certificate_secret: Option<String>,
    /// The MutatingWebhookConfiguration into which the certificate authority is written
    #[arg(long, value_name = "NAME", required_unless_present = "certificate_file")]
    webhook_configuration: Option<String>,
}

/// The Kubernetes API, outside of a pod.
#[derive(Args)]
struct ApiArgs {
    /// The API server, https:// [default: the API server of this pod's cluster]
    #[arg(long, value_name = "URL", requires_all = ["api_authority", "api_token"])]
    api_server: Option<String>,
    /// The certificate authority of the API server, PEM
    #[arg(long, value_name = "FILE", requires = "api_server")]
    api_authority: Option<PathBuf>,
    /// A file with the service account's token
    #[arg(long, value_name = "FILE", requires = "api_server")]
    api_token: Option<PathBuf>,
}

impl ValueEnum for LogFormat {
    fn value_variants<'a>() -> &'a [LogFormat] {
        LogFormat::VALUES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(LogFormat::NAMES[*self as usize]))
    }
}

impl ValueEnum for LogLevel {
    fn value_variants<'a>() -> &'a [LogLevel] {
        LogLevel::VALUES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl WebhookArgs {
    /// `None` where clap let something pass that its rules above forbid.
    fn options(self) -> Option<Options> {
        let OwnArgs {
            namespace,
            identity,
            service,
            deployment,
            lease,
            certificate_secret,
            webhook_configuration,
        } = self.own;
        let certificate = match (self.files.certificate_file, self.files.key_file) {
            (Some(certificate), Some(key)) => CertificateSource::Files { certificate, key },
            _ => CertificateSource::Own(Own {
                namespace: namespace?,
                service: service?,
                secret: certificate_secret?,
                lease: lease?,
                deployment: deployment?,
                configuration: webhook_configuration?,
                identity: identity?,
            }),
        };
        let access = match (self.api.api_server, self.api.api_authority, self.api.api_token) {
            (Some(server), Some(authority), Some(token)) => {
                Some(ApiServer { server, authority, token })
            }
            _ => None,
        };
        Some(Options {
            listen: self.listen,
            probes: self.probes,
            platform: self.platform.resolve(),
            version: self.kubernetes_version,
            certificate,
            access,
            leave: self.leave,
        })
    }
}

/// Serves until SIGTERM, SIGINT or SIGHUP. Exit code 1: the Kubernetes API cannot be used. 2: an argument
/// is missing. 3: a port is taken.
pub fn webhook(args: WebhookArgs) -> ExitCode {
    // Writes out what is left when it is dropped.
    let _log = log::start(Log {
        format: args.log_format,
        level: args.log_level,
        requests: false,
        requests_every: 1,
    });
    let Some(options) = args.options() else {
        error!("an argument is missing; see sidestream webhook --help");
        return ExitCode::from(super::BAD_USAGE);
    };
    match serving_runtime() {
        Ok(runtime) => runtime.block_on(serve(options)),
        Err(code) => code,
    }
}

async fn serve(options: Options) -> ExitCode {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(code) => return code,
    };
    let webhook = match Webhook::start(options).await {
        Ok(webhook) => webhook,
        Err(error) => {
            error!("{error}");
            return ExitCode::from(match error {
                WebhookError::Listen { .. } => UNAVAILABLE,
                WebhookError::Access(_) => BAD_INPUT,
            });
        }
    };
    info!(listen = %webhook.listen, probes = %webhook.probes, "the webhook is listening");
    signals.received().await;
    info!("shutting down");
    webhook.finish().await;
    ExitCode::SUCCESS
}
