//! What a session and a message cost, beside the other proxies, on one machine and in one run.
//!
//! ```text
//!                                                                      ┌─> Dovecot, node 1 ─┐
//! load ──> HAProxy | nginx | Dovecot's proxy | perdition ──────────────┤                    ├─> Maildirs
//!      └─> front ── link, plain or TLS ──> acceptor of each kind ──────┴─> Dovecot, node 2 ─┘
//! ```
//!
//! Every part runs the same work along each way in turn, in interleaved rounds. A figure is CPU time (user and
//! system) of all processes of a box, per unit of work, or memory (PSS) per session; wall time is looked at only
//! where the question is how long somebody waits. All ways lead to the same two Dovecot nodes, and who asks LDAP asks
//! the same slapd. (A third node has the users with a uid of their own.)
//!
//! | part | question |
//! | --- | --- |
//! | `login` | what a login costs, by IMAP and POP3, plain and TLS |
//! | `relay` | what a GiB costs |
//! | `roundtrip` | how much later the answer to a short command comes |
//! | `latency` | how long a login takes |
//! | `kinds` | what handing over costs in all, the real server included |
//! | `idle` | how much memory an idle session takes |
//! | `profile` | where the time goes, as `perf` sees it |
//! | `growth` | what more sessions and more accounts change (PigeonAir alone) |
//! | `delivery` | what a message costs, beside Dovecot's LMTP proxy |
//! | `hold` | none: starts it all for whoever wants to look closer, until standard input ends; only if it is named |
//!
//! `plan` is what shall be run, `lanes` starts it all and knows who logs in where, `load` is the mail client, `spent`
//! and `processes` know what was used, `figures` makes tables of it, and `machine` says on what.
//!
//! Needs root and Debian's packages (`make bench-versus` installs them). Everything runs on loopback, in a folder of
//! its own, and ends with the program.
//!
//! `PIGEONAIR_BENCH_PARTS` names the parts to run, with commas between (default: all), `PIGEONAIR_BENCH_ROUNDS`
//! (default 5) the rounds, `PIGEONAIR_BENCH_SCALE` (default 1) multiplies the work in each,
//! `PIGEONAIR_BENCH_ACCOUNTS` (default 100000) are the accounts in slapd.

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
mod growth;
mod idle;
mod kinds;
mod lanes;
mod latency;
mod load;
mod login;
mod machine;
mod ours;
mod peers;
mod plan;
mod processes;
mod profile;
mod relay;
mod roundtrip;
mod spent;
mod way;
mod world;

use lanes::Bench;
use plan::Plan;

fn main() {
    // `cargo test --benches` only asks whether it builds and starts; `cargo bench` says so.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let plan = Plan::from_environment();
    println!("# Beside the other proxies");
    side_by_side(&plan);
    if plan.has("growth") {
        growth::run(&plan);
    }
    if plan.has("delivery") {
        delivery::run(plan.rounds);
    }
    machine::print();
}

/// A part of what all ways do.
type Part = fn(&Bench, &Plan);

fn side_by_side(plan: &Plan) {
    let parts: [(&str, Part); 7] = [
        ("login", login::run),
        ("relay", relay::run),
        ("roundtrip", roundtrip::run),
        ("latency", latency::run),
        ("kinds", kinds::run),
        ("idle", idle::run),
        ("profile", profile::run),
    ];
    if !parts.iter().any(|(name, _)| plan.has(name)) && !plan.has(plan::HOLD) {
        return;
    }
    let bench = Bench::start(plan.accounts);
    for (_, run) in parts.iter().filter(|(name, _)| plan.has(name)) {
        run(&bench, plan);
    }
    if plan.has(plan::HOLD) {
        hold(&bench);
    }
}

/// Says where everything is, and waits until standard input ends.
fn hold(bench: &Bench) {
    for lane in &bench.lanes {
        println!(
            "{}|{}|{:?}|{:?}",
            lane.name, lane.way.ip, lane.way.proxy, lane.way.acceptors
        );
    }
    println!("held");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}
