//! Whether a socket that was given away still lives, without keeping a descriptor of it: a duplicate would hold back the
//! FIN, and the client would wait for a server that has gone.
//!
//! A [`Witness`] remembers what names a socket for good: its cookie, which the kernel gives once, with its addresses (TCP) or
//! inode (Unix). [`Kernel`] asks for it by `sock_diag` (netlink), one exact lookup per socket, no dump. A socket that is
//! found but has no inode belongs to no process any more: its server has closed it and the kernel is seeing the last
//! octets off. That counts as dead; a session whose client has gone but whose server has not noticed does not.
//!
//! A kernel can lack `inet_diag` or `unix_diag`, and says so in the same words as for a socket that is gone. So [`Kernel::probe`]
//! asks for sockets that it holds itself, and where the answer is wrong, inodes are looked up in `/proc/net/tcp`, `tcp6` and
//! `unix` instead: correct as long as the kernel has not counted inodes once around, and slow with very many sockets.
//!
//! It does not say who holds a socket. Where the kernel gives no answer, the socket counts as alive: a session too many is
//! counted rather than one too few. The calls do not wait: netlink answers while it is asked.

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{self, ExtensionFlags, InetRequest, SocketId},
    unix::{self, ShowFlags, UnixRequest},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::net::Stream;

/// Room for any single answer: they have about 100 octets.
const ANSWER_BYTES: usize = 4096;

/// What names one socket for good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Witness {
    cookie: u64,
    inode: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Tcp { local: SocketAddr, peer: SocketAddr },
    Unix,
}

impl Witness {
    /// Remembers a TCP socket.
    pub(super) fn tcp(socket: &TcpStream) -> io::Result<Self> {
        let place = Place::Tcp {
            local: socket.local_addr()?,
            peer: socket.peer_addr()?,
        };
        Self::at(socket, place)
    }

    /// Remembers a Unix socket.
    pub(super) fn unix(socket: &UnixStream) -> io::Result<Self> {
        Self::at(socket, Place::Unix)
    }

    /// Remembers the socket below a link, with TLS or without.
    pub(super) fn link(link: &Stream) -> io::Result<Self> {
        let tcp = match link {
            Stream::Unix(socket) => return Self::at(socket, Place::Unix),
            Stream::Tcp(socket) => socket,
            Stream::TlsClient(tls) => tls.get_ref().0,
            Stream::TlsServer(tls) => tls.get_ref().0,
        };
        let place = Place::Tcp {
            local: tcp.local_addr()?,
            peer: tcp.peer_addr()?,
        };
        Self::at(tcp, place)
    }

    fn at(socket: impl AsFd, place: Place) -> io::Result<Self> {
        Ok(Self {
            cookie: rustix::net::sockopt::socket_cookie(&socket)?,
            inode: rustix::fs::fstat(&socket)?.st_ino,
            place,
        })
    }

    /// Reads what its `Display` writes: cookie, inode, and the place in three words.
    pub(super) fn from_words([cookie, inode, kind, local, peer]: [&str; 5]) -> Option<Self> {
        let place = match kind {
            "tcp" => Place::Tcp {
                local: local.parse().ok()?,
                peer: peer.parse().ok()?,
            },
            "unix" => Place::Unix,
            _ => return None,
        };
        Some(Self {
            cookie: cookie.parse().ok()?,
            inode: inode.parse().ok()?,
            place,
        })
    }

    /// The kernel's name of the socket, never used twice.
    pub(super) const fn cookie(&self) -> u64 {
        self.cookie
    }

