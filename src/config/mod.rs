//! Configuration: one TOML file, read into the settings of every component.
//!
//! Everything that is wrong is found at once and told as `file: key.path: problem (got X; expected Y)`, and then
//! nothing starts. Reading includes the files that keys name (keys, passwords, certificates); it binds no address and
//! asks no server.
//!
//! ```text
//! text ──toml──> tables ──section, form──> proxy, delivery, directory, nodes ──> Front
//!                              │                     acceptor, mailstore ──────────────────> Node
//!                              │ every key known, every value of its form
//!                              └─────> Problems, warnings
//! ```
//!
//! A process reads its own sections only: a front must neither need nor hold what belongs to the node beside it.
//! `check` without a role reads all.
//!
//! Limits: the file has at most 1 MiB. On failure: [`Problems`], and `main` ends with exit code 78.

mod acceptor;
mod change;
mod defence;
mod delivery;
mod directory;
mod files;
mod form;
mod kinds;
mod mailstore;
mod nodes;
mod policy;
mod process;
#[cfg(any(fuzzing, test))]
mod property;
mod proxy;
mod section;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Table;

pub use self::change::{Sections, check_change};
#[cfg(any(fuzzing, test))]
pub use self::property::fuzz;
use self::{
    files::System,
    form::Form,
    section::{Endpoint, Problem, Report, Section},
};
use crate::{admin, log, orders::Orders, outcome::chain, user::User};

/// Waits below this are typing errors.
const SHORTEST: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest file read, in octets.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that a process is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it logs.
    pub log: log::Settings,
    /// Where it answers questions.
    pub admin: admin::Settings,
    /// Who it becomes.
    pub process: Process,
    /// The front, if the file has a `[proxy]` or a `[delivery]`.
    pub front: Option<Front>,
    /// The node, if the file has an `[acceptor]`.
    pub node: Option<Node>,
    /// What works but should be known: to be logged at start-up, one line each.
    pub warnings: Vec<String>,
    /// What the file and those that it names say, to be compared.
    pub sections: Sections,
}

/// Who the processes are once they have bound their listeners, and how far they are shut in.
#[derive(Clone, Debug)]
pub struct Process {
    /// The front; none: who started it.
    pub front_user: Option<User>,
    /// The node.
    pub node_user: Option<User>,
    /// Whether the front is shut in; default yes.
    pub sandbox: bool,
    /// Files that the front's sections name.
    pub front_reads: Vec<PathBuf>,
    /// Where the front is asked for its sockets by the one that takes its place; none (the default): nowhere.
    pub front_upgrade_socket: Option<PathBuf>,
    /// The same of the node.
    pub node_upgrade_socket: Option<PathBuf>,
    /// How long the sessions of a process that was replaced may go on; default 2 hours.
    pub upgrade_drain_timeout: Duration,
}

impl Process {
    /// Whom this process becomes.
    pub fn user(&self, role: Role) -> Option<&User> {
        match role {
            Role::Front => self.front_user.as_ref(),
            Role::Node => self.node_user.as_ref(),
        }
    }

    /// Where it is asked for its sockets.
    pub fn upgrade_socket(&self, role: Role) -> Option<&PathBuf> {
        match role {
            Role::Front => self.front_upgrade_socket.as_ref(),
            Role::Node => self.node_upgrade_socket.as_ref(),
        }
    }
}

/// What a front is told.
#[derive(Clone, Debug)]
pub struct Front {
    /// The proxy role, if it has it. It has one of the two at least.
    pub proxy: Option<crate::proxy::Settings>,
    /// The delivery role, if it has it.
    pub delivery: Option<crate::delivery::Settings>,
    /// Where accounts are.
    pub directory: crate::directory::Settings,
    /// Where homes are.
    pub nodes: crate::nodes::Settings,
    /// What the link is dialled with.
    pub dial: crate::link::DialSettings,
}

/// What a node is told.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where links arrive, and who may bring them.
    pub gate: crate::link::GateSettings,
    /// What a front may ask for.
    pub bounds: crate::home::Bounds,
    /// The acceptor role, if the node serves sessions. It has one of the two at least.
    pub acceptor: Option<crate::acceptor::Settings>,
    /// The mailstore role, if it serves mail.
    pub mailstore: Option<crate::mailstore::Settings>,
    /// How long a drain waits for sessions and messages before it closes them; default 30 s.
    pub drain_timeout: Duration,
    /// How long closing those may take; default 10 s.
    pub close_over: Duration,
}

