//! Quota, leftovers, and writers that are killed.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{chown, symlink},
    process::{Command, Stdio},
    time::Duration,
};

use super::*;

const KILLED: &str = "PIGEONAIR_TEST_KILLED";

const HOUR: u64 = 60 * 60;

fn with_quota(quota: u64) -> Owner {
    Owner {
        quota: Some(quota),
        ..owner()
    }
}

fn maildirsize(lab: &Lab) -> String {
    fs::read_to_string(lab.maildir().join("maildirsize")).unwrap()
}

fn write_maildirsize(lab: &Lab, text: &str) {
    let path = lab.maildir().join("maildirsize");
    fs::write(&path, text).unwrap();
    chown(&path, Some(UID), Some(GID)).unwrap();
}

/// Makes a file look as if it was last touched so many seconds ago.
fn age(path: &Path, seconds: u64) {
    let file = fs::File::open(path).unwrap();
    let now = file.metadata().unwrap().modified().unwrap();
    let then = now - Duration::from_secs(seconds);
    let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
    file.set_times(times).unwrap();
}

/// The size of the message that `MAIL` becomes.
fn size() -> u64 {
    let head = "Return-Path: <bea@example.net>\nDelivered-To: ann@example.org\n";
    (head.len() + MAIL.len()) as u64 - 3
}

#[test]
fn a_quota_is_counted_once_and_then_kept() {
    let lab = Lab::new();
    let room = size() * 2 + 10;
    let owner = with_quota(room);
    lab.store(&owner, &message(MAIL)).unwrap();
    assert_eq!(maildirsize(&lab), format!("{room}S\n0 0\n{} 1\n", size()));
    assert_eq!(owned(&lab.maildir().join("maildirsize")), (UID, GID, 0o600));
    lab.store(&owner, &message(MAIL)).unwrap();
    let error = lab.store(&owner, &message(MAIL)).unwrap_err();
    assert_eq!(error.cause(), Cause::OverQuotaForNow, "{error}");
    // It was counted again before the message was refused.
    assert_eq!(maildirsize(&lab), format!("{room}S\n{} 2\n", size() * 2));
    let lab = Lab {
        permanent: true,
        ..lab
    };
    let error = lab.store(&owner, &message(MAIL)).unwrap_err();
    assert_eq!(error.cause(), Cause::OverQuota, "{error}");
    assert_eq!(lab.names("new").len(), 2);
    assert!(lab.names("tmp").is_empty());
    // More room, no room, none asked for.
    lab.store(&with_quota(room * 10), &message(MAIL)).unwrap();
    let counted = format!("{}S\n{} 2\n{} 1\n", room * 10, size() * 2, size());
    assert_eq!(maildirsize(&lab), counted);
    for quota in [None, Some(0)] {
        lab.store(
            &Owner {
                quota,
                ..owner.clone()
            },
            &message(MAIL),
        )
        .unwrap();
    }
    assert!(maildirsize(&lab).ends_with(&format!("\n{0} 1\n{0} 1\n{0} 1\n", size())));
}

#[test]
fn a_count_that_says_full_is_believed_for_a_quarter_of_an_hour() {
    let lab = Lab::new();
    lab.make_maildir();
    write_maildirsize(&lab, "1000S\n999 1\n");
    lab.store(&with_quota(1000), &message(MAIL)).unwrap_err();
    age(&lab.maildir().join("maildirsize"), 14 * 60);
    lab.store(&with_quota(1000), &message(MAIL)).unwrap_err();
    age(&lab.maildir().join("maildirsize"), 16 * 60);
    lab.store(&with_quota(1000), &message(MAIL)).unwrap();
    assert_eq!(maildirsize(&lab), format!("1000S\n0 0\n{} 1\n", size()));
    // With more than a count in it, it is never believed.
    write_maildirsize(&lab, "1000S\n900 1\n99 1\n");
    lab.store(&with_quota(1000), &message(MAIL)).unwrap();
    // Too long.
    write_maildirsize(&lab, &("1000S\n".to_owned() + &"0 0\n".repeat(1300)));
    lab.store(&with_quota(1000), &message(MAIL)).unwrap();
    assert_eq!(
        maildirsize(&lab),
        format!("1000S\n{} 2\n{} 1\n", size() * 2, size())
    );
}

