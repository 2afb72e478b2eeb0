//! Logging in to a real IMAP server on behalf of an account, client half.
//!
//! ```text
//! server  * OK [CAPABILITY ...] ready
//! us      i ID ("x-originating-ip" ...)            both in one write; without SASL-IR (RFC 4959) in the greeting
//!         a AUTHENTICATE PLAIN <response>          the response waits for the server's "+"
//! server  * ID ...    i OK                         NO and BAD do no harm: the server logs no client address then
//! server  a OK Logged in
//! us      c CAPABILITY
//! server  * CAPABILITY ...    c OK                 done
//! ```
//!
//! Dovecot says OK before it has opened the account's mailbox, and BYE after that when it can't. So CAPABILITY is asked
//! whether or not the OK came with a list: its answer shows that the session lives, and the list is that of this session.
//!
//! Nothing is sent before the greeting: a server that says BYE, or one that is no IMAP server, never sees the password. The
//! master user's password is the node's own; the user's never comes here. Octets behind the last reply stay in the input:
//! they are the session's. Deadlines and the end of the stream are the driver's.
//!
//! Limits: those of `reply`. RFC 3501 and RFC 9051, 6.2.2; RFC 2971; RFC 5530.
//!
//! On failure the error says whose it is: a refused master login is this node's misconfiguration, which no client may hear as a
//! wrong password.

use bytes::{BufMut as _, Bytes, BytesMut};

#[cfg(any(fuzzing, test))]
use super::conversation::{pieces, sizes};
use super::{
    encode::{self, ClientId, EncodeError},
    link::Refusal,
    reply::{self, Reader, Reply, ReplyError, Status},
    sasl,
};
use crate::{names::AccountName, secret::Secret};

const ID_TAG: &[u8] = b"i";
const AUTHENTICATE_TAG: &[u8] = b"a";
const CAPABILITY_TAG: &[u8] = b"c";

/// How far the login is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Logged in; what is left in the input belongs to the session.
    Done {
        /// The session's capability list, without the word CAPABILITY; empty for a protocol that names none.
        capabilities: String,
    },
    /// Write what is in `out`, read more input and step again.
    More,
}

/// Why nobody is logged in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoginError {
    /// The server does not take the master login, or not for this account: the node or its real server is misconfigured.
    #[error("real server refuses the master login: {0}")]
    Master(String),
    /// The server does not serve this account now.
    #[error("real server refuses the session: {reply}")]
    Refused {
        /// What the front hears.
        refusal: Refusal,
        /// The server's words, escaped.
        reply: String,
    },
    /// Its words break a limit or their form.
    #[error("conversation with the real server is malformed")]
    Reply(#[from] ReplyError),
    /// A good reply that does not belong there.
    #[error("reply of the real server is out of place: {0}")]
    Unexpected(&'static str),
}

/// Where the conversation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Before the greeting.
    Greeting,
    /// ID and AUTHENTICATE are sent.
    Identifying,
    /// ID is answered.
    Authenticating,
    /// Logged in; CAPABILITY is sent.
    Asking,
}

/// Logs in once.
#[derive(Debug)]
pub struct Client {
    replies: Reader,
    state: State,
    /// The ID command, without its tag.
    id: BytesMut,
    /// The PLAIN response in base64, until it is sent.
    response: Option<Secret>,
    /// The list of an untagged CAPABILITY that was asked for.
    capabilities: Option<String>,
}

impl Client {
    /// Will log in as `account` with the master user's password and tell the server who the client is. Neither `master` nor
    /// `password` holds a NUL.
    ///
    /// # Errors
    ///
    /// When one of the words can't be written in its form.
    pub fn new(
        account: &AccountName,
        master: &str,
        password: &Secret,
        id: &ClientId<'_>,
    ) -> Result<Self, EncodeError> {
        let mut command = BytesMut::new();
        encode::imap_id(id, &mut command)?;
        Ok(Self {
            replies: Reader::new(),
            state: State::Greeting,
            id: command,
            response: Some(sasl::plain_initial(account.as_str(), master, password)),
            capabilities: None,
        })
    }

