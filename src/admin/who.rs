//! Who is on, for commands: which sessions are meant, and a page of them.

use std::net::IpAddr;

use hyper::StatusCode;
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
    outcome::chain,
    proto::lmtp::Address,
    sessions::{self, Filter},
};

/// Before the IPv4 address in an IPv6 one (RFC 4291, 2.5.5.2), in bits.
const V4_MAPPED: u8 = 96;

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
        Ok(json!({
            "account": filter.account.as_ref().map(AccountName::as_str),
            "sessions": sessions.collect::<Vec<_>>(),
            "next": page.next,
        }))
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

    /// The account of a user; of one whom the directory does not have, the account with that very name.
    pub(super) async fn account_or_so(
        &self,
        user: &str,
        as_account: bool,
    ) -> Result<AccountName, Refusal> {
        if as_account {
            return account(user);
        }
        match self.known(user).await {
            Ok(account) => Ok(account),
            Err(LookupError::Wrong(_)) => account(user),
            Err(error) => Err(nobody(user, &error)),
        }
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

/// Why a user is nobody's name.
pub(super) fn nobody(user: &str, error: &LookupError) -> Refusal {
    let (status, text) = match error {
        LookupError::Wrong(_) => (
            StatusCode::NOT_FOUND,
            format!("nobody has the login or the address {user}"),
        ),
        error => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the directory cannot say who {user} is: {}; with --account that is taken for the account's own name",
                chain(error)
            ),
        ),
    };
    Refusal::new(status, &text)
}

/// An IPv4 client is one, however its address is written.
fn network(text: &str) -> Result<IpNet, Refusal> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network
        .map_err(|_| bad_request("network: neither a network in CIDR notation nor an address"))?;
    let (address, length) = (network.addr().to_canonical(), network.prefix_len());
    let mapped = length
        .checked_sub(V4_MAPPED)
        .filter(|_| address.is_ipv4() && network.addr().is_ipv6());
    let canonical = mapped.and_then(|length| IpNet::new(address, length).ok());
    Ok(canonical.unwrap_or(network))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_that_clients_are_in() {
        for (text, expected) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            let expected: IpNet = expected.parse().unwrap();
            assert_eq!(network(text).unwrap().trunc(), expected.trunc(), "{text}");
        }
        for wrong in ["", "here", "10.0.0.0/33", "192.0.2.7:143"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
