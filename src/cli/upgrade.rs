//! `upgrade`: a new process in the running one's place.
//!
//! ```text
//! who runs? ─> start `run PROCESS --take-over` ─> ended: say with what ─────────────────> its exit code
//!                                              └> asks again and again: who runs? ─> it ─> 0
//! ```
//!
//! Once it serves, the service manager is told who is the main process now. The one before has said so, unless it was gone by then:
//! a manager that has started this command waits for its end, also when the main process ends meanwhile.
//!
//! With `--or-reload` a process of this very program is not replaced but reads its configuration again, and so is one that
//! cannot be replaced: what a service manager calls a reload.
//!
//! The program that is started is this one: whoever has installed a new one runs the new one's `upgrade`. It gets the
//! configuration, standard error and environment of this command, reads nothing from standard input, and is in a
//! process group of its own, so that what ends the command at a terminal later does not end it.
//!
//! Limits: `--wait`. When it has passed, or at SIGINT or SIGTERM, the new process is ended; the running one goes on, as always when
//! this fails. A service manager that stops the service sends SIGTERM, maybe to this command and the process that served before
//! alone: so then the new one ends even if it has just begun to serve.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use rustix::process::{Pid, Signal};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{self, SignalKind},
    time::sleep,
};

use super::{DEFAULT_CONFIG, Failed, Process, print, reload};
use crate::{
    app::{self, Program, TakeError},
    config, outcome,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// For the moment in which one process gives its place to the other, and nobody says who serves.
const GRACE: Duration = Duration::from_secs(15);

/// Why the running process goes on.
#[derive(Debug, thiserror::Error)]
pub enum NotUpgraded {
    /// There is none, or it does not answer.
    #[error(transparent)]
    Nobody(TakeError),
    /// The new process did not start to serve.
    #[error("the new {process} has ended {how} and said why; the running one (pid {pid}) goes on")]
    Ended {
        /// Which.
        process: &'static str,
        /// With a code or by a signal, in words.
        how: String,
        /// Its exit code, if it had one that says that something went wrong.
        code: Option<u8>,
        /// The running one.
        pid: u32,
    },
    /// It can't be started.
    #[error("cannot start the new process")]
    Start(#[source] io::Error),
    /// Whoever has started it wants no more of it.
    #[error("told to end: the new {process} was ended")]
    Told {
        /// Which.
        process: &'static str,
    },
    /// It took too long.
    #[error("the new {process} did not serve within {} s and was ended; the running one (pid {pid}) goes on", wait.as_secs())]
    TimedOut {
        /// Which.
        process: &'static str,
        /// How long.
        wait: Duration,
        /// The running one.
        pid: u32,
    },
}

/// The command's arguments.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Which.
    process: Process,
    /// How many seconds the new process may take until it serves.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=600))]
    wait: u64,
    /// Where the running process is of this very program, or cannot be replaced, have it read its configuration again instead.
    #[arg(long)]
    or_reload: bool,
    /// The configuration file, for the new process too.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

pub(super) fn run(
    options: &Options,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failed> {
    // What is wrong with it is best said before anything is started.
    let config = config::load_for(options.process.into(), &options.config)?;
    let who = || app::who_runs(&config.process, options.process.into());
    let running = who();
    let is_other = |(_, program): &(u32, Program)| *program != Program::own();
    if options.or_reload && !running.as_ref().is_ok_and(is_other) {
        if let Err(why) = running.as_ref()
            && !matches!(why, TakeError::NoSocket)
        {
            // Notes are by the way.
            let why = outcome::chain(why);
            let _ = writeln!(notes, "the running process cannot be replaced: {why}");
        }
        return reload::run(options.process, &options.config, out, notes);
    }
    let (pid, program) = running.map_err(NotUpgraded::Nobody)?;
    let mut signals = Signals::catch().map_err(NotUpgraded::Start)?;
    let mut new = start(options).map_err(NotUpgraded::Start)?;
    let started = Instant::now();
    let process = options.process.as_str();
    let wait = Duration::from_secs(options.wait);
    loop {
        if let Some(how) = new.try_wait().map_err(NotUpgraded::Start)? {
            return Err(NotUpgraded::Ended {
                process,
                how: how.to_string(),
                code: how
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .filter(|code| *code != 0),
                pid,
            }
            .into());
        }
        let now = who();
        let serves = now.as_ref().ok().filter(|(found, _)| *found == new.id());
        if signals.is_stopped || (signals.is_interrupted && serves.is_none()) {
            stop(&mut new, serves.is_some());
            return Err(NotUpgraded::Told { process }.into());
        }
        if let Some((found, serves)) = serves {
            if let Err(error) = app::name_main(*found) {
                let _ = writeln!(
                    notes,
                    "the service manager cannot be told that pid {found} is the main process: {error}"
                );
            }
            let [before, now] = [&program, serves].map(|program| &program.version);
            return print(
                out,
                format_args!(
                    "{process}: pid {found} ({now}) serves in the place of pid {pid} ({before}), which ends with its sessions\n"
                ),
            );
        }
        // Unless neither of them says that it serves: then the one gives its place to the other in this moment.
        let is_given = now.is_err() && started.elapsed() < wait + GRACE;
        if started.elapsed() > wait && !is_given {
            stop(&mut new, false);
            return Err(NotUpgraded::TimedOut { process, wait, pid }.into());
        }
        signals.within(PAUSE);
    }
}

fn start(options: &Options) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["run", options.process.as_str(), "--take-over", "--config"])
        .arg(&options.config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Ends what serves as a service manager would. What does not is ended at once: nobody can be connected to it but by a chance of
/// the last moment.
fn stop(new: &mut Child, serves: bool) {
    if serves {
        let _ = rustix::process::kill_process(Pid::from_child(new), Signal::TERM);
        return;
    }
    // It may have ended by itself.
    let _ = new.kill();
    let _ = new.wait();
}

/// What ends the command before it has done its work.
struct Signals {
    runtime: Runtime,
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// At a terminal.
    is_interrupted: bool,
    /// By a service manager.
    is_stopped: bool,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let interrupt = unix::signal(SignalKind::interrupt())?;
        let terminate = unix::signal(SignalKind::terminate())?;
        drop(entered);
        Ok(Self {
            runtime,
            interrupt,
            terminate,
            is_interrupted: false,
            is_stopped: false,
        })
    }

    /// Waits so long, or until one comes.
    fn within(&mut self, pause: Duration) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => self.is_interrupted = true,
                _ = self.terminate.recv() => self.is_stopped = true,
                () = sleep(pause) => {}
            }
        });
    }
}
