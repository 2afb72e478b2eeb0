//! Whose an address is, by a real slapd and by the accounts file.

use super::*;

/// Whose an address is, and whether mail for it is taken.
async fn owner(directory: &Directory, address: &str) -> String {
    let address = Address::parse(address).unwrap();
    match directory.find_recipient(&address).await {
        Ok(account) => format!("{} {:?}", account.name, account.delivery),
        Err(LookupError::Ambiguous) => "ambiguous".to_owned(),
        Err(LookupError::Entry(text)) => format!("entry {text}"),
        Err(LookupError::NotNow(_)) => "not now".to_owned(),
        Err(LookupError::Unavailable(_)) => "unavailable".to_owned(),
        Err(LookupError::Wrong(wrong)) => wrong.to_string(),
    }
}

async fn assert_owners(directory: &Directory, cases: &[(&str, &str)]) {
    for (address, expected) in cases {
        assert_eq!(owner(directory, address).await, *expected, "{address}");
    }
}

fn with_addresses(mut settings: Settings, change: impl FnOnce(&mut AddressSettings)) -> Settings {
    change(&mut settings.addresses);
    settings
}

#[tokio::test]
async fn addresses_are_found_by_every_attribute() {
    let slapd = Slapd::new();
    for configured in [
        settings(slapd.uri(), Verify::Bind),
        cached(settings(slapd.uri(), Verify::Hash)),
    ] {
        let directory = start(configured);
        assert_owners(
            &directory,
            &[
                ("mia@example.org", "mia Allowed"),
                ("mia@local.example", "mia Allowed"),
                ("mia@alternate.example", "mia Allowed"),
                ("mia", "mia Allowed"),
                ("MIA@Alternate.Example", "mia Allowed"),
                ("\"mia\"@example.org", "mia Allowed"),
                ("mia@other.example", "unknown user"),
                ("zo\u{e9}@example.org", "zo\u{e9}@example.org Allowed"),
                ("ZO\u{c9}@example.org", "zo\u{e9}@example.org Allowed"),
                ("zo\u{e9}@other.example", "unknown user"),
                ("postmaster", "unknown user"),
                // An alias of two people, in two attributes.
                ("both@example.org", "ambiguous"),
                ("both+x@example.org", "ambiguous"),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn an_address_stays_one_value() {
    let slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    assert_owners(
        &directory,
        &[
            (
                "\"a*b)(uid=\\\\\"@example.org",
                "a*b)(uid=\\@example.org Allowed",
            ),
            ("*@example.org", "unknown user"),
            ("*", "unknown user"),
            ("mi*@example.org", "unknown user"),
            ("\"mia)(uid=*\"@example.org", "unknown user"),
            ("\"\\\\2a\"@example.org", "unknown user"),
            ("\"*)(|(uid=mia))(\"", "unknown user"),
            ("\"mia@example.org\"", "unknown user"),
            ("%u@example.org", "unknown user"),
        ],
    )
    .await;
}

#[tokio::test]
async fn detail_and_domains_are_as_set() {
    let slapd = Slapd::new();
    let default = settings(slapd.uri(), Verify::Bind);
    let directory = start(default.clone());
    assert_owners(
        &directory,
        &[
            ("mia+lists@example.org", "mia Allowed"),
            ("mia+own@local.example", "mia Allowed"),
            ("mia+a+b@alternate.example", "mia Allowed"),
            ("mia+", "mia Allowed"),
            ("+mia@example.org", "unknown user"),
            ("mia-lists@example.org", "unknown user"),
        ],
    )
    .await;
    let directory = start(with_addresses(default.clone(), |addresses| {
        addresses.recipient_delimiter = "-_".to_owned();
    }));
    assert_owners(
        &directory,
        &[
            ("mia-lists_x@example.org", "mia Allowed"),
            ("mia_lists@example.org", "mia Allowed"),
            ("mia+lists@example.org", "unknown user"),
        ],
    )
    .await;
    let directory = start(with_addresses(default, |addresses| {
        addresses.recipient_delimiter = String::new();
        addresses.domains = vec!["Example.org".to_owned()];
        addresses.domain_aliases = [("old.example".to_owned(), "example.org".to_owned())].into();
        addresses.default_domain = Some("old.example".to_owned());
    }));
    assert_owners(
        &directory,
        &[
            ("mia@EXAMPLE.org", "mia Allowed"),
            ("mia@OLD.example", "mia Allowed"),
            ("mia+own@local.example", "unknown user"),
            ("mia@local.example", "unknown user"),
            // It is `mia@example.org`, not the name.
            ("mia", "mia Allowed"),
            ("max", "unknown user"),
        ],
    )
    .await;
}

/// A whole address may be somebody else's than the address without detail.
#[tokio::test]
async fn the_whole_address_comes_first() {
    let slapd = Slapd::new();
    let directory = start(cached(settings(slapd.uri(), Verify::Bind)));
    slapd.replace("max", "mail", "mia+max@example.org").await;
    assert_owners(
        &directory,
        &[
            ("mia+max@example.org", "max Allowed"),
            ("mia+others@example.org", "mia Allowed"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_status_is_about_login_and_delivery() {
    let slapd = Slapd::new();
    let directory = start(cached(settings(slapd.uri(), Verify::Bind)));
    assert_owners(
        &directory,
        &[
            ("gone", "gone Allowed"),
            (
                "\"a*b)(uid=\\\\\"@example.org",
                "a*b)(uid=\\@example.org Allowed",
            ),
            ("deleted@example.org", "deleted Refused"),
            ("odd", "odd TryLater"),
        ],
    )
    .await;
    let login = Login::parse("gone").unwrap();
    let gone = directory.find(&login).await.unwrap();
    assert_eq!(
        (gone.login, gone.delivery),
        (Status::Refused, Status::Allowed)
    );
    // A kept refusal is asked for again, so that no mail goes back that is welcome by now.
    slapd.replace("deleted", "employeeType", "active").await;
    assert_owners(&directory, &[("deleted@example.org", "deleted Allowed")]).await;
    // A kept account is believed.
    slapd.replace("deleted", "employeeType", "deleted").await;
    assert_owners(&directory, &[("deleted@example.org", "deleted Allowed")]).await;
}

#[tokio::test]
async fn logins_and_addresses_are_kept_apart() {
    let mut slapd = Slapd::new();
    let directory = start(cached(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.schema.delivery_filters = vec!["(mail=%n@example.org)".to_owned()];
    })));
    let find = async |login: &str| directory.find(&Login::parse(login).unwrap()).await;
    // One text: nobody as a login, an account as an address; and the other way about.
    assert!(find("mia@old.example").await.is_err());
    assert_owners(&directory, &[("mia@old.example", "mia Allowed")]).await;
    assert_eq!(find("max").await.unwrap().name.as_str(), "max");
    assert_owners(&directory, &[("max", "unknown user")]).await;
    // The same person either way is the same account.
    let address = Address::parse("mia@example.org").unwrap();
    let by_address = directory.find_recipient(&address).await.unwrap();
    assert_eq!(find("mia").await.unwrap(), by_address);
    let counted = |result| {
        let counter = &directory.0.metrics.directory_cache;
        counter.with_label_values(&[result]).get()
    };
    assert_eq!((counted("hit"), counted("miss")), (0, 6));
    slapd.kill();
    assert!(find("mia@old.example").await.is_err());
    assert_owners(
        &directory,
        &[
            ("mia@old.example", "mia Allowed"),
            ("max", "unknown user"),
            ("mia@example.org", "mia Allowed"),
            ("mia@new.example", "unavailable"),
        ],
    )
    .await;
    assert_eq!((counted("hit"), counted("miss")), (4, 7));
}

#[tokio::test]
async fn an_address_is_not_unknown_while_the_server_is_away() {
    let mut slapd = Slapd::prepare();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    assert_owners(
        &directory,
        &[
            ("mia@example.org", "unavailable"),
            ("nobody@example.org", "unavailable"),
        ],
    )
    .await;
    slapd.start();
    assert_owners(
        &directory,
        &[
            ("mia@example.org", "mia Allowed"),
            ("nobody@example.org", "unknown user"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_delivery_filter_that_is_none_is_refused() {
    let configured = but(
        settings("ldap://127.0.0.1".to_owned(), Verify::Bind),
        |ldap| ldap.schema.delivery_filters = vec!["(mail=%s)".to_owned()],
    );
    let started = Directory::start(configured, Metrics::new().unwrap(), Tasks::new());
    let error = crate::outcome::chain(&started.unwrap_err());
    assert!(
        error.contains("the delivery filter has a percent sign"),
        "{error}"
    );
}

/// Settings of an accounts file; each account by its name and more lines.
fn file(folder: &Path, accounts: &[(&str, &str)]) -> Settings {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("accounts.toml");
    let hash = "{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk";
    let accounts = accounts.iter().map(|(name, lines)| {
        format!("[[account]]\nname = {name:?}\nuid = 1\ngid = 1\npassword = {hash:?}\n{lines}\n")
    });
    std::fs::write(&path, accounts.collect::<String>()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Settings {
        source: Source::File(FileSettings { path }),
        addresses: AddressSettings {
            domains: vec!["a.example".to_owned(), "b.example".to_owned()],
            domain_aliases: [("old.example".to_owned(), "a.example".to_owned())].into(),
            ..AddressSettings::default()
        },
        cache: CacheSettings::default(),
        follow: UNFOLLOWED,
    }
}

#[tokio::test]
async fn addresses_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = start(file(
        folder.path(),
        &[
            (
                "ann",
                "aliases = ['login']\naddresses = ['Ann.Smith', 'ann@a.example', 'info@Old.example', 'box+own']",
            ),
            (
                "bob@b.example",
                "status = 'disabled'\naddresses = ['\"b o b\"@a.example', 'bob']",
            ),
            ("Zo\u{eb} O'Neil", "status = 'nopop'"),
            ("eve@elsewhere.example", "status = 'noaccess'"),
        ],
    ));
    assert_owners(
        &directory,
        &[
            ("ann", "ann Allowed"),
            ("ANN@A.example", "ann Allowed"),
            ("ann@b.example", "ann Allowed"),
            ("ann+x@old.example", "ann Allowed"),
            ("ann@elsewhere.example", "unknown user"),
            ("ann.smith@b.example", "ann Allowed"),
            ("info@a.example", "ann Allowed"),
            ("info@old.example", "ann Allowed"),
            ("info@b.example", "unknown user"),
            ("info", "unknown user"),
            ("box+own@a.example", "ann Allowed"),
            ("box@a.example", "unknown user"),
            ("login@a.example", "unknown user"),
            ("bob@b.example", "bob@b.example Refused"),
            ("bob@a.example", "bob@b.example Refused"),
            ("\"bob@b.example\"", "unknown user"),
            ("\"bob@b.example\"@a.example", "unknown user"),
            ("\"b o b\"@a.example", "bob@b.example Refused"),
            ("\"zo\u{eb} o'neil\"@a.example", "Zo\u{eb} O'Neil Allowed"),
            ("eve@elsewhere.example", "unknown user"),
        ],
    )
    .await;
}

/// With every domain looked up, a name is an address at none.
#[tokio::test]
async fn names_of_the_file_are_names_at_named_domains() {
    let folder = tempfile::tempdir().unwrap();
    let accounts = file(folder.path(), &[("ann", "addresses = ['ann@c.example']")]);
    let directory = start(with_addresses(accounts, |addresses| {
        addresses.domains.clear()
    }));
    assert_owners(
        &directory,
        &[
            ("ann", "ann Allowed"),
            ("ann@c.example", "ann Allowed"),
            ("ann@a.example", "unknown user"),
        ],
    )
    .await;
}

#[test]
fn nobody_shares_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let settings = file(
        folder.path(),
        &[
            ("ann", "addresses = ['ann', 'x@a.example', 'y@old.example']"),
            (
                "bob",
                "addresses = ['X@A.example', 'y@a.example', 'x@b.example']",
            ),
            (
                "Ann",
                "addresses = ['z@c.example', 'z z', 1, '\"z@a.example\"']",
            ),
            ("x@B.example", ""),
            ("ANN", ""),
        ],
    );
    let Source::File(path) = settings.source else {
        panic!("not a file");
    };
    let Err(FileError::Accounts { problems, .. }) = check_accounts(path, &settings.addresses)
    else {
        panic!("taken");
    };
    let expected = [
        "account 2: \"x@a.example\" is an address of the account \"ann\" before it",
        "account 2: \"y@a.example\" is an address of the account \"ann\" before it",
        "account 3 (Ann): addresses: expected a list of strings",
        "account 3 (Ann): addresses: \"z@c.example\" has none of the directory's domains",
        "account 3 (Ann): addresses: \"z z\" is not an address",
        "account 3 (Ann): addresses: \"\\\"z@a.example\\\"\" has none of the directory's domains",
        "account 4: \"x@b.example\" is an address of the account \"bob\" before it",
        "account 5: \"ann\" is an address of the account \"ann\" before it",
    ];
    assert_eq!(problems, expected);
}
