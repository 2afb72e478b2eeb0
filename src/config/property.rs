//! What must hold for any text as a configuration file: the property that the fuzz target calls. Not in ordinary builds.
//!
//! Nothing panics; a file that is not usable has at least one problem, and each is one line that a terminal can show.
//! No file is opened whatever the text names, for some of a system's files do something when they are opened.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Problem, Problems, Report, Role, Section, assemble, system, table_of};

/// Where no file is.
const NOWHERE: &str = "/nowhere";

/// Holds for any octets.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut table = match table_of(text) {
        Ok(table) => table,
        Err(problem) => return is_line(&problem),
    };
    table.iter_mut().for_each(|(_, value)| move_away(value));
    for role in [None, Some(Role::Front), Some(Role::Node)] {
        hold(&table, role);
    }
}

fn hold(table: &Table, role: Option<Role>) {
    let system = super::System {
        authorities: PathBuf::from(NOWHERE),
        ..system()
    };
    let report = Report::default();
    let config = assemble(&mut Section::root(table, &report), role, &system);
    let (problems, warnings) = report.into_parts();
    assert!(config.is_some() || !problems.is_empty(), "nothing is said");
    warnings.iter().for_each(|warning| is_line(warning));
    for Problem { key, text } in &problems {
        is_line(&format!("{key}: {text}"));
    }
    let problems = Problems {
        file: Path::new(NOWHERE).to_owned(),
        problems,
    };
    assert_eq!(
        problems.to_string().lines().count(),
        problems.problems.len()
    );
}

fn is_line(text: &str) {
    assert!(
        !text.is_empty() && !text.contains(char::is_control),
        "{text:?}"
    );
}

/// Lets every absolute path lead nowhere.
fn move_away(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with('/') => text.insert_str(0, NOWHERE),
        Value::Array(values) => values.iter_mut().for_each(move_away),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| move_away(value)),
        Value::String(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Float(_)
        | Value::Integer(_) => {}
    }
}
