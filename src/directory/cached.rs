//! What is remembered of somebody, for administrators: nothing is asked, and nothing changes by looking. And to forget it.

use std::{sync::Arc, time::Duration};

use super::{Account, Accounts, Directory, Question};
use crate::{names::Login, proto::lmtp::Address};

/// What is remembered under one name.
#[derive(Clone, Debug)]
pub struct Cached {
    /// The name.
    pub asked: String,
    /// None: the directory would be asked.
    pub kept: Option<Kept>,
}

/// An answer that the directory gave once.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Whose name it is; none: nobody's.
    pub who: Option<Who>,
    /// How long ago.
    pub age: Duration,
    /// How long it still counts without asking; none: it does not.
    pub believed: Option<Duration>,
    /// How long it still counts while no server answers; none: no longer than that.
    pub remembered: Option<Duration>,
}

/// Who somebody is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The account.
    pub account: Arc<Account>,
    /// The DN of its entry.
    pub entry: String,
    /// The LDAP server that knew it.
    pub server: Option<String>,
}

impl Directory {
    /// Whether anything is remembered: an accounts file is in memory as it is.
    pub fn has_cache(&self) -> bool {
        matches!(self.0.accounts, Accounts::Ldap(_))
    }

    /// What is remembered of a login.
    pub async fn cached(&self, login: &Login) -> Cached {
        self.peek(login.to_string(), Question::Login(login)).await
    }

    /// What is remembered of an address: under each name that would be looked up, in that order; under none if it is no
    /// address of ours.
    pub async fn cached_recipient(&self, address: &Address) -> Vec<Cached> {
        let mut cached = Vec::new();
        for mailbox in self.0.rules.mailboxes(address) {
            let question = Question::Recipient(&mailbox);
            cached.push(self.peek(mailbox.to_string(), question).await);
        }
        cached
    }

    /// Forgets what is remembered under a login or an address, and of its account, which may be named as well; by default of all.
    /// Also which passwords were right. How many names that were.
    pub async fn forget(&self, name: Option<&str>) -> usize {
        if !self.has_cache() {
            return 0;
        }
        let Some(name) = name else {
            // What is just being asked is not believed either.
            self.0.live.outdate_all();
            return self.0.cache.forget_all();
        };
        let login = Login::parse(name).ok();
        let login = login.iter().map(|login| Question::Login(login).key());
        let address = Address::parse(name).ok();
        let mailboxes: Vec<_> = address
            .iter()
            .flat_map(|address| self.0.rules.mailboxes(address))
            .collect();
        let addresses = mailboxes
            .iter()
            .map(|mailbox| Question::Recipient(mailbox).key());
        let keys: Vec<_> = login.chain(addresses).collect();
        self.0.cache.forget_who(&keys, name).await
    }

    async fn peek(&self, asked: String, question: Question<'_>) -> Cached {
        let Accounts::Ldap(ldap) = &self.0.accounts else {
            return Cached { asked, kept: None };
        };
        let kept = self.0.cache.peek(&question.key()).await;
        let live = &self.0.live;
        let kept = kept.map(|peeked| {
            let found = peeked.found.as_deref();
            let is_wrong = found.is_some_and(|found| live.contradicts(found));
            let is_outdated = is_wrong || found.is_some_and(|found| live.is_outdated(found));
            (peeked, is_wrong, is_outdated)
        });
        let kept = kept.map(|(peeked, is_wrong, is_outdated)| Kept {
            who: peeked.found.map(|found| Who {
                account: Arc::clone(&found.account),
                entry: found.id.clone(),
                server: ldap.server_name(found.server),
            }),
            age: peeked.age,
            believed: peeked.believed.filter(|_| !is_outdated),
            remembered: peeked.remembered.filter(|_| !is_wrong),
        });
        Cached { asked, kept }
    }
}
