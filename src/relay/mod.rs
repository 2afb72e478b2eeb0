//! Moving bytes between two streams. (stub: settings shared with configuration)

use std::time::Duration;

/// Limits of a relayed session.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Silence in both directions before the session is closed; default 35 minutes (RFC 9051, 5.4: at least 30).
    pub idle: Duration,
    /// After one side has ended, silence of the other before the session is closed; default 60 s.
    pub half_closed_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(35 * 60),
            half_closed_idle: Duration::from_secs(60),
        }
    }
}
