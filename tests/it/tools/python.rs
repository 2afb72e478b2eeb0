//! Python's imaplib and poplib, as `imap.py` and `pop3.py` beside this file use them.

use std::path::Path;

use super::{Bench, Case, Protocol, assert_same, files};
use crate::client::Channel;

fn run(bench: &Bench, case: &Case, script: &str) {
    let script = case.write("work.py", script);
    bench.run(case, |authority: &Path| {
        let mut command = case.program("/usr/bin/python3");
        command
            .arg(&script)
            .args([&case.host(), &case.port()])
            .arg(format!("{:?}", case.channel))
            .arg(authority)
            .args([&case.user.name, &case.user.password]);
        command
    });
}

#[test]
fn imaplib() {
    let bench = Bench::start(&[(Protocol::Imap, &Channel::ALL)]);
    for case in &bench.cases {
        run(&bench, case, include_str!("imap.py"));
        assert_same(case, files(&case.dir.join("fetched")), &bench.messages);
        // What it appended, fetched again.
        assert_same(case, files(&case.dir.join("appended")), &bench.messages);
        // It moved the ordinary message away.
        assert_same(case, bench.kept(case), &bench.unix_messages()[1..]);
        bench.sessions_were_as_meant(case);
    }
}

#[test]
fn poplib() {
    let bench = Bench::start(&[(Protocol::Pop3, &Channel::ALL)]);
    for case in &bench.cases {
        run(&bench, case, include_str!("pop3.py"));
        assert_same(case, files(&case.dir.join("fetched")), &bench.messages);
        // It deleted the second one, and another one in a session that it reset.
        let mut kept = bench.unix_messages();
        kept.remove(1);
        assert_same(case, bench.kept(case), &kept);
        bench.sessions_were_as_meant(case);
    }
}
