//! The kind `exec`: real servers of Dovecot's and Courier's, and small scripts that show what a server is started with.

use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::{
    handover::exec::{Spawner, try_once},
    proto::template::Template,
};

/// Where Courier's packages are unpacked: they can't be installed beside Dovecot's.
const COURIER: &str = "/usr/local/lib/pigeonair-tests/courier/usr";

/// Whoever runs the tests once more, as a node process with capabilities and no more.
const INNER: &str = "PIGEONAIR_TESTS_INNER";
const NODE_UID: u32 = 990;

fn exec(command: &[&str], environment: &[(&str, &str)], opening: Opening) -> ExecSettings {
    let (program, arguments) = command.split_first().unwrap();
    ExecSettings {
        program: program.into(),
        arguments: arguments
            .iter()
            .map(|text| Template::parse(text).unwrap())
            .collect(),
        environment: environment
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Template::parse(text).unwrap()))
            .collect(),
        opening,
    }
}

/// A server that a few lines of shell play.
fn script(text: &str, opening: Opening) -> ExecSettings {
    exec(&["/bin/sh", "-c", text], &[("HOME", "%{home}")], opening)
}

/// Homes that users' uids can reach, and Dovecot's configuration beside them.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pigeonair-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        fs::create_dir(folder.path().join("homes")).unwrap();
        let conf = include_str!("../../../config/dovecot/exec.conf");
        fs::write(folder.path().join("exec.conf"), conf).unwrap();
        Self(folder)
    }

    fn homes(&self) -> PathBuf {
        self.0.path().join("homes")
    }

    fn dovecot(&self, name: &str, opening: Opening) -> ExecSettings {
        let conf = self.0.path().join("exec.conf").display().to_string();
        let mut environment = vec![
            ("USER", "%u"),
            ("HOME", "%{home}"),
            ("IP", "%{client_ip}"),
            ("LOCAL_IP", "%{local_ip}"),
            ("SESSION", "%{session}"),
        ];
        if opening == Opening::Tagged {
            environment.push(("IMAPLOGINTAG", "x"));
        }
        let program = format!("/usr/lib/dovecot/{name}");
        exec(&[&program, "-c", &conf], &environment, opening)
    }

    fn start(&self, protocol: Protocol, settings: ExecSettings) -> Handover {
        self.with(protocol, settings, 50)
    }

    fn with(&self, protocol: Protocol, exec: ExecSettings, per_account: u32) -> Handover {
        let kind = Kind::Exec(exec);
        let (imap, pop3) = match protocol {
            Protocol::Imap => (Some(kind), None),
            Protocol::Pop3 => (None, Some(kind)),
        };
        start(Settings {
            imap,
            pop3,
            sessions_per_account: per_account,
            ..settings(
                login_kind(Address::Unix("/nonexistent".into())),
                self.homes(),
            )
        })
    }
}

fn courier(program: &str, opening: Opening) -> ExecSettings {
    let mut environment = vec![
        ("AUTHENTICATED", "%u"),
        ("AUTHADDR", "%u"),
        ("HOME", "%{home}"),
        ("PROTOCOL", "IMAP"),
        ("TCPREMOTEIP", "%{client_ip}"),
        ("TCPREMOTEPORT", "%{client_port}"),
        ("TCPLOCALPORT", "%{local_port}"),
        ("IMAP_CAPABILITY", "IMAP4rev1 UIDPLUS CHILDREN IDLE"),
    ];
    if opening == Opening::Tagged {
        environment.push(("IMAPLOGINTAG", "x"));
    }
    let program = format!("{COURIER}/{program}");
    let make = courier_script(opening == Opening::PlusOk);
    exec(&["/bin/sh", "-c", &make, &program], &environment, opening)
}

/// What the shell does before Courier runs, as the example has it.
fn courier_script(pop3: bool) -> String {
    let example: toml::Table = include_str!("../../../config/courier/exec.toml")
        .parse()
        .unwrap();
    let section = if pop3 { "pop3" } else { "imap" };
    let script = example["acceptor"][section]["command"][2].as_str().unwrap();
    script.replace("/usr/", &format!("{COURIER}/"))
}

fn of(protocol: Protocol, number: u32) -> Context {
    match protocol {
        Protocol::Imap => context(number),
        Protocol::Pop3 => pop3_context(number),
    }
}

