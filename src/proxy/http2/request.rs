//! One request over HTTP/2: refused, answered by the handler, or forwarded.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::HeaderValue;
use http::request::Parts;

use super::plain::{head_of, send_plain};
use super::sink::StreamSink;
use super::{ConnectionState, Working, forward, gate};
use crate::api::poll::{BegunPoll, PollAnswer};
use crate::api::problem::Problem;
use crate::api::reserved::{Answer, Opened};
use crate::proxy::path::{self, Target};
use crate::proxy::side::Request;
use crate::tasks::PanicCount;

/// Answers one request.
pub async fn answer(
    shared: Arc<ConnectionState>,
    working: Working,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    let site = &shared.site;
    let _count = PanicCount::new(&site.handler.metrics.task_panics_total, "request");
    let is_head = parts.method == http::Method::HEAD;
    let Some(held) = shared.hold_head(head_size(&parts)) else {
        site.handler.metrics.refused_total.with_label_values(&["heads"]).inc();
        // By the standard, nothing was done and the client may try again.
        return respond.send_reset(h2::Reason::REFUSED_STREAM);
    };
    if let Err(refusal) = gate::check(&parts) {
        drop(working);
        let problem = Problem::new(refusal.status, refusal.reason);
        return refuse(&shared, &mut respond, problem, is_head).await;
    }
    // As bytes of a request line, without scheme and authority.
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes();
    match path::classify(target, &site.prefix) {
        Target::App => {
            Box::pin(forward::forward(&shared, working, parts, held, body, respond)).await;
        }
        Target::Ambiguous => {
            drop(working);
            let problem = Problem::new(
                400,
                "this path is ambiguous: send it without dot segments and without unnecessary \
                 percent-encoding",
            );
            refuse(&shared, &mut respond, problem, is_head).await;
        }
        Target::Reserved { rest } => {
            // Nobody reads it: what still comes is dropped, and the stream's window stays shut.
            drop(body);
            let decided = Box::pin(ask(&shared, &parts, target, &rest)).await;
            match decided {
                Answer::Plain(plain) => {
                    drop(working);
                    send_plain(&mut respond, plain, is_head, site.patience.client).await;
                }
                Answer::Poll(polling) => {
                    let answer = tokio::select! {
                        answer = polling.answer() => Some(answer),
                        _ = poll_fn(|cx| respond.poll_reset(cx)) => None,
                    };
                    match answer {
                        None => {}
                        Some(PollAnswer::Whole(plain)) => {
                            drop(working);
                            send_plain(&mut respond, plain, is_head, site.patience.client).await;
                        }
                        Some(PollAnswer::Begun(begun, fields)) => {
                            drop((held, parts, shared));
                            Box::pin(poll(respond, begun, fields, working)).await;
                        }
                    }
                }
                // Extended CONNECT (RFC 8441) is not offered, so nobody asks for one here.
                Answer::WebSocket(_) => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Answer::Stream(opened, fields) => {
                    if let Some(stream) = stream(respond, opened, &fields, is_head, working) {
                        // A task of its own, so that the memory of this one is given back.
                        tokio::spawn(stream);
                    }
                }
            }
        }
    }
}

/// What a head takes in memory, about.
fn head_size(parts: &Parts) -> usize {
    const FIELD: usize = 64;
    let fields =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}

async fn ask(shared: &ConnectionState, parts: &Parts, target: &[u8], rest: &str) -> Answer {
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
    let ask = site.side.ask_of(request, &values, &site.handler.guard);
    site.handler.answer(ask).await
}

async fn refuse(
    shared: &ConnectionState,
    respond: &mut SendResponse<Bytes>,
    problem: Problem,
    is_head: bool,
) {
    shared.site.handler.metrics.count_proxied(problem.status);
    send_plain(respond, problem.into(), is_head, shared.site.patience.client).await;
}

/// A stream's own task, once its head is out. A block that owns its parts, since a function would
/// keep room for each of them twice.
fn stream(
    mut respond: SendResponse<Bytes>,
    mut opened: Box<Opened>,
    fields: &[(&'static str, String)],
    is_head: bool,
    working: Working,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    let stream = respond.send_response(open_head(fields), is_head).ok().filter(|_| !is_head)?;
    let mut sink = StreamSink { stream };
    Some(async move {
        let _working = working;
        match opened.serve(&mut sink).await.is_cut {
            true => sink.cut(),
            false => sink.finish(),
        }
    })
}

fn open_head(fields: &[(&'static str, String)]) -> http::Response<()> {
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    head_of(200, &fields)
}

/// Sends the answer of a poll as its client takes it.
async fn poll(
    mut respond: SendResponse<Bytes>,
    mut begun: Box<BegunPoll>,
    fields: Vec<(&'static str, String)>,
    _working: Working,
) {
    let Ok(stream) = respond.send_response(open_head(&fields), false) else { return };
    let mut sink = StreamSink { stream };
    match begun.serve(&mut sink).await.is_cut {
        true => sink.cut(),
        false => sink.finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> Option<F>) -> usize {
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
