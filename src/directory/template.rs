//! A search filter of the configuration, with places for a login or an address (RFC 4515); or the path of a home.
//!
//! `%u` is the whole login, `%n` the part before the last `@` (all of it when there is none), `%d` the part after it
//! (empty when there is none), `%%` a percent sign; of an address likewise. What a client typed only ever becomes an assertion value: every
//! octet of it except letters, digits and `. - _ @ +` is written as `\xx`, so it can neither end the value nor add a wildcard,
//! and no parser has to be trusted with it.
//!
//! Nothing here makes a DN: the DN to bind as comes from the entry found.
//! A template that is no filter is refused when the process starts.

use std::fmt::Write as _;

/// Matches every entry.
const ANYBODY: &str = "(objectClass=*)";

/// Stands for a place; no filter has it otherwise than escaped.
const PLACE: char = '\0';

/// A filter with places for a login or an address.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Domain,
    Local,
    Login,
    Text(String),
}

/// Why a filter of the configuration was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// A percent sign stands before something else than `u`, `n`, `d` or `%`.
    #[error("has a percent sign before something else than u, n, d or %")]
    Place,
    /// It does not depend on who logs in.
    #[error("has neither %u nor %n, so that it would match the same entry for every login")]
    Constant,
    /// It is not a filter.
    #[error("is not an LDAP filter")]
    Syntax,
}

impl Template {
    /// Reads a filter of the configuration and tries it.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let template = Self::named(text)?;
        ldap3::parse_filter(template.render("ann@example.org"))
            .map_err(|()| TemplateError::Syntax)?;
        Ok(template)
    }

    /// Reads a text that is no filter.
    pub(super) fn named(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let place = match chars.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('u') => Piece::Login,
                Some('n') => Piece::Local,
                Some('d') => Piece::Domain,
                _ => return Err(TemplateError::Place),
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(place);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        let template = Self(pieces);
        if !(template.0.contains(&Piece::Login) || template.0.contains(&Piece::Local)) {
            return Err(TemplateError::Constant);
        }
        Ok(template)
    }

    /// The filter for one login or address.
    pub(super) fn render(&self, login: &str) -> String {
        self.filled(login, escape)
    }

    /// A filter that matches at least all whom it could find.
    pub(super) fn everybody(&self) -> String {
        let marked = self.filled("", |_, filter| filter.push(PLACE));
        let widened = match widened(&marked) {
            Some((filter, "")) => filter,
            // Not in parentheses, as it may stand alone.
            _ => widened_leaf(&marked),
        };
        match ldap3::parse_filter(&widened) {
            Ok(_) => widened,
            Err(()) => ANYBODY.to_owned(),
        }
    }

    /// The text for a name that is the directory's own: as it is, for what checks it before it is used. None where it
    /// asks for a domain that the name has not.
    pub(super) fn render_as_is(&self, name: &str) -> Option<String> {
        let has_domain = name
            .rsplit_once('@')
            .is_some_and(|(_, domain)| !domain.is_empty());
        let is_whole = has_domain || !self.0.contains(&Piece::Domain);
        is_whole.then(|| self.filled(name, |value, text| text.push_str(value)))
    }

    fn filled(&self, login: &str, put: impl Fn(&str, &mut String)) -> String {
        let (local, domain) = login.rsplit_once('@').unwrap_or((login, ""));
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Domain => put(domain, &mut filled),
                Piece::Local => put(local, &mut filled),
                Piece::Login => put(login, &mut filled),
                Piece::Text(text) => filled.push_str(text),
            }
        }
        filled
    }
}

/// Writes `value` so that no octet of it can mean anything in a filter.
fn escape(value: &str, filter: &mut String) {
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b'@' | b'+') {
            filter.push(char::from(octet));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(filter, "\\{octet:02x}");
        }
    }
}

