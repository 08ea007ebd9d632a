//! The Kubernetes API, as far as the webhook needs it: a few objects, by name. A client crate would
//! bring several times the code of this room for five calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::access::http::causes;

/// Where a pod finds its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TIMEOUT: Duration = Duration::from_secs(10);
/// No object that is asked for is nearly that large.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// How to reach the API server.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// `https://host:port`.
    pub server: String,
    /// The authority that vouches for the server, PEM.
    pub authority: PathBuf,
    /// The account's token. Read for every request: kubelet changes it.
    pub token: PathBuf,
}

impl ApiServer {
    /// As kubelet tells a pod.
    ///
    /// # Errors
    /// This is not a pod, or it has no account.
    pub fn of_pod() -> Result<ApiServer, ApiError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(host), Some(port)) =
            (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
        else {
            return Err(ApiError::Access(
                "this is not a pod: KUBERNETES_SERVICE_HOST is not set; give --api-server, \
                 --api-authority and --api-token"
                    .to_owned(),
            ));
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(ApiServer {
            server: format!("https://{host}:{port}"),
            authority: Path::new(ACCOUNT).join("ca.crt"),
            token: Path::new(ACCOUNT).join("token"),
        })
    }
}

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    Access(String),
    #[error("no answer from the API server: {0}")]
    Unavailable(String),
    /// The server's own words.
    #[error("{what}: {status} {message}")]
    Refused { what: String, status: u16, message: String },
}

impl ApiError {
    /// Whether the object does not exist (404).
    pub fn is_missing(&self) -> bool {
        matches!(self, ApiError::Refused { status: 404, .. })
    }

    /// Another client changed the object first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ApiError::Refused { status: 409, .. })
    }
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Object,
    JsonPatch,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    server: String,
    token: Arc<Path>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Api {
    /// # Errors
    /// An authority that cannot be read, or a server that is no address.
    pub fn new(access: ApiServer) -> Result<Api, ApiError> {
        let ApiServer { server, authority, token } = access;
        if !server.starts_with("https://") || server.parse::<Uri>().is_err() {
            return Err(ApiError::Access(format!("{server} is not an https:// address")));
        }
        let error = |reason: String| ApiError::Access(format!("{}: {reason}", authority.display()));
        let mut roots = RootCertStore::empty();
        let found = CertificateDer::pem_file_iter(&authority).map_err(|e| error(e.to_string()))?;
        for certificate in found {
            let certificate = certificate.map_err(|e| error(e.to_string()))?;
            roots.add(certificate).map_err(|e| error(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(error("the file holds no certificate".to_owned()));
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the protocol versions that rustls asks for")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Api { server: server.trim_end_matches('/').to_owned(), token: token.into(), client })
    }

    /// # Errors
    /// See [`ApiError`].
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Makes an object in the collection at `path`.
    ///
    /// # Errors
    /// See [`ApiError`]; a conflict where it is there already.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some((Content::Object, object))).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// See [`ApiError`]; a conflict where `metadata.resourceVersion` is no longer the current one.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Some((Content::Object, object))).await
    }

    /// Changes an object by a JSON Patch.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn patch(&self, path: &str, steps: &Value) -> Result<Value, ApiError> {
        self.call(Method::PATCH, path, Some((Content::JsonPatch, steps))).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(Content, &Value)>,
    ) -> Result<Value, ApiError> {
        let what = format!("{method} {path}");
        let token = fs::read_to_string(&self.token)
            .map_err(|error| ApiError::Access(format!("{}: {error}", self.token.display())))?;
        let content = match body {
            Some((Content::JsonPatch, _)) => "application/json-patch+json",
            _ => "application/json",
        };
        let text = body.map(|(_, body)| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content)
            .body(Full::new(Bytes::from(text)))
            // The text of this error would hold the token.
            .map_err(|_| ApiError::Access(format!("{what}: the token or a name is malformed")))?;
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((status, body))
        };
        let (status, body) = match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(answer) => answer.map_err(ApiError::Unavailable)?,
            Err(_) => return Err(ApiError::Unavailable(format!("none within {TIMEOUT:?}"))),
        };
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(object);
        }
        let message = object.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(ApiError::Refused { what, status: status.as_u16(), message })
    }
}
