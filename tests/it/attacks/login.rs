//! What stands in commands and credentials: sizes, brackets, NULs, base64, and what is left of a login that failed.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{answer, cluster, filters, pop3_login, resident};
use crate::{
    client::{Channel, Client, Method},
    lab::{User, eventually, metric},
};

/// Sizes that some integer holds as another, small one; with what each would be then.
fn sizes() -> Vec<String> {
    let powers = [31, 32, 33, 63, 64, 65, 127];
    let around = powers.into_iter().flat_map(|power| {
        let size = 1_u128 << power;
        [size - 1, size, size + 1, size + 3].map(|size| size.to_string())
    });
    let long = [
        "9".repeat(50),
        format!("1{}", "0".repeat(3000)),
        format!("{}5000", "0".repeat(3000)),
    ];
    around.chain(long).collect()
}

#[test]
fn literal_lengths_that_overflow() {
    let (cluster, [ann, bob]) = cluster("");
    for size in sizes() {
        for marker in [format!("{{{size}}}"), format!("{{{size}+}}")] {
            // Whoever takes the size for 3, for 0 or for a negative one finds commands behind it.
            let injected = format!("ann \"{}\"\r\nb NOOP\r\nc NOOP\r\n", ann.password);
            let heard = answer(cluster.imap(), format!("a LOGIN {marker}\r\n{injected}"));
            assert_eq!(
                heard, "a BAD Literal too large.\r\n* BYE Literal too large.\r\n",
                "{marker}"
            );
        }
    }
    // What is no size is no literal either, and what follows stands for itself.
    for marker in [
        "{-1}", "{-1+}", "{+5}", "{+5+}", "{5++}", "{0x5}", "{5 }", "{ 5}", "{5.}", "{5-}", "{}",
        "{+}",
    ] {
        let heard = answer(cluster.imap(), format!("a LOGIN {marker}\r\nb NOOP\r\n"));
        assert!(
            heard.starts_with("a BAD ") && heard.contains("\r\nb OK "),
            "{marker}: {heard}"
        );
    }
    // Zeros in front, and chains of literals that are data.
    let password = format!("{{000{}+}}\r\n{}", bob.password.len(), bob.password);
    let mut client = Client::connect(&cluster, Channel::Plain);
    client.send(format!("a LOGIN {{00003+}}\r\nbob {password}\r\n"));
    client.reply("a").ok();
    for (count, chain) in [(2, "{5+}\r\n{5+} "), (40, "{0+}\r\n"), (1300, "{0+}\r\n")] {
        let heard = answer(
            cluster.imap(),
            format!("a LOGIN {}x\r\nb NOOP\r\n", chain.repeat(count)),
        );
        assert!(heard.starts_with("a BAD "), "{chain:?}: {heard}");
        assert!(
            heard.contains("\r\nb OK ") || heard.contains("\r\n* BYE "),
            "{chain:?}: {heard}"
        );
    }
    Client::logged_in(&cluster, Channel::Plain, &ann);
}

#[test]
fn parenthesis_bombs() {
    const MOST_KIB: usize = 16 << 10;
    let (mut cluster, [ann, _]) = cluster("");
    let before = resident(&mut cluster);
    let bombs = [
        "(".repeat(100_000),
        "()".repeat(50_000),
        "((".repeat(4000),
        "(\"a\" ".repeat(1500),
        "(\"a\" NIL) ".repeat(800),
        "({0+}\r\n".repeat(1000),
        "\"a\" (".repeat(1300),
        ")".repeat(8000),
        "[".repeat(8000),
        "{".repeat(8000),
    ];
    let start = Instant::now();
    for bomb in &bombs {
        for command in [
            "a ID ",
            "a LOGIN ",
            "a AUTHENTICATE ",
            "a AUTHENTICATE PLAIN ",
            "a LIST ",
            "",
            "a ",
        ] {
            let heard = answer(cluster.imap(), format!("{command}{bomb}\r\nb NOOP\r\n"));
            let is_refused = heard
                .lines()
                .next()
                .is_some_and(|line| line.contains(" BAD ") || line.starts_with("a NO "));
            assert!(is_refused, "{command}{}: {heard}", &bomb[..8]);
        }
        let heard = answer(cluster.pop3(), format!("{bomb}\r\nAUTH {bomb}\r\n"));
        assert!(heard.starts_with("-ERR "), "{heard}");
    }
    // A hundred at a time, each in pieces that end no line.
    let mut all: Vec<_> = (0..100)
        .map(|_| Client::connect(&cluster, Channel::Plain))
        .collect();
    for piece in 0..8 {
        for client in &mut all {
            client.send(if piece == 0 { "a ID (" } else { "((((((((" }.repeat(100));
        }
    }
    let grown = resident(&mut cluster).saturating_sub(before);
    eprintln!("brackets: {grown} KiB more, {:?}", start.elapsed());
    assert!(grown < MOST_KIB, "{grown} KiB");
    drop(all);
    Client::logged_in(&cluster, Channel::Plain, &ann);
}

