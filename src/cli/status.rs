//! `pigeonair status` and `pigeonair nodes`: what a running process does, as its status page shows it.
//!
//! It asks a process by its socket, or by its address where there is none, and reads nothing else of the configuration. For
//! people a table, for programs the JSON of the page (`admin::status` has its words), of `nodes` the list alone. Behind a socket
//! the processes are asked, too, that this one has taken the place of, what they still have. Rates are of the last minutes. A process that is not ready is a failure after that; so is one that does not answer.

use std::{
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Failed, Process, front::unless_ended, print};
use crate::{
    admin::{self, Place},
    config::{self, Answering},
    outcome::chain,
};

/// Whose status.
#[derive(Debug, clap::Args)]
pub(super) struct StatusOptions {
    /// The process; else the front if the configuration has one.
    process: Option<Process>,
    #[command(flatten)]
    how: How,
}

/// How a process is asked and how the answer is shown.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// For programs.
    #[arg(long)]
    json: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Prints what a process does. One that is not ready is a failure after that.
pub(super) fn status(options: &StatusOptions, out: &mut impl Write) -> Result<(), Failed> {
    let answering = config::answering(&options.how.config)?;
    let process = options.process.unwrap_or(if answering.has_front {
        Process::Front
    } else {
        Process::Node
    });
    let place = place(process, answering)?;
    let mut figures = admin::figures_at(&place)?;
    if let (Place::Unix(common), Some(figures)) = (&place, figures.as_object_mut()) {
        figures.insert("replaced".to_owned(), replaced(common).into());
    }
    if options.how.json {
        print(out, format_args!("{figures:#}\n"))?;
    } else {
        print(out, summary(&figures))?;
    }
    if *at(&figures, "/ready") == true {
        return Ok(());
    }
    Err(Failed::NotReady(words(at(&figures, "/trouble"))))
}

/// The processes that this one has taken the place of and that still live, with what they still have.
fn replaced(common: &Path) -> Vec<Value> {
    let each = admin::replaced(common)
        .into_iter()
        .filter_map(|(pid, own)| {
            match unless_ended(&own, || admin::figures_at(&Place::Unix(own.clone()))) {
                Ok(figures) => figures.map(|figures| {
                    let parts = ["/version", "/sessions"].map(|path| at(&figures, path));
                    let [version, sessions] = parts;
                    json!({ "pid": pid, "version": version, "sessions": sessions })
                }),
                Err(error) => Some(json!({ "pid": pid, "error": chain(&error) })),
            }
        });
    each.collect()
}

/// Prints how the nodes of the front's table do.
pub(super) fn nodes(how: &How, out: &mut impl Write) -> Result<(), Failed> {
    let answering = config::answering(&how.config)?;
    let figures = admin::figures_at(&place(Process::Front, answering)?)?;
    let list = at(&figures, "/nodes");
    if how.json {
        return print(out, format_args!("{list:#}\n"));
    }
    print(out, table(list))
}

fn place(process: Process, Answering { admin, .. }: Answering) -> Result<Place, Failed> {
    let (socket, address, keys) = match process {
        Process::Front => (
            admin.front_socket,
            admin.front,
            "[admin] front_socket or front",
        ),
        Process::Node => (admin.node_socket, admin.node, "[admin] node_socket or node"),
    };
    let place = socket.map(Place::Unix).or(address.map(Place::Tcp));
    place.ok_or(Failed::NowhereToAsk(keys))
}

// --- for people

/// Lines of a name and what is to be said of it; nothing to say, no line.
fn summary(figures: &Value) -> String {
    let mut text = heading(figures);
    let more = match at(figures, "/process").as_str() {
        Some("front") => of_a_front(figures),
        _ => of_a_node(figures),
    };
    for (name, said) in more.into_iter().chain(of_all(figures)) {
        if !said.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<14} {said}");
        }
    }
    let window = at(figures, "/window_s");
    let _ = writeln!(
        text,
        "Counts are of the last {window} seconds, and since the start."
    );
    text
}

