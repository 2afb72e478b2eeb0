//! How accounts are asked for, and what an entry means.

use std::{borrow::Cow, sync::Arc};

use super::{
    code,
    connection::{LdapSetupError, Reply, Search},
    entry::{Defaults, Entry},
};
use crate::directory::{
    Attributes, Found, LookupError, Question, SchemaSettings, Verify, Wrong,
    template::{Template, TemplateError},
};

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
        })
    }
}
