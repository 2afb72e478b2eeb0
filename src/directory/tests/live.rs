//! Changes in a real slapd as they happen: what the cache keeps of them, and which sessions may not go on.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::sessions::Ending;

/// Long enough that nothing ends by its age.
fn followed(uri: String, by: Follow) -> Settings {
    let mut settings = cached(settings(uri, Verify::Bind));
    settings.cache.max_stale = Duration::from_secs(3600);
    settings.follow = FollowSettings {
        by,
        poll_every: Duration::from_millis(100),
        sessions: Sessions::End(Duration::ZERO),
    };
    but(settings, |ldap| {
        // What slapd lets the reader see without ppolicy.
        ldap.schema.attributes.password_changed = "title".to_owned();
        ldap.timeout = Duration::from_secs(2);
    })
}

/// Starts it, and waits until it hears of changes.
async fn following(settings: Settings, by: &str) -> (Directory, Metrics) {
    let (directory, metrics) = start_counted(settings);
    is_followed(&metrics, by, true).await;
    (directory, metrics)
}

async fn is_followed(metrics: &Metrics, by: &str, expected: bool) {
    let gauge = metrics.directory_followed.with_label_values(&[by]);
    until(|| (gauge.get() > 0) == expected).await;
}

/// Waits for what should come soon.
async fn until(mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < patience, "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn session(directory: &Directory, login: &str, password: &str) -> Watch {
    let login = Login::parse(login).unwrap();
    let password = Secret::new(password.into());
    let admitted = directory.authenticate(&login, &password, VISIT).await;
    admitted.unwrap().watch
}

/// Whether it may go on, as far as was heard.
async fn goes_on(watch: &mut Watch) -> bool {
    // What was said is there at once.
    tokio::time::timeout(Duration::ZERO, watch.ended())
        .await
        .is_err()
}

/// Why a session ends, which it does soon.
async fn end_of(watch: &mut Watch) -> Ending {
    let ended = tokio::time::timeout(PATIENCE, watch.ended()).await;
    ended.expect("the session goes on");
    watch.why().unwrap()
}

