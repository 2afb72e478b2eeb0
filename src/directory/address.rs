//! What an address is looked up by: the rules of domains and of detail, alike for LDAP and the accounts file.
//!
//! ```text
//! address -> its domain, or the default one -> small letters -> the domain that it is another name of
//!         -> one of ours? -> the whole address, then the same without detail
//! ```
//!
//! A [`Mailbox`] is one of those, as `local@domain`: unquoted, since that is how directories hold addresses. To be one
//! text it must be one address, so a local part with an `@` needs a domain behind it; without one it is nobody's.
//! Domains are compared without regard to case; an internationalized one has two forms (`bücher.example`,
//! `xn--bcher-kva.example`) and is not converted: the other form is a domain alias.
//!
//! Detail begins at the first of the delimiting characters, as in Postfix (`recipient_delimiter`), and a local part that
//! begins with one has none. Local parts are left as they are: whether `Ann` is `ann` is the source's business. Whether a
//! local part alone is a name at a domain is, too; [`Mailbox::local_name`] gives it to a source that takes it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::AddressSettings;
use crate::proto::lmtp::Address;

/// The rules of [`AddressSettings`], ready for use.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    delimiters: String,
    /// Empty: every domain is looked up.
    domains: BTreeSet<String>,
    aliases: BTreeMap<String, String>,
    default_domain: Option<String>,
}

/// Something that an entry may be found by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mailbox {
    local: String,
    domain: Option<String>,
    /// Whether names without a domain are names at this one.
    is_home: bool,
}

// === impl Rules ===

impl Rules {
    pub(super) fn new(settings: &AddressSettings) -> Self {
        let aliases = settings.domain_aliases.iter();
        Self {
            delimiters: settings.recipient_delimiter.clone(),
            domains: settings.domains.iter().map(|d| d.to_lowercase()).collect(),
            aliases: aliases
                .map(|(alias, domain)| (alias.to_lowercase(), domain.to_lowercase()))
                .collect(),
            default_domain: settings.default_domain.as_ref().map(|d| d.to_lowercase()),
        }
    }

    /// What to look `address` up by, one after the other; nothing when it is nobody's here.
    pub(super) fn mailboxes(&self, address: &Address) -> Vec<Mailbox> {
        let Some(whole) = self.mailbox(address.local(), address.domain()) else {
            return Vec::new();
        };
        let end = whole.local.find(|c| self.delimiters.contains(c));
        let without = end
            .and_then(|end| whole.local.get(..end))
            .filter(|local| !local.is_empty())
            .map(|local| Mailbox {
                local: local.to_owned(),
                ..whole.clone()
            });
        std::iter::once(whole).chain(without).collect()
    }

    /// What a local part and a domain are looked up by; none when they are nobody's here.
    pub(super) fn mailbox(&self, local: &str, domain: Option<&str>) -> Option<Mailbox> {
        let domain = domain.map(str::to_lowercase);
        let domain = domain.or_else(|| self.default_domain.clone());
        let domain = domain.map(|domain| self.aliases.get(&domain).cloned().unwrap_or(domain));
        let is_home = domain.as_ref().is_none_or(|domain| self.is_named(domain));
        let is_ours = is_home || self.domains.is_empty();
        let is_text = domain.is_some() || !local.contains('@');
        (is_ours && is_text).then(|| Mailbox {
            local: local.to_owned(),
            domain,
            is_home,
        })
    }

    fn is_named(&self, domain: &str) -> bool {
        self.domains.contains(domain) || self.default_domain.as_deref() == Some(domain)
    }
}

// === impl Mailbox ===

