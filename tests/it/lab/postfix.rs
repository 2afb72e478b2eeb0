//! The MTA in front of a cluster: Debian's Postfix with the lines of `config/postfix/`.
//!
//! It has a folder of its own for configuration, queue and data; the machine's Postfix, if there is one, is not touched.
//! The `master` is a child of the test, and what it starts ends with it. Mail for other domains than the cluster's
//! leaves its queue and goes nowhere. Deferred messages are tried again every second or two.
//!
//! `inet_interfaces` must name an address of a network interface, which most of 127.0.0.0/8 are not; so it says
//! 127.0.0.1, and the listener in `master.cf` has the cluster's address.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Process, adapt, eventually, fill, group, slapd::SERVICE_PASSWORD, wait_for_port};

const MASTER: &str = "/usr/lib/postfix/sbin/master";

/// A running Postfix.
#[derive(Debug)]
pub(crate) struct Postfix {
    /// Its `master`.
    pub(crate) process: Process,
    /// Where it speaks SMTP.
    pub(crate) address: SocketAddr,
    dir: PathBuf,
    logs: PathBuf,
}

/// How Postfix hands over mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    Inet(SocketAddr),
    /// `pigeonair deliver` for each recipient, to the delivery role at this Unix socket.
    Pipe(PathBuf),
    Unix(PathBuf),
}

/// What a Postfix is started with.
#[derive(Debug)]
pub(crate) struct Settings<'s> {
    /// It must be one that other users can pass through.
    pub(crate) dir: &'s Path,
    pub(crate) logs: &'s Path,
    pub(crate) address: SocketAddr,
    pub(crate) transport: &'s Transport,
    /// The built program, for the pipe.
    pub(crate) program: &'s str,
    /// Where recipients are looked up; if nowhere, all are taken into the queue.
    pub(crate) ldap: Option<&'s str>,
    /// Further lines for main.cf, which win over what stands before them.
    pub(crate) extra: &'s str,
}

/// A message in the queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Queued {
    pub(crate) id: String,
    pub(crate) sender: String,
    /// Those that it is still for.
    pub(crate) recipients: Vec<String>,
    /// Why it was not delivered so far, for those that have been tried.
    pub(crate) reasons: Vec<String>,
}

// === impl Postfix ===

