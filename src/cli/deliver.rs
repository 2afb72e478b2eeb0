//! `pigeonair deliver`: one message from standard input to one recipient, for MTAs that pipe to a command.
//!
//! ```text
//! arguments -> beginning of the message -> connect -> LHLO MAIL RCPT DATA -> the message -> dot -> its fate
//! ```
//!
//! It speaks LMTP to the delivery role and has no configuration, so any user who may open the socket can run it. One
//! recipient, since one exit code can tell the truth about one only. A first line `From ` (mbox) is dropped, lines may end in
//! LF or CRLF. Memory: 64 KiB at a time, whatever the message's size; one that fits is known to be 7-bit or not, of a
//! longer one that is not said, so it is announced as 8BITMIME.
//!
//! The MTA returns a message to its sender for most exit codes, so everything that is not a refusal by the server is
//! "try again": a server that is away or breaks off, a message that can't be read, a mistake on the command line or in here. The
//! one line for standard error begins with an enhanced code (RFC 3463), which Postfix takes before the exit code.
//! The end of the message can't be told from the death of the process that writes it: when our parent is dying by then,
//! the message is not ended. What is left of standard input after a refusal is read and dropped: a writer that meets a closed
//! pipe may take that for the failure. All of it ends within 15 minutes, before an MTA would kill us (Postfix 1000
//! seconds; to Exim a time-out is final). RFC 2033.

use std::{
    io,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rustix::process::{Pid, getppid};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    lmtp::{Begun, Timeouts, Transfer, TransferError},
    net::{self, Address, Stream},
    outcome::chain,
    proto::lmtp::{
        self, AddressError, Body, Cause, Envelope, Fate, LineEnds, Recipient, Reply, SendError,
        client::Settings,
    },
};

/// Where the delivery role listens unless told otherwise.
const DEFAULT_SERVER: &str = "/run/pigeonair/lmtp";

/// Read of the message before anything is sent, and then at one time, in octets.
const PIECE_BYTES: usize = 64 * 1024;

/// For the whole delivery.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// For reading the rest of a message that is not taken.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// What to deliver to whom.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Where the delivery role listens: the path of a Unix socket, or host:port.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_SERVER, value_parser = server)]
    server: Address,
    /// Who hears of a failure; empty, <> or MAILER-DAEMON: nobody.
    #[arg(
        short = 'f',
        long = "from",
        value_name = "SENDER",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(allow_hyphen_values = true, value_parser = sender)]
    sender: Sender,
    /// Whom the message is for.
    #[arg(value_parser = mailbox)]
    recipient: lmtp::Address,
}

