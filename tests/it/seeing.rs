//! What an administrator sees of a cluster that works: metrics as Prometheus wants them.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::{
    browser::Browser,
    client::{Channel, Client, Method},
    lab::{Cluster, User, eventually, http_get},
    smtp::lmtp,
};

/// A cluster in which something of everything has happened: logins good, bad and without a home, mail taken and refused.
pub(crate) fn busy_cluster() -> Cluster {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let lost = User::new("lost", "elsewhere", 20003);
    let users = [&ann, &bob, &lost];
    let builder = users
        .iter()
        .fold(Cluster::mail(), |builder, user| builder.user(user));
    let cluster = builder.start();
    for user in users {
        let mut client = Client::connect(&cluster, Channel::Implicit);
        let wrong = client.login(Method::Login, &user.name, "wrong");
        wrong.no("AUTHENTICATIONFAILED");
        let right = client.login(Method::Login, &user.name, &user.password);
        if user.node == "elsewhere" {
            right.no("UNAVAILABLE");
            continue;
        }
        right.ok();
        client.command("NOOP").ok();
        client.command("LOGOUT").ok();
    }
    let mut mta = lmtp(cluster.lmtp());
    let answers = mta.deliver(
        "sender@example.net",
        &[ann.address().as_str(), bob.address().as_str()],
        b"Subject: A message\r\n\r\nIt has a line.\r\n",
    );
    for answer in answers {
        answer.says("250 ");
    }
    mta.command("MAIL FROM:<sender@example.net>").says("250 ");
    mta.command("RCPT TO:<nobody@example.org>").says("550 ");
    cluster
}

