//! fetchmail and getmail: both take all messages away, by IMAP and by POP3.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Bench, Case, Protocol, assert_same, files, maildir};
use crate::client::Channel;

/// Nothing is added to messages and nothing left on the server.
fn fetchmailrc(case: &Case, authority: &Path, mda: &Path) -> String {
    let tls = match case.channel {
        Channel::Implicit => "ssl",
        Channel::Plain => "sslproto ''",
        Channel::StartTls => "sslproto 'TLS1.2+'",
    };
    let protocol = match case.protocol {
        Protocol::Imap => "imap",
        Protocol::Pop3 => "pop3",
    };
    format!(
        "set invisible\nset no syslog\n\
         poll {} service {} protocol {protocol} auth password\n\
         user '{}' password '{}' is root here\n\
         {tls} sslcertck sslcertfile '{}' sslcommonname 'localhost'\n\
         fetchall nokeep no rewrite pass8bits mda '{}'\n",
        case.host(),
        case.port(),
        case.user.name,
        case.user.password,
        authority.display(),
        mda.display(),
    )
}

/// A program that keeps each message in a file.
fn mda(case: &Case, folder: &Path) -> PathBuf {
    fs::create_dir(folder).unwrap();
    let script = format!(
        "#!/bin/sh\nexec cat >\"$(mktemp {}/XXXXXX)\"\n",
        folder.display()
    );
    let path = case.write("keep", &script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn fetchmail() {
    let bench = Bench::start(&[
        (Protocol::Imap, &Channel::ALL),
        (Protocol::Pop3, &Channel::ALL),
    ]);
    for case in &bench.cases {
        let folder = case.dir.join("fetched");
        let mda = mda(case, &folder);
        bench.run(case, |authority| {
            let configuration = case.write("rc", &fetchmailrc(case, authority, &mda));
            let mut command = case.program("fetchmail");
            command
                .args(["--nodetach", "--nosyslog", "-v", "-f"])
                .arg(configuration)
                .arg("--pidfile")
                .arg(case.dir.join("pid"))
                .arg("--idfile")
                .arg(case.dir.join("ids"));
            command
        });
        assert_same(case, files(&folder), &bench.unix_messages());
        assert_same(case, bench.kept(case), &[]);
        bench.sessions_were_as_meant(case);
    }
}

fn getmailrc(case: &Case, authority: &Path, folder: &Path) -> String {
    let tls = match case.channel {
        Channel::Implicit => "SSL",
        Channel::Plain => "",
        Channel::StartTls => panic!("getmail has no STARTTLS"),
    };
    let (kind, mailboxes) = match case.protocol {
        Protocol::Imap => ("IMAP", "mailboxes = (\"INBOX\",)\nrecord_mailbox = false\n"),
        Protocol::Pop3 => ("POP3", ""),
    };
    let authority = match case.channel {
        Channel::Plain => String::new(),
        _ => format!("ca_certs = {}\n", authority.display()),
    };
    format!(
        "[retriever]\ntype = Simple{kind}{tls}Retriever\nserver = {}\nport = {}\nusername = {}\npassword = {}\n\
         {mailboxes}{authority}\n\
         [destination]\ntype = Maildir\npath = {}/\n\n\
         [options]\nread_all = true\ndelete = true\ndelivered_to = false\nreceived = false\n",
        case.host(),
        case.port(),
        case.user.name,
        case.user.password,
        folder.display(),
    )
}

#[test]
fn getmail() {
    let channels: &[Channel] = &[Channel::Implicit, Channel::Plain];
    let bench = Bench::start(&[(Protocol::Imap, channels), (Protocol::Pop3, channels)]);
    for case in &bench.cases {
        let folder = case.make_maildir("fetched");
        // It delivers nothing as root.
        let status = Command::new("chown")
            .arg("--recursive")
            .arg("nobody:nogroup")
            .arg(&case.dir)
            .status()
            .unwrap();
        assert!(status.success());
        bench.run(case, |authority| {
            let configuration = case.write("rc", &getmailrc(case, authority, &folder));
            fs::set_permissions(&configuration, fs::Permissions::from_mode(0o644)).unwrap();
            let mut command = case.program("setpriv");
            command
                .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
                .arg("getmail")
                .arg("--getmaildir")
                .arg(&case.dir)
                .arg("--rcfile")
                .arg(configuration);
            command
        });
        assert_same(case, maildir(&folder), &bench.unix_messages());
        assert_same(case, bench.kept(case), &[]);
        bench.sessions_were_as_meant(case);
    }
}
