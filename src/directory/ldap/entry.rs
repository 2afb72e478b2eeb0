//! Reading one entry of a search (RFC 4511, 4.5.2) into an account.
//!
//! Attribute names are compared without regard to case, as LDAP does; attributes with options (`userPassword;x`) are
//! others. Of several values the first is taken, as stored, except for passwords. An entry that lacks what an account
//! must have, or has it in a form that nobody can read, is an error that names the entry and the attribute, never a value.
//!
//! It decides nothing: uid 0 or a home outside of any bounds pass through here, for the node to refuse.

use ldap3::asn1::StructureTag;

use crate::{
    directory::{
        Access, Account, Attributes, LookupError, Status, is_home, parse_status, template::Template,
    },
    names::{AccountName, Protocol},
    proto::content_sync::EntryUuid,
    secret::Secret,
};

/// The attribute with what never changes of an entry (RFC 4530).
pub(super) const ENTRY_UUID: &str = "entryUUID";

/// The attribute with the time of its last change (RFC 4512, 3.4.4).
pub(super) const MODIFIED: &str = "modifyTimestamp";

/// What entries mean that do not say it.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) home: Template,
    /// Octets of one unit of a quota that is a mere number.
    pub(super) quota_unit: u64,
}

/// An entry as it came.
pub(super) struct Entry {
    /// Its name: never empty.
    pub(super) dn: String,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    /// Takes a `SearchResultEntry` apart; none when it is malformed.
    pub(super) fn from_tag(tag: StructureTag) -> Option<Self> {
        let mut parts = tag.match_id(4)?.expect_constructed()?.into_iter();
        let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        // The root entry is nobody: binding with an empty name is anonymous.
        if dn.is_empty() {
            return None;
        }
        let mut attributes = Vec::new();
        for attribute in parts.next()?.expect_constructed()? {
            let mut parts = attribute.expect_constructed()?.into_iter();
            let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
            let values = parts.next()?.expect_constructed()?;
            let values: Option<Vec<_>> = values
                .into_iter()
                .map(StructureTag::expect_primitive)
                .collect();
            attributes.push((name, values?));
        }
        Some(Self { dn, attributes })
    }

    /// The names of its attributes, if none of them is this one.
    pub(super) fn names_without(&self, name: &str) -> Option<String> {
        let names: Vec<_> = self
            .attributes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let has = names.iter().any(|shown| shown.eq_ignore_ascii_case(name));
        (!has).then(|| names.join(" "))
    }

    /// The account that it describes.
    pub(super) fn account(
        &self,
        names: &Attributes,
        defaults: &Defaults,
    ) -> Result<Account, LookupError> {
        let name = self
            .text(&names.name)?
            .ok_or_else(|| self.unusable(&names.name, "is missing"))?;
        let name = AccountName::parse(name)
            .map_err(|error| self.unusable(&names.name, &error.to_string()))?;
        let home = match self.text(&names.home)? {
            Some(home) => home.to_owned(),
            None => defaults.home.render_as_is(name.as_str()).ok_or_else(|| {
                self.unusable(
                    &names.home,
                    "is missing, and the name has no domain for default_home",
                )
            })?,
        };
        if !is_home(&home) {
            let what = "is empty, too long or has a control character";
            return Err(self.unusable(&names.home, what));
        }
        let (login, delivery) = self.status(&names.status)?;
        Ok(Account {
            home_node: self
                .text(&names.home_node)?
                .map(host)
                .map(ToOwned::to_owned),
            uid: self.id(&names.uid, defaults.uid)?,
            gid: self.id(&names.gid, defaults.gid)?,
            home,
            quota: self.quota(&names.quota, defaults.quota_unit)?,
            login,
            delivery,
            access: self.access(names)?,
            name,
        })
    }

    /// All values of the password attribute.
    pub(super) fn take_passwords(&mut self, name: &str) -> Vec<Secret> {
        self.attributes
            .iter_mut()
            .filter(|(attribute, _)| attribute.eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values.drain(..))
            .map(Secret::new)
            .collect()
    }

