//! What the service manager is told, as sd_notify(3) has it: ready, reloading, stopping, how it goes, and that the process
//! is alive.
//!
//! ```text
//! start ─> READY=1 ─┬─ reload ─> RELOADING=1 ─> READY=1 ─┐
//!                   ├─<──────────────────────────────────┘
//!                   ├─ all event loops have answered ─> WATCHDOG=1, again and again
//!                   └─ signal ─> STOPPING=1
//! ```
//!
//! systemd hears the unit's main process, and its control processes, which `pigeonair upgrade` is one of at a reload
//! (`NotifyAccess=exec`): servers of users run in the node's unit, too, and have nothing to say there. So where a process takes
//! another's place the one before it says who the main process is, and the command says so again, as the one before may be gone.
//! The successor is silent until then.
//!
//! The socket (`NOTIFY_SOCKET`) is connected before a sandbox is entered: one in the abstract namespace, as containers
//! have it, would be out of reach from there. Without a manager that listens, all of it does nothing. A message that
//! cannot be sent is logged and not sent again: what matters is said anew or shows otherwise.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::net::UnixDatagram,
    os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::Start;

/// How long a manager may take to make room for a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// The watchdog's interval of a process that takes another one's place: its environment does not have that of the unit.
const SUCCESSOR_WATCHDOG: Duration = Duration::from_secs(30);

/// The way to the service manager, if there is one. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
    /// Another process speaks for the service: the one whose place this one is going to take, or the one that has taken its place.
    is_silent: Arc<AtomicBool>,
}

impl Notifier {
    /// As the environment has it, of a process that starts so.
    pub(super) fn from_environment(start: Start) -> Self {
        let Some(name) = manager() else {
            return Self::default();
        };
        let text = |name| env::var(name).ok();
        let watchdog = match start {
            Start::Afresh => watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID")),
            Start::TakeOver => Some(SUCCESSOR_WATCHDOG),
        };
        Self::at(name.as_bytes(), start, watchdog).unwrap_or_else(|error| {
            let socket = name.display().to_string();
            tracing::warn!(socket, %error, "the service manager cannot be told anything (NOTIFY_SOCKET)");
            Self::default()
        })
    }

    /// Of a process that starts so, to whoever listens there.
    pub(super) fn at(name: &[u8], start: Start, watchdog: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            socket: Some(Arc::new(connect(name)?)),
            watchdog,
            is_silent: Arc::new(AtomicBool::new(start == Start::TakeOver)),
        })
    }

    /// How often it wants to hear that the process is alive, at least; none: not at all.
    pub(super) const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// All listeners serve, or what was reloaded is in force.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Another process takes this one's place: it is the main one of the service from now on, and this one says nothing any more.
    /// On failure all is as before.
    pub(super) fn give_way(&self, to: Option<i32>) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        // None, or 0: one of a namespace that this one does not see into.
        let to = to.filter(|pid| *pid > 0);
        let to = to.ok_or_else(|| io::Error::other("its process id is not known here"))?;
        self.is_silent.store(true, Relaxed);
        let sent = socket.send(format!("MAINPID={to}").as_bytes());
        self.is_silent.store(sent.is_ok(), Relaxed);
        sent.map(|_| ())
    }

    /// This process is the main one of the service now, and this is how often it will be heard.
    pub(super) fn is_main(&self) {
        self.is_silent.store(false, Relaxed);
        self.send(&format!("WATCHDOG=1\n{}", interval()));
    }

    /// A reload has begun; `ready` ends it, whatever came of it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The process is about to end.
    pub(super) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// How it goes, for people.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Every event loop has answered a moment ago.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Sends assignments, one a line.
    pub(super) fn send(&self, lines: &str) {
        let Some(socket) = &self.socket else { return };
        if self.is_silent.load(Relaxed) {
            return;
        }
        if let Err(error) = socket.send(lines.as_bytes()) {
            tracing::warn!(%error, message = lines, "cannot tell the service manager");
        }
    }
}

/// Tells the manager of this process, if there is one, that the main process of the service is that one, which has just answered
/// and will be heard as often as one that took another's place.
///
/// # Errors
///
/// When it cannot be told.
pub fn name_main(process: u32) -> io::Result<()> {
    let Some(name) = manager() else { return Ok(()) };
    let message = format!("MAINPID={process}\nWATCHDOG=1\n{}", interval());
    connect(name.as_bytes())?.send(message.as_bytes())?;
    Ok(())
}

/// Where the manager listens.
fn manager() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
}

/// How often a process that took another's place is heard.
fn interval() -> String {
    format!("WATCHDOG_USEC={}", SUCCESSOR_WATCHDOG.as_micros())
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The watchdog's interval, if it is meant for this process.
fn watchdog(microseconds: Option<String>, process: Option<String>) -> Option<Duration> {
    let own = std::process::id().to_string();
    if process.is_some_and(|process| process != own) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|number| *number > 0)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_all_that_is_said_by_a_file_or_in_the_abstract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("pigeonair-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, address) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.as_os_str().as_bytes().to_vec(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into_bytes(),
            ),
        ] {
            let notifier = Notifier::at(&address, Start::Afresh, None).unwrap();
            notifier.ready("serving");
            assert_eq!(heard(&listener), "READY=1\nSTATUS=serving");
            notifier.reloading();
            let message = heard(&listener);
            let since = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
            assert!(since.unwrap().parse::<u64>().unwrap() > 0, "{message}");
            notifier.alive();
            assert_eq!(heard(&listener), "WATCHDOG=1");
            notifier.status("1 session");
            assert_eq!(heard(&listener), "STATUS=1 session");
            notifier.stopping("bye");
            assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=bye");
            // Who it is that takes the place must be known; then it is said, and nothing more.
            for nobody in [None, Some(0)] {
                notifier.give_way(nobody).unwrap_err();
            }
            notifier.alive();
            assert_eq!(heard(&listener), "WATCHDOG=1");
            notifier.give_way(Some(4711)).unwrap();
            assert_eq!(heard(&listener), "MAINPID=4711");
            notifier.alive();
            // One that has taken a place says how often it will be heard.
            notifier.is_main();
            assert_eq!(heard(&listener), "WATCHDOG=1\nWATCHDOG_USEC=30000000");
            notifier.alive();
            assert_eq!(heard(&listener), "WATCHDOG=1");
        }
    }

    #[test]
    fn a_manager_that_is_gone_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::at(path.as_os_str().as_bytes(), Start::Afresh, None).unwrap();
        drop(listener);
        notifier.ready("serving");
        notifier.give_way(Some(4711)).unwrap_err();
        assert!(!notifier.is_silent.load(Relaxed));
        Notifier::default().ready("nobody listens");
        assert!(connect(path.as_os_str().as_bytes()).is_err());
    }

    /// What it says before would be a complaint of the manager's.
    #[test]
    fn who_takes_a_place_is_silent_until_it_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let name = path.as_os_str().as_bytes();
        let notifier = Notifier::at(name, Start::TakeOver, None).unwrap();
        notifier.alive();
        notifier.is_main();
        let interval = "WATCHDOG=1\nWATCHDOG_USEC=30000000";
        assert_eq!(heard(&listener), interval);
        notifier.ready("serving");
        assert_eq!(heard(&listener), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let text = |text: &str| Some(text.to_owned());
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(text("1000000"), None), second);
        assert_eq!(watchdog(text("1000000"), Some(own)), second);
        assert_eq!(watchdog(text("1000000"), text("1")), None);
        for none in [None, text("0"), text("often"), text("-1")] {
            assert_eq!(watchdog(none, None), None);
        }
    }
}
