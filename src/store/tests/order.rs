//! The order of syncs, rename and answer, as the system saw it.

use std::{io::Write as _, process::Command};

use super::{
    trace::{assert_in_order, one},
    *,
};

/// Where the traced process stores.
const TRACED: &str = "PIGEONAIR_TEST_TRACED";

const NAME: &str = "store::tests::order::a_message_is_on_the_disk_before_it_is_acknowledged";

/// What the traced process says when `deliver` has returned.
const ANSWER: &[u8] = b"it is stored\n";

fn deliver_and_say_so(root: PathBuf) {
    let lab = Lab::at_root(Root::Borrowed(root));
    let store = Store::start(Settings {
        threads: 1,
        ..lab.settings()
    })
    .unwrap();
    let message = message(&[MAIL, &[b'x'; 150_000]].concat());
    runtime().block_on(store.deliver(owner(), message)).unwrap();
    io::stdout().write_all(ANSWER).unwrap();
}

/// The system calls of a process that delivers into the lab.
fn traced(lab: &Lab) -> Vec<trace::Call> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=openat2,mkdirat,write,fsync,rename,renameat,renameat2,unlinkat",
            "-o",
        ])
        .arg(trace.path())
        .args(again(NAME, TRACED, lab.root.path()))
        .output()
        .expect("strace (Debian's strace) starts");
    assert!(output.status.success(), "{output:?}");
    trace::read(&fs::read_to_string(trace.path()).unwrap())
}

#[test]
fn a_message_is_on_the_disk_before_it_is_acknowledged() {
    if let Some(root) = std::env::var_os(TRACED) {
        return deliver_and_say_so(root.into());
    }
    let lab = Lab::new();
    let calls = traced(&lab);
    let root = format!("{}>", lab.root.path().display());
    let home = format!("{}>", lab.home().display());
    let maildir = format!("{}>", lab.maildir().display());
    let (tmp, new) = (lab.maildir().join("tmp"), lab.maildir().join("new"));
    let in_tmp = format!("{}/", tmp.display());
    let (tmp, new) = (format!("{}>", tmp.display()), format!("{}>", new.display()));
    let answer = one(&calls, "write", &["it is stored"]);

    // Folders that were just made.
    assert_in_order(&[
        one(&calls, "renameat2", &[&root, "\"ann\"", "RENAME_NOREPLACE"]),
        one(&calls, "fsync", &[&root]),
        one(&calls, "mkdirat", &[&home, "\"Maildir\""]),
        one(&calls, "fsync", &[&home]),
        one(&calls, "mkdirat", &[&maildir, "\"new\""]),
        answer,
    ]);
    let made = one(&calls, "mkdirat", &[&maildir, "\"new\""]);
    let synced = |call: &&trace::Call| call.name == "fsync" && call.arguments.contains(&maildir);
    assert!(
        calls
            .iter()
            .filter(synced)
            .any(|call| made.ended < call.began && call.ended < answer.began)
    );

    // The message.
    let writes: Vec<_> = calls
        .iter()
        .filter(|call| call.name == "write" && call.arguments.contains(&in_tmp))
        .collect();
    assert!(writes.len() > 1, "{writes:?}");
    let moved = one(
        &calls,
        "renameat2",
        &[&tmp, &new, ",S=", "RENAME_NOREPLACE"],
    );
    assert_in_order(&[
        one(&calls, "openat2", &[&tmp, "O_CREAT", "O_EXCL", "mode=0600"]),
        writes[0],
        writes[writes.len() - 1],
        one(&calls, "fsync", &[&in_tmp]),
        moved,
        one(&calls, "fsync", &[&new]),
        answer,
    ]);
    assert!(!calls.iter().any(|call| call.name == "unlinkat"));
}
