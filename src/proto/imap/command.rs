//! IMAP's grammar as far as a client needs it before login: tags, atoms, strings, and the arguments of each command.
//!
//! Strict where RFC 3501/9051 section 9 is: one space between arguments, none behind the last, no 8-bit octet in an
//! atom, only `"` and `\` behind a backslash. One thing is wider: a quoted string may hold any octet from 0x80 up, as
//! clients send Latin-1 and UTF-8 there. A NUL is taken nowhere, not even in a literal.
//!
//! It does not know which command is allowed when (`super`) nor where literals end (`framing`): a literal is taken only
//! where framing marked one, and nothing else reads over it, since a marker has a line end and no other form of
//! argument may hold one.
//!
//! No recursion, no allocation but for the strings taken; each octet is looked at once.
//! On anything else than the grammar the answer is `None`: the command is bad, and the tag, if there was one, is known.

use std::{fmt, mem};

use zeroize::Zeroizing;

use crate::{proto::framing::Message, secret::Secret};

/// A command's tag: one or more characters that need no escaping anywhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Tag(String);

/// The commands that mean something before login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Authenticate,
    Capability,
    Id,
    Login,
    Logout,
    Noop,
    Starttls,
}

/// A command with its arguments.
pub(super) enum Command<'m> {
    Authenticate {
        mechanism: &'m [u8],
        /// The rest of the line, if there is one: never empty.
        initial: Option<&'m [u8]>,
    },
    Capability,
    Id,
    Login {
        name: Text,
        password: Secret,
    },
    Logout,
    Noop,
    Starttls,
}

/// What a message begins with.
pub(super) struct Head<'m> {
    /// None if it does not begin with one.
    pub(super) tag: Option<Tag>,
    /// None if it is unknown here.
    pub(super) verb: Option<Verb>,
    /// What follows the verb.
    pub(super) arguments: Arguments<'m>,
}

/// The part of a message that is not read yet.
pub(super) struct Arguments<'m> {
    message: &'m Message,
    at: usize,
}

/// A string a client gave; wiped, for it may be a password.
pub(super) type Text = Zeroizing<Vec<u8>>;

/// RFC 9051, 9: ATOM-CHAR.
fn is_atom(octet: u8) -> bool {
    octet.is_ascii_graphic()
        && !matches!(
            octet,
            b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']'
        )
}

/// RFC 9051, 9: ASTRING-CHAR.
fn is_astring(octet: u8) -> bool {
    is_atom(octet) || octet == b']'
}

// === impl Tag ===

impl Tag {
    /// The tag of a message of which perhaps only the beginning is there.
    pub(super) fn of(message: &Message) -> Option<Self> {
        let end = message.octets().iter().position(|octet| *octet == b' ')?;
        Self::parse(message.octets().get(..end)?)
    }

    fn parse(octets: &[u8]) -> Option<Self> {
        let lawful = |octet: &u8| is_astring(*octet) && *octet != b'+';
        if octets.is_empty() || !octets.iter().all(lawful) {
            return None;
        }
        String::from_utf8(octets.to_vec()).ok().map(Self)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Verb ===

impl Verb {
    const ALL: [(&'static str, Self); 7] = [
        ("AUTHENTICATE", Self::Authenticate),
        ("CAPABILITY", Self::Capability),
        ("ID", Self::Id),
        ("LOGIN", Self::Login),
        ("LOGOUT", Self::Logout),
        ("NOOP", Self::Noop),
        ("STARTTLS", Self::Starttls),
    ];

    fn parse(octets: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(octets))
            .map(|(_, verb)| verb)
    }
}

// === impl Head ===

impl<'m> Head<'m> {
    /// Reads tag and verb; the message may end anywhere behind them.
    pub(super) fn parse(message: &'m Message) -> Self {
        let mut arguments = Arguments { message, at: 0 };
        let tag = Tag::parse(arguments.run(|octet| octet != b' '));
        let verb = match (&tag, arguments.space()) {
            (Some(_), Some(())) => Verb::parse(arguments.run(is_atom)),
            _ => None,
        };
        Self {
            tag,
            verb,
            arguments,
        }
    }
}

// === impl Arguments ===

impl<'m> Arguments<'m> {
    /// Reads what must follow `verb`, to the message's end.
    pub(super) fn parse(self, verb: Verb) -> Option<Command<'m>> {
        match verb {
            Verb::Authenticate => self.authenticate(),
            Verb::Capability => self.none().map(|()| Command::Capability),
            Verb::Id => self.id().map(|()| Command::Id),
            Verb::Login => self.login(),
            Verb::Logout => self.none().map(|()| Command::Logout),
            Verb::Noop => self.none().map(|()| Command::Noop),
            Verb::Starttls => self.none().map(|()| Command::Starttls),
        }
    }

    fn none(self) -> Option<()> {
        self.rest().is_empty().then_some(())
    }

    /// `SP astring SP astring`: a user name and a password.
    fn login(mut self) -> Option<Command<'m>> {
        self.space()?;
        let name = self.astring()?;
        self.space()?;
        let mut password = self.astring()?;
        self.none()?;
        let password = Secret::new(mem::take(&mut *password));
        Some(Command::Login { name, password })
    }

