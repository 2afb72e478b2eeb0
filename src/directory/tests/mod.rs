//! The directory against a real slapd: who may log in, and what happens when the server is away, silent or hostile.

mod admitted;
mod cached;
mod followed;
mod injection;
mod live;
mod many;
mod memory;
mod nesting;
mod outages;
mod recipients;
mod replicas;
mod schemas;
mod servers;
mod slapd;
mod suite;
mod surprises;
mod tls;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};

use super::*;
use crate::names::{AccountName, Protocol};
use slapd::{PATIENCE, PEOPLE, READER, READER_PASSWORD, Slapd, dn};

/// The built-in one but for the object class.
const DELIVERY_FILTER: &str = "(&(objectClass=inetOrgPerson)(|(uid=%u)(mail=%u)(mailAlternateAddress=%u)(mailLocalAddress=%u)))";

/// Where changes do not matter.
const UNFOLLOWED: FollowSettings = FollowSettings {
    by: Follow::Off,
    poll_every: Duration::from_secs(1),
    sessions: Sessions::Leave,
};

/// How all of them come.
const VISIT: Visit = Visit {
    protocol: Protocol::Imap,
    client: IpAddr::V4(Ipv4Addr::LOCALHOST),
};

/// Settings that fit the sample tree, without a cache.
fn settings(uri: String, verify: Verify) -> Settings {
    let attributes = Attributes {
        quota: "employeeNumber".to_owned(),
        status: "employeeType".to_owned(),
        ..Attributes::default()
    };
    Settings {
        source: Source::Ldap(Box::new(LdapSettings {
            servers: vec![LdapUri::parse(&uri).unwrap()],
            start_tls: false,
            ca_file: None,
            client: None,
            service: reader(READER_PASSWORD),
            schema: SchemaSettings {
                bases: vec![PEOPLE.to_owned()],
                filters: vec!["(&(objectClass=inetOrgPerson)(|(uid=%u)(mail=%u)))".to_owned()],
                delivery_filters: vec![DELIVERY_FILTER.to_owned()],
                verify,
                attributes,
                quota_unit: 1,
                default_uid: Some(5000),
                default_gid: Some(5001),
                default_home: "%u".to_owned(),
            },
            timeout: Duration::from_secs(10),
            hedge_after: Duration::from_millis(500),
            bind_connections: 4,
        })),
        addresses: AddressSettings::default(),
        cache: CacheSettings {
            entries: 0,
            ..CacheSettings::default()
        },
        follow: UNFOLLOWED,
    }
}

/// The service account of the sample tree.
fn reader(password: &str) -> ServiceAccount {
    ServiceAccount::Simple {
        dn: READER.to_owned(),
        password: Secret::new(password.into()),
    }
}

fn cached(mut settings: Settings) -> Settings {
    settings.cache = CacheSettings {
        entries: 100,
        ttl: Duration::from_secs(3600),
        negative_ttl: Duration::from_secs(3600),
        max_stale: Duration::ZERO,
    };
    settings
}

/// The settings after a change of their LDAP part.
fn but(mut settings: Settings, change: impl FnOnce(&mut LdapSettings)) -> Settings {
    if let Source::Ldap(ldap) = &mut settings.source {
        change(ldap);
    }
    settings
}

fn start(settings: Settings) -> Directory {
    start_counted(settings).0
}

/// The same, with what it counts.
fn start_counted(settings: Settings) -> (Directory, Metrics) {
    let metrics = Metrics::new().unwrap();
    let directory = Directory::start(settings, metrics.clone(), Tasks::new());
    (directory.unwrap(), metrics)
}

/// Logs in and says how that went, in one word or two.
async fn log_in(directory: &Directory, login: &str, password: &str) -> String {
    let password = Secret::new(password.as_bytes().to_vec());
    let answer = directory
        .authenticate(&Login::parse(login).unwrap(), &password, VISIT)
        .await;
    match answer {
        Ok(admitted) => format!("ok {}", admitted.account.name),
        Err(LookupError::Ambiguous) => "ambiguous".to_owned(),
        Err(LookupError::Entry(text)) => format!("entry {text}"),
        Err(LookupError::NotNow(_)) => "not now".to_owned(),
        Err(LookupError::Unavailable(_)) => "unavailable".to_owned(),
        Err(LookupError::Wrong(wrong)) => wrong.to_string(),
    }
}

