//! Counters: everything that Prometheus scrapes, declared in one place.
//!
//! One [`Metrics`] per process, cloned freely (clones count into the same cells). Names follow the Prometheus
//! conventions: prefix `pigeonair_`, base units, `_total` on counters; label values come from closed sets, never from
//! what a peer sent (no login, no client address); names of nodes and servers are those of the configuration. What every
//! process has (`process_` without the prefix: CPU time, memory, descriptors) is read from the system at each scrape.
//! `docs/manual.md` lists every name.

mod process;

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector, proto::MetricFamily,
};

use self::process::Facts;

/// Tasks that ended by panicking. A process-wide cell, since the guard that counts runs while a task unwinds.
pub static PANICS: AtomicU64 = AtomicU64::new(0);

/// The counters of one process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    process: Facts,
    /// `sessions_total{protocol,outcome,node}`: finished client sessions; node empty for those that reached none.
    pub sessions: IntCounterVec,
    /// `logins_total{protocol,result}`: login attempts; result `ok` or the denial.
    pub logins: IntCounterVec,
    /// `login_failures_total{stage,blame}`: those of them that failed, by where and whose doing it was.
    pub login_failures: IntCounterVec,
    /// `sessions_open{protocol}`: client sessions past login, on a front; sessions being served, on a node.
    pub sessions_open: IntGaugeVec,
    /// `node_sessions_open{node,protocol}`: the same by home node, on a front.
    pub node_sessions_open: IntGaugeVec,
    /// `connections_open`: client connections, logged in or not.
    pub connections_open: IntGauge,
    /// `connections_unauthenticated`: those of them that have not logged in.
    pub connections_unauthenticated: IntGauge,
    /// `connections_limit`: how many of them there may be.
    pub connections_limit: IntGauge,
    /// `connections_shed_total{reason}`: connections closed unserved.
    pub connections_shed: IntCounterVec,
    /// `memory_bytes`: resident memory of a front.
    pub memory: IntGauge,
    /// `memory_limit_bytes`: from where on it lets nobody in.
    pub memory_limit: IntGauge,
    /// `stage_seconds{stage}`: how long each stage of a session takes, up to the server's first answer.
    pub stage_seconds: HistogramVec,
    /// `relay_bytes_total{direction,mode}`: octets relayed; direction `to_client`/`to_server`, mode `splice`/`copy`.
    pub relay_bytes: IntCounterVec,
    /// `directory_lookups_total{result}`: questions to the directory.
    pub directory_lookups: IntCounterVec,
    /// `directory_cache_total{result}`: `hit`, `miss` or `stale`.
    pub directory_cache: IntCounterVec,
    /// `directory_stale`: whether accounts are served from memory.
    pub directory_stale: IntGauge,
    /// `directory_followed{by}`: bases (or the accounts file) whose changes are heard of now; by `sync`, `poll` or `file`.
    pub directory_followed: IntGaugeVec,
    /// `directory_changes_total{change}`: entries that were said to have changed.
    pub directory_changes: IntCounterVec,
    /// `sessions_kicked_total{command}`: sessions that were ended by command; `kick`, `hold` or `drain`.
    pub sessions_kicked: IntCounterVec,
    /// `sessions_revoked_total{reason}`: sessions that were ended since their account changed.
    pub sessions_revoked: IntCounterVec,
    /// `ldap_server_up{server}`: whether an LDAP server answers.
    pub ldap_server_up: IntGaugeVec,
    /// `ldap_requests_total{server,request,result}`: what it was asked.
    pub ldap_requests: IntCounterVec,
    /// `policy_requests_total{command,result}`: questions and reports for the policy server; command `allow`/`report`.
    pub policy_requests: IntCounterVec,
    /// `node_connects_total{node,result}`: links dialled.
    pub node_connects: IntCounterVec,
    /// `node_up{node}`: whether links are opened to a node.
    pub node_up: IntGaugeVec,
    /// `node_probes_total{node,result}`: what the prober found; result `ok`, `login`, `directory` or why there was no link.
    pub node_probes: IntCounterVec,
    /// `node_open_seconds{node}`: from asking for a link until the node has accepted a session on it.
    pub node_open_seconds: HistogramVec,
    /// `handshakes_total{side,result}`: link handshakes; side `dialer`/`node`.
    pub handshakes: IntCounterVec,
    /// `links_ready{node}`: links made ahead and waiting.
    pub links_ready: IntGaugeVec,
    /// `handovers_total{kind,result}`: sessions handed to the real server.
    pub handovers: IntCounterVec,
    /// `deliveries_total{result}`: recipients of messages; result `delivered` or why not.
    pub deliveries: IntCounterVec,
    /// `delivery_uncertain_total`: recipients whose node broke off between the final dot and its reply.
    pub delivery_uncertain: IntCounter,
    /// `delivery_connections_open`: connections of MTAs.
    pub delivery_connections_open: IntGauge,
    /// `spooled_total{place}`: messages for several homes; place `memory` or `file`.
    pub spooled: IntCounterVec,
    /// `spooled_bytes_total`: octets of them.
    pub spooled_bytes: IntCounter,
    /// `stored_total{kind,result}`: messages at a node, per recipient; result `stored` or why not.
    pub stored: IntCounterVec,
    /// `tls_reloads_total{result}`: files of TLS that were replaced: `ok` or `failed`.
    pub tls_reloads: IntCounterVec,
    /// `tls_certificate_expiry_timestamp_seconds{certificate}`: when a certificate in use ends.
    pub tls_certificate_expiry: IntGaugeVec,
    /// `reloads_total{result}`: configurations that were to be taken: `ok` or `failed`.
    pub reloads: IntCounterVec,
    /// `config_loaded_timestamp_seconds`: when the configuration in force was taken.
    pub config_loaded: IntGauge,
    /// `panics_total`: tasks that ended by panicking.
    panics: IntCounter,
    /// Two at a time would both count what is new.
    gathers: Arc<Mutex<()>>,
}

