//! What a real slapd may hold or do that nobody expected: too many values, values that are no text, entries of megabytes, limits on
//! our own account. One bad entry is bad for its own user alone.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ldap3::Mod;

use super::*;

/// Entries of people, by their names and more lines.
fn entries(people: &[(&str, String)]) -> String {
    let entry = |(name, lines): &(&str, String)| {
        format!(
            "dn: {}\nobjectClass: inetOrgPerson\nsn: x\nuid: {name}\nuserPassword: secret\n{lines}\n",
            dn(name)
        )
    };
    people.iter().map(entry).collect()
}

/// Lines of an attribute with all these values.
fn values(attribute: &str, values: impl Iterator<Item = String>) -> String {
    values
        .map(|value| format!("{attribute}: {value}\n"))
        .collect()
}

/// A line of a value in any octets.
fn binary(attribute: &str, octets: &[u8]) -> String {
    format!("{attribute}:: {}\n", STANDARD.encode(octets))
}

/// A directory at this server that reads attributes of these names.
fn reading(slapd: &Slapd, change: impl FnOnce(&mut Attributes)) -> (Directory, Metrics) {
    start_counted(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        change(&mut ldap.schema.attributes);
    }))
}

async fn home_node(directory: &Directory, login: &str) -> Option<String> {
    let found = directory.find(&Login::parse(login).unwrap()).await;
    found.unwrap().home_node.clone()
}

async fn modify(slapd: &Slapd, name: &str, change: Mod<&'static str>) {
    let modified = slapd.admin().await.modify(&dn(name), vec![change]).await;
    modified.unwrap().success().unwrap();
}

#[tokio::test]
async fn a_home_that_is_none_or_two() {
    let lines = |attributes: &[&str]| -> String {
        let all = attributes.iter();
        all.map(|attribute| format!("{attribute}: node2\n{attribute}: node1\n"))
            .collect()
    };
    let people = entries(&[
        ("nowhere", String::new()),
        ("two", lines(&["departmentNumber", "roomNumber"])),
        ("foreign", "departmentNumber;lang-en: node9\n".to_owned()),
    ]);
    let slapd = Slapd::with_schema("sortvals roomNumber\n", &people);
    let named = |name: &str| {
        let name = name.to_owned();
        reading(&slapd, |attributes| attributes.home_node = name).0
    };
    let (as_stored, sorted) = (named("departmentNumber"), named("DEPARTMENTnumber"));
    for directory in [&as_stored, &sorted] {
        // Without one it is for the table of nodes to say where that is.
        assert_eq!(home_node(directory, "nowhere").await, None);
        assert_eq!(log_in(directory, "nowhere", "secret").await, "ok nowhere");
        // One with an option is another attribute.
        assert_eq!(home_node(directory, "foreign").await, None);
        // The first as stored: LDAP's values have no order, but slapd keeps the one that they came in.
        assert_eq!(home_node(directory, "two").await.unwrap(), "node2");
    }
    // Unless it is told to sort them.
    let sorted = named("roomNumber");
    assert_eq!(home_node(&sorted, "two").await.unwrap(), "node1");
    // So what is taken away and put back goes to the end, and the account moves.
    let node2 = || ["node2"].into();
    modify(&slapd, "two", Mod::Delete("departmentNumber", node2())).await;
    modify(&slapd, "two", Mod::Add("departmentNumber", node2())).await;
    assert_eq!(home_node(&as_stored, "two").await.unwrap(), "node1");
}

#[tokio::test]
async fn values_that_are_no_text() {
    let photo = [b"\xff\xd8\xff\xe0\0\x10JFIF\0".repeat(100), vec![0xff]].concat();
    let certificate = rcgen::generate_simple_self_signed(vec!["ann.example".to_owned()]);
    let certificate = certificate.unwrap().cert.der().to_vec();
    let lines = [
        binary("jpegPhoto", &photo),
        binary("userCertificate;binary", &certificate),
        binary("audio", b"\0\r\n\0"),
    ];
    let slapd = Slapd::with_schema("", &entries(&[("photo", lines.concat())]));
    // Nobody asks for them.
    let (directory, _) = reading(&slapd, |_| {});
    assert_eq!(log_in(&directory, "photo", "secret").await, "ok photo");

    type Change = fn(&mut Attributes, String);
    let changes: [(Change, &str); 6] = [
        (|all, name| all.home_node = name, "is not UTF-8"),
        (|all, name| all.home = name, "is not UTF-8"),
        (|all, name| all.quota = name, "is not UTF-8"),
        (|all, name| all.status = name, "is not UTF-8"),
        (|all, name| all.uid = name, "is not UTF-8"),
        (|all, name| all.networks = Some(name), "is not UTF-8"),
    ];
    for (change, what) in changes {
        let (directory, metrics) = reading(&slapd, |all| change(all, "jpegPhoto".to_owned()));
        let expected = format!("entry {}: jpegPhoto {what}", dn("photo"));
        assert_eq!(log_in(&directory, "photo", "secret").await, expected);
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_undisturbed(&metrics, &slapd.uri());
    }
    // What is text, but no name of anything.
    let (directory, _) = reading(&slapd, |all| all.home = "audio".to_owned());
    let answer = log_in(&directory, "photo", "secret").await;
    let expected = "audio is empty, too long or has a control character";
    assert!(answer.ends_with(expected), "{answer}");
    let (directory, _) = reading(&slapd, |all| all.home_node = "audio".to_owned());
    // Not looked at here: a node of this name is not in the table.
    assert_eq!(home_node(&directory, "photo").await.unwrap(), "\0\r\n\0");
}

