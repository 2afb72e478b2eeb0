//! The proxy: from an accepted connection to a relayed session.
//!
//! ```text
//! accept ─> [header] ─> greet, talk until credentials ─> authenticate ─> resolve home ─> open link, read the opening
//!             ^                                   |                |               |
//!             └───────────── denied ──────────────┴────────────────┴───────────────┘
//!                                                                                  |
//!                      outcome line <── relay <── early octets <── OK to the client┘
//! ```
//!
//! The proxy knows no protocol: `proto` says what to write and when credentials are there. It never writes an octet of
//! its own once the client has been told OK.
//!
//! Limits: connections in all, and what `defence` allows a network and an account; one deadline and so many octets for
//! everything before the last credentials; deadlines in the directory, the link and for the opening. A session ends when the
//! directory or an administrator says that it may not go on, without a word. A failed login is answered at a time counted from its arrival, whatever
//! was wrong with it, and one before login ends without a word when another needs its place.
//!
//! When something behind us fails the client hears "unavailable" and may try again on the same connection; the log has
//! stage, blame and reason at once. A session that ends leaves exactly one `session ended` line.

mod balancer;
mod login;
mod renewal;
mod settings;
mod talk;

pub use balancer::Balancers;
pub use renewal::keep;
pub use settings::{Cleartext, ListenTls, Listener, ProxyProtocol, Settings};

use std::{
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use bytes::BytesMut;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
};

use crate::{
    defence::{Defence, Guest, Resident, SentAway},
    directory::Directory,
    link::Dialer,
    metrics::Metrics,
    names::{NodeName, Protocol, SessionId},
    net::{Accepted, Places, accept_each, refuse, tls::Tls},
    nodes::Nodes,
    orders::Orders,
    outcome::{Failure, Outcome, Report, Stage},
    policy::Policy,
    proto::{denial::Denial, server::Server, talk::Bye},
    relay::{End, Ended, Relay},
    sessions::Sessions,
    tasks::Tasks,
};

use self::{
    balancer::Introduced,
    login::Denied,
    talk::{Begun, Over, Talk},
};

/// The proxy role. Clones share everything.
///
/// What is built from one configuration serves those who connect while that is in force. A session keeps of it what it needs
/// after login, and no more.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Parts>, Arc<Relays>);

/// What the proxy works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Its limits.
    pub settings: Settings,
    /// TLS towards clients.
    pub tls: Option<Tls>,
    /// What keeps clients from hurting each other.
    pub defence: Defence,
    /// Who is asked before a password is looked at, if anybody.
    pub policy: Option<Policy>,
    /// Who may say who a client is.
    pub balancers: Balancers,
    /// Where accounts are.
    pub directory: Directory,
    /// Where homes are.
    pub nodes: Nodes,
    /// The way there.
    pub dialer: Dialer,
    /// Who is on.
    pub sessions: Sessions,
    /// Who may not be on for now.
    pub orders: Orders,
    /// What moves the bytes of IMAP.
    pub imap_relay: Relay,
    /// What moves the bytes of POP3.
    pub pop3_relay: Relay,
    /// Counters.
    pub metrics: Metrics,
    /// Tasks.
    pub tasks: Tasks,
}

/// What serves a session after login.
#[derive(Debug)]
struct Relays {
    imap: Relay,
    pop3: Relay,
    metrics: Metrics,
    tasks: Tasks,
}

/// A client that is served.
struct Session {
    begun: Begun,
    /// On its own: it is what stays of the login, and of no use before the end.
    report: Box<Report>,
    place: Place<Resident>,
}

/// A connection's place under the limits, counted for as long as it lives.
struct Place<T> {
    open: Open,
    permit: OwnedSemaphorePermit,
    counted: T,
}

/// One more in a gauge.
struct Open(prometheus::IntGauge);

impl Parts {
    /// The same for one of so many workers: with connections to directory, policy server and nodes of its own, those that it has
    /// had `before` where nothing has changed.
    #[must_use]
    pub fn for_worker(&self, workers: usize, before: Option<&Proxy>) -> Self {
        let before = before.map(|proxy| &*proxy.0);
        let directory = before.map(|parts| &parts.directory);
        let directory = directory.filter(|before| before.is_same(&self.directory));
        let policy = self.policy.as_ref().map(|policy| {
            let before = before.and_then(|parts| parts.policy.as_ref());
            let same = before.filter(|before| before.is_same(policy));
            same.cloned().unwrap_or_else(|| policy.for_worker())
        });
        Self {
            policy,
            directory: directory
                .cloned()
                .unwrap_or_else(|| self.directory.for_worker(workers)),
            dialer: self.dialer.for_worker(before.map(|parts| &parts.dialer)),
            ..self.clone()
        }
    }

    /// Notes how long a stage took that is over now.
    fn took(&self, stage: &str, since: Instant) {
        let seconds = &self.metrics.stage_seconds;
        let took = since.elapsed().as_secs_f64();
        seconds.with_label_values(&[stage]).observe(took);
    }
}

