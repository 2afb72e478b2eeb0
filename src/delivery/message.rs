//! A message that was begun: its recipients, their homes, and the promise that each of them gets its line.
//!
//! Recipients are told of in order, each once. A [`Message`] that is dropped tells those that are left what it was
//! last told to ([`or_else`](Message::or_else)): so a conversation that breaks, is cut or panics leaves its lines and
//! counts as well.
//!
//! It moves no octets and writes nothing to anybody.

use std::{collections::HashMap, sync::Arc};

use super::{
    recipient::{self, Accepted},
    report::{Failure, Report, Verdict},
};
use crate::{
    metrics::Metrics,
    names::{AccountName, NodeName},
    nodes::Node,
    orders::Orders,
    proto::{
        link::context::mail::MessageFacts,
        lmtp::{Cause, Envelope, Recipient, Reply},
    },
};

/// A message for one recipient or more.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) report: Report,
    metrics: Metrics,
    recipients: Vec<Accepted>,
    /// For each recipient, which of its homes is that one's.
    home_of: Vec<usize>,
    /// How many recipients were told of.
    told: usize,
    /// What becomes of the others if nothing is said of them.
    otherwise: Verdict,
}

/// A node, and the message for the recipients there.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) node: Arc<Node>,
    pub(super) envelope: Envelope<Recipient>,
    /// Whose mailboxes these are.
    accounts: Vec<AccountName>,
}

impl Home {
    /// What stands against its recipients now, if something stands against one of them: a message ends at a node for all or for
    /// none, so that the others wait with him.
    pub(super) fn forbidden(&self, orders: &Orders) -> Option<Vec<Failure>> {
        let accounts = self.accounts.iter();
        forbidden(orders, accounts.map(|account| (account, &*self.node)))
    }
}

fn forbidden<'a>(
    orders: &Orders,
    recipients: impl Iterator<Item = (&'a AccountName, &'a Node)>,
) -> Option<Vec<Failure>> {
    let permitted = recipients.map(|(account, node)| recipient::permit(orders, account, node));
    let permitted: Vec<_> = permitted.collect();
    let first = permitted.iter().find_map(|it| it.as_ref().err())?.clone();
    let others = || Failure {
        cause: Cause::Failed,
        reason: format!("sent together with one who has to wait: {}", first.reason),
        ..first.clone()
    };
    let each = permitted.into_iter();
    Some(each.map(|it| it.err().unwrap_or_else(others)).collect())
}

impl Message {
    /// One with its recipients grouped by their homes; nodes are told `facts`.
    pub(super) fn new(
        metrics: Metrics,
        report: Report,
        envelope: Envelope<Accepted>,
        facts: &MessageFacts,
    ) -> (Self, Vec<Home>) {
        let Envelope {
            recipients,
            sender,
            size,
            body,
            smtputf8,
            private: _,
        } = envelope;
        let empty = Envelope {
            sender,
            recipients: Vec::new(),
            size,
            body,
            smtputf8,
            private: Some(facts.encode()),
        };
        let mut homes: Vec<Home> = Vec::new();
        let mut home_of = Vec::with_capacity(recipients.len());
        let mut known = HashMap::<NodeName, usize>::new();
        for accepted in &recipients {
            let at = *known.entry(accepted.node.name.clone()).or_insert_with(|| {
                homes.push(Home {
                    node: Arc::clone(&accepted.node),
                    envelope: empty.clone(),
                    accounts: Vec::new(),
                });
                homes.len().saturating_sub(1)
            });
            if let Some(home) = homes.get_mut(at) {
                home.envelope.recipients.push(accepted.recipient.clone());
                home.accounts.push(accepted.account.clone());
            }
            home_of.push(at);
        }
        let message = Self {
            report,
            metrics,
            recipients,
            home_of,
            told: 0,
            otherwise: Verdict::Abandoned("the process is stopped".to_owned()),
        };
        (message, homes)
    }

    /// What stands against its recipients now, although they were taken before, if something stands against one of them.
    pub(super) fn forbidden(&self, orders: &Orders) -> Option<Vec<Failure>> {
        let recipients = self.recipients.iter();
        forbidden(orders, recipients.map(|it| (&it.account, &*it.node)))
    }

    /// How many recipients it has.
    pub(super) fn len(&self) -> usize {
        self.recipients.len()
    }

    /// Which home is that of the next recipient; none when all were told of.
    pub(super) fn next_home(&self) -> Option<usize> {
        self.home_of.get(self.told).copied()
    }

    /// What becomes of all those of whom nothing will be said.
    pub(super) fn or_else(&mut self, verdict: Verdict) {
        self.otherwise = verdict;
    }

    /// Tells what became of it for the next recipient: what the MTA is to hear.
    pub(super) fn tell(&mut self, verdict: &Verdict) -> Reply {
        if let Some(accepted) = self.recipients.get(self.told) {
            let address = &accepted.recipient.address;
            let recipient = (address, &accepted.account, &*accepted.node);
            self.report.conclude(&self.metrics, recipient, verdict);
            self.told = self.told.saturating_add(1);
        }
        verdict.reply()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let verdict = self.otherwise.clone();
        while self.told < self.recipients.len() {
            self.tell(&verdict);
        }
    }
}