    fn request(&self) -> SockDiagMessage {
        match self.place {
            Place::Tcp { local, peer } => SockDiagMessage::InetRequest(InetRequest {
                family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: inet::StateFlags::all(),
                socket_id: SocketId {
                    source_port: local.port(),
                    destination_port: peer.port(),
                    source_address: local.ip(),
                    destination_address: peer.ip(),
                    interface_id: scope(local),
                    cookie: self.cookie.to_ne_bytes(),
                },
            }),
            Place::Unix => SockDiagMessage::UnixRequest(UnixRequest {
                state_flags: unix::StateFlags::all(),
                // The kernel's socket inodes have 32 bits.
                inode: u32::try_from(self.inode).unwrap_or(0),
                show_flags: ShowFlags::empty(),
                cookie: self.cookie.to_ne_bytes(),
            }),
        }
    }

    fn table(&self) -> &'static str {
        match self.place {
            Place::Tcp { local, .. } if matches!(local.ip(), IpAddr::V4(_)) => "/proc/net/tcp",
            Place::Tcp { .. } => "/proc/net/tcp6",
            Place::Unix => "/proc/net/unix",
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.cookie, self.inode)?;
        match self.place {
            Place::Tcp { local, peer } => write!(f, "tcp {local} {peer}"),
            Place::Unix => f.write_str("unix - -"),
        }
    }
}

/// The kernel, as far as it can be asked about sockets.
#[derive(Debug)]
pub(super) struct Kernel {
    netlink: Option<Socket>,
    /// Whether netlink knows TCP sockets.
    tcp: bool,
    /// Whether it knows Unix sockets.
    unix: bool,
}

impl Kernel {
    /// Finds out how this kernel can be asked.
    pub(super) fn probe() -> Self {
        let mut kernel = Self {
            netlink: Socket::new(NETLINK_SOCK_DIAG).ok(),
            tcp: true,
            unix: true,
        };
        kernel.tcp = probe_tcp().is_ok_and(|(socket, _peer)| kernel.knows(Witness::tcp(&socket)));
        kernel.unix =
            UnixStream::pair().is_ok_and(|(socket, _peer)| kernel.knows(Witness::unix(&socket)));
        if !kernel.tcp || !kernel.unix {
            tracing::info!(
                tcp = kernel.tcp,
                unix = kernel.unix,
                "kernel lacks sock_diag, sockets are looked up in /proc/net"
            );
        }
        kernel
    }

    /// The cookies of those sockets that live no more.
    pub(super) fn dead(&self, witnesses: &[Witness]) -> HashSet<u64> {
        let mut tables = Tables::default();
        witnesses
            .iter()
            .filter(|witness| match self.ask(witness) {
                Some(alive) => !alive,
                None => tables.lack(witness),
            })
            .map(Witness::cookie)
            .collect()
    }

    fn knows(&self, witness: io::Result<Witness>) -> bool {
        witness.is_ok_and(|witness| self.ask(&witness) == Some(true))
    }

    /// Asks by netlink; none: that way is closed for this kind of socket.
    fn ask(&self, witness: &Witness) -> Option<bool> {
        let netlink = self.netlink.as_ref()?;
        let open = match witness.place {
            Place::Tcp { .. } => self.tcp,
            Place::Unix => self.unix,
        };
        if !open {
            return None;
        }
        Some(query(netlink, witness).unwrap_or(true))
    }
}

/// Whether the kernel finds the socket and a process still holds it.
fn query(netlink: &Socket, witness: &Witness) -> io::Result<bool> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, witness.request().into());
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    netlink.send(&octets, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let flags = i32::try_from(rustix::net::RecvFlags::DONTWAIT.bits()).unwrap_or(0);
    netlink.recv(&mut answer, flags)?;
    let answer =
        NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
            Ok(found.header.inode != 0)
        }
        NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(_)) => Ok(true),
        NetlinkPayload::Error(error) => match rustix::io::Errno::from_io_error(&error.to_io()) {
            // Nothing there, or something else: a socket with another cookie.
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::STALE) => Ok(false),
            Some(_) | None => Err(error.to_io()),
        },
        _ => Err(io::Error::other("answer is of another kind")),
    }
}

