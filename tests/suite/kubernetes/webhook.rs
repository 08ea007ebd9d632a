//! The webhook as the API server meets it: over TLS, with good and bad requests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use sidestream::kubernetes::webhook::{CertificateSource, Options, Webhook};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::cluster::Cluster;
use super::golden::{patched, platform, review_of};
use crate::support::{http, until};

const NAME: &str = "injector.platform.svc";

/// A certificate and the authority that vouches for it, PEM.
pub struct Pair {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl Pair {
    pub fn new(names: &[&str]) -> Pair {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        Pair {
            authority: authority_pem,
            certificate: leaf.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn write(&self, dir: &Path) {
        std::fs::write(dir.join("tls.key"), &self.key).unwrap();
        std::fs::write(dir.join("tls.crt"), &self.certificate).unwrap();
    }
}

pub fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A connection as the API server makes it; `None` where it does not trust the certificate.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    authority: &str,
) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.ok()
}

/// One request on its own connection: status and body.
async fn ask(address: SocketAddr, authority: &str, request: &[u8]) -> (u16, String) {
    let mut tls = connect(address, NAME, authority).await.expect("TLS");
    // Who answers early may close before all is sent.
    let _ = tls.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

fn post(body: &str) -> Vec<u8> {
    request("POST", "/inject?timeout=5s", "application/json", body)
}

fn request(method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

pub async fn start(
    certificate: CertificateSource,
    access: Option<sidestream::kubernetes::webhook::ApiServer>,
) -> Webhook {
    start_leaving(certificate, access, Duration::ZERO).await
}

async fn start_leaving(
    certificate: CertificateSource,
    access: Option<sidestream::kubernetes::webhook::ApiServer>,
    leave: Duration,
) -> Webhook {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let version = access.is_none().then(|| "1.33".parse().unwrap());
    let options = Options {
        listen: free,
        probes: free,
        platform: platform(),
        version,
        certificate,
        access,
        leave,
    };
    Webhook::start(options).await.unwrap()
}

fn files(dir: &Path) -> CertificateSource {
    CertificateSource::Files { certificate: dir.join("tls.crt"), key: dir.join("tls.key") }
}

fn pod() -> Value {
    json!({
        "metadata": {
            "generateName": "web-",
            "annotations": { "sidestream/filters": "f", "sidestream/mongodb-secret": "m" },
        },
        "spec": { "containers": [
            { "name": "web", "ports": [{ "name": "http", "containerPort": 3000 }], "unknown": [1.5] },
        ]},
    })
}

async fn metric(webhook: &Webhook, name: &str) -> f64 {
    let text = http::get(webhook.probes, "/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(-1.0)
}

#[tokio::test]
async fn it_answers_reviews_and_tells_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&[NAME]);
    pair.write(dir.path());
    let webhook = start(files(dir.path()), None).await;
    until("it is ready", || async { webhook.is_ready() }).await;
    assert_eq!(http::get(webhook.probes, "/readyz").await.head.status, 200);
    assert_eq!(http::get(webhook.probes, "/healthz").await.head.status, 200);
    assert_eq!(http::get(webhook.probes, "/streams").await.head.status, 404);

    let (status, body) =
        ask(webhook.listen, &pair.authority, &post(&review_of(&pod()).to_string())).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "1");
    assert_eq!(answer["response"]["allowed"], true);
    let made = patched(&pod(), &answer);
    assert_eq!(made["spec"]["initContainers"][0]["name"], "sidestream");
    assert_eq!(made["spec"]["containers"][0]["ports"][0]["name"], "app-http");
    assert_eq!(made["spec"]["containers"][0]["unknown"], json!([1.5]));
    // The API server asks again after other webhooks.
    let (_, again) =
        ask(webhook.listen, &pair.authority, &post(&review_of(&made).to_string())).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert!(again["response"].get("patch").is_none(), "{again}");

    let mut wrong = pod();
    wrong["metadata"]["annotations"]["sidestream/mode"] = "fast".into();
    let (_, body) =
        ask(webhook.listen, &pair.authority, &post(&review_of(&wrong).to_string())).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], false);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("write auto, native or container"), "{message}");

    let plain = json!({ "spec": { "containers": [{ "name": "db" }] } });
    let (_, body) =
        ask(webhook.listen, &pair.authority, &post(&review_of(&plain).to_string())).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("sidestream/filters"));

    for (outcome, count) in
        [("injected", 1.0), ("unchanged", 1.0), ("refused", 1.0), ("warned", 1.0)]
    {
        let name = format!("sidestream_webhook_reviews_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(&webhook, &name).await, count, "{outcome}");
    }
    webhook.finish().await;
}

