//! The two halves against each other, and each against whoever means no good or breaks off.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        ffi::OsStrExt as _,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    super::{Process, Sockets, notify::Notifier},
    record::{Record, Records, VERSION, Wants},
    *,
};
use crate::net;

/// A front with a TCP listener of three sockets, that another process may succeed.
struct Rig {
    runtime: Runtime,
    process: Process,
    _dir: TempDir,
    path: PathBuf,
    address: std::net::SocketAddr,
    lock: std::fs::File,
}

impl Rig {
    fn start() -> Self {
        Self::managed(Notifier::default())
    }

    /// With somebody whom it tells how it goes.
    fn managed(notifier: Notifier) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upgrade");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut sockets = Sockets::of(None).unwrap();
        sockets.hold();
        let tcp = sockets.tcp("127.0.0.1:0".parse().unwrap(), net::CLIENT, 3);
        let mut tcp = tcp.unwrap();
        let lock = std::fs::File::create(dir.path().join("lock")).unwrap();
        let entered = runtime.enter();
        let process = Process::new(notifier).unwrap();
        let address = tcp.listen().unwrap()[0].local_addr().unwrap();
        let succession = Succession {
            role: Role::FRONT,
            socket: Some(path.clone()),
            drain_timeout: Duration::ZERO,
            predecessor: None,
        };
        let mut succeeded = succession.bound(sockets).unwrap();
        succeeded.lock = Some(lock.try_clone().unwrap().into());
        runtime.block_on(succeeded.settle(&process)).unwrap();
        drop((entered, tcp));
        Self {
            runtime,
            process,
            _dir: dir,
            path,
            address,
            lock,
        }
    }

    fn take(&self) -> Result<(Taken, Vec<OwnedFd>), TakeError> {
        take::take(&self.path, Role::FRONT, None)
    }

    /// What comes of a successor that serves.
    fn replace(&self, taken: Taken) -> Result<(), TakeError> {
        let _entered = self.runtime.enter();
        let notifier = Notifier::default();
        self.runtime.block_on(taken.replace(&notifier))
    }

    fn is_replaced(&self) -> bool {
        let replaced = self.process.tasks.replaced();
        let now = std::future::ready(());
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = replaced => true,
                () = now => false,
            }
        })
    }

    fn eventually(&self, fact: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if fact(self) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("waited in vain");
    }

    /// Takes over as a sound process would.
    fn is_taken_over(&self) -> bool {
        let Ok((taken, sockets)) = self.take() else {
            return false;
        };
        assert_eq!(sockets.len(), 4);
        self.replace(taken).unwrap();
        true
    }

    /// A conversation by hand.
    fn dial(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        stream
    }
}

fn ask(version: u8, role: Role, wants: Wants) -> Vec<u8> {
    Record::Ask {
        version,
        role,
        wants,
    }
    .encode()
}

/// All that comes until the other side closes.
fn heard(stream: &mut UnixStream) -> Vec<Record> {
    let mut octets = Vec::new();
    // What was sent in vain and is unread makes the end a reset.
    match stream.read_to_end(&mut octets) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    let mut records = Records::default();
    records.feed(&octets);
    std::iter::from_fn(|| records.next().unwrap()).collect()
}

#[test]
fn all_sockets_and_the_lock_change_hands() {
    let rig = Rig::start();
    let (mut taken, sockets) = rig.take().unwrap();
    assert_eq!(taken.pid, std::process::id());
    assert_eq!(taken.program.version, env!("CARGO_PKG_VERSION"));
    let lock = std::fs::File::from(taken.lock.take().unwrap());
    let inode = |file: &std::fs::File| rustix::fs::fstat(file).unwrap().st_ino;
    assert_eq!(inode(&lock), inode(&rig.lock));

    let mut inherited = net::Inherited::default();
    for socket in sockets {
        inherited.add(socket).unwrap();
    }
    assert!(inherited.take_unix(&rig.path).unwrap().is_some());
    let listeners: Vec<TcpListener> = inherited.take(rig.address, net::CLIENT).unwrap();
    assert_eq!(listeners.len(), 3);
    assert!(!rig.is_replaced());
    rig.replace(taken).unwrap();
    assert!(rig.is_replaced());
    // The old ones are closed, and whatever connects is in one of these queues.
    for _ in 0..16 {
        let _client = TcpStream::connect(rig.address).unwrap();
        assert!(listeners.iter().any(|listener| listener.accept().is_ok()));
    }
}

