//! mbsync and offlineimap: an inbox carried both ways, messages and flags.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Bench, Case, Protocol, assert_same, maildir};
use crate::client::Channel;

/// New here, for the server.
const LOCAL: &[u8] = b"From: b@example.org\nMessage-ID: <local@example.org>\nSubject: local\n\n.\n..\nfrom here \xe4\n";

/// The file of the one message with this subject.
fn file_of(maildir: &Path, subject: &str) -> PathBuf {
    let line = format!("\nSubject: {subject}\n");
    ["cur", "new"]
        .iter()
        .flat_map(|folder| fs::read_dir(maildir.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let message = super::unix(&fs::read(path).unwrap());
            message
                .windows(line.len())
                .any(|part| part == line.as_bytes())
        })
        .unwrap_or_else(|| panic!("no {subject} in {}", maildir.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What mbsync and offlineimap write above a message they carry, to find it again.
fn without_marks(messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    messages
        .into_iter()
        .map(|message| {
            message
                .split_inclusive(|octet| *octet == b'\n')
                .filter(|line| {
                    !line.starts_with(b"X-TUID: ") && !line.starts_with(b"X-OfflineIMAP: ")
                })
                .flatten()
                .copied()
                .collect()
        })
        .collect()
}

/// Carries all to here; then a new message, a flag and a removal to there.
fn there_and_back(bench: &Bench, case: &Case, inbox: &Path, carry: impl Fn()) {
    carry();
    let found = without_marks(maildir(inbox));
    assert_same(case, found, &bench.unix_messages());
    fs::write(inbox.join("new/1.local"), LOCAL).unwrap();
    // Flagged as a mail program does it.
    let file = file_of(inbox, "ordinary");
    let name = file_name(&file);
    let name = name.split_once(":2,").map_or(&*name, |(name, _)| name);
    fs::rename(&file, inbox.join(format!("cur/{name}:2,FS"))).unwrap();
    fs::remove_file(file_of(inbox, "large")).unwrap();
    carry();
    let kept = without_marks(bench.kept(case));
    let mut left = bench.unix_messages();
    left[2] = LOCAL.to_vec();
    assert_same(case, kept, &left);
    assert_same(case, without_marks(maildir(inbox)), &left);
    let far = bench.cluster.home(&case.user).join("Maildir");
    let name = file_name(&file_of(&far, "ordinary"));
    assert!(name.ends_with(":2,FS"), "{}: {name}", case.user.name);
    bench.sessions_were_as_meant(case);
}

fn mbsyncrc(case: &Case, authority: &Path) -> String {
    let tls = match case.channel {
        Channel::Implicit => "IMAPS",
        Channel::Plain => "None",
        Channel::StartTls => "STARTTLS",
    };
    format!(
        "IMAPAccount account\nHost {}\nPort {}\nUser {}\nPass \"{}\"\nSSLType {tls}\nSystemCertificates no\n\
         CertificateFile {}\nAuthMechs {}\n\n\
         IMAPStore far\nAccount account\n\n\
         MaildirStore near\nPath {dir}/mail/\nInbox {dir}/mail/INBOX\n\n\
         Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Both\nExpunge Both\nSyncState {dir}/state\n",
        case.host(),
        case.port(),
        case.user.name,
        case.user.password,
        authority.display(),
        if case.channel == Channel::Plain {
            "LOGIN"
        } else {
            "PLAIN"
        },
        dir = case.dir.display(),
    )
}

#[test]
fn mbsync() {
    let bench = Bench::start(&[(Protocol::Imap, &Channel::ALL)]);
    for case in &bench.cases {
        let inbox = case.make_maildir("mail/INBOX");
        there_and_back(&bench, case, &inbox, || {
            bench.run(case, |authority| {
                let configuration = case.write("rc", &mbsyncrc(case, authority));
                let mut command = case.program("mbsync");
                command.arg("-c").arg(configuration).arg("-a");
                command
            });
        });
    }
}

fn offlineimaprc(case: &Case, authority: &Path) -> String {
    let tls = match case.channel {
        Channel::Implicit => format!("ssl = yes\nsslcacertfile = {}", authority.display()),
        Channel::Plain => "ssl = no\nstarttls = no".to_owned(),
        Channel::StartTls => format!(
            "ssl = no\nstarttls = yes\nsslcacertfile = {}",
            authority.display()
        ),
    };
    format!(
        "[general]\naccounts = a\nmetadata = {dir}/state\n\n\
         [Account a]\nlocalrepository = near\nremoterepository = far\n\n\
         [Repository near]\ntype = Maildir\nlocalfolders = {dir}/mail\n\n\
         [Repository far]\ntype = IMAP\nremotehost = {}\nremoteport = {}\nremoteuser = {}\nremotepass = {}\n{tls}\n\
         auth_mechanisms = PLAIN, LOGIN\nfolderfilter = lambda folder: folder == 'INBOX'\n",
        case.host(),
        case.port(),
        case.user.name,
        case.user.password,
        dir = case.dir.display(),
    )
}

/// Its library reads and writes one TLS connection from two threads without a lock. After STARTTLS with TLS 1.3, where the
/// server's tickets wake the reader before anything is asked, it often says nothing more; so it gets TLS 1.2 there.
const OPENSSL_CONF: &str = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = most\n\
                            [most]\nMaxProtocol = TLSv1.2\n";

#[test]
fn offlineimap() {
    let bench = Bench::start(&[(Protocol::Imap, &Channel::ALL)]);
    for case in &bench.cases {
        let inbox = case.dir.join("mail/INBOX");
        // After STARTTLS it verifies nothing.
        if case.channel == Channel::StartTls {
            case.distrusts.set(true);
        }
        there_and_back(&bench, case, &inbox, || {
            bench.run(case, |authority| {
                let configuration = case.write("rc", &offlineimaprc(case, authority));
                let mut command = case.program("offlineimap");
                command.args(["-o", "-u", "basic", "-c"]).arg(configuration);
                if case.channel == Channel::StartTls {
                    command.env("OPENSSL_CONF", case.write("openssl.cnf", OPENSSL_CONF));
                }
                command
            });
        });
    }
}
