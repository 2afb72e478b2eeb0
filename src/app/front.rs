//! The front: clients of the proxy, MTAs of the delivery role, or both.
//!
//! The two roles share directory, nodes and links. What may need a right that only root has is done in [`Front::bind`],
//! while the process has one thread; serving needs none, nor does what it reads, the certificate first of all. Clients are served by workers, MTAs by the common runtime. On failure: an [`AppError`], and nothing is served.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    ADMIN_SOCKET_MODE, Administrators, AppError, NO_FRONT, Process, Sandbox, Socket, Sockets,
    Succeeded, Tcp, Unix,
    generation::{Before, Generation, Lasting},
    memory::Memory,
    notify::Notifier,
    reload::{self, Reload, Source},
    workers::{self, Workers},
};
use crate::{
    admin,
    config::{self, Config},
    delivery::{self, Delivery},
    directory::Directory,
    net::{self, Places},
    nodes::Nodes,
    orders::{self, Order, Orders, Subject},
    outcome::chain,
    proxy::{self, Proxy},
    sessions::Sessions,
    tasks::Tasks,
};

/// How long a drained node's sessions have to end where the order comes from the file: the command's own default.
const DRAIN_NODE_WITHIN: Duration = Duration::from_secs(60);
/// The same of a drained front, which says no time in the file.
const DRAIN_FRONT_WITHIN: Duration = Duration::from_secs(600);
/// How often a replaced process looks for orders.
const ORDERS_PAUSE: Duration = Duration::from_secs(2);
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
    orders_file: Option<PathBuf>,
    /// Client connections at one time.
    limit: usize,
    /// Descriptors of each of a worker's listeners.
    each_listener: usize,
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
        let each_listener = sockets.each();
        let limit = connections(&config, workers, each_listener);
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
            orders_file: admin.orders_file,
            limit,
            each_listener,
            workers,
            memory: Memory::new(max_memory),
            config,
        })
    }

    /// What it still needs, beside files that it `reads` again: its configuration, and those that it names.
    pub(super) fn sandbox(&self, reads: Vec<PathBuf>) -> Sandbox {
        let delivery = self.config.delivery.iter();
        let spools = delivery.map(|settings| settings.spool.folder.clone());
        let orders = self.orders_file.iter();
        let orders = orders.map(|file| orders::folder(file).to_owned());
        let own = self.administrators.iter();
        let own = own.filter_map(|socket| Some(socket.path.parent()?.to_owned()));
        Sandbox {
            reads,
            writes: spools.chain(orders).collect(),
            binds: own.collect(),
        }
    }

    /// Serves until a signal ends the process.
    pub(super) async fn serve(
        self,
        notifier: Notifier,
        source: Source,
        config: Config,
        succession: Succeeded,
    ) -> Result<(), AppError> {
        let mut process = Process::new(notifier)?;
        let reload = Reload::new(source, config, process.metrics.clone())?;
        let (metrics, tasks) = (&process.metrics.clone(), &process.tasks.clone());
        let lasting = Lasting {
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            places: Places::new(mtas(&self.config), tasks.clone()),
            memory: self.memory,
            sessions: Sessions::new(metrics, tasks.clone()),
            orders: Orders::open(self.orders_file).map_err(AppError::Orders)?,
        };
        let mut generation = Generation::build(&self.config, None, &lasting)?;
        generation.begin(None, metrics);
        let clients = match &generation.proxy {
            Some(parts) => {
                let memory = lasting.memory.clone();
                let watch = memory.watch(parts.defence.clone(), metrics.clone(), tasks.clone());
                tasks.background("memory", watch);
                let clients = Clients::serve(parts, self.proxy, self.limit, self.workers)?;
                Some(clients)
            }
            None => None,
        };
        let mtas = match &generation.delivery {
            Some(delivery) => Some(serve_mtas(delivery, self.delivery, tasks)?),
            None => None,
        };
        let (known, requests) = watch::channel(generation.requests(&lasting));
        let (table, nodes) = watch::channel(generation.nodes.clone());
        let directory = requests.clone();
        let orders = lasting.orders.clone();
        let administrators = self.administrators.map(|socket| Administrators {
            socket,
            requests: Some(requests),
            reloads: reload.reloads(),
        });
        let about = admin::About::Front(nodes);
        process.answer(self.monitors, administrators, about, move || {
            trouble(directory.borrow().directory.clone(), orders.clone())
        })?;
        process.show_pulse(clients.as_ref().map(|clients| &clients.workers));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "front is up");
        let serving = Serving {
            lasting,
            generation,
            clients,
            mtas,
            known,
            table,
            each_listener: self.each_listener,
        };
        Box::pin(process.run(reload, serving, succession)).await
    }
}

