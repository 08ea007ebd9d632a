//! `sidestream top`: what the admin port tells, as a table that is drawn again and again.

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::inject::duration;
use super::print::complain;
use super::{BAD_USAGE, Output, UNAVAILABLE};

/// How long the admin port may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than any of its answers, in bytes: a stream takes a few hundred.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Args)]
pub struct TopArgs {
    /// The sidecar's admin port
    #[arg(value_name = "ADMIN-URL", default_value = "http://127.0.0.1:9180")]
    admin: String,
    /// The time between two readings, over which rates are computed
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    interval: Duration,
    /// The order of the streams: by name, or the worst or largest first
    #[arg(long, value_enum, default_value = "name")]
    sort: Sort,
    /// Print one table and exit
    #[arg(long)]
    once: bool,
    /// A table for people, or one JSON object per reading
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

/// An order of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Name,
    /// Broken ones first, then those that wait
    State,
    Listeners,
    /// By events a second
    Rate,
    /// By events so far
    Events,
    /// By bytes encoded so far
    Cost,
}

impl Sort {
    /// Sorts a report's streams, which come by name.
    fn apply(self, report: &mut Value) {
        let Some(streams) = report["streams"].as_array_mut() else { return };
        let number = |value: &Value| value.as_f64().unwrap_or(-1.0);
        let weight = |stream: &Value| match self {
            Sort::Name => 0.0,
            Sort::State => match stream["state"].as_str() {
                Some("broken") => 2.0,
                Some("waiting") => 1.0,
                _ => 0.0,
            },
            Sort::Listeners => number(&stream["subscriptions"]),
            Sort::Rate => number(&stream["events_sent_per_second"]),
            Sort::Events => number(&stream["events_sent"]),
            Sort::Cost => number(&stream["cost"]["delivery_bytes"]),
        };
        streams.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    }
}

pub fn top(args: &TopArgs) -> ExitCode {
    let Some(address) = address_of(&args.admin) else {
        complain(format_args!("error: {}: write it as http://127.0.0.1:9180", args.admin));
        return ExitCode::from(BAD_USAGE);
    };
    match follow(args, address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(format_args!("error: the admin port {} cannot be read: {why}", args.admin));
            ExitCode::from(UNAVAILABLE)
        }
    }
}

/// `HOST:PORT` of the URL; the admin port has no other path and no TLS.
fn address_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    (has_port && !address.contains(['/', '@', ' ', '\r', '\n'])).then_some(address)
}

fn follow(args: &TopArgs, address: &str) -> Result<(), String> {
    let mut before = Sample::take(address)?;
    let is_screen = args.output == Output::Human && !args.once && std::io::stdout().is_terminal();
    loop {
        std::thread::sleep(args.interval);
        let after = Sample::take(address)?;
        let mut report = after.since(&before);
        args.sort.apply(&mut report);
        let text = match args.output {
            Output::Json => format!("{report}\n"),
            // From the top left corner, and nothing of the last table is left.
            Output::Human if is_screen => format!("\x1b[H\x1b[2J{}", table(&report)),
            Output::Human => table(&report),
        };
        let mut out = std::io::stdout().lock();
        // Whoever read it has gone, as `head` does.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || args.once {
            return Ok(());
        }
        before = after;
    }
}

/// One look.
struct Sample {
    overview: Value,
    streams: Value,
}

impl Sample {
    fn take(address: &str) -> Result<Sample, String> {
        Ok(Sample { overview: get(address, "/overview")?, streams: get(address, "/streams")? })
    }

    /// The same with rates: events a second since another look. A counter that went back is that of
    /// another process, of which nothing is known yet.
    fn since(&self, before: &Sample) -> Value {
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

/// Both tables, below a line about the whole.
fn table(report: &Value) -> String {
    let overview = &report["overview"];
    let state = match (overview["ready"].as_bool(), overview["leaving"].as_bool()) {
        (_, Some(true)) => "leaving",
        (Some(true), _) => "ready",
        _ => "not ready",
    };
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = writeln!(
        out,
        "sidestream {}: {state}, {} connections, {} events/s in, {} events/s out",
        text(&overview["version"]),
        text(&overview["connections"]),
        fixed(&overview["events_read_per_second"]),
        fixed(&overview["events_sent_per_second"]),
    );
    for trouble in overview["troubles"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "! {}", text(trouble));
    }
    let upstreams = rows(&report["upstreams"], |it| {
        let journal = it["journal_bytes"].as_f64().unwrap_or(0.0) / (1024.0 * 1024.0);
        [
            format!("{}/{}", text(&it["database"]), text(&it["mode"])),
            text(&it["status"]),
            fixed(&it["lag_seconds"]),
            fixed(&it["oplog_hours"]),
            format!("{journal:.1}"),
            text(&it["routes"]),
        ]
    });
    let heads = ["UPSTREAM", "STATUS", "LAG s", "OPLOG h", "JOURNAL MiB", "ROUTES"];
    let _ = write!(out, "\n{}", aligned(heads, &upstreams));
    let streams = rows(&report["streams"], |it| {
        [
            text(&it["name"]),
            text(&it["state"]),
            text(&it["subscriptions"]),
            fixed(&it["events_sent_per_second"]),
            text(&it["events_sent"]),
            text(&it["reason"]),
        ]
    });
    let heads = ["STREAM", "STATE", "LISTENERS", "EVENTS/s", "EVENTS", "TO KNOW"];
    let _ = write!(out, "\n{}", aligned(heads, &streams));
    out
}

fn rows<const N: usize>(list: &Value, row: impl Fn(&Value) -> [String; N]) -> Vec<[String; N]> {
    list.as_array().into_iter().flatten().map(row).collect()
}

/// Columns as wide as their widest cell; the last one as it comes.
fn aligned<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let body = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(heads)).chain(body).collect()
}

/// For a cell: what a terminal would take for a command is left out.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

fn fixed(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
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
mod tests {
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

    fn sample(uptime: f64, sent: u64) -> Sample {
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

    #[test]
    fn streams_are_sorted_by_what_is_asked_for() {
        let stream = |name: &str, state: &str, listeners: u64, rate: Value, bytes: u64| {
            json!({ "name": name, "state": state, "subscriptions": listeners, "events_sent": bytes,
                "events_sent_per_second": rate, "cost": { "delivery_bytes": bytes } })
        };
        let report = json!({ "streams": [
            stream("a", "ready", 1, json!(2.5), 10),
            stream("b", "broken", 0, Value::Null, 0),
            stream("c", "waiting", 3, json!(1.5), 30),
        ] });
        for (sort, order) in [
            (Sort::Name, "abc"),
            (Sort::State, "bca"),
            (Sort::Listeners, "cab"),
            (Sort::Rate, "acb"),
            (Sort::Events, "cab"),
            (Sort::Cost, "cab"),
        ] {
            let mut sorted = report.clone();
            sort.apply(&mut sorted);
            let names = sorted["streams"].as_array().unwrap().iter();
            let names: String = names.filter_map(|it| it["name"].as_str()).collect();
            assert_eq!(names, order, "{sort:?}");
        }
    }

    #[test]
    fn no_name_moves_the_cursor() {
        let drawn = table(&sample(12.0, 30).since(&sample(10.0, 10)));
        assert!(drawn.contains("a[2J    ready  -          10.0      30      -\n"), "{drawn}");
        assert!(!drawn.contains('\u{1b}'), "{drawn:?}");
    }
}
