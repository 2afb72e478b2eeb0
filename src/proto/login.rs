//! Logging in to a real IMAP server on behalf of an account, client half.
//!
//! ```text
//! server  * OK [CAPABILITY ...] ready
//! us      i ID ("x-originating-ip" ...)            not if the greeting has a capability list without ID
//!         a AUTHENTICATE PLAIN <response>          in the same write; without SASL-IR (RFC 4959) in the greeting
//!                                                  the response waits for the server's "+"
//! server  * ID ...    i OK                         NO and BAD do no harm: the server logs no client address then
//! server  a OK Logged in
//! us      c CAPABILITY
//! server  * CAPABILITY ...    c OK                 done
//! ```
//!
//! The login is the master user's, who may act as any account: Dovecot and Cyrus take the account as the authorization
//! identity (RFC 4616). Courier passes over that identity and would give every account the master user's own mailbox, so
//! it gets none; there, and wherever one password opens every account, the login is the account's own.
//!
//! Dovecot says OK before it has opened the account's mailbox, and BYE after that when it can't. So CAPABILITY is asked
//! whether or not the OK came with a list: its answer shows that the session lives, and the list is that of this session.
//!
//! Nothing is sent before the greeting: a server that says BYE, or one that is no IMAP server, never sees the password,
//! which is the node's own; the user's never comes here. A BAD without a tag ends the login: the server did not understand
//! what was sent before the greeting, as a PROXY header that it does not expect. Octets behind the last reply stay in the input:
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

/// What a server says of itself that passes over authorization identities.
const COURIER: &[u8] = b"Courier-IMAP";

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
    /// The server passes over authorization identities: every account would get the master user's mailbox.
    #[error(
        "Courier takes no master user: remove master_user, the password has to open every account"
    )]
    Identity,
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
    /// ID is answered, or was not sent.
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
    /// Whether the login is a master user's.
    is_master: bool,
    /// The PLAIN response in base64, until it is sent.
    response: Option<Secret>,
    /// The list of an untagged CAPABILITY that was asked for.
    capabilities: Option<String>,
}

