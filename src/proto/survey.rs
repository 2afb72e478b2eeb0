//! What a real server says of itself before anybody logs in, client half: the self-test of the kind `login`.
//!
//! ```text
//! server  * OK [CAPABILITY ...] Cyrus IMAP 3.6.1 server ready     +OK Cyrus POP3 3.6.1 server ready
//! us      s CAPABILITY                                            CAPA
//! server  * CAPABILITY ... AUTH=PLAIN    s OK                     +OK    SASL PLAIN    IMPLEMENTATION Cyrus    .
//! us      e LOGOUT                                                QUIT                 done
//! ```
//!
//! Any other answer is an error: a server that did not expect the PROXY header in front takes it for commands, and has
//! answered those first. A server that has no CAPA says so by `-ERR` and offers nothing.
//!
//! No name and no password is sent. Who waits, and for how long, is the driver's business. Limits: those of `reply`. RFC
//! 3501 and RFC 9051, 6.1.1; RFC 2449, section 5.

use bytes::{BufMut as _, BytesMut};

#[cfg(any(fuzzing, test))]
use super::conversation::{pieces, sizes};
use super::reply::{self, Reader, Reply, ReplyError, Status};
use crate::names::Protocol;

const TAG: &[u8] = b"s";

/// What a server says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Survey {
    /// Its greeting without its response code, escaped.
    pub greeting: String,
    /// Whether it offers the mechanism PLAIN.
    pub offers_plain: bool,
    /// Whether it is Courier, which passes over the user that a login acts as.
    pub is_courier: bool,
}

/// How far the survey is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// It is complete; what is in `out` says good-bye.
    Done(Survey),
    /// Write what is in `out`, read more input and step again.
    More,
}

/// Why there is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SurveyError {
    /// After its greeting it answers something that was not asked: with its greeting, and this answer, escaped.
    #[error("the server greets with \"{greeting}\" and answers \"{answer}\"")]
    Answer {
        /// As in [`Survey`].
        greeting: String,
        /// What it says.
        answer: String,
    },
    /// It serves nobody now, or speaks another protocol.
    #[error("the server greets with \"{0}\"")]
    Greeting(String),
    /// Its greeting breaks a limit or its form.
    #[error("greeting of the server is malformed")]
    Reply(#[from] ReplyError),
}

/// Asks once.
#[derive(Debug)]
pub struct Client {
    replies: Reader,
    protocol: Protocol,
    is_greeted: bool,
    /// The answer to CAPA has begun.
    is_listed: bool,
    survey: Survey,
}

