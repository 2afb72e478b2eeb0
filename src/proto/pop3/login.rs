//! Logging in to a real POP3 server on behalf of an account, client half.
//!
//! ```text
//! server  +OK [XCLIENT] ready
//! us      XCLIENT ADDR=... SESSION=...             only if the greeting has it: Dovecot's, for networks it trusts
//! server  +OK Updated                              -ERR does no harm: the server logs no client address then
//! us      AUTH PLAIN <response>                    over 255 octets, the response waits for the server's "+"
//! server  +OK Logged in
//! us      NOOP
//! server  +OK                                      done
//! ```
//!
//! Dovecot says +OK before it has opened the account's mailbox, and closes without a word when it can't. So NOOP is
//! asked: its answer shows that the session lives. Every command waits for the answer to the one before it: replies have
//! no tags, and Dovecot answers commands that come together 40 ms later.
//!
//! The login is the master user's acting as the account, or the account's own, as for IMAP. Nothing is sent before the
//! greeting: a server that is no POP3 server never sees the password, which is the node's own.
//! Octets behind the last reply stay in the input: they are the session's. Deadlines and the end of the stream are the
//! driver's.
//!
//! Limits: those of `reply`; 255 octets for AUTH with its response (RFC 5034, 4). RFC 1939; RFC 2449, 8; RFC 3206.
//!
//! On failure the error says whose it is, as for IMAP: a refused master login is this node's misconfiguration.

use bytes::{BufMut as _, BytesMut};

use crate::{
    names::AccountName,
    proto::{
        encode::{self, ClientId},
        login::{self, LoginError, Step},
        reply::{self, Reader, ReplyError},
    },
    secret::Secret,
};

const AUTH: &[u8] = b"AUTH PLAIN";

/// How Courier greets, which passes over authorization identities.
const COURIER: &[u8] = b"Hello there.";

/// The longest line of AUTH, its end included.
const MAX_AUTH_BYTES: usize = 255;

/// Where the conversation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Before the greeting.
    Greeting,
    /// XCLIENT is sent.
    Identifying,
    /// AUTH is sent.
    Authenticating,
    /// Logged in; NOOP is sent.
    Asking,
}

/// Logs in once.
#[derive(Debug)]
pub struct Client {
    replies: Reader,
    state: State,
    /// The XCLIENT command, without its line end.
    xclient: BytesMut,
    /// Whether the login is a master user's.
    is_master: bool,
    /// The PLAIN response in base64, until it is sent.
    response: Option<Secret>,
}

impl Client {
    /// Will log in as `account` and tell the server who the client is; `password` is the master user's, or, without one,
    /// opens the account itself. Neither `master` nor `password` holds a NUL.
    pub fn new(
        account: &AccountName,
        master: Option<&str>,
        password: &Secret,
        id: &ClientId<'_>,
    ) -> Self {
        let mut command = BytesMut::new();
        encode::pop3_xclient(id, &mut command);
        Self {
            replies: Reader::new(),
            state: State::Greeting,
            xclient: command,
            is_master: master.is_some(),
            response: Some(login::response(account, master, password)),
        }
    }

