//! `pigeonair reload`: asks a process, over its Unix socket, to read its configuration again.
//!
//! What the process finds wrong is told as `check` would, and then nothing has changed. Of the file only the socket's path is read
//! here: the process may see other things wrong with it than whoever asks, and it is the process that matters. A file that is
//! not TOML at all is told at once, and the process is not asked. On failure: a [`Failed`].

use std::{io::Write, path::Path};

use serde_json::Value;

use super::{Failed, Process, print};
use crate::{
    admin::{self, AskError, Peer},
    config,
};

/// Why a process was not asked to reload, or did not say what came of it.
#[derive(Debug, thiserror::Error)]
pub enum Unasked {
    /// It has no socket.
    #[error("{0} is not set: set it and start the process again, or send SIGHUP to the process")]
    NoSocket(&'static str),
    /// It does not answer.
    #[error(transparent)]
    Silent(AskError),
}

pub(super) fn run(
    process: Process,
    path: &Path,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failed> {
    let admin = config::answering(path)?.admin;
    let (word, key, socket) = match process {
        Process::Front => ("front", "[admin] front_socket", admin.front_socket),
        Process::Node => ("node", "[admin] node_socket", admin.node_socket),
    };
    let failed = |source| Failed::Reload {
        process: word,
        source,
    };
    let socket = socket.ok_or_else(|| failed(Unasked::NoSocket(key)))?;
    let peer = Peer {
        process: word,
        socket: &socket,
    };
    let reloaded = admin::reload(peer).map_err(|error| failed(Unasked::Silent(error)))?;
    let taken = reloaded.map_err(Failed::NotTaken)?;
    let words = |name: &str| {
        let list = taken.get(name).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.collect::<Vec<_>>()
    };
    for warning in words("warnings") {
        // Notes are by the way.
        let _ = writeln!(notes, "{}: warning: {warning}", path.display());
    }
    let changed = match words("changed") {
        changed if changed.is_empty() => "nothing has changed".to_owned(),
        changed => format!("changed: {}", changed.join(" ")),
    };
    print(
        out,
        format_args!("{word}: configuration taken ({changed})\n"),
    )
}
