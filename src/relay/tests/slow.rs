//! Receivers that don't read: the sender is held back, what the relay holds meanwhile is bounded, and nothing is lost.

use std::{net::Shutdown, os::fd::OwnedFd};

use socket2::Socket;

use super::*;

/// For what never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way through the relay.
#[derive(Clone, Copy, Debug)]
struct Path {
    sender: Kind,
    receiver: Kind,
    /// The client is the receiver.
    to_client: bool,
    /// In the pool.
    pipes: usize,
}

impl Path {
    /// All there are: each pair of kinds, in both directions; those that would splice once more with an empty pool.
    fn all() -> impl Iterator<Item = Self> {
        let mut paths = Vec::new();
        for sender in Kind::ALL {
            for receiver in Kind::ALL {
                for to_client in [true, false] {
                    for pipes in [pipes::LIMIT, 0] {
                        paths.push(Self {
                            sender,
                            receiver,
                            to_client,
                            pipes,
                        });
                    }
                }
            }
        }
        let needs_pipes = |path: &Self| path.pipes > 0 && !path.is_plain();
        paths.into_iter().filter(move |path| !needs_pipes(path))
    }

    fn is_plain(self) -> bool {
        self.sender.is_plain() && self.receiver.is_plain()
    }

    fn splices(self) -> bool {
        self.is_plain() && self.pipes > 0
    }

    /// What the relay may hold of what was sent.
    fn most_held(self) -> usize {
        // One pipe, or what one read brought.
        let mut most = if self.splices() { MIB } else { 64 * KIB };
        if !self.sender.is_plain() {
            // What rustls has decrypted of one record, and has read of the next.
            most += 36 * KIB;
        }
        if !self.receiver.is_plain() {
            // What rustls takes before it asks to wait.
            most += 64 * KIB;
        }
        if !self.is_plain() {
            // Octets that TLS adds, which are only estimated here; tickets; a record that is cut in two.
            most += 8 * KIB;
        }
        most
    }

    fn run(self, rig: &Rig, to_receiver: Stream, from_sender: Stream) -> JoinHandle<Ended> {
        let (client, server) = if self.to_client {
            (to_receiver, from_sender)
        } else {
            (from_sender, to_receiver)
        };
        let stop = rig.tasks.cut_requested();
        start(rig.relay.run(client, server, stop))
    }

    /// How many octets the relay holds when all is stuck: of those that were taken from the sender, those that lie in
    /// neither of its sockets. To count these the session is cut, and both are emptied by descriptors that were copied
    /// before.
    async fn held(self) -> usize {
        let rig = Rig::with(Settings::default(), self.pipes);
        let content = Content::new(1);
        let (receiver, to_receiver) = narrow(self.receiver).await;
        let (mut sender, from_sender) = connection(self.sender).await;
        let (mut unread, mut arrived) = (Below::of(&from_sender), Below::of(&receiver));
        let written = Below::of(&to_receiver);
        let taken = Taken::default().until_stuck(&mut sender, &content).await;
        let run = self.run(&rig, to_receiver, from_sender);
        let taken = taken.until_stuck(&mut sender, &content).await;
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());

        written.0.shutdown(Shutdown::Write).unwrap();
        let (closed, unread) = tokio::join!(sender.shutdown(), unread.count());
        closed.unwrap();
        let (unread, arrived) = (unread, arrived.count().await);
        let unread = if self.sender.is_plain() {
            unread
        } else {
            // close_notify is 24 octets.
            let sent = taken.octets + 22 * taken.records;
            taken.octets * (unread - 24) / sent
        };
        let arrived = if self.receiver.is_plain() {
            arrived
        } else {
            arrived * 16384 / 16406
        };
        taken.octets.saturating_sub(unread + arrived)
    }
}

/// The socket below a stream once more.
struct Below(Socket);

impl Below {
    fn of(stream: &Stream) -> Self {
        Self(socket(stream).try_clone().unwrap())
    }

