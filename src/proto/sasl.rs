//! SASL PLAIN, LOGIN and EXTERNAL: the server half for all, the client half for PLAIN.
//!
//! An [`Exchange`] is used up by each response and gives the next one, or the credentials. It speaks base64 as IMAP and
//! POP3 do; the line ends, `+` and the command itself are the protocol's.
//!
//! It does not check a password, prepare strings (SASLprep: the directory decides what is equal), or count attempts.
//!
//! ```text
//!  PLAIN   challenge ""           response [authzid] NUL authcid NUL password                    done
//!  LOGIN   challenge "Username:"  response name    challenge "Password:"  response password      done
//!  EXTERNAL  challenge ""         response [authzid]                                             done
//! ```
//!
//! The first response may come with the command (RFC 4959), where `=` is an empty one. For LOGIN it is the name.
//! Base64 is taken in its one canonical form, with padding (RFC 4648, 3.5): what two decoders read differently is
//! refused. EXTERNAL is there only for a client whose certificate was verified, and the login is the certificate's.
//! Names obey [`Login`]; a NUL in a password is refused, as some library behind would cut it there.
//! Limits: the caller's line limit. RFC 4616, RFC 4422, draft-murchison-sasl-login.
//! On a [`SaslError`] the exchange is over and the caller says so in its protocol's words.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::talk::{Credentials, Mechanism};
use crate::{
    names::{Login, NameError},
    secret::Secret,
};

/// An exchange that waits for a response.
#[derive(Debug)]
pub struct Exchange(Wait);

#[derive(Debug)]
enum Wait {
    External(Login),
    LoginName,
    LoginPassword(Login),
    Plain,
}