    /// Takes what the server said from `input` and puts what to write next into `out`, which the driver wipes after
    /// writing: it may hold the password.
    ///
    /// # Errors
    ///
    /// When the server refuses or says what no server should.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Step, LoginError> {
        while let Some(reply) = self.replies.reply(input)? {
            let done = match reply {
                Reply::Continue => {
                    self.send_response(out)?;
                    None
                }
                Reply::Data(_) if self.state == State::Greeting => {
                    return Err(LoginError::Unexpected("data before the greeting"));
                }
                Reply::Data(data) => {
                    if self.state == State::Asking
                        && let Some(list) = reply::data_capabilities(&data)?
                    {
                        self.capabilities = Some(list);
                    }
                    None
                }
                Reply::Status {
                    tag: None,
                    status,
                    text,
                } => {
                    self.untagged(status, &text, out)?;
                    None
                }
                Reply::Status {
                    tag: Some(tag),
                    status,
                    text,
                } => self.tagged(&tag, status, &text, out)?,
            };
            if let Some(capabilities) = done {
                return Ok(Step::Done { capabilities });
            }
        }
        Ok(Step::More)
    }

    fn untagged(
        &mut self,
        status: Status,
        text: &Bytes,
        out: &mut BytesMut,
    ) -> Result<(), LoginError> {
        match (self.state, status) {
            (_, Status::Bye) => Err(refused(text)),
            (State::Greeting, Status::Ok) => {
                self.authenticate(text, out);
                Ok(())
            }
            (_, Status::Preauth) => Err(LoginError::Unexpected("PREAUTH")),
            (State::Greeting, _) => Err(LoginError::Unexpected("greeting")),
            (_, _) => Ok(()),
        }
    }

    /// Answers the greeting.
    fn authenticate(&mut self, greeting: &[u8], out: &mut BytesMut) {
        put_command(ID_TAG, &self.id, out);
        let initial = reply::code(greeting).is_some_and(|(name, list)| {
            name.eq_ignore_ascii_case(b"CAPABILITY")
                && list
                    .split(|octet| *octet == b' ')
                    .any(|capability| capability.eq_ignore_ascii_case(b"SASL-IR"))
        });
        out.put_slice(AUTHENTICATE_TAG);
        out.put_slice(b" AUTHENTICATE PLAIN");
        if initial && let Some(response) = self.response.take() {
            out.put_u8(b' ');
            out.put_slice(response.expose());
        }
        out.put_slice(b"\r\n");
        self.state = State::Identifying;
    }

    fn send_response(&mut self, out: &mut BytesMut) -> Result<(), LoginError> {
        match (self.state, self.response.take()) {
            (State::Authenticating, Some(response)) => {
                out.put_slice(response.expose());
                out.put_slice(b"\r\n");
                Ok(())
            }
            (_, _) => Err(LoginError::Unexpected("continuation")),
        }
    }

    fn tagged(
        &mut self,
        tag: &[u8],
        status: Status,
        text: &Bytes,
        out: &mut BytesMut,
    ) -> Result<Option<String>, LoginError> {
        match (self.state, tag, status) {
            (State::Identifying, ID_TAG, _) => {
                self.state = State::Authenticating;
                Ok(None)
            }
            (State::Authenticating, AUTHENTICATE_TAG, Status::Ok) => {
                if self.response.is_some() {
                    return Err(LoginError::Unexpected("OK without a password"));
                }
                put_command(CAPABILITY_TAG, b"CAPABILITY", out);
                self.state = State::Asking;
                Ok(None)
            }
            (State::Authenticating, AUTHENTICATE_TAG, _) => Err(refused_login(text)),
            (State::Asking, CAPABILITY_TAG, Status::Ok) => self
                .capabilities
                .take()
                .map(Some)
                .ok_or(LoginError::Unexpected("no capability list")),
            (State::Asking, CAPABILITY_TAG, _) => Err(refused(text)),
            (_, _, _) => Err(LoginError::Unexpected("tag")),
        }
    }
}

