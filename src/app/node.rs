//! The node: links, and what each is opened for: sessions, mail, or both.
//!
//! ```text
//! gate ─> opened for ─┬─ a session ─> acceptor
//!                     ├─ mail ──────> mailstore
//!                     └─ what this node does not serve: refused, with a line that says so
//! ```
//!
//! What may need a right that only root has besides those that the roles need is done in [`Node::bind`], while the process has
//! one thread. On failure: an [`AppError`], and nothing is served.

use std::net::SocketAddr;

use tokio::sync::OwnedSemaphorePermit;

use super::{
    AppError, Process, Socket, Sockets, Succeeded, Tcp,
    workers::{self, Workers},
};
use crate::{
    acceptor::{self, Acceptor},
    config,
    handover::{self, Handover},
    link::{Admitted, Admitter, Gate, GateParts, Listener},
    mailstore::{self, Mailstore},
    net,
    proto::link::{Purpose, Refusal},
    relay::Relay,
    tasks::Tasks,
};

/// Everybody may connect to a Unix socket of links: peers are checked by uid.
const LINK_SOCKET_MODE: u32 = 0o666;

/// A node with its sockets.
pub(super) struct Node {
    config: config::Node,
    /// Each with its TLS.
    links: Vec<(Socket, bool)>,
    admin: Option<Tcp>,
    /// Threads that serve links, each with a socket of every address.
    workers: usize,
}

impl Node {
    /// Binds all listeners.
    pub(super) fn bind(
        config: config::Node,
        admin: Option<SocketAddr>,
        sockets: &mut Sockets<'_>,
    ) -> Result<Self, AppError> {
        net::raise_descriptor_limit();
        let workers = workers::count();
        let listeners = config.gate.listeners.iter();
        let links = listeners.map(|listener| bind(listener, workers, sockets));
        let links = links.collect::<Result<_, _>>()?;
        Ok(Self {
            workers,
            links,
            admin: admin
                .map(|address| sockets.tcp(address, net::LINK, 1))
                .transpose()?,
            config,
        })
    }

    /// Serves until a signal ends the process.
    pub(super) async fn serve(self, mut succession: Succeeded) -> Result<(), AppError> {
        let process = Process::new()?;
        let Process { metrics, tasks, .. } = &process;
        let config::Node {
            gate,
            bounds,
            acceptor,
            mailstore,
            drain_timeout,
        } = self.config;
        let name = gate.admit.node.clone();
        let gate = Gate::new(GateParts {
            from: gate.from,
            peers: gate.peers,
            admitter: Admitter::new(gate.admit, metrics.clone()).map_err(AppError::Link)?,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        });
        let acceptor = match acceptor {
            Some(settings) => Some(Acceptor::new(acceptor::Parts {
                handover: handover(settings.handover, &mut succession, &process)?,
                relay: Relay::new(settings.relay, metrics.clone(), tasks.clone()),
                tasks: tasks.clone(),
            })),
            None => None,
        };
        let mailstore = match mailstore {
            Some(settings) => Some(
                Mailstore::new(mailstore::Parts {
                    settings,
                    bounds,
                    metrics: metrics.clone(),
                    tasks: tasks.clone(),
                })
                .map_err(AppError::Mailstore)?,
            ),
            None => None,
        };
        let services = Services {
            acceptor,
            mailstore,
        };
        let _workers = serve_links(self.links, self.workers, &gate, &services, tasks)?;
        process.answer(self.admin, None, || std::future::ready(None))?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %name, "node is up");
        process.run(drain_timeout, succession).await
    }
}

/// Starts what hands sessions over, with what the process before this one has of them.
fn handover(
    settings: handover::Settings,
    succession: &mut Succeeded,
    process: &Process,
) -> Result<Handover, AppError> {
    let Process { metrics, tasks, .. } = process;
    let theirs = handover::Succession {
        lock: succession.take_lock(),
        is_expected: succession.is_expected(),
    };
    let handover = Handover::new(settings, theirs, metrics.clone(), tasks);
    let handover = handover.map_err(AppError::Handover)?;
    if succession.is_expected() {
        succession.lock = handover.lock().map_err(AppError::Runtime)?;
    }
    Ok(handover)
}

/// Starts the gate, on workers that serve for as long as they are kept.
fn serve_links(
    mut links: Vec<(Socket, bool)>,
    workers: usize,
    gate: &Gate,
    services: &Services,
    tasks: &Tasks,
) -> Result<Workers, AppError> {
    let workers = Workers::start(workers).map_err(AppError::Runtime)?;
    for worker in workers.iter() {
        let _entered = worker.enter();
        for (socket, tls) in &mut links {
            let (gate, services) = (gate.clone(), services.clone());
            let serve = move |admitted, permit| services.clone().serve(admitted, permit);
            match socket {
                Socket::Tcp(socket) => {
                    for socket in socket.listen()? {
                        let gate = gate.clone().listen(socket, *tls, serve.clone());
                        tasks.spawn("listener", gate);
                    }
                }
                Socket::Unix(socket) => {
                    let gate = gate.listen_unix(socket.listen()?, serve);
                    tasks.spawn("listener", gate);
                }
            }
        }
    }
    Ok(workers)
}

fn bind(
    listener: &Listener,
    workers: usize,
    sockets: &mut Sockets<'_>,
) -> Result<(Socket, bool), AppError> {
    match listener {
        Listener::Tcp { address, tls } => {
            let socket = sockets.tcp(*address, net::LINK, workers)?;
            tracing::info!(%address, tls, "listening for links");
            Ok((Socket::Tcp(socket), *tls))
        }
        Listener::Unix(path) => {
            let socket = sockets.unix(path, LINK_SOCKET_MODE)?;
            tracing::info!(path = %path.display(), "listening for links");
            Ok((Socket::Unix(socket), false))
        }
    }
}

/// Whom links are for.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) acceptor: Option<Acceptor>,
    pub(super) mailstore: Option<Mailstore>,
}

impl Services {
    pub(super) async fn serve(self, admitted: Admitted, permit: OwnedSemaphorePermit) {
        let Admitted {
            stream,
            purpose,
            key_id,
            seal,
        } = admitted;
        match (purpose, self.acceptor, self.mailstore) {
            (Purpose::Session(context), Some(acceptor), _) => {
                acceptor.serve(stream, context, key_id, seal, permit).await;
            }
            (Purpose::Mail(context), _, Some(mailstore)) => {
                // Boxed: a link that waits to be opened need not have room for it.
                Box::pin(mailstore.serve(stream, context, key_id, seal, permit)).await;
            }
            (purpose, ..) => {
                let service = purpose.service().as_str();
                tracing::error!(
                    session = %purpose.session(),
                    key = %key_id,
                    service,
                    reason = "service is not served here",
                    "link refused"
                );
                let admitted = Admitted {
                    stream,
                    purpose,
                    key_id,
                    seal,
                };
                admitted.refuse(Refusal::Unavailable).await;
            }
        }
    }
}
