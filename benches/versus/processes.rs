//! Programs that run for the measurement, and what they use.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What /proc counts CPU time in, on every Linux that we know (proc(5), sysconf(_SC_CLK_TCK)), per second.
const USER_HZ: f64 = 100.0;

/// A program and all that it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(u32);

impl Group {
    /// CPU time of its processes until now, those that have ended included, in seconds.
    pub(crate) fn cpu(self) -> f64 {
        let ticks: u64 = members(self.0)
            .iter()
            .map(|stat| {
                let own = stat.number(14) + stat.number(15);
                // What has ended is counted by whoever started it.
                own + stat.number(16) + stat.number(17)
            })
            .sum();
        ticks as f64 / USER_HZ
    }

    /// The same of its own threads of that name which live.
    pub(crate) fn threads(self, name: &str) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        let ticks: u64 = tasks
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok())
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

    /// A field by its number in proc(5).
    fn number(&self, field: usize) -> u64 {
        self.fields[field - 3].parse().unwrap()
    }
}

/// A process and its descendants.
fn members(root: u32) -> Vec<Stat> {
    let all: Vec<Stat> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .collect();
    let mut ids = vec![root];
    let mut next = 0;
    while let Some(parent) = ids.get(next).copied() {
        let children = all
            .iter()
            .filter(|stat| stat.number(4) == u64::from(parent));
        ids.extend(children.map(|stat| stat.id));
        next += 1;
    }
    all.into_iter()
        .filter(|stat| ids.contains(&stat.id))
        .collect()
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
        let id = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until somebody listens there; panics with the logs of `dir` if nobody does.
pub(crate) fn wait_for(address: std::net::SocketAddr, dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            panic!("nobody listens on {address}\n{log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
