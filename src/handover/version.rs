//! Which Dovecot is installed, and whether it takes sessions on its `imap-master` socket and begins a session as configured;
//! which Cyrus greets, and whether it reads a PROXY header.
//!
//! Asked when the configuration is read and at start, of `dovecot --version`. A server that can't do what is configured is an error that names the kind
//! to use; a server that is not found here (it may run in a container, behind a mounted socket) or does not answer in time is a
//! warning only. It does not ask the running server, which may have been started from an older file.
//!
//! The program runs without environment (a bare name is looked up in PATH all the same), in no group that this process
//! can leave and without what capabilities it could inherit: a thread of its own has given them up. Limits: five seconds, then
//! it is killed; what stands in the first octets of its output.

use std::{
    env,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    thread::set_thread_groups,
};

use super::{ExecSettings, exec::give_up_capabilities};
use crate::proto::link::Opening;

/// Where the program is looked for: in PATH, then where Debian puts it.
const PROGRAMS: [&str; 2] = ["dovecot", "/usr/sbin/dovecot"];

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at until then.
const INTERVAL: Duration = Duration::from_millis(5);
/// What is read of its output.
const MAX_OUTPUT_BYTES: usize = 256;

/// The first version with a socket that takes what is sent, and the first that no longer does.
const FROM: Version = [2, 3, 0];
const BEFORE: Version = [2, 4, 3];
/// The first version whose `imap` no longer answers with a tag that it finds in its environment.
const UNTAGGED: Version = [2, 4, 2];

type Version = [u32; 3];

/// Why the configured kind is impossible.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VersionError {
    /// There is no such socket.
    #[error(
        "kind \"dovecot-imap-master\" needs Dovecot 2.3 to 2.4.2, and this is {0}: use kind \"login\""
    )]
    ImapMaster(String),
    /// A started `imap` begins otherwise.
    #[error(
        "opening \"tagged\" needs a Dovecot before 2.4.2, and this is {0}: use opening \"preauth\""
    )]
    Tagged(String),
}

/// Checks the Dovecot of this machine. Blocks for as long as `dovecot --version` takes.
///
/// # Errors
///
/// It cannot take sessions on its socket.
pub fn check_imap_master() -> Result<(), VersionError> {
    installed().map_or(Ok(()), |text| imap_master(&text))
}

/// Checks it for a server that is started; of other servers nothing is known. Blocks for as long as `dovecot --version` takes.
///
/// # Errors
///
/// It does not begin as configured.
pub fn check_exec(settings: &ExecSettings) -> Result<(), VersionError> {
    let program = &settings.program;
    let in_dovecot = program
        .parent()
        .is_some_and(|parent| parent.ends_with("dovecot"));
    if settings.opening != Opening::Tagged || !in_dovecot || !program.ends_with("imap") {
        return Ok(());
    }
    installed().map_or(Ok(()), |text| tagged(&text))
}

/// What the installed program says of itself.
fn installed() -> Option<String> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.arg("--version");
        match ask(command, LIMIT) {
            Ok(output) => return Some(output),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, program, "cannot ask Dovecot for its version");
                return None;
            }
        }
    }
    tracing::warn!("Dovecot is not found here, its version is not checked");
    None
}

/// What a program says, from a thread that has given up what it must not get.
fn ask(command: Command, limit: Duration) -> io::Result<String> {
    let ask = move || {
        // Without the right to do so, they are those of whoever asks.
        let _ = set_thread_groups(&[]);
        give_up_capabilities()?;
        run(command, limit)
    };
    let thread = thread::Builder::new().name("version".to_owned());
    let died = |_| Err(io::ErrorKind::BrokenPipe.into());
    thread.spawn(ask)?.join().unwrap_or_else(died)
}

fn run(mut command: Command, limit: Duration) -> io::Result<String> {
    // Not a pipe, which would have to be read within the limit as well.
    let output = File::from(memfd_create("version", MemfdFlags::CLOEXEC)?);
    let mut child = command
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(INTERVAL);
    }
    let mut octets = [0; MAX_OUTPUT_BYTES];
    let count = output.read_at(&mut octets, 0)?;
    let octets = octets.get(..count).unwrap_or_default();
    Ok(String::from_utf8_lossy(octets).into_owned())
}

fn imap_master(text: &str) -> Result<(), VersionError> {
    match version(text) {
        Some(version) if !(FROM..BEFORE).contains(&version) => {
            Err(VersionError::ImapMaster(shown(text)))
        }
        Some(_) | None => Ok(()),
    }
}

