//! The command line: what was asked for, done, and what went wrong said on standard error.
//!
//! ```text
//! pigeonair run front|node [--take-over] [--config FILE]
//!                                               run one of the two processes, in the place of one that runs
//! pigeonair upgrade front|node [--config FILE]  start one that takes the running one's place, and wait until it has
//! pigeonair check [front|node] [--online] [--config FILE]
//!                                               read the configuration as `run` does, and start nothing; ask the LDAP servers
//! pigeonair explain [--json] [--config FILE] NAME
//!                                               say who a login or an address is, and where that leads
//! pigeonair reload front|node [--config FILE]   have a process that runs read its configuration again
//! pigeonair status [front|node] [--json] [--config FILE], pigeonair nodes [--json] [--config FILE]
//!                                               say what a running process does
//! pigeonair key [--out FILE]                    make a key for a link
//! pigeonair deliver [-f SENDER] RECIPIENT       deliver the message on standard input
//! pigeonair who | kick                          list the running front's sessions, or end them
//! pigeonair hold | release | drain | undrain | orders
//!                                               order the running front what to leave alone for now, and take it back
//! pigeonair cache flush [NAME]                  have the running front ask the directory again
//! pigeonair completion bash|fish|zsh            print what that shell reads to complete all this
//! ```
//!
//! Commands write their results to standard output, everything else to standard error; once a process runs, its log
//! speaks. It decides no exit code: [`Failed`] says what happened, and `main` has the table. An MTA that runs `deliver` takes
//! most codes for a reason to return mail, so there a wrong command line is one of its own failures, and help is given to
//! whoever asks for nothing else.

mod completion;
mod deliver;
mod explain;
mod front;
mod orders;
mod reload;
mod status;
mod table;
mod upgrade;
mod who;

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

