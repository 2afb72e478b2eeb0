//! Whether the policy server is worth asking.
//!
//! ```text
//! up --three failures in a row--> away: nobody asks --5 s--> one asks --answer--> up
//!                                   ^                         └─failure─┐
//!                                   └───────────────────────────────────┘
//! ```
//!
//! Who asks holds a [`Turn`] and says how it went; one that is dropped without a word (its login was cut) counts for nothing and
//! lets the next one ask.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row that are bad luck.
const PATIENCE: u32 = 3;
/// For how long nobody asks then.
const PAUSE: Duration = Duration::from_secs(5);

/// How one of the two commands does.
#[derive(Debug)]
pub(super) struct Health {
    command: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody asks before; none while it is up.
    away_until: Option<Instant>,
    /// Somebody finds out.
    probed: bool,
}

/// The right to ask once.
#[derive(Debug)]
pub(super) struct Turn {
    health: Arc<Health>,
    is_probe: bool,
}

impl Health {
    pub(super) fn new(command: &'static str) -> Self {
        Self {
            command,
            state: Mutex::default(),
        }
    }

    /// Lets somebody ask, if it may be of use.
    pub(super) fn turn(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state();
        let is_probe = match state.away_until {
            None => false,
            Some(until) if Instant::now() < until || state.probed => return None,
            Some(_) => true,
        };
        state.probed |= is_probe;
        drop(state);
        Some(Turn {
            health: Arc::clone(self),
            is_probe,
        })
    }

    /// Nothing that it holds can be left half changed by a panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// There was an answer, whatever it said.
    pub(super) fn answered(self) {
        let mut state = self.health.state();
        state.failures = 0;
        let was_away = state.away_until.take().is_some();
        drop(state);
        if was_away {
            tracing::info!(command = self.health.command, "policy server answers again");
        }
    }

    /// There was none.
    pub(super) fn failed(self, why: &impl Display) {
        let command = self.health.command;
        tracing::debug!(command, reason = %why, "policy server failed");
        let mut state = self.health.state();
        state.failures = state.failures.saturating_add(1);
        let is_news = state.away_until.is_none() && state.failures >= PATIENCE;
        if is_news || self.is_probe {
            state.away_until = Some(Instant::now() + PAUSE);
        }
        drop(state);
        if is_news {
            tracing::warn!(command, reason = %why, "policy server is away");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_probe {
            self.health.state().probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(health: &Arc<Health>) {
        health.turn().unwrap().failed(&"on purpose");
    }

    #[tokio::test(start_paused = true)]
    async fn after_three_failures_one_asks_every_five_seconds() {
        let health = Arc::new(Health::new("allow"));
        fail(&health);
        fail(&health);
        health.turn().unwrap().answered();
        for _ in 0..3 {
            fail(&health);
        }
        assert!(health.turn().is_none());
        tokio::time::advance(PAUSE).await;
        let probe = health.turn().unwrap();
        assert!(health.turn().is_none(), "one at a time");
        // Cut in the middle: somebody else finds out.
        drop(probe);
        fail(&health);
        assert!(health.turn().is_none());
        tokio::time::advance(PAUSE).await;
        health.turn().unwrap().answered();
        fail(&health);
        fail(&health);
        assert!(health.turn().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_asked_before_do_not_prolong_it() {
        let health = Arc::new(Health::new("allow"));
        let turns: Vec<_> = (0..5).map(|_| health.turn().unwrap()).collect();
        let mut turns = turns.into_iter();
        for turn in turns.by_ref().take(3) {
            turn.failed(&"on purpose");
        }
        tokio::time::advance(PAUSE).await;
        turns.next().unwrap().failed(&"late");
        assert!(health.turn().is_some());
        fail(&health);
        assert!(health.turn().is_none());
        // Whoever has an answer has one, however old the question.
        turns.next().unwrap().answered();
        assert!(health.turn().is_some());
    }
}
