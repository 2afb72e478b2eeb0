//! Mail on its way home: SMTP, Postfix, delivery, the link, the mailbox on its node, and IMAP through the proxy.
//!
//! A message is known by its `X-Case`. What is compared is what IMAP gives: all octets of what was sent stand at the end
//! of it, and before them only what mail servers put there.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use crate::{
    lab::{Cluster, Kind, NodeSpec, Recipients, Route, Store, User, eventually, metric},
    smtp::{Smtp, lmtp, smtp},
};

const SENDER: &str = "sender@example.net";

fn ann() -> User {
    User::new("ann", "n1", 20001)
}

fn bob() -> User {
    User::new("bob", "n2", 20002)
}

/// A message with lines that end in CRLF.
fn message(case: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("X-Case: {case}\r\nFrom: {SENDER}\r\nSubject: A message\r\n\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// Waits until Postfix is done with a message; how each try ended.
#[track_caller]
fn settled(cluster: &mut Cluster, id: &str) -> Vec<String> {
    let removed = format!(": {id}: removed");
    let postfix = cluster.postfix();
    eventually(&format!("{id} leaves the queue"), || {
        postfix.log().lines().any(|line| line.ends_with(&removed))
    });
    postfix.tries(id)
}

/// The same for a message that all get at once.
#[track_caller]
fn sent(cluster: &mut Cluster, id: &str, recipients: usize) {
    let tries = settled(cluster, id);
    assert_eq!(tries.len(), recipients, "{tries:#?}");
    for line in tries {
        assert!(
            line.contains("dsn=2.") && line.contains("status=sent"),
            "{line}"
        );
    }
}

/// The only message of that case in the inbox.
#[track_caller]
fn received(cluster: &Cluster, user: &User, case: &str) -> Vec<u8> {
    let field = format!("X-Case: {case}\r\n");
    let is_it = |message: &Vec<u8>| {
        let head = position(message, b"\r\n\r\n").unwrap();
        position(&message[..head + 2], field.as_bytes()).is_some()
    };
    let mut found = cluster.inbox(user);
    found.retain(is_it);
    assert_eq!(found.len(), 1, "{case} for {}", user.name);
    found.remove(0)
}

/// Where the one octet string begins in the other.
fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Panics unless the account has the message once, whole, and with nothing before it but traces.
#[track_caller]
fn has(cluster: &Cluster, user: &User, case: &str, message: &[u8]) {
    let stored = received(cluster, user, case);
    assert!(
        stored.ends_with(message),
        "{case} for {}: {}",
        user.name,
        String::from_utf8_lossy(&stored[..stored.len().min(4000)])
    );
    let head = String::from_utf8(stored[..stored.len() - message.len()].to_vec()).unwrap();
    for line in head.lines() {
        assert!(
            ["Return-Path: <", "Delivered-To: ", "Received: ", "\t", " "]
                .iter()
                .any(|begin| line.starts_with(begin)),
            "{line}"
        );
    }
    assert!(head.starts_with("Return-Path: <"), "{head}");
    assert_eq!(head.matches("Return-Path: ").count(), 1, "{head}");
    // Dovecot writes it where there is one recipient.
    assert!(
        user.node == "n2" || head.contains("Delivered-To: "),
        "{head}"
    );
}

/// The files of an account's inbox.
fn files(cluster: &Cluster, user: &User) -> Vec<PathBuf> {
    let maildir = cluster.home(user).join("Maildir");
    ["new", "cur"]
        .iter()
        .filter_map(|folder| fs::read_dir(maildir.join(folder)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Panics unless all is the account's own, and nobody else's to read.
#[track_caller]
fn owned(cluster: &Cluster, user: &User) {
    let maildir = cluster.home(user).join("Maildir");
    let folders = ["", "new", "cur", "tmp"].map(|folder| maildir.join(folder));
    let files = files(cluster, user);
    assert!(!files.is_empty(), "{}", user.name);
    for path in folders.iter().chain(&files) {
        let status = fs::metadata(path).unwrap();
        let owner = (status.uid(), status.gid());
        assert_eq!(owner, (user.uid, user.uid), "{}", path.display());
        assert_eq!(status.mode() & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn what_people_send_arrives_as_it_was() {
    let ann = ann().alias("jürgen@example.org").alias("alias@example.org");
    let bob = bob();
    let eve = User::new("eve", "n2", 20003);
    let mut cluster = Cluster::mail().user(&ann).user(&bob).user(&eve).start();
    cluster.start_postfix(Route::Unix, Recipients::Known, "");
    let all = [&ann, &bob, &eve];
    let addresses = all.map(User::address);
    let everyone = addresses.each_ref().map(String::as_str);
    let dots = b".\r\n..\r\n.dot\r\n\r\n.\r\n...\r\nend\r\n".as_slice();
    let long = [vec![b'x'; 5000], b"\r\nend\r\n".to_vec()].concat();
    let octets: Vec<u8> = (1..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let all_octets = [octets, b"\r\n".to_vec()].concat();
    for (case, options, body) in [
        ("one-line", "", b"hello\r\n".as_slice()),
        ("empty", "", b""),
        ("dots", "", dots),
        ("last-dot", "", b"text\r\n.\r\n"),
        ("8bit", " BODY=8BITMIME", all_octets.as_slice()),
        ("long-line", "", &long),
    ] {
        let message = message(case, body);
        let mut client = smtp(cluster.postfix().address);
        client
            .command(&format!("MAIL FROM:<{SENDER}>{options}"))
            .says("250 ");
        let id = queue_rest(&mut client, &everyone, &message);
        sent(&mut cluster, &id, 3);
        for user in all {
            has(&cluster, user, case, &message);
        }
    }
    by_other_names(&mut cluster, &ann, &bob);
    for user in all {
        owned(&cluster, user);
    }
    let delivered = "pigeonair_deliveries_total{result=\"delivered\"}";
    assert_eq!(metric(cluster.front_admin(), delivered), Some(22.0));
    assert_eq!(cluster.postfix().queue(), []);
}

/// A transaction from behind MAIL to the queue's id.
#[track_caller]
fn queue_rest(client: &mut Smtp, recipients: &[&str], message: &[u8]) -> String {
    for recipient in recipients {
        client
            .command(&format!("RCPT TO:<{recipient}>"))
            .says("250 ");
    }
    client.command("DATA").says("354 ");
    client.send(crate::smtp::stuffed(message));
    let answer = client.answer();
    answer.says("250 2.0.0 Ok: queued as ");
    answer.text.rsplit(' ').next().unwrap().to_owned()
}

fn by_other_names(cluster: &mut Cluster, ann: &User, bob: &User) {
    let detail = bob.address().replace('@', "+lists@");
    for (case, recipient, user) in [
        ("alias", "alias@example.org", ann),
        ("detail", &detail, bob),
        ("capitals", &ann.address().to_uppercase(), ann),
    ] {
        let message = message(case, "hello\r\n");
        let mut client = smtp(cluster.postfix().address);
        let id = client.queue(SENDER, &[recipient], &message);
        sent(cluster, &id, 1);
        has(cluster, user, case, &message);
    }
    // Dovecot 2.3 has no SMTPUTF8, a Maildir needs none.
    let message = message("utf8", "Grüße\r\n");
    let message = ["X-Greeting: Grüße\r\n".as_bytes(), &message].concat();
    let mut client = smtp(cluster.postfix().address);
    client
        .command("MAIL FROM:<grüße@example.net> SMTPUTF8 BODY=8BITMIME")
        .says("250 ");
    let recipients = ["jürgen@example.org", &bob.address()];
    let id = queue_rest(&mut client, &recipients, &message);
    let tries = settled(cluster, &id);
    let [to_ann, to_bob] = recipients.map(|to| {
        let field = format!(" to=<{to}>, ");
        tries.iter().find(|line| line.contains(&field)).unwrap()
    });
    assert!(to_ann.contains("status=sent"), "{to_ann}");
    assert!(to_bob.contains("dsn=5.6.7, status=bounced"), "{to_bob}");
    has(cluster, ann, "utf8", &message);
}

/// One of many that is refused is refused alone, and whoever sent it hears of that.
#[test]
fn each_recipient_has_a_reply_of_its_own() {
    let (ann, bob) = (ann(), bob());
    let off = User::new("off", "n1", 20003).status("deleted");
    let late = User::new("late", "n2", 20004).status("suspended");
    let mut cluster = Cluster::mail()
        .user(&ann)
        .user(&bob)
        .user(&off)
        .user(&late)
        .start();
    cluster.start_postfix(Route::Inet, Recipients::All, "");
    let message = message("each", "hello\r\n");
    let addresses = [&ann, &bob, &off, &late].map(User::address);
    let [to_ann, to_bob, to_off, to_late] = addresses.each_ref().map(String::as_str);
    let mut client = smtp(cluster.postfix().address);
    let recipients = [to_ann, "nobody@example.org", to_bob, to_off, to_late];
    let id = client.queue(to_ann, &recipients, &message);
    let postfix = cluster.postfix();
    eventually("each has been tried", || postfix.tries(&id).len() >= 5);
    let tries = postfix.tries(&id);
    for (recipient, how, reply) in [
        (to_ann, "dsn=2.0.0, status=sent", "250 2.0.0"),
        (
            "nobody@example.org",
            "dsn=5.1.1, status=bounced",
            "550 5.1.1",
        ),
        (to_bob, "dsn=2.0.0, status=sent", "250 2.0.0"),
        (to_off, "dsn=5.2.1, status=bounced", "550 5.2.1"),
        (to_late, "dsn=4.2.1, status=deferred", "450 4.2.1"),
    ] {
        let to = format!(" to=<{recipient}>, ");
        let line = tries.iter().find(|line| line.contains(&to)).unwrap();
        assert!(line.contains(how) && line.contains(reply), "{line}");
    }
    eventually("one is left in the queue", || {
        let queue = cluster.postfix().queue();
        queue.len() == 1 && queue[0].recipients == [to_late]
    });
    for user in [&ann, &bob] {
        has(&cluster, user, "each", &message);
    }
    let expected = ["nobody@example.org", to_off];
    eventually("ann hears of both, and of nobody else", || {
        let failed = failed_recipients(&cluster, &ann);
        failed.len() == 2 && expected.iter().all(|to| failed.contains(&(*to).to_owned()))
    });
    cluster.slapd().change(&late, "employeeType", "active");
    let postfix = cluster.postfix();
    eventually("what was late is delivered", || {
        postfix.flush();
        postfix.queue().is_empty()
    });
    has(&cluster, &late, "each", &message);
}

/// Whom the notices in an inbox name.
fn failed_recipients(cluster: &Cluster, user: &User) -> Vec<String> {
    let notices = cluster.inbox(user).concat();
    String::from_utf8(notices)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "))
        .map(str::to_owned)
        .collect()
}

/// Who is unknown is refused at once where Postfix asks LDAP, and with LDAP away nobody is taken for unknown.
#[test]
fn postfix_asks_the_directory() {
    let ann = ann().alias("alias@example.org");
    let mut cluster = Cluster::mail().user(&ann).start();
    cluster.start_postfix(Route::Unix, Recipients::Known, "");
    let mut client = smtp(cluster.postfix().address);
    client
        .command(&format!("MAIL FROM:<{SENDER}>"))
        .says("250 ");
    for known in [
        &ann.address(),
        "alias@example.org",
        &ann.address().replace('@', "+x@"),
    ] {
        client.command(&format!("RCPT TO:<{known}>")).says("250 ");
    }
    for unknown in ["nobody@example.org", "*@example.org", "u*@example.org"] {
        client
            .command(&format!("RCPT TO:<{unknown}>"))
            .says("550 5.1.1 ");
    }
    client
        .command("RCPT TO:<ann@elsewhere.example>")
        .says("454 4.7.1 ");
    cluster.slapd().process.stop();
    client
        .command("RCPT TO:<other@example.org>")
        .says("451 4.3.0 ");
    assert!(cluster.postfix().queue().is_empty());
}

/// The two lookups are meant to find the same entries.
#[test]
fn the_sample_for_postfix_has_the_filter_of_the_delivery() {
    let sample = include_str!("../../config/postfix/ldap-recipients.cf");
    let theirs = sample
        .lines()
        .find_map(|line| line.strip_prefix("query_filter = "))
        .unwrap();
    let ours = include_str!("../../config/proxy.toml")
        .lines()
        .find_map(|line| line.strip_prefix("#delivery_filter = \""))
        .unwrap();
    let ours = ours.split('"').next().unwrap();
    assert_eq!(theirs, ours.replace("%u", "%s").replace("%n", "%u"));
}

/// What some servers take for the end of a message, and others don't.
const FALSE_ENDS: [&[u8]; 9] = [
    b"\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r\n\0.\r\n",
];

/// A message that has another one behind a false end.
fn smuggler(case: &str, end: &[u8], victim: &str) -> Vec<u8> {
    let second = format!(
        "MAIL FROM:<evil@example.net>\r\nRCPT TO:<{victim}>\r\nDATA\r\nX-Smuggled: yes\r\n\r\nsecond\r\n"
    );
    message(case, [b"first".as_slice(), end, second.as_bytes()].concat())
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    let (ann, bob) = (ann(), bob());
    let mut cluster = Cluster::mail().user(&ann).user(&bob).start();
    cluster.start_postfix(Route::Inet, Recipients::Known, "");
    let addresses = [ann.address(), bob.address()];
    let everyone = addresses.each_ref().map(String::as_str);
    for (index, end) in FALSE_ENDS.iter().enumerate() {
        let shown = end.escape_ascii();
        let case = format!("postfix-{index}");
        let mut client = smtp(cluster.postfix().address);
        client.begin(SENDER, &everyone);
        client.send(
            [
                &smuggler(&case, end, everyone[0]),
                b".\r\nQUIT\r\n".as_slice(),
            ]
            .concat(),
        );
        let answer = client.answer();
        answer.says("250 2.0.0 Ok: queued as ");
        client.answer().says("221 ");
        assert_eq!(client.try_answer(), None, "{shown}");
        let id = answer.text.rsplit(' ').next().unwrap();
        sent(&mut cluster, id, 2);
        let case = format!("delivery-{index}");
        let mut client = lmtp(cluster.lmtp());
        client.begin(SENDER, &everyone);
        client.send(
            [
                &smuggler(&case, end, everyone[0]),
                b".\r\nQUIT\r\n".as_slice(),
            ]
            .concat(),
        );
        client.answer().says("250 ");
        client.answer().says("250 ");
        client.answer().says("221 ");
        assert_eq!(client.try_answer(), None, "{shown}");
    }
    for user in [&ann, &bob] {
        for way in ["postfix", "delivery"] {
            for index in 0..FALSE_ENDS.len() {
                let case = format!("{way}-{index}");
                let stored = received(&cluster, user, &case);
                assert!(position(&stored, b"\nX-Smuggled: yes\r\n\r\nsecond\r\n").is_some());
            }
        }
        assert_eq!(cluster.inbox(user).len(), 2 * FALSE_ENDS.len());
    }
}

#[test]
fn fifty_mebibytes_arrive_at_two_homes() {
    let (ann, bob) = (ann(), bob());
    let mut cluster = Cluster::mail()
        .delivery("max_message_size = \"60MiB\"")
        .user(&ann)
        .user(&bob)
        .start();
    cluster.start_postfix(
        Route::Unix,
        Recipients::Known,
        "message_size_limit = 60000000",
    );
    let line = [
        b".0123456789 abcdefghijklmnopqrstuvwxyz ".repeat(2),
        b"\r\n".to_vec(),
    ]
    .concat();
    let message = message("large", line.repeat((50 << 20) / line.len() + 1));
    assert!(message.len() > 50 << 20);
    let addresses = [ann.address(), bob.address()];
    let everyone = addresses.each_ref().map(String::as_str);
    let id = smtp(cluster.postfix().address).queue(SENDER, &everyone, &message);
    sent(&mut cluster, &id, 2);
    for user in [&ann, &bob] {
        has(&cluster, user, "large", &message);
    }
}

#[test]
fn a_message_for_a_thousand() {
    const COUNT: u32 = 1000;
    // Dovecot takes its time for each.
    let home = |n| if n % 10 == 0 { "n2" } else { "n1" };
    let users: Vec<User> = (0..COUNT)
        .map(|n| User::new(&format!("user{n}"), home(n), 30_000 + n))
        .collect();
    let (some, others) = users.split_at(2);
    let mut cluster = Cluster::mail()
        .user(&some[0])
        .user(&some[1])
        .crowd(others)
        .start();
    cluster.start_postfix(Route::Unix, Recipients::All, "");
    let message = message("thousand", "hello\r\n");
    let addresses: Vec<String> = users.iter().map(User::address).collect();
    let everyone: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let id = smtp(cluster.postfix().address).queue(SENDER, &everyone, &message);
    sent(&mut cluster, &id, users.len());
    for user in &users {
        let files = files(&cluster, user);
        assert_eq!(files.len(), 1, "{}", user.name);
        let status = fs::metadata(&files[0]).unwrap();
        assert_eq!((status.uid(), status.gid()), (user.uid, user.uid));
    }
    for user in some {
        has(&cluster, user, "thousand", &message);
    }
}

#[test]
fn a_command_per_recipient() {
    let (ann, bob) = (ann(), bob());
    let mut cluster = Cluster::mail().user(&ann).user(&bob).start();
    cluster.start_postfix(Route::Pipe, Recipients::All, "");
    let message = message("pipe", ".\r\nfrom here\r\nFrom there\r\n");
    let addresses = [ann.address(), bob.address()];
    let [to_ann, to_bob] = addresses.each_ref().map(String::as_str);
    let recipients = [to_ann, to_bob, "nobody@example.org"];
    let id = smtp(cluster.postfix().address).queue(to_ann, &recipients, &message);
    let tries = settled(&mut cluster, &id);
    assert_eq!(tries.len(), 3, "{tries:#?}");
    for line in tries {
        let expected = if line.contains("to=<nobody@example.org>") {
            "dsn=5.1.1, status=bounced"
        } else {
            "dsn=2.0.0, status=sent"
        };
        assert!(line.contains(expected), "{line}");
    }
    for user in [&ann, &bob] {
        has(&cluster, user, "pipe", &message);
    }
    eventually("the bounce, which has no sender", || {
        let notice = b"Final-Recipient: rfc822; nobody@example.org";
        cluster
            .inbox(&ann)
            .iter()
            .any(|message| position(message, notice).is_some())
    });
}

/// Each process that mail passes is away for a while. Nothing is lost, nothing comes twice, and whom it does not concern
/// gets mail at once.
#[test]
fn mail_waits_in_the_queue_for_what_is_away() {
    let (ann, bob) = (ann(), bob());
    let eve = User::new("eve", "n1", 20003);
    let mut cluster = Cluster::mail().user(&ann).user(&bob).user(&eve).start();
    cluster.start_postfix(Route::Unix, Recipients::All, "");
    let both = [&ann, &bob];
    for (case, users, waits) in [
        ("front", both.as_slice(), 2),
        ("dovecot", &both, 1),
        ("node", &both, 1),
        // Who is known to the front gets mail all the same, for a while.
        ("directory", &[&eve], 1),
    ] {
        match case {
            "front" => cluster.front().stop(),
            "dovecot" => cluster.node("n2").dovecot.process.stop(),
            "node" => cluster.node("n1").acceptor().stop(),
            _ => cluster.slapd().process.stop(),
        }
        let message = message(case, "hello\r\n");
        let addresses: Vec<String> = users.iter().map(|user| user.address()).collect();
        let everyone: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let id = smtp(cluster.postfix().address).queue(SENDER, &everyone, &message);
        let postfix = cluster.postfix();
        eventually(&format!("all are tried without the {case}"), || {
            let tries = postfix.tries(&id);
            everyone
                .iter()
                .all(|to| tries.iter().any(|line| line.contains(to)))
        });
        eventually(&format!("{waits} wait for the {case}"), || {
            let queue = postfix.queue();
            queue.len() == 1 && queue[0].recipients.len() == waits
        });
        match case {
            "front" => cluster.restart_front(),
            "dovecot" => cluster.node("n2").dovecot.restart(),
            "node" => cluster.restart_acceptor("n1"),
            _ => cluster.slapd().restart(),
        }
        let postfix = cluster.postfix();
        postfix.restart();
        // One that it was about to try is otherwise left alone for minutes.
        eventually(&format!("{case} is back, and the queue empty"), || {
            postfix.flush();
            postfix.queue().is_empty()
        });
        for user in users {
            has(&cluster, user, case, &message);
        }
    }
}

/// A node whose real server is the delivery role again.
#[test]
fn a_loop_ends() {
    let ann = ann();
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).store(Store::Loop))
        .delivery("")
        .user(&ann)
        .start();
    let mut client = lmtp(cluster.lmtp());
    client
        .command(&format!("MAIL FROM:<{SENDER}>"))
        .says("250 ");
    client
        .command(&format!("RCPT TO:<{}>", ann.address()))
        .says("250 ");
    client.command("DATA").says("554 5.4.6 ");
    cluster.start_postfix(Route::Inet, Recipients::All, "");
    let message = message("loop", "hello\r\n");
    let id = smtp(cluster.postfix().address).queue(SENDER, &[&ann.address()], &message);
    let tries = settled(&mut cluster, &id);
    assert_eq!(tries.len(), 1, "{tries:#?}");
    assert!(tries[0].contains("dsn=5.4.6, status=bounced"), "{tries:#?}");
}

#[test]
fn a_full_mailbox_takes_no_more() {
    for (over_quota, reply) in [("try-later", "452 4.2.2 "), ("refuse", "552 5.2.2 ")] {
        let ann = ann().quota(20_000);
        let cluster = Cluster::build()
            .node(NodeSpec::new("n1", Kind::Login).store(Store::Maildir))
            .delivery("")
            .mailstore(&format!("over_quota = \"{over_quota}\""))
            .user(&ann)
            .start();
        let mut client = Smtp::connect_unix(&cluster.lmtp_socket());
        client.command("LHLO client.example.net").says("250-");
        let message = message("full", "0123456789abcdef\r\n".repeat(500));
        let mut deliver = || {
            client
                .deliver(SENDER, &[&ann.address()], &message)
                .remove(0)
        };
        deliver().says("250 ");
        deliver().says("250 ");
        deliver().says(reply);
        assert_eq!(cluster.inbox(&ann).len(), 2);
    }
}
