//! Lines and literals, cut out of a stream before anybody parses them, with limits.
//!
//! A [`Reader`] takes octets from its caller's buffer up to the end of one line or one IMAP command, and not one more.
//! That the content of a literal is data is decided here, once: whatever a line means, and however wrong it is, octets
//! that it announced as a literal are never seen as a command. The parser behind gets the literals' places and does
//! not read their sizes again, so the two cannot disagree.
//!
//! It does not parse commands, answer anything, or know which protocol it serves.
//!
//! ```text
//!        CRLF, no marker ──> Message
//!       ┌──────┐  {n}CRLF   ┌─────────┐ accept_literal ┌─────────┐
//!  ────>│ Line │───────────>│ Offered │───────────────>│ Literal │
//!       └──────┘            └─────────┘                └─────────┘
//!        ^    └─────────────────────{n+}CRLF──────────────^   │ n octets
//!        └────────────────────────────────────────────────────┘
//! ```
//!
//! Limits: [`Limits`]; a message holds at most `max_line_bytes` + 2 * `max_literal_bytes` octets, in memory that grows
//! with what was received, not with what was announced, and at most 64 literals. Consumed input is overwritten, and so is what a message held.
//! RFC 9051 and 3501 sections 4.3 and 9 (`literal`), RFC 7888 (`{n+}`).
//! After a [`FrameError`] nobody knows where the next command begins: the caller answers and closes.

use std::{fmt, mem};

use bytes::{Buf as _, BytesMut};
use zeroize::{Zeroize as _, Zeroizing};

/// The memory that a message starts with, in octets: most commands fit.
const FIRST_CAPACITY: usize = 256;

/// The most literals of one command: the thirty fields of an ID have twice as many strings (RFC 2971, 3.3). More of them,
/// empty ones even, would take several times the memory that they are long.
const MAX_LITERALS: usize = 64;

/// What a [`Reader`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest line, or command without the contents of its literals, in octets, line ends included.
    pub max_line_bytes: usize,
    /// Largest literal, in octets. All literals of one command together may have twice as many: LOGIN has two.
    pub max_literal_bytes: usize,
}

/// Cuts lines and commands out of a stream.
pub struct Reader {
    limits: Limits,
    message: Message,
    phase: Phase,
    /// Octets of the message outside literals, line ends included.
    line_bytes: usize,
    /// Octets of its literals, announced ones included.
    literal_bytes: usize,
    /// Where its text after the last literal begins.
    segment: usize,
}

#[derive(Clone, Copy)]
enum Phase {
    Line,
    Literal { left: usize },
    Offered { size: usize },
}

/// What a [`Reader`] came to.
#[derive(Debug)]
pub enum Frame {
    /// The input is used up and more is needed.
    Incomplete,
    /// A complete line or command.
    Message(Message),
    /// A synchronising literal of acceptable size is announced: `accept_literal` or `take`.
    Offer,
}

/// Why there is no next message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// A line ended in LF alone.
    #[error("line ends in a bare LF")]
    BareLf,
    /// A line is longer than the limit, or a command is in too many pieces.
    #[error("line is too long")]
    Line,
    /// A literal is larger than the limit.
    #[error("literal is too large")]
    Literal,
}

/// A line without its CRLF, or a command: lines, their markers with CRLF, and literals, in one piece. Wiped when
/// dropped.
#[derive(Default)]
pub struct Message {
    octets: Zeroizing<Vec<u8>>,
    /// In the order of their places.
    literals: Vec<Literal>,
}

struct Literal {
    /// Where its `{` is.
    marker: usize,
    start: usize,
    end: usize,
}

/// `{n}` or `{n+}` at the end of a line.
struct Marker {
    at: usize,
    /// Digits that no usize holds make the largest one.
    size: usize,
    synchronising: bool,
}

/// Takes `count` octets, or all if there are fewer, off the front of `input` and overwrites them: any of them may be a
/// password.
pub fn consume(input: &mut BytesMut, count: usize) {
    let count = count.min(input.len());
    if let Some(octets) = input.get_mut(..count) {
        octets.zeroize();
    }
    input.advance(count);
}

// === impl Reader ===

