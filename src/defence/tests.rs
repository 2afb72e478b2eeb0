//! What is counted, for how long, who is held and who is not; on a clock that the tests move.

use std::{collections::VecDeque, net::Ipv4Addr};

use tokio::time::advance;

use super::*;
use crate::tasks::Tasks;

const ATTACKER: [u8; 4] = [192, 0, 2, 66];
const HOME: [u8; 4] = [198, 51, 100, 7];

fn defence(settings: Settings) -> Defence {
    Defence::new(settings, Metrics::new().unwrap())
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn ip(octets: [u8; 4]) -> IpAddr {
    octets.into()
}

fn fail(defence: &Defence, client: IpAddr, login: &str, password: &str) -> Result<Duration, Held> {
    Ok(defence
        .begin(client, login)?
        .failed(&secret(password))
        .after)
}

/// Tries other passwords until it is held, which it returns with how many were tried.
fn guess(defence: &Defence, client: impl Fn(u32) -> IpAddr, login: &str) -> (u32, Held) {
    for number in 0..10_000 {
        if let Err(held) = fail(defence, client(number), login, &number.to_string()) {
            return (number, held);
        }
    }
    panic!("nobody was held");
}

#[tokio::test(start_paused = true)]
async fn a_network_is_held_after_its_failures_and_gets_a_try_at_a_time_back() {
    let defence = defence(Settings::default());
    let attacker = |_| ip(ATTACKER);
    // Another name each time.
    let mut tried = 0;
    let held = loop {
        match fail(&defence, ip(ATTACKER), &format!("user{tried}"), "secret") {
            Ok(_) => tried += 1,
            Err(held) => break held,
        }
    };
    assert_eq!((tried, held), (60, Held::Network));
    assert!(defence.begin(ip(HOME), "user1").is_ok());
    advance(Duration::from_secs(61)).await;
    assert_eq!(guess(&defence, attacker, "ann"), (1, Held::Network));
    advance(Duration::from_secs(3600)).await;
    // All are back, and the account's own limit comes first. The first guess is an old one.
    assert_eq!(guess(&defence, attacker, "ann"), (31, Held::Account));
}

#[tokio::test(start_paused = true)]
async fn an_account_is_held_for_strangers_and_not_where_its_owner_is() {
    let defence = defence(Settings::default());
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    let botnet = |number| Ipv4Addr::from(0x0a00_0000 + number).into();
    assert_eq!(guess(&defence, botnet, "ann"), (30, Held::Account));
    for _ in 0..100 {
        defence.begin(ip(HOME), "Ann ").unwrap().succeeded();
    }
    // Whoever sits beside the owner has the account's limit, once.
    assert_eq!(guess(&defence, |_| ip(HOME), "ann"), (30, Held::Account));
}

#[tokio::test(start_paused = true)]
async fn an_owner_in_a_network_that_is_held_still_gets_in() {
    let defence = defence(Settings::default());
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    for number in 0..60 {
        fail(&defence, ip(HOME), &format!("x{number}"), "secret").unwrap();
    }
    assert_eq!(defence.begin(ip(HOME), "bob").unwrap_err(), Held::Network);
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    advance(Settings::default().remember).await;
    defence.begin(ip(HOME), "ann").unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_forgotten() {
    let settings = Settings {
        failure_window: Duration::from_secs(1_000_000),
        remember: Duration::from_secs(3600),
        ..Settings::default()
    };
    let defence = defence(settings);
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    for number in 0..70 {
        let _ = fail(&defence, ip(HOME), &format!("x{number}"), "secret");
    }
    advance(Duration::from_secs(3600)).await;
    drop(defence.begin(ip(HOME), "ann").unwrap());
    advance(Duration::from_secs(1)).await;
    assert_eq!(defence.begin(ip(HOME), "ann").unwrap_err(), Held::Network);
}

#[tokio::test(start_paused = true)]
async fn the_same_wrong_password_is_counted_once() {
    let defence = defence(Settings::default());
    // All day, each two minutes.
    for _ in 0..720 {
        let delay = fail(&defence, ip(HOME), "ann", "old").unwrap();
        assert!(delay <= Duration::from_secs(8), "{delay:?}");
        advance(Duration::from_secs(120)).await;
    }
    // Several devices with several old passwords, too; each account has its own.
    for turn in 0..80 {
        fail(&defence, ip(HOME), "ann", &format!("old{}", turn % 7)).unwrap();
    }
    fail(&defence, ip(HOME), "bob", "old").unwrap();
    let (tried, _) = guess(&defence, |_| ip(HOME), "ann");
    // Those seven, and what was counted before is forgotten.
    assert_eq!(tried, 30 - 7);
}

#[tokio::test(start_paused = true)]
async fn answers_take_longer_each_time_and_no_longer_than_the_longest() {
    let defence = defence(Settings::default());
    let delays: Vec<_> = (0..6)
        .map(|number| fail(&defence, ip(ATTACKER), "ann", &number.to_string()).unwrap())
        .map(|delay| delay.as_secs())
        .collect();
    assert_eq!(delays, [2, 4, 8, 15, 15, 15]);
    assert_eq!(
        fail(&defence, ip(HOME), "bob", "x").unwrap(),
        Duration::from_secs(2)
    );
    advance(Duration::from_secs(3600)).await;
    assert_eq!(
        fail(&defence, ip(ATTACKER), "ann", "y").unwrap(),
        Duration::from_secs(2)
    );
}

#[tokio::test(start_paused = true)]
async fn another_spelling_is_the_same_account() {
    let defence = defence(Settings::default());
    let spellings = ["ann", "ANN", " a n n", "ann@example.org", "ａｎｎ"];
    let mut tried = 0;
    let held = 'all: loop {
        for login in spellings {
            let client = Ipv4Addr::from(0x0a00_0000 + tried).into();
            let Ok(mut begun) = defence.begin(client, login) else {
                break 'all "what was typed";
            };
            begun.is_of("ann");
            if begun.is_too_late() {
                break 'all "whose it is";
            }
            begun.failed(&secret(&tried.to_string()));
            tried += 1;
        }
    };
    assert_eq!((tried, held), (30, "what was typed"));
    let stranger = ip([203, 0, 113, 1]);
    let mut begun = defence.begin(stranger, "sales@example.org").unwrap();
    // Right or wrong: nobody learns which while the account is held.
    begun.is_of("ann");
    assert!(begun.is_too_late());
    // What is typed is answered as if nobody were there.
    let after = begun.failed(&secret("guess")).after;
    let nobody = defence.begin(ip([203, 0, 113, 2]), "nobody").unwrap();
    assert_eq!(nobody.failed(&secret("guess")).after, after);
}

#[tokio::test(start_paused = true)]
async fn tries_at_the_same_time_are_no_way_around_the_limit() {
    let defence = defence(Settings::default());
    let client = |number: u32| Ipv4Addr::from(0x0a00_0000 + number).into();
    let begun: Vec<_> = (0..100).map(|n| defence.begin(client(n), "ann")).collect();
    assert_eq!(begun.iter().filter(|begun| begun.is_ok()).count(), 30);
    // Nothing came of them: the directory was away.
    drop(begun);
    assert!(defence.begin(client(1), "ann").is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_was_let_try_with_many_others_is_not_let_in_behind_them() {
    let defence = defence(Settings::default());
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    for (client, login, most) in [(HOME, "ann", 30), (ATTACKER, "", 60)] {
        let name = |number: u32| {
            if login.is_empty() {
                number.to_string()
            } else {
                login.to_owned()
            }
        };
        let mut begun: Vec<_> = (0..200)
            .map(|n| defence.begin(ip(client), &name(n)).unwrap())
            .collect();
        let last = begun.pop().unwrap();
        for (number, tried) in begun.into_iter().enumerate() {
            assert_eq!(tried.is_too_late(), number >= most, "{number}");
            tried.failed(&secret(&number.to_string()));
        }
        assert!(last.is_too_late());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_try_gives_nobody_time_back() {
    let defence = defence(Settings::default());
    let slow = defence.begin(ip(ATTACKER), "slow").unwrap();
    advance(Duration::from_secs(600)).await;
    let (tried, _) = guess(&defence, |_| ip(ATTACKER), "ann");
    assert_eq!(tried, 30);
    slow.failed(&secret("x"));
    assert_eq!(
        defence.begin(ip(ATTACKER), "ann").unwrap_err(),
        Held::Account
    );
    let mut others = 0;
    while fail(&defence, ip(ATTACKER), &format!("x{others}"), "y").is_ok() {
        others += 1;
    }
    assert_eq!(tried + 1 + others, 60);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_the_same_wrong_password_is_held_in_the_end() {
    let defence = defence(Settings::default());
    let mut tried = 0;
    while fail(&defence, ip(ATTACKER), "ann", "old").is_ok() {
        tried += 1;
    }
    assert!((1000..1500).contains(&tried), "{tried}");
    assert!(defence.begin(ip(HOME), "ann").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_the_same_wrong_password_is_held_where_the_account_is_known_too() {
    let defence = defence(Settings::default());
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
    let flood = || (0..10_000).find_map(|_| fail(&defence, ip(HOME), "ann", "old").err());
    assert_eq!(flood(), Some(Held::Account));
    // Elsewhere it is not counted, and here it is forgotten like all others.
    assert!(defence.begin(ip(ATTACKER), "ann").is_ok());
    advance(Duration::from_secs(3600)).await;
    // A phone that asks each minute is not a flood.
    for _ in 0..1440 {
        fail(&defence, ip(HOME), "ann", "old").unwrap();
        advance(Duration::from_secs(60)).await;
    }
    defence.begin(ip(HOME), "ann").unwrap().succeeded();
}

#[tokio::test(start_paused = true)]
async fn trusted_networks_are_neither_counted_nor_held() {
    let settings = Settings {
        trusted: vec!["192.0.2.0/24".parse().unwrap()],
        max_connections_per_network: 1,
        ..Settings::default()
    };
    let defence = defence(settings);
    for number in 0..1000 {
        let delay = fail(&defence, ip(ATTACKER), "ann", &number.to_string());
        assert_eq!(delay, Ok(Duration::from_secs(2)));
    }
    assert!(defence.begin(ip(HOME), "ann").is_ok());
    let _both = [
        defence.admit(ip(ATTACKER)).unwrap(),
        defence.admit("::ffff:192.0.2.66".parse().unwrap()).unwrap(),
    ];
}

#[test]
fn a_network_is_an_ipv4_address_or_an_ipv6_prefix() {
    let networks = |prefix, addresses: &[&str]| {
        let defence = defence(Settings {
            ipv6_prefix: prefix,
            ..Settings::default()
        });
        let networks = addresses
            .iter()
            .map(|it| defence.network(it.parse().unwrap()));
        networks.collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(networks(64, &["2001:db8::1", "2001:db8::ffff:0:0:2"]), 1);
    assert_eq!(networks(64, &["2001:db8::1", "2001:db8:0:1::1"]), 2);
    assert_eq!(networks(48, &["2001:db8::1", "2001:db8:0:1::1"]), 1);
    assert_eq!(networks(128, &["2001:db8::1", "2001:db8::2"]), 2);
    assert_eq!(networks(64, &["192.0.2.1", "::ffff:192.0.2.1"]), 1);
    assert_eq!(networks(64, &["192.0.2.1", "192.0.2.2"]), 2);
    assert_eq!(networks(64, &["::1", "127.0.0.77"]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_million_addresses_do_not_make_anybody_forget_the_worst() {
    let defence = defence(Settings::default());
    for number in 0..59 {
        fail(&defence, ip(ATTACKER), &format!("x{number}"), "a").unwrap();
    }
    let flood = |number: u32| Ipv4Addr::from(0x0b00_0000 + number).into();
    for number in 0..1_000_000 {
        fail(&defence, flood(number), &number.to_string(), "a").unwrap();
    }
    fail(&defence, ip(ATTACKER), "last", "a").unwrap();
    assert_eq!(defence.begin(ip(ATTACKER), "y").unwrap_err(), Held::Network);
}

#[test]
fn memory_has_an_end() {
    assert!(Failures::memory() < 12 << 20, "{}", Failures::memory());
}

#[test]
fn who_waits_longest_leaves() {
    let settings = Settings {
        max_guests: 3,
        ..Settings::default()
    };
    let metrics = Metrics::new().unwrap();
    let defence = Defence::new(settings, metrics.clone());
    // All of one part: the order is kept there.
    let mut clients = (1..).map(|number| IpAddr::from(Ipv4Addr::from(0x0a00_0000_u32 + number)));
    let part = |client| defence.network(client).unwrap().get() % 16;
    let first = clients.next().unwrap();
    let mut clients = clients.filter(|client| part(*client) == part(first));
    let mut guest = || defence.admit(clients.next().unwrap());
    let (mut one, mut two, mut three) = (guest().unwrap(), guest().unwrap(), guest().unwrap());
    one.starts_login().unwrap();
    let four = guest().unwrap();
    assert_eq!(two.starts_login(), Err(SentAway));
    three.starts_login().unwrap();
    let resident = four.moves_in();
    // The first came first, and waits again.
    one.waits();
    let mut five = guest().unwrap();
    let mut six = guest().unwrap();
    assert_eq!(one.starts_login(), Err(SentAway));
    five.starts_login().unwrap();
    six.starts_login().unwrap();
    assert_eq!(guest().unwrap_err(), Refused::Guests);
    assert!(!defence.make_room());
    drop((one, two, three, five, six, resident));
    assert_eq!(metrics.connections_unauthenticated.get(), 0);
    assert!(!defence.make_room());
    assert!(defence.0.crowd.is_empty());
}

#[test]
fn who_comes_alone_does_not_leave_for_a_crowd() {
    // Whatever falls into one part.
    for _ in 0..20 {
        not_for_a_crowd();
    }
}

fn not_for_a_crowd() {
    let settings = Settings {
        max_guests: 100,
        max_guests_per_network: 0,
        max_connections_per_network: 0,
        ..Settings::default()
    };
    let defence = defence(settings);
    let mut alone = defence.admit(ip(HOME)).unwrap();
    let attackers = (0..5000_u32).map(|number| Ipv4Addr::from(0x0a00_0000 + number % 30).into());
    let mut crowd = VecDeque::new();
    for attacker in attackers {
        crowd.push_back(defence.admit(attacker).unwrap());
        if crowd.len() > 200 {
            crowd.pop_front();
        }
    }
    alone.starts_login().unwrap();
    drop((alone, crowd));
    assert!(defence.0.crowd.is_empty());
}

#[test]
fn nobody_leaves_for_who_cannot_stay() {
    let settings = Settings {
        max_guests: 1,
        max_connections_per_network: 2,
        ..Settings::default()
    };
    let defence = defence(settings);
    let _residents = [(); 2].map(|()| defence.admit(ip(ATTACKER)).unwrap().moves_in());
    let mut stranger = defence.admit(ip(HOME)).unwrap();
    assert_eq!(
        defence.admit(ip(ATTACKER)).unwrap_err(),
        Refused::Connections
    );
    stranger.starts_login().unwrap();
}

#[test]
fn nobody_leaves_for_whom_its_own_network_makes_room() {
    let settings = Settings {
        max_guests: 4,
        max_guests_per_network: 2,
        ..Settings::default()
    };
    for _ in 0..20 {
        let defence = defence(settings.clone());
        let mut strangers = [(); 2].map(|()| defence.admit(ip(HOME)).unwrap());
        let mut first = defence.admit(ip(ATTACKER)).unwrap();
        let _others = [(); 2].map(|()| defence.admit(ip(ATTACKER)).unwrap());
        assert_eq!(first.starts_login(), Err(SentAway));
        for stranger in &mut strangers {
            stranger.starts_login().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_who_is_sent_away_is_told() {
    let settings = Settings {
        max_guests_per_network: 1,
        ..Settings::default()
    };
    let defence = defence(settings);
    let first = defence.admit(ip(HOME)).unwrap();
    let other = defence.admit(ip(ATTACKER)).unwrap();
    let sent_away = first.sent_away();
    let tasks = Tasks::new();
    tasks.spawn("guest", async move {
        first.sent_away().await;
    });
    let mut second = defence.admit(ip(HOME)).unwrap();
    assert_eq!(tasks.drain(Duration::from_secs(1)).await, 0);
    // Once: whoever asks again is another.
    assert!(
        tokio::time::timeout(Duration::from_secs(1), sent_away)
            .await
            .is_err()
    );
    second.starts_login().unwrap();
    assert_eq!(defence.admit(ip(HOME)).unwrap_err(), Refused::NetworkGuests);
    let timeout = tokio::time::timeout(Duration::from_secs(1), other.sent_away());
    assert!(timeout.await.is_err());
}

#[test]
fn when_memory_is_short_guests_leave_and_residents_stay() {
    let defence = defence(Settings::default());
    let resident = defence.admit(ip(HOME)).unwrap().moves_in();
    let mut busy = defence.admit(ip(HOME)).unwrap();
    busy.starts_login().unwrap();
    let mut guests: Vec<_> = (0..100)
        .map(|_| defence.admit(ip(ATTACKER)).unwrap())
        .collect();
    let gauge = &defence.0.metrics.connections_unauthenticated;
    defence.is_short_of_memory(true);
    assert_eq!(gauge.get(), 75);
    assert_eq!(defence.admit(ip(HOME)).unwrap_err(), Refused::Memory);
    for _ in 0..20 {
        defence.is_short_of_memory(true);
    }
    assert_eq!(gauge.get(), 1);
    assert!(guests.iter_mut().all(|guest| guest.starts_login().is_err()));
    drop((guests, busy, resident));
    assert!(defence.0.crowd.is_empty());
    defence.is_short_of_memory(false);
    defence.admit(ip(HOME)).unwrap();
}

#[test]
fn a_network_has_so_many_connections_and_the_others_do_not_mind() {
    let settings = Settings {
        max_connections_per_network: 2,
        ..Settings::default()
    };
    let defence = defence(settings);
    let one = defence.admit(ip(HOME)).unwrap().moves_in();
    let _two = defence.admit(ip(HOME)).unwrap();
    assert_eq!(defence.admit(ip(HOME)).unwrap_err(), Refused::Connections);
    let _other = defence.admit(ip(ATTACKER)).unwrap();
    drop(one);
    defence.admit(ip(HOME)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn counts_stay_when_limits_change() {
    let before = defence(Settings {
        max_failures_per_account: 0,
        ..Settings::default()
    });
    for number in 0..20 {
        fail(&before, ip(ATTACKER), "ann", &number.to_string()).unwrap();
    }
    let mut guest = before.admit(ip(ATTACKER)).unwrap();
    let after = before.with(Settings {
        max_failures_per_network: 10,
        max_connections_per_network: 1,
        ..Settings::default()
    });
    let held = fail(&after, ip(ATTACKER), "bob", "x").unwrap_err();
    assert_eq!(held, Held::Network);
    assert_eq!(after.admit(ip(ATTACKER)).unwrap_err(), Refused::Connections);
    guest.starts_login().unwrap();
    drop(guest);
    assert!(after.admit(ip(ATTACKER)).is_ok());
}
