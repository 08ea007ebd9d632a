//! Sidestream's own answers on an HTTP/2 stream: complete ones, and the heads of event streams.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{self, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::head;
use super::sink::StreamSink;
use crate::api::reserved::Plain;
use crate::api::transport::Sink;

/// What a client has to take within its time, in bytes.
const STEP: usize = 64 * 1024;

/// Sends an answer that is known whole. A client that takes nothing of it for `patience` has had its
/// chance.
pub async fn send_plain(
    respond: &mut SendResponse<Bytes>,
    plain: Plain,
    is_head: bool,
    patience: Duration,
) {
    let mut fields: Vec<(&str, &str)> =
        plain.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let length = plain.length().to_string();
    // By the standard, 204 has no length.
    if plain.status != 204 {
        fields.push(("content-length", &length));
    }
    let is_whole = is_head || plain.length() == 0;
    let Ok(stream) = respond.send_response(head_of(plain.status, &fields), is_whole) else {
        return;
    };
    if is_whole {
        return;
    }
    let mut sink = StreamSink { stream };
    // Pieces are let go of as they are taken.
    for pieces in steps(plain.body) {
        match timeout(patience, sink.send(&pieces)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return sink.cut(),
        }
    }
    sink.finish();
}

/// The same bytes, at most [`STEP`] of them at a time.
fn steps(body: Vec<Bytes>) -> impl Iterator<Item = Vec<Bytes>> {
    let mut body = body.into_iter();
    let mut rest = Bytes::new();
    std::iter::from_fn(move || {
        let (mut step, mut room) = (Vec::new(), STEP);
        while room > 0 {
            if rest.is_empty() {
                match body.next() {
                    Some(piece) => rest = piece,
                    None => break,
                }
            }
            let piece = rest.split_to(rest.len().min(room));
            room -= piece.len();
            step.push(piece);
        }
        (!step.is_empty()).then_some(step)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_in_steps() {
        let body = [10, 0, STEP, 3 * STEP, 7].map(|length| Bytes::from(vec![b'x'; length]));
        let length: usize = body.iter().map(Bytes::len).sum();
        let taken: Vec<usize> =
            steps(body.to_vec()).map(|step| step.iter().map(Bytes::len).sum()).collect();
        assert_eq!(taken, [STEP, STEP, STEP, STEP, 17]);
        assert_eq!(taken.iter().sum::<usize>(), length);
        assert_eq!(steps(Vec::new()).count(), 0);
    }
}