impl Proxy {
    /// Puts the proxy together.
    pub fn new(parts: Parts) -> Self {
        let relays = Relays {
            imap: parts.imap_relay.clone(),
            pop3: parts.pop3_relay.clone(),
            metrics: parts.metrics.clone(),
            tasks: parts.tasks.clone(),
        };
        Self(Arc::new(parts), Arc::new(relays))
    }

    /// Serves one listening socket until the process stops: each client by what is then in force for the listener at this address
    /// of the configuration.
    pub async fn listen(
        current: watch::Receiver<Self>,
        socket: TcpListener,
        address: SocketAddr,
        places: Places,
    ) {
        let first = current.borrow().clone();
        let Parts { metrics, tasks, .. } = &*first.0;
        let (metrics, tasks, defence) = (metrics.clone(), tasks.clone(), first.0.defence.clone());
        drop(first);
        let busy = || {
            let proxy = current.borrow().clone();
            let listener = proxy.listener(address);
            listener.map_or_else(Vec::new, |listener| proxy.busy(listener))
        };
        let begin = |accepted| {
            let proxy = current.borrow().clone();
            if let Some(listener) = proxy.listener(address)
                && proxy.may_come(&accepted, listener)
            {
                let tasks = proxy.0.tasks.clone();
                tasks.spawn("login", proxy.serve(accepted, listener, Instant::now()));
            }
        };
        let make_room = || defence.make_room();
        let permits = places.permits();
        accept_each(socket, permits, busy, make_room, metrics, tasks, begin).await;
    }

    /// Another one takes the place of this one: what only this one needs ahead is given up.
    pub fn give_way(&self, to: &Self) {
        self.0.dialer.give_way(&to.0.dialer);
    }

    fn listener(&self, address: SocketAddr) -> Option<Listener> {
        let mut listeners = self.0.settings.listeners.iter();
        listeners.find(|it| it.address == address).copied()
    }

    /// What a client hears that connects when there is no room.
    fn busy(&self, listener: Listener) -> Vec<u8> {
        let mut octets = BytesMut::new();
        if listener.tls != ListenTls::Implicit {
            let channel = talk::channel(listener, None);
            Server::new(listener.protocol, self.0.settings.talk, channel)
                .bye(Bye::Busy, &mut octets);
        }
        octets.to_vec()
    }

    /// One client, from accept to its log line.
    async fn serve(self, accepted: Accepted, listener: Listener, started: Instant) {
        let Accepted {
            mut stream,
            client,
            local,
            permit,
        } = accepted;
        let introduced = self.introduce(&mut stream, client, local, listener).await;
        let Some(introduced) = introduced else {
            return;
        };
        let Ok(guest) = self.0.defence.admit(introduced.client.0.ip()) else {
            refuse(stream, &self.busy(listener)).await;
            return;
        };
        let sent_away = guest.sent_away();
        let mut place = Place::new(&self.0.metrics, permit, guest);
        let Some(mut report) = self.report(introduced, listener, started) else {
            return;
        };
        self.0.took("accept", started);
        let talk = self.log_in(stream, listener, &mut report, &mut place.counted);
        let begun = tokio::select! {
            biased;
            begun = talk => begun,
            // Without a word: it would take the time of which there is none.
            () = sent_away => Err(Over::shed()),
        };
        match begun {
            // The relay runs in a small task of its own: this one's state, talk and directory and link, ends here.
            Ok(begun) => {
                let session = Box::new(Session {
                    begun,
                    report: Box::new(report),
                    place: place.moves_in(),
                });
                let relays = Arc::clone(&self.1);
                self.1.tasks.spawn("session", relays.relay(session));
            }
            Err(over) => self.1.end(&report, over.outcome(), None),
        }
    }

    /// Whether a connection may come from where it does: to a listener that wants a header, from a balancer.
    fn may_come(&self, accepted: &Accepted, listener: Listener) -> bool {
        match listener.proxy_protocol {
            ProxyProtocol::Off => true,
            ProxyProtocol::Required { .. } => self.0.balancers.include(accepted.client.ip()),
        }
    }

    /// Who a connection is from; none when it was to say so and did not, or the process stops.
    async fn introduce(
        &self,
        stream: &mut TcpStream,
        client: SocketAddr,
        local: SocketAddr,
        listener: Listener,
    ) -> Option<Introduced> {
        let ProxyProtocol::Required { balancer_tls } = listener.proxy_protocol else {
            return Some(Introduced::directly(client, local));
        };
        let Parts {
            settings,
            balancers,
            tasks,
            ..
        } = &*self.0;
        let limit = settings.login_timeout;
        tokio::select! {
            introduced = balancers.introduce(stream, client, local, balancer_tls, limit) => introduced,
            () = tasks.stopped() => None,
        }
    }

