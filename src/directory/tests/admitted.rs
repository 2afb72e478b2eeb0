//! Who is let in without a password, since a certificate was verified: whoever may log in, and nobody else.

use super::*;

/// As [`log_in`], without a password.
async fn admit(directory: &Directory, login: &str, visit: Visit) -> String {
    let login = Login::parse(login).unwrap();
    match directory.admit(&login, visit).await {
        Ok(admitted) => format!("ok {}", admitted.account.name),
        Err(LookupError::Ambiguous) => "ambiguous".to_owned(),
        Err(LookupError::Entry(_)) => "entry".to_owned(),
        Err(LookupError::NotNow(_)) => "not now".to_owned(),
        Err(LookupError::Unavailable(_)) => "unavailable".to_owned(),
        Err(LookupError::Wrong(wrong)) => wrong.to_string(),
    }
}

#[tokio::test]
async fn the_status_counts_in_ldap() {
    let slapd = Slapd::new();
    for verify in [Verify::Bind, Verify::Hash] {
        for settings in [
            settings(slapd.uri(), verify),
            cached(settings(slapd.uri(), verify)),
        ] {
            let directory = start(settings);
            for (login, expected) in [
                ("ann", "ok Ann"),
                ("ann@example.org", "ok Ann"),
                ("none", "ok none"),
                ("carl", "unknown user"),
                ("gone", "account may not log in"),
                ("twin", "ambiguous"),
                ("odd", "not now"),
            ] {
                // The second answer is the cache's, where there is one.
                for _ in 0..2 {
                    assert_eq!(admit(&directory, login, VISIT).await, expected, "{login}");
                }
            }
            // Nothing of that is a proof of a password.
            assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
            assert_eq!(log_in(&directory, "ann", "").await, "wrong password");
        }
    }
}

/// What the cache has is believed no longer than for those who come with a password; a refusal of it is asked again.
#[tokio::test]
async fn who_may_log_in_again_is_let_in_at_once() {
    let slapd = Slapd::new();
    let directory = start(cached(settings(slapd.uri(), Verify::Bind)));
    assert_eq!(
        admit(&directory, "gone", VISIT).await,
        "account may not log in"
    );
    slapd.replace("gone", "employeeType", "active").await;
    assert_eq!(admit(&directory, "gone", VISIT).await, "ok gone");
    assert_eq!(admit(&directory, "odd", VISIT).await, "not now");
    assert_eq!(log_in(&directory, "odd", "secret").await, "not now");
    slapd.replace("odd", "employeeType", "active").await;
    assert_eq!(log_in(&directory, "odd", "secret").await, "ok odd");
}

#[tokio::test]
async fn who_is_known_is_let_in_while_no_server_answers_and_nobody_else() {
    let mut slapd = Slapd::new();
    let mut settings = cached(settings(slapd.uri(), Verify::Bind));
    settings.cache.ttl = Duration::from_millis(1);
    settings.cache.negative_ttl = Duration::from_millis(1);
    settings.cache.max_stale = Duration::from_secs(3600);
    let directory = start(settings);
    assert_eq!(admit(&directory, "ann", VISIT).await, "ok Ann");
    assert_eq!(
        admit(&directory, "gone", VISIT).await,
        "account may not log in"
    );
    slapd.kill();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..2 {
        assert_eq!(admit(&directory, "ann", VISIT).await, "ok Ann");
        assert_eq!(admit(&directory, "gone", VISIT).await, "unavailable");
        assert_eq!(admit(&directory, "bob", VISIT).await, "unavailable");
    }
}

#[tokio::test]
async fn status_protocols_and_networks_count_in_a_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let account = |name: &str, more: &str| {
        format!(
            "[[account]]\nname = '{name}'\nuid = 1\ngid = 1\n{more}\n\
             password = '{{SSHA}}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk'\n"
        )
    };
    let accounts = [
        account("ann", ""),
        account("gone", "status = 'disabled'"),
        account("later", "status = 'maintenance'"),
        account("imap", "protocols = ['imap']"),
        account("office", "networks = ['192.0.2.0/24']"),
    ];
    std::fs::write(&path, accounts.concat()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let directory = start(Settings {
        source: Source::File(FileSettings { path }),
        addresses: AddressSettings::default(),
        cache: CacheSettings::default(),
        follow: UNFOLLOWED,
    });
    let visit = |protocol, client: &str| Visit {
        protocol,
        client: client.parse().unwrap(),
    };
    let (imap, pop3) = (Protocol::Imap, Protocol::Pop3);
    for (login, visit, expected) in [
        ("ann", visit(pop3, "::1"), "ok ann"),
        ("bob", visit(imap, "::1"), "unknown user"),
        ("gone", visit(imap, "::1"), "account may not log in"),
        ("later", visit(imap, "::1"), "not now"),
        ("imap", visit(imap, "::1"), "ok imap"),
        (
            "imap",
            visit(pop3, "::1"),
            "account may not use this protocol",
        ),
        ("office", visit(imap, "192.0.2.9"), "ok office"),
        (
            "office",
            visit(imap, "::1"),
            "account may not log in from this network",
        ),
    ] {
        assert_eq!(admit(&directory, login, visit).await, expected, "{login}");
    }
}