/// What the filter at the beginning of a text could match with anything in its places, and what is behind it. As deep as the
/// administrator's filter is.
fn widened(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('(')?;
    if let Some(sign) = inside.chars().next().filter(|sign| "&|".contains(*sign)) {
        let mut filter = format!("({sign}");
        let mut rest = inside.strip_prefix(sign)?;
        while !rest.starts_with(')') {
            let (part, behind) = widened(rest)?;
            filter.push_str(&part);
            rest = behind;
        }
        filter.push(')');
        return Some((filter, rest.strip_prefix(')')?));
    }
    if let Some(negated) = inside.strip_prefix('!') {
        let (_, rest) = widened(negated)?;
        let rest = rest.strip_prefix(')')?;
        let whole = text.strip_suffix(rest)?;
        let filter = if whole.contains(PLACE) {
            ANYBODY
        } else {
            whole
        };
        return Some((filter.to_owned(), rest));
    }
    // What a value has of parentheses is escaped.
    let (leaf, rest) = inside.split_once(')')?;
    Some((widened_leaf(leaf), rest))
}

/// The same for a comparison, without its parentheses.
fn widened_leaf(leaf: &str) -> String {
    if !leaf.contains(PLACE) {
        return format!("({leaf})");
    }
    let end = leaf.find(['=', '~', '<', '>', ':']).unwrap_or(0);
    let (name, rest) = leaf.split_at(end);
    // An attribute in the DN need not be one of the entry.
    if name.is_empty() || name.contains(PLACE) || rest.starts_with(":dn:") {
        return ANYBODY.to_owned();
    }
    format!("({name}=*)")
}

