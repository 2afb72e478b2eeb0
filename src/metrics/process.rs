//! What every process tells of itself, by the names that Prometheus has for it: CPU time, memory, descriptors, its start.
//!
//! Read from the system when it is asked for. What the system does not tell keeps its last value; nothing here fails but
//! the start, if two names are the same. Linux only (`/proc`).

use std::{fs, time::Duration};

use prometheus::{Counter, Gauge, Registry, proto::MetricFamily};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// The gauges of one process.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    registry: Registry,
    cpu: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    resident: Gauge,
    virtual_size: Gauge,
    threads: Gauge,
}

impl Facts {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let started = gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
        )?;
        started.set(jiff::Timestamp::now().as_duration().as_secs_f64());
        let cpu = Counter::new("process_cpu_seconds_total", "CPU time, user and system.")?;
        registry.register(Box::new(cpu.clone()))?;
        Ok(Self {
            cpu,
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "File descriptors that there may be.")?,
            resident: gauge("process_resident_memory_bytes", "Memory in use.")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Address space in use.")?,
            threads: gauge("process_threads", "Threads.")?,
            registry,
        })
    }

    /// All of it, as it is now.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        if let Ok(cpu) = Duration::try_from(cpu) {
            self.cpu
                .inc_by((cpu.as_secs_f64() - self.cpu.get()).max(0.0));
        }
        if let Some(open) = open_fds() {
            self.open_fds.set(open as f64);
        }
        // Without a limit it is as large as the kernel allows.
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            self.max_fds.set(limit as f64);
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (gauge, name, unit) in [
            (&self.resident, "VmRSS:", 1024.0),
            (&self.virtual_size, "VmSize:", 1024.0),
            (&self.threads, "Threads:", 1.0),
        ] {
            if let Some(number) = number(&status, name) {
                gauge.set(number as f64 * unit);
            }
        }
        self.registry.gather()
    }
}

/// How many descriptors are open: the size of the folder, or on older kernels its entries.
fn open_fds() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        0 => {
            let entries = fs::read_dir(folder).ok()?.count();
            // One is the folder's.
            u64::try_from(entries).ok()?.checked_sub(1)
        }
        size => Some(size),
    }
}

/// The number of a line as `VmRSS:    1234 kB`.
fn number(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(facts: &Facts, name: &str) -> f64 {
        let families = facts.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = &family.unwrap().get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    #[test]
    fn what_a_process_tells_is_true() {
        let facts = Facts::new().unwrap();
        let fds = value(&facts, "process_open_fds");
        let held: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests open and close some of this process's meanwhile.
        let more = value(&facts, "process_open_fds");
        assert!(more >= fds, "{fds}, then {more}");
        assert!(more >= held.len() as f64);
        assert!(value(&facts, "process_max_fds") >= more);
        let resident = value(&facts, "process_resident_memory_bytes");
        assert!(resident > 1e6 && resident < value(&facts, "process_virtual_memory_bytes"));
        assert!(value(&facts, "process_threads") >= 1.0);
        assert!(value(&facts, "process_start_time_seconds") > 1.7e9);
    }

    #[test]
    fn cpu_time_is_counted_once() {
        let facts = Facts::new().unwrap();
        let first = value(&facts, "process_cpu_seconds_total");
        let wall = std::time::Instant::now();
        let second = value(&facts, "process_cpu_seconds_total");
        assert!(first > 0.0 && second >= first);
        // Not the sum of both: no more than all cores could have used meanwhile.
        let possible = wall.elapsed().as_secs_f64() * 1024.0 + 0.1;
        assert!(second - first < possible, "{first}, then {second}");
    }
}