    /// Talks until a login succeeds, then returns what to relay between.
    async fn log_in(
        &self,
        stream: TcpStream,
        listener: Listener,
        report: &mut Report,
        guest: &mut Guest,
    ) -> Result<Begun, Over> {
        let mut talk = Talk::start(&self.0, stream, listener, report).await?;
        loop {
            let credentials = talk.credentials(report).await?;
            let arrived = tokio::time::Instant::now();
            guest.starts_login().map_err(|SentAway| Over::shed())?;
            match login::open_session(&self.0, &credentials, report, guest).await {
                Ok(opened) => {
                    report.failure = None;
                    self.count_login(report, "ok");
                    let begun = talk.hand_over(opened).await?;
                    self.0.took("login", arrived.into_std());
                    return Ok(begun);
                }
                Err(Denied { failure, after }) => {
                    guest.waits();
                    let denial = failure.denial;
                    self.count_login(report, denial.as_str());
                    let cause = [failure.stage.as_str(), failure.blame.as_str()];
                    let failures = &self.0.metrics.login_failures;
                    failures.with_label_values(&cause).inc();
                    report.failed(failure);
                    tokio::select! {
                        () = tokio::time::sleep_until(arrived + after) => {}
                        () = self.0.tasks.stopped() => {}
                    }
                    talk.deny(denial).await?;
                }
            }
        }
    }

    fn count_login(&self, report: &Report, result: &str) {
        self.0
            .metrics
            .logins
            .with_label_values(&[report.protocol.as_str(), result])
            .inc();
    }

    fn report(
        &self,
        introduced: Introduced,
        listener: Listener,
        started: Instant,
    ) -> Option<Report> {
        let mut octets = [0; 12];
        if let Err(error) = getrandom::fill(&mut octets) {
            tracing::error!(%error, "the kernel gives no randomness, closing a connection");
            return None;
        }
        Some(Report {
            session: SessionId::from_random(octets),
            protocol: listener.protocol,
            client: introduced.client,
            local: introduced.local,
            balancer: introduced.balancer,
            tls: introduced.tls,
            login: None,
            mechanism: None,
            account: None,
            node: None,
            failure: None,
            started,
        })
    }
}

impl Session {
    /// The parts, and nothing left of the box while the session goes on.
    fn unboxed(self: Box<Self>) -> Self {
        *self
    }
}

impl Relays {
    /// Moves bytes until the session is over.
    async fn relay(self: Arc<Self>, session: Box<Session>) {
        let Session {
            begun,
            mut report,
            place,
        } = session.unboxed();
        let Begun {
            client,
            server,
            to_client,
            to_server,
            seated,
        } = begun;
        let protocol = report.protocol.as_str();
        let metrics = &self.metrics;
        let node = report.node.as_ref().map_or("", NodeName::as_str);
        let open = [
            Open::new(metrics.sessions_open.with_label_values(&[protocol])),
            Open::new(
                metrics
                    .node_sessions_open
                    .with_label_values(&[node, protocol]),
            ),
        ];
        let relay = match report.protocol {
            Protocol::Imap => &self.imap,
            Protocol::Pop3 => &self.pop3,
        };
        // Both stay here, and the relay has but a way to ask them.
        let mut cut = pin!(self.tasks.cut_requested());
        let seat = seated.watch.seat();
        let stop = poll_fn(|context| match seat.poll_ended(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => cut.as_mut().poll(context),
        });
        let ended = relay.run(client, server, stop).await;
        let ended = ended.after(to_client, to_server);
        let why = seated.watch.why();
        drop(seated);
        drop(open);
        drop(place);
        if let Some(blame) = ended.blame() {
            report.failure = Some(Failure {
                stage: Stage::Relay,
                blame,
                denial: Denial::Unavailable,
                reason: ended.by.to_string(),
            });
        }
        match why {
            Some(why) if matches!(ended.by, End::Stopped) => {
                self.end(&report, why.outcome(), Some((&ended, why.to_string())));
            }
            _ => {
                let by = ended.by.to_string();
                self.end(&report, ended.outcome(), Some((&ended, by)));
            }
        }
    }

    fn end(&self, report: &Report, outcome: Outcome, ended: Option<(&Ended, String)>) {
        let node = report.node.as_ref().map_or("", NodeName::as_str);
        self.metrics
            .sessions
            .with_label_values(&[report.protocol.as_str(), outcome.as_str(), node])
            .inc();
        match ended {
            Some((ended, why)) => {
                report.ended(outcome, ended.to_client, ended.to_server, Some(&why));
            }
            None => report.ended(outcome, 0, 0, None),
        }
    }
}

impl Place<Guest> {
    fn new(metrics: &Metrics, permit: OwnedSemaphorePermit, guest: Guest) -> Self {
        Self {
            open: Open::new(metrics.connections_open.clone()),
            permit,
            counted: guest,
        }
    }

    fn moves_in(self) -> Place<Resident> {
        Place {
            open: self.open,
            permit: self.permit,
            counted: self.counted.moves_in(),
        }
    }
}

impl Open {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
