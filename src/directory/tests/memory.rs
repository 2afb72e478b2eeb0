//! What is served while no LDAP server answers, and what is not.

use super::*;

/// Settings under which everything is asked again at once, but remembered for so long.
fn remembering(uri: String, verify: Verify, max_stale: Duration) -> Settings {
    let mut settings = settings(uri, verify);
    settings.cache = CacheSettings {
        entries: 100,
        ttl: Duration::from_millis(1),
        negative_ttl: Duration::from_millis(1),
        max_stale,
    };
    settings
}

const LONG: Duration = Duration::from_secs(3600);

/// An age after which nothing is fresh.
async fn grow_old() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn deliver(directory: &Directory, address: &str) -> String {
    let address = Address::parse(address).unwrap();
    match directory.find_recipient(&address).await {
        Ok(account) => format!("{:?} {}", account.delivery, account.name),
        Err(LookupError::Unavailable(_)) => "unavailable".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn who_is_known_is_served_and_nobody_is_refused() {
    for verify in [Verify::Bind, Verify::Hash] {
        let mut slapd = Slapd::new();
        let (directory, metrics) = start_counted(remembering(slapd.uri(), verify, LONG));
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "carl", "secret").await, "unknown user");
        assert_eq!(
            log_in(&directory, "gone", "secret").await,
            Wrong::Disabled.to_string()
        );
        assert_eq!(
            deliver(&directory, "ann+lists@example.org").await,
            "Allowed Ann"
        );
        assert_eq!(
            deliver(&directory, "deleted@example.org").await,
            "Refused deleted"
        );
        assert_eq!(metrics.directory_stale.get(), 0);
        slapd.kill();
        grow_old().await;
        // First whoever finds out that it is away, then others.
        for _ in 0..2 {
            assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
            assert_eq!(
                deliver(&directory, "ann+lists@example.org").await,
                "Allowed Ann"
            );
            assert_eq!(log_in(&directory, "ann", "wrong").await, "unavailable");
            for login in ["carl", "gone", "bob"] {
                assert_eq!(log_in(&directory, login, "secret").await, "unavailable");
            }
            for address in [
                "deleted@example.org",
                "ann+other@example.org",
                "bob@example.org",
            ] {
                assert_eq!(
                    deliver(&directory, address).await,
                    "unavailable",
                    "{address}"
                );
            }
            assert!(directory.is_ready().await && !directory.is_reachable().await);
        }
        assert_eq!(metrics.directory_stale.get(), 1);
        slapd.start();
        grow_old().await;
        // Whoever is not in memory asks at once, and so everybody learns that it is back.
        assert_eq!(log_in(&directory, "bob", "crypted").await, "ok bob");
        assert_eq!(metrics.directory_stale.get(), 0);
        assert_eq!(log_in(&directory, "carl", "secret").await, "unknown user");
    }
}

#[tokio::test]
async fn a_changed_password_is_taken_at_once_and_the_old_one_not_from_memory() {
    let mut slapd = Slapd::new();
    let settings = remembering(slapd.uri(), Verify::Bind, LONG);
    let directory = start(settings);
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    // {SHA} of "new".
    let new = "{SHA}wqawPxkN+ytKqR+K+NR3qbw0Adw=";
    slapd.replace("ann", "userPassword", new).await;
    grow_old().await;
    assert_eq!(log_in(&directory, "ann", "new").await, "ok Ann");
    assert_eq!(log_in(&directory, "ann", "secret").await, "wrong password");
    slapd.kill();
    grow_old().await;
    assert_eq!(log_in(&directory, "ann", "new").await, "ok Ann");
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
}

#[tokio::test]
async fn memory_ends() {
    const STALE: Duration = Duration::from_millis(300);
    let mut slapd = Slapd::new();
    let directory = start(remembering(slapd.uri(), Verify::Bind, STALE));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    slapd.kill();
    let patience = Instant::now() + PATIENCE;
    while log_in(&directory, "ann", "secret").await == "ok Ann" {
        assert!(Instant::now() < patience, "it never ends");
        grow_old().await;
    }
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
    let off = start(remembering(slapd.uri(), Verify::Bind, Duration::ZERO));
    slapd.start();
    assert_eq!(log_in(&off, "ann", "secret").await, "ok Ann");
    slapd.kill();
    grow_old().await;
    assert_eq!(log_in(&off, "ann", "secret").await, "unavailable");
    assert!(!off.is_ready().await);
}

#[tokio::test]
async fn a_silent_server_keeps_waiting_only_who_finds_out() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let slapd = Slapd::new();
    let settings = remembering(slapd.uri(), Verify::Bind, LONG);
    let directory = start(but(settings, |ldap| ldap.timeout = TIMEOUT));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    slapd.freeze();
    grow_old().await;
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    }
    // Not one more deadline: ten would be twenty seconds.
    assert!(began.elapsed() < TIMEOUT * 5, "{:?}", began.elapsed());
    assert!(directory.is_ready().await);
    slapd.thaw();
}
