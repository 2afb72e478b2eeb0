//! What a real server says first on a session handed to it, as the proxy reads it before it says OK to the client.
//!
//! ```text
//! Ready(caps)   done at once, with that list unless it is empty
//! Capability    [untagged ...]  * CAPABILITY ...  x OK          done, with that list
//! Preauth       [untagged OK ...]  * PREAUTH [CAPABILITY ...]    done, with the list if there is one
//! Tagged        [untagged ...]  tag OK [CAPABILITY ...]          done, with the list if there is one
//! PlusOk        +OK ...                                          done
//! Silent        the proxy sends NOOP;  +OK ...                   done
//! anything of   * BYE   tag NO   tag BAD   -ERR                  refused
//! ```
//!
//! What follows the opening stays in the caller's buffer: it is the session's. It does not wait: the deadline is the
//! driver's, and so is the end of the stream, which before a complete opening means that the real server is away, never
//! that a password is wrong.
//!
//! Limits: those of `reply`. RFC 3501 and RFC 9051, 7.1 and 7.2.2; RFC 1939, section 3.

use bytes::{Bytes, BytesMut};

#[cfg(any(fuzzing, test))]
use super::conversation::{pieces, sizes};
use super::{
    link::{CAPABILITY_TAG, Opening, Refusal},
    reply::{self, Reply, ReplyError, Status},
};

/// What a POP3 server that begins without a word is asked.
const POP3_ASK: &[u8] = b"NOOP\r\n";

/// How far the opening is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// It is complete; what is left in the input belongs to the session.
    Done {
        /// The session's own capability list, without the word CAPABILITY, if the opening held one.
        capabilities: Option<String>,
    },
    /// Read more input and step again.
    More,
}

/// Why an opening is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpeningError {
    /// The real server does not serve this session after all.
    #[error("real server refuses the session: {reply}")]
    Refused {
        /// What the client hears of it.
        refusal: Refusal,
        /// The server's words, escaped.
        reply: String,
    },
    /// Its words break a limit or their form.
    #[error("opening is malformed")]
    Reply(#[from] ReplyError),
    /// A good reply that this opening does not have.
    #[error("opening is out of place: {0}")]
    Unexpected(&'static str),
}

/// Reads one opening.
#[derive(Debug)]
pub struct Reader {
    opening: Opening,
    replies: reply::Reader,
    /// The list of an untagged CAPABILITY, until the tagged OK.
    capabilities: Option<String>,
}

impl Reader {
    /// Reads what the verdict announced.
    pub fn new(opening: &Opening) -> Self {
        Self {
            opening: opening.clone(),
            replies: reply::Reader::new(),
            capabilities: None,
        }
    }

    /// What the proxy sends before it reads; mostly nothing.
    pub const fn ask(&self) -> &'static [u8] {
        match self.opening {
            Opening::Silent => POP3_ASK,
            Opening::Capability
            | Opening::PlusOk
            | Opening::Preauth
            | Opening::Ready(_)
            | Opening::Tagged => b"",
        }
    }

    /// Takes from `input` what belongs to the opening.
    ///
    /// # Errors
    ///
    /// When the server refuses or says what no opening has.
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Step, OpeningError> {
        match &self.opening {
            // POP3 has no list.
            Opening::Ready(list) if list.is_empty() => Ok(Step::Done { capabilities: None }),
            Opening::Ready(list) => Ok(Step::Done {
                capabilities: Some(reply::capabilities(list.as_bytes())?),
            }),
            Opening::PlusOk | Opening::Silent => self.plus_ok(input),
            Opening::Capability | Opening::Preauth | Opening::Tagged => self.imap(input),
        }
    }

    fn plus_ok(&mut self, input: &mut BytesMut) -> Result<Step, OpeningError> {
        let Some(line) = self.replies.line(input)? else {
            return Ok(Step::More);
        };
        match line.split(|octet| *octet == b' ').next() {
            Some(b"+OK") => Ok(Step::Done { capabilities: None }),
            Some(b"-ERR") => Err(refused(line.strip_prefix(b"-ERR ").unwrap_or_default())),
            Some(_) | None => Err(ReplyError::Malformed.into()),
        }
    }

    fn imap(&mut self, input: &mut BytesMut) -> Result<Step, OpeningError> {
        while let Some(reply) = self.replies.reply(input)? {
            match reply {
                Reply::Continue => return Err(OpeningError::Unexpected("continuation")),
                Reply::Data(data) => {
                    if let Some(list) = reply::data_capabilities(&data)? {
                        self.capabilities = Some(list);
                    }
                }
                Reply::Status { tag, status, text } => {
                    if let Some(done) = self.status(tag, status, &text)? {
                        return Ok(done);
                    }
                }
            }
        }
        Ok(Step::More)
    }

    fn status(
        &mut self,
        tag: Option<Bytes>,
        status: Status,
        text: &Bytes,
    ) -> Result<Option<Step>, OpeningError> {
        let done = match (&self.opening, tag, status) {
            (_, _, Status::Bye) | (_, Some(_), Status::No | Status::Bad) => {
                return Err(refused(text));
            }
            (Opening::Capability, Some(tag), _) if tag == CAPABILITY_TAG.as_bytes() => {
                let capabilities = self.capabilities.take();
                if capabilities.is_none() {
                    return Err(OpeningError::Unexpected("no capability list"));
                }
                return Ok(Some(Step::Done { capabilities }));
            }
            (Opening::Preauth, None, Status::Preauth) | (Opening::Tagged, Some(_), _) => true,
            (_, Some(_), _) => return Err(OpeningError::Unexpected("tag")),
            (_, None, Status::Preauth) => return Err(OpeningError::Unexpected("PREAUTH")),
            (_, None, _) => false,
        };
        if !done {
            return Ok(None);
        }
        let capabilities = reply::code_capabilities(text)?;
        Ok(Some(Step::Done { capabilities }))
    }
}

