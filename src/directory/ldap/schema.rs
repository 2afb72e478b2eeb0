//! How accounts are asked for, and what an entry means.

use std::{borrow::Cow, sync::Arc};

use ldap3::asn1::StructureTag;
use tokio::time::Instant;

use super::{
    code,
    connection::{LdapSetupError, Reply, Search},
    entry::{Defaults, ENTRY_UUID, Entry, MODIFIED},
};
use crate::directory::{
    Account, Attributes, Found, LookupError, Question, SchemaSettings, Verify, Wrong,
    facts::{EntryId, Facts, Now, Shown},
    template::{Template, TemplateError, attributes_of},
};

/// A name that nobody has (RFC 2606, 2).
const NOBODY: &str = "pigeonair check@pigeonair.invalid";

/// Where entries are and what they look like.
pub(super) struct Schema {
    bases: Vec<Arc<str>>,
    filters: Vec<Template>,
    delivery_filters: Vec<Template>,
    pub(super) verify: Verify,
    attributes: Attributes,
    /// What a search asks for.
    wanted: Arc<[String]>,
    /// What filters ask for, where changes are followed.
    names: Vec<String>,
    defaults: Defaults,
}

/// An entry that was read.
pub(super) struct Read {
    pub(super) entry: EntryId,
    pub(super) found: Result<Found, LookupError>,
    /// When it was modified, where that was asked for.
    pub(super) modified: Option<String>,
}

impl Schema {
    /// Checks the filters. What is only compared is asked for where changes are followed.
    pub(super) fn new(settings: SchemaSettings, follows: bool) -> Result<Self, LdapSetupError> {
        let parsed = |texts: &[String]| -> Result<Vec<Template>, TemplateError> {
            texts.iter().map(|text| Template::parse(text)).collect()
        };
        let filters = parsed(&settings.filters).map_err(LdapSetupError::Filter)?;
        let delivery_filters = parsed(&settings.delivery_filters);
        let delivery_filters = delivery_filters.map_err(LdapSetupError::DeliveryFilter)?;
        let home = Template::named(&settings.default_home).map_err(LdapSetupError::Home)?;
        let attributes = settings.attributes;
        let mut wanted: Vec<String> = [
            &attributes.name,
            &attributes.home_node,
            &attributes.uid,
            &attributes.gid,
            &attributes.home,
            &attributes.quota,
            &attributes.status,
        ]
        .map(Clone::clone)
        .into();
        let access = [
            &attributes.protocols,
            &attributes.networks,
            &attributes.no_imap,
            &attributes.no_pop3,
        ];
        wanted.extend(access.into_iter().flatten().cloned());
        if settings.verify == Verify::Hash {
            wanted.push(attributes.password.clone());
        }
        let mut names = Vec::new();
        if follows {
            for filter in settings.filters.iter().chain(&settings.delivery_filters) {
                names.extend(attributes_of(filter).map(ToOwned::to_owned));
            }
            wanted.extend(names.iter().cloned());
            wanted.extend([ENTRY_UUID.to_owned(), attributes.password_changed.clone()]);
        }
        for list in [&mut wanted, &mut names] {
            list.sort_by_key(|name| name.to_ascii_lowercase());
            list.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
        }
        Ok(Self {
            names,
            bases: settings.bases.into_iter().map(Arc::from).collect(),
            filters,
            delivery_filters,
            verify: settings.verify,
            attributes,
            wanted: wanted.into(),
            defaults: Defaults {
                uid: settings.default_uid,
                gid: settings.default_gid,
                home,
                quota_unit: settings.quota_unit,
            },
        })
    }

    /// The searches that answer a question, one after the other until one finds something, each with the place of its base.
    pub(super) fn searches(&self, question: Question<'_>) -> impl Iterator<Item = (usize, Search)> {
        let (filters, asked) = match question {
            Question::Login(login) => (&self.filters, Cow::Borrowed(login.as_str())),
            Question::Recipient(mailbox) => (&self.delivery_filters, mailbox.to_string().into()),
        };
        filters.iter().flat_map(move |filter| {
            let filter = filter.render(&asked);
            let search = move |base: &Arc<str>| Search {
                base: Arc::clone(base),
                subtree: true,
                filter: filter.clone(),
                attributes: Arc::clone(&self.wanted),
            };
            let bases = self.bases.iter().enumerate();
            bases.map(move |(place, base)| (place, search(base)))
        })
    }

    /// A base, by its place.
    pub(super) fn base(&self, place: usize) -> &str {
        self.bases.get(place).map_or("", |base| base)
    }

    /// The attribute that changes with the password.
    pub(super) fn password_changed(&self) -> &str {
        &self.attributes.password_changed
    }

    /// The attribute with the password, where that is verified here.
    pub(super) fn password(&self) -> Option<&str> {
        (self.verify == Verify::Hash).then_some(&*self.attributes.password)
    }

    /// How many bases there are.
    pub(super) fn bases(&self) -> usize {
        self.bases.len()
    }