/// How a process goes out of service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Leave {
    /// How long it still accepts after it has told monitors that it is not ready.
    pub pause: Duration,
    /// How long it waits for sessions and messages.
    pub limit: Duration,
    /// How long closing those that are left may take.
    pub over: Duration,
}

impl Config {
    /// How the process goes out of service: of roles that differ, the longest.
    pub fn leave(&self) -> Leave {
        let front = self.front.as_ref();
        let proxy = front.and_then(|front| front.proxy.as_ref());
        let delivery = front.and_then(|front| front.delivery.as_ref());
        let node = self.node.as_ref();
        let limits = [
            proxy.map(|settings| settings.drain_timeout),
            delivery.map(|settings| settings.drain_timeout),
            node.map(|settings| settings.drain_timeout),
        ];
        let proxy_over = proxy.map(|settings| settings.close_over);
        let over = proxy_over.max(node.map(|settings| settings.close_over));
        Leave {
            pause: proxy
                .map(|settings| settings.ready_pause)
                .unwrap_or_default(),
            limit: limits.into_iter().flatten().max().unwrap_or_default(),
            over: over.unwrap_or_default(),
        }
    }
}

/// Which of the two processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The one that faces the internet.
    Front,
    /// The one that faces links.
    Node,
}

/// All that is wrong with a file: one line each.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Problems {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    /// One, of the file as a whole.
    fn whole(file: &Path, text: String) -> Self {
        Self::one(file, "", text)
    }

    /// One, of a key or a section.
    pub fn one(file: &Path, key: &str, text: String) -> Self {
        let key = key.to_owned();
        Self {
            file: file.to_owned(),
            problems: vec![Problem { key, text }],
        }
    }

    /// Of files that a process of this configuration was not let read, says what may be the reason.
    #[must_use]
    pub fn explained(mut self, config: &Config) -> Self {
        let denied = io::Error::from(rustix::io::Errno::ACCESS).to_string();
        let is_shut_in = config.front.is_some() && config.process.sandbox;
        let all = self.problems.iter_mut().filter(|_| is_shut_in);
        for problem in all.filter(|problem| problem.text.contains(&denied)) {
            problem.text += " (a front that runs reads only below folders that its configuration named at its start: start it again if that is why)";
        }
        self
    }

    /// One line for each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let file = self.file.display();
        self.problems.iter().map(move |Problem { key, text }| {
            if key.is_empty() {
                format!("{file}: {text}")
            } else {
                format!("{file}: {key}: {text}")
            }
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

/// Reads everything in the file.
///
/// # Errors
///
/// All that is wrong with it, also that there is nothing to run.
pub fn load(path: &Path) -> Result<Config, Problems> {
    read(path, None, &system())
}

/// Where processes answer.
#[derive(Clone, Debug)]
pub struct Answering {
    /// The addresses and sockets.
    pub admin: admin::Settings,
    /// Whether the file is for a front, too.
    pub has_front: bool,
}

/// Where processes answer, by a file of which nothing else need be right: whoever asks need not be able to read what it names, and
/// the process may see other things wrong with it.
///
/// # Errors
///
/// The file cannot be read or is not TOML, or a key of `[admin]` is not right.
pub fn answering(path: &Path) -> Result<Answering, Problems> {
    let report = Report::default();
    let whole = |text| Problems::whole(path, text);
    let text = text_of(path).map_err(|error| whole(format!("cannot read it: {error}")))?;
    let table = table_of(&text).map_err(whole)?;
    let mut root = Section::root(&table, &report);
    let mut section = root.table("admin");
    let admin = places(&mut section);
    section.leave();
    root.leave();
    drop((section, root));
    let (problems, _) = report.into_parts();
    if !problems.is_empty() {
        return Err(Problems {
            file: path.to_owned(),
            problems,
        });
    }
    let has_front = ["proxy", "delivery"].map(|name| table.contains_key(name));
    Ok(Answering {
        admin,
        has_front: has_front.contains(&true),
    })
}

/// Reads what one of the two processes needs. The other's sections are not looked at.
///
/// # Errors
///
/// All that is wrong with them, also that they are missing.
pub fn load_for(role: Role, path: &Path) -> Result<Config, Problems> {
    read(path, Some(role), &system())
}

fn system() -> System {
    System {
        passwd: PathBuf::from("/etc/passwd"),
        group: PathBuf::from("/etc/group"),
        authorities: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
        uid: rustix::process::geteuid().as_raw(),
    }
}

fn read(path: &Path, role: Option<Role>, system: &System) -> Result<Config, Problems> {
    let report = Report::default();
    let failed = |problems| Problems {
        file: path.to_owned(),
        problems,
    };
    let whole = |text| Problems::whole(path, text);
    let text = text_of(path).map_err(|error| whole(format!("cannot read it: {error}")))?;
    let table = table_of(&text).map_err(whole)?;
    let config = assemble(&mut Section::root(&table, &report), role, system);
    let files = report.files();
    match (config, report.into_parts()) {
        (Some(config), (problems, warnings)) if problems.is_empty() => Ok(Config {
            warnings,
            sections: Sections::of(&table, role, &files),
            ..config
        }),
        (None, (problems, _)) if problems.is_empty() => {
            Err(whole("not usable (a mistake of this program)".to_owned()))
        }
        (_, (problems, _)) => Err(failed(problems)),
    }
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = MAX_FILE_BYTES.saturating_add(1);
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// The file's tables; else what is wrong with its syntax, and where.
fn table_of(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |line| line.chars().count())
            .saturating_add(1);
        let message = error.message().replace(char::is_control, " ");
        format!("line {line}, column {column}: not TOML: {message}")
    })
}

