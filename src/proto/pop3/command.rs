//! POP3's grammar as far as a client needs it before login: keywords and the arguments of each command.
//!
//! One blank ends a keyword. What follows the one behind USER and PASS, up to the line's end, is the name or the
//! password, blanks at its ends included: RFC 1939, 7 says so for PASS, and a name is not ours to trim either. Octets
//! from 0x80 up are taken there, as clients send UTF-8 and Latin-1. A line with NUL or a lone CR is no command: some
//! server behind would cut it there.
//!
//! It does not know which command is allowed when (`super`).
//! Limits: the line's. RFC 1939, 4, 5 and 7; RFC 5034, 4. What is wrong is a [`CommandError`].

/// A command with its arguments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Command<'l> {
    /// A mechanism and, perhaps, the rest of the line, which is not empty; without a mechanism it asks for them.
    Auth(Option<(&'l [u8], Option<&'l [u8]>)>),
    Capa,
    /// Perhaps empty.
    Pass(&'l [u8]),
    Quit,
    Stls,
    /// Perhaps empty.
    User(&'l [u8]),
}

/// Why a line is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CommandError {
    Arguments,
    Unknown,
}

impl<'l> Command<'l> {
    /// Reads a line without its CRLF.
    pub(super) fn parse(line: &'l [u8]) -> Result<Self, CommandError> {
        let (keyword, argument) = split(line);
        let is = |word: &str| keyword.eq_ignore_ascii_case(word.as_bytes());
        let command = if is("AUTH") {
            auth(argument)
        } else if is("CAPA") {
            alone(argument, Self::Capa)
        } else if is("PASS") {
            argument.map(Self::Pass)
        } else if is("QUIT") {
            alone(argument, Self::Quit)
        } else if is("STLS") {
            alone(argument, Self::Stls)
        } else if is("USER") {
            argument.map(Self::User)
        } else {
            return Err(CommandError::Unknown);
        };
        command
            .filter(|_| !line.iter().any(|octet| matches!(octet, b'\0' | b'\r')))
            .ok_or(CommandError::Arguments)
    }
}

/// Splits at the first blank; without one, there is no second part.
fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |octet| *octet == b' ');
    (parts.next().unwrap_or_default(), parts.next())
}

fn alone<'l>(argument: Option<&[u8]>, command: Command<'l>) -> Option<Command<'l>> {
    argument.is_none().then_some(command)
}

fn auth(argument: Option<&[u8]>) -> Option<Command<'_>> {
    let Some(argument) = argument else {
        return Some(Command::Auth(None));
    };
    let (mechanism, initial) = split(argument);
    let empty = mechanism.is_empty() || initial.is_some_and(<[u8]>::is_empty);
    (!empty).then_some(Command::Auth(Some((mechanism, initial))))
}
