//! What the tests are played in: a delivery role with a directory from a file, nodes that a few lines play behind real links,
//! and an MTA.
//!
//! What a node says to a recipient goes by how its local part begins: `no` is refused, `later` is deferred, both at RCPT;
//! `full` is refused behind the dot. A [`Cut`] says where a link of a node ends.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use super::super::{Delivery, Listener, Parts, Settings};
use crate::{
    directory::{self, Directory},
    link::{AdmitSettings, Admitter, DialSettings, Dialer, HealthSettings, NodeKey},
    lmtp::Timeouts,
    metrics::Metrics,
    names::{KeyId, NodeName, Service},
    net::{Address, Places, Stream},
    nodes::{self, Node, Nodes},
    proto::{
        link::{
            Opening, Verdict,
            context::mail::{KEYWORD, MessageFacts, RecipientFacts},
        },
        lmtp,
    },
    secret::Key,
    spool,
    tasks::Tasks,
};

/// Longer than any sound test takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A deadline that does not pass in a test.
pub(super) const LONG: Duration = Duration::from_secs(60);

pub(super) async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("out of patience")
}

/// Waits until `is_true`, letting every other task run in between.
pub(super) async fn until(is_true: impl Fn() -> bool) {
    patiently(async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Where a link ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cut {
    Greeting,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    /// When some of the message has come.
    Body,
    /// When all of it has come.
    Dot,
    /// Behind the first reply of several.
    Replies,
    /// Not cut: the node says 421 to MAIL and closes.
    Bye,
    /// Nothing is said to MAIL any more.
    Silent,
    Never,
}

/// A message as a node has it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) mail: String,
    pub(super) recipients: Vec<String>,
    pub(super) octets: Vec<u8>,
    pub(super) message: MessageFacts,
    pub(super) facts: Vec<RecipientFacts>,
}

/// What happened at a node, and what is to happen.
#[derive(Debug)]
pub(super) struct NodeState {
    /// How the next links end, the first first.
    cuts: Mutex<VecDeque<Cut>>,
    /// How those that are open end from now on.
    cut_of_open: Mutex<Option<Cut>>,
    pub(super) stored: Mutex<Vec<Stored>>,
    /// Links so far, and those that are open.
    pub(super) links: AtomicUsize,
    pub(super) open: AtomicUsize,
    /// How many QUITs were heard.
    pub(super) quits: AtomicUsize,
    /// Octets of messages that were read, dots and all.
    pub(super) read: AtomicUsize,
    /// How often the node lets others run before it reads on.
    pub(super) yields: AtomicUsize,
    /// While it is false no reply is given behind a dot.
    pub(super) answers: watch::Sender<bool>,
}

impl NodeState {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            cuts: Mutex::default(),
            cut_of_open: Mutex::default(),
            stored: Mutex::default(),
            links: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            quits: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            yields: AtomicUsize::new(0),
            answers: watch::Sender::new(true),
        })
    }

    pub(super) fn cut(&self, cuts: &[Cut]) {
        self.cuts.lock().unwrap().extend(cuts);
    }

    /// The links that are open now, one at most, end like that.
    pub(super) fn set_cut_of_open(&self, cut: Cut) {
        *self.cut_of_open.lock().unwrap() = Some(cut);
    }

    pub(super) fn stored(&self) -> Vec<Stored> {
        self.stored.lock().unwrap().clone()
    }

    pub(super) fn links(&self) -> usize {
        self.links.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

pub(super) struct Lab {
    pub(super) delivery: Delivery,
    pub(super) socket: PathBuf,
    pub(super) nodes: [Arc<NodeState>; 2],
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    _dir: tempfile::TempDir,
}

/// The accounts: who lives where; `dead` is a node that is down, `lost` one that is not in the table.
const ACCOUNTS: [(&str, &str); 15] = [
    ("ann", "n1"),
    ("bob", "n1"),
    ("no1", "n1"),
    ("no2", "n1"),
    ("later1", "n1"),
    ("full1", "n1"),
    ("carl", "n2"),
    ("dora", "n2"),
    ("no3", "n2"),
    ("full2", "n2"),
    ("dead", "n3"),
    ("dead2", "n3"),
    ("lost", "nowhere"),
    ("gone", "n1"),
    ("zoe", "n1"),
];

pub(super) fn settings(dir: &std::path::Path) -> Settings {
    Settings {
        listeners: vec![Listener::Unix {
            path: dir.join("lmtp"),
            mode: 0o666,
        }],
        from: vec!["127.0.0.1/32".parse().unwrap()],
        lmtp: lmtp::Settings {
            hostname: "mx.example".to_owned(),
            max_message_bytes: 100 << 20,
            ..lmtp::Settings::default()
        },
        mta: timeouts(LONG),
        node: timeouts(LONG),
        max_connections: 16,
        homes_at_once: 4,
        kept_links: 2,
        kept_for: LONG,
        spool: spool::Settings {
            memory: 4096,
            folder: dir.to_owned(),
        },
        drain_timeout: LONG,
    }
}

pub(super) fn timeouts(limit: Duration) -> Timeouts {
    Timeouts {
        command: limit,
        data: limit,
        answer: limit,
    }
}

impl Lab {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
        let mut settings = settings(dir.path());
        change(&mut settings);
        let nodes = [NodeState::new(), NodeState::new()];
        for (name, state) in ["n1", "n2"].into_iter().zip(&nodes) {
            let listener = UnixListener::bind(dir.path().join(name)).unwrap();
            let serving = serve_node(name, listener, Arc::clone(state), tasks.clone());
            tasks.background("node", serving);
        }
        let table = nodes::Settings {
            nodes: ["n1", "n2", "n3"]
                .map(|name| node(name, dir.path().join(name)))
                .to_vec(),
            default: None,
        };
        let dial = DialSettings {
            ready: 0,
            connect_timeout: LONG,
            prove_timeout: LONG,
            verdict_timeout: LONG,
            health: HealthSettings::default(),
        };
        let delivery = Delivery::new(Parts {
            directory: directory(dir.path(), &metrics, &tasks),
            nodes: Nodes::new(&table),
            dialer: Dialer::new(&table, dial, metrics.clone(), tasks.clone()).unwrap(),
            orders: crate::orders::Orders::open(None).unwrap(),
            metrics: metrics.clone(),
            places: Places::new(settings.max_connections, tasks.clone()),
            tasks: tasks.clone(),
            settings,
        });
        let socket = dir.path().join("lmtp");
        let listener = UnixListener::bind(&socket).unwrap();
        let (_, current) = watch::channel(delivery.clone());
        tasks.spawn("listener", Delivery::listen_unix(current, listener));
        Self {
            delivery,
            socket,
            nodes,
            metrics,
            tasks,
            _dir: dir,
        }
    }

    pub(super) async fn mta(&self) -> Mta {
        let mut mta = self.stranger().await;
        assert_eq!(mta.line().await, "220 mx.example PigeonAir LMTP");
        mta.say("LHLO mta.example").await;
        while mta.line().await.starts_with("250-") {}
        mta
    }

    /// A connection that has heard nothing yet.
    pub(super) async fn stranger(&self) -> Mta {
        Mta {
            stream: Stream::Unix(UnixStream::connect(&self.socket).await.unwrap()),
            input: BytesMut::new(),
        }
    }

    pub(super) fn count(&self, result: &str) -> u64 {
        self.metrics.deliveries.with_label_values(&[result]).get()
    }

    pub(super) fn kept(&self) -> usize {
        self.delivery.0.forwarder.kept()
    }
}

