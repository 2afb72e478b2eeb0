//! Mail when things break in the middle: what the MTA was told is delivered is there, whole; what is not there is in its queue.
//!
//! A message is known by its `X-Case`. Files are read where they lie: all kinds of nodes here keep Maildirs. The long runs are
//! shorter unless `PIGEONAIR_FULL` is set.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    lab::{Cluster, Kind, NodeSpec, Recipients, Route, Store, User, eventually, metric},
    smtp::{Answer, Smtp, lmtp, smtp, stuffed},
};

const SENDER: &str = "sender@example.net";

fn is_full() -> bool {
    std::env::var_os("PIGEONAIR_FULL").is_some()
}

/// A message of its own for each case, with lines that end in CRLF.
fn message(case: &str, lines: usize) -> Vec<u8> {
    let mut text = format!("X-Case: {case}\r\nFrom: {SENDER}\r\nSubject: A message\r\n\r\n");
    for line in 0..lines {
        text += &format!("{line} of {lines} in {case}: the quick brown fox\r\n");
    }
    text += &format!("end of {case}\r\n");
    text.into_bytes()
}

/// The same as it lies in a file.
fn in_file(message: &[u8]) -> String {
    String::from_utf8(message.to_vec())
        .unwrap()
        .replace("\r\n", "\n")
}

/// What lies in an account's inbox, by case; panics over what has none.
fn stored(cluster: &Cluster, user: &User) -> BTreeMap<String, Vec<String>> {
    let mut messages = BTreeMap::<String, Vec<String>>::new();
    for folder in ["new", "cur"] {
        let folder = cluster.home(user).join("Maildir").join(folder);
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let case = text.lines().find_map(|line| line.strip_prefix("X-Case: "));
            let case = case.unwrap_or_else(|| panic!("{}: {text}", path.display()));
            messages.entry(case.to_owned()).or_default().push(text);
        }
    }
    messages
}

// --- a stream of messages

/// A message that the MTA has taken.
struct Sent {
    case: String,
    /// The queue's id.
    id: String,
    message: Vec<u8>,
    /// Whose it is, by position.
    to: Vec<usize>,
}

/// Sends to one, to the other, to both in turn.
fn stream(
    postfix: SocketAddr,
    addresses: &[String],
    count: usize,
    done: &AtomicUsize,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut client: Option<Smtp> = None;
    for number in 0..count {
        if number % 50 == 0 {
            client = None;
        }
        let client = client.get_or_insert_with(|| smtp(postfix));
        let case = format!("stream-{number}");
        let message = message(&case, number * 7 % 90);
        let to = match number % 3 {
            0 => vec![0],
            1 => vec![1],
            _ => vec![0, 1],
        };
        let recipients: Vec<&str> = to.iter().map(|to| addresses[*to].as_str()).collect();
        let id = client.queue(SENDER, &recipients, &message);
        sent.push(Sent {
            case,
            id,
            message,
            to,
        });
        done.fetch_add(1, Ordering::Relaxed);
    }
    sent
}

/// Processes are killed and come back while mail flows.
#[test]
fn a_stream_of_messages_outlives_all_that_is_killed() {
    let count = if is_full() { 20_000 } else { 300 };
    let users = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    let mut cluster = Cluster::mail().user(&users[0]).user(&users[1]).start();
    cluster.start_postfix(Route::Unix, Recipients::All, "");
    let addresses = users.each_ref().map(User::address);
    let postfix = cluster.postfix().address;
    let done = AtomicUsize::new(0);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| stream(postfix, &addresses, count, &done));
        let reach = |part: usize| {
            let goal = count * part / 20;
            eventually("the stream goes on", || {
                done.load(Ordering::Relaxed) >= goal || sender.is_finished()
            });
        };
        for (round, fault) in ["node", "front", "dovecot", "slapd", "frozen", "drained"]
            .into_iter()
            .enumerate()
        {
            reach(round * 3 + 1);
            match fault {
                "node" => cluster.node("n1").acceptor().kill(),
                "front" => cluster.front().kill(),
                "dovecot" => cluster.node("n2").dovecot.process.kill(),
                "slapd" => cluster.slapd().process.kill(),
                "frozen" => cluster.node("n1").acceptor().freeze(),
                _ => cluster.front().terminate(),
            }
            reach(round * 3 + 2);
            match fault {
                "node" => cluster.restart_acceptor("n1"),
                "dovecot" => cluster.node("n2").dovecot.restart(),
                "slapd" => cluster.slapd().restart(),
                "frozen" => cluster.node("n1").acceptor().thaw(),
                _ => cluster.restart_front(),
            }
        }
        sender.join().unwrap()
    });
    assert_eq!(sent.len(), count);
    let postfix = cluster.postfix();
    eventually("the queue is empty", || {
        postfix.flush();
        postfix.queue().is_empty()
    });
    assert!(
        !postfix.log().contains("status=bounced"),
        "lost to a bounce"
    );
    all_there(&mut cluster, &users, &sent);
}