/// A front that serves.
struct Serving {
    lasting: Lasting,
    generation: Generation,
    clients: Option<Clients>,
    /// What MTAs that connect now are served by.
    mtas: Option<watch::Sender<Delivery>>,
    /// What administrators ask.
    known: watch::Sender<admin::Requests>,
    /// What the status page shows.
    table: watch::Sender<Nodes>,
    /// Descriptors of each of a worker's listeners.
    each_listener: usize,
}

impl reload::Serving for Serving {
    async fn trouble(&self) -> Option<String> {
        unreachable(&self.generation.directory).await
    }

    fn alone(&mut self) {
        self.hear_orders();
    }

    fn replaced(&mut self) {
        self.lasting.orders.follow();
        self.hear_orders();
        // Commands come here as well, unless this process could not make a socket for them.
        let lasting = self.lasting.clone();
        let follow = async move {
            while lasting.orders.are_kept() {
                sleep(ORDERS_PAUSE).await;
                let read = lasting.orders.clone();
                let new = tokio::task::spawn_blocking(move || read.refresh()).await;
                let new = new.ok().and_then(Result::ok).unwrap_or_default();
                end_ordered(&lasting, new);
            }
        };
        self.lasting
            .tasks
            .background("orders of the successor", follow);
    }

    fn take(&mut self, before: &Config, after: &Config) -> Result<(), AppError> {
        let Some(config) = &after.front else {
            return Err(AppError::Role(NO_FRONT));
        };
        let Lasting {
            metrics,
            places,
            memory,
            ..
        } = &self.lasting;
        let earlier = Before {
            generation: &self.generation,
            sections: [&before.sections, &after.sections],
        };
        let mut next = Generation::build(config, Some(earlier), &self.lasting)?;
        // Nothing fails from here on.
        next.begin(Some(&self.generation), metrics);
        places.set(mtas(config));
        if let (Some(clients), Some(parts)) = (&self.clients, &next.proxy) {
            memory.limit(parts.settings.defence.max_memory);
            clients.change(
                parts,
                connections(config, clients.current.len(), self.each_listener),
            );
        }
        if let (Some(mtas), Some(delivery)) = (&self.mtas, &next.delivery) {
            mtas.send_replace(delivery.clone());
        }
        self.known.send_replace(next.requests(&self.lasting));
        self.table.send_replace(next.nodes.clone());
        self.generation = next;
        Ok(())
    }
}

impl Serving {
    /// What the other process was told while one took the other's place.
    fn hear_orders(&self) {
        match self.lasting.orders.refresh() {
            Ok(new) => end_ordered(&self.lasting, new),
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(
                    reason,
                    "orders that were given during the upgrade are not known"
                );
            }
        }
    }
}

impl Generation {
    fn requests(&self, lasting: &Lasting) -> admin::Requests {
        admin::Requests {
            directory: self.directory.clone(),
            nodes: self.nodes.clone(),
            sessions: lasting.sessions.clone(),
            orders: lasting.orders.clone(),
            tasks: lasting.tasks.clone(),
        }
    }
}

/// The proxy role, on workers that serve for as long as they are kept.
struct Clients {
    workers: Workers,
    /// By worker: what clients that connect now are served by.
    current: Vec<watch::Sender<Proxy>>,
    places: Places,
}

