//! What threads may do, who they are while they store and afterwards, and what happens when they can't go back.

use std::{
    os::unix::{fs::chown, process::ExitStatusExt as _},
    process::Command,
};

use rustix::{
    fs::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
        set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::*;

const ALONE: &str = "PIGEONAIR_TEST_ALONE";

/// SETUID, SETGID and CHOWN.
const KEPT: &str = "00000000000000c1";
const NONE: &str = "0000000000000000";

/// A field of a thread's status.
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().split_whitespace().collect()
}

fn assert_is_itself(status: &str) {
    for (name, expected) in [
        ("CapInh:", NONE),
        ("CapPrm:", KEPT),
        ("CapEff:", KEPT),
        ("CapAmb:", NONE),
        ("Uid:", "0 0 0 0"),
        ("Gid:", "0 0 0 0"),
        ("Groups:", ""),
    ] {
        assert_eq!(field(status, name).join(" "), expected, "{status}");
    }
}

/// The status of each thread that stores.
fn stores() -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        // A thread may have ended meanwhile.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim_end() == "store" {
            found.push(fs::read_to_string(path.join("status")).unwrap());
        }
    }
    found
}

#[test]
fn threads_keep_three_capabilities_and_no_groups() {
    let name = "store::tests::rights::threads_keep_three_capabilities_and_no_groups";
    let Some(root) = std::env::var_os(ALONE) else {
        // In a process that has no other store.
        let lab = Lab::new();
        let words = again(name, ALONE, lab.root.path());
        let status = Command::new(&words[0]).args(&words[1..]).status().unwrap();
        assert!(status.success());
        return;
    };
    // The threads are made by one that has more than they need.
    set_thread_groups(&[Gid::from_raw(4), Gid::from_raw(8)]).unwrap();
    let own = capabilities(None).unwrap();
    let sets = CapabilitySets {
        inheritable: own.permitted,
        ..own
    };
    set_capabilities(None, sets).unwrap();
    configure_capability_in_ambient_set(CapabilitySet::CHOWN, true).unwrap();
    let lab = Lab::at_root(Root::Borrowed(root.into()));
    let store = Store::start(lab.settings()).unwrap();
    assert_eq!(stores().len(), 4);
    stores().iter().for_each(|status| assert_is_itself(status));
    for _ in 0..8 {
        let message = message(MAIL);
        runtime().block_on(store.deliver(owner(), message)).unwrap();
        let bad = Owner {
            home: "x/".to_owned(),
            ..owner()
        };
        let message = super::message(MAIL);
        runtime().block_on(store.deliver(bad, message)).unwrap_err();
    }
    assert_eq!(stores().len(), 4);
    stores().iter().for_each(|status| assert_is_itself(status));
}

#[test]
fn a_thread_is_the_owner_and_has_no_more_rights_while_it_writes() {
    let lab = Lab::new();
    on_a_thread(|| {
        let writer = writer(lab.settings());
        let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_is_itself(&status());
        let mut moments = 0;
        let stored = writer.store(&owner(), &message(MAIL), || true, &mut |_| {
            moments += 1;
            let status = status();
            let (uid, gid) = (format!("0 {UID} 0 {UID}"), format!("0 {GID} 0 {GID}"));
            assert_eq!(field(&status, "Uid:").join(" "), uid);
            assert_eq!(field(&status, "Gid:").join(" "), gid);
            assert_eq!(field(&status, "CapEff:"), [NONE]);
            assert!(field(&status, "Groups:").is_empty());
        });
        stored.unwrap();
        assert_eq!(moments, 4);
        assert_is_itself(&status());
        // A failure as the owner.
        fs::write("/proc/thread-self/comm", "x").unwrap();
        let owner = Owner {
            quota: Some(1),
            ..owner()
        };
        writer
            .store(&owner, &message(MAIL), || true, &mut |_| {})
            .unwrap_err();
        assert_is_itself(&status());
    });
}

#[test]
fn a_thread_that_cant_become_itself_again_ends_the_process() {
    let name = "store::tests::rights::a_thread_that_cant_become_itself_again_ends_the_process";
    if std::env::var_os(ALONE).is_some() {
        let identity = Identity::settle().unwrap();
        let acting = identity.become_owner(UID, GID).unwrap().unwrap();
        let uid = Uid::from_raw(UID);
        // Nothing leads back from here.
        set_thread_res_uid(uid, uid, uid).unwrap();
        drop(acting);
        return;
    }
    let words = again(name, ALONE, Path::new("/"));
    let status = Command::new(&words[0]).args(&words[1..]).status().unwrap();
    assert_eq!(status.signal(), Some(6), "{status}");
}

/// A home that is there.
fn make_home(lab: &Lab, name: &str, uid: u32) {
    let home = lab.root.path().join(name);
    fs::create_dir(&home).unwrap();
    chown(home, Some(uid), Some(GID)).unwrap();
}

#[test]
fn without_capabilities_a_process_stores_for_itself_alone() {
    let lab = Lab::new();
    make_home(&lab, "ann", UID);
    make_home(&lab, "bea", UID + 1);
    on_a_thread(|| {
        let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(GID));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let writer = writer(lab.settings());
        writer
            .store(&owner(), &message(MAIL), || true, &mut |_| {})
            .unwrap();
        let bea = Owner {
            uid: UID + 1,
            home: "bea".to_owned(),
            ..owner()
        };
        let error = writer
            .store(&bea, &message(MAIL), || true, &mut |_| {})
            .unwrap_err();
        assert!(matches!(error, StoreError::Rights { .. }), "{error}");
        assert_eq!(error.cause(), Cause::Misconfigured);
    });
    assert_eq!(lab.names("new").len(), 1);
    assert!(names(&lab.root.path().join("bea")).is_empty());
}

#[test]
fn a_process_with_capabilities_need_not_be_roots() {
    const NODE: u32 = 20_100;
    let lab = Lab::new();
    chown(lab.root.path(), Some(NODE), Some(NODE)).unwrap();
    on_a_thread(|| {
        let (uid, gid) = (Uid::from_raw(NODE), Gid::from_raw(NODE));
        set_keep_capabilities(true).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let writer = writer(lab.settings());
        for home in ["ann", "bea"] {
            let owner = Owner {
                home: home.to_owned(),
                ..owner()
            };
            let stored = writer.store(&owner, &message(MAIL), || true, &mut |_| {
                let status = fs::read_to_string("/proc/thread-self/status").unwrap();
                assert_eq!(field(&status, "CapEff:"), [NONE]);
            });
            stored.unwrap();
        }
    });
    assert_eq!(owned(&lab.home()), (UID, GID, 0o700));
    assert_eq!(owned(&lab.maildir().join("new")), (UID, GID, 0o700));
}