#[tokio::test]
async fn without_the_clusters_version_the_failure_policy_decides() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&[NAME]);
    pair.write(dir.path());
    let cluster = Cluster::start(&[("/version", json!({ "major": "one" }))]).await;
    let webhook = start(files(dir.path()), Some(cluster.access())).await;
    until("it has a certificate", || async {
        metric(&webhook, "sidestream_webhook_certificate_loads_total{result=\"success\"}").await
            == 1.0
    })
    .await;
    let ready = http::get(webhook.probes, "/readyz").await;
    assert_eq!(ready.head.status, 503);
    assert!(ready.text().contains("the version of Kubernetes is not known yet"));
    let request = post(&review_of(&pod()).to_string());
    assert_eq!(ask(webhook.listen, &pair.authority, &request).await.0, 503);
    assert_eq!(
        metric(&webhook, "sidestream_webhook_reviews_total{outcome=\"unready\"}").await,
        1.0
    );
    cluster.set("/version", json!({ "major": "1", "minor": "29" }));
    until("it is ready", || async { webhook.is_ready() }).await;
    let (status, body) = ask(webhook.listen, &pair.authority, &request).await;
    assert_eq!(status, 200);
    let made = patched(&pod(), &serde_json::from_str(&body).unwrap());
    assert_eq!(made["spec"]["containers"][1]["name"], "sidestream", "as 1.29 has it: {made}");
    webhook.finish().await;
}

// A certificate that is not renewed is noticed when it has lapsed: pods cannot be made then.
#[tokio::test]
async fn a_certificate_manager_that_panics_is_counted_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pair::new(&[NAME]);
    first.write(dir.path());
    let webhook = start(files(dir.path()), None).await;
    until("it is ready", || async { webhook.is_ready() }).await;
    webhook.tasks().make_panic("certificate-manager");
    let panics = "sidestream_webhook_task_panics_total{task=\"certificate-manager\"}";
    until("it panicked", || async { metric(&webhook, panics).await == 1.0 }).await;
    let next = Pair::new(&[NAME]);
    next.write(dir.path());
    until("the next certificate is served", || async {
        connect(webhook.listen, NAME, &next.authority).await.is_some()
    })
    .await;
    webhook.tasks().make_panic("server");
    let panics = "sidestream_webhook_task_panics_total{task=\"server\"}";
    until("it panicked", || async { metric(&webhook, panics).await == 1.0 }).await;
    until("it answers again", || async {
        ask(webhook.listen, &next.authority, &post("{")).await.0 == 400
    })
    .await;
    webhook.finish().await;
}

#[tokio::test]
async fn one_that_leaves_still_answers_and_has_connections_closed() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&[NAME]);
    pair.write(dir.path());
    let webhook = start_leaving(files(dir.path()), None, Duration::from_secs(3)).await;
    until("it is ready", || async { webhook.is_ready() }).await;
    let body = review_of(&pod()).to_string();
    let request = String::from_utf8(post(&body)).unwrap().replace("Connection: close\r\n", "");
    let (listen, probes) = (webhook.listen, webhook.probes);
    let mut kept = connect(listen, NAME, &pair.authority).await.unwrap();
    let leaving = tokio::spawn(webhook.finish());
    until("it says that it leaves", || async {
        http::get(probes, "/readyz").await.head.status == 503
    })
    .await;
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"patch\""), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(!leaving.is_finished(), "closed because it ended, and not for this answer");
    leaving.await.unwrap();
}

#[tokio::test]
async fn bad_requests_get_their_status_and_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&[NAME]);
    pair.write(dir.path());
    let webhook = start(files(dir.path()), None).await;
    until("it is ready", || async { webhook.is_ready() }).await;
    let good = review_of(&pod()).to_string();
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    // Just under what the API server sends at most.
    let mut large = pod();
    large["metadata"]["annotations"]["a/b"] = "\u{1}".repeat(480_000).into();
    let large = review_of(&large).to_string();
    assert!((2_800_000..3_000_000).contains(&large.len()), "{}", large.len());
    let json = "application/json";
    let rows: Vec<(Vec<u8>, u16)> = vec![
        (request("GET", "/inject", json, ""), 405),
        (request("POST", "/", json, &good), 404),
        (request("POST", "/inject", "text/yaml", &good), 415),
        (post(""), 400),
        (post("{"), 400),
        (post("[]"), 400),
        (post("{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1beta1\"}"), 400),
        (
            post(
                "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"request\":{}}",
            ),
            400,
        ),
        (post("\u{fffd}\u{0}"), 400),
        (post(&deep), 400),
        (post(&huge), 413),
        (post(&large), 200),
        (b"nonsense\r\n\r\n".to_vec(), 400),
        (post(&good), 200),
    ];
    for (request, expected) in rows {
        let (status, body) = ask(webhook.listen, &pair.authority, &request).await;
        let shown: String = String::from_utf8_lossy(&request).chars().take(200).collect();
        assert_eq!(status, expected, "{shown}\n{body}");
    }
    // Connections that say nothing, or no TLS, or half a request, keep nobody out.
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(TcpStream::connect(webhook.listen).await.unwrap());
        let mut half = connect(webhook.listen, NAME, &pair.authority).await.unwrap();
        half.write_all(b"POST /inject HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            .await
            .unwrap();
        half.flush().await.unwrap();
        idle.push(half.into_inner().0);
    }
    let (status, _) = ask(webhook.listen, &pair.authority, &post(&good)).await;
    assert_eq!(status, 200);
    drop(idle);
    let mut plain = TcpStream::connect(webhook.listen).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (status, _) = ask(webhook.listen, &pair.authority, &post(&good)).await;
    assert_eq!(status, 200);
    webhook.finish().await;
}