/// Reads the verdict and the opening as a front does.
async fn opened(front: &mut Front, opening: &Opening) -> Option<String> {
    let told = front.until("verdict ").await;
    assert_eq!(told, format!("verdict Ok({opening:?})\r\n"));
    let mut reader = Reader::new(opening);
    front.send(std::str::from_utf8(reader.ask()).unwrap()).await;
    loop {
        match reader.step(&mut front.input).unwrap() {
            Step::Done { capabilities } => return capabilities,
            Step::More => assert_ne!(front.fill().await, 0, "no opening"),
        }
    }
}

/// One whole session of a real server: opening, early octets answered in order, its end.
async fn serve(handover: &Handover, link: LinkKind, context: &Context, opening: &Opening) {
    let (mut front, node) = Front::link(link).await;
    let protocol = context.protocol;
    // A front sends nothing of the client's before a silent server was asked.
    if protocol == Protocol::Imap {
        front.send("a NOOP\r\nb SELECT INBOX\r\n").await;
    }
    let serve = async {
        let handed = handover.hand_over(node, protocol.service(), context, verdict);
        relay_on(handed.await.unwrap()).await;
    };
    let talk = async move {
        let capabilities = opened(&mut front, opening).await;
        match protocol {
            Protocol::Imap => {
                assert!(capabilities.is_none_or(|list| list.contains("IMAP4rev1")));
                assert!(front.until("a ").await.contains("a OK"));
                let selected = front.until("b ").await;
                assert!(
                    selected.contains("* 0 EXISTS") && selected.contains("b OK"),
                    "{selected}"
                );
                assert_eq!(handover.sessions().get(&context.account), Some(&1));
                front.send("c LOGOUT\r\n").await;
                assert!(front.end().await.contains("c OK"));
            }
            Protocol::Pop3 => {
                front.send("STAT\r\nQUIT\r\n").await;
                assert_eq!(front.until("+OK").await, "+OK 0 0\r\n");
                // The end comes as soon as the server ends: nobody keeps a duplicate of the socket.
                assert!(front.end().await.starts_with("+OK"));
            }
        }
    };
    let both = async { tokio::join!(serve, talk) };
    timeout(PATIENCE, both).await.expect("a session that ends");
}

async fn served_by(place: &Place, protocol: Protocol, settings: ExecSettings) {
    let opening = settings.opening.clone();
    let handover = place.start(protocol, settings);
    let mut tasks = tokio::task::JoinSet::new();
    for (link, number) in LINKS.into_iter().zip(1..) {
        let (handover, opening) = (handover.clone(), opening.clone());
        tasks.spawn(async move {
            serve(&handover, link, &of(protocol, number), &opening).await;
        });
    }
    while let Some(served) = tasks.join_next().await {
        served.unwrap();
    }
    for number in 1..=3 {
        let maildir = fs::metadata(place.homes().join(format!("u{number}/Maildir"))).unwrap();
        let id = FIRST_UID + number;
        assert_eq!((maildir.uid(), maildir.gid()), (id, id));
    }
    assert!(handover.sessions().is_empty());
}

#[tokio::test]
async fn dovecot_serves_on_every_link_users_side_by_side() {
    for (protocol, name, opening) in [
        (Protocol::Imap, "imap", Opening::Preauth),
        (Protocol::Imap, "imap", Opening::Tagged),
        (Protocol::Pop3, "pop3", Opening::Silent),
    ] {
        let place = Place::new();
        served_by(&place, protocol, place.dovecot(name, opening)).await;
    }
}

#[tokio::test]
async fn courier_serves_on_every_link_users_side_by_side() {
    for (protocol, program, opening) in [
        (Protocol::Imap, "bin/imapd", Opening::Preauth),
        (Protocol::Imap, "bin/imapd", Opening::Tagged),
        (
            Protocol::Pop3,
            "lib/courier/courier/courierpop3d",
            Opening::PlusOk,
        ),
    ] {
        let place = Place::new();
        served_by(&place, protocol, courier(program, opening)).await;
    }
}

