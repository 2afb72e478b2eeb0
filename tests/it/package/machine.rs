//! A Debian in a folder: made once by debootstrap (`target/debian-12`), copied for a test, entered by chroot, and booted
//! with its own systemd by systemd-nspawn.
//!
//! A booted machine has a network of its own with nothing but loopback, and a cgroup of its own below the unified hierarchy,
//! of which it sees no more than that: so it boots as well where the machine itself has other hierarchies or no systemd.
//! When it is dropped, its first process is ended and with it all others.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use rustix::{
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tempfile::TempDir;

use crate::lab::{Process, eventually};

/// What is there before PigeonAir comes; `ip` and the like for whoever looks at a failure.
const INCLUDE: &str = "--include=dbus,iproute2,procps,systemd,systemd-sysv";

/// Below these, files come and go with every package.
const BUSY: [&str; 9] = [
    "dev",
    "etc/.pwd.lock",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib/dpkg",
    "var/log",
];

/// The files of accounts, with their backups.
const ACCOUNTS: [&str; 4] = ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow"];

/// A Debian, off or on.
#[derive(Debug)]
pub(super) struct Machine {
    booted: Option<Booted>,
    folder: TempDir,
}

#[derive(Debug)]
struct Booted {
    process: Process,
    /// Its first process, as seen from here.
    init: Pid,
    cgroup: PathBuf,
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Done {
    command: String,
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) notes: String,
}

impl Done {
    /// It has succeeded; what it said, without blanks at the ends.
    pub(super) fn ok(self) -> String {
        let Self {
            command,
            out,
            notes,
            ..
        } = &self;
        assert_eq!(self.code, Some(0), "{command}: {notes}{out}");
        out.trim().to_owned()
    }
}

impl Machine {
    pub(super) fn new() -> Self {
        static BASE: LazyLock<PathBuf> = LazyLock::new(base);
        let folder = tempfile::tempdir().unwrap();
        succeeds(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(&*BASE)
                .arg(folder.path().join("root")),
        );
        Self {
            booted: None,
            folder,
        }
    }

    /// Where a file of the machine is found from here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder
            .path()
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        fs::write(self.path(path), content).unwrap();
    }

    /// Runs a command as root, within the running system if it is on.
    pub(super) fn run(&self, command: &[&str]) -> Done {
        let mut outer = match &self.booted {
            None => {
                let mut outer = Command::new("chroot");
                outer.arg(self.path("/"));
                outer
            }
            Some(booted) => {
                let mut outer = Command::new("nsenter");
                let target = booted.init.as_raw_nonzero().to_string();
                let namespaces = ["-m", "-u", "-i", "-n", "-p", "-C"];
                outer.args(["-t", &target]).args(namespaces).arg("--");
                outer
            }
        };
        let output = outer
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .unwrap();
        done(&command.join(" "), output)
    }

    /// All that lies in it, with modes and owners, but for what comes and goes, and the files of accounts.
    pub(super) fn files(&self) -> BTreeSet<String> {
        let root = self.path("/");
        let mut found = BTreeSet::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap();
                let name = name.to_str().unwrap();
                if BUSY.contains(&name) || ACCOUNTS.contains(&name.trim_end_matches('-')) {
                    continue;
                }
                let status = fs::symlink_metadata(&path).unwrap();
                found.insert(format!("/{name} {}", described(&status)));
                if status.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// Mode, owner and group of a file, as numbers.
    pub(super) fn status(&self, path: &str) -> String {
        described(&fs::symlink_metadata(self.path(path)).unwrap())
    }

    /// Switches it on and waits until it is up.
    pub(super) fn boot(&mut self) {
        let logs = self.folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        fs::create_dir(self.folder.path().join("tmp")).unwrap();
        let unique = self.folder.path().file_name().unwrap().to_string_lossy();
        let name = format!("pigeonair-{}", unique.trim_start_matches(".tmp"));
        let cgroup = unified().join(&name);
        fs::create_dir(&cgroup).unwrap();
        // Its cgroup is the whole hierarchy for what follows, and process ids are new, so that all ends with the first.
        let script = "echo $$ >\"$1/cgroup.procs\" && exec unshare --mount --cgroup --pid --fork \
                      --kill-child --mount-proc sh -c 'mount -t cgroup2 none /sys/fs/cgroup && \
                      exec systemd-nspawn --quiet --boot --register=no --keep-unit --private-network \
                      --link-journal=no --machine=\"$2\" --directory=\"$1\"' sh \"$2\" \"$3\"";
        let root = self.path("/");
        let mut process = Process::start(
            "machine",
            &logs,
            &[
                "sh",
                "-c",
                script,
                "sh",
                cgroup.to_str().unwrap(),
                root.to_str().unwrap(),
                &name,
            ],
        );
        let mut init = None;
        eventually("the machine has a first process", || {
            assert!(process.lives(), "{}", process.log());
            init = systemd_below(process.id());
            init.is_some()
        });
        self.booted = Some(Booted {
            process,
            init: init.unwrap(),
            cgroup,
        });
        eventually("the machine is up", || {
            let booted = self.booted.as_mut().unwrap();
            assert!(booted.process.lives(), "{}", booted.process.log());
            let state = self.run(&["systemctl", "is-active", "multi-user.target"]);
            state.out == "active\n"
        });
    }

    /// From here on sockets of the calling thread are the machine's.
    pub(super) fn enter_network(&self) {
        let init = self.booted.as_ref().unwrap().init.as_raw_nonzero();
        let network = fs::File::open(format!("/proc/{init}/ns/net")).unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.booted.is_some() {
            let journal = [
                "journalctl",
                "--no-pager",
                "--lines=100",
                "--unit=pigeonair-*",
            ];
            eprintln!("{}", self.run(&journal).out);
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.process.kill();
        eventually("nothing of the machine runs", || {
            remove_cgroup(&self.cgroup);
            !self.cgroup.exists()
        });
    }
}

/// The Debian that all others are copies of.
fn base() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let base = target.join("debian-12");
    if !base.exists() {
        let fresh = target.join(format!("debian-12.{}", std::process::id()));
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", INCLUDE, "bookworm"]);
        succeeds(debootstrap.arg(&fresh));
        fs::rename(&fresh, &base).unwrap();
    }
    base
}

fn succeeds(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    done(&format!("{command:?}"), output).ok();
}

fn done(command: &str, output: Output) -> Done {
    let [out, notes] =
        [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned());
    Done {
        command: command.to_owned(),
        code: output.status.code(),
        out,
        notes,
    }
}

fn described(status: &fs::Metadata) -> String {
    let mode = status.mode() & 0o7777;
    format!("{mode:04o} {}:{}", status.uid(), status.gid())
}

/// Where the unified hierarchy of cgroups is mounted.
fn unified() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let found = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[2] == "cgroup2").then(|| PathBuf::from(words[1]))
    });
    found.expect("the kernel's unified hierarchy of cgroups is mounted somewhere")
}

fn remove_cgroup(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// The machine's first process, among those that this one and its children have started.
fn systemd_below(parent: Pid) -> Option<Pid> {
    let id = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        let child = Pid::from_raw(child.parse().ok()?)?;
        if name == "systemd\n" {
            return Some(child);
        }
        systemd_below(child)
    })
}
