//! The delivery role: from the MTA's LMTP to each recipient's home.
//!
//! ```text
//! accept ─> RCPT: who is that, where is it at home? ─> DATA ─┬─ one home ──────> straight through ──────┬─> a reply for each
//!           └─ refused: 550, 450, 451                        └─ several ─> spool ─> all side by side ───┘   recipient, a line
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `conversation` | one connection of an MTA, one message after the other |
//! | `message` | a message's recipients and their homes, until each is told of |
//! | `recipient` | from an address to account and home |
//! | `forward`, `kept` | one message to one home, over links that are kept for the next one |
//! | `report` | what became of it, in the log and in counters |
//!
//! It queues nothing: what can't be delivered now is told to the MTA, whose queue it stays in. A reply is never better than
//! what the node said for that recipient; for what happens when something breaks see `forward`.
//!
//! Limits: networks (`from`) on TCP, a file's mode on a Unix socket; connections; size and recipients of a message; for each
//! message in flight the spool's memory and what sockets hold. A drain refuses the next command and finishes messages.

mod conversation;
mod forward;
mod kept;
mod message;
mod recipient;
mod report;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::{Listener, Settings};

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, watch},
};

use self::{conversation::Conversation, forward::Forwarder};
use crate::{
    directory::Directory,
    link::Dialer,
    metrics::Metrics,
    names::ClientAddr,
    net::{Accepted, Places, Quiet, Stream, accept_each},
    nodes::Nodes,
    orders::Orders,
    proto::lmtp::Cause,
    tasks::{Part, Tasks},
};

/// Pause after an accept error, so that a lasting one does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The delivery role. Clones share everything.
#[derive(Clone, Debug)]
pub struct Delivery(Arc<Inner>);

/// What the delivery role works with.
#[derive(Debug)]
pub struct Parts {
    /// Its limits.
    pub settings: Settings,
    /// Where accounts are.
    pub directory: Directory,
    /// Where homes are.
    pub nodes: Nodes,
    /// The way there.
    pub dialer: Dialer,
    /// Whose mail has to wait.
    pub orders: Orders,
    /// Counters.
    pub metrics: Metrics,
    /// Places for connections, over all listeners.
    pub places: Places,
    /// Tasks.
    pub tasks: Tasks,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    directory: Directory,
    nodes: Nodes,
    orders: Orders,
    forwarder: Forwarder,
    metrics: Metrics,
    tasks: Tasks,
    places: Places,
    quiet: Quiet,
    /// Links that it keeps are closed with it.
    _part: Part,
}

/// A connection's place under the limit, counted for as long as it lives.
struct Place {
    open: prometheus::IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Delivery {
    /// Puts the role together, within a Tokio runtime.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            settings,
            directory,
            nodes,
            dialer,
            orders,
            metrics,
            places,
            tasks,
        } = parts;
        let part = tasks.part();
        let forwarder = Forwarder::new(
            dialer,
            settings.lmtp.hostname.clone(),
            settings.node,
            (settings.kept_links, settings.kept_for),
            part.tasks(),
        );
        Self(Arc::new(Inner {
            directory,
            nodes,
            orders,
            forwarder,
            metrics,
            tasks,
            places,
            quiet: Quiet::default(),
            settings,
            _part: part,
        }))
    }

    /// Serves a TCP listener until the process stops: each MTA by what is then in force.
    pub async fn listen(current: watch::Receiver<Self>, socket: TcpListener) {
        let first = Arc::clone(&current.borrow().0);
        let Inner {
            metrics,
            tasks,
            places,
            ..
        } = &*first;
        let (metrics, tasks, permits) = (metrics.clone(), tasks.clone(), places.permits());
        drop(first);
        let begin = |accepted| {
            let delivery = current.borrow().clone();
            delivery.begin(accepted);
        };
        accept_each(socket, permits, busy, || false, metrics, tasks, begin).await;
    }

    /// Serves a Unix socket until the process stops.
    pub async fn listen_unix(current: watch::Receiver<Self>, socket: UnixListener) {
        let tasks = current.borrow().0.tasks.clone();
        let mut reported = false;
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = tasks.retired() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => Stream::Unix(stream),
                Err(error) => {
                    // Once for each time that it begins.
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(%error, "cannot accept connections of MTAs");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            reported = false;
            let delivery = current.borrow().clone();
            delivery.begin_unix(stream);
        }
    }

    fn begin_unix(&self, stream: Stream) {
        match self.0.places.permits().try_acquire_owned() {
            Ok(permit) => {
                let local = ClientAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
                self.serve(stream, local, permit);
            }
            Err(_) => self.refuse(stream),
        }
    }

    fn begin(&self, accepted: Accepted) {
        let Accepted {
            stream,
            client,
            permit,
            ..
        } = accepted;
        let from = &self.0.settings.from;
        if !from.iter().any(|network| network.contains(&client.ip())) {
            self.shed("address");
            if self.0.quiet.is_news(client.ip()) {
                let reason = "address is not in [delivery] from";
                tracing::warn!(client = %client.ip(), reason, "connection of an MTA not admitted");
            }
            return;
        }
        self.serve(Stream::Tcp(stream), ClientAddr(client), permit);
    }

    fn serve(&self, stream: Stream, client: ClientAddr, permit: OwnedSemaphorePermit) {
        let place = Place::new(&self.0.metrics.delivery_connections_open, permit);
        let delivery = Arc::clone(&self.0);
        let conversation = async move {
            let _place = place;
            if let Some(conversation) = Conversation::new(delivery, stream, client) {
                conversation.run().await;
            }
        };
        self.0.tasks.spawn("delivery", conversation);
    }

    /// Tells a client on a Unix socket that there is no place.
    fn refuse(&self, stream: Stream) {
        self.shed("limit");
        if let Stream::Unix(stream) = stream {
            // A new socket has room for it.
            let _ = stream.try_write(&busy());
        }
    }

    fn shed(&self, reason: &str) {
        let shed = &self.0.metrics.connections_shed;
        shed.with_label_values(&[reason]).inc();
    }
}

/// What a client hears that connects when there is no room.
fn busy() -> Vec<u8> {
    let mut octets = BytesMut::new();
    Cause::Busy.reply().write(&mut octets);
    octets.to_vec()
}

impl Place {
    fn new(open: &prometheus::IntGauge, permit: OwnedSemaphorePermit) -> Self {
        open.inc();
        Self {
            open: open.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}
