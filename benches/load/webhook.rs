//! The admission webhook, as the API server asks it: kept connections over TLS, one review after the
//! other on each, and a pod of the size that pods have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Bench;
use super::process::{Process, free_port, log_in, loopback};
use super::report::{Goal, Row};
use super::secure::{certificate, connector};
use super::sidecar::get;

const REVIEWS: u64 = 8_000;
const CONNECTIONS: u64 = 4;
const GOAL_MS: f64 = 10.0;

pub fn run(bench: &mut Bench) {
    let dir = bench.dir.path().to_owned();
    let (cert, key) = certificate(&dir);
    let (process, address) = start(&bench.sidestream, &dir, &cert, &key);
    let each = bench.events(REVIEWS).div_ceil(CONNECTIONS);
    let body = review().to_string();
    let size = body.len();
    let mut times = bench.runtime.block_on(async {
        let asking: Vec<_> = (0..CONNECTIONS)
            .map(|_| tokio::spawn(ask(address, cert.clone(), body.clone(), each)))
            .collect();
        let mut times = Vec::new();
        for one in asking {
            times.extend(one.await.expect("a client that ends"));
        }
        times
    });
    drop(process);
    times.sort();
    let asked = usize::try_from(each * CONNECTIONS).unwrap_or(usize::MAX);
    bench.insist(times.len() == asked, "reviews without an answer, or without a sidecar");
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len() - 1);
        times[index].as_secs_f64() * 1000.0
    };
    let what = format!("admission review of a pod of {size} bytes, over TLS, p99 of {asked}");
    let note = format!("{CONNECTIONS} at a time; p50 {:.2} ms, longest {:.1} ms", at(0.5), at(1.0));
    bench
        .report
        .add(Row::new("webhook-p99", &what, "ms", at(0.99)).goal(Goal::AtMost(GOAL_MS)).note(note));
}

fn start(program: &Path, dir: &Path, cert: &Path, key: &Path) -> (Process, SocketAddr) {
    let (listen, probes) = (free_port(), free_port());
    let arguments = [
        "webhook".to_owned(),
        format!("--listen={}", loopback(listen)),
        format!("--probes={}", loopback(probes)),
        "--kubernetes-version=1.33".to_owned(),
        format!("--certificate-file={}", cert.display()),
        format!("--key-file={}", key.display()),
    ];
    let process = Process::start(program, &arguments, &[], &log_in(dir, "webhook"));
    let patience = Duration::from_secs(30);
    // It listens before it has read its certificate, and says on the other port when it has.
    let began = Instant::now();
    while get(loopback(probes), "/readyz").is_none_or(|(status, _)| status != 200) {
        assert!(began.elapsed() < patience, "the webhook: {}", process.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    (process, loopback(listen))
}

/// One connection; the times of those reviews that were answered with a patch.
async fn ask(address: SocketAddr, cert: PathBuf, body: String, count: u64) -> Vec<Duration> {
    let connector = connector(&cert).expect("a certificate");
    let tcp = TcpStream::connect(address).await.expect("the webhook's port");
    let _ = tcp.set_nodelay(true);
    let name = ServerName::from(address.ip());
    let tls = connector.connect(name, tcp).await.expect("TLS");
    let mut tls = BufReader::new(tls);
    let request = format!(
        "POST /inject HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        tls.write_all(request.as_bytes()).await.expect("it takes requests");
        tls.flush().await.expect("it takes requests");
        let mut length = 0;
        loop {
            let mut line = String::new();
            tls.read_line(&mut line).await.expect("an answer");
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        tls.read_exact(&mut answer).await.expect("an answer");
        let took = begun.elapsed();
        if String::from_utf8_lossy(&answer).contains("\"patch\"") {
            times.push(took);
        }
    }
    times
}

/// A pod with what the API server adds before it asks: some ten kilobytes.
fn review() -> Value {
    let env: Vec<Value> = (0..60)
        .map(|n| json!({ "name": format!("SETTING_NUMBER_{n}"), "value": format!("a value, {n}") }))
        .collect();
    let container = |name: &str, port: u16| {
        json!({
            "name": name,
            "image": "registry.example/shop/web:1.4",
            "env": env,
            "ports": [{ "name": if port == 3000 { "http" } else { "metrics" }, "containerPort": port }],
            "readinessProbe": { "httpGet": { "path": "/", "port": port } },
            "terminationMessagePath": "/dev/termination-log",
            "volumeMounts": [{ "name": "kube-api-access-x", "mountPath": "/account" }],
        })
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "operation": "CREATE",
            "namespace": "shop",
            "object": {
                "metadata": {
                    "generateName": "web-5d9c7b7c8d-",
                    "labels": { "app": "web" },
                    "annotations": {
                        "sidestream/filters": "shop-filters",
                        "sidestream/mongodb-secret": "shop-mongodb",
                    },
                },
                "spec": {
                    "containers": [container("web", 3000), container("metrics", 9100)],
                    "volumes": [{ "name": "kube-api-access-x", "projected": { "sources": [] } }],
                },
            },
        },
    })
}