impl Mailbox {
    /// The local part, if names without a domain are names at this domain.
    pub(super) fn local_name(&self) -> Option<&str> {
        // One with an `@` would read as an address of another domain.
        (self.is_home && !self.local.contains('@')).then_some(self.local.as_str())
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.local)?;
        match &self.domain {
            Some(domain) => write!(f, "@{domain}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AddressSettings {
        AddressSettings {
            domains: vec!["A.example".to_owned(), "bücher.example".to_owned()],
            domain_aliases: [
                ("Old.example".to_owned(), "a.Example".to_owned()),
                (
                    "xn--bcher-kva.example".to_owned(),
                    "BÜCHER.example".to_owned(),
                ),
            ]
            .into(),
            ..AddressSettings::default()
        }
    }

    /// What an address is looked up by; local parts that are names by themselves are marked.
    fn looked_up(settings: &AddressSettings, address: &str) -> String {
        let address = Address::parse(address).unwrap();
        let mailboxes = Rules::new(settings).mailboxes(&address);
        let shown = mailboxes.iter().map(|mailbox| {
            let mark = if mailbox.local_name().is_some() {
                "!"
            } else {
                ""
            };
            format!("{mailbox}{mark}")
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn domains_are_ours_or_not() {
        let ours = settings();
        let every = AddressSettings::default();
        let given = AddressSettings {
            default_domain: Some("Old.example".to_owned()),
            ..settings()
        };
        let own = AddressSettings {
            default_domain: Some("b.example".to_owned()),
            ..AddressSettings::default()
        };
        for (settings, address, expected) in [
            (&ours, "Ann@A.EXAMPLE", "Ann@a.example!"),
            (&ours, "ann@old.example", "ann@a.example!"),
            (
                &ours,
                "zo\u{eb}@B\u{dc}CHER.example",
                "zo\u{eb}@b\u{fc}cher.example!",
            ),
            (
                &ours,
                "ann@XN--bcher-kva.example",
                "ann@b\u{fc}cher.example!",
            ),
            (&ours, "ann@b.example", ""),
            (&ours, "ann@a.example.b.example", ""),
            (&ours, "ann@[192.0.2.1]", ""),
            (&ours, "Postmaster", "Postmaster!"),
            (&every, "ann@B.example", "ann@b.example"),
            (&every, "ann@[192.0.2.1]", "ann@[192.0.2.1]"),
            (&every, "postmaster", "postmaster!"),
            (&given, "ann", "ann@a.example!"),
            (&given, "ann@b.example", ""),
            (&own, "ann", "ann@b.example!"),
            (&own, "ann@b.example", "ann@b.example!"),
            (&own, "ann@a.example", "ann@a.example"),
        ] {
            assert_eq!(looked_up(settings, address), expected, "{address}");
        }
    }

    #[test]
    fn what_is_quoted_is_no_other_address() {
        for (address, expected) in [
            ("\"ann@a.example\"", ""),
            ("\"ann@a.example\"@b.example", ""),
            ("\"ann@b.example\"@a.example", "ann@b.example@a.example"),
            ("\"ann\"@a.example", "ann@a.example!"),
            ("\"a b\"", "a b!"),
        ] {
            assert_eq!(looked_up(&settings(), address), expected, "{address}");
        }
    }

    #[test]
    fn detail_comes_off() {
        for (delimiter, local, expected) in [
            ("+", "ann+lists", "ann+lists@b.example ann@b.example"),
            (
                "+",
                "ann+lists+more",
                "ann+lists+more@b.example ann@b.example",
            ),
            ("+", "ann+", "ann+@b.example ann@b.example"),
            ("+", "+ann", "+ann@b.example"),
            ("+", "+", "+@b.example"),
            ("+", "ann-lists", "ann-lists@b.example"),
            ("+-", "ann-lists+x", "ann-lists+x@b.example ann@b.example"),
            ("-+", "ann+lists-x", "ann+lists-x@b.example ann@b.example"),
            ("§", "zoë§x", "zoë§x@b.example zoë@b.example"),
            ("", "ann+lists", "ann+lists@b.example"),
        ] {
            let settings = AddressSettings {
                recipient_delimiter: delimiter.to_owned(),
                ..AddressSettings::default()
            };
            let address = format!("{local}@b.example");
            assert_eq!(looked_up(&settings, &address), expected, "{address}");
        }
    }
}
