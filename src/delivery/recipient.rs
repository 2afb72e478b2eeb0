//! Who a recipient is: from an address to its account and home node.
//!
//! ```text
//! address -> directory -> does it take mail? -> home -> does an order stand against it? -> facts for the node
//! ```
//!
//! It does not reach any node. What it can't answer is a [`Failure`]: no such user and a disabled one are refused for good,
//! everything that an administrator or time may change is refused for now.

use std::sync::Arc;

use super::report::{Failure, Stage};
use crate::{
    directory::{Account, Directory, LookupError, Status, Wrong},
    names::AccountName,
    nodes::{Node, Nodes},
    orders::{Forbidden, Orders},
    outcome::{Blame, chain},
    proto::{
        link::context::mail::RecipientFacts,
        lmtp::{Address, Cause, Recipient},
    },
};

/// A recipient that is taken.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// Its address, and what the node is told of it.
    pub(super) recipient: Recipient,
    /// Whose it is.
    pub(super) account: AccountName,
    /// Where that one's mailbox is.
    pub(super) node: Arc<Node>,
}

/// Why one is not, and whose it would have been.
#[derive(Debug)]
pub(super) struct Unaccepted {
    pub(super) failure: Failure,
    pub(super) account: Option<AccountName>,
}

/// Finds a recipient.
pub(super) async fn find(
    directory: &Directory,
    nodes: &Nodes,
    orders: &Orders,
    address: Address,
) -> Result<Accepted, Unaccepted> {
    let account = directory
        .find_recipient(&address)
        .await
        .map_err(|error| Unaccepted {
            failure: not_found(&error),
            account: None,
        })?;
    let accepted = accept(&account, nodes, address).and_then(|accepted| {
        permit(orders, &accepted.account, &accepted.node)?;
        Ok(accepted)
    });
    accepted.map_err(|failure| Unaccepted {
        failure,
        account: Some(account.name.clone()),
    })
}

pub(super) fn accept(
    account: &Account,
    nodes: &Nodes,
    address: Address,
) -> Result<Accepted, Failure> {
    let status = |cause, reason: &str| Failure {
        cause,
        stage: Stage::Lookup,
        blame: Blame::Client,
        reason: reason.to_owned(),
    };
    match account.delivery {
        Status::Allowed => {}
        Status::Refused => {
            return Err(status(Cause::AccountDisabled, "account takes no mail"));
        }
        Status::TryLater => {
            let reason = "account takes no mail for now";
            return Err(status(Cause::AccountSuspended, reason));
        }
    }
    let misconfigured = |error: &dyn std::error::Error| Failure {
        cause: Cause::Misconfigured,
        stage: Stage::Resolve,
        blame: Blame::Directory,
        reason: chain(error),
    };
    let node = nodes.home(account).map_err(|error| misconfigured(&error))?;
    let facts = RecipientFacts {
        account: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        home: account.home.clone(),
        quota: account.quota,
    };
    let facts = facts.encode().map_err(|error| misconfigured(&error))?;
    Ok(Accepted {
        recipient: Recipient {
            address,
            private: Some(facts),
        },
        account: account.name.clone(),
        node,
    })
}

/// Whether an account may have mail at a node now.
pub(super) fn permit(orders: &Orders, account: &AccountName, node: &Node) -> Result<(), Failure> {
    let permitted = orders.check(account, &node.name);
    permitted.map_err(|forbidden| Failure {
        cause: match forbidden {
            Forbidden::Held => Cause::AccountSuspended,
            Forbidden::NodeDrained => Cause::NodeDrained,
        },
        stage: Stage::Resolve,
        blame: Blame::Administrator,
        reason: forbidden.to_string(),
    })
}

fn not_found(error: &LookupError) -> Failure {
    let (cause, blame) = match error {
        // The second is of logins alone, as most of those below.
        LookupError::Ambiguous | LookupError::NotNow(_) | LookupError::Entry(_) => {
            (Cause::Misconfigured, Blame::Entry)
        }
        LookupError::Unavailable(_) => (Cause::DirectoryDown, Blame::Directory),
        LookupError::Wrong(Wrong::Disabled) => (Cause::AccountDisabled, Blame::Client),
        // All but the last are of logins alone.
        LookupError::Wrong(Wrong::Network | Wrong::Password | Wrong::Protocol | Wrong::Unknown) => {
            (Cause::NoSuchUser, Blame::Client)
        }
    };
    Failure {
        cause,
        stage: Stage::Lookup,
        blame,
        reason: error.to_string(),
    }
}