#[test]
fn all_folders_count() {
    let lab = Lab::new();
    lab.make_maildir();
    for (path, octets) in [
        ("cur/1.h,S=1000,W=1:2,S", 1),
        ("new/2.h", 200),
        (".Sent/cur/3.h:2,ST", 30),
        (".Trash/new/4.h,S=4", 999),
        ("plain/cur/5.h", 999),
        (".Sent/tmp/6.h", 999),
        ("cur/.hidden", 999),
    ] {
        let path = lab.maildir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; octets]).unwrap();
    }
    symlink("/etc/passwd", lab.maildir().join("cur/7.h")).unwrap();
    symlink("..", lab.maildir().join(".Link")).unwrap();
    lab.store(&with_quota(100_000), &message(MAIL)).unwrap();
    assert_eq!(
        maildirsize(&lab),
        format!("100000S\n1234 4\n{} 1\n", size())
    );
}

#[test]
fn what_is_no_file_is_not_followed_and_holds_nothing_up() {
    let precious = tempfile::NamedTempFile::new().unwrap();
    fs::write(precious.path(), "1000S\n0 0\n").unwrap();
    chown(precious.path(), Some(UID), Some(GID)).unwrap();
    let kinds: [&dyn Fn(&Path); 4] = [
        &|path| symlink(precious.path(), path).unwrap(),
        &|path| symlink("nowhere", path).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
        &|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
    ];
    for kind in kinds {
        let lab = Lab::new();
        lab.make_maildir();
        let path = lab.maildir().join("maildirsize");
        kind(&path);
        lab.store(&with_quota(1000), &message(MAIL)).unwrap();
        lab.store(&with_quota(100), &message(MAIL)).unwrap_err();
        lab.store(&owner(), &message(MAIL)).unwrap();
        assert!(lab.names("tmp").is_empty());
        assert_eq!(fs::read_to_string(precious.path()).unwrap(), "1000S\n0 0\n");
        assert!(!path.is_symlink());
    }
}

/// Runs Dovecot's own tool on the home; its quota is the same Maildir++ file.
fn doveadm(lab: &Lab, quota: u64, words: &[&str]) -> String {
    let config = lab.root.path().join("dovecot.conf");
    let base = lab.root.path().join("base");
    let text = format!(
        "base_dir = {}\nlog_path = /dev/stderr\nmail_location = maildir:~/Maildir\nmail_plugins = quota\n\
         mail_uid = {UID}\nmail_gid = {GID}\nfirst_valid_uid = 1000\nssl = no\n\
         plugin {{\n  quota = maildir:User quota\n  quota_rule = *:bytes={quota}\n}}\n",
        base.display(),
    );
    fs::write(&config, text).unwrap();
    let output = Command::new("doveadm")
        .arg("-c")
        .arg(&config)
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("USER", "ann")
        .env("HOME", lab.home())
        .output()
        .expect("doveadm (Debian's dovecot-core) starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dovecot_reads_and_writes_the_same_file() {
    let lab = Lab::new();
    let quota = 10 << 20;
    let body = [MAIL, &b"line\r\n".repeat(10_000)].concat();
    for _ in 0..5 {
        lab.store(&with_quota(quota), &message(&body)).unwrap();
    }
    let (octets, messages) = totals(&maildirsize(&lab));
    assert_eq!(messages, 5);
    let before = maildirsize(&lab);
    let shown = doveadm(&lab, quota, &["-f", "flow", "quota", "get"]);
    let expected = format!("Type=STORAGE Value={} Limit=10240", octets.div_ceil(1024));
    assert!(shown.contains(&expected), "{shown}, expected {expected}");
    assert_eq!(maildirsize(&lab), before, "Dovecot believes what we wrote");
    doveadm(&lab, quota, &["quota", "recalc"]);
    assert_eq!(totals(&maildirsize(&lab)), (octets, messages));
    let recounted = maildirsize(&lab);
    lab.store(&with_quota(quota), &message(&body)).unwrap();
    let line = format!("{} 1\n", octets / 5);
    assert_eq!(
        maildirsize(&lab),
        recounted + &line,
        "we believe what Dovecot wrote"
    );
    // Sizes in our names are those that Dovecot would find.
    let sizes = doveadm(
        &lab,
        quota,
        &["-f", "flow", "fetch", "size.physical size.virtual", "all"],
    );
    let wire = octets / 5 + 10_000 + 2 + 3;
    let size = format!("size.physical={} size.virtual={wire}", octets / 5);
    assert_eq!(
        sizes.lines().filter(|line| *line == size).count(),
        6,
        "{sizes}, expected {size}"
    );
}

fn totals(text: &str) -> (u64, u64) {
    let lines = text.lines().skip(1);
    lines.fold((0, 0), |(octets, messages), line| {
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap());
        (
            octets + numbers.next().unwrap(),
            messages + numbers.next().unwrap(),
        )
    })
}