/// Reads the sections of `role`, or of both; what is wrong goes to the report.
fn assemble(root: &mut Section<'_>, role: Option<Role>, system: &System) -> Option<Config> {
    const FRONT: [&str; 4] = ["proxy", "delivery", "directory", "nodes"];
    const NODE: [&str; 2] = ["acceptor", "mailstore"];
    root.pass_over(&FRONT);
    root.pass_over(&NODE);
    let log = log(&mut root.table("log"));
    let has_front = role != Some(Role::Node) && FRONT.iter().any(|name| root.has(name));
    let has_node = role != Some(Role::Front) && NODE.iter().any(|name| root.has(name));
    let admin = admin(&mut root.table("admin"), has_front, has_node);
    let mut process = process::read(&mut root.table("process"), has_front, has_node, system);
    let Process {
        front_user,
        node_user,
        ..
    } = &process;
    let front = has_front.then(|| as_user(front_user.as_ref(), root, system, front));
    let front_reads = root.report().files();
    let node = has_node.then(|| as_user(node_user.as_ref(), root, system, node));
    process.front_reads = front_reads;
    match role {
        Some(Role::Front) if !has_front => {
            root.missing("proxy", "a section [proxy] or [delivery] to run a front");
        }
        Some(Role::Node) if !has_node => {
            root.missing("acceptor", "a section [acceptor] to run a node");
        }
        None if !has_front && !has_node => root.missing(
            "proxy",
            "a section [proxy] or [delivery] to run a front, or [acceptor] to run a node",
        ),
        _ => {}
    }
    Some(Config {
        log,
        admin,
        process,
        front: wanted(front)?,
        node: wanted(node)?,
        warnings: Vec::new(),
        sections: Sections::default(),
    })
}

