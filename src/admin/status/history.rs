//! The last minutes: what was counted every few seconds, so that a page that was just opened has its curves.
//!
//! Limits: [`SAMPLES`] of them, each with a handful of sums and the counters that are told with what was added to them lately;
//! their labels are closed sets. Nothing here fails.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::figures::{Distribution, Figures, Table};

/// Between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(5);
/// Five minutes of them, and the one that they are counted from.
const SAMPLES: usize = 61;

type Track = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static [&'static str])>,
);

/// Curves: name, family, and the label with the values that belong to it; none: all.
const TRACKS: [Track; 15] = [
    ("sessions", "sessions_open", None),
    ("connections", "connections_open", None),
    ("logins_ok", "logins_total", Some(("result", &["ok"]))),
    (
        "logins_client",
        "login_failures_total",
        Some(("blame", &["client"])),
    ),
    (
        "logins_own",
        "login_failures_total",
        Some(("blame", &["directory", "entry", "local", "node", "policy"])),
    ),
    (
        "logins_ordered",
        "login_failures_total",
        Some(("blame", &["administrator"])),
    ),
    (
        "delivered",
        "deliveries_total",
        Some(("result", &["delivered"])),
    ),
    ("recipients", "deliveries_total", None),
    ("bytes", "relay_bytes_total", None),
    ("handed_over", "handovers_total", Some(("result", &["ok"]))),
    ("handovers", "handovers_total", None),
    ("stored", "stored_total", Some(("result", &["stored"]))),
    ("messages", "stored_total", None),
    ("cpu", "process_cpu_seconds_total", None),
    ("memory", "process_resident_memory_bytes", None),
];

/// Counters that are told in all and of the last minutes: name, family, labels.
const COUNTS: [(&str, &str, &[&str]); 15] = [
    ("logins", "logins_total", &["result"]),
    ("failures", "login_failures_total", &["stage", "blame"]),
    ("outcomes", "sessions_total", &["outcome"]),
    ("shed", "connections_shed_total", &["reason"]),
    ("cache", "directory_cache_total", &["result"]),
    ("lookups", "directory_lookups_total", &["result"]),
    ("changes", "directory_changes_total", &["change"]),
    ("revoked", "sessions_revoked_total", &["reason"]),
    ("policy", "policy_requests_total", &["command", "result"]),
    ("links", "node_connects_total", &["node", "result"]),
    ("handshakes", "handshakes_total", &["side", "result"]),
    ("deliveries", "deliveries_total", &["result"]),
    ("handovers", "handovers_total", &["kind", "result"]),
    ("stored", "stored_total", &["kind", "result"]),
    ("relayed", "relay_bytes_total", &["direction"]),
];

/// The samples, oldest first.
#[derive(Default)]
pub(super) struct History(VecDeque<Sample>);

/// What was counted at one time.
#[derive(Clone)]
pub(super) struct Sample {
    /// Seconds since 1970.
    at: f64,
    tracks: [f64; TRACKS.len()],
    counts: [Table; COUNTS.len()],
    stages: BTreeMap<String, Distribution>,
    opens: BTreeMap<String, Distribution>,
}

/// The full name of a family of ours.
pub(super) fn full(name: &str) -> String {
    if name.starts_with("process_") {
        name.to_owned()
    } else {
        format!("pigeonair_{name}")
    }
}

/// A number as JSON has it: whole if it is.
pub(super) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[allow(clippy::cast_possible_truncation, reason = "whole, and in range")]
        return json!(value as i64);
    }
    json!(value)
}

impl Sample {
    pub(super) fn new(at: f64, figures: &Figures) -> Self {
        let track = |family: &str, only: Option<(&str, &[&str])>| {
            let family = full(family);
            match only {
                None => figures.sum(&family).unwrap_or(0.0),
                Some((label, values)) => {
                    let values = values.iter();
                    values
                        .map(|value| figures.sum_where(&family, label, value))
                        .sum()
                }
            }
        };
        Self {
            at,
            tracks: TRACKS.map(|(_, family, only)| track(family, only)),
            counts: COUNTS.map(|(_, family, labels)| figures.by(&full(family), labels)),
            stages: figures.distributions(&full("stage_seconds"), "stage"),
            opens: figures.distributions(&full("node_open_seconds"), "node"),
        }
    }

    /// How much was added to counters with these labels after `earlier`.
    pub(super) fn added(&self, earlier: &Self, table: &str, labels: &[&str]) -> f64 {
        let index = COUNTS.iter().position(|(name, _, _)| *name == table);
        let value = |sample: &Self| {
            let table = index.and_then(|index| sample.counts.get(index))?;
            let rows = table.iter().filter(|(key, _)| key.iter().eq(labels));
            Some(rows.map(|(_, value)| value).sum::<f64>())
        };
        value(self).unwrap_or(0.0) - value(earlier).unwrap_or(0.0)
    }

