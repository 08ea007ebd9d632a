//! What the admin port says at one moment, and what has happened between two of them.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// How long the admin port may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than any of its answers, in bytes: a stream takes a few hundred.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// `HOST:PORT` of the URL; the admin port has no other path and no TLS.
pub(super) fn address_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    (has_port && !address.contains(['/', '@', ' ', '\r', '\n'])).then_some(address)
}

/// One look.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    overview: Value,
    streams: Value,
}

impl Sample {
    pub(super) fn take(address: &str) -> Result<Sample, String> {
        Ok(Sample { overview: get(address, "/overview")?, streams: get(address, "/streams")? })
    }

    /// The same with rates: events a second since another look. A counter that went back is that of
    /// another process, of which nothing is known yet.
    pub(super) fn since(&self, before: &Sample) -> Value {
        let uptime = |sample: &Sample| sample.overview["uptime_seconds"].as_f64().unwrap_or(0.0);
        let seconds = uptime(self) - uptime(before);
        let rate = |now: &Value, then: &Value| match (now.as_u64(), then.as_u64()) {
            (Some(now), Some(then)) if seconds > 0.0 && now >= then => {
                json!((now - then) as f64 / seconds)
            }
            _ => Value::Null,
        };
        let mut overview = self.overview.clone();
        for (name, counter) in
            [("events_read_per_second", "events_read"), ("events_sent_per_second", "events_sent")]
        {
            overview[name] = rate(&self.overview[counter], &before.overview[counter]);
        }
        let mut streams = self.streams["streams"].clone();
        for stream in streams.as_array_mut().into_iter().flatten() {
            let mut of_before = before.streams["streams"].as_array().into_iter().flatten();
            let then = of_before.find(|other| other["name"] == stream["name"]);
            let then = then.map_or(&Value::Null, |then| &then["events_sent"]);
            stream["events_sent_per_second"] = rate(&stream["events_sent"], then);
        }
        json!({
            "overview": overview, "upstreams": self.streams["upstreams"], "streams": streams,
        })
    }
}

/// The listeners of a stream, those that lag most first.
pub(super) fn listeners(address: &str, stream: &str) -> Result<Value, String> {
    let stream = utf8_percent_encode(stream, NON_ALPHANUMERIC);
    get(address, &format!("/listeners?stream={stream}"))
}

/// Asks the admin port for one of its JSON pages.
fn get(address: &str, path: &str) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let resolved = address.to_socket_addrs().map_err(text)?.next().ok_or("it is not an address")?;
    let mut socket = TcpStream::connect_timeout(&resolved, TIMEOUT).map_err(text)?;
    socket.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    socket.set_write_timeout(Some(TIMEOUT)).map_err(text)?;
    // By its address, which it always answers to. HTTP/1.0: the answer ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {resolved}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    socket.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map_err(text)?;
    let split = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(split.ok_or("the answer is not HTTP")?);
    let status = std::str::from_utf8(head).ok().and_then(|head| head.split(' ').nth(1));
    match status {
        Some("200") => serde_json::from_slice(&body[4..])
            .map_err(|error| format!("{path} did not return the JSON of an admin port: {error}")),
        Some(status) => Err(format!("it answered {path} with status {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_or_refused() {
        for (url, address) in [
            ("http://127.0.0.1:9180", Some("127.0.0.1:9180")),
            ("http://[::1]:9180/", Some("[::1]:9180")),
            ("localhost:1", Some("localhost:1")),
            ("http://127.0.0.1", None),
            ("https://127.0.0.1:9180", None),
            ("http://a:1/streams", None),
            ("http://a:0", None),
            ("http://:1", None),
            ("http://a b:1", None),
        ] {
            assert_eq!(address_of(url), address, "{url}");
        }
    }

    /// With these streams.
    pub(in crate::cli::top) fn of(uptime: f64, streams: &[Value]) -> Sample {
        let overview = json!({ "uptime_seconds": uptime, "ready": true });
        Sample { overview, streams: json!({ "streams": streams, "upstreams": [] }) }
    }

    pub(in crate::cli::top) fn sample(uptime: f64, sent: u64) -> Sample {
        let overview = json!({ "uptime_seconds": uptime, "events_sent": sent, "ready": true });
        let stream = json!({ "name": "a\u{1b}[2J", "state": "ready", "events_sent": sent });
        Sample { overview, streams: json!({ "streams": [stream], "upstreams": [] }) }
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let report = sample(12.0, 30).since(&sample(10.0, 10));
        assert_eq!(report["streams"][0]["events_sent_per_second"], 10.0);
        assert_eq!(report["overview"]["events_sent_per_second"], 10.0);
        // The process was started again.
        let report = sample(1.0, 3).since(&sample(10.0, 10));
        assert_eq!(report["streams"][0]["events_sent_per_second"], Value::Null);
    }
}