/// Panics unless each message is where it belongs, whole, and at most as often as Postfix had reason to try.
fn all_there(cluster: &mut Cluster, users: &[User; 2], sent: &[Sent]) {
    let log = cluster.postfix().log();
    let mut tries = BTreeMap::<(&str, &str), usize>::new();
    for line in log.lines().filter(|line| line.contains(" to=<")) {
        let id = line.split(": ").nth(1).unwrap_or_default();
        let to = line
            .split(" to=<")
            .nth(1)
            .and_then(|rest| rest.split('>').next());
        *tries.entry((id, to.unwrap_or_default())).or_default() += 1;
    }
    let mut inboxes = users.each_ref().map(|user| stored(cluster, user));
    let mut doubled = 0;
    for Sent {
        case,
        id,
        message,
        to,
    } in sent
    {
        for to in to {
            let copies = inboxes[*to].remove(case).unwrap_or_default();
            assert!(!copies.is_empty(), "{case} ({id}) is lost");
            for copy in &copies {
                assert!(
                    copy.ends_with(&in_file(message)),
                    "{case} is not whole: {copy}"
                );
            }
            let address = users[*to].address();
            let tried = tries
                .get(&(id.as_str(), &address))
                .copied()
                .unwrap_or_default();
            assert!(
                copies.len() <= tried,
                "{case} ({id}) came {} times, and was tried {tried} times",
                copies.len()
            );
            doubled += copies.len() - 1;
        }
    }
    assert!(inboxes.iter().all(BTreeMap::is_empty), "{inboxes:?}");
    eprintln!(
        "{} messages, {doubled} came once more behind a try that was not answered",
        sent.len()
    );
}

// --- links that are cut

/// Which octets are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    FromNode,
    ToNode,
}

/// Stands between a front and a node, and cuts each link behind so many octets.
struct Cutter {
    cut: Arc<Mutex<(Direction, usize)>>,
    /// Whether the last link came to its cut.
    was_cut: Arc<AtomicBool>,
}

impl Cutter {
    fn start(listener: TcpListener, node: SocketAddr) -> Self {
        let cutter = Self {
            cut: Arc::new(Mutex::new((Direction::ToNode, usize::MAX))),
            was_cut: Arc::default(),
        };
        let (cut, was_cut) = (Arc::clone(&cutter.cut), Arc::clone(&cutter.was_cut));
        thread::spawn(move || {
            for front in listener.incoming() {
                let (front, node) = (front.unwrap(), TcpStream::connect(node).unwrap());
                let (direction, limit) = *cut.lock().unwrap();
                let limit = |way| if way == direction { limit } else { usize::MAX };
                let halves = [
                    (&front, &node, limit(Direction::ToNode)),
                    (&node, &front, limit(Direction::FromNode)),
                ];
                for (from, to, limit) in halves {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let was_cut = Arc::clone(&was_cut);
                    thread::spawn(move || pass(from, to, limit, &was_cut));
                }
            }
        });
        cutter
    }

    fn set(&self, direction: Direction, octets: usize) {
        self.was_cut.store(false, Ordering::SeqCst);
        *self.cut.lock().unwrap() = (direction, octets);
    }
}

