//! Servers that the harness brings itself, each run as a process of its own: the floors that
//! nothing can beat by much, and pingora as it comes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use async_trait::async_trait;
use memchr::memmem;
use pingora::apps::HttpServerOptions;
use pingora::http::ResponseHeader;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

use super::process::{loopback, raise_descriptors};

/// Runs the server that the arguments name, for ever; `None` when they name none.
pub fn serve(arguments: &[String]) -> Option<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let port = |text: &str| text.parse().expect("a port");
    match arguments.as_slice() {
        ["serve-floor", at] => floor(port(at)),
        ["serve-app", at] => super::app::serve(port(at)),
        ["serve-pingora", at, tls_at, cert, key] => pingora(port(at), port(tls_at), cert, key),
        _ => return None,
    }
    Some(())
}

pub fn listen(port: u16) -> TcpListener {
    raise_descriptors();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&loopback(port).into()).expect("the port");
    socket.listen(4096).expect("a listener");
    socket.into()
}

/// What any server must do to fan out: one `write()` for each socket, and nothing else, in a thread
/// for each processor. `POST` sends its body to everybody who sent a `GET`.
fn floor(port: u16) {
    let threads = available_parallelism().map_or(1, usize::from);
    let listener = listen(port);
    let mut clients: Vec<TcpStream> = Vec::new();
    for socket in listener.incoming() {
        let Ok(mut socket) = socket else { continue };
        let mut request = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let body = loop {
            let length = socket.read(&mut buffer).unwrap_or(0);
            if length == 0 {
                break None;
            }
            request.extend_from_slice(&buffer[..length]);
            let Some(end) = memmem::find(&request, b"\r\n\r\n") else { continue };
            let wanted = content_length(&request[..end]).unwrap_or(0);
            if request.len() >= end + 4 + wanted {
                break Some(request[end + 4..].to_vec());
            }
        };
        match body {
            Some(body) if request.starts_with(b"POST") => {
                let write = |clients: &mut [TcpStream]| {
                    for client in clients {
                        let _ = client.write_all(&body);
                    }
                };
                let share = clients.len().div_ceil(threads).max(1);
                thread::scope(|threads| {
                    clients.chunks_mut(share).for_each(|some| drop(threads.spawn(|| write(some))));
                });
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            Some(_) => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                let _ = socket.write_all(head);
                clients.push(socket);
            }
            None => {}
        }
    }
}

pub fn content_length(head: &[u8]) -> Option<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
}

/// Holds event streams open in pingora's own `Session`, which is how its documentation shows it.
struct Stock;

#[async_trait]
impl ProxyHttp for Stock {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut (),
    ) -> pingora::Result<Box<HttpPeer>> {
        pingora::Error::e_explain(pingora::ErrorType::InternalError, "nothing is forwarded")
    }

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> pingora::Result<bool> {
        let mut head = ResponseHeader::build(200, Some(3))?;
        head.insert_header("Content-Type", "text/event-stream")?;
        if !session.is_http2() {
            head.insert_header("Transfer-Encoding", "chunked")?;
        }
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(bytes::Bytes::from_static(b":\n\n")), false).await?;
        // Ends when the client leaves.
        let _ = session.as_downstream_mut().read_body_or_idle(true).await;
        session.as_downstream_mut().set_keepalive(None);
        Ok(true)
    }
}

fn pingora(port: u16, tls_port: u16, cert: &str, key: &str) {
    raise_descriptors();
    let conf = ServerConf { threads: 2, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let conf: Arc<ServerConf> = server.configuration.clone();
    let mut service = http_proxy_service(&conf, Stock);
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    service.app_logic_mut().expect("it has one").server_options = Some(options);
    service.add_tcp(&loopback(port).to_string());
    let mut tls = TlsSettings::intermediate(cert, key).expect("TLS settings");
    tls.enable_h2();
    service.add_tls_with_settings(&loopback(tls_port).to_string(), None, tls);
    server.add_service(service);
    server.run_forever();
}
