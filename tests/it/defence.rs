//! Guessing, and what keeps others from being hurt by it: delays, held logins, who is let through, and fail2ban's own
//! reading of the log.

use std::{path::Path, process::Command};

use crate::{
    client::{Client, Method, dial_from},
    lab::{Cluster, User, eventually, metric},
};

const OWNER: &str = "127.200.0.1";
const GUESSER: &str = "127.200.0.2";
const STRANGER: &str = "127.200.0.3";
const PHONE: &str = "127.200.0.4";

fn cluster(defence: &str) -> (Cluster, User, User) {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::usual()
        .user(&ann)
        .user(&bob)
        .proxy("failure_delay = \"5ms\"\nmax_attempts = 1000")
        .proxy("[proxy.defence]\ntrusted_networks = []\nmax_failure_delay = \"5ms\"")
        .proxy(defence)
        .start();
    (cluster, ann, bob)
}

fn login(cluster: &Cluster, source: &str, name: &str, password: &str) -> String {
    let mut client = Client::connect_from(source, cluster.imap());
    client.login(Method::Login, name, password).status
}

const WRONG: &str = "NO [AUTHENTICATIONFAILED]";
const HELD: &str = "NO [UNAVAILABLE] Too many failed logins";

#[track_caller]
fn assert_starts(status: &str, expected: &str) {
    assert!(status.starts_with(expected), "{expected}: {status}");
}

#[test]
fn guessers_are_held_and_owners_are_not() {
    let (cluster, ann, bob) =
        cluster("max_failures_per_network = 10\nmax_failures_per_account = 5");
    assert_starts(&login(&cluster, OWNER, &ann.name, &ann.password), "OK");
    let mut guesser = Client::connect_from(GUESSER, cluster.imap());
    for guess in 0..5 {
        let reply = guesser.login(Method::Login, &ann.name, &guess.to_string());
        assert_starts(&reply.status, WRONG);
    }
    // Neither the right password nor another name for the account changes that.
    let mail = format!("u{}@example.org", ann.uid);
    for (name, answer) in [
        (ann.name.as_str(), HELD),
        ("ANN", HELD),
        (&mail, WRONG),
        ("none@example.org", WRONG),
    ] {
        let reply = guesser.login(Method::PlainInitial, name, &ann.password);
        assert_starts(&reply.status, answer);
        // The same for a name that nobody has: it does not show who is there.
        let reply = guesser.login(Method::PlainInitial, name, "guess");
        assert_starts(&reply.status, answer);
    }
    assert_starts(&login(&cluster, STRANGER, &ann.name, &ann.password), HELD);
    assert_starts(&login(&cluster, OWNER, &ann.name, &ann.password), "OK");
    assert_starts(&login(&cluster, STRANGER, &bob.name, &bob.password), "OK");
    // The guesser goes through names, until the network is used up.
    let heard = (0..10).map(|n| {
        guesser
            .login(Method::Login, &format!("x{n}"), "guess")
            .status
    });
    assert_starts(&heard.last().unwrap(), HELD);
    assert_starts(&login(&cluster, GUESSER, &bob.name, &bob.password), HELD);
    let held = "pigeonair_logins_total{protocol=\"imap\",result=\"held\"}";
    assert!(metric(cluster.front_admin(), held).unwrap() >= 5.0);
    let log = cluster.front_log();
    let reasons = [
        "denial=held reason=\"too many failed logins of this account\"",
        "denial=held reason=\"too many failed logins from this network\"",
        "denial=bad-credentials reason=\"right, but too many logins of this account have failed\"",
    ];
    for reason in reasons {
        assert!(log.contains(reason), "{reason}");
    }
}

