//! How a node does, as this front sees it: one [`Health`] for each node, shared by all workers.
//!
//! ```text
//!      so many failures in a row              a try succeeds             slow_start is over
//! up ────────────────────────────> down <──> trying ────────────> rising ──────────────────> up
//!                                    ^                              │
//!                                    └─── so many failures in a row ┘
//! ```
//!
//! What counts is whether the node can be reached and proves itself: at logins, deliveries, links made ahead, and when the
//! prober asks it. What happens behind `open` may be the account's own doing, and a link that is closed before may be one of too
//! many at that moment: neither counts, both let the prober ask at once. A login of the prober's that fails counts for
//! logins alone; mail goes on.
//!
//! While a node is down nobody dials it but the prober, one try at a time; everybody else fails at once. A node whose last
//! answer failed is waited for by [`MOST_WAITING`] at one time, the others fail at once. One that has just come back lets in
//! [`FIRST_WIDTH`] at one time, then twice as many after each step of `slow_start`; who is over stands in line, first come first
//! served, sessions and mail alike.
//!
//! It costs a login two or three loads of one flag, unless there is trouble. It dials nobody and spawns nothing. Two lines in the log
//! for each outage: when it begins, when it ends.

mod attempt;
mod report;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use prometheus::IntGauge;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};

pub(super) use self::attempt::{Attempt, ProbeError};
pub use self::report::{NodeHealth, NodeState, Outage};
use super::{
    HealthSettings,
    error::{LinkError, Sign},
};
use crate::{metrics::Metrics, names::NodeName, outcome::chain};

/// Logins and deliveries that wait at one time for a node whose last answer failed, over all workers.
const MOST_WAITING: usize = 64;

/// Opens at one time when a node has just come back, over all workers.
const FIRST_WIDTH: usize = 4;

/// How often the width doubles in the course of a slow start: behind it are over a thousand.
const STEPS: u32 = 8;

/// The first wait after a failure.
const BACK_OFF_FIRST: Duration = Duration::from_millis(500);

/// The longest.
const BACK_OFF_LAST: Duration = Duration::from_secs(10);

/// Between a probe and the next one that somebody's trouble asks for.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What a login or a delivery is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Errand {
    Login,
    Mail,
}

/// One node's.
#[derive(Debug)]
pub(super) struct Health {
    node: NodeName,
    metrics: Metrics,
    /// Up, and nothing has failed since it last succeeded.
    is_calm: AtomicBool,
    state: Mutex<State>,
    /// For those who wait for a node whose last answer failed.
    places: Arc<Semaphore>,
    /// Whether nobody may dial; keepers wait until it is over.
    is_shut: watch::Sender<bool>,
    /// The prober's time has changed.
    probe_moved: Notify,
    /// A slow start has begun.
    risen: Notify,
}

#[derive(Debug)]
struct State {
    settings: HealthSettings,
    /// While it is seen: one that is not, since another has taken its place, is for clients from before, and silent.
    gauge: Option<IntGauge>,
    phase: Phase,
    is_trying: bool,
    since: Timestamp,
    began: Instant,
    /// In a row: of the link, and of the prober's logins.
    failures: [u32; 2],
    /// Probes that failed in a row, in the trouble that there is.
    failed_probes: u32,
    last_error: Option<String>,
    last_probe: Option<Duration>,
    probe_ended: Option<Instant>,
    probe_at: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Phase {
    Up,
    Down(Outage),
    Rising {
        line: Arc<Semaphore>,
        steps: u32,
        after: Outage,
    },
}

/// How somebody gets to a node that is not calm.
enum Way {
    Free,
    Place(OwnedSemaphorePermit),
    Line(Arc<Semaphore>),
}

impl Health {
    /// Of a node that is up until it is found not to be. The first probes of a table are spread.
    pub(super) fn new(node: &NodeName, settings: HealthSettings, metrics: &Metrics) -> Self {
        let now = Instant::now();
        let first = settings
            .probe_every
            .map(|every| now + part(every, random()));
        Self {
            node: node.clone(),
            metrics: metrics.clone(),
            is_calm: AtomicBool::new(true),
            state: Mutex::new(State {
                settings,
                gauge: None,
                phase: Phase::Up,
                is_trying: false,
                since: this_second(),
                began: now,
                failures: [0; 2],
                failed_probes: 0,
                last_error: None,
                last_probe: None,
                probe_ended: None,
                probe_at: first,
            }),
            places: Arc::new(Semaphore::new(MOST_WAITING)),
            is_shut: watch::Sender::new(false),
            probe_moved: Notify::new(),
            risen: Notify::new(),
        }
    }