impl Reader {
    /// Waits for a first line.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            message: Message::default(),
            phase: Phase::Line,
            line_bytes: 0,
            literal_bytes: 0,
            segment: 0,
        }
    }

    /// Reads one line; literals are not known here.
    pub fn read_line(&mut self, input: &mut BytesMut) -> Result<Frame, FrameError> {
        if !self.fill_line(input)? {
            return Ok(Frame::Incomplete);
        }
        self.message.truncate_line_end();
        Ok(Frame::Message(self.take()))
    }

    /// Reads one command with its literals.
    pub fn read_command(&mut self, input: &mut BytesMut) -> Result<Frame, FrameError> {
        loop {
            match self.phase {
                Phase::Offered { .. } => return Ok(Frame::Offer),
                Phase::Literal { left } => {
                    let count = left.min(input.len());
                    self.absorb(input, count);
                    let left = left.saturating_sub(count);
                    if left > 0 {
                        self.phase = Phase::Literal { left };
                        return Ok(Frame::Incomplete);
                    }
                    self.segment = self.message.octets.len();
                    self.phase = Phase::Line;
                }
                Phase::Line => {
                    if !self.fill_line(input)? {
                        return Ok(Frame::Incomplete);
                    }
                    let Some(marker) = Marker::find(&self.message.octets, self.segment) else {
                        self.message.truncate_line_end();
                        return Ok(Frame::Message(self.take()));
                    };
                    self.announce(&marker)?;
                }
            }
        }
    }

    /// Takes the literal that was offered: the caller has asked the client to go on.
    pub fn accept_literal(&mut self) {
        if let Phase::Offered { size } = self.phase {
            self.phase = Phase::Literal { left: size };
        }
    }

    /// Ends the message here and starts the next one. After an offer that is how a literal is refused: the message has
    /// its marker, but no literal, and no grammar accepts that.
    pub fn take(&mut self) -> Message {
        if matches!(self.phase, Phase::Offered { .. }) {
            self.message.literals.pop();
        }
        mem::replace(self, Self::new(self.limits)).message
    }

    /// What there is of a message so far.
    pub fn partial(&self) -> &Message {
        &self.message
    }

    /// Moves octets up to a line's end; true when it was reached.
    fn fill_line(&mut self, input: &mut BytesMut) -> Result<bool, FrameError> {
        let room = self.limits.max_line_bytes.saturating_sub(self.line_bytes);
        let window = input.get(..room).unwrap_or(input);
        let end = window.iter().position(|octet| *octet == b'\n');
        let count = end.map_or(window.len(), |at| at.saturating_add(1));
        self.absorb(input, count);
        self.line_bytes = self.line_bytes.saturating_add(count);
        match end {
            None if count == room => Err(FrameError::Line),
            None => Ok(false),
            // The CR must belong to this line: a literal may end in one.
            Some(_) => match self.message.octets.get(self.segment..) {
                Some(text) if text.ends_with(b"\r\n") => Ok(true),
                _ => Err(FrameError::BareLf),
            },
        }
    }

    fn announce(&mut self, marker: &Marker) -> Result<(), FrameError> {
        let all = self.literal_bytes.saturating_add(marker.size);
        let most = self.limits.max_literal_bytes;
        if marker.size > most || all > most.saturating_mul(2) {
            return Err(FrameError::Literal);
        }
        if self.message.literals.len() >= MAX_LITERALS {
            return Err(FrameError::Line);
        }
        let start = self.message.octets.len();
        self.literal_bytes = all;
        self.message.literals.push(Literal {
            marker: marker.at,
            start,
            end: start.saturating_add(marker.size),
        });
        self.phase = if marker.synchronising {
            Phase::Offered { size: marker.size }
        } else {
            Phase::Literal { left: marker.size }
        };
        Ok(())
    }

    fn absorb(&mut self, input: &mut BytesMut, count: usize) {
        self.message.append(input.get(..count).unwrap_or(input));
        consume(input, count);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({:?})", self.message)
    }
}

// === impl Message ===

impl Message {
    /// All of it.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The content of the literal whose marker begins at `at`, and where the text goes on behind it.
    pub fn literal_at(&self, at: usize) -> Option<(&[u8], usize)> {
        let found = self
            .literals
            .binary_search_by_key(&at, |literal| literal.marker);
        let literal = self.literals.get(found.ok()?)?;
        let content = self.octets.get(literal.start..literal.end)?;
        Some((content, literal.end))
    }

    /// The memory that it takes, in octets, and the most that a message of `most` octets may take.
    #[cfg(any(fuzzing, test))]
    pub fn memory(&self, most: usize) -> (usize, usize) {
        let literals = size_of::<Literal>();
        let taken = self.octets.capacity() + self.literals.capacity() * literals;
        // Both grow by doubling.
        let allowed = FIRST_CAPACITY + 2 * most + 2 * MAX_LITERALS * literals;
        (taken, allowed)
    }

