//! `pigeonair who` and `pigeonair kick`: the sessions of a front past login, and their ends.
//!
//! Both are about all processes of the front: the one that serves, and those whose place it has taken, until their sessions are
//! over.
//!
//! For people a table, for programs one JSON object per line and session: `account`, `protocol`, `tls`, `client`, `node`, `since`
//! (RFC 3339) and `session`, the id that all logs have. Sessions come page by page and are written as they come, so that
//! hundreds of thousands need no memory; who logs in or out meanwhile is listed or not.

use std::{io::Write, path::Path, time::Duration};

use clap::ArgGroup;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Failed,
    front::{Front, is, number, text, unless_ended},
    print,
    table::{Table, on_one_line},
};
use crate::{
    admin::{self, Kick, Question as _, Which, Who},
    names::Protocol,
};

/// The widest column, in characters: an IPv6 address with a port fits.
const WIDEST: usize = 47;

/// Which sessions.
#[derive(Debug, clap::Args)]
struct Filters {
    /// Of this user: a login, a mail address, or with --account the account's own name.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Take USER for the account's own name, and ask no directory.
    #[arg(long, requires = "user")]
    account: bool,
    /// At this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Of clients in this network, or with this address.
    #[arg(long, value_name = "CIDR")]
    network: Option<String>,
    /// By this protocol: imap or pop3.
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
}

/// Whom to list.
#[derive(Debug, clap::Args)]
pub(super) struct WhoOptions {
    #[command(flatten)]
    filters: Filters,
    /// List no more than so many.
    #[arg(long, value_name = "NUMBER", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    #[command(flatten)]
    front: Front,
}

/// Whom to end.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("whom").required(true).multiple(true).args(["user", "node", "network", "protocol", "all"])))]
pub(super) struct KickOptions {
    #[command(flatten)]
    filters: Filters,
    /// All sessions of the front.
    #[arg(long, conflicts_with_all = ["user", "node", "network", "protocol"])]
    all: bool,
    /// Spread the ends over so long, each at a random moment; default: a hundred sessions a second.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
    #[command(flatten)]
    front: Front,
}

/// Lists sessions; nobody is a failure after that.
pub(super) fn who(options: &WhoOptions, out: &mut impl Write) -> Result<(), Failed> {
    let common = options.front.socket()?;
    let which = options.filters.which();
    let mut list = List {
        is_json: options.front.json,
        table: None,
        left: options.limit,
        count: 0,
    };
    let which = list.add_all(&common, which, out)?;
    let mut failed = None;
    for (pid, own) in admin::replaced(&common) {
        let listed = unless_ended(&own, || list.add_all(&own, which.clone(), out));
        match listed {
            Ok(_) => {}
            Err(Failed::Ask(source)) => {
                failed.get_or_insert(Failed::Replaced { pid, source });
            }
            Err(failed) => return Err(failed),
        }
    }
    match failed {
        Some(failed) => Err(failed),
        None => list.end(out),
    }
}

/// Ends sessions; nobody is a failure after that.
pub(super) fn kick(options: &KickOptions, out: &mut impl Write) -> Result<(), Failed> {
    let question = Kick {
        which: options.filters.which(),
        all: options.all,
        within_ms: options.within.map(millis),
    };
    let answer = options.front.tell(&question, out, ended)?;
    if number(&answer, "sessions") == 0 {
        return Err(Failed::NoSession);
    }
    Ok(())
}

/// How many sessions end, and when.
pub(super) fn ended(answer: &Value) -> String {
    let within = Duration::from_millis(number(answer, "within_ms"));
    let count = sessions(number(answer, "sessions"));
    if within.is_zero() {
        return format!("{count} ended\n");
    }
    let within = humantime::format_duration(within);
    format!("{count} will end within {within}\n")
}

fn sessions(count: u64) -> String {
    match count {
        1 => "1 session".to_owned(),
        count => format!("{count} sessions"),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn protocol(word: &str) -> Result<Protocol, &'static str> {
    Protocol::parse(word).ok_or("neither imap nor pop3")
}

impl Filters {
    fn which(&self) -> Which {
        Which {
            user: self.user.clone(),
            as_account: self.account,
            node: self.node.clone(),
            network: self.network.clone(),
            protocol: self.protocol.map(|protocol| protocol.as_str().to_owned()),
        }
    }
}

/// What is written of a list that comes page by page.
struct List {
    is_json: bool,
    /// Once its first page was seen.
    table: Option<Table<7>>,
    left: usize,
    count: u64,
}

impl List {
    /// All that a process has of those, or as many as are still wanted; in which words another one is asked for the same.
    fn add_all(
        &mut self,
        socket: &Path,
        which: Which,
        out: &mut impl Write,
    ) -> Result<Which, Failed> {
        let mut question = Who { which, from: 0 };
        while self.left > 0 {
            let page = admin::ask(socket, &question)?;
            question = question.after(&page);
            let sessions = page.get("sessions").and_then(Value::as_array);
            self.add(sessions.map_or(&[][..], Vec::as_slice), out)?;
            let Some(next) = page.get("next").and_then(Value::as_u64) else {
                break;
            };
            question.from = usize::try_from(next).unwrap_or(usize::MAX);
        }
        Ok(question.which)
    }

    fn add(&mut self, sessions: &[Value], out: &mut impl Write) -> Result<(), Failed> {
        let sessions = sessions.get(..self.left).unwrap_or(sessions);
        if sessions.is_empty() {
            return Ok(());
        }
        self.left = self.left.saturating_sub(sessions.len());
        self.count = self.count.saturating_add(sessions.len() as u64);
        if self.is_json {
            let lines = sessions.iter().map(|session| format!("{session}\n"));
            return print(out, lines.collect::<String>());
        }
        let now = Timestamp::now();
        let rows: Vec<_> = sessions.iter().map(|session| row(session, now)).collect();
        let mut text = String::new();
        if self.table.is_none() {
            let names = [
                "ACCOUNT", "PROTOCOL", "TLS", "CLIENT", "NODE", "FOR", "SESSION",
            ];
            let (table, header) = Table::new(names, &rows, WIDEST);
            self.table = Some(table);
            text = header;
        }
        let lines = rows
            .iter()
            .filter_map(|row| Some(self.table.as_ref()?.line(row)));
        text.extend(lines);
        print(out, text)
    }

    fn end(self, out: &mut impl Write) -> Result<(), Failed> {
        if self.count == 0 {
            return Err(Failed::NoSession);
        }
        if self.is_json {
            return Ok(());
        }
        let more = if self.left == 0 { ", the limit" } else { "" };
        print(out, format_args!("{}{more}\n", sessions(self.count)))
    }
}

fn row(session: &Value, now: Timestamp) -> [String; 7] {
    let tls = if is(session, "tls") { "yes" } else { "no" };
    let since: Option<Timestamp> = text(session, "since").parse().ok();
    let age = since.map(|since| now.as_second().saturating_sub(since.as_second()));
    let age = age.and_then(|age| u64::try_from(age).ok());
    let age = age.map(|age| humantime::format_duration(Duration::from_secs(age)).to_string());
    [
        on_one_line(text(session, "account")),
        text(session, "protocol").to_owned(),
        tls.to_owned(),
        text(session, "client").to_owned(),
        text(session, "node").to_owned(),
        age.unwrap_or_default(),
        text(session, "session").to_owned(),
    ]
}
