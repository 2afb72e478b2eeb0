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

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    ADMIN_SOCKET_MODE, Administrators, AppError, NO_NODE, Process, Socket, Sockets, Succeeded, Tcp,
    Unix,
    notify::Notifier,
    reload::{self, Reload, Source},
    workers::{self, Workers},
};
use crate::{
    acceptor::{self, Acceptor},
    admin,
    config::{self, Config},
    handover::{self, Handover},
    link::{Admitted, Admitter, Gate, GateParts, Listener},
    mailstore::{self, Mailstore},
    metrics::Metrics,
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
    links: Vec<Socket>,
    monitors: Option<Tcp>,
    administrators: Option<Unix>,
    /// Threads that serve links, each with a socket of every address.
    workers: usize,
}

impl Node {
    /// Binds all listeners.
    pub(super) fn bind(
        config: config::Node,
        admin: admin::Settings,
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
            monitors: admin
                .node
                .map(|address| sockets.tcp(address, net::LINK, 1))
                .transpose()?,
            administrators: admin
                .node_socket
                .map(|path| sockets.unix(&path, ADMIN_SOCKET_MODE))
                .transpose()?,
            config,
        })
    }

    /// Serves until a signal ends the process.
    pub(super) async fn serve(
        self,
        notifier: Notifier,
        source: Source,
        config: Config,
        mut succession: Succeeded,
    ) -> Result<(), AppError> {
        let mut process = Process::new(notifier)?;
        let reload = Reload::new(source, config, process.metrics.clone())?;
        let (metrics, tasks) = (&process.metrics.clone(), &process.tasks.clone());
        let name = self.config.gate.admit.node.clone();
        let gate = Gate::new(gate(&self.config, metrics, tasks)?);
        let services = Services {
            acceptor: first_acceptor(&self.config, &mut succession, &process)?,
            mailstore: mailstore(&self.config, metrics, tasks)?,
        };
        let (current, served) = watch::channel(Served {
            services,
            with_tls: with_tls(&self.config),
        });
        let workers = serve_links(self.links, self.workers, &gate, &served, tasks)?;
        let administrators = self.administrators.map(|socket| Administrators {
            socket,
            requests: None,
            reloads: reload.reloads(),
        });
        let about = admin::About::Node(name.clone());
        process.answer(self.monitors, administrators, about, || {
            std::future::ready(None)
        })?;
        process.show_pulse(Some(&workers));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %name, "node is up");
        let serving = Serving {
            gate,
            current,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        };
        process.run(reload, serving, succession).await
    }
}

/// A node that serves.
struct Serving {
    gate: Gate,
    current: watch::Sender<Served>,
    metrics: Metrics,
    tasks: Tasks,
}

/// What links that are opened now are served by.
#[derive(Clone)]
struct Served {
    services: Services,
    /// Addresses of listeners with TLS.
    with_tls: Vec<SocketAddr>,
}

impl reload::Serving for Serving {
    fn take(&mut self, before: &Config, after: &Config) -> Result<(), AppError> {
        let Some(config) = &after.node else {
            return Err(AppError::Role(NO_NODE));
        };
        let (metrics, tasks) = (&self.metrics, &self.tasks);
        let is_same = |name| before.sections.is_same(&after.sections, name);
        let Services {
            acceptor: acceptor_before,
            mailstore: mailstore_before,
        } = self.current.borrow().services.clone();
        let gate = gate(config, metrics, tasks)?;
        let acceptor = if is_same("acceptor") {
            acceptor_before
        } else {
            acceptor(config, acceptor_before.as_ref(), metrics, tasks)?
        };
        // What an account may ask for stands in [acceptor].
        let is_same = is_same("acceptor") && is_same("mailstore");
        let mailstore = if is_same {
            mailstore_before.clone()
        } else {
            mailstore(config, metrics, tasks)?
        };
        // Nothing fails from here on.
        self.gate.change(gate);
        self.current.send_replace(Served {
            services: Services {
                acceptor,
                mailstore,
            },
            with_tls: with_tls(config),
        });
        if let Some(mailstore) = mailstore_before.filter(|_| !is_same) {
            mailstore.give_way();
        }
        Ok(())
    }
}

