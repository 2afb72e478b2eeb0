//! An IMAP client that does what it is told, one octet at a time if need be.
//!
//! It blocks, with a limit on every read; it understands lines, literals and tags, and nothing of what they mean.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use socket2::{Domain, Socket, Type};

use crate::lab::{Cluster, User};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is between client and front.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    Implicit,
    Plain,
    StartTls,
}

impl Channel {
    pub(crate) const ALL: [Self; 3] = [Self::Implicit, Self::Plain, Self::StartTls];
}

/// How to give credentials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Login,
    Plain,
    PlainInitial,
}

impl Method {
    pub(crate) const ALL: [Self; 3] = [Self::Login, Self::Plain, Self::PlainInitial];
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Taken out only while TLS is put around it.
    stream: Option<Stream>,
    read: Vec<u8>,
    start: usize,
    tags: u32,
    /// The line that the server began with.
    pub(crate) greeting: String,
}

/// What came back for one command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    /// Status and text behind the tag, as `NO [CODE] text`; of a `BYE` when that ended the connection first.
    pub(crate) status: String,
    /// Untagged responses, without literals.
    pub(crate) untagged: Vec<String>,
    /// Literals in the order in which they came.
    pub(crate) literals: Vec<Vec<u8>>,
}

impl Reply {
    /// Panics unless the command was carried out.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.starts_with("OK"), "{self:?}");
        self
    }

    /// Panics unless it was refused with this response code.
    #[track_caller]
    pub(crate) fn no(self, code: &str) -> Self {
        let expected = format!("NO [{code}]");
        assert!(
            self.status.starts_with(&expected),
            "expected {expected}, got {self:?}"
        );
        self
    }
}

// === impl Client ===

impl Client {
    /// Connects, reads the greeting, and starts TLS where that is asked for.
    pub(crate) fn connect(cluster: &Cluster, channel: Channel) -> Self {
        match channel {
            Channel::Implicit => Self::connect_tls(cluster, cluster.imaps()),
            Channel::Plain => Self::connect_to(cluster.imap()),
            Channel::StartTls => {
                let mut client = Self::connect_to(cluster.imap());
                client.command("STARTTLS").ok();
                client.encrypt(cluster);
                client
            }
        }
    }

    /// In plain to any address.
    pub(crate) fn connect_to(address: SocketAddr) -> Self {
        Self::new(Stream::Plain(dial(address)))
    }

    /// In plain to any address, from an address of one's own.
    pub(crate) fn connect_from(source: &str, address: SocketAddr) -> Self {
        Self::new(Stream::Plain(dial_from(source, address)))
    }

    /// With TLS from the first octet to any address.
    pub(crate) fn connect_tls(cluster: &Cluster, address: SocketAddr) -> Self {
        let tcp = dial(address);
        Self::new(Stream::Tls(Box::new(handshake(cluster, tcp))))
    }

    /// In plain over a connection that was made already, and on which something may have been said.
    pub(crate) fn over(tcp: TcpStream) -> Self {
        Self::new(Stream::Plain(tcp))
    }

    /// The same to a server that this configuration trusts.
    pub(crate) fn tls_with(trust: &Arc<ClientConfig>, tcp: TcpStream) -> Self {
        Self::new(Stream::Tls(Box::new(handshake_with(trust, tcp))))
    }

    /// With TLS from now on over a connection that was made already.
    pub(crate) fn tls_over(cluster: &Cluster, tcp: TcpStream) -> Self {
        Self::new(Stream::Tls(Box::new(handshake(cluster, tcp))))
    }

    fn new(stream: Stream) -> Self {
        let mut client = Self {
            stream: Some(stream),
            read: Vec::new(),
            start: 0,
            tags: 0,
            greeting: String::new(),
        };
        client.greeting = client.line();
        client
    }

    /// Puts TLS around the connection; what is still unread then came in clear, and is an error.
    pub(crate) fn encrypt(&mut self, cluster: &Cluster) {
        assert_eq!(
            self.start,
            self.read.len(),
            "octets behind the answer to STARTTLS"
        );
        let Some(Stream::Plain(tcp)) = self.stream.take() else {
            panic!("is encrypted already");
        };
        self.stream = Some(Stream::Tls(Box::new(handshake(cluster, tcp))));
    }

