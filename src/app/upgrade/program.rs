//! Which program a process runs: its version, and its file, since one that was built anew may have the same version.

use std::{fs, os::unix::fs::MetadataExt as _};

/// A program of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// As it says of itself.
    pub version: String,
    /// Device and inode, which no other file has while a process runs it; zeros: not known.
    pub(super) file: [u64; 2],
}

impl Program {
    /// That of this process, also when something else lies in its place by now.
    pub fn own() -> Self {
        let file = fs::metadata("/proc/self/exe").map(|file| [file.dev(), file.ino()]);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: file.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_file_is_the_one_that_was_executed() {
        let file = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(Program::own().file, [file.dev(), file.ino()]);
    }
}
