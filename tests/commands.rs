//! The program as service managers see it: exit codes, what is on which stream.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail that way"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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

    /// `check` and `run` find one mistake, at `key`, in the same words.
    fn refuses(&self, process: &str, configuration: &str, key: &str) {
        let checked = self.run(&["check", process], configuration);
        let started = self.run(&["run", process], configuration);
        assert_eq!(checked, started, "{key}");
        let (code, out, notes) = started;
        assert_eq!((code, out.as_str()), (78, ""), "{key}: {notes}");
        let line = format!("{}: {key}: ", self.path("pigeonair.toml"));
        assert!(
            notes.starts_with(&line) && notes.lines().count() == 1,
            "{notes}"
        );
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
            let start = if process == "front" { "" } else { "[acceptor]" };
            let (before, after) = good.split_at(good.find(start).unwrap());
            assert!(after.contains(from), "{from}");
            let bad = before.to_owned() + &after.replacen(from, to, 1);
            machine.refuses(process, &bad, key);
        }
    }
}

/// A Dovecot that can't do what is configured is a mistake of the configuration like others.
#[test]
fn check_asks_for_the_version_of_dovecot_as_run_does() {
    let machine = Machine::new();
    let (imap, link) = (listener(), listener());
    let good = machine.configuration(port(&imap), port(&link));
    let (before, _) = good.split_at(good.find("kind = \"login\"").unwrap());
    let socket = format!("{before}kind = \"dovecot-imap-master\"\nsocket = \"/nowhere\"\n");
    machine.write("pigeonair.toml", &socket, 0o644);
    machine.write("dovecot", "#!/bin/sh\necho '2.4.3 (0123456)'\n", 0o755);
    let told = ["check", "run"].map(|command| {
        let output = Command::new(env!("CARGO_BIN_EXE_pigeonair"))
            .args([command, "node", "--config", &machine.path("pigeonair.toml")])
            .env("PATH", machine.0.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    });
    assert_eq!(told[0], told[1]);
    let key = format!(
        "{}: acceptor.imap.kind: kind \"dovecot-imap-master\" needs",
        machine.path("pigeonair.toml")
    );
    assert!(told[0].starts_with(&key), "{}", told[0]);
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

/// Runs `deliver` as an MTA does: whatever comes of it, the whole message must be taken from us.
fn deliver(arguments: &[&str], message: &[u8]) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pigeonair"))
        .arg("deliver")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = child.stdin.take().unwrap().write_all(message);
    let output = child.wait_with_output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    // On a wrong command line nothing is read.
    let is_read = written.is_ok() || notes.starts_with("4.3.5 ");
    assert!(is_read, "{written:?}: {notes}");
    (output.status.code().unwrap(), notes)
}

/// A server for one message: takes everything up to the dot and says `reply` then. Returns whether the dot came.
fn answer(listener: &UnixListener, reply: &str) -> bool {
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"220 x\r\n").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut in_message = false;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let say = match line.as_str() {
            "DATA\r\n" => {
                in_message = true;
                "354 Go on\r\n"
            }
            ".\r\n" => {
                stream.write_all(reply.as_bytes()).unwrap();
                return true;
            }
            "" => return false,
            _ if in_message => continue,
            _ => "250-x\r\n250 8BITMIME\r\n",
        };
        stream.write_all(say.as_bytes()).unwrap();
    }
}

