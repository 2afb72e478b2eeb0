//! Processes that take the place of running ones.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal};

use super::{Cluster, Process, eventually};

impl Cluster {
    /// Where a process is asked for its sockets.
    pub(crate) fn upgrade_socket(&self, name: &str) -> PathBuf {
        match name {
            "front" => self.path("front/upgrade.sock"),
            node => self.path(&format!("nodes/{node}/upgrade.sock")),
        }
    }

    /// Starts a process that takes the place of the front, or of a node, with these words before its command; returns when it
    /// has.
    pub(crate) fn successor(&self, name: &str, before: &[&str]) -> Process {
        let taken = |log: &str| log.matches("took over").count();
        let earlier = taken(&self.log_of(name));
        let mut successor = self.begin_successor(name, before);
        eventually(&format!("the {name} is replaced"), || {
            assert!(successor.lives(), "ended at once: {}", successor.log());
            taken(&successor.log()) > earlier
        });
        successor
    }

    /// The same, at once.
    pub(crate) fn begin_successor(&self, name: &str, before: &[&str]) -> Process {
        let command = self.command_of(name, before);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let rights = self.rights_of(name);
        let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
        Process::start_as(name, &self.path("logs"), &rights, &command)
    }

    /// A process that has asked for the sockets of the front and says so into a pipe that is full: it can do nothing more.
    pub(crate) fn stuck_successor(&self, name: &str) -> Stuck {
        self.stuck(name, &self.command_of(name, &[]))
    }

    /// `pigeonair upgrade`, and such a process that it has started.
    pub(crate) fn stuck_upgrade(&self, name: &str) -> Stuck {
        let [program, config] =
            ["bin/pigeonair", "front/pigeonair.toml"].map(|path| self.path(path));
        let words = [program.to_str(), Some("upgrade"), Some(name)];
        let words = words.into_iter().chain([Some("--config"), config.to_str()]);
        let command: Vec<String> = words.map(|word| word.unwrap().to_owned()).collect();
        self.stuck(name, &command)
    }

    fn stuck(&self, name: &str, command: &[String]) -> Stuck {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut full = File::from(writer.try_clone().unwrap());
        while full.write(&[b'x'; 4096]).is_ok() {}
        while full.write(b"x").is_ok() {}
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
        let before = self.log_of(name).matches("handing over to").count();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(self.rights_of(name))
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .process_group(0)
            .spawn()
            .unwrap();
        eventually("it has asked", || {
            self.log_of(name).matches("handing over to").count() > before
        });
        Stuck { child, reader }
    }

    /// Puts the same program in the place of the one that processes were started with, as a package would.
    pub(crate) fn renew_program(&self) {
        let [new, program] = ["bin/new", "bin/pigeonair"].map(|name| self.path(name));
        std::fs::copy(&program, &new).unwrap();
        std::fs::rename(new, program).unwrap();
    }

    /// Runs `pigeonair upgrade` as who has started the front, with these variables: its exit code, and what it wrote.
    pub(crate) fn upgrade(
        &self,
        name: &str,
        flags: &[&str],
        variables: &[&str],
    ) -> (Option<i32>, String, String) {
        let notes = self.scratch().join("upgrade.notes");
        let output = Command::new("setpriv")
            .args(self.rights_of(name))
            .args(["--", "env"])
            .args(variables)
            .arg(self.path("bin/pigeonair"))
            .args(["upgrade", name])
            .args(flags)
            .arg("--config")
            .arg(self.path("front/pigeonair.toml"))
            .stdin(Stdio::null())
            // Not a pipe, which the process that goes on would hold open.
            .stderr(File::create(&notes).unwrap())
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let notes = std::fs::read_to_string(notes).unwrap();
        (output.status.code(), out, notes)
    }

    /// What the processes of that name have said.
    pub(crate) fn log_of(&self, name: &str) -> String {
        match name {
            "front" => self.front_log(),
            node => self.node_log(node),
        }
    }

    fn command_of(&self, name: &str, before: &[&str]) -> Vec<String> {
        let command = match name {
            "front" => self.front_command.clone(),
            name => {
                let node = self.nodes.iter().find(|node| node.name == name);
                node.unwrap().command.to_vec()
            }
        };
        let before = before.iter().map(|word| (*word).to_owned());
        let after = ["--take-over".to_owned()];
        before.chain(command).chain(after).collect()
    }

    fn rights_of(&self, name: &str) -> Vec<String> {
        let id = self.front_starter.to_string();
        match name {
            "front" => ["--reuid", &id, "--regid", &id, "--clear-groups"]
                .map(str::to_owned)
                .to_vec(),
            _ => Vec::new(),
        }
    }
}

/// A process that has the sockets and does not go on.
#[derive(Debug)]
pub(crate) struct Stuck {
    child: Child,
    /// Closed, it would end the wait.
    reader: OwnedFd,
}

/// One that does.
#[derive(Debug)]
pub(crate) struct Unstuck(Child);

impl Drop for Unstuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stuck {
    /// Its words are read, and it goes on.
    pub(crate) fn go_on(self) -> Unstuck {
        let mut words = File::from(self.reader);
        thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
        Unstuck(self.child)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Has it go on to its end: its exit code, and what it said.
    pub(crate) fn ends(mut self) -> (Option<i32>, String) {
        rustix::fs::fcntl_setfl(&self.reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut said = Vec::new();
        let mut reader = File::from(self.reader);
        let mut code = None;
        eventually("it ends", || {
            let ended = self.child.try_wait().unwrap();
            // Until nothing is left for now.
            let _ = reader.read_to_end(&mut said);
            code = ended.and_then(|how| how.code());
            ended.is_some()
        });
        (code, String::from_utf8_lossy(&said).into_owned())
    }
}