fn refused(text: &[u8]) -> OpeningError {
    OpeningError::Refused {
        refusal: reply::refusal(text),
        reply: reply::shown(text),
    }
}

/// Holds for any real server: however the network cuts what it says, the opening is the same, what follows it is left,
/// and a capability list that is passed on is one. The first octet chooses the opening, the second how the rest is cut.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    let [choice, seed, said @ ..] = data else {
        return;
    };
    let opening = match choice % 6 {
        0 => Opening::Capability,
        1 => Opening::PlusOk,
        2 => Opening::Preauth,
        3 => Opening::Silent,
        4 => Opening::Tagged,
        _ => Opening::Ready(String::from_utf8_lossy(said).into_owned()),
    };
    let run = |cut: &mut dyn FnMut() -> usize| {
        let (mut reader, mut input) = (Reader::new(&opening), BytesMut::new());
        let mut last = reader.step(&mut input);
        let mut taken: usize = 0;
        for piece in pieces(said, cut) {
            input.extend_from_slice(piece);
            if last == Ok(Step::More) {
                taken += piece.len();
                last = reader.step(&mut input);
                if last == Ok(Step::More) {
                    // What comes before a session has an end, and no more of it is kept than one line.
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
        let left = last.is_ok().then(|| input.to_vec());
        (last, left)
    };
    let whole = run(&mut || usize::MAX);
    assert_eq!(whole, run(&mut sizes(*seed)), "cut, it was read otherwise");
    assert_eq!(whole, run(&mut || 1), "octet by octet, otherwise");
    assert!(whole.1.is_none_or(|left| said.ends_with(&left)));
    if let Ok(Step::Done {
        capabilities: Some(list),
    }) = whole.0
    {
        assert!(list.len() <= reply::MAX_CAPABILITY_BYTES);
        assert_eq!(reply::capabilities(list.as_bytes()), Ok(list));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reply::at_every_split, *};

    /// The opening, what the server says, and what comes of it: the capability list or an error, and what is left.
    type Row = (
        Opening,
        &'static [u8],
        Result<Option<&'static str>, OpeningError>,
        &'static [u8],
    );

    fn table() -> Vec<Row> {
        [
            ready_table(),
            capability_table(),
            greeting_table(),
            pop3_table(),
        ]
        .concat()
    }

    fn ready_table() -> Vec<Row> {
        use Opening::Ready;
        vec![
            (
                Ready("IMAP4rev1 IDLE".to_owned()),
                b"* 1 EXISTS\r\n",
                Ok(Some("IMAP4rev1 IDLE")),
                b"* 1 EXISTS\r\n",
            ),
            (
                Ready("IMAP4rev1] X".to_owned()),
                b"x",
                Err(ReplyError::Capabilities.into()),
                b"",
            ),
        ]
    }

    fn capability_table() -> Vec<Row> {
        use Opening::Capability;
        let refused = |text: &str| Err(refused(text.as_bytes()));
        let unexpected = |what| Err(OpeningError::Unexpected(what));
        vec![
            (
                Capability,
                b"* CAPABILITY IMAP4rev1 IDLE\r\nx OK done\r\na OK",
                Ok(Some("IMAP4rev1 IDLE")),
                b"a OK",
            ),
            (
                Capability,
                b"* OK [ALERT] quota\r\n* NO hm\r\n* X {2}\r\nab c\r\n* CAPABILITY A\r\nx OK d\r\n",
                Ok(Some("A")),
                b"",
            ),
            (
                Capability,
                b"* BYE Internal error\r\n",
                refused("Internal error"),
                b"",
            ),
            (
                Capability,
                b"x NO [SERVERBUG] no\r\n",
                refused("[SERVERBUG] no"),
                b"",
            ),
            (Capability, b"x BAD no\r\n", refused("no"), b""),
            (
                Capability,
                b"x OK done\r\n",
                unexpected("no capability list"),
                b"",
            ),
            (
                Capability,
                b"* CAPABILITY A\r\ny OK done\r\n",
                unexpected("tag"),
                b"",
            ),
            (Capability, b"* PREAUTH hi\r\n", unexpected("PREAUTH"), b""),
            (Capability, b"+ go on\r\n", unexpected("continuation"), b""),
            (
                Capability,
                b"* CAPABILITY \xff\r\n",
                Err(ReplyError::Capabilities.into()),
                b"",
            ),
        ]
    }

    fn greeting_table() -> Vec<Row> {
        use Opening::{Preauth, Tagged};
        let refused = |text: &str| Err(refused(text.as_bytes()));
        vec![
            (
                Preauth,
                b"* PREAUTH [CAPABILITY A B] hi\r\n",
                Ok(Some("A B")),
                b"",
            ),
            (
                Preauth,
                b"* OK [ALERT] FAM\r\n* PREAUTH hi\r\nmore",
                Ok(None),
                b"more",
            ),
            (
                Preauth,
                b"a OK hi\r\n",
                Err(OpeningError::Unexpected("tag")),
                b"",
            ),
            (
                Tagged,
                b"* OK [ALERT] FAM\r\nq1 OK [CAPABILITY A] hi\r\n",
                Ok(Some("A")),
                b"",
            ),
            (
                Tagged,
                b"q1 OK hi\r\n* 1 EXISTS\r\n",
                Ok(None),
                b"* 1 EXISTS\r\n",
            ),
            (Tagged, b"q1 NO hi\r\n", refused("hi"), b""),
        ]
    }

    fn pop3_table() -> Vec<Row> {
        use Opening::{PlusOk, Silent};
        let malformed = Err(OpeningError::Reply(ReplyError::Malformed));
        vec![
            (PlusOk, b"+OK logged in.\r\n+OK", Ok(None), b"+OK"),
            (PlusOk, b"+OK\r\n", Ok(None), b""),
            (
                PlusOk,
                b"-ERR [IN-USE] busy\r\n",
                Err(OpeningError::Refused {
                    refusal: Refusal::InUse,
                    reply: "[IN-USE] busy".to_owned(),
                }),
                b"",
            ),
            (PlusOk, b"+OKAY\r\n", malformed.clone(), b""),
            (Silent, b"+OK\r\n", Ok(None), b""),
            (
                Opening::Ready(String::new()),
                b"+OK\r\n",
                Ok(None),
                b"+OK\r\n",
            ),
            (Silent, b"* OK IMAP\r\n", malformed, b""),
        ]
    }

    fn run(opening: &Opening, parts: &[&[u8]]) -> (Result<Step, OpeningError>, Vec<u8>) {
        let (mut reader, mut input) = (Reader::new(opening), BytesMut::new());
        let mut last = Ok(Step::More);
        for part in parts {
            input.extend_from_slice(part);
            if last == Ok(Step::More) {
                last = reader.step(&mut input);
            }
        }
        (last, input.to_vec())
    }

    #[test]
    fn openings_come_out_the_same_at_every_split() {
        for (opening, input, result, rest) in table() {
            at_every_split(input, |parts| {
                let (step, left) = run(&opening, parts);
                let expected = result.clone().map(|list| Step::Done {
                    capabilities: list.map(str::to_owned),
                });
                assert_eq!(step, expected, "{opening:?} {}", input.escape_ascii());
                if step.is_ok() {
                    assert_eq!(left, rest, "{opening:?} {}", input.escape_ascii());
                }
            });
        }
    }

    #[test]
    fn no_prefix_of_an_opening_is_one() {
        for (opening, input, result, rest) in table() {
            if matches!(opening, Opening::Ready(_)) || result.is_err() {
                continue;
            }
            for cut in 0..input.len() - rest.len() {
                assert_eq!(run(&opening, &[&input[..cut]]).0, Ok(Step::More));
            }
        }
    }

    #[test]
    fn only_a_silent_server_is_asked() {
        assert_eq!(Reader::new(&Opening::Silent).ask(), b"NOOP\r\n");
        assert_eq!(Reader::new(&Opening::Capability).ask(), b"");
    }

    #[test]
    fn a_server_that_talks_without_end_is_refused() {
        let line = b"* OK and another thing\r\n".repeat(4000);
        assert_eq!(
            run(&Opening::Preauth, &[&line]).0,
            Err(OpeningError::Reply(ReplyError::Total))
        );
    }
}
