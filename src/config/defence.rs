//! `[proxy.defence]`: how many connections a network may have, and how many logins may fail.
//!
//! Everything has a default, so that a front is defended by an empty configuration. A limit of 0 is none; without any limit
//! on failures, that is said at start-up.

use std::time::Duration;

use super::{DAY, HOUR, SHORTEST, form, section::Section};
use crate::defence::Settings;

/// Whoever waits longer than a minute for an answer has hung up.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const LONGEST_MEMORY: Duration = Duration::from_secs(366 * 86400);
/// Of all connections, how many may be without a login.
const GUESTS: usize = 4;

/// Reads the section; some defaults follow from `[proxy]`.
pub(super) fn read(
    section: &mut Section<'_>,
    failure_delay: Duration,
    max_connections: usize,
) -> Settings {
    let default = Settings::default();
    let connections = form::integer(0..=1_000_000);
    let failures = form::integer(0..=50_000);
    let settings = Settings {
        trusted: section
            .list("trusted_networks", &form::network())
            .unwrap_or(default.trusted),
        ipv6_prefix: section.or("ipv6_prefix", &form::integer(16..=128), default.ipv6_prefix),
        max_connections_per_network: section.or(
            "max_connections_per_network",
            &connections,
            default.max_connections_per_network,
        ),
        max_guests: section.or(
            "max_unauthenticated",
            &connections,
            (max_connections / GUESTS).max(1),
        ),
        max_guests_per_network: section.or(
            "max_unauthenticated_per_network",
            &connections,
            default.max_guests_per_network,
        ),
        failure_delay,
        max_failure_delay: section.or(
            "max_failure_delay",
            &form::duration(Duration::ZERO..=LONGEST_DELAY),
            default.max_failure_delay,
        ),
        max_failures_per_network: section.or(
            "max_failures_per_network",
            &failures,
            default.max_failures_per_network,
        ),
        max_failures_per_account: section.or(
            "max_failures_per_account",
            &failures,
            default.max_failures_per_account,
        ),
        failure_window: section.or(
            "failure_window",
            &form::duration(SHORTEST..=DAY),
            default.failure_window,
        ),
        max_memory: section
            .optional("max_memory", &form::size(16 << 20..=1 << 44))
            .and_then(|octets| u64::try_from(octets).ok()),
        remember: section.or(
            "remember",
            &form::duration(HOUR..=LONGEST_MEMORY),
            default.remember,
        ),
    };
    if settings.max_failures_per_network == 0 && settings.max_failures_per_account == 0 {
        section.report().warn(format!(
            "{}: passwords may be guessed without a limit",
            section.path()
        ));
    }
    settings
}