/// Whoever copies a string by its length, and reads it up to a NUL, or the other way round.
#[test]
fn a_nul_ends_nothing() {
    let (cluster, [ann, _]) = cluster("");
    let own = filters(&cluster);
    let right = &ann.password;
    let plain = |text: &str| format!("a AUTHENTICATE PLAIN {}\r\n", STANDARD.encode(text));
    let login = |text: &str| STANDARD.encode(text);
    for said in [
        format!("a LOGIN \"ann\0\" \"{right}\"\r\n"),
        format!("a LOGIN \"ann\" \"{right}\0\"\r\n"),
        format!("a LOGIN \"ann\" \"{right}\0{right}\"\r\n"),
        format!("a LOGIN \"\\\0\" \"{right}\"\r\n"),
        // The string ends in a backslash, which would quote what stands behind it.
        format!("a LOGIN ann \"{right}\\\0\"\r\n"),
        format!("a LOGIN ann \"{right}\\\r\n"),
        format!("a LOGIN ann \"{right}\\"),
        format!("a LOGIN {{4+}}\r\nann\0 \"{right}\"\r\n"),
        format!("a LOGIN {{7+}}\r\nann\0bob \"{right}\"\r\n"),
        format!("a LOGIN ann {{{}+}}\r\n{right}\0\r\n", right.len() + 1),
        format!("a LOGIN ann\0 \"{right}\"\r\n"),
        plain(&format!("\0ann\0{right}\0")),
        plain(&format!("\0ann\0{right}\0\0\0")),
        plain(&format!("\0ann\0\0{right}")),
        plain(&format!("\0\0ann\0{right}")),
        plain(&format!("ann\0{right}")),
        plain(&format!("ann\0\0{right}")),
        plain("\0ann"),
        plain("\0"),
        plain("\0\0"),
        plain("\0\0\0"),
        plain("ann"),
        format!(
            "a AUTHENTICATE LOGIN {}\r\n{}\r\n",
            login("ann\0"),
            login(right)
        ),
        format!(
            "a AUTHENTICATE LOGIN {}\r\n{}\r\n",
            login("ann"),
            login(&format!("{right}\0"))
        ),
        format!(
            "a AUTHENTICATE LOGIN {}\r\n{}\r\n",
            login("\0ann\0x"),
            login(right)
        ),
    ] {
        let heard = answer(cluster.imap(), &said);
        assert!(!heard.contains("a OK"), "{said:?}: {heard}");
    }
    for said in [
        format!("USER ann\0\r\nPASS {right}\r\n"),
        format!("USER ann\r\nPASS {right}\0\r\n"),
        format!("USER ann\r\nPASS {right}\0x\r\n"),
        format!("USER ann\0bob\r\nPASS {right}\r\n"),
        format!(
            "AUTH PLAIN {}\r\n",
            STANDARD.encode(format!("\0ann\0{right}\0x"))
        ),
        format!("AUTH LOGIN\r\n{}\r\n{}\r\n", login("ann\0"), login(right)),
    ] {
        let heard = answer(cluster.pop3(), &said);
        assert!(!heard.contains("Logged in"), "{said:?}: {heard}");
    }
    // The directory never heard of anybody: neither of a part of a name nor of what lay behind one in memory.
    assert_eq!(filters(&cluster), own);
    assert!(
        !cluster.slapd_log().contains(" BIND dn=\"uid="),
        "{}",
        cluster.slapd_log()
    );
}