type Rows = Vec<(&'static str, String)>;

fn of_a_front(figures: &Value) -> Rows {
    let connections = |name: &str| at(figures, &format!("/connections/{name}"));
    let (open, limit) = (connections("open"), connections("limit"));
    let guests = connections("unauthenticated");
    let mut rows = vec![
        sessions(figures),
        (
            "connections",
            format!("{open} of {limit}, {guests} not logged in"),
        ),
        ("logins", counted(figures, "logins", &["result"])),
        (
            "failures",
            counted(figures, "failures", &["blame", "stage"]),
        ),
        ("a login takes", times(at(figures, "/stages/login"))),
    ];
    for server in list(at(figures, "/directory/servers")) {
        let is_up = *at(server, "/up") == true;
        let state = if is_up { "up" } else { "down" };
        rows.push((
            "LDAP server",
            format!("{} {state}", word(at(server, "/name"))),
        ));
    }
    rows.extend([
        ("directory", directory(at(figures, "/directory"))),
        ("cache", counted(figures, "cache", &["result"])),
        ("deliveries", counted(figures, "deliveries", &["result"])),
    ]);
    rows
}

fn of_a_node(figures: &Value) -> Rows {
    vec![
        sessions(figures),
        (
            "hand-overs",
            counted(figures, "handovers", &["kind", "result"]),
        ),
        ("they take", times(at(figures, "/stages/hand-over"))),
        (
            "stored mail",
            counted(figures, "stored", &["kind", "result"]),
        ),
    ]
}

fn of_all(figures: &Value) -> Rows {
    let replaced = list(at(figures, "/replaced")).iter().map(|process| {
        let said = match at(process, "/error") {
            Value::Null => {
                let version = word(at(process, "/version"));
                let (_, sessions) = sessions(process);
                format!("version {version}, still has: {sessions}")
            }
            error => word(error),
        };
        ("replaced", format!("pid {}, {said}", at(process, "/pid")))
    });
    let mut rows: Rows = replaced.collect();
    rows.extend([
        ("sent away", counted(figures, "shed", &["reason"])),
        (
            "memory",
            part(
                at(figures, "/memory/used"),
                at(figures, "/memory/limit"),
                1 << 20,
                "MiB",
            ),
        ),
        (
            "descriptors",
            part(
                at(figures, "/descriptors/open"),
                at(figures, "/descriptors/limit"),
                1,
                "",
            ),
        ),
    ]);
    for certificate in list(at(figures, "/certificates")) {
        let left = seconds(at(certificate, "/expires")) - seconds(at(figures, "/now"));
        let days = (left / 86400.0).floor();
        rows.push((
            "TLS",
            format!("{}: {days} days left", word(at(certificate, "/name"))),
        ));
    }
    rows.push(("panics", word(at(figures, "/panics"))));
    rows
}

fn sessions(figures: &Value) -> (&'static str, String) {
    let of = |protocol: &str| at(figures, &format!("/sessions/{protocol}"));
    (
        "sessions",
        format!("IMAP {}, POP3 {}", of("imap"), of("pop3")),
    )
}

fn heading(figures: &Value) -> String {
    let name = at(figures, "/node").as_str();
    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
    let up = seconds(at(figures, "/now")) - seconds(at(figures, "/started"));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not below 0, and no process runs that long"
    )]
    let up = std::time::Duration::from_secs(up.max(0.0) as u64);
    let ready = if *at(figures, "/ready") == true {
        "ready"
    } else {
        "not ready"
    };
    format!(
        "{}{name} on {}: {ready}, version {}, up for {}\n",
        word(at(figures, "/process")),
        word(at(figures, "/host")),
        word(at(figures, "/version")),
        humantime::format_duration(up)
    )
}

