//! Where and with what it was measured.

use std::{collections::BTreeSet, fs, process::Command};

use super::figures::Table;

pub(crate) fn print() {
    let mut table = Table::new(&["what", "which"]);
    table.row(&["date", &said(&["date", "-u", "+%Y-%m-%d"])]);
    table.row(&["PigeonAir", env!("CARGO_PKG_VERSION")]);
    let commands: [(&str, &[&str]); 7] = [
        ("HAProxy", &["haproxy", "-v"]),
        ("nginx", &["nginx", "-v"]),
        ("Dovecot", &["dovecot", "--version"]),
        // It does not tell its own.
        (
            "perdition",
            &["dpkg-query", "-W", "-f", "${Version}", "perdition"],
        ),
        ("slapd", &["slapd", "-VV"]),
        ("OpenSSL", &["openssl", "version"]),
        ("Linux", &["uname", "-r"]),
    ];
    for (name, command) in commands {
        table.row(&[name, &said(command)]);
    }
    let cores = std::thread::available_parallelism().unwrap();
    table.row(&["processor", &format!("{cores} cores, {}", processor())]);
    println!("\n## Machine");
    table.print("What ran, and where.");
}

/// The first line of what a program says, wherever it says it.
fn said(command: &[&str]) -> String {
    let Ok(output) = Command::new(command[0]).args(&command[1..]).output() else {
        return "not there".to_owned();
    };
    let all = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&all);
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("says nothing").trim().replace('|', " ")
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap();
    let names: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("model name"))
        .filter_map(|rest| rest.split_once(": "))
        .map(|(_, name)| name)
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