/// Whoever types the name of an account that is not served for now, or whose entry is broken, gets no further by it.
#[test]
fn an_account_that_cannot_be_served_is_no_way_around_the_counts() {
    let ann = User::new("ann", "n1", 20001);
    let later = User::new("later", "n1", 20002).status("maintenance");
    let broken = User::new("broken", "n1", 20003).home("a\u{1}b");
    let twins = ["castor", "pollux"].map(|name| User::new(name, "n1", 20004));
    let twin = twins[0].address();
    let people = [&ann, &later, &broken, &twins[0], &twins[1]];
    let cluster = people
        .iter()
        .fold(Cluster::usual(), |builder, user| builder.user(user))
        .proxy("failure_delay = \"5ms\"\nmax_attempts = 1000")
        .proxy("[proxy.defence]\ntrusted_networks = []\nmax_failure_delay = \"5ms\"")
        .proxy("max_failures_per_account = 5")
        .start();
    const NOT_NOW: &str = "NO [UNAVAILABLE] Your mailbox is not reachable";
    // That it is there is for its owner alone to hear, and to him it counts as no failure.
    for turn in 0..4 {
        let guess = turn.to_string();
        assert_starts(&login(&cluster, GUESSER, &later.name, &guess), WRONG);
        let reply = login(&cluster, OWNER, &later.name, &later.password);
        assert_starts(&reply, NOT_NOW);
    }
    for _ in 0..10 {
        let reply = login(&cluster, OWNER, &later.name, &later.password);
        assert_starts(&reply, NOT_NOW);
    }
    // Nobody can say that these are wrong; so they are counted, however right one of them may be.
    for name in [&broken.name, &twin] {
        for guess in ["1", "2", "3", "4", &broken.password] {
            assert_starts(&login(&cluster, GUESSER, name, guess), NOT_NOW);
        }
        assert_starts(&login(&cluster, GUESSER, name, "5"), HELD);
    }
    let log = cluster.front_log();
    for reason in [
        "its status says: not now",
        "homeDirectory is empty, too long or has a control character",
        "more than one entry matches",
    ] {
        let is_told = |line: &str| {
            line.contains("WARN login failed ")
                && line.contains(" blame=entry denial=unavailable ")
                && line.contains(reason)
        };
        assert!(log.lines().any(is_told), "{reason}: {log}");
    }
    assert!(!log.contains("ERROR"), "{log}");
    // And it is no other's business who tries to be whom.
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut client = Client::connect_from(OWNER, cluster.imap());
    for other in [&broken.name, &twin, "nobody"] {
        let response = STANDARD.encode(format!("{other}\0{}\0{}", ann.name, ann.password));
        let reply = client.command(&format!("AUTHENTICATE PLAIN {response}"));
        assert_starts(&reply.status, "NO [AUTHORIZATIONFAILED]");
    }
}

#[test]
fn a_device_with_an_old_password_locks_nobody_out() {
    let (cluster, ann, _) = cluster("max_failures_per_network = 5\nmax_failures_per_account = 3");
    let mut phone = Client::connect_from(PHONE, cluster.imap());
    for _ in 0..50 {
        let reply = phone.login(Method::PlainInitial, &ann.name, "old");
        assert_starts(&reply.status, WRONG);
    }
    assert_starts(&login(&cluster, PHONE, &ann.name, &ann.password), "OK");
    assert_starts(&login(&cluster, STRANGER, &ann.name, &ann.password), "OK");
}

#[test]
fn a_network_has_so_many_connections() {
    let (cluster, ann, bob) =
        cluster("max_connections_per_network = 3\nmax_unauthenticated_per_network = 2");
    let mut sessions: Vec<_> = (0..2)
        .map(|_| Client::connect_from(OWNER, cluster.imap()))
        .collect();
    for session in &mut sessions {
        session.login(Method::Login, &ann.name, &ann.password).ok();
    }
    let _third = Client::connect_from(OWNER, cluster.imap());
    let mut fourth = Client::connect_from(OWNER, cluster.imap());
    assert_starts(&fourth.greeting, "* BYE [UNAVAILABLE] Too many connections");
    assert!(fourth.rest().is_empty());
    assert_starts(&login(&cluster, STRANGER, &bob.name, &bob.password), "OK");
    // Of those that have not logged in the oldest leaves, and its place is free at once.
    let mut first = Client::connect_from(GUESSER, cluster.imap());
    let mut others = [(); 2].map(|()| Client::connect_from(GUESSER, cluster.imap()));
    assert!(first.rest().is_empty());
    for other in &mut others {
        other.command("NOOP").ok();
    }
    drop(sessions);
    eventually("the places are free", || {
        let mut again = Client::connect_from(OWNER, cluster.imap());
        !again.greeting.starts_with("* BYE") && {
            again.command("NOOP").ok();
            true
        }
    });
    eventually("all are counted", || {
        let shed = |reason: &str| {
            let line = format!("pigeonair_connections_shed_total{{reason=\"{reason}\"}}");
            metric(cluster.front_admin(), &line).unwrap_or(0.0)
        };
        shed("network") >= 1.0 && shed("displaced") >= 1.0
    });
    assert!(cluster.front_log().contains("outcome=shed"));
}