const ZOE_PASSWORD: &str = "pässword \"with\" \\ all, sorts * of ) things";

#[tokio::test]
async fn binding_says_who_logs_in() {
    let slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    for (login, password, expected) in [
        ("ann", "secret", "ok Ann"),
        ("ANN", "secret", "ok Ann"),
        (" ann ", "secret", "ok Ann"),
        ("ann@example.org", "secret", "ok Ann"),
        ("ann", "Secret", "wrong password"),
        ("ann", "", "wrong password"),
        ("bob", "crypted", "ok bob"),
        ("bob", "secret", "wrong password"),
        ("carl", "secret", "unknown user"),
        ("carl", "", "wrong password"),
        ("twin", "secret", "ambiguous"),
        ("gone", "secret", "account may not log in"),
        ("odd", "secret", "not now"),
        ("odd", "guess", "wrong password"),
        ("locked", "secret", "wrong password"),
        ("none", "secret", "wrong password"),
        ("Zoë O'Neil", ZOE_PASSWORD, "ok Zoë O'Neil"),
        ("Zoë O'Neil", "secret", "wrong password"),
        ("a*b)(uid=\\", "secret", "ok a*b)(uid=\\"),
        ("*", "secret", "unknown user"),
        ("a*", "secret", "unknown user"),
        ("ann)(uid=*", "secret", "unknown user"),
        ("\\2a", "secret", "unknown user"),
        (
            "cn=ann,ou=people,dc=example,dc=org",
            "secret",
            "unknown user",
        ),
        (&"x".repeat(255), &"y".repeat(200), "unknown user"),
        ("ann", &"y".repeat(5000), "wrong password"),
    ] {
        let answer = log_in(&directory, login, password).await;
        assert_eq!(answer, expected, "{login:?} {password:?}");
    }
    let metrics = &directory.0.metrics.directory_lookups;
    let count = |result| metrics.with_label_values(&[result]).get();
    let counts = [
        "ok",
        "wrong",
        "ambiguous",
        "entry",
        "not-now",
        "unavailable",
    ]
    .map(count);
    assert_eq!(counts, [7, 17, 1, 0, 1, 0]);
}

#[tokio::test]
async fn a_password_that_is_no_text_is_wrong() {
    let slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    let password = Secret::new(b"secret\xff".to_vec());
    let answer = directory
        .authenticate(&Login::parse("ann").unwrap(), &password, VISIT)
        .await;
    assert!(matches!(answer, Err(LookupError::Wrong(Wrong::Password))));
}

#[tokio::test]
async fn an_account_is_as_its_entry() {
    let slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    let ann = directory.find(&Login::parse("ann").unwrap()).await.unwrap();
    let expected = Account {
        name: AccountName::parse("Ann").unwrap(),
        home_node: Some("node1".to_owned()),
        uid: 20001,
        gid: 20002,
        home: "homes/ann".to_owned(),
        quota: Some(5_000_000),
        login: Status::Allowed,
        delivery: Status::Allowed,
        access: Access::default(),
    };
    assert_eq!(*ann, expected);
    let bob = directory.find(&Login::parse("bob").unwrap()).await.unwrap();
    let expected = Account {
        name: AccountName::parse("bob").unwrap(),
        home_node: None,
        uid: 5000,
        gid: 5001,
        home: "bob".to_owned(),
        quota: None,
        login: Status::Allowed,
        delivery: Status::Allowed,
        access: Access::default(),
    };
    assert_eq!(*bob, expected);
    let gone = directory.find(&Login::parse("gone").unwrap()).await;
    assert_eq!(gone.unwrap().login, Status::Refused);
}

#[tokio::test]
async fn hashes_are_verified_here() {
    let slapd = Slapd::new();
    for configured in [
        settings(slapd.uri(), Verify::Hash),
        cached(settings(slapd.uri(), Verify::Hash)),
    ] {
        let directory = start(configured);
        for (login, password, expected) in [
            ("ann", "secret", "ok Ann"),
            ("ann", "Secret", "wrong password"),
            ("ann", "", "wrong password"),
            ("bob", "crypted", "ok bob"),
            ("bob", "secret", "wrong password"),
            ("carl", "secret", "unknown user"),
            ("gone", "secret", "account may not log in"),
            ("locked", "!", "wrong password"),
        ] {
            let answer = log_in(&directory, login, password).await;
            assert_eq!(answer, expected, "{login:?} {password:?}");
        }
        let unreadable = format!("entry {}: has no password that may be read", dn("none"));
        assert_eq!(log_in(&directory, "none", "secret").await, unreadable);
        let foreign = format!(
            "entry {}: its password has a scheme that is not verified here",
            dn("sasl")
        );
        assert_eq!(log_in(&directory, "sasl", "secret").await, foreign);
    }
}

