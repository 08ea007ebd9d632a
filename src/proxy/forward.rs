//! HTTP/2 before the app, as pingora's `ProxyHttp`: forwards unchanged, adds `X-Forwarded-*`, and
//! says what is wrong when the app is away. Streams on the reserved path are answered here.
//!
//! Nothing in this file depends on MongoDB or on filter files.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};
use tracing::{debug, warn};

use super::app::{APP_IDLE, App, CONNECT_TIMEOUT, Unreachable};
use super::carry;
use super::fields::{as_http1, host_of, join_cookies, remove_hop_by_hop, takes_trailers};
use super::gate;
use super::path::{self, Target};
use super::reserved::{Answer, Ask, Desk, Opened, Plain};
use crate::access::{Guard, Origin};
use crate::config::AppAddress;
use crate::transport::Sink;
use crate::transport::problem::Problem;

/// The way to the app, for every way in.
#[derive(Debug)]
pub struct Side {
    pub app: AppAddress,
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `https` when the public port speaks TLS.
    pub scheme: &'static str,
}

impl Side {
    /// Whether this peer's `X-Forwarded-*` are believed.
    pub fn is_trusted(&self, peer: Option<IpAddr>) -> bool {
        gate::is_trusted(&self.trusted_proxies, peer)
    }

    /// Where the client is: the peer, or, behind trusted proxies, the last address in
    /// `X-Forwarded-For` that is not one of theirs.
    pub fn client_address(&self, peer: Option<IpAddr>, chain: &[&[u8]]) -> Option<IpAddr> {
        let mut client = peer?;
        let hops = chain.iter().rev().flat_map(|value| value.rsplit(|b| *b == b','));
        for hop in hops {
            if !self.is_trusted(Some(client)) {
                break;
            }
            let text = std::str::from_utf8(hop).unwrap_or_default().trim();
            match text.parse() {
                Ok(address) => client = address,
                // What is written there is no address: as far as it can be believed, we are here.
                Err(_) => break,
            }
        }
        Some(client.to_canonical())
    }

    /// The `X-Forwarded-*` fields that the app gets; what was there is believed only from trusted
    /// proxies.
    pub fn forwarded(
        &self,
        peer: Option<IpAddr>,
        values: impl Fn(&str) -> Vec<Vec<u8>>,
        host: Option<Vec<u8>>,
    ) -> Vec<(&'static str, Vec<u8>)> {
        let is_trusted = self.is_trusted(peer);
        let client = peer.map_or_else(|| "unknown".to_string(), |ip| ip.to_canonical().to_string());
        let believed = |name| if is_trusted { values(name) } else { Vec::new() };
        let mut chain = believed("x-forwarded-for");
        chain.push(client.into_bytes());
        let first = |name| believed(name).into_iter().next();
        let proto = first("x-forwarded-proto").unwrap_or_else(|| self.scheme.into());
        let host = first("x-forwarded-host").or(host).unwrap_or_default();
        vec![
            ("X-Forwarded-For", chain.join(&b", "[..])),
            ("X-Forwarded-Proto", proto),
            ("X-Forwarded-Host", host),
        ]
    }
}

/// A request on the reserved path, whichever way it came in.
pub struct Request<'a> {
    pub method: &'a str,
    /// What follows the prefix.
    pub rest: &'a str,
    pub query: &'a [u8],
    /// `Host` or `:authority`.
    pub host: Option<&'a [u8]>,
    pub peer: Option<IpAddr>,
    pub is_upgrade: bool,
}

impl Side {
    /// What the desk has to know of a request; `values` gives header fields by name.
    pub fn ask_of<'a>(
        &'a self,
        request: Request<'a>,
        values: &dyn Fn(&str) -> Vec<&'a [u8]>,
        guard: &Guard,
    ) -> Ask<'a> {
        let first = |name: &str| values(name).into_iter().next();
        let believed = |name| if self.is_trusted(request.peer) { first(name) } else { None };
        let own_scheme = (self.scheme == "https").then_some(self.scheme.as_bytes());
        let origin = Origin {
            origin: first("origin"),
            fetch_site: first("sec-fetch-site"),
            host: believed("x-forwarded-host").or(request.host),
            scheme: believed("x-forwarded-proto").or(own_scheme),
        };
        let mut query = path::pairs_of(request.query);
        let credentials = guard.credentials(values, &mut query, origin);
        Ask {
            method: request.method,
            rest: request.rest,
            query,
            accept: values("accept"),
            last_event_id: first("last-event-id"),
            origin,
            address: self.client_address(request.peer, &values("x-forwarded-for")),
            is_upgrade: request.is_upgrade,
            is_preflight: first("access-control-request-method").is_some(),
            has_cookies: first("cookie").is_some(),
            credentials,
        }
    }
}