/// Good logins by the hundred while others send what is no base64, in every mechanism, on every connection again and again.
#[test]
fn bad_base64_disturbs_no_other_login() {
    const LOGINS: usize = 150;
    let (cluster, people) = cluster("failure_delay = \"1ms\"");
    let over = AtomicBool::new(false);
    let bad = AtomicUsize::new(0);
    let junk: Vec<Vec<u8>> = [
        b"!!!!".to_vec(),
        b"A".to_vec(),
        b"=".to_vec(),
        b"====".to_vec(),
        b"AGFubgBwdw=".to_vec(),
        b"AGFubgBwdw==AGFubgBwdw==".to_vec(),
        b"AGFu\0bgBwdw==".to_vec(),
        b"\xff\xfe\x80".to_vec(),
        b"AGFubgBwdx==".to_vec(),
        b"A".repeat(7000),
        [b"A".repeat(6999), b"*".to_vec()].concat(),
        b"*".to_vec(),
    ]
    .into();
    thread::scope(|scope| {
        for attacker in 0..3 {
            let (junk, over, bad, cluster) = (&junk, &over, &bad, &cluster);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mechanism = ["PLAIN", "LOGIN", "PLAIN"][attacker];
                    let mut client = Client::connect_to(if attacker == 2 {
                        cluster.pop3()
                    } else {
                        cluster.imap()
                    });
                    for piece in junk {
                        let begin = if attacker == 2 {
                            format!("AUTH {mechanism}\r\n")
                        } else {
                            format!("a AUTHENTICATE {mechanism}\r\n")
                        };
                        let octets = [begin.as_bytes(), piece, b"\r\n"].concat();
                        if client.try_send(&octets).is_err() {
                            break;
                        }
                        bad.fetch_add(1, Ordering::Relaxed);
                    }
                    let heard = String::from_utf8_lossy(&client.rest()).into_owned();
                    assert!(!heard.contains("OK"), "{heard}");
                }
            });
        }
        let good: Vec<_> = people
            .iter()
            .map(|user| {
                let cluster = &cluster;
                scope.spawn(move || {
                    for number in 0..LOGINS {
                        let mut client = Client::connect(cluster, Channel::Plain);
                        let reply =
                            client.login(Method::ALL[number % 3], &user.name, &user.password);
                        assert!(
                            reply.status.starts_with("OK"),
                            "{} {number}: {reply:?}",
                            user.name
                        );
                        client.send("x LOGOUT\r\n");
                    }
                })
            })
            .collect();
        let results: Vec<_> = good
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        over.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "a good login failed");
    });
    let bad = bad.into_inner();
    eprintln!(
        "{} good logins beside {bad} responses that are no base64",
        2 * LOGINS
    );
    assert!(bad > 50, "{bad}");
    for user in &people {
        eventually("each was served as who it is", || {
            cluster.sessions(&user.name).len() >= LOGINS
        });
    }
}

