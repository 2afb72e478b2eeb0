//! What is in a Maildir after a delivery.

use std::collections::HashSet;

use super::*;

/// The one message in `new`.
fn stored(lab: &Lab) -> (String, Vec<u8>) {
    let names = lab.names("new");
    assert_eq!(names.len(), 1, "{names:?}");
    let octets = fs::read(lab.maildir().join("new").join(&names[0])).unwrap();
    (names[0].clone(), octets)
}

#[test]
fn everything_belongs_to_the_owner_and_to_nobody_else() {
    let lab = Lab::new();
    lab.store(&owner(), &message(MAIL)).unwrap();
    for folder in ["", "tmp", "cur", "new"] {
        let path = lab.maildir().join(folder);
        assert_eq!(owned(&path), (UID, GID, 0o700), "{folder}");
    }
    let (name, _) = stored(&lab);
    let file = lab.maildir().join("new").join(name);
    assert_eq!(owned(&file), (UID, GID, 0o600));
    assert!(lab.names("tmp").is_empty());
    assert_eq!(names(&lab.home()), ["Maildir"]);
    assert_eq!(names(&lab.maildir()), ["cur", "new", "tmp"]);
}

#[test]
fn the_maildir_may_be_the_home_or_lie_deeper() {
    for folder in [".", "mail/box"] {
        let lab = Lab {
            folder,
            ..Lab::new()
        };
        lab.store(&owner(), &message(MAIL)).unwrap();
        stored(&lab);
        assert_eq!(owned(&lab.maildir()), (UID, GID, 0o700));
    }
    for folder in ["", "..", "a/../b", "/a", "a//b", "./a"] {
        let settings = Settings {
            folder: folder.to_owned(),
            ..Lab::new().settings()
        };
        assert!(
            matches!(Store::start(settings), Err(StartError::Folder)),
            "{folder}"
        );
    }
}

#[test]
fn octets_are_kept_and_line_ends_are_those_of_files() {
    let eight_bit: Vec<u8> = (0..=255)
        .filter(|octet| ![b'\r', b'\n'].contains(octet))
        .collect();
    let mut long = Vec::new();
    // CRLF at every offset around the ends of pieces.
    for line in 0..70_000_usize {
        long.extend_from_slice(&b"abcdefg"[..line % 7]);
        long.extend_from_slice(b"\r\n");
    }
    for body in [
        &b".\r\n..\r\nFrom x\r\n"[..],
        b"bare\rcr, bare\nlf, \r\r\n, \n\r\n",
        b"no end",
        b"",
        &eight_bit,
        &long,
    ] {
        let lab = Lab::new();
        let wire = [b"A: b\r\n\r\n", body].concat();
        lab.store(&owner(), &message(&wire)).unwrap();
        let (name, file) = stored(&lab);
        let head = b"Return-Path: <bea@example.net>\nDelivered-To: ann@example.org\n";
        let expected = [&head[..], &to_lf(&wire)].concat();
        assert!(file == expected, "{name}");
        let extra = file
            .iter()
            .enumerate()
            .filter(|(at, octet)| **octet == b'\n' && (*at == 0 || file[at - 1] != b'\r'))
            .count();
        let (size, on_wire) = (file.len(), file.len() + extra);
        assert!(name.ends_with(&format!(",S={size},W={on_wire}")), "{name}");
    }
}

fn to_lf(wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, octet) in wire.iter().enumerate() {
        if *octet != b'\r' || wire.get(at + 1) != Some(&b'\n') {
            out.push(*octet);
        }
    }
    out
}

#[test]
fn names_keep_the_rules_of_maildirs() {
    let lab = Lab::new();
    let before = jiff::Timestamp::now().as_second();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim_end();
    lab.store(
        &owner(),
        &Message {
            sender: String::new(),
            ..message(MAIL)
        },
    )
    .unwrap();
    let (name, octets) = stored(&lab);
    assert!(octets.starts_with(b"Return-Path: <>\n"));
    let (unique, sizes) = name.split_once(',').unwrap();
    let mut parts = unique.splitn(3, '.');
    let seconds: i64 = parts.next().unwrap().parse().unwrap();
    assert!((before..=before + 600).contains(&seconds));
    let id = parts.next().unwrap();
    let process = format!("P{}Q", std::process::id());
    assert!(id.starts_with('M') && id.contains(&process), "{id}");
    assert_eq!(parts.next().unwrap(), host);
    assert!(sizes.starts_with("S=") && sizes.contains(",W="), "{sizes}");
    assert!(!name.contains(':') && !name.contains('/'));
}

