//! Who is on, for commands: which sessions are meant, and a page of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    http::Refusal,
    request::{Which, Who},
    socket::{Requests, bad_request},
};
use crate::{
    directory::LookupError,
    names::{AccountName, Login, NodeName, Protocol},
    proto::lmtp::Address,
    sessions::{self, Filter},
};

/// Sessions on a page: with the longest names half a MiB, which is half of what a command reads.
const PAGE: usize = 500;

impl Requests {
    pub(super) async fn who(&self, who: &Who) -> Result<Value, Refusal> {
        let filter = self.filter(&who.which).await?;
        let page = self.sessions.page(&filter, who.from, PAGE);
        let sessions = page
            .seats
            .iter()
            .filter_map(|seat| Some(shown(seat.who()?)));
        Ok(json!({ "sessions": sessions.collect::<Vec<_>>(), "next": page.next }))
    }

    /// Which sessions are meant. Names that nobody knows any more mean sessions that began when somebody did.
    pub(super) async fn filter(&self, which: &Which) -> Result<Filter, Refusal> {
        let account = match &which.user {
            Some(user) => Some(self.account_or_so(user, which.as_account).await?),
            None => None,
        };
        let node = which.node.as_deref().map(|word| self.node_or_so(word));
        let network = which.network.as_deref().map(network);
        let protocol = which.protocol.as_deref().map(|word| {
            Protocol::parse(word).ok_or_else(|| bad_request("protocol: neither imap nor pop3"))
        });
        Ok(Filter {
            account,
            node: node.transpose()?,
            network: network.transpose()?,
            protocol: protocol.transpose()?,
        })
    }

    /// The account of a user; of whom the directory does not know now, the one with that very name.
    pub(super) async fn account_or_so(
        &self,
        user: &str,
        as_account: bool,
    ) -> Result<AccountName, Refusal> {
        if !as_account && let Ok(account) = self.known(user).await {
            return Ok(account);
        }
        account(user)
    }

    /// The account whose login or address that is.
    pub(super) async fn known(&self, user: &str) -> Result<AccountName, LookupError> {
        let login = match Login::parse(user) {
            Ok(login) => self.directory.find(&login).await,
            Err(_) => Err(LookupError::Wrong(crate::directory::Wrong::Unknown)),
        };
        let found = match (login, Address::parse(user)) {
            (Err(LookupError::Wrong(_)), Ok(address)) => {
                self.directory.find_recipient(&address).await
            }
            (login, _) => login,
        };
        Ok(found?.name.clone())
    }

    /// The node that a word means; if it means none now, the one with that name.
    pub(super) fn node_or_so(&self, word: &str) -> Result<NodeName, Refusal> {
        match self.nodes.meant_by(Some(word)) {
            Ok(node) => Ok(node.name.clone()),
            Err(_) => NodeName::parse(word).map_err(|error| bad_request(&format!("node: {error}"))),
        }
    }
}

/// An account by its own name.
pub(super) fn account(name: &str) -> Result<AccountName, Refusal> {
    AccountName::parse(name).map_err(|error| bad_request(&format!("user: {error}")))
}

fn network(text: &str) -> Result<IpNet, Refusal> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| bad_request("network: neither a network in CIDR notation nor an address"))
}

fn shown(who: &sessions::Who) -> Value {
    json!({
        "account": who.account.as_str(),
        "protocol": who.protocol.as_str(),
        "tls": who.has_tls,
        "client": who.client.to_string(),
        "node": who.node.as_str(),
        "since": format!("{:.0}", who.since),
        "session": who.session.as_str(),
    })
}
