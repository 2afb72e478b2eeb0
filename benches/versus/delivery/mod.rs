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
//! `PIGEONAIR_BENCH_MESSAGES` (default 2000) is what a round of a way sends.

mod load;
mod setup;

use self::{load::Load, setup::Setup};
use super::{
    figures::{Figures, Table, sum},
    plan::number,
    processes::Group,
};

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
    proxied: Figures,
    stored: Figures,
    /// Of that, the threads that write Maildirs.
    written: Figures,
}

impl Way {
    fn new(name: &'static str, proxy: Group, server: Group, load: Load) -> Self {
        Self {
            name,
            proxy,
            server,
            load,
            proxied: Figures::default(),
            stored: Figures::default(),
            written: Figures::default(),
        }
    }

    fn round(&mut self, messages: usize) {
        let (proxy, server) = (self.proxy, self.server);
        let used = || (proxy.used(), server.used(), server.threads("store"));
        let before = used();
        self.load.send(messages, MESSAGE_BYTES);
        let after = used();
        let each = |seconds: f64| seconds / messages as f64 * 1e6;
        self.proxied.push(each(after.0.since(&before.0)));
        self.stored.push(each(after.1.since(&before.1)));
        self.written.push(each(after.2 - before.2));
    }
}

pub(crate) fn run(rounds: usize) {
    let messages = number("PIGEONAIR_BENCH_MESSAGES", 2000);
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
    println!("\n## Delivery");
    let mut table = Table::new(&[
        "way",
        "proxy",
        "against Dovecot's",
        "server behind it",
        "of that, Maildir writer",
        "both",
    ]);
    for way in &ways {
        table.row(&[
            way.name.to_owned(),
            way.proxied.shown(0),
            way.proxied.against(&ways[0].proxied),
            way.stored.shown(0),
            if way.written.median() > 0.0 {
                way.written.shown(0)
            } else {
                "-".to_owned()
            },
            sum(&way.proxied, &way.stored).shown(0),
        ]);
    }
    table.print(&format!(
        "{rounds} rounds of {messages} messages of {MESSAGE_BYTES} octets, one recipient each. \
         CPU time per message in microseconds, median (least to most)."
    ));
    let mut table = Table::new(&["way", "before", "behind"]);
    for way in &mut ways {
        let before = way.proxy.peak_mib();
        way.load.send(1, LARGE_BYTES);
        let behind = way.proxy.peak_mib();
        table.row(&[
            way.name.to_owned(),
            format!("{before:.1}"),
            format!("{behind:.1}"),
        ]);
    }
    table.print(
        "Peak memory of the proxy's processes in MiB, before and behind one message of 48 MiB.",
    );
}
