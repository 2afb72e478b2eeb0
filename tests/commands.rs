//! The program as service managers see it: exit codes, what is on which stream.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail that way"
)]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pigeonair"))
        .args(arguments)
        .output()
        .unwrap();
    let [out, notes] =
        [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    (output.status.code().unwrap(), out, notes)
}

#[test]
fn questions_succeed() {
    let (code, out, notes) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("pigeonair "), "{out}");
    assert_eq!(notes, "");
    let (code, out, _) = run(&["key"]);
    assert_eq!((code, out.len()), (0, 65));
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [
        &[] as &[&str],
        &["start"],
        &["run", "all"],
        &["key", "--to", "x"],
    ] {
        let (code, out, notes) = run(arguments);
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}");
        assert!(!notes.is_empty());
    }
}

#[test]
fn a_bad_configuration_is_78_with_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    fs::write(&path, "[proxy]\ncolour = 1\n[acceptor]\nfrom = 1\n").unwrap();
    let path = path.to_str().unwrap();
    for (command, some) in [
        (
            &["check"] as &[&str],
            &["proxy.colour: ", "directory: ", "acceptor.from: "] as &[&str],
        ),
        (&["check", "front"], &["proxy.colour: ", "nodes: "]),
        (&["run", "front"], &["proxy.colour: ", "nodes: "]),
        (&["run", "node"], &["acceptor.from: ", "acceptor.name: "]),
    ] {
        let arguments = [command, &["--config", path]].concat();
        let (code, out, notes) = run(&arguments);
        assert_eq!((code, out.as_str()), (78, ""), "{arguments:?}");
        for key in some {
            let line = format!("{path}: {key}");
            assert!(
                notes.lines().any(|found| found.starts_with(&line)),
                "{notes}"
            );
        }
    }
    let (code, _, notes) = run(&["run", "node", "--config", "/nowhere/x.toml"]);
    assert_eq!(code, 78);
    assert_eq!(
        notes,
        "/nowhere/x.toml: cannot read it: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_key_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.key");
    let arguments = ["key", "--out", path.to_str().unwrap()];
    assert_eq!(run(&arguments), (0, String::new(), String::new()));
    let key = fs::read(&path).unwrap();
    assert_eq!(run(&arguments).0, 73);
    assert_eq!(fs::read(&path).unwrap(), key);
}

/// A folder with the files of a whole single machine, and its configuration.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = pem("CERTIFICATE", pair.cert.der());
        let cert_key = pem("PRIVATE KEY", &pair.signing_key.serialize_der());
        let key = "0123456789abcdef".repeat(4);
        for (name, content) in [
            ("cert.pem", cert),
            ("cert.key", cert_key),
            ("link.key", key),
            ("password", "secret\n".to_owned()),
            ("accounts.toml", String::new()),
        ] {
            machine.write(name, &content, 0o600);
        }
        fs::create_dir(machine.path("mail")).unwrap();
        machine
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path(name), mode).unwrap();
    }

    /// Everything in order; front and node listen on these ports of loopback.
    fn configuration(&self, imap: u16, link: u16) -> String {
        let dir = self.0.path().display();
        format!(
            "[admin]\nfront = \"127.0.0.1:0\"\nnode = \"127.0.0.1:0\"\n\
             [proxy.tls]\ncertificate = \"{dir}/cert.pem\"\nkey = \"{dir}/cert.key\"\n\
             [[proxy.listen]]\naddress = \"127.0.0.1:{imap}\"\nprotocol = \"imap\"\n\
             [directory]\nkind = \"file\"\n[directory.file]\npath = \"{dir}/accounts.toml\"\n\
             [[nodes.node]]\nname = \"local\"\naddress = \"127.0.0.1:{link}\"\nkey_id = \"k\"\nkey_file = \"{dir}/link.key\"\n\
             [acceptor]\nname = \"local\"\nhome_root = \"{dir}/mail\"\n\
             [[acceptor.listen]]\naddress = \"127.0.0.1:{link}\"\n\
             [[acceptor.key]]\nid = \"k\"\nfile = \"{dir}/link.key\"\n\
             [acceptor.imap]\nkind = \"login\"\nserver = \"127.0.0.1:1\"\nmaster_user = \"m\"\n\
             master_password_file = \"{dir}/password\"\n"
        )
    }

    fn run(&self, command: &[&str], configuration: &str) -> (i32, String, String) {
        self.write("pigeonair.toml", configuration, 0o644);
        let path = self.path("pigeonair.toml");
        run(&[command, &["--config", &path]].concat())
    }
}

