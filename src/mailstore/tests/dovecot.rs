//! The kind `lmtp` before Debian's Dovecot 2.3, with the sample of `config/dovecot/`: what it makes of what it is told.

use std::process::{Child, Command, Stdio};

use super::*;

/// A Dovecot for the accounts of a lab.
struct Dovecot {
    folder: tempfile::TempDir,
    child: Child,
}

impl Dovecot {
    /// Starts it and waits until it takes mail. Its users: `u1` to `u9`, `u8@a.example`, `odd u9`.
    async fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().display();
        let mut users = String::new();
        for number in 1..10 {
            let home = lab.root.path().join(format!("u{number}"));
            fs::create_dir(&home).unwrap();
            let uid = FIRST_UID + number;
            chown(&home, Some(uid), Some(uid)).unwrap();
            for name in [
                format!("u{number}"),
                format!("u{number}@a.example"),
                format!("odd u{number}"),
            ] {
                users += &format!("{name}::{uid}:{uid}::{}::\n", home.display());
            }
        }
        fs::write(folder.path().join("users"), users).unwrap();
        let conf = folder.path().join("dovecot.conf");
        let sample = include_str!("../../../config/dovecot/lmtp.conf");
        let own = format!(
            "base_dir = {path}/run\nstate_dir = {path}/run\nlog_path = {path}/log\nssl = no\nprotocols =\n\
             default_vsz_limit = 512M\nmail_location = maildir:~/Maildir\n\
             userdb {{\n  driver = passwd-file\n  args = {path}/users\n}}\n\
             passdb {{\n  driver = static\n  args = nologin=y nopassword=y\n  deny = yes\n}}\n"
        );
        fs::write(&conf, own + sample).unwrap();
        let child = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c"])
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Dovecot is installed (Debian: dovecot-lmtpd)");
        let dovecot = Self { folder, child };
        let begun = tokio::time::Instant::now();
        while UnixStream::connect(dovecot.folder.path().join("run/lmtp-pigeonair"))
            .await
            .is_err()
        {
            assert!(begun.elapsed() < PATIENCE, "{}", dovecot.log());
            tokio::task::yield_now().await;
        }
        dovecot
    }

    fn address(&self) -> Endpoint {
        let path = self.folder.path().join("run/lmtp-pigeonair");
        Endpoint::parse(path.to_str().unwrap()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, signal);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its own children.
        self.end(rustix::process::Signal::TERM);
    }
}

/// The fields and lines of a message that Dovecot was not told to add.
fn without_received(text: &str) -> String {
    let mut inside = false;
    text.lines()
        .filter(|line| {
            inside = line.starts_with("Received: ") || inside && line.starts_with('\t');
            !inside
        })
        .fold(String::new(), |all, line| all + line + "\n")
}

fn only(lab: &Lab, user: &str) -> String {
    let mail = lab.mail(user);
    assert_eq!(mail.len(), 1, "{user}: {mail:?}");
    without_received(&fs::read_to_string(&mail[0]).unwrap())
}

#[tokio::test]
async fn dovecot_stores_what_it_is_given() {
    let lab = Lab::new();
    let dovecot = Dovecot::start(&lab).await;
    let mailstore = lab.before(dovecot.address(), Naming::Account);
    let mut several = envelope(&["u1@a.example", "u2+lists@a.example"]);
    // As accounts are called elsewhere, and one that Dovecot does not know.
    for (account, user) in [("u3@a.example", "u3"), ("odd u4", "u4"), ("nobody", "u5")] {
        let facts = RecipientFacts {
            account: AccountName::parse(account).unwrap(),
            ..recipient_facts(user)
        };
        several.recipients.push(recipient("x+y@a.example", &facts));
    }
    several.body = Body::EightBit;
    let mail = "Subject: x\r\n\r\n.\r\n..\r\nzo\u{eb}\nbare\n.\r\nMAIL\r\n";
    Box::pin(mailstore.with_front(async |front| {
        let heard = send(front, several, mail.as_bytes()).await;
        assert_eq!(
            heard,
            [STORED, STORED, STORED, STORED, "550 5.1.1"],
            "{}",
            dovecot.log()
        );
        // The same connection, a single recipient, nobody to tell of failures.
        let bounce = Envelope {
            sender: None,
            smtputf8: true,
            ..envelope(&["u6+d@a.example"])
        };
        assert_eq!(
            send(front, bounce, MAIL).await,
            [STORED],
            "{}",
            dovecot.log()
        );
    }))
    .await;
    for user in ["u1", "u2", "u3", "u4"] {
        assert_eq!(
            only(&lab, user),
            "Return-Path: <sue@b.example>\nSubject: x\n\n.\n..\nzo\u{eb}\nbare\n.\nMAIL\n"
        );
    }
    // It tells its recipient where there is one: our sign of a loop.
    assert_eq!(
        only(&lab, "u6"),
        "Return-Path: <>\nDelivered-To: u6+d\nSubject: x\n\n.body\n"
    );
    assert_eq!(lab.mail("u5").len(), 0);
    let connects = dovecot.log().matches("Connect from").count();
    // One is the wait for its start.
    assert!(connects <= 2, "{}", dovecot.log());
}

#[tokio::test]
async fn what_dovecot_stored_for_an_address_is_a_loop_when_it_comes_again() {
    let lab = Lab::new();
    let dovecot = Dovecot::start(&lab).await;
    let mailstore = lab.before(dovecot.address(), Naming::Address);
    Box::pin(mailstore.with_front(async |front| {
        let heard = send(front, envelope(&["u1@a.example"]), MAIL).await;
        assert_eq!(heard, [STORED], "{}", dovecot.log());
        let stored = fs::read_to_string(&lab.mail("u1")[0]).unwrap();
        let again = stored.replace('\n', "\r\n");
        let both = envelope(&["u1@a.example", "u2@a.example"]);
        let heard = send(front, both, again.as_bytes()).await;
        assert_eq!(heard, ["554 5.4.6", STORED], "{}", dovecot.log());
    }))
    .await;
    assert_eq!((lab.mail("u1").len(), lab.mail("u2").len()), (1, 1));
}

#[tokio::test]
async fn a_dovecot_killed_in_the_middle_of_a_message_has_not_got_it() {
    let lab = Lab::new();
    let mut dovecot = Dovecot::start(&lab).await;
    let mailstore = lab.before(dovecot.address(), Naming::Account);
    Box::pin(mailstore.with_front(async |front| {
        let begun = front.begin(envelope(&["u1@a.example"])).await;
        assert!(matches!(begun, Ok(Begun::Data)), "{}", dovecot.log());
        front.body(&[b'x'; 50_000]).await.unwrap();
        // Its children end when it does.
        dovecot.end(rustix::process::Signal::TERM);
        front.body(b"\r\nend\r\n").await.unwrap();
        let heard: Vec<_> = front
            .finish()
            .await
            .unwrap()
            .into_iter()
            .map(codes)
            .collect();
        // What the child that had the message says before it ends, or that it said nothing.
        assert!(heard[0].starts_with('4'), "{heard:?} {}", dovecot.log());
        // And it is down.
        let begun = front.begin(envelope(&["u1@a.example"])).await.unwrap();
        assert!(matches!(begun, Begun::Done(fates) if matches!(&fates[0], Fate::Temporary(_))));
    }))
    .await;
    assert_eq!(lab.mail("u1").len(), 0);
}
