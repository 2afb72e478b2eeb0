//! Programs that people use: curl, Python's imaplib, mbsync. A tool that is not there fails its test.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::lab::{Cluster, User};

fn cluster() -> (Cluster, [User; 2]) {
    let users = [
        User::new("ann", "n1", 20001).password("pass-word-of-ann"),
        User::new("bob", "n2", 20002).password("pass-word-of-bob"),
    ];
    let cluster = Cluster::usual().user(&users[0]).user(&users[1]).start();
    (cluster, users)
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn curl_appends_lists_and_fetches() {
    let (cluster, users) = cluster();
    let upload = cluster.scratch().join("upload.eml");
    let message = b"From: a@example.org\r\nSubject: by curl\r\n\r\nHello.\r\n";
    fs::write(&upload, message).unwrap();
    for user in &users {
        for base in [
            format!("imaps://{}", cluster.imaps()),
            format!("imap://{}", cluster.imap_private()),
        ] {
            let curl = |arguments: &[&str], path: &str| {
                run(Command::new("curl")
                    .args(["-sS", "--max-time", "30", "--ssl-reqd", "--cacert"])
                    .arg(cluster.ca_file())
                    .args(["-u", &format!("{}:{}", user.name, user.password)])
                    .args(arguments)
                    .arg(format!("{base}{path}")))
                .stdout
            };
            curl(&["-T", upload.to_str().unwrap()], "/INBOX");
            let list = String::from_utf8(curl(&[], "")).unwrap();
            assert!(list.contains("INBOX"), "{list}");
            assert_eq!(curl(&[], "/INBOX;MAILINDEX=1"), message);
            let flags = curl(&["-X", "STORE 1 +FLAGS \\Deleted"], "/INBOX");
            assert!(String::from_utf8_lossy(&flags).contains("\\Deleted"));
            curl(&["-X", "EXPUNGE"], "/INBOX");
        }
    }
}

const IMAPLIB: &str = r#"
import imaplib, ssl, sys
host, plain, tls, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)

def work(m, mailbox):
    assert m.login(user, password)[0] == "OK"
    assert m.create(mailbox)[0] == "OK"
    assert m.append(mailbox, r"(\Seen)", None, b"Subject: one\r\n\r\n1\r\n")[0] == "OK"
    assert m.append(mailbox, None, None, b"Subject: two\r\n\r\n2\r\n")[0] == "OK"
    assert m.select(mailbox) == ("OK", [b"2"])
    assert m.search(None, "SUBJECT", '"two"') == ("OK", [b"2"])
    assert m.fetch("2", "(BODY.PEEK[])")[1][0][1] == b"Subject: two\r\n\r\n2\r\n"
    assert m.copy("1", "INBOX")[0] == "OK"
    assert m.store("1", "+FLAGS", r"(\Deleted)")[0] == "OK"
    assert m.expunge() == ("OK", [b"1"])
    assert m.close()[0] == "OK"
    assert m.logout()[0] == "BYE"

m = imaplib.IMAP4(host, int(plain), timeout=30)
m.starttls(context)
work(m, "ByStartTls")
work(imaplib.IMAP4_SSL(host, int(tls), ssl_context=context, timeout=30), "ByTls")

m = imaplib.IMAP4(host, int(plain), timeout=30)
m.authenticate("PLAIN", lambda _: b"\0" + user.encode() + b"\0" + password.encode())
assert m.select("INBOX") == ("OK", [b"2"])
m.logout()

m = imaplib.IMAP4(host, int(plain), timeout=30)
try:
    m.login(user, "wrong")
except imaplib.IMAP4.error as refused:
    assert "AUTHENTICATIONFAILED" in str(refused), refused
else:
    raise AssertionError("a wrong password was taken")
m.login(user, password)
m.logout()
"#;

#[test]
fn imaplib_does_its_work() {
    let (cluster, users) = cluster();
    let script = cluster.scratch().join("work.py");
    fs::write(&script, IMAPLIB).unwrap();
    for user in &users {
        run(Command::new("python3")
            .arg(&script)
            .arg(cluster.imap().ip().to_string())
            .arg(cluster.imap().port().to_string())
            .arg(cluster.imaps().port().to_string())
            .arg(cluster.ca_file())
            .args([&user.name, &user.password]));
    }
}

#[test]
fn mbsync_carries_a_mailbox_both_ways() {
    let (cluster, users) = cluster();
    for user in &users {
        for number in 0..20 {
            let message =
                format!("Subject: {number}\r\nMessage-ID: <{number}@x>\r\n\r\nbody {number}\r\n");
            cluster.deliver(user, message.as_bytes());
        }
        let dir = cluster.scratch().join(&user.name);
        let inbox = dir.join("mail/INBOX");
        for folder in ["cur", "new", "tmp"] {
            fs::create_dir_all(inbox.join(folder)).unwrap();
        }
        fs::write(inbox.join("new/1.local"), "Subject: local\n\nfrom here\n").unwrap();
        let configuration = dir.join("mbsyncrc");
        fs::write(&configuration, mbsyncrc(&cluster, user, &dir)).unwrap();
        run(Command::new("mbsync")
            .arg("-c")
            .arg(&configuration)
            .arg("-a"));
        let count: usize = ["cur", "new"]
            .iter()
            .map(|folder| fs::read_dir(inbox.join(folder)).unwrap().count())
            .sum();
        assert_eq!(count, 21);
        let maildir = cluster.home(user).join("Maildir");
        let count: usize = ["cur", "new"]
            .iter()
            .map(|folder| fs::read_dir(maildir.join(folder)).unwrap().count())
            .sum();
        assert_eq!(count, 21);
    }
}

fn mbsyncrc(cluster: &Cluster, user: &User, dir: &Path) -> String {
    format!(
        "IMAPAccount account\nHost {}\nPort {}\nUser {}\nPass {}\nSSLType IMAPS\nSystemCertificates no\n\
         CertificateFile {}\nAuthMechs PLAIN\n\n\
         IMAPStore far\nAccount account\n\n\
         MaildirStore near\nPath {dir}/mail/\nInbox {dir}/mail/INBOX\n\n\
         Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Both\nSyncState {dir}/state\n",
        cluster.imaps().ip(),
        cluster.imaps().port(),
        user.name,
        user.password,
        // It compares host names only; a certificate named here is believed as it is.
        cluster.ca_file().with_file_name("server.pem").display(),
        dir = dir.display(),
    )
}
