//! Several real slapds with the same tree: who is asked, and what a dead, silent, slow or useless one costs.

use std::sync::atomic::AtomicUsize;

use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::*;

/// Two servers, the first preferred.
pub(super) fn pair() -> [Slapd; 2] {
    [Slapd::new(), Slapd::new()]
}

/// Settings for these servers, in this order.
pub(super) fn at(uris: &[String], change: impl FnOnce(&mut LdapSettings)) -> Settings {
    let uris = uris.iter().map(|uri| LdapUri::parse(uri).unwrap());
    let servers = uris.collect();
    but(
        settings("ldap://127.0.0.1".to_owned(), Verify::Bind),
        |ldap| {
            ldap.servers = servers;
            change(ldap);
        },
    )
}

/// Whether the metrics call a server up.
pub(super) fn is_up(metrics: &Metrics, uri: &str) -> bool {
    metrics.ldap_server_up.with_label_values(&[uri]).get() == 1
}

/// Searches that a server has answered.
pub(super) fn searched(metrics: &Metrics, uri: &str) -> u64 {
    let labels = [uri, "search", "ok"];
    metrics.ldap_requests.with_label_values(&labels).get()
}

/// Waits until a server is up, or away.
pub(super) async fn until_up(metrics: &Metrics, uri: &str, up: bool) {
    let patience = Instant::now() + PATIENCE;
    while is_up(metrics, uri) != up {
        assert!(Instant::now() < patience, "{uri} is never up: {up}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_first_is_asked_while_it_lives_and_again_when_it_is_back() {
    let [mut first, second] = pair();
    let (one, two) = (first.uri(), second.uri());
    let (directory, metrics) = start_counted(at(&[one.clone(), two.clone()], |_| {}));
    assert!(is_up(&metrics, &one) && is_up(&metrics, &two));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!((searched(&metrics, &one), searched(&metrics, &two)), (1, 0));
    first.kill();
    for _ in 0..3 {
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
        assert_eq!(log_in(&directory, "nobody", "x").await, "unknown user");
    }
    assert!(!is_up(&metrics, &one) && is_up(&metrics, &two));
    assert_eq!((searched(&metrics, &one), searched(&metrics, &two)), (1, 9));
    first.start();
    // By the probe: nobody asks it meanwhile.
    until_up(&metrics, &one, true).await;
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!((searched(&metrics, &one), searched(&metrics, &two)), (2, 9));
}

#[tokio::test]
async fn nobody_fails_while_servers_die_in_turn() {
    let mut servers = pair();
    let uris = [servers[0].uri(), servers[1].uri()];
    let (directory, metrics) = start_counted(at(&uris, |_| {}));
    let stop = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    let served = Arc::new(AtomicUsize::new(0));
    for _ in 0..8 {
        let (directory, stop, served) = (directory.clone(), stop.clone(), served.clone());
        tasks.spawn("logins", async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let more = async || {
        let enough = served.load(Ordering::Relaxed) + 50;
        let patience = Instant::now() + PATIENCE;
        while served.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < patience, "logins stopped");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    for server in [0, 1, 0] {
        more().await;
        servers[server].kill();
        until_up(&metrics, &uris[server], server == 1).await;
        more().await;
        servers[server].start();
        until_up(&metrics, &uris[server], true).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(tasks.drain(PATIENCE).await, 0);
    for result in ["ambiguous", "entry", "unavailable", "wrong"] {
        let failed = metrics.directory_lookups.with_label_values(&[result]);
        assert_eq!(failed.get(), 0, "{result}");
    }
}

#[tokio::test]
async fn a_silent_one_is_overtaken_and_then_left_alone() {
    const HEDGE: Duration = Duration::from_millis(100);
    let [first, second] = pair();
    let (one, two) = (first.uri(), second.uri());
    let (directory, metrics) = start_counted(at(&[one.clone(), two.clone()], |ldap| {
        ldap.hedge_after = HEDGE;
    }));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    // On a busy machine that may have been slow, too.
    until_up(&metrics, &one, true).await;
    let before = searched(&metrics, &two);
    first.freeze();
    let began = Instant::now();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    let took = began.elapsed();
    // Long before its deadline of ten seconds.
    assert!(took >= HEDGE && took < Duration::from_secs(5), "{took:?}");
    assert!(!is_up(&metrics, &one));
    let asked = metrics
        .ldap_requests
        .with_label_values(&[&one, "search", "failed"]);
    for _ in 0..5 {
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    }
    // What it was asked is still open; nothing was asked since.
    assert_eq!(asked.get(), 0);
    assert_eq!(searched(&metrics, &two), before + 6);
    first.thaw();
    until_up(&metrics, &one, true).await;
    let before = searched(&metrics, &one);
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert!(searched(&metrics, &one) > before);
}

/// More at a time than may ask another server besides.
#[tokio::test]
async fn many_wait_for_a_silent_one_and_none_fails() {
    const LOGINS: u64 = 60;
    let [first, second] = pair();
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |ldap| {
        ldap.hedge_after = Duration::from_millis(100);
    }));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    until_up(&metrics, &uris[0], true).await;
    first.freeze();
    let tasks = Tasks::new();
    for _ in 0..LOGINS {
        let directory = directory.clone();
        tasks.spawn("login", async move {
            log_in(&directory, "ann", "secret").await;
        });
    }
    assert_eq!(tasks.drain(PATIENCE).await, 0);
    let ended = |result| metrics.directory_lookups.with_label_values(&[result]).get();
    assert_eq!((ended("ok"), ended("unavailable")), (LOGINS + 1, 0));
}

#[tokio::test]
async fn a_server_that_refuses_us_is_passed_over() {
    let [first, second] = pair();
    first.replace_reader_password("another").await;
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |_| {}));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert!(!is_up(&metrics, &uris[0]));
    first.replace_reader_password(READER_PASSWORD).await;
    until_up(&metrics, &uris[0], true).await;
}

#[tokio::test]
async fn when_none_answers_the_first_is_named() {
    let [mut first, mut second] = pair();
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |ldap| {
        ldap.timeout = Duration::from_secs(3);
    }));
    first.kill();
    second.kill();
    let login = Login::parse("ann").unwrap();
    let error = directory.find(&login).await.unwrap_err().to_string();
    let expected = format!("directory is not available: {}: cannot connect", uris[0]);
    assert!(error.starts_with(&expected), "{error}");
    assert!(!directory.is_reachable().await);
    // Nobody believes that they are away for good.
    second.start();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert!(is_up(&metrics, &uris[1]) && !is_up(&metrics, &uris[0]));
}

