//! A real Dovecot asks the same server about the same logins: what it says is what we say.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    server::{Heard, Manner, Server, speaks},
    *,
};

const NONCE: &str = "a nonce of this test";

struct Dovecot {
    _folder: tempfile::TempDir,
    child: Child,
    address: SocketAddr,
}

impl Dovecot {
    /// One with an account `ann`, that asks this server and hashes so.
    async fn start(server: SocketAddr, bits: u16) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pigeonair-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let path = folder.path().display();
        let port = address.port();
        let conf = folder.path().join("dovecot.conf");
        let text = configuration(&path.to_string(), port, server, bits);
        fs::write(&conf, text).unwrap();
        fs::write(folder.path().join("users"), "ann:{PLAIN}secret\n").unwrap();
        let child = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c"])
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Dovecot is installed (Debian: dovecot-imapd)");
        let dovecot = Self {
            _folder: folder,
            child,
            address,
        };
        let begun = Instant::now();
        while !speaks(address).await {
            assert!(begun.elapsed() < PATIENCE, "Dovecot does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        dovecot
    }

    /// Logs in, and returns what it says to that.
    async fn log_in(&self, login: &str, password: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let quoted = |text: &str| format!("{{{}+}}\r\n{text}", text.len());
        let command = format!("a LOGIN {} {}\r\n", quoted(login), quoted(password));
        stream.write_all(command.as_bytes()).await.unwrap();
        let mut said = String::new();
        while !said.contains("\r\na ") || !said.ends_with('\n') {
            let mut octets = [0; 4096];
            let length = timeout(PATIENCE, stream.read(&mut octets));
            let length = length.await.expect("an answer").unwrap();
            assert_ne!(length, 0, "it hung up after {said:?}");
            said.push_str(std::str::from_utf8(&octets[..length]).unwrap());
        }
        let at = said.find("\r\na ").unwrap();
        said[at + 4..].trim_end().to_owned()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // SIGTERM, so that it ends its own children.
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn configuration(path: &str, port: u16, server: SocketAddr, bits: u16) -> String {
    format!(
        r#"base_dir = {path}/run
state_dir = {path}/state
log_path = {path}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
auth_policy_server_url = http://{server}/
auth_policy_hash_nonce = {NONCE}
auth_policy_hash_truncate = {bits}
auth_policy_check_after_auth = no
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = {path}/users
}}
userdb {{
  driver = static
  args = uid=20001 gid=20001 home={path}/home
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"#
    )
}

/// What the server hears from us about a login that Dovecot has told it about already.
async fn tell(policy: &Policy, login: &str, password: &str, heard: &Heard, finding: Finding) {
    let text = |name: &str| heard.body[name].as_str().unwrap().to_owned();
    let (login, password) = (
        Login::parse(login).unwrap(),
        Secret::new(password.as_bytes().to_vec()),
    );
    // Dovecot's ids have characters that ours have not; they are put back by whoever compares.
    let session = SessionId::parse("session").unwrap();
    let attempt = Attempt {
        login: &login,
        password: &password,
        client: text("remote").parse().unwrap(),
        protocol: Protocol::parse(&text("protocol")).unwrap(),
        session: &session,
        tls: heard.body["tls"].as_bool().unwrap(),
    };
    policy.allow(&attempt).await;
    policy.report(&attempt, finding);
}

async fn requests(server: &Server, count: usize) -> Vec<Heard> {
    eventually("all requests", || server.heard().len() >= count).await;
    let heard = server.heard();
    assert_eq!(heard.len(), count, "{heard:?}");
    heard
}

#[tokio::test]
async fn we_say_what_dovecot_says() {
    for bits in [12, 0, 13] {
        let server = Server::start(Manner::Says("{\"status\":0,\"msg\":\"\"}"), None).await;
        let dovecot = Dovecot::start(server.address, bits).await;
        let mut settings = settings(&format!("http://{}/", server.address));
        settings.nonce = Secret::new(NONCE.as_bytes().to_vec());
        settings.hash_bits = bits;
        settings.timeout = PATIENCE;
        let policy = start(settings);
        let mut count = 0;
        for (login, password, refused, finding) in [
            ("ann", "wrong", false, Finding::Wrong),
            ("ann", "secret", false, Finding::Right),
            (
                "nobody@example.org",
                "p\u{e4}ss \"wo\\rd\" {x}",
                false,
                Finding::Wrong,
            ),
            ("Ann", "wrong", false, Finding::Wrong),
            ("ann", "secret", true, Finding::Rejected),
        ] {
            let case = format!("{bits} bits, {login}, {finding:?}");
            server.be(Manner::Says(if refused {
                "{\"status\":-1,\"msg\":\"no\"}"
            } else {
                "{\"status\":0,\"msg\":\"\"}"
            }));
            let said = dovecot.log_in(login, password).await;
            assert_eq!(
                said.starts_with("OK"),
                finding == Finding::Right,
                "{case}: {said}"
            );
            // It repeats the server's words to the client, which we do not.
            let words = if refused {
                "NO [ALERT] no"
            } else {
                "NO [AUTHENTICATIONFAILED]"
            };
            let is_refused = finding != Finding::Right;
            assert_eq!(said.starts_with(words), is_refused, "{case}: {said}");
            let heard = requests(&server, count + 2).await;
            tell(&policy, login, password, &heard[count], finding).await;
            let heard = requests(&server, count + 4).await;
            let [asked, told, we_asked, we_told] = &heard[count..] else {
                panic!("{heard:?}");
            };
            for (theirs, ours) in [(asked, we_asked), (told, we_told)] {
                assert_eq!(theirs.target, ours.target, "{case}");
                let mut ours = ours.body.clone();
                assert_eq!(ours["session_id"], "session");
                ours["session_id"] = theirs.body["session_id"].clone();
                assert!(matches!(ours["session_id"], Value::String(_)), "{case}");
                assert_eq!(theirs.body, ours, "{case}");
            }
            count += 4;
        }
    }
}