impl Postfix {
    pub(crate) fn start(settings: &Settings<'_>) -> Self {
        let dir = settings.dir;
        for folder in ["", "etc", "queue", "data"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        chown(dir.join("data"), Some(id_of("postfix")), None).unwrap();
        write_configuration(settings);
        let postfix = Self {
            process: Self::launch(dir, settings.logs, settings.address),
            address: settings.address,
            dir: dir.to_owned(),
            logs: settings.logs.to_owned(),
        };
        for line in postfix.log().lines() {
            assert!(!line.contains("fatal:"), "{line}");
        }
        postfix
    }

    fn launch(dir: &Path, logs: &Path, address: SocketAddr) -> Process {
        let configuration = dir.join("etc");
        let configuration = configuration.to_str().unwrap();
        // Makes the queue's folders.
        run("postfix", &["-c", configuration, "check"]);
        let mut process = Process::start("postfix", logs, &[MASTER, "-s", "-c", configuration]);
        wait_for_port(&mut process, address);
        process
    }

    /// Starts it once more, whether it still runs or was killed.
    pub(crate) fn restart(&mut self) {
        self.process.stop();
        self.process = Self::launch(&self.dir, &self.logs, self.address);
    }

    /// What is in its queue, by id.
    pub(crate) fn queue(&self) -> Vec<Queued> {
        let listing = run(
            "postqueue",
            &["-c", self.dir.join("etc").to_str().unwrap(), "-j"],
        );
        // A message that moves while the list is made is in it twice.
        let messages: BTreeMap<String, Queued> = listing
            .lines()
            .map(|line| {
                let id = strings(line, "queue_id").remove(0);
                let message = Queued {
                    id: id.clone(),
                    sender: strings(line, "sender").remove(0),
                    recipients: strings(line, "address"),
                    reasons: strings(line, "delay_reason"),
                };
                (id, message)
            })
            .collect();
        messages.into_values().collect()
    }

    /// Has it try everything in the queue now; on a busy machine its queue manager may take a while to come up.
    pub(crate) fn flush(&self) {
        let etc = self.dir.join("etc");
        eventually("Postfix takes the queue up", || {
            let output = Command::new("/usr/sbin/postqueue")
                .args(["-c", etc.to_str().unwrap(), "-f"])
                .output()
                .unwrap();
            let notes = String::from_utf8_lossy(&output.stderr);
            let is_down = notes.contains("mail system is down");
            assert!(output.status.success() || is_down, "postqueue: {notes}");
            output.status.success()
        });
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        let path = self.logs.join("postfix.maillog.log");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The lines about deliveries of the message with this id, one per recipient and try.
    pub(crate) fn tries(&self, id: &str) -> Vec<String> {
        let field = format!(": {id}: to=<");
        self.log()
            .lines()
            .filter(|line| line.contains(&field))
            .map(str::to_owned)
            .collect()
    }
}

fn write_configuration(settings: &Settings<'_>) {
    let etc = settings.dir.join("etc");
    let recipients = etc.join("ldap-recipients.cf");
    let recipients = recipients.to_str().unwrap();
    let transport = match settings.transport {
        Transport::Inet(address) => format!("pigeonair:inet:{address}"),
        Transport::Unix(path) => format!("pigeonair:unix:{}", path.display()),
        Transport::Pipe(_) => {
            "pigeonair-pipe:\npigeonair-pipe_destination_recipient_limit = 1".to_owned()
        }
    };
    let maps = match settings.ldap {
        Some(_) => format!("ldap:{recipients}"),
        None => "static:all".to_owned(),
    };
    let sample = adapt(
        include_str!("../../../config/postfix/main.cf"),
        &[
            ("pigeonair:unix:/run/pigeonair/lmtp", &transport),
            ("ldap:/etc/postfix/ldap-recipients.cf", &maps),
        ],
    );
    let own = fill(
        include_str!("../../../demo/postfix-main.cf"),
        &[
            ("DIR", settings.dir.to_str().unwrap()),
            ("LOGS", settings.logs.to_str().unwrap()),
        ],
    );
    let main = format!("{own}\n{sample}\n{}\n", settings.extra);
    fs::write(etc.join("main.cf"), main).unwrap();
    fs::write(etc.join("master.cf"), master(settings)).unwrap();
    if let Some(uri) = settings.ldap {
        let lookup = adapt(
            include_str!("../../../config/postfix/ldap-recipients.cf"),
            &[
                ("ldap://ldap.example.org", uri),
                ("start_tls = yes", "start_tls = no"),
                ("bind_pw = secret", &format!("bind_pw = {SERVICE_PASSWORD}")),
            ],
        );
        super::write_private(Path::new(recipients), &lookup);
        chown(recipients, None, Some(group("postfix"))).unwrap();
        fs::set_permissions(recipients, fs::Permissions::from_mode(0o640)).unwrap();
    }
}

/// The services, the listener, and ours.
fn master(settings: &Settings<'_>) -> String {
    let services = fill(
        include_str!("../../../demo/postfix-master.cf"),
        &[("SMTP", &settings.address.to_string())],
    );
    let command = "/usr/bin/pigeonair deliver";
    let ours = adapt(
        include_str!("../../../config/postfix/master.cf"),
        &[(
            command,
            &match settings.transport {
                Transport::Pipe(socket) => {
                    format!("{} deliver --server={}", settings.program, socket.display())
                }
                _ => command.to_owned(),
            },
        )],
    );
    services + &ours
}

/// Runs a command of Postfix' that is to succeed; what it prints.
fn run(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(format!("/usr/sbin/{command}"))
        .args(arguments)
        .output()
        .unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {notes}");
    String::from_utf8(output.stdout).unwrap()
}

fn id_of(user: &str) -> u32 {
    let output = Command::new("id").args(["-u", user]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().expect("the user of the package")
}

/// The texts behind a name in a JSON object, wherever it stands.
fn strings(json: &str, name: &str) -> Vec<String> {
    json.split(&format!("\"{name}\": \""))
        .skip(1)
        .map(|rest| {
            let mut text = String::new();
            let mut octets = rest.chars();
            while let Some(octet) = octets.next() {
                match octet {
                    '"' => break,
                    '\\' => text.extend(octets.next()),
                    octet => text.push(octet),
                }
            }
            text
        })
        .collect()
}