    /// Takes what the server said from `input` and puts what to write next into `out`, which the driver wipes after
    /// writing: it may hold the password. When it is done there is no capability list: POP3 names none at a login.
    ///
    /// # Errors
    ///
    /// When the server refuses or says what no server should.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Step, LoginError> {
        while let Some(line) = self.replies.line(input)? {
            let (word, text) = split(&line);
            match word {
                b"+OK" if self.state == State::Asking => {
                    return Ok(Step::Done {
                        capabilities: String::new(),
                    });
                }
                b"+OK" => self.ok(text, out)?,
                b"-ERR" => self.err(text, out)?,
                b"+" => self.send_response(out)?,
                _ => return Err(ReplyError::Malformed.into()),
            }
        }
        Ok(Step::More)
    }

    fn ok(&mut self, text: &[u8], out: &mut BytesMut) -> Result<(), LoginError> {
        match self.state {
            State::Greeting if self.is_master && text == COURIER => {
                return Err(LoginError::Identity);
            }
            State::Greeting if announces_xclient(text) => {
                put_line(&self.xclient, out);
                self.state = State::Identifying;
            }
            State::Greeting | State::Identifying => self.authenticate(out),
            State::Authenticating if self.response.is_some() => {
                return Err(LoginError::Unexpected("OK without a password"));
            }
            State::Authenticating | State::Asking => {
                put_line(b"NOOP", out);
                self.state = State::Asking;
            }
        }
        Ok(())
    }

    fn err(&mut self, text: &[u8], out: &mut BytesMut) -> Result<(), LoginError> {
        match self.state {
            State::Greeting | State::Asking => Err(refused(text)),
            State::Identifying => {
                self.authenticate(out);
                Ok(())
            }
            State::Authenticating => Err(refused_login(text)),
        }
    }

    fn authenticate(&mut self, out: &mut BytesMut) {
        out.put_slice(AUTH);
        let fits = |response: &mut Secret| {
            // A space and the line end.
            let length = AUTH.len().saturating_add(response.expose().len());
            length.saturating_add(3) <= MAX_AUTH_BYTES
        };
        if let Some(response) = self.response.take_if(fits) {
            out.put_u8(b' ');
            out.put_slice(response.expose());
        }
        out.put_slice(b"\r\n");
        self.state = State::Authenticating;
    }

    fn send_response(&mut self, out: &mut BytesMut) -> Result<(), LoginError> {
        match (self.state, self.response.take()) {
            (State::Authenticating, Some(response)) => {
                put_line(response.expose(), out);
                Ok(())
            }
            (_, _) => Err(LoginError::Unexpected("continuation")),
        }
    }
}

fn put_line(line: &[u8], out: &mut BytesMut) {
    out.put_slice(line);
    out.put_slice(b"\r\n");
}

/// Splits at the first space.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = line.splitn(2, |octet| *octet == b' ');
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}

/// Dovecot's greeting has its capabilities in brackets, this one alone or among others.
fn announces_xclient(greeting: &[u8]) -> bool {
    reply::code(greeting).is_some_and(|(first, others)| {
        first == b"XCLIENT"
            || others
                .split(|octet| *octet == b' ')
                .any(|name| name == b"XCLIENT")
    })
}

/// A `-ERR` to AUTH. Codes that speak of the server's state or the mailbox mean what they say (RFC 2449, RFC 3206);
/// anything else is about the credentials, and those are the node's.
fn refused_login(text: &[u8]) -> LoginError {
    let temporary: [&[u8]; 4] = [b"IN-USE", b"LOGIN-DELAY", b"SYS/PERM", b"SYS/TEMP"];
    match reply::code(text) {
        Some((name, _)) if temporary.iter().any(|code| name.eq_ignore_ascii_case(code)) => {
            refused(text)
        }
        Some(_) | None => LoginError::Master(reply::shown(text)),
    }
}

fn refused(text: &[u8]) -> LoginError {
    LoginError::Refused {
        refusal: reply::refusal(text),
        reply: reply::shown(text),
    }
}

