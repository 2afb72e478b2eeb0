//! A provider and its replicas (RFC 4533, as slapd does it): the replicas are asked first, while entries change at the provider and
//! any of them dies. And referrals, which lead to nobody who is not configured.
//!
//! A replica that lags behind answers as of then: nobody can see that from its answer, so a changed password is wrong there until
//! it has come through.

use std::sync::atomic::AtomicUsize;

use ldap3::Mod;

use super::{
    outages::Stream,
    servers::{at, is_up, until_up},
    slapd::{ADMIN, BASE, SYNCPROV},
    *,
};
use crate::sessions::Ending;

/// One that tells others what changes.
fn provider() -> Slapd {
    let mut slapd = Slapd::prepare();
    slapd.configure(SYNCPROV);
    slapd.start();
    slapd
}

/// One that has what the provider has, and refers whoever wants to change something to this URI.
fn replica(provider: &str, refers: &str) -> Slapd {
    let mut slapd = Slapd::prepare();
    slapd.empty();
    slapd.configure(&format!(
        "syncrepl rid=1 provider={provider} type=refreshAndPersist retry=\"1 +\" searchbase={BASE} \
         bindmethod=simple binddn={ADMIN} credentials=admin\nupdateref {refers}\n{SYNCPROV}"
    ));
    slapd.start();
    slapd
}

