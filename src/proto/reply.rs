//! Replies of a real IMAP server, one at a time, with limits: what [`login`](super::login) and
//! [`opening`](super::opening) both read.
//!
//! A [`Reader`] takes complete replies off the front of a buffer and leaves the rest. A reply is one line; literals inside untagged
//! data, and the rest of the reply behind them, are skipped, since nothing that is asked for here comes in one. Status lines end in
//! free text, so a `{5}` at their end means nothing.
//!
//! It does not judge: a `NO` is a reply like any other. It does not check the text of lines, except where [`capabilities`] takes
//! something out of one to be passed on.
//!
//! Limits: 8192 octets a line, 64 KiB in all from one reader: a greeting, an ID and a capability list are far below it.
//!
//! RFC 3501 and RFC 9051, 2.2.2, 4.3 and 7.1. What breaks a limit or the form of a line is a [`ReplyError`]; after one the
//! connection is of no further use.

use bytes::{Buf as _, Bytes, BytesMut};

use super::link::Refusal;

/// The longest line, in octets, its end included.
pub const MAX_LINE_BYTES: usize = 8192;

/// The most that one reader takes, in octets.
pub const MAX_TOTAL_BYTES: usize = 64 * 1024;

/// The longest capability list, in octets. Dovecot's has 700.
pub const MAX_CAPABILITY_BYTES: usize = 4096;

/// The part of a reply that goes into logs, in octets before escaping.
const MAX_SHOWN_BYTES: usize = 160;

/// Why a reply was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// A capability list is empty, too long, or holds what no capability has.
    #[error("capability list is malformed")]
    Capabilities,
    /// A line is longer than 8192 octets.
    #[error("line of the real server is too long")]
    Line,
    /// A line ends in a bare LF, or is no reply at all.
    #[error("reply of the real server is malformed")]
    Malformed,
    /// More than 64 KiB came.
    #[error("the real server says too much")]
    Total,
}

/// The word of a status reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// The command was not understood.
    Bad,
    /// The server ends the connection.
    Bye,
    /// The command failed.
    No,
    /// It succeeded.
    Ok,
    /// The connection is logged in from the start.
    Preauth,
}

/// One reply.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// `+`: the server waits for more of a command.
    Continue,
    /// Untagged data, without `* `, up to its first literal.
    Data(Bytes),
    /// A status.
    Status {
        /// The command it answers; none: untagged.
        tag: Option<Bytes>,
        /// Its word.
        status: Status,
        /// What follows: a response code, perhaps, and text.
        text: Bytes,
    },
}

/// Takes replies off the front of a buffer.
#[derive(Debug, Default)]
pub struct Reader {
    /// Octets taken so far.
    total: usize,
    /// Octets of a literal still to be skipped.
    literal: usize,
    /// Whether the next line continues a reply that was returned already.
    continued: bool,
}

impl Reader {
    /// Takes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next reply, if all of its first line has come.
    ///
    /// # Errors
    ///
    /// When a limit is broken or a line is no reply.
    pub fn reply(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        loop {
            let skipped = self.literal.min(input.len());
            input.advance(skipped);
            self.literal = self.literal.saturating_sub(skipped);
            if self.literal > 0 {
                return Ok(None);
            }
            let Some(line) = self.line(input)? else {
                return Ok(None);
            };
            if self.continued {
                self.begin_literal(&line)?;
                continue;
            }
            let reply = parse(&line)?;
            if matches!(reply, Reply::Data(_)) {
                self.begin_literal(&line)?;
            }
            return Ok(Some(reply));
        }
    }

    /// The next line without its CRLF, whatever it says.
    ///
    /// # Errors
    ///
    /// When a limit is broken or the line ends in a bare LF.
    pub fn line(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, ReplyError> {
        let window = input.get(..MAX_LINE_BYTES).unwrap_or(input);
        let Some(end) = window.iter().position(|octet| *octet == b'\n') else {
            return if window.len() == MAX_LINE_BYTES {
                Err(ReplyError::Line)
            } else {
                Ok(None)
            };
        };
        let mut line = input.split_to(end.saturating_add(1)).freeze();
        self.take(line.len())?;
        if !line.ends_with(b"\r\n") {
            return Err(ReplyError::Malformed);
        }
        line.truncate(line.len().saturating_sub(2));
        Ok(Some(line))
    }

    fn begin_literal(&mut self, line: &[u8]) -> Result<(), ReplyError> {
        let octets = literal(line)?;
        self.continued = octets.is_some();
        self.literal = octets.unwrap_or(0);
        self.take(self.literal)
    }

    fn take(&mut self, octets: usize) -> Result<(), ReplyError> {
        self.total = self.total.saturating_add(octets);
        if self.total > MAX_TOTAL_BYTES {
            return Err(ReplyError::Total);
        }
        Ok(())
    }
}

/// The size of the literal that a line announces at its end.
fn literal(line: &[u8]) -> Result<Option<usize>, ReplyError> {
    let Some(rest) = line.strip_suffix(b"}") else {
        return Ok(None);
    };
    let Some(open) = rest.iter().rposition(|octet| *octet == b'{') else {
        return Ok(None);
    };
    let digits = rest.get(open.saturating_add(1)..).unwrap_or_default();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Ok(None);
    }
    // A number too long for a size is a literal too large for any limit.
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .map(Some)
        .ok_or(ReplyError::Total)
}