fn gate(config: &config::Node, metrics: &Metrics, tasks: &Tasks) -> Result<GateParts, AppError> {
    let gate = &config.gate;
    let admitter = Admitter::new(gate.admit.clone(), metrics.clone());
    Ok(GateParts {
        from: gate.from.clone(),
        peers: gate.peers.clone(),
        admitter: admitter.map_err(AppError::Link)?,
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    })
}

/// With what the process before this one has of sessions.
fn first_acceptor(
    config: &config::Node,
    succession: &mut Succeeded,
    process: &Process,
) -> Result<Option<Acceptor>, AppError> {
    let Some(acceptor::Settings { handover, relay }) = &config.acceptor else {
        return Ok(None);
    };
    let Process { metrics, tasks, .. } = process;
    let theirs = handover::Succession {
        lock: succession.take_lock(),
        is_expected: succession.is_expected(),
    };
    let handover = Handover::new(handover.clone(), theirs, metrics.clone(), tasks);
    let handover = handover.map_err(AppError::Handover)?;
    if succession.is_expected() {
        succession.lock = handover.lock().map_err(AppError::Runtime)?;
    }
    Ok(Some(Acceptor::new(acceptor::Parts {
        handover,
        relay: Relay::new(*relay, metrics.clone(), tasks.clone()),
        tasks: tasks.clone(),
    })))
}

/// With the sessions of the one before; none where there was none.
fn acceptor(
    config: &config::Node,
    before: Option<&Acceptor>,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Acceptor>, AppError> {
    let (Some(settings), Some(before)) = (&config.acceptor, before) else {
        return Ok(None);
    };
    let acceptor::Settings { handover, relay } = settings;
    let handover = before.handover().with(handover.clone(), tasks);
    let same = before.relay().with(*relay);
    Ok(Some(Acceptor::new(acceptor::Parts {
        handover: handover.map_err(AppError::Handover)?,
        relay: same.unwrap_or_else(|| Relay::new(*relay, metrics.clone(), tasks.clone())),
        tasks: tasks.clone(),
    })))
}

fn mailstore(
    config: &config::Node,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Mailstore>, AppError> {
    let Some(settings) = &config.mailstore else {
        return Ok(None);
    };
    let mailstore = Mailstore::new(mailstore::Parts {
        settings: settings.clone(),
        bounds: config.bounds.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    });
    mailstore.map(Some).map_err(AppError::Mailstore)
}

fn with_tls(config: &config::Node) -> Vec<SocketAddr> {
    let listeners = config.gate.listeners.iter();
    let with_tls = listeners.filter_map(|listener| match listener {
        Listener::Tcp { address, tls: true } => Some(*address),
        Listener::Tcp { .. } | Listener::Unix(_) => None,
    });
    with_tls.collect()
}

/// Starts the gate, on workers that serve for as long as they are kept.
fn serve_links(
    mut links: Vec<Socket>,
    workers: usize,
    gate: &Gate,
    served: &watch::Receiver<Served>,
    tasks: &Tasks,
) -> Result<Workers, AppError> {
    let workers = Workers::start(workers).map_err(AppError::Runtime)?;
    for worker in workers.iter() {
        let _entered = worker.enter();
        for socket in &mut links {
            let (gate, current) = (gate.clone(), served.clone());
            let serve = move |admitted, permit| {
                let services = current.borrow().services.clone();
                services.serve(admitted, permit)
            };
            match socket {
                Socket::Tcp(socket) => {
                    let address = socket.address;
                    for socket in socket.listen()? {
                        let current = served.clone();
                        let tls = move || current.borrow().with_tls.contains(&address);
                        let gate = gate.clone().listen(socket, tls, serve.clone());
                        tasks.listen(gate);
                    }
                }
                Socket::Unix(socket) => {
                    let gate = gate.listen_unix(socket.listen()?, serve);
                    tasks.listen(gate);
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
) -> Result<Socket, AppError> {
    match listener {
        Listener::Tcp { address, tls } => {
            let socket = sockets.tcp(*address, net::LINK, workers)?;
            tracing::info!(%address, tls, "listening for links");
            Ok(Socket::Tcp(socket))
        }
        Listener::Unix(path) => {
            let socket = sockets.unix(path, LINK_SOCKET_MODE)?;
            tracing::info!(path = %path.display(), "listening for links");
            Ok(Socket::Unix(socket))
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