fn put_command(tag: &[u8], command: &[u8], out: &mut BytesMut) {
    for part in [tag, b" ", command, b"\r\n"] {
        out.put_slice(part);
    }
}

/// A `NO` or `BAD` to AUTHENTICATE. Codes that speak of the server's state or the account's limits mean what they say
/// (RFC 5530); anything else is about the credentials, and those are the node's.
fn refused_login(text: &[u8]) -> LoginError {
    let temporary: [&[u8]; 6] = [
        b"CONTACTADMIN",
        b"INUSE",
        b"LIMIT",
        b"SERVERBUG",
        b"TRYLATER",
        b"UNAVAILABLE",
    ];
    match reply::code(text) {
        Some((name, _)) if temporary.iter().any(|code| name.eq_ignore_ascii_case(code)) => {
            refused(text)
        }
        Some(_) | None => LoginError::Master(reply::shown(text)),
    }
}

fn refused(text: &[u8]) -> LoginError {
    let refusal = match reply::code(text) {
        Some((name, _)) if name.eq_ignore_ascii_case(b"INUSE") => Refusal::InUse,
        Some((name, _)) if name.eq_ignore_ascii_case(b"LIMIT") => Refusal::Limit,
        Some(_) | None => Refusal::Unavailable,
    };
    LoginError::Refused {
        refusal,
        reply: reply::shown(text),
    }
}

