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
        lmtp::{Envelope, Recipient, Reply},
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
    /// What stands against one of its recipients now.
    pub(super) fn forbidden(&self, orders: &Orders) -> Option<Failure> {
        let mut accounts = self.accounts.iter();
        accounts.find_map(|account| recipient::permit(orders, account, &self.node).err())
    }
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

    /// What stands against one of its recipients now, although it was taken before.
    pub(super) fn forbidden(&self, orders: &Orders) -> Option<Failure> {
        let mut recipients = self.recipients.iter();
        recipients.find_map(|it| recipient::permit(orders, &it.account, &it.node).err())
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
