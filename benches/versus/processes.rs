//! Programs that run for the measurement, and what they use.
//!
//! `/proc/PID/stat` counts CPU time in hundredths of a second, which is much beside what some rounds cost. The
//! scheduler's count of each thread (`schedstat`) is in nanoseconds, but that of a thread which ends is lost. So the
//! scheduler's count is taken for every process whose threads all live through the round, and the hundredths where
//! one has ended. Processes that have ended are known in hundredths only, of all of them together; whoever starts a
//! process per session starts enough of them in a round.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

/// What /proc counts CPU time in, on every Linux that we know (proc(5), sysconf(_SC_CLK_TCK)), per second.
const USER_HZ: f64 = 100.0;

/// A program and all that it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(u32);

impl Group {
    /// What its processes have used until now, those that have ended included.
    pub(crate) fn used(self) -> Used {
        let members = members(self.0);
        let processes = members.iter().map(|stat| {
            // What has ended is counted by whoever started it.
            let ended = stat.number(16) + stat.number(17);
            (stat.key(), Process::of(stat, ended))
        });
        Used(processes.collect())
    }

    /// The same of the program alone, without what it started.
    pub(crate) fn used_alone(self) -> Used {
        let stat = Stat::read(self.0).unwrap();
        Used(HashMap::from([(stat.key(), Process::of(&stat, 0))]))
    }

    /// The ids of its processes.
    pub(crate) fn ids(self) -> Vec<u32> {
        members(self.0).iter().map(|stat| stat.id).collect()
    }

    /// Memory of its processes in KiB, that which is shared by several counted once among them (PSS).
    pub(crate) fn pss_kib(self) -> f64 {
        members(self.0)
            .iter()
            .filter_map(|stat| pss_kib(stat.id))
            .sum()
    }

    /// The same of the program alone.
    pub(crate) fn own_pss_kib(self) -> f64 {
        pss_kib(self.0).unwrap()
    }

    /// Lets all its threads, and what they will start, run on these cores alone.
    pub(crate) fn run_on(self, cores: &CpuSet) {
        for stat in members(self.0) {
            run_on(stat.id, cores);
        }
    }

    /// Sends a signal to its processes of that name.
    pub(crate) fn signal(self, name: &str, signal: Signal) {
        let named = |stat: &Stat| {
            fs::read_to_string(format!("/proc/{}/comm", stat.id))
                .is_ok_and(|comm| comm.trim_end() == name)
        };
        for stat in members(self.0).iter().filter(|stat| named(stat)) {
            kill_process(pid(stat.id), signal).unwrap();
        }
    }

    /// The same of its own threads of that name which live.
    pub(crate) fn threads(self, name: &str) -> f64 {
        let ticks: u64 = tasks(self.0)
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("stat")).ok())
            .filter(|stat| stat.contains(&format!("({name})")))
            .filter_map(|stat| {
                let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
                Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
            })
            .sum();
        ticks as f64 / USER_HZ
    }

    /// The most memory that each of its living processes has had, added up.
    pub(crate) fn peak_mib(self) -> f64 {
        let kib: u64 = members(self.0)
            .iter()
            .filter_map(|stat| fs::read_to_string(format!("/proc/{}/status", stat.id)).ok())
            .filter_map(|status| {
                let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
                line.split_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum();
        kib as f64 / 1024.0
    }
}

/// CPU time by process.
#[derive(Debug)]
pub(crate) struct Used(HashMap<Key, Process>);

/// The id of a process and when it started: ids are used again.
type Key = (u32, u64);

impl Used {
    /// How much was used since then, in seconds.
    pub(crate) fn since(&self, before: &Self) -> f64 {
        let living = self.0.iter().map(|(id, process)| match before.0.get(id) {
            Some(before) => process.since(before),
            None => process.since(&Process::default()),
        });
        // Whoever started them counts all that they used, this here too.
        let gone = before.0.iter().filter(|(id, _)| !self.0.contains_key(id));
        let gone = gone.map(|(_, process)| (process.ticks + process.ended) as f64 / USER_HZ);
        living.sum::<f64>() - gone.sum::<f64>()
    }
}

/// CPU time of a process.
#[derive(Debug, Default)]
struct Process {
    /// Hundredths of a second.
    ticks: u64,
    /// The same of what it started and that has ended.
    ended: u64,
    /// Nanoseconds of each living thread.
    threads: HashMap<u32, u64>,
}

impl Process {
    fn of(stat: &Stat, ended: u64) -> Self {
        let threads = tasks(stat.id).into_iter().filter_map(|task| {
            let id = task.file_name()?.to_str()?.parse().ok()?;
            let text = fs::read_to_string(task.join("schedstat")).ok()?;
            Some((id, text.split(' ').next()?.parse().ok()?))
        });
        Self {
            ticks: stat.number(14) + stat.number(15),
            ended,
            threads: threads.collect(),
        }
    }

    fn since(&self, before: &Self) -> f64 {
        let ended = (self.ended - before.ended) as f64 / USER_HZ;
        let ticks = (self.ticks - before.ticks) as f64 / USER_HZ;
        let threads = self
            .threads
            .iter()
            .map(|(id, now)| now - before.threads.get(id).unwrap_or(&0));
        let exact = threads.sum::<u64>() as f64 / 1e9;
        let all_live = before
            .threads
            .keys()
            .all(|id| self.threads.contains_key(id));
        // User and system time are each rounded.
        let own = if all_live && ticks <= exact + 2.0 / USER_HZ {
            exact
        } else {
            ticks
        };
        own + ended
    }
}

/// One line of `/proc/PID/stat`.
struct Stat {
    id: u32,
    fields: Vec<String>,
}

impl Stat {
    fn read(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name may hold blanks and parentheses.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields = rest.split(' ').map(str::to_owned).collect();
        Some(Self { id, fields })
    }

    fn key(&self) -> Key {
        (self.id, self.number(22))
    }

    /// A field by its number in proc(5).
    fn number(&self, field: usize) -> u64 {
        self.fields[field - 3].parse().unwrap()
    }
}

/// The folders of the threads of a process; none if it has ended.
fn tasks(id: u32) -> Vec<PathBuf> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else {
        return Vec::new();
    };
    tasks.filter_map(|task| Some(task.ok()?.path())).collect()
}

fn pss_kib(id: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Lets the threads of a process run on these cores alone.
pub(crate) fn run_on(id: u32, cores: &CpuSet) {
    for task in tasks(id) {
        let task = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        // It may have ended by now.
        let _ = sched_setaffinity(Some(pid(task)), cores);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

/// A process and its descendants.
fn members(root: u32) -> Vec<Stat> {
    let mut by_parent: HashMap<u32, Vec<Stat>> = HashMap::new();
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(Stat::read);
    let mut found = Vec::new();
    for stat in all {
        if stat.id == root {
            found.push(stat);
        } else {
            let parent = u32::try_from(stat.number(4)).unwrap();
            by_parent.entry(parent).or_default().push(stat);
        }
    }
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|stat| stat.id) {
        found.extend(by_parent.remove(&parent).unwrap_or_default());
        next += 1;
    }
    found
}

/// A program that ends with this value.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts it; what it says goes to `log`. It ends when we do (the kernel sees to that, through `setpriv`).
    pub(crate) fn start(arguments: &[&str], log: &Path) -> Self {
        let log = File::create(log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", arguments[0]));
        Self { child }
    }

    /// What it uses.
    pub(crate) fn group(&self) -> Group {
        Group(self.child.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let id = Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = kill_process(id, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