/// See the file's head.
pub struct Forward {
    pub side: Arc<Side>,
    pub desk: Arc<Desk>,
    pub prefix: Arc<str>,
    pub app: App,
}

/// One request on its way.
pub struct Progress {
    began: Instant,
    /// Addresses of the app that did not take the connection.
    failures: usize,
    /// How many there are.
    addresses: usize,
    /// Answered here, not by the app.
    is_ours: bool,
}

impl Forward {
    async fn peer(&self, progress: &mut Progress) -> pingora::Result<HttpPeer> {
        let mut peer = match &self.side.app {
            AppAddress::Unix { path } => {
                HttpPeer::new_uds(path.to_str().unwrap_or_default(), false, String::new())?
            }
            AppAddress::Tcp { host, port, tls } => {
                let addresses = self.app.addresses(host, *port).await.map_err(of_app)?;
                progress.addresses = addresses.len();
                let address = addresses
                    .get(progress.failures % addresses.len().max(1))
                    .ok_or_else(|| of_app(Unreachable::NoAddress))?;
                HttpPeer::new(address, *tls, host.clone())
            }
        };
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.idle_timeout = Some(APP_IDLE);
        Ok(peer)
    }

    fn set_forwarded(&self, session: &Session, request: &mut RequestHeader) -> pingora::Result<()> {
        let peer = session.client_addr().and_then(|a| a.as_inet()).map(SocketAddr::ip);
        let values = |name: &str| -> Vec<Vec<u8>> {
            request.headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
        };
        let host = host_of(session.req_header()).map(<[u8]>::to_vec);
        for (name, value) in self.side.forwarded(peer, values, host) {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    /// Forwards an HTTP/2 stream without pingora.
    async fn carry(&self, session: &mut Session) -> pingora::Result<()> {
        let has_body = !session.is_body_empty();
        let mut request = session.req_header().clone();
        as_http1(&mut request, has_body)?;
        self.set_forwarded(session, &mut request)?;
        let (socket, _) = self.app.connect().await.map_err(of_app)?.into_parts();
        carry::carry(&mut session.downstream_session, request, has_body, socket).await
    }

    /// Answers an HTTP/2 stream on the reserved path.
    async fn answer_reserved(&self, session: &mut Session, rest: &str) {
        let peer = session.client_addr().and_then(|a| a.as_inet()).map(SocketAddr::ip);
        let answer = {
            let head = session.req_header();
            let values = |name: &str| -> Vec<&[u8]> {
                head.headers.get_all(name).iter().map(|value| value.as_bytes()).collect()
            };
            let request = Request {
                method: head.method.as_str(),
                rest,
                query: path::query_of(head.raw_path()),
                host: host_of(head),
                peer,
                is_upgrade: false,
            };
            let ask = self.side.ask_of(request, &values, &self.desk.guard);
            self.desk.answer(ask).await
        };
        let is_head = session.req_header().method == http::Method::HEAD;
        // A client that left is no error.
        let written = match answer {
            Answer::Plain(plain) => write_plain(session, &plain).await,
            Answer::Stream(opened) => write_stream(session, opened, is_head).await,
        };
        if let Err(error) = written {
            debug!(%error, "the client left");
        }
    }
}

fn of_app(error: Unreachable) -> Box<Error> {
    let kind = match error {
        Unreachable::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "the app", error).into_up()
}

/// Whether pingora would lose what this client asked for: the trailers of an answer.
fn is_carried(session: &Session) -> bool {
    let request = session.req_header();
    matches!(&*session.downstream_session, ServerSession::H2(_))
        && request.method != http::Method::CONNECT
        && takes_trailers(request)
}

async fn write_plain(session: &mut Session, plain: &Plain) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(plain.status, Some(plain.headers.len() + 1))?;
    for (name, value) in &plain.headers {
        head.insert_header(*name, value.as_str())?;
    }
    if plain.status != 204 {
        head.insert_header("Content-Length", plain.body.len())?;
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(plain.body.clone()), true).await
}

async fn write_stream(
    session: &mut Session,
    mut opened: Box<Opened>,
    is_head: bool,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    for (name, value) in opened.take_cors() {
        head.insert_header(name, value)?;
    }
    for (name, value) in Opened::headers() {
        head.insert_header(name, value)?;
    }
    session.write_response_header(Box::new(head), is_head).await?;
    if !is_head {
        let mut sink = SessionSink { session: &mut session.downstream_session };
        opened.serve(&mut sink).await;
        session.write_response_body(None, true).await?;
    }
    Ok(())
}

/// Server-Sent Events on an HTTP/2 stream.
struct SessionSink<'a> {
    session: &'a mut ServerSession,
}

