//! Messages of every size, in memory and in files, read by several at once; folders that are full or gone.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process::Command,
};

use super::*;

fn settings(memory: usize, folder: &Path) -> Settings {
    Settings {
        memory,
        folder: folder.to_owned(),
    }
}

/// Octets that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(len)
        .collect()
}

async fn spooled(settings: Settings, octets: &[u8], piece: usize) -> io::Result<Spooled> {
    let mut spool = Spool::new(settings);
    for octets in octets.chunks(piece) {
        spool.write(Bytes::copy_from_slice(octets)).await?;
        assert!(spool.memory.capacity() <= spool.settings.memory.max(8));
    }
    spool.finish().await
}

async fn contents(spooled: &Spooled, mut offset: u64) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let octets = spooled.read(offset).await.unwrap();
        assert_eq!(octets, spooled.read_blocking(offset).unwrap());
        if octets.is_empty() {
            return all;
        }
        offset += octets.len() as u64;
        all.extend_from_slice(&octets);
    }
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn messages_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    const LIMIT: usize = 100_000;
    for (len, in_file) in [
        (0, false),
        (1, false),
        (PIECE_BYTES, false),
        (LIMIT - 1, false),
        (LIMIT, false),
        (LIMIT + 1, true),
        (2 * LIMIT, true),
        (5 * LIMIT + 7, true),
    ] {
        let octets = pattern(len);
        for piece in [997, PIECE_BYTES, 3 * LIMIT] {
            let settings = settings(LIMIT, dir.path());
            let spooled = spooled(settings, &octets, piece).await.unwrap();
            assert_eq!(spooled.is_in_file(), in_file, "{len}");
            assert_eq!(spooled.len(), len as u64);
            assert_eq!(spooled.is_empty(), len == 0);
            assert!(contents(&spooled, 0).await == octets, "{len} by {piece}");
            let middle = len / 3;
            assert!(contents(&spooled, middle as u64).await == octets[middle..]);
            for beyond in [len as u64, len as u64 + 1, u64::MAX] {
                assert!(spooled.read(beyond).await.unwrap().is_empty());
            }
        }
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A slice of a large buffer must not keep the buffer.
#[tokio::test]
async fn what_is_kept_is_no_larger_than_the_message() {
    let mut spool = Spool::new(settings(1000, Path::new("/nowhere")));
    let buffer = Bytes::from(vec![b'x'; 1 << 20]);
    for at in 0..900 {
        spool.write(buffer.slice(at..at + 1)).await.unwrap();
    }
    assert!(spool.memory.capacity() <= 1000);
    assert!(buffer.is_unique(), "somebody keeps the buffer");
}

#[tokio::test]
async fn without_memory_everything_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let octets = pattern(100);
    for memory in [0, 1] {
        let settings = settings(memory, dir.path());
        let spooled = spooled(settings, &octets, 7).await.unwrap();
        assert!(contents(&spooled, 0).await == octets);
    }
}

#[tokio::test]
async fn many_read_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let octets = pattern(1 << 20);
    let spooled = spooled(settings(4096, dir.path()), &octets, 10_000)
        .await
        .unwrap();
    let readers: Vec<_> = (0..8u64)
        .map(|reader| {
            let (spooled, from) = (spooled.clone(), reader * 1111);
            tokio::task::spawn_blocking(move || {
                tokio::runtime::Handle::current().block_on(contents(&spooled, from))
            })
        })
        .collect();
    for (reader, read) in readers.into_iter().enumerate() {
        assert!(read.await.unwrap() == octets[reader * 1111..], "{reader}");
    }
}

/// The file has no name, so nothing can be left of it when the process is killed; only its owner may read it.
#[tokio::test]
async fn files_have_no_name() {
    let dir = tempfile::tempdir().unwrap();
    for make in [file::unnamed, file::unlinked] {
        let file = make(dir.path()).unwrap();
        file.write_all_at(b"some", 0).unwrap();
        let about = file.metadata().unwrap();
        assert_eq!((about.nlink(), about.mode() & 0o7777), (0, 0o600));
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(names(dir.path()), [""; 0]);
    }
    let spooled = spooled(settings(1, dir.path()), b"some", 4).await.unwrap();
    let Spooled(Place::File(file, _)) = &spooled else {
        panic!("{spooled:?}");
    };
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let shown = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert!(shown.to_str().unwrap().ends_with("(deleted)"), "{shown:?}");
}

/// A small file system of its own; unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "pigeonair"]);
        let status = mount.arg(dir.path()).status().unwrap();
        assert!(status.success(), "these tests mount, as root");
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_the_space_comes_back() {
    let small = Small::mount("256k");
    let folder = small.0.path();
    let full = pattern(1 << 20);
    let error = spooled(settings(4096, folder), &full, 1000)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    // The rest that only `finish` writes.
    let mut spool = Spool::new(settings(200_000, folder));
    spool
        .write(Bytes::from(full.clone()).slice(..399_999))
        .await
        .unwrap();
    let error = spool.finish().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let fits = pattern(200_000);
    let spooled = spooled(settings(4096, folder), &fits, 1000).await.unwrap();
    assert!(contents(&spooled, 0).await == fits);
}

#[tokio::test]
async fn a_folder_that_is_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(10, &dir.path().join("gone"));
    let error = spooled(settings.clone(), b"more than ten", 4)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    // What fits memory needs no folder.
    assert!(spooled(settings, b"ten", 4).await.is_ok());
}
