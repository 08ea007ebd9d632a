//! What is open, and how the sidecar as a whole is doing: names, counts and positions.

use std::collections::HashSet;

use http::Response;
use prometheus::core::Collector;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::feed::Status;

impl Admin {
    /// Names, counts and positions; no parameter values, no claims, no addresses.
    pub(super) fn streams(&self) -> Response<Vec<u8>> {
        let declared = self.catalog.declared();
        let with_snapshot: HashSet<&str> = declared
            .iter()
            .filter(|filter| filter.snapshot().is_some())
            .map(|filter| filter.name.as_str())
            .collect();
        let repeated = self.catalog.shared.listeners.repeated();
        let streams: Vec<Value> = self
            .catalog
            .streams()
            .iter()
            .map(|stream| {
                let name = &stream.name;
                // Asked for, a label is there: not for streams that never were in force.
                let (open, sent) = match stream.is_in_force {
                    true => (
                        self.metrics.subscriptions.with_label_values(&[name]).get(),
                        self.metrics.events_sent_total.with_label_values(&[name]).get(),
                    ),
                    false => (0, 0),
                };
                let (tally, values) = match self.catalog.find(name) {
                    Ok(found) => found.feed().tally(name),
                    Err(_) => Default::default(),
                };
                let repeated = repeated.get(name).map_or(0, |count| *count as i64);
                json!({
                    "name": name,
                    "state": stream.state.name(),
                    "reason": stream.reason,
                    "snapshot": with_snapshot.contains(name.as_str()),
                    // Counted one after the other, while connections come and go.
                    "connections": (open - repeated).max(0),
                    "subscriptions": open,
                    "events_sent": sent,
                    "last_event": tally.newest_millis.and_then(time_of),
                    "cost": {
                        "values": values,
                        "deliveries": tally.deliveries,
                        "delivery_bytes": tally.bytes,
                    },
                })
            })
            .collect();
        let oplog_hours = self.catalog.oplog().map(|reach| reach.as_secs_f64() / 3600.0);
        let upstreams: Vec<Value> = self
            .catalog
            .feeds()
            .iter()
            .map(|feed| {
                let status = match feed.status() {
                    Status::Starting => "starting",
                    Status::Live => "live",
                    Status::Away(_) => "away",
                };
                json!({
                    "database": feed.key().database,
                    "mode": feed.key().mode(),
                    "status": status,
                    "lag_seconds": feed.lag_seconds(),
                    "position": feed.now().map(|(head, _)| head.without_document().to_string()),
                    "oplog_hours": oplog_hours,
                    "routes": feed.route_count(),
                    "journal_bytes": feed.journal_bytes(),
                })
            })
            .collect();
        super::json(200, &json!({ "streams": streams, "upstreams": upstreams }))
    }

    /// The numbers that the console and `sidestream top` show. Counters count from the start of the
    /// process: whoever wants a rate asks twice, and divides by the difference of `uptime_seconds`.
    pub(super) fn overview(&self) -> Response<Vec<u8>> {
        let metrics = &self.metrics;
        let feeds = self.catalog.feeds();
        let lag = feeds.iter().filter_map(|feed| feed.lag_seconds()).reduce(f64::max);
        let bytes: usize = feeds.iter().map(|feed| feed.journal_bytes()).sum();
        let limit = self.journal_limit.saturating_mul(feeds.len());
        super::json(
            200,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_seconds": self.started_at.elapsed().as_secs_f64(),
                "ready": !self.drain.is_leaving() && self.catalog.is_ready(),
                "leaving": self.drain.is_leaving(),
                "troubles": self.catalog.troubles(),
                "lag_seconds": lag,
                "oplog_hours": self.catalog.oplog().map(|reach| reach.as_secs_f64() / 3600.0),
                "cursors": metrics.upstream_cursors.get(),
                "replay_cursors": metrics.replay_cursors.get(),
                "journal_bytes": bytes,
                "journal_limit_bytes": limit,
                "connections": total(&metrics.connections),
                "events_read": total(&metrics.events_read_total),
                "events_sent": total(&metrics.events_sent_total),
                "events_read_by_upstream": by_label(&metrics.events_read_total),
                "resets": by_label(&metrics.resets_total),
                "refused": by_label(&metrics.refused_total),
                "ended": by_label(&metrics.streams_ended_total),
                "slow_clients": metrics.slow_clients_total.get(),
                "requests": total(&metrics.proxy_requests_total),
            }),
        )
    }
}

/// As RFC 3339 has it.
fn time_of(millis: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(millis).ok().map(|time| time.to_string())
}

/// Every value of a metric by its label; of several labels, by the first in the alphabet.
fn values(metric: &impl Collector) -> Vec<(String, u64)> {
    let mut values = Vec::new();
    for family in metric.collect() {
        for one in family.get_metric() {
            let label = one.get_label().first().map_or("", |label| label.value());
            // One of both is 0: a metric is a counter or a gauge. Counts are whole, never negative
            // for long, and far from 2^53.
            let value = one.get_counter().get_value() + one.get_gauge().get_value();
            values.push((label.to_owned(), value.max(0.0) as u64));
        }
    }
    values
}

fn total(metric: &impl Collector) -> u64 {
    values(metric).iter().map(|(_, value)| value).sum()
}

fn by_label(metric: &impl Collector) -> Value {
    let values = values(metric).into_iter().map(|(label, value)| (label, value.into()));
    Value::Object(values.collect::<Map<_, _>>())
}