fn table(nodes: &Value) -> String {
    let mut rows = vec![
        [
            "NODE",
            "STATE",
            "IMAP",
            "POP3",
            "LINKS READY",
            "FAILED",
            "OPENS IN",
        ]
        .map(str::to_owned),
    ];
    for node in list(nodes) {
        rows.push([
            word(at(node, "/name")),
            word(at(node, "/state")),
            word(at(node, "/sessions/imap")),
            word(at(node, "/sessions/pop3")),
            word(at(node, "/links_ready")),
            word(at(node, "/links/failed")),
            times(at(node, "/open")),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
    };
    let widths: Vec<usize> = (0..7)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What stands at a path; null if nothing does.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    value.pointer(path).unwrap_or(&NOTHING)
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value in words, with nothing in it that a terminal obeys.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.replace(char::is_control, " "),
        value => value.to_string(),
    }
}

fn words(value: &Value) -> String {
    let each: Vec<String> = list(value).iter().map(word).collect();
    each.join(", ")
}

/// A table of counters: what they count by, and how much of it lately and in all.
fn counted(figures: &Value, table: &str, labels: &[&str]) -> String {
    let rows = list(at(figures, &format!("/counts/{table}"))).iter();
    let rows = rows.filter(|row| *at(row, "/total") != 0).map(|row| {
        let names: Vec<String> = labels
            .iter()
            .map(|label| word(at(row, &format!("/{label}"))))
            .collect();
        format!(
            "{} {} ({})",
            names.join("/"),
            at(row, "/recent"),
            at(row, "/total")
        )
    });
    rows.collect::<Vec<_>>().join(", ")
}

fn times(times: &Value) -> String {
    let ms = |name: &str| {
        at(times, &format!("/{name}"))
            .as_f64()
            .map(|seconds| format!("{:.1} ms", seconds * 1000.0))
    };
    match (ms("p50_s"), ms("p95_s"), ms("p99_s")) {
        (Some(half), Some(most), Some(all)) => format!("{half} (95 %: {most}, 99 %: {all})"),
        _ => String::new(),
    }
}

fn directory(directory: &Value) -> String {
    let followed = list(at(directory, "/followed"))
        .iter()
        .filter(|one| *at(one, "/count") != 0);
    let followed: Vec<String> = followed.map(|one| word(at(one, "/by"))).collect();
    let changes = match followed.as_slice() {
        [] => "changes are not followed".to_owned(),
        by => format!("changes are followed by {}", by.join(", ")),
    };
    match *at(directory, "/stale") == true {
        true => format!("accounts are served from memory, {changes}"),
        false => changes,
    }
}

fn part(used: &Value, limit: &Value, unit: u64, name: &str) -> String {
    let shown = |value: &Value| value.as_u64().map(|value| value / unit);
    match (shown(used), shown(limit)) {
        (Some(used), Some(limit)) if limit > 0 => {
            format!("{used} of {limit} {name}").trim_end().to_owned()
        }
        (Some(used), _) => format!("{used} {name}").trim_end().to_owned(),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_a_table() {
        let node = |name: &str, state: &str, p50: Value| {
            json!({
                "name": name, "state": state, "sessions": { "imap": 12, "pop3": 0 }, "links_ready": 4,
                "links": { "ok": 3, "failed": 1 },
                "open": { "count": 9, "p50_s": p50, "p95_s": p50, "p99_s": p50 },
            })
        };
        let text = table(&json!([
            node("n1", "up", json!(0.01)),
            node("n20\u{1b}", "down", Value::Null)
        ]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "NODE  STATE  IMAP  POP3  LINKS READY  FAILED  OPENS IN",
                "n1    up     12    0     4            1       10.0 ms (95 %: 10.0 ms, 99 %: 10.0 ms)",
                "n20   down   12    0     4            1",
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_not_shown() {
        let text = summary(&json!({
            "process": "node", "node": "n1", "host": "mx1", "version": "1.0.0", "ready": false, "now": 100.5, "started": 40,
            "sessions": { "imap": 1, "pop3": 2 }, "window_s": 60,
            "counts": { "stored": [{ "kind": "maildir", "result": "stored", "recent": 1, "total": 3 }], "shed": [] },
            "memory": { "used": 20 << 20, "limit": null }, "descriptors": { "open": 5, "limit": 10 }, "panics": 0,
            "replaced": [{ "pid": 7, "version": "0.9.0", "sessions": { "imap": 3, "pop3": 0 } }],
        }));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "node n1 on mx1: not ready, version 1.0.0, up for 1m",
                "  sessions       IMAP 1, POP3 2",
                "  stored mail    maildir/stored 1 (3)",
                "  replaced       pid 7, version 0.9.0, still has: IMAP 3, POP3 0",
                "  memory         20 MiB",
                "  descriptors    5 of 10",
                "  panics         0",
                "Counts are of the last 60 seconds, and since the start.",
            ]
        );
    }
}