/// The property of [`login`](crate::proto::login) for POP3. The first octet chooses how it is cut, by its lowest bit
/// whether the response fits into the line of AUTH, and by its second whether there is a master user.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    use crate::names::{ClientAddr, LocalAddr, SessionId};

    let ([seed, said @ ..], Ok(account)) = (data, AccountName::parse("ann")) else {
        return;
    };
    let session = SessionId::from_random([7; 12]);
    let id = ClientId {
        client: ClientAddr(([192, 0, 2, 77], 4242).into()),
        local: LocalAddr(([192, 0, 2, 1], 995).into()),
        session: &session,
        ttl: 5,
        uid: 1001,
        gid: 1002,
        home: "/srv/mail/ann",
    };
    let password = Secret::new(vec![b's'; if seed & 1 == 0 { 6 } else { 300 }]);
    let master = (seed & 2 == 0).then_some("master");
    let client = || {
        let mut client = Client::new(&account, master, &password, &id);
        move |input: &mut BytesMut, out: &mut BytesMut| client.step(input, out)
    };
    let response = login::response(&account, master, &password);
    let capabilities = login::property(*seed, said, b"+OK", &response, client);
    assert!(capabilities.is_none_or(|list| list.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::link::Refusal;
    use crate::{
        names::{ClientAddr, LocalAddr, SessionId},
        proto::{reply::at_every_split, sasl},
    };

    /// FORWARD is base64 of `forward` fields `uid=1001 TAB gid=1002 TAB home=/srv/mail/ann`.
    const XCLIENT: &str = "XCLIENT ADDR=192.0.2.77 PORT=4242 SESSION=sess-0001 TTL=5 \
                           FORWARD=dWlkPTEwMDEJZ2lkPTEwMDIJaG9tZT0vc3J2L21haWwvYW5u\r\n";
    /// base64 of `ann NUL acceptor NUL secret`.
    const AUTH: &str = "AUTH PLAIN YW5uAGFjY2VwdG9yAHNlY3JldA==\r\n";
    const GREETING: &str = "+OK [XCLIENT] ready\r\n";

    /// What comes of it, what was written, what is left.
    fn run(password: &str, parts: &[&[u8]]) -> (Result<Step, LoginError>, String, Vec<u8>) {
        run_as(Some("acceptor"), password, parts)
    }

    fn run_as(
        master: Option<&str>,
        password: &str,
        parts: &[&[u8]],
    ) -> (Result<Step, LoginError>, String, Vec<u8>) {
        let session = SessionId::parse("sess-0001").unwrap();
        let id = ClientId {
            client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
            local: LocalAddr("192.0.2.1:995".parse().unwrap()),
            session: &session,
            ttl: 5,
            uid: 1001,
            gid: 1002,
            home: "/srv/mail/ann",
        };
        let account = AccountName::parse("ann").unwrap();
        let password = Secret::new(password.as_bytes().to_vec());
        let mut client = Client::new(&account, master, &password, &id);
        let parts = parts.iter().copied();
        let (last, sent, left) = login::play(parts, |input, out| client.step(input, out));
        (last, String::from_utf8(sent).unwrap(), left)
    }

    fn check(input: &str, result: &Result<(), LoginError>, sent: &str, left: &str) {
        at_every_split(input.as_bytes(), |parts| {
            let (step, out, rest) = run("secret", parts);
            let expected = result.clone().map(|()| Step::Done {
                capabilities: String::new(),
            });
            assert_eq!(step, expected, "{input}");
            assert_eq!(out, sent, "{input}");
            if step.is_ok() {
                assert_eq!(rest, left.as_bytes(), "{input}");
            }
        });
    }

    #[test]
    fn logins_succeed_at_every_split() {
        let identified = format!("{XCLIENT}{AUTH}NOOP\r\n");
        let plain = format!("{AUTH}NOOP\r\n");
        for (greeting, sent) in [
            ("+OK [XCLIENT] ready\r\n+OK Updated\r\n", &identified),
            ("+OK [OTHER XCLIENT] ready\r\n-ERR no\r\n", &identified),
            ("+OK ready XCLIENT\r\n", &plain),
            ("+OK [XCLIENTS] <1.2@x>\r\n", &plain),
            ("+OK\r\n", &plain),
        ] {
            let input = format!("{greeting}+OK Logged in.\r\n+OK\r\n+OK left");
            check(&input, &Ok(()), sent, "+OK left");
        }
    }

    #[test]
    fn without_a_master_user_the_account_itself_logs_in() {
        let said = b"+OK Hello there.\r\n+OK logged in.\r\n+OK Yup.\r\n";
        at_every_split(said, |parts| {
            let (step, sent, left) = run_as(None, "secret", parts);
            assert!(matches!(step, Ok(Step::Done { .. })) && left.is_empty());
            // base64 of `NUL ann NUL secret`.
            assert_eq!(sent, "AUTH PLAIN AGFubgBzZWNyZXQ=\r\nNOOP\r\n");
            let (step, sent, _) = run("secret", parts);
            assert_eq!((step, sent.as_str()), (Err(LoginError::Identity), ""));
        });
    }

    #[test]
    fn a_response_that_is_too_long_for_its_line_waits() {
        // 255 octets are `AUTH PLAIN `, 242 (240 in base64) and the line end.
        for (octets, waits) in [(167, false), (168, true)] {
            let password = "x".repeat(octets);
            let secret = Secret::new(password.clone().into_bytes());
            let response = sasl::plain_initial("ann", "acceptor", &secret);
            let response = String::from_utf8(response.expose().to_vec()).unwrap();
            let (said, between) = if waits {
                ("+OK\r\n+ \r\n+OK\r\n+OK\r\n", "\r\n")
            } else {
                ("+OK\r\n+OK\r\n+OK\r\n", " ")
            };
            at_every_split(said.as_bytes(), |parts| {
                let (step, sent, left) = run(&password, parts);
                assert!(matches!(step, Ok(Step::Done { .. })) && left.is_empty());
                assert_eq!(sent, format!("AUTH PLAIN{between}{response}\r\nNOOP\r\n"));
                assert!(sent.lines().next().unwrap().len() + 2 <= MAX_AUTH_BYTES);
            });
        }
        let early = run(&"x".repeat(168), &[b"+OK\r\n+OK\r\n"]).0;
        let error = LoginError::Unexpected("OK without a password");
        assert_eq!(early, Err(error));
    }

    #[test]
    fn refusals_say_whose_they_are() {
        let master = |text: &str| LoginError::Master(text.to_owned());
        let refused = |refusal, text: &str| LoginError::Refused {
            refusal,
            reply: text.to_owned(),
        };
        for (reply, error) in [
            ("-ERR [AUTH] no\r\n", master("[AUTH] no")),
            ("-ERR no\r\n", master("no")),
            ("-ERR\r\n", master("")),
            (
                "-ERR [in-use] no\r\n",
                refused(Refusal::InUse, "[in-use] no"),
            ),
            (
                "-ERR [LOGIN-DELAY] no\r\n",
                refused(Refusal::Limit, "[LOGIN-DELAY] no"),
            ),
            (
                "-ERR [SYS/TEMP] no\r\n",
                refused(Refusal::Unavailable, "[SYS/TEMP] no"),
            ),
            (
                "-ERR [SYS/PERM] no\r\n",
                refused(Refusal::Unavailable, "[SYS/PERM] no"),
            ),
            ("+ \r\n", LoginError::Unexpected("continuation")),
            ("+OKAY\r\n", ReplyError::Malformed.into()),
            ("* OK\r\n", ReplyError::Malformed.into()),
        ] {
            let input = format!("{GREETING}+OK\r\n{reply}");
            check(&input, &Err(error), &format!("{XCLIENT}{AUTH}"), "");
        }
    }

    #[test]
    fn a_session_that_ends_after_its_ok_is_none() {
        let sent = format!("{XCLIENT}{AUTH}NOOP\r\n");
        for (reply, refusal) in [
            ("[SYS/TEMP] Internal error", Refusal::Unavailable),
            ("[IN-USE] locked", Refusal::InUse),
            ("no", Refusal::Unavailable),
        ] {
            let error = LoginError::Refused {
                refusal,
                reply: reply.to_owned(),
            };
            let input = format!("{GREETING}+OK\r\n+OK Logged in.\r\n-ERR {reply}\r\n");
            check(&input, &Err(error), &sent, "");
        }
    }

    #[test]
    fn the_password_is_sent_to_greeting_pop3_servers_only() {
        for greeting in ["-ERR busy\r\n", "* OK IMAP\r\n", "220 SMTP\r\n", "+ \r\n"] {
            let (step, out, _) = run("secret", &[greeting.as_bytes()]);
            assert!(step.is_err(), "{greeting}");
            assert_eq!(out, "", "{greeting}");
        }
    }

    #[test]
    fn no_prefix_of_a_login_is_one() {
        let input = format!("{GREETING}+OK\r\n+OK in\r\n+OK\r\n");
        for cut in 0..input.len() {
            let step = run("secret", &[&input.as_bytes()[..cut]]).0;
            assert_eq!(step, Ok(Step::More));
        }
    }
}
