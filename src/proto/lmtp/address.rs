//! Addresses in the commands of LMTP.
//!
//! An [`Address`] is a local part, as it is meant and not as it was quoted, and a domain where there is one: `"ann"@a.example`
//! and `ann@a.example` are one address. It is written with quotes where the grammar needs them. A source route is taken and
//! dropped (RFC 5321, 4.1.1.3 and appendix C).
//!
//! It does not decide who an address is, fold case, or forbid what senders really have: dots anywhere in a local part and
//! a local part without a domain (`postmaster`, and users of this machine).
//! Limits: 256 octets with `<` and `>`, 255 for the domain (RFC 5321, 4.5.3.1). The 64 for a local part are not enforced:
//! senders that name their recipient in it are longer, and Postfix takes them. RFC 5321, 4.1.2; RFC 6531, 3.3.
//! What is wrong is an [`AddressError`].

use std::fmt;

/// The longest path, `<` and `>` included, in octets.
pub const MAX_PATH_BYTES: usize = 256;

/// The longest domain, in octets.
const MAX_DOMAIN_BYTES: usize = 255;

/// A sender's or recipient's address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Address {
    local: String,
    domain: Option<String>,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    /// It does not follow the grammar.
    #[error("is not an address")]
    Syntax,
    /// It is longer than 256 octets, or its domain than 255.
    #[error("is too long")]
    TooLong,
}

impl Address {
    /// Reads `local@domain` or `local`, quoted or not, UTF-8 or not.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len().saturating_add(2) > MAX_PATH_BYTES {
            return Err(AddressError::TooLong);
        }
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or(AddressError::Syntax)?,
            None => {
                let end = text.find('@').unwrap_or(text.len());
                let (local, rest) = text.split_at_checked(end).ok_or(AddressError::Syntax)?;
                if local.is_empty() || !local.chars().all(|c| c == '.' || is_atext(c)) {
                    return Err(AddressError::Syntax);
                }
                (local.to_owned(), rest)
            }
        };
        let domain = match rest.strip_prefix('@') {
            Some(domain) if domain.len() > MAX_DOMAIN_BYTES => return Err(AddressError::TooLong),
            Some(domain) if is_domain(domain) => Some(domain.to_owned()),
            None if rest.is_empty() => None,
            Some(_) | None => return Err(AddressError::Syntax),
        };
        let address = Self { local, domain };
        // Written down it may need quotes.
        if address.to_string().len().saturating_add(2) > MAX_PATH_BYTES {
            return Err(AddressError::TooLong);
        }
        Ok(address)
    }

    /// The local part, without quotes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain, or an address literal in brackets.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// Whether it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain().is_none_or(str::is_ascii)
    }
}

impl fmt::Display for Address {
    /// As it stands in a command, without `<` and `>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            f.write_str(&self.local)?;
        } else {
            f.write_str("\"")?;
            for c in self.local.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        match &self.domain {
            Some(domain) => write!(f, "@{domain}"),
            None => Ok(()),
        }
    }
}

/// Reads a path off the front of `text`, and tells what follows it; `<>` is nobody.
pub(super) fn path(text: &str) -> Result<(Option<Address>, &str), AddressError> {
    let inner = text.strip_prefix('<').ok_or(AddressError::Syntax)?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.find(|c| {
        let ends = c == '>' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        ends
    });
    let (mailbox, rest) = end
        .and_then(|end| inner.split_at_checked(end))
        .ok_or(AddressError::Syntax)?;
    let rest = rest.strip_prefix('>').unwrap_or(rest);
    if mailbox.is_empty() {
        return Ok((None, rest));
    }
    Ok((Some(Address::parse(without_route(mailbox)?)?), rest))
}

/// Drops `@a.example,@b.example:`.
fn without_route(mailbox: &str) -> Result<&str, AddressError> {
    if !mailbox.starts_with('@') {
        return Ok(mailbox);
    }
    let (route, mailbox) = mailbox.split_once(':').ok_or(AddressError::Syntax)?;
    let is_route = route
        .split(',')
        .all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
    is_route.then_some(mailbox).ok_or(AddressError::Syntax)
}

