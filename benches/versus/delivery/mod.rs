//! What a message costs: the delivery role beside Dovecot's LMTP proxy, and the Maildir writer behind it.
//!
//! ```text
//! load ──> Dovecot's LMTP proxy ──────────────> Dovecot's LMTP server ──> Maildir
//! load ──> front, [delivery] ── link, plain ──> node, [mailstore] ──────> Maildir
//! load ──> front, [delivery] ── link, TLS ────> node, [mailstore] ──────> Maildir
//! ```
//!
//! One round sends the same messages along each way in turn, over one connection, the next one when the last was
//! answered; rounds are interleaved. A figure is CPU time (user and system) of all processes of one box above, per message;
//! wall time is not looked at. Both proxies look their users up in a file, Dovecot with its cache on. Needs root and
//! Debian's dovecot-lmtpd; everything runs on loopback, in a folder of its own, and ends with the program.
//!
//! Numbers: `PIGEONAIR_BENCH_MESSAGES` (default 2000) per round and way, `PIGEONAIR_BENCH_ROUNDS` (default 5).

mod load;
mod setup;

use self::{load::Load, setup::Setup};
use super::processes::Group;

/// Octets of a message.
const MESSAGE_BYTES: usize = 4096;
/// Octets of the one large message, behind which memory is looked at.
const LARGE_BYTES: usize = 48 * 1024 * 1024;

/// A way from the load to the disk.
struct Way {
    name: &'static str,
    proxy: Group,
    server: Group,
    load: Load,
    /// CPU time per message in microseconds, round by round.
    proxied: Vec<f64>,
    stored: Vec<f64>,
    /// Of that, the threads that write Maildirs.
    written: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, proxy: Group, server: Group, load: Load) -> Self {
        Self {
            name,
            proxy,
            server,
            load,
            proxied: Vec::new(),
            stored: Vec::new(),
            written: Vec::new(),
        }
    }

    fn round(&mut self, messages: usize) {
        let (proxy, server) = (self.proxy, self.server);
        let used = || [proxy.cpu(), server.cpu(), server.threads("store")];
        let before = used();
        self.load.send(messages, MESSAGE_BYTES);
        let after = used();
        let each = |which: usize| (after[which] - before[which]) / messages as f64 * 1e6;
        self.proxied.push(each(0));
        self.stored.push(each(1));
        self.written.push(each(2));
    }
}

pub(crate) fn run() {
    let messages = number("PIGEONAIR_BENCH_MESSAGES", 2000);
    let rounds = number("PIGEONAIR_BENCH_ROUNDS", 5);
    let setup = Setup::start();
    let mut ways = setup.ways();
    for way in &mut ways {
        // Caches, pools and folders.
        way.load.send(messages / 10 + 1, MESSAGE_BYTES);
    }
    for _ in 0..rounds {
        for way in &mut ways {
            way.round(messages);
        }
    }
    println!(
        "{rounds} rounds of {messages} messages of {MESSAGE_BYTES} octets, one recipient each; CPU time per message in microseconds, median (least to most)\n"
    );
    println!(
        "| way | proxy | against Dovecot's | server behind it | of that, Maildir writer | both |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let reference = median(&ways[0].proxied);
    for way in &ways {
        let both: Vec<f64> = way
            .proxied
            .iter()
            .zip(&way.stored)
            .map(|(proxied, stored)| proxied + stored)
            .collect();
        println!(
            "| {} | {} | {:.2} | {} | {} | {} |",
            way.name,
            shown(&way.proxied),
            median(&way.proxied) / reference,
            shown(&way.stored),
            if median(&way.written) > 0.0 {
                shown(&way.written)
            } else {
                "-".to_owned()
            },
            shown(&both),
        );
    }
    println!(
        "\nPeak memory of the proxy's processes in MiB, before and behind one message of 48 MiB\n"
    );
    println!("| way | before | behind |");
    println!("| --- | --- | --- |");
    for way in &mut ways {
        let before = way.proxy.peak_mib();
        way.load.send(1, LARGE_BYTES);
        println!(
            "| {} | {before:.1} | {:.1} |",
            way.name,
            way.proxy.peak_mib()
        );
    }
}

fn number(name: &str, default: usize) -> usize {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    match text.parse() {
        Ok(number) if number > 0 => number,
        _ => panic!("{name} is not a number: {text}"),
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn shown(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.0} ({least:.0} to {most:.0})", median(figures))
}