#[tokio::test]
async fn an_entry_that_one_lacks_is_not_looked_for_at_the_next() {
    let [first, second] = pair();
    first.rename("bob", "bobby").await;
    first.replace("bobby", "uid", "bobby").await;
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |_| {}));
    assert_eq!(log_in(&directory, "bob", "crypted").await, "unknown user");
    assert_eq!(searched(&metrics, &uris[1]), 0);
}

#[tokio::test]
async fn one_without_our_base_is_passed_over_for_each_question() {
    let [first, second] = pair();
    first.rename("bob", "bobby").await;
    let uris = [first.uri(), second.uri()];
    let (directory, metrics) = start_counted(at(&uris, |ldap| {
        // Only the second has it.
        ldap.schema.bases = vec![dn("bob")];
    }));
    for _ in 0..2 {
        assert_eq!(log_in(&directory, "bob", "crypted").await, "ok bob");
    }
    assert_eq!(searched(&metrics, &uris[1]), 2);
    // It may serve everybody else.
    assert!(is_up(&metrics, &uris[0]));
    let refused = metrics
        .ldap_requests
        .with_label_values(&[&uris[0], "search", "refused"]);
    assert_eq!(refused.get(), 2);
}

#[tokio::test]
async fn the_socket_or_a_certificate_may_say_who_we_are() {
    let (slapd, authority) = Slapd::with_tls(None);
    let over = |uri: String, start_tls, files: Option<crate::net::tls::Files>| {
        let ca_file = Some(authority.clone());
        start(at(&[uri], |ldap| {
            ldap.service = ServiceAccount::External;
            ldap.start_tls = start_tls;
            ldap.ca_file = ca_file;
            ldap.client = files;
        }))
    };
    let ours = Some(slapd.client_files());
    for directory in [
        over(slapd.ldapi_uri(), false, None),
        over(slapd.ldaps_uri(), false, ours.clone()),
        over(slapd.uri(), true, ours),
    ] {
        directory.find(&Login::parse("ann").unwrap()).await.unwrap();
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
    }
    let nobody = over(slapd.ldaps_uri(), false, None);
    assert_eq!(log_in(&nobody, "ann", "secret").await, "unavailable");
}

