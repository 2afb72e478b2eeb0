//! `pigeonair explain`: what the directory says of a login or an address, and where that leads.
//!
//! It asks the directory itself, as the front would with an empty cache; what a running front remembers may be older, by
//! `[directory.cache] ttl` at most. For people a table, for programs JSON: an object with `login` and `address`, each an
//! object with what was found or with `error`. Times are milliseconds, quotas octets.

use std::{fmt::Write as _, io::Write, path::PathBuf};

use serde_json::{Map, Value, json};

use super::{Failed, print};
use crate::{
    app,
    config::{self, Front, Role},
    directory::{Account, Explained, LookupError, Status, Wrong},
    names::{Login, Protocol},
    nodes::Nodes,
    outcome::chain,
    proto::lmtp::Address,
};

/// Whom to explain.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What a client types, or a mail address.
    name: String,
    /// For programs.
    #[arg(long)]
    json: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Prints what there is to say. Nobody of that name, or a directory that does not answer, is a failure after that.
pub(super) fn run(options: &Options, out: &mut impl Write) -> Result<(), Failed> {
    let config = config::load_for(Role::Front, &options.config)?;
    let Some(front) = config.front else {
        return Ok(());
    };
    let login = Login::parse(&options.name).ok();
    let address = Address::parse(&options.name).ok();
    let [login, address] = app::explain(front.directory.clone(), login.as_ref(), address.as_ref())?;
    let answers = [("login", login), ("address", address)];
    let found = |(word, answer): &(&'static str, Option<Answer>)| {
        answer
            .as_ref()
            .map(|answer| (*word, fields(answer, &front)))
    };
    let explained: Vec<(&str, Fields)> = answers.iter().filter_map(found).collect();
    if options.json {
        let all: Map<String, Value> = explained
            .into_iter()
            .map(|(word, fields)| {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                (word.to_owned(), fields.collect::<Map<_, _>>().into())
            })
            .collect();
        print(out, format_args!("{:#}\n", Value::from(all)))?;
    } else {
        for (word, fields) in &explained {
            print(out, table(&options.name, word, fields))?;
        }
    }
    let mut errors = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref()?.as_ref().err());
    let is_unknown = |error: &LookupError| matches!(error, LookupError::Wrong(Wrong::Unknown));
    if answers
        .iter()
        .any(|(_, answer)| matches!(answer, Some(Ok(_))))
    {
        return Ok(());
    }
    Err(if errors.all(is_unknown) {
        Failed::Nobody(on_one_line(&options.name))
    } else {
        Failed::Unexplained
    })
}

type Answer = Result<Explained, LookupError>;

/// What is said, in the order in which people read it.
type Fields = Vec<(&'static str, Value)>;

/// What is said of one answer, in its order.
fn fields(answer: &Answer, front: &Front) -> Fields {
    let mut fields = Fields::new();
    let mut put = |name, value: Value| fields.push((name, value));
    let explained = match answer {
        Ok(explained) => explained,
        Err(error) => {
            put("error", chain(error).into());
            return fields;
        }
    };
    let account: &Account = &explained.account;
    put("looked_up", explained.asked.as_str().into());
    put("account", account.name.as_str().into());
    put("entry", explained.entry.as_str().into());
    put("server", json!(explained.server));
    put("took_ms", json!(explained.took.as_millis()));
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
    match Nodes::new(&front.nodes).home(account) {
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

/// What a directory says may hold anything, and a terminal believes it.
fn on_one_line(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn table(name: &str, word: &str, fields: &Fields) -> String {
    let mut text = format!("{} as {word}\n", on_one_line(name));
    for (key, value) in fields {
        let value = match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => on_one_line(text),
            Value::Array(values) => {
                let words: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                words.join(" ")
            }
            value => value.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<16}{value}", key.replace('_', " "));
    }
    text
}
