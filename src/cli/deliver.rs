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
//! "try again": a server that is away or breaks off, a message that can't be read, a mistake on the command line. The
//! one line for standard error begins with an enhanced code (RFC 3463), which Postfix takes before the exit code.
//! The end of the message can't be told from the death of the process that writes it: when our parent is gone by then,
//! the message is not ended. What is left of standard input after a refusal is read and dropped: a writer that meets a closed
//! pipe may take that for the failure. All of it ends within 15 minutes, before an MTA would kill us (Postfix 1000
//! seconds; to Exim a time-out is final). RFC 2033.

use std::{io, os::fd::AsFd as _, time::Duration};

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
    let parent = rustix::process::getppid();
    let is_orphan = || rustix::process::getppid() != parent;
    let done = runtime.block_on(async {
        let input = io::stdin().as_fd().try_clone_to_owned();
        let input = File::from(std::fs::File::from(input.map_err(NotDelivered::Input)?));
        deliver(options, input, is_orphan).await
    });
    // A read that waits for standard input would be waited for.
    runtime.shutdown_background();
    done
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
            Self::Empty | Self::Input(_) | Self::Orphaned | Self::Runtime(_) => "4.3.0".to_owned(),
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