impl Clients {
    fn serve(
        parts: &proxy::Parts,
        mut sockets: Vec<Tcp>,
        limit: usize,
        count: usize,
    ) -> Result<Self, AppError> {
        let workers = Workers::start(count).map_err(AppError::Runtime)?;
        let places = Places::new(limit, parts.tasks.clone());
        show_limit(parts, limit);
        let mut current = Vec::with_capacity(count);
        for worker in workers.iter() {
            let _entered = worker.enter();
            let (sender, proxy) = watch::channel(Proxy::new(parts.for_worker(count, None)));
            for socket in &mut sockets {
                let address = socket.address;
                for socket in socket.listen()? {
                    let (proxy, places) = (proxy.clone(), places.clone());
                    let serve = Proxy::listen(proxy, socket, address, places);
                    parts.tasks.listen(serve);
                }
            }
            current.push(sender);
        }
        for listener in &parts.settings.listeners {
            tracing::info!(address = %listener.address, protocol = listener.protocol.as_str(), "listening");
        }
        Ok(Self {
            workers,
            current,
            places,
        })
    }

    /// Serves clients that connect from now on by these parts.
    fn change(&self, parts: &proxy::Parts, limit: usize) {
        let count = self.current.len();
        for (worker, current) in self.workers.iter().zip(&self.current) {
            let _entered = worker.enter();
            let before = current.borrow().clone();
            let after = Proxy::new(parts.for_worker(count, Some(&before)));
            current.send_replace(after.clone());
            before.give_way(&after);
        }
        self.places.set(limit);
        show_limit(parts, limit);
    }
}

fn show_limit(parts: &proxy::Parts, limit: usize) {
    let shown = i64::try_from(limit).unwrap_or(i64::MAX);
    parts.metrics.connections_limit.set(shown);
}

/// Ends the sessions that began before this process knew of an order that they stand against.
fn end_ordered(lasting: &Lasting, new: Vec<(Subject, Order)>) {
    let Lasting {
        orders, sessions, ..
    } = lasting;
    for (subject, order) in new {
        if order.keeps_sessions {
            continue;
        }
        let within = match subject {
            Subject::Account(_) => Duration::ZERO,
            Subject::Node(_) => DRAIN_NODE_WITHIN,
            Subject::Front => DRAIN_FRONT_WITHIN,
        };
        let (seats, why) = (sessions.all(&subject.sessions()), subject.ending());
        tracing::info!(
            sessions = seats.len(),
            why = why.as_str(),
            "ending sessions by an order that another process was given"
        );
        let orders = orders.clone();
        let is_wanted = move || orders.has(&subject);
        if let Err(error) = sessions.end(seats, why, within, is_wanted) {
            tracing::error!(%error, "sessions go on against an order");
        }
    }
}

/// Starts the delivery role.
fn serve_mtas(
    delivery: &Delivery,
    sockets: Vec<Socket>,
    tasks: &Tasks,
) -> Result<watch::Sender<Delivery>, AppError> {
    let (sender, current) = watch::channel(delivery.clone());
    for socket in sockets {
        let current = current.clone();
        match socket {
            Socket::Tcp(mut socket) => {
                tracing::info!(address = %socket.address, protocol = "lmtp", "listening");
                for socket in socket.listen()? {
                    let listener = Delivery::listen(current.clone(), socket);
                    tasks.listen(listener);
                }
            }
            Socket::Unix(socket) => {
                tracing::info!(path = %socket.path.display(), protocol = "lmtp", "listening");
                let listener = Delivery::listen_unix(current, socket.listen()?);
                tasks.listen(listener);
            }
        }
    }
    Ok(sender)
}

/// What keeps the front from serving, for monitors.
async fn trouble(directory: Directory, orders: Orders) -> Option<String> {
    if orders.has(&Subject::Front) {
        return Some("drained".to_owned());
    }
    unreachable(&directory).await
}

async fn unreachable(directory: &Directory) -> Option<String> {
    let ready = directory.is_ready().await;
    (!ready).then(|| "directory is not reachable, and nobody is in memory".to_owned())
}

/// How many connections of MTAs there may be.
fn mtas(config: &config::Front) -> usize {
    let delivery = config.delivery.as_ref();
    delivery.map_or(0, |settings| settings.max_connections)
}

/// How many client connections there may be: what is configured, or what the descriptor limit allows where each of a worker's
/// listeners has so many descriptors.
fn connections(config: &config::Front, workers: usize, each_listener: usize) -> usize {
    let descriptors = net::raise_descriptor_limit();
    let Some(proxy) = &config.proxy else {
        return 0;
    };
    let mtas = mtas(config) as u64;
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
