//! `pigeonair hold`, `release`, `drain`, `undrain`, `orders` and `cache flush`: what a front shall do from now on, or forget.
//!
//! For people a sentence or a table, for programs the front's answer as one JSON object.

use std::{io::Write, time::Duration};

use serde_json::Value;

use super::{
    Failed,
    front::{Front, is, number, text},
    table::{Table, on_one_line},
    who::{ended, millis},
};
use crate::admin::{Drain, Flush, Hold, InForce, Release, Undrain};

/// Whom to hold.
#[derive(Debug, clap::Args)]
pub(super) struct HoldOptions {
    /// A login, a mail address, or with --account the account's own name.
    user: String,
    /// Take USER for the account's own name, and ask no directory.
    #[arg(long)]
    account: bool,
    /// Leave the account's sessions alone.
    #[arg(long)]
    keep_sessions: bool,
    #[command(flatten)]
    front: Front,
}

/// Whom to let in again.
#[derive(Debug, clap::Args)]
pub(super) struct ReleaseOptions {
    /// A login, a mail address, or with --account the account's own name.
    user: String,
    /// Take USER for the account's own name, and ask no directory.
    #[arg(long)]
    account: bool,
    #[command(flatten)]
    front: Front,
}

/// What to drain.
#[derive(Debug, clap::Args)]
pub(super) struct DrainOptions {
    #[command(subcommand)]
    what: What,
}

/// What to drain.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// A storage node: logins and mail for it have to wait, its sessions end.
    Node {
        /// Its name.
        name: String,
        /// Spread the ends over so long, each at a random moment.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1m")]
        within: Duration,
        #[command(flatten)]
        front: Front,
    },
    /// This front: balancers are told that it is not ready.
    Proxy {
        /// End its sessions, spread over so long; by default they go on.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        within: Option<Duration>,
        #[command(flatten)]
        front: Front,
    },
}

/// What to use again.
#[derive(Debug, clap::Args)]
pub(super) struct UndrainOptions {
    #[command(subcommand)]
    what: Which,
}

/// What to use again.
#[derive(Debug, clap::Subcommand)]
enum Which {
    /// A storage node.
    Node {
        /// Its name.
        name: String,
        #[command(flatten)]
        front: Front,
    },
    /// This front.
    Proxy {
        #[command(flatten)]
        front: Front,
    },
}

/// What is in force.
#[derive(Debug, clap::Args)]
pub(super) struct ListOptions {
    #[command(flatten)]
    front: Front,
}

/// What to do with the cache.
#[derive(Debug, clap::Args)]
pub(super) struct CacheOptions {
    #[command(subcommand)]
    what: CacheCommand,
}

/// What to do with the cache.
#[derive(Debug, clap::Subcommand)]
enum CacheCommand {
    /// Forget what the directory has said, so that it is asked again.
    Flush {
        /// Of this login, mail address or account; by default of all.
        name: Option<String>,
        #[command(flatten)]
        front: Front,
    },
}

/// Holds an account.
pub(super) fn hold(options: &HoldOptions, out: &mut impl Write) -> Result<(), Failed> {
    let question = Hold {
        user: options.user.clone(),
        as_account: options.account,
        keep_sessions: options.keep_sessions,
    };
    let said = options.front.tell(&question, out, |answer| {
        let account = on_one_line(text(answer, "account"));
        let held = if is(answer, "is_new") {
            "is held"
        } else {
            "was held already"
        };
        format!(
            "account {account} {held} {}{}",
            until(answer, "released"),
            ended(answer)
        )
    });
    said.map(drop)
}

/// Releases an account.
pub(super) fn release(options: &ReleaseOptions, out: &mut impl Write) -> Result<(), Failed> {
    let question = Release {
        user: options.user.clone(),
        as_account: options.account,
    };
    let said = options.front.tell(&question, out, |answer| {
        format!(
            "account {} is not held any more\n",
            on_one_line(text(answer, "account"))
        )
    });
    said.map(drop)
}

/// Drains a node, or the front.
pub(super) fn drain(options: &DrainOptions, out: &mut impl Write) -> Result<(), Failed> {
    let (front, node, within) = match &options.what {
        What::Node {
            name,
            within,
            front,
        } => (front, Some(name), Some(*within)),
        What::Proxy { within, front } => (front, None, *within),
    };
    let question = Drain {
        node: node.cloned(),
        within_ms: within.map(millis),
    };
    let said = front.tell(&question, out, |answer| {
        let what = what(answer);
        let drained = if is(answer, "is_new") {
            "is drained"
        } else {
            "was drained already"
        };
        let sessions = match within {
            Some(_) => ended(answer),
            None => "its sessions go on\n".to_owned(),
        };
        format!("{what} {drained} {}{sessions}", until(answer, "undrained"))
    });
    said.map(drop)
}

/// Uses a node again, or the front.
pub(super) fn undrain(options: &UndrainOptions, out: &mut impl Write) -> Result<(), Failed> {
    let (front, node) = match &options.what {
        Which::Node { name, front } => (front, Some(name.clone())),
        Which::Proxy { front } => (front, None),
    };
    let said = front.tell(&Undrain { node }, out, |answer| {
        format!("{} is not drained any more\n", what(answer))
    });
    said.map(drop)
}

/// Has things forgotten.
pub(super) fn cache(options: &CacheOptions, out: &mut impl Write) -> Result<(), Failed> {
    let CacheCommand::Flush { name, front } = &options.what;
    let question = Flush { name: name.clone() };
    let said = front.tell(&question, out, |answer| {
        if !is(answer, "has_cache") {
            return "nothing to forget: accounts come from a file\n".to_owned();
        }
        match number(answer, "forgotten") {
            1 => "1 name was forgotten\n".to_owned(),
            count => format!("{count} names were forgotten\n"),
        }
    });
    said.map(drop)
}

/// Lists what is in force.
pub(super) fn list(options: &ListOptions, out: &mut impl Write) -> Result<(), Failed> {
    let answer = options.front.ask(&InForce {})?;
    options.front.say(&answer, out, |answer| {
        let orders = answer.get("orders").and_then(Value::as_array);
        let rows: Vec<[String; 4]> = orders.into_iter().flatten().map(row).collect();
        if rows.is_empty() {
            return "no orders are in force\n".to_owned();
        }
        let (table, header) = Table::new(["ORDER", "SINCE", "BY UID", "NAME"], &rows, usize::MAX);
        let lines = rows.iter().map(|row| table.line(row));
        let mut text = lines.fold(header, |text, line| text + &line);
        if !is(answer, "are_kept") {
            text += NOT_KEPT;
        }
        text
    })
}

const NOT_KEPT: &str = "[admin] orders_file is not set: orders end with the front\n";

fn row(order: &Value) -> [String; 4] {
    [
        text(order, "order").to_owned(),
        text(order, "since").to_owned(),
        number(order, "uid").to_string(),
        on_one_line(text(order, "name")),
    ]
}

/// How long an order lasts.
fn until(answer: &Value, taken_back: &str) -> String {
    if is(answer, "is_kept") {
        format!("until it is {taken_back}; ")
    } else {
        format!("until it is {taken_back} or the front ends ([admin] orders_file is not set); ")
    }
}

/// A node, or the front.
fn what(answer: &Value) -> String {
    let node = answer.get("node").and_then(Value::as_str);
    node.map_or_else(|| "this front".to_owned(), |node| format!("node {node}"))
}
