//! Sidestream's own answers on an HTTP/2 stream: complete ones, and the heads of event streams.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{self, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::head;
use super::sink::{Gone, poll_send};
use crate::api::reserved::Plain;

/// How long a client may take to read an answer of ours.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

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

/// A head of ours.
pub fn head_of(status: u16, fields: &[(&str, &str)]) -> http::Response<()> {
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
