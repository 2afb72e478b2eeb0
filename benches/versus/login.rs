//! What a login costs: connecting, the handshake under TLS, the login, the end.
//!
//! A session connects, logs in, logs out and waits for the end; eight do so at the same time.

use super::{
    figures::{Figures, Table, interleaved},
    lanes::{Bench, Lane, WARM},
    plan::Plan,
    spent::Spent,
    way::{Channel, Protocol},
};

/// Logins in a round of a way.
const LOGINS: usize = 600;

pub(crate) fn run(bench: &Bench, plan: &Plan) {
    let logins = plan.scaled(LOGINS);
    println!("\n## Login");
    println!(
        "\n{} rounds of {logins} logins. CPU time per login in microseconds, median (least to most).",
        plan.rounds
    );
    for protocol in [Protocol::Imap, Protocol::Pop3] {
        for channel in [Channel::Plain, Channel::Tls] {
            let lanes: Vec<&Lane> = bench
                .lanes
                .iter()
                // For POP3 it is the same as `login`.
                .filter(|lane| protocol == Protocol::Imap || !lane.name.contains("imap-master"))
                .collect();
            for lane in &lanes {
                lane.forget();
                lane.logins(protocol, channel, WARM);
            }
            let figures = interleaved(plan.rounds, &lanes, |lane| {
                lane.forget();
                let spent = Spent::by(&lane.way, || lane.logins(protocol, channel, logins));
                [spent.proxy, spent.path()].map(|seconds| seconds / logins as f64 * 1e6)
            });
            let names: Vec<&str> = lanes.iter().map(|lane| lane.name.as_str()).collect();
            print(
                &format!("{protocol}, {channel}"),
                &names,
                &lanes,
                &figures,
                1,
            );
        }
    }
}

/// The proxy, the whole path, both against nginx.
pub(crate) fn print(
    title: &str,
    names: &[&str],
    lanes: &[&Lane],
    figures: &[[Figures; 2]],
    decimals: usize,
) {
    let mut table = Table::new(&[
        "way",
        "proxy",
        "against nginx",
        "proxy and acceptors",
        "against nginx",
    ]);
    let nginx = lanes.iter().position(|lane| lane.is_nginx()).unwrap();
    let nginx = &figures[nginx][0];
    for ((name, lane), [proxy, path]) in names.iter().zip(lanes).zip(figures) {
        let (path_shown, path_against) = if lane.is_ours() {
            (path.shown(decimals), path.against(nginx))
        } else {
            ("-".to_owned(), "-".to_owned())
        };
        table.row(&[
            (*name).to_owned(),
            proxy.shown(decimals),
            proxy.against(nginx),
            path_shown,
            path_against,
        ]);
    }
    table.print(title);
}
