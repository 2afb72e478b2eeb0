//! What the small parts cost, each alone: CPU time of the one thread that does the work, never wall time.
//!
//! ```text
//! before_login   what a client says up to its credentials: IMAP, POP3, SASL
//! defence        being counted: connections and logins
//! link           both halves of the handshake, context, verdict, and the opening behind it
//! directory      an account that is asked for again
//! relay          small talk and large transfers between sockets, plain and under TLS
//! ```
//!
//! A figure is the mean of one call, and of what is moved the octets per second of CPU time, as the library writes
//! them. What a peer does is not in it: peers have threads of their own. All threads share one core, so that what it
//! costs to wake one up does not depend on where it sleeps. The machine's other work is not in a figure either, but it
//! makes caches cold: compare runs on one quiet machine only, and no figure here with one of `versus`, which counts whole
//! processes.
//!
//! Only the crate's public interface is used. Everything is on loopback and in memory, but for files in temporary
//! folders. It takes about a minute. `cargo bench --bench micro -- imap` runs those with that word in their name;
//! `--save-baseline` and `--baseline` compare two runs. Without `--bench`, so under `cargo test --benches`, each is
//! called once.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program for people at a terminal, which may end at what it did not expect"
)]

mod before_login;
mod clock;
mod defence;
mod directory;
mod ldap;
mod link;
mod relay;

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use self::clock::CpuTime;

type Criterion = criterion::Criterion<CpuTime>;

fn main() {
    let mut core = CpuSet::new();
    core.set(sched_getcpu());
    sched_setaffinity(None, &core).unwrap();
    let mut criterion = criterion::Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(30)
        // Drawn again from 30 samples, more are no more precise.
        .nresamples(10_000)
        .without_plots()
        .configure_from_args();
    before_login::run(&mut criterion);
    defence::run(&mut criterion);
    link::run(&mut criterion);
    directory::run(&mut criterion);
    relay::run(&mut criterion);
    criterion.final_summary();
}