/// What `examine` says of each server.
async fn examined(settings: Settings) -> Vec<(String, Vec<String>)> {
    let metrics = Metrics::new().unwrap();
    let all = examine(settings, &metrics).await.unwrap();
    let words = |one: Examined| (one.server, one.problems);
    all.into_iter().map(words).collect()
}

#[tokio::test]
async fn each_server_is_examined_in_its_own_words() {
    let [mut first, second] = pair();
    let uris = [first.uri(), second.uri()];
    let good = |problems: [&[&str]; 2]| -> Vec<(String, Vec<String>)> {
        let problems = problems.map(|problems| problems.iter().map(ToString::to_string).collect());
        uris.iter().cloned().zip(problems).collect()
    };
    assert_eq!(examined(at(&uris, |_| {})).await, good([&[], &[]]));
    assert_eq!(
        examined(at(&uris, |ldap| ldap.schema.verify = Verify::Hash)).await,
        good([&[], &[]])
    );
    first.replace_reader_password("another").await;
    assert_eq!(
        examined(at(&uris, |_| {})).await,
        good([&["service bind: result code 49, invalidCredentials"], &[]])
    );
    let nobody = "search below ou=nobody,dc=example,dc=org: result code 32, noSuchObject";
    let elsewhere = at(&uris[1..], |ldap| {
        ldap.schema.bases = vec![PEOPLE.to_owned(), "ou=nobody,dc=example,dc=org".to_owned()];
    });
    assert_eq!(
        examined(elsewhere).await,
        [(uris[1].clone(), vec![nobody.to_owned()])]
    );
    // Anonymous may bind, and see nothing.
    let anonymous = at(&uris[1..], |ldap| ldap.service = ServiceAccount::Anonymous);
    let [(_, problems)] = &examined(anonymous).await[..] else {
        panic!("one server");
    };
    assert!(
        problems[0].starts_with("search below ou=people"),
        "{problems:?}"
    );
    first.kill();
    let problems = examined(at(&uris, |_| {})).await;
    assert!(
        problems[0].1[0].starts_with("cannot connect: "),
        "{problems:?}"
    );
    assert!(problems[1].1.is_empty());
}

