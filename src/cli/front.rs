//! Asking the running front, which all commands share that see or act.
//!
//! Of the configuration they need where the front answers and read nothing else, so that whoever may use the socket need not be
//! able to read keys and passwords; with `--socket` they read nothing.

use std::path::PathBuf;

use serde_json::Value;

use super::{Failed, print};
use crate::{
    admin::{self, Question},
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

    /// Has it do something, and says what came of it: to programs its answer, to people what `say` makes of that.
    pub(super) fn tell(
        &self,
        question: &impl Question,
        out: &mut impl std::io::Write,
        say: impl FnOnce(&Value) -> String,
    ) -> Result<Value, Failed> {
        let answer = self.ask(question)?;
        if self.json {
            print(out, format_args!("{answer}\n"))?;
        } else {
            print(out, say(&answer))?;
        }
        Ok(answer)
    }
}

/// A text of an answer.
pub(super) fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an answer.
pub(super) fn number(answer: &Value, key: &str) -> u64 {
    answer.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// A yes or no of an answer.
pub(super) fn is(answer: &Value, key: &str) -> bool {
    answer.get(key).and_then(Value::as_bool) == Some(true)
}
