//! Walking the configuration file, table by table, and collecting everything that is wrong with it.
//!
//! A [`Section`] is one table. Its reader asks for each key by name and [`Form`]; a key that nobody asked for is
//! unknown, which the section finds out when it goes out of scope. So a reader asks for all of its keys before it
//! gives up on any of them. What is wrong goes to the [`Report`], which lives as long as the reading does and which
//! also knows the addresses taken so far.
//!
//! Tables of a list are counted from 1: `proxy.listen[2].address` is in the second `[[proxy.listen]]`.
//! Values are not repeated for keys that name files: people paste keys and passwords there.

use std::{
    cell::RefCell,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::form::{Form, got};

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
    taken: RefCell<Vec<(String, Endpoint)>>,
    files: RefCell<Vec<PathBuf>>,
    /// Every key that was asked for, without list positions: what the manual must explain.
    #[cfg(test)]
    pub(super) asked: RefCell<std::collections::BTreeSet<String>>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    /// The key's path; empty for the file as a whole.
    pub(super) key: String,
    /// What is wrong, what was found, what is expected.
    pub(super) text: String,
}

/// Something to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// One table of the file, or the absence of it.
#[derive(Debug)]
pub(super) struct Section<'a> {
    report: &'a Report,
    path: String,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
}

// === impl Report ===

impl Report {
    /// Adds a problem with one key.
    pub(super) fn problem(&self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            key: key.into(),
            text: text.into(),
        });
    }

    /// Adds something that works but that an administrator should know.
    pub(super) fn warn(&self, text: String) {
        self.warnings.borrow_mut().push(text);
    }

    /// Takes an address for the listener at `key`; a problem if another one has it. Port 0 is never taken twice.
    pub(super) fn claim(&self, key: String, endpoint: Endpoint) {
        let mut taken = self.taken.borrow_mut();
        if let Some((other, found)) = taken.iter().find(|(_, other)| other.overlaps(&endpoint)) {
            self.problem(
                key.clone(),
                format!(
                    "taken already by {other} (got {endpoint} beside {found}; expected an address of its own)"
                ),
            );
        }
        taken.push((key, endpoint));
    }

    /// Adds a file that is read, and may be read again by the process.
    pub(super) fn reads(&self, path: &Path) {
        self.files.borrow_mut().push(path.to_owned());
    }

    /// Those files, so far.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// How many problems there are so far.
    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Says of files that were not to be read who it was that could not: of all problems but the first so many.
    pub(super) fn name_reader(&self, earlier: usize, reader: impl std::fmt::Display) {
        let denied = std::io::Error::from(rustix::io::Errno::ACCESS).to_string();
        for problem in self.problems.borrow_mut().iter_mut().skip(earlier) {
            if problem.text.ends_with(&denied) {
                problem.text += &format!(", read as {reader}");
            }
        }
    }

    /// Everything found: problems, then warnings.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<String>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether binding both is impossible. IPv4 and IPv6 wildcards live side by side: our IPv6 sockets are IPv6 only.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(two)) => {
                let same_ip = one.ip() == two.ip();
                let wildcard = one.ip().is_unspecified() || two.ip().is_unspecified();
                one.port() != 0
                    && one.port() == two.port()
                    && one.is_ipv4() == two.is_ipv4()
                    && (same_ip || wildcard)
            }
            (Self::Unix(one), Self::Unix(two)) => one == two,
            (Self::Tcp(_), Self::Unix(_)) | (Self::Unix(_), Self::Tcp(_)) => false,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

