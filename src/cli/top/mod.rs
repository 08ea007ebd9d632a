//! `sidestream top`: what the admin port says, as a live table in the terminal; in a pipe, as text or
//! JSON.

mod sample;
mod screen;
mod table;
mod view;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use self::sample::{Sample, address_of};
use self::screen::Left;
use self::table::table;
use super::inject::duration;
use super::print::complain;
use super::{BAD_USAGE, Output, UNAVAILABLE};

/// Show a sidecar's change streams and streams, with their rates, as a live table.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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
    /// As `--sort` names it.
    fn name(self) -> &'static str {
        match self {
            Sort::Name => "name",
            Sort::State => "state",
            Sort::Listeners => "listeners",
            Sort::Rate => "rate",
            Sort::Events => "events",
            Sort::Cost => "cost",
        }
    }

    /// The order that comes so many places after this one.
    fn next(self, places: usize) -> Sort {
        let all = Sort::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or_default();
        all[(at + places) % all.len()]
    }

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

/// Shows the table, or prints it. Exit code 2: the address is wrong. 3: the admin port does not
/// answer. 128 and more: a signal ended it.
pub fn top(args: &TopArgs) -> ExitCode {
    let Some(address) = address_of(&args.admin) else {
        complain(format_args!("error: {}: write it as http://127.0.0.1:9180", args.admin));
        return ExitCode::from(BAD_USAGE);
    };
    match follow(args, address) {
        Ok(left) => ExitCode::from(left.code()),
        Err(why) => {
            complain(format_args!("error: the admin port {} cannot be read: {why}", args.admin));
            ExitCode::from(UNAVAILABLE)
        }
    }
}

fn follow(args: &TopArgs, address: &str) -> Result<Left, String> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.output == Output::Human && !args.once && is_terminal {
        return screen::run(address, args.interval, args.sort);
    }
    let mut before = Sample::take(address)?;
    loop {
        std::thread::sleep(args.interval);
        let after = Sample::take(address)?;
        let mut report = after.since(&before);
        args.sort.apply(&mut report);
        let text = match args.output {
            Output::Json => format!("{report}\n"),
            Output::Human => table(&report),
        };
        let mut out = std::io::stdout().lock();
        // Whoever read it has gone, as `head` does.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || args.once {
            return Ok(Left::Quit);
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
