//! What handing a session over costs in all, the real server's own work included.
//!
//! With one uid for all mail Dovecot serves the next user with the same process; with a uid for each user it needs a
//! new one. The kind `exec` starts one in any case.

use super::{
    figures::{Table, interleaved},
    lanes::{Bench, Lane, Lookup, SIDE_BY_SIDE, WARM},
    load::Target,
    plan::Plan,
    spent::Spent,
    way::{Channel, Protocol},
    world::{OWN_UIDS, user, user_with_own_uid},
};

/// Logins in a round of a way.
const LOGINS: usize = 400;

/// One mail uid, or one for each user.
type User = fn(usize) -> String;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let logins = plan.scaled(LOGINS);
    println!("\n## Kinds of handing over, the real server included");
    println!(
        "\n{} rounds of {logins} logins by IMAP, plain. CPU time per login in microseconds, median (least to most).",
        plan.rounds
    );
    let lanes: Vec<&Lane> = bench
        .lanes
        .iter()
        .filter(|lane| lane.is_nginx() || (lane.is_ours() && lane.lookup == Lookup::Cached))
        .collect();
    for (title, user, users) in [
        ("One mail uid", user as User, WARM),
        ("A uid for each user", user_with_own_uid, OWN_UIDS.min(WARM)),
    ] {
        let logins_of = |lane: &Lane, count| {
            let target = Target::new(&lane.way, Protocol::Imap, Channel::Plain);
            target.logins(|number| user(number % users), count, SIDE_BY_SIDE);
        };
        for lane in &lanes {
            logins_of(lane, users);
        }
        let figures = interleaved(plan.rounds, &lanes, |lane| {
            let work = || logins_of(lane, logins);
            let spent = Spent::with_servers(&lane.way, &bench.world.nodes, work);
            [spent.proxy, spent.acceptors, spent.servers, spent.all()]
                .map(|seconds| seconds / logins as f64 * 1e6)
        });
        let mut table = Table::new(&["way", "proxy", "acceptors", "servers", "all"]);
        for (lane, figures) in lanes.iter().zip(&figures) {
            let mut cells = vec![lane.name.clone()];
            cells.extend(figures.iter().map(|figures| figures.shown(0)));
            if !lane.is_ours() {
                "-".clone_into(&mut cells[2]);
            }
            table.row(&cells);
        }
        table.print(title);
    }
}
