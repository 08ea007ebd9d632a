//! A client over HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::PATIENCE;

pub type Sender = SendRequest<BoxBody<Bytes, Infallible>>;

pub async fn open(address: SocketAddr) -> Sender {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

pub fn nothing() -> BoxBody<Bytes, Infallible> {
    Empty::new().boxed()
}

/// A request that says it takes trailers.
pub fn request(
    method: &str,
    case: &str,
    body: BoxBody<Bytes, Infallible>,
) -> Request<BoxBody<Bytes, Infallible>> {
    Request::builder()
        .method(method)
        .uri("http://app.test/%2e//x?y=%20")
        .header("x-case", case)
        .header("te", "trailers")
        .body(body)
        .expect("a request")
}

pub async fn send_to(
    sender: &mut Sender,
    request: Request<BoxBody<Bytes, Infallible>>,
) -> Response<Incoming> {
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
    answer.await.expect("an answer in time").expect("an answer")
}

/// An answer to its end.
pub async fn whole(answer: Response<Incoming>) -> (Bytes, Option<HeaderMap>) {
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect());
    let body = body.await.expect("a body in time").expect("a body");
    let trailers = body.trailers().cloned();
    (body.to_bytes(), trailers)
}
