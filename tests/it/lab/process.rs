//! Programs that a test started, each with a log file, ended with the test.
//!
//! A program dies with the thread that started it (the kernel sees to that, through `setpriv --pdeathsig`), so an
//! aborted test run leaves nothing behind. Only processes started here are ever signalled, by their id.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, eventually_within};

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to `NAME.log` in `logs`, behind what is there.
    pub(crate) fn start(name: &str, logs: &Path, arguments: &[&str]) -> Self {
        Self::start_as(name, logs, &[], arguments)
    }

    /// The same with further options for `setpriv`.
    pub(crate) fn start_as(name: &str, logs: &Path, rights: &[&str], arguments: &[&str]) -> Self {
        let log = logs.join(format!("{name}.log"));
        let output = File::options()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .args(rights)
            .arg("--")
            .args(arguments)
            // What is killed can't tidy up after itself.
            .env("TMPDIR", logs.with_file_name("tmp"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// It has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its id.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks it to end, and does not wait.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read its configuration again, and does not wait.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits until it has ended by itself; its exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        eventually(&format!("{} ends", self.name), || !self.lives());
        self.child.wait().unwrap().code()
    }

    /// The words of a line of its status.
    pub(crate) fn status(&self, name: &str) -> Vec<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| {
            let (found, words) = line.split_once(':')?;
            (found == name).then(|| words.split_whitespace().map(str::to_owned).collect())
        });
        line.unwrap_or_else(|| panic!("{name} is not in {status}"))
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> u64 {
        let folder = format!("/proc/{}/fd", self.child.id());
        u64::try_from(fs::read_dir(folder).unwrap().count()).unwrap()
    }

    /// Lets it have descriptors up to this number and no more, from now on; what is open stays open.
    pub(crate) fn limit_descriptors(&self, number: u64) {
        let id = self.child.id();
        let [uid, gid] = ["Uid", "Gid"].map(|name| self.status(name)[0].clone());
        // As its user, since not every root may lower the limit of another user's process.
        let status = Command::new("setpriv")
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "--", "prlimit"])
            .arg(format!("--pid={id}"))
            .arg(format!("--nofile={number}"))
            .status()
            .unwrap();
        assert!(status.success(), "prlimit: {status}");
    }

    /// Stops it in its tracks (SIGSTOP): sockets stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to read its files again.
    pub(crate) fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end, and makes it end after ten seconds.
    pub(crate) fn stop(&mut self) {
        if !self.lives() {
            return;
        }
        self.thaw();
        self.signal(Signal::TERM);
        if !eventually_within(Duration::from_secs(10), || !self.lives()) {
            eprintln!("{} does not end: killed", self.name);
            self.kill();
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        // A child that nobody has waited for keeps its id.
        kill_process(self.id(), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
