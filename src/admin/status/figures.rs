//! What the counters say, as tables: sums by some of their labels, and how long things took.
//!
//! Reads what [`Metrics::gather`](crate::metrics::Metrics::gather) gives; knows no name of its own. A family that is not
//! there is an empty table: a front has what a node has not.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// Values by the labels that were asked for, in their order.
pub(super) type Table = BTreeMap<Vec<String>, f64>;

/// Everything that was counted at one time.
pub(super) struct Figures(Vec<MetricFamily>);

/// How long something took: how often no longer than each bound, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Distribution {
    bounds: Vec<f64>,
    /// As many, each with those before it.
    below: Vec<u64>,
    count: u64,
}

impl Figures {
    pub(super) fn new(families: Vec<MetricFamily>) -> Self {
        Self(families)
    }

    fn metrics(&self, name: &str) -> impl Iterator<Item = (&Metric, MetricType)> {
        let families = self.0.iter().filter(move |family| family.name() == name);
        families.flat_map(|family| {
            let kind = family.get_field_type();
            let metrics = family.get_metric().iter();
            metrics.map(move |metric| (metric, kind))
        })
    }

    /// Sums by these labels.
    pub(super) fn by(&self, name: &str, labels: &[&str]) -> Table {
        let mut table = Table::new();
        for (metric, kind) in self.metrics(name) {
            let key = labels.iter().map(|name| label(metric, name)).collect();
            *table.entry(key).or_default() += value(metric, kind);
        }
        table
    }

    /// The sum over all labels; none if there is nothing of that name.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        self.by(name, &[]).into_values().next()
    }

    /// The sum of those whose label has that value.
    pub(super) fn sum_where(&self, name: &str, label: &str, value: &str) -> f64 {
        let table = self.by(name, &[label]);
        table.get(&[value.to_owned()][..]).copied().unwrap_or(0.0)
    }

    /// Times by a label.
    pub(super) fn distributions(&self, name: &str, by: &str) -> BTreeMap<String, Distribution> {
        let metrics = self.metrics(name);
        let times = metrics.map(|(metric, _)| {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            let distribution = Distribution {
                bounds: buckets.iter().map(|one| one.upper_bound()).collect(),
                below: buckets.iter().map(|one| one.cumulative_count()).collect(),
                count: histogram.get_sample_count(),
            };
            (label(metric, by), distribution)
        });
        times.collect()
    }
}

fn label(metric: &Metric, name: &str) -> String {
    let mut labels = metric.get_label().iter();
    let found = labels.find(|label| label.name() == name);
    found.map_or_else(String::new, |label| label.value().to_owned())
}

fn value(metric: &Metric, kind: MetricType) -> f64 {
    match kind {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::GAUGE => metric.get_gauge().get_value(),
        _ => 0.0,
    }
}

impl Distribution {
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// What came after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.below.iter().zip(&earlier.below);
        let below: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        if below.len() < self.below.len() {
            return self.clone();
        }
        Self {
            bounds: self.bounds.clone(),
            below,
            count: self.count.saturating_sub(earlier.count),
        }
    }

    /// Seconds that this part of them did not exceed, evenly spread within a bucket; none if there were none. Beyond the last bound
    /// that bound is said.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let wanted = part * self.count as f64;
        let (mut bound_before, mut below_before) = (0.0, 0.0);
        for (bound, below) in self.bounds.iter().zip(&self.below) {
            let below = *below as f64;
            if below >= wanted && below > below_before {
                let share = (wanted - below_before) / (below - below_before);
                return Some(bound_before + (bound - bound_before) * share.max(0.0));
            }
            (bound_before, below_before) = (*bound, below);
        }
        self.bounds.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn tables_are_sums_by_labels() {
        let metrics = Metrics::new().unwrap();
        for (protocol, outcome, node, count) in [
            ("imap", "served", "n1", 3),
            ("imap", "served", "n2", 2),
            ("pop3", "left", "", 1),
        ] {
            let labels = [protocol, outcome, node];
            metrics.sessions.with_label_values(&labels).inc_by(count);
        }
        metrics.connections_open.set(9);
        let figures = Figures::new(metrics.gather());
        let name = "pigeonair_sessions_total";
        let table = figures.by(name, &["outcome", "protocol"]);
        let rows: Vec<_> = table
            .iter()
            .map(|(key, value)| (key.join(" "), *value))
            .collect();
        let expected = [
            ("left pop3".to_owned(), 1.0),
            ("served imap".to_owned(), 5.0),
        ];
        assert_eq!(rows, expected);
        assert_eq!(figures.sum(name), Some(6.0));
        assert_eq!(figures.sum_where(name, "node", "n2"), 2.0);
        assert_eq!(figures.sum_where(name, "node", "n3"), 0.0);
        assert_eq!(figures.sum("pigeonair_connections_open"), Some(9.0));
        assert_eq!(figures.sum("pigeonair_nothing"), None);
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let metrics = Metrics::new().unwrap();
        let stage = metrics.stage_seconds.with_label_values(&["link"]);
        let now = || {
            let figures = Figures::new(metrics.gather());
            let mut stages = figures.distributions("pigeonair_stage_seconds", "stage");
            stages.remove("link").unwrap()
        };
        stage.observe(20.0);
        let earlier = now();
        for _ in 0..100 {
            stage.observe(0.003);
        }
        let since = now().since(&earlier);
        assert_eq!(since.count(), 100);
        // Evenly between 2.5 and 5 ms.
        let close = |part, expected: f64| {
            let found = since.quantile(part).unwrap();
            assert!((found - expected).abs() < 1e-9, "{part}: {found}");
        };
        close(0.5, 0.00375);
        close(1.0, 0.005);
        stage.observe(99.0);
        assert_eq!(now().quantile(1.0), Some(30.0));
        assert_eq!(since.since(&since).quantile(0.5), None);
        assert_eq!(since.since(&Distribution::default()), since);
    }
}
