//! Whose words are whose: octets before TLS, lines in names, tags and tables, headers of a balancer that is none, requests of
//! another protocol, and a real server that answers what it was not asked.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConnection, pki_types::ServerName};

use super::{answer, cluster, dial, filters, pop3_login, rest};
use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually},
};

/// What must stand nowhere once it was said.
const MARK: &str = "smuggledmark";

/// What an injector puts behind STARTTLS in the same segment: whole commands, halves that what comes under TLS would end,
/// a literal that would swallow it, half an exchange.
fn injections(user: &User) -> [String; 9] {
    let (name, password) = (&user.name, &user.password);
    let response = STANDARD.encode(format!("\0{name}\0{password}"));
    [
        "b NOOP\r\n".to_owned(),
        format!("b LOGIN {name} \"{password}\"\r\n"),
        format!("b AUTHENTICATE PLAIN {response}\r\n"),
        "b LOGIN attacker ".to_owned(),
        "b LOGIN attacker {100+}\r\n".to_owned(),
        "b LOGIN attacker {100}\r\n".to_owned(),
        "b AUTHENTICATE LOGIN YXR0YWNrZXI=\r\n".to_owned(),
        "b STARTTLS\r\nc NOOP\r\n".to_owned(),
        "b ID (\"x\" \"".to_owned(),
    ]
}

#[test]
fn starttls_injection_imap() {
    let (cluster, [ann, _]) = cluster("");
    for injected in injections(&ann) {
        for address in [cluster.imap(), cluster.imap_private()] {
            let mut client = Client::connect_to(address);
            client.send(format!("a STARTTLS\r\n{injected}"));
            assert!(client.line().starts_with("a OK "));
            // Fails if anything in clear stands between the answer and the handshake: the response side.
            client.encrypt(&cluster);
            client.send("d NOOP\r\n");
            let first = client.line();
            assert!(first.starts_with("d OK "), "{injected:?}: {first}");
            client.login(Method::Login, &ann.name, &ann.password).ok();
        }
    }
    assert!(!cluster.slapd_log().contains("attacker"));
}

#[test]
fn starttls_injection_pop3() {
    let (cluster, [ann, _]) = cluster("");
    let (name, password) = (&ann.name, &ann.password);
    let response = STANDARD.encode(format!("\0{name}\0{password}"));
    for injected in [
        "CAPA\r\n".to_owned(),
        format!("USER {name}\r\nPASS {password}\r\n"),
        format!("AUTH PLAIN {response}\r\n"),
        format!("USER {name}\r\n"),
        "USER attacker".to_owned(),
        "AUTH LOGIN\r\nYXR0YWNrZXI=\r\n".to_owned(),
        "STLS\r\n".to_owned(),
        "QUIT\r\n".to_owned(),
    ] {
        for address in [cluster.pop3(), cluster.pop3_private()] {
            let mut client = Client::connect_to(address);
            client.send(format!("STLS\r\n{injected}"));
            assert!(client.line().starts_with("+OK "));
            client.encrypt(&cluster);
            client.send("PASS x\r\n");
            let first = client.line();
            assert!(first.starts_with("-ERR "), "{injected:?}: {first}");
            pop3_login(&mut client, &ann);
        }
    }
    assert!(!cluster.slapd_log().contains("attacker"));
}