/// Waits until a login ends like this at every one of these servers.
async fn until(directories: &[Directory], login: &str, password: &str, expected: &str) {
    let patience = Instant::now() + PATIENCE;
    for directory in directories {
        while log_in(directory, login, password).await != expected {
            assert!(Instant::now() < patience, "{login} is never {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn alone(slapd: &Slapd) -> Directory {
    start(settings(slapd.uri(), Verify::Bind))
}

/// {SHA} of "new", and of "newer".
const NEW: &str = "{SHA}wqawPxkN+ytKqR+K+NR3qbw0Adw=";
const NEWER: &str = "{SHA}HUc4apd3qSeqxhHYaae67WNgllQ=";

#[tokio::test]
async fn changes_reach_all_and_a_replica_that_died_catches_up() {
    let mut provider = provider();
    let mut replicas = [0, 1].map(|_| replica(&provider.uri(), &provider.uri()));
    let each = [&replicas[0], &replicas[1], &provider].map(alone);
    // All entries came, the last ones, too.
    until(&each, "deleted", "x", "account may not log in").await;
    until(&each, "ann", "secret", "ok Ann").await;
    let uris = [replicas[0].uri(), replicas[1].uri(), provider.uri()];
    let (directory, metrics) = start_counted(at(&uris, |_| {}));
    let stream = Stream::start(&directory, 4);
    stream.more(10).await;

    provider.replace("bob", "userPassword", NEW).await;
    until(&each, "bob", "new", "ok bob").await;
    assert_eq!(log_in(&directory, "bob", "new").await, "ok bob");
    assert_eq!(log_in(&directory, "bob", "crypted").await, "wrong password");

    // The one that is preferred dies and misses a change.
    replicas[0].kill();
    stream.more(10).await;
    provider.replace("bob", "userPassword", NEWER).await;
    until(&each[1..], "bob", "newer", "ok bob").await;
    assert_eq!(log_in(&directory, "bob", "newer").await, "ok bob");
    replicas[0].start();
    until(&each, "bob", "newer", "ok bob").await;
    until_up(&metrics, &uris[0], true).await;
    assert_eq!(log_in(&directory, "bob", "newer").await, "ok bob");

    // Without the provider they serve on, and find it again.
    provider.kill();
    stream.more(20).await;
    assert!(is_up(&metrics, &uris[0]));
    provider.start();
    provider.replace("bob", "employeeType", "disabled").await;
    until(&each, "bob", "newer", "account may not log in").await;
    let disabled = log_in(&directory, "bob", "newer").await;
    assert_eq!(disabled, "account may not log in");
    // Both replicas away: the provider serves.
    for replica in &mut replicas {
        replica.kill();
    }
    stream.more(20).await;
    stream.end().await;
}

/// Where nobody should come; how many came.
async fn trap() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ldap://{}", listener.local_addr().unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    Tasks::new().spawn("trap", async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (uri, came)
}

const MOVED: &str = "ou=moved,dc=example,dc=org";

/// One that refers whoever looks there to this URI.
fn referring(to: &str) -> Slapd {
    let referral = format!(
        "dn: {MOVED}\nobjectClass: referral\nobjectClass: extensibleObject\nref: {to}/{MOVED}\n\n"
    );
    Slapd::with_schema("", &referral)
}

/// One that has somebody of this name there.
fn holding(name: &str) -> Slapd {
    let entries = format!(
        "dn: {MOVED}\nobjectClass: organizationalUnit\n\n\
         dn: cn={name},{MOVED}\nobjectClass: inetOrgPerson\nsn: x\nuid: {name}\nuserPassword: secret\n\n"
    );
    Slapd::with_schema("", &entries)
}

/// A directory of those who are there.
fn moved(servers: &[&Slapd]) -> Directory {
    let uris: Vec<_> = servers.iter().map(|server| server.uri()).collect();
    start(at(&uris, |ldap| ldap.schema.bases = vec![MOVED.to_owned()]))
}

#[tokio::test]
async fn referrals_lead_to_nobody_who_is_not_configured() {
    let (trap, came) = trap().await;
    let provider = provider();
    let replica = replica(&provider.uri(), &trap);
    until(&[alone(&replica)], "ann", "secret", "ok Ann").await;
    // Whoever wants to change something at a replica is referred.
    let change = Mod::Replace("employeeType", ["deleted"].into());
    let mut admin = replica.admin().await;
    let referred = admin.modify(&dn("ann"), vec![change]).await.unwrap();
    assert_eq!(referred.rc, 10);
    assert!(referred.refs[0].starts_with(&trap), "{referred:?}");
    // We change nothing. Binding never leads elsewhere, whatever the password.
    let directory = alone(&replica);
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");

    let first = referring(&trap);
    let error = moved(&[&first]).find(&Login::parse("mary").unwrap()).await;
    let expected = format!(
        "directory is not available: {}: search: result code 10, referral (a referral to a server that is not configured)",
        first.uri()
    );
    assert_eq!(error.unwrap_err().to_string(), expected);
    let second = holding("mary");
    let directory = moved(&[&first, &second]);
    assert_eq!(log_in(&directory, "mary", "secret").await, "ok mary");
    assert_eq!(log_in(&directory, "nobody", "secret").await, "unknown user");
    assert_eq!(came.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_referral_to_a_configured_server_comes_before_the_order() {
    let [second, third] = [holding("mark"), holding("mary")];
    let first = referring(&third.uri());
    let directory = moved(&[&first, &second, &third]);
    assert_eq!(log_in(&directory, "mary", "secret").await, "ok mary");
    assert_eq!(log_in(&directory, "mark", "secret").await, "unknown user");
}

/// Changes are heard of at another server when the one that is followed dies, from where that one was; and at the preferred
/// one when it is back.
#[tokio::test]
async fn changes_are_followed_at_whichever_replica_is_up() {
    let provider = provider();
    let mut replicas = [0, 1].map(|_| replica(&provider.uri(), &provider.uri()));
    let each = [&replicas[0], &replicas[1]].map(alone);
    until(&each, "deleted", "x", "account may not log in").await;
    let uris = [replicas[0].uri(), replicas[1].uri()];
    let mut settings = at(&uris, |ldap| ldap.timeout = Duration::from_millis(500));
    settings.follow = FollowSettings {
        by: Follow::Sync,
        poll_every: Duration::from_secs(1),
        sessions: Sessions::End(Duration::ZERO),
    };
    let (directory, metrics) = start_counted(settings);
    let followed = metrics.directory_followed.with_label_values(&["sync"]);
    let changes = metrics.directory_changes.with_label_values(&["gone"]);
    let (login, password) = (Login::parse("ann").unwrap(), Secret::new("secret".into()));
    let admitted = directory.authenticate(&login, &password, VISIT).await;
    let kept = admitted.unwrap().watch;
    for (node, down) in [("node2", 0), ("node3", 1), ("node4", 2)] {
        soon(|| followed.get() == 1).await;
        let admitted = directory.authenticate(&login, &password, VISIT).await;
        let watch = admitted.unwrap().watch;
        if let Some(replica) = replicas.get_mut(down) {
            replica.kill();
            soon(|| followed.get() == 0).await;
        }
        provider.replace("ann", "mailHost", node).await;
        let ended = tokio::time::timeout(PATIENCE, watch.ended()).await;
        ended.expect("nobody hears of it");
        assert_eq!(watch.why(), Some(Ending::Moved));
        if let Some(replica) = replicas.get_mut(down) {
            replica.start();
            let back = [alone(replica)];
            until(&back, "ann", "secret", "ok Ann").await;
        }
    }
    assert_eq!(changes.get(), 0, "nobody was deleted");
    kept.ended().await;
}

async fn soon(mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < patience, "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A replica that is behind the one that was followed is waited for: what it would say is of the past.
#[tokio::test]
async fn a_replica_that_is_behind_ends_nothing() {
    let mut provider = provider();
    let mut replicas = [0, 1].map(|_| replica(&provider.uri(), &provider.uri()));
    let each = [&replicas[0], &replicas[1]].map(alone);
    until(&each, "deleted", "x", "account may not log in").await;
    let uris = [replicas[0].uri(), replicas[1].uri()];
    let mut settings = at(&uris, |ldap| ldap.timeout = Duration::from_millis(500));
    settings.follow.by = Follow::Auto;
    settings.follow.sessions = Sessions::End(Duration::ZERO);
    let (directory, metrics) = start_counted(settings);
    let followed = |by| metrics.directory_followed.with_label_values(&[by]).get();
    soon(|| followed("sync") == 1).await;

    // One that is frozen would still read what was sent to it.
    replicas[1].kill();
    provider.replace("ann", "mailHost", "node2").await;
    let (login, password) = (Login::parse("ann").unwrap(), Secret::new("secret".into()));
    let kept = loop {
        let admitted = directory.authenticate(&login, &password, VISIT).await;
        let admitted = admitted.unwrap();
        if admitted.account.home_node.as_deref() == Some("node2") {
            break admitted.watch;
        }
    };
    soon(|| {
        let heard = metrics.directory_changes.with_label_values(&["heard"]);
        heard.get() > 0
    })
    .await;
    provider.kill();
    replicas[0].kill();
    replicas[1].start();
    soon(|| followed("sync") == 0).await;
    // It answers, and has the old home.
    let behind = [alone(&replicas[1])];
    until(&behind, "ann", "secret", "ok Ann").await;
    for _ in 0..20 {
        let left = tokio::time::timeout(Duration::from_millis(100), kept.ended());
        assert!(left.await.is_err(), "{:?}", kept.why());
        assert_eq!((followed("sync"), followed("poll")), (0, 0));
    }
    provider.start();
    soon(|| followed("sync") == 1).await;
    let left = tokio::time::timeout(Duration::from_millis(100), kept.ended());
    assert!(left.await.is_err());
    provider.replace("ann", "mailHost", "node3").await;
    let ended = tokio::time::timeout(PATIENCE, kept.ended()).await;
    ended.expect("nobody hears of it");
}
