//! TLS with clients of rustls, on loopback.

mod clients;
mod keeper;
mod names;
mod tickets;
mod versions;

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, client::Resumption,
    crypto::CryptoProvider,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsConnector;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// An authority, and files that are signed by it.
struct Lab {
    folder: tempfile::TempDir,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// How a negotiation went.
#[derive(Debug)]
struct Met {
    /// The server's certificate, as the client saw it.
    shown: CertificateDer<'static>,
    kind: HandshakeKind,
    agreed: Agreed,
    login: Option<Login>,
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

impl Lab {
    fn new() -> Self {
        let mut authority = params(&[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&key).unwrap().der().clone();
        Self {
            folder: tempfile::tempdir().unwrap(),
            root,
            issuer: Issuer::new(authority, key),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// By another file that takes its place, as certbot and others do.
    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let (new, path) = (self.path("new"), self.path(name));
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.der().clone(), key)
    }

    fn files(&self, name: &str) -> Files {
        Files {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        }
    }

    /// A pair for these DNS names, written.
    fn pair(&self, file: &str, names: &[&str]) -> Files {
        self.put(file, &params(names))
    }

    fn put(&self, file: &str, params: &CertificateParams) -> Files {
        let (certificate, key) = self.sign(params);
        let files = self.files(file);
        self.write(
            &format!("{file}.pem"),
            &pem("CERTIFICATE", &certificate),
            0o644,
        );
        let key = pem("PRIVATE KEY", &key.serialize_der());
        self.write(&format!("{file}.key"), &key, 0o600);
        files
    }

    fn settings(&self) -> Settings {
        Settings {
            certificate: self.pair("default", &["mail.example.org"]),
            others: Vec::new(),
            reload_every: LIMIT,
            ticket_keys: None,
            clients: None,
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }

    /// A client that remembers sessions, of these versions.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(provider(), versions)
    }

    fn client_with(
        &self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }
}

/// One negotiation, and a word both ways, so that the client has the tickets.
async fn meet(
    tls: &Tls,
    oldest: Oldest,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Met, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let ours = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, agreed, login) = tls.accept(oldest, stream, LIMIT).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        io::Result::Ok((agreed, login))
    };
    let theirs = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(name, stream)
            .await?;
        stream.read_u8().await?;
        stream.write_all(b"x").await?;
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().unwrap()[0]
            .clone()
            .into_owned();
        io::Result::Ok((shown, connection.handshake_kind().unwrap()))
    };
    let (ours, theirs) = tokio::join!(ours, theirs);
    match (ours, theirs) {
        (Ok((agreed, login)), Ok((shown, kind))) => Ok(Met {
            shown,
            kind,
            agreed,
            login,
        }),
        (Err(error), _) => Err(format!("server: {error}")),
        (_, Err(error)) => Err(format!("client: {error}")),
    }
}

/// The certificate that a pair of files holds now.
fn held(files: &Files) -> CertificateDer<'static> {
    certificates(&files.certificate).unwrap().remove(0)
}