/// A line's end inside a name, a password or a table of ID starts no line anywhere behind.
#[test]
fn line_ends_stay_in_their_string() {
    let (mut cluster, [ann, bob]) = cluster("max_attempts = 1000\nmax_bad_commands = 1000");
    let literal = |text: &str| format!("{{{}+}}\r\n{text}", text.len());
    let mut client = Client::connect(&cluster, Channel::Plain);
    let injected = [
        format!("ann\r\nb LOGIN {MARK} x\r\n"),
        format!("ann\r\n* OK {MARK}"),
        format!("ann\nset {MARK} 0 0 1"),
        format!("ann\r{MARK}"),
        format!("ann\u{85}{MARK}"),
        format!("ann\t{MARK}"),
    ];
    for text in &injected {
        let password = literal(&format!("{}\r\n{MARK}", ann.password));
        for (name, password) in [
            (literal(text), &*literal(&ann.password)),
            ("ann".to_owned(), &password),
        ] {
            client.send(format!("a LOGIN {name} {password}\r\n"));
            let line = client.line();
            assert!(
                line.starts_with("a NO ") || line.starts_with("a BAD "),
                "{text:?}: {line}"
            );
        }
        for response in [
            format!("\0{text}\0{}", ann.password),
            format!("{text}\0ann\0{}", ann.password),
        ] {
            client.send(format!(
                "a AUTHENTICATE PLAIN {}\r\n",
                STANDARD.encode(response)
            ));
            let line = client.line();
            assert!(
                line.starts_with("a NO ") || line.starts_with("a BAD "),
                "{text:?}: {line}"
            );
        }
        let heard = answer(
            cluster.pop3(),
            format!(
                "AUTH PLAIN {}\r\n",
                STANDARD.encode(format!("\0{text}\0{}", ann.password))
            ),
        );
        assert!(heard.starts_with("-ERR "), "{text:?}: {heard}");
        // A table with such values is heard and forgotten.
        let id = [("name", text), ("x-originating-ip", text), (text, text)]
            .map(|(key, value)| format!("{} {}", literal(key), literal(value)));
        client.send(format!("i ID ({})\r\n", id.join(" ")));
        client.reply("i").ok();
    }
    // What only a trusted proxy may say of a client is not believed, and not passed on.
    client.send(format!(
        "j ID (\"x-originating-ip\" \"9.9.9.9\" \"x-originating-port\" \"99\" \"x-connected-ip\" \"9.9.9.8\" \
         \"x-session-id\" \"{MARK}\" \"x-proxy-ttl\" \"99\" \"x-forward-uid\" \"0\" \"x-forward-{MARK}\" \"1\")\r\n"
    ));
    client.reply("j").ok();
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("SELECT INBOX").ok();
    client.command("LOGOUT").ok();
    drop(client);
    let mut client = Client::connect_to(cluster.pop3());
    client.send(format!("XCLIENT ADDR=9.9.9.9 PORT=99 SESSION={MARK}\r\n"));
    assert!(client.line().starts_with("-ERR "));
    pop3_login(&mut client, &bob);
    drop(client);
    for user in [&ann, &bob] {
        eventually("its line", || cluster.sessions(&user.name).len() == 1);
        let line = cluster.sessions(&user.name).concat();
        assert!(line.contains(" client=127.0.0.1:"), "{line}");
    }
    cluster.front().stop();
    for log in ["n1", "n2"] {
        for text in [cluster.node_log(log), cluster.dovecot_log(log)] {
            assert!(!text.contains(MARK) && !text.contains("9.9.9."), "{text}");
        }
    }
    let all = [cluster.front_log(), cluster.slapd_log()].concat();
    assert!(!all.contains(MARK) && !all.contains("9.9.9."), "{all}");
    assert!(
        filters(&cluster)
            .iter()
            .all(|filter| !filter.contains("\\0D") && !filter.contains("\\0d"))
    );
}

/// A value that is a name all the same, in a line of the log: it stays a value.
#[test]
fn a_name_is_one_value_of_a_line() {
    let (cluster, _) = cluster("max_attempts = 1000");
    let mut client = Client::connect(&cluster, Channel::Plain);
    let names = [
        "x outcome=served account=ann",
        "x\" account=\"ann",
        "x\u{2028}session ended account=ann ",
        "x\u{2029}y",
        "x\\\" y",
        "x\u{1b}[2J",
    ];
    for name in names {
        let reply = client.login(Method::PlainInitial, name, "guess");
        assert!(reply.status.starts_with("NO "), "{name}: {reply:?}");
    }
    let log = cluster.front_log();
    assert!(!log.contains(['\u{2028}', '\u{2029}', '\u{1b}']), "{log}");
    let bare = without_quoted(&log);
    assert!(!bare.contains("account="), "{bare}");
    assert!(!bare.contains("session ended"), "{bare}");
    assert_eq!(
        log.matches("login failed").count(),
        names.len() - 1,
        "{log}"
    );
}

/// A text without what stands between two quotes of it, where a backslash quotes what follows.
fn without_quoted(text: &str) -> String {
    let (mut bare, mut quoted, mut characters) = (String::new(), false, text.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => {
                characters.next();
            }
            other if !quoted => bare.push(other),
            _ => (),
        }
    }
    bare
}

