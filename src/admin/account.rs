//! An account in the words of answers and commands: for people a table, for programs JSON. Nothing of a password is in
//! it.

use serde_json::{Value, json};

use crate::{
    directory::{Account, Status},
    names::Protocol,
    nodes::Nodes,
};

/// What is said, in the order in which people read it.
pub type Fields = Vec<(&'static str, Value)>;

/// What an account may do, where its home is, and what its processes are. Quotas are octets.
pub fn fields(account: &Account, nodes: &Nodes) -> Fields {
    let mut fields = Fields::new();
    let mut put = |name, value: Value| fields.push((name, value));
    put("logins", word(account.login).into());
    let protocols = account.access.protocols.as_ref();
    let names = |protocols: &Vec<Protocol>| protocols.iter().map(|one| one.as_str()).collect();
    put(
        "protocols",
        json!(protocols.map(names).unwrap_or(vec!["all"])),
    );
    if let Some(networks) = &account.access.networks {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        put("networks", networks.into());
    }
    put("mail", word(account.delivery).into());
    put("home_attribute", json!(account.home_node));
    match nodes.home(account) {
        Ok(node) => {
            put("node", node.name.as_str().into());
            put("node_address", node.address.to_string().into());
        }
        Err(error) => put("node_error", error.to_string().into()),
    }
    put("uid", account.uid.into());
    put("gid", account.gid.into());
    put("home", account.home.as_str().into());
    put("quota", json!(account.quota));
    fields
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Allowed => "allowed",
        Status::Refused => "refused",
        Status::TryLater => "refused for now",
    }
}
