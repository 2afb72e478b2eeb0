//! The front's memory: before it is used up, clients without a login leave; sessions stay.
//!
//! Once a second the process's resident memory is compared with a limit: a setting, or nine tenths of what its cgroup allows or
//! the machine has. Above it nobody new is let in, and of those who have not logged in a part leaves each second, until it is
//! below for a while, or has not grown for longer: what was freed is used again, though the system does not see it. What is opened is opened at start, before rights are given up. A system that does not tell is not asked again.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{defence::Defence, metrics::Metrics, tasks::Tasks};

const PERIOD: Duration = Duration::from_secs(1);
/// How long it must be enough again: what was freed is soon used by whoever was kept out.
const CALM: u32 = 5;
/// How long it must not have grown until what is used is taken for free: allocators give little back.
const STEADY: u32 = 30;
/// The part of the limit by which it may grow from there.
const STEP: u64 = 64;

/// What there is, and how much of it may be used. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    status: Option<Arc<File>>,
    /// In octets; the largest number: none.
    limit: Arc<AtomicU64>,
}

impl Memory {
    /// Finds out, with a limit in octets if one is set.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            status: File::open("/proc/self/status").ok().map(Arc::new),
            limit: Arc::new(AtomicU64::new(octets(limit))),
        }
    }

    /// From now on there is this limit, or what the system allows.
    pub(super) fn limit(&self, limit: Option<u64>) {
        self.limit.store(octets(limit), Relaxed);
    }

    /// Watches until the process ends.
    pub(super) async fn watch(self, defence: Defence, metrics: Metrics, tasks: Tasks) {
        let limit = || self.limit.load(Relaxed);
        let Some(status) = &self.status else {
            tracing::warn!("the system does not tell how much memory is used: it is not watched");
            return;
        };
        let mut pressure = Pressure::new(limit());
        loop {
            let limit = limit();
            metrics
                .memory_limit
                .set(i64::try_from(limit).unwrap_or(i64::MAX));
            if pressure.limit != limit {
                pressure = Pressure {
                    limit,
                    allowed: limit,
                    ..pressure
                };
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = tasks.stopped() => return,
            }
            let Some(used) = resident(status) else {
                continue;
            };
            metrics.memory.set(i64::try_from(used).unwrap_or(i64::MAX));
            let was_short = pressure.is_short();
            pressure.look(used);
            match (was_short, pressure.is_short()) {
                (false, true) => {
                    tracing::error!(
                        used,
                        limit,
                        "memory is used up, clients that have not logged in leave"
                    );
                }
                (true, false) => tracing::info!(used, limit, "there is memory again"),
                (true, true) | (false, false) => {}
            }
            if was_short || pressure.is_short() {
                defence.is_short_of_memory(pressure.is_short());
            }
        }
    }
}

/// Whether memory is short, second by second.
struct Pressure {
    limit: u64,
    /// The limit, or what is used if that does not fall any more.
    allowed: u64,
    last: u64,
    /// Seconds since it was too much.
    calm: u32,
    /// Seconds since it grew.
    steady: u32,
}

impl Pressure {
    const fn new(limit: u64) -> Self {
        Self {
            limit,
            allowed: limit,
            last: 0,
            calm: CALM,
            steady: 0,
        }
    }

    const fn is_short(&self) -> bool {
        self.calm < CALM
    }

    fn look(&mut self, used: u64) {
        self.steady = if used > self.last {
            0
        } else {
            self.steady.saturating_add(1)
        };
        self.last = used;
        if used <= self.limit {
            self.allowed = self.limit;
        } else if self.is_short() && self.steady >= STEADY {
            // What was freed stays with the process, and is used first.
            self.allowed = self.allowed.max(used.saturating_add(self.limit / STEP));
        }
        self.calm = if used > self.allowed {
            0
        } else {
            self.calm.saturating_add(1)
        };
    }
}

fn octets(limit: Option<u64>) -> u64 {
    limit.or_else(default_limit).unwrap_or(u64::MAX)
}

/// Octets of this process in memory.
fn resident(status: &File) -> Option<u64> {
    let mut text = [0; 4096];
    let length = status.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    kibibytes(text, "VmRSS:")
}

/// The value of a line as `VmRSS:    1234 kB`, in octets.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Nine tenths of the least that this process could get.
fn default_limit() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kibibytes(&text, "MemTotal:"));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups(&own);
    let limits = groups
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    let limits = limits.filter_map(|text| text.trim().parse().ok());
    limits.chain(machine).min().map(|least: u64| least / 10 * 9)
}

/// Where the limits of a process's cgroups stand (cgroup v2), from its own to the root. In a container the root is its own, and
/// so is that of cgroup v1.
fn groups(own: &str) -> Vec<String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let mut path = path.unwrap_or_default();
    let mut files = vec![
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    while !path.is_empty() {
        files.push(format!("/sys/fs/cgroup/{path}/memory.max"));
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_has_the_limits_of_those_above() {
        let own = "4:memory:/other\n0::/system.slice/front.service\n";
        let roots = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        let files = [
            roots[0],
            roots[1],
            "/sys/fs/cgroup/system.slice/front.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
        ];
        assert_eq!(groups(own), files);
        assert_eq!(groups("0::/\n"), roots);
        assert_eq!(groups(""), roots);
    }

    #[test]
    fn what_does_not_fall_any_more_is_used_again_and_may_not_grow_much() {
        let mut pressure = Pressure::new(6400);
        pressure.look(6400);
        assert!(!pressure.is_short());
        let mut seconds = |used: u64, seconds: u32| {
            (0..seconds).for_each(|_| pressure.look(used));
            pressure.is_short()
        };
        assert!(seconds(6500, 1));
        assert!(seconds(6400, CALM - 1));
        assert!(!seconds(6400, 1));
        // It stays above.
        assert!(seconds(7000, STEADY));
        assert!(!seconds(7000, CALM));
        assert!(!seconds(7100, 10));
        assert!(seconds(7101, 1));
        assert!(seconds(7101, STEADY - 1));
        assert!(!seconds(7101, CALM));
        // It falls, and then the limit counts again.
        assert!(!seconds(6000, 1));
        assert!(seconds(6401, 1));
    }

    #[test]
    fn this_process_has_memory_and_a_limit() {
        let memory = Memory::new(None);
        let used = resident(memory.status.as_ref().unwrap()).unwrap();
        assert!(used > 1 << 20, "{used}");
        let limit = || memory.limit.load(Relaxed);
        assert!(limit() > used);
        memory.limit(Some(7));
        assert_eq!(limit(), 7);
        memory.limit(None);
        assert!(limit() > used);
        assert_eq!(
            kibibytes("VmHWM:\t 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"),
            Some(12288)
        );
        assert_eq!(kibibytes("VmRSS:\t  12\n", "VmRSS:"), None);
    }
}
