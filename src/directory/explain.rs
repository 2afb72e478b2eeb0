//! What the directory says of somebody, for administrators: the same questions as for a login or for mail, without a
//! password. No password and no hash is part of an answer.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Account, Accounts, Directory, Found, LookupError, Question, Wrong};
use crate::{names::Login, proto::lmtp::Address};

/// What the directory says of somebody.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What was looked up.
    pub asked: String,
    /// Who that is.
    pub account: Arc<Account>,
    /// The DN of its entry, or its name in the file.
    pub entry: String,
    /// The LDAP server that knew it; none for a file.
    pub server: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Directory {
    /// Who a login is.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub async fn explain(&self, login: &Login) -> Result<Explained, LookupError> {
        let begun = Instant::now();
        let question = Question::Login(login);
        let (_, found) = self.0.look_up(question, self.deadline()).await;
        let found = found?;
        Ok(self.explained(login.to_string(), &found, begun))
    }

    /// Whose an address is.
    ///
    /// # Errors
    ///
    /// As [`find_recipient`](Self::find_recipient).
    pub async fn explain_recipient(&self, address: &Address) -> Result<Explained, LookupError> {
        let (begun, deadline) = (Instant::now(), self.deadline());
        for mailbox in self.0.rules.mailboxes(address) {
            let question = Question::Recipient(&mailbox);
            match self.0.look_up(question, deadline).await.1 {
                Err(LookupError::Wrong(Wrong::Unknown)) => {}
                found => {
                    let found = found?;
                    return Ok(self.explained(mailbox.to_string(), &found, begun));
                }
            }
        }
        Err(Wrong::Unknown.into())
    }

    fn explained(&self, asked: String, found: &Found, begun: Instant) -> Explained {
        Explained {
            asked,
            account: Arc::clone(&found.account),
            entry: found.id.clone(),
            server: match &self.0.accounts {
                Accounts::File(_) => None,
                Accounts::Ldap(ldap) => ldap.server_name(found.server),
            },
            took: begun.elapsed(),
        }
    }
}
