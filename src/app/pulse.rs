//! Whether every event loop is alive, for the service manager's watchdog.
//!
//! ```text
//! each worker ─ every period ─> a beat ─┐
//! common runtime ─ every period ────────┴─> all have beaten lately? ─ yes ─> WATCHDOG=1
//!                                                └─ no ─> silence, and a line that says who hangs
//! ```
//!
//! A loop that hangs beats no more, and then nothing is said to the manager, which ends the process and starts it again:
//! sessions on a loop that hangs are lost anyhow, and new ones that fall to it would hang as well. The question is asked on the
//! common runtime, so that its silence shows by itself. A loop that is late, as on a machine that was suspended, is forgiven as
//! soon as it has beaten again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::notify::Notifier;
use crate::tasks::Tasks;

/// Beats, and questions, in the time within which the manager wants to hear something.
const PERIODS: u32 = 4;

/// When each event loop has beaten last.
#[derive(Debug)]
pub(super) struct Pulse {
    started: Instant,
    within: Duration,
    beats: Vec<Arc<AtomicU64>>,
}

impl Pulse {
    /// Of no loop yet. The manager wants to hear something `within` so long.
    pub(super) fn new(within: Duration) -> Self {
        Self {
            started: Instant::now(),
            within,
            beats: Vec::new(),
        }
    }

    /// Has the runtime that is entered beat for as long as the process runs.
    pub(super) fn beat(&mut self, tasks: &Tasks) {
        let (started, period) = (self.started, self.within / PERIODS);
        let beat = Arc::new(AtomicU64::new(milliseconds(started)));
        self.beats.push(Arc::clone(&beat));
        tasks.background("pulse", async move {
            loop {
                sleep(period).await;
                beat.store(milliseconds(started), Relaxed);
            }
        });
    }

    /// Tells the manager for as long as all of them beat.
    pub(super) async fn watch(self, notifier: Notifier) {
        let mut was_alive = true;
        loop {
            sleep(self.within / PERIODS).await;
            let late = self.late();
            if late.is_empty() {
                notifier.alive();
            } else if was_alive {
                tracing::error!(
                    workers = ?late,
                    "event loops do not answer, the service manager's watchdog will hear nothing"
                );
            }
            was_alive = late.is_empty();
        }
    }

    /// Those that have not beaten in half of the time.
    fn late(&self) -> Vec<usize> {
        let now = milliseconds(self.started);
        let allowed = u64::try_from((self.within / 2).as_millis()).unwrap_or(u64::MAX);
        let is_late = |beat: &Arc<AtomicU64>| now.saturating_sub(beat.load(Relaxed)) > allowed;
        let all = self.beats.iter().enumerate();
        all.filter(|(_, beat)| is_late(beat))
            .map(|(number, _)| number)
            .collect()
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named_until_it_beats_again() {
        let mut pulse = Pulse::new(Duration::from_secs(8));
        let tasks = Tasks::new();
        pulse.beat(&tasks);
        // The other one is a loop that this test stands for.
        let other = Arc::new(AtomicU64::new(0));
        pulse.beats.push(Arc::clone(&other));
        assert!(pulse.late().is_empty());
        sleep(Duration::from_millis(4001)).await;
        assert_eq!(pulse.late(), [1]);
        other.store(4001, Relaxed);
        assert!(pulse.late().is_empty());
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(pulse.late(), [1]);
    }
}
