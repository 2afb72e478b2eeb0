//! mutt and neomutt on a terminal, told what to do by keys: they read all messages through a pipe, then delete one.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{Bench, Case, Protocol, assert_same, files};
use crate::client::Channel;

/// Each message through the program `keep`, the ordinary one deleted, and out.
const KEYS: &str = "<first-entry><pipe-message>./keep<enter><next-entry><pipe-message>./keep<enter>\
     <next-entry><pipe-message>./keep<enter><delete-pattern>~s ordinary<enter><sync-mailbox><quit>";

fn muttrc(case: &Case, authority: &Path) -> String {
    let (kind, path) = match (case.protocol, case.channel) {
        (Protocol::Imap, Channel::Implicit) => ("imaps", "INBOX"),
        (Protocol::Imap, _) => ("imap", "INBOX"),
        (Protocol::Pop3, Channel::Implicit) => ("pops", ""),
        (Protocol::Pop3, _) => ("pop", ""),
    };
    let starttls = if case.channel == Channel::StartTls {
        "yes"
    } else {
        "no"
    };
    format!(
        "set imap_user='{user}' imap_pass='{password}' pop_user='{user}' pop_pass='{password}'\n\
         set folder='{kind}://{address}/' spoolfile='{kind}://{address}/{path}'\n\
         set ssl_starttls={starttls} ssl_force_tls=no ssl_ca_certificates_file='{authority}'\n\
         set pipe_decode=no pipe_split=yes pipe_sep='' wait_key=no delete=yes quit=yes confirmappend=no\n\
         sleep_time=0 pop_delete=no net_inc=0 read_inc=0\n\
         push '{KEYS}'\n",
        user = case.user.name,
        password = case.user.password,
        address = case.address,
        authority = authority.display(),
    )
}

fn reads_and_deletes(program: &str, ways: &[(Protocol, &[Channel])]) {
    let bench = Bench::start(ways);
    for case in &bench.cases {
        let folder = case.dir.join("read");
        fs::create_dir(&folder).unwrap();
        let keep = case.write("keep", "#!/bin/sh\nexec cat >\"$(mktemp read/XXXXXX)\"\n");
        fs::set_permissions(keep, fs::Permissions::from_mode(0o700)).unwrap();
        // What it can't verify it asks a person about, and nobody is there to answer.
        case.distrusts.set(true);
        bench.run(case, |authority| {
            case.write("rc", &muttrc(case, authority));
            let mut command = case.program("script");
            command
                .env("TERM", "xterm")
                .args(["--quiet", "--return", "--command"])
                .arg(format!("{program} -n -F rc"))
                .arg("/dev/null");
            command
        });
        assert_same(case, files(&folder), &bench.unix_messages());
        assert_same(case, bench.kept(case), &bench.unix_messages()[1..]);
        bench.sessions_were_as_meant(case);
    }
}

#[test]
fn mutt() {
    // Keys given to it in advance do not all reach a mailbox of POP3.
    reads_and_deletes("mutt", &[(Protocol::Imap, &Channel::ALL)]);
}

#[test]
fn neomutt() {
    reads_and_deletes(
        "neomutt",
        &[
            (Protocol::Imap, &Channel::ALL),
            (Protocol::Pop3, &Channel::ALL),
        ],
    );
}
