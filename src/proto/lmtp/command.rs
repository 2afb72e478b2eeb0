//! LMTP's grammar: commands, their paths and their parameters.
//!
//! A parameter is a keyword and perhaps a value, in any order, each once. What is not offered is refused (555), not passed
//! over: whoever sends it counts on it. One private keyword may be taken on MAIL and RCPT, for use inside our own link: its
//! value is any octets as xtext.
//!
//! It does not know which command is allowed when (`server`), nor which address exists.
//! Limits: the line's; those of addresses. RFC 5321, 4.1; RFC 2033, 4.1; RFC 1870, 3; RFC 6152, 2; RFC 6531, 3.1; RFC 3461, 4
//! (xtext). A line with a control character or not UTF-8 is no command: some server behind would cut it there.
//! What is wrong is the reply that says so.

use super::{
    address::{self, Address},
    reply::Reply,
};

const MALFORMED: Reply = Reply::fixed(501, 5, 2, "Lines are UTF-8 without control characters.");
const PARAMETER: Reply = Reply::fixed(501, 5, 4, "Wrong value of a parameter.");
const RECIPIENT: Reply = Reply::fixed(501, 1, 3, "This is not a recipient.");
const SENDER: Reply = Reply::fixed(501, 1, 7, "This is not a sender.");
const UNKNOWN: Reply = Reply::fixed(500, 5, 2, "Unknown command.");
const UNKNOWN_PARAMETER: Reply = Reply::fixed(555, 5, 4, "Unknown parameter.");
const WRONG_ARGUMENT: Reply = Reply::fixed(501, 5, 4, "Wrong arguments.");
/// RFC 2033, 4.1: HELO and EHLO are not LMTP.
const WRONG_HELLO: Reply = Reply::fixed(500, 5, 1, "This is LMTP, say LHLO.");

/// What the octets of a message may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body {
    /// `8BITMIME`.
    EightBit,
    /// `7BIT`, or nothing was said.
    SevenBit,
}

/// A message before its octets: who sends it, to whom, what it needs. `R` is what its holder knows of a recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope<R> {
    /// Who hears of a failure; none: nobody.
    pub sender: Option<Address>,
    /// In the order of their commands.
    pub recipients: Vec<R>,
    /// Its size in octets as announced: a hint.
    pub size: Option<u64>,
    /// What its octets may be.
    pub body: Body,
    /// Whether addresses or header fields may be UTF-8.
    pub smtputf8: bool,
    /// The value of the private parameter of MAIL.
    pub private: Option<Vec<u8>>,
}

/// A recipient as a command names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recipient {
    /// The address.
    pub address: Address,
    /// The value of the private parameter of RCPT.
    pub private: Option<Vec<u8>>,
}

/// A command with its arguments.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Command<R> {
    Data,
    Help,
    Lhlo,
    Mail(Envelope<R>),
    Noop,
    Quit,
    Rcpt(Recipient),
    Rset,
    Vrfy,
}

impl<R> Command<R> {
    /// Reads a line without its CRLF; `private` is the keyword that is taken besides those of the RFCs.
    pub(super) fn parse(line: &[u8], private: Option<&str>) -> Result<Self, Reply> {
        let line = std::str::from_utf8(line)
            .ok()
            .filter(|line| !line.chars().any(char::is_control))
            .ok_or(MALFORMED)?;
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let is = |word: &str| verb.eq_ignore_ascii_case(word);
        if is("MAIL") {
            mail(argument, private)
        } else if is("RCPT") {
            rcpt(argument, private).map(Self::Rcpt)
        } else if is("DATA") {
            alone(argument, Self::Data)
        } else if is("LHLO") {
            hello(argument)
        } else if is("HELP") {
            Ok(Self::Help)
        } else if is("NOOP") {
            Ok(Self::Noop)
        } else if is("QUIT") {
            alone(argument, Self::Quit)
        } else if is("RSET") {
            alone(argument, Self::Rset)
        } else if is("VRFY") {
            Ok(Self::Vrfy)
        } else if is("EHLO") || is("HELO") {
            Err(WRONG_HELLO)
        } else {
            Err(UNKNOWN)
        }
    }
}

fn alone<R>(argument: &str, command: Command<R>) -> Result<Command<R>, Reply> {
    if argument.trim_end_matches(' ').is_empty() {
        Ok(command)
    } else {
        Err(WRONG_ARGUMENT)
    }
}

/// What the client calls itself means nothing here, but it must say something.
fn hello<R>(argument: &str) -> Result<Command<R>, Reply> {
    let name = argument.trim_matches(' ');
    if name.is_empty() || name.contains(' ') {
        Err(WRONG_ARGUMENT)
    } else {
        Ok(Command::Lhlo)
    }
}