// === impl Section ===

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table, report: &'a Report) -> Self {
        Self {
            report,
            path: String::new(),
            table: Some(table),
            known: Vec::new(),
        }
    }

    /// The table `name`; if the file lacks it, one in which every key is absent.
    pub(super) fn table(&mut self, name: &'static str) -> Self {
        let table = self.take(name).and_then(|value| {
            let table = value.as_table();
            if table.is_none() {
                self.wrong_type(name, value, format!("a table [{}]", self.key(name)));
            }
            table
        });
        self.below(self.key(name), table)
    }

    /// The tables of the list `name`, at least one; when there is none, that is reported.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<Self> {
        let path = self.key(name);
        let Some(value) = self.take(name) else {
            self.missing(name, &format!("at least one [[{path}]]"));
            return Vec::new();
        };
        let tables: Option<Vec<&Table>> = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_table).collect());
        let Some(tables) = tables.filter(|tables| !tables.is_empty()) else {
            self.wrong_type(name, value, format!("tables [[{path}]]"));
            return Vec::new();
        };
        (1..)
            .zip(tables)
            .map(|(position, table): (usize, _)| {
                self.below(format!("{path}[{position}]"), Some(table))
            })
            .collect()
    }

    /// A key that may be absent; `None` also when it is wrong, which is then reported.
    pub(super) fn optional<T>(&mut self, name: &'static str, form: &Form<T>) -> Option<T> {
        let value = self.take(name)?;
        match form.read(value) {
            Ok(value) => Some(value),
            Err(text) => {
                self.problem(name, text);
                None
            }
        }
    }

    /// A key with a default.
    pub(super) fn or<T>(&mut self, name: &'static str, form: &Form<T>, default: T) -> T {
        self.optional(name, form).unwrap_or(default)
    }

    /// A key that must be there; `None` is always reported.
    pub(super) fn required<T>(&mut self, name: &'static str, form: &Form<T>) -> Option<T> {
        if !self.has(name) {
            self.missing(name, form.expected());
        }
        self.optional(name, form)
    }

    /// A list of values; every element that is wrong is reported.
    pub(super) fn list<T>(&mut self, name: &'static str, form: &Form<T>) -> Option<Vec<T>> {
        let value = self.take(name)?;
        let Some(elements) = value.as_array() else {
            self.wrong_type(name, value, format!("a list; each: {}", form.expected()));
            return None;
        };
        let mut read = Vec::new();
        for (position, element) in (1..).zip(elements) {
            let position: usize = position;
            match form.read(element) {
                Ok(value) => read.push(value),
                Err(text) => self
                    .report
                    .problem(format!("{}[{position}]", self.key(name)), text),
            }
        }
        (read.len() == elements.len()).then_some(read)
    }

    /// Says of a table that nothing uses it; its keys are not looked at.
    pub(super) fn unused(&mut self, why: &str) {
        if self.table.take().is_some() {
            self.report.problem(self.path.as_str(), why);
        }
    }

    /// Leaves a table unread, keys and all: what it means hangs on something that is wrong already.
    pub(super) fn leave(&mut self) {
        self.table = None;
    }

    /// Names keys that are read by nobody here, but are known: the other process's.
    pub(super) fn pass_over(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Whether the file has the key, right or wrong.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(name))
    }

    /// Whether the file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The whole path of a key of this table.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// This table's own path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where problems go.
    pub(super) fn report(&self) -> &'a Report {
        self.report
    }

    /// Adds a problem with a key of this table.
    pub(super) fn problem(&self, name: &str, text: impl Into<String>) {
        self.report.problem(self.key(name), text);
    }

    /// Adds the problem that a key of this table is not there.
    pub(super) fn missing(&self, name: &str, expected: &str) {
        self.problem(name, format!("missing (expected {expected})"));
    }

    fn below(&self, path: String, table: Option<&'a Table>) -> Self {
        Self {
            report: self.report,
            path,
            table,
            known: Vec::new(),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        #[cfg(test)]
        self.report.asked.borrow_mut().insert(
            self.key(name)
                .split('[')
                .map(|part| part.split_once(']').map_or(part, |(_, rest)| rest))
                .collect(),
        );
        self.table?.get(name)
    }

    fn wrong_type(&self, name: &str, value: &Value, expected: String) {
        self.problem(
            name,
            format!("wrong type (got {}; expected {expected})", got(value)),
        );
    }
}

impl Drop for Section<'_> {
    /// Reports the keys that nobody asked for.
    fn drop(&mut self) {
        for name in self.table.into_iter().flat_map(Table::keys) {
            if self.known.iter().any(|known| known == name) {
                continue;
            }
            let hint = nearest(name, &self.known)
                .map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let shown: String = name.escape_debug().take(64).collect();
            self.problem(&shown, format!("unknown key{hint}"));
        }
    }
}

/// The known key that a misspelt one most probably stands for.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|known| {
            let near = known.starts_with(name)
                || name.starts_with(known)
                || letters(name) == letters(known);
            (if near { 1 } else { distance(name, known) }, *known)
        })
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

/// The characters of a text in order: texts that differ by swapped ones have the same.
fn letters(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters
}

/// Edits (insert, delete, replace a character) that make one text of the other.
fn distance(one: &str, two: &str) -> usize {
    let mut row: Vec<usize> = (0..=two.chars().count()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line.saturating_add(1);
        for (b, cell) in two.chars().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(a != b));
            diagonal = *cell;
            *cell = replaced
                .min(diagonal.saturating_add(1))
                .min(left.saturating_add(1));
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = line.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_edits() {
        for (one, two, edits) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("max_lines", "max_line", 1),
            ("tls", "lts", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, two), edits, "{one} {two}");
            assert_eq!(distance(two, one), edits, "{two} {one}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["certificate", "key", "bind_password_file"];
        assert_eq!(nearest("certifcate", &known), Some("certificate"));
        assert_eq!(nearest("bind_password", &known), Some("bind_password_file"));
        assert_eq!(nearest("kye", &known), Some("key"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn wildcards_cover_their_own_family_alone() {
        let overlaps = |one: &str, two: &str| {
            Endpoint::Tcp(one.parse().unwrap()).overlaps(&Endpoint::Tcp(two.parse().unwrap()))
        };
        assert!(overlaps("0.0.0.0:143", "10.0.0.1:143"));
        assert!(overlaps("[::1]:143", "[::]:143"));
        assert!(overlaps("10.0.0.1:143", "10.0.0.1:143"));
        assert!(!overlaps("10.0.0.1:143", "10.0.0.2:143"));
        assert!(!overlaps("0.0.0.0:143", "[::]:143"));
        assert!(!overlaps("0.0.0.0:143", "0.0.0.0:993"));
        assert!(!overlaps("127.0.0.1:0", "127.0.0.1:0"));
    }
}
