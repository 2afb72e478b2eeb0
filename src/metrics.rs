//! Counters: everything that Prometheus scrapes, declared in one place.
//!
//! One [`Metrics`] per process, cloned freely (clones count into the same cells). Names follow the Prometheus
//! conventions: prefix `pigeonair_`, base units, `_total` on counters; label values come from closed sets, never from
//! what a peer sent (no login, no client address). `docs/manual.md` lists every name.

use std::sync::atomic::AtomicU64;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Tasks that ended by panicking. A process-wide cell, since the guard that counts runs while a task unwinds.
pub static PANICS: AtomicU64 = AtomicU64::new(0);

/// The counters of one process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// `sessions_total{protocol,outcome}`: finished client sessions.
    pub sessions: IntCounterVec,
    /// `logins_total{protocol,result}`: login attempts; result `ok` or the denial.
    pub logins: IntCounterVec,
    /// `sessions_open{protocol}`: client sessions past login, on a front; sessions being served, on a node.
    pub sessions_open: IntGaugeVec,
    /// `connections_open`: client connections, logged in or not.
    pub connections_open: IntGauge,
    /// `connections_shed_total{reason}`: connections closed unserved.
    pub connections_shed: IntCounterVec,
    /// `stage_seconds{stage}`: time spent in each stage of a login.
    pub stage_seconds: HistogramVec,
    /// `relay_bytes_total{direction,mode}`: octets relayed; direction `to_client`/`to_server`, mode `splice`/`copy`.
    pub relay_bytes: IntCounterVec,
    /// `directory_lookups_total{result}`: questions to the directory.
    pub directory_lookups: IntCounterVec,
    /// `directory_cache_total{result}`: `hit` or `miss`.
    pub directory_cache: IntCounterVec,
    /// `node_connects_total{node,result}`: links dialled.
    pub node_connects: IntCounterVec,
    /// `handshakes_total{side,result}`: link handshakes; side `dialer`/`node`.
    pub handshakes: IntCounterVec,
    /// `links_ready{node}`: links proven ahead and waiting.
    pub links_ready: IntGaugeVec,
    /// `handovers_total{kind,result}`: sessions handed to the real server.
    pub handovers: IntCounterVec,
    /// `panics_total`: tasks that ended by panicking.
    panics: IntCounter,
}

/// Stage latencies span a cached login (tens of microseconds) to a deadline (tens of seconds).
const STAGE_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

impl Metrics {
    /// All counters at zero.
    ///
    /// # Errors
    ///
    /// Only if two counters share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("pigeonair".to_owned()), None)?;
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counter.clone()))?;
                Ok(counter)
            };
        let gauges =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
                let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(gauge.clone()))?;
                Ok(gauge)
            };
        let connections_open =
            IntGauge::new("connections_open", "Client connections, logged in or not.")?;
        registry.register(Box::new(connections_open.clone()))?;
        let panics = IntCounter::new("panics_total", "Tasks that ended by panicking.")?;
        registry.register(Box::new(panics.clone()))?;
        let build_info = GaugeVec::new(
            Opts::new("build_info", "The running version; always 1."),
            &["version"],
        )?;
        registry.register(Box::new(build_info.clone()))?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let stage_seconds = HistogramVec::new(
            HistogramOpts::new("stage_seconds", "Time spent in each stage of a login.")
                .buckets(STAGE_BUCKETS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(stage_seconds.clone()))?;
        Ok(Self {
            sessions: counters(
                "sessions_total",
                "Finished client sessions.",
                &["protocol", "outcome"],
            )?,
            sessions_open: gauges("sessions_open", "Sessions being served.", &["protocol"])?,
            logins: counters("logins_total", "Login attempts.", &["protocol", "result"])?,
            connections_open,
            connections_shed: counters(
                "connections_shed_total",
                "Connections closed unserved.",
                &["reason"],
            )?,
            stage_seconds,
            relay_bytes: counters(
                "relay_bytes_total",
                "Octets relayed.",
                &["direction", "mode"],
            )?,
            directory_lookups: counters(
                "directory_lookups_total",
                "Questions to the directory.",
                &["result"],
            )?,
            directory_cache: counters(
                "directory_cache_total",
                "Answers from the cache or not.",
                &["result"],
            )?,
            node_connects: counters("node_connects_total", "Links dialled.", &["node", "result"])?,
            handshakes: counters("handshakes_total", "Link handshakes.", &["side", "result"])?,
            links_ready: gauges("links_ready", "Links proven ahead and waiting.", &["node"])?,
            handovers: counters(
                "handovers_total",
                "Sessions handed to the real server.",
                &["kind", "result"],
            )?,
            panics,
            registry,
        })
    }

    /// The exposition text (Prometheus text format 0.0.4).
    pub fn render(&self) -> String {
        let seen = PANICS.load(std::sync::atomic::Ordering::Relaxed);
        self.panics.inc_by(seen.saturating_sub(self.panics.get()));
        let mut text = Vec::new();
        // Encoding into memory fails only for a metric family without metrics, which the registry never gathers.
        if TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .is_err()
        {
            text.clear();
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_name() {
        let metrics = Metrics::new().unwrap();
        metrics.sessions.with_label_values(&["imap", "ok"]).inc();
        assert!(
            metrics
                .render()
                .contains("pigeonair_sessions_total{outcome=\"ok\",protocol=\"imap\"} 1")
        );
    }
}
