//! HTTP/1.1 towards the policy server, over connections that are kept.
//!
//! A connection serves one request at a time and is kept when the whole answer has been read. One that the server has closed
//! meanwhile costs nothing; one that breaks under a request before there is any answer has that request sent once more, on a new
//! connection, since a server may end an idle connection at any moment.
//!
//! Deadlines, and how many requests there are at one time, are the caller's. Anything but a status of 2xx is a failure, a redirect
//! included. RFC 9110, RFC 9112.

use std::{
    error::Error as _,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::{Header, Settings, Url};
use crate::{
    net::{self, Stream, tls},
    tasks::Tasks,
};

/// Debian's bundle of the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// For how long a connection that nobody uses is kept.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// All header fields of an answer.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The body of one.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Why the policy server cannot be asked as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The authorities' file is not usable.
    #[error(transparent)]
    Authorities(tls::TlsError),
    /// The host of the URL can't be in a certificate.
    #[error("no certificate can be for {0}")]
    Host(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It broke off.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// More than we take.
    #[error("the answer is larger than 64 KiB")]
    Large,
    /// Not in time.
    #[error("no answer in time")]
    Late,
    /// Not what a policy server answers.
    #[error("the answer is malformed")]
    Malformed,
    /// Another status than 2xx.
    #[error("the answer is HTTP status {0}")]
    Status(StatusCode),
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    url: Url,
    header: Option<Header>,
    tls: Option<(TlsClient, ServerName<'static>)>,
    tasks: Tasks,
}

/// rustls's own says nothing of itself.
struct TlsClient(TlsConnector);

/// Keeps them.
#[derive(Debug)]
pub(super) struct Client {
    connector: Arc<Connector>,
    /// The one used last is the last.
    kept: Mutex<Vec<Kept>>,
}

type Sender = SendRequest<Full<Bytes>>;

#[derive(Debug)]
struct Kept {
    sender: Sender,
    since: Instant,
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(settings: &Settings, tasks: Tasks) -> Result<Self, SetupError> {
        let Settings {
            url,
            header,
            ca_file,
            ..
        } = settings;
        let tls = if url.tls {
            let path = ca_file.as_deref().unwrap_or(Path::new(SYSTEM_AUTHORITIES));
            let name = ServerName::try_from(url.host.clone());
            let name = name.map_err(|_| SetupError::Host(url.host.clone()))?;
            Some((tls_client(path)?, name))
        } else {
            None
        };
        Ok(Self {
            url: url.clone(),
            header: header.clone(),
            tls,
            tasks,
        })
    }

    async fn connect(&self) -> Result<Sender, Trouble> {
        let connected = net::connect(&self.url.address).await;
        let stream = match (&self.tls, connected.map_err(Trouble::Connect)?) {
            (Some((client, name)), Stream::Tcp(socket)) => {
                let agreed = client.0.connect(name.clone(), socket).await;
                Stream::TlsClient(Box::new(agreed.map_err(Trouble::Connect)?))
            }
            (_, stream) => stream,
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        self.tasks.background("policy connection", async {
            // How it ends is told to whoever waits for an answer, else it is of no interest.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, target: &PathAndQuery, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(target.clone());
        let headers = request.headers_mut();
        headers.insert(HOST, self.url.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("pigeonair"));
        if let Some(Header { name, value }) = &self.header {
            headers.insert(name.clone(), value.clone());
        }
        request
    }
}

fn tls_client(authorities: &Path) -> Result<TlsClient, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in tls::certificates(authorities).map_err(SetupError::Authorities)? {
        // A bundle may hold certificates of forms that are not supported; those authorities are not trusted.
        let _ = roots.add(certificate);
    }
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsClient(TlsConnector::from(Arc::new(config))))
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClient")
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            kept: Mutex::default(),
        }
    }

    /// Sends one request and reads the whole answer's body.
    pub(super) async fn post(&self, target: &PathAndQuery, body: Bytes) -> Result<Bytes, Trouble> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            let request = self.connector.request(target, body.clone());
            match sender.send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                Err(error) if error.is_parse() => return Err(broken(&error)),
                Err(_) => break,
            }
        }
        let mut sender = self.connector.connect().await?;
        let request = self.connector.request(target, body);
        let response = sender.send_request(request).await;
        self.read(sender, response.map_err(|error| broken(&error))?)
            .await
    }

    async fn read(&self, sender: Sender, response: Response<Incoming>) -> Result<Bytes, Trouble> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(Trouble::Large),
            Err(error) => return Err(Trouble::Broken(error.to_string())),
        };
        self.keep(sender);
        if !status.is_success() {
            return Err(Trouble::Status(status));
        }
        Ok(body)
    }

    /// One that is still open, as far as is known.
    fn take(&self) -> Option<Sender> {
        let mut kept = self.kept();
        forget_old(&mut kept);
        kept.pop().map(|kept| kept.sender)
    }

    fn keep(&self, sender: Sender) {
        let mut kept = self.kept();
        forget_old(&mut kept);
        kept.push(Kept {
            sender,
            since: Instant::now(),
        });
    }

    /// Nothing that it holds can be left half changed by a panic.
    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_old(kept: &mut Vec<Kept>) {
    kept.retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < KEPT_FOR);
}

/// The library's words and those of what lies below.
fn broken(error: &hyper::Error) -> Trouble {
    match error.source() {
        Some(source) => Trouble::Broken(format!("{error}: {source}")),
        None => Trouble::Broken(error.to_string()),
    }
}
