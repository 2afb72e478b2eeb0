//! What is believed of what is heard, and what becomes of sessions.

use super::*;
use crate::{
    directory::{
        Access, Account,
        facts::{Facts, Shown},
    },
    names::{AccountName, Protocol},
    secret::Secret,
};

const UUID: EntryId = EntryId::Uuid([7; 16]);
const VISIT: Visit = Visit {
    protocol: Protocol::Imap,
    client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

fn live(sessions: Sessions) -> Arc<Live> {
    let metrics = Metrics::new().unwrap();
    Live::new(
        CacheSettings::default(),
        sessions,
        Bases::new(vec!["base".to_owned()]),
        Arc::default(),
        &metrics,
        Tasks::new(),
    )
}

fn account() -> Account {
    Account {
        name: AccountName::parse("ann").unwrap(),
        home_node: Some("node1".to_owned()),
        uid: 1,
        gid: 1,
        home: "ann".to_owned(),
        quota: None,
        login: Status::Allowed,
        delivery: Status::Allowed,
        access: Access::default(),
    }
}

/// An entry with this account and these passwords, as the directory has just said.
fn found(account: Account, passwords: &[&[u8]]) -> Found {
    showing(account, Shown::ALL, passwords)
}

fn showing(account: Account, shown: Shown, passwords: &[&[u8]]) -> Found {
    let secrets = passwords.iter().map(|octets| Secret::new(octets.to_vec()));
    let secrets: Vec<_> = secrets.collect();
    let names = vec![b"uid=ann".to_vec()];
    Found {
        facts: Facts::new(UUID, &account, shown, names, [&secrets, &[]]),
        account: Arc::new(account),
        id: "uid=ann".to_owned(),
        passwords: Vec::new(),
        server: 0,
        base: 0,
        learned: Instant::now(),
    }
}

fn usual() -> Found {
    found(account(), &[b"1"])
}

/// Another account than the usual one.
fn but(change: impl FnOnce(&mut Account)) -> Found {
    let mut account = account();
    change(&mut account);
    found(account, &[b"1"])
}

async fn verdict(watch: &mut Watch) -> Option<Ending> {
    // What was sent is there at once.
    let _ = tokio::time::timeout(Duration::ZERO, watch.ended()).await;
    watch.why()
}

#[tokio::test]
async fn a_session_is_judged_by_what_concerns_it() {
    let protocols = |words: &str| Some(Access::read_protocols([words].into_iter()));
    for (now, expected) in [
        (usual(), None),
        (but(|account| account.quota = Some(1)), None),
        (but(|account| account.delivery = Status::Refused), None),
        (but(|account| account.login = Status::TryLater), None),
        (
            but(|account| account.home_node = Some("NODE1".to_owned())),
            None,
        ),
        // Not shown any more.
        (but(|account| account.home_node = None), None),
        (found(account(), &[]), None),
        (
            but(|account| account.access.protocols = protocols("imap")),
            None,
        ),
        (
            but(|account| account.access.protocols = protocols("pop3")),
            Some(Ending::Disabled),
        ),
        (
            but(|account| account.login = Status::Refused),
            Some(Ending::Disabled),
        ),
        (
            but(|account| account.home_node = Some("node2".to_owned())),
            Some(Ending::Moved),
        ),
        (
            but(|account| account.home = "ann2".to_owned()),
            Some(Ending::Moved),
        ),
        (but(|account| account.uid = 2), Some(Ending::Moved)),
        (but(|account| account.gid = 2), Some(Ending::Moved)),
        (found(account(), &[b"2"]), Some(Ending::Password)),
        (found(account(), &[b"1", b"2"]), Some(Ending::Password)),
    ] {
        let live = live(Sessions::End(Duration::ZERO));
        let mut watch = live.watch(&usual(), VISIT);
        live.hear(0, UUID, Now::of(&now));
        assert_eq!(verdict(&mut watch).await, expected, "{:?}", now.account);
    }
    for (now, expected) in [(Now::Gone, Some(Ending::Deleted)), (Now::Unreadable, None)] {
        let live = live(Sessions::End(Duration::ZERO));
        let mut watch = live.watch(&usual(), VISIT);
        live.hear(0, UUID, now);
        assert_eq!(verdict(&mut watch).await, expected);
    }
}

#[tokio::test]
async fn what_is_hidden_from_us_moves_nobody() {
    type Hide = fn(&mut Shown);
    let hides: [Hide; 4] = [
        |shown| shown.name = false,
        |shown| shown.home = false,
        |shown| shown.uid = false,
        |shown| shown.gid = false,
    ];
    for hide in hides {
        let mut shown = Shown::ALL;
        hide(&mut shown);
        // By its default.
        let other = || {
            let mut account = account();
            account.name = AccountName::parse("anna").unwrap();
            (account.home, account.uid, account.gid) = ("anna".to_owned(), 5000, 5000);
            account
        };
        let live = live(Sessions::End(Duration::ZERO));
        let mut watch = live.watch(&usual(), VISIT);
        let all_hidden = Shown {
            name: false,
            home: false,
            uid: false,
            gid: false,
        };
        live.hear(0, UUID, Now::of(&showing(other(), all_hidden, &[b"1"])));
        assert_eq!(verdict(&mut watch).await, None);
        live.hear(0, UUID, Now::of(&showing(other(), shown, &[b"1"])));
        assert_eq!(verdict(&mut watch).await, Some(Ending::Moved), "{shown:?}");
    }
}

#[tokio::test]
async fn what_was_said_before_is_said_to_later_sessions_too() {
    let live = live(Sessions::End(Duration::ZERO));
    let disabled = but(|account| account.login = Status::Refused);
    live.hear(0, UUID, Now::of(&disabled));
    // Let in by a server that lags behind.
    let mut watch = live.watch(&usual(), VISIT);
    live.hear(0, UUID, Now::of(&disabled));
    assert_eq!(verdict(&mut watch).await, Some(Ending::Disabled));
}

#[tokio::test]
async fn gone_from_one_base_is_not_gone_from_another() {
    let live = live(Sessions::End(Duration::ZERO));
    let found = usual();
    let mut watch = live.watch(&found, VISIT);
    live.hear(1, UUID, Now::Gone);
    assert_eq!(verdict(&mut watch).await, None);
    assert!(!live.contradicts(&found));
    live.hear(0, UUID, Now::Gone);
    assert_eq!(verdict(&mut watch).await, Some(Ending::Deleted));
    assert!(live.contradicts(&found));
}

#[tokio::test]
async fn what_is_in_use_is_not_driven_out_by_what_is_not() {
    let live = live(Sessions::Leave);
    let found = usual();
    live.learned(&found);
    live.hear(0, UUID, Now::Gone);
    for number in 0..300_000u32 {
        let [a, b, c, d] = number.to_be_bytes();
        let other = EntryId::Uuid([a, b, c, d, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        live.hear(0, other, Now::Unreadable);
    }
    live.recent.run_pending_tasks();
    live.heard.run_pending_tasks();
    assert!(live.contradicts(&found));
    assert!(live.recent.entry_count() <= 200_000);
    // What was heard while an answer was on its way is kept for it.
    let mut late = usual();
    late.facts.entry = EntryId::Uuid([3; 16]);
    live.hear(0, late.facts.entry, Now::Gone);
    live.learned(&late);
    live.recent.invalidate(&late.facts.entry);
    assert!(live.contradicts(&late));
}

#[tokio::test]
async fn so_many_who_are_missing_are_not_believed() {
    let entry = |number: u16| {
        let [high, low] = number.to_be_bytes();
        EntryId::Uuid([high, low, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    };
    for (all, missing, is_believed) in [
        (1, 1, true),
        (2, 1, true),
        (2, 2, false),
        (10, 5, true),
        (10, 6, false),
        (1000, 50, true),
        (1000, 51, false),
    ] {
        let live = live(Sessions::End(Duration::ZERO));
        let mut watches = Vec::new();
        for number in 0..all {
            let mut found = usual();
            found.facts.entry = entry(number);
            watches.push(live.watch(&found, VISIT));
        }
        let mut refresh = live.refresh(0);
        refresh.name(UUID);
        for number in missing..all {
            refresh.name(entry(number));
        }
        live.conclude(refresh);
        let mut ended = 0;
        for watch in &mut watches {
            ended += u16::from(verdict(watch).await.is_some());
        }
        assert_eq!(
            ended,
            if is_believed { missing } else { 0 },
            "{missing} of {all}"
        );
    }
}

#[tokio::test]
async fn another_word_for_the_same_node_is_no_move() {
    let node = |name: &str| Some(NodeName::parse(name).unwrap());
    let live = live(Sessions::End(Duration::ZERO));
    live.know_homes(Box::new(move |word| match word {
        None | Some("node1" | "mail1.example.org") => node("node1"),
        Some("node2") => node("node2"),
        Some(_) => None,
    }));
    let at = |word: Option<&str>| but(|account| account.home_node = word.map(str::to_owned));
    for before in [None, Some("node1"), Some("mail1.example.org")] {
        let mut watch = live.watch(&at(before), VISIT);
        for same in [
            None,
            Some("mail1.example.org"),
            Some("node1"),
            Some("slip of a pen"),
        ] {
            live.hear(0, UUID, Now::of(&at(same)));
            assert_eq!(verdict(&mut watch).await, None, "{before:?} {same:?}");
        }
        live.hear(0, UUID, Now::of(&at(Some("node2"))));
        assert_eq!(verdict(&mut watch).await, Some(Ending::Moved), "{before:?}");
    }
}

#[tokio::test]
async fn values_in_another_order_are_the_same() {
    let ordered = |names: [&str; 2], passwords: [&[u8]; 2]| {
        let names = names.map(|name| name.as_bytes().to_vec()).to_vec();
        let passwords = passwords.map(|octets| Secret::new(octets.to_vec()));
        Facts::new(UUID, &account(), Shown::ALL, names, [&passwords, &[]])
    };
    let facts = ordered(["mail=a", "mail=b"], [b"1", b"2"]);
    assert!(facts.is_same(&ordered(["mail=b", "mail=a"], [b"2", b"1"])));
    assert!(!facts.is_same(&ordered(["mail=a", "mail=c"], [b"1", b"2"])));
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_before_a_change_or_right_after_it_is_doubted() {
    let live = live(Sessions::Leave);
    let (old, new) = (usual(), but(|account| account.uid = 2));
    assert!(!live.contradicts(&old));
    sleep(Duration::from_secs(10)).await;
    live.hear(0, UUID, Now::of(&new));
    assert!(live.contradicts(&old));
    assert!(!live.contradicts(&new));
    // From a server that lags behind.
    sleep(LAG / 2).await;
    assert!(live.contradicts(&usual()));
    // It was changed back, and we have not heard of it.
    sleep(LAG).await;
    assert!(!live.contradicts(&usual()));
    assert!(live.contradicts(&old));
    for now in [Now::Gone, Now::Unreadable] {
        live.hear(0, UUID, now);
        assert!(live.contradicts(&new));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_before_nobody_knows_what_is_out_of_date() {
    let live = live(Sessions::Leave);
    let old = usual();
    assert!(!live.is_outdated(&old));
    sleep(Duration::from_secs(1)).await;
    live.outdate(0);
    assert!(live.is_outdated(&old));
    assert!(!live.is_outdated(&usual()));
}

#[tokio::test]
async fn who_is_not_named_is_gone_unless_nobody_is() {
    let live = live(Sessions::End(Duration::ZERO));
    let mut watch = live.watch(&usual(), VISIT);
    live.conclude(live.refresh(0));
    assert_eq!(verdict(&mut watch).await, None);
    // Of another base.
    let mut refresh = live.refresh(1);
    refresh.name(EntryId::Uuid([8; 16]));
    live.conclude(refresh);
    assert_eq!(verdict(&mut watch).await, None);
    let mut refresh = live.refresh(0);
    refresh.name(UUID);
    // One that came while it went on.
    let mut later = usual();
    later.facts.entry = EntryId::Uuid([9; 16]);
    let mut late = live.watch(&later, VISIT);
    live.conclude(refresh);
    assert_eq!(verdict(&mut watch).await, None);
    let mut refresh = live.refresh(0);
    refresh.name(EntryId::Uuid([9; 16]));
    live.conclude(refresh);
    assert_eq!(verdict(&mut watch).await, Some(Ending::Deleted));
    assert_eq!(verdict(&mut late).await, None);
}

#[tokio::test]
async fn an_entry_without_a_uuid_is_never_missed() {
    let live = live(Sessions::End(Duration::ZERO));
    let mut nameless = usual();
    nameless.facts.entry = EntryId::of_name("uid=ann");
    let mut watch = live.watch(&nameless, VISIT);
    let mut refresh = live.refresh(0);
    refresh.name(UUID);
    live.conclude(refresh);
    assert_eq!(verdict(&mut watch).await, None);
}

#[tokio::test(start_paused = true)]
async fn ends_are_spread_and_a_change_that_is_taken_back_ends_nothing() {
    let within = Duration::from_secs(60);
    let live = live(Sessions::End(within));
    let mut watches: Vec<_> = (0..100u8)
        .map(|number| {
            let mut found = usual();
            found.facts.entry = EntryId::Uuid([number; 16]);
            (number, live.watch(&found, VISIT))
        })
        .collect();
    for (number, _) in &watches {
        live.hear(0, EntryId::Uuid([*number; 16]), Now::Gone);
    }
    // The first changes its mind.
    live.hear(0, EntryId::Uuid([0; 16]), Now::of(&usual()));
    sleep(within / 2).await;
    let mut ended = 0;
    for (_, watch) in &mut watches {
        ended += u8::from(verdict(watch).await.is_some());
    }
    assert!(
        (20..80).contains(&ended),
        "{ended} of 100 after half of the time"
    );
    sleep(within).await;
    for (number, watch) in &mut watches {
        let expected = (*number != 0).then_some(Ending::Deleted);
        assert_eq!(verdict(watch).await, expected, "{number}");
    }
}

#[tokio::test]
async fn nothing_is_left_of_sessions_that_ended() {
    let live = live(Sessions::End(Duration::ZERO));
    let watches: Vec<_> = (0..10).map(|_| live.watch(&usual(), VISIT)).collect();
    assert_eq!(live.table.lock().seats.len(), 1);
    drop(watches);
    assert!(live.table.lock().seats.is_empty());
    let revoked = live.watch(&usual(), VISIT);
    live.hear(0, UUID, Now::Gone);
    assert!(live.table.lock().seats.is_empty());
    drop(revoked);
    assert_eq!(live.watched(0), []);
    // Where they are left, nobody listens.
    let live = self::live(Sessions::Leave);
    let _watch = live.watch(&usual(), VISIT);
    assert!(live.table.lock().seats.is_empty());
}

/// The same directory with other attributes, or with other bases.
fn after(live: &Arc<Live>, names: &[&str]) -> Arc<Live> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let bases = Bases {
        names: names.into(),
        reading: live.bases().reading + 1,
    };
    let metrics = Metrics::new().unwrap();
    let sessions = Sessions::End(Duration::ZERO);
    Live::new(
        CacheSettings::default(),
        sessions,
        bases,
        live.table(),
        &metrics,
        Tasks::new(),
    )
}

#[tokio::test]
async fn sessions_outlive_a_directory_and_are_judged_by_the_next() {
    let old = live(Sessions::End(Duration::ZERO));
    let mut early = old.watch(&usual(), VISIT);
    let new = after(&old, &["other", "base"]);
    // Before it is in force, and read by other attributes, it says nothing of them.
    new.hear(1, UUID, Now::Gone);
    assert_eq!(verdict(&mut early).await, None);
    new.take_over();
    // So it is with the old one now.
    old.hear(0, UUID, Now::Gone);
    // A login that was under way meanwhile.
    let mut late = old.watch(&usual(), VISIT);
    assert_eq!(new.watched(0), []);
    assert_eq!(new.watched(1), [UUID]);
    // What entries look like now is no change.
    let moved = but(|account| account.home = "elsewhere".to_owned());
    new.hear(1, UUID, Now::of(&moved));
    for watch in [&mut early, &mut late] {
        assert_eq!(verdict(watch).await, None);
    }
    new.hear(1, UUID, Now::of(&but(|account| account.uid = 7)));
    for watch in [&mut early, &mut late] {
        assert_eq!(verdict(watch).await, Some(Ending::Moved));
    }
}

#[tokio::test]
async fn sessions_of_a_base_that_is_not_searched_any_more_go_on() {
    let old = live(Sessions::End(Duration::ZERO));
    let mut watch = old.watch(&usual(), VISIT);
    let new = after(&old, &["other"]);
    new.take_over();
    let mut late = old.watch(&usual(), VISIT);
    new.hear(0, UUID, Now::Gone);
    for watch in [&mut watch, &mut late] {
        assert_eq!(verdict(watch).await, None);
    }
    assert!(new.table.lock().seats.is_empty());
}

#[tokio::test]
async fn the_same_attributes_go_on_without_a_break() {
    let old = live(Sessions::End(Duration::ZERO));
    let mut watch = old.watch(&usual(), VISIT);
    let new = after(&old, &[]);
    drop(new);
    let metrics = Metrics::new().unwrap();
    let new = Live::new(
        CacheSettings::default(),
        Sessions::End(Duration::ZERO),
        old.bases().clone(),
        old.table(),
        &metrics,
        Tasks::new(),
    );
    new.take_over();
    new.hear(0, UUID, Now::of(&but(|account| account.uid = 7)));
    assert_eq!(verdict(&mut watch).await, Some(Ending::Moved));
}
