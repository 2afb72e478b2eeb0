//! Listening and accepting: loops that no single connection can stop.
//!
//! A connection over the limit, or one that arrives when the process has no descriptor left, is accepted, told so in
//! the caller's words and closed. A burst of errors slows the loop down; it ends only when the process stops.

use std::{
    fs::{self, File, Permissions},
    io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{Patience, tune_socket};
use crate::{metrics::Metrics, tasks::Tasks};

/// Connections that the kernel completes while we are busy.
const BACKLOG: i32 = 4096;
/// Pause after an accept error, so that a lasting one does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that makes room for another has to end.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// How many of them are tried before one is refused: somebody else may take what they leave.
const MAX_ROOM: u32 = 8;
/// Between two log lines about the same lasting trouble.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Where it came from; an IPv4 client on an IPv6 socket has its IPv4 address here.
    pub client: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// Its place under the limit, free again when dropped.
    pub permit: OwnedSemaphorePermit,
}

/// Listens on a TCP address with so many sockets, one for each worker, for runtimes that need not be there yet; the kernel
/// spreads connections over them. What is accepted has all that [`tune`](super::tune) sets, by inheritance (Linux). An IPv6
/// address serves IPv6 only, so that `0.0.0.0` and `[::]` can stand side by side.
///
/// # Errors
///
/// When the address is taken, not ours, or needs a right that we lack.
pub fn listen(
    address: SocketAddr,
    patience: Patience,
    workers: usize,
) -> io::Result<Vec<std::net::TcpListener>> {
    let mut sockets = Vec::with_capacity(workers);
    if workers > 1 {
        // Sockets that share an address share it with those of any other process of the same user, who may not know: only
        // one that does not share finds out.
        let alone = socket(address)?;
        alone.bind(&address.into())?;
        alone.listen(BACKLOG)?;
    }
    let mut bound = address;
    for _ in 0..workers.max(1) {
        let socket = socket(address)?;
        socket.set_reuse_port(workers > 1)?;
        tune_socket(&socket, patience)?;
        socket.bind(&bound.into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        // Port 0 is for the first to choose.
        bound = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Listens on a Unix socket whose file has this mode. A socket file that a dead process left behind is replaced; one that
/// somebody listens on is an error, and so is any other file. It is for the runtime, as TCP's.
///
/// # Errors
///
/// When the path is in use or cannot be made.
pub fn listen_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        // Refused: a file is there and nobody listens on it, which is as true of a file that is no socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file begins with this mode (Linux), less what the umask takes: it is never open to more than it says.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(socket);
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Raises the soft limit on descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// Accepts until the process stops; calls `each` for every connection under the limit, and writes what `busy` says to every other.
/// At the limit, `make_room` says whether another connection is about to end for this one.
///
/// `each` must not block: it spawns.
pub async fn accept_each(
    listener: TcpListener,
    limit: Arc<Semaphore>,
    busy: impl Fn() -> Vec<u8>,
    make_room: impl Fn() -> bool,
    metrics: Metrics,
    tasks: Tasks,
    each: impl Fn(Accepted),
) {
    let mut reserve = Reserve::new();
    let mut trouble = Quiet::default();
    let mut room_made = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.retired() => return,
        };
        let accepted =
            accepted.and_then(|(stream, client)| Ok((stream.local_addr()?, stream, client)));
        if accepted.is_ok() {
            room_made = 0;
        }
        match accepted {
            Ok((local, stream, client)) => match place(&limit, &make_room).await {
                Some(permit) => each(Accepted {
                    stream,
                    client: canonical(client),
                    local: canonical(local),
                    permit,
                }),
                None => {
                    metrics.connections_shed.with_label_values(&["limit"]).inc();
                    if trouble.is_news() {
                        tracing::error!(listener = %local, "connection limit reached, refusing new connections");
                    }
                    refuse(stream, &busy()).await;
                }
            },
            Err(error) if is_descriptor_limit(&error) => {
                if trouble.is_news() {
                    tracing::error!(%error, "out of file descriptors, refusing new connections");
                }
                if room_made < MAX_ROOM && make_room() {
                    room_made += 1;
                    tokio::time::sleep(ROOM_PAUSE).await;
                    continue;
                }
                room_made = 0;
                let shed = &metrics.connections_shed;
                shed.with_label_values(&["descriptors"]).inc();
                reserve.refuse_one(&listener, &busy()).await;
            }
            // The client gave up while it waited: nobody's trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if trouble.is_news() {
                    tracing::error!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a call failed because this process, or the machine, has no file descriptor left.
pub fn is_descriptor_limit(error: &io::Error) -> bool {
    let limits = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    limits
        .iter()
        .any(|limit| error.raw_os_error() == Some(limit.raw_os_error()))
}

/// A place under the limit; one that is being made is waited for.
async fn place(
    limit: &Arc<Semaphore>,
    make_room: impl Fn() -> bool,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(limit).try_acquire_owned() {
        return Some(permit);
    }
    if !make_room() {
        return None;
    }
    let permit = Arc::clone(limit).acquire_owned();
    tokio::time::timeout(ACCEPT_PAUSE, permit).await.ok()?.ok()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Says `busy` as far as the socket takes it at once, and closes.
pub async fn refuse(mut stream: TcpStream, busy: &[u8]) {
    if !busy.is_empty() {
        // The send buffer of a new connection takes a line without waiting.
        let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(busy)).await;
    }
    let _ = tokio::time::timeout(ACCEPT_PAUSE, stream.shutdown()).await;
}

/// A descriptor kept for the moment when there is none left.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Gives the reserve up for as long as it takes to refuse the connection that waits first.
    async fn refuse_one(&mut self, listener: &TcpListener, busy: &[u8]) {
        self.0 = None;
        if let Ok(Ok((stream, _))) = tokio::time::timeout(ACCEPT_PAUSE, listener.accept()).await {
            refuse(stream, busy).await;
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        *self = Self::new();
    }
}

/// Says the same thing at most once a minute.
#[derive(Default)]
struct Quiet(Option<Instant>);

impl Quiet {
    fn is_news(&mut self) -> bool {
        let now = Instant::now();
        let news = self
            .0
            .is_none_or(|last| now.duration_since(last) >= LOG_PAUSE);
        if news {
            self.0 = Some(now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn connections_over_the_limit_are_told_and_closed() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = listen(address, crate::net::CLIENT, 1).unwrap().remove(0);
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted_tx, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let tasks = Tasks::new();
        let limit = Arc::new(Semaphore::new(1));
        let metrics = Metrics::new().unwrap();
        let work = accept_each(
            listener,
            limit,
            || b"busy\r\n".to_vec(),
            || false,
            metrics,
            tasks.clone(),
            move |accepted| {
                accepted_tx.send(accepted).unwrap();
            },
        );
        tasks.spawn("accept", work);
        let _first = TcpStream::connect(address).await.unwrap();
        let held = accepted.recv().await.unwrap();
        let mut text = String::new();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "busy\r\n");
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        assert!(accepted.recv().await.is_some());
        tasks.stop();
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, 0);
    }

    #[test]
    fn an_address_that_several_sockets_share_is_taken_for_everybody_else() {
        let address = "127.0.0.1:0".parse().unwrap();
        let sockets = listen(address, crate::net::CLIENT, 3).unwrap();
        let bound = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|it| it.local_addr().unwrap() == bound));
        for workers in [1, 3] {
            let error = listen(bound, crate::net::CLIENT, workers).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        drop(sockets);
        listen(bound, crate::net::CLIENT, 3).unwrap();
    }

    #[test]
    fn what_is_accepted_has_the_options_of_its_listener() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = listen(address, crate::net::CLIENT, 1).unwrap().remove(0);
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        let patience = crate::net::CLIENT;
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), patience.idle);
        assert_eq!(
            accepted.tcp_keepalive_interval().unwrap(),
            patience.interval
        );
        assert_eq!(
            accepted.tcp_user_timeout().unwrap(),
            Some(patience.unanswered)
        );
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.sock");
        let live = listen_unix(&path, 0o666).unwrap();
        assert_eq!(
            listen_unix(&path, 0o666).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(live);
        listen_unix(&path, 0o666).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "kept").unwrap();
        listen_unix(&path, 0o666).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        listen_unix(&link, 0o666).unwrap_err();
        assert_eq!(fs::read_link(&link).unwrap(), path);
    }
}