#[test]
fn who_breaks_off_at_any_step_has_changed_nothing() {
    let rig = Rig::start();
    let question = ask(VERSION, Role::FRONT, Wants::Sockets);
    for end in 0..=question.len() {
        let mut stream = rig.dial();
        // Where there are too many at once it is turned away before.
        let _ = stream.write_all(&question[..end]);
    }
    // With the sockets, or with some words read and the rest not.
    rig.eventually(|rig| rig.take().is_ok());
    rig.eventually(|rig| {
        let mut stream = rig.dial();
        let mut octets = [0; 8];
        let said = stream.write_all(&question);
        let read = said.and_then(|()| stream.read_exact(&mut octets));
        read.is_ok() && octets[0] == 3
    });
    // With nonsense in place of `ready`, and with something sensible at the wrong time.
    for words in [&b"ready\r\n"[..], &question, &[7, 0, 1, 0]] {
        rig.eventually(|rig| {
            let mut stream = rig.dial();
            let said = stream.write_all(&question);
            let said = said.and_then(|()| stream.write_all(words));
            said.is_ok() && heard(&mut stream).last() == Some(&Record::All(5))
        });
    }
    assert!(!rig.is_replaced());
    rig.eventually(Rig::is_taken_over);
    assert!(rig.is_replaced());
}

#[test]
fn one_at_a_time_is_given_the_sockets() {
    let rig = Rig::start();
    let first = rig.take().unwrap();
    let error = rig.take().map(|_| ()).unwrap_err();
    assert!(matches!(error, TakeError::Refused(_)), "{error}");
    // Whoever only asks is answered.
    let (pid, _) = take::who(&rig.path, Role::FRONT, None).unwrap();
    assert_eq!(pid, std::process::id());
    drop(first);
    rig.eventually(Rig::is_taken_over);
}

#[test]
fn who_is_not_understood_is_told_so() {
    let rig = Rig::start();
    for (question, expected) in [
        (
            ask(VERSION + 1, Role::FRONT, Wants::Sockets),
            "speaks version 1 of the upgrade, not 2: a restart is needed once",
        ),
        (
            ask(VERSION, Role::NODE, Wants::Sockets),
            "this is a front, not a node",
        ),
        (ask(VERSION, Role::NODE, Wants::Who), "this is a front"),
        (ask(VERSION, Role::FRONT, Wants::Other(9)), "unknown"),
    ] {
        let mut stream = rig.dial();
        stream.write_all(&question).unwrap();
        match heard(&mut stream).as_slice() {
            [Record::Refused(why)] => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[1, 0, 0], &[8, 0, 0]] {
        let mut stream = rig.dial();
        stream.write_all(nonsense).unwrap();
        assert_eq!(heard(&mut stream), []);
    }
    assert!(!rig.is_replaced());
}

/// Somebody in a running process's place, who says this to whoever asks.
fn says(words: Vec<u8>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("upgrade");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut octets = [0; 64];
        let _ = stream.read(&mut octets).unwrap();
        stream.write_all(&words).unwrap();
    });
    (dir, path)
}

fn take_from(path: &Path) -> TakeError {
    take::take(path, Role::FRONT, None).map(|_| ()).unwrap_err()
}

