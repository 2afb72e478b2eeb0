//! What moving octets costs: one session fetches one large message again and again.

use super::{
    figures::interleaved,
    lanes::{Bench, direct},
    load::Target,
    login,
    plan::Plan,
    spent::Spent,
    way::{Channel, Protocol},
    world::user,
};

/// Octets of the message.
pub(crate) const MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// How often it is fetched in a round of a way.
const FETCHES: usize = 16;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let fetches = plan.scaled(FETCHES);
    // Whatever node the session comes to.
    for node in &bench.world.nodes[..2] {
        let mut client = direct(node).log_in(&user(0));
        client.append(MESSAGE_BYTES);
        client.log_out();
    }
    println!("\n## Relay");
    println!(
        "\n{} rounds of {fetches} fetches of a message of {} MiB. CPU time per GiB in milliseconds, median \
         (least to most).",
        plan.rounds,
        MESSAGE_BYTES >> 20
    );
    let ways = bench.ways();
    for channel in [Channel::Plain, Channel::Tls] {
        let figures = interleaved(plan.rounds, &ways, |lane| {
            let mut client = Target::new(&lane.way, Protocol::Imap, channel).log_in(&user(0));
            client.select();
            // Pipes, buffers, windows.
            client.fetch(1);
            let mut octets = 0;
            let spent = Spent::by(&lane.way, || octets = client.fetch(fetches));
            client.log_out();
            let gib = octets as f64 / f64::from(1 << 30);
            [spent.proxy, spent.path()].map(|seconds| seconds / gib * 1e3)
        });
        let names: Vec<&str> = ways.iter().map(|lane| lane.way.name).collect();
        login::print(&format!("{channel}"), &names, &ways, &figures, 0);
    }
}