/// The name that we ask by must be the one that the server answers with.
#[tokio::test]
async fn another_name_of_an_attribute_is_not_found() {
    let slapd = Slapd::new();
    let (directory, _) = reading(&slapd, |all| all.name = "userid".to_owned());
    let expected = format!("entry {}: userid is missing", dn("ann"));
    assert_eq!(log_in(&directory, "ann", "secret").await, expected);
}

const MANY: usize = 20_000;

/// People whose entries have megabytes, of what is asked for or is not.
fn huge() -> String {
    let many = |attribute, value: fn(usize) -> String| values(attribute, (0..MANY).map(value));
    entries(&[
        (
            "unasked",
            many("description", |n| format!("{n} {}", "x".repeat(80)))
                + &binary("jpegPhoto", &[0xff; 3_000_000]),
        ),
        (
            "homeless",
            format!("physicalDeliveryOfficeName: {}\n", "x".repeat(2_000_000)),
        ),
        (
            "networks",
            many("departmentNumber", |n| {
                format!("10.{}.{}.0/24", n / 256, n % 256)
            }),
        ),
        ("names", many("uid", |n| format!("name{n}"))),
    ])
}

#[tokio::test]
async fn entries_of_megabytes_keep_nobody_else_from_logging_in() {
    let slapd = Slapd::with_schema("", &huge());
    let (directory, metrics) = reading(&slapd, |all| {
        all.home = "physicalDeliveryOfficeName".to_owned();
        all.networks = Some("departmentNumber".to_owned());
    });
    let (stop, tasks) = (Arc::new(AtomicBool::new(false)), Tasks::new());
    let served = Arc::new(Mutex::new(Vec::new()));
    for login in ["bob", "ann"] {
        let (directory, stop, served) = (directory.clone(), stop.clone(), served.clone());
        tasks.spawn("logins", async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = log_in(&directory, login, "secret").await;
                served.lock().unwrap().push(answer);
            }
        });
    }
    let homeless = format!(
        "entry {}: physicalDeliveryOfficeName is empty, too long or has a control character",
        dn("homeless")
    );
    for _ in 0..3 {
        for (login, expected) in [
            ("unasked", "ok unasked"),
            ("homeless", &homeless),
            ("odd", "not now"),
            ("networks", "account may not log in from this network"),
            ("names", "ok names"),
            ("name0", "ok names"),
            ("name19999", "ok names"),
            ("name20000", "unknown user"),
        ] {
            assert_eq!(log_in(&directory, login, "secret").await, expected);
        }
    }
    let visit = Visit {
        client: "10.78.31.1".parse().unwrap(),
        ..VISIT
    };
    let (login, password) = (
        Login::parse("networks").unwrap(),
        Secret::new("secret".into()),
    );
    let inside = directory.authenticate(&login, &password, visit);
    assert_eq!(inside.await.unwrap().account.name.as_str(), "networks");
    stop.store(true, Ordering::Relaxed);
    assert_eq!(tasks.drain(PATIENCE).await, 0);
    let served = served.lock().unwrap();
    assert!(served.len() > 10, "{}", served.len());
    assert!(
        served
            .iter()
            .all(|answer| ["ok Ann", "wrong password"].contains(&answer.as_str()))
    );
    assert_undisturbed(&metrics, &slapd.uri());
}

/// Whether a server was always up and its connections were kept.
fn assert_undisturbed(metrics: &Metrics, uri: &str) {
    assert_eq!(metrics.ldap_server_up.with_label_values(&[uri]).get(), 1);
    for kind in ["search", "bind"] {
        let labels = [uri, kind, "failed"];
        assert_eq!(metrics.ldap_requests.with_label_values(&labels).get(), 0);
    }
}

/// A server whose service account has limits.
fn limited(limits: &str) -> Slapd {
    let mut slapd = Slapd::prepare();
    slapd.configure(&format!("limits dn.exact=\"{READER}\" {limits}\n"));
    slapd.start();
    slapd
}

#[tokio::test]
async fn limits_of_the_server_on_our_account() {
    // Less than we ask for, and as much.
    for limits in ["size=1", "size.soft=1 size.hard=1", "size=2", "time=1"] {
        let slapd = limited(limits);
        let (directory, _) = reading(&slapd, |_| {});
        for (login, expected) in [
            ("ann", "ok Ann"),
            ("twin", "ambiguous"),
            ("nobody", "unknown user"),
        ] {
            let answer = log_in(&directory, login, "secret").await;
            assert_eq!(answer, expected, "{limits}");
        }
        let metrics = Metrics::new().unwrap();
        let examined = examine(settings(slapd.uri(), Verify::Bind), &metrics).await;
        let [examined] = &examined.unwrap()[..] else {
            panic!("one server");
        };
        assert!(examined.problems.is_empty(), "{limits}: {examined:?}");
    }
    // So few that it does not even look where it has no index: nobody is unknown for that, and another server is asked.
    let (slapd, other) = (limited("size.unchecked=1"), Slapd::new());
    let by_cn = |ldap: &mut LdapSettings| ldap.schema.filters = vec!["(cn=%u)".to_owned()];
    let directory = start(but(settings(slapd.uri(), Verify::Bind), by_cn));
    for login in ["ann", "nobody"] {
        let found = directory.find(&Login::parse(login).unwrap()).await;
        let expected = format!(
            "directory is not available: {}: search: result code 11, adminLimitExceeded",
            slapd.uri()
        );
        assert_eq!(found.unwrap_err().to_string(), expected);
    }
    let both = start(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        by_cn(ldap);
        ldap.servers.push(LdapUri::parse(&other.uri()).unwrap());
    }));
    assert_eq!(log_in(&both, "ann", "secret").await, "ok Ann");
    assert_eq!(log_in(&both, "nobody", "secret").await, "unknown user");
}
