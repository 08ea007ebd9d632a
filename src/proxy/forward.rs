//! The app behind us, as pingora's `ProxyHttp`: forwards unchanged, adds `X-Forwarded-*`, and says
//! what is wrong when the app is away. HTTP/2 streams on the reserved path are answered here.
//!
//! Nothing in this file depends on MongoDB or on filter files.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorSource, ErrorType, OrErr};
use tracing::{debug, warn};

use super::carry;
use super::chunks::Malformed;
use super::exchange::{Exchange, Plan};
use super::fields::{
    Trailing, as_http1, date_of, host_of, join_cookies, keep_trailer_fields, remove_hop_by_hop,
};
use super::follow::{self, CONNECT_TIMEOUT, Follow};
use super::gate;
use super::io::Connection;
use super::path::{self, Target};
use super::reserved::{Answer, Ask, Desk, Opened, Plain};
use super::tls::Secure;
use crate::access::{Guard, Origin};
use crate::config::AppAddress;
use crate::transport::Sink;
use crate::transport::problem::Problem;

/// Idle connections to the app are kept this long, less than most apps keep them.
const APP_IDLE: Duration = Duration::from_secs(4);
/// How long a resolved name of the app is used.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

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
    pub resolved: Mutex<Option<Resolved>>,
    /// For an app that speaks TLS.
    pub secure: Option<Secure>,
}

/// The app's addresses, and when they were looked up.
pub struct Resolved {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

/// One request on its way.
pub struct Progress {
    began: Instant,
    /// Addresses of the app that did not take the connection.
    failures: usize,
    /// Answered here, not by the app.
    is_ours: bool,
    /// Shared with the client's connection; HTTP/2 has none.
    exchange: Option<Arc<Exchange>>,
}

impl Forward {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if let Some(resolved) = &*self.resolved.lock()
            && resolved.at.elapsed() < RESOLVED_FOR
        {
            return Ok(resolved.addresses.clone());
        }
        let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
        let resolved = Resolved { addresses: addresses.clone(), at: Instant::now() };
        *self.resolved.lock() = Some(resolved);
        Ok(addresses)
    }

    async fn peer(&self, failures: usize, follow: Option<Follow>) -> pingora::Result<HttpPeer> {
        let mut peer = match &self.side.app {
            AppAddress::Unix { path } => {
                HttpPeer::new_uds(path.to_str().unwrap_or_default(), false, String::new())?
            }
            AppAddress::Tcp { host, port, tls } => {
                let addresses = self
                    .addresses(host, *port)
                    .await
                    .or_err(ErrorType::ConnectNoRoute, "the app's host name cannot be resolved")
                    .map_err(|error| error.into_up())?;
                let address =
                    addresses.get(failures % addresses.len().max(1)).ok_or_else(|| {
                        Error::explain(
                            ErrorType::ConnectNoRoute,
                            "the app's host name has no address",
                        )
                        .into_up()
                    })?;
                // A connection that is followed speaks TLS by itself.
                HttpPeer::new(address, *tls && follow.is_none(), host.clone())
            }
        };
        if let Some(follow) = follow {
            // Never shared: nothing may take it for one of pingora's own.
            peer.group_key = 1;
            peer.options.custom_l4 = Some(Arc::new(follow));
            peer.options.idle_timeout = Some(Duration::ZERO);
            return Ok(peer);
        }
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.idle_timeout = Some(APP_IDLE);
        Ok(peer)
    }

    fn address_count(&self) -> usize {
        self.resolved.lock().as_ref().map_or(1, |resolved| resolved.addresses.len())
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
        let mut failures = 0;
        let socket = loop {
            let peer = self.peer(failures, None).await?;
            match follow::connect(peer.address(), self.secure.as_ref()).await {
                Ok(socket) => break socket,
                Err(error) if failures + 1 >= self.address_count() => return Err(error),
                Err(_) => failures += 1,
            }
        };
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

/// Whether pingora would lose what this client asked for: the trailers of an answer.
fn is_carried(session: &Session) -> bool {
    let request = session.req_header();
    matches!(&*session.downstream_session, ServerSession::H2(_))
        && request.method != http::Method::CONNECT
        && Trailing::of(request).is_wanted
}

/// The exchange of a request that came over HTTP/1.
fn exchange_of(session: &Session) -> Option<Arc<Exchange>> {
    let ServerSession::H1(session) = &*session.downstream_session else { return None };
    let connection = (**session.stream()).as_any().downcast_ref::<Connection>()?;
    Some(connection.exchange().clone())
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
        Progress { began: Instant::now(), failures: 0, is_ours: false, exchange: None }
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        progress: &mut Progress,
    ) -> pingora::Result<bool> {
        progress.exchange = exchange_of(session);
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
        session: &mut Session,
        progress: &mut Progress,
    ) -> pingora::Result<Box<HttpPeer>> {
        let request = session.req_header();
        let trailing = Trailing::of(request);
        let follow = match &progress.exchange {
            Some(exchange) if trailing.is_any() => Some(Follow {
                exchange: exchange.clone(),
                is_request_chunked: trailing.is_chunked,
                is_head: request.method == http::Method::HEAD,
                secure: self.secure.clone(),
            }),
            _ => None,
        };
        self.peer(progress.failures, follow).await.map(Box::new)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        progress: &mut Progress,
    ) -> pingora::Result<()> {
        if progress.exchange.is_some() {
            keep_trailer_fields(session.req_header(), request)?;
        }
        if session.req_header().version == http::Version::HTTP_2 {
            join_cookies(request)?;
        }
        self.set_forwarded(session, request)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        progress: &mut Progress,
    ) -> pingora::Result<()> {
        if answer.status == http::StatusCode::SWITCHING_PROTOCOLS {
            if let Some(exchange) = &progress.exchange {
                exchange.set_upgraded();
            }
            return Ok(());
        }
        remove_hop_by_hop(answer);
        if answer.status.is_informational() {
            return Ok(());
        }
        let Some(exchange) = &progress.exchange else { return Ok(()) };
        let request = session.req_header();
        if request.version == http::Version::HTTP_10 {
            // Came before chunks: the end of the connection ends the body.
            answer.remove_header(&header::TRANSFER_ENCODING);
        }
        let has_body =
            request.method != http::Method::HEAD && !matches!(answer.status.as_u16(), 204 | 304);
        exchange.set_plan(Plan {
            date: date_of(answer),
            is_chunked: has_body && answer.headers.contains_key(header::TRANSFER_ENCODING),
        });
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
        if progress.failures < self.address_count() {
            error.set_retry(true);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        progress: &mut Progress,
    ) -> FailToProxy {
        let failed = |error_code| FailToProxy { error_code, can_reuse_downstream: false };
        let is_malformed =
            progress.exchange.as_ref().is_some_and(|exchange| exchange.is_malformed());
        let problem = match (error.esource(), error.etype()) {
            _ if is_malformed => Problem::new(400, Malformed.to_string()),
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
        metrics.proxy_requests_total.with_label_values(&[code.to_string()]).inc();
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
