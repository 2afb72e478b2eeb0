//! imapflow and node-pop3, as `npm/imap.cjs` and `npm/pop3.cjs` use them.
//!
//! `make deps` installs the versions that `npm/package-lock.json` names into `target/npm`.

use std::path::{Path, PathBuf};

use super::{Bench, Case, Protocol, assert_same, files};
use crate::client::Channel;

fn run(bench: &Bench, case: &Case, script: &str) {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/npm/node_modules");
    assert!(
        modules.is_dir(),
        "no {}: run `make deps`",
        modules.display()
    );
    let script: PathBuf = case.write("work.cjs", script);
    bench.run(case, |authority| {
        let mut command = case.program("node");
        command
            .env("NODE_PATH", &modules)
            .arg(&script)
            .args([&case.host(), &case.port()])
            .arg(format!("{:?}", case.channel))
            .arg(authority)
            .args([&case.user.name, &case.user.password]);
        command
    });
}

#[test]
fn imapflow() {
    let bench = Bench::start(&[(Protocol::Imap, &Channel::ALL)]);
    for case in &bench.cases {
        run(&bench, case, include_str!("npm/imap.cjs"));
        assert_same(case, files(&case.dir.join("fetched")), &bench.messages);
        // What it appended, fetched again.
        assert_same(case, files(&case.dir.join("appended")), &bench.messages);
        // It moved the ordinary message away.
        assert_same(case, bench.kept(case), &bench.unix_messages()[1..]);
        bench.sessions_were_as_meant(case);
    }
}

/// The lines of a message as POP3 carries it, its dots doubled.
fn on_the_wire(message: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            text.push(b'.');
        }
        text.extend_from_slice(line);
    }
    without_last_end(text)
}

/// node-pop3 takes the end of the last line for a part of the end of the answer or not, as octets come in.
fn without_last_end(text: Vec<u8>) -> Vec<u8> {
    text.strip_suffix(b"\r\n")
        .map(<[u8]>::to_vec)
        .unwrap_or(text)
}

#[test]
fn node_pop3() {
    // It has no STLS.
    let bench = Bench::start(&[(Protocol::Pop3, &[Channel::Implicit, Channel::Plain])]);
    for case in &bench.cases {
        run(&bench, case, include_str!("npm/pop3.cjs"));
        let fetched = files(&case.dir.join("fetched"));
        let fetched = fetched.into_iter().map(without_last_end).collect();
        let expected: Vec<_> = bench
            .messages
            .iter()
            .map(|message| on_the_wire(message))
            .collect();
        assert_same(case, fetched, &expected);
        let mut kept = bench.unix_messages();
        kept.remove(1);
        assert_same(case, bench.kept(case), &kept);
        bench.sessions_were_as_meant(case);
    }
}
