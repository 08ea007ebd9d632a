//! One request over HTTP/2: refused, answered by the desk, or forwarded.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use tokio::time::timeout;

use super::sink::{Gone, StreamSink, poll_send};
use super::{Shared, forward, gate, head};
use crate::api::problem::Problem;
use crate::api::reserved::{Answer, Opened, Plain};
use crate::proxy::path::{self, Target};
use crate::proxy::side::Request;

/// How long a client may take to read an answer of ours.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Answers one request.
pub async fn answer(
    shared: Arc<Shared>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    let site = &shared.site;
    let is_head = parts.method == http::Method::HEAD;
    if let Err(refusal) = gate::check(&parts) {
        let problem = Problem::new(refusal.status, refusal.reason);
        return refuse(&shared, &mut respond, problem, is_head).await;
    }
    // As bytes of a request line, without scheme and authority.
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes();
    match path::classify(target, &site.prefix) {
        Target::App => Box::pin(forward::forward(&shared, &parts, body, respond)).await,
        Target::Ambiguous => {
            let problem = Problem::new(
                400,
                "this path can be read as two different ones: send it without encoded or dot \
                 segments",
            );
            refuse(&shared, &mut respond, problem, is_head).await;
        }
        Target::Reserved { rest } => {
            // Nobody reads it: what still comes is dropped, and the stream's window stays shut.
            drop(body);
            let decided = Box::pin(ask(&shared, &parts, target, &rest)).await;
            match decided {
                Answer::Plain(plain) => send_plain(&mut respond, plain, is_head).await,
                Answer::Stream(opened, fields) => {
                    if let Some(stream) = stream(respond, opened, &fields, is_head) {
                        // A task of its own, so that the memory of this one is given back.
                        tokio::spawn(stream);
                    }
                }
            }
        }
    }
}

async fn ask(shared: &Shared, parts: &Parts, target: &[u8], rest: &str) -> Answer {
    let site = &shared.site;
    let values = |name: &str| -> Vec<&[u8]> {
        parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
    };
    let request = Request {
        method: parts.method.as_str(),
        rest,
        query: path::query_of(target),
        host: Some(gate::host_of(parts)),
        peer: shared.peer,
        is_upgrade: false,
    };
    let ask = site.side.ask_of(request, &values, &site.desk.guard);
    site.desk.answer(ask).await
}

async fn refuse(
    shared: &Shared,
    respond: &mut SendResponse<Bytes>,
    problem: Problem,
    is_head: bool,
) {
    shared.site.desk.metrics.count_proxied(problem.status);
    send_plain(respond, problem.into(), is_head).await;
}

/// Sends an answer that is known whole. A client that does not read it has had its chance.
pub async fn send_plain(respond: &mut SendResponse<Bytes>, plain: Plain, is_head: bool) {
    let mut fields: Vec<(&str, &str)> =
        plain.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let length = plain.body.len().to_string();
    // By the standard, 204 has no length.
    if plain.status != 204 {
        fields.push(("content-length", &length));
    }
    let is_whole = is_head || plain.body.is_empty();
    let Ok(mut stream) = respond.send_response(head_of(plain.status, &fields), is_whole) else {
        return;
    };
    if is_whole {
        return;
    }
    let mut body = plain.body.clone();
    let sent = poll_fn(|cx| poll_send(&mut stream, cx, &mut body, true));
    if let Ok(Ok(()) | Err(Gone)) = timeout(ANSWER_DEADLINE, sent).await {
        return;
    }
    stream.send_reset(h2::Reason::CANCEL);
}

fn head_of(status: u16, fields: &[(&str, &str)]) -> http::Response<()> {
    let mut answer = http::Response::new(());
    *answer.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in fields {
        // Ours are well-formed, but for what may come from a request or from settings.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            answer.headers_mut().append(name, value);
        }
    }
    answer.headers_mut().insert(header::DATE, head::date());
    answer
}

/// A stream's own task, once its head is out. A block that owns its parts, since a function would
/// keep room for each of them twice.
fn stream(
    mut respond: SendResponse<Bytes>,
    mut opened: Box<Opened>,
    fields: &[(&'static str, String)],
    is_head: bool,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    let head = {
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        head_of(200, &fields)
    };
    let stream = respond.send_response(head, is_head).ok().filter(|_| !is_head)?;
    let mut sink = StreamSink { stream };
    Some(async move {
        match opened.serve(&mut sink).await.is_cut {
            true => sink.cut(),
            false => sink.finish(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> Option<F>) -> usize {
        size_of::<F>()
    }

    // There may be ten thousands of these, almost all of them idle. With what tokio adds it is a
    // kibibyte.
    #[test]
    fn an_idle_stream_is_small() {
        let bytes = size(stream);
        assert!(bytes <= 896, "{bytes} bytes");
    }
}
