//! How long a login takes, from connecting to its answer, where nothing is remembered.

use super::{
    figures::{Figures, Table, interleaved},
    lanes::{Bench, Lane},
    load::Target,
    plan::Plan,
    way::{Channel, Protocol},
};

/// Logins in a round of a way.
const LOGINS: usize = 200;
/// At the same time.
const SIDE_BY_SIDE: usize = 2;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let logins = plan.scaled(LOGINS);
    let lanes: Vec<&Lane> = bench
        .lanes
        .iter()
        .filter(|lane| lane.lookup.is_every_time() || lane.is_nginx())
        .collect();
    let channels = [Channel::Plain, Channel::Tls];
    let figures = interleaved(plan.rounds, &lanes, |lane| {
        channels.map(|channel| {
            lane.forget();
            let users = lane.users(logins);
            let took =
                Target::new(&lane.way, Protocol::Imap, channel).logins(users, logins, SIDE_BY_SIDE);
            let milliseconds = took.iter().map(|took| took.as_secs_f64() * 1e3);
            milliseconds.collect::<Figures>().median()
        })
    });
    println!("\n## How long a login takes");
    let mut table = Table::new(&["way", "plain", "TLS"]);
    for (lane, [plain, tls]) in lanes.iter().zip(&figures) {
        table.row(&[lane.name.clone(), plain.shown(2), tls.shown(2)]);
    }
    table.print(&format!(
        "{} rounds of {logins} logins by IMAP, {SIDE_BY_SIDE} at a time. Milliseconds from connecting to the \
         answer: median of the rounds' medians (least to most). nginx asks nobody.",
        plan.rounds
    ));
}
