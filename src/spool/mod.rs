//! A message between its receipt and its forwarding: in memory up to a limit, then in a file without a name.
//!
//! ```text
//! Spool ─write, write─> (memory │ unlinked file) ─finish─> Spooled ─read at any offset, from anywhere, at the same time
//! ```
//!
//! What is written is copied: a slice of a receive buffer would keep all of that buffer, and a sender that writes an octet
//! at a time would cost a buffer for each. Memory grows to the limit and not beyond. What exceeds it goes into the file a
//! limit's worth at a time, on a thread off the event loop, and is read back from there in pieces.
//!
//! The file has mode 0600 and no name from the start (`O_TMPFILE`); where the file system can't do that it has a random one
//! for the moment between its making and its unlinking. Nothing of it survives the process: it is never synced.
//!
//! It does not look into messages, limit their size, or count them. Limits: [`Settings::memory`] for each message, and one
//! piece for each read. On failure (no space, usually) an `io::Error`; the message is lost then, and its file with it.

mod file;
#[cfg(test)]
mod tests;

use std::{io, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use bytes::Bytes;

use file::File;

/// Read at one time, in octets.
const PIECE_BYTES: usize = 64 * 1024;

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
    settings: Settings,
    /// All of it; once there is a file, what is not yet in there.
    memory: Vec<u8>,
    file: Option<File>,
    /// How much the file has, in octets.
    filed: u64,
}

/// A message that was received. Clones share it.
#[derive(Clone, Debug)]
pub struct Spooled(Place);

#[derive(Clone, Debug)]
enum Place {
    File(Arc<File>, u64),
    Memory(Bytes),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: 256 * 1024,
            folder: PathBuf::from("/var/tmp"),
        }
    }
}

impl Spool {
    /// An empty one.
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            memory: Vec::new(),
            file: None,
            filed: 0,
        }
    }

    /// Adds to it.
    ///
    /// # Errors
    ///
    /// What the file system says; after that nothing may be added.
    pub async fn write(&mut self, octets: Bytes) -> io::Result<()> {
        let mut left = octets.as_ref();
        loop {
            // With no memory at all an octet at a time would still come through.
            let room = self
                .settings
                .memory
                .max(1)
                .saturating_sub(self.memory.len());
            let Some((now, later)) = left.split_at_checked(room).filter(|(_, l)| !l.is_empty())
            else {
                self.keep(left);
                return Ok(());
            };
            self.keep(now);
            left = later;
            self.file_away().await?;
        }
    }

    /// It is complete.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.file_away().await?;
        }
        Ok(Spooled(match self.file {
            Some(file) => Place::File(Arc::new(file), self.filed),
            None => Place::Memory(self.memory.into()),
        }))
    }

    /// Copies, in memory that doubles until it has reached the limit.
    fn keep(&mut self, octets: &[u8]) {
        let wanted = self.memory.len().saturating_add(octets.len());
        if wanted > self.memory.capacity() {
            let roomy = self.memory.capacity().saturating_mul(2);
            let capacity = roomy.min(self.settings.memory).max(wanted);
            let more = capacity.saturating_sub(self.memory.len());
            self.memory.reserve_exact(more);
        }
        self.memory.extend_from_slice(octets);
    }

    /// Moves what is in memory into the file, which is made for the first of it.
    async fn file_away(&mut self) -> io::Result<()> {
        let mut octets = std::mem::take(&mut self.memory);
        let (file, folder) = (self.file.take(), self.settings.folder.clone());
        let offset = self.filed;
        let (file, memory, written) = blocking(move || {
            let file = match file {
                Some(file) => file,
                None => file::unnamed(&folder)?,
            };
            file.write_all_at(&octets, offset)?;
            let written = octets.len() as u64;
            octets.clear();
            Ok((file, octets, written))
        })
        .await?;
        self.memory = memory;
        self.file = Some(file);
        self.filed = self.filed.saturating_add(written);
        Ok(())
    }
}

impl Spooled {
    /// Its size, in octets.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Place::File(_, len) => *len,
            Place::Memory(octets) => octets.len() as u64,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was too large for memory.
    pub fn is_in_file(&self) -> bool {
        matches!(self.0, Place::File(..))
    }

    /// At most 64 KiB from `offset`; none at the end. May block on a file: for threads off the event loop.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn read_blocking(&self, offset: u64) -> io::Result<Bytes> {
        match &self.0 {
            Place::File(file, len) => read_file(file, *len, offset),
            Place::Memory(octets) => {
                let start = usize::try_from(offset).map_or(octets.len(), |at| at.min(octets.len()));
                let end = start.saturating_add(PIECE_BYTES).min(octets.len());
                Ok(octets.slice(start..end))
            }
        }
    }

    /// The same, on the event loop.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn read(&self, offset: u64) -> io::Result<Bytes> {
        if !self.is_in_file() {
            return self.read_blocking(offset);
        }
        let spooled = self.clone();
        blocking(move || spooled.read_blocking(offset)).await
    }
}

fn read_file(file: &File, len: u64, offset: u64) -> io::Result<Bytes> {
    let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut octets = vec![0; left.min(PIECE_BYTES)];
    // A file that has become shorter is no end of the message, but an error.
    file.read_exact_at(&mut octets, offset)?;
    Ok(octets.into())
}

/// Runs what may block on a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