pub use self::{deliver::NotDelivered, reload::Unasked, upgrade::NotUpgraded};
use crate::{
    admin::{AskError, StatusError},
    app::{self, AppError, Start},
    config::{self, Config, Front, Problems, Role},
    directory::Examined,
    log,
    secret::{Key, Secret},
};

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The process could not start, or ended by itself.
    #[error(transparent)]
    App(#[from] AppError),
    /// The command line is wrong.
    #[error(transparent)]
    CommandLine(clap::Error),
    /// The configuration is.
    #[error(transparent)]
    Configuration(#[from] Problems),
    /// A message was not delivered.
    #[error(transparent)]
    Deliver(#[from] NotDelivered),
    /// The running front did not do what it was asked for.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Nor did a process whose place it has taken.
    #[error("the front that was replaced and still runs (pid {pid}) did not do it")]
    Replaced {
        /// Which.
        pid: u32,
        /// Why.
        #[source]
        source: AskError,
    },
    /// It answers, and cannot serve.
    #[error("the process is not ready: {0}")]
    NotReady(String),
    /// The configuration has no address for the question.
    #[error("there is nowhere to ask: set {0}, and restart the process")]
    NowhereToAsk(&'static str),
    /// A running process does not say what it does.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Nobody has that name.
    #[error("nobody has the login or the address {0}")]
    Nobody(String),
    /// No session is one of those that were meant.
    #[error("no such session")]
    NoSession,
    /// It is not said how to ask the running front.
    #[error("[admin] front_socket is not set in {0}: set it, or name the socket with --socket")]
    NoSocket(PathBuf),
    /// An LDAP server does not do what it will be asked for.
    #[error("not all LDAP servers do what they will be asked for")]
    Online,
    /// The log could not be started.
    #[error(transparent)]
    Log(#[from] log::StartedError),
    /// A process has not taken its configuration: a line for each problem.
    #[error("{}", .0.join("\n"))]
    NotTaken(Vec<String>),
    /// A process was not asked.
    #[error("cannot have the {process} reload")]
    Reload {
        /// Which.
        process: &'static str,
        /// Why not.
        #[source]
        source: Unasked,
    },
    /// The running process was not replaced.
    #[error("the running process was not replaced")]
    Upgrade(#[from] NotUpgraded),
    /// The directory could not say who somebody is.
    #[error("the directory cannot say who that is")]
    Unexplained,
    /// A result could not be written.
    #[error("cannot write {what}")]
    Output {
        /// What was to be written where.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no random octets.
    #[error("cannot get random octets")]
    Random(#[source] getrandom::Error),
}

/// IMAP/POP3 redirecting proxy: LDAP decides which storage node serves whom.
#[derive(Debug, Parser)]
#[command(name = "pigeonair", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the running front remembers of the directory.
    Cache(orders::CacheOptions),
    /// Read the configuration as `run` does, report everything that is wrong with it, and start nothing.
    Check {
        /// Read what this process needs only; else everything.
        process: Option<Process>,
        /// Try each LDAP server too: connect, bind as the service account, search.
        #[arg(long)]
        online: bool,
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Print what a shell reads in order to complete command lines of this program.
    Completion {
        /// Which shell.
        shell: completion::Shell,
    },
    /// Deliver the message on standard input to one recipient, for MTAs that pipe to a command.
    Deliver(deliver::Options),
    /// Send balancers, or logins and mail for a storage node, elsewhere or to come later.
    Drain(orders::DrainOptions),
    /// Say who a login or a mail address is, what the account may do, and which node is its home.
    Explain(explain::Options),
    /// Have an account's logins and mail try later, and end its sessions.
    Hold(orders::HoldOptions),
    /// Make a key for a link: 64 hexadecimal digits.
    Key {
        /// Write it to this file, which must not exist yet, with mode 0600; else to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End sessions of the running front.
    Kick(who::KickOptions),
    /// Say how the nodes of the front's table do: state, sessions, links.
    Nodes(status::How),
    /// List the orders in force: accounts that are held, and what is drained.
    Orders(orders::ListOptions),
    /// Serve an account again that was held.
    Release(orders::ReleaseOptions),
    /// Have a process that runs read its configuration again: it takes it whole, or says what is wrong and goes on as before.
    Reload {
        /// Which.
        process: Process,
        /// The configuration file: where the process answers stands there, in `admin`.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Run one of the two processes.
    Run {
        /// Which.
        process: Process,
        /// Take the place of the one that runs: its listening sockets, and who connects from then on.
        #[arg(long)]
        take_over: bool,
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Say what a running process does and has done in the last minutes.
    Status(status::StatusOptions),
    /// Use again what was drained.
    Undrain(orders::UndrainOptions),
    /// Start a process that takes the running one's place, wait until it serves, and say what came of it.
    Upgrade(upgrade::Options),
    /// List who is on at the running front.
    Who(who::WhoOptions),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Process {
    /// The process that faces clients.
    Front,
    /// The process that faces links, on a storage node.
    Node,
}

const DEFAULT_CONFIG: &str = "/etc/pigeonair/pigeonair.toml";

impl Process {
    /// The word for it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Node => "node",
        }
    }
}

impl From<Process> for Role {
    fn from(process: Process) -> Self {
        match process {
            Process::Front => Self::Front,
            Process::Node => Self::Node,
        }
    }
}

/// The definition of the command line, of which manual pages are made.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what the command line asks for. A failure has been told on standard error when this returns.
///
/// # Errors
///
/// What it was.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failed> {
    let done = obey(arguments, &mut io::stdout(), &mut io::stderr());
    if let Err(failed) = &done {
        // If standard error is gone there is nobody left to tell.
        let _ = tell(failed, &mut io::stderr());
    }
    done
}

fn obey(
    arguments: impl IntoIterator<Item = OsString>,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_mail = arguments.get(1).is_some_and(|command| command == "deliver");
    let is_help = |argument: &OsString| argument == "-h" || argument == "--help";
    let is_question = !is_mail || matches!(arguments.as_slice(), [_, _, asked] if is_help(asked));
    let command = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        // Help and version come as errors too.
        Err(asked) if !asked.use_stderr() && is_question => return print(out, asked.render()),
        Err(wrong) if is_mail => {
            let words = wrong.render().to_string();
            return Err(NotDelivered::CommandLine(words).into());
        }
        Err(wrong) => return Err(Failed::CommandLine(wrong)),
    };
    match command {
        Command::Cache(options) => orders::cache(&options, out),
        Command::Check {
            process,
            online,
            config,
        } => check(process, online, &config, out, notes),
        Command::Completion { shell } => completion::run(shell, out),
        Command::Deliver(options) => Ok(deliver::run(&options)?),
        Command::Drain(options) => orders::drain(&options, out),
        Command::Explain(options) => explain::run(&options, out),
        Command::Hold(options) => orders::hold(&options, out),
        Command::Key { out: file } => key(file.as_deref(), out),
        Command::Kick(options) => who::kick(&options, out),
        Command::Nodes(how) => status::nodes(&how, out),
        Command::Orders(options) => orders::list(&options, out),
        Command::Release(options) => orders::release(&options, out),
        Command::Reload { process, config } => reload::run(process, &config, out, notes),
        Command::Run {
            process,
            take_over: true,
            config,
        } => start(process, Start::TakeOver, &config),
        Command::Run {
            process, config, ..
        } => start(process, Start::Afresh, &config),
        Command::Status(options) => status::status(&options, out),
        Command::Undrain(options) => orders::undrain(&options, out),
        Command::Upgrade(options) => upgrade::run(&options, out, notes),
        Command::Who(options) => who::who(&options, out),
    }
}

fn start(process: Process, how: Start, path: &Path) -> Result<(), Failed> {
    let config = config::load_for(process.into(), path)?;
    log::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration has a risk");
    }
    match process {
        Process::Front => app::run_front(config, path, how)?,
        Process::Node => app::run_node(config, path, how)?,
    }
    Ok(())
}

fn check(
    process: Option<Process>,
    online: bool,
    path: &Path,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failed> {
    let config = match process {
        Some(process) => config::load_for(process.into(), path)?,
        None => config::load(path)?,
    };
    for warning in &config.warnings {
        // Notes are by the way.
        let _ = writeln!(notes, "{}: warning: {warning}", path.display());
    }
    if online && let Some(front) = &config.front {
        app::become_front(&config.process)?;
        examine(front, out, notes)?;
    }
    let Config { front, node, .. } = &config;
    let front = front.as_ref().map_or_else(|| "none".to_owned(), describe);
    let node = node
        .as_ref()
        .map_or("none", |node| node.gate.admit.node.as_str());
    let path = path.display();
    print(
        out,
        format_args!("{path}: ok (front: {front}, node: {node})\n"),
    )
}

/// A line for each LDAP server, and one for each of its problems.
fn examine(front: &Front, out: &mut impl Write, notes: &mut impl Write) -> Result<(), Failed> {
    let mut is_wrong = false;
    for Examined {
        server,
        took,
        problems,
        notes: good_to_know,
    } in app::examine_directory(front.directory.clone())?
    {
        if problems.is_empty() {
            print(
                out,
                format_args!("{server}: ok ({} ms)\n", took.as_millis()),
            )?;
        }
        for note in good_to_know {
            print(out, format_args!("{server}: {note}\n"))?;
        }
        for problem in problems {
            is_wrong = true;
            // The exit code says it, too.
            let _ = writeln!(notes, "{server}: {problem}");
        }
    }
    if is_wrong {
        return Err(Failed::Online);
    }
    Ok(())
}

fn describe(front: &Front) -> String {
    let count = |count: usize, noun| match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    };
    let proxy = front.proxy.as_ref();
    let delivery = front.delivery.as_ref();
    let listeners = [
        proxy.map_or(0, |settings| settings.listeners.len()),
        delivery.map_or(0, |settings| settings.listeners.len()),
    ];
    format!(
        "{} and {}",
        count(listeners.iter().sum(), "listener"),
        count(front.nodes.nodes.len(), "node")
    )
}

fn key(file: Option<&Path>, out: &mut impl Write) -> Result<(), Failed> {
    let mut octets = [0; Key::BYTES];
    getrandom::fill(&mut octets).map_err(Failed::Random)?;
    let mut line = Key::new(octets).to_hex().expose().to_vec();
    line.push(b'\n');
    let line = Secret::new(line);
    let Some(file) = file else {
        return write(out, line.expose());
    };
    let failed = |source| Failed::Output {
        what: file.display().to_string(),
        source,
    };
    let mut created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(failed)?;
    let written = created
        .write_all(line.expose())
        .and_then(|()| created.sync_all());
    written.map_err(|source| {
        // Half a key is worse than none; if it cannot be removed either, the first error is still the one to tell.
        let _ = fs::remove_file(file);
        failed(source)
    })
}

fn print(out: &mut impl Write, text: impl std::fmt::Display) -> Result<(), Failed> {
    write(out, text.to_string().as_bytes())
}

fn write(out: &mut impl Write, octets: &[u8]) -> Result<(), Failed> {
    let written = out.write_all(octets).and_then(|()| out.flush());
    written.map_err(|source| Failed::Output {
        what: "to standard output".to_owned(),
        source,
    })
}

/// Says what failed and why. Problems of the configuration and of the command line have their own form.
fn tell(failed: &Failed, notes: &mut impl Write) -> io::Result<()> {
    match failed {
        Failed::CommandLine(wrong) => write!(notes, "{}", wrong.render()),
        Failed::Configuration(problems) => writeln!(notes, "{problems}"),
        Failed::NotTaken(_) => writeln!(notes, "{failed}"),
        Failed::Deliver(failed) => writeln!(notes, "{}", failed.line()),
        Failed::App(_)
        | Failed::Ask(_)
        | Failed::Log(_)
        | Failed::NoSession
        | Failed::NoSocket(_)
        | Failed::Nobody(_)
        | Failed::NotReady(_)
        | Failed::NowhereToAsk(_)
        | Failed::Online
        | Failed::Output { .. }
        | Failed::Random(_)
        | Failed::Reload { .. }
        | Failed::Replaced { .. }
        | Failed::Status(_)
        | Failed::Upgrade(_)
        | Failed::Unexplained => {
            write!(notes, "pigeonair: {failed}")?;
            let mut cause = std::error::Error::source(failed);
            while let Some(error) = cause {
                write!(notes, ": {error}")?;
                cause = error.source();
            }
            writeln!(notes)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The result of a command, and what it wrote.
    fn obeyed(arguments: &[&str]) -> (Result<(), Failed>, String, String) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let arguments = ["pigeonair"].iter().chain(arguments).map(OsString::from);
        let done = obey(arguments, &mut out, &mut notes);
        if let Err(failed) = &done {
            tell(failed, &mut notes).unwrap();
        }
        let [out, notes] = [out, notes].map(|octets| String::from_utf8(octets).unwrap());
        (done, out, notes)
    }

    #[test]
    fn wrong_command_lines_are_told_apart_from_questions() {
        for wrong in [
            &[] as &[&str],
            &["run"],
            &["run", "both"],
            &["runn", "front"],
            &["check", "--conf", "x"],
            &["key", "x"],
        ] {
            let (done, out, notes) = obeyed(wrong);
            assert!(matches!(done, Err(Failed::CommandLine(_))), "{wrong:?}");
            assert_eq!(out, "");
            assert!(notes.contains("help"), "{notes}");
        }
        let (done, out, _) = obeyed(&["--version"]);
        assert!(done.is_ok());
        assert_eq!(out, concat!("pigeonair ", env!("CARGO_PKG_VERSION"), "\n"));
        let (done, out, _) = obeyed(&["run", "--help"]);
        assert!(done.is_ok());
        assert!(out.contains(DEFAULT_CONFIG), "{out}");
    }

    #[test]
    fn keys_are_random_and_their_files_private_and_new() {
        let (done, one, _) = obeyed(&["key"]);
        assert!(done.is_ok());
        assert!(Key::from_hex(one.trim_end().as_bytes()).is_some(), "{one}");
        assert_ne!(one, obeyed(&["key"]).1);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.key");
        let arguments = ["key", "--out", path.to_str().unwrap()];
        let (done, out, _) = obeyed(&arguments);
        assert!(done.is_ok());
        assert_eq!(out, "");
        let first = Key::from_file(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let (done, _, notes) = obeyed(&arguments);
        assert!(matches!(done, Err(Failed::Output { .. })));
        let expected = format!("pigeonair: cannot write {}: File exists", path.display());
        assert!(notes.starts_with(&expected), "{notes}");
        assert_eq!(Key::from_file(&path).unwrap().expose(), first.expose());
    }

    #[test]
    fn a_bad_file_is_told_problem_by_problem() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, "[lgo]\n[log]\nlevel = 1\n").unwrap();
        let shown = path.display();
        for command in [&["check", "front"] as &[&str], &["run", "front"]] {
            let arguments: Vec<&str> = command
                .iter()
                .copied()
                .chain(["--config", path.to_str().unwrap()])
                .collect();
            let (done, out, notes) = obeyed(&arguments);
            assert!(matches!(done, Err(Failed::Configuration(_))));
            assert_eq!(out, "");
            assert_eq!(
                notes.lines().collect::<Vec<_>>(),
                [
                    format!(
                        "{shown}: log.level: bad value (got 1; expected \"error\" or \"warn\" or \"info\" or \"debug\")"
                    ),
                    format!(
                        "{shown}: proxy: missing (expected a section [proxy] or [delivery] to run a front)"
                    ),
                    format!("{shown}: lgo: unknown key, did you mean log?"),
                ]
            );
        }
    }
}
