//! Keeps the certificate valid, and knows the cluster's version.
//!
//! A certificate of our own is stored in a Secret, where all replicas find it; one of them, the
//! leader, creates it. The leader first writes the authority of a new certificate into the webhook
//! configuration, beside that of the old one, and then the Secret. The API server therefore trusts
//! what any replica serves, at every moment.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::api::{Api, ApiError};
use super::certificate::{self, IssuedCertificate};
use super::lease::Election;
use super::{CertificateSource, Own, WebhookState};
use crate::kubernetes::Version;

/// How often everything is looked at. A third of a lease's duration.
const TICK: Duration = Duration::from_secs(5);
/// A cluster is upgraded while we run.
const VERSION_EVERY: Duration = Duration::from_secs(600);
/// The key of the Secret that says when the next certificate is due, in seconds since 1970.
const RENEW_AT: &str = "renew-at";

/// Keeps certificate and version current: reads them, and as the leader makes and renews the
/// certificate and has it trusted.
pub struct CertificateManager {
    shared: Arc<WebhookState>,
    source: CertificateSource,
    api: Option<Api>,
    election: Option<Election>,
    /// What is in force: certificate and key as read, to see changes.
    loaded: Option<(Vec<u8>, Vec<u8>)>,
    version_asked: Option<Instant>,
    asks_version: bool,
}

impl CertificateManager {
    /// Without a version that was given, the API server is asked for it.
    pub fn new(
        shared: Arc<WebhookState>,
        source: CertificateSource,
        api: Option<Api>,
        asks_version: bool,
    ) -> CertificateManager {
        let election = match (&source, &api) {
            (CertificateSource::Own(own), Some(api)) => Some(Election::new(api.clone(), own)),
            _ => None,
        };
        CertificateManager {
            shared,
            source,
            api,
            election,
            loaded: None,
            version_asked: None,
            asks_version,
        }
    }

    /// Runs until the webhook leaves.
    pub async fn run(mut self) {
        let mut leaving = self.shared.is_leaving.subscribe();
        loop {
            let looking = self.look();
            tokio::select! {
                () = looking => {}
                _ = leaving.wait_for(|leaving| *leaving) => break,
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = leaving.wait_for(|leaving| *leaving) => break,
            }
        }
        if let Some(election) = &mut self.election {
            election.release().await;
        }
        self.shared.metrics.set_leader(false);
    }

    async fn look(&mut self) {
        if let Err(error) = self.look_at_version().await {
            self.failed("the version of Kubernetes cannot be determined", &error);
        }
        match self.source.clone() {
            CertificateSource::Files { certificate, key } => self.load_files(&certificate, &key),
            CertificateSource::Own(own) => {
                if let Err(error) = self.keep_own(&own).await {
                    self.failed("the webhook's certificate cannot be maintained", &error);
                }
                let leads = self.election.as_ref().is_some_and(Election::leads);
                self.shared.metrics.set_leader(leads);
            }
        }
    }

    fn failed(&self, what: &str, error: &ApiError) {
        self.shared.metrics.api_requests_total.with_label_values(&["failure"]).inc();
        warn!("{what}: {error}; trying again in {TICK:?}");
    }

    async fn look_at_version(&mut self) -> Result<(), ApiError> {
        let Some(api) = self.api.as_ref().filter(|_| self.asks_version) else { return Ok(()) };
        if self.version_asked.is_some_and(|asked| asked.elapsed() < VERSION_EVERY) {
            return Ok(());
        }
        let answer = api.get("/version").await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let found = format!("{}.{}", text("major"), text("minor"));
        let version: Version = found
            .parse()
            .map_err(|error| ApiError::Unavailable(format!("/version says `{found}`: {error}")))?;
        self.version_asked = Some(Instant::now());
        if *self.shared.version.read() != Some(version) {
            info!("the cluster is Kubernetes {version}");
            *self.shared.version.write() = Some(version);
        }
        Ok(())
    }

    fn load_files(&mut self, certificate: &Path, key: &Path) {
        let read =
            |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        match (read(certificate), read(key)) {
            (Ok(certificate), Ok(key)) => self.load(certificate, key),
            (Err(error), _) | (_, Err(error)) => {
                self.shared.metrics.certificate_loads_total.with_label_values(&["failure"]).inc();
                warn!("{error}; trying again in {TICK:?}");
            }
        }
    }

    fn load(&mut self, certificate: Vec<u8>, key: Vec<u8>) {
        let found = Some((certificate, key));
        if found == self.loaded {
            return;
        }
        let Some((certificate, key)) = &found else { return };
        let loads = &self.shared.metrics.certificate_loads_total;
        match self.shared.certificate.replace(certificate, key) {
            Ok(()) => {
                loads.with_label_values(&["success"]).inc();
                info!("a new certificate is in use");
                self.loaded = found;
            }
            Err(error) => {
                loads.with_label_values(&["failure"]).inc();
                warn!("{error}; the old certificate stays, if there is one");
            }
        }
    }

    async fn keep_own(&mut self, own: &Own) -> Result<(), ApiError> {
        let Some(api) = self.api.clone() else { return Ok(()) };
        let store = Store { api, own };
        let owner = store.owner().await?;
        let leads = match &mut self.election {
            Some(election) => election.step(&owner).await?,
            None => false,
        };
        let mut secret = store.secret().await?;
        if leads {
            secret = Some(store.keep(secret, &owner).await?);
        }
        self.shared.metrics.api_requests_total.with_label_values(&["success"]).inc();
        if let Some(secret) = &secret
            && let (Some(certificate), Some(key)) =
                (data(secret, "tls.crt"), data(secret, "tls.key"))
        {
            self.load(certificate, key);
        }
        Ok(())
    }
}

