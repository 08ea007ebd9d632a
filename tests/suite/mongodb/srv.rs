//! `mongodb+srv`: the hosts and options come from DNS, here from a small server of the test's own.
//!
//! The program reads another `/etc/resolv.conf` than everybody else, in a mount namespace of its
//! own; and DNS has the port 53. Both need root: without, this is left out, and says so.

use std::io::Write;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{collection, expect, filter, insert};
use crate::support::mongo::Own;
use crate::support::sidecar::{Filters, Program};
use crate::support::sse::Stream;
use crate::support::{http, until};

const RESOLVER: &str = "127.0.53.1";
const CLUSTER: &str = "cluster.sidestream.test";
const NODE: &str = "node.sidestream.test";

/// Labels with their lengths, as names are written in messages.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// What is known of a name ([RFC 1035](https://www.rfc-editor.org/rfc/rfc1035), and 2782 for SRV).
fn record(asked: &[u8], kind: u16, port: u16) -> Option<Vec<u8>> {
    match kind {
        1 if asked == name(NODE) => Some(vec![127, 0, 0, 1]),
        16 if asked == name(CLUSTER) => Some(b"\x0ereplicaSet=rs0".to_vec()),
        33 if asked == name(&format!("_mongodb._tcp.{CLUSTER}")) => {
            Some([&[0, 0, 0, 0], &port.to_be_bytes()[..], &name(NODE)].concat())
        }
        _ => None,
    }
}

fn answer(question: &[u8], port: u16) -> Option<Vec<u8>> {
    let end = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let asked = question[12..end].to_ascii_lowercase();
    let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
    let found = record(&asked, kind, port);
    // Answered with authority, one question, and as many answers.
    let count = u8::from(found.is_some());
    let head = [&question[..2], &[0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0]].concat();
    let mut bytes = [&head, question.get(12..end + 4)?].concat();
    if let Some(data) = found {
        // The name is that of the question; valid for a second.
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 1]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
    }
    Some(bytes)
}

/// Answers until the test process ends; at first nothing is known.
fn serve(socket: UdpSocket, port: u16, is_known: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let known_port = if is_known.load(Ordering::Acquire) { port } else { 0 };
            if let Some(mut bytes) = answer(&buffer[..length], known_port) {
                if known_port == 0 {
                    // No such name, and nothing else.
                    bytes[3] |= 3;
                    bytes[7] = 0;
                }
                let _ = socket.send_to(&bytes, from);
            }
        }
    });
}

#[tokio::test]
async fn hosts_and_options_come_from_dns_when_it_knows_them() {
    let may_unshare = Command::new("unshare").args(["--mount", "true"]).status();
    let (true, Ok(socket)) =
        (may_unshare.is_ok_and(|status| status.success()), UdpSocket::bind((RESOLVER, 53)))
    else {
        eprintln!("SKIPPED: mongodb+srv, which needs root: a name server and a mount namespace");
        return;
    };
    let own = Own::start(Default::default()).await;
    let port = own.host(0).rsplit_once(':').unwrap().1.parse().unwrap();
    let is_known = Arc::new(AtomicBool::new(false));
    serve(socket, port, is_known.clone());
    let mut conf = tempfile::NamedTempFile::new().unwrap();
    writeln!(conf, "nameserver {RESOLVER}\noptions timeout:1 attempts:1").unwrap();

    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    // TLS is what `mongodb+srv` means unless told otherwise.
    let uri = format!("mongodb+srv://{CLUSTER}/?tls=false&readPreference=primaryPreferred");
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(conf.path());
    command.arg(env!("CARGO_BIN_EXE_sidestream"));
    let path = filters.path().to_str().unwrap();
    let arguments = ["--wait", "--mongodb", &uri, "--filters", path];
    let program = Program::spawn(command, &arguments, &[]).await;
    until("it says what is missing", || async { program.log().contains("cannot be resolved") })
        .await;

    is_known.store(true, Ordering::Release);
    let admin = program.admin;
    until("it is ready", || async move { http::get(admin, "/readyz").await.head.status == 200 })
        .await;
    let mut stream = Stream::open(program.listen, "/_events/orders").await;
    stream.settled().await;
    let orders = collection(&own.client().await, "shop", "orders");
    insert(&orders, 0..3).await;
    expect(&mut stream, 0..3).await;
}