    fn append(&mut self, octets: &[u8]) {
        let needed = self.octets.len().saturating_add(octets.len());
        if needed > self.octets.capacity() {
            // A vector that grows by itself would leave a copy of a password behind.
            let capacity = needed
                .max(self.octets.capacity().saturating_mul(2))
                .max(FIRST_CAPACITY);
            let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
            grown.extend_from_slice(&self.octets);
            self.octets = grown;
        }
        self.octets.extend_from_slice(octets);
    }

    fn truncate_line_end(&mut self) {
        let length = self.octets.len().saturating_sub(b"\r\n".len());
        self.octets.truncate(length);
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} octets)", self.octets.len())
    }
}

// === impl Marker ===

impl Marker {
    /// Looks for one at the end of the complete line that begins at `segment`.
    fn find(octets: &[u8], segment: usize) -> Option<Self> {
        let text = octets.get(segment..)?.strip_suffix(b"}\r\n")?;
        let (text, synchronising) = match text.strip_suffix(b"+") {
            Some(text) => (text, false),
            None => (text, true),
        };
        let brace = text.iter().rposition(|octet| *octet == b'{')?;
        let digits = text.get(brace..)?.strip_prefix(b"{")?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let size = digits.iter().fold(0_usize, |size, digit| {
            size.saturating_mul(10)
                .saturating_add(usize::from(digit.saturating_sub(b'0')))
        });
        Some(Self {
            at: segment.saturating_add(brace),
            size,
            synchronising,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_line_bytes: 32,
        max_literal_bytes: 8,
    };

    /// Reads commands until the input is used up; synchronising literals are accepted. Literals are shown in `<>`.
    fn commands(chunks: &[&[u8]]) -> (Vec<String>, Result<(), FrameError>) {
        let mut reader = Reader::new(LIMITS);
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                match reader.read_command(&mut input) {
                    Ok(Frame::Incomplete) => break,
                    Ok(Frame::Message(message)) => seen.push(shown(&message)),
                    Ok(Frame::Offer) => reader.accept_literal(),
                    Err(error) => return (seen, Err(error)),
                }
            }
            assert!(input.is_empty());
        }
        (seen, Ok(()))
    }

    fn shown(message: &Message) -> String {
        let mut text = String::new();
        let mut at = 0;
        while let Some(octet) = message.octets().get(at) {
            match message.literal_at(at) {
                Some((literal, end)) => {
                    text.push_str(&format!("<{}>", literal.escape_ascii()));
                    at = end;
                }
                None => {
                    text.push_str(&octet.escape_ascii().to_string());
                    at += 1;
                }
            }
        }
        text
    }

