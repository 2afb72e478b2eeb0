//! `pigeonair explain`: what the directory says of a login or an address, where that leads, and what the front
//! remembers.
//!
//! It asks the directory itself, as the front would with an empty cache. What a running front remembers may be older:
//! where `[admin] front_socket` says how to ask it, that is told besides, with all that differs. For people a table,
//! for programs JSON: an object with `login` and `address`, each an object with what was found or with `error`, and
//! with `cached`: a list of what the front remembers (`admin::socket` has its words), or of one object with `error`.
//! Times are milliseconds, quotas octets.

use std::{fmt::Write as _, io::Write, path::PathBuf, time::Duration};

use serde_json::{Map, Value, json};

use super::{Failed, print, table::on_one_line};
use crate::{
    admin::{self, AskError, Fields},
    app,
    config::{self, Front, Role},
    directory::{Explained, LookupError, Wrong},
    names::Login,
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
    app::become_front(&config.process)?;
    let login = Login::parse(&options.name).ok();
    let address = Address::parse(&options.name).ok();
    let socket = config.admin.front_socket.as_deref();
    let cached = socket.map(|socket| admin::cached(socket, login.as_ref(), address.as_ref()));
    let [login, address] = app::explain(front.directory.clone(), login.as_ref(), address.as_ref())?;
    let answers = [("login", login), ("address", address)];
    let found = |(word, answer): &(&'static str, Option<Answer>)| {
        let mut fields = fields(answer.as_ref()?, &front);
        if let Some(cached) = &cached {
            fields.push(("cached", part(cached, word)));
        }
        Some((*word, fields))
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

/// What is said of one answer, in its order.
fn fields(answer: &Answer, front: &Front) -> Fields {
    let explained = match answer {
        Ok(explained) => explained,
        Err(error) => return vec![("error", chain(error).into())],
    };
    let mut fields = vec![
        ("looked_up", explained.asked.as_str().into()),
        ("account", explained.account.name.as_str().into()),
        ("entry", explained.entry.as_str().into()),
        ("server", json!(explained.server)),
        ("took_ms", json!(explained.took.as_millis())),
    ];
    let nodes = Nodes::new(&front.nodes);
    fields.extend(admin::fields(&explained.account, &nodes));
    fields
}

/// What the front remembers of a login, or of an address: a list.
fn part(cached: &Result<Value, AskError>, word: &str) -> Value {
    match cached {
        Ok(answer) => match answer.get(word) {
            Some(Value::Array(list)) => list.clone().into(),
            _ => json!([{ "error": "the front does not say" }]),
        },
        Err(error) => json!([{ "error": chain(error) }]),
    }
}

fn table(name: &str, word: &str, fields: &Fields) -> String {
    let mut text = format!("{} as {word}\n", on_one_line(name));
    for (key, value) in fields {
        match value {
            Value::Array(list) if *key == "cached" => {
                if list.is_empty() {
                    row(&mut text, "cached", "nothing (no name would be looked up)");
                }
                for one in list {
                    remembered(&mut text, one, fields);
                }
            }
            value => row(&mut text, &key.replace('_', " "), &shown(value)),
        }
    }
    text
}

fn row(text: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {key:<15} {value}");
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => on_one_line(text),
        Value::Array(values) => {
            let words: Vec<String> = values.iter().map(shown).collect();
            words.join(" ")
        }
        value => value.to_string(),
    }
}

/// What is said of a question, and not of whom it is about.
const OF_THE_QUESTION: [&str; 9] = [
    "age_ms",
    "believed_ms",
    "cached",
    "error",
    "looked_up",
    "reason",
    "remembered_ms",
    "state",
    "took_ms",
];

/// A row with what the front remembers under one name, and one for all that the directory does not say, or not so.
fn remembered(text: &mut String, cached: &Value, fields: &Fields) {
    let word = |key| cached.get(key).and_then(Value::as_str).map(on_one_line);
    if let Some(error) = word("error") {
        return row(text, "cached", &error);
    }
    let asked = word("looked_up").unwrap_or_default();
    row(text, "cached", &format!("{asked}: {}", state(cached)));
    let (Some(_), Some(cached)) = (cached.get("account"), cached.as_object()) else {
        return;
    };
    let of_both = fields.iter().map(|(key, _)| *key);
    let is_more = |key: &&str| !fields.iter().any(|(said, _)| said == key);
    let more = cached.keys().map(String::as_str).filter(is_more);
    for key in of_both.chain(more) {
        let said = fields.iter().find(|(name, _)| *name == key);
        let value = cached.get(key);
        if OF_THE_QUESTION.contains(&key) || said.map(|(_, said)| said) == value {
            continue;
        }
        let key = on_one_line(&key.replace('_', " "));
        row(
            text,
            &format!("cached {key}"),
            &shown(value.unwrap_or(&Value::Null)),
        );
    }
}

/// What is remembered and how long, in words.
fn state(cached: &Value) -> String {
    let time = |key| {
        let time = Duration::from_millis(cached.get(key)?.as_u64()?);
        // Milliseconds are of interest where there is nothing else.
        let seconds = Duration::from_secs(time.as_secs());
        let time = if seconds.is_zero() { time } else { seconds };
        Some(humantime::format_duration(time).to_string())
    };
    let word = |key| cached.get(key).and_then(Value::as_str).map(on_one_line);
    let state = word("state").unwrap_or_else(|| "nothing".to_owned());
    let mut text = state.replace('-', " ");
    if let Some(reason) = word("reason") {
        text += &format!(" ({reason})");
    }
    if let Some(age) = time("age_ms") {
        text += &format!(", {age} old");
    }
    if let Some(left) = time("believed_ms") {
        text += &format!(", believed for {left}");
    }
    if let Some(left) = time("remembered_ms") {
        text += &format!(", for {left} while no LDAP server answers");
    }
    text
}
