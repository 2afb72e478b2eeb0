//! The front's half: which links are opened how, and how often that is tried.
//!
//! ```text
//! open --down--> refused at once
//!    \--pool has one--> [prove,] open on it -- died before the first octet of the verdict --\
//!    \--no--> connect, [TLS], prove ---------> open <------------- once, on a new link -----/
//! ```
//!
//! Fresh links are dialled in turn, so many at one time. What comes after an `open` is tried a second time only if nothing at
//! all had come back. On failure a [`LinkError`].

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, OnceLock, atomic::Ordering},
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    DialSettings,
    dial::Dial,
    error::LinkError,
    health::{Errand, Health, NodeHealth},
    pool::Taken,
    prober::{Accounts, Prober},
    tls::{self, SetupError},
};
use crate::{
    metrics::Metrics,
    names::NodeName,
    net::Stream,
    nodes::{self, Node},
    proto::link::{Context, MailContext, Opening, context::OpenBody},
    tasks::Tasks,
};

/// Opens links to nodes. Clones share the links made ahead, and belong to one worker.
#[derive(Clone, Debug)]
pub struct Dialer {
    dials: Arc<HashMap<NodeName, Arc<Dial>>>,
    tasks: Tasks,
    /// Who the probers log in as.
    accounts: Arc<OnceLock<Accounts>>,
    /// Ends the probers with the last worker.
    probers: Arc<DropGuard>,
}

/// A link whose session was accepted.
#[derive(Debug)]
pub struct Opened {
    /// The next octet is the real server's.
    pub stream: Stream,
    /// What the real server says first.
    pub opening: Opening,
}

// === impl Dialer ===

impl Dialer {
    /// A dialer for the nodes of a table, which are probed from now on, within a Tokio runtime. No link is made ahead before a
    /// node's first session.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn new(
        nodes: &nodes::Settings,
        settings: DialSettings,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, SetupError> {
        let dialer = Self::after(None, nodes, settings, metrics, tasks)?;
        dialer.begin(None);
        Ok(dialer)
    }