#[test]
fn a_loop_ends_here() {
    let lab = Lab::new();
    let header = b"Delivered-To: Ann@example.org\r\n\r\nbody\r\n";
    let error = lab.store(&owner(), &message(header)).unwrap_err();
    assert!(matches!(error, StoreError::Loop), "{error}");
    assert_eq!(error.cause(), Cause::Loop);
    assert!(!lab.home().exists(), "nothing is made for it");
    // Behind 100 KiB of header.
    let long = [&b"X: y\r\n".repeat(20_000)[..], header].concat();
    assert!(matches!(
        lab.store(&owner(), &message(&long)),
        Err(StoreError::Loop)
    ));
    let body = [&b"A: b\r\n\r\n"[..], header].concat();
    lab.store(&owner(), &message(&body)).unwrap();
    // What was stored once and is sent here again.
    let (_, stored) = stored(&lab);
    assert!(matches!(
        lab.store(&owner(), &message(&stored)),
        Err(StoreError::Loop)
    ));
}

#[test]
fn bounds_hold_whatever_the_front_says() {
    let lab = Lab::new();
    for (uid, gid) in [
        (0, GID),
        (999, GID),
        (UID, 0),
        (u32::MAX, GID),
        (UID, u32::MAX),
    ] {
        let error = lab
            .store(
                &Owner {
                    uid,
                    gid,
                    ..owner()
                },
                &message(MAIL),
            )
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Misconfigured, "{error}");
    }
    let home = "../elsewhere".to_owned();
    let error = lab
        .store(&Owner { home, ..owner() }, &message(MAIL))
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Misconfigured, "{error}");
    assert!(names(lab.root.path()).is_empty());
}

#[test]
fn many_at_once_are_all_there_once() {
    const EACH: usize = 40;
    let lab = Lab::new();
    let store = Store::start(Settings {
        threads: 8,
        ..lab.settings()
    })
    .unwrap();
    let homes = ["ann", "bea", "cem", "dan"];
    let mut waiting = Vec::new();
    for number in 0..EACH {
        for (index, home) in homes.iter().enumerate() {
            let uid = UID + index as u32;
            let owner = Owner {
                uid,
                home: (*home).to_owned(),
                quota: Some(1 << 30),
                ..owner()
            };
            let body = format!("Subject: {home} {number}\r\n\r\n");
            let message = message(body.as_bytes());
            let store = store.clone();
            waiting.push(async move { store.deliver(owner, message).await });
        }
    }
    let runtime = runtime();
    let results: Vec<_> = runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for one in waiting {
            set.spawn(one);
        }
        set.join_all().await
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    for (index, home) in homes.iter().enumerate() {
        let maildir = lab.root.path().join(home).join("Maildir");
        let mut subjects = HashSet::new();
        for name in names(&maildir.join("new")) {
            let path = maildir.join("new").join(name);
            assert_eq!(owned(&path).0, UID + index as u32);
            subjects.insert(fs::read_to_string(path).unwrap());
        }
        assert_eq!(subjects.len(), EACH);
        assert_eq!(names(&maildir.join("new")).len(), EACH);
        assert!(subjects.iter().all(|text| text.contains(home)));
        assert!(names(&maildir.join("tmp")).is_empty());
    }
}

#[test]
fn who_gives_up_has_not_delivered() {
    let lab = Lab::new();
    let store = Store::start(Settings {
        threads: 1,
        ..lab.settings()
    })
    .unwrap();
    let (answer, answered) = oneshot::channel();
    drop(answered);
    let gone = Job {
        owner: owner(),
        message: message(MAIL),
        answer,
        place: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
    };
    // The one behind it is served by the same thread.
    let bea = Owner {
        uid: UID + 1,
        home: "bea".to_owned(),
        ..owner()
    };
    let behind = message(MAIL);
    runtime().block_on(async {
        store.queue.send(gone).await.unwrap();
        store.deliver(bea, behind).await.unwrap();
    });
    assert!(!lab.home().exists());
}

#[test]
fn one_owner_does_not_take_all_threads() {
    let lab = Lab::new();
    let store = Store::start(Settings {
        threads: 4,
        ..lab.settings()
    })
    .unwrap();
    let bea = Owner {
        uid: UID + 1,
        home: "bea".to_owned(),
        ..owner()
    };
    let (first, second) = (message(MAIL), message(MAIL));
    runtime().block_on(async {
        let taken = store.owners.of(UID).acquire_owned().await.unwrap();
        let mut waiting = Box::pin(store.deliver(owner(), first));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there was no place"),
            () = std::future::ready(()) => {}
        }
        store.deliver(bea, second).await.unwrap();
        assert!(!lab.home().exists());
        drop(taken);
        waiting.await.unwrap();
    });
    assert_eq!(lab.names("new").len(), 1);
}

#[test]
fn who_gives_up_while_it_is_written_has_not_delivered_either() {
    let lab = Lab::new();
    let result = on_a_thread(|| {
        let writer = writer(lab.settings());
        writer.store(&owner(), &message(MAIL), || false, &mut |_| {})
    });
    assert!(matches!(result, Err(StoreError::Abandoned)));
    assert!(lab.names("new").is_empty());
    assert!(lab.names("tmp").is_empty());
}