/// What a login that failed, was given up or was made in clear has left behind is not used by the next one.
#[test]
fn nothing_is_left_of_a_login_that_failed() {
    let (cluster, [ann, bob]) = cluster("max_attempts = 1000\nfailure_delay = \"1ms\"");
    let encoded = |text: &str| STANDARD.encode(text);
    // IMAP: the pair that counts is the last one whole.
    let mut client = Client::connect(&cluster, Channel::Plain);
    client
        .login(Method::Login, &ann.name, "wrong")
        .no("AUTHENTICATIONFAILED");
    client
        .login(Method::Login, "nobody", &ann.password)
        .no("AUTHENTICATIONFAILED");
    client
        .login(Method::Login, &bob.name, &ann.password)
        .no("AUTHENTICATIONFAILED");
    client
        .login(Method::Login, &bob.name, "")
        .no("AUTHENTICATIONFAILED");
    // A name whose password never came, and a password without a name.
    for (begin, end) in [
        (encoded("ann"), "*".to_owned()),
        (encoded("ann"), "!".to_owned()),
        (encoded(""), encoded(&ann.password)),
    ] {
        client.send(format!("x AUTHENTICATE LOGIN\r\n{begin}\r\n"));
        assert!(client.line().starts_with("+ "));
        let next = client.line();
        if next.starts_with("+ ") {
            client.send(format!("{end}\r\n"));
            assert!(client.line().starts_with("x BAD "));
        } else {
            assert!(next.starts_with("x "), "{next}");
        }
    }
    client.send(format!("y AUTHENTICATE LOGIN {}\r\n", encoded("bob")));
    assert!(client.line().starts_with("+ "));
    client.send(format!("{}\r\n", encoded(&ann.password)));
    client.reply("y").no("AUTHENTICATIONFAILED");
    client.login(Method::Login, &bob.name, &bob.password).ok();
    client.command("SELECT INBOX").ok();
    drop(client);
    assert_served_as(&cluster, &bob, 1);
    // POP3: one name, one try; neither a name nor a password outlives it.
    for steps in [
        vec![
            ("USER ann", "+OK"),
            ("PASS wrong", "-ERR"),
            (&pass(&bob), "-ERR"),
            (&pass(&ann), "-ERR"),
        ],
        vec![
            ("USER ann", "+OK"),
            ("USER bob", "+OK"),
            (&pass(&ann), "-ERR"),
        ],
        vec![("USER ann", "+OK"), ("CAPA", "+OK"), (&pass(&ann), "-ERR")],
        vec![
            ("USER ann", "+OK"),
            ("AUTH LOGIN", "+"),
            ("*", "-ERR"),
            (&pass(&ann), "-ERR"),
        ],
        vec![
            ("USER ann", "+OK"),
            ("USER \u{1}", "-ERR"),
            (&pass(&ann), "-ERR"),
        ],
        vec![("USER ann", "+OK"), ("PASS", "-ERR"), (&pass(&ann), "-ERR")],
    ] {
        let mut client = Client::connect_to(cluster.pop3());
        for (line, expected) in steps {
            client.send(format!("{line}\r\n"));
            let mut heard = client.line();
            assert!(heard.starts_with(expected), "{line}: {heard}");
            while line == "CAPA" && heard != "." {
                heard = client.line();
            }
        }
        pop3_login(&mut client, &bob);
    }
    assert_served_as(&cluster, &bob, 7);
    assert_eq!(cluster.sessions(&ann.name), Vec::<String>::new());
    // STARTTLS: neither a name, nor half an exchange, nor the count of what went before.
    let mut client = Client::connect_to(cluster.pop3());
    for (line, expected) in [("USER ann", "+OK"), ("STLS", "+OK")] {
        client.send(format!("{line}\r\n"));
        assert!(client.line().starts_with(expected), "{line}");
    }
    client.encrypt(&cluster);
    client.send(format!("{}\r\n", pass(&ann)));
    assert!(client.line().starts_with("-ERR "));
    pop3_login(&mut client, &bob);
    let metric_of = |result: &str| {
        let line = format!("pigeonair_logins_total{{protocol=\"pop3\",result=\"{result}\"}}");
        metric(cluster.front_admin(), &line)
    };
    assert_eq!(metric_of("ok"), Some(7.0));
}

fn pass(user: &User) -> String {
    format!("PASS {}", user.password)
}

fn assert_served_as(cluster: &crate::lab::Cluster, user: &User, count: usize) {
    eventually("their sessions are over", || {
        cluster.sessions(&user.name).len() == count
    });
}

/// A response of any length, one after another in one exchange, and one exchange in another.
#[test]
fn responses_that_are_too_many_or_too_large() {
    let (cluster, [ann, _]) = cluster("");
    let right = STANDARD.encode(format!("\0ann\0{}", ann.password));
    let start = Instant::now();
    for size in [300, 5000, 8000, 9000, 100_000, 1_000_000] {
        let large = STANDARD.encode([b"\0ann\0".to_vec(), vec![b'x'; size]].concat());
        for said in [
            format!("a AUTHENTICATE PLAIN {large}\r\n"),
            format!("a AUTHENTICATE PLAIN\r\n{large}\r\n"),
            format!("a AUTHENTICATE LOGIN\r\n{large}\r\n{large}\r\n"),
            format!("a AUTHENTICATE PLAIN {right}{right}\r\n"),
            format!("a AUTHENTICATE PLAIN {right} {right}\r\n"),
            format!("a AUTHENTICATE {large}\r\n"),
        ] {
            let heard = answer(cluster.imap(), said);
            assert!(!heard.contains("a OK"), "{heard}");
        }
        for said in [
            format!("AUTH PLAIN {large}\r\n"),
            format!("AUTH PLAIN\r\n{large}\r\n"),
        ] {
            let heard = answer(cluster.pop3(), said);
            assert!(heard.contains("-ERR "), "{heard}");
        }
    }
    // A command inside an exchange is a response, and none.
    let heard = answer(
        cluster.imap(),
        format!("a AUTHENTICATE PLAIN\r\nb AUTHENTICATE PLAIN {right}\r\nc NOOP\r\n"),
    );
    assert!(
        heard.contains("a BAD ") && !heard.contains("b OK") && heard.contains("c OK"),
        "{heard}"
    );
    assert!(start.elapsed() < Duration::from_secs(30));
    Client::logged_in(&cluster, Channel::Plain, &ann);
}