#[tokio::test]
async fn many_log_in_at_once() {
    let slapd = Slapd::new();
    let directory = start(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.bind_connections = 3;
    }));
    let tasks = Tasks::new();
    let done = Arc::new(Mutex::new(Vec::new()));
    for number in 0..120 {
        let (directory, done) = (directory.clone(), Arc::clone(&done));
        tasks.spawn("login", async move {
            let (login, password) = match number % 3 {
                0 => ("ann", "secret"),
                1 => ("ann", "wrong"),
                _ => ("bob", "crypted"),
            };
            let answer = log_in(&directory, login, password).await;
            done.lock().unwrap().push((number % 3, answer));
        });
    }
    assert_eq!(tasks.drain(PATIENCE).await, 0);
    let expected = ["ok Ann", "wrong password", "ok bob"];
    let done = done.lock().unwrap();
    assert_eq!(done.len(), 120);
    assert!(done.iter().all(|(kind, answer)| answer == expected[*kind]));
    let Accounts::Ldap(ldap) = &directory.0.accounts else {
        panic!("not LDAP");
    };
    assert!((1..=3).contains(&ldap.kept_for_binds()));
}

#[tokio::test]
async fn a_server_may_come_later() {
    let mut slapd = Slapd::prepare();
    let directory = start(cached(settings(slapd.uri(), Verify::Bind)));
    assert!(!directory.is_reachable().await);
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
    slapd.start();
    assert!(directory.is_reachable().await);
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
}

#[tokio::test]
async fn a_server_may_be_killed_and_come_back() {
    let mut slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    // Kept connections are dead after this, and nobody notices.
    slapd.kill();
    slapd.start();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    slapd.kill();
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
    assert!(!directory.is_reachable().await);
    slapd.start();
    assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
}

/// A connection that dies under an operation, not before it.
#[tokio::test]
async fn a_kept_connection_that_dies_is_replaced_without_a_word() {
    let slapd = Slapd::new();
    let (relay, uri) = Relay::new(slapd.uri()).await;
    let directory = start(settings(uri, Verify::Bind));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(relay.connections(), 2);
    relay.cut_at_next_request();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(relay.connections(), 4);
}

#[tokio::test]
async fn a_silent_server_is_unavailable_within_the_deadline() {
    const TIMEOUT: Duration = Duration::from_millis(800);
    let slapd = Slapd::new();
    let timed = |verify| {
        start(but(settings(slapd.uri(), verify), |ldap| {
            ldap.timeout = TIMEOUT;
        }))
    };
    let (warm, cold) = (timed(Verify::Bind), timed(Verify::Hash));
    assert_eq!(log_in(&warm, "ann", "secret").await, "ok Ann");
    slapd.freeze();
    for directory in [&warm, &warm, &cold, &cold] {
        let began = Instant::now();
        assert_eq!(log_in(directory, "ann", "secret").await, "unavailable");
        let took = began.elapsed();
        assert!(took < TIMEOUT * 5, "{took:?}");
        assert!(took >= TIMEOUT, "{took:?}");
    }
    let began = Instant::now();
    assert!(!warm.is_reachable().await);
    assert!(began.elapsed() < TIMEOUT * 5);
    slapd.thaw();
    for directory in [&warm, &cold] {
        let patience = Instant::now() + PATIENCE;
        while log_in(directory, "ann", "secret").await != "ok Ann" {
            assert!(Instant::now() < patience, "it never came back");
        }
        assert_eq!(log_in(directory, "ann", "wrong").await, "wrong password");
    }
}

