//! What a session and a message cost, beside the other proxies, on one machine and in one run.
//!
//! ```text
//!                                                                      ┌─> Dovecot, node 1 ─┐
//! load ──> HAProxy | nginx | Dovecot's proxy | perdition ──────────────┤                    ├─> Maildirs
//!      └─> front ── link, plain or TLS ──> acceptor of each kind ──────┴─> Dovecot, node 2 ─┘
//! ```
//!
//! Every part runs the same work along each way in turn, in interleaved rounds. A figure is CPU time (user and system) of
//! all processes of a box, per unit of work, or memory (PSS) per session; wall time is looked at only where the question
//! is how long somebody waits, and then with everything on one core. All ways lead to the same two Dovecot nodes and ask the same slapd.
//!
//! Needs root and Debian's packages (`make bench-versus` installs them). Everything runs on loopback, in a folder of its
//! own, and ends with the program.
//!
//! `PIGEONAIR_BENCH_PARTS` names the parts to run, with commas between (default: all), `PIGEONAIR_BENCH_ROUNDS` (default
//! 5) the rounds, `PIGEONAIR_BENCH_SCALE` (default 1) multiplies the work in each, `PIGEONAIR_BENCH_ACCOUNTS` (default 100000) the accounts in slapd.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal, which may end at what it did not expect"
)]

mod delivery;
mod figures;
mod load;
mod ours;
mod peers;
mod processes;
mod way;
mod world;

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    delivery::run();
}
