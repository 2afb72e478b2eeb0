//! A machine of a test's own network: a network, a mount and a name space of the host's name, which live as long as a
//! process that does nothing.
//!
//! `/etc`, `/srv`, `/var` and `/run` are the machine's own: what it writes there nobody else sees, so that files stand where
//! the manual puts them. No name space has a name outside: when the test ends, in whatever way, they are gone.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    client::patient,
    lab::{Process, eventually},
};

/// The user of a front.
pub(super) const USER: &str = "pigeonair";
pub(super) const UID: u32 = 64143;

/// A machine that is there, with no program running.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    holder: Process,
    logs: PathBuf,
}

impl Machine {
    /// Makes one that has no network but loopback; its folders are below `dir`.
    pub(super) fn new(name: &str, address: Ipv4Addr, dir: &Path, logs: &Path) -> Self {
        let command = ["unshare", "--net", "--mount", "--uts", "sleep", "infinity"];
        let mut holder = Process::start(name, logs, &command);
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        eventually("a machine is there", || {
            assert!(holder.lives(), "no name spaces: {}", holder.log());
            let id = holder.id();
            let link = |name| fs::read_link(format!("/proc/{id}/{name}"));
            link("ns/net").is_ok_and(|space| space != ours)
                && link("exe").is_ok_and(|program| program.ends_with("sleep"))
        });
        let machine = Self {
            name: name.to_owned(),
            address,
            holder,
            logs: logs.to_owned(),
        };
        machine.run(&format!(
            "umask 022
            for folder in etc srv var; do
                mkdir -p {dir}/$folder {dir}/work/$folder
                mount -t overlay overlay -o lowerdir=/$folder,upperdir={dir}/$folder,workdir={dir}/work/$folder /$folder
            done
            mkdir -p {dir}/run
            mount --bind {dir}/run /run
            mkdir /run/{USER} /run/{USER}-node /etc/{USER} /srv/mail
            chmod 0711 /srv/mail
            echo '{USER}:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
            echo '{USER}:x:{UID}:' >>/etc/group
            hostname {name}
            ip link set lo up",
            dir = dir.join(name).display(),
        ));
        machine
    }

    pub(super) fn id(&self) -> i32 {
        self.holder.id().as_raw_pid()
    }

    /// A port of its address.
    pub(super) fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// A program on it, to be started.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(self.enter())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn enter(&self) -> [String; 6] {
        [
            "--target",
            &self.id().to_string(),
            "--net",
            "--mount",
            "--uts",
            "--",
        ]
        .map(str::to_owned)
    }

    /// Runs commands of a shell that are to succeed; what they print.
    #[track_caller]
    pub(super) fn run(&self, script: &str) -> String {
        let output = self.ask(&["sh", "-ec", script]);
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {script}: {notes}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program to its end.
    pub(super) fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a program, with a log named after it and this machine.
    pub(super) fn start(&self, name: &str, arguments: &[&str]) -> Process {
        let enter = self.enter();
        let mut command = vec!["nsenter"];
        command.extend(enter.iter().map(String::as_str));
        // Once more, since becoming another user undoes it.
        command.extend(["setpriv", "--pdeathsig", "TERM"]);
        command.extend(arguments);
        Process::start(&self.log_name(name), &self.logs, &command)
    }

    fn log_name(&self, program: &str) -> String {
        format!("{program}-{}", self.name)
    }

    /// What a program has said here.
    pub(super) fn log(&self, program: &str) -> String {
        let path = self.logs.join(format!("{}.log", self.log_name(program)));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// A path as it is seen from outside.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.id()))
    }

    /// Writes a file with this mode, which belongs to root and this group.
    pub(super) fn write(&self, path: &str, mode: u32, group: Option<u32>, content: &str) {
        let path = self.path(path);
        crate::lab::write_private(&path, content);
        std::os::unix::fs::chown(&path, Some(0), group).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Does something in its network.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.id());
        // A thread of its own, which takes no other thread along.
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let space = File::open(path).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(space.as_fd(), kind).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A connection from here.
    pub(super) fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let limit = Duration::from_secs(60);
        self.inside(|| TcpStream::connect_timeout(&address, limit))
            .map(patient)
    }
}