    /// Is seen from now on, and goes by these settings.
    pub(super) fn adopt(&self, settings: HealthSettings) {
        let mut state = self.lock();
        let gauges = &self.metrics.node_up;
        state.gauge = Some(gauges.with_label_values(&[self.node.as_str()]));
        state.show(!matches!(state.phase, Phase::Down(_)));
        state.settings = settings;
        let probe_at = settings.probe_every.map(|every| Instant::now() + every);
        state.probe_at = match (state.probe_at, probe_at) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => new.or(old.filter(|_| !self.is_calm())),
        };
        drop(state);
        self.probe_moved.notify_one();
    }

    /// Is not to be seen any more: the node is gone from the table, or reached otherwise, of which another one knows.
    pub(super) fn forget(&self) {
        self.lock().gauge = None;
        // It fails if that was done before.
        let _ = self
            .metrics
            .node_up
            .remove_label_values(&[self.node.as_str()]);
    }

    /// Nothing that it holds can be left half changed by a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing to ask before a link is opened, nor to note when one was.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// How it does.
    pub(super) fn report(&self) -> NodeHealth {
        let state = self.lock();
        let (phase, outage) = match &state.phase {
            Phase::Up => (NodeState::Up, None),
            Phase::Rising { .. } => (NodeState::Rising, None),
            Phase::Down(outage) if state.is_trying => (NodeState::Trying, Some(*outage)),
            Phase::Down(outage) => (NodeState::Down, Some(*outage)),
        };
        NodeHealth {
            name: self.node.clone(),
            state: phase,
            outage,
            since: state.since,
            last_error: state.last_error.clone(),
            last_probe: state.last_probe,
        }
    }

    // --- before a link is opened

    /// Why nothing is opened for this errand, while it is down.
    pub(super) fn refusal(&self, errand: Errand) -> Option<LinkError> {
        (!self.is_calm()).then(|| self.lock().refusal(errand))?
    }

    /// Lets somebody open a link, who holds what this gives until that is done: at once, or in turn within `patience`.
    ///
    /// # Errors
    ///
    /// When it is down, when enough wait for it, or when the turn has not come.
    pub(super) async fn admit(
        &self,
        errand: Errand,
        patience: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, LinkError> {
        let end = Instant::now() + patience;
        loop {
            let line = match self.way(errand)? {
                Way::Free => return Ok(None),
                Way::Place(place) => return Ok(Some(place)),
                Way::Line(line) => line,
            };
            match timeout_at(end, line.acquire_owned()).await {
                Ok(Ok(place)) => return Ok(Some(place)),
                // The line is closed: it is up, or down again.
                Ok(Err(_)) => {}
                Err(_) => return Err(LinkError::NoTurn),
            }
        }
    }

    fn way(&self, errand: Errand) -> Result<Way, LinkError> {
        let state = self.lock();
        if let Some(refusal) = state.refusal(errand) {
            return Err(refusal);
        }
        let [link, logins] = state.failures;
        match &state.phase {
            Phase::Rising { line, after, .. } if after.concerns(errand) => {
                Ok(Way::Line(Arc::clone(line)))
            }
            _ if link > 0 || (logins > 0 && errand == Errand::Login) => {
                let place = Arc::clone(&self.places).try_acquire_owned();
                let place = place.map_err(|_| LinkError::Crowded {
                    why: state.last_error.clone().unwrap_or_default(),
                })?;
                Ok(Way::Place(place))
            }
            _ => Ok(Way::Free),
        }
    }

    /// For a keeper: whether nobody may dial, from now on.
    pub(super) fn is_shut(&self) -> watch::Receiver<bool> {
        self.is_shut.subscribe()
    }

    /// Waits until it may be dialled; whether it has been down since the last time.
    pub(super) async fn opened(is_shut: &mut watch::Receiver<bool>) -> bool {
        let was_shut = *is_shut.borrow() || is_shut.has_changed().unwrap_or_default();
        // It ends with the node's health at the latest, which the keeper has.
        let _ = is_shut.wait_for(|shut| !shut).await;
        was_shut
    }

    // --- behind it

    /// Notes how opening a link ended, or proving one ahead, which is no errand.
    pub(super) fn note<T>(&self, answer: &Result<T, LinkError>, errand: Option<Errand>) {
        match answer {
            Ok(_) => self.succeeded(errand == Some(Errand::Login)),
            Err(error) => match error.sign() {
                Sign::Bad => self.failed(error),
                Sign::Doubt => self.doubt(),
                Sign::Good => self.succeeded(false),
                Sign::None => {}
            },
        }
    }

    /// It has proven itself, and perhaps served a session.
    fn succeeded(&self, has_served: bool) {
        if self.is_calm() {
            return;
        }
        let mut state = self.lock();
        // While it is down the prober alone decides.
        if matches!(state.phase, Phase::Down(_)) {
            return;
        }
        let [_, logins] = state.failures;
        state.failures = [0, if has_served { 0 } else { logins }];
        self.settle(&state);
    }

    fn failed(&self, error: &LinkError) {
        let mut state = self.lock();
        // While it is down the next try has its time, which nobody hurries who failed late.
        let was_down = matches!(state.phase, Phase::Down(_));
        self.count(&mut state, Outage::Everything, chain(error));
        if !was_down {
            state.probe_by(Instant::now() + BACK_OFF_FIRST);
        }
        drop(state);
        self.probe_moved.notify_one();
    }

    /// Lets the prober find out whether it is the node.
    pub(super) fn doubt(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let pause_ends = state.probe_ended.map_or(now, |ended| ended + PROBE_PAUSE);
        state.probe_by(pause_ends.max(now));
        drop(state);
        self.probe_moved.notify_one();
    }

    // --- the prober's

    /// When the next probe is due; none: not before something happens.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.lock().probe_at
    }