#[test]
fn old_leftovers_go_and_young_ones_stay() {
    let lab = Lab::new();
    lab.make_maildir();
    let tmp = lab.maildir().join("tmp");
    for (name, hours) in [("old", 37), ("young", 35)] {
        fs::write(tmp.join(name), "").unwrap();
        age(&tmp.join(name), hours * HOUR);
    }
    // Written long ago, read just now; and the other way round.
    for (name, read) in [("read", true), ("written", false)] {
        fs::write(tmp.join(name), "").unwrap();
        let file = fs::File::open(tmp.join(name)).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        let then = now - Duration::from_secs(100 * HOUR);
        let times = fs::FileTimes::new();
        let times = if read {
            times.set_modified(then)
        } else {
            times.set_accessed(then)
        };
        file.set_times(times).unwrap();
    }
    fs::create_dir(tmp.join("folder")).unwrap();
    age(&tmp.join("folder"), 100 * HOUR);
    symlink(lab.maildir().join("maildirsize"), tmp.join("link")).unwrap();
    let touched = Command::new("touch")
        .args(["-h", "-d", "2001-01-01"])
        .arg(tmp.join("link"))
        .status();
    assert!(touched.unwrap().success());
    lab.store(&owner(), &message(MAIL)).unwrap();
    assert_eq!(names(&tmp), ["folder", "link", "read", "written", "young"]);
}

#[test]
fn a_killed_writer_leaves_nothing_in_new() {
    let name = "store::tests::mailbox::a_killed_writer_leaves_nothing_in_new";
    if let Some(root) = std::env::var_os(KILLED) {
        let lab = Lab::at_root(Root::Borrowed(root.into()));
        let _ = lab.meddle(&owner(), &message(MAIL), |moment| {
            if moment == Moment::Written {
                io::stdout().write_all(b"\nwritten\n").unwrap();
                loop {
                    std::thread::park();
                }
            }
        });
        return;
    }
    let lab = Lab::new();
    let words = again(name, KILLED, lab.root.path());
    let mut child = Command::new::<&OsStr>(&words[0])
        .args(&words[1..])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| line == "written");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found);
    assert!(lab.names("new").is_empty());
    let left = lab.names("tmp");
    assert_eq!(left.len(), 1, "{left:?}");
    // The MTA tries again; a day and a half later the leftover goes.
    lab.store(&owner(), &message(MAIL)).unwrap();
    assert_eq!(lab.names("tmp"), left);
    age(&lab.maildir().join("tmp").join(&left[0]), 37 * HOUR);
    lab.store(&owner(), &message(MAIL)).unwrap();
    assert!(lab.names("tmp").is_empty());
    assert_eq!(lab.names("new").len(), 2);
}