/// What a response led to.
#[derive(Debug)]
pub enum Turn {
    /// Send this base64 text, then give the response to the exchange.
    Challenge(&'static str, Exchange),
    /// The client has said all.
    Done(Credentials),
}

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SaslError {
    /// The response is not base64 in its canonical form.
    #[error("response is not base64")]
    Base64,
    /// The client gave up.
    #[error("client cancelled")]
    Cancelled,
    /// The response is no message of the mechanism.
    #[error("response does not follow the mechanism")]
    Message,
    /// A name that nobody can have.
    #[error("name cannot be used")]
    Name(#[source] NameError),
}

impl Exchange {
    /// Begins with a mechanism by its name (in any case); none if it is not known here.
    pub fn new(mechanism: &[u8]) -> Option<Self> {
        [("LOGIN", Wait::LoginName), ("PLAIN", Wait::Plain)]
            .into_iter()
            .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(mechanism))
            .map(|(_, wait)| Self(wait))
    }

    /// The same for a client whose certificate stands for a login, if it does: with EXTERNAL.
    pub fn with_certificate(mechanism: &[u8], certified: Option<&Login>) -> Option<Self> {
        match certified {
            Some(login) if mechanism.eq_ignore_ascii_case(b"EXTERNAL") => {
                Some(Self(Wait::External(login.clone())))
            }
            _ => Self::new(mechanism),
        }
    }

    /// Goes on with the initial response that came with the command, if one did.
    pub fn start(self, initial: Option<&[u8]>) -> Result<Turn, SaslError> {
        match initial {
            None => Ok(self.challenge()),
            Some(b"=") => self.decoded(&[]),
            Some(text) => self.decoded(&decode(text)?),
        }
    }

    /// Goes on with a line (without its CRLF) that answers the challenge.
    pub fn respond(self, line: &[u8]) -> Result<Turn, SaslError> {
        match line {
            b"*" => Err(SaslError::Cancelled),
            text => self.decoded(&decode(text)?),
        }
    }

    fn challenge(self) -> Turn {
        let text = match self.0 {
            Wait::LoginName => "VXNlcm5hbWU6",
            Wait::LoginPassword(_) => "UGFzc3dvcmQ6",
            Wait::External(_) | Wait::Plain => "",
        };
        Turn::Challenge(text, self)
    }

    fn decoded(self, response: &[u8]) -> Result<Turn, SaslError> {
        match self.0 {
            Wait::External(login) => Ok(Turn::Done(Credentials {
                login,
                authorize: match response {
                    [] => None,
                    name => Some(Login::from_bytes(name).map_err(SaslError::Name)?),
                },
                password: Secret::default(),
                mechanism: Mechanism::External,
            })),
            Wait::LoginName => {
                let login = Login::from_bytes(response).map_err(SaslError::Name)?;
                Ok(Self(Wait::LoginPassword(login)).challenge())
            }
            Wait::LoginPassword(login) => Ok(Turn::Done(Credentials {
                login,
                authorize: None,
                password: password(response)?,
                mechanism: Mechanism::Login,
            })),
            Wait::Plain => {
                let mut parts = response.splitn(3, |octet| *octet == 0);
                let (Some(authzid), Some(authcid), Some(rest)) =
                    (parts.next(), parts.next(), parts.next())
                else {
                    return Err(SaslError::Message);
                };
                Credentials::new(authcid, authzid, password(rest)?, Mechanism::Plain)
                    .map(Turn::Done)
                    .map_err(SaslError::Name)
            }
        }
    }
}

/// The one response of PLAIN as base64, for a client: an empty `authzid` lets the server derive it.
pub fn plain_initial(authzid: &str, authcid: &str, password: &Secret) -> Secret {
    let parts = [authzid.as_bytes(), authcid.as_bytes(), password.expose()];
    // Room for all of it from the start: a growing vector would leave copies behind.
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut message = Zeroizing::new(Vec::with_capacity(length.saturating_add(2)));
    for (at, part) in parts.into_iter().enumerate() {
        if at > 0 {
            message.push(0);
        }
        message.extend_from_slice(part);
    }
    Secret::new(STANDARD.encode(&message).into_bytes())
}

fn password(octets: &[u8]) -> Result<Secret, SaslError> {
    if octets.contains(&0) {
        return Err(SaslError::Message);
    }
    Ok(Secret::new(octets.to_vec()))
}

fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, SaslError> {
    let mut octets = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = STANDARD
        .decode_slice(text, &mut octets)
        .map_err(|_| SaslError::Base64)?;
    octets.truncate(length);
    Ok(octets)
}

/// Holds for any client: what comes of an exchange says again, encoded, what the client sent, so nothing was read in
/// two ways. The first octet chooses the mechanism (EXTERNAL by 8), whether a response comes with the command, and whether responses are
/// taken as base64 or encoded first; the lines behind it are the responses.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    let [choice, said @ ..] = data else {
        return;
    };
    let mechanism = match choice & 9 {
        0 => "PLAIN",
        1 => "LOGIN",
        _ => "EXTERNAL",
    };
    let certified = Login::parse("certified").ok();
    let encodes = choice & 4 != 0;
    let responses: Vec<Vec<u8>> = said
        .split(|octet| *octet == b'\n')
        .map(|line| match encodes {
            true => STANDARD.encode(line).into_bytes(),
            false => line.to_vec(),
        })
        .collect();
    let mut left = responses.iter();
    let exchange = Exchange::with_certificate(mechanism.as_bytes(), certified.as_ref());
    let Some(exchange) = exchange else {
        return;
    };
    let initial = (choice & 2 != 0).then(|| left.next()).flatten();
    let mut turn = exchange.start(initial.map(Vec::as_slice));
    while let Ok(Turn::Challenge(text, exchange)) = turn {
        assert!(STANDARD.decode(text).is_ok(), "a challenge is not base64");
        let Some(response) = left.next() else {
            return;
        };
        turn = exchange.respond(response);
    }
    match turn {
        Ok(Turn::Done(credentials)) => {
            let sent = responses.len().saturating_sub(left.len());
            let sent: Vec<_> = responses.iter().take(sent).map(Vec::as_slice).collect();
            said_again(&credentials, &sent);
        }
        Ok(Turn::Challenge(..)) => {}
        Err(error) => assert!(
            !encodes || error != SaslError::Base64,
            "encoded for nothing"
        ),
    }
}