    /// Connects and logs in, or panics.
    pub(crate) fn logged_in(cluster: &Cluster, channel: Channel, user: &User) -> Self {
        let mut client = Self::connect(cluster, channel);
        client
            .login(Method::PlainInitial, &user.name, &user.password)
            .ok();
        client
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets.as_ref()).unwrap();
    }

    /// The same to a server that may have closed.
    pub(crate) fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(octets)?;
        stream.flush()
    }

    /// Ends our direction, and leaves the other one open.
    pub(crate) fn finish_sending(&mut self) {
        match self.stream.as_mut().unwrap() {
            Stream::Plain(tcp) => tcp.shutdown(Shutdown::Write).unwrap(),
            Stream::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush().unwrap();
                tls.sock.shutdown(Shutdown::Write).unwrap();
            }
        }
    }

    /// One command and its reply.
    pub(crate) fn command(&mut self, command: &str) -> Reply {
        let tag = self.next_tag();
        self.send(format!("{tag} {command}\r\n"));
        self.reply(&tag)
    }

    pub(crate) fn next_tag(&mut self) -> String {
        self.tags += 1;
        format!("t{}", self.tags)
    }

    /// Logs in with whatever octets, each in a form that can carry them.
    pub(crate) fn login(&mut self, method: Method, name: &str, password: &str) -> Reply {
        let tag = self.next_tag();
        let response = STANDARD.encode(format!("\0{name}\0{password}"));
        match method {
            Method::Login => {
                self.send(format!("{tag} LOGIN "));
                self.string(name);
                self.send(" ");
                self.string(password);
                self.send("\r\n");
            }
            Method::Plain => {
                self.send(format!("{tag} AUTHENTICATE PLAIN\r\n"));
                let line = self.line();
                if !line.starts_with('+') {
                    return self.reply_from(&tag, line);
                }
                self.send(format!("{response}\r\n"));
            }
            Method::PlainInitial => {
                self.send(format!("{tag} AUTHENTICATE PLAIN {response}\r\n"));
            }
        }
        self.reply(&tag)
    }

    /// A quoted string, or a literal for what can't be quoted.
    fn string(&mut self, value: &str) {
        if value.bytes().all(|octet| (0x20..0x7f).contains(&octet)) {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            self.send(format!("\"{quoted}\""));
        } else {
            self.send(format!("{{{}}}\r\n", value.len()));
            let line = self.line();
            assert!(line.starts_with('+'), "no wish for a literal: {line}");
            self.send(value);
        }
    }

    /// Reads up to the line with this tag, or to a BYE that nothing follows.
    pub(crate) fn reply(&mut self, tag: &str) -> Reply {
        let line = self.line();
        self.reply_from(tag, line)
    }

    fn reply_from(&mut self, tag: &str, mut line: String) -> Reply {
        let mut reply = Reply {
            status: String::new(),
            untagged: Vec::new(),
            literals: Vec::new(),
        };
        let ours = format!("{tag} ");
        loop {
            if let Some(status) = line.strip_prefix(&ours) {
                reply.status = status.to_owned();
                return reply;
            }
            while let Some(length) = literal_length(&line) {
                reply.literals.push(self.octets(length));
                line = line + "\n" + &self.line();
            }
            reply.untagged.push(line.clone());
            line = match self.try_line() {
                Some(line) => line,
                None if line.starts_with("* BYE") => {
                    reply.status = line[2..].to_owned();
                    return reply;
                }
                None => panic!("connection closed after {reply:?}"),
            };
        }
    }

    /// The next line, without its end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.try_line().expect("connection closed")
    }

    /// The same, or nothing when the other side has ended.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        loop {
            let unread = &self.read[self.start..];
            if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.start += end + 2;
                return Some(line);
            }
            if !self.fill() {
                assert_eq!(self.start, self.read.len(), "closed inside a line");
                return None;
            }
        }
    }

    /// So many octets.
    pub(crate) fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() - self.start < count {
            assert!(self.fill(), "closed inside a literal");
        }
        let octets = self.read[self.start..self.start + count].to_vec();
        self.start += count;
        octets
    }

    /// So many octets, or fewer up to the end.
    pub(crate) fn up_to(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() - self.start < count && self.fill() {}
        let end = self.read.len().min(self.start + count);
        let octets = self.read[self.start..end].to_vec();
        self.start = end;
        octets
    }

    /// Everything up to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        self.read[self.start..].to_vec()
    }

    /// Reads what there is; false at the end of the stream.
    fn fill(&mut self) -> bool {
        if self.start == self.read.len() {
            self.read.clear();
            self.start = 0;
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.as_mut().unwrap().read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.read.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) => match error.kind() {
                    // A socket with a limit on reads is not restarted after a signal.
                    io::ErrorKind::Interrupted => (),
                    // An end is an end, with or without close_notify.
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => return false,
                    _ => panic!("nothing to read: {error}"),
                },
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn dial(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// From an address of this machine.
pub(crate) fn dial_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: IpAddr = source.parse().unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    patient(socket.into())
}

fn handshake(cluster: &Cluster, tcp: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    handshake_with(&cluster.trust(), tcp)
}

fn handshake_with(
    trust: &Arc<ClientConfig>,
    mut tcp: TcpStream,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(trust), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).unwrap();
    }
    StreamOwned::new(connection, tcp)
}

/// `{123}` at the end of a line.
fn literal_length(line: &str) -> Option<usize> {
    let digits = line.strip_suffix('}')?.rsplit_once('{')?.1;
    digits.parse().ok()
}
