//! How accounts are asked for, and what an entry means.

use std::sync::Arc;

use super::{
    code,
    connection::{LdapSetupError, Reply, Search},
    entry::{Defaults, Entry},
};
use crate::directory::{
    Attributes, Found, LookupError, Question, SchemaSettings, Verify, Wrong, template::Template,
};

/// Where entries are and what they look like.
pub(super) struct Schema {
    base: Arc<str>,
    filter: Template,
    delivery_filter: Template,
    pub(super) verify: Verify,
    attributes: Attributes,
    /// What a search asks for.
    wanted: Arc<[String]>,
    defaults: Defaults,
}

impl Schema {
    /// Checks the filters.
    pub(super) fn new(settings: SchemaSettings) -> Result<Self, LdapSetupError> {
        let filter = Template::parse(&settings.filter).map_err(LdapSetupError::Filter)?;
        let delivery_filter = Template::parse(&settings.delivery_filter);
        let delivery_filter = delivery_filter.map_err(LdapSetupError::DeliveryFilter)?;
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
            base: settings.base.into(),
            filter,
            delivery_filter,
            verify: settings.verify,
            attributes,
            wanted: wanted.into(),
            defaults: Defaults {
                uid: settings.default_uid,
                gid: settings.default_gid,
            },
        })
    }

    /// The search that answers a question.
    pub(super) fn search(&self, question: Question<'_>) -> Search {
        let filter = match question {
            Question::Login(login) => self.filter.render(login.as_str()),
            Question::Recipient(mailbox) => self.delivery_filter.render(&mailbox.to_string()),
        };
        Search {
            base: Arc::clone(&self.base),
            subtree: true,
            filter,
            attributes: Arc::clone(&self.wanted),
        }
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
            account: Arc::new(entry.account(&self.attributes, self.defaults)?),
            passwords: match self.verify {
                Verify::Bind => Vec::new(),
                Verify::Hash => entry.take_passwords(&self.attributes.password),
            },
            id: entry.dn,
            server: 0,
        })
    }
}