#[tokio::test]
async fn courier_serves_an_account_whose_maildir_another_session_makes_meanwhile() {
    for pop3 in [false, true] {
        let place = Place::new();
        let (protocol, program, opening) = if pop3 {
            let program = "lib/courier/courier/courierpop3d";
            (Protocol::Pop3, program, Opening::PlusOk)
        } else {
            (Protocol::Imap, "bin/imapd", Opening::Tagged)
        };
        let mut settings = courier(program, opening.clone());
        let maker = format!("{COURIER}/bin/maildirmake.courier");
        // Nobody sees it before it is whole; the other's comes before ours is in its place.
        let script = format!(
            "make() {{ {maker} \"$1\"; test ! -e Maildir || exit 99; {maker} Maildir; }}; {}",
            courier_script(pop3).replace(&maker, "make")
        );
        settings.arguments[1] = Template::parse(&script).unwrap();
        let handover = place.start(protocol, settings);
        serve(&handover, LinkKind::Unix, &of(protocol, 1), &opening).await;
        let left = fs::read_dir(place.homes().join("u1")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["Maildir"]);
    }
}

/// The end of a process that a server of a test has named.
async fn gone(pid: &str) {
    let path = Path::new("/proc").join(pid);
    timeout(PATIENCE, async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a process that ends");
}

fn kill(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// What the server says behind its opening, one word: its pid.
async fn named(front: &mut Front) -> String {
    front
        .until("pid ")
        .await
        .trim_start_matches("pid ")
        .trim_end()
        .to_owned()
}

const NAMES_ITSELF: &str = "printf '* PREAUTH hi\\r\\n'; echo pid $$; ";

#[tokio::test]
async fn a_session_counts_until_its_server_has_exited() {
    let place = Place::new();
    for link in LINKS {
        let stays = script(&format!("{NAMES_ITSELF} exec sleep 600"), Opening::Preauth);
        let handover = place.with(Protocol::Imap, stays, 1);
        let (mut front, node) = Front::link(link).await;
        let context = context(1);
        let serve = async {
            let handed = handover.hand_over(node, Service::Imap, &context, verdict);
            relay_on(handed.await.unwrap()).await;
        };
        let talk = async {
            opened(&mut front, &Opening::Preauth).await;
            let pid = named(&mut front).await;
            drop(front);
            // The client has gone, and the server has not noticed.
            let error = refused(&handover, LinkKind::Tcp, &context, "Refused(Limit)").await;
            assert!(matches!(error, Refused::Limit(1)), "{error}");
            kill(&pid);
        };
        timeout(PATIENCE, async { tokio::join!(serve, talk) })
            .await
            .unwrap();
        assert!(handover.sessions().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_dies_before_its_opening_leaves_its_last_words() {
    let place = Place::new();
    for link in LINKS {
        let dies = script(
            "echo one >&2; printf 'no luck' >&2; exit 75",
            Opening::Preauth,
        );
        let handover = place.start(Protocol::Imap, dies);
        let (mut front, node) = Front::link(link).await;
        let context = context(1);
        let handed = handover.hand_over(node, Service::Imap, &context, verdict);
        let Handed::Started {
            mut server,
            relayed,
        } = handed.await.unwrap()
        else {
            panic!("not started");
        };
        let exit = timeout(PATIENCE, server.exit()).await.unwrap();
        assert!(!exit.is_success());
        assert_eq!(
            exit.to_string(),
            "real server ended with status 75: no luck"
        );
        drop(relayed);
        assert_eq!(front.end().await, "verdict Ok(Preauth)\r\n");
        assert!(handover.sessions().is_empty());

        let killed = script("kill -9 $$", Opening::Preauth);
        let handover = place.start(Protocol::Imap, killed);
        let (_front, node) = Front::link(link).await;
        let handed = handover.hand_over(node, Service::Imap, &context, verdict);
        let Handed::Started { mut server, .. } = handed.await.unwrap() else {
            panic!("not started");
        };
        let exit = timeout(PATIENCE, server.exit()).await.unwrap();
        assert_eq!(exit.to_string(), "real server ended by signal 9");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_started_is_unavailable() {
    let place = Place::new();
    let missing = exec(&["/nonexistent/imap"], &[], Opening::Preauth);
    let handover = place.start(Protocol::Imap, missing);
    for link in LINKS {
        // Where the server would have the link, the verdict was there before it; then the link is closed.
        let told = match link {
            LinkKind::Tls => "Refused(Unavailable)",
            LinkKind::Tcp | LinkKind::Unix => "Ok(Preauth)",
        };
        let error = refused(&handover, link, &context(1), told).await;
        assert!(matches!(error, Refused::Start(_)), "{}", chain(&error));
        assert_eq!(error.refusal(), Refusal::Unavailable);
    }
    assert!(handover.sessions().is_empty());
}

/// A node process that stops leaves its servers alone: they go on, whatever they say to a log that nobody reads.
#[test]
fn a_server_lives_on_without_the_node() {
    let place = Place::new();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let text = format!(
        "{NAMES_ITSELF} read line; i=0; while [ $i -lt 20000 ]; do echo noise >&2; i=$((i+1)); done; printf 'alive\\r\\n'"
    );
    let front_runtime = runtime();
    let (mut front, pid) = {
        let node_runtime = runtime();
        let (front, node) = front_runtime.block_on(Front::link(LinkKind::Unix));
        let node = match node {
            Stream::Unix(node) => node.into_std().unwrap(),
            other => panic!("{other:?}"),
        };
        let started = node_runtime.block_on(async {
            let node = Stream::Unix(UnixStream::from_std(node).unwrap());
            let handover = place.start(Protocol::Imap, script(&text, Opening::Preauth));
            let context = context(1);
            let handed = handover.hand_over(node, Service::Imap, &context, verdict);
            handed.await.unwrap()
        });
        let mut front = front;
        let pid = front_runtime.block_on(async {
            opened(&mut front, &Opening::Preauth).await;
            named(&mut front).await
        });
        drop(started);
        (front, pid)
    };
    front_runtime.block_on(async {
        front.send("go\n").await;
        assert_eq!(front.end().await, "alive\r\n", "{pid}");
    });
}

#[tokio::test]
async fn a_server_that_nobody_waits_for_is_ended_and_reaped() {
    let place = Place::new();
    let spawner = Spawner::new().unwrap();
    let settings = script(&format!("{NAMES_ITSELF} exec sleep 600"), Opening::Preauth);
    let context = context(1);
    let home = place.homes().display().to_string();
    let values = Values {
        context: &context,
        home: &home,
    };
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = theirs.into_std().unwrap();
        theirs.set_nonblocking(false).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let running = settings
            .start(
                &spawner,
                settings.tell(&values).unwrap(),
                &values,
                theirs.into(),
                deadline,
            )
            .await
            .unwrap();
        let mut front = Front {
            stream: Stream::Unix(ours),
            input: BytesMut::new(),
            name: "server".to_owned(),
        };
        let pid = named(&mut front).await;
        let pid = pid.rsplit(' ').next().unwrap().to_owned();
        assert!(Path::new("/proc").join(&pid).exists());
        drop(running);
        // The end of the stream: it has gone; it is reaped before the next one is started.
        front.end().await;
        let again = script("exit 0", Opening::Preauth);
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        again
            .start(
                &spawner,
                again.tell(&values).unwrap(),
                &values,
                theirs.into(),
                deadline,
            )
            .await
            .unwrap();
        gone(&pid).await;
    }
}

#[tokio::test]
async fn a_trial_tells_why_and_leaves_nothing() {
    let place = Place::new();
    let spawner = Spawner::new().unwrap();
    let bounds = settings(
        login_kind(Address::Unix("/nonexistent".into())),
        place.homes(),
    )
    .bounds;
    let trial = async |protocol, settings: ExecSettings| {
        try_once(protocol, &settings, &spawner, &bounds, PATIENCE).await
    };
    for (protocol, settings) in [
        (Protocol::Imap, place.dovecot("imap", Opening::Preauth)),
        (Protocol::Imap, place.dovecot("imap", Opening::Tagged)),
        (Protocol::Pop3, place.dovecot("pop3", Opening::Silent)),
        (Protocol::Imap, courier("bin/imapd", Opening::Tagged)),
        (
            Protocol::Pop3,
            courier("lib/courier/courier/courierpop3d", Opening::PlusOk),
        ),
    ] {
        let tried = trial(protocol, settings).await;
        assert!(tried.is_ok(), "{}", chain(&tried.unwrap_err()));
    }
    let speaks = "touch \"$HOME/left\"; echo \"$HOME $(id -u) $(id -g)\" >&2; ";
    let dies = trial(
        Protocol::Imap,
        script(&format!("{speaks} exit 3"), Opening::Preauth),
    )
    .await;
    let error = chain(&dies.unwrap_err());
    let (home, rest) = error
        .strip_prefix("real server ended with status 3: ")
        .unwrap_or_else(|| panic!("{error}"))
        .split_once(' ')
        .unwrap();
    assert!(rest.starts_with("1000 1000: "), "{error}");
    timeout(PATIENCE, async {
        while Path::new(home).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a home that is removed");

    let wrong = trial(Protocol::Imap, place.dovecot("imap", Opening::Tagged)).await;
    assert!(wrong.is_ok());
    let mut untagged = place.dovecot("imap", Opening::Preauth);
    untagged.opening = Opening::Tagged;
    let error = chain(&trial(Protocol::Imap, untagged).await.unwrap_err());
    assert!(error.contains("PREAUTH"), "{error}");
}

/// The lines of `/proc/PID/status`, by name.
fn status(pid: &str) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(":\t"))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// What a process of ours was started with: its environment and arguments, each ended by NUL.
fn words(pid: &str, name: &str) -> Vec<String> {
    let octets = fs::read(format!("/proc/{pid}/{name}")).unwrap();
    let text = String::from_utf8(octets).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Starts a server, and stops it after `meanwhile` has been given its pid.
async fn with_started(handover: &Handover, context: &Context, meanwhile: impl FnOnce(&str)) {
    let (mut front, node) = Front::link(LinkKind::Tcp).await;
    let handed = handover.hand_over(node, Service::Imap, context, verdict);
    let Handed::Started {
        mut server,
        relayed: None,
    } = handed.await.unwrap()
    else {
        panic!("not started");
    };
    opened(&mut front, &Opening::Preauth).await;
    let pid = named(&mut front).await;
    // An answer of cat's: the shell is that by now.
    front.send("ping\n").await;
    front.until("ping").await;
    meanwhile(&pid);
    drop(front);
    timeout(PATIENCE, server.exit()).await.unwrap();
}

/// A server that shows whether each value stays one argument and one variable.
fn shows_values() -> ExecSettings {
    let command = format!("{NAMES_ITSELF} exec /bin/cat -u - \"$0\"");
    let environment = [
        ("USER", "%u"),
        ("HOME", "%{home}"),
        ("TWO", "%{uid} %%{gid}"),
    ];
    exec(
        &["/bin/sh", "-c", &command, "%u"],
        &environment,
        Opening::Preauth,
    )
}

fn awkward(number: u32) -> Context {
    Context {
        account: AccountName::parse("u1 $(id) 'x' \"y\" A=b;*").unwrap(),
        ..context(number)
    }
}

/// Reads from its process, as root, what a server has that the process `node` has started.
fn inspect(node: &str, pid: &str, context: &Context, homes: &Path) {
    let (own, started) = (status(node), status(pid));
    let id = [context.uid.to_string(), "\t".to_owned()]
        .concat()
        .repeat(4);
    assert_eq!(started["Uid"], id.trim_end());
    assert_eq!(started["Gid"], id.trim_end());
    assert_eq!(started["Groups"], "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(started[set], "0000000000000000", "{set}");
    }
    assert_eq!(started["CapBnd"], own["CapBnd"]);
    assert_eq!(started["NoNewPrivs"], own["NoNewPrivs"]);
    for mask in ["SigBlk", "SigCgt"] {
        assert_eq!(started[mask], "0000000000000000", "{mask}");
    }
    let pipe = 1_u64 << (Signal::PIPE.as_raw() - 1);
    let ignored = u64::from_str_radix(&own["SigIgn"], 16).unwrap();
    assert_ne!(ignored & pipe, 0, "a node process ignores it");
    assert_eq!(started["SigIgn"], format!("{:016x}", ignored & !pipe));

    let home = homes.join(&context.home).display().to_string();
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd, Path::new(&home));
    let account = context.account.as_str();
    assert_eq!(words(pid, "cmdline"), ["/bin/cat", "-u", "-", account]);
    let mut environment = words(pid, "environ");
    // The shell sets this one itself.
    environment.retain(|variable| !variable.starts_with("PWD="));
    environment.sort();
    let two = format!("TWO={} %{{gid}}", context.uid);
    let expected = [format!("HOME={home}"), two, format!("USER={account}")];
    assert_eq!(environment, expected);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit(')').next().unwrap().split(' ').nth(3);
    assert_eq!(group, Some(pid), "{stat}");
    inspect_descriptors(pid);
}

fn inspect_descriptors(pid: &str) {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut open: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    for (name, start, nonblocking) in [
        ("0", "socket:", false),
        ("1", "socket:", false),
        ("2", "pipe:", true),
    ] {
        let target = fs::read_link(folder.join(name)).unwrap();
        let target = target.to_string_lossy().into_owned();
        assert!(target.starts_with(start), "{name} {target}");
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        let found = flags & rustix::fs::OFlags::NONBLOCK.bits() != 0;
        assert_eq!(found, nonblocking, "{name}");
    }
}

/// Runs a test once more as a node process that has capabilities the way that a service manager gives them, groups, and a
/// descriptor that somebody forgot to close.
fn spawn_inner(test: &str, place: &Place) -> Child {
    let exe = place.0.path().join("tests");
    // By another process: what is started beside this test must not inherit a file that is open for writing, or it can't be
    // executed for a moment.
    let copied = Command::new("cp")
        .args([&env::current_exe().unwrap(), &exe])
        .status();
    assert!(copied.unwrap().success());
    chown(place.homes(), Some(NODE_UID), Some(NODE_UID)).unwrap();
    let capabilities = "+setuid,+setgid,+chown";
    Command::new("/bin/sh")
        .args(["-c", "exec 7</etc/hostname; exec \"$@\"", "sh", "setpriv"])
        .args(["--reuid", "990", "--regid", "990", "--groups", "27,100,990"])
        .args(["--inh-caps", capabilities, "--ambient-caps", capabilities])
        .arg(exe)
        .args(["--exact", test, "--nocapture"])
        .env(INNER, place.homes())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The node process inside: starts a server, names it, and waits until the test outside has seen enough.
async fn inner(homes: PathBuf) {
    let sessions_file = homes.join("sessions");
    let mut settings = settings(Kind::Exec(shows_values()), homes);
    settings.sessions_file = sessions_file;
    settings.timeout = PATIENCE;
    with_started(&start(settings), &awkward(2), |pid| {
        println!("\nstarted {pid}");
        let mut end = String::new();
        io::stdin().read_line(&mut end).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_started_server_has_the_rights_of_its_user_and_no_others() {
    if let Some(homes) = env::var_os(INNER) {
        return inner(homes.into()).await;
    }
    let place = Place::new();
    let handover = place.start(Protocol::Imap, shows_values());
    with_started(&handover, &awkward(1), |pid| {
        inspect("self", pid, &awkward(1), &place.homes());
    })
    .await;

    let (_, module) = module_path!().split_once("::").unwrap();
    let test = "a_started_server_has_the_rights_of_its_user_and_no_others";
    let mut node = spawn_inner(&format!("{module}::{test}"), &place);
    let mut said = BufReader::new(node.stdout.take().unwrap()).lines();
    let pid = said
        .find_map(|line| line.unwrap().strip_prefix("started ").map(str::to_owned))
        .expect("a node process with a server");
    let id = node.id().to_string();
    // The premise: all of it could be inherited.
    let own = status(&id);
    assert_eq!(own["CapAmb"], own["CapInh"]);
    assert_eq!(own["CapAmb"], "00000000000000c1");
    assert_eq!(own["Groups"], "27 100 990");
    assert_eq!(own["Uid"], "990\t990\t990\t990");
    assert!(Path::new("/proc").join(&id).join("fd/7").exists());
    inspect(&id, &pid, &awkward(2), &place.homes());
    drop(node.stdin.take());
    let rest: Vec<_> = said.map(Result::unwrap).collect();
    assert!(node.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn a_process_without_the_right_to_become_others_is_refused() {
    let thread = std::thread::spawn(|| {
        let own = rustix::thread::capabilities(None).unwrap();
        let sets = rustix::thread::CapabilitySets {
            effective: own.effective - rustix::thread::CapabilitySet::SETUID,
            ..own
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        Spawner::new().map(|_| ()).unwrap_err().to_string()
    });
    assert_eq!(
        thread.join().unwrap(),
        "kind \"exec\" starts servers as their users, which needs root or the capabilities CAP_SETUID and CAP_SETGID"
    );
}