/// Holds for any real server: however the network cuts what it says, the login goes the same way, the password is sent
/// once at most and only after a greeting, and what follows the login is left. The first octet chooses how it is cut.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    use crate::names::{ClientAddr, LocalAddr, SessionId};

    let ([seed, said @ ..], Ok(account)) = (data, AccountName::parse("ann")) else {
        return;
    };
    let session = SessionId::from_random([7; 12]);
    let id = ClientId {
        client: ClientAddr(([192, 0, 2, 77], 4242).into()),
        local: LocalAddr(([192, 0, 2, 1], 993).into()),
        session: &session,
        ttl: 5,
        uid: 1001,
        gid: 1002,
        home: "/srv/mail/ann",
    };
    let password = Secret::new(b"secret".to_vec());
    let run = |cut: &mut dyn FnMut() -> usize| {
        let mut client = Client::new(&account, "master", &password, &id).ok()?;
        let (mut input, mut out, mut last) = (BytesMut::new(), BytesMut::new(), Ok(Step::More));
        for piece in pieces(said, cut) {
            input.extend_from_slice(piece);
            if last == Ok(Step::More) {
                last = client.step(&mut input, &mut out);
            }
        }
        let left = last.is_ok().then(|| input.to_vec());
        Some((last, out, left))
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(whole, run(&mut sizes(*seed)), "cut, it was read otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
    let Some((last, out, left)) = whole else {
        return;
    };
    let response = sasl::plain_initial("ann", "master", &password);
    let sent = out
        .windows(response.expose().len())
        .filter(|window| *window == response.expose())
        .count();
    let greets = |start: &[u8]| start.eq_ignore_ascii_case(b"* OK");
    assert!(sent == 0 || sent == 1 && greets(said.get(..4).unwrap_or_default()));
    assert!(left.is_none_or(|left| said.ends_with(&left)));
    if let Ok(Step::Done { capabilities }) = last {
        assert_eq!(sent, 1, "logged in without a password");
        assert_eq!(
            reply::capabilities(capabilities.as_bytes()),
            Ok(capabilities)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reply::at_every_split, *};
    use crate::names::{ClientAddr, LocalAddr, SessionId};

    const ID: &str = "i ID (\"x-originating-ip\" \"192.0.2.77\" \"x-originating-port\" \"4242\" \
                      \"x-connected-ip\" \"192.0.2.1\" \"x-connected-port\" \"993\" \
                      \"x-session-id\" \"sess-0001\" \"x-proxy-ttl\" \"5\" \
                      \"x-forward-uid\" \"1001\" \"x-forward-gid\" \"1002\" \"x-forward-home\" \"/srv/mail/ann\")\r\n";
    /// base64 of `ann NUL acceptor NUL secret`.
    const RESPONSE: &str = "YW5uAGFjY2VwdG9yAHNlY3JldA==";
    const SASL_IR: &str = "* OK [CAPABILITY IMAP4rev1 sasl-ir ID] ready\r\n";

    fn client() -> Client {
        let session = SessionId::parse("sess-0001").unwrap();
        let id = ClientId {
            client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
            local: LocalAddr("192.0.2.1:993".parse().unwrap()),
            session: &session,
            ttl: 5,
            uid: 1001,
            gid: 1002,
            home: "/srv/mail/ann",
        };
        let account = AccountName::parse("ann").unwrap();
        Client::new(&account, "acceptor", &Secret::new(b"secret".to_vec()), &id).unwrap()
    }

    /// What comes of it, what was written, what is left.
    fn run(parts: &[&[u8]]) -> (Result<Step, LoginError>, String, Vec<u8>) {
        let (mut client, mut input, mut out) = (client(), BytesMut::new(), BytesMut::new());
        let mut last = Ok(Step::More);
        for part in parts {
            input.extend_from_slice(part);
            if last == Ok(Step::More) {
                last = client.step(&mut input, &mut out);
            }
        }
        (
            last,
            String::from_utf8(out.to_vec()).unwrap(),
            input.to_vec(),
        )
    }

    fn check(input: &str, result: &Result<&str, LoginError>, sent: &str, left: &str) {
        at_every_split(input.as_bytes(), |parts| {
            let (step, out, rest) = run(parts);
            let expected = result.clone().map(|list| Step::Done {
                capabilities: list.to_owned(),
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
        let initial = format!("{ID}a AUTHENTICATE PLAIN {RESPONSE}\r\nc CAPABILITY\r\n");
        let continued = format!("{ID}a AUTHENTICATE PLAIN\r\n{RESPONSE}\r\nc CAPABILITY\r\n");
        for (greeting, answers, end, sent, left) in [
            (
                SASL_IR,
                "* ID (\"name\" {7}\r\nDovecot)\r\ni OK done\r\na OK [CAPABILITY OLD] in\r\n",
                "* CAPABILITY A B\r\nc OK\r\n* 1 EXISTS",
                &initial,
                "* 1 EXISTS",
            ),
            (
                SASL_IR,
                "* CAPABILITY OLD\r\ni BAD what\r\n* OK still here\r\na OK in\r\n",
                "* 0 EXISTS\r\n* capability A B\r\n* NO hm\r\nc OK\r\n",
                &initial,
                "",
            ),
            (
                "* OK ready\r\n",
                "* ID NIL\r\ni OK\r\n+ \r\na OK in\r\n",
                "* CAPABILITY A B\r\nc OK\r\n",
                &continued,
                "",
            ),
        ] {
            let input = format!("{greeting}{answers}{end}");
            check(&input, &Ok("A B"), sent, left);
        }
    }

    #[test]
    fn refusals_say_whose_they_are() {
        let initial = format!("{ID}a AUTHENTICATE PLAIN {RESPONSE}\r\n");
        let master = |text: &str| LoginError::Master(text.to_owned());
        let refused = |refusal, text: &str| LoginError::Refused {
            refusal,
            reply: text.to_owned(),
        };
        for (reply, error) in [
            (
                "a NO [AUTHENTICATIONFAILED] no\r\n",
                master("[AUTHENTICATIONFAILED] no"),
            ),
            (
                "a NO [AUTHORIZATIONFAILED] no\r\n",
                master("[AUTHORIZATIONFAILED] no"),
            ),
            ("a NO no\r\n", master("no")),
            ("a BAD no\r\n", master("no")),
            (
                "a NO [UNAVAILABLE] no\r\n",
                refused(Refusal::Unavailable, "[UNAVAILABLE] no"),
            ),
            ("a NO [LIMIT] no\r\n", refused(Refusal::Limit, "[LIMIT] no")),
            ("a NO [inuse] no\r\n", refused(Refusal::InUse, "[inuse] no")),
            ("* BYE gone\r\n", refused(Refusal::Unavailable, "gone")),
            (
                "* BYE [LIMIT] gone\r\n",
                refused(Refusal::Limit, "[LIMIT] gone"),
            ),
            ("+ \r\n", LoginError::Unexpected("continuation")),
            ("* PREAUTH in\r\n", LoginError::Unexpected("PREAUTH")),
            ("i OK twice\r\n", LoginError::Unexpected("tag")),
            ("z OK in\r\n", LoginError::Unexpected("tag")),
            ("hello\r\n", ReplyError::Malformed.into()),
        ] {
            let input = format!("{SASL_IR}i OK\r\n{reply}");
            check(&input, &Err(error), &initial, "");
        }
        // Answers out of order would leave one behind for the client.
        let input = format!("{SASL_IR}a OK [CAPABILITY A] in\r\n");
        check(&input, &Err(LoginError::Unexpected("tag")), &initial, "");
        let input = "* OK ready\r\ni OK\r\na OK [CAPABILITY A] in\r\n";
        let sent = format!("{ID}a AUTHENTICATE PLAIN\r\n");
        check(
            input,
            &Err(LoginError::Unexpected("OK without a password")),
            &sent,
            "",
        );
    }

    #[test]
    fn a_session_that_ends_after_its_ok_is_none() {
        let sent = format!("{ID}a AUTHENTICATE PLAIN {RESPONSE}\r\nc CAPABILITY\r\n");
        let refused = |text: &str| LoginError::Refused {
            refusal: Refusal::Unavailable,
            reply: text.to_owned(),
        };
        for (reply, error) in [
            ("* BYE Internal error\r\n", refused("Internal error")),
            ("c NO no\r\n", refused("no")),
            ("c OK\r\n", LoginError::Unexpected("no capability list")),
            ("a OK\r\n", LoginError::Unexpected("tag")),
            ("* CAPABILITY \x7f\r\n", ReplyError::Capabilities.into()),
        ] {
            let input = format!("{SASL_IR}i OK\r\na OK [CAPABILITY A] in\r\n{reply}");
            check(&input, &Err(error), &sent, "");
        }
    }

    #[test]
    fn the_password_is_sent_to_greeting_imap_servers_only() {
        for greeting in [
            "* BYE too busy\r\n",
            "* PREAUTH in\r\n",
            "* NO x\r\n",
            "+OK POP3\r\n",
            "220 SMTP\r\n",
            "i OK\r\n",
            "* CAPABILITY IMAP4rev1\r\n* OK too late\r\ni OK\r\n+ \r\n",
        ] {
            let (step, out, _) = run(&[greeting.as_bytes()]);
            assert!(step.is_err(), "{greeting}");
            assert_eq!(out, "", "{greeting}");
        }
    }

    #[test]
    fn no_prefix_of_a_login_is_one() {
        let input =
            format!("{SASL_IR}i OK\r\na OK [CAPABILITY A B] in\r\n* CAPABILITY A B\r\nc OK\r\n");
        for cut in 0..input.len() {
            assert_eq!(run(&[&input.as_bytes()[..cut]]).0, Ok(Step::More));
        }
    }
}
