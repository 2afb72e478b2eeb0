//! LDAP under TLS, and password hashes that other programs made, verified here.

use std::{
    collections::HashSet,
    os::unix::fs::{MetadataExt as _, chown},
    process::{Command, Stdio},
};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, Ldap, NodeSpec, User, eventually},
};

/// What the connections of the LDAP server's log did: those with TLS, and those that bound as somebody.
fn connections(log: &str) -> (HashSet<&str>, HashSet<&str>) {
    let having = |what: &str, about: &str| {
        log.lines()
            .filter(|line| line.contains(what) && line.contains(about))
            .filter_map(|line| line.split(' ').find(|word| word.starts_with("conn=")))
            .collect()
    };
    (
        having("TLS established", ""),
        having("BIND dn=\"uid=ann,", "method=128"),
    )
}

#[test]
fn ldap_under_tls_from_end_to_end() {
    for ldap in [Ldap::StartTls, Ldap::Tls] {
        let ann = User::new("ann", "n1", 20001);
        let cluster = Cluster::build()
            .node(NodeSpec::new("n1", Kind::ImapMaster))
            .ldap(ldap)
            .user(&ann)
            .start();
        let mut client = Client::connect(&cluster, Channel::Implicit);
        client
            .login(Method::Login, &ann.name, "wrong")
            .no("AUTHENTICATIONFAILED");
        client.login(Method::Login, &ann.name, &ann.password).ok();
        client.command("SELECT INBOX").ok();
        let log = cluster.slapd_log();
        let (encrypted, bound) = connections(&log);
        assert!(!bound.is_empty(), "{log}");
        assert!(bound.is_subset(&encrypted), "{ldap:?}: {log}");
        let extension = log.contains("1.3.6.1.4.1.1466.20037") || log.contains(" STARTTLS");
        assert_eq!(extension, ldap == Ldap::StartTls, "{log}");
    }
}

/// What a program prints, without the line's end.
fn made(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

const PBKDF2: &str = "import base64, hashlib, os, sys
salt = os.urandom(16)
key = hashlib.pbkdf2_hmac('sha256', sys.argv[1].encode(), salt, 20000)
ab64 = lambda octets: base64.b64encode(octets).decode().rstrip('=').replace('+', '.')
print('{PBKDF2-SHA256}20000$' + ab64(salt) + '$' + ab64(key))";

/// Accounts whose passwords were hashed by OpenLDAP, crypt(3), OpenSSL, Dovecot and Python.
fn people(node: &str) -> Vec<User> {
    type Hash<'h> = &'h dyn Fn(&str) -> String;
    let slappasswd = |password: &str, more: &[&str]| {
        made("/usr/sbin/slappasswd", &[&["-s", password], more].concat())
    };
    let doveadm = |password: &str, scheme| made("doveadm", &["pw", "-s", scheme, "-p", password]);
    let schemes: [(&str, Hash<'_>); 10] = [
        ("ssha", &|p| slappasswd(p, &["-h", "{SSHA}"])),
        ("crypt5", &|p| {
            slappasswd(p, &["-h", "{CRYPT}", "-c", "$5$%.12s"])
        }),
        ("crypt6", &|p| {
            slappasswd(p, &["-h", "{CRYPT}", "-c", "$6$rounds=6000$%.16s"])
        }),
        ("argon2i", &|p| {
            slappasswd(p, &["-h", "{ARGON2}", "-o", "module-load=argon2"])
        }),
        ("argon2id", &|p| doveadm(p, "ARGON2ID")),
        ("ssha256", &|p| doveadm(p, "SSHA256")),
        ("ssha512", &|p| doveadm(p, "SSHA512")),
        ("openssl5", &|p| {
            format!("{{CRYPT}}{}", made("openssl", &["passwd", "-5", p]))
        }),
        ("openssl6", &|p| {
            format!("{{CRYPT}}{}", made("openssl", &["passwd", "-6", p]))
        }),
        ("pbkdf2", &|p| made("python3", &["-c", PBKDF2, p])),
    ];
    (20600..)
        .zip(schemes)
        .map(|(uid, (name, make))| {
            let user = User::new(name, node, uid).password(&format!("pa\u{df} \"word\" of {name}"));
            let stored = make(&user.password);
            assert!(stored.starts_with('{') && stored.len() > 20, "{stored}");
            user.stored(&stored)
        })
        .collect()
}

fn all_log_in(cluster: &Cluster, users: &[User]) {
    for user in users {
        let mut client = Client::connect(cluster, Channel::Implicit);
        client
            .login(
                Method::PlainInitial,
                &user.name,
                &user.password.to_uppercase(),
            )
            .no("AUTHENTICATIONFAILED");
        let stored = user.stored.as_ref().unwrap();
        client
            .login(Method::PlainInitial, &user.name, stored)
            .no("AUTHENTICATIONFAILED");
        let reply = client.login(Method::PlainInitial, &user.name, &user.password);
        assert!(reply.status.starts_with("OK"), "{user:?}: {reply:?}");
        client.command("SELECT INBOX").ok();
    }
}

#[test]
fn hashes_of_other_programs_in_ldap() {
    let users = people("n1");
    let builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::ImapMaster))
        .proxy("failure_delay = \"0s\"")
        .directory("verify = \"hash\"");
    let cluster = users
        .iter()
        .fold(builder, |builder, user| builder.user(user))
        .start();
    all_log_in(&cluster, &users);
    // They were compared here: nobody bound as a user.
    assert!(!cluster.slapd_log().contains("BIND dn=\"uid="));
}