/// Each mistake alone: `check` and `run` say the same words and end with the same code, and nothing is bound, although
/// only one thing of many is wrong.
#[test]
fn check_says_what_run_would_and_run_starts_nothing() {
    let machine = Machine::new();
    // Held, so that a process that binds before it has read everything ends with another code.
    let (imap, link) = (listener(), listener());
    let good = machine.configuration(port(&imap), port(&link));
    let (code, out, notes) = machine.run(&["check"], &good);
    assert_eq!((code, notes.as_str()), (0, ""), "{out}");
    assert!(
        out.contains(": ok (front: 1 listener and 1 node, node: local)"),
        "{out}"
    );

    machine.write("loose.key", &"ab".repeat(32), 0o644);
    machine.write("short.key", "abcdef", 0o600);
    machine.write("none.toml", "account = 1", 0o600);
    machine.write("bad.toml", "[[account]]\nname = \"ann\"\n", 0o600);
    machine.write("loose.toml", "", 0o644);
    let listen = format!("address = \"127.0.0.1:{}\"\nprotocol", port(&imap));
    let twice = format!(
        "address = \"127.0.0.1:{}\"\nprotocol = \"imap\"\n[[proxy.listen]]\n{listen}",
        port(&imap)
    );
    let front: [(&str, &str, &str); 8] = [
        ("cert.key", "link.key", "proxy.tls.key"),
        ("cert.pem", "nowhere.pem", "proxy.tls.certificate"),
        ("accounts.toml", "none.toml", "directory.file.path"),
        ("accounts.toml", "bad.toml", "directory.file.path"),
        ("accounts.toml", "loose.toml", "directory.file.path"),
        ("/link.key", "/loose.key", "nodes.node[1].key_file"),
        (
            "[proxy.tls]",
            "[proxy]\nlogin_timout = \"1s\"\n[proxy.tls]",
            "proxy.login_timout",
        ),
        (&listen, &twice, "proxy.listen[2].address"),
    ];
    let node: [(&str, &str, &str); 4] = [
        ("file = \"", "file = \"/nowhere", "acceptor.key[1].file"),
        ("/password", "/mail", "acceptor.imap.master_password_file"),
        ("/mail\"", "/nowhere\"", "acceptor.home_root"),
        ("kind = \"login\"", "kind = \"logon\"", "acceptor.imap.kind"),
    ];
    for (process, cases) in [("front", &front[..]), ("node", &node[..])] {
        for (from, to, key) in cases {
            let own = good.find("[acceptor]").filter(|_| process == "node");
            let own = own.unwrap_or_default();
            let (before, after) = good.split_at(own);
            assert!(after.contains(from), "{from}");
            let bad = before.to_owned() + &after.replacen(from, to, 1);
            let checked = machine.run(&["check", process], &bad);
            let started = machine.run(&["run", process], &bad);
            assert_eq!(checked, started, "{from} -> {to}");
            let (code, out, notes) = started;
            assert_eq!((code, out.as_str()), (78, ""), "{to}: {notes}");
            let line = format!("{}: {key}: ", machine.path("pigeonair.toml"));
            assert!(
                notes.starts_with(&line) && notes.lines().count() == 1,
                "{notes}"
            );
        }
    }
}

/// All listeners or none: what cannot be bound is told, and what could be is given up.
#[test]
fn an_address_in_use_is_71() {
    let machine = Machine::new();
    let (imap, link) = (listener(), listener());
    let good = machine.configuration(port(&imap), port(&link));
    for (process, taken) in [("front", &imap), ("node", &link)] {
        let (code, out, notes) = machine.run(&["run", process], &good);
        assert_eq!((code, out.as_str()), (71, ""), "{notes}");
        let last = notes.lines().last().unwrap();
        let told = format!("pigeonair: cannot listen on 127.0.0.1:{}: ", port(taken));
        assert!(last.starts_with(&told), "{notes}");
        assert!(!notes.contains("is up"), "{notes}");
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
