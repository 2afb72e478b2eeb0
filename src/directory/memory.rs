//! Serving from memory while no LDAP server answers: that it begins and ends is said once each, and no refusal comes of it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use prometheus::IntGauge;

use super::{LookupError, cache::Origin};

/// Whether accounts are served from memory now.
pub(super) struct Memory {
    serves: AtomicBool,
    max_stale: Duration,
    gauge: IntGauge,
}

impl Memory {
    /// They are not.
    pub(super) fn new(max_stale: Duration, gauge: IntGauge) -> Self {
        Self {
            serves: AtomicBool::new(false),
            max_stale,
            gauge,
        }
    }

    /// Notes whether they are.
    pub(super) fn serves(&self, now: bool) {
        if self.serves.load(Ordering::Relaxed) == now
            || self.serves.swap(now, Ordering::Relaxed) == now
        {
            return;
        }
        self.gauge.set(i64::from(now));
        if now {
            let up_to = humantime::format_duration(self.max_stale);
            tracing::warn!(%up_to, "no directory server answers: who is known is served from memory");
        } else {
            tracing::info!("accounts come from the directory again");
        }
    }
}

/// What an answer is worth that rests on memory: no refusal does.
pub(super) fn from_memory<T>(
    origin: Origin,
    answer: Result<T, LookupError>,
) -> Result<T, LookupError> {
    match answer {
        Err(
            LookupError::Ambiguous
            | LookupError::Entry(_)
            | LookupError::NotNow(_)
            | LookupError::Wrong(_),
        ) if origin == Origin::Memory => {
            let text = "no server answers, and memory alone refuses nobody";
            Err(LookupError::Unavailable(text.to_owned()))
        }
        answer => answer,
    }
}
