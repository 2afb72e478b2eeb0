//! `[mailstore]`: both kinds, and what is wrong with them, all at once.

use super::*;
use crate::mailstore::{Kind, Naming, Settings};

fn settings(section: &str) -> Settings {
    let text = format!("{BOTH}[mailstore]\n{section}");
    let node = Folder::new().read(&text, None).unwrap().node.unwrap();
    node.mailstore.unwrap()
}

#[test]
fn both_kinds_have_their_keys() {
    let Kind::Maildir(maildir) = settings("kind = 'maildir'").kind else {
        panic!("another kind")
    };
    assert_eq!((maildir.folder.as_str(), maildir.threads), ("Maildir", 16));
    assert!(!maildir.over_quota_is_permanent);
    let Kind::Maildir(maildir) =
        settings("kind = 'maildir'\nfolder = 'a/.b'\nover_quota = 'refuse'\nspool_memory = '1MiB'")
            .kind
    else {
        panic!("another kind")
    };
    assert_eq!(maildir.folder, "a/.b");
    assert_eq!(maildir.spool.memory, 1 << 20);
    assert!(maildir.over_quota_is_permanent);
    let read = settings(
        "kind = 'lmtp'\nserver = 'localhost:24'\nrecipient = 'address'\nrecipient_delimiter = ''\nmax_message_size = '1GiB'",
    );
    assert_eq!(read.max_message_bytes, 1 << 30);
    let Kind::Lmtp(server) = read.kind else {
        panic!("another kind")
    };
    assert_eq!(server.server.to_string(), "localhost:24");
    assert_eq!(
        (server.recipient, server.recipient_delimiter.as_str()),
        (Naming::Address, "")
    );
}

#[test]
fn everything_wrong_is_told_at_once() {
    let folder = Folder::new();
    let folders = "expected a path below the home without . and .., or \".\" for the home itself";
    for (section, expected) in [
        (
            "",
            &["mailstore.kind: missing (expected \"maildir\" or \"lmtp\")"][..],
        ),
        (
            "kind = 'mbox'\nserver = 'x'\nthreads = 0\nthread = 1",
            &[
                "mailstore.kind: bad value (got \"mbox\"; expected \"maildir\" or \"lmtp\")",
                "mailstore.thread: unknown key, did you mean threads?",
            ],
        ),
        (
            "kind = 'lmtp'\nthreads = 1\nstore_timeout = 3",
            &[
                "mailstore.store_timeout: bad value (got 3; expected a time from 100ms to 1day with its unit, as \"30s\")",
                "mailstore.threads: not used with kind = \"lmtp\"",
                "mailstore.server: missing (expected \"host:port\", \"[IPv6]:port\" or the path of a Unix socket)",
            ],
        ),
        (
            "kind = 'maildir'\nserver = '/x'\nthreads = 0\nover_quota = 'bounce'\nspool_folder = '/nowhere'",
            &[
                "mailstore.server: not used with kind = \"maildir\"",
                "mailstore.threads: bad value (got 0; expected a whole number from 1 to 1024)",
                "mailstore.over_quota: bad value (got \"bounce\"; expected \"try-later\" or \"refuse\")",
                "mailstore.spool_folder: /nowhere is not a folder",
            ],
        ),
    ] {
        let text = format!("{BOTH}[mailstore]\n{section}\n");
        assert_eq!(folder.problems(&text, None), expected, "{section}");
    }
    for name in ["", "/", "..", "a/../b", "/a", "a//b", "a/"] {
        let text = format!("{BOTH}[mailstore]\nkind = 'maildir'\nfolder = '{name}'\n");
        let problem = format!("mailstore.folder: bad value (got {name:?}; {folders})");
        assert_eq!(folder.problems(&text, None), [problem]);
    }
}