#[test]
fn what_became_of_a_message_is_an_exit_code_that_mtas_know() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("lmtp");
    let path = socket.to_str().unwrap();
    let message = b"Subject: x\n\ny\n".repeat(100_000);
    let arguments = ["--server", path, "-f", "bob@b.example", "ann@a.example"];
    let away = deliver(&arguments, &message);
    assert_eq!(away.0, 75);
    assert!(away.1.starts_with("4.4.1 cannot connect to "), "{}", away.1);

    let listener = UnixListener::bind(&socket).unwrap();
    for (reply, code) in [
        ("250 2.0.0 Stored.", 0),
        ("550 5.1.1 No such user here.", 67),
        ("550 5.2.1 This mailbox takes no mail.", 69),
        ("552 5.2.2 The mailbox is full.", 69),
        ("552 5.3.4 The message is too big.", 65),
        ("554 5.4.6 This message has been here before.", 65),
        ("554 5.6.0 Lines end in CRLF.", 65),
        ("550 5.7.1 Not by you.", 77),
        ("550 5.1.7 Not a sender.", 69),
        ("452 4.2.2 The mailbox is full.", 75),
        ("421 4.3.2 Going down.", 75),
        ("", 75),
    ] {
        let end = if reply.is_empty() { "" } else { "\r\n" };
        let (done, notes) = std::thread::scope(|scope| {
            scope.spawn(|| answer(&listener, &format!("{reply}{end}")));
            deliver(&arguments, &message)
        });
        assert_eq!(done, code, "{reply}: {notes}");
        let words = match reply.get(4..) {
            _ if code == 0 => String::new(),
            Some(words) => format!("{words}\n"),
            None => "4.4.2 the delivery role did not say whether it has the message: \
                     server closed the connection\n"
                .to_owned(),
        };
        assert_eq!(notes, words);
    }
    let nothing = deliver(&arguments, b"");
    let expected = "4.3.0 no message on standard input\n".to_owned();
    assert_eq!(nothing, (75, expected));
}

/// An MTA that is killed while it writes closes the pipe as one that has written all: the part must not be delivered.
#[test]
fn the_message_of_a_killed_writer_is_not_ended() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("lmtp");
    let listener = UnixListener::bind(&socket).unwrap();
    let (program, socket) = (env!("CARGO_BIN_EXE_pigeonair"), socket.display());
    // More than a pipe holds: when the shell has written it, the program has begun to read.
    for (end, is_ended) in [("exec 3>&-; wait", true), ("kill -9 $$", false)].repeat(5) {
        let script = format!(
            "rm -f pipe; mkfifo pipe\n\
             {program} deliver --server {socket} ann <pipe 2>>errors &\n\
             exec 3>pipe\nprintf 'Subject: x\\n\\n%0200000d' 0 >&3\n{end}\n"
        );
        let mut writer = Command::new("sh")
            .args(["-c", &script])
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        let ended = answer(&listener, "250 2.0.0 Stored.\r\n");
        writer.wait().unwrap();
        assert_eq!(ended, is_ended, "{end}");
    }
}

