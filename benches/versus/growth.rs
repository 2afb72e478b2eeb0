//! What grows with the number of sessions and of accounts: PigeonAir alone, in worlds of its own.
//!
//! One front may have 20,000 descriptors, which is 9,000 sessions of two each, with room for LDAP, links and
//! listeners. Sessions under TLS go to a front that has not served plain ones, since memory that was given back would
//! be used again.

use std::time::Duration;

use super::{
    figures::{Figures, Table},
    lanes::{Lookup, SIDE_BY_SIDE, make_home},
    load::{Client, Target, log_out},
    ours::{Ours, ROWS, Row},
    plan::Plan,
    spent::Spent,
    way::{Channel, Protocol, Way},
    world::{World, home_node, user},
};

/// Accounts of the small directory.
const FEW_ACCOUNTS: usize = 1000;
/// Sessions that are open while work is measured: few, many.
const FEW: usize = 100;
const MANY: usize = 9000;
/// Sessions at which memory is looked at, besides [`MANY`].
const SOME: usize = 1000;
/// In a round.
const LOGINS: usize = 1000;
const NOOPS: usize = 10_000;
/// Users of the sessions.
const USERS: usize = FEW_ACCOUNTS;

pub(crate) fn run(plan: &Plan) {
    println!("\n## Growth");
    let mut accounts = Table::new(&["accounts", "proxy"]);
    let mut sessions = Table::new(&[
        "",
        "login with 100",
        "login with 9000",
        "NOOP with 100",
        "NOOP with 9000",
        "KiB per session at 1000",
        "KiB per session at 9000",
    ]);
    for (count, channel) in [
        (FEW_ACCOUNTS, Channel::Plain),
        (plan.accounts, Channel::Tls),
    ] {
        let world = World::start(count);
        for number in 0..USERS {
            make_home(&world.nodes[home_node(number)], &user(number));
        }
        let asking = Ours::start(&world, *row(Lookup::SearchAndBind));
        let figures = directory(&asking.way, plan, &world);
        accounts.row(&[count.to_string(), figures.shown(1)]);
        drop(asking);
        let remembering = Ours::start(&world, *row(Lookup::Cached));
        sessions.row(&grow(&remembering.way, plan, channel));
    }
    accounts.print(&format!(
        "Login, plain, search and bind every time, users all over the directory: {} rounds of {} logins, CPU time of the \
         front per login in microseconds, median (least to most).",
        plan.rounds,
        plan.scaled(LOGINS)
    ));
    sessions.print(&format!(
        "With 100 and 9000 sessions open: {} rounds of {} logins (cached) and {} NOOP, CPU time of the front \
         in microseconds, median (least to most); and memory (PSS) of the front.",
        plan.rounds,
        plan.scaled(LOGINS),
        plan.scaled(NOOPS)
    ));
}

/// A row by `login` over a plain link.
fn row(lookup: Lookup) -> &'static Row {
    ROWS.iter()
        .find(|row| row.lookup == lookup && !row.link_tls && row.kind == super::ours::Kind::Login)
        .unwrap()
}

fn directory(way: &Way, plan: &Plan, world: &World) -> Figures {
    // No divisor of either number of accounts, and even and odd in turn.
    const STRIDE: usize = 7919;
    let logins = plan.scaled(LOGINS);
    let target = Target::new(way, Protocol::Imap, Channel::Plain);
    let round = |round: usize| {
        let number = |login: usize| (round * logins + login) * STRIDE % world.accounts;
        for number in (0..logins).map(number) {
            make_home(&world.nodes[home_node(number)], &user(number));
        }
        let users = |login| user(number(login));
        let work = || drop(target.logins(users, logins, SIDE_BY_SIDE));
        Spent::by(way, work).proxy / logins as f64 * 1e6
    };
    round(0);
    (1..=plan.rounds).map(round).collect()
}

fn grow(way: &Way, plan: &Plan, channel: Channel) -> Vec<String> {
    let target = Target::new(way, Protocol::Imap, channel);
    let users = |number: usize| user(number % USERS);
    // Everybody is known, and every thread has worked.
    target.logins(users, USERS, SIDE_BY_SIDE);
    let memory = || way.proxy.iter().map(|group| group.pss_kib()).sum::<f64>();
    let at_start = memory();
    let mut held = target.hold(users, FEW, SIDE_BY_SIDE);
    let with_few = work(way, plan, target, &mut held);
    let mut grown = Vec::new();
    for count in [SOME, MANY] {
        held.extend(target.hold(users, count - held.len(), SIDE_BY_SIDE));
        grown.push((memory() - at_start) / count as f64);
    }
    let with_many = work(way, plan, target, &mut held);
    log_out(held);
    let mut cells = vec![format!("{channel}")];
    for (few, many) in with_few.iter().zip(&with_many) {
        cells.extend([few.shown(1), many.shown(1)]);
    }
    cells.extend(grown.iter().map(|kib| format!("{kib:.2}")));
    cells
}

/// CPU time of a login and of a NOOP beside the sessions that are open.
fn work(way: &Way, plan: &Plan, target: Target, held: &mut [Client]) -> [Figures; 2] {
    let (logins, noops) = (plan.scaled(LOGINS), plan.scaled(NOOPS));
    let users = |number: usize| user(number % USERS);
    // What comes behind so many logins.
    std::thread::sleep(Duration::from_secs(2));
    let mut all = [Figures::default(), Figures::default()];
    for _ in 0..plan.rounds {
        let spent = Spent::by(way, || drop(target.logins(users, logins, SIDE_BY_SIDE)));
        all[0].push(spent.proxy / logins as f64 * 1e6);
        let spent = Spent::by(way, || {
            for number in 0..noops {
                let one = number % held.len();
                held[one].noop();
            }
        });
        all[1].push(spent.proxy / noops as f64 * 1e6);
    }
    all
}