/// Passes octets on until an end or the cut, and then closes both ways.
fn pass(mut from: TcpStream, mut to: TcpStream, mut left: usize, was_cut: &AtomicBool) {
    let mut buffer = [0; 4096];
    loop {
        let room = buffer.len().min(left);
        if room == 0 {
            was_cut.store(true, Ordering::SeqCst);
            break;
        }
        match from.read(&mut buffer[..room]) {
            Ok(0) | Err(_) => break,
            Ok(read) if to.write_all(&buffer[..read]).is_ok() => left -= read,
            Ok(_) => break,
        }
    }
    for stream in [from, to] {
        // The other thread may have been first.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// One message through the delivery role; the reply that ends it.
fn one(client: &mut Smtp, recipient: &str, message: &[u8]) -> Answer {
    client
        .command(&format!("MAIL FROM:<{SENDER}>"))
        .says("250 ");
    client
        .command(&format!("RCPT TO:<{recipient}>"))
        .says("250 ");
    let answer = client.command("DATA");
    if !answer.text.starts_with("354 ") {
        return answer;
    }
    client.send(stuffed(message));
    client.answer()
}

/// Wherever a link is cut: no half message, nothing said to be there that is not, nothing refused for good.
#[test]
fn a_link_is_cut_behind_every_octet() {
    let step = if is_full() { 1 } else { 9 };
    let user = User::new("ann", "n1", 20001);
    let builder = Cluster::build().node(NodeSpec::new("n1", Kind::Login).store(Store::Maildir));
    let mut cluster = builder
        .link_tls(false)
        .through(7600)
        // Most cuts are failures of the node, one after the other: it is to be dialled all the same.
        .nodes("ready_links = 0\ndown_after = 1000")
        .delivery("kept_links = 0")
        .user(&user)
        .start();
    let listener = TcpListener::bind((cluster.link_address("n1").ip(), 7600)).unwrap();
    let cutter = Cutter::start(listener, cluster.link_address("n1"));
    let mut client = lmtp(cluster.lmtp());
    let mut answers = Vec::new();
    for direction in [Direction::ToNode, Direction::FromNode] {
        // The steps of the two ways don't meet.
        let mut octets = 0;
        loop {
            assert!(octets < 5000, "the link never lives long enough");
            cutter.set(direction, octets);
            let case = format!("{direction:?}-{octets}");
            let message = message(&case, 3);
            let answer = one(&mut client, &user.address(), &message);
            let passed = !cutter.was_cut.load(Ordering::SeqCst);
            if answer.text.starts_with("250 ") {
                let copies = stored(&cluster, &user).remove(&case).unwrap_or_default();
                assert_eq!(copies.len(), 1, "{case}");
            } else {
                answer.says("451 4.");
            }
            answers.push((case, message, answer));
            if passed {
                break;
            }
            octets += step;
        }
    }
    let inbox = stored(&cluster, &user);
    let mut uncertain = 0.0;
    for (case, message, answer) in &answers {
        let copies = inbox.get(case).map_or(&[][..], Vec::as_slice);
        for copy in copies {
            assert!(
                copy.ends_with(&in_file(message)),
                "{case} is not whole: {copy}"
            );
        }
        assert!(copies.len() <= 1, "{case}");
        // What is there although it was not said so: the MTA sends it again.
        if !answer.text.starts_with("250 ") {
            uncertain += copies.len() as f64;
        }
    }
    assert!(uncertain > 0.0, "no cut between the dot and its reply");
    let counted = metric(cluster.front_admin(), "pigeonair_delivery_uncertain_total");
    assert!(counted >= Some(uncertain), "{counted:?} < {uncertain}");
    let last = &answers.last().unwrap().2;
    last.says("250 ");
    assert!(cluster.front().lives() && cluster.node("n1").acceptor().lives());
}

// --- what is on the disk before 250

/// A system call, with the lines of the trace where it began and ended.
#[derive(Debug)]
struct Call {
    text: String,
    began: usize,
    ended: usize,
}

/// Reads what `strace -f` wrote: calls of several threads that interrupt each other.
fn calls(trace: &str) -> Vec<Call> {
    let mut open = BTreeMap::<&str, usize>::new();
    let mut calls = Vec::<Call>::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else {
            continue;
        };
        let text = text.trim_start();
        if text.starts_with("<... ") {
            if let Some(call) = open.remove(thread) {
                let rest = text.split_once("resumed>").map_or("", |(_, rest)| rest);
                calls[call].text += rest;
                calls[call].ended = line;
            }
            continue;
        }
        let is_open = text.ends_with("<unfinished ...>");
        if is_open {
            open.insert(thread, calls.len());
        }
        calls.push(Call {
            text: text.trim_end_matches("<unfinished ...>").to_owned(),
            began: line,
            ended: line,
        });
    }
    calls
}

/// Records the system calls of a running process.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn attach(process: i32, scratch: &Path) -> Self {
        let (file, notes) = (scratch.join("trace"), scratch.join("strace.log"));
        let strace = Command::new("strace")
            .args(["-f", "-y", "-s", "80", "-e"])
            .arg("trace=openat,openat2,write,writev,fsync,rename,renameat,renameat2,sendto,sendmsg")
            .args(["-p", &process.to_string(), "-o"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&notes).unwrap())
            .spawn()
            .unwrap();
        let tasks = fs::read_dir(format!("/proc/{process}/task"))
            .unwrap()
            .count();
        eventually("strace is attached to all threads", || {
            let notes = fs::read_to_string(&notes).unwrap();
            assert!(!notes.contains("not permitted"), "{notes}");
            notes.matches(" attached").count() >= tasks.min(2)
                && fs::read_dir(format!("/proc/{process}/task"))
                    .unwrap()
                    .all(|task| {
                        let status = task.unwrap().path().join("status");
                        fs::read_to_string(status)
                            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
                    })
        });
        Self { strace, file }
    }

    fn calls(mut self) -> Vec<Call> {
        let id = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        self.strace.wait().unwrap();
        calls(&fs::read_to_string(&self.file).unwrap())
    }
}