    /// A dialer that takes another one's place if there is one: nodes that are reached as before keep their links, and what is known of
    /// their health. It does nothing before it [begins](Self::begin).
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn after(
        before: Option<&Self>,
        nodes: &nodes::Settings,
        settings: DialSettings,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, SetupError> {
        let tls = Arc::new(tls::client()?);
        let dials = nodes.nodes.iter().map(|node| {
            let known = before.and_then(|before| before.dials.get(&node.name));
            let dial = match known {
                Some(known) if known.serves(node, settings) => Arc::clone(known),
                known => {
                    let same_node = known.filter(|known| known.node.is_same(node));
                    let health = same_node.map_or_else(
                        || Arc::new(Health::new(&node.name, settings.health, &metrics)),
                        |known| Arc::clone(&known.health),
                    );
                    let (tls, metrics) = (Arc::clone(&tls), metrics.clone());
                    Arc::new(Dial::new(node.clone(), settings, tls, metrics, health))
                }
            };
            (node.name.clone(), dial)
        });
        Ok(Self {
            dials: Arc::new(dials.collect()),
            tasks,
            accounts: Arc::default(),
            probers: Arc::new(CancellationToken::new().drop_guard()),
        })
    }

    /// Probes its nodes from now on, in place of another one if there is one.
    pub fn begin(&self, before: Option<&Self>) {
        if let Some(before) = before {
            before.probers.token().cancel();
            for (name, dial) in before.dials.iter() {
                let next = self.dials.get(name);
                if !next.is_some_and(|next| Arc::ptr_eq(&next.health, &dial.health)) {
                    dial.health.forget();
                }
            }
            before.give_way(self);
        }
        for dial in self.dials.values() {
            dial.health.adopt(dial.settings.health);
            let ended = self.probers.token().clone();
            let prober = Prober::new(Arc::clone(dial), Arc::clone(&self.accounts));
            self.tasks.background("node-prober", async move {
                tokio::select! {
                    () = prober.run() => {}
                    () = ended.cancelled() => {}
                }
            });
        }
    }

    /// Lets the probers log in, where a node has an account for that.
    pub fn know_accounts(&self, accounts: Accounts) {
        // Whoever comes second has the same.
        let _ = self.accounts.set(accounts);
    }

    /// How each node does, by name.
    pub fn health(&self) -> Vec<NodeHealth> {
        let dials = self.dials.values();
        let mut all: Vec<_> = dials.map(|dial| dial.health.report()).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Why no mail is brought to a node, while it is down.
    pub fn refusal_of_mail(&self, node: &NodeName) -> Option<LinkError> {
        self.dials.get(node)?.health.refusal(Errand::Mail)
    }

    /// The same for another worker: with links of its own made ahead, those that it has had `before` among them.
    #[must_use]
    pub fn for_worker(&self, before: Option<&Self>) -> Self {
        let dials = self.dials.iter().map(|(name, dial)| {
            let known = before.and_then(|before| before.dials.get(name));
            let same = known.filter(|known| known.is_copy_of(dial)).cloned();
            let dial = same.unwrap_or_else(|| Arc::new(dial.for_worker()));
            (name.clone(), dial)
        });
        Self {
            dials: Arc::new(dials.collect()),
            ..self.clone()
        }
    }

    /// Drops the links made ahead that a following one has not taken: nodes that are gone, or are reached otherwise.
    pub fn give_way(&self, to: &Self) {
        for (name, dial) in self.dials.iter() {
            let next = to.dials.get(name);
            if !next.is_some_and(|next| Arc::ptr_eq(next, dial)) {
                dial.pool.close();
            }
        }
    }

    /// Opens a link to `node` for the session of `context`.
    pub async fn open(&self, node: &Node, context: &Context) -> Result<Opened, LinkError> {
        let body = OpenBody::session(context).map_err(LinkError::Context)?;
        self.open_for(node, &body, Errand::Login).await
    }

    /// Opens a link to `node` for mail: the next octet is the node's, in LMTP.
    ///
    /// # Errors
    ///
    /// When there is no link, or the node does not begin with LMTP.
    pub async fn open_mail(&self, node: &Node, context: &MailContext) -> Result<Stream, LinkError> {
        let body = OpenBody::mail(context);
        let opened = self.open_for(node, &body, Errand::Mail).await?;
        match opened.opening {
            Opening::Silent => Ok(opened.stream),
            _ => Err(LinkError::Opening),
        }
    }

    /// Opens a link, unless it is known to be in vain; what comes of it is known afterwards.
    async fn open_for(
        &self,
        node: &Node,
        body: &OpenBody,
        errand: Errand,
    ) -> Result<Opened, LinkError> {
        let dial = self
            .dials
            .get(&node.name)
            .ok_or_else(|| LinkError::UnknownNode(node.name.clone()))?;
        let health = &dial.health;
        let _place = if health.is_calm() {
            None
        } else {
            Box::pin(health.admit(errand, dial.settings.connect_timeout)).await?
        };
        let opened = self.open_now(dial, body, errand).await;
        health.note(&opened, Some(errand));
        opened
    }

    async fn open_now(
        &self,
        dial: &Arc<Dial>,
        body: &OpenBody,
        errand: Errand,
    ) -> Result<Opened, LinkError> {
        self.keep(dial);
        let taken = dial.pool.take();
        let open = pin!(async {
            if let Some(taken) = taken {
                let answer = match taken {
                    Taken::Begun(link, hello) => {
                        Box::pin(dial.open_begun(link, &hello, body)).await
                    }
                    Taken::Proven(stream, ready) => dial.open_ready(stream, *ready, body).await,
                };
                match answer {
                    // Nothing of a verdict came, so no session reached its client: a second try doubles nothing.
                    Err(LinkError::Lost { began: false, .. } | LinkError::NotProven(_)) => {
                        tracing::debug!(node = %dial.node.name, "a link made ahead died, dialling afresh");
                    }
                    answer => return answer,
                }
            }
            Box::pin(open_afresh(dial, body, errand)).await
        });
        // The next login's link is begun while this one waits for the node.
        let refill = || dial.pool.refill(|| dial.begin());
        meanwhile(open, refill).await
    }

    /// Drops the links made ahead, for good: what is opened from now on is dialled afresh.
    pub fn close_ready(&self) {
        for dial in self.dials.values() {
            dial.pool.close();
        }
    }

    /// What this worker dials a node with.
    #[cfg(test)]
    pub(super) fn dial(&self, node: &NodeName) -> Arc<Dial> {
        Arc::clone(self.dials.get(node).unwrap())
    }

    /// Starts the keeper of a node's pool, unless that was done before.
    fn keep(&self, dial: &Arc<Dial>) {
        if dial.settings.ready == 0 || dial.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let (dial, tasks) = (Arc::clone(dial), self.tasks.clone());
        self.tasks.spawn("link-keeper", async move {
            tokio::select! {
                () = dial.keep() => {}
                () = tasks.retired() => dial.pool.close(),
            }
        });
    }
}

/// Opens a fresh link, in turn: the node may be down by then.
async fn open_afresh(dial: &Dial, body: &OpenBody, errand: Errand) -> Result<Opened, LinkError> {
    let turn = dial.turn().await?;
    match dial.health.refusal(errand) {
        Some(refusal) => Err(refusal),
        None => dial.open_fresh(turn, body).await,
    }
}

/// Does something else as soon as `work` waits for the first time, or is done.
async fn meanwhile<W: Future>(mut work: Pin<&mut W>, other: impl FnOnce()) -> W::Output {
    let mut other = Some(other);
    poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        if let Some(other) = other.take() {
            other();
        }
        polled
    })
    .await
}
