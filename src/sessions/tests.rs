//! Who is listed, who is meant, and when they end.

use tokio::time::sleep;

use super::*;
use crate::names::SessionId;

fn sessions() -> Sessions {
    Sessions::new(&Metrics::new().unwrap(), Tasks::new())
}

fn who(account: &str, node: &str, protocol: Protocol, client: &str) -> Who {
    Who {
        session: SessionId::parse(&format!("{account}-{node}")).unwrap(),
        account: AccountName::parse(account).unwrap(),
        protocol,
        client: client.parse().unwrap(),
        has_tls: true,
        node: NodeName::parse(node).unwrap(),
        since: jiff::Timestamp::now(),
    }
}

/// A session of somebody.
fn on(sessions: &Sessions, account: &str, node: &str) -> (Arc<Seat>, Entered) {
    let seat = Seat::new();
    let who = who(account, node, Protocol::Imap, "192.0.2.1:1");
    let entered = sessions.enter(&seat, who);
    (seat, entered)
}

fn accounts(seats: &[Arc<Seat>]) -> Vec<&str> {
    let names = seats.iter().filter_map(|seat| seat.who());
    names.map(|who| who.account.as_str()).collect()
}

#[test]
fn who_is_on_is_listed_until_the_end() {
    let sessions = sessions();
    let (ann, ann_on) = on(&sessions, "ann", "n1");
    let (_, bob_on) = on(&sessions, "bob", "n2");
    assert_eq!(accounts(&sessions.all(&Filter::default())), ["ann", "bob"]);
    drop(ann_on);
    assert!(!ann.end(Ending::Kicked));
    assert_eq!(accounts(&sessions.all(&Filter::default())), ["bob"]);
    // The slot is used again.
    let (_, cyd_on) = on(&sessions, "cyd", "n1");
    assert_eq!(accounts(&sessions.all(&Filter::default())), ["cyd", "bob"]);
    assert_eq!(sessions.lock().all.len(), 2);
    drop((bob_on, cyd_on));
    assert!(sessions.all(&Filter::default()).is_empty());
    assert_eq!(sessions.lock().free.len(), 2);
}

#[test]
fn filters_mean_what_they_name_and_all_of_it() {
    let who = who("ann", "n1", Protocol::Pop3, "[::ffff:192.0.2.7]:110");
    let (any, here) = (None::<&str>, Some("192.0.2.0/24"));
    for (account, node, network, protocol, is_meant) in [
        (any, any, any, None, true),
        (Some("ann"), any, any, None, true),
        (Some("Ann"), any, any, None, false),
        (any, Some("n1"), any, None, true),
        (any, Some("n2"), any, None, false),
        (any, any, here, None, true),
        (any, any, Some("192.0.3.0/24"), None, false),
        (any, any, any, Some(Protocol::Pop3), true),
        (any, any, any, Some(Protocol::Imap), false),
        (Some("ann"), Some("n1"), here, Some(Protocol::Pop3), true),
        (Some("ann"), Some("n2"), here, Some(Protocol::Pop3), false),
    ] {
        let filter = Filter {
            account: account.map(|name| AccountName::parse(name).unwrap()),
            node: node.map(|name| NodeName::parse(name).unwrap()),
            network: network.map(|text| text.parse().unwrap()),
            protocol,
        };
        assert_eq!(filter.matches(&who), is_meant, "{filter:?}");
    }
}

#[test]
fn pages_have_everybody_who_stays_once() {
    let sessions = sessions();
    let count = CHUNK * 2 + 10;
    let mut all: Vec<_> = (0..count)
        .map(|number| on(&sessions, &format!("u{number}"), "n1"))
        .collect();
    let (mut seen, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let page = sessions.page(&Filter::default(), at, 100);
        assert!(page.seats.len() <= 100);
        seen.extend(
            page.seats
                .iter()
                .map(|seat| seat.who().unwrap().account.clone()),
        );
        from = page.next;
        // Somebody leaves, and somebody else comes into that slot.
        all.remove(0);
        all.push(on(&sessions, "late", "n1"));
    }
    let stayed = all
        .iter()
        .map(|(seat, _)| seat.who().unwrap().account.clone());
    let stayed: Vec<_> = stayed.filter(|name| name.as_str() != "late").collect();
    for name in stayed {
        assert_eq!(seen.iter().filter(|one| **one == name).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_is_not_spread_ends_at_once() {
    let sessions = sessions();
    let (ann, _on) = on(&sessions, "ann", "n1");
    let all = sessions.all(&Filter::default());
    sessions
        .end(all, Ending::Kicked, Duration::ZERO, || true)
        .unwrap();
    assert_eq!(ann.why(), Some(Ending::Kicked));
    assert_eq!(sessions.0.kicked.with_label_values(&["kick"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn ends_are_spread_until_they_are_not_wanted_any_more() {
    let sessions = sessions();
    let within = Duration::from_secs(60);
    let all: Vec<_> = (0..200).map(|_| on(&sessions, "ann", "n1")).collect();
    let ended = || all.iter().filter(|(seat, _)| seat.why().is_some()).count();
    let is_wanted = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let wanted = Arc::clone(&is_wanted);
    let seats = sessions.all(&Filter::default());
    sessions
        .end(seats, Ending::NodeDrained, within, move || {
            wanted.load(Relaxed)
        })
        .unwrap();
    assert_eq!(sessions.0.walks.load(Relaxed), 1);
    sleep(within / 2).await;
    let half = ended();
    assert!(
        (50..150).contains(&half),
        "{half} of 200 after half of the time"
    );
    is_wanted.store(false, Relaxed);
    sleep(within).await;
    assert_eq!(ended(), half);
    assert_eq!(sessions.0.walks.load(Relaxed), 0);
    // And all of them, when they stay wanted.
    let seats = sessions.all(&Filter::default());
    sessions
        .end(seats, Ending::Kicked, within, || true)
        .unwrap();
    sleep(within * 2).await;
    assert_eq!(ended(), 200);
}

#[tokio::test(start_paused = true)]
async fn so_many_commands_spread_their_ends_and_no_more() {
    let sessions = sessions();
    let (_seat, _on) = on(&sessions, "ann", "n1");
    let within = Duration::from_secs(3600);
    let all = || sessions.all(&Filter::default());
    for _ in 0..MAX_WALKS {
        sessions
            .end(all(), Ending::Kicked, within, || true)
            .unwrap();
    }
    assert_eq!(
        sessions.end(all(), Ending::Kicked, within, || true),
        Err(TooMany)
    );
    // What needs no walk is done.
    assert_eq!(
        sessions.end(all(), Ending::Kicked, Duration::ZERO, || true),
        Ok(())
    );
    sleep(within * 2).await;
    assert_eq!(sessions.0.walks.load(Relaxed), 0);
}