#[test]
fn what_a_running_process_must_not_say_ends_the_take_over() {
    let who = Record::Who {
        pid: 1,
        program: Program::own(),
    }
    .encode();
    let then = |records: &[Record]| {
        let rest = records.iter().flat_map(Record::encode);
        who.iter().copied().chain(rest).collect::<Vec<u8>>()
    };
    for (words, expected) in [
        (Vec::new(), "the running process broke off"),
        (b"HTTP/1.1 400".to_vec(), "speaks another protocol"),
        (Record::Ready.encode(), "something unexpected"),
        (then(&[]), "broke off"),
        (then(&[Record::Ready]), "something unexpected"),
        // A word without the descriptor that belongs to it.
        (
            then(&[Record::Socket]),
            "1 of the running process's sockets",
        ),
        (then(&[Record::Lock]), "1 of the running process's sockets"),
        (
            then(&[Record::All(3)]),
            "3 of the running process's sockets",
        ),
        (
            Record::Refused("busy".to_owned()).encode(),
            "the running process refuses: busy",
        ),
    ] {
        let (_dir, path) = says(words);
        let error = take_from(&path).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// A service manager, and what a process tells it by.
fn manager() -> (TempDir, UnixDatagram, Notifier) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let notifier = Notifier::at(path.as_os_str().as_bytes(), Start::Afresh, None);
    (dir, manager, notifier.unwrap())
}

/// What it has heard by now, at most one message.
fn told(manager: &UnixDatagram) -> Option<String> {
    let mut octets = [0; 64];
    let length = manager.recv(&mut octets).ok()?;
    Some(String::from_utf8(octets[..length].to_vec()).unwrap())
}

/// Else its end would be the service's to a manager that has not heard of the other one yet.
#[test]
fn a_predecessor_says_who_the_main_process_is_before_it_may_end() {
    let (_dir, manager, notifier) = manager();
    let rig = Rig::managed(notifier);
    let (taken, _) = rig.take().unwrap();
    assert_eq!(told(&manager), None);
    rig.replace(taken).unwrap();
    let expected = format!("MAINPID={}", std::process::id());
    assert_eq!(told(&manager), Some(expected));
    rig.process.notifier.alive();
    assert_eq!(told(&manager), None);
    rig.eventually(|rig| rig.process.tasks.is_empty());
}

#[test]
fn a_predecessor_goes_on_when_its_manager_cannot_be_told() {
    let (_dir, manager, notifier) = manager();
    let rig = Rig::managed(notifier);
    let (taken, _) = rig.take().unwrap();
    drop(manager);
    let error = rig.replace(taken).unwrap_err().to_string();
    assert!(error.contains("refuses: the service manager"), "{error}");
    assert!(!rig.is_replaced());
}

#[test]
fn where_nobody_is_the_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("upgrade");
    let error = take_from(&path).to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(take_from(&path), TakeError::Connect { .. }));
}

/// A predecessor that is gone before it has heard `ready`: nobody else serves, so its successor does.
#[test]
fn a_successor_serves_on_when_it_is_the_only_one() {
    let who = Record::Who {
        pid: 1,
        program: Program::own(),
    };
    let (_dir, path) = says([who.encode(), Record::All(0).encode()].concat());
    let (taken, _) = take::take(&path, Role::FRONT, None).unwrap();
    Rig::start().replace(taken).unwrap();
}

/// Whoever stops a service wants no other process to serve on.
#[test]
fn a_predecessor_that_was_told_to_stop_has_its_successor_end() {
    let rig = Rig::start();
    let (taken, _) = rig.take().unwrap();
    rig.process.tasks.leave();
    let error = rig.replace(taken).unwrap_err().to_string();
    assert!(error.ends_with("refuses: it is stopping"), "{error}");
    let error = rig.take().map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with("refuses: it is stopping"), "{error}");
    // Also when the word has been there for long, and whoever said it is gone.
    let rig = Rig::start();
    let (taken, _) = rig.take().unwrap();
    rig.process.tasks.stop();
    rig.eventually(|rig| rig.process.tasks.is_empty());
    let error = rig.replace(taken).unwrap_err().to_string();
    assert!(error.ends_with("refuses: it is stopping"), "{error}");
    assert!(!rig.is_replaced());
}
