//! Disks that are full, and disks with quotas of their own: tmpfs, and btrfs on a loop device, mounted below temporary folders.
//! A machine that can't mount them fails here.

use std::{ffi::OsStr, process::Command};

use super::*;

/// A file system in a temporary folder, unmounted when it is dropped.
pub(super) struct Mounted {
    folder: tempfile::TempDir,
    /// Below it.
    path: PathBuf,
}

impl Mounted {
    fn mount<W: AsRef<OsStr>>(words: &[W]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
        run("mount", &[&words[..], &[path.as_os_str()]].concat());
        Self { folder, path }
    }

    fn tmpfs(options: &str) -> Self {
        let options = format!("mode=0755,{options}");
        Self::mount(&["-t", "tmpfs", "-o", &options, "pigeonair"])
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mount = self.folder.path().join("disk");
        let _ = Command::new("umount").arg(mount).status();
    }
}

fn run<W: AsRef<OsStr>>(program: &str, words: &[W]) {
    let status = Command::new(program).args(words).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program}: {status}");
}

fn assert_clean(lab: &Lab, stored: usize) {
    assert_eq!(lab.names("new").len(), stored);
    assert!(lab.names("tmp").is_empty());
}

#[test]
fn a_full_disk_is_said_so_and_leaves_nothing_behind() {
    let lab = Lab::at_root(Root::Mounted(Mounted::tmpfs("size=1m")));
    lab.store(&owner(), &message(MAIL)).unwrap();
    let free = || rustix::fs::statvfs(lab.root.path()).unwrap().f_bfree;
    let before = free();
    let large = [MAIL, &vec![b'x'; 2 << 20]].concat();
    for _ in 0..3 {
        let error = lab.store(&owner(), &message(&large)).unwrap_err();
        assert_eq!(error.cause(), Cause::DiskFull, "{error}");
        assert_clean(&lab, 1);
    }
    // What was cut short is closed, and its room free, a moment after its error is told.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while free() < before {
        assert!(
            std::time::Instant::now() < deadline,
            "the room of a failed message was never free again"
        );
        std::thread::yield_now();
    }
    // Full to the last octet.
    let filler = lab.root.path().join("filler");
    assert!(fs::write(&filler, vec![0; 2 << 20]).is_err());
    let error = lab.store(&owner(), &message(MAIL)).unwrap_err();
    assert_eq!(error.cause(), Cause::DiskFull, "{error}");
    assert_clean(&lab, 1);
    fs::remove_file(filler).unwrap();
    lab.store(&owner(), &message(MAIL)).unwrap();
    assert_clean(&lab, 2);
}

#[test]
fn a_disk_without_inodes_is_full_at_each_step() {
    for inodes in 1..12 {
        let options = format!("size=1m,nr_inodes={inodes}");
        let lab = Lab::at_root(Root::Mounted(Mounted::tmpfs(&options)));
        let owner = Owner {
            quota: Some(100_000),
            ..owner()
        };
        let Err(error) = lab.store(&owner, &message(MAIL)) else {
            // That is the root, the home, the Maildir and its three folders; then the message.
            assert!(inodes > 6, "{inodes}");
            return;
        };
        assert_eq!(error.cause(), Cause::DiskFull, "{inodes}: {error}");
        let path = lab.root.path().to_str().unwrap();
        run("mount", &["-o", "remount,nr_inodes=100", path]);
        lab.store(&owner, &message(MAIL)).unwrap();
        assert_clean(&lab, 1);
        assert_eq!(names(lab.root.path()), ["ann"]);
    }
    panic!("there was never room");
}

/// Where the kernel has no btrfs this says so and shows nothing; with `PIGEONAIR_FULL` it fails there.
#[test]
fn a_quota_of_the_disk_is_the_owners() {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let can = known.contains("btrfs") && Path::new("/dev/loop-control").exists();
    if !can && std::env::var_os("PIGEONAIR_FULL").is_none() {
        eprintln!("not run: this kernel has no btrfs or no loop devices");
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(256 << 20).unwrap();
    run(
        "mkfs.btrfs",
        &[
            "-q".as_ref(),
            "-m".as_ref(),
            "single".as_ref(),
            image.path().as_os_str(),
        ],
    );
    let words = ["-o".as_ref(), "loop".as_ref(), image.path().as_os_str()];
    let mut mounted = Mounted::mount(&words);
    let disk = mounted.path.to_str().unwrap().to_owned();
    let volume = format!("{disk}/volume");
    run("btrfs", &["quota", "enable", &disk]);
    run("btrfs", &["-q", "subvolume", "create", &volume]);
    run("btrfs", &["qgroup", "limit", "4M", &volume]);
    mounted.path = PathBuf::from(volume);
    let mut lab = Lab::at_root(Root::Mounted(mounted));
    lab.store(&owner(), &message(MAIL)).unwrap();
    let large = [MAIL, &vec![b'x'; 8 << 20]].concat();
    for (permanent, cause) in [(true, Cause::OverQuota), (false, Cause::OverQuotaForNow)] {
        lab.permanent = permanent;
        let error = lab.store(&owner(), &message(&large)).unwrap_err();
        assert_eq!(error.cause(), cause, "{error}");
        assert_clean(&lab, 1);
    }
    // Full: now the file, and a new home, can't even be made.
    let filler = lab.root.path().join("filler");
    assert!(fs::write(&filler, vec![0; 8 << 20]).is_err());
    for home in ["ann", "bea"] {
        let owner = Owner {
            home: home.to_owned(),
            ..owner()
        };
        let mut full = None;
        for _ in 0..200 {
            let result = lab.store(&owner, &message(&[MAIL, &[b'x'; 100_000]].concat()));
            if let Err(error) = result {
                full = Some(error.cause());
                break;
            }
        }
        assert_eq!(full, Some(Cause::OverQuotaForNow), "{home}");
    }
    assert!(lab.names("tmp").is_empty());
    fs::remove_file(filler).unwrap();
    run(
        "btrfs",
        &["filesystem", "sync", lab.root.path().to_str().unwrap()],
    );
    lab.store(&owner(), &message(MAIL)).unwrap();
}

#[test]
fn what_the_system_says_is_said_on() {
    for (errno, cause) in [
        (Errno::NOSPC, Cause::DiskFull),
        (Errno::DQUOT, Cause::OverQuotaForNow),
        (Errno::FBIG, Cause::TooBig),
        (Errno::IO, Cause::Failed),
        (Errno::ROFS, Cause::Failed),
        (Errno::ACCESS, Cause::Misconfigured),
        (Errno::MFILE, Cause::Failed),
    ] {
        let error = StoreError::system("try")(errno);
        assert_eq!(error.with_quota(false).cause(), cause, "{errno}");
        let source = errno.into();
        let error = StoreError::Home(HomeError::Io {
            path: String::new(),
            source,
        });
        assert_eq!(error.with_quota(false).cause(), cause, "{errno}");
    }
}
