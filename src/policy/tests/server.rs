//! A policy server that writes down what it hears and answers, or misbehaves, as a test tells it to.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::LOCATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::tasks::Tasks;

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// 200 with this body.
    Says(&'static str),
    /// Another status, with a body of an accepting answer.
    Status(u16),
    /// Somewhere else.
    Redirects,
    /// 200 with so many octets.
    Huge(usize),
    /// After so long.
    Slow(Duration),
    /// Closes the connection when it has the request.
    Hangs,
    /// Header fields without an end.
    Header,
    /// Not HTTP at all.
    Garbage,
    /// Half of the body, then the end.
    Half,
    /// 200 once on each connection, which it then closes without saying so beforehand.
    Once,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) target: String,
    pub(super) header: Option<String>,
    pub(super) body: Value,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    heard: Mutex<Vec<Heard>>,
    connections: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    pub(super) async fn start(manner: Manner, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                manner: Mutex::new(manner),
                heard: Mutex::default(),
                connections: AtomicUsize::new(0),
                at_once: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            }),
        };
        let (accepting, tasks) = (server.clone(), Tasks::new());
        tasks.clone().background("policy server", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepting.shared.connections.fetch_add(1, Ordering::Relaxed);
                let (server, tls) = (accepting.clone(), tls.clone());
                tasks.background("policy server's connection", async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub(super) fn be(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// All requests so far.
    pub(super) fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The most requests that it had at one time.
    pub(super) fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let manner = *self.shared.manner.lock().unwrap();
        let raw: &[u8] = match manner {
            Manner::Hangs => b"",
            Manner::Header => &[b'x'; 100_000],
            Manner::Garbage => b"220 mx.example.org ESMTP\r\n",
            Manner::Half => b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"stat",
            Manner::Once => b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"status\":0}",
            _ => {
                let service = service_fn(|request| self.answer(request));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                return;
            }
        };
        let mut input = vec![0; 4096];
        let length = stream.read(&mut input).await.unwrap();
        self.shared.heard.lock().unwrap().push(Heard {
            target: String::from_utf8_lossy(&input[..length]).into_owned(),
            header: None,
            body: Value::Null,
        });
        let head = if matches!(manner, Manner::Header) {
            &b"HTTP/1.1 200 OK\r\nX: "[..]
        } else {
            b""
        };
        let _ = stream.write_all(&[head, raw].concat()).await;
        let _ = stream.flush().await;
        if matches!(manner, Manner::Once) {
            // The next request is read, and not answered.
            let _ = stream.read(&mut input).await;
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let shared = &*self.shared;
        let now = shared.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most.fetch_max(now, Ordering::Relaxed);
        let target = request.uri().to_string();
        let header = request.headers().get("x-test");
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        shared.heard.lock().unwrap().push(Heard {
            target,
            header,
            body: serde_json::from_slice(&body).unwrap(),
        });
        let manner = *shared.manner.lock().unwrap();
        let good = || Response::new(Full::from(r#"{"status":0,"msg":""}"#));
        let response = match manner {
            Manner::Says(text) => Response::new(Full::from(text)),
            Manner::Huge(octets) => Response::new(Full::from(vec![b' '; octets])),
            Manner::Status(status) => {
                let mut response = good();
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            }
            Manner::Redirects => {
                let mut response = good();
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                let to = format!("http://{}/elsewhere", self.address);
                response.headers_mut().insert(LOCATION, to.parse().unwrap());
                response
            }
            Manner::Slow(wait) => {
                tokio::time::sleep(wait).await;
                good()
            }
            _ => good(),
        };
        shared.at_once.fetch_sub(1, Ordering::Relaxed);
        Ok(response)
    }
}

/// One try to connect, whoever listens.
pub(super) async fn speaks(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.is_ok()
}