    /// Reads until the end of the stream: how much, TLS or not.
    async fn count(&mut self) -> usize {
        let socket = OwnedFd::from(self.0.try_clone().unwrap());
        // Its calls are the same for any stream socket.
        let mut stream = UnixStream::from_std(socket.into()).unwrap();
        let mut buffer = vec![0; 64 * KIB];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return total,
                length => total += length,
            }
        }
    }
}

#[tokio::test]
async fn what_is_held_for_a_receiver_that_does_not_read_is_bounded() {
    for path in Path::all() {
        let (held, most) = (path.held().await, path.most_held());
        assert!(held <= most, "{path:?}: {held} octets, more than {most}");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    for path in Path::all() {
        let rig = Rig::with(Settings::default(), path.pipes);
        let content = Content::new(2);
        let (mut receiver, to_receiver) = tight(path.receiver).await;
        let (mut sender, from_sender) = narrow(path.sender).await;
        let taken = Taken::default().until_stuck(&mut sender, &content).await;
        let run = path.run(&rig, to_receiver, from_sender);
        let taken = taken.until_stuck(&mut sender, &content).await;

        // All of it arrives while the sender waits for an answer; no end of stream pushes it out.
        let rest = content.octets(taken.octets, 5);
        let mut received = vec![0; taken.octets + rest.len()];
        let read = timeout(PATIENCE, receiver.read_exact(&mut received));
        let ((), read) = tokio::join!(say(&mut sender, &rest), read);
        read.expect("something is missing").unwrap();
        content.check(0, &received);
        sender.shutdown().await.unwrap();
        hear_end(&mut receiver).await;
        receiver.shutdown().await.unwrap();
        let ended = run.await.unwrap();
        let (moved, by) = (ended.to_client + ended.to_server, ended.by);
        assert_eq!(moved, received.len() as u64, "{path:?}");
        let right = if path.to_client {
            matches!(by, End::Server)
        } else {
            matches!(by, End::Client)
        };
        assert!(right, "{path:?}: {by}");
        assert_eq!(rig.octets("splice") > 0, path.splices(), "{path:?}");
    }
}

/// rustls takes octets for a full socket and keeps them; after the last of them only a flush brings them out. How much
/// a socket takes is the kernel's secret, so all sizes are tried around it.
#[tokio::test]
async fn what_tls_keeps_back_goes_out_when_the_source_is_dry() {
    for kib in (16..=288).step_by(16) {
        let rig = Rig::new();
        let (mut client, ours) = narrow(Kind::TlsServer).await;
        let (mut server, theirs) = connection(Kind::Unix).await;
        let run = start(rig.relay.run(ours, theirs, std::future::pending()));
        let (sent, mut received) = (vec![7; kib * 1024], vec![0; kib * 1024]);
        // How much fits before anything is read is the kernel's secret too.
        let read = async {
            settle().await;
            timeout(PATIENCE, client.read_exact(&mut received)).await
        };
        let ((), read) = tokio::join!(say(&mut server, &sent), read);
        read.expect("something is kept back").unwrap();
        drop((client, server));
        run.await.unwrap();
    }
}

#[tokio::test]
async fn a_stalled_transfer_keeps_its_pipe_and_others_copy() {
    let rig = Rig::with(Settings::default(), 1);
    let pipes = &rig.relay.shared.pipes;
    let content = Content::new(5);
    let (client, server, _, stalled) = stalled(&rig, Kind::Unix, Kind::Unix, &content).await;
    assert_eq!(pipes.counts(), (1, 0));
    let spliced = rig.octets("splice");

    let (mut other, mut source, run) = rig.session(Kind::Tcp, Kind::Tcp).await;
    let sent = send(&mut source, &content, 8 * MIB);
    let ((), received) = tokio::join!(sent, receive(&mut other, &content));
    assert_eq!(received, 8 * MIB);
    drop(other);
    run.await.unwrap();
    assert_eq!(rig.octets("splice"), spliced);

    // A pipe with octets in it is never lent again.
    stalled.abort();
    assert!(stalled.await.unwrap_err().is_cancelled());
    assert_eq!(pipes.counts(), (0, 0));
    drop((client, server));
}
