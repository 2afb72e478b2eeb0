//! How much longer a short command takes through a proxy, with everything on one core.
//!
//! One session says NOOP again and again, the next when the last was answered. With everything on one core nothing
//! overlaps and no core has to be woken, so the time that a proxy adds is the work that it adds, and the switches
//! between processes. Under TLS it includes the load's own TLS, alike for all; the way without a proxy is plain.

use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::{
    figures::{Figures, Table, interleaved},
    lanes::{Bench, Lane, direct},
    load::{Client, Target},
    plan::Plan,
    processes::{Group, run_on},
    way::{Channel, Protocol},
    world::user,
};

/// Commands in a round of a way.
const NOOPS: usize = 3000;
/// Commands before them.
const FIRST: usize = 300;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let noops = plan.scaled(NOOPS);
    println!("\n## Round trip");
    println!(
        "\n{} rounds of {noops} NOOP, all on one core. Time from command to answer in microseconds: median of \
         the rounds' medians (least to most).",
        plan.rounds
    );
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap();
    one.set(first);
    run_all_on(bench, &one);
    for channel in [Channel::Plain, Channel::Tls] {
        // None is the node itself.
        let subjects: Vec<Option<&Lane>> = std::iter::once(None)
            .chain(bench.ways().into_iter().map(Some))
            .collect();
        let figures = interleaved(plan.rounds, &subjects, |lane| {
            let target = match lane {
                Some(lane) => Target::new(&lane.way, Protocol::Imap, channel),
                None => direct(&bench.world.nodes[0]),
            };
            let mut client = target.log_in(&user(0));
            for _ in 0..FIRST {
                client.noop();
            }
            let median = microseconds(&mut client, noops).median();
            client.log_out();
            [median]
        });
        print(channel, &subjects, &figures);
    }
    run_all_on(bench, &all);
}

fn microseconds(client: &mut Client, noops: usize) -> Figures {
    (0..noops)
        .map(|_| {
            let start = Instant::now();
            client.noop();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect()
}

fn print(channel: Channel, subjects: &[Option<&Lane>], figures: &[[Figures; 1]]) {
    let direct = figures[0][0].median();
    let added = |figures: &Figures| figures.median() - direct;
    let nginx = subjects
        .iter()
        .position(|lane| lane.is_some_and(Lane::is_nginx))
        .unwrap();
    let nginx = added(&figures[nginx][0]);
    let mut table = Table::new(&["way", "round trip", "added", "against nginx"]);
    for (lane, [figures]) in subjects.iter().zip(figures) {
        let (name, by, against) = match lane {
            Some(lane) => (
                lane.way.name,
                format!("{:.1}", added(figures)),
                format!("{:.2}", added(figures) / nginx),
            ),
            None => ("none, plain", "-".to_owned(), "-".to_owned()),
        };
        table.row(&[name, &figures.shown(1), &by, &against]);
    }
    table.print(&format!("{channel}"));
}

fn run_all_on(bench: &Bench, cores: &CpuSet) {
    let of_ways = |lane: &Lane| [lane.way.proxy.clone(), lane.way.acceptors.clone()].concat();
    let groups: Vec<Group> = bench
        .lanes
        .iter()
        .flat_map(of_ways)
        .chain(bench.world.nodes.iter().map(|node| node.group))
        .collect();
    for group in groups {
        group.run_on(cores);
    }
    run_on(std::process::id(), cores);
}