/// All that a process counts.
pub(crate) fn metrics(admin: SocketAddr) -> String {
    let answer = http_get(admin, "/metrics").unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Runs promtool: what it says, and that it has nothing to say against it.
#[track_caller]
pub(crate) fn promtool(arguments: &[&str], input: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus");
    // It may end before it has read all.
    let _ = tool.stdin.take().unwrap().write_all(input.as_bytes());
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn metrics_are_what_prometheus_wants() {
    let cluster = busy_cluster();
    let front = cluster.front_admin();
    let ended = "pigeonair_sessions_total{node=\"n1\",outcome=\"served\",protocol=\"imap\"} 1\n";
    eventually("sessions have ended", || metrics(front).contains(ended));
    for admin in [front, cluster.node_admin("n1"), cluster.node_admin("n2")] {
        let text = metrics(admin);
        assert_eq!(promtool(&["check", "metrics"], &text), "", "{text}");
        for name in [
            "cpu_seconds_total",
            "max_fds",
            "open_fds",
            "resident_memory_bytes",
        ] {
            assert!(
                text.contains(&format!("\nprocess_{name} ")),
                "{name}: {text}"
            );
        }
    }
    // The checker checks.
    let wrong = "# TYPE pigeonair_thing counter\npigeonair_thing 1\n";
    let refused = std::panic::catch_unwind(|| promtool(&["check", "metrics"], wrong));
    assert!(refused.is_err());
    let text = metrics(front);
    for stage in [
        "accept",
        "tls",
        "authenticate",
        "link",
        "opening",
        "login",
        "first-byte",
    ] {
        let line = format!("\npigeonair_stage_seconds_count{{stage=\"{stage}\"}} ");
        assert!(text.contains(&line), "{stage}: {text}");
    }
    for line in [
        "pigeonair_login_failures_total{blame=\"client\",stage=\"authenticate\"} 3",
        "pigeonair_login_failures_total{blame=\"directory\",stage=\"resolve\"} 1",
        "pigeonair_logins_total{protocol=\"imap\",result=\"ok\"} 2",
        "pigeonair_node_open_seconds_count{node=\"n1\"} 1",
        "pigeonair_node_sessions_open{node=\"n1\",protocol=\"imap\"} 0",
        "pigeonair_deliveries_total{result=\"delivered\"} 2",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
    }
    let node = metrics(cluster.node_admin("n1"));
    let handed = "\npigeonair_stage_seconds_count{stage=\"hand-over\"} 1\n";
    assert!(node.contains(handed), "{node}");
}

/// The figure of a tile.
fn tile(browser: &mut Browser, name: &str) -> String {
    let expression = format!(
        "[...document.querySelectorAll('.tile')].find(tile => tile.textContent.startsWith({name:?}))?.querySelector('b').textContent ?? ''"
    );
    browser.eval(&expression).as_str().unwrap().to_owned()
}

/// It has asked this process, more than once, and nothing has gone wrong in it.
#[track_caller]
fn asks_nobody_else(browser: &Browser, admin: SocketAddr) {
    assert_eq!(browser.troubles, [""; 0]);
    let own = format!("http://{admin}/");
    let is_own = |url: &&String| url.starts_with(&own) || *url == "data:,";
    let elsewhere: Vec<&String> = browser.requests.iter().filter(|url| !is_own(url)).collect();
    assert_eq!(elsewhere, [""; 0]);
    let asked = browser
        .requests
        .iter()
        .filter(|url| url.ends_with("/status.json"));
    assert!(asked.count() > 1);
}

#[test]
fn the_status_page_shows_what_is_counted_and_follows_it() {
    let mut cluster = busy_cluster();
    let ann = User::new("ann", "n1", 20001);
    let front = cluster.front_admin();
    let mut browser = Browser::start(1600, 1000, false);
    browser.open(&format!("http://{front}/"));
    browser.says("#state", "ready");
    assert_eq!(tile(&mut browser, "Sessions"), "0");
    let nodes = browser.text("#nodes tbody");
    assert!(nodes.contains("n1") && nodes.contains("n2"), "{nodes}");
    for (selector, words) in [
        ("#failures", "client: wrong or refused3 of 3 in all"),
        ("#failures", "directory, at resolve1 of 1 in all"),
        ("#deliveries", "delivered2 of 2 in all"),
        ("#directory", "followed by"),
        ("#process", "panics\u{2713} none"),
        ("#nodes tbody tr", "\u{2713} up"),
        ("#stages", "authenticate"),
    ] {
        browser.says(selector, words);
    }
    // Somebody logs in, and leaves.
    let client = Client::logged_in(&cluster, Channel::Implicit, &ann);
    eventually("one session", || tile(&mut browser, "Sessions") == "1");
    let label = "document.querySelector('#sessions svg').getAttribute('aria-label')";
    let label = browser.eval(label).as_str().unwrap().to_owned();
    assert!(label.starts_with("Sessions: now sessions 1,"), "{label}");
    drop(client);
    eventually("none again", || tile(&mut browser, "Sessions") == "0");
    // The same figures by the other way.
    let counted = browser.eval("fetch('metrics').then(answer => answer.text())");
    let counted = counted.as_str().unwrap();
    assert!(counted.contains("pigeonair_logins_total{protocol=\"imap\",result=\"ok\"} 3\n"));
    let logins = "last.counts.logins.find(row => row.result === 'ok').total";
    assert_eq!(browser.eval(logins), 3);
    asks_nobody_else(&browser, front);
    // It says so when nobody answers any more, and when somebody does again.
    cluster.front().stop();
    browser.says("#alarm", "No answer since ");
    browser.says("#state", "no answer");
    cluster.restart_front();
    browser.says("#state", "\u{2713} ready");
    assert_eq!(
        browser.eval("document.getElementById('alarm').hidden"),
        true
    );
}

#[test]
fn a_node_has_a_page_of_its_own() {
    let cluster = busy_cluster();
    let node = cluster.node_admin("n1");
    let mut browser = Browser::start(390, 844, true);
    browser.open(&format!("http://{node}/status"));
    browser.says("#who", "node n1 on ");
    browser.says("#handovers", "login: ok1 of 1 in all");
    browser.says("#stored", "maildir: stored1 of 1 in all");
    browser.says("#stages", "hand-over");
    // It fits a telephone: nothing is wider than the screen.
    let width = browser.eval("document.documentElement.scrollWidth");
    assert_eq!(width, 390);
    assert_eq!(browser.troubles, [""; 0]);
}

#[test]
fn commands_say_what_the_page_shows() {
    let mut cluster = busy_cluster();
    let ann = User::new("ann", "n1", 20001);
    let _client = Client::logged_in(&cluster, Channel::Implicit, &ann);
    eventually("the session is counted", || {
        cluster
            .ask(&["status"])
            .1
            .contains("sessions       IMAP 1, POP3 0")
    });
    let (code, out, notes) = cluster.ask(&["status", "front"]);
    assert_eq!((code, notes.as_str()), (Some(0), ""));
    for words in [
        "front on ",
        ": ready, version ",
        "logins         bad-credentials 3 (3), ok 3 (3)",
        "client/authenticate 3 (3)",
        "directory/resolve 1 (1)",
        "a login takes  ",
        "deliveries     delivered 2 (2)",
        "changes are followed by ",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (code, out, _) = cluster.ask(&["status", "--json"]);
    assert_eq!(code, Some(0));
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(figures["sessions"]["imap"], 1);
    let (code, out, _) = cluster.ask(&["nodes"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("NODE  STATE "), "{out}");
    assert!(
        lines[1].starts_with("n1    up       1 ") || lines[1].starts_with("n1    up     1 "),
        "{out}"
    );
    assert!(lines[2].starts_with("n2    up "), "{out}");
    let (_, out, _) = cluster.ask(&["nodes", "--json"]);
    let nodes: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(nodes[0]["name"], "n1");
    assert_eq!(nodes[0]["sessions"]["imap"], 1);
    cluster.front().stop();
    let (code, out, notes) = cluster.ask(&["nodes"]);
    assert_eq!((code, out.as_str()), (Some(69), ""));
    assert!(
        notes.starts_with("pigeonair: cannot ask at ") && notes.contains("front.sock"),
        "{notes}"
    );
}

/// Here it is root, which the front's keys may not belong to.
#[test]
fn whoever_may_not_read_the_keys_may_ask() {
    let cluster = Cluster::usual().start();
    let file = cluster.front_socket().with_file_name("pigeonair.toml");
    for command in [&["nodes"][..], &["status"], &["status", "front"]] {
        let arguments = [command, &["--config", file.to_str().unwrap()]].concat();
        let (code, _, notes) = cluster.ask_as(0, &arguments);
        assert_eq!((code, notes.as_str()), (Some(0), ""), "{command:?}");
    }
    let file = cluster.node_file("n1", "pigeonair.toml");
    let (code, out, notes) = cluster.ask_as(0, &["status", "--config", file.to_str().unwrap()]);
    assert_eq!((code, notes.as_str()), (Some(0), ""));
    assert!(out.starts_with("node n1 on "), "{out}");
}

/// A front that knows nobody needs its directory.
#[test]
fn status_of_a_front_that_is_not_ready() {
    let mut cluster = Cluster::usual().start();
    cluster.slapd().process.stop();
    eventually("not ready", || cluster.ask(&["status"]).0 == Some(69));
    let (_, out, notes) = cluster.ask(&["status"]);
    assert!(out.contains(": not ready, "), "{out}");
    assert!(
        notes.starts_with("pigeonair: the process is not ready: directory "),
        "{notes}"
    );
}

/// From the client's session to the real server, and from the MTA's message to the mailbox: one id each.
#[test]
fn one_id_leads_from_log_to_log() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let cluster = Cluster::mail().user(&ann).user(&bob).start();
    for user in [&ann, &bob] {
        let mut client = Client::logged_in(&cluster, Channel::Implicit, user);
        client.command("LOGOUT").ok();
        drop(client);
        let session = id(&cluster, "session ended", user);
        let mut mta = lmtp(cluster.lmtp());
        let said = mta.deliver(
            "sender@example.net",
            &[&user.address()],
            b"X: y\r\n\r\nHello.\r\n",
        );
        said[0].says("250 ");
        let message = id(&cluster, "message delivered", user);
        for (words, id) in [("session ended", &session), ("message stored", &message)] {
            let field = format!(" session={id} ");
            eventually(&format!("{words}{field}at {}", user.node), || {
                let log = cluster.node_log(&user.node);
                let mut lines = log.lines().filter(|line| line.contains(words));
                lines.any(|line| line.contains(&field))
            });
        }
        eventually("the real server's log has it", || {
            cluster.dovecot_log(&user.node).contains(&session)
        });
    }
}

/// The id in the first line of the front that says so of an account.
fn id(cluster: &Cluster, words: &str, user: &User) -> String {
    let account = format!(" account={} ", user.name);
    let mut found = None;
    eventually(&format!("{words}{account}"), || {
        let log = cluster.front_log();
        let mut lines = log.lines().filter(|line| line.contains(words));
        let line = lines.find(|line| line.contains(&account));
        let field = line.and_then(|line| {
            line.split(' ')
                .find_map(|field| field.strip_prefix("session="))
        });
        found = field.map(str::to_owned);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn the_journal_is_given_priorities_and_no_second_time() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual().user(&ann).start();
    let before = cluster.front_log().len();
    cluster.front().stop();
    let stopped = cluster.front_log().len();
    cluster.restart_front_in_a_journal();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    client.login(Method::Login, "ann", "wrong");
    cluster.slapd().process.stop();
    client.login(Method::Login, "somebody", "x");
    for line in [
        "\n<6>INFO login failed session=",
        "\n<3>ERROR login failed session=",
    ] {
        eventually(line, || cluster.front_log().contains(line));
    }
    let log = cluster.front_log();
    assert!(
        log[before..stopped]
            .lines()
            .all(|line| line.starts_with("20"))
    );
    for line in log[stopped..].lines() {
        let (priority, rest) = line.split_once('>').unwrap();
        assert!(["<3", "<4", "<6", "<7"].contains(&priority), "{line}");
        assert!(
            rest.starts_with(|first: char| first.is_ascii_uppercase()),
            "{line}"
        );
    }
}
