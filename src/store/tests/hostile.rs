//! Owners, and others, who put something else where a folder or file is expected, before or in the middle of it.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// A Maildir elsewhere that must stay as it is, although the owner could write into it.
fn precious() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cur", "new", "tmp"] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(path, Some(UID), None).unwrap();
    }
    chown(folder.path(), Some(UID), None).unwrap();
    folder
}

/// Nothing came into a folder or any below it.
fn assert_untouched(folder: &Path) {
    assert_eq!(names(folder), ["cur", "new", "tmp"]);
    for name in ["cur", "new", "tmp"] {
        assert!(names(&folder.join(name)).is_empty(), "{name}");
    }
}

fn replace(path: &Path, with: impl Fn(&Path)) {
    if path.symlink_metadata().is_ok() {
        fs::rename(path, path.with_extension("away")).unwrap();
    }
    with(path);
    let _ = std::os::unix::fs::lchown(path, Some(UID), Some(GID));
}

#[test]
fn links_and_files_in_place_of_folders_are_refused_by_name() {
    for folder in ["", "Maildir", "Maildir/tmp", "Maildir/new", "Maildir/cur"] {
        let precious = precious();
        let target = precious.path().to_owned();
        let kinds: [&dyn Fn(&Path); 4] = [
            &|path| symlink(&target, path).unwrap(),
            &|path| symlink("Maildir.away", path).unwrap(),
            &|path| symlink("nowhere", path).unwrap(),
            &|path| fs::write(path, "").unwrap(),
        ];
        for kind in kinds {
            let lab = Lab::new();
            lab.make_maildir();
            replace(&lab.at(folder), kind);
            let error = lab.store(&owner(), &message(MAIL)).unwrap_err();
            assert_eq!(error.cause(), Cause::Misconfigured, "{folder}: {error}");
            let shown = if folder.is_empty() { "ann" } else { folder };
            let mut text = error.to_string();
            if let StoreError::Home(error) = &error {
                text = error.to_string();
            }
            assert!(
                text.contains(shown) && text.contains("is a symbolic link, or not a folder"),
                "{text}"
            );
            assert_untouched(precious.path());
        }
    }
}

#[test]
fn a_folder_that_its_owner_cant_use_is_not_used_for_him() {
    for folder in ["Maildir", "Maildir/tmp", "Maildir/new"] {
        let lab = Lab::new();
        lab.make_maildir();
        let path = lab.at(folder);
        chown(&path, Some(0), Some(0)).unwrap();
        let error = lab.store(&owner(), &message(MAIL)).unwrap_err();
        assert_eq!(error.cause(), Cause::Misconfigured, "{folder}: {error}");
        chown(&path, Some(UID), Some(GID)).unwrap();
        assert!(lab.names("new").is_empty() && lab.names("tmp").is_empty());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let error = lab.store(&owner(), &message(MAIL)).unwrap_err();
        assert_eq!(error.cause(), Cause::Misconfigured, "{folder}: {error}");
    }
}

#[test]
fn what_is_swapped_in_meanwhile_gets_nothing() {
    for moment in [Moment::Home, Moment::Open, Moment::Written] {
        for folder in ["", "Maildir", "Maildir/tmp", "Maildir/new"] {
            let lab = Lab::new();
            lab.make_maildir();
            let precious = precious();
            let (path, target) = (lab.at(folder), precious.path().to_owned());
            let mut done = false;
            let result = lab.meddle(&owner(), &message(MAIL), |now| {
                if now == moment {
                    done = true;
                    fs::rename(&path, path.with_extension("away")).unwrap();
                    symlink(&target, &path).unwrap();
                }
            });
            assert!(done);
            assert_untouched(precious.path());
            match result {
                // It went into the folders that were opened.
                Ok(()) => {
                    let new = lab.maildir().join("new");
                    let moved = if folder.is_empty() {
                        lab.root.path().join("ann.away/Maildir/new")
                    } else {
                        match folder {
                            "Maildir" => lab.home().join("Maildir.away/new"),
                            "Maildir/new" => lab.maildir().join("new.away"),
                            _ => new,
                        }
                    };
                    assert_eq!(names(&moved).len(), 1, "{moment:?} {folder}");
                }
                Err(error) => {
                    assert_eq!(moment, Moment::Home, "{folder}: {error}");
                    assert_eq!(error.cause(), Cause::Misconfigured);
                }
            }
        }
    }
}
