//! What a front builds from one configuration, and what of it the next one keeps.
//!
//! ```text
//! configuration ─> build: all that can fail ─> begin: directory, homes, certificates ─> in force
//!                        └─ what has not changed is the very same: cache, links, connections, sweeps
//! ```
//!
//! Sessions and conversations keep what they began with; what served an earlier generation ends when nobody has it any more. On
//! failure nothing has changed.

use super::{AppError, memory::Memory};
use crate::{
    config::{self, Sections},
    defence::Defence,
    delivery::{self, Delivery},
    directory::{self, Directory},
    link::{Accounts, Dialer},
    metrics::Metrics,
    net::{
        Places,
        tls::{Keeper, Tls},
    },
    nodes::Nodes,
    orders::Orders,
    policy::Policy,
    proxy,
    relay::Relay,
    sessions::Sessions,
    tasks::{Part, Tasks},
};

/// What outlives a configuration.
#[derive(Clone, Debug)]
pub(super) struct Lasting {
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    /// Of MTAs.
    pub(super) places: Places,
    pub(super) memory: Memory,
    /// Who is on.
    pub(super) sessions: Sessions,
    /// What administrators have ordered.
    pub(super) orders: Orders,
}

/// What serves by one configuration.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) directory: Directory,
    pub(super) nodes: Nodes,
    dialer: Dialer,
    pub(super) proxy: Option<proxy::Parts>,
    pub(super) delivery: Option<Delivery>,
    certificates: Certificates,
}

/// What clients are shown, and what looks after it.
#[derive(Debug, Default)]
struct Certificates {
    tls: Option<Tls>,
    /// Before it has begun.
    keeper: Option<Keeper>,
    /// Ends it.
    part: Option<Part>,
}

/// A generation that another one may take the place of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) generation: &'a Generation,
    /// What its configuration said, and what the next one's says.
    pub(super) sections: [&'a Sections; 2],
}

impl Before<'_> {
    fn is_same(&self, section: &str) -> bool {
        let [before, after] = self.sections;
        before.is_same(after, section)
    }
}

impl Generation {
    /// Builds everything that a configuration asks for.
    pub(super) fn build(
        config: &config::Front,
        before: Option<Before<'_>>,
        lasting: &Lasting,
    ) -> Result<Self, AppError> {
        let Lasting { metrics, tasks, .. } = lasting;
        let dialer = Dialer::after(
            before.map(|before| &before.generation.dialer),
            &config.nodes,
            config.dial,
            metrics.clone(),
            tasks.clone(),
        );
        let mut generation = Self {
            directory: directory(&config.directory, before, lasting)?,
            nodes: Nodes::new(&config.nodes),
            dialer: dialer.map_err(AppError::Link)?,
            proxy: None,
            delivery: None,
            certificates: Certificates::default(),
        };
        if let Some(settings) = &config.proxy {
            generation.certificates = Certificates::load(settings, before, lasting)?;
            generation.proxy = Some(generation.proxy(settings, before, lasting)?);
        }
        if let Some(settings) = &config.delivery {
            generation.delivery = Some(generation.delivery(settings, before, lasting));
        }
        Ok(generation)
    }

    /// Does what must not be done twice at a time. Nothing of it can fail.
    pub(super) fn begin(&mut self, before: Option<&Self>, metrics: &Metrics) {
        if !before.is_some_and(|before| before.directory.is_same(&self.directory)) {
            self.directory.begin(before.map(|before| &before.directory));
        }
        self.directory.know_homes(homes(self.nodes.clone()));
        self.dialer.know_accounts(Accounts {
            directory: self.directory.clone(),
            nodes: self.nodes.clone(),
        });
        self.dialer.begin(before.map(|before| &before.dialer));
        self.certificates.begin(metrics);
    }

