//! `sidestream tail`: follows a stream in the terminal, and comes back like a browser.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::event_source::{Event, Parser};
use super::print::{complain, end_with_reader};
use super::{BAD_INPUT, BAD_USAGE, UNAVAILABLE, runtime};
use crate::access::http::Http;

/// The pause before connecting again, unless the stream says one.
const RETRY: Duration = Duration::from_secs(2);
/// A stream that says nothing for so long is taken for dead. Heartbeats come every 15 seconds by
/// default, and at most every hour.
const SILENCE: Duration = Duration::from_secs(3700);
/// So much of a refusal is read, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// Follow a stream in the terminal; reconnects and resumes like a browser.
#[derive(Args)]
pub struct TailArgs {
    /// The stream's URL, for example http://127.0.0.1:8080/_events/orders?status=paid
    url: String,
    /// Begin after the event with this id, instead of now
    #[arg(long, value_name = "ID")]
    last_event_id: Option<String>,
    /// A header field of the request, for example 'Authorization: Bearer …'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Exit after this many events; `ready` does not count
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| "this is not the name of a header field")?;
    let mut value: HeaderValue =
        value.trim().parse().map_err(|_| "this value is not allowed in a header field")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// How it ended.
enum End {
    /// All requested events have arrived, or the output is closed.
    Done,
    /// A message, and an exit code.
    Failed(String, u8),
}

/// Follows the stream until `--count`. Exit code 1: refused. 2: the URL is wrong. 3: no answer.
pub fn tail(args: TailArgs) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("error: no runtime could be started: {error}"));
            return ExitCode::from(UNAVAILABLE);
        }
    };
    match runtime.block_on(follow(args)) {
        End::Done => ExitCode::SUCCESS,
        End::Failed(message, code) => {
            complain(format_args!("error: {message}"));
            ExitCode::from(code)
        }
    }
}

async fn follow(args: TailArgs) -> End {
    let uri: Uri = match args.url.parse() {
        Ok(uri) if is_web(&uri) => uri,
        _ => {
            let message =
                format!("`{}` is not an address: write http://host/_events/stream", args.url);
            return End::Failed(message, BAD_USAGE);
        }
    };
    let mut parser = Parser::starting_at(args.last_event_id.clone().unwrap_or_default());
    let http = Http::default();
    let mut printer = Printer::new(args.count);
    let mut was_open = false;
    if printer.is_done() {
        return End::Done;
    }
    loop {
        match connect(&http, &uri, &args.headers, &parser.last_event_id).await {
            Ok(body) => {
                if !was_open {
                    end_with_reader();
                }
                was_open = true;
                match read(body, &mut parser, &mut printer).await {
                    Some(end) => return end,
                    None => note("the stream ended"),
                }
            }
            Err(TailError::Refused(message)) => return End::Failed(message, BAD_INPUT),
            Err(TailError::Unreachable(reason)) if was_open => {
                note(&format!("not connected: {reason}"))
            }
            // Nothing was there to begin with: most likely another address.
            Err(TailError::Unreachable(reason)) => {
                return End::Failed(
                    format!("cannot connect to {}: {reason}", shown(&uri)),
                    UNAVAILABLE,
                );
            }
        }
        parser.reconnect();
        let pause = parser.retry_millis.map_or(RETRY, Duration::from_millis);
        tokio::time::sleep(pause).await;
    }
}

fn is_web(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
}

/// Without the query, which may hold a token.
fn shown(uri: &Uri) -> String {
    let host = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

enum TailError {
    /// An answer that is no stream; a browser would give up, too.
    Refused(String),
    Unreachable(String),
}

async fn connect(
    http: &Http,
    uri: &Uri,
    headers: &[(HeaderName, HeaderValue)],
    last_event_id: &str,
) -> Result<Incoming, TailError> {
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    if !last_event_id.is_empty() {
        let id = HeaderValue::from_str(last_event_id).map_err(|_| {
            TailError::Refused("the id is not allowed in a header field".to_owned())
        })?;
        fields.insert("last-event-id", id);
    }
    for (name, value) in headers {
        fields.append(name.clone(), value.clone());
    }
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = fields;
    let answer = http.open(request).await.map_err(TailError::Unreachable)?;
    let (head, body) = answer.into_parts();
    let is_stream = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("text/event-stream"));
    if head.status == 200 && is_stream {
        return Ok(body);
    }
    let place = head.headers.get(LOCATION).and_then(|place| place.to_str().ok());
    let text = Limited::new(body, MAX_PROBLEM_BYTES).collect().await;
    let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).into_owned());
    Err(TailError::Refused(refusal(head.status.as_u16(), place, &text.unwrap_or_default())))
}

/// What an answer says that is no stream: the text of a problem (RFC 9457), where it is one.
fn refusal(status: u16, place: Option<&str>, body: &str) -> String {
    if let (300..=399, Some(place)) = (status, place) {
        return format!("{status}: redirected to {place}");
    }
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let said = problem["detail"].as_str().or_else(|| problem["title"].as_str());
    match said {
        Some(said) => format!("{status}: {said}"),
        None if status == 200 => {
            "the answer is not an event stream; is the address right?".to_owned()
        }
        None => {
            let line: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
            format!("{status}: {}", if line.is_empty() { "no reason given" } else { &line })
        }
    }
}

