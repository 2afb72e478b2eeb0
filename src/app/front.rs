//! The front: clients of the proxy, MTAs of the delivery role, or both.
//!
//! The two roles share directory, nodes and links. What may need a right that only root has is done in [`Front::bind`],
//! while the process has one thread; serving needs none, nor does what it reads, the certificate first of all. Clients are served by workers, MTAs by the common runtime. On failure: an [`AppError`], and nothing is served.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    AppError, Process, Sandbox, Socket, Sockets, Succeeded, Tcp, Unix,
    memory::Memory,
    workers::{self, Workers},
};
use crate::{
    admin, config,
    defence::Defence,
    delivery::{self, Delivery},
    directory::{self, Directory},
    link::Dialer,
    net::{self, tls::Tls},
    nodes::Nodes,
    policy::Policy,
    proxy::{self, Proxy},
    relay::Relay,
};

/// What names somebody is told to root and to the front's own user.
const ADMIN_SOCKET_MODE: u32 = 0o600;
/// Descriptors that are not connections: directory, pipes, monitors, logs.
const SPARE_DESCRIPTORS: u64 = 256;
/// Descriptors of a worker's own, besides its listeners and the links that it keeps ready.
const WORKER_DESCRIPTORS: u64 = 8;
/// Descriptors of one proxied session: the client's socket and the link's.
const SESSION_DESCRIPTORS: u64 = 2;
/// Descriptors of an MTA's connection: its socket, and the file of a large message. Its links are fewer than those.
const MTA_DESCRIPTORS: u64 = 3;

/// A front that has all that it needs to be root for.
pub(super) struct Front {
    config: config::Front,
    proxy: Vec<Tcp>,
    delivery: Vec<Socket>,
    monitors: Option<Tcp>,
    administrators: Option<Unix>,
    /// Client connections at one time.
    limit: usize,
    /// Threads that serve clients, each with a socket of every address.
    workers: usize,
    memory: Memory,
}

impl Front {
    /// Binds all listeners.
    pub(super) fn bind(
        config: config::Front,
        admin: admin::Settings,
        sockets: &mut Sockets<'_>,
    ) -> Result<Self, AppError> {
        let workers = workers::count();
        let limit = connections(&config, workers, sockets.each());
        let proxy = config.proxy.as_ref();
        let max_memory = proxy.and_then(|settings| settings.defence.max_memory);
        let listeners = proxy.map_or(&[][..], |settings| &settings.listeners);
        let proxy = listeners
            .iter()
            .map(|listener| sockets.tcp(listener.address, net::CLIENT, workers))
            .collect::<Result<_, _>>()?;
        let listeners = config
            .delivery
            .as_ref()
            .map_or(&[][..], |settings| &settings.listeners);
        let delivery = listeners
            .iter()
            .map(|listener| match listener {
                delivery::Listener::Tcp(address) => {
                    sockets.tcp(*address, net::LINK, 1).map(Socket::Tcp)
                }
                delivery::Listener::Unix { path, mode } => {
                    sockets.unix(path, *mode).map(Socket::Unix)
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            proxy,
            delivery,
            monitors: admin
                .front
                .map(|address| sockets.tcp(address, net::LINK, 1))
                .transpose()?,
            administrators: admin
                .front_socket
                .map(|path| sockets.unix(&path, ADMIN_SOCKET_MODE))
                .transpose()?,
            limit,
            workers,
            memory: Memory::new(max_memory),
            config,
        })
    }

    /// What it still needs, beside files that it `reads` again.
    pub(super) fn sandbox(&self, reads: Vec<PathBuf>) -> Sandbox {
        let delivery = self.config.delivery.iter();
        let spools = delivery.map(|settings| settings.spool.folder.clone());
        Sandbox {
            reads,
            writes: spools.collect(),
        }
    }

    /// Serves until a signal ends the process.
    pub(super) async fn serve(self, succession: Succeeded) -> Result<(), AppError> {
        let process = Process::new()?;
        let Process { metrics, tasks, .. } = &process;
        let config::Front {
            proxy,
            delivery,
            directory,
            nodes,
            dial,
        } = self.config;
        let drain = drain_timeout(proxy.as_ref(), delivery.as_ref());
        let directory = Directory::start(directory, metrics.clone(), tasks.clone())
            .map_err(AppError::Directory)?;
        let dialer =
            Dialer::new(&nodes, dial, metrics.clone(), tasks.clone()).map_err(AppError::Link)?;
        let nodes = Nodes::new(&nodes);
        directory.know_homes(homes(nodes.clone()));
        let requests = admin::Requests {
            directory: directory.clone(),
            nodes: nodes.clone(),
        };
        let _workers = match proxy {
            Some(settings) => {
                let parts = proxy::Parts {
                    tls: certificates(&settings, &process)?,
                    defence: defence(&settings, self.memory, &process),
                    policy: policy(&settings, &process)?,
                    balancers: proxy::Balancers::new(&settings.balancers, metrics.clone()),
                    directory: directory.clone(),
                    nodes: nodes.clone(),
                    dialer: dialer.clone(),
                    imap_relay: Relay::new(settings.imap_relay, metrics.clone(), tasks.clone()),
                    pop3_relay: Relay::new(settings.pop3_relay, metrics.clone(), tasks.clone()),
                    metrics: metrics.clone(),
                    tasks: tasks.clone(),
                    settings,
                };
                Some(serve_clients(&parts, self.proxy, self.limit, self.workers)?)
            }
            None => None,
        };
        if let Some(settings) = delivery {
            let parts = delivery::Parts {
                settings,
                directory: directory.clone(),
                nodes,
                dialer,
                metrics: metrics.clone(),
                tasks: tasks.clone(),
            };
            serve_mtas(parts, self.delivery)?;
        }
        let administrators = self.administrators.map(|socket| (socket, requests));
        process.answer(self.monitors, administrators, move || {
            trouble(directory.clone())
        })?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "front is up");
        process.run(drain, succession).await
    }
}