fn tagged(text: &str) -> Result<(), VersionError> {
    match version(text) {
        Some(version) if version >= UNTAGGED => Err(VersionError::Tagged(shown(text))),
        Some(_) | None => Ok(()),
    }
}

/// Reads `2.3.19.1 (9b53102964)`.
fn version(text: &str) -> Option<Version> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    let version = [next(), next(), next()];
    if version == [0; 3] {
        tracing::warn!("Dovecot does not tell its version, it is not checked");
        return None;
    }
    Some(version)
}

fn shown(text: &str) -> String {
    text.trim().escape_debug().take(64).collect()
}

/// The first Cyrus that reads a PROXY header.
const CYRUS_HEADER: [u32; 2] = [3, 12];

/// The version of a Cyrus that does not, from its greeting: `Cyrus IMAP 3.6.1-Debian server ready`.
pub(super) fn old_cyrus(greeting: &str) -> Option<&str> {
    let (_, rest) = greeting.split_once("Cyrus ")?;
    let version = rest.split(' ').nth(1)?.trim_start_matches('v');
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let numbers = [numbers.next()?, numbers.next().unwrap_or(0)];
    (numbers < CYRUS_HEADER).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_their_numbers() {
        for text in [
            "2.3.0",
            "2.3.19.1 (9b53102964)\n",
            "2.3.21",
            "2.4.0-1",
            "2.4.2 (x)",
            "",
            "what",
        ] {
            assert_eq!(imap_master(text), Ok(()), "{text}");
        }
        for text in [
            "2.2.36 (x)",
            "2.4.3",
            "2.4.3-1 (abcdef)",
            "2.4.10",
            "2.5.0",
            "3.0.0",
            "1.9.9",
        ] {
            assert!(imap_master(text).is_err(), "{text}");
        }
        assert_eq!(
            imap_master("2.4.3 (x)\n").unwrap_err().to_string(),
            "kind \"dovecot-imap-master\" needs Dovecot 2.3 to 2.4.2, and this is 2.4.3 (x): use kind \"login\""
        );
    }

    #[test]
    fn a_tag_in_the_environment_has_its_last_version() {
        for text in ["2.3.19.1 (9b53102964)", "2.4.0", "2.4.1-4 (x)", ""] {
            assert_eq!(tagged(text), Ok(()), "{text}");
        }
        for text in ["2.4.2 (x)", "2.4.10", "2.5.0", "3.0"] {
            assert!(tagged(text).is_err(), "{text}");
        }
        assert_eq!(
            tagged("2.4.2 (x)\n").unwrap_err().to_string(),
            "opening \"tagged\" needs a Dovecot before 2.4.2, and this is 2.4.2 (x): use opening \"preauth\""
        );
    }

    #[test]
    fn a_cyrus_that_reads_no_header_is_known_by_its_greeting() {
        for (greeting, version) in [
            (
                "node1 Cyrus IMAP 3.6.1-Debian-3.6.1-4 server ready",
                Some("3.6.1-Debian-3.6.1-4"),
            ),
            (
                "node1 Cyrus POP3 3.10.0 server ready <1.2@x>",
                Some("3.10.0"),
            ),
            ("Cyrus IMAP4 v2.4.17 server ready", Some("2.4.17")),
            ("Cyrus IMAP 3.12.0 server ready", None),
            ("Cyrus IMAP 4.0 ready", None),
            ("Cyrus IMAP server ready", None),
            ("Cyrus IMAP", None),
            ("Dovecot ready.", None),
        ] {
            assert_eq!(old_cyrus(greeting), version, "{greeting}");
        }
    }

    #[test]
    fn the_installed_dovecot_is_one_that_can() {
        assert_eq!(check_imap_master(), Ok(()));
    }

    fn shell(script: &str, limit: Duration) -> io::Result<String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("SECRET", "1");
        ask(command, limit)
    }

    #[test]
    fn the_program_gets_nothing_of_this_process() {
        let said = shell("grep -E '^(Groups|CapInh|CapAmb)' /proc/self/status", LIMIT).unwrap();
        let words: Vec<_> = said.split_whitespace().collect();
        let none = "0000000000000000";
        assert_eq!(words, ["Groups:", "CapInh:", none, "CapAmb:", none]);
        let said = shell(
            "tr '\\0' '\\n' </proc/$$/environ | cut -d= -f1; echo end",
            LIMIT,
        )
        .unwrap();
        assert!(["PATH\nend\n", "end\n"].contains(&said.as_str()), "{said}");
    }

    #[test]
    fn a_program_that_does_not_answer_is_killed_and_reaped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("echo $$ >{}; exec sleep 600", file.path().display());
        let error = shell(&script, Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let pid = std::fs::read_to_string(file.path()).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    }
}
