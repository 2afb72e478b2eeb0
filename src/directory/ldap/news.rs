//! Which of a server's comings and goings are logged.
//!
//! One that flaps must not fill the log: in each minute it goes away once at most, as the log has it, and comes back
//! once. What lies between two lines is counted, and the later one says how much that was. The log never stays wrong:
//! where it says "up" of a server that is away, that is put right as soon as the minute is over and somebody finds it
//! away again, which its probe does.

use std::time::Duration;

use tokio::time::Instant;

/// From one line that it is away to the next.
const PAUSE: Duration = Duration::from_secs(60);

/// What was last said of a server.
#[derive(Debug)]
pub(super) struct News {
    said_up: bool,
    /// When it was last said to be away.
    said_away: Option<Instant>,
    /// Since the last line.
    changes: u64,
}

/// A line that is due.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Line {
    /// How many changes before it got none.
    pub(super) left_out: u64,
}

impl News {
    /// Of a server that is up, and of which nothing was said.
    pub(super) const fn new() -> Self {
        Self {
            said_up: true,
            said_away: None,
            changes: 0,
        }
    }

    /// It is up or away now, as it was before or not; the line to write, if there is one.
    pub(super) fn learn(&mut self, was_up: bool, is_up: bool, now: Instant) -> Option<Line> {
        if was_up != is_up {
            self.changes = self.changes.saturating_add(1);
        }
        let is_due = |last: Instant| now.duration_since(last) >= PAUSE;
        if self.said_up == is_up || !is_up && !self.said_away.is_none_or(is_due) {
            return None;
        }
        self.said_up = is_up;
        if !is_up {
            self.said_away = Some(now);
        }
        // The last one is what this line tells.
        let left_out = self.changes.saturating_sub(1);
        self.changes = 0;
        Some(Line { left_out })
    }
}

impl Line {
    /// The number for the log: none where nothing was left out.
    pub(super) fn left_out(&self) -> Option<u64> {
        (self.left_out > 0).then_some(self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a server: at each second it is up or away.
    fn said(course: &[(u64, bool)]) -> Vec<(u64, bool, u64)> {
        let (begun, mut news, mut was_up) = (Instant::now(), News::new(), true);
        let mut said = Vec::new();
        for (second, is_up) in course {
            let now = begun + Duration::from_secs(*second);
            if let Some(line) = news.learn(was_up, *is_up, now) {
                said.push((*second, *is_up, line.left_out));
            }
            was_up = *is_up;
        }
        said
    }

    #[test]
    fn a_change_is_said_once() {
        let course = [(0, true), (1, false), (2, false), (3, true), (4, true)];
        assert_eq!(said(&course), [(1, false, 0), (3, true, 0)]);
        // However long it lasts.
        let course = [(1, false), (100, false), (200, false), (300, true)];
        assert_eq!(said(&course), [(1, false, 0), (300, true, 0)]);
    }

    #[test]
    fn of_one_that_flaps_one_pair_is_said_in_a_minute() {
        let course: Vec<_> = (0..200).map(|second| (second, second % 2 == 1)).collect();
        let expected = [
            (0, false, 0),
            (1, true, 0),
            (60, false, 58),
            (61, true, 0),
            (120, false, 58),
            (121, true, 0),
            (180, false, 58),
            (181, true, 0),
        ];
        assert_eq!(said(&course), expected);
    }

    #[test]
    fn the_log_does_not_stay_wrong() {
        // Away again within the minute, and from then on.
        let course = [
            (0, false),
            (1, true),
            (2, false),
            (50, false),
            (60, false),
            (70, false),
            (80, true),
        ];
        let expected = [(0, false, 0), (1, true, 0), (60, false, 0), (80, true, 0)];
        assert_eq!(said(&course), expected);
    }
}