fn mail<R>(argument: &str, private: Option<&str>) -> Result<Command<R>, Reply> {
    let argument = behind("FROM:", argument).ok_or(WRONG_ARGUMENT)?;
    let (sender, rest) = address::path(argument).map_err(|_| SENDER)?;
    let mut parameters = Parameters::parse(rest, SENDER)?;
    let envelope = Envelope {
        sender,
        recipients: Vec::new(),
        size: parameters.take("SIZE").map(size).transpose()?,
        body: parameters.take("BODY").map_or(Ok(Body::SevenBit), body)?,
        smtputf8: match parameters.take("SMTPUTF8") {
            Some(None) => true,
            None => false,
            Some(Some(_)) => return Err(PARAMETER),
        },
        private: parameters.take_private(private)?,
    };
    parameters.end()?;
    Ok(Command::Mail(envelope))
}

fn rcpt(argument: &str, private: Option<&str>) -> Result<Recipient, Reply> {
    let argument = behind("TO:", argument).ok_or(WRONG_ARGUMENT)?;
    let (address, rest) = address::path(argument).map_err(|_| RECIPIENT)?;
    let address = address.ok_or(RECIPIENT)?;
    let mut parameters = Parameters::parse(rest, RECIPIENT)?;
    let private = parameters.take_private(private)?;
    parameters.end()?;
    Ok(Recipient { address, private })
}

/// Blanks behind the colon are no part of the grammar, but people and some programs write them.
fn behind<'l>(word: &str, argument: &'l str) -> Option<&'l str> {
    let (start, rest) = argument.split_at_checked(word.len())?;
    start
        .eq_ignore_ascii_case(word)
        .then(|| rest.trim_start_matches(' '))
}

/// RFC 1870, 3: up to 20 digits. What no u64 holds is the largest one.
fn size(value: Option<&str>) -> Result<u64, Reply> {
    let digits = value.filter(|value| {
        (1..=20).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit())
    });
    Ok(digits.ok_or(PARAMETER)?.parse().unwrap_or(u64::MAX))
}

fn body(value: Option<&str>) -> Result<Body, Reply> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(Body::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(Body::EightBit),
        Some(_) | None => Err(PARAMETER),
    }
}

/// Keywords, in capitals, with their values, which are not empty.
struct Parameters<'l>(Vec<(String, Option<&'l str>)>);

impl<'l> Parameters<'l> {
    /// Reads what follows a path; `glued` is said when no blank does.
    fn parse(text: &'l str, glued: Reply) -> Result<Self, Reply> {
        if !text.is_empty() && !text.starts_with(' ') {
            return Err(glued);
        }
        let mut parameters = Self(Vec::new());
        for parameter in text.split(' ').filter(|word| !word.is_empty()) {
            let (keyword, value) = match parameter.split_once('=') {
                Some((keyword, value)) => (keyword, Some(value)),
                None => (parameter, None),
            };
            let keyword = keyword.to_ascii_uppercase();
            let twice = parameters.0.iter().any(|(other, _)| *other == keyword);
            if twice || value.is_some_and(str::is_empty) {
                return Err(PARAMETER);
            }
            parameters.0.push((keyword, value));
        }
        Ok(parameters)
    }

    fn take(&mut self, keyword: &str) -> Option<Option<&'l str>> {
        let at = self.0.iter().position(|(other, _)| other == keyword)?;
        Some(self.0.swap_remove(at).1)
    }

    fn take_private(&mut self, keyword: Option<&str>) -> Result<Option<Vec<u8>>, Reply> {
        let Some(value) = keyword.and_then(|keyword| self.take(keyword)) else {
            return Ok(None);
        };
        value.and_then(from_xtext).map(Some).ok_or(PARAMETER)
    }

    fn end(self) -> Result<(), Reply> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(UNKNOWN_PARAMETER)
        }
    }
}

/// Writes octets as xtext.
pub(super) fn put_xtext(octets: &[u8], out: &mut impl std::fmt::Write) {
    for octet in octets {
        // Writing to memory fails only when it ends.
        let _ = match octet {
            b'+' | b'=' => write!(out, "+{octet:02X}"),
            b'!'..=b'~' => out.write_char(char::from(*octet)),
            _ => write!(out, "+{octet:02X}"),
        };
    }
}