    /// Input, the commands in it, and the error at its end.
    type Case = (&'static [u8], &'static [&'static str], Option<FrameError>);

    const CASES: &[Case] = &[
        (b"a NOOP\r\nb NOOP\r\n", &["a NOOP", "b NOOP"], None),
        (b"\r\n", &[""], None),
        (b"a \r b\r\n", &["a \\r b"], None),
        (b"a {3}\r\nxyz {2+}\r\npq\r\n", &["a <xyz> <pq>"], None),
        (b"a {0}\r\n\r\n", &["a <>"], None),
        (b"a {0+}\r\n{0}\r\n {0}\r\n\r\n", &["a <><> <>"], None),
        (b"a {0000000000003}\r\nxyz\r\n", &["a <xyz>"], None),
        (b"a {4+}\r\n{3}\r x\r\nb\r\n", &["a <{3}\\r> x", "b"], None),
        (b"a {8+}\r\nb NOOP\r\n\r\n", &["a <b NOOP\\r\\n>"], None),
        // Not markers.
        (b"a {}\r\nb\r\n", &["a {}", "b"], None),
        (b"a {+}\r\nb\r\n", &["a {+}", "b"], None),
        (b"a {-1}\r\nb\r\n", &["a {-1}", "b"], None),
        (b"a {5-}\r\nb\r\n", &["a {5-}", "b"], None),
        (b"a {1 }\r\nb\r\n", &["a {1 }", "b"], None),
        (b"a {1} \r\nb\r\n", &["a {1} ", "b"], None),
        (b"a {{1x}\r\nb\r\n", &["a {{1x}", "b"], None),
        // The first half of this marker is inside a literal.
        (b"a {2}\r\n{1}\r\nb\r\n", &["a <{1>}", "b"], None),
        // Limits.
        (b"a {9}\r\n", &[], Some(FrameError::Literal)),
        (b"a {9+}\r\n", &[], Some(FrameError::Literal)),
        (
            b"a {8}\r\n12345678{8}\r\n12345678{1}\r\n",
            &[],
            Some(FrameError::Literal),
        ),
        (
            b"123456789012345678901234567890\r\n",
            &["123456789012345678901234567890"],
            None,
        ),
        (
            b"1234567890123456789012345678901\r\n",
            &[],
            Some(FrameError::Line),
        ),
        (
            b"12345678901234567890123456789012",
            &[],
            Some(FrameError::Line),
        ),
        (
            b"a {8+}\r\n12345678 2345678901234567890123\r\n",
            &[],
            Some(FrameError::Line),
        ),
        // Line ends.
        (b"a\n", &[], Some(FrameError::BareLf)),
        (b"a\r\nb\n", &["a"], Some(FrameError::BareLf)),
        (b"a {1}\nx\r\n", &[], Some(FrameError::BareLf)),
        (b"a {1}\r\n\r\n", &[], Some(FrameError::BareLf)),
    ];

    /// Empty literals are short, and what is noted of each is not.
    #[test]
    fn a_command_has_so_many_literals() {
        for (count, expected) in [
            (64, None),
            (65, Some(FrameError::Line)),
            (5000, Some(FrameError::Line)),
        ] {
            let limits = Limits {
                max_line_bytes: 1 << 20,
                max_literal_bytes: 8,
            };
            let mut reader = Reader::new(limits);
            let mut input =
                BytesMut::from(("a ".to_owned() + &"{0+}\r\n".repeat(count) + "\r\n").as_str());
            let read = reader.read_command(&mut input);
            assert_eq!(read.err(), expected, "{count}");
            let (taken, allowed) = reader.partial().memory(count * 6);
            assert!(taken <= allowed, "{taken} of {allowed}");
        }
    }

    #[test]
    fn commands_come_out_the_same_however_they_are_cut() {
        for (input, expected, error) in CASES {
            let expected = (
                expected.iter().map(|text| (*text).to_owned()).collect(),
                error.map_or(Ok(()), Err),
            );
            let name = input.escape_ascii();
            let octets: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(commands(&octets), expected, "{name} by octet");
            for cut in 0..=input.len() {
                let (first, second) = input.split_at(cut);
                assert_eq!(commands(&[first, second]), expected, "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn sizes_that_no_integer_holds_are_too_large() {
        for size in [
            "2147483647",
            "2147483648",
            "4294967295",
            "4294967296",
            "4294967299",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551619",
            // 2^64 and 2^65, and a little more.
            "18446744073709551623",
            "36893488147419103243",
            "9999999999999999999999999999999999999999",
        ] {
            for end in ["}\r\n", "+}\r\n"] {
                let line = format!("a {{{size}{end}");
                let mut reader = Reader::new(Limits {
                    max_line_bytes: 8192,
                    max_literal_bytes: 4096,
                });
                let result = reader.read_command(&mut BytesMut::from(line.as_bytes()));
                assert_eq!(result.unwrap_err(), FrameError::Literal, "{line}");
            }
        }
    }

    #[test]
    fn lines_know_no_literals_and_leave_what_follows() {
        let mut reader = Reader::new(LIMITS);
        let mut input = BytesMut::from(&b"a {3+}\r\nxyz"[..]);
        let Ok(Frame::Message(line)) = reader.read_line(&mut input) else {
            panic!("no line");
        };
        assert_eq!(line.octets(), b"a {3+}");
        assert_eq!(&input[..], b"xyz");
    }

    #[test]
    fn a_refused_literal_leaves_a_marker_without_content() {
        for size in [0, 3] {
            let line = format!("a {{{size}}}\r\n");
            let mut reader = Reader::new(LIMITS);
            let mut input = BytesMut::from(format!("{line}b\r\n").as_bytes());
            assert!(matches!(reader.read_command(&mut input), Ok(Frame::Offer)));
            let refused = reader.take();
            assert!(refused.literal_at(2).is_none());
            assert_eq!(refused.octets(), line.as_bytes());
            let Ok(Frame::Message(next)) = reader.read_command(&mut input) else {
                panic!("no line");
            };
            assert_eq!(next.octets(), b"b");
        }
    }

    #[test]
    fn memory_grows_with_what_came_not_with_what_was_announced() {
        let mut reader = Reader::new(Limits {
            max_line_bytes: 8192,
            max_literal_bytes: 1 << 30,
        });
        let mut input = BytesMut::from(&b"a {1073741824+}\r\nx"[..]);
        assert!(matches!(
            reader.read_command(&mut input),
            Ok(Frame::Incomplete)
        ));
        assert!(reader.partial().octets.capacity() <= FIRST_CAPACITY);
    }

    #[test]
    fn nothing_is_printed() {
        let mut reader = Reader::new(LIMITS);
        let _ = reader.read_line(&mut BytesMut::from(&b"secret"[..]));
        assert_eq!(format!("{reader:?}"), "Reader(Message(6 octets))");
    }
}