#[derive(Clone, Debug)]
struct Sender(Option<lmtp::Address>);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum NotDelivered {
    /// The connection failed before the message was sent.
    #[error("connection to the delivery role failed")]
    Broken(#[source] TransferError),
    /// The command line is wrong.
    #[error("{0}")]
    CommandLine(String),
    /// There is no connection.
    #[error("cannot connect to {server}")]
    Connect {
        /// Where to.
        server: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no message.
    #[error("no message on standard input")]
    Empty,
    /// The message could not be read.
    #[error("cannot read the message from standard input")]
    Input(#[source] io::Error),
    /// It took too long.
    #[error("not done within {} minutes", LIMIT.as_secs() / 60)]
    Late,
    /// The server refused for now.
    #[error("{}", .0.text())]
    Later(Reply),
    /// Whoever wrote the message is gone.
    #[error("the process that wrote the message is gone, perhaps before its end")]
    Orphaned,
    /// The server refused for good.
    #[error("{}", .0.text())]
    Refused(Reply),
    /// A mistake of this program.
    #[error("stopped by a mistake of this program: please report it")]
    Panicked,
    /// There is no runtime.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// The connection failed behind the message.
    #[error("the delivery role did not say whether it has the message")]
    Uncertain(#[source] TransferError),
}

/// Delivers the message on standard input.
pub(super) fn run(options: &Options) -> Result<(), NotDelivered> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NotDelivered::Runtime)?;
    let parent = Parent(getppid());
    let is_orphan = || parent.is_gone();
    let done = contained(|| {
        runtime.block_on(async {
            let input = io::stdin().as_fd().try_clone_to_owned();
            let input = File::from(std::fs::File::from(input.map_err(NotDelivered::Input)?));
            deliver(options, input, is_orphan).await
        })
    });
    // A read that waits for standard input would be waited for.
    runtime.shutdown_background();
    done
}

/// Does the work; a panic in it is a reason to try again, while its own exit code would return the message.
fn contained(work: impl FnOnce() -> Result<(), NotDelivered>) -> Result<(), NotDelivered> {
    // What the panic left is not used any more.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(NotDelivered::Panicked))
}

async fn deliver(
    options: &Options,
    mut input: impl AsyncRead + Unpin,
    is_orphan: impl Fn() -> bool,
) -> Result<(), NotDelivered> {
    let done = timeout(LIMIT, transfer(options, &mut input, is_orphan))
        .await
        .unwrap_or(Err(NotDelivered::Late));
    if done.is_err() {
        // It is refused already; that it can't be read to its end changes nothing.
        let _ = timeout(
            DRAIN_LIMIT,
            tokio::io::copy(&mut input, &mut tokio::io::sink()),
        )
        .await;
    }
    done
}

async fn transfer(
    options: &Options,
    input: &mut (impl AsyncRead + Unpin),
    is_orphan: impl Fn() -> bool,
) -> Result<(), NotDelivered> {
    let head = Head::read(input).await?;
    let stream = connect(&options.server).await?;
    let settings = Settings {
        hostname: "localhost".to_owned(),
        line_ends: LineEnds::Crlf,
        private: None,
    };
    let mut transfer = Transfer::greet(stream, settings, Timeouts::default()).await?;
    let fates = match transfer.begin(head.envelope(options)).await? {
        Begun::Done(fates) => fates,
        Begun::Data => {
            send(&mut transfer, head, input).await?;
            if is_orphan() {
                return Err(NotDelivered::Orphaned);
            }
            transfer.finish().await.map_err(NotDelivered::Uncertain)?
        }
    };
    if transfer.is_open() {
        transfer.quit().await;
    }
    match fates.into_iter().next() {
        Some(Fate::Delivered(_)) => Ok(()),
        Some(Fate::Permanent(reply)) => Err(NotDelivered::Refused(reply)),
        Some(Fate::Temporary(reply)) => Err(NotDelivered::Later(reply)),
        Some(Fate::Uncertain) => Err(NotDelivered::Uncertain(TransferError::Closed)),
        Some(Fate::Broken) | None => Err(NotDelivered::Broken(TransferError::Closed)),
    }
}

async fn connect(server: &Address) -> Result<Stream, NotDelivered> {
    let connected = async {
        match server {
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Address::Tcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await?;
                net::tune(&socket, net::LINK)?;
                Ok(Stream::Tcp(socket))
            }
        }
    };
    connected.await.map_err(|source| NotDelivered::Connect {
        server: server.clone(),
        source,
    })
}

/// Sends the message up to its dot.
async fn send(
    transfer: &mut Transfer,
    head: Head,
    input: &mut (impl AsyncRead + Unpin),
) -> Result<(), NotDelivered> {
    let mut piece = head.octets;
    while !piece.is_empty() {
        transfer.body(&piece).await?;
        piece.clear();
        if !head.is_whole {
            let read = input.take(PIECE_BYTES as u64).read_buf(&mut piece).await;
            read.map_err(NotDelivered::Input)?;
        }
    }
    Ok(())
}

/// Whoever started us, and writes the message.
struct Parent(Option<Pid>);

impl Parent {
    /// Whether it is dead or dying. A process that dies closes its files before it has another parent, but after the kernel
    /// has marked it (`PF_EXITING` among the flags in proc(5), which every user may read unless `hidepid` is set). One that
    /// died before we began is not noticed.
    fn is_gone(&self) -> bool {
        let stat = self.0.map(|pid| format!("/proc/{pid}/stat"));
        let stat = stat.and_then(|path| std::fs::read_to_string(path).ok());
        getppid() != self.0 || stat.is_some_and(|stat| is_exiting(&stat))
    }
}

/// Whether the process of a line of proc(5) has begun to die.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    // Behind the name, which may hold anything: state, parent, group, session, terminal, its group, flags.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let flags = fields.and_then(|fields| fields.split(' ').nth(6));
    flags
        .and_then(|flags| flags.parse::<u32>().ok())
        .is_some_and(|flags| flags & PF_EXITING != 0)
}

