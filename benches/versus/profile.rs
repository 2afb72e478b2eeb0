//! Where the CPU time goes, as `perf` samples it: in the kernel, in the C library, in the program.
//!
//! `perf record` looks at all processes of a box many times a second while the load works. What it costs makes the
//! work dearer, so that this part says shares and no times: those are in the tables of the other parts. Where the
//! processor has no counters (most virtual machines) a timer takes the samples, and what the kernel does with
//! interrupts off is counted where it turns them on again: the kernel's functions are not told apart here.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    figures::Table,
    lanes::{Bench, Lane, direct},
    load::Target,
    plan::Plan,
    processes::Group,
    relay::MESSAGE_BYTES,
    way::{Channel, Protocol},
    world::user,
};

/// Logins, NOOP and fetches that are looked at.
const LOGINS: usize = 3000;
const NOOPS: usize = 30_000;
const FETCHES: usize = 64;
/// Samples per second and core.
const HERTZ: &str = "2999";

/// Parts of the name of a function of the C library that has to do with the heap.
const HEAP: [&str; 6] = ["alloc", "free", "_int_", "unlink_chunk", "brk", "trim"];

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    println!("\n## Where the time goes");
    let (logins, noops) = (plan.scaled(LOGINS), plan.scaled(NOOPS));
    let fetches = plan.scaled(FETCHES);
    let mut table = Table::new(&[
        "work, plain",
        "way",
        "kernel",
        "heap",
        "else in the C library",
        "the program",
    ]);
    let named = |names: &[&str]| -> Vec<&Lane> {
        let lanes = bench.lanes.iter();
        lanes
            .filter(|lane| names.contains(&lane.name.as_str()))
            .collect()
    };
    for lane in named(&[
        "HAProxy",
        "nginx",
        "Dovecot",
        "PigeonAir, login, search and bind every time",
        "PigeonAir, login",
    ]) {
        for (who, groups) in boxes(lane) {
            let shares = Shares::of(&groups, || {
                lane.logins(Protocol::Imap, Channel::Plain, logins);
            });
            table.row(&shares.row("IMAP login", &who));
        }
    }
    for lane in named(&["HAProxy", "nginx", "PigeonAir, dovecot-imap-master"]) {
        let mut client = Target::new(&lane.way, Protocol::Imap, Channel::Plain).log_in(&user(0));
        let shares = Shares::of(&lane.way.proxy, || (0..noops).for_each(|_| client.noop()));
        client.log_out();
        table.row(&shares.row("NOOP", &lane.name));
    }
    let mut client = direct(&bench.world.nodes[0]).log_in(&user(0));
    client.append(MESSAGE_BYTES);
    client.log_out();
    for lane in named(&["HAProxy", "nginx", "PigeonAir, login"]) {
        let mut client = Target::new(&lane.way, Protocol::Imap, Channel::Plain).log_in(&user(0));
        client.select();
        for (who, groups) in boxes(lane) {
            let shares = Shares::of(&groups, || {
                client.fetch(fetches);
            });
            table.row(&shares.row("large FETCH", &who));
        }
        client.log_out();
    }
    table.print(&format!(
        "Shares of the CPU time of all processes of a box, from samples: {logins} logins, {noops} NOOP, {fetches} \
         fetches."
    ));
}

/// The proxy of a way, and the acceptors behind it.
fn boxes(lane: &Lane) -> Vec<(String, Vec<Group>)> {
    let mut boxes = vec![(lane.name.clone(), lane.way.proxy.clone())];
    if lane.is_ours() {
        let acceptors = lane.way.acceptors.clone();
        boxes.push((format!("{}: acceptors", lane.name), acceptors));
    }
    boxes
}

/// Samples by place.
#[derive(Debug, Default)]
struct Shares {
    kernel: u64,
    heap: u64,
    library: u64,
    program: u64,
}

impl Shares {
    /// Of what these processes do meanwhile.
    fn of(groups: &[Group], work: impl FnOnce()) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("perf.data");
        let ids: Vec<String> = groups
            .iter()
            .flat_map(|group| group.ids())
            .map(|id| id.to_string())
            .collect();
        let perf = record(&ids.join(","), &file);
        work();
        stop(perf);
        Self::read(&file)
    }

    fn read(file: &Path) -> Self {
        let mut report = Command::new("perf");
        report.args(["report", "--stdio", "-n", "-t", "\t", "--sort", "dso,sym"]);
        let output = report.arg("-i").arg(file).output().unwrap();
        assert!(output.status.success(), "perf report: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut shares = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // Share, samples, binary, "[k] function".
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            if let [_, samples, binary, function, ..] = fields[..] {
                *shares.place(binary, function) += samples.parse::<u64>().unwrap();
            }
        }
        assert!(shares.all() > 0, "perf has seen nothing:\n{text}");
        shares
    }

    fn place(&mut self, binary: &str, function: &str) -> &mut u64 {
        if function.starts_with("[k]") {
            return &mut self.kernel;
        }
        // The clock is read there, on behalf of the C library.
        if binary != "[vdso]" && !binary.starts_with("libc.") {
            return &mut self.program;
        }
        if HEAP.iter().any(|part| function.contains(part)) {
            return &mut self.heap;
        }
        &mut self.library
    }

    fn all(&self) -> u64 {
        self.kernel + self.heap + self.library + self.program
    }

    fn row(&self, work: &str, who: &str) -> Vec<String> {
        let places = [self.kernel, self.heap, self.library, self.program];
        let percent = |samples| format!("{:.0} %", 100.0 * samples as f64 / self.all() as f64);
        let names = [work, who].map(str::to_owned);
        names.into_iter().chain(places.map(percent)).collect()
    }
}

/// Returns when it records.
fn record(ids: &str, file: &Path) -> Child {
    let perf = Command::new("perf")
        .args(["record", "-q", "-F", HERTZ, "-p", ids, "-o"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start perf: {error}"));
    let deadline = Instant::now() + Duration::from_secs(10);
    // It writes the head of its file when everything is set up.
    while !fs::metadata(file).is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < deadline, "perf does not record");
        std::thread::sleep(Duration::from_millis(20));
    }
    perf
}

fn stop(mut perf: Child) {
    kill_process(Pid::from_child(&perf), Signal::INT).unwrap();
    perf.wait().unwrap();
}
