//! Homes on a real file system, with someone meddling between the steps. Run as root.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
};

use super::*;

const UID: u32 = 20_001;
const GID: u32 = 20_002;

/// A home_root that belongs to root, with mode 0755.
fn root() -> tempfile::TempDir {
    assert_eq!(
        us(),
        0,
        "these tests make folders for other users: run them as root"
    );
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn prepare(root: &Path, home: &str) -> Result<(), HomeError> {
    Home::locate(root, home)?.prepare(UID, GID)
}

/// What is in a folder, hidden names included.
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

#[test]
fn paths_are_taken_or_refused_by_their_words_alone() {
    let root = Path::new("/srv/mail");
    for (home, path) in [
        ("ann", "/srv/mail/ann"),
        ("example.org/a/ann", "/srv/mail/example.org/a/ann"),
        ("/srv/mail/ann", "/srv/mail/ann"),
        ("...", "/srv/mail/..."),
        ("Zo\u{eb} x", "/srv/mail/Zo\u{eb} x"),
    ] {
        assert_eq!(Home::locate(root, home).unwrap().path(), path);
        let slash = Home::locate(Path::new("/srv/mail/"), home).unwrap();
        assert_eq!(slash.path(), path);
    }
    let long = "x".repeat(256);
    let longer = format!("{0}/{0}/{0}/{0}/{0}", "y".repeat(220));
    let deep = "d/".repeat(16) + "d";
    for home in [
        "",
        "/",
        ".",
        "..",
        "a/..",
        "../a",
        "a/../b",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "/srv/mail",
        "/srv/mail/",
        "/srv/mail/../x",
        "/srv/mail//a",
        "/srv/mailbox/a",
        "/srv",
        "/etc/passwd",
        "//srv/mail/a",
        "a\0b",
        "a\nb",
        "a\u{85}b",
        &long,
        &longer,
        &deep,
    ] {
        let result = Home::locate(root, home);
        assert!(matches!(result, Err(HomeError::Path(_))), "{home:?}");
    }
    assert!(Home::locate(root, &"d/".repeat(15)).is_err());
    assert_eq!(
        Home::locate(Path::new("/"), "/home/ann").unwrap().path(),
        "/home/ann"
    );
}

#[test]
fn a_missing_home_is_made_for_its_owner() {
    let root = root();
    // A set-group-id parent would give its group and bit to what is made below it.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    prepare(root.path(), "example.org/ann").unwrap();
    assert_eq!(owned(&root.path().join("example.org")), (0, 0, 0o755));
    assert_eq!(
        owned(&root.path().join("example.org/ann")),
        (UID, GID, 0o700)
    );
    // Again, now that it is there; and nothing is left over.
    prepare(root.path(), "example.org/ann").unwrap();
    assert_eq!(names(root.path()), ["example.org"]);
    assert_eq!(names(&root.path().join("example.org")), ["ann"]);
}

#[test]
fn an_existing_home_keeps_its_mode_and_needs_the_right_owner() {
    let root = root();
    let home = root.path().join("ann");
    fs::DirBuilder::new().mode(0o750).create(&home).unwrap();
    chown(&home, Some(UID), Some(7)).unwrap();
    prepare(root.path(), "ann").unwrap();
    assert_eq!(owned(&home), (UID, 7, 0o750));
    for owner in [0, UID + 1] {
        chown(&home, Some(owner), None).unwrap();
        let error = prepare(root.path(), "ann").unwrap_err();
        assert!(matches!(error, HomeError::Owner { .. }) && error.is_forbidden());
        assert_eq!(owned(&home).0, owner);
    }
}

#[test]
fn symbolic_links_and_files_are_no_folders() {
    let (root, elsewhere) = (root(), root());
    chown(elsewhere.path(), Some(UID), Some(GID)).unwrap();
    symlink(elsewhere.path(), root.path().join("absolute")).unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    chown(root.path().join("real"), Some(UID), Some(GID)).unwrap();
    symlink("real", root.path().join("relative")).unwrap();
    symlink("nowhere", root.path().join("dangling")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for home in [
        "absolute",
        "relative",
        "dangling",
        "file",
        "absolute/ann",
        "relative/ann",
        "file/ann",
    ] {
        let error = prepare(root.path(), home).unwrap_err();
        assert!(
            matches!(error, HomeError::NotFolder { .. }) && error.is_forbidden(),
            "{home}: {error}"
        );
    }
    assert!(names(elsewhere.path()).is_empty());
    assert!(names(&root.path().join("real")).is_empty());
}

#[test]
fn nothing_is_made_where_others_could_swap_it() {
    let root = root();
    for (owner, mode, good) in [
        (0, 0o755, true),
        (0, 0o775, false),
        (0, 0o757, false),
        (0, 0o1777, true),
        (UID, 0o755, false),
        (UID + 1, 0o700, false),
    ] {
        let parent = root.path().join(format!("{owner}-{mode:o}"));
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
        chown(&parent, Some(owner), None).unwrap();
        let home = format!("{owner}-{mode:o}/ann");
        let result = prepare(root.path(), &home);
        assert_eq!(result.is_ok(), good, "{home}: {result:?}");
        if !good {
            assert!(matches!(result, Err(HomeError::Parent { .. })));
            assert!(names(&parent).is_empty());
        }
        // What is there already was not made by us, and is used.
        let there = parent.join("bea");
        fs::create_dir(&there).unwrap();
        chown(&there, Some(UID), None).unwrap();
        prepare(root.path(), &format!("{owner}-{mode:o}/bea")).unwrap();
    }
}

/// Runs `prepare` and meddles at one moment of one component.
fn meddled(
    root: &Path,
    home: &str,
    at: Moment,
    component: &str,
    meddle: impl Fn(&str),
) -> Result<(), HomeError> {
    let mut done = false;
    let result = Home::locate(root, home)
        .unwrap()
        .open_watched(UID, GID, &mut |moment, name| {
            if moment == at && (name == component || at == Moment::Made) && !done {
                done = true;
                meddle(name);
            }
        })
        .map(drop);
    assert!(done, "the moment never came");
    result
}

#[test]
fn a_link_swapped_in_between_two_steps_leads_nowhere() {
    for at in [Moment::Open, Moment::Missing, Moment::Rename] {
        for (home, component) in [
            ("ann", "ann"),
            ("example.org/ann", "example.org"),
            ("example.org/ann", "ann"),
        ] {
            let (root, elsewhere) = (root(), root());
            let parent = if home.ends_with(&format!("/{component}")) {
                "example.org"
            } else {
                ""
            };
            let swapped = root.path().join(parent).join(component);
            let error = meddled(root.path(), home, at, component, |_| {
                symlink(elsewhere.path(), &swapped).unwrap();
            })
            .unwrap_err();
            assert!(error.is_forbidden(), "{at:?} {home}: {error}");
            assert!(names(elsewhere.path()).is_empty());
            assert_eq!(owned(elsewhere.path()), (0, 0, 0o755));
            assert_eq!(
                names(&root.path().join(parent)),
                [component],
                "nothing is left over"
            );
        }
    }
}

#[test]
fn an_open_folder_that_is_moved_away_is_still_the_one_that_was_checked() {
    let (root, elsewhere) = (root(), root());
    fs::create_dir(root.path().join("example.org")).unwrap();
    meddled(root.path(), "example.org/ann", Moment::Open, "ann", |_| {
        fs::rename(root.path().join("example.org"), root.path().join("moved")).unwrap();
        symlink(elsewhere.path(), root.path().join("example.org")).unwrap();
    })
    .unwrap();
    assert!(names(elsewhere.path()).is_empty());
    assert_eq!(owned(&root.path().join("moved/ann")), (UID, GID, 0o700));
}

#[test]
fn what_was_made_is_given_away_only_if_it_is_what_was_opened() {
    let (root, elsewhere) = (root(), root());
    let precious = elsewhere.path().join("precious");
    fs::create_dir(&precious).unwrap();
    let swaps: [&dyn Fn(&Path); 4] = [
        &|made| symlink(&precious, made).unwrap(),
        &|made| {
            fs::create_dir(made).unwrap();
            chown(made, Some(UID + 1), None).unwrap();
        },
        &|made| fs::create_dir(made).unwrap(),
        &|_| (),
    ];
    for swap in swaps {
        let error = meddled(root.path(), "ann", Moment::Made, "", |made| {
            let made = root.path().join(made);
            fs::remove_dir(&made).unwrap();
            swap(&made);
            if made.is_dir() && !made.is_symlink() {
                fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
            }
        })
        .unwrap_err();
        assert!(
            matches!(error, HomeError::Swapped { .. }) && error.is_forbidden(),
            "{error}"
        );
        assert_eq!(owned(&precious).0, 0);
        assert!(!root.path().join("ann").exists());
    }
}

#[test]
fn two_who_make_the_same_home_both_get_it() {
    for at in [Moment::Missing, Moment::Rename] {
        for component in ["example.org", "ann"] {
            let root = root();
            meddled(root.path(), "example.org/ann", at, component, |_| {
                prepare(root.path(), "example.org/ann").unwrap();
            })
            .unwrap();
            assert_eq!(
                owned(&root.path().join("example.org/ann")),
                (UID, GID, 0o700)
            );
            assert_eq!(names(&root.path().join("example.org")), ["ann"]);
            assert_eq!(names(root.path()), ["example.org"]);
        }
    }
}

#[test]
fn a_missing_root_is_the_nodes_fault() {
    let root = root();
    let missing = root.path().join("none");
    let error = prepare(&missing, "ann").unwrap_err();
    assert!(matches!(error, HomeError::Root { .. }) && !error.is_forbidden());
    assert!(!missing.exists());
}

#[test]
fn what_is_at_hand_is_what_would_be_taken() {
    let root = root();
    let real = root.path().join("real");
    fs::create_dir(&real).unwrap();
    let linked_root = root.path().join("linked");
    symlink(&real, &linked_root).unwrap();
    let at_hand = |home: &str, uid| {
        let hand = |root: &Path| Home::locate(root, home).unwrap().is_at_hand(uid);
        let at_hand = hand(&real);
        // The root is taken as configured, links included; following one may need a disk, so it may say no.
        assert!(at_hand || !hand(&linked_root));
        at_hand
    };
    assert!(!at_hand("a/ann", UID), "it is not there yet");
    prepare(&real, "a/ann").unwrap();
    assert!(at_hand("a/ann", UID));
    assert!(!at_hand("a/ann", UID + 1));
    symlink(real.join("a"), real.join("b")).unwrap();
    assert!(!at_hand("b/ann", UID), "through a link");
    symlink("ann", real.join("a/bob")).unwrap();
    chown(real.join("a"), Some(UID), None).unwrap();
    assert!(!at_hand("a/bob", UID), "a link itself");
    fs::write(real.join("a/file"), "").unwrap();
    chown(real.join("a/file"), Some(UID), None).unwrap();
    assert!(!at_hand("a/file", UID), "no folder");
    assert!(!at_hand("a/file/ann", UID));
    fs::remove_dir(real.join("a/ann")).unwrap();
    assert!(!at_hand("a/ann", UID), "it is gone");
}
