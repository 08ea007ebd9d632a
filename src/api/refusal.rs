//! Why a request on the reserved path gets no stream, and the response for it.
//!
//! A browser's `EventSource` gives up for good on any status but 200. To a request that accepts
//! `text/event-stream` by name, a temporary failure is therefore a stream that ends at once and
//! says when to reconnect.

use std::time::Duration;

use bytes::Bytes;

use super::problem::Problem;
use super::reserved::Plain;
use super::sse;

/// How long clients wait before they reconnect when a limit is reached, in seconds.
const FULL_SECONDS: std::ops::Range<f64> = 30.0..120.0;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    problem: Problem,
    /// When to reconnect, if the condition is temporary.
    pause: Option<Duration>,
}

impl From<Problem> for Refusal {
    /// A refusal that is not temporary.
    fn from(problem: Problem) -> Refusal {
        Refusal { problem, pause: None }
    }
}

impl Refusal {
    /// A short temporary condition. `retry` is the time after which clients reconnect after a cut.
    pub fn passing(status: u16, detail: impl Into<String>, retry: Duration) -> Refusal {
        // Spread, so that those who came together do not come back together.
        Refusal::until(status, detail, retry.mul_f64(1.0 + 4.0 * fastrand::f64()))
    }

    /// A limit is reached.
    pub fn full(status: u16, detail: impl Into<String>) -> Refusal {
        let spread = FULL_SECONDS.end - FULL_SECONDS.start;
        let seconds = FULL_SECONDS.start + spread * fastrand::f64();
        Refusal::until(status, detail, Duration::from_secs_f64(seconds))
    }

    fn until(status: u16, detail: impl Into<String>, pause: Duration) -> Refusal {
        Refusal { problem: Problem::new(status, detail), pause: Some(pause) }
    }

    /// Names the stream, where there are several.
    #[must_use]
    pub fn of_stream(mut self, name: &str) -> Refusal {
        self.problem.detail = format!("stream `{name}`: {}", self.problem.detail);
        self
    }

    /// What to tell a client that is not answered over HTTP, as on a WebSocket.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The real status, for metrics, whatever response the client receives.
    pub fn status(&self) -> u16 {
        self.problem.status
    }

    /// The response; `is_event_stream`: for a request that accepts event streams by name.
    pub fn into_answer(self, is_event_stream: bool) -> Plain {
        let Refusal { problem, pause } = self;
        let Some(pause) = pause else { return problem.into() };
        let after = ("Retry-After", pause.as_secs_f64().ceil().to_string());
        if !is_event_stream {
            let mut plain = Plain::from(problem);
            plain.headers.push(after);
            return plain;
        }
        let mut headers = sse::HEADERS.map(|(name, value)| (name, value.to_string())).to_vec();
        headers.push(after);
        // It may name what the client sent.
        let ends_lines = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let comment = problem.detail.replace(ends_lines, " ");
        let body = format!("retry: {}\n: {comment}\n", pause.as_millis());
        Plain { status: 200, headers, body: vec![Bytes::from(body)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_will_pass_is_no_status_to_an_event_source() {
        let retry = Duration::from_secs(2);
        for (refusal, seconds) in [
            (Refusal::passing(503, "shutting down", retry), 2.0..=10.0),
            (Refusal::full(429, "too many"), 30.0..=120.0),
        ] {
            let (status, detail) = (refusal.status(), refusal.problem.detail.clone());
            let told = refusal.clone().into_answer(true);
            assert_eq!(told.status, 200);
            let body = String::from_utf8(told.body.concat()).unwrap();
            let (first, rest) = body.split_once('\n').unwrap();
            let millis: u32 = first.strip_prefix("retry: ").unwrap().parse().unwrap();
            assert!(seconds.contains(&(f64::from(millis) / 1000.0)), "{millis}");
            assert_eq!(rest, format!(": {detail}\n"));
            let other = refusal.into_answer(false);
            assert_eq!(other.status, status);
            for plain in [&told, &other] {
                let after = plain.headers.iter().find(|(name, _)| *name == "Retry-After").unwrap();
                let after: f64 = after.1.parse().unwrap();
                assert!(after >= f64::from(millis) / 1000.0, "{after}");
            }
        }
        let named = Refusal::full(429, "too many").of_stream("a\nid: 1\r\u{85}\u{2028}b");
        let body = String::from_utf8(named.into_answer(true).body.concat()).unwrap();
        assert!(body.ends_with("\n: stream `a id: 1   b`: too many\n"), "{body:?}");
        let last = Refusal::from(Problem::new(404, "no such stream")).into_answer(true);
        assert_eq!(last.status, 404);
    }
}