// Each may be silent for two minutes, which is more than the API server waits.
#[tokio::test]
async fn clients_that_never_ask_keep_the_api_server_out_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&[NAME]);
    pair.write(dir.path());
    let webhook = start(files(dir.path()), None).await;
    until("it is ready", || async { webhook.is_ready() }).await;
    let good = review_of(&pod()).to_string();
    // The API server keeps its connection.
    let mut kept = connect(webhook.listen, NAME, &pair.authority).await.unwrap();
    let keep = String::from_utf8(post(&good)).unwrap().replace("Connection: close\r\n", "");
    let ask_again = async |kept: &mut TlsStream<TcpStream>| {
        kept.write_all(keep.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let whole = |answer: &[u8]| {
            let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.split_once("content-length: ")?.1.lines().next()?.parse().ok()?;
            (body.len() >= length).then_some(())
        };
        while whole(&answer).is_none() {
            assert!(kept.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    };
    ask_again(&mut kept).await;
    let mut silent = Vec::new();
    for _ in 0..520 {
        silent.push(connect(webhook.listen, NAME, &pair.authority).await.unwrap());
    }
    let (status, _) = within(ask(webhook.listen, &pair.authority, &post(&good))).await;
    assert_eq!(status, 200);
    within(ask_again(&mut kept)).await;
    drop((silent, kept));
    webhook.finish().await;
}

/// Kubelet restarts a pod whose health is not told within a second.
#[tokio::test]
async fn silent_connections_to_the_pages_for_kubelet_keep_it_out_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let webhook = start(files(dir.path()), None).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(webhook.probes).await.unwrap());
    }
    let began = Instant::now();
    assert_eq!(within(http::get(webhook.probes, "/healthz")).await.head.status, 200);
    // Each of them would be waited for for ten seconds.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(silent);
    webhook.finish().await;
}

/// Of a test's patience.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(crate::support::PATIENCE, work).await.expect("an answer in time")
}

#[tokio::test]
async fn a_certificate_changes_while_requests_run() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Pair::new(&[NAME]), Pair::new(&[NAME]));
    let webhook = start(files(dir.path()), None).await;
    assert_eq!(http::get(webhook.probes, "/readyz").await.head.status, 503);
    old.write(dir.path());
    until("it is ready", || async { webhook.is_ready() }).await;

    // As the API server during a rotation: it trusts both.
    let both = format!("{}{}", old.authority, new.authority);
    let body = review_of(&pod()).to_string();
    let mut kept = connect(webhook.listen, NAME, &both).await.unwrap();
    // Half of a change: the key does not fit, and the old certificate stays.
    std::fs::write(dir.path().join("tls.key"), &new.key).unwrap();
    let failures = "sidestream_webhook_certificate_loads_total{result=\"failure\"}";
    let before = metric(&webhook, failures).await;
    until("the misfit is seen", || async { metric(&webhook, failures).await > before }).await;
    assert!(connect(webhook.listen, NAME, &old.authority).await.is_some());
    assert_eq!(ask(webhook.listen, &both, &post(&body)).await.0, 200);
    // Requests without a pause, from before the change until after it.
    let (listen, request) = (webhook.listen, post(&body));
    let (is_changed, changed) = tokio::sync::watch::channel(false);
    let asking = tokio::spawn(async move {
        loop {
            let is_last = *changed.borrow();
            assert_eq!(ask(listen, &both, &request).await.0, 200);
            if is_last {
                return;
            }
        }
    });
    new.write(dir.path());
    until("the new one is served", || async {
        connect(webhook.listen, NAME, &new.authority).await.is_some()
    })
    .await;
    is_changed.send_replace(true);
    asking.await.unwrap();
    // A connection from before goes on.
    kept.write_all(&post(&body)).await.unwrap();
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    webhook.finish().await;
}