/// The inodes of the tables in /proc/net that were needed, each read once.
#[derive(Default)]
struct Tables(Vec<(&'static str, Option<HashSet<u64>>)>);

impl Tables {
    fn lack(&mut self, witness: &Witness) -> bool {
        let name = witness.table();
        if !self.0.iter().any(|(read, _)| *read == name) {
            let inodes = std::fs::read_to_string(name)
                .ok()
                .map(|table| inodes(name, &table));
            self.0.push((name, inodes));
        }
        self.0
            .iter()
            .filter(|(read, _)| *read == name)
            .any(|(_, inodes)| {
                inodes
                    .as_ref()
                    .is_some_and(|inodes| !inodes.contains(&witness.inode))
            })
    }
}

/// The column of inodes, counted from 0: in `unix` behind Num, RefCount, Protocol, Flags, Type and St; in `tcp` the tenth.
fn inodes(name: &str, table: &str) -> HashSet<u64> {
    let column = if name.ends_with("unix") { 6 } else { 9 };
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().nth(column)?.parse().ok())
        .collect()
}

/// Both ends of a connection with ourselves.
fn probe_tcp() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

/// A link-local address means nothing without its interface.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::tests::soon;

    fn dies(kernel: &Kernel, witness: &Witness) {
        soon("the socket is dead", || {
            let dead = kernel.dead(std::slice::from_ref(witness));
            (dead == HashSet::from([witness.cookie()])).then_some(())
        });
    }

    /// The kernel by netlink, and by /proc/net alone.
    fn kernels() -> [Kernel; 2] {
        let kernel = Kernel::probe();
        assert!(kernel.tcp && kernel.unix, "this kernel has sock_diag");
        let without = Kernel {
            netlink: None,
            tcp: false,
            unix: false,
        };
        [kernel, without]
    }

    fn tcp(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn tcp_sockets_live_until_their_holder_closes_them() {
        for kernel in kernels() {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let (near, far) = tcp(address);
                let witness = Witness::tcp(&near).unwrap();
                assert!(kernel.dead(std::slice::from_ref(&witness)).is_empty());
                // The client is gone; the server has not noticed yet.
                drop(far);
                assert!(kernel.dead(std::slice::from_ref(&witness)).is_empty());
                drop(near);
                dies(&kernel, &witness);
            }
        }
    }

    #[test]
    fn a_socket_that_only_the_kernel_still_has_is_dead() {
        for kernel in kernels() {
            let (near, _far) = tcp("127.0.0.1:0");
            let witness = Witness::tcp(&near).unwrap();
            // Closed here first: it waits in the kernel for the other end.
            drop(near);
            dies(&kernel, &witness);
        }
    }

    #[test]
    fn an_ipv4_client_of_a_socket_for_both_families_is_found() {
        for kernel in kernels() {
            let listener = TcpListener::bind("[::]:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let near = listener.accept().unwrap().0;
            let witness = Witness::tcp(&near).unwrap();
            assert!(kernel.dead(std::slice::from_ref(&witness)).is_empty());
            drop(near);
            dies(&kernel, &witness);
        }
    }

    #[test]
    fn unix_sockets_live_until_their_holder_closes_them() {
        for kernel in kernels() {
            let (near, far) = UnixStream::pair().unwrap();
            let witness = Witness::unix(&near).unwrap();
            drop(far);
            assert!(kernel.dead(std::slice::from_ref(&witness)).is_empty());
            let duplicate = near.try_clone().unwrap();
            drop(near);
            assert!(kernel.dead(std::slice::from_ref(&witness)).is_empty());
            drop(duplicate);
            dies(&kernel, &witness);
        }
    }

    #[test]
    fn another_socket_at_the_same_place_is_another() {
        let [kernel, _] = kernels();
        let (near, _far) = tcp("127.0.0.1:0");
        let mut witness = Witness::tcp(&near).unwrap();
        witness.cookie += 1;
        dies(&kernel, &witness);
    }
}