/// How a message begins.
struct Head {
    octets: Vec<u8>,
    /// Whether that is all.
    is_whole: bool,
}

// === impl Head ===

impl Head {
    async fn read(input: &mut (impl AsyncRead + Unpin)) -> Result<Self, NotDelivered> {
        let mut octets = Vec::with_capacity(PIECE_BYTES);
        let mut begin = input.take(PIECE_BYTES as u64);
        let read = begin.read_to_end(&mut octets).await;
        let read = read.map_err(NotDelivered::Input)?;
        if octets.starts_with(b"From ")
            && let Some(end) = octets.iter().position(|octet| *octet == b'\n')
        {
            octets.drain(..=end);
        }
        if octets.is_empty() {
            return Err(NotDelivered::Empty);
        }
        Ok(Self {
            octets,
            is_whole: read < PIECE_BYTES,
        })
    }

    fn envelope(&self, options: &Options) -> Envelope<Recipient> {
        let Options {
            sender, recipient, ..
        } = options;
        let may_be_8bit = !(self.is_whole && self.octets.is_ascii());
        Envelope {
            sender: sender.0.clone(),
            recipients: vec![Recipient {
                address: recipient.clone(),
                private: None,
            }],
            size: self.is_whole.then(|| self.size()),
            body: if may_be_8bit {
                Body::EightBit
            } else {
                Body::SevenBit
            },
            smtputf8: !recipient.is_ascii() || sender.0.as_ref().is_some_and(|s| !s.is_ascii()),
            private: None,
        }
    }

    /// In octets as they are sent, without dots that are added.
    fn size(&self) -> u64 {
        let before = std::iter::once(&b'\n').chain(&self.octets);
        let alone = before.zip(&self.octets);
        let alone = alone.filter(|(before, octet)| **octet == b'\n' && **before != b'\r');
        (self.octets.len() as u64).saturating_add(alone.count() as u64)
    }
}

// === impl NotDelivered ===

