//! Storing on real file systems. Run as root: it takes becoming others.
//!
//! A `Lab` is a home_root in a temporary folder. `store` writes one message on a thread of its own, as the store's threads do, so
//! that what it gives up is not given up by the test; `meddle` does the same and stops at a moment.

mod delivery;
mod disk;
mod hostile;
mod mailbox;
mod order;
mod rights;
mod trace;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::*;
use crate::spool::{self, Spool};

const UID: u32 = 20_101;
const GID: u32 = 20_102;
const MAIL: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// A folder that may be a file system of its own.
enum Root {
    Folder(tempfile::TempDir),
    Mounted(disk::Mounted),
    Borrowed(PathBuf),
}

impl Root {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.path(),
            Self::Mounted(mounted) => mounted.path(),
            Self::Borrowed(path) => path,
        }
    }
}

struct Lab {
    root: Root,
    folder: &'static str,
    permanent: bool,
}

impl Lab {
    fn new() -> Self {
        Self::at_root(Root::Folder(tempfile::tempdir().unwrap()))
    }

    fn at_root(root: Root) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests become other users: run them as root"
        );
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            root,
            folder: "Maildir",
            permanent: false,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            bounds: Bounds {
                uids: 1000..=u32::MAX,
                gids: 1000..=u32::MAX,
                home_root: self.root.path().to_owned(),
            },
            folder: self.folder.to_owned(),
            threads: 4,
            over_quota_is_permanent: self.permanent,
        }
    }

    /// Stores one message as a thread of the store does.
    fn store(&self, owner: &Owner, message: &Message) -> Result<(), StoreError> {
        self.meddle(owner, message, |_| {})
    }

    /// The same; what is done at a moment is done as root, while the thread waits as the owner.
    fn meddle(
        &self,
        owner: &Owner,
        message: &Message,
        mut watch: impl FnMut(Moment),
    ) -> Result<(), StoreError> {
        let settings = self.settings();
        std::thread::scope(|scope| {
            // Dropped when `watch` panics, so that the thread goes on.
            let (ask, asked) = sync_channel(0);
            let (done, finished) = sync_channel(0);
            let thread = scope.spawn(move || {
                let writer = writer(settings);
                writer.store(owner, message, || true, &mut |moment| {
                    let _ = ask.send(moment);
                    let _ = finished.recv();
                })
            });
            for moment in asked {
                watch(moment);
                done.send(()).unwrap();
            }
            thread.join().unwrap()
        })
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("ann")
    }

    fn maildir(&self) -> PathBuf {
        self.home().join(self.folder)
    }

    /// A folder of the home; the home itself for none.
    fn at(&self, folder: &str) -> PathBuf {
        if folder.is_empty() {
            self.home()
        } else {
            self.home().join(folder)
        }
    }

    /// The names in a folder of the Maildir.
    fn names(&self, folder: &str) -> Vec<String> {
        names(&self.maildir().join(folder))
    }

    /// A Maildir as its owner would have made it.
    fn make_maildir(&self) {
        self.store(&owner(), &message(MAIL)).unwrap();
        for name in self.names("new") {
            fs::remove_file(self.maildir().join("new").join(name)).unwrap();
        }
    }
}

/// What a thread has; the calling one gives up its rights.
fn writer(settings: Settings) -> Writer {
    Writer {
        settings,
        host: Host::here(),
        leftovers: Arc::default(),
        identity: Identity::settle().unwrap(),
    }
}

fn on_a_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn owner() -> Owner {
    Owner {
        account: AccountName::parse("ann@example.org").unwrap(),
        uid: UID,
        gid: GID,
        home: "ann".to_owned(),
        quota: None,
    }
}

fn message(octets: &[u8]) -> Message {
    Message {
        session: SessionId::parse("s1").unwrap(),
        sender: "bea@example.net".to_owned(),
        recipient: "ann@example.org".to_owned(),
        octets: spooled(octets),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn spooled(octets: &[u8]) -> Spooled {
    runtime().block_on(async {
        let mut spool = Spool::new(spool::Settings {
            memory: 1 << 30,
            folder: PathBuf::from("/tmp"),
        });
        spool.write(Bytes::copy_from_slice(octets)).await.unwrap();
        spool.finish().await.unwrap()
    })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn owned(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}
/// This test once more, in a process of its own that finds `variable` set.
fn again(test: &str, variable: &str, value: &Path) -> Vec<std::ffi::OsString> {
    let setting = format!("{variable}={}", value.display());
    let program = std::env::current_exe().unwrap();
    let mut words = vec!["env".into(), setting.into(), program.into()];
    let options = ["--exact", test, "--nocapture", "--test-threads=1"];
    words.extend(options.map(Into::into));
    words
}
