//! A client for SMTP and LMTP that does what it is told, one octet at a time if need be.
//!
//! It blocks, with a limit on every read. It reads replies, puts dots where they belong ([`stuffed`]), and knows nothing of
//! what is sensible to say.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// One connection.
#[derive(Debug)]
pub(crate) struct Smtp {
    stream: BufReader<Stream>,
    /// What the server began with.
    pub(crate) greeting: Answer,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One reply.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// Three digits, a blank and the text of the last line; `\n` between lines.
    pub(crate) text: String,
}

impl Answer {
    /// Panics unless it begins so.
    #[track_caller]
    pub(crate) fn says(&self, begin: &str) {
        assert!(
            self.text.starts_with(begin),
            "expected {begin}, got {}",
            self.text
        );
    }
}

// === impl Smtp ===

impl Smtp {
    /// Connects and reads the greeting.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(Stream::Tcp(stream))
    }

    /// The same at a Unix socket.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        let mut client = Self {
            stream: BufReader::new(stream),
            greeting: Answer {
                text: String::new(),
            },
        };
        client.greeting = client.answer();
        client.greeting.says("220 ");
        client
    }

    /// One line and its answer.
    pub(crate) fn command(&mut self, line: &str) -> Answer {
        self.send(format!("{line}\r\n"));
        self.answer()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets.as_ref()).unwrap();
    }

    /// The same to a server that may have closed.
    pub(crate) fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self.stream.get_mut() {
            Stream::Tcp(tcp) => tcp.write_all(octets),
            Stream::Unix(unix) => unix.write_all(octets),
        }
    }

    /// The next reply.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("connection closed")
    }

    /// The same, or nothing when the server has closed.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            match self.stream.read_until(b'\n', &mut line) {
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => line.clear(),
                Err(error) => panic!("no answer: {error}"),
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix("\r\n")?;
            text += line;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(Answer { text });
            }
            text.push('\n');
        }
    }

    /// A transaction up to the go-ahead for the message; the answers to MAIL and each RCPT must be good.
    #[track_caller]
    pub(crate) fn begin(&mut self, sender: &str, recipients: &[&str]) {
        self.command(&format!("MAIL FROM:<{sender}>")).says("250 ");
        for recipient in recipients {
            self.command(&format!("RCPT TO:<{recipient}>")).says("250 ");
        }
        self.command("DATA").says("354 ");
    }

    /// A message by SMTP to recipients that are all taken; the queue's id.
    #[track_caller]
    pub(crate) fn queue(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> String {
        self.begin(sender, recipients);
        self.send(stuffed(message));
        let answer = self.answer();
        answer.says("250 2.0.0 Ok: queued as ");
        answer.text.rsplit(' ').next().unwrap().to_owned()
    }

    /// A message by LMTP to recipients that are all taken; what is said for each.
    #[track_caller]
    pub(crate) fn deliver(
        &mut self,
        sender: &str,
        recipients: &[&str],
        message: &[u8],
    ) -> Vec<Answer> {
        self.begin(sender, recipients);
        self.send(stuffed(message));
        recipients.iter().map(|_| self.answer()).collect()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

/// Connects to an SMTP server and says hello.
pub(crate) fn smtp(address: SocketAddr) -> Smtp {
    let mut client = Smtp::connect(address);
    client.command("EHLO client.example.net").says("250-");
    client
}

/// The same for LMTP.
pub(crate) fn lmtp(address: SocketAddr) -> Smtp {
    let mut client = Smtp::connect(address);
    client.command("LHLO client.example.net").says("250-");
    client
}

/// A message as it is sent after DATA: with dots before dots, and its end.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(message.len() + 1024);
    let mut fresh = true;
    for (index, octet) in message.iter().enumerate() {
        if fresh && *octet == b'.' {
            sent.push(b'.');
        }
        sent.push(*octet);
        fresh = *octet == b'\n' && index > 0 && message[index - 1] == b'\r';
    }
    if !fresh {
        sent.extend(b"\r\n");
    }
    sent.extend(b".\r\n");
    sent
}