    /// The rows of one table: labels, `total`, and `recent`: what came after `earlier`.
    fn rows(&self, earlier: &Self, index: usize, labels: &[&str]) -> Vec<Value> {
        let (Some(now), Some(then)) = (self.counts.get(index), earlier.counts.get(index)) else {
            return Vec::new();
        };
        let rows = now.iter().map(|(key, total)| {
            let before = then.get(key).copied().unwrap_or(0.0);
            let mut row = Map::new();
            for (name, value) in labels.iter().zip(key) {
                row.insert((*name).to_owned(), value.as_str().into());
            }
            row.insert("total".to_owned(), number(*total));
            row.insert("recent".to_owned(), number(total - before));
            row.into()
        });
        rows.collect()
    }

    pub(super) fn counts(&self, earlier: &Self) -> Value {
        let tables = COUNTS.iter().enumerate();
        let tables = tables.map(|(index, (name, _, labels))| {
            let rows = self.rows(earlier, index, labels);
            ((*name).to_owned(), rows.into())
        });
        Value::Object(tables.collect())
    }

    /// How long stages took lately.
    pub(super) fn stages(&self, earlier: &Self) -> Value {
        let none = Distribution::default();
        let stages = self.stages.iter().map(|(name, times)| {
            let then = earlier.stages.get(name).unwrap_or(&none);
            (name.clone(), told(&times.since(then)))
        });
        Value::Object(stages.collect())
    }

    /// How often a node accepted sessions lately, and how long it took.
    pub(super) fn opens(&self, earlier: &Self, node: &str) -> (u64, Value) {
        let none = Distribution::default();
        let (now, then) = (self.opens.get(node), earlier.opens.get(node));
        let (now, then) = (now.unwrap_or(&none), then.unwrap_or(&none));
        let times = now.since(then);
        (times.count(), told(&times))
    }
}

fn told(times: &Distribution) -> Value {
    json!({
        "count": times.count(),
        "p50_s": times.quantile(0.5),
        "p95_s": times.quantile(0.95),
        "p99_s": times.quantile(0.99),
    })
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// What "lately" is counted from.
    pub(super) fn oldest(&self) -> Option<&Sample> {
        self.0.front()
    }

    /// The curves: each with a value for each time, up to `now`.
    pub(super) fn curves(&self, now: &Sample) -> Value {
        let samples = || self.0.iter().chain([now]);
        let at: Vec<f64> = samples()
            .map(|sample| (sample.at * 10.0).round() / 10.0)
            .collect();
        let tracks = TRACKS.iter().enumerate().map(|(index, (name, _, _))| {
            let values = samples().filter_map(|sample| sample.tracks.get(index));
            let values: Vec<Value> = values.map(|value| number(*value)).collect();
            ((*name).to_owned(), values.into())
        });
        let tracks: Map<String, Value> = tracks.collect();
        json!({ "period_s": PERIOD.as_secs(), "at": at, "tracks": tracks })
    }

    /// Seconds that "lately" goes back.
    pub(super) fn span(&self, now: &Sample) -> f64 {
        self.oldest()
            .map_or(0.0, |oldest| (now.at - oldest.at).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn every_family_that_is_shown_is_counted() {
        let metrics = Metrics::new().unwrap();
        // A family without series is not gathered, but declared: its name is taken.
        let declared = concat!(
            include_str!("../../metrics/mod.rs"),
            include_str!("../../metrics/process.rs")
        );
        let families = TRACKS.iter().map(|track| track.1);
        for family in families.chain(COUNTS.iter().map(|count| count.1)) {
            assert!(declared.contains(&format!("\"{family}\"")), "{family}");
        }
        let sample = Sample::new(0.0, &Figures::new(metrics.gather()));
        let memory = TRACKS.iter().position(|track| track.0 == "memory").unwrap();
        assert!(sample.tracks[memory] > 1e6);
    }

    #[test]
    fn it_is_bounded_and_tells_what_was_added() {
        let metrics = Metrics::new().unwrap();
        let logins = metrics.logins.with_label_values(&["imap", "ok"]);
        let sample = |at: f64| Sample::new(at, &Figures::new(metrics.gather()));
        let mut history = History::default();
        assert_eq!(history.span(&sample(0.0)), 0.0);
        for number in 0..1000 {
            logins.inc();
            history.push(sample(f64::from(number)));
        }
        let now = sample(1000.0);
        let oldest = history.oldest().unwrap();
        assert_eq!(history.span(&now), 61.0);
        assert_eq!(now.added(oldest, "logins", &["ok"]), 60.0);
        let curves = history.curves(&now);
        assert_eq!(curves["at"].as_array().unwrap().len(), SAMPLES + 1);
        assert_eq!(curves["tracks"]["logins_ok"][0], 940);
        assert_eq!(
            now.counts(oldest)["logins"],
            json!([{"result": "ok", "total": 1000, "recent": 60}])
        );
    }
}
