//! What is run, as the environment says.

use std::{env, str::FromStr};

/// The parts, in their order.
pub(crate) const PARTS: [&str; 9] = [
    "login",
    "relay",
    "roundtrip",
    "latency",
    "kinds",
    "idle",
    "profile",
    "growth",
    "delivery",
];

/// What is only done when it is named: everything is started, and stays until standard input ends.
pub(crate) const HOLD: &str = "hold";

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Plan {
    parts: Vec<String>,
    pub(crate) rounds: usize,
    scale: f64,
    /// In slapd.
    pub(crate) accounts: usize,
}

impl Plan {
    /// Panics where it says what nobody understands.
    pub(crate) fn from_environment() -> Self {
        let parts = match env::var("PIGEONAIR_BENCH_PARTS") {
            Ok(names) => names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect(),
            Err(_) => PARTS.map(str::to_owned).to_vec(),
        };
        for part in &parts {
            assert!(
                PARTS.contains(&part.as_str()) || part == HOLD,
                "no part {part:?}, only {PARTS:?} and {HOLD:?}"
            );
        }
        Self {
            parts,
            rounds: number("PIGEONAIR_BENCH_ROUNDS", 5),
            scale: number("PIGEONAIR_BENCH_SCALE", 1.0),
            accounts: number("PIGEONAIR_BENCH_ACCOUNTS", 100_000),
        }
    }

    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|name| name == part)
    }

    /// So much work, at the scale that was asked for.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count that somebody typed in"
    )]
    pub(crate) fn scaled(&self, count: usize) -> usize {
        ((count as f64 * self.scale).round() as usize).max(1)
    }
}

/// A number above 0 from the environment.
pub(crate) fn number<T: FromStr + PartialOrd + Default>(name: &str, default: T) -> T {
    let Ok(text) = env::var(name) else {
        return default;
    };
    match text.parse() {
        Ok(number) if number > T::default() => number,
        _ => panic!("{name} is not a number: {text}"),
    }
}