/// A mistake in the MTA's configuration must neither return mail nor lose it.
#[test]
fn a_wrong_command_line_of_deliver_is_75() {
    for arguments in [
        &[] as &[&str],
        &[""],
        &["ann", "bob"],
        &["--to", "ann"],
        &["--server", "nowhere", "ann"],
        &["-f"],
        &["-h", "localhost", "ann"],
        &["-hlocalhost"],
        &["--help", "ann"],
        &["ann", "-h"],
        &["--version"],
    ] {
        let (code, notes) = deliver(arguments, b"x\n");
        assert_eq!(code, 75, "{arguments:?}: {notes}");
        assert!(notes.starts_with("4.3.5 "), "{notes}");
        assert_eq!(notes.lines().count(), 1, "{notes}");
    }
    for question in ["-h", "--help"] {
        let (code, out, notes) = run(&["deliver", question]);
        assert_eq!((code, notes.as_str()), (0, ""));
        assert!(out.contains("/run/pigeonair/lmtp"), "{out}");
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

/// The accounts file is no server; an LDAP server that is not there is named, with what went wrong.
#[test]
fn check_online_names_the_server_that_does_not_answer() {
    let machine = Machine::new();
    let (imap, link) = (listener(), listener());
    let good = machine.configuration(port(&imap), port(&link));
    let (code, out, notes) = machine.run(&["check", "--online"], &good);
    assert_eq!((code, notes.as_str()), (0, ""), "{out}");
    assert_eq!(out.lines().count(), 1, "{out}");

    let file = format!(
        "kind = \"file\"\n[directory.file]\npath = \"{}\"",
        machine.path("accounts.toml")
    );
    assert!(good.contains(&file), "{good}");
    let ldap = "kind = \"ldap\"\n[directory.ldap]\nbase = \"dc=example,dc=org\"\nuri = [\"ldap://127.0.0.1:1\", \"ldapi:///nowhere\"]";
    let (code, out, notes) =
        machine.run(&["check", "front", "--online"], &good.replace(&file, ldap));
    assert_eq!((code, out.as_str()), (69, ""), "{notes}");
    let lines: Vec<&str> = notes.lines().collect();
    assert!(
        lines[0].starts_with("ldap://127.0.0.1:1: cannot connect: "),
        "{notes}"
    );
    assert!(
        lines[1].starts_with("ldapi:///nowhere: cannot connect: "),
        "{notes}"
    );
    assert_eq!(
        lines[2..],
        ["pigeonair: not all LDAP servers do what they will be asked for"]
    );
}

/// A login and an address are different questions, and no answer has a password or a hash in it.
#[test]
fn explain_says_who_somebody_is_and_where_that_leads() {
    let machine = Machine::new();
    let (imap, link) = (listener(), listener());
    let configuration = machine.configuration(port(&imap), port(&link));
    let hash = "{SSHA}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc";
    let accounts = format!(
        "[[account]]\nname = \"ann\"\naliases = [\"annie\"]\naddresses = [\"ann@example.org\"]\npassword = \"{hash}\"\n\
         uid = 20001\ngid = 20002\nhome_node = \"LOCAL\"\nquota = 1000\nstatus = \"noaccess\"\nprotocols = [\"imap\"]\n\
         [[account]]\nname = \"bob\"\npassword = \"{hash}\"\nuid = 1\ngid = 1\nhome_node = \"elsewhere\"\n"
    );
    machine.write("accounts.toml", &accounts, 0o600);
    let (code, out, notes) = machine.run(&["explain", "annie"], &configuration);
    assert_eq!((code, notes.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    let rest: Vec<&&str> = lines.iter().filter(|line| !line.contains("took")).collect();
    assert_eq!(
        rest,
        [
            &"annie as login",
            &"  looked up       annie",
            &"  account         ann",
            &"  entry           ann",
            &"  server          none",
            &"  logins          refused",
            &"  protocols       imap",
            &"  mail            allowed",
            &"  home attribute  LOCAL",
            &"  node            local",
            &format!("  node address    127.0.0.1:{}", port(&link)).as_str(),
            &"  uid             20001",
            &"  gid             20002",
            &"  home            ann",
            &"  quota           1000",
            &"annie as address",
            &"  error           unknown user",
        ]
    );

    let (code, out, _) = machine.run(&["explain", "ann+x@Example.org", "--json"], &configuration);
    assert_eq!(code, 0);
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["login"]["error"], "unknown user", "{out}");
    assert_eq!(said["address"]["looked_up"], "ann@example.org", "{out}");
    assert_eq!(said["address"]["uid"], 20001, "{out}");
    assert!(!out.contains("TjSA"), "{out}");

    let (code, out, _) = machine.run(&["explain", "bob"], &configuration);
    assert_eq!(code, 0);
    assert!(
        out.contains("  node error      home node \"elsewhere\" is not in [nodes]\n"),
        "{out}"
    );
    let (code, _, notes) = machine.run(&["explain", "carl"], &configuration);
    assert_eq!(code, 67);
    assert_eq!(
        notes,
        "pigeonair: nobody has the login or the address carl\n"
    );
}

/// A front that runs until it is dropped, killed without a chance to say anything.
struct Front(Child);

impl Front {
    /// Starts it and waits until it answers on its socket.
    fn start(configuration: &str, socket: &str) -> Self {
        let mut front = Command::new(env!("CARGO_BIN_EXE_pigeonair"))
            .args(["run", "front", "--config", configuration])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(socket).is_err() {
            assert_eq!(front.try_wait().unwrap(), None, "it ended");
            assert!(Instant::now() < patience, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(front)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn explain_asks_the_running_front_where_it_may() {
    let machine = Machine::new();
    let link = listener();
    let socket = machine.path("front.sock");
    let configuration = machine.configuration(0, port(&link)).replace(
        "[admin]\n",
        &format!("[admin]\nfront_socket = \"{socket}\"\n"),
    );
    let ann = "[[account]]\nname = \"ann\"\npassword = \"{SSHA}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc\"\nuid = 1\ngid = 1\nhome_node = \"local\"\n";
    machine.write("accounts.toml", ann, 0o600);
    let cached = || {
        let (code, out, notes) = machine.run(&["explain", "ann"], &configuration);
        assert_eq!((code, notes.as_str()), (0, ""), "{out}");
        let rows: Vec<String> = out
            .lines()
            .filter_map(|line| line.strip_prefix("  cached          "))
            .map(ToOwned::to_owned)
            .collect();
        let [login, address] = &rows[..] else {
            panic!("not one row for each: {out}");
        };
        assert_eq!(login, address);
        login.clone()
    };
    let fails = |why: &str| format!("cannot ask the front at {socket}: {why}");
    assert_eq!(cached(), fails("No such file or directory (os error 2)"));
    // The second one finds the socket of the first.
    for _ in 0..2 {
        let front = Front::start(&machine.path("pigeonair.toml"), &socket);
        assert_eq!(cached(), "ann: nothing (accounts come from a file)");
        let (code, out, _) = machine.run(&["explain", "--json", "ann"], &configuration);
        assert_eq!(code, 0);
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["login"]["cached"][0]["state"], "nothing", "{out}");
        drop(front);
        assert_eq!(cached(), fails("Connection refused (os error 111)"));
    }
    let (_, out, _) = machine.run(&["explain", "--json", "ann"], &configuration);
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    let error = said["address"]["cached"][0]["error"].as_str();
    assert_eq!(
        error,
        Some(fails("Connection refused (os error 111)").as_str())
    );
    // Nobody of that name is still nobody.
    assert_eq!(machine.run(&["explain", "carl"], &configuration).0, 67);
}

#[test]
fn commands_to_the_front_need_to_know_where_it_is() {
    let machine = Machine::new();
    let link = listener();
    let configuration = machine.configuration(0, port(&link));
    for command in [&["who"] as &[&str], &["kick", "--all"], &["orders"]] {
        let (code, out, notes) = machine.run(command, &configuration);
        assert_eq!((code, out.as_str()), (78, ""), "{command:?}");
        assert!(notes.contains("front_socket is not set in "), "{notes}");
    }
    let configuration = configuration.replace(
        "[admin]\n",
        &format!(
            "[admin]\nfront_socket = \"{}\"\n",
            machine.path("front.sock")
        ),
    );
    let (code, _, notes) = machine.run(&["drain", "proxy"], &configuration);
    assert_eq!(code, 69, "{notes}");
    assert!(notes.contains("cannot ask the front at "), "{notes}");
    let both = ["who", "--socket", "/run/x"];
    assert_eq!(machine.run(&both, &configuration).0, 64);
}

/// The units as systemd reads them, with a program that is there; the second as nodes without servers have it.
fn units() -> [tempfile::TempDir; 2] {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd");
    [false, true].map(|has_drop_in| {
        let dir = tempfile::tempdir().unwrap();
        for unit in [
            "pigeonair-front.service",
            "pigeonair-front.socket",
            "pigeonair-node.service",
        ] {
            let text = fs::read_to_string(samples.join(unit)).unwrap();
            assert!(unit.ends_with(".socket") || text.contains("=/usr/bin/pigeonair run "));
            let text = text.replace("/usr/bin/pigeonair", env!("CARGO_BIN_EXE_pigeonair"));
            fs::write(dir.path().join(unit), text).unwrap();
        }
        if has_drop_in {
            let name = "pigeonair-node-without-servers.conf";
            let folder = dir.path().join("pigeonair-node.service.d");
            fs::create_dir(&folder).unwrap();
            fs::copy(samples.join(name), folder.join(name)).unwrap();
        }
        dir
    })
}

#[test]
fn the_units_are_sound_and_expose_little() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("not tried: there is no systemd-analyze here");
        return;
    }
    let [all_kinds, without_servers] = units();
    // Ten times the score at most: a little more than it is now, since other versions of systemd count other things.
    for (folder, unit, most) in [
        (&all_kinds, "pigeonair-front.service", "20"),
        (&all_kinds, "pigeonair-node.service", "63"),
        (&without_servers, "pigeonair-node.service", "32"),
    ] {
        let path = folder.path().join(unit);
        for arguments in [
            &["verify"] as &[&str],
            &["security", "--offline=true", "--threshold", most],
        ] {
            let output = Command::new("systemd-analyze")
                .arg("--no-pager")
                .args(arguments)
                .arg(&path)
                .output()
                .unwrap();
            let [said, notes] =
                [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
            assert!(
                output.status.success(),
                "{unit} {arguments:?}: {notes}{said}"
            );
            assert_eq!(notes, "", "{unit} {arguments:?}");
        }
    }
}