#[test]
fn hashes_of_other_programs_in_a_file() {
    let users = people("local");
    let cluster = users
        .iter()
        .fold(
            Cluster::build().single(Kind::ImapMaster),
            |builder, user| builder.user(user),
        )
        .start();
    all_log_in(&cluster, &users);
}

#[test]
fn administrators_are_told_what_ldap_says() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual().user(&ann).start();
    let uri = cluster.slapd().uri();
    let (code, out, notes) = cluster.ask(&["explain", "ann"]);
    assert_eq!((code, notes.as_str()), (Some(0), ""));
    for line in [
        "ann as login\n".to_owned(),
        "  entry           uid=ann,ou=people,dc=example,dc=org\n".to_owned(),
        format!("  server          {uri}\n"),
        "  logins          allowed\n".to_owned(),
        "  node            n1\n".to_owned(),
        "  uid             20001\n".to_owned(),
    ] {
        assert!(out.contains(&line), "{line}{out}");
    }
    let (code, out, notes) = cluster.ask(&["check", "front", "--online"]);
    assert_eq!((code, notes.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with(&format!("{uri}: ok (")), "{out}");
    cluster.slapd().process.stop();
    let (code, out, notes) = cluster.ask(&["check", "front", "--online"]);
    assert_eq!((code, out.as_str()), (Some(69), ""));
    assert!(
        notes.starts_with(&format!("{uri}: cannot connect: ")),
        "{notes}"
    );
    let (code, out, notes) = cluster.ask(&["explain", "ann"]);
    assert_eq!(code, Some(69), "{notes}");
    let error = format!("  error           directory is not available: {uri}: cannot connect: ");
    assert!(out.contains(&error), "{out}");
}

/// The row of a table that begins so, without what it begins with.
fn row<'o>(out: &'o str, key: &str) -> Option<&'o str> {
    let start = format!("  {key:<15} ");
    out.lines().find_map(|line| line.strip_prefix(&start))
}

/// The DN of ann's entry.
const ANN: &str = "uid=ann,ou=people,dc=example,dc=org";

/// What `explain` says of ann to programs, and its exit code.
fn explained(cluster: &Cluster) -> (Option<i32>, serde_json::Value) {
    let (code, out, _) = cluster.ask(&["explain", "--json", "ann"]);
    (code, serde_json::from_str(&out).unwrap())
}