#[test]
fn there_is_an_end_to_what_is_read_before_a_login() {
    use std::io::{Read as _, Write as _};
    let (cluster, ..) = cluster("");
    for (address, line, bye) in [
        (
            cluster.imap(),
            &b"a NOOP\r\n"[..],
            "* BYE Too many commands",
        ),
        (cluster.pop3(), b"CAPA\r\n", "-ERR Too many commands"),
    ] {
        let mut stream = dial_from(GUESSER, address);
        stream.write_all(&line.repeat(1000)).unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.contains(bye), "{heard}");
    }
    // Empty lines of SASL, long names: whatever there is besides commands.
    let mut stream = dial_from(GUESSER, cluster.imap());
    let long = format!("a ID NIL {}\r\n", "x".repeat(7000));
    stream.write_all(long.repeat(10).as_bytes()).unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.contains("* BYE Too m"), "{heard}");
    eventually("both are in the log", || {
        let log = cluster.front_log();
        log.contains("reason=commands") && log.contains("outcome=misbehaved")
    });
}

#[test]
fn when_memory_is_used_up_nobody_new_is_let_in() {
    let (mut cluster, ..) = cluster("");
    cluster.change_front(|text| {
        text.replace(
            "[proxy.defence]\n",
            "[proxy.defence]\nmax_memory = \"16MiB\"\n",
        )
    });
    // It may take a second until it notices.
    eventually("nobody is let in", || {
        let client = Client::connect_from(OWNER, cluster.imap());
        client.greeting.starts_with("* BYE [UNAVAILABLE] Too many")
    });
    let shed = "pigeonair_connections_shed_total{reason=\"memory\"}";
    assert!(metric(cluster.front_admin(), shed) >= Some(1.0));
    let limit = metric(cluster.front_admin(), "pigeonair_memory_limit_bytes");
    assert_eq!(limit, Some(16_777_216.0));
    assert!(metric(cluster.front_admin(), "pigeonair_memory_bytes") > limit);
    assert!(cluster.front_log().contains("memory is used up"));
}

/// Addresses that fail2ban would count, each as often as it did.
fn banned(log: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("fail2ban-regex")
        .args(["--out", "ip"])
        .arg(log)
        .arg(root.join("config/fail2ban/filter.d/pigeonair.conf"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn fail2ban_reads_who_guessed() {
    let (mut cluster, ann, _) = cluster("max_failures_per_account = 3");
    let log = cluster.scratch().join("front.log");
    for format in ["text", "json"] {
        if format == "json" {
            cluster.change_front(|text| text.replace("[log]\n", "[log]\nformat = \"json\"\n"));
        }
        let before = cluster.front_log().len();
        assert_starts(&login(&cluster, OWNER, &ann.name, &ann.password), "OK");
        // The second time is another device's, with an old password.
        assert_starts(&login(&cluster, OWNER, &ann.name, "mistyped"), WRONG);
        assert_starts(&login(&cluster, OWNER, &ann.name, "mistyped"), WRONG);
        let forged = "x client=9.9.9.9:9 \" client=9.9.9.9:9";
        assert_starts(&login(&cluster, GUESSER, forged, "y"), WRONG);
        for guess in 0..5 {
            login(&cluster, GUESSER, &ann.name, &guess.to_string());
        }
        // Not its doing: the directory is away.
        cluster.slapd().process.stop();
        login(&cluster, STRANGER, "nobody", "guess");
        cluster.slapd().restart();
        eventually("what was said is written", || {
            let log = cluster.front_log().split_off(before);
            log.matches("login failed").count() == 9
        });
        std::fs::write(&log, cluster.front_log().split_off(before)).unwrap();
        let banned = banned(&log);
        let count = |address: &str| banned.iter().filter(|it| *it == address).count();
        let counts = [OWNER, GUESSER, STRANGER, "9.9.9.9"].map(count);
        assert_eq!(counts, [1, 3, 0, 0], "{format}: {}", cluster.front_log());
    }
}