/// Passes everything on to a server, its answers so many milliseconds late; its URI.
pub(super) async fn slow(server: String, late: Arc<AtomicUsize>) -> String {
    let target = server.strip_prefix("ldap://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ldap://{}", listener.local_addr().unwrap());
    let tasks = Tasks::new();
    tasks.clone().spawn("forwarder", async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let (mut asks, mut hears) = client.into_split();
            let (mut answers, mut asked) = server.into_split();
            tasks.spawn("asks", async move {
                let _ = tokio::io::copy(&mut asks, &mut asked).await;
            });
            let late = Arc::clone(&late);
            tasks.spawn("answers", async move {
                let mut octets = [0; 4096];
                while let Ok(count @ 1..) = answers.read(&mut octets).await {
                    let late = late.load(Ordering::Relaxed) as u64;
                    tokio::time::sleep(Duration::from_millis(late)).await;
                    if hears.write_all(&octets[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    uri
}

/// Servers answer wrong passwords late on purpose, and count them: that is no reason to ask another, nor to leave this one.
#[tokio::test]
async fn a_wrong_password_that_is_answered_late_is_shown_to_one_server() {
    let [first, second] = pair();
    let late = Arc::new(AtomicUsize::new(0));
    let uris = [slow(first.uri(), Arc::clone(&late)).await, second.uri()];
    let (directory, metrics) = start_counted(cached(at(&uris, |ldap| {
        ldap.hedge_after = Duration::from_millis(200);
    })));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    until_up(&metrics, &uris[0], true).await;
    let binds = |uri: &str| {
        let labels = [uri, "bind", "ok"];
        metrics.ldap_requests.with_label_values(&labels).get()
    };
    let before = binds(&uris[1]);
    late.store(400, Ordering::Relaxed);
    // Who that is, is known; only the password is asked for, and again with the entry as it is now.
    assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
    late.store(0, Ordering::Relaxed);
    assert!(binds(&uris[0]) > 0);
    assert_eq!(binds(&uris[1]), before);
}

/// Connections of ours to a server that are open, as the kernel has them.
fn open_connections(server: &Slapd) -> usize {
    let uri = server.uri();
    let (address, port) = uri.trim_start_matches("ldap://").split_once(':').unwrap();
    let address = u32::from(address.parse::<Ipv4Addr>().unwrap()).swap_bytes();
    let remote = format!("{address:08X}:{:04X}", port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&remote) && fields.next() == Some("01")
    };
    table.lines().filter(is_open).count()
}

/// What a silent server was asked does not pile up, be it searches or binds, and nothing of it stays.
#[tokio::test]
async fn of_the_overtaken_few_go_on_and_none_holds_anything_for_good() {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let overtaken = |directory: &Directory| match &directory.0.accounts {
        Accounts::Ldap(ldap) => ldap.count_overtaken(),
        Accounts::File(_) => unreachable!("it is LDAP"),
    };
    let [first, second] = pair();
    let uris = [first.uri(), second.uri()];
    for verify in [Verify::Bind, Verify::Hash] {
        let mut settings = at(&uris, |ldap| {
            ldap.hedge_after = Duration::from_millis(200);
            ldap.timeout = TIMEOUT;
            ldap.schema.verify = verify;
        });
        if verify == Verify::Bind {
            // So that only binds are asked for.
            settings.cache = cached(settings.clone()).cache;
        }
        let (directory, metrics) = start_counted(settings);
        let login = Login::parse("ann").unwrap();
        directory.find(&login).await.unwrap();
        until_up(&metrics, &uris[0], true).await;
        first.freeze();
        let tasks = Tasks::new();
        for blanks in 0..40 {
            let directory = directory.clone();
            tasks.spawn("login", async move {
                // Those who look for the same name share a search.
                let is_shared = verify == Verify::Bind;
                let login = " ".repeat(if is_shared { 0 } else { blanks }) + "ann";
                log_in(&directory, &login, "secret").await;
            });
        }
        let mut most = 0;
        while !tasks.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(overtaken(&directory));
        }
        assert!((1..=8).contains(&most), "{verify:?}: {most}");
        let served = metrics.directory_lookups.with_label_values(&["ok"]).get();
        assert_eq!(served, 41, "{verify:?}");
        // The probe has one.
        let patience = Instant::now() + PATIENCE;
        while overtaken(&directory) > 0 || open_connections(&first) > 1 {
            assert!(Instant::now() < patience, "something stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        first.thaw();
        until_up(&metrics, &uris[0], true).await;
        let before = searched(&metrics, &uris[1]);
        directory.find(&Login::parse("bob").unwrap()).await.unwrap();
        assert_eq!(searched(&metrics, &uris[1]), before);
    }
}

/// A question that is given up leaves no connection on which its answer is still to come.
#[tokio::test]
async fn a_search_that_is_dropped_takes_its_connection_with_it() {
    let slapd = Slapd::new();
    let directory = start(settings(slapd.uri(), Verify::Bind));
    let login = Login::parse("ann").unwrap();
    directory.find(&login).await.unwrap();
    assert_eq!(open_connections(&slapd), 1);
    slapd.freeze();
    let given_up = tokio::time::timeout(Duration::from_millis(50), directory.find(&login));
    given_up.await.unwrap_err();
    let patience = Instant::now() + PATIENCE;
    while open_connections(&slapd) > 0 {
        assert!(Instant::now() < patience, "its connection stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    slapd.thaw();
    directory.find(&login).await.unwrap();
}
