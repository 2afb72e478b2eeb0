//! How a question is answered: by the cache, by memory, or by the source; and whether a login is let in.
//!
//! ```text
//! kept ── heard or learned that it changed? ── no ──> answer          no server up ──> memory ──> answer
//!                    └── yes: forgotten ──> asked ──> answer                               └──> failure
//! ```

use std::{borrow::Cow, sync::Arc};

use tokio::time::Instant;

use super::{
    Account, Accounts, Admitted, CheckError, Found, Inner, LookupError, Mailbox, Origin, Proof,
    Question, Status, Visit, Wrong, facts::Now, from_memory,
};
use crate::{names::Login, proto::lmtp::Address, secret::Secret};

// === impl Inner ===

impl Inner {
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        login: &Login,
        password: &Secret,
        visit: Visit,
        deadline: Instant,
    ) -> Result<Admitted, LookupError> {
        let answer = self
            .judge(login, Proof::Password(password), visit, deadline)
            .await;
        let is_unverified = match answer {
            Err(LookupError::Wrong(wrong)) => wrong != Wrong::Password,
            _ => false,
        };
        if is_unverified && !self.is_verified_by_binding() {
            let pretended = self.checker.pretend(password, deadline).await;
            pretended.map_err(|error| LookupError::Unavailable(error.to_string()))?;
        }
        answer
    }

    fn is_verified_by_binding(&self) -> bool {
        matches!(&self.accounts, Accounts::Ldap(ldap) if ldap.verifies())
    }

    pub(super) async fn judge(
        self: &Arc<Self>,
        login: &Login,
        proof: Proof<'_>,
        visit: Visit,
        deadline: Instant,
    ) -> Result<Admitted, LookupError> {
        if matches!(proof, Proof::Password(password) if password.is_empty()) {
            return Err(Wrong::Password.into());
        }
        let question = Question::Login(login);
        let (origin, found) = self.look_up(question, deadline).await;
        let answer = match &found {
            Ok(found) => self.admit(found, proof, visit, deadline).await,
            Err(error) => Err(error.clone()),
        };
        let refused = matches!(
            answer,
            Err(LookupError::Entry(_) | LookupError::NotNow(_) | LookupError::Wrong(_))
        );
        let Ok(found) = found else {
            return from_memory(origin, answer);
        };
        // Or it has changed while its password was verified.
        let is_doubtful =
            refused && origin == Origin::Cache || answer.is_ok() && self.live.contradicts(&found);
        if !is_doubtful {
            return from_memory(origin, answer);
        }
        self.cache.forget(&question.key()).await;
        let (origin, again) = self.look_up(question, deadline).await;
        let again = match again {
            Ok(again) => again,
            Err(error) => return from_memory(origin, Err(error)),
        };
        let answer = if again.says_the_same(&found) {
            answer
        } else {
            self.admit(&again, proof, visit, deadline).await
        };
        if answer.is_ok() && self.live.contradicts(&again) {
            self.look_again(login);
        }
        from_memory(origin, answer)
    }

    /// Judges who was let in by an answer that was heard to be otherwise, when there is no doubt any more.
    fn look_again(self: &Arc<Self>, login: &Login) {
        let (inner, login) = (Arc::clone(self), login.clone());
        self.live.after_lag(async move {
            let question = Question::Login(&login);
            inner.cache.forget(&question.key()).await;
            let deadline = Instant::now() + inner.timeout;
            if let (Origin::Directory, Ok(found)) = inner.look_up(question, deadline).await {
                let (base, entry) = (found.base, found.facts.entry);
                inner.live.judge_all(base, entry, Now::of(&found));
            }
        });
    }

    pub(super) async fn find_recipient(
        &self,
        address: &Address,
        deadline: Instant,
    ) -> Result<Arc<Account>, LookupError> {
        let mut last = Origin::Directory;
        for mailbox in self.rules.mailboxes(address) {
            match self.recipient(&mailbox, deadline).await {
                (origin, Err(LookupError::Wrong(Wrong::Unknown))) => {
                    // Once from memory, always from memory.
                    if origin == Origin::Memory {
                        last = origin;
                    }
                }
                (origin, answer) => return from_memory(origin, answer),
            }
        }
        from_memory(last, Err(Wrong::Unknown.into()))
    }

    async fn recipient(
        &self,
        mailbox: &Mailbox,
        deadline: Instant,
    ) -> (Origin, Result<Arc<Account>, LookupError>) {
        let question = Question::Recipient(mailbox);
        let (mut origin, mut found) = self.look_up(question, deadline).await;
        let is_refused = |found: &Found| found.account.delivery != Status::Allowed;
        if origin == Origin::Cache && found.as_deref().is_ok_and(is_refused) {
            // Mail that is sent back for good does not come again.
            self.cache.forget(&question.key()).await;
            (origin, found) = self.look_up(question, deadline).await;
        }
        if origin == Origin::Memory && found.as_deref().is_ok_and(is_refused) {
            return (origin, Err(Wrong::Disabled.into()));
        }
        (origin, found.map(|found| Arc::clone(&found.account)))
    }

    /// Who that is.
    pub(super) async fn look_up(
        &self,
        question: Question<'_>,
        deadline: Instant,
    ) -> (Origin, Result<Arc<Found>, LookupError>) {
        let ldap = match &self.accounts {
            // A table in memory that is checked for changes needs no cache.
            Accounts::File(file) => return (Origin::Directory, file.find(question).await),
            Accounts::Ldap(ldap) => ldap,
        };
        let key = question.key();
        let recalled = if ldap.is_away() {
            self.recall(&key).await
        } else {
            None
        };
        let (origin, answer) = match recalled {
            Some(recalled) => recalled,
            None => {
                // Boxed, and only when it is needed: the cache's own future holds this one several times.
                let search = || async { Box::pin(ldap.find(question, deadline)).await };
                let mut answer = self.cache.look_up(&key, search()).await;
                if let (Origin::Cache, Ok(found)) = &answer
                    && (self.live.contradicts(found) || self.live.is_outdated(found))
                {
                    self.cache.forget(&key).await;
                    answer = self.cache.look_up(&key, search()).await;
                }
                match answer {
                    // This was how we learned it. One that is merely busy leaves nothing to memory.
                    failed @ (_, Err(LookupError::Unavailable(_))) if ldap.is_away() => {
                        self.recall(&key).await.unwrap_or(failed)
                    }
                    answer => answer,
                }
            }
        };
        let result = match origin {
            Origin::Cache => "hit",
            Origin::Directory => "miss",
            Origin::Memory => "stale",
        };
        let lookups = &self.metrics.directory_cache;
        lookups.with_label_values(&[result]).inc();
        match (origin, &answer) {
            (Origin::Memory, _) => self.memory.serves(true),
            (Origin::Cache, _) | (_, Err(LookupError::Unavailable(_))) => {}
            (Origin::Directory, found) => {
                self.memory.serves(false);
                if let Ok(found) = found {
                    self.live.learned(found);
                }
            }
        }
        (origin, answer)
    }

    /// What is known without asking, and is not known to be otherwise.
    async fn recall(&self, key: &str) -> Option<(Origin, Result<Arc<Found>, LookupError>)> {
        let recalled = self.cache.recall(key).await?;
        let found = recalled.1.as_ref().ok();
        let is_wrong = found.is_some_and(|found| self.live.contradicts(found));
        (!is_wrong).then_some(recalled)
    }

    /// The account, if it may log in and what is shown is enough.
    async fn admit(
        &self,
        found: &Found,
        proof: Proof<'_>,
        visit: Visit,
        deadline: Instant,
    ) -> Result<Admitted, LookupError> {
        if found.account.login == Status::Refused {
            return Err(Wrong::Disabled.into());
        }
        found.account.access.check(visit)?;
        if let Proof::Password(password) = proof {
            self.verify(found, password, deadline).await?;
        }
        // A refusal sounds like a wrong password, this does not: so it is for those alone who have the right one.
        if found.account.login == Status::TryLater {
            return Err(LookupError::NotNow(found.id.clone()));
        }
        Ok(Admitted {
            account: Arc::clone(&found.account),
            watch: self.live.watch(found, visit),
        })
    }

    /// Whether it is the account's password.
    async fn verify(
        &self,
        found: &Found,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), LookupError> {
        if self.cache.is_proven(found, password).await {
            return Ok(());
        }
        match &self.accounts {
            Accounts::Ldap(ldap) if ldap.verifies() => {
                let was_proven = self.cache.was_proven(found, password).await;
                if was_proven && ldap.is_away() {
                    self.memory.serves(true);
                    return Ok(());
                }
                match Box::pin(ldap.bind(found, password, deadline)).await {
                    Err(LookupError::Unavailable(_)) if was_proven && ldap.is_away() => {
                        self.memory.serves(true);
                        return Ok(());
                    }
                    Err(error) => {
                        if was_proven {
                            self.cache.disprove(found, password).await;
                        }
                        return Err(error);
                    }
                    Ok(()) => {}
                }
            }
            Accounts::File(_) | Accounts::Ldap(_) => {
                self.check(found, password, deadline).await?;
            }
        }
        self.cache.prove(found, password).await;
        Ok(())
    }

    async fn check(
        &self,
        found: &Found,
        password: &Secret,
        deadline: Instant,
    ) -> Result<(), LookupError> {
        if found.passwords.is_empty() {
            let text = format!("{}: has no password that may be read", found.id);
            return Err(LookupError::Entry(text));
        }
        let checked = self.checker.check(&found.passwords, password, deadline);
        match checked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Wrong::Password.into()),
            Err(CheckError::Stored(error)) => {
                let text = format!("{}: its password {error}", found.id);
                Err(LookupError::Entry(text))
            }
            Err(CheckError::Late) => Err(LookupError::Unavailable(CheckError::Late.to_string())),
        }
    }
}

// === impl Found ===

impl Found {
    /// Whether that is the same entry as before, whichever server it came from.
    fn says_the_same(&self, other: &Self) -> bool {
        self.id == other.id && self.facts.is_same(&other.facts)
    }
}

// === impl Question ===

impl<'q> Question<'q> {
    /// What the cache keeps the answer under. The two kinds never meet, since no login has a control character: they are
    /// searched by different filters.
    pub(super) fn key(self) -> Cow<'q, str> {
        match self {
            Self::Login(login) => Cow::Borrowed(login.as_str()),
            Self::Recipient(mailbox) => Cow::Owned(format!("\0{mailbox}")),
        }
    }
}