#[cfg(any(fuzzing, test))]
fn said_again(credentials: &Credentials, sent: &[&[u8]]) {
    assert!(!credentials.password.expose().contains(&0));
    let login = credentials.login.as_str();
    let authorize = credentials.authorize.as_ref().map_or("", Login::as_str);
    if credentials.mechanism == Mechanism::External {
        assert!(login == "certified" && credentials.password.is_empty());
        let again = STANDARD.encode(authorize);
        assert!(sent == [again.as_bytes()] || authorize.is_empty() && sent == [b"="]);
    } else if credentials.mechanism == Mechanism::Plain {
        let again = plain_initial(authorize, login, &credentials.password);
        assert_eq!(sent, [again.expose()]);
    } else {
        let password = STANDARD.encode(credentials.password.expose());
        let name = STANDARD.encode(login);
        assert_eq!(sent, [name.as_bytes(), password.as_bytes()]);
        assert_eq!(authorize, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays responses; the first is an initial one if `initial`.
    fn play(mechanism: &str, initial: bool, responses: &[&[u8]]) -> Result<Credentials, SaslError> {
        let mut responses = responses.iter();
        let exchange = Exchange::new(mechanism.as_bytes()).unwrap();
        let first = initial.then(|| *responses.next().unwrap());
        let mut turn = exchange.start(first)?;
        loop {
            match turn {
                Turn::Done(credentials) => {
                    assert_eq!(responses.next(), None);
                    return Ok(credentials);
                }
                Turn::Challenge(_, exchange) => {
                    turn = exchange.respond(responses.next().unwrap())?;
                }
            }
        }
    }

    fn base64(octets: &[u8]) -> Vec<u8> {
        STANDARD.encode(octets).into_bytes()
    }

    #[test]
    fn plain_takes_its_three_parts() {
        for (message, login, authorize, password) in [
            (&b"\0ann\0pw"[..], "ann", None, &b"pw"[..]),
            (b"bob\0ann\0pw", "ann", Some("bob"), b"pw"),
            (b"ann\0ann\0pw", "ann", Some("ann"), b"pw"),
            (b"\0ann\0", "ann", None, b""),
            (b"\0ann\0p \"\\\xff", "ann", None, b"p \"\\\xff"),
            ("\0Zoë\0ö".as_bytes(), "Zoë", None, "ö".as_bytes()),
        ] {
            for initial in [false, true] {
                let credentials = play("plain", initial, &[&base64(message)]).unwrap();
                assert_eq!(credentials.login.as_str(), login);
                assert_eq!(credentials.authorize.as_ref().map(Login::as_str), authorize);
                assert_eq!(credentials.password.expose(), password);
                assert_eq!(credentials.mechanism, Mechanism::Plain);
            }
        }
    }

    #[test]
    fn plain_refuses_what_it_could_read_in_two_ways() {
        use NameError::{Character, Empty, Long, Utf8};
        let long = [b"\0".as_slice(), &[b'x'; 256], b"\0pw"].concat();
        for (message, error) in [
            (&b""[..], SaslError::Message),
            (b"ann", SaslError::Message),
            (b"\0ann", SaslError::Message),
            (b"\0ann\0pw\0", SaslError::Message),
            (b"\0ann\0p\0w", SaslError::Message),
            (b"\0\0pw", SaslError::Name(Empty)),
            (b"\0a\nn\0pw", SaslError::Name(Character)),
            (b"b\tb\0ann\0pw", SaslError::Name(Character)),
            (b"\0\xff\0pw", SaslError::Name(Utf8)),
            (&long, SaslError::Name(Long)),
        ] {
            assert_eq!(
                play("PLAIN", false, &[&base64(message)]).unwrap_err(),
                error,
                "{}",
                message.escape_ascii()
            );
        }
        assert_eq!(
            play("PLAIN", true, &[b"="]).unwrap_err(),
            SaslError::Message
        );
    }

    #[test]
    fn login_asks_twice_or_once() {
        let (name, word) = (base64(b"ann"), base64(b"p w"));
        for initial in [false, true] {
            let credentials = play("LOGIN", initial, &[&name, &word]).unwrap();
            assert_eq!(credentials.login.as_str(), "ann");
            assert_eq!(credentials.password.expose(), b"p w");
            assert_eq!(credentials.mechanism, Mechanism::Login);
            assert!(credentials.authorize.is_none());
        }
        let empty = play("LOGIN", false, &[&name, b""]).unwrap();
        assert!(empty.password.is_empty());
        assert_eq!(
            play("LOGIN", false, &[&base64(b"a\0b")]).unwrap_err(),
            SaslError::Name(NameError::Character)
        );
        assert_eq!(
            play("LOGIN", false, &[&name, &base64(b"p\0w")]).unwrap_err(),
            SaslError::Message
        );
        assert_eq!(
            play("LOGIN", true, &[b"="]).unwrap_err(),
            SaslError::Name(NameError::Empty)
        );
        assert_eq!(
            play("LOGIN", false, &[&name, b"*"]).unwrap_err(),
            SaslError::Cancelled
        );
    }

    #[test]
    fn only_canonical_base64_is_read() {
        for text in [
            &b"AGFubgBwdw"[..], // padding lacks
            b"AGFubgBwdw=",
            b"AGFubgBwdw===",
            b"AGFubgBwdx==", // bits behind the end
            b"AGFubgBwdw== ",
            b" AGFubgBwdw==",
            b"AGFu\rbgBwdw==",
            b"AGFubgBwdw==AGFu",
            b"AGFubgBwd_==",
            b"=",
            b"====",
            b"\xff\xff\xff\xff",
            b"A",
        ] {
            assert_eq!(
                play("PLAIN", false, &[text]).unwrap_err(),
                SaslError::Base64,
                "{}",
                text.escape_ascii()
            );
        }
        assert!(play("PLAIN", false, &[b"AGFubgBwdw=="]).is_ok());
    }

    #[test]
    fn external_is_for_whom_a_certificate_stands() {
        let ann = Login::parse("ann").unwrap();
        let begin = || Exchange::with_certificate(b"external", Some(&ann)).unwrap();
        for (message, authorize) in [("", None), ("bob", Some("bob")), ("ann", Some("ann"))] {
            let text = base64(message.as_bytes());
            let initial = if text.is_empty() { &b"="[..] } else { &text };
            let Turn::Challenge("", asked) = begin().start(None).unwrap() else {
                panic!("it does not ask");
            };
            for turn in [begin().start(Some(initial)), asked.respond(&text)] {
                let Ok(Turn::Done(credentials)) = turn else {
                    panic!("{turn:?}");
                };
                assert_eq!(credentials.login, ann);
                let named = credentials.authorize.as_ref().map(Login::as_str);
                assert_eq!(named, authorize);
                assert!(credentials.password.is_empty());
                assert_eq!(credentials.mechanism, Mechanism::External);
            }
        }
        for (response, error) in [
            (base64(b"a\0b"), SaslError::Name(NameError::Character)),
            (base64(b"\xff"), SaslError::Name(NameError::Utf8)),
            (b"AGFubgBwdw".to_vec(), SaslError::Base64),
        ] {
            assert_eq!(begin().start(Some(&response)).unwrap_err(), error);
        }
        assert!(Exchange::with_certificate(b"EXTERNAL", None).is_none());
        assert!(Exchange::with_certificate(b"EXTERNALX", Some(&ann)).is_none());
        let plain = Exchange::with_certificate(b"PLAIN", Some(&ann)).unwrap();
        assert_eq!(plain.start(Some(b"=")).unwrap_err(), SaslError::Message);
    }

    #[test]
    fn unknown_mechanisms_are_none() {
        for name in ["", "PLAI", "PLAINX", "CRAM-MD5", "XOAUTH2", "EXTERNAL"] {
            assert!(Exchange::new(name.as_bytes()).is_none());
        }
    }

    #[test]
    fn what_the_client_half_says_the_server_half_reads() {
        for (authzid, authcid, password) in [
            ("", "a", "b"),
            ("ann", "master", "pässwörd \"\\"),
            ("x", "y", ""),
        ] {
            let said = plain_initial(authzid, authcid, &Secret::new(password.into()));
            let credentials = play("PLAIN", true, &[said.expose()]).unwrap();
            assert_eq!(credentials.login.as_str(), authcid);
            assert_eq!(
                credentials
                    .authorize
                    .map_or(String::new(), |name| name.to_string()),
                authzid
            );
            assert_eq!(credentials.password.expose(), password.as_bytes());
        }
    }
}