    /// All values of some attributes, each behind the attribute's name.
    pub(super) fn values_of(&self, names: &[String]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for name in names {
            let values = self.attributes.iter();
            let values = values.filter(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
            for value in values.flat_map(|(_, values)| values) {
                all.push([name.as_bytes(), b"=", value].concat());
            }
        }
        all
    }

    /// How many values an attribute has.
    pub(super) fn count(&self, name: &str) -> usize {
        let values = self.attributes.iter();
        let values = values.filter(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
        values.map(|(_, values)| values.len()).sum()
    }

    /// What never changes of it, if it is shown to us (RFC 4530).
    pub(super) fn uuid(&self) -> Option<EntryUuid> {
        let text = self.text(ENTRY_UUID).ok()??;
        let digits: Vec<u8> = text.bytes().filter(|octet| *octet != b'-').collect();
        let mut uuid = [0; 16];
        let pairs = digits.as_chunks::<2>();
        if pairs.0.len() != uuid.len() || !pairs.1.is_empty() {
            return None;
        }
        for (octet, pair) in uuid.iter_mut().zip(pairs.0) {
            *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(uuid)
    }

    /// The first value.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, LookupError> {
        let values = self
            .attributes
            .iter()
            .find(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
        let Some(value) = values.and_then(|(_, values)| values.first()) else {
            return Ok(None);
        };
        std::str::from_utf8(value)
            .map(Some)
            .map_err(|_| self.unusable(name, "is not UTF-8"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, LookupError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = is_number(text).then(|| text.parse().ok()).flatten();
        number
            .map(Some)
            .ok_or_else(|| self.unusable(name, "is not a number"))
    }

    /// How and from where it may log in.
    fn access(&self, names: &Attributes) -> Result<Access, LookupError> {
        let mut access = Access::default();
        if let Some(name) = &names.protocols {
            let values = self.texts(name)?;
            let words = || Access::read_protocols(values.iter().copied());
            access.protocols = (!values.is_empty()).then(words);
        }
        for (name, protocol) in [
            (&names.no_imap, Protocol::Imap),
            (&names.no_pop3, Protocol::Pop3),
        ] {
            if let Some(name) = name
                && self.flag(name)?
            {
                let all = || vec![Protocol::Imap, Protocol::Pop3];
                let protocols = access.protocols.get_or_insert_with(all);
                protocols.retain(|allowed| *allowed != protocol);
            }
        }
        if let Some(name) = &names.networks {
            let values = self.texts(name)?;
            if !values.is_empty() {
                let networks = Access::read_networks(values.into_iter());
                let what = "has something that is no network";
                access.networks = Some(networks.ok_or_else(|| self.unusable(name, what))?);
            }
        }
        Ok(access)
    }

    /// Whether an attribute says yes; what is neither yes nor no is an error.
    fn flag(&self, name: &str) -> Result<bool, LookupError> {
        let Some(text) = self.text(name)? else {
            return Ok(false);
        };
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" => Ok(true),
            "" | "0" | "false" | "no" => Ok(false),
            _ => Err(self.unusable(name, "is neither yes nor no")),
        }
    }

    /// All values.
    fn texts(&self, name: &str) -> Result<Vec<&str>, LookupError> {
        let values = self.attributes.iter();
        let values = values.filter(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
        values
            .flat_map(|(_, values)| values)
            .map(|value| std::str::from_utf8(value))
            .collect::<Result<_, _>>()
            .map_err(|_| self.unusable(name, "is not UTF-8"))
    }

    /// Quota in octets; none where it is 0 or missing.
    fn quota(&self, name: &str, unit: u64) -> Result<Option<u64>, LookupError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let quota =
            quota_octets(text, unit).ok_or_else(|| self.unusable(name, "is not a quota"))?;
        Ok((quota > 0).then_some(quota))
    }

    fn id(&self, name: &str, default: Option<u32>) -> Result<u32, LookupError> {
        match self.number(name)? {
            Some(number) => {
                u32::try_from(number).map_err(|_| self.unusable(name, "is larger than 4294967295"))
            }
            None => default.ok_or_else(|| self.unusable(name, "is missing, and has no default")),
        }
    }

    /// Whether it may log in, and whether mail for it is taken.
    fn status(&self, name: &str) -> Result<(Status, Status), LookupError> {
        let Some(word) = self.text(name)? else {
            return Ok((Status::Allowed, Status::Allowed));
        };
        Ok(parse_status(word).unwrap_or_else(|| {
            tracing::warn!(dn = self.dn, attribute = name, "unknown account status");
            (Status::TryLater, Status::TryLater)
        }))
    }

    fn unusable(&self, attribute: &str, what: &str) -> LookupError {
        LookupError::Entry(format!("{}: {attribute} {what}", self.dn))
    }
}

/// The host in the value of a home attribute, whatever else a schema puts there: `host`, `host:port`, `lmtp:host:port`,
/// `lmtp:inet:host:port`. Ports are the node's own business.
fn host(value: &str) -> &str {
    let value = value.strip_prefix("lmtp:").unwrap_or(value);
    let value = value.strip_prefix("inet:").unwrap_or(value);
    match value.rsplit_once(':') {
        Some((host, port)) if is_number(port) && !host.is_empty() && !host.contains(':') => host,
        _ => value,
    }
}

/// Reads a quota: a number of units, a number with K, M, G or T, or Maildir++'s list (`1000S,10C`: octets, messages), of
/// which octets count.
fn quota_octets(text: &str, unit: u64) -> Option<u64> {
    let number = |digits: &str, unit: u64| {
        let number: Option<u64> = is_number(digits).then(|| digits.parse().ok()).flatten();
        number?.checked_mul(unit)
    };
    if let Some(octets) = number(text, unit) {
        return Some(octets);
    }
    let (digits, letter) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let power = match letter {
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => {
            let mut size = 0;
            for part in text.split(',') {
                let (digits, letter) = part.split_at_checked(part.len().checked_sub(1)?)?;
                match letter {
                    "S" => size = number(digits, 1)?,
                    "C" => drop(number(digits, 1)?),
                    _ => return None,
                }
            }
            return Some(size);
        }
    };
    number(digits, 1 << power)
}

/// Digits alone: `parse` would also take a plus sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use ldap3::asn1::{PL, TagClass};

    use super::*;

    fn tag(id: u64, payload: PL) -> StructureTag {
        StructureTag {
            class: TagClass::Universal,
            id,
            payload,
        }
    }

    fn octets(text: &[u8]) -> StructureTag {
        tag(4, PL::P(text.to_vec()))
    }

    /// An attribute and its values.
    type Values<'a> = (&'a str, &'a [&'a [u8]]);

    fn entry(dn: &str, attributes: &[Values<'_>]) -> StructureTag {
        let attributes = attributes.iter().map(|(name, values)| {
            let values = values.iter().map(|value| octets(value)).collect();
            tag(
                16,
                PL::C(vec![octets(name.as_bytes()), tag(17, PL::C(values))]),
            )
        });
        let attributes = tag(16, PL::C(attributes.collect()));
        tag(4, PL::C(vec![octets(dn.as_bytes()), attributes]))
    }

    fn account(attributes: &[Values<'_>], default: Option<u32>) -> Result<Account, LookupError> {
        let defaults = Defaults {
            uid: default,
            gid: default,
            home: Template::named("%u").unwrap(),
            quota_unit: 1,
        };
        Entry::from_tag(entry("uid=ann,o=x", attributes))
            .unwrap()
            .account(&Attributes::default(), &defaults)
    }

    #[test]
    fn an_entry_becomes_an_account() {
        let full = account(
            &[
                ("UID", &[b"Ann", b"ann2"]),
                ("mailhost", &[b"node1"]),
                ("uidNumber", &[b"0"]),
                ("gidNumber", &[b"4294967295"]),
                ("homeDirectory", &[b"/srv/ann"]),
                ("mailQuotaSize", &[b"1000000000000"]),
                ("accountStatus", &[b"ACTIVE"]),
            ],
            None,
        );
        let expected = Account {
            name: AccountName::parse("Ann").unwrap(),
            home_node: Some("node1".to_owned()),
            uid: 0,
            gid: 4_294_967_295,
            home: "/srv/ann".to_owned(),
            quota: Some(1_000_000_000_000),
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        };
        assert_eq!(full.unwrap(), expected);
        let least = account(
            &[("uid", &[b"ann"]), ("mailQuotaSize", &[b"0"])],
            Some(5000),
        );
        let expected = Account {
            name: AccountName::parse("ann").unwrap(),
            home_node: None,
            uid: 5000,
            gid: 5000,
            home: "ann".to_owned(),
            quota: None,
            login: Status::Allowed,
            delivery: Status::Allowed,
            access: Access::default(),
        };
        assert_eq!(least.unwrap(), expected);
    }

    #[test]
    fn status_words_decide() {
        for (word, status) in [
            ("active", Status::Allowed),
            ("NoAccess", Status::Refused),
            ("disabled", Status::Refused),
            ("DELETED", Status::Refused),
            ("asleep", Status::TryLater),
            ("", Status::TryLater),
        ] {
            let account = account(
                &[("uid", &[b"ann"]), ("accountStatus", &[word.as_bytes()])],
                Some(1),
            );
            assert_eq!(account.unwrap().login, status, "{word}");
        }
    }

    #[test]
    fn what_is_missing_or_unreadable_is_named() {
        let name: Values<'_> = ("uid", &[b"ann"]);
        let cases: [(&[Values<'_>], Option<u32>, &str); 11] = [
            (&[], Some(1), "uid is missing"),
            (&[("uid", &[])], Some(1), "uid is missing"),
            (&[("uid;x", &[b"ann"])], Some(1), "uid is missing"),
            (&[("uid", &[b""])], Some(1), "uid is empty"),
            (&[("uid", &[b"\xff"])], Some(1), "uid is not UTF-8"),
            (
                &[("uid", &[b"a\nb"])],
                Some(1),
                "uid has a character that is not allowed here",
            ),
            (&[name], None, "uidNumber is missing, and has no default"),
            (
                &[name, ("uidNumber", &[b"+1"])],
                Some(1),
                "uidNumber is not a number",
            ),
            (
                &[name, ("gidNumber", &[b"4294967296"])],
                Some(1),
                "gidNumber is larger than 4294967295",
            ),
            (
                &[name, ("mailQuotaSize", &[b"10 M"])],
                Some(1),
                "mailQuotaSize is not a quota",
            ),
            (
                &[name, ("homeDirectory", &[b"a\0b"])],
                Some(1),
                "homeDirectory is empty, too long or has a control character",
            ),
        ];
        for (attributes, default, expected) in cases {
            let error = account(attributes, default).unwrap_err().to_string();
            let expected = format!("entry is not usable: uid=ann,o=x: {expected}");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn malformed_entries_are_none() {
        for malformed in [
            octets(b"x"),
            tag(4, PL::C(vec![])),
            tag(4, PL::C(vec![octets(b"uid=ann")])),
            tag(4, PL::C(vec![octets(b"\xff"), tag(16, PL::C(vec![]))])),
            tag(5, PL::C(vec![octets(b"uid=ann"), tag(16, PL::C(vec![]))])),
            tag(
                4,
                PL::C(vec![octets(b"uid=ann"), tag(16, PL::C(vec![octets(b"")]))]),
            ),
            entry("", &[("uid", &[b"ann"])]),
        ] {
            assert!(Entry::from_tag(malformed).is_none());
        }
    }

    #[test]
    fn all_passwords_are_taken() {
        let tag = entry(
            "uid=ann",
            &[("userpassword", &[b"{SSHA}x", b"\xff"]), ("uid", &[b"ann"])],
        );
        let mut entry = Entry::from_tag(tag).unwrap();
        let passwords = entry.take_passwords("userPassword");
        let expected = [&b"{SSHA}x"[..], b"\xff"].map(|value| Secret::new(value.to_vec()));
        assert_eq!(passwords, expected);
        assert!(entry.take_passwords("userPassword").is_empty());
    }

    #[test]
    fn quotas_of_every_schema_are_read() {
        for (text, quota) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("10K", Some(10 << 10)),
            ("3m", Some(3 << 20)),
            ("1G", Some(1 << 30)),
            ("2T", Some(2 << 40)),
            ("1000S", Some(1000)),
            ("1000S,10C", Some(1000)),
            ("10C,1000S", Some(1000)),
            ("10C", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("18014398509481984K", None),
            ("", None),
            ("K", None),
            ("S", None),
            ("1000S,", None),
            ("1000S10C", None),
            ("+1", None),
            ("-1", None),
            ("1.5G", None),
            ("1000\u{e9}", None),
        ] {
            assert_eq!(quota_octets(text, 1), quota, "{text}");
        }
        assert_eq!(quota_octets("5", 1024), Some(5120));
        assert_eq!(quota_octets("5K", 1024), Some(5120));
    }

    #[test]
    fn a_home_node_is_a_host_whatever_stands_around_it() {
        for (value, expected) in [
            ("node1", "node1"),
            ("node1.example.org:7143", "node1.example.org"),
            ("lmtp:node1.example.org:7025", "node1.example.org"),
            ("lmtp:inet:node1:24", "node1"),
            ("node1:imap", "node1:imap"),
            ("2001:db8::1", "2001:db8::1"),
            (":24", ":24"),
            ("", ""),
        ] {
            assert_eq!(host(value), expected, "{value}");
        }
    }
}