/// Reads the inside of a quoted string and its end; not empty.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut rest = text.chars();
    loop {
        let c = match rest.next()? {
            '"' => break,
            '\\' => rest.next().filter(char::is_ascii)?,
            c => c,
        };
        if c.is_control() {
            return None;
        }
        content.push(c);
    }
    (!content.is_empty()).then_some((content, rest.as_str()))
}

/// RFC 5322, 3.2.3, and RFC 6531, 3.3.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || !c.is_ascii() && !c.is_control()
}

fn is_dot_string(local: &str) -> bool {
    local
        .split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) {
        // RFC 5321, 4.1.3: dcontent.
        return !literal.is_empty()
            && literal
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '[' | '\\' | ']'));
    }
    let of_label = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || !c.is_ascii() && !c.is_control()
    };
    domain
        .split('.')
        .all(|label| !label.is_empty() && label.chars().all(of_label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        for (text, expected) in [
            ("<ann@a.example>", "ann@a.example|"),
            ("<>", "nobody|"),
            ("<> BODY=7BIT", "nobody| BODY=7BIT"),
            ("<postmaster> X", "postmaster| X"),
            ("<ann+lists@a.example>x", "ann+lists@a.example|x"),
            ("<\"ann\"@a.example>", "ann@a.example|"),
            ("<\"a b\"@a.example>", "\"a b\"@a.example|"),
            ("<\"a>b\"@a.example>", "\"a>b\"@a.example|"),
            ("<\"a@b\"@a.example>", "\"a@b\"@a.example|"),
            (
                "<\"a\\\"\\>\\\\b\"@a.example>",
                "\"a\\\">\\\\b\"@a.example|",
            ),
            ("<\"<\">", "\"<\"|"),
            ("<.a..b.@a.example>", "\".a..b.\"@a.example|"),
            ("<@a.example,@b.example:ann@c.example>", "ann@c.example|"),
            ("<ann@[192.0.2.1]>", "ann@[192.0.2.1]|"),
            ("<ann@[IPv6:2001:db8::1]>", "ann@[IPv6:2001:db8::1]|"),
            ("<ann@sub_domain.example>", "ann@sub_domain.example|"),
            (
                "<zo\u{eb}@b\u{fc}cher.example>",
                "zo\u{eb}@b\u{fc}cher.example|",
            ),
        ] {
            let (address, rest) = path(text).unwrap();
            let shown = address
                .as_ref()
                .map_or("nobody".to_owned(), Address::to_string);
            assert_eq!(format!("{shown}|{rest}"), expected, "{text}");
            if let Some(address) = address {
                assert_eq!(Address::parse(&shown).unwrap(), address);
            }
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "",
            "ann@a.example",
            "<ann@a.example",
            "<ann@>",
            "<@a.example>",
            "<@a.example:>",
            "<@:ann@a.example>",
            "<@a.example,b.example:ann@c.example>",
            "<@@a.example>",
            "<ann@a@b>",
            "<a b@a.example>",
            "< ann@a.example>",
            "<ann@a.example >",
            "<ann@a..example>",
            "<ann@a.example.>",
            "<ann@-[1]>",
            "<ann@[]>",
            "<ann@[1]]>",
            "<\"\"@a.example>",
            "<\"a@a.example>",
            "<\"a\\\">",
            "<\"a\"b@a.example>",
            "<\"a\"b>",
            "<a\"b\"@a.example>",
            "<<ann@a.example>>",
            "<a\u{85}b@a.example>",
            "<\"a\tb\"@a.example>",
            "<ann@a.example,eve@a.example>",
        ] {
            assert_eq!(path(text), Err(AddressError::Syntax), "{text}");
        }
    }

    #[test]
    fn the_longest_path_has_256_octets() {
        let long = format!("{}@a.example", "x".repeat(244));
        assert_eq!(
            path(&format!("<{long}>")).unwrap().0.unwrap().to_string(),
            long
        );
        assert_eq!(path(&format!("<x{long}>")), Err(AddressError::TooLong));
        // What has to be quoted does, and must not grow beyond it on our way.
        let dots = long.replacen("xx", "..", 1);
        assert_eq!(path(&format!("<{dots}>")), Err(AddressError::TooLong));
        assert!(path(&format!("<{}>", dots.replacen("xx", "", 1))).is_ok());
        // What is dropped does not count.
        assert!(path(&format!("<@b.example:{long}>")).is_ok());
    }
}