/// Not by reading the code: by what the kernel was asked for.
#[test]
fn file_and_folder_are_synced_before_the_reply() {
    let user = User::new("ann", "n1", 20001);
    let builder = Cluster::build().node(NodeSpec::new("n1", Kind::Login).store(Store::Maildir));
    let mut cluster = builder.link_tls(false).delivery("").user(&user).start();
    let mut client = lmtp(cluster.lmtp());
    // Home and folders are there.
    one(&mut client, &user.address(), &message("first", 1)).says("250 ");
    let node = cluster.node("n1").acceptor().id().as_raw_nonzero().get();
    let trace = Trace::attach(node, &cluster.scratch());
    one(&mut client, &user.address(), &message("traced", 1)).says("250 ");
    let calls = trace.calls();
    let all: String = calls
        .iter()
        .map(|call| format!("{}\n", call.text))
        .collect();
    let find = |what: &str, fact: &dyn Fn(&str) -> bool| {
        let found: Vec<&Call> = calls.iter().filter(|call| fact(&call.text)).collect();
        assert_eq!(found.len(), 1, "{what}:\n{all}");
        (found[0].began, found[0].ended)
    };
    let steps = [
        find("making the file", &|call| {
            call.starts_with("openat") && call.contains("O_CREAT") && call.contains("/tmp>")
        }),
        find("syncing it", &|call| {
            call.starts_with("fsync(") && call.contains("/Maildir/tmp/") && call.ends_with("= 0")
        }),
        find("renaming it", &|call| {
            call.starts_with("rename") && call.contains("/Maildir/new>") && call.ends_with("= 0")
        }),
        find("syncing the folder", &|call| {
            call.starts_with("fsync(") && call.contains("/Maildir/new>") && call.ends_with("= 0")
        }),
        find("the reply", &|call| {
            (call.starts_with("send") || call.starts_with("write")) && call.contains("\"250 2.0.0 ")
        }),
    ];
    for pair in steps.windows(2) {
        assert!(pair[0].1 < pair[1].0, "{steps:?}:\n{all}");
    }
}

// --- disks

/// A small file system over a folder, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(folder: &Path, options: &str) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "pigeonair-test"])
            .arg(folder)
            .status()
            .unwrap();
        assert!(status.success(), "mount: {status}");
        Self(folder.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process may still look into it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_not_for_good() {
    let user = User::new("ann", "n1", 20001);
    let builder = Cluster::build().node(NodeSpec::new("n1", Kind::Login).store(Store::Maildir));
    let cluster = builder.delivery("").user(&user).start();
    let root = cluster.home(&user).parent().unwrap().to_owned();
    let _disk = Mounted::tmpfs(&root, "size=128k,mode=755");
    let mut client = lmtp(cluster.lmtp());
    one(&mut client, &user.address(), &message("small", 1)).says("250 ");
    for _ in 0..3 {
        one(&mut client, &user.address(), &message("large", 5000)).says("452 4.3.1 ");
    }
    one(&mut client, &user.address(), &message("another", 1)).says("250 ");
    let inbox = stored(&cluster, &user);
    assert_eq!(inbox.keys().collect::<Vec<_>>(), ["another", "small"]);
    let left = fs::read_dir(cluster.home(&user).join("Maildir/tmp")).unwrap();
    assert_eq!(left.count(), 0);
}