/// What keeps clients from hurting each other, and its eye on memory.
fn defence(settings: &proxy::Settings, memory: Memory, process: &Process) -> Defence {
    let Process { metrics, tasks, .. } = process;
    let defence = Defence::new(settings.defence.clone(), metrics.clone());
    let watch = memory.watch(defence.clone(), metrics.clone(), tasks.clone());
    tasks.background("memory", watch);
    defence
}

/// Which node a value of the home attribute means.
fn homes(nodes: Nodes) -> directory::Homes {
    Box::new(move |word| nodes.meant_by(word).ok().map(|node| node.name.clone()))
}

/// What the proxy shows its clients, if they may have TLS; its files are looked at from now on.
fn certificates(settings: &proxy::Settings, process: &Process) -> Result<Option<Tls>, AppError> {
    let loaded = settings.tls.as_ref().map(Tls::load).transpose();
    let Some((tls, keeper)) = loaded.map_err(AppError::Tls)? else {
        return Ok(None);
    };
    let keep = proxy::keep(keeper, process.metrics.clone());
    process.tasks.background("certificates", keep);
    Ok(Some(tls))
}

/// Who is asked before a password is looked at, if anybody.
fn policy(settings: &proxy::Settings, process: &Process) -> Result<Option<Policy>, AppError> {
    let Process { metrics, tasks, .. } = process;
    let policy = settings
        .policy
        .clone()
        .map(|settings| Policy::new(settings, metrics.clone(), tasks.clone()));
    policy.transpose().map_err(AppError::Policy)
}

/// Starts the proxy role, on workers that serve for as long as they are kept.
fn serve_clients(
    parts: &proxy::Parts,
    mut sockets: Vec<Tcp>,
    limit: usize,
    count: usize,
) -> Result<Workers, AppError> {
    let workers = Workers::start(count).map_err(AppError::Runtime)?;
    let limit = Arc::new(Semaphore::new(limit));
    let listeners = &parts.settings.listeners;
    for worker in workers.iter() {
        let _entered = worker.enter();
        let proxy = Proxy::new(parts.for_worker(count));
        for (socket, listener) in sockets.iter_mut().zip(listeners) {
            for socket in socket.listen()? {
                let serve = proxy.clone();
                let serve = serve.listen(socket, *listener, Arc::clone(&limit));
                parts.tasks.spawn("listener", serve);
            }
        }
    }
    for listener in listeners {
        tracing::info!(address = %listener.address, protocol = listener.protocol.as_str(), "listening");
    }
    Ok(workers)
}

/// Starts the delivery role.
fn serve_mtas(parts: delivery::Parts, sockets: Vec<Socket>) -> Result<(), AppError> {
    let tasks = parts.tasks.clone();
    let delivery = Delivery::new(parts);
    for socket in sockets {
        let delivery = delivery.clone();
        match socket {
            Socket::Tcp(mut socket) => {
                tracing::info!(address = %socket.address, protocol = "lmtp", "listening");
                for socket in socket.listen()? {
                    tasks.spawn("listener", delivery.clone().listen(socket));
                }
            }
            Socket::Unix(socket) => {
                tracing::info!(path = %socket.path.display(), protocol = "lmtp", "listening");
                tasks.spawn("listener", delivery.listen_unix(socket.listen()?));
            }
        }
    }
    Ok(())
}

/// What keeps the front from serving, for monitors.
async fn trouble(directory: Directory) -> Option<String> {
    let ready = directory.is_ready().await;
    (!ready).then(|| "directory is not reachable, and nobody is in memory".to_owned())
}

/// The longer of the roles' own.
fn drain_timeout(
    proxy: Option<&proxy::Settings>,
    delivery: Option<&delivery::Settings>,
) -> Duration {
    let proxy = proxy.map(|settings| settings.drain_timeout);
    let delivery = delivery.map(|settings| settings.drain_timeout);
    proxy.max(delivery).unwrap_or_default()
}

/// How many client connections there may be: what is configured, or what the descriptor limit allows.
/// Of each worker's sockets there are so many descriptors, `each_listener`.
fn connections(config: &config::Front, workers: usize, each_listener: usize) -> usize {
    let descriptors = net::raise_descriptor_limit();
    let Some(proxy) = &config.proxy else {
        return 0;
    };
    let mtas = config
        .delivery
        .as_ref()
        .map_or(0, |settings| settings.max_connections as u64);
    let ready = config.dial.ready.saturating_mul(config.nodes.nodes.len());
    let listeners = proxy.listeners.len().saturating_mul(each_listener);
    let each = (listeners.saturating_add(ready) as u64)
        .saturating_add(WORKER_DESCRIPTORS)
        .saturating_mul(workers as u64);
    let possible = descriptors
        .saturating_sub(SPARE_DESCRIPTORS)
        // Links are kept ready for nodes in use alone, which of many are few.
        .saturating_sub(each.min(descriptors / 4))
        .saturating_sub(mtas.saturating_mul(MTA_DESCRIPTORS))
        / SESSION_DESCRIPTORS;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
    if possible < proxy.max_connections {
        tracing::warn!(
            max_connections = proxy.max_connections,
            descriptors,
            possible,
            "the descriptor limit is too low for max_connections, serving fewer"
        );
    }
    proxy.max_connections.min(possible)
}
