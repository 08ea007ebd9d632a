//! How spans reach the collector: by HTTP/1.1 or HTTPS, with the runtime's own tasks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of its answer is read, in bytes: it says what was refused.
const MAX_ANSWER: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Client {
    /// The exporter has a thread of its own, in which no runtime is.
    runtime: Handle,
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Whether the last ones were not taken: told once, and when that is over.
    is_failing: AtomicBool,
}

impl Client {
    /// Within a runtime.
    pub fn new() -> Client {
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Client { runtime: Handle::current(), client, is_failing: AtomicBool::new(false) }
    }

    fn note(&self, trouble: Option<String>) {
        let was_failing = self.is_failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(trouble) if !was_failing => {
                warn!("traces are lost: {trouble}; check `trace.otlp` and the OTEL_* variables");
            }
            None if was_failing => info!("the collector takes traces again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move {
            let exchange = async {
                let answer = client.request(request.map(Full::new)).await?;
                let (head, body) = answer.into_parts();
                let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
                Ok::<_, HttpError>(Response::from_parts(head, body))
            };
            tokio::time::timeout(PATIENCE, exchange).await
        });
        let answer = sending.await.map_err(HttpError::from);
        let answer = answer.and_then(|sent| sent.map_err(HttpError::from)).flatten();
        self.note(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answers {}", answer.status())),
            Err(error) => Some(format!("the collector cannot be reached: {error}")),
        });
        answer
    }
}