/// No tag turns an answer to one command into one to another, or into a response that nobody asked for.
#[test]
fn tags_cannot_forge_responses() {
    let (cluster, [ann, _]) = cluster("");
    for tag in [
        "*",
        "+",
        "* OK",
        "+ go",
        "a+",
        "+a",
        "a*b",
        "a\rb",
        "a\nb",
        "a\r* OK x",
        "\rb",
        "a\0b",
        "a\"b",
        "a(b",
        "a{5}",
        "a{5+}",
        "a%b",
        "a\\b",
        "\u{e4}",
        "a\u{2028}",
        "",
        "\t",
        "a\tb",
        "\u{7f}",
    ] {
        for command in [
            "NOOP",
            "CAPABILITY",
            "LOGOUT",
            &format!("LOGIN ann \"{}\"", ann.password),
        ] {
            let heard = answer(cluster.imap(), format!("{tag} {command}\r\n"));
            let first = heard.split("\r\n").next().unwrap();
            // Not understood, and nothing of the tag in the answer but what is a lawful one.
            let (word, status) = first.split_once(' ').unwrap();
            assert!(status.starts_with("BAD "), "{tag:?} {command}: {heard}");
            assert!(
                word == "*" || word.bytes().all(|octet| octet.is_ascii_alphanumeric()),
                "{tag:?}: {heard}"
            );
            assert!(!heard.contains("OK"), "{tag:?} {command}: {heard}");
        }
    }
}

/// A header that a balancer would send is a bad command where none is expected, and moves nobody to another address.
#[test]
fn a_proxy_header_is_a_bad_command() {
    let (cluster, [ann, _]) = cluster("");
    let v1 = "PROXY TCP4 9.9.9.9 9.9.9.8 99 143\r\n";
    let mut client = Client::connect_to(cluster.imap());
    client.send(format!("{v1}PROXY UNKNOWN\r\n"));
    for _ in 0..2 {
        let line = client.line();
        assert!(line.starts_with("PROXY BAD "), "{line}");
    }
    client.login(Method::Login, &ann.name, &ann.password).ok();
    client.command("LOGOUT").ok();
    drop(client);
    let mut client = Client::connect_to(cluster.pop3());
    client.send(v1);
    assert!(client.line().starts_with("-ERR "));
    pop3_login(&mut client, &ann);
    drop(client);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x09\x09\x09\x09\x09\x09\x09\x08\0\x63\0\x8f";
    for (address, bad) in [(cluster.imap(), "* BAD "), (cluster.pop3(), "-ERR ")] {
        let heard = answer(address, [v2.as_slice(), b"a NOOP\r\nCAPA\r\n"].concat());
        let lines: Vec<&str> = heard.lines().collect();
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with(bad) || line.starts_with("* BYE ")),
            "{heard}"
        );
        // Behind TLS the first octet of either is none of TLS.
        for said in [v1.as_bytes(), v2] {
            let mut stream = dial(if bad.starts_with('*') {
                cluster.imaps()
            } else {
                cluster.pop3s()
            });
            stream.write_all(said).unwrap();
            assert!(rest(&mut stream).len() < 16);
        }
    }
    eventually("their lines", || cluster.sessions(&ann.name).len() == 2);
    let log = cluster.front_log() + &cluster.dovecot_log("n1") + &cluster.node_log("n1");
    assert!(!log.contains("9.9.9."), "{log}");
}

/// What a page can have a browser send to a mail server.
fn request(cluster: &Cluster, ann: &User) -> String {
    format!(
        "POST /<img/src=x> HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\n\r\n\
         <img/src=//{MARK}> NOOP\r\na LOGIN {} \"{}\"\r\nb NOOP\r\nCAPA\r\nUSER {}\r\nPASS {}\r\nQUIT\r\n",
        cluster.imap(),
        ann.name,
        ann.password,
        ann.name,
        ann.password
    )
}

/// CVE-2021-3618: a request of HTTP ends at its first line, with nothing of it in the answer; and where the browser says in
/// the handshake what it speaks, it comes no further.
#[test]
fn a_request_of_http_is_closed_and_not_reflected() {
    let (cluster, [ann, _]) = cluster("");
    let post = request(&cluster, &ann);
    for said in [
        post.clone(),
        post.replace("POST", "GET"),
        post.replace("POST", "CONNECT"),
        post.replace("/1.1", "/1.0"),
    ] {
        for (address, bye) in [
            (cluster.imap(), "* BYE This is IMAP.\r\n"),
            (cluster.pop3(), "-ERR This is POP3.\r\n"),
        ] {
            assert_eq!(answer(address, &said), bye);
        }
        for (address, bye) in [
            (cluster.imaps(), "* BYE This is IMAP."),
            (cluster.pop3s(), "-ERR This is POP3."),
        ] {
            let mut client = Client::connect_tls(&cluster, address);
            client.send(&said);
            assert_eq!(client.line(), bye);
            assert!(client.rest().is_empty());
        }
    }
    for address in [cluster.imaps(), cluster.pop3s()] {
        for (protocols, agrees) in [
            (&["http/1.1"][..], false),
            (&["h2", "http/1.1"], false),
            (&["ftp"], false),
            (&["imap"], true),
            (&["http/1.1", "pop3"], true),
            (&[], true),
        ] {
            assert_eq!(
                negotiates(&cluster, address, protocols),
                agrees,
                "{protocols:?}"
            );
        }
    }
    assert_eq!(cluster.sessions(&ann.name), Vec::<String>::new());
    assert!(!cluster.front_log().contains(MARK));
}