fn parse(line: &Bytes) -> Result<Reply, ReplyError> {
    if line.first() == Some(&b'+') {
        return Ok(Reply::Continue);
    }
    let (tag, rest) = word(line);
    if tag.is_empty() || rest.is_empty() {
        return Err(ReplyError::Malformed);
    }
    let untagged = tag == b"*";
    let (name, text) = word(rest);
    let status = [
        (&b"BAD"[..], Status::Bad),
        (b"BYE", Status::Bye),
        (b"NO", Status::No),
        (b"OK", Status::Ok),
        (b"PREAUTH", Status::Preauth),
    ]
    .into_iter()
    .find(|(word, _)| name.eq_ignore_ascii_case(word))
    .map(|(_, status)| status);
    match status {
        None if untagged => Ok(Reply::Data(line.slice_ref(rest))),
        Some(status) if untagged || !matches!(status, Status::Bye | Status::Preauth) => {
            Ok(Reply::Status {
                tag: (!untagged).then(|| line.slice_ref(tag)),
                status,
                text: line.slice_ref(text),
            })
        }
        None | Some(_) => Err(ReplyError::Malformed),
    }
}

/// Splits at the first space.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = text.splitn(2, |octet| *octet == b' ');
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}

/// The response code that a status text begins with: its name and what follows inside the brackets.
pub fn code(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(b"[")?;
    let end = rest.iter().position(|octet| *octet == b']')?;
    Some(word(rest.get(..end)?))
}

/// What a front hears of a refusal with this text, by its response code: of the mailbox in use and of limits (RFC 5530;
/// RFC 2449, 8), anything else is "not now".
pub fn refusal(text: &[u8]) -> Refusal {
    let Some((name, _)) = code(text) else {
        return Refusal::Unavailable;
    };
    let is = |codes: [&[u8]; 2]| codes.iter().any(|code| name.eq_ignore_ascii_case(code));
    if is([b"INUSE", b"IN-USE"]) {
        Refusal::InUse
    } else if is([b"LIMIT", b"LOGIN-DELAY"]) {
        Refusal::Limit
    } else {
        Refusal::Unavailable
    }
}