/// What the front remembers of ann is ann.
fn is_ann(cached: &serde_json::Value) {
    for (key, value) in [
        ("account", "ann".into()),
        ("entry", ANN.into()),
        ("node", "n1".into()),
        ("uid", serde_json::json!(20001)),
    ] {
        assert_eq!(cached[key], value, "{cached}");
    }
}

#[test]
fn administrators_are_told_what_the_front_remembers() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual()
        .user(&ann)
        .directory("[directory.cache]\nttl = \"3s\"\nnegative_ttl = \"3s\"")
        .start();
    let (code, out, notes) = cluster.ask(&["explain", "ann"]);
    assert_eq!((code, notes.as_str()), (Some(0), ""));
    let nothing = "\n  cached          ann: nothing\n";
    assert_eq!(out.matches(nothing).count(), 2, "{out}");

    let mut kept = serde_json::Value::Null;
    eventually("the front has just learned who ann is", || {
        Client::logged_in(&cluster, Channel::Implicit, &ann);
        let (code, mut said) = explained(&cluster);
        assert_eq!(code, Some(0));
        kept = said["login"]["cached"][0].take();
        kept["state"] == "kept"
    });
    is_ann(&kept);
    let millis = |key: &str| kept[key].as_u64().unwrap();
    assert!(millis("age_ms") < 3000, "{kept}");
    assert!(millis("believed_ms") < 3000, "{kept}");
    assert!(millis("remembered_ms") > 3_500_000, "{kept}");
    // Who asked.
    let log = cluster.front_log();
    let is_told = |line: &str| {
        let parts = [
            "asked what is remembered uid=",
            " pid=",
            r#" whom="{\"login\":\"ann\",\"address\":\"ann\"}""#,
        ];
        parts.iter().all(|part| line.contains(part))
    };
    assert!(log.lines().any(is_told), "{log}");

    cluster.slapd().process.kill();
    eventually("it is too old to be believed", || {
        let (code, said) = explained(&cluster);
        assert_eq!(code, Some(69));
        let cached = &said["login"]["cached"][0];
        is_ann(cached);
        cached["state"] == "memory"
    });
    let (_, out, _) = cluster.ask(&["explain", "ann"]);
    let cached = row(&out, "cached").unwrap();
    assert!(cached.starts_with("ann: memory, "), "{out}");
    assert!(cached.ends_with(" while no LDAP server answers"), "{out}");
    assert_eq!(row(&out, "cached node"), Some("n1"), "{out}");
    assert_eq!(row(&out, "cached entry"), Some(ANN), "{out}");
}

#[test]
fn a_front_that_does_not_answer_is_told_and_the_directory_is_asked_all_the_same() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::usual().user(&ann).start();
    let socket = cluster.front_socket();
    let file = socket.metadata().unwrap();
    assert_eq!(file.mode() & 0o777, 0o600);
    let told = |cluster: &Cluster, why: &str| {
        let (code, out, notes) = cluster.ask(&["explain", "ann"]);
        assert_eq!((code, notes.as_str()), (Some(0), ""), "{out}");
        let expected = format!("cannot ask the front at {}: {why}", socket.display());
        assert_eq!(row(&out, "cached"), Some(expected.as_str()), "{out}");
        assert_eq!(row(&out, "node"), Some("n1"), "{out}");
    };
    // Somebody else's.
    chown(&socket, Some(0), Some(0)).unwrap();
    told(&cluster, "Permission denied (os error 13)");
    chown(&socket, Some(file.uid()), Some(file.gid())).unwrap();
    cluster.front().freeze();
    told(&cluster, "no answer in time");
    cluster.front().thaw();
    // Nobody's.
    cluster.front().kill();
    assert!(socket.exists());
    told(&cluster, "Connection refused (os error 111)");
    cluster.restart_front();
    let (_, out, _) = cluster.ask(&["explain", "ann"]);
    assert_eq!(row(&out, "cached"), Some("ann: nothing"), "{out}");
    cluster.front().stop();
    std::fs::remove_file(&socket).unwrap();
    told(&cluster, "No such file or directory (os error 2)");
}
