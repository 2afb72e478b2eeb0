//! The socket of a process's own: where it is asked once another process has taken its place, and with that its socket.
//!
//! It lies beside that socket, by the same name with `.PID` behind it, for as long as the process lives after that. One that was
//! killed leaves the file, and nobody listens there.
//!
//! Limit: [`MAX_REPLACED`] processes are looked for.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use crate::net;

/// So many are not there, unless upgrades are made by mistake, one after the other.
const MAX_REPLACED: usize = 256;

/// A bound one; its file goes with it.
#[derive(Debug)]
pub struct OwnSocket(PathBuf);

impl OwnSocket {
    /// Binds that of this process, beside the socket at `beside` and with the mode that this has by now.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn bind(beside: &Path) -> io::Result<(Self, UnixListener)> {
        let path = path(beside, std::process::id());
        let mode = fs::metadata(beside)?.permissions().mode() & 0o777;
        let socket = net::listen_unix(&path, mode)?;
        Ok((Self(path), socket))
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // The folder may be gone by now.
        let _ = fs::remove_file(&self.0);
    }
}

fn path(beside: &Path, pid: u32) -> PathBuf {
    let mut path = OsString::from(beside);
    path.push(format!(".{pid}"));
    path.into()
}

/// Whether nobody is there, and so whoever was asked there has ended.
pub fn has_ended(own: &Path) -> bool {
    let connected = UnixStream::connect(own);
    connected.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    })
}

/// The processes that were replaced at the socket at `beside`, by id, with where each is asked; some may have ended.
pub fn replaced(beside: &Path) -> Vec<(u32, PathBuf)> {
    let Some((folder, name)) = beside.parent().zip(beside.file_name()) else {
        return Vec::new();
    };
    let Ok(files) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let pid = |file: OsString| {
        let rest = file.as_bytes().strip_prefix(name.as_bytes())?;
        let pid: u32 = std::str::from_utf8(rest)
            .ok()?
            .strip_prefix('.')?
            .parse()
            .ok()?;
        // Not `.+1` or `.01`.
        (path(beside, pid).file_name() == Some(&file)).then_some(pid)
    };
    let pids = files.filter_map(|file| pid(file.ok()?.file_name()));
    let mut pids: Vec<u32> = pids.take(MAX_REPLACED).collect();
    pids.sort_unstable();
    pids.into_iter()
        .map(|pid| (pid, path(beside, pid)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_beside_the_other_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let common = dir.path().join("front.sock");
        for other in [
            "front.sock",
            "front.sock.",
            "front.sock.x",
            "front.sock.07",
            "front.sock.+7",
            "front.sock2",
            "node.sock.7",
        ] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        assert_eq!(replaced(&common), []);
        let (own, _listener) = OwnSocket::bind(&common).unwrap();
        fs::write(dir.path().join("front.sock.1"), "").unwrap();
        let pid = std::process::id();
        let expected = [1, pid].map(|pid| (pid, dir.path().join(format!("front.sock.{pid}"))));
        assert_eq!(replaced(&common), expected);
        assert_eq!(
            expected.each_ref().map(|(_, own)| has_ended(own)),
            [true, false]
        );
        drop(own);
        assert!(has_ended(&expected[1].1));
        assert_eq!(replaced(&common), expected[..1]);
        assert_eq!(replaced(Path::new("/")), []);
    }
}
