//! How accounts are asked for, and what an entry means.

use std::{borrow::Cow, sync::Arc, time::Instant};

use super::{
    code,
    connection::{LdapSetupError, Reply, Search},
    entry::{Defaults, Entry},
};
use crate::directory::{
    Attributes, Found, LookupError, Question, SchemaSettings, Verify, Wrong,
    template::{Template, TemplateError},
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
    defaults: Defaults,
}

impl Schema {
    /// Checks the filters.
    pub(super) fn new(settings: SchemaSettings) -> Result<Self, LdapSetupError> {
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
        Ok(Self {
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

    /// The searches that answer a question, one after the other until one finds something.
    pub(super) fn searches(&self, question: Question<'_>) -> impl Iterator<Item = Search> {
        let (filters, asked) = match question {
            Question::Login(login) => (&self.filters, Cow::Borrowed(login.as_str())),
            Question::Recipient(mailbox) => (&self.delivery_filters, mailbox.to_string().into()),
        };
        filters.iter().flat_map(move |filter| {
            let filter = filter.render(&asked);
            self.bases.iter().map(move |base| Search {
                base: Arc::clone(base),
                subtree: true,
                filter: filter.clone(),
                attributes: Arc::clone(&self.wanted),
            })
        })
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

    /// The one entry that a search has found.
    pub(super) fn found(
        &self,
        question: Question<'_>,
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
        let mut entry = Entry::from_tag(entry)
            .ok_or_else(|| LookupError::Unavailable("search: malformed entry".to_owned()))?;
        Ok(Found {
            account: Arc::new(entry.account(&self.attributes, &self.defaults)?),
            passwords: match self.verify {
                Verify::Bind => Vec::new(),
                Verify::Hash => entry.take_passwords(&self.attributes.password),
            },
            id: entry.dn,
            server: 0,
            learned: Instant::now(),
        })
    }
}