/// The attributes that a filter asks for, as it writes them.
pub(super) fn attributes_of(filter: &str) -> impl Iterator<Item = &str> {
    let parts = filter.split('(').skip(1);
    let name = |part: &'_ str| part.find(['=', '~', '<', '>', ':']);
    parts.filter_map(move |part| part.get(..name(part)?).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everybody(filter: &str) -> String {
        let everybody = Template::parse(filter).unwrap().everybody();
        ldap3::parse_filter(&everybody).unwrap();
        everybody
    }

    #[test]
    fn everybody_is_whom_it_could_find() {
        for (filter, expected) in [
            ("(uid=%u)", "(uid=*)"),
            ("uid=%u", "(uid=*)"),
            ("(|(uid=%u)(mail=%n@%d))", "(|(uid=*)(mail=*))"),
            ("(mail=%u*)", "(mail=*)"),
            ("(mail=*%n*%d*x)", "(mail=*)"),
            ("(&(o=100%%)(uid=%u))", "(&(o=100%)(uid=*))"),
            ("(&(|)(&)(uid=%u))", "(&(|)(&)(uid=*))"),
            // Values that are DNs have no parts to compare.
            ("(seeAlso=cn=%n,dc=x)", "(seeAlso=*)"),
            (
                "(&(memberOf=cn=mail,dc=x)(uid=%n))",
                "(&(memberOf=cn=mail,dc=x)(uid=*))",
            ),
            ("(|(uid>=%u)(uid<=%u)(cn~=%u))", "(|(uid=*)(uid=*)(cn=*))"),
            ("(cn;lang-en=%u)", "(cn;lang-en=*)"),
            ("(2.5.4.3=%u)", "(2.5.4.3=*)"),
            // Rules by name; in no attribute or in the DN, it may be an entry without the attribute.
            ("(uid:caseIgnoreMatch:=%u)", "(uid=*)"),
            ("(uid:=%u)", "(uid=*)"),
            ("(:caseIgnoreMatch:=%u)", ANYBODY),
            ("(ou:dn:=%u)", ANYBODY),
            ("(&(a:dn:2.4.6:=x)(uid=%u))", "(&(a:dn:2.4.6:=x)(uid=*))"),
            // Nor can it be said of an attribute that is anybody's guess.
            ("(%n=x)", ANYBODY),
            // What is escaped is no sign.
            (
                r"(&(cn=\28x\29)(uid=\28%u\29\2a))",
                r"(&(cn=\28x\29)(uid=*))",
            ),
            (r"(&(cn=a=b!|&\5c)(uid=%u))", r"(&(cn=a=b!|&\5c)(uid=*))"),
            ("(|(cn=Zoë)(uid=Zoë%u))", "(|(cn=Zoë)(uid=*))"),
        ] {
            assert_eq!(everybody(filter), expected, "{filter}");
        }
    }

    #[test]
    fn everybody_is_also_whom_it_leaves_out() {
        for (filter, expected) in [
            ("(&(uid=%u)(!(cn=%u)))", "(&(uid=*)(objectClass=*))"),
            ("(&(uid=%u)(!(cn=x)))", "(&(uid=*)(!(cn=x)))"),
            ("(!(!(uid=%u)))", ANYBODY),
            (
                "(|(!(&(a=b)(|(c=d)(uid=%u))))(e=%n))",
                "(|(objectClass=*)(e=*))",
            ),
            (
                "(&(!(|(a=b)(!(c=d))))(uid=%u))",
                "(&(!(|(a=b)(!(c=d))))(uid=*))",
            ),
        ] {
            assert_eq!(everybody(filter), expected, "{filter}");
        }
    }

    #[test]
    fn everybody_of_a_deep_filter_and_of_every_preset() {
        let deep = |leaf: &str| format!("{}{leaf}{}", "(&(|".repeat(50), "))".repeat(50));
        assert_eq!(everybody(&deep("(uid=%u)")), deep("(uid=*)"));
        for (_, preset) in super::super::Preset::ALL {
            for filter in [preset.filter(), preset.delivery_filter()] {
                let expected = filter.replace("%u", "*").replace("%n", "*");
                assert_eq!(everybody(filter), expected);
            }
        }
    }

    #[test]
    fn a_filter_names_its_attributes() {
        let filter = "(&(objectClass=a)(|(uid=x=y)(!(mail~=x))(n>=1)(cn:dn:=x)))";
        let names: Vec<_> = attributes_of(filter).collect();
        assert_eq!(names, ["objectClass", "uid", "mail", "n", "cn"]);
    }

    #[test]
    fn places_are_filled() {
        let template = Template::parse("(&(uid=%n)(o=%d)(|(mail=%u)(cn=100%%)))").unwrap();
        assert_eq!(
            template.render("ann@example.org"),
            "(&(uid=ann)(o=example.org)(|(mail=ann@example.org)(cn=100%)))"
        );
        assert_eq!(
            template.render("ann"),
            "(&(uid=ann)(o=)(|(mail=ann)(cn=100%)))"
        );
        assert_eq!(
            template.render("a@b@c"),
            "(&(uid=a@b)(o=c)(|(mail=a@b@c)(cn=100%)))"
        );
    }

    #[test]
    fn what_a_client_typed_stays_one_value() {
        let template = Template::parse("(uid=%u)").unwrap();
        for (login, filter) in [
            ("*", "(uid=\\2a)"),
            ("a)(uid=*", "(uid=a\\29\\28uid\\3d\\2a)"),
            ("a\\2a", "(uid=a\\5c2a)"),
            ("a b", "(uid=a\\20b)"),
            ("Zoë", "(uid=Zo\\c3\\ab)"),
            ("%u", "(uid=\\25u)"),
            (
                "&|!~<>,;#\"'/",
                "(uid=\\26\\7c\\21\\7e\\3c\\3e\\2c\\3b\\23\\22\\27\\2f)",
            ),
        ] {
            assert_eq!(template.render(login), filter);
            assert!(ldap3::parse_filter(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert_eq!(
            Template::parse("(uid=%x)").err(),
            Some(TemplateError::Place)
        );
        assert_eq!(
            Template::parse("(uid=%u").err(),
            Some(TemplateError::Syntax)
        );
        assert_eq!(Template::parse("%").err(), Some(TemplateError::Place));
        assert_eq!(
            Template::parse("(objectClass=*)").err(),
            Some(TemplateError::Constant)
        );
        assert_eq!(
            Template::parse("(o=%d)").err(),
            Some(TemplateError::Constant)
        );
    }
}