    fn proxy(
        &self,
        settings: &proxy::Settings,
        before: Option<Before<'_>>,
        lasting: &Lasting,
    ) -> Result<proxy::Parts, AppError> {
        let Lasting { metrics, tasks, .. } = lasting;
        let parts = before.and_then(|before| before.generation.proxy.as_ref());
        let relay = |before: Option<&Relay>, settings| {
            let same = before.and_then(|relay| relay.with(settings));
            same.unwrap_or_else(|| Relay::new(settings, metrics.clone(), tasks.clone()))
        };
        let policy = before.filter(|before| before.is_same("proxy.policy"));
        let policy = match policy.and(parts) {
            Some(parts) => parts.policy.clone(),
            None => policy_of(settings, lasting)?,
        };
        Ok(proxy::Parts {
            tls: self.certificates.tls.clone(),
            defence: match parts {
                Some(parts) => parts.defence.with(settings.defence.clone()),
                None => Defence::new(settings.defence.clone(), metrics.clone()),
            },
            policy,
            balancers: proxy::Balancers::new(&settings.balancers, metrics.clone()),
            directory: self.directory.clone(),
            nodes: self.nodes.clone(),
            dialer: self.dialer.clone(),
            sessions: lasting.sessions.clone(),
            orders: lasting.orders.clone(),
            imap_relay: relay(parts.map(|parts| &parts.imap_relay), settings.imap_relay),
            pop3_relay: relay(parts.map(|parts| &parts.pop3_relay), settings.pop3_relay),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            settings: settings.clone(),
        })
    }

    fn delivery(
        &self,
        settings: &delivery::Settings,
        before: Option<Before<'_>>,
        lasting: &Lasting,
    ) -> Delivery {
        let mut sections = ["delivery", "directory", "nodes"].into_iter();
        let same = before.filter(|before| sections.all(|name| before.is_same(name)));
        if let Some(delivery) = same.and_then(|before| before.generation.delivery.clone()) {
            return delivery;
        }
        Delivery::new(delivery::Parts {
            settings: settings.clone(),
            directory: self.directory.clone(),
            nodes: self.nodes.clone(),
            dialer: self.dialer.clone(),
            orders: lasting.orders.clone(),
            places: lasting.places.clone(),
            metrics: lasting.metrics.clone(),
            tasks: lasting.tasks.clone(),
        })
    }
}

fn directory(
    settings: &directory::Settings,
    before: Option<Before<'_>>,
    lasting: &Lasting,
) -> Result<Directory, AppError> {
    if let Some(before) = before.filter(|before| before.is_same("directory")) {
        return Ok(before.generation.directory.clone());
    }
    let before = before.map(|before| &before.generation.directory);
    let (metrics, tasks) = (lasting.metrics.clone(), lasting.tasks.clone());
    Directory::prepare(settings.clone(), before, metrics, tasks).map_err(AppError::Directory)
}

/// Which node a value of the home attribute means.
fn homes(nodes: Nodes) -> directory::Homes {
    Box::new(move |word| nodes.meant_by(word).ok().map(|node| node.name.clone()))
}

/// Who is asked before a password is looked at, if anybody.
fn policy_of(settings: &proxy::Settings, lasting: &Lasting) -> Result<Option<Policy>, AppError> {
    let Lasting { metrics, tasks, .. } = lasting;
    let policy = settings
        .policy
        .clone()
        .map(|settings| Policy::new(settings, metrics.clone(), tasks.clone()));
    policy.transpose().map_err(AppError::Policy)
}

impl Certificates {
    /// What the proxy shows its clients, if they may have TLS.
    fn load(
        settings: &proxy::Settings,
        before: Option<Before<'_>>,
        lasting: &Lasting,
    ) -> Result<Self, AppError> {
        if let Some(before) = before.filter(|before| before.is_same("proxy.tls")) {
            let Self { tls, part, .. } = &before.generation.certificates;
            return Ok(Self {
                tls: tls.clone(),
                keeper: None,
                part: part.clone(),
            });
        }
        let loaded = settings.tls.as_ref().map(Tls::load).transpose();
        let Some((tls, keeper)) = loaded.map_err(AppError::Tls)? else {
            return Ok(Self::default());
        };
        Ok(Self {
            tls: Some(tls),
            keeper: Some(keeper),
            part: Some(lasting.tasks.part()),
        })
    }

    /// Looks at the files from now on, unless that is done already.
    fn begin(&mut self, metrics: &Metrics) {
        if self.tls.is_none() || self.keeper.is_some() {
            // Those of an earlier configuration are not shown any more.
            metrics.tls_certificate_expiry.reset();
        }
        if let (Some(keeper), Some(part)) = (self.keeper.take(), &self.part) {
            let keep = proxy::keep(keeper, metrics.clone());
            part.tasks().background("certificates", keep);
        }
    }
}