    /// Waits until that time may have changed.
    pub(super) async fn probe_moved(&self) {
        self.probe_moved.notified().await;
    }

    /// A probe begins.
    pub(super) fn trying(&self) -> Attempt<'_> {
        let mut state = self.lock();
        state.is_trying = true;
        state.probe_at = None;
        drop(state);
        Attempt::of(self)
    }

    /// Notes how it ended, and when the next one is due.
    fn probed(&self, result: &Result<(), ProbeError>, took: Duration) {
        let random = random();
        let mut state = self.lock();
        let now = Instant::now();
        state.is_trying = false;
        state.last_probe = Some(took);
        state.probe_ended = Some(now);
        state.failed_probes = match result {
            Ok(()) => 0,
            Err(_) => state.failed_probes.saturating_add(1),
        };
        match result {
            Ok(()) => self.answered(&mut state),
            Err(ProbeError::Link(error)) if matches!(error.sign(), Sign::Bad | Sign::Doubt) => {
                self.count(&mut state, Outage::Everything, chain(error));
            }
            // Ours, not the node's: nothing is known.
            Err(ProbeError::Link(_)) => {}
            Err(error @ ProbeError::Login(_)) if state.settings.probe_login_counts => {
                self.reached(&mut state);
                self.count(&mut state, Outage::Logins, error.to_string());
            }
            Err(ProbeError::Login(_)) => self.answered(&mut state),
            // The link is well, and nothing is known of logins.
            Err(ProbeError::Undecided) => {
                let [_, logins] = state.failures;
                if !matches!(state.phase, Phase::Down(Outage::Logins)) {
                    self.answered(&mut state);
                }
                state.failures = [0, logins];
                self.settle(&state);
            }
        }
        let regular = state.settings.probe_every.map(|every| {
            // A quarter of it apart at most.
            now + every - part(every / 4, random)
        });
        let is_soon = match state.phase {
            Phase::Down(_) => true,
            Phase::Up => regular.is_some() && !self.is_calm(),
            Phase::Rising { .. } => false,
        };
        state.probe_at = if is_soon {
            Some(now + back_off(state.failed_probes, random))
        } else {
            // There is no trouble just now: the next outage begins with the first wait.
            state.failed_probes = 0;
            regular
        };
    }

    /// All is well.
    fn answered(&self, state: &mut State) {
        state.failures = [0; 2];
        let after = match &state.phase {
            Phase::Down(outage) => *outage,
            Phase::Up | Phase::Rising { .. } => return self.settle(state),
        };
        let down_for = state.began.elapsed();
        let has_slow_start = !state.settings.slow_start.is_zero();
        state.phase = if has_slow_start {
            Phase::Rising {
                line: Arc::new(Semaphore::new(FIRST_WIDTH)),
                steps: 0,
                after,
            }
        } else {
            Phase::Up
        };
        state.turned();
        self.settle(state);
        if has_slow_start {
            self.risen.notify_one();
        }
        if state.show(true) {
            tracing::info!(node = %self.node, down_s = down_for.as_secs(), "node is up again");
        }
    }

    /// The link is well, whatever is behind it.
    fn reached(&self, state: &mut State) {
        let [_, logins] = state.failures;
        state.failures = [0, logins];
        if matches!(state.phase, Phase::Down(Outage::Everything)) {
            state.phase = Phase::Down(Outage::Logins);
            if state.show(false) {
                tracing::info!(node = %self.node, "node can be reached again, but serves no logins");
            }
        }
    }

    // --- up and down

    /// One more failure in a row.
    fn count(&self, state: &mut State, outage: Outage, reason: String) {
        let [link, logins] = &mut state.failures;
        let failures = match outage {
            Outage::Everything => link,
            Outage::Logins => logins,
        };
        *failures = failures.saturating_add(1);
        let is_enough = *failures >= state.settings.down_after;
        let is_news = match state.phase {
            Phase::Up | Phase::Rising { .. } => true,
            Phase::Down(Outage::Logins) => outage == Outage::Everything,
            Phase::Down(Outage::Everything) => false,
        };
        if is_enough && is_news {
            if state.show(false) {
                tracing::error!(node = %self.node, outage = outage.as_str(), reason, "node is down");
            }
            if let Phase::Rising { line, .. } = &state.phase {
                line.close();
            }
            if !matches!(state.phase, Phase::Down(_)) {
                state.turned();
            }
            state.phase = Phase::Down(outage);
        }
        state.last_error = Some(reason);
        self.settle(state);
    }

    /// Brings up to date what is looked at without the lock.
    fn settle(&self, state: &State) {
        let is_up = matches!(state.phase, Phase::Up);
        self.is_calm
            .store(is_up && state.failures == [0; 2], Ordering::Relaxed);
        let is_shut = matches!(state.phase, Phase::Down(Outage::Everything));
        self.is_shut.send_if_modified(|shut| {
            let was_shut = std::mem::replace(shut, is_shut);
            was_shut != is_shut
        });
    }

    // --- slow start

    /// Waits until a slow start begins.
    pub(super) async fn risen(&self) {
        self.risen.notified().await;
    }

    /// How long a step of it takes; none when there is none any more.
    pub(super) fn step(&self) -> Option<Duration> {
        let state = self.lock();
        let is_rising = matches!(state.phase, Phase::Rising { .. });
        is_rising.then(|| state.settings.slow_start / STEPS)
    }

    /// Lets in twice as many; everybody, behind the last step.
    pub(super) fn widen(&self) {
        let mut state = self.lock();
        let Phase::Rising { line, steps, .. } = &mut state.phase else {
            return;
        };
        // What has been let in so far is that many, so as many again are the double.
        line.add_permits(FIRST_WIDTH << *steps);
        *steps = steps.saturating_add(1);
        if *steps < STEPS {
            return;
        }
        let line = Arc::clone(line);
        state.phase = Phase::Up;
        self.settle(&state);
        // Who still stands in line finds out why.
        line.close();
    }
}