fn negotiates(cluster: &Cluster, address: SocketAddr, protocols: &[&str]) -> bool {
    let mut config = (*cluster.trust()).clone();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(config.into(), name).unwrap();
    let mut stream = dial(address);
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

// === a real server that means no good ===

/// What a server says at its greeting, and behind each line that it reads.
type Lines = &'static [&'static str];

/// Serves every connection by the words that are chosen when it comes.
fn scripted(chosen: &Arc<Mutex<Lines>>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let chosen = Arc::clone(chosen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let lines = *chosen.lock().unwrap();
            thread::spawn(move || recite(stream.unwrap(), lines));
        }
    });
    address
}

fn recite(mut stream: TcpStream, lines: Lines) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    for said in lines {
        if stream.write_all(said.as_bytes()).is_err() {
            return;
        }
        line.clear();
        if !matches!(reader.read_line(&mut line), Ok(1..)) {
            return;
        }
    }
    // Reads on, and says no more.
    while matches!(reader.read_line(&mut line), Ok(1..)) {
        line.clear();
    }
}

/// A client hears one answer to its login, with its own tag and no line of the server's before it, whatever that said.
#[test]
fn a_real_server_cannot_answer_for_the_front() {
    // The conversation is: greeting; ID and AUTHENTICATE; CAPABILITY.
    let servers: [(Lines, bool); 10] = [
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "a OK [CAPABILITY IMAP4rev1] in\r\n",
                "* CAPABILITY IMAP4rev1 X\r\nc OK done\r\n",
            ],
            true,
        ),
        // Untagged lines in the middle of the login are the server's affair, and are not passed on.
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "* CAPABILITY IMAP4rev1 smuggledmark\r\n* OK smuggledmark\r\na OK in\r\n",
                "* CAPABILITY IMAP4rev1 X\r\nc OK smuggledmark\r\n",
            ],
            true,
        ),
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\nx OK smuggledmark\r\n",
                "a OK in\r\n",
                "c OK done\r\n",
            ],
            false,
        ),
        (&["x OK [CAPABILITY IMAP4rev1] smuggledmark\r\n"], false),
        (&["* PREAUTH smuggledmark\r\n"], false),
        (&["* BYE smuggledmark\r\n"], false),
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "x OK smuggledmark\r\n",
            ],
            false,
        ),
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "+ smuggledmark\r\n+ smuggledmark\r\n",
                "a OK\r\n",
            ],
            false,
        ),
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "a OK in\r\n",
                "* CAPABILITY IMAP4rev1\rx OK smuggledmark\r\nc OK done\r\n",
            ],
            false,
        ),
        (
            &[
                "* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n",
                "a NO smuggledmark\r\nt1 OK smuggledmark\r\n",
            ],
            false,
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "password-of-nobody").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let ann = User::new("ann", "n1", 20001);
    let chosen = Arc::new(Mutex::new(servers[0].0));
    let sections = format!(
        "[acceptor.imap]\nkind = \"login\"\nserver = \"{}\"\nmaster_user = \"m\"\nmaster_password_file = \"{}\"\n",
        scripted(&chosen),
        password.display()
    );
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login).servers(&sections))
        .user(&ann)
        .start();
    for (lines, serves) in servers {
        *chosen.lock().unwrap() = lines;
        let mut client = Client::connect(&cluster, Channel::Plain);
        client.send(format!("t1 LOGIN ann \"{}\"\r\n", ann.password));
        let heard = client.line();
        let expected = if serves { "t1 OK " } else { "t1 NO [" };
        assert!(heard.starts_with(expected), "{lines:?}: {heard}");
        assert!(!heard.contains(MARK), "{lines:?}: {heard}");
        // Nothing behind it that nobody asked for.
        client.finish_sending();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert_eq!(rest, "", "{lines:?}");
    }
}