/// Reads xtext: printable ASCII, and `+` with two hexadecimal digits, which the RFC has in capitals.
fn from_xtext(text: &str) -> Option<Vec<u8>> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet.saturating_sub(b'0')),
        b'A'..=b'F' => Some(octet.saturating_sub(b'A').saturating_add(10)),
        _ => None,
    };
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => {
                let high = digit(rest.next()?)?;
                digit(rest.next()?)?.saturating_add(high.saturating_mul(16))
            }
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command<()>, Reply> {
        Command::parse(line.as_bytes(), Some("XOURS"))
    }

    fn envelope(line: &str) -> Envelope<()> {
        match parse(line) {
            Ok(Command::Mail(envelope)) => envelope,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn mail_has_parameters_in_any_order() {
        let plain = Envelope {
            sender: Some(Address::parse("ann@a.example").unwrap()),
            recipients: Vec::new(),
            size: None,
            body: Body::SevenBit,
            smtputf8: false,
            private: None,
        };
        assert_eq!(envelope("MAIL FROM:<ann@a.example>"), plain);
        assert_eq!(envelope("mail from: <ann@a.example> "), plain);
        let all = Envelope {
            size: Some(7),
            body: Body::EightBit,
            smtputf8: true,
            private: Some(b"a=b+ \xff".to_vec()),
            ..plain
        };
        assert_eq!(
            envelope(
                "MAIL FROM:<ann@a.example> SIZE=7 BODY=8BITMIME SMTPUTF8 XOURS=a+3Db+2B+20+FF"
            ),
            all
        );
        assert_eq!(
            envelope(
                "Mail From:<ann@a.example> xours=a+3Db+2B+20+FF smtputf8 body=8bitmime size=7"
            ),
            all
        );
        let huge = envelope("MAIL FROM:<> SIZE=99999999999999999999 BODY=7BIT");
        assert_eq!((huge.sender, huge.size), (None, Some(u64::MAX)));
    }

    #[test]
    fn what_is_wrong_is_told_by_codes() {
        for (line, codes) in [
            ("", "500 5.5.2"),
            ("FOO", "500 5.5.2"),
            ("NOOP\0", "501 5.5.2"),
            ("NOOP \r", "501 5.5.2"),
            ("MAIL FROM:<a\tb>", "501 5.5.2"),
            (" NOOP", "500 5.5.2"),
            ("BDAT 5 LAST", "500 5.5.2"),
            ("HELO x", "500 5.5.1"),
            ("EHLO", "500 5.5.1"),
            ("LHLO", "501 5.5.4"),
            ("LHLO a b", "501 5.5.4"),
            ("DATA x", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL TO:<a>", "501 5.5.4"),
            ("MAIL FROM <a>", "501 5.5.4"),
            ("MAIL FROM:a@a.example", "501 5.1.7"),
            ("MAIL FROM:<a@>", "501 5.1.7"),
            ("MAIL FROM:<a>SIZE=1", "501 5.1.7"),
            ("MAIL FROM:<a> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<a> SIZE=100000000000000000000", "501 5.5.4"),
            ("MAIL FROM:<a> SIZE=1 size=1", "501 5.5.4"),
            ("MAIL FROM:<a> BODY=BINARYMIME", "501 5.5.4"),
            ("MAIL FROM:<a> SMTPUTF8=1", "501 5.5.4"),
            ("MAIL FROM:<a> XOURS", "501 5.5.4"),
            ("MAIL FROM:<a> XOURS=+3d", "501 5.5.4"),
            ("MAIL FROM:<a> XOURS=a=b", "501 5.5.4"),
            ("MAIL FROM:<a> XOURS=+3", "501 5.5.4"),
            ("MAIL FROM:<a> XOURS=\u{eb}", "501 5.5.4"),
            ("MAIL FROM:<a> AUTH=<>", "555 5.5.4"),
            ("MAIL FROM:<a> RET=HDRS", "555 5.5.4"),
            ("RCPT FROM:<a>", "501 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a b>", "501 5.1.3"),
            ("RCPT TO:<a> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<a> SIZE=1", "555 5.5.4"),
        ] {
            let reply = parse(line).unwrap_err().to_string();
            assert!(reply.starts_with(&format!("{codes} ")), "{line}: {reply}");
        }
        let not_utf8 = Command::<()>::parse(b"RCPT TO:<\xeb@a.example>", None);
        assert_eq!(not_utf8, Err(MALFORMED));
        // The private keyword is taken only where the setting says so.
        let private = Command::<()>::parse(b"RCPT TO:<a> XOURS=a", None);
        assert_eq!(private, Err(UNKNOWN_PARAMETER));
    }

    #[test]
    fn xtext_keeps_every_octet() {
        let octets: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        put_xtext(&octets, &mut text);
        assert!(
            text.bytes()
                .all(|octet| octet.is_ascii_graphic() && octet != b'=')
        );
        assert_eq!(from_xtext(&text), Some(octets));
    }
}
