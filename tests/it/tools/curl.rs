//! curl: fetches, appends, flags and expunges by IMAP; lists, fetches and deletes by POP3.

use std::{fs, path::Path, process::Command};

use super::{Bench, Case, Protocol, assert_same};
use crate::client::Channel;

fn curl(case: &Case, authority: &Path, arguments: &[&str], path: &str) -> Command {
    let scheme = match (case.protocol, case.channel) {
        (Protocol::Imap, Channel::Implicit) => "imaps",
        (Protocol::Imap, _) => "imap",
        (Protocol::Pop3, Channel::Implicit) => "pop3s",
        (Protocol::Pop3, _) => "pop3",
    };
    let mut command = case.program("curl");
    command.args(["-sS", "--cacert"]).arg(authority);
    if case.channel != Channel::Plain {
        command.arg("--ssl-reqd");
    }
    command
        .args(["-u", &format!("{}:{}", case.user.name, case.user.password)])
        .args(arguments)
        .arg(format!("{scheme}://{}{path}", case.address));
    command
}

#[test]
fn curl_by_imap() {
    let bench = Bench::start(&[(Protocol::Imap, &Channel::ALL)]);
    for case in &bench.cases {
        let run = |arguments: &[&str], path: &str| {
            bench
                .run(case, |authority| curl(case, authority, arguments, path))
                .stdout
        };
        let list = run(&[], "");
        assert!(String::from_utf8_lossy(&list).contains("INBOX"));
        let fetch = |number| run(&[], &format!("/INBOX;MAILINDEX={number}"));
        assert_same(case, (1..=3).map(fetch).collect(), &bench.messages);
        let upload = case.dir.join("nasty.eml");
        fs::write(&upload, &bench.messages[1]).unwrap();
        run(&["-T", upload.to_str().unwrap()], "/INBOX");
        assert_same(case, vec![fetch(4)], &bench.messages[1..2]);
        let flags = run(&["-X", "STORE 4 +FLAGS \\Deleted"], "/INBOX");
        assert!(String::from_utf8_lossy(&flags).contains("\\Deleted"));
        run(&["-X", "EXPUNGE"], "/INBOX");
        assert_same(case, bench.kept(case), &bench.unix_messages());
        bench.sessions_were_as_meant(case);
    }
}

#[test]
fn curl_by_pop3() {
    let bench = Bench::start(&[(Protocol::Pop3, &Channel::ALL)]);
    for case in &bench.cases {
        let run = |arguments: &[&str], path: &str| {
            bench
                .run(case, |authority| curl(case, authority, arguments, path))
                .stdout
        };
        let list = String::from_utf8(run(&[], "/")).unwrap();
        let sizes: Vec<&str> = list
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        let expected: Vec<String> = bench
            .messages
            .iter()
            .map(|message| message.len().to_string())
            .collect();
        assert_eq!(sizes, expected);
        let found = (1..=3)
            .map(|number| run(&[], &format!("/{number}")))
            .collect();
        assert_same(case, found, &bench.messages);
        run(&["-X", "DELE", "-I"], "/1");
        assert_same(case, bench.kept(case), &bench.unix_messages()[1..]);
        bench.sessions_were_as_meant(case);
    }
}