impl Sink for SessionSink<'_> {
    async fn send(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let body = match pieces {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        self.session.write_response_body(body, false).await.map_err(io::Error::other)
    }

    async fn closed(&mut self) {
        // Resolves at the client's end of stream or reset; a body it has no business sending is
        // read and dropped.
        while matches!(self.session.read_body_or_idle(true).await, Ok(Some(_))) {}
    }
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = Progress;

    fn new_ctx(&self) -> Progress {
        Progress { began: Instant::now(), failures: 0, addresses: 1, is_ours: false }
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        progress: &mut Progress,
    ) -> pingora::Result<bool> {
        match path::classify(session.req_header().raw_path(), &self.prefix) {
            Target::App if is_carried(session) => self.carry(session).await.map(|()| true),
            Target::App => Ok(false),
            Target::Reserved { rest } => {
                progress.is_ours = true;
                self.answer_reserved(session, &rest).await;
                Ok(true)
            }
            Target::Ambiguous => {
                progress.is_ours = true;
                let problem = Problem::new(400, "this path can be read as two different ones");
                // A client that left is no error.
                let _ = write_plain(session, &problem.into()).await;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        progress: &mut Progress,
    ) -> pingora::Result<Box<HttpPeer>> {
        self.peer(progress).await.map(Box::new)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _progress: &mut Progress,
    ) -> pingora::Result<()> {
        join_cookies(request)?;
        self.set_forwarded(session, request)
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        answer: &mut ResponseHeader,
        _progress: &mut Progress,
    ) -> pingora::Result<()> {
        if answer.status != http::StatusCode::SWITCHING_PROTOCOLS {
            remove_hop_by_hop(answer);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        progress: &mut Progress,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // A name such as localhost has several addresses, and the app listens on one of them.
        progress.failures += 1;
        if progress.failures < progress.addresses {
            error.set_retry(true);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _progress: &mut Progress,
    ) -> FailToProxy {
        let failed = |error_code| FailToProxy { error_code, can_reuse_downstream: false };
        let problem = match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ErrorType::ReadError | ErrorType::WriteError)
            | (_, ErrorType::ConnectionClosed)
                if error.esource() == &ErrorSource::Downstream =>
            {
                // Nobody is there to read it.
                return failed(0);
            }
            (_, ErrorType::HTTPStatus(status)) => Problem::new(*status, "the request was refused"),
            (ErrorSource::Downstream, _) => Problem::new(400, "the request is malformed"),
            (_, ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout) => {
                Problem::new(504, "the app did not accept the connection in time")
            }
            (ErrorSource::Upstream, _) => {
                Problem::new(502, "the app behind this address does not answer")
            }
            _ => Problem::new(500, "the request could not be forwarded"),
        };
        let is_final = |answer: &ResponseHeader| {
            !answer.status.is_informational() || answer.status.as_u16() == 101
        };
        if session.response_written().is_some_and(is_final) {
            // Part of an answer is out: all that is left is to break it off.
            return failed(problem.status);
        }
        let status = problem.status;
        match status {
            500.. => warn!(status, %error, "request not forwarded"),
            // Clients must not fill the log.
            _ => debug!(status, %error, "request not forwarded"),
        }
        if let Err(error) = write_plain(session, &problem.into()).await {
            debug!(%error, "the client left before the error could be told");
        }
        failed(status)
    }

    fn suppress_error_log(&self, _: &Session, _: &Progress, _: &Error) -> bool {
        // `fail_to_proxy` has said it, once and with less noise.
        true
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, progress: &mut Progress) {
        if progress.is_ours {
            return;
        }
        let code = session.response_written().map_or(0, |response| response.status.as_u16());
        let metrics = &self.desk.metrics;
        metrics.count_proxied(code);
        metrics.proxy_request_seconds.observe(progress.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_behind_the_trusted_proxies_and_not_further() {
        let side = Side {
            app: AppAddress::Unix { path: "/app".into() },
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            scheme: "http",
        };
        for (peer, chain, client) in [
            ("192.0.2.1", vec![], "192.0.2.1"),
            ("192.0.2.1", vec!["203.0.113.7"], "192.0.2.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", vec!["198.51.100.2, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7", "10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", vec!["203.0.113.7, nonsense"], "10.0.0.1"),
            ("::ffff:10.0.0.1", vec!["203.0.113.7"], "203.0.113.7"),
        ] {
            let values: Vec<&[u8]> = chain.iter().map(|value| value.as_bytes()).collect();
            let found = side.client_address(Some(peer.parse().unwrap()), &values);
            assert_eq!(found, Some(client.parse().unwrap()), "{peer} {chain:?}");
        }
    }
}
