//! Asking the running front, which all commands share that see or act.
//!
//! What is about sessions is asked of the processes that it has taken the place of, too: they have theirs until these are over.
//!
//! Of the configuration they need where the front answers and read nothing else, so that whoever may use the socket need not be
//! able to read keys and passwords; with `--socket` they read nothing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Failed, print};
use crate::{
    admin::{self, AskError, Question},
    config,
};

/// Where the front is.
#[derive(Debug, clap::Args)]
pub(super) struct Front {
    /// The configuration file, of which [admin] front_socket is read.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// The front's Unix socket; no configuration is read.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    pub(super) json: bool,
}

impl Front {
    /// Its socket.
    pub(super) fn socket(&self) -> Result<PathBuf, Failed> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let configured = config::answering(&self.config)?.admin.front_socket;
        configured.ok_or_else(|| Failed::NoSocket(self.config.clone()))
    }

    /// What it answers.
    pub(super) fn ask(&self, question: &impl Question) -> Result<Value, Failed> {
        Ok(admin::ask(&self.socket()?, question)?)
    }

    /// Has it do something, and then the processes that it has taken the place of. Says what came of it: to programs its answer
    /// with their sums, to people what `say` makes of that.
    pub(super) fn tell(
        &self,
        question: &impl Question,
        out: &mut impl std::io::Write,
        say: impl FnOnce(&Value) -> String,
    ) -> Result<Value, Failed> {
        let common = self.socket()?;
        let mut answer = admin::ask(&common, question)?;
        let question = question.after(&answer);
        let mut failed = None;
        for (pid, own) in admin::replaced(&common) {
            match unless_ended(&own, || admin::ask(&own, &question)) {
                Ok(Some(told)) => add(&mut answer, &told),
                // What is meant is not there.
                Ok(None) | Err(AskError::Refused { status: 404, .. }) => {}
                // Those behind it are told as well.
                Err(source) => {
                    failed.get_or_insert(Failed::Replaced { pid, source });
                }
            }
        }
        self.say(&answer, out, say)?;
        failed.map_or(Ok(answer), Err)
    }

    /// To programs an answer, to people what `say` makes of it.
    pub(super) fn say(
        &self,
        answer: &Value,
        out: &mut impl std::io::Write,
        say: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failed> {
        if self.json {
            return print(out, format_args!("{answer}\n"));
        }
        print(out, say(answer))
    }
}

/// Adds what another process has done.
fn add(answer: &mut Value, told: &Value) {
    for (key, sum) in SUMS {
        if let Some(all) = answer.get_mut(key) {
            *all = sum(number_of(all), number(told, key)).into();
        }
    }
}

type Sum = fn(u64, u64) -> u64;

/// What becomes of the numbers of several processes.
const SUMS: [(&str, Sum); 3] = [
    ("sessions", u64::saturating_add),
    ("forgotten", u64::saturating_add),
    ("within_ms", u64::max),
];

/// What is answered at a socket of a replaced process; nothing if that has ended by then.
pub(super) fn unless_ended<T, E>(
    own: &Path,
    ask: impl FnOnce() -> Result<T, E>,
) -> Result<Option<T>, E> {
    if admin::has_ended(own) {
        return Ok(None);
    }
    match ask() {
        Err(_) if admin::has_ended(own) => Ok(None),
        answer => answer.map(Some),
    }
}

/// A text of an answer.
pub(super) fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an answer.
pub(super) fn number(answer: &Value, key: &str) -> u64 {
    answer.get(key).map(number_of).unwrap_or_default()
}

fn number_of(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// A yes or no of an answer.
pub(super) fn is(answer: &Value, key: &str) -> bool {
    answer.get(key).and_then(Value::as_bool) == Some(true)
}