/// The capability list in a status text, if it has one.
///
/// # Errors
///
/// When the list is malformed.
pub fn code_capabilities(text: &[u8]) -> Result<Option<String>, ReplyError> {
    match code(text) {
        Some((name, list)) if name.eq_ignore_ascii_case(b"CAPABILITY") => {
            capabilities(list).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

/// The capability list in untagged data, if it is that.
///
/// # Errors
///
/// When the list is malformed.
pub fn data_capabilities(data: &[u8]) -> Result<Option<String>, ReplyError> {
    let (name, list) = word(data);
    if name.eq_ignore_ascii_case(b"CAPABILITY") {
        capabilities(list).map(Some)
    } else {
        Ok(None)
    }
}

/// Checks a list before it is passed on: it will stand inside the brackets of another response code, so it is made of atoms
/// (RFC 9051, section 9) with single spaces between them.
///
/// # Errors
///
/// When it is empty, longer than [`MAX_CAPABILITY_BYTES`], or anything else.
pub fn capabilities(list: &[u8]) -> Result<String, ReplyError> {
    let atom = |word: &[u8]| {
        !word.is_empty()
            && word
                .iter()
                .all(|octet| octet.is_ascii_graphic() && !b"(){%*\"\\]".contains(octet))
    };
    // A space at the end does no harm and is not passed on.
    let list = list.strip_suffix(b" ").unwrap_or(list);
    if list.len() > MAX_CAPABILITY_BYTES || !list.split(|octet| *octet == b' ').all(atom) {
        return Err(ReplyError::Capabilities);
    }
    String::from_utf8(list.to_vec()).map_err(|_| ReplyError::Capabilities)
}

/// A server's words as they may stand in a log: escaped, and cut off after 160 octets.
pub fn shown(words: &[u8]) -> String {
    words
        .get(..MAX_SHOWN_BYTES)
        .unwrap_or(words)
        .escape_ascii()
        .to_string()
}

/// Runs `check` on `input` whole, byte by byte, and cut in two at every offset.
#[cfg(test)]
pub(super) fn at_every_split(input: &[u8], check: impl Fn(&[&[u8]])) {
    check(&[input]);
    check(&input.chunks(1).collect::<Vec<_>>());
    for cut in 1..input.len() {
        let (head, tail) = input.split_at(cut);
        check(&[head, tail]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&[u8]]) -> (Vec<Reply>, Result<(), ReplyError>, Vec<u8>) {
        let (mut reader, mut input, mut replies) = (Reader::new(), BytesMut::new(), Vec::new());
        for part in parts {
            input.extend_from_slice(part);
            loop {
                match reader.reply(&mut input) {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(error) => return (replies, Err(error), Vec::new()),
                }
            }
        }
        (replies, Ok(()), input.to_vec())
    }

    fn status(tag: Option<&'static str>, status: Status, text: &'static str) -> Reply {
        Reply::Status {
            tag: tag.map(|tag| Bytes::from_static(tag.as_bytes())),
            status,
            text: Bytes::from_static(text.as_bytes()),
        }
    }

    #[test]
    fn replies_come_out_the_same_at_every_split() {
        let input = b"* OK [CAPABILITY IMAP4rev1] ready {3}\r\n* ID (\"name\" {3}\r\na\r\n \"v\" {0}\r\n)\r\n\
                      + \r\na1 ok done\r\n* 3 EXISTS\r\nb NO [LIMIT] no\r\n* bye\r\nrest";
        at_every_split(input, |parts| {
            let (replies, result, rest) = read(parts);
            assert_eq!(result, Ok(()));
            assert_eq!(rest, b"rest");
            assert_eq!(
                replies,
                [
                    status(None, Status::Ok, "[CAPABILITY IMAP4rev1] ready {3}"),
                    Reply::Data(Bytes::from_static(b"ID (\"name\" {3}")),
                    Reply::Continue,
                    status(Some("a1"), Status::Ok, "done"),
                    Reply::Data(Bytes::from_static(b"3 EXISTS")),
                    status(Some("b"), Status::No, "[LIMIT] no"),
                    status(None, Status::Bye, ""),
                ]
            );
        });
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let table: &[(&[u8], ReplyError)] = &[
            (b"\r\n", ReplyError::Malformed),
            (b"* OK\n", ReplyError::Malformed),
            (b"*\r\n", ReplyError::Malformed),
            (b" OK x\r\n", ReplyError::Malformed),
            (b"220 smtp.example\r\n", ReplyError::Malformed),
            (b"a PREAUTH x\r\n", ReplyError::Malformed),
            (b"* ID {65536}\r\n", ReplyError::Total),
            (b"* ID {99999999999999999999999}\r\n", ReplyError::Total),
        ];
        for (input, error) in table {
            at_every_split(input, |parts| {
                assert_eq!(read(parts).1, Err(*error), "{}", input.escape_ascii());
            });
        }
    }

    #[test]
    fn lines_and_totals_have_limits() {
        let line = |octets: usize| {
            let mut line = b"* ".to_vec();
            line.resize(octets - 2, b'x');
            line.extend_from_slice(b"\r\n");
            line
        };
        assert_eq!(read(&[&line(MAX_LINE_BYTES)]).1, Ok(()));
        assert_eq!(read(&[&line(MAX_LINE_BYTES + 1)]).1, Err(ReplyError::Line));
        // Without a line end there is no need to wait for one.
        assert_eq!(read(&[&[b'*'; MAX_LINE_BYTES]]).1, Err(ReplyError::Line));
        let full = line(MAX_LINE_BYTES).repeat(8);
        assert_eq!(read(&[&full]).1, Ok(()));
        assert_eq!(read(&[&full, &line(5)]).1, Err(ReplyError::Total));
    }

    #[test]
    fn capability_lists_are_atoms() {
        assert_eq!(
            code_capabilities(b"[CAPABILITY IMAP4rev1 AUTH=PLAIN X- ] Logged in"),
            Ok(Some("IMAP4rev1 AUTH=PLAIN X-".to_owned()))
        );
        assert_eq!(code_capabilities(b"[ALERT] hello"), Ok(None));
        assert_eq!(code_capabilities(b"hello"), Ok(None));
        assert_eq!(
            data_capabilities(b"capability IMAP4rev1"),
            Ok(Some("IMAP4rev1".to_owned()))
        );
        assert_eq!(data_capabilities(b"3 EXISTS"), Ok(None));
        for list in [
            &b""[..],
            b"A  B",
            b"A\0",
            b"A\x7f",
            b"A\r",
            b"\xc3\xa9",
            b"A]B",
            b"A (B)",
            b"\"A\"",
        ] {
            assert_eq!(
                capabilities(list),
                Err(ReplyError::Capabilities),
                "{}",
                list.escape_ascii()
            );
        }
        assert!(capabilities(&[b'A'; MAX_CAPABILITY_BYTES]).is_ok());
        assert!(capabilities(&[b'A'; MAX_CAPABILITY_BYTES + 1]).is_err());
    }

    #[test]
    fn logs_see_no_raw_octets() {
        assert_eq!(shown(b"a\r\n\x1b[1m"), "a\\r\\n\\x1b[1m");
        assert_eq!(shown(&[b'x'; 500]).len(), MAX_SHOWN_BYTES);
    }
}