/// What lies in the cluster.
struct Store<'a> {
    api: Api,
    own: &'a Own,
}

impl Store<'_> {
    /// The Deployment, as a reference for what goes with it.
    async fn owner(&self) -> Result<Value, ApiError> {
        let Own { namespace, deployment, .. } = self.own;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
        let found = self.api.get(&path).await?;
        Ok(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": deployment,
            "uid": found.pointer("/metadata/uid").cloned().unwrap_or_default(),
        }))
    }

    fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.own.namespace)
    }

    async fn secret(&self) -> Result<Option<Value>, ApiError> {
        match self.api.get(&format!("{}/{}", self.secrets(), self.own.secret)).await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As the leader: sees to it that a good certificate is there, and trusted.
    async fn keep(&self, secret: Option<Value>, owner: &Value) -> Result<Value, ApiError> {
        let now = SystemTime::now();
        if let Some(secret) = secret.as_ref().filter(|secret| !is_due(secret, now)) {
            let authorities = data(secret, "ca.crt").unwrap_or_default();
            self.trust(&authorities).await?;
            return Ok(secret.clone());
        }
        let made = certificate::make(&self.own.service, &self.own.namespace, now)
            .map_err(|error| ApiError::Access(format!("no certificate can be made: {error}")))?;
        let mut authorities = made.authority_pem.clone().into_bytes();
        // Of the old ones the latest is the first.
        authorities.extend(
            secret
                .as_ref()
                .and_then(|old| first_certificate(&data(old, "ca.crt")?))
                .unwrap_or_default(),
        );
        self.trust(&authorities).await?;
        let new = self.secret_of(&made, &authorities, owner, secret.as_ref());
        let written = match &secret {
            None => self.api.create(&self.secrets(), &new).await?,
            Some(_) => {
                let path = format!("{}/{}", self.secrets(), self.own.secret);
                self.api.replace(&path, &new).await?
            }
        };
        info!(secret = %self.own.secret, "a new certificate was made");
        Ok(written)
    }

    fn secret_of(
        &self,
        made: &IssuedCertificate,
        authorities: &[u8],
        owner: &Value,
        old: Option<&Value>,
    ) -> Value {
        let since_1970 = made.renew_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut metadata = json!({ "name": self.own.secret, "ownerReferences": [owner] });
        // So that a Secret that somebody changed meanwhile is not overwritten.
        if let Some(version) = old.and_then(|old| old.pointer("/metadata/resourceVersion")) {
            metadata["resourceVersion"] = version.clone();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "kubernetes.io/tls",
            "data": {
                "ca.crt": STANDARD.encode(authorities),
                "tls.crt": STANDARD.encode(&made.certificate_pem),
                "tls.key": STANDARD.encode(&made.key_pem),
                RENEW_AT: STANDARD.encode(since_1970.as_secs().to_string()),
            },
        })
    }

    /// Writes the authorities into every entry of the webhook configuration that has others.
    async fn trust(&self, authorities: &[u8]) -> Result<(), ApiError> {
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{}",
            self.own.configuration
        );
        let bundle = Value::from(STANDARD.encode(authorities));
        let configuration = self.api.get(&path).await?;
        let webhooks = configuration.get("webhooks").and_then(Value::as_array);
        let mut steps = Vec::new();
        for (index, webhook) in webhooks.into_iter().flatten().enumerate() {
            if webhook.pointer("/clientConfig/caBundle") == Some(&bundle) {
                continue;
            }
            // Fails where an upgrade has changed the list meanwhile: then the next look sees it.
            let at = format!("/webhooks/{index}");
            steps.push(
                json!({ "op": "test", "path": format!("{at}/name"), "value": webhook["name"] }),
            );
            let path = format!("{at}/clientConfig/caBundle");
            steps.push(json!({ "op": "add", "path": path, "value": bundle }));
        }
        if !steps.is_empty() {
            self.api.patch(&path, &Value::Array(steps)).await?;
            info!(configuration = %self.own.configuration, "the authority was written");
        }
        Ok(())
    }
}

/// A value of a Secret.
fn data(secret: &Value, key: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.get("data")?.get(key)?.as_str()?).ok()
}

/// Whether a Secret holds no certificate that can be served, or one that is to be replaced.
fn is_due(secret: &Value, now: SystemTime) -> bool {
    let of = |key: &str| data(secret, key).unwrap_or_default();
    let is_usable = first_certificate(&of("ca.crt")).is_some()
        && certificate::is_usable(&of("tls.crt"), &of("tls.key"));
    // One that was made by a clock far ahead of this one is not valid yet.
    let latest = now + certificate::RENEW_AFTER + certificate::CLOCK_SKEW;
    let renew_at = data(secret, RENEW_AT)
        .and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok())
        .map(|seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX))));
    !is_usable || renew_at.is_none_or(|at| at <= now || at > latest)
}

/// The first certificate of a PEM text.
fn first_certificate(pem: &[u8]) -> Option<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(pem).ok()?;
    let end = text.find(END)? + END.len();
    Some(format!("{}\n", &text[..end]).into_bytes())
}