/// Stage latencies span a cached login (tens of microseconds) to a deadline (tens of seconds).
const BUCKETS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

impl Metrics {
    /// All counters at zero.
    ///
    /// # Errors
    ///
    /// Only if two counters share a name, which a test rules out.
    #[allow(clippy::too_many_lines, reason = "one entry for each counter")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let new = Registrar(Registry::new_custom(Some("pigeonair".to_owned()), None)?);
        new.gauges("build_info", "The running version; always 1.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            sessions: new.counters(
                "sessions_total",
                "Finished client sessions.",
                &["protocol", "outcome", "node"],
            )?,
            logins: new.counters("logins_total", "Login attempts.", &["protocol", "result"])?,
            login_failures: new.counters(
                "login_failures_total",
                "Logins that failed, by where and whose doing it was.",
                &["stage", "blame"],
            )?,
            sessions_open: new.gauges("sessions_open", "Sessions being served.", &["protocol"])?,
            node_sessions_open: new.gauges(
                "node_sessions_open",
                "Sessions past login, by home node.",
                &["node", "protocol"],
            )?,
            connections_open: new.add(IntGauge::new(
                "connections_open",
                "Client connections, logged in or not.",
            )?)?,
            connections_unauthenticated: new.add(IntGauge::new(
                "connections_unauthenticated",
                "Client connections that have not logged in.",
            )?)?,
            connections_limit: new.add(IntGauge::new(
                "connections_limit",
                "Client connections that there may be at one time.",
            )?)?,
            connections_shed: new.counters(
                "connections_shed_total",
                "Connections closed unserved.",
                &["reason"],
            )?,
            memory: new.add(IntGauge::new(
                "memory_bytes",
                "Resident memory of a front.",
            )?)?,
            memory_limit: new.add(IntGauge::new(
                "memory_limit_bytes",
                "Resident memory from which on a front lets nobody in.",
            )?)?,
            stage_seconds: new.histogram(
                "stage_seconds",
                "How long each stage of a session takes, up to the server's first answer.",
                &["stage"],
            )?,
            relay_bytes: new.counters(
                "relay_bytes_total",
                "Octets relayed.",
                &["direction", "mode"],
            )?,
            directory_lookups: new.counters(
                "directory_lookups_total",
                "Questions to the directory.",
                &["result"],
            )?,
            directory_cache: new.counters(
                "directory_cache_total",
                "Answers from the cache or not.",
                &["result"],
            )?,
            directory_stale: new.add(IntGauge::new(
                "directory_stale",
                "Whether accounts are served from memory because no server answers: 1 or 0.",
            )?)?,
            directory_followed: new.gauges(
                "directory_followed",
                "Bases whose changes are heard of now.",
                &["by"],
            )?,
            directory_changes: new.counters(
                "directory_changes_total",
                "Entries that were said to have changed.",
                &["change"],
            )?,
            sessions_kicked: new.counters(
                "sessions_kicked_total",
                "Sessions ended by an administrator's command.",
                &["command"],
            )?,
            sessions_revoked: new.counters(
                "sessions_revoked_total",
                "Sessions ended since their account changed.",
                &["reason"],
            )?,
            ldap_server_up: new.gauges(
                "ldap_server_up",
                "Whether an LDAP server answers: 1 or 0.",
                &["server"],
            )?,
            ldap_requests: new.counters(
                "ldap_requests_total",
                "Searches, binds and probes.",
                &["server", "request", "result"],
            )?,
            policy_requests: new.counters(
                "policy_requests_total",
                "Questions and reports for the policy server.",
                &["command", "result"],
            )?,
            node_connects: new.counters(
                "node_connects_total",
                "Links dialled.",
                &["node", "result"],
            )?,
            node_up: new.gauges(
                "node_up",
                "Whether links are opened to a node: 1 or 0.",
                &["node"],
            )?,
            node_probes: new.counters(
                "node_probes_total",
                "Probes of nodes.",
                &["node", "result"],
            )?,
            node_open_seconds: new.histogram(
                "node_open_seconds",
                "From asking for a link until the node has accepted a session on it.",
                &["node"],
            )?,
            handshakes: new.counters(
                "handshakes_total",
                "Link handshakes.",
                &["side", "result"],
            )?,
            links_ready: new.gauges("links_ready", "Links made ahead and waiting.", &["node"])?,
            handovers: new.counters(
                "handovers_total",
                "Sessions handed to the real server.",
                &["kind", "result"],
            )?,
            deliveries: new.counters(
                "deliveries_total",
                "Recipients of messages, by what became of them.",
                &["result"],
            )?,
            delivery_uncertain: new.add(IntCounter::new(
                "delivery_uncertain_total",
                "Recipients whose node broke off between the final dot and its reply.",
            )?)?,
            delivery_connections_open: new.add(IntGauge::new(
                "delivery_connections_open",
                "Connections of MTAs.",
            )?)?,
            spooled: new.counters("spooled_total", "Messages for several homes.", &["place"])?,
            spooled_bytes: new.add(IntCounter::new(
                "spooled_bytes_total",
                "Octets of messages for several homes.",
            )?)?,
            stored: new.counters(
                "stored_total",
                "Messages at this node, per recipient.",
                &["kind", "result"],
            )?,
            tls_reloads: new.counters(
                "tls_reloads_total",
                "Files of TLS that were replaced, by whether they could be used.",
                &["result"],
            )?,
            tls_certificate_expiry: new.gauges(
                "tls_certificate_expiry_timestamp_seconds",
                "When a certificate in use ends, in seconds since 1970.",
                &["certificate"],
            )?,
            reloads: new.counters(
                "reloads_total",
                "Configurations that were to be taken, by whether they were.",
                &["result"],
            )?,
            config_loaded: new.add(IntGauge::new(
                "config_loaded_timestamp_seconds",
                "When the configuration in force was taken, in seconds since 1970.",
            )?)?,
            panics: new.add(IntCounter::new(
                "panics_total",
                "Tasks that ended by panicking.",
            )?)?,
            gathers: Arc::default(),
            process: Facts::new()?,
            registry: new.0,
        })
    }

    /// Everything there is to count, as it is now.
    pub fn gather(&self) -> Vec<MetricFamily> {
        let _one = self.gathers.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = PANICS.load(std::sync::atomic::Ordering::Relaxed);
        self.panics.inc_by(seen.saturating_sub(self.panics.get()));
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        families
    }

    /// The exposition text (Prometheus text format 0.0.4).
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Encoding into memory fails only for a metric family without metrics, which the registry never gathers.
        if TextEncoder::new()
            .encode(&self.gather(), &mut text)
            .is_err()
        {
            text.clear();
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Makes counters that are scraped.
struct Registrar(Registry);

impl Registrar {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_name() {
        let metrics = Metrics::new().unwrap();
        let sessions = metrics.sessions.with_label_values(&["imap", "ok", "n1"]);
        sessions.inc();
        let line = "pigeonair_sessions_total{node=\"n1\",outcome=\"ok\",protocol=\"imap\"} 1";
        assert!(metrics.render().contains(line));
    }
}