impl Client {
    /// Will log in as `account` and tell the server who the client is; `password` is the master user's, or, without one,
    /// opens the account itself. Neither `master` nor `password` holds a NUL.
    ///
    /// # Errors
    ///
    /// When one of the words can't be written in its form.
    pub fn new(
        account: &AccountName,
        master: Option<&str>,
        password: &Secret,
        id: &ClientId<'_>,
    ) -> Result<Self, EncodeError> {
        let mut command = BytesMut::new();
        encode::imap_id(id, &mut command)?;
        Ok(Self {
            replies: Reader::new(),
            state: State::Greeting,
            id: command,
            is_master: master.is_some(),
            response: Some(response(account, master, password)),
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
            (State::Greeting, Status::Ok) => self.authenticate(text, out),
            (_, Status::Bad) => Err(LoginError::Unexpected("BAD without a tag")),
            (_, Status::Preauth) => Err(LoginError::Unexpected("PREAUTH")),
            (State::Greeting, _) => Err(LoginError::Unexpected("greeting")),
            (_, _) => Ok(()),
        }
    }

    /// Answers the greeting.
    fn authenticate(&mut self, greeting: &[u8], out: &mut BytesMut) -> Result<(), LoginError> {
        if self.is_master && greeting.windows(COURIER.len()).any(|word| word == COURIER) {
            return Err(LoginError::Identity);
        }
        let list = reply::code(greeting)
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"CAPABILITY"))
            .map(|(_, list)| list);
        let offers = |wanted: &[u8]| {
            list.map(|list| {
                list.split(|octet| *octet == b' ')
                    .any(|capability| capability.eq_ignore_ascii_case(wanted))
            })
        };
        self.state = State::Authenticating;
        if offers(b"ID").unwrap_or(true) {
            put_command(ID_TAG, &self.id, out);
            self.state = State::Identifying;
        }
        out.put_slice(AUTHENTICATE_TAG);
        out.put_slice(b" AUTHENTICATE PLAIN");
        if offers(b"SASL-IR").unwrap_or(false)
            && let Some(response) = self.response.take()
        {
            out.put_u8(b' ');
            out.put_slice(response.expose());
        }
        out.put_slice(b"\r\n");
        Ok(())
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

/// The response of PLAIN: the master user acting as the account, or the account itself.
pub(super) fn response(account: &AccountName, master: Option<&str>, password: &Secret) -> Secret {
    match master {
        Some(master) => sasl::plain_initial(account.as_str(), master, password),
        None => sasl::plain_initial("", account.as_str(), password),
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
    LoginError::Refused {
        refusal: reply::refusal(text),
        reply: reply::shown(text),
    }
}

/// More than all commands of a login together with names as in the properties, in octets.
#[cfg(any(fuzzing, test))]
const MAX_SENT_BYTES: usize = 2048;

/// Plays the server's words to a client: its last step, what it wrote, what it left.
#[cfg(any(fuzzing, test))]
pub(super) fn play<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
    mut step: impl FnMut(&mut BytesMut, &mut BytesMut) -> Result<Step, LoginError>,
) -> (Result<Step, LoginError>, Vec<u8>, Vec<u8>) {
    let (mut input, mut out, mut last) = (BytesMut::new(), BytesMut::new(), Ok(Step::More));
    let mut taken: usize = 0;
    for part in parts {
        input.extend_from_slice(part);
        if last == Ok(Step::More) {
            taken += part.len();
            last = step(&mut input, &mut out);
            if last == Ok(Step::More) {
                // What a server says has an end, and no more of it is kept than one line.
                assert!(
                    input.len() < reply::MAX_LINE_BYTES,
                    "keeps {} octets",
                    input.len()
                );
                assert!(
                    taken - input.len() <= reply::MAX_TOTAL_BYTES,
                    "has read {taken} octets"
                );
            }
        }
    }
    (last, out.to_vec(), input.to_vec())
}

/// Holds for any real server and the client of any protocol: however the network cuts what it says, the login goes the
/// same way, the password is sent once at most and only after a greeting, and what follows the login is left. Gives the
/// capability list of a login that succeeds. `greeting` is what a greeting begins with, in upper case.
#[cfg(any(fuzzing, test))]
pub(super) fn property<S>(
    seed: u8,
    said: &[u8],
    greeting: &[u8],
    response: &Secret,
    client: impl Fn() -> S,
) -> Option<String>
where
    S: FnMut(&mut BytesMut, &mut BytesMut) -> Result<Step, LoginError>,
{
    let run = |cut: &mut dyn FnMut() -> usize| {
        let (last, sent, left) = play(pieces(said, cut), client());
        let left = last.is_ok().then_some(left);
        (last, sent, left)
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(whole, run(&mut sizes(seed)), "cut, it was read otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
    let (last, sent, left) = whole;
    // Each command once, whatever the server says and however long.
    assert!(sent.len() <= MAX_SENT_BYTES, "sends {} octets", sent.len());
    let response = response.expose();
    let sent = sent
        .windows(response.len())
        .filter(|window| *window == response)
        .count();
    let start = said.get(..greeting.len()).unwrap_or_default();
    assert!(sent == 0 || sent == 1 && start.eq_ignore_ascii_case(greeting));
    assert!(left.is_none_or(|left| said.ends_with(&left)));
    match last {
        Ok(Step::Done { capabilities }) => {
            assert_eq!(sent, 1, "logged in without a password");
            assert!(capabilities.len() <= reply::MAX_CAPABILITY_BYTES);
            Some(capabilities)
        }
        Ok(Step::More) | Err(_) => None,
    }
}

/// The property for IMAP. The first octet chooses how it is cut, and by its second bit whether there is a master user.
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
    let master = (seed & 2 == 0).then_some("master");
    let client = || {
        let mut client = Client::new(&account, master, &password, &id);
        move |input: &mut BytesMut, out: &mut BytesMut| match &mut client {
            Ok(client) => client.step(input, out),
            Err(_) => Err(LoginError::Unexpected("id that can't be quoted")),
        }
    };
    let response = response(&account, master, &password);
    if let Some(list) = property(*seed, said, b"* OK", &response, client) {
        assert_eq!(reply::capabilities(list.as_bytes()), Ok(list));
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
    /// base64 of `NUL ann NUL secret`.
    const OWN_RESPONSE: &str = "AGFubgBzZWNyZXQ=";
    const SASL_IR: &str = "* OK [CAPABILITY IMAP4rev1 sasl-ir ID] ready\r\n";

    fn client(master: Option<&str>) -> Client {
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
        Client::new(&account, master, &Secret::new(b"secret".to_vec()), &id).unwrap()
    }

    /// What comes of it, what was written, what is left.
    fn run(parts: &[&[u8]], master: Option<&str>) -> (Result<Step, LoginError>, String, Vec<u8>) {
        let mut client = client(master);
        let parts = parts.iter().copied();
        let (last, sent, left) = play(parts, |input, out| client.step(input, out));
        (last, String::from_utf8(sent).unwrap(), left)
    }

    fn check(input: &str, result: &Result<&str, LoginError>, sent: &str, left: &str) {
        check_as(Some("acceptor"), input, result, sent, left);
    }

    fn check_as(
        master: Option<&str>,
        input: &str,
        result: &Result<&str, LoginError>,
        sent: &str,
        left: &str,
    ) {
        at_every_split(input.as_bytes(), |parts| {
            let (step, out, rest) = run(parts, master);
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
    fn an_id_is_sent_to_those_who_may_know_it() {
        let end = "a OK in\r\n* CAPABILITY A\r\nc OK\r\n";
        let login = format!("a AUTHENTICATE PLAIN\r\n{RESPONSE}\r\nc CAPABILITY\r\n");
        for (greeting, answers, sent) in [
            ("[CAPABILITY IMAP4rev1 XID IDLE]", "+ \r\n", login.clone()),
            ("[CAPABILITY id]", "i OK\r\n+ \r\n", format!("{ID}{login}")),
            ("[ALERT] ID", "i NO what\r\n+\r\n", format!("{ID}{login}")),
        ] {
            let input = format!("* OK {greeting} hello\r\n{answers}{end}");
            check(&input, &Ok("A"), &sent, "");
        }
    }

    #[test]
    fn without_a_master_user_the_account_itself_logs_in() {
        let sent = format!("a AUTHENTICATE PLAIN\r\n{OWN_RESPONSE}\r\nc CAPABILITY\r\n");
        let greeting = "* OK [CAPABILITY IMAP4rev1] Courier-IMAP ready.\r\n";
        let input =
            format!("{greeting}+ \r\n* OK [ALERT] hm\r\na OK\r\n* CAPABILITY A\r\nc OK\r\n");
        check_as(None, &input, &Ok("A"), &sent, "");
        check(greeting, &Err(LoginError::Identity), "", "");
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
            (
                "* BAD what\r\n",
                LoginError::Unexpected("BAD without a tag"),
            ),
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
            let (step, out, _) = run(&[greeting.as_bytes()], Some("acceptor"));
            assert!(step.is_err(), "{greeting}");
            assert_eq!(out, "", "{greeting}");
        }
    }

    #[test]
    fn no_prefix_of_a_login_is_one() {
        let input =
            format!("{SASL_IR}i OK\r\na OK [CAPABILITY A B] in\r\n* CAPABILITY A B\r\nc OK\r\n");
        for cut in 0..input.len() {
            let (step, _, _) = run(&[&input.as_bytes()[..cut]], Some("acceptor"));
            assert_eq!(step, Ok(Step::More));
        }
    }
}