impl Client {
    /// Has heard nothing yet.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            replies: Reader::new(),
            protocol,
            is_greeted: false,
            is_listed: false,
            survey: Survey::default(),
        }
    }

    /// Takes what the server said from `input` and puts what to write next into `out`.
    ///
    /// # Errors
    ///
    /// When the server says what no server should that was asked nothing but this.
    pub fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Step, SurveyError> {
        loop {
            let done = match self.protocol {
                Protocol::Imap => self.imap(input, out)?,
                Protocol::Pop3 => self.pop3(input, out)?,
            };
            match done {
                Some(true) => return Ok(Step::Done(self.survey.clone())),
                Some(false) => {}
                None => return Ok(Step::More),
            }
        }
    }

    /// Takes one reply: whether it was the last; none: it has not come.
    fn imap(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<bool>, SurveyError> {
        let reply = match self.replies.reply(input) {
            Ok(Some(reply)) => reply,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.malformed(error)),
        };
        match reply {
            Reply::Status {
                tag: None,
                status: Status::Ok,
                text,
            } if !self.is_greeted => {
                self.greeted(&text);
                self.survey.is_courier = contains(&text, b"Courier-IMAP");
                out.put_slice(b"s CAPABILITY\r\n");
            }
            Reply::Status { tag, text, .. } if !self.is_greeted => {
                return Err(match tag {
                    None => SurveyError::Greeting(reply::shown(&text)),
                    Some(_) => ReplyError::Malformed.into(),
                });
            }
            Reply::Continue | Reply::Data(_) if !self.is_greeted => {
                return Err(ReplyError::Malformed.into());
            }
            Reply::Data(data) => {
                let list = reply::data_capabilities(&data);
                if let Some(list) = list.map_err(|error| self.malformed(error))? {
                    let mut words = list.split(' ');
                    self.survey.offers_plain =
                        words.any(|word| word.eq_ignore_ascii_case("AUTH=PLAIN"));
                }
            }
            Reply::Status {
                tag: None,
                status: Status::Ok,
                ..
            } => {}
            Reply::Status {
                tag: Some(tag),
                status: Status::Ok,
                ..
            } if tag == TAG => {
                out.put_slice(b"e LOGOUT\r\n");
                return Ok(Some(true));
            }
            Reply::Status { text, .. } => return Err(self.answer(&text)),
            Reply::Continue => return Err(self.answer(b"+")),
        }
        Ok(Some(false))
    }

    /// The same for a line of POP3.
    fn pop3(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<bool>, SurveyError> {
        let line = match self.replies.line(input) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.malformed(error)),
        };
        let mut parts = line.splitn(2, |octet| *octet == b' ');
        let (word, text) = (parts.next(), parts.next().unwrap_or_default());
        match word.unwrap_or_default() {
            b"+OK" if !self.is_greeted => {
                self.greeted(text);
                out.put_slice(b"CAPA\r\n");
            }
            b"-ERR" if !self.is_greeted => {
                return Err(SurveyError::Greeting(reply::shown(text)));
            }
            _ if !self.is_greeted => return Err(ReplyError::Malformed.into()),
            b"+OK" if !self.is_listed => self.is_listed = true,
            _ if !self.is_listed => return Err(self.answer(&line)),
            b"." => {
                out.put_slice(b"QUIT\r\n");
                return Ok(Some(true));
            }
            b"SASL" => {
                let mut mechanisms = text.split(|octet| *octet == b' ');
                self.survey.offers_plain =
                    mechanisms.any(|mechanism| mechanism.eq_ignore_ascii_case(b"PLAIN"));
            }
            b"IMPLEMENTATION" => self.survey.is_courier = contains(text, b"Courier"),
            _ => {}
        }
        Ok(Some(false))
    }

    fn greeted(&mut self, text: &[u8]) {
        self.is_greeted = true;
        let code = text.iter().position(|octet| *octet == b']');
        let rest = code
            .filter(|_| text.starts_with(b"["))
            .and_then(|end| text.get(end.saturating_add(1)..));
        self.survey.greeting = reply::shown(rest.unwrap_or(text).trim_ascii());
    }

    fn answer(&self, answer: &[u8]) -> SurveyError {
        SurveyError::Answer {
            greeting: self.survey.greeting.clone(),
            answer: reply::shown(answer),
        }
    }

    /// Words that are no reply, behind a greeting, are an answer to something else.
    fn malformed(&self, error: ReplyError) -> SurveyError {
        if self.is_greeted {
            self.answer(error.to_string().as_bytes())
        } else {
            error.into()
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Holds for any real server: however the network cuts what it says, the survey is the same, and what it shows is
/// printable. The first octet chooses the protocol, the second how the rest is cut.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    let [choice, seed, said @ ..] = data else {
        return;
    };
    let protocol = match choice % 2 {
        0 => Protocol::Imap,
        _ => Protocol::Pop3,
    };
    let run = |cut: &mut dyn FnMut() -> usize| {
        let (mut client, mut input, mut out) =
            (Client::new(protocol), BytesMut::new(), BytesMut::new());
        let mut last = Ok(Step::More);
        let mut taken: usize = 0;
        for piece in pieces(said, cut) {
            input.extend_from_slice(piece);
            if last == Ok(Step::More) {
                taken += piece.len();
                last = client.step(&mut input, &mut out);
                if last == Ok(Step::More) {
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
        assert!(out.len() <= 64, "says {} octets", out.len());
        (last, out)
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(whole, run(&mut sizes(*seed)), "cut, it was read otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
    if let Ok(Step::Done(survey)) = whole.0 {
        assert!(
            survey
                .greeting
                .bytes()
                .all(|octet| (b' '..=b'~').contains(&octet))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reply::at_every_split, *};

    fn check(protocol: Protocol, said: &str, result: &Result<Survey, SurveyError>, sent: &str) {
        at_every_split(said.as_bytes(), |parts| {
            let (mut client, mut input, mut out) =
                (Client::new(protocol), BytesMut::new(), BytesMut::new());
            let mut last = Ok(Step::More);
            for part in parts {
                input.extend_from_slice(part);
                if last == Ok(Step::More) {
                    last = client.step(&mut input, &mut out);
                }
            }
            assert_eq!(last, result.clone().map(Step::Done), "{said}");
            assert_eq!(out, sent, "{said}");
        });
    }

    fn survey(greeting: &str, offers_plain: bool, is_courier: bool) -> Survey {
        Survey {
            greeting: greeting.to_owned(),
            offers_plain,
            is_courier,
        }
    }

    #[test]
    fn servers_say_what_they_are() {
        let sent = "s CAPABILITY\r\ne LOGOUT\r\n";
        for (said, expected) in [
            (
                "* OK [CAPABILITY AUTH=PLAIN] Cyrus IMAP 3.6.1 ready\r\n\
                 * CAPABILITY IMAP4rev1 auth=plain\r\ns OK\r\n* BYE",
                survey("Cyrus IMAP 3.6.1 ready", true, false),
            ),
            (
                "* OK Courier-IMAP\x07 [x]\r\n* OK hm\r\n* CAPABILITY A AUTH=PLAINS\r\ns OK\r\n",
                survey("Courier-IMAP\\x07 [x]", false, true),
            ),
        ] {
            check(Protocol::Imap, said, &Ok(expected), sent);
        }
        let sent = "CAPA\r\nQUIT\r\n";
        for (said, expected) in [
            (
                "+OK [XCLIENT] Dovecot ready.\r\n+OK\r\nSASL LOGIN PLAIN\r\n.\r\n+OK",
                survey("Dovecot ready.", true, false),
            ),
            (
                "+OK Hello there.\r\n+OK\r\nTOP\r\nIMPLEMENTATION Courier Mail Server\r\n.\r\n",
                survey("Hello there.", false, true),
            ),
        ] {
            check(Protocol::Pop3, said, &Ok(expected), sent);
        }
    }

    #[test]
    fn answers_to_something_else_are_errors() {
        let answer = |answer: &str| SurveyError::Answer {
            greeting: "hi".to_owned(),
            answer: answer.to_owned(),
        };
        for (protocol, said, error) in [
            (
                Protocol::Imap,
                "* BAD Invalid tag\r\n",
                answer("Invalid tag"),
            ),
            (Protocol::Imap, "* NO what\r\n", answer("what")),
            (Protocol::Imap, "PROXY BAD no\r\n", answer("no")),
            (Protocol::Imap, "* BYE no\r\n", answer("no")),
            (Protocol::Imap, "+\r\n", answer("+")),
            (
                Protocol::Imap,
                " OK done\r\n",
                answer("reply of the real server is malformed"),
            ),
            (Protocol::Pop3, "-ERR what\r\n", answer("-ERR what")),
            (Protocol::Pop3, "\r\n", answer("")),
        ] {
            let (greeting, sent) = match protocol {
                Protocol::Imap => ("* OK hi\r\n", "s CAPABILITY\r\n"),
                Protocol::Pop3 => ("+OK hi\r\n", "CAPA\r\n"),
            };
            check(protocol, &format!("{greeting}{said}"), &Err(error), sent);
        }
        for (protocol, said, error) in [
            (
                Protocol::Imap,
                "* BYE busy\r\n",
                SurveyError::Greeting("busy".to_owned()),
            ),
            (
                Protocol::Pop3,
                "-ERR busy\r\n",
                SurveyError::Greeting("busy".to_owned()),
            ),
            (Protocol::Imap, "+OK POP3\r\n", ReplyError::Malformed.into()),
            (
                Protocol::Imap,
                "* 1 EXISTS\r\n",
                ReplyError::Malformed.into(),
            ),
            (
                Protocol::Pop3,
                "* OK IMAP\r\n",
                ReplyError::Malformed.into(),
            ),
        ] {
            check(protocol, said, &Err(error), "");
        }
    }
}