/// Reads sections with the rights of the user that their process becomes: files that it can't read are problems, now
/// and not when it reads them again.
fn as_user<T>(
    user: Option<&User>,
    root: &mut Section<'_>,
    system: &System,
    read: impl FnOnce(&mut Section<'_>, &System) -> Option<T>,
) -> Option<T> {
    let Some(user) = user else {
        return read(root, system);
    };
    let theirs = System {
        uid: user.uid,
        ..system.clone()
    };
    if system.uid != 0 {
        return read(root, &theirs);
    }
    let report = root.report();
    let earlier = report.count();
    let done = user.act(|| read(root, &theirs));
    report.name_reader(earlier, user);
    done.unwrap_or_else(|error| {
        report.problem("process", format!("cannot read files as {user}: {error}"));
        None
    })
}

/// The sections of a front. They need each other, so one that is missing is missed.
fn front(root: &mut Section<'_>, system: &System) -> Option<Front> {
    if !root.has("proxy") && !root.has("delivery") {
        root.missing("proxy", "a section [proxy] or [delivery]");
    }
    for name in ["directory", "nodes"] {
        if !root.has(name) {
            root.missing(name, &format!("a section [{name}]"));
        }
    }
    let directory = root
        .has("directory")
        .then(|| directory::read(&mut root.table("directory"), system));
    let (nodes, dial) = if root.has("nodes") {
        nodes::read(&mut root.table("nodes"))
    } else {
        (None, crate::link::DialSettings::default())
    };
    let proxy = root
        .has("proxy")
        .then(|| proxy::read(&mut root.table("proxy"), system));
    let delivery = root
        .has("delivery")
        .then(|| delivery::read(&mut root.table("delivery")));
    Some(Front {
        proxy: wanted(proxy)?,
        delivery: wanted(delivery)?,
        directory: directory??,
        nodes: nodes?,
        dial,
    })
}

/// The sections of a node.
fn node(root: &mut Section<'_>, system: &System) -> Option<Node> {
    if !root.has("acceptor") {
        root.missing("acceptor", "a section [acceptor]");
    }
    let has_mailstore = root.has("mailstore");
    let acceptor = root
        .has("acceptor")
        .then(|| acceptor::read(&mut root.table("acceptor"), has_mailstore, system));
    let mailstore = has_mailstore.then(|| mailstore::read(&mut root.table("mailstore")));
    let acceptor = acceptor??;
    Some(Node {
        gate: acceptor.gate,
        bounds: acceptor.bounds,
        acceptor: acceptor.sessions,
        mailstore: wanted(mailstore)?,
        drain_timeout: acceptor.drain_timeout,
        close_over: acceptor.close_over,
    })
}

/// A section that may be absent; none when it is there and can't be read.
fn wanted<T>(section: Option<Option<T>>) -> Option<Option<T>> {
    section.map_or(Some(None), |read| read.map(Some))
}

fn log(section: &mut Section<'_>) -> log::Settings {
    const FORMATS: &[(&str, log::Format)] =
        &[("text", log::Format::Text), ("json", log::Format::Json)];
    const LEVELS: &[(&str, tracing::Level)] = &[
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
    ];
    let default = log::Settings::default();
    log::Settings {
        format: section.or("format", &form::word(FORMATS), default.format),
        level: section.or("level", &form::word(LEVELS), default.level),
    }
}

fn places(section: &mut Section<'_>) -> admin::Settings {
    let form: Form<Option<SocketAddr>> =
        form::parsed("an IP address with a port, or \"off\"", |text| match text {
            "off" => Some(None),
            text => text.parse().ok().map(Some),
        });
    let default = admin::Settings::default();
    admin::Settings {
        front: section.or("front", &form, default.front),
        node: section.or("node", &form, default.node),
        front_socket: section.optional("front_socket", &form::common_socket_path()),
        orders_file: section.optional("orders_file", &form::path("the path of a file")),
        node_socket: section.optional("node_socket", &form::common_socket_path()),
    }
}

fn admin(section: &mut Section<'_>, has_front: bool, has_node: bool) -> admin::Settings {
    let settings = places(section);
    if let Some(path) = settings.orders_file.clone().filter(|_| has_front)
        && let Err(error) = Orders::open(Some(path))
    {
        section.problem("orders_file", chain(&error));
    }
    for (name, path, used) in [
        ("front_socket", &settings.front_socket, has_front),
        ("node_socket", &settings.node_socket, has_node),
    ] {
        if let Some(path) = path.clone().filter(|_| used) {
            let report = section.report();
            report.claim(section.key(name), Endpoint::Unix(path));
        }
    }
    for (name, address, used) in [
        ("front", settings.front, has_front),
        ("node", settings.node, has_node),
    ] {
        if let Some(address) = address.filter(|_| used) {
            section
                .report()
                .claim(section.key(name), Endpoint::Tcp(address));
        }
    }
    settings
}