#[tokio::test]
async fn tls_is_verified() {
    let (slapd, authority) = Slapd::with_tls(None);
    let (_other, other_authority) = Slapd::with_tls(None);
    let with = |uri: String, start_tls, ca_file: Option<&Path>| {
        start(but(settings(uri, Verify::Bind), |ldap| {
            ldap.start_tls = start_tls;
            ldap.ca_file = ca_file.map(Path::to_owned);
        }))
    };
    for (uri, start_tls) in [(slapd.ldaps_uri(), false), (slapd.uri(), true)] {
        let directory = with(uri.clone(), start_tls, Some(&authority));
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
        assert!(directory.is_reachable().await);
        let directory = with(uri.clone(), start_tls, Some(&other_authority));
        assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
        assert!(!directory.is_reachable().await);
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (slapd, authority) = Slapd::with_tls(Some("ldap.example.org"));
    for (uri, start_tls) in [(slapd.ldaps_uri(), false), (slapd.uri(), true)] {
        let directory = start(but(settings(uri, Verify::Bind), |ldap| {
            ldap.start_tls = start_tls;
            ldap.ca_file = Some(authority.clone());
        }));
        let error = directory.find(&Login::parse("ann").unwrap()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn start_tls_never_falls_back() {
    let slapd = Slapd::new();
    let (_other, authority) = Slapd::with_tls(None);
    let directory = start(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.start_tls = true;
        ldap.ca_file = Some(authority);
    }));
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
}

#[tokio::test]
async fn changes_work_at_once() {
    let slapd = Slapd::new();
    for verify in [Verify::Bind, Verify::Hash] {
        let directory = start(cached(settings(slapd.uri(), verify)));
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(
            log_in(&directory, "gone", "secret").await,
            Wrong::Disabled.to_string()
        );
        // {SHA} of "new".
        let new = "{SHA}wqawPxkN+ytKqR+K+NR3qbw0Adw=";
        slapd.replace("ann", "userPassword", new).await;
        assert_eq!(log_in(&directory, "ann", "new").await, "ok Ann");
        assert_eq!(log_in(&directory, "ann", "other").await, "wrong password");
        // Renamed: what was kept names a DN that is nobody's now.
        slapd.rename("ann", "anna").await;
        let old = "{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk";
        slapd.replace("anna", "userPassword", old).await;
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        slapd.replace("gone", "employeeType", "active").await;
        slapd.replace("gone", "userPassword", old).await;
        assert_eq!(log_in(&directory, "gone", "secret").await, "ok gone");
        slapd.replace("gone", "employeeType", "disabled").await;
        slapd.rename("anna", "ann").await;
    }
}

#[tokio::test]
async fn the_cache_answers_while_it_believes() {
    let mut slapd = Slapd::new();
    for verify in [Verify::Bind, Verify::Hash] {
        let directory = start(cached(settings(slapd.uri(), verify)));
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "carl", "secret").await, "unknown user");
        slapd.kill();
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "carl", "secret").await, "unknown user");
        // Another password is a question that only the directory answers; and so is another login.
        assert_eq!(log_in(&directory, "ann", "wrong").await, "unavailable");
        assert_eq!(log_in(&directory, "bob", "crypted").await, "unavailable");
        slapd.start();
        assert_eq!(log_in(&directory, "bob", "crypted").await, "ok bob");
    }
}