    /// `SP atom [SP initial]`: a mechanism and the rest of the line.
    fn authenticate(mut self) -> Option<Command<'m>> {
        self.space()?;
        let mechanism = self.run(is_atom);
        if mechanism.is_empty() {
            return None;
        }
        let initial = match self.rest() {
            [] => None,
            [b' ', initial @ ..] if !initial.is_empty() => Some(initial),
            _ => return None,
        };
        Some(Command::Authenticate { mechanism, initial })
    }

    /// `SP (NIL / "(" [string SP nstring *(SP string SP nstring)] ")")` (RFC 2971). What a client tells about itself
    /// is checked and forgotten.
    fn id(mut self) -> Option<()> {
        self.space()?;
        if self.octet(b'(').is_none() {
            self.nil()?;
            return self.none();
        }
        if self.octet(b')').is_some() {
            return self.none();
        }
        loop {
            self.string()?;
            self.space()?;
            if self.nil().is_none() {
                self.string()?;
            }
            if self.octet(b')').is_some() {
                return self.none();
            }
            self.space()?;
        }
    }

    fn rest(&self) -> &'m [u8] {
        self.message.octets().get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }

    fn octet(&mut self, octet: u8) -> Option<()> {
        (self.rest().first() == Some(&octet)).then(|| self.skip(1))
    }

    fn space(&mut self) -> Option<()> {
        self.octet(b' ')
    }

    /// The longest run of such octets, perhaps none.
    fn run(&mut self, is_part: fn(u8) -> bool) -> &'m [u8] {
        let rest = self.rest();
        let length = rest.iter().take_while(|octet| is_part(**octet)).count();
        self.skip(length);
        rest.get(..length).unwrap_or_default()
    }

    fn nil(&mut self) -> Option<()> {
        let word = self.rest().get(..3)?;
        word.eq_ignore_ascii_case(b"NIL").then(|| self.skip(3))
    }

    fn astring(&mut self) -> Option<Text> {
        match self.run(is_astring) {
            [] => self.string(),
            atom => Some(Zeroizing::new(atom.to_vec())),
        }
    }

    fn string(&mut self) -> Option<Text> {
        if let Some((content, end)) = self.message.literal_at(self.at) {
            self.at = end;
            return (!content.contains(&0)).then(|| Zeroizing::new(content.to_vec()));
        }
        self.quoted()
    }

    fn quoted(&mut self) -> Option<Text> {
        self.octet(b'"')?;
        // Room for all of it from the start: a growing vector would leave copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(self.rest().len()));
        let mut octets = self.rest().iter();
        loop {
            match *octets.next()? {
                b'"' => break,
                b'\\' => match *octets.next()? {
                    octet @ (b'"' | b'\\') => text.push(octet),
                    _ => return None,
                },
                b'\0' | b'\r' | b'\n' => return None,
                octet => text.push(octet),
            }
        }
        let used = self.rest().len().saturating_sub(octets.len());
        self.skip(used);
        Some(text)
    }
}