/// What a change does, by either means.
async fn changes_are_heard(slapd: &Slapd, by: Follow, word: &str) {
    let (directory, metrics) = following(followed(slapd.uri(), by), word).await;
    let mut ann = session(&directory, "ann", "secret").await;
    let mut big = session(&directory, "big", "secret").await;
    let mut other = session(&directory, "bob", "crypted").await;

    // What is not in use changes nothing: the cache still has it.
    let [heard, same] =
        ["heard", "same"].map(|word| metrics.directory_changes.with_label_values(&[word]));
    let changes = || heard.get() + same.get();
    let before = changes();
    slapd.replace("ann", "sn", "Another").await;
    until(|| changes() > before).await;
    let misses = metrics.directory_cache.with_label_values(&["miss"]);
    let before = misses.get();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(misses.get(), before);

    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
    let login = Login::parse("ann").unwrap();
    let home = directory.find(&login).await.unwrap().home_node.clone();
    assert_eq!(home.as_deref(), Some("node2"));

    slapd.replace("big", "employeeType", "disabled").await;
    assert_eq!(end_of(&mut big).await, Ending::Disabled);
    // Administrators see that it does not count any more.
    let kept = directory.cached(&Login::parse("big").unwrap()).await.kept;
    let kept = kept.unwrap();
    assert_eq!((kept.believed, kept.remembered), (None, None));
    assert_eq!(
        log_in(&directory, "big", "secret").await,
        "account may not log in"
    );

    slapd.replace("bob", "title", "20261128230016Z").await;
    // It had none before: that is no change of a password.
    let patience = Instant::now() + PATIENCE;
    let mut bob = loop {
        let bob = session(&directory, "bob", "crypted").await;
        let found = directory.0.cache.recall("bob").await.unwrap().1.unwrap();
        if found.facts.password().is_some() {
            break bob;
        }
        assert!(Instant::now() < patience, "it is never heard of");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    slapd.replace("bob", "title", "20261128230017Z").await;
    assert_eq!(end_of(&mut bob).await, Ending::Password);
    assert!(goes_on(&mut other).await);
}

/// A certificate let them in, and keeps nobody in.
#[tokio::test]
async fn who_was_admitted_without_a_password_is_followed_too() {
    let slapd = Slapd::with_sync();
    let (directory, _) = following(followed(slapd.uri(), Follow::Auto), "sync").await;
    let ann = Login::parse("ann").unwrap();
    let mut watch = directory.admit(&ann, VISIT).await.unwrap().watch;
    assert!(goes_on(&mut watch).await);
    slapd.replace("ann", "employeeType", "disabled").await;
    assert_eq!(end_of(&mut watch).await, Ending::Disabled);
    let again = directory.admit(&ann, VISIT).await.unwrap_err();
    assert_eq!(again.to_string(), "account may not log in");
}

#[tokio::test]
async fn changes_are_heard_by_synchronisation() {
    let slapd = Slapd::with_sync();
    changes_are_heard(&slapd, Follow::Auto, "sync").await;
}

#[tokio::test]
async fn changes_are_heard_by_polling_where_there_is_no_synchronisation() {
    let slapd = Slapd::new();
    changes_are_heard(&slapd, Follow::Auto, "poll").await;
}

#[tokio::test]
async fn who_is_deleted_or_renamed_away_is_gone() {
    let slapd = Slapd::with_sync();
    let (directory, _) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let mut ann = session(&directory, "ann", "secret").await;
    let mut big = session(&directory, "big", "secret").await;
    slapd.rename("ann", "anne").await;
    slapd.delete("big").await;
    assert_eq!(end_of(&mut big).await, Ending::Deleted);
    assert_eq!(log_in(&directory, "big", "secret").await, "unknown user");
    // The entry has another DN, and is still the same account.
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert!(goes_on(&mut ann).await);
    slapd.delete("anne").await;
    assert_eq!(end_of(&mut ann).await, Ending::Deleted);
}

#[tokio::test]
async fn what_changed_while_the_server_was_away_is_heard_of_afterwards() {
    let mut slapd = Slapd::with_sync();
    let (directory, metrics) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let mut ann = session(&directory, "ann", "secret").await;
    let mut bob = session(&directory, "bob", "crypted").await;
    let mut big = session(&directory, "big", "secret").await;
    let address = slapd.hide();
    is_followed(&metrics, "sync", false).await;
    // Nobody is logged out for that.
    for watch in [&mut ann, &mut bob, &mut big] {
        assert!(goes_on(watch).await);
    }
    slapd.delete("big").await;
    slapd.replace("ann", "employeeType", "disabled").await;
    slapd.show(address);
    assert_eq!(end_of(&mut ann).await, Ending::Disabled);
    assert_eq!(end_of(&mut big).await, Ending::Deleted);
    is_followed(&metrics, "sync", true).await;
    assert!(goes_on(&mut bob).await);
}

#[tokio::test]
async fn a_backup_without_an_account_ends_its_sessions_alone() {
    let mut slapd = Slapd::with_sync();
    let (directory, metrics) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let mut ann = session(&directory, "ann", "secret").await;
    let mut big = session(&directory, "big", "secret").await;
    slapd.restore_without(&["cn: big"]);
    assert_eq!(end_of(&mut big).await, Ending::Deleted);
    is_followed(&metrics, "sync", true).await;
    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
}

#[tokio::test]
async fn a_directory_that_shows_nobody_logs_nobody_out() {
    let mut slapd = Slapd::with_sync();
    let (directory, metrics) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let mut ann = session(&directory, "ann", "secret").await;
    slapd.restore_without(&["inetOrgPerson"]);
    is_followed(&metrics, "sync", false).await;
    is_followed(&metrics, "sync", true).await;
    // What is heard from now on is believed: nobody was said to be gone.
    let gone = metrics.directory_changes.with_label_values(&["gone"]);
    assert_eq!(gone.get(), 0);
    assert!(goes_on(&mut ann).await);
}

#[tokio::test]
async fn a_silent_server_is_noticed_and_followed_again() {
    let slapd = Slapd::with_sync();
    let settings = but(followed(slapd.uri(), Follow::Sync), |ldap| {
        ldap.timeout = Duration::from_millis(300);
    });
    let (directory, metrics) = following(settings, "sync").await;
    let mut ann = session(&directory, "ann", "secret").await;
    slapd.freeze();
    is_followed(&metrics, "sync", false).await;
    slapd.thaw();
    is_followed(&metrics, "sync", true).await;
    assert!(goes_on(&mut ann).await);
    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
}

#[tokio::test]
async fn a_server_that_does_not_show_everybody_is_polled() {
    let mut slapd = Slapd::with_sync();
    slapd.restart_with("sizelimit 5");
    let (directory, _) = following(followed(slapd.uri(), Follow::Auto), "poll").await;
    let mut ann = session(&directory, "ann", "secret").await;
    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
}

/// What is kept of an account is dropped for deliveries as for logins.
#[tokio::test]
async fn deliveries_go_to_the_new_home() {
    let slapd = Slapd::with_sync();
    let (directory, _) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let address = Address::parse("ann@example.org").unwrap();
    let home = async || {
        let account = directory.find_recipient(&address).await.unwrap();
        account.home_node.clone().unwrap()
    };
    assert_eq!(home().await, "node1");
    slapd.replace("ann", "mailHost", "node2").await;
    let patience = Instant::now() + PATIENCE;
    while home().await != "node2" {
        assert!(Instant::now() < patience, "the old home stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sessions_of_the_file_end_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let write = |accounts: &[(&str, u32)]| {
        let one = |(name, uid): &(&str, u32)| {
            format!(
                "[[account]]\nname = \"{name}\"\nuid = {uid}\ngid = 1\npassword = \"{{SSHA}}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk\"\n"
            )
        };
        let text: String = accounts.iter().map(one).collect();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&[("ann", 1), ("bob", 2), ("cyd", 3)]);
    let (directory, _) = following(
        Settings {
            source: Source::File(FileSettings { path: path.clone() }),
            addresses: AddressSettings::default(),
            cache: CacheSettings::default(),
            follow: FollowSettings::default(),
        },
        "file",
    )
    .await;
    let mut sessions = Vec::new();
    for login in ["ann", "bob", "cyd"] {
        sessions.push(session(&directory, login, "secret").await);
    }
    write(&[("ann", 1), ("bob", 20)]);
    assert_eq!(end_of(&mut sessions[1]).await, Ending::Moved);
    assert_eq!(end_of(&mut sessions[2]).await, Ending::Deleted);
    assert!(goes_on(&mut sessions[0]).await);
}

/// What `examine` says of how a server is followed: problems, and what is good to know.
async fn examined(settings: Settings) -> (Vec<String>, Vec<String>) {
    let metrics = Metrics::new().unwrap();
    let mut all = examine(settings, &metrics).await.unwrap();
    let one = all.pop().unwrap();
    (one.problems, one.notes)
}

#[tokio::test]
async fn administrators_hear_how_changes_are_followed() {
    let below = format!("below {PEOPLE}: ");
    let words = |texts: &[&str]| -> Vec<String> {
        let words = texts.iter().map(|text| format!("{below}{text}"));
        words.collect()
    };
    let tells = "tells what changes (RFC 4533)";
    let unseen = "no account shows title, so that a changed password ends no session by it";
    let mut slapd = Slapd::with_sync();
    let notes = examined(followed(slapd.uri(), Follow::Auto)).await;
    assert_eq!(notes, (vec![], words(&[tells, unseen])));
    slapd.replace("ann", "title", "20261128230016Z").await;
    let notes = examined(followed(slapd.uri(), Follow::Sync)).await;
    assert_eq!(notes, (vec![], words(&[tells])));
    let polled = "is asked for what was modified instead";
    let notes = examined(followed(slapd.uri(), Follow::Poll)).await;
    assert_eq!(notes, (vec![], words(&[polled])));
    let off = examined(followed(slapd.uri(), Follow::Off)).await;
    assert_eq!(off, (vec![], vec![]));
    slapd.restart_with("sizelimit 5");
    let limited = "result code 4, sizeLimitExceeded";
    let (problems, notes) = examined(followed(slapd.uri(), Follow::Auto)).await;
    assert_eq!(problems, [""; 0]);
    let expected = format!("{below}does not tell what changes ({limited}), and {polled}");
    assert_eq!(notes, [expected]);
    let (problems, _) = examined(followed(slapd.uri(), Follow::Sync)).await;
    let expected = format!("{below}does not tell what changes: {limited}");
    assert_eq!(problems, [expected]);
}

#[tokio::test]
async fn an_attribute_by_another_of_its_names_is_a_problem() {
    let slapd = Slapd::new();
    let settings = but(followed(slapd.uri(), Follow::Off), |ldap| {
        // How the server calls employeeType is not how it is asked for.
        ldap.schema.attributes.status = "2.16.840.1.113730.3.1.4".to_owned();
    });
    let (problems, _) = examined(settings).await;
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(
        problem.contains("do not show it by that name (shown: "),
        "{problem}"
    );
}

/// A backup of somebody else's, a replica that is being filled, an access rule gone wrong: most are missing.
#[tokio::test]
async fn a_directory_that_shows_few_logs_nobody_out() {
    let mut slapd = Slapd::with_sync();
    let (directory, metrics) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    let mut sessions = Vec::new();
    for (login, password) in [("ann", "secret"), ("bob", "crypted"), ("big", "secret")] {
        sessions.push(session(&directory, login, password).await);
    }
    slapd.restore_without(&["cn: ann", "cn: bob", "cn: big"]);
    is_followed(&metrics, "sync", false).await;
    is_followed(&metrics, "sync", true).await;
    for watch in &mut sessions {
        assert!(goes_on(watch).await);
    }
    assert_eq!(log_in(&directory, "ann", "secret").await, "unknown user");
}

#[tokio::test]
async fn who_is_deleted_is_missed_by_polling() {
    let slapd = Slapd::new();
    let mut settings = followed(slapd.uri(), Follow::Poll);
    settings.follow.poll_every = Duration::from_millis(20);
    let (directory, _) = following(settings, "poll").await;
    let mut big = session(&directory, "big", "secret").await;
    slapd.delete("big").await;
    // The only one who has a session.
    assert_eq!(end_of(&mut big).await, Ending::Deleted);
}

/// Disabled, enabled and disabled again: each time counts, also for those who came in between.
#[tokio::test]
async fn a_state_that_comes_back_ends_sessions_again() {
    let slapd = Slapd::with_sync();
    let (directory, _) = following(followed(slapd.uri(), Follow::Sync), "sync").await;
    for _ in 0..3 {
        let mut ann = session(&directory, "ann", "secret").await;
        slapd.replace("ann", "employeeType", "disabled").await;
        assert_eq!(end_of(&mut ann).await, Ending::Disabled);
        slapd.replace("ann", "employeeType", "active").await;
    }
}