    /// A search for everybody below a base, or for those of them that another filter matches too; asks for another attribute besides.
    pub(super) fn everybody(
        &self,
        base: usize,
        and: Option<&str>,
        besides: Option<&str>,
    ) -> Search {
        let filters = self.filters.iter().chain(&self.delivery_filters);
        let mut filters: Vec<_> = filters.map(Template::everybody).collect();
        filters.sort();
        filters.dedup();
        let all = match &filters[..] {
            [one] => one.clone(),
            several => format!("(|{})", several.concat()),
        };
        let mut attributes = self.wanted.to_vec();
        attributes.extend(besides.map(ToOwned::to_owned));
        Search {
            base: self.bases.get(base).cloned().unwrap_or_default(),
            subtree: true,
            filter: and.map_or_else(|| all.clone(), |and| format!("(&{and}{all})")),
            attributes: attributes.into(),
        }
    }

    /// A search for a name that nobody has. One for the root entry would be answered by a server whose database hangs.
    pub(super) fn probe(&self) -> Search {
        let base = self.bases.first().cloned();
        let filter = self.filters.first().map(|filter| filter.render(NOBODY));
        Search {
            base: base.unwrap_or_default(),
            subtree: true,
            filter: filter.unwrap_or_default(),
            attributes: ["1.1".to_owned()].into(),
        }
    }

    /// What a server is tried with, and what it means when nothing is found: none where that is as it should be.
    pub(super) fn trials(&self) -> Vec<(Search, Option<String>)> {
        let search = |base: &Arc<str>, filter: String| Search {
            base: Arc::clone(base),
            subtree: true,
            filter,
            attributes: ["1.1".to_owned()].into(),
        };
        let mut trials = Vec::new();
        for base in &self.bases {
            let all = "(objectClass=*)".to_owned();
            let nothing = format!("nothing below {base} is shown to us");
            trials.push((search(base, all), Some(nothing)));
            for filter in self.filters.iter().chain(&self.delivery_filters) {
                let filter = filter.render(NOBODY);
                trials.push((search(base, filter), None));
            }
            if self.verify == Verify::Hash {
                let password = &self.attributes.password;
                let nothing = format!("no entry below {base} shows us its {password}");
                let filter = format!("({password}=*)");
                trials.push((search(base, filter), Some(nothing)));
            }
        }
        trials
    }

    /// What of accounts is read below a base: each attribute, and a search for accounts that have it.
    pub(super) fn reads(&self, base: usize) -> impl Iterator<Item = (&str, Search)> {
        let unread = [ENTRY_UUID, &self.attributes.password_changed];
        let is_read = move |name: &&String| {
            let compared = unread
                .iter()
                .copied()
                .chain(self.names.iter().map(String::as_str));
            !compared
                .into_iter()
                .any(|other| other.eq_ignore_ascii_case(name))
        };
        self.wanted.iter().filter(is_read).map(move |name| {
            let filter = format!("({name}=*)");
            (name.as_str(), self.everybody(base, Some(&filter), None))
        })
    }

    /// The one entry that a search has found.
    pub(super) fn found(
        &self,
        question: Question<'_>,
        base: usize,
        mut reply: Reply,
    ) -> Result<Found, LookupError> {
        let more = reply.code == code::SIZE_LIMIT_EXCEEDED && !reply.entries.is_empty();
        if more || reply.entries.len() > 1 {
            match question {
                Question::Login(login) => {
                    tracing::warn!(%login, "more than one entry matches a login");
                }
                Question::Recipient(recipient) => {
                    tracing::warn!(%recipient, "more than one entry matches an address");
                }
            }
            return Err(LookupError::Ambiguous);
        }
        let entry = reply.entries.pop().ok_or(Wrong::Unknown)?;
        self.read(entry, base)?.found
    }

    /// Which entry that is, and the account that it is.
    pub(super) fn read(&self, tag: StructureTag, base: usize) -> Result<Read, LookupError> {
        let entry = Entry::from_tag(tag)
            .ok_or_else(|| LookupError::Unavailable("search: malformed entry".to_owned()))?;
        let uuid = entry.uuid().map(EntryId::Uuid);
        let id = uuid.unwrap_or_else(|| EntryId::of_name(&entry.dn.to_lowercase()));
        let modified = entry.text(MODIFIED).ok().flatten().map(ToOwned::to_owned);
        let found = match entry.account(&self.attributes, &self.defaults) {
            Ok(account) => Ok(self.as_found(entry, account, id, base)),
            Err(error) => Err(error),
        };
        Ok(Read {
            entry: id,
            found,
            modified,
        })
    }

    fn as_found(&self, mut entry: Entry, account: Account, id: EntryId, base: usize) -> Found {
        let passwords = match self.verify {
            Verify::Bind => Vec::new(),
            Verify::Hash => entry.take_passwords(&self.attributes.password),
        };
        let changed = entry.take_passwords(&self.attributes.password_changed);
        let (attributes, names) = (&self.attributes, entry.values_of(&self.names));
        let shown = Shown {
            name: entry.count(&attributes.name) == 1,
            home: entry.count(&attributes.home) > 0,
            uid: entry.count(&attributes.uid) > 0,
            gid: entry.count(&attributes.gid) > 0,
        };
        let facts = Facts::new(id, &account, shown, names, [&passwords, &changed]);
        Found {
            account: Arc::new(account),
            passwords,
            id: entry.dn,
            base,
            facts,
            learned: Instant::now(),
            server: 0,
        }
    }
}

impl Read {
    /// For those who follow.
    pub(super) fn now(&self) -> Now {
        self.found.as_ref().map_or(Now::Unreadable, Now::of)
    }
}
