//! What a session costs that is logged in and says nothing.
//!
//! Memory is PSS: what the kernel keeps for sockets is not in it. It is taken once, not in rounds: memory that was
//! used and given back would be used again, and the second round find the sessions for nothing. So the sessions under
//! TLS come on top of the plain ones.

use super::{
    figures::Table,
    lanes::{Bench, Lane, SIDE_BY_SIDE, WARM},
    load::{Target, log_out},
    plan::Plan,
    way::{Channel, Protocol},
    world::user,
};

/// Sessions that are there before anything is measured.
const FIRST: usize = 200;
/// Sessions that are measured.
const SESSIONS: usize = 1000;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let sessions = plan.scaled(SESSIONS);
    println!("\n## Idle sessions");
    let mut table = Table::new(&[
        "way",
        "plain, proxy",
        "plain, proxy and acceptors",
        "TLS, proxy",
        "TLS, proxy and acceptors",
    ]);
    for lane in bench.ways() {
        let mut cells = vec![lane.way.name.to_owned()];
        let mut held = Vec::new();
        for channel in [Channel::Plain, Channel::Tls] {
            let mut hold = |count| {
                let target = Target::new(&lane.way, Protocol::Imap, channel);
                held.extend(target.hold(|number| user(number % WARM), count, SIDE_BY_SIDE));
            };
            hold(FIRST);
            let before = [proxy(lane), acceptors(lane)];
            hold(sessions);
            let after = [proxy(lane), acceptors(lane)];
            let [proxy, acceptors] =
                [0, 1].map(|which| (after[which] - before[which]) / sessions as f64);
            cells.push(format!("{proxy:.2}"));
            cells.push(if lane.is_ours() {
                format!("{:.2}", proxy + acceptors)
            } else {
                "-".to_owned()
            });
        }
        log_out(held);
        table.row(&cells);
    }
    table.print(&format!(
        "Memory (PSS) in KiB per session, {sessions} sessions, on top of {FIRST}."
    ));
}

fn proxy(lane: &Lane) -> f64 {
    lane.way.proxy.iter().map(|group| group.pss_kib()).sum()
}

fn acceptors(lane: &Lane) -> f64 {
    lane.way
        .acceptors
        .iter()
        .map(|group| group.own_pss_kib())
        .sum()
}
