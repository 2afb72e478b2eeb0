//! A mail client that does what it is told, and as little besides as it can.
//!
//! Blocking, one command at a time, for IMAP and POP3, plain or under TLS 1.3. Every handshake is a full one: nothing
//! is resumed, and the client offers one cipher suite (AES-128-GCM) and a share for one key exchange (X25519), so
//! that all servers do the same work. (Only perdition does not know X25519, and asks for P-256, as it must ask most
//! mail clients.) The certificate is not verified, which is no work of theirs. A session that is held costs this
//! process its socket and, under TLS, the state of the connection: what is read goes through one buffer per thread.
//!
//! Nothing waits for longer than [`PATIENCE`]. Whatever was not expected ends the program, with what was said.

use std::{
    cell::RefCell,
    io::{BufRead as _, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    way::{Channel, Protocol, Way},
    world::PASSWORD,
};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// What one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// What one write hands to TLS at most.
const WRITE_BYTES: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A connection.
pub(crate) struct Client {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    protocol: Protocol,
    /// What was received and not looked at.
    pending: Vec<u8>,
}

impl Client {
    /// Connects, negotiates TLS and reads the greeting.
    pub(crate) fn connect(address: SocketAddr, protocol: Protocol, channel: Channel) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut client = Self {
            socket,
            tls: (channel == Channel::Tls).then(|| Box::new(session())),
            protocol,
            pending: Vec::new(),
        };
        if let Some(tls) = &mut client.tls {
            while tls.is_handshaking() {
                tls.complete_io(&mut client.socket)
                    .unwrap_or_else(|error| panic!("no TLS with {address}: {error}"));
            }
        }
        let expected = match protocol {
            Protocol::Imap => "* OK",
            Protocol::Pop3 => "+OK",
        };
        client.expect(expected);
        client
    }

    /// With the password that all have.
    pub(crate) fn log_in(&mut self, user: &str) {
        match self.protocol {
            Protocol::Imap => self.command(&format!("LOGIN {user} {PASSWORD}")),
            Protocol::Pop3 => {
                self.command(&format!("USER {user}"));
                self.command(&format!("PASS {PASSWORD}"));
            }
        }
    }

    pub(crate) fn noop(&mut self) {
        self.command("NOOP");
    }

    /// IMAP: opens the INBOX.
    pub(crate) fn select(&mut self) {
        self.command("SELECT INBOX");
    }

    /// IMAP: puts a message of that many octets, filled up to the end of a line, into the INBOX.
    pub(crate) fn append(&mut self, octets: usize) {
        let mut message = "From: <bench@example.org>\r\nSubject: bench\r\n\r\n".to_owned();
        while message.len() < octets {
            message.push_str(
                "The quick brown fox jumps over the lazy dog, and then does it once more.\r\n",
            );
        }
        self.send(format!("a APPEND INBOX {{{}}}\r\n", message.len()).as_bytes());
        self.expect("+");
        self.send(message.as_bytes());
        self.send(b"\r\n");
        self.tagged();
    }

    /// IMAP: fetches the first message of the open folder that many times, and returns how many octets it counted.
    pub(crate) fn fetch(&mut self, times: usize) -> usize {
        (0..times).map(|_| self.fetch_once()).sum()
    }

    fn fetch_once(&mut self) -> usize {
        self.send(b"a UID FETCH 1 BODY[]\r\n");
        let line = self.line();
        let octets = line
            .strip_suffix('}')
            .and_then(|line| line.rsplit_once('{'))
            .and_then(|(_, octets)| octets.parse().ok())
            .unwrap_or_else(|| panic!("expected a message, got {line:?}"));
        let mut missing: usize = octets;
        let known = missing.min(self.pending.len());
        self.pending.drain(..known);
        missing -= known;
        while missing > 0 {
            let mut rest = Vec::new();
            let received = self.receive(|piece| {
                let counted = missing.min(piece.len());
                missing -= counted;
                rest.extend_from_slice(&piece[counted..]);
            });
            assert!(received, "ended within a message, {missing} octets missing");
            self.pending = rest;
        }
        assert_eq!(self.line(), ")");
        self.tagged();
        octets
    }

    /// Says goodbye and waits until the other side has closed.
    pub(crate) fn log_out(mut self) {
        let command = match self.protocol {
            Protocol::Imap => "a LOGOUT\r\n",
            Protocol::Pop3 => "QUIT\r\n",
        };
        self.send(command.as_bytes());
        let mut said = Vec::new();
        while self.receive(|piece| said.extend_from_slice(piece)) {}
        self.pending.extend_from_slice(&said);
        let said = String::from_utf8_lossy(&self.pending);
        let fine = match self.protocol {
            Protocol::Imap => said.contains("a OK"),
            Protocol::Pop3 => said.starts_with("+OK"),
        };
        assert!(fine, "expected a goodbye, got {said:?}");
    }

    /// Says it, and reads up to the answer that ends it, which must be a good one.
    fn command(&mut self, command: &str) {
        match self.protocol {
            Protocol::Imap => {
                self.send(format!("a {command}\r\n").as_bytes());
                self.tagged();
            }
            Protocol::Pop3 => {
                self.send(format!("{command}\r\n").as_bytes());
                self.expect("+OK");
            }
        }
    }

    /// IMAP: reads up to the tagged answer, which must be OK.
    fn tagged(&mut self) {
        loop {
            let line = self.line();
            if !line.starts_with("* ") {
                let fine = line.starts_with("a OK");
                assert!(fine, "expected OK, got {line:?} from {}", self.server());
                return;
            }
        }
    }

    fn server(&self) -> String {
        self.socket
            .peer_addr()
            .map_or_else(|_| "nobody".to_owned(), |address| address.to_string())
    }

    fn expect(&mut self, start: &str) {
        let line = self.line();
        let fine = line.starts_with(start);
        assert!(
            fine,
            "expected {start}, got {line:?} from {}",
            self.server()
        );
    }

    /// A line without its end.
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.pending.iter().position(|octet| *octet == b'\n') {
                let line = String::from_utf8_lossy(&self.pending[..end])
                    .trim_end()
                    .to_owned();
                self.pending.drain(..=end);
                if self.pending.is_empty() {
                    // A session that is held holds no buffer.
                    self.pending = Vec::new();
                }
                return line;
            }
            let mut received = std::mem::take(&mut self.pending);
            let more = self.receive(|piece| received.extend_from_slice(piece));
            self.pending = received;
            let said = String::from_utf8_lossy(&self.pending);
            assert!(
                more,
                "{} ended the connection behind {said:?}",
                self.server()
            );
        }
    }

    /// Waits for octets and hands them over; false at the end. None may be handed over although it goes on.
    fn receive(&mut self, mut take: impl FnMut(&[u8])) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let Some(tls) = &mut self.tls else {
                let count = read(&mut self.socket, buffer);
                take(&buffer[..count]);
                return count > 0;
            };
            // What came together with the end of the handshake.
            if drain(tls, &mut take) {
                return true;
            }
            let count = read(&mut self.socket, buffer);
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                tls.read_tls(&mut rest).unwrap();
                let state = tls.process_new_packets().unwrap();
                drain(tls, &mut take);
                if state.peer_has_closed() {
                    return false;
                }
            }
            count > 0
        })
    }

    fn send(&mut self, octets: &[u8]) {
        let Some(tls) = &mut self.tls else {
            self.socket.write_all(octets).unwrap();
            return;
        };
        for piece in octets.chunks(WRITE_BYTES) {
            tls.writer().write_all(piece).unwrap();
            while tls.wants_write() {
                tls.write_tls(&mut self.socket).unwrap();
            }
        }
    }
}

fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> usize {
    loop {
        match socket.read(buffer) {
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// Hands over what is decrypted, without copying it; whether there was any.
fn drain(tls: &mut ClientConnection, take: &mut impl FnMut(&[u8])) -> bool {
    let mut any = false;
    let mut reader = tls.reader();
    // An error says that there is none at the moment.
    while let Ok(piece) = reader.fill_buf() {
        let count = piece.len();
        if count == 0 {
            break;
        }
        take(piece);
        reader.consume(count);
        any = true;
    }
    any
}

fn session() -> ClientConnection {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        });
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    let name = ServerName::try_from("bench.example").unwrap();
    ClientConnection::new(CONFIG.clone(), name).unwrap()
}

/// Trusts everybody.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where sessions go and what is spoken there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) channel: Channel,
}

impl Target {
    pub(crate) fn new(way: &Way, protocol: Protocol, channel: Channel) -> Self {
        Self {
            address: way.address(protocol, channel),
            protocol,
            channel,
        }
    }

    pub(crate) fn connect(self) -> Client {
        Client::connect(self.address, self.protocol, self.channel)
    }

    /// A session of that user.
    pub(crate) fn log_in(self, user: &str) -> Client {
        let mut client = self.connect();
        client.log_in(user);
        client
    }

    /// Runs that many sessions, so many side by side: connects, logs in, logs out, waits for the end. The session
    /// numbered `n` is that of `users(n)`. Returns how long each took from the start of connecting until it was
    /// logged in.
    pub(crate) fn logins(
        self,
        users: impl Fn(usize) -> String + Sync,
        count: usize,
        side_by_side: usize,
    ) -> Vec<Duration> {
        self.each(count, side_by_side, |number| {
            let start = Instant::now();
            let client = self.log_in(&users(number));
            let took = start.elapsed();
            client.log_out();
            took
        })
    }

    /// Opens that many sessions, logged in, and keeps them.
    pub(crate) fn hold(
        self,
        users: impl Fn(usize) -> String + Sync,
        count: usize,
        side_by_side: usize,
    ) -> Vec<Client> {
        self.each(count, side_by_side, |number| self.log_in(&users(number)))
    }

    fn each<T: Send>(
        self,
        count: usize,
        side_by_side: usize,
        work: impl Fn(usize) -> T + Sync,
    ) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Vec::with_capacity(count));
        std::thread::scope(|scope| {
            for _ in 0..side_by_side {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        done.push(work(number));
                    }
                    all.lock().unwrap().append(&mut done);
                });
            }
        });
        all.into_inner().unwrap()
    }
}

/// Ends many sessions at once.
pub(crate) fn log_out(clients: Vec<Client>) {
    for client in clients {
        client.log_out();
    }
}
