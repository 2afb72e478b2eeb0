//! A message between its receipt and its forwarding: in memory up to a limit, then in a file without a name.
//!
//! ```text
//! Spool ─write, write─> (memory │ unlinked file) ─finish─> Spooled ─read at any offset, from anywhere, at the same time
//! ```
//!
//! Nothing of it survives the process. On failure (no space, usually) an `io::Error`.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;

/// Where messages wait.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Octets of one message kept in memory; default 256 KiB.
    pub memory: usize,
    /// Folder for larger ones; default `/var/tmp`.
    pub folder: PathBuf,
}

/// A message that is being received.
#[derive(Debug)]
pub struct Spool {
    _settings: Settings,
}

/// A message that was received. Clones share it.
#[derive(Clone, Debug)]
pub struct Spooled {
    inner: Arc<Vec<u8>>,
}

impl Spool {
    /// An empty one.
    pub const fn new(settings: Settings) -> Self {
        Self {
            _settings: settings,
        }
    }

    /// Adds to it.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn write(&mut self, _octets: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// It is complete.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn finish(self) -> io::Result<Spooled> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Spooled {
    /// Its size, in octets.
    pub fn len(&self) -> u64 {
        self.inner.len() as u64
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// At most 64 KiB from `offset`; none at the end. May block on a file: for threads off the event loop.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn read_blocking(&self, _offset: u64) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The same, on the event loop.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn read(&self, _offset: u64) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