/// Reads until the connection ends (`None`), or there is an end to everything.
async fn read(mut body: Incoming, parser: &mut Parser, printer: &mut Printer) -> Option<End> {
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_)) | None) | Err(_) => return None,
        };
        let Some(bytes) = frame.data_ref() else { continue };
        let events = match parser.take(bytes) {
            Ok(events) => events,
            Err(message) => return Some(End::Failed(message, BAD_INPUT)),
        };
        for event in events {
            if let Err(error) = printer.print(&event) {
                return Some(match error.kind() {
                    // `tail … | head`
                    ErrorKind::BrokenPipe => End::Done,
                    _ => End::Failed(format!("cannot write: {error}"), BAD_INPUT),
                });
            }
            if printer.is_done() {
                return Some(End::Done);
            }
        }
    }
}

/// Beside the events, so that a pipe gets nothing but them.
fn note(text: &str) {
    complain(format_args!("{text}; reconnecting"));
}

/// Lines for people on a terminal, JSON in a pipe.
struct Printer {
    is_terminal: bool,
    has_colours: bool,
    left: Option<u64>,
}

impl Printer {
    fn new(count: Option<u64>) -> Printer {
        let is_terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Printer { is_terminal, has_colours: is_terminal && !no_colour, left: count }
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn print(&mut self, event: &Event) -> io::Result<()> {
        let line = match self.is_terminal {
            true => for_people(event, self.has_colours),
            false => for_machines(event),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        let counts = !matches!(event.kind.as_str(), "ready" | "position");
        if let Some(left) = &mut self.left
            && counts
        {
            *left -= 1;
        }
        Ok(())
    }
}

/// One line of the envelope that other transports have.
fn for_machines(event: &Event) -> String {
    // As it came: numbers keep their digits, and keys their order.
    let data = match serde_json::from_str::<IgnoredAny>(&event.data) {
        // A line break in JSON is only ever a blank.
        Ok(_) => event.data.replace('\n', " "),
        Err(_) => Value::String(event.data.clone()).to_string(),
    };
    let head = match event.id.is_empty() {
        // Before the `ready` of a snapshot there is none.
        true => json!({ "event": event.kind }),
        false => json!({ "id": event.id, "event": event.kind }),
    };
    let head = head.to_string();
    let head = head.trim_end_matches('}');
    format!("{head},\"data\":{data}}}")
}

fn for_people(event: &Event, has_colours: bool) -> String {
    let colour = match event.kind.as_str() {
        "insert" | "document" => "32",
        "update" | "replace" => "36",
        "delete" => "31",
        "reset" | "end" | "snapshot" => "1;33",
        _ => "2",
    };
    // What a terminal would obey is not for showing.
    let clean = |text: &str| -> String {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    };
    let (kind, data) = (clean(&event.kind), clean(&event.data));
    match has_colours {
        true => format!("\x1b[{colour}m{kind:8}\x1b[0m {data}"),
        false => format!("{kind:8} {data}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> Event {
        Event { kind: "update".into(), data: data.into(), id: "82".into() }
    }

    #[test]
    fn lines_for_machines_are_json_as_it_came() {
        assert_eq!(
            for_machines(&event("{\"b\":1.50,\"a\":12345678901234567890123}")),
            "{\"id\":\"82\",\"event\":\"update\",\"data\":{\"b\":1.50,\"a\":12345678901234567890123}}"
        );
        assert_eq!(
            for_machines(&event("x\"y")),
            "{\"id\":\"82\",\"event\":\"update\",\"data\":\"x\\\"y\"}"
        );
        let without_id = Event { id: String::new(), ..event("{}") };
        assert_eq!(for_machines(&without_id), "{\"event\":\"update\",\"data\":{}}");
    }

    #[test]
    fn lines_for_people_hold_nothing_that_a_terminal_obeys() {
        assert_eq!(for_people(&event("a\u{1b}[2Jb"), false), "update   a\u{fffd}[2Jb");
        assert!(for_people(&event("{}"), true).starts_with("\u{1b}[36mupdate  \u{1b}[0m {}"));
    }

    #[test]
    fn refusals_in_words() {
        let rows = [
            (
                404,
                None,
                "{\"title\":\"Not Found\",\"detail\":\"there is no stream `x`\"}",
                "404: there is no stream `x`",
            ),
            (401, None, "{\"title\":\"Unauthorized\"}", "401: Unauthorized"),
            (302, Some("/login"), "", "302: redirected to /login"),
            (200, None, "<html>", "the answer is not an event stream; is the address right?"),
            (502, None, "<html>\n<body>", "502: <html>"),
            (500, None, "", "500: no reason given"),
        ];
        for (status, place, body, expected) in rows {
            assert_eq!(refusal(status, place, body), expected);
        }
    }
}