#[tokio::test]
async fn wrong_settings_make_it_unavailable_not_the_user_wrong() {
    let slapd = Slapd::new();
    let wrong =
        |change: fn(&mut LdapSettings)| start(but(settings(slapd.uri(), Verify::Bind), change));
    let directory = wrong(|ldap| ldap.service = reader("no"));
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
    assert!(!directory.is_reachable().await);
    let directory =
        wrong(|ldap| ldap.schema.bases = vec!["ou=nobody,dc=example,dc=org".to_owned()]);
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
    let directory = wrong(|ldap| ldap.schema.default_uid = None);
    let text = format!(
        "entry {}: uidNumber is missing, and has no default",
        dn("bob")
    );
    assert_eq!(log_in(&directory, "bob", "crypted").await, text);
    // A search that a referral answers finds nothing here.
    let directory = wrong(|ldap| ldap.schema.bases = vec![format!("ou=elsewhere,{PEOPLE}")]);
    assert_eq!(log_in(&directory, "ann", "secret").await, "unavailable");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_start() {
    let refused = |change: fn(&mut LdapSettings)| {
        let settings = but(
            settings("ldap://127.0.0.1:1".to_owned(), Verify::Bind),
            change,
        );
        match Directory::start(settings, Metrics::new().unwrap(), Tasks::new()) {
            Err(StartError::Ldap(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    use LdapSetupError::{BindPassword, File, Filter, NoServer};
    assert!(matches!(refused(|l| l.servers.clear()), NoServer));
    assert!(matches!(
        refused(|l| l.schema.filters = vec!["(uid=x)".to_owned()]),
        Filter(_)
    ));
    let empty = refused(|ldap| ldap.service = reader(""));
    assert!(matches!(empty, BindPassword));
    let missing = refused(|ldap| {
        ldap.start_tls = true;
        ldap.ca_file = Some("/nonexistent".into());
    });
    assert!(matches!(missing, File { .. }));
}

#[tokio::test]
async fn a_drain_does_not_wait_for_kept_connections() {
    let slapd = Slapd::new();
    let tasks = Tasks::new();
    let settings = settings(slapd.uri(), Verify::Bind);
    let directory = Directory::start(settings, Metrics::new().unwrap(), tasks.clone()).unwrap();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    tasks.stop();
    // Who is still logging in is served.
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    let began = Instant::now();
    assert_eq!(tasks.drain(PATIENCE).await, 0);
    assert!(began.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn malformed_answers_make_it_unavailable() {
    let search_done: &[u8] = b"\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x00\x04\x00\x04\x00";
    let bind_ok: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
    let with_bind = |rest: &[u8]| [bind_ok, rest].concat();
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"\x30\x03\x02\x01\x01".to_vec(),
        b"\x30\x05\x02\x01\x01\x61\x00".to_vec(),
        b"\x30\x00".to_vec(),
        b"\x30\x05\x04\x01\x01\x61\x00".to_vec(),
        b"\x30\x84\xff\xff\xff\xff".to_vec(),
        with_bind(b"\x30\x05\x02\x01\x02\x64\x00"),
        with_bind(b"\x30\x05\x02\x01\x02\x65\x00"),
        with_bind(b"\x30\x05\x02\x01\x02\x73\x00"),
        with_bind(&[b"\x30\x09\x02\x01\x02\x64\x04\x04\x00\x30\x00", search_done].concat()),
        Vec::new(),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ldap://{}", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        let said = answer.clone();
        tasks.spawn("hostile server", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                socket.write_all(&said).await.unwrap();
                // Reads until the client has had enough.
                let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
            }
        });
        let directory = start(but(settings(uri, Verify::Bind), |ldap| {
            ldap.timeout = Duration::from_millis(300);
        }));
        assert_eq!(
            log_in(&directory, "ann", "secret").await,
            "unavailable",
            "{answer:?}"
        );
        assert_eq!(tasks.drain(Duration::ZERO).await, 1);
    }
}

#[tokio::test]
async fn the_log_says_once_that_it_is_away_and_never_a_password() {
    const PASSWORD: &str = "do-not-log-this";
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    // With a single subscriber in the process, tracing lets whichever thread comes first decide for all whether an event is
    // wanted, and the other tests' threads want none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut slapd = Slapd::new();
    for verify in [Verify::Bind, Verify::Hash] {
        let directory = start(settings(slapd.uri(), verify));
        for login in ["ann", "carl", "twin", "odd", "sasl", "none"] {
            log_in(&directory, login, PASSWORD).await;
        }
        slapd.kill();
        for _ in 0..3 {
            let password = Secret::new(PASSWORD.into());
            let login = Login::parse("ann").unwrap();
            let error = directory
                .authenticate(&login, &password, VISIT)
                .await
                .unwrap_err();
            assert!(!format!("{error} {error:?}").contains(PASSWORD));
        }
        slapd.start();
        for _ in 0..3 {
            log_in(&directory, "ann", PASSWORD).await;
        }
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let count = |what| text.matches(what).count();
    assert_eq!(count("directory is not available"), 2, "{text}");
    assert_eq!(count("directory is available again"), 2, "{text}");
    assert_eq!(count("more than one entry matches"), 2, "{text}");
    assert_eq!(count(PASSWORD), 0, "{text}");
    assert_eq!(count(READER_PASSWORD), 0, "{text}");
}

#[tokio::test]
async fn the_file_is_a_directory_too() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let accounts = "[[account]]\nname = \"ann\"\naliases = [\"ann@example.org\"]\nuid = 1\ngid = 1\n\
        password = \"{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk\"\n\
        [[account]]\nname = \"gone\"\nuid = 1\ngid = 1\nstatus = \"disabled\"\n\
        password = \"{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk\"\n";
    std::fs::write(&path, accounts).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let directory = start(Settings {
        source: Source::File(FileSettings { path }),
        addresses: AddressSettings::default(),
        cache: CacheSettings::default(),
        follow: UNFOLLOWED,
    });
    for (login, password, expected) in [
        ("ann", "secret", "ok ann"),
        ("ann@example.org", "secret", "ok ann"),
        ("ann", "Secret", "wrong password"),
        ("ann", "", "wrong password"),
        ("bob", "secret", "unknown user"),
        ("gone", "secret", "account may not log in"),
    ] {
        assert_eq!(log_in(&directory, login, password).await, expected);
    }
    assert!(directory.is_reachable().await);
}

/// Whoever keeps all cores busy must not see from the answers which accounts exist.
#[tokio::test]
async fn refusals_need_a_core_whatever_their_reason() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let slow = "{CRYPT}$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA";
    let accounts = [
        ("ann", slow, "active"),
        ("gone", slow, "disabled"),
        ("quick", "{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk", "active"),
        ("locked", "{CRYPT}!", "active"),
    ]
    .map(|(name, password, status)| {
        format!(
            "[[account]]\nname = \"{name}\"\nuid = 1\ngid = 1\npassword = \"{password}\"\nstatus = \"{status}\"\n"
        )
    });
    std::fs::write(&path, accounts.concat()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut directory = start(Settings {
        source: Source::File(FileSettings { path }),
        addresses: AddressSettings::default(),
        cache: CacheSettings::default(),
        follow: UNFOLLOWED,
    });
    Arc::get_mut(&mut directory.0).unwrap().timeout = Duration::from_millis(200);
    assert_eq!(log_in(&directory, "ann", "guess").await, "wrong password");
    let busy = directory.0.checker.occupy().await;
    for login in ["ann", "gone", "quick", "locked", "nobody"] {
        let answer = log_in(&directory, login, "guess").await;
        assert_eq!(answer, "unavailable", "{login}");
    }
    drop(busy);
    for (login, expected) in [
        ("gone", "account may not log in"),
        ("quick", "wrong password"),
        ("locked", "wrong password"),
        ("nobody", "unknown user"),
    ] {
        assert_eq!(log_in(&directory, login, "guess").await, expected);
    }
    assert_eq!(log_in(&directory, "quick", "secret").await, "ok quick");
}

/// Where a test's log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stands between directory and server, and can break connections in the middle of an operation.
struct Relay {
    state: Arc<RelayState>,
    _tasks: Tasks,
}

#[derive(Default)]
struct RelayState {
    connections: std::sync::atomic::AtomicUsize,
    /// Connections up to this number end at their next request.
    cut: std::sync::atomic::AtomicUsize,
}

impl Relay {
    async fn new(server: String) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("ldap://{}", listener.local_addr().unwrap());
        let (state, tasks) = (Arc::new(RelayState::default()), Tasks::new());
        let (shared, spawner) = (Arc::clone(&state), tasks.clone());
        tasks.spawn("relay", async move {
            let server = server.trim_start_matches("ldap://").to_owned();
            while let Ok((client, _)) = listener.accept().await {
                let number = 1 + shared.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, server) = (Arc::clone(&shared), server.clone());
                spawner.spawn("relayed", async move {
                    let server = tokio::net::TcpStream::connect(server).await.unwrap();
                    Self::relay(client, server, &shared, number).await;
                });
            }
        });
        let relay = Self {
            state,
            _tasks: tasks,
        };
        (relay, uri)
    }

    async fn relay(
        mut client: tokio::net::TcpStream,
        mut server: tokio::net::TcpStream,
        state: &RelayState,
        number: usize,
    ) {
        use tokio::io::AsyncReadExt as _;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let requests = async {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                if number <= state.cut.load(Ordering::SeqCst) {
                    return;
                }
                to_server.write_all(&buffer[..length]).await.unwrap();
            }
        };
        tokio::select! {
            () = requests => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    fn cut_at_next_request(&self) {
        let cut = self.connections();
        self.state.cut.store(cut, Ordering::SeqCst);
    }
}