impl NotDelivered {
    /// The line for standard error: an enhanced code, then what happened.
    pub(super) fn line(&self) -> String {
        let code = match self {
            Self::Later(reply) | Self::Refused(reply) => {
                let (class, subject, detail) = reply.enhanced();
                format!("{class}.{subject}.{detail}")
            }
            Self::CommandLine(_) => "4.3.5".to_owned(),
            Self::Connect { .. } => "4.4.1".to_owned(),
            Self::Broken(_) | Self::Late | Self::Uncertain(_) => "4.4.2".to_owned(),
            Self::Empty | Self::Input(_) | Self::Orphaned | Self::Panicked | Self::Runtime(_) => {
                "4.3.0".to_owned()
            }
        };
        let words = format!("{code} {}", chain(self));
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl From<TransferError> for NotDelivered {
    fn from(error: TransferError) -> Self {
        match error {
            // Whatever the server is, it does not take this message.
            TransferError::Send(SendError::TooBig) => Self::Refused(Cause::TooBig.reply()),
            error => Self::Broken(error),
        }
    }
}

fn server(text: &str) -> Result<Address, &'static str> {
    Address::parse(text).ok_or("is neither host:port nor an absolute path")
}

fn sender(text: &str) -> Result<Sender, AddressError> {
    match text {
        "" | "<>" => Ok(Sender(None)),
        // What stands where the sender was forgotten.
        "--" => Err(AddressError::Syntax),
        // Postfix's pipe and sendmail call nobody so, and nobody is to answer it.
        _ if text.eq_ignore_ascii_case("MAILER-DAEMON") => Ok(Sender(None)),
        _ => mailbox(text).map(|address| Sender(Some(address))),
    }
}

/// An address, in quotes where it needs them or without, since some MTAs take them off.
fn mailbox(text: &str) -> Result<lmtp::Address, AddressError> {
    let bare = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    let text = bare.unwrap_or(text);
    lmtp::Address::parse(text).or_else(|error| {
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (local, format!("@{domain}")),
            None => (text, String::new()),
        };
        let local = local.replace('\\', "\\\\").replace('"', "\\\"");
        // The error of what was said, not of what we made of it.
        lmtp::Address::parse(&format!("\"{local}\"{domain}")).map_err(|_| error)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
        thread::JoinHandle,
    };

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    const LHLO: (&str, &str) = (
        "LHLO localhost\r\n",
        "250-x\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 1000000\r\n250 PIPELINING\r\n",
    );
    const DATA: (&str, &str) = ("DATA\r\n", "250 a\r\n250 b\r\n354 c\r\n");
    const DOT: &str = "\r\n.\r\n";
    const MESSAGE: &[u8] = b"Subject: x\n\ny\n";

    /// Says each reply behind what it waits for, then closes.
    struct Scripted {
        folder: tempfile::TempDir,
        heard: JoinHandle<String>,
    }

    impl Scripted {
        fn new(greeting: &str, steps: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("lmtp")).unwrap();
            let own = |text: &str| text.to_owned();
            let greeting = own(greeting);
            let steps: Vec<_> = steps.iter().map(|(to, say)| (own(to), own(say))).collect();
            let heard = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let patience = Some(Duration::from_secs(20));
                stream.set_read_timeout(patience).unwrap();
                let mut heard = Vec::new();
                stream.write_all(greeting.as_bytes()).unwrap();
                for (to, say) in steps {
                    let mut buffer = [0; 4096];
                    while !heard.ends_with(to.as_bytes()) {
                        let read = stream.read(&mut buffer).unwrap();
                        if read == 0 {
                            return String::from_utf8(heard).unwrap();
                        }
                        heard.extend_from_slice(&buffer[..read]);
                    }
                    stream.write_all(say.as_bytes()).unwrap();
                }
                String::from_utf8(heard).unwrap()
            });
            Self { folder, heard }
        }

        fn options(&self, arguments: &[&str]) -> Options {
            let server = self.folder.path().join("lmtp");
            let first = ["deliver", "--server", server.to_str().unwrap()];
            let arguments = first.iter().chain(arguments);
            Arguments::try_parse_from(arguments).unwrap().options
        }

        /// How the delivery ends, in the words for standard error, and what the server heard.
        async fn deliver(self, arguments: &[&str], message: &[u8]) -> (String, String) {
            let done = deliver(&self.options(arguments), message, || false).await;
            (told(done), self.heard.join().unwrap())
        }
    }

    fn told(done: Result<(), NotDelivered>) -> String {
        match done {
            Ok(()) => "delivered".to_owned(),
            Err(NotDelivered::Refused(reply)) => {
                format!("for good: {}", NotDelivered::Refused(reply).line())
            }
            Err(other) => other.line(),
        }
    }

    #[tokio::test]
    async fn replies_decide() {
        for (reply, expected) in [
            ("250 2.1.5 Ok", "delivered"),
            ("250 Ok", "delivered"),
            ("550 5.1.1 No such user", "for good: 5.1.1 No such user"),
            (
                "550-5.2.2 Full,\r\n550 5.2.2 quite",
                "for good: 5.2.2 Full, quite",
            ),
            ("550 no", "for good: 5.0.0 no"),
            ("452 4.2.2 Full", "4.2.2 Full"),
            ("421 4.3.2 Going down", "4.3.2 Going down"),
        ] {
            let reply = format!("{reply}\r\n");
            let steps = [LHLO, DATA, (DOT, &reply)];
            let server = Scripted::new("220 x\r\n", &steps);
            let (told, heard) = server.deliver(&["ann@a.example"], MESSAGE).await;
            assert_eq!(told, expected, "{reply}");
            assert!(
                heard.ends_with("DATA\r\nSubject: x\r\n\r\ny\r\n.\r\n"),
                "{heard}"
            );
            if !reply.starts_with('2') {
                let refused = format!("250 a\r\n{reply}503 no\r\n");
                let server = Scripted::new("220 x\r\n", &[LHLO, ("DATA\r\n", &refused)]);
                let (told, _) = server.deliver(&["ann@a.example"], MESSAGE).await;
                assert_eq!(told, expected, "{reply} to RCPT");
            }
        }
    }

    #[tokio::test]
    async fn whatever_breaks_off_is_tried_again() {
        const BROKEN: &str = "4.4.2 connection to the delivery role failed";
        const UNCERTAIN: &str = "4.4.2 the delivery role did not say whether it has the message";
        for (greeting, steps, expected) in [
            ("", &[] as &[(&str, &str)], BROKEN),
            ("22", &[], BROKEN),
            ("nonsense\r\n", &[], BROKEN),
            ("421 4.3.2 Too many\r\n", &[], BROKEN),
            ("554 5.3.2 No service\r\n", &[], BROKEN),
            ("220 x\r\n", &[("LHLO localhost\r\n", "")], BROKEN),
            (
                "220 x\r\n",
                &[("LHLO localhost\r\n", "500 5.5.1 What?\r\n")],
                BROKEN,
            ),
            ("220 x\r\n", &[("LHLO localhost\r\n", "250-x\r\n")], BROKEN),
            ("220 x\r\n", &[LHLO, ("DATA\r\n", "")], BROKEN),
            ("220 x\r\n", &[LHLO, ("DATA\r\n", "250 a\r\n")], BROKEN),
            (
                "220 x\r\n",
                &[LHLO, ("DATA\r\n", "250 a\r\n250 b\r\n")],
                BROKEN,
            ),
            (
                "220 x\r\n",
                &[LHLO, ("DATA\r\n", "250 a\r\n250 b\r\n250 c\r\n")],
                BROKEN,
            ),
            ("220 x\r\n", &[LHLO, DATA, (DOT, "")], UNCERTAIN),
            ("220 x\r\n", &[LHLO, DATA, (DOT, "250 Ok")], UNCERTAIN),
            (
                "220 x\r\n",
                &[LHLO, DATA, (DOT, "354 What?\r\n")],
                UNCERTAIN,
            ),
        ] {
            let server = Scripted::new(greeting, steps);
            let (told, _) = server.deliver(&["ann@a.example"], MESSAGE).await;
            assert!(told.starts_with(expected), "{greeting:?} {steps:?}: {told}");
        }
        // While the message is on its way.
        let server = Scripted::new("220 x\r\n", &[LHLO, DATA]);
        let (told, _) = server
            .deliver(&["ann@a.example"], &b"x\n".repeat(1 << 22))
            .await;
        assert!(told.starts_with(BROKEN), "{told}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_waited_for() {
        let server = Scripted::new("", &[]);
        let mut options = server.options(&["ann@a.example"]);
        options.server = Address::Unix(server.folder.path().join("none"));
        let done = told(deliver(&options, MESSAGE, || false).await);
        assert!(done.starts_with("4.4.1 cannot connect to /"), "{done}");
        assert!(done.contains("No such file"), "{done}");
    }

    /// Input that gives some octets, then an error or the end.
    struct Failing(usize);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let some = self.0.min(buffer.remaining());
            if some == 0 {
                return std::task::Poll::Ready(Err(io::ErrorKind::Other.into()));
            }
            self.0 -= some;
            buffer.put_slice(&vec![b'\n'; some]);
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn half_a_message_is_not_ended() {
        for octets in [10, 2 * PIECE_BYTES] {
            let server = Scripted::new("220 x\r\n", &[LHLO, DATA, (DOT, "250 Ok\r\n")]);
            let options = server.options(&["ann@a.example"]);
            let done = if octets > PIECE_BYTES {
                told(deliver(&options, Failing(octets), || false).await)
            } else {
                told(deliver(&options, MESSAGE, || true).await)
            };
            assert!(done.starts_with("4.3.0 "), "{done}");
            let heard = server.heard.join().unwrap();
            assert!(
                heard.contains("DATA\r\n") && !heard.ends_with(DOT),
                "{done}"
            );
        }
        let server = Scripted::new("", &[]);
        for message in [b"" as &[u8], b"From ann Thu Jan  1 00:00:00 1970\n"] {
            let options = server.options(&["ann@a.example"]);
            let done = told(deliver(&options, message, || false).await);
            assert_eq!(done, "4.3.0 no message on standard input");
        }
        let options = server.options(&["ann@a.example"]);
        let done = told(deliver(&options, Failing(10), || false).await);
        assert!(done.starts_with("4.3.0 cannot read the message"), "{done}");
    }

    /// What the server heard behind LHLO.
    async fn heard(arguments: &[&str], message: &[u8]) -> String {
        let server = Scripted::new("220 x\r\n", &[LHLO, DATA, (DOT, "250 Ok\r\n")]);
        let (told, heard) = server.deliver(arguments, message).await;
        assert_eq!(told, "delivered");
        heard.strip_prefix(LHLO.0).unwrap().to_owned()
    }

    #[tokio::test]
    async fn messages_arrive_as_they_are() {
        for (message, expected) in [
            ("a\n.\n..\n", " SIZE=10|a\r\n..\r\n...\r\n"),
            ("a\r\n.\r\n", " SIZE=6|a\r\n..\r\n"),
            ("a", " SIZE=1|a\r\n"),
            ("From x\r\na\n", " SIZE=3|a\r\n"),
            ("From x\nFrom y\n", " SIZE=8|From y\r\n"),
            ("From: x\n", " SIZE=9|From: x\r\n"),
            ("\u{e9}\n", " SIZE=4 BODY=8BITMIME|\u{e9}\r\n"),
        ] {
            let heard = heard(
                &["-f", "bob@b.example", "ann@a.example"],
                message.as_bytes(),
            )
            .await;
            let (parameters, octets) = expected.split_once('|').unwrap();
            assert_eq!(
                heard,
                format!(
                    "MAIL FROM:<bob@b.example>{parameters}\r\nRCPT TO:<ann@a.example>\r\nDATA\r\n{octets}.\r\n"
                ),
                "{message:?}"
            );
        }
        // Longer than what is known beforehand: it may have anything.
        let long = "x".repeat(2 * PIECE_BYTES) + "\n";
        let heard = heard(&["ann@a.example"], long.as_bytes()).await;
        let body = long.trim_end();
        let expected = format!(
            "MAIL FROM:<> BODY=8BITMIME\r\nRCPT TO:<ann@a.example>\r\nDATA\r\n{body}\r\n.\r\n"
        );
        assert!(heard == expected, "{} octets", heard.len());
    }

    #[tokio::test]
    async fn addresses_are_read_as_mtas_write_them() {
        for (arguments, mail, rcpt) in [
            (&["ann"] as &[&str], "<>", "<ann>"),
            (&["-f", "", "ann@a.example"], "<>", "<ann@a.example>"),
            (
                &["-f", "<>", "--", "ann@a.example"],
                "<>",
                "<ann@a.example>",
            ),
            (&["--from", "Mailer-Daemon", "ann"], "<>", "<ann>"),
            (
                &["-f", "<bob@b.example>", "ann"],
                "<bob@b.example>",
                "<ann>",
            ),
            (
                &["-f", "-bob@b.example", "--", "-ann"],
                "<-bob@b.example>",
                "<-ann>",
            ),
            (
                &["-fbob", "\"a b\"@a.example"],
                "<bob>",
                "<\"a b\"@a.example>",
            ),
            (
                &["-fbob", "a\"\\ b@a.example"],
                "<bob>",
                "<\"a\\\"\\\\ b\"@a.example>",
            ),
            (&["-fbob", "a@b@a.example"], "<bob>", "<\"a@b\"@a.example>"),
            (&["a b"], "<>", "<\"a b\">"),
            (
                &["zo\u{eb}@a.example"],
                "<> BODY=8BITMIME SMTPUTF8",
                "<zo\u{eb}@a.example>",
            ),
            (
                &["-f", "zo\u{eb}@a.example", "ann"],
                "<zo\u{eb}@a.example> BODY=8BITMIME SMTPUTF8",
                "<ann>",
            ),
        ] {
            let heard = heard(arguments, b"x\n").await.replace(" SIZE=3", "");
            let heard = heard.strip_suffix("DATA\r\nx\r\n.\r\n").unwrap();
            assert_eq!(heard, format!("MAIL FROM:{mail}\r\nRCPT TO:{rcpt}\r\n"));
        }
    }

    #[tokio::test]
    async fn what_a_server_cannot_take_is_not_sent() {
        for (recipient, message, expected) in [
            (
                "ann",
                "123456789\n",
                "for good: 5.3.4 The message is too big.",
            ),
            (
                "ann",
                "\u{e9}\n",
                "4.4.2 connection to the delivery role failed: server does not offer 8BITMIME",
            ),
            (
                "\u{e9}",
                "x\n",
                "4.4.2 connection to the delivery role failed: server does not offer SMTPUTF8",
            ),
        ] {
            let lhlo = (LHLO.0, "250-x\r\n250 SIZE 10\r\n");
            let server = Scripted::new("220 x\r\n", &[lhlo, ("DATA\r\n", "")]);
            let (told, heard) = server.deliver(&[recipient], message.as_bytes()).await;
            assert_eq!((told.as_str(), heard.as_str()), (expected, LHLO.0));
        }
    }

    #[test]
    fn a_dying_process_is_told_from_a_living_one() {
        for (stat, expected) in [
            ("7 (sh) R 1 7 7 0 -1 4194304 62 0 0 4 4", false),
            ("7 (sh) R 1 7 7 0 -1 4194308 62 0 0 0 0", true),
            ("7 (a) R 4 4 4 4 4 4) R 1 7 7 0 -1 4194304 62", false),
            ("7 (sh) Z 1 7 7 0 -1 4228108 62", true),
            ("", false),
        ] {
            assert_eq!(is_exiting(stat), expected, "{stat}");
        }
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(!is_exiting(&own), "{own}");
    }

    #[test]
    fn a_panic_is_tried_again() {
        let done = contained(|| panic!("on purpose"));
        assert!(told(done).starts_with("4.3.0 stopped"));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let long = "x".repeat(300);
        for arguments in [
            &["deliver", ""] as &[&str],
            &["deliver", "a\nb"],
            &["deliver", "ann@"],
            &["deliver", "ann@a..example"],
            &["deliver", &long],
            &["deliver", "-f", "--", "ann"],
            &["deliver", "--server", "x", "ann"],
        ] {
            assert!(
                Arguments::try_parse_from(arguments).is_err(),
                "{arguments:?}"
            );
        }
    }
}
