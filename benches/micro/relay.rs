//! The relay between a client and a server over loopback, and nothing else: both have threads of their own.
//!
//! ```text
//! server's thread ──TCP or TLS──> relay, on the thread that is measured ──TCP or TLS──> client's thread
//! ```
//!
//! Small talk is 64 octets from the client and 64 back, the relay asleep in between, so a call is two wake-ups. A large
//! transfer flows from the server in writes of 64 KiB, one MiB a call. Under TLS (1.3, a P-256 key, the suite that
//! rustls prefers) the relay is the client's server and the server's client, as on a link.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use criterion::{SamplingMode, Throughput};
use pigeonair::{
    metrics::Metrics,
    net::{Stream, tls},
    relay::{Relay, Settings},
    tasks::Tasks,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use rustls_pki_types::ServerName;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc as wakes,
};
use tokio_rustls::TlsConnector;

use super::{Criterion, clock::CpuTime};

const WORDS_BYTES: usize = 64;
const WRITE_BYTES: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;
/// In the certificate of both sides.
const NAME: &str = "localhost";
/// For a handshake, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

const WAYS: [(&str, bool, bool); 4] = [
    ("plain", false, false),
    ("TLS to the client", true, false),
    ("TLS to the server", false, true),
    ("TLS to both", true, true),
];

pub(crate) fn run(criterion: &mut Criterion) {
    let lab = Lab::new();
    let mut group = criterion.benchmark_group("relay, 64 octets and back");
    group.sampling_mode(SamplingMode::Flat);
    for (name, client_tls, server_tls) in WAYS {
        let mut session = lab.session(client_tls, server_tls);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| session.measure(Work::Talk(times)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("relay, 1 MiB to the client");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(MIB as u64));
    for (name, client_tls, server_tls) in WAYS {
        let mut session = lab.session(client_tls, server_tls);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| session.measure(Work::Transfer(times)));
        });
    }
    group.finish();
}

// === the relay ===

/// The identity of both sides.
struct Lab {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What the front would negotiate with.
fn config(certificate: tls::Files) -> Arc<ServerConfig> {
    let settings = tls::Settings {
        certificate,
        others: Vec::new(),
        reload_every: PATIENCE,
        ticket_keys: None,
        clients: None,
    };
    let (tls, _keeper) = tls::Tls::load(&settings).unwrap();
    tls.config(tls::Oldest::default())
}

/// A session under way; its relay moves only while it is measured.
struct Session {
    runtime: Runtime,
    peers: [mpsc::Sender<Work>; 2],
    /// The client has had all that it was to receive.
    done: wakes::Receiver<()>,
}

impl Lab {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = tls::Files {
            certificate: folder.path().join("certificate.pem"),
            key: folder.path().join("key.pem"),
        };
        write_pem(&files.certificate, "CERTIFICATE", made.cert.der());
        write_pem(&files.key, "PRIVATE KEY", &made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            client: Arc::new(client),
            server: config(files),
        }
    }

    fn session(&self, client_tls: bool, server_tls: bool) -> Session {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let ((client, ours), (server, theirs)) = (pair(), pair());
        let (all_there, done) = wakes::channel(1);
        let client = {
            let connection = client_tls.then(|| self.client_connection());
            thread_of(move |work| match connection {
                Some(tls) => be_client(StreamOwned::new(tls, client), work, &all_there),
                None => be_client(client, work, &all_there),
            })
        };
        let server = {
            let connection = server_tls.then(|| self.server_connection());
            thread_of(move |work| match connection {
                Some(tls) => be_server(StreamOwned::new(tls, server), work),
                None => be_server(server, work),
            })
        };
        runtime.block_on(async {
            let (ours, theirs) = (adopt(ours), adopt(theirs));
            let ours = if client_tls {
                let (stream, _) = tls::accept(&self.server, ours, PATIENCE).await.unwrap();
                Stream::TlsServer(Box::new(stream))
            } else {
                Stream::Tcp(ours)
            };
            let theirs = if server_tls {
                let connector = TlsConnector::from(Arc::clone(&self.client));
                let stream = connector.connect(server_name(), theirs).await.unwrap();
                Stream::TlsClient(Box::new(stream))
            } else {
                Stream::Tcp(theirs)
            };
            let tasks = Tasks::new();
            let relay = Relay::new(Settings::default(), Metrics::new().unwrap(), tasks.clone());
            let run = relay.run(ours, theirs, std::future::pending());
            tasks.spawn("session", async { drop(run.await) });
        });
        Session {
            runtime,
            peers: [client, server],
            done,
        }
    }

    fn client_connection(&self) -> ClientConnection {
        ClientConnection::new(Arc::clone(&self.client), server_name()).unwrap()
    }

    fn server_connection(&self) -> ServerConnection {
        ServerConnection::new(Arc::clone(&self.server)).unwrap()
    }
}

impl Session {
    /// What the relay's thread uses until that work is done.
    fn measure(&mut self, work: Work) -> Duration {
        let start = CpuTime::now();
        for peer in &self.peers {
            peer.send(work).unwrap();
        }
        self.runtime.block_on(self.done.recv()).unwrap();
        CpuTime::now() - start
    }
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

fn write_pem(path: &Path, label: &str, octets: &[u8]) {
    let text = BASE64.encode(octets);
    let text = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// The end of a connection that the relay has.
fn adopt(stream: TcpStream) -> tokio::net::TcpStream {
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap()
}

// === its peers ===

/// What peers do, so many times.
#[derive(Clone, Copy)]
enum Work {
    Talk(u64),
    Transfer(u64),
}

/// A peer's thread, by what tells it its work. It ends when there will be no more, or no relay.
fn thread_of(peer: impl FnOnce(&mpsc::Receiver<Work>) + Send + 'static) -> mpsc::Sender<Work> {
    let (sender, work) = mpsc::channel();
    thread::spawn(move || peer(&work));
    sender
}

fn be_client(
    mut stream: impl Read + Write,
    work: &mpsc::Receiver<Work>,
    all_there: &wakes::Sender<()>,
) {
    // Under TLS this is the handshake.
    stream.flush().unwrap();
    let (mut words, mut buffer) = ([1; WORDS_BYTES], vec![0; WRITE_BYTES]);
    for work in work {
        match work {
            Work::Talk(times) => (0..times).for_each(|_| {
                stream.write_all(&words).unwrap();
                stream.read_exact(&mut words).unwrap();
            }),
            Work::Transfer(times) => each_write(times, || stream.read_exact(&mut buffer).unwrap()),
        }
        all_there.blocking_send(()).unwrap();
    }
}

fn be_server(mut stream: impl Read + Write, work: &mpsc::Receiver<Work>) {
    stream.flush().unwrap();
    let (mut words, buffer) = ([0; WORDS_BYTES], vec![2; WRITE_BYTES]);
    for work in work {
        match work {
            Work::Talk(times) => (0..times).for_each(|_| {
                stream.read_exact(&mut words).unwrap();
                stream.write_all(&words).unwrap();
            }),
            Work::Transfer(times) => each_write(times, || stream.write_all(&buffer).unwrap()),
        }
    }
}

/// Calls for each write that is needed for so many MiB.
fn each_write(mib: u64, mut call: impl FnMut()) {
    for _ in 0..mib {
        (0..MIB / WRITE_BYTES).for_each(|_| call());
    }
}
