//! The HTTP client of this room: sends requests to the app, and fetches key sets. It follows no
//! redirect, keeps no cookie, and reads no more than its caller allows.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_rustls::rustls::crypto::ring;

/// Idle connections are kept this long, less than most apps keep them.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections to one host; more come when they are needed.
const MAX_IDLE: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Default for Http {
    fn default() -> Http {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let provider = ring::default_provider;
        // The system's roots, which know a company's own; Mozilla's where an image has none.
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider())
            .or_else(|_| HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider()))
            .expect("ring supports the protocol versions that rustls asks for");
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Http { client }
    }
}

impl Http {
    /// Sends a request; the body of the answer is the caller's to read, however long it is.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn open(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
        self.client.request(request).await.map_err(|error| causes(&error))
    }

    /// Gets an address.
    ///
    /// # Errors
    /// Why there is no answer within `timeout`, or that it is larger than `most` bytes. The text
    /// holds nothing of the request's header.
    pub async fn get(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        most: usize,
        timeout: Duration,
    ) -> Result<Answer, String> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(|e| e.to_string())?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {timeout:?}")),
        }
    }
}

/// What is at the bottom of an error: hyper's own text says only "client error".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
