//! Replies of LMTP: written by our server half, read from a server by our client half.
//!
//! A [`Reply`] is one answer: its code, its enhanced code, whose class is the code's first digit, and a text that is
//! printable ASCII on one line. So whatever a server said can be said again to somebody else: lines are joined, other
//! octets become `?`, a server that has no enhanced codes gets `x.0.0`.
//!
//! A [`Replies`] cuts them out of a stream and does not judge them: a refusal is a reply like any other.
//! Limits: a line 2048 octets (RFC 5321, 4.5.3.1.5 asks for 512), a reply 100 lines; its text 400 octets, the rest is cut.
//! RFC 5321, 4.2; RFC 2034, 4; RFC 3463, 2. What is no reply is a [`ReplyError`]; after one the connection is of no use.

use std::{borrow::Cow, fmt, fmt::Write as _};

use bytes::BytesMut;

use super::lines::{Line, Lines};

/// The longest line of a reply, its end included.
pub(super) const MAX_LINE_BYTES: usize = 2048;

/// The most lines of one reply.
const MAX_LINES: usize = 100;

/// The longest text that is kept.
const MAX_TEXT_BYTES: usize = 400;

/// One answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    code: u16,
    subject: u16,
    detail: u16,
    text: Cow<'static, str>,
}

/// What a reply means for what it answers, by its first digit (RFC 5321, 4.2.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// 2: done.
    Done,
    /// 3: go on.
    Intermediate,
    /// 5: refused for good.
    Permanent,
    /// 4: refused for now.
    Temporary,
}

/// Why what a server said is no reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// A line has no code, another one than the line before it, or no CRLF.
    #[error("reply of the server is malformed")]
    Malformed,
    /// A line is longer than 2048 octets, or there are more than 100.
    #[error("reply of the server is too long")]
    TooLong,
}

impl Reply {
    /// A reply in our own words: `code` from 200 to 599, the last two parts of the enhanced code, and printable text.
    pub(super) const fn fixed(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self {
            code,
            subject,
            detail,
            text: Cow::Borrowed(text),
        }
    }

    /// The reply for a recipient whose message is stored.
    pub fn delivered(text: &str) -> Self {
        Self {
            text: Cow::Owned(printable(text.as_bytes())),
            ..Self::fixed(250, 0, 0, "")
        }
    }

    /// For a recipient of somebody else's conversation: 421 would end that one.
    pub(super) fn to_be_relayed(&self) -> Self {
        Self {
            code: if self.code == 421 { 451 } else { self.code },
            ..self.clone()
        }
    }

    /// The code of three digits, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// What it means.
    pub fn class(&self) -> Class {
        match self.code {
            0..300 => Class::Done,
            300..400 => Class::Intermediate,
            400..500 => Class::Temporary,
            500.. => Class::Permanent,
        }
    }

    /// The enhanced code: class, subject, detail.
    pub fn enhanced(&self) -> (u16, u16, u16) {
        let class = self.code.checked_div(100).unwrap_or_default();
        (class, self.subject, self.detail)
    }

    /// Its text, without codes.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes it as a line.
    pub fn write(&self, out: &mut BytesMut) {
        // Writing to a BytesMut fails only when memory ends.
        let _ = write!(out, "{self}\r\n");
    }
}

impl fmt::Display for Reply {
    /// The line without its end, as logs show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, text, .. } = self;
        let (class, subject, detail) = self.enhanced();
        write!(f, "{code} {class}.{subject}.{detail} {text}")
    }
}

/// Cuts replies out of a stream.
#[derive(Debug)]
pub(super) struct Replies {
    lines: Lines,
    partial: Option<Received>,
}

/// A reply as a server sent it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Received {
    pub(super) code: u16,
    /// Without codes and separators, at least one.
    pub(super) lines: Vec<BytesMut>,
}

// === impl Replies ===

impl Replies {
    /// Waits for a first reply.
    pub(super) fn new() -> Self {
        Self {
            lines: Lines::new(MAX_LINE_BYTES),
            partial: None,
        }
    }

    /// Takes the next reply, if all of it has come.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Received>, ReplyError> {
        loop {
            let line = match self.lines.next(input) {
                Line::BareLf => return Err(ReplyError::Malformed),
                Line::Complete(line) => line,
                Line::Incomplete => return Ok(None),
                Line::TooLong => return Err(ReplyError::TooLong),
            };
            let (code, last, text) = parse(line).ok_or(ReplyError::Malformed)?;
            let mut reply = self.partial.take().unwrap_or(Received {
                code,
                lines: Vec::new(),
            });
            if reply.code != code {
                return Err(ReplyError::Malformed);
            }
            if reply.lines.len() == MAX_LINES {
                return Err(ReplyError::TooLong);
            }
            reply.lines.push(text);
            if last {
                return Ok(Some(reply));
            }
            self.partial = Some(reply);
        }
    }
}

// === impl Received ===