fn node(name: &str, path: PathBuf) -> Node {
    Node {
        name: NodeName::parse(name).unwrap(),
        hosts: Vec::new(),
        address: Address::Unix(path),
        source: None,
        key_id: KeyId::parse("mx").unwrap(),
        key: Key::new([7; 32]),
        tls: false,
        probe_login: None,
    }
}

fn directory(dir: &std::path::Path, metrics: &Metrics, tasks: &Tasks) -> Directory {
    let accounts = ACCOUNTS.iter().zip(20_001..).map(|((name, node), id)| {
        let status = if *name == "gone" { "disabled" } else { "active" };
        format!(
            "[[account]]\nname = \"{name}\"\naddresses = [\"{name}@a.example\"]\nhome_node = \"{node}\"\n\
             uid = {id}\ngid = {id}\nquota = 1000\nstatus = \"{status}\"\n\
             password = \"{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\"\n"
        )
    });
    let path = dir.join("accounts.toml");
    fs::write(&path, accounts.collect::<String>()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = directory::Settings {
        source: directory::Source::File(directory::FileSettings { path }),
        addresses: directory::AddressSettings::default(),
        cache: directory::CacheSettings::default(),
        follow: directory::FollowSettings::default(),
    };
    Directory::start(settings, metrics.clone(), tasks.clone()).unwrap()
}

/// Admits every link and talks over it.
async fn serve_node(name: &str, listener: UnixListener, state: Arc<NodeState>, tasks: Tasks) {
    let settings = AdmitSettings {
        node: NodeName::parse(name).unwrap(),
        keys: vec![NodeKey {
            id: KeyId::parse("mx").unwrap(),
            key: Key::new([7; 32]),
            services: vec![Service::Mailstore],
            from: Vec::new(),
            not_after: None,
        }],
        max_unproven: 16,
        prove_timeout: LONG,
        idle_limit: LONG,
    };
    let admitter = Admitter::new(settings, Metrics::new().unwrap()).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (admitter, state) = (admitter.clone(), Arc::clone(&state));
        tasks.background("link", async move {
            let stream = Stream::Unix(stream);
            let Ok(mut admitted) = admitter.admit(stream, false, None).await else {
                return;
            };
            assert_eq!(admitted.purpose.service(), Service::Mailstore);
            state.links.fetch_add(1, Ordering::SeqCst);
            let cut = state.cuts.lock().unwrap().pop_front().unwrap_or(Cut::Never);
            let verdict = admitted.verdict(&Verdict::Ok(Opening::Silent));
            admitted.stream.write_all(&verdict).await.unwrap();
            state.open.fetch_add(1, Ordering::SeqCst);
            let talk = NodeTalk {
                mta: Mta {
                    stream: admitted.stream,
                    input: BytesMut::new(),
                },
                state: Arc::clone(&state),
                cut,
            };
            talk.run().await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// A node's side of one link.
struct NodeTalk {
    mta: Mta,
    state: Arc<NodeState>,
    cut: Cut,
}

impl NodeTalk {
    /// Until the link ends, or is cut.
    async fn run(mut self) -> Option<()> {
        self.unless(Cut::Greeting)?;
        self.mta.try_say("220 node").await?;
        let mut message: Option<Stored> = None;
        loop {
            let line = self.mta.try_line().await?;
            let now = self.state.cut_of_open.lock().unwrap().take();
            self.cut = now.unwrap_or(self.cut);
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "LHLO" => {
                    self.unless(Cut::Lhlo)?;
                    let offers = "250-node\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                                  250-SIZE 200000000\r\n250 PIGEONAIR";
                    self.mta.try_say(offers).await?;
                }
                "MAIL" => {
                    assert!(message.is_none(), "MAIL twice");
                    message = Some(self.mail(rest).await?);
                }
                "RCPT" => {
                    self.rcpt(rest, message.as_mut().expect("MAIL first"))
                        .await?
                }
                "DATA" => {
                    self.unless(Cut::Data)?;
                    let known = message.take().expect("MAIL first");
                    if known.recipients.is_empty() {
                        self.mta.try_say("503 5.5.1 nobody").await?;
                        message = Some(known);
                        continue;
                    }
                    self.mta.try_say("354 go on").await?;
                    self.message(known).await?;
                }
                "RSET" => {
                    message = None;
                    self.mta.try_say("250 2.0.0 reset").await?;
                }
                "QUIT" => {
                    self.state.quits.fetch_add(1, Ordering::SeqCst);
                    return Some(());
                }
                _ => panic!("{line}"),
            }
        }
    }

    async fn mail(&mut self, argument: &str) -> Option<Stored> {
        self.unless(Cut::Mail)?;
        if self.cut == Cut::Bye {
            self.mta.try_say("421 4.3.2 going down").await?;
            return None;
        }
        if self.cut == Cut::Silent {
            std::future::pending::<()>().await;
        }
        let (mail, facts) = split_facts(argument);
        self.mta.try_say("250 2.1.0 sender").await?;
        Some(Stored {
            mail,
            recipients: Vec::new(),
            octets: Vec::new(),
            message: MessageFacts::decode(&facts).unwrap(),
            facts: Vec::new(),
        })
    }

    async fn rcpt(&mut self, argument: &str, message: &mut Stored) -> Option<()> {
        self.unless(Cut::Rcpt)?;
        let (to, facts) = split_facts(argument);
        let address = to.strip_prefix("TO:<").unwrap().strip_suffix('>').unwrap();
        let reply = if address.starts_with("no") {
            format!("550 5.7.1 not {address}")
        } else if address.starts_with("later") {
            format!("450 4.2.0 not now {address}")
        } else {
            message.recipients.push(address.to_owned());
            message.facts.push(RecipientFacts::decode(&facts).unwrap());
            format!("250 2.1.5 {address}")
        };
        self.mta.try_say(&reply).await
    }

    fn unless(&self, cut: Cut) -> Option<()> {
        (self.cut != cut).then_some(())
    }

    /// The octets of a message, and a reply for each recipient.
    async fn message(&mut self, mut message: Stored) -> Option<()> {
        let mut raw = b"\r\n".to_vec();
        let end = loop {
            if let Some(at) = find(&raw, b"\r\n.\r\n") {
                break at;
            }
            for _ in 0..self.state.yields.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            let input = &mut self.mta.input;
            if input.is_empty() {
                let mut piece = vec![0; 16 * 1024];
                let count = self.mta.stream.read(&mut piece).await.ok()?;
                if count == 0 {
                    return None;
                }
                input.extend_from_slice(&piece[..count]);
            }
            let input = input.split();
            self.state.read.fetch_add(input.len(), Ordering::SeqCst);
            // The search begins where the last one could not have found the end.
            raw = search_on(raw, &input, &mut message.octets);
            self.unless(Cut::Body)?;
        };
        message.octets.extend_from_slice(&raw[..end + 2]);
        // All of it but the CRLF that was put in front.
        message.octets.drain(..2);
        message.octets = without_dots(&message.octets);
        self.mta.input.extend_from_slice(&raw[end + 5..]);
        self.unless(Cut::Dot)?;
        let mut answers = self.state.answers.subscribe();
        answers.wait_for(|answers| *answers).await.ok()?;
        let (full, takes): (Vec<_>, Vec<_>) = message
            .recipients
            .iter()
            .cloned()
            .partition(|recipient| recipient.starts_with("full"));
        let replies: Vec<String> = message
            .recipients
            .iter()
            .map(|recipient| match full.contains(recipient) {
                true => format!("552 5.2.2 {recipient} is full"),
                false => format!("250 2.0.0 {recipient} has it"),
            })
            .collect();
        if !takes.is_empty() {
            self.state.stored.lock().unwrap().push(message);
        }
        for reply in replies {
            self.mta.try_say(&reply).await?;
            self.unless(Cut::Replies)?;
        }
        Some(())
    }
}

/// Appends what came; what can't be part of the end any more goes to `octets`.
fn search_on(mut raw: Vec<u8>, input: &[u8], octets: &mut Vec<u8>) -> Vec<u8> {
    raw.extend_from_slice(input);
    if find(&raw, b"\r\n.\r\n").is_some() {
        return raw;
    }
    let keep = raw.len().saturating_sub(4);
    octets.extend_from_slice(&raw[..keep]);
    raw.split_off(keep)
}

fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    octets.windows(what.len()).position(|window| window == what)
}

/// Takes the dots away that were put in front of lines.
fn without_dots(octets: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for (at, octet) in octets.iter().enumerate() {
        let begins = at == 0 || octets[..at].ends_with(b"\r\n");
        if !(begins && *octet == b'.') {
            out.push(*octet);
        }
    }
    out
}

/// The argument without our parameter, and its value.
fn split_facts(argument: &str) -> (String, Vec<u8>) {
    let keyword = format!(" {KEYWORD}=");
    let (rest, xtext) = argument.split_once(&keyword).expect("no facts");
    let mut octets = Vec::new();
    let mut left = xtext.bytes();
    while let Some(octet) = left.next() {
        octets.push(match octet {
            b'+' => {
                let hex = [left.next().unwrap(), left.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            octet => octet,
        });
    }
    (rest.to_owned(), octets)
}

/// One end of a conversation in lines: the MTA's, or the node's.
pub(super) struct Mta {
    pub(super) stream: Stream,
    pub(super) input: BytesMut,
}

impl Mta {
    pub(super) async fn say(&mut self, line: &str) {
        self.try_say(line).await.unwrap();
    }

    async fn try_say(&mut self, line: &str) -> Option<()> {
        self.write(format!("{line}\r\n").as_bytes()).await
    }

    pub(super) async fn write(&mut self, octets: &[u8]) -> Option<()> {
        patiently(self.stream.write_all(octets)).await.ok()?;
        self.stream.flush().await.ok()
    }

    pub(super) async fn line(&mut self) -> String {
        patiently(self.try_line()).await.expect("closed")
    }

    pub(super) async fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n") {
                let line = self.input.split_to(end + 2);
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(super) async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// Sender and recipients (local parts), pipelined, then DATA: the replies to RCPT, and to DATA.
    pub(super) async fn envelope(&mut self, recipients: &[&str]) -> (Vec<String>, String) {
        let mut commands = "MAIL FROM:<eve@b.example>\r\n".to_owned();
        for recipient in recipients {
            commands.push_str(&format!("RCPT TO:<{recipient}@a.example>\r\n"));
        }
        commands.push_str("DATA\r\n");
        self.write(commands.as_bytes()).await.unwrap();
        assert_eq!(self.line().await, "250 2.1.0 Sender OK.");
        let replies = self.lines(recipients.len()).await;
        (replies, self.line().await)
    }

    /// A message for recipients that are all taken: the replies behind the dot, or the one to DATA.
    pub(super) async fn deliver(&mut self, recipients: &[&str], octets: &[u8]) -> Vec<String> {
        let (taken, data) = self.envelope(recipients).await;
        for reply in &taken {
            assert_eq!(reply, "250 2.1.5 Recipient OK.");
        }
        if !data.starts_with("354 ") {
            self.say("RSET").await;
            assert_eq!(self.line().await, "250 2.0.0 OK");
            return vec![data];
        }
        self.write(octets).await.unwrap();
        self.write(b".\r\n").await.unwrap();
        self.lines(recipients.len()).await
    }
}