impl State {
    /// Shows whether it is up, if it is seen; whether it is.
    fn show(&self, is_up: bool) -> bool {
        if let Some(gauge) = &self.gauge {
            gauge.set(i64::from(is_up));
        }
        self.gauge.is_some()
    }

    fn refusal(&self, errand: Errand) -> Option<LinkError> {
        match &self.phase {
            Phase::Down(outage) if outage.concerns(errand) => Some(LinkError::Down {
                since: self.since,
                why: self.last_error.clone().unwrap_or_default(),
            }),
            Phase::Up | Phase::Down(_) | Phase::Rising { .. } => None,
        }
    }

    /// It is up, or down, from now on.
    fn turned(&mut self) {
        self.since = this_second();
        self.began = Instant::now();
    }

    /// The next probe is due then, if not before; a probe that is going on will tell. A node that is not to be probed is tried
    /// while it is down.
    fn probe_by(&mut self, at: Instant) {
        let is_down = matches!(self.phase, Phase::Down(_));
        if !self.is_trying && (is_down || self.settings.probe_every.is_some()) {
            self.probe_at = Some(self.probe_at.map_or(at, |planned| planned.min(at)));
        }
    }
}

/// How long to wait after so many probes that failed; `random` spreads fronts over half of it.
fn back_off(failed: u32, random: u32) -> Duration {
    let full = BACK_OFF_FIRST
        .saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)))
        .min(BACK_OFF_LAST);
    full - part(full / 2, random)
}

/// A random part of a time.
fn part(of: Duration, random: u32) -> Duration {
    of * (random >> 16) / (1 << 16)
}

/// Spreads the fronts of a cluster; without it they are not spread.
fn random() -> u32 {
    getrandom::u32().unwrap_or_default()
}

fn this_second() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
