//! What administrators are told of what is remembered.

use super::*;

const TTL: Duration = Duration::from_secs(600);
const STALE: Duration = Duration::from_secs(6000);

fn remembering(uri: String, ttl: Duration) -> Settings {
    let mut settings = settings(uri, Verify::Hash);
    settings.cache = CacheSettings {
        entries: 100,
        ttl,
        negative_ttl: ttl,
        max_stale: STALE,
    };
    settings
}

async fn login(directory: &Directory, login: &str) -> Option<Kept> {
    let cached = directory.cached(&Login::parse(login).unwrap()).await;
    assert_eq!(cached.asked, login);
    cached.kept
}

/// The names that an address is looked up by, each with whose it is.
async fn recipient(directory: &Directory, address: &str) -> Vec<(String, Option<String>)> {
    let address = Address::parse(address).unwrap();
    let cached = directory.cached_recipient(&address).await;
    let whose = |kept: Kept| {
        let name = |who: Who| who.account.name.to_string();
        kept.who.map_or_else(|| "nobody".to_owned(), name)
    };
    let shown = |one: Cached| (one.asked, one.kept.map(whose));
    cached.into_iter().map(shown).collect()
}

#[tokio::test]
async fn what_was_asked_is_shown_with_its_age() {
    let slapd = Slapd::new();
    let directory = start(remembering(slapd.uri(), TTL));
    assert!(directory.has_cache());
    assert!(login(&directory, "ann").await.is_none());
    let address = "ann+lists@example.org";
    let [with, without] = [address, "ann@example.org"].map(ToOwned::to_owned);
    assert_eq!(
        recipient(&directory, address).await,
        [(with.clone(), None), (without.clone(), None)]
    );
    // To look is not to ask.
    assert!(login(&directory, "ann").await.is_none());

    let before = Instant::now();
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(log_in(&directory, "carl", "x").await, "unknown user");
    directory
        .find_recipient(&Address::parse(address).unwrap())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    // A worker's directory has the same.
    let ann = login(&directory.for_worker(2), "ann").await.unwrap();
    let since = before.elapsed();
    assert!(ann.age >= Duration::from_millis(20) && ann.age <= since);
    let believed = ann.believed.unwrap();
    assert!(believed <= TTL && believed >= TTL * 4 / 5 - since);
    let remembered = ann.remembered.unwrap();
    assert!(remembered <= TTL + STALE && remembered >= TTL + STALE - since);
    let who = ann.who.unwrap();
    assert_eq!(who.account.name.as_str(), "Ann");
    assert_eq!(who.entry, dn("ann"));
    assert_eq!(who.server.as_deref(), Some(slapd.uri().as_str()));
    let carl = login(&directory, "carl").await.unwrap();
    assert!(carl.who.is_none() && carl.believed.is_some() && carl.remembered.is_some());
    assert_eq!(
        recipient(&directory, address).await,
        [
            (with, Some("nobody".to_owned())),
            (without, Some("Ann".to_owned()))
        ]
    );
}

#[tokio::test]
async fn what_is_old_counts_while_no_server_answers() {
    let slapd = Slapd::new();
    let directory = start(remembering(slapd.uri(), Duration::from_millis(1)));
    assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
    assert_eq!(log_in(&directory, "carl", "x").await, "unknown user");
    tokio::time::sleep(Duration::from_millis(20)).await;
    for (name, is_known) in [("ann", true), ("carl", false)] {
        let kept = login(&directory, name).await.unwrap();
        assert_eq!(kept.who.is_some(), is_known);
        assert_eq!(kept.believed, None);
        assert!(kept.remembered.unwrap() <= STALE);
    }
}

#[tokio::test]
async fn what_is_forgotten_is_all_of_an_account_or_of_everybody() {
    let slapd = Slapd::new();
    let directory = start(remembering(slapd.uri(), TTL));
    let address = "ann@example.org";
    let learn = async || {
        assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "ANN", "secret").await, "ok Ann");
        assert_eq!(log_in(&directory, "carl", "x").await, "unknown user");
        let address = Address::parse(address).unwrap();
        directory.find_recipient(&address).await.unwrap();
    };
    let names = async || {
        let mut known = Vec::new();
        for name in ["ann", "ANN", "carl"] {
            known.push(login(&directory, name).await.is_some());
        }
        known.push(recipient(&directory, address).await[0].1.is_some());
        known
    };
    learn().await;
    assert_eq!(names().await, [true; 4]);
    // By any of its names.
    for (name, count, left) in [
        (Some("bob"), 0, [true; 4]),
        (Some("ann"), 3, [false, false, true, false]),
        (Some("ANN"), 3, [false, false, true, false]),
        (Some(address), 3, [false, false, true, false]),
        (Some("carl"), 1, [true, true, false, true]),
        (None, 4, [false; 4]),
    ] {
        learn().await;
        assert_eq!(directory.forget(name).await, count, "{name:?}");
        assert_eq!(names().await, left, "{name:?}");
    }
}