impl Received {
    /// As one line that can be said again.
    pub(super) fn into_reply(self) -> Reply {
        let class = self.code.checked_div(100).unwrap_or_default();
        let mut enhanced = None;
        let mut texts = Vec::new();
        for line in &self.lines {
            let (found, text) = split_enhanced(line, class);
            enhanced = enhanced.or(found);
            texts.push(text);
        }
        let (subject, detail) = enhanced.unwrap_or((0, 0));
        Reply {
            code: self.code,
            subject,
            detail,
            text: Cow::Owned(printable(&texts.join(&b' '))),
        }
    }
}

/// Code, whether it is the last line, and the text behind.
fn parse(mut line: BytesMut) -> Option<(u16, bool, BytesMut)> {
    let code = match *line.get(..3)? {
        [
            first @ b'2'..=b'5',
            second @ b'0'..=b'9',
            third @ b'0'..=b'9',
        ] => [first, second, third].iter().fold(0_u16, |code, digit| {
            code.saturating_mul(10)
                .saturating_add(u16::from(digit.saturating_sub(b'0')))
        }),
        _ => return None,
    };
    let last = match line.get(3) {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    let text = line.split_off(line.len().min(4));
    Some((code, last, text))
}

/// Takes an enhanced code of that class off the front of a text, if there is one.
fn split_enhanced(text: &[u8], class: u16) -> (Option<(u16, u16)>, &[u8]) {
    let mut words = text.splitn(2, |octet| *octet == b' ');
    let word = words.next().unwrap_or_default();
    let mut parts = word.split(|octet| *octet == b'.').map(number);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Some(first)), Some(Some(subject)), Some(Some(detail)), None) if first == class => {
            (Some((subject, detail)), words.next().unwrap_or_default())
        }
        _ => (None, text),
    }
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn printable(text: &[u8]) -> String {
    text.iter()
        .take(MAX_TEXT_BYTES)
        .map(|octet| match octet {
            b' '..=b'~' => char::from(*octet),
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::reply::at_every_split;

    fn check(input: &str, expected: &[&str], end: Result<(), ReplyError>) {
        at_every_split(input.as_bytes(), |parts| {
            let (mut replies, mut buffer) = (Replies::new(), BytesMut::new());
            let (mut seen, mut last) = (Vec::new(), Ok(()));
            for part in parts {
                buffer.extend_from_slice(part);
                while last.is_ok() {
                    match replies.next(&mut buffer) {
                        Ok(Some(reply)) => seen.push(reply.into_reply().to_string()),
                        Ok(None) => break,
                        Err(error) => last = Err(error),
                    }
                }
            }
            assert_eq!(seen, expected, "{input}");
            assert_eq!(last, end, "{input}");
        });
    }

    #[test]
    fn replies_are_read_at_every_split() {
        check("250 2.1.5 OK\r\n", &["250 2.1.5 OK"], Ok(()));
        check("250\r\n250 \r\n", &["250 2.0.0 ", "250 2.0.0 "], Ok(()));
        check(
            "550-5.1.1 No such\r\n550 5.1.1 user\r\n354 go\r\n",
            &["550 5.1.1 No such user", "354 3.0.0 go"],
            Ok(()),
        );
        // A code of another class, or of too many digits, is text.
        check("550 2.1.1 x\r\n", &["550 5.0.0 2.1.1 x"], Ok(()));
        check("550 5.1.1000 x\r\n", &["550 5.0.0 5.1.1000 x"], Ok(()));
        check("550 5.1.1.1 x\r\n", &["550 5.0.0 5.1.1.1 x"], Ok(()));
        check("550 5.1.10\r\n", &["550 5.1.10 "], Ok(()));
        check("250 a\tb\u{eb}\0\rc\r\n", &["250 2.0.0 a?b????c"], Ok(()));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for input in [
            "\r\n",
            "25\r\n",
            "2500 OK\r\n",
            "150 OK\r\n",
            "650 OK\r\n",
            "2x0 OK\r\n",
            " 250 OK\r\n",
            "250 OK\n",
            "250_OK\r\n",
            "* OK\r\n",
            "250-OK\r\n251 OK\r\n",
        ] {
            check(input, &[], Err(ReplyError::Malformed));
        }
    }

    #[test]
    fn replies_have_limits() {
        let most = format!("{}250 x\r\n", "250-x\r\n".repeat(MAX_LINES - 1));
        let mut buffer = BytesMut::from(most.as_bytes());
        assert!(Replies::new().next(&mut buffer).unwrap().is_some());
        let mut buffer = BytesMut::from(format!("250-x\r\n{most}").as_bytes());
        assert_eq!(Replies::new().next(&mut buffer), Err(ReplyError::TooLong));

        let longest = format!("250 {}\r\n", "x".repeat(MAX_LINE_BYTES - 6));
        let mut buffer = BytesMut::from(longest.as_bytes());
        let reply = Replies::new().next(&mut buffer).unwrap().unwrap();
        assert_eq!(reply.into_reply().text().len(), MAX_TEXT_BYTES);
        let mut buffer = BytesMut::from(longest.replace("250 ", "250 x").as_bytes());
        assert_eq!(Replies::new().next(&mut buffer), Err(ReplyError::TooLong));
    }
}
