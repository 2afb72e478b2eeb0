//! What the policy server is told and what it answers, in JSON, with the names and types that Dovecot uses.
//!
//! ```text
//! {"device_id":"","login":"ann","protocol":"imap","pwhash":"0d4c","remote":"192.0.2.7","session_id":"...","tls":true}
//! ... and in a report "success" and "policy_reject" besides
//! {"status":0,"msg":""}
//! ```
//!
//! The login is told in small letters (ASCII's), and so it is hashed. `device_id` is what a client says of itself by ID (RFC 2971), which we do not ask for. Of an answer to a question everything but
//! `status` and `msg` is passed over, of one to a report everything.

use std::{fmt::Write as _, net::IpAddr};

use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Attempt, Finding};
use crate::secret::Secret;

/// Characters of the server's reason that go to the log.
const MAX_WORDS_CHARS: usize = 160;

/// How passwords are told apart without being told.
#[derive(Debug)]
pub(super) struct Hash {
    nonce: Secret,
    /// 0: all.
    bits: u16,
}

#[derive(Debug, Serialize)]
struct Question<'a> {
    device_id: &'static str,
    login: &'a str,
    protocol: &'static str,
    pwhash: String,
    remote: IpAddr,
    session_id: &'a str,
    #[serde(flatten)]
    found: Option<Found>,
    tls: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    success: bool,
    policy_reject: bool,
}

/// What the server says to a question.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    /// Below 0: no; 0: yes; above: yes, after so many seconds.
    pub(super) status: i64,
    msg: Option<String>,
}

pub(super) fn allow(attempt: &Attempt<'_>, hash: &Hash) -> Bytes {
    body(attempt, hash, None)
}

pub(super) fn report(attempt: &Attempt<'_>, hash: &Hash, finding: Finding) -> Bytes {
    let found = Found {
        success: finding == Finding::Right,
        policy_reject: finding == Finding::Rejected,
    };
    body(attempt, hash, Some(found))
}

fn body(attempt: &Attempt<'_>, hash: &Hash, found: Option<Found>) -> Bytes {
    // Whoever changes letters changes neither the account nor what is counted for it.
    let login = attempt.login.as_str().to_ascii_lowercase();
    let question = Question {
        device_id: "",
        login: &login,
        protocol: attempt.protocol.as_str(),
        pwhash: hash.of(&login, attempt.password),
        remote: attempt.client,
        session_id: attempt.session.as_str(),
        found,
        tls: attempt.tls,
    };
    // Strings and truth values can always be written.
    serde_json::to_vec(&question).unwrap_or_default().into()
}

pub(super) fn answer(octets: &[u8]) -> Option<Answer> {
    serde_json::from_slice(octets).ok()
}

impl Answer {
    /// The reason, on one line and not too long.
    pub(super) fn words(self) -> String {
        let msg = self.msg.unwrap_or_default();
        let chars = msg.chars().take(MAX_WORDS_CHARS);
        chars
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect()
    }
}

impl Hash {
    pub(super) fn new(nonce: Secret, bits: u16) -> Self {
        Self { nonce, bits }
    }

    /// The first bits of SHA-256 of nonce, login, NUL and password, as a number in hexadecimal digits, two for each octet
    /// begun.
    fn of(&self, login: &str, password: &Secret) -> String {
        let digest = Sha256::new()
            .chain_update(self.nonce.expose())
            .chain_update(login)
            .chain_update([0])
            .chain_update(password.expose())
            .finalize();
        let bits = match usize::from(self.bits) {
            0 => digest.len().saturating_mul(8),
            bits => bits,
        };
        let missing = bits.next_multiple_of(8).saturating_sub(bits);
        let mut carried = 0_u16;
        let mut text = String::new();
        for octet in digest.iter().take(bits.div_ceil(8)) {
            // The octet before and this one, of which the window of eight bits is `missing` to the left.
            let window = carried << 8 | u16::from(*octet);
            let shifted = window >> missing & 0xff;
            // Writing to a String cannot fail.
            let _ = write!(text, "{shifted:02x}");
            carried = u16::from(*octet);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Login, Protocol, SessionId};

    fn hash(bits: u16) -> String {
        let hash = Hash::new(Secret::new(b"nonce".to_vec()), bits);
        hash.of("ann", &Secret::new(b"secret".to_vec()))
    }

    #[test]
    fn of_a_hash_so_many_bits_are_told() {
        let whole = hash(0);
        assert_eq!((whole.len(), whole.as_str()), (64, hash(256).as_str()));
        assert_eq!(hash(8), whole[..2]);
        assert_eq!(hash(16), whole[..4]);
        assert_eq!(hash(12), format!("0{}", &whole[..3]));
        assert_eq!(hash(4), format!("0{}", &whole[..1]));
        let number = |text: &str| u32::from_str_radix(text, 16).unwrap();
        assert_eq!(number(&hash(23)), number(&whole[..6]) >> 1);
        assert_eq!(number(&hash(1)), number(&whole[..2]) >> 7);
        assert_eq!(hash(1).len(), 2);
        assert_eq!(hash(23).len(), 6);
    }

    #[test]
    fn a_report_says_more_than_a_question() {
        let (login, session) = (
            Login::parse("A\"\\nn@Ex.org").unwrap(),
            SessionId::parse("id").unwrap(),
        );
        let attempt = Attempt {
            login: &login,
            password: &Secret::new(b"\xff pw".to_vec()),
            client: "2001:db8::1".parse().unwrap(),
            protocol: Protocol::Pop3,
            session: &session,
            tls: true,
        };
        let hash = Hash::new(Secret::new(b"n".to_vec()), 12);
        let value = |body: Bytes| serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        let asked = value(allow(&attempt, &hash));
        let expected = serde_json::json!({
            "device_id": "", "login": "a\"\\nn@ex.org", "protocol": "pop3", "pwhash": asked["pwhash"],
            "remote": "2001:db8::1", "session_id": "id", "tls": true,
        });
        assert_eq!(asked, expected);
        for (finding, success, rejected) in [
            (Finding::Right, true, false),
            (Finding::Wrong, false, false),
            (Finding::Rejected, false, true),
        ] {
            let mut told = value(report(&attempt, &hash, finding));
            let told = told.as_object_mut().unwrap();
            assert_eq!(told.remove("success"), Some(success.into()));
            assert_eq!(told.remove("policy_reject"), Some(rejected.into()));
            assert_eq!(told, expected.as_object().unwrap());
        }
    }

    #[test]
    fn answers_have_a_number() {
        for (text, status, words) in [
            (r#"{"status":0}"#, 0, ""),
            (r#"{"status":-1,"msg":"too many"}"#, -1, "too many"),
            (
                r#"{"msg":"a\r\nb","status":7,"r_attrs":{"x":[1]}}"#,
                7,
                "a  b",
            ),
            (r#"{"status":0,"msg":null}"#, 0, ""),
        ] {
            let answer = answer(text.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.words().as_str()), (status, words));
        }
        let long = format!(r#"{{"status":-1,"msg":"{}"}}"#, "ä".repeat(1000));
        let words = answer(long.as_bytes()).unwrap().words();
        assert_eq!(words.chars().count(), MAX_WORDS_CHARS);
        for text in [
            "",
            "{}",
            "0",
            r#"{"status":"0"}"#,
            r#"{"status":1.5}"#,
            r#"{"status":99999999999999999999}"#,
            r#"{"status":0,"msg":7}"#,
            r#"{"status":0"#,
            r#"{"status":0} x"#,
        ] {
            assert!(answer(text.as_bytes()).is_none(), "{text}");
        }
    }
}
