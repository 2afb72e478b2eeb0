//! Every turn between up and down, with time that stands still unless everybody sleeps.

use std::io;

use super::{
    super::error::{NotProven, Step},
    *,
};
use crate::proto::link::Refusal;

const PATIENCE: Duration = Duration::from_secs(3);

fn health_with(settings: HealthSettings) -> Health {
    let node = NodeName::parse("node1").unwrap();
    let health = Health::new(&node, settings, &Metrics::new().unwrap());
    health.adopt(settings);
    health
}

fn health() -> Health {
    health_with(HealthSettings::default())
}

fn refused() -> LinkError {
    LinkError::Unreachable(io::ErrorKind::ConnectionRefused.into())
}

fn fail(health: &Health) {
    health.note(&Err::<(), _>(refused()), Some(Errand::Login));
}

fn open(health: &Health, errand: Errand) {
    health.note(&Ok(()), Some(errand));
}

fn probe(health: &Health, result: Result<(), ProbeError>) {
    health.trying().ended(&result, Duration::from_millis(5));
}

fn lost() -> Result<(), ProbeError> {
    Err(ProbeError::Link(refused()))
}

fn no_login() -> Result<(), ProbeError> {
    Err(ProbeError::Login("nobody there".to_owned()))
}

fn down() -> Health {
    let health = health();
    for _ in 0..3 {
        fail(&health);
    }
    assert_eq!(health.report().state, NodeState::Down);
    health
}

fn rising() -> Health {
    let health = down();
    probe(&health, Ok(()));
    assert_eq!(health.report().state, NodeState::Rising);
    health
}

async fn enter(health: &Health, errand: Errand) -> Result<Option<OwnedSemaphorePermit>, LinkError> {
    health.admit(errand, PATIENCE).await
}

fn shown(health: &Health) -> i64 {
    health.lock().gauge.as_ref().unwrap().get()
}

fn until_probe(health: &Health) -> Duration {
    health.probe_at().unwrap() - Instant::now()
}

/// As when another configuration is taken while a probe is going on, or a slow start.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_broken_off_is_made_again() {
    let settings = HealthSettings {
        probe_every: None,
        ..HealthSettings::default()
    };
    let health = health_with(settings);
    (0..3).for_each(|_| fail(&health));
    let attempt = health.trying();
    assert_eq!(health.report().state, NodeState::Trying);
    assert_eq!(health.probe_at(), None);
    drop(attempt);
    assert_eq!(health.report().state, NodeState::Down);
    assert_eq!(health.probe_at(), Some(Instant::now()));
}

/// It cannot say that the real server serves again.
#[tokio::test(start_paused = true)]
async fn a_directory_that_is_away_brings_no_logins_back() {
    let health = health();
    let login = || Err(ProbeError::Login("dead".to_owned()));
    for _ in 0..3 {
        health.trying().ended(&login(), PATIENCE);
    }
    let is_down = |errand| health.refusal(errand).is_some();
    assert!(is_down(Errand::Login) && !is_down(Errand::Mail));
    let undecided = Err(ProbeError::Undecided);
    health.trying().ended(&undecided, PATIENCE);
    assert!(is_down(Errand::Login));
    health.trying().ended(&Ok(()), PATIENCE);
    assert!(!is_down(Errand::Login));
    // That the link is well again it does say.
    (0..3).for_each(|_| fail(&health));
    assert!(is_down(Errand::Mail));
    health.trying().ended(&undecided, PATIENCE);
    assert!(!is_down(Errand::Mail));
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_and_nothing_less_end_it() {
    let health = health();
    for _ in 0..2 {
        for _ in 0..2 {
            fail(&health);
            assert!(!health.is_calm());
            assert!(health.refusal(Errand::Login).is_none());
        }
        open(&health, Errand::Mail);
        assert!(health.is_calm());
    }
    for _ in 0..3 {
        assert_eq!(shown(&health), 1);
        fail(&health);
    }
    assert_eq!(shown(&health), 0);
    let report = health.report();
    assert_eq!(
        (report.state, report.outage),
        (NodeState::Down, Some(Outage::Everything))
    );
    for errand in [Errand::Login, Errand::Mail] {
        let refusal = enter(&health, errand).await.unwrap_err();
        let expected = format!(
            "the node is down since {}: cannot connect to the node: connection refused",
            report.since
        );
        assert_eq!(refusal.to_string(), expected);
        assert_eq!(refusal.sign(), Sign::None);
        assert!(health.refusal(errand).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_down_the_prober_alone_decides() {
    let health = down();
    // One that was on its way before.
    open(&health, Errand::Login);
    assert_eq!(health.report().state, NodeState::Down);
    let attempt = health.trying();
    assert_eq!(health.report().state, NodeState::Trying);
    attempt.ended(&Ok(()), Duration::from_millis(7));
    let report = health.report();
    assert_eq!((report.state, report.outage), (NodeState::Rising, None));
    assert_eq!(report.last_probe, Some(Duration::from_millis(7)));
    assert_eq!(shown(&health), 1);
}

#[tokio::test(start_paused = true)]
async fn tries_are_half_a_second_apart_then_twice_as_long_up_to_ten_seconds() {
    let health = health();
    assert!(until_probe(&health) <= Duration::from_secs(10));
    fail(&health);
    assert!(until_probe(&health) <= BACK_OFF_FIRST);
    let mut longest = BACK_OFF_FIRST;
    for _ in 0..9 {
        probe(&health, lost());
        let wait = until_probe(&health);
        assert!(
            wait >= longest / 2 && wait <= longest,
            "{wait:?} of {longest:?}"
        );
        longest = (longest * 2).min(BACK_OFF_LAST);
        // Nor do those hurry it who failed late.
        fail(&health);
        assert_eq!(until_probe(&health), wait);
    }
    probe(&health, Ok(()));
    // And then as while it is up.
    let wait = until_probe(&health);
    assert!(wait > Duration::from_secs(7) && wait <= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_probed_is_tried_all_the_same_while_it_is_down() {
    let health = health_with(HealthSettings {
        probe_every: None,
        ..HealthSettings::default()
    });
    for _ in 0..3 {
        assert!(health.probe_at().is_none());
        fail(&health);
    }
    assert!(health.probe_at().is_some());
    probe(&health, lost());
    assert!(health.probe_at().is_some());
    probe(&health, Ok(()));
    assert!(health.probe_at().is_none());
}

/// Those that brought it back may have known nothing of logins.
#[tokio::test(start_paused = true)]
async fn a_node_is_tried_in_each_outage_whatever_probes_found_before() {
    for probe_every in [None, Some(Duration::from_secs(3600))] {
        for back in [|| Err(ProbeError::Undecided), no_login] {
            let health = health_with(HealthSettings {
                probe_every,
                probe_login_counts: false,
                ..HealthSettings::default()
            });
            for _ in 0..3 {
                (0..3).for_each(|_| fail(&health));
                assert_eq!(health.report().state, NodeState::Down);
                assert!(until_probe(&health) <= BACK_OFF_FIRST);
                // Nor are the waits as long as they were at the end of another outage.
                probe(&health, lost());
                assert!(until_probe(&health) <= BACK_OFF_FIRST);
                for _ in 0..8 {
                    probe(&health, lost());
                }
                probe(&health, back());
                assert_eq!(health.report().state, NodeState::Rising);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_behind_open_asks_for_a_probe_and_closes_nothing() {
    let health = health();
    for error in [
        LinkError::Lost {
            began: false,
            source: None,
        },
        LinkError::TimedOut {
            step: Step::Verdict,
        },
        LinkError::Refused(Refusal::Unavailable),
    ] {
        let answer = Err::<(), _>(error);
        for _ in 0..5 {
            health.note(&answer, Some(Errand::Login));
        }
        assert!(health.is_calm());
        // At once; after a probe, a second later.
        assert!(until_probe(&health) <= PROBE_PAUSE);
        probe(&health, Ok(()));
        assert!(until_probe(&health) > PROBE_PAUSE);
    }
}

/// It may have too many before it that have not proven themselves, as when many log in at once.
#[tokio::test(start_paused = true)]
async fn that_a_node_has_closed_a_link_is_for_the_prober_to_judge() {
    let health = health();
    let closed = [
        || LinkError::NotProven(NotProven::ClosedAtHello),
        || LinkError::NotProven(NotProven::ClosedAtProof),
    ];
    for error in closed {
        for _ in 0..5 {
            health.note(&Err::<(), _>(error()), Some(Errand::Login));
        }
        assert!(health.is_calm());
        assert!(until_probe(&health) <= PROBE_PAUSE);
        // One that is closed to the prober, too, serves nobody.
        (0..3).for_each(|_| probe(&health, Err(ProbeError::Link(error()))));
        assert_eq!(health.report().outage, Some(Outage::Everything));
        probe(&health, Ok(()));
        (0..STEPS).for_each(|_| health.widen());
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_refused_and_what_is_missing_here_say_nothing() {
    let health = health();
    fail(&health);
    fail(&health);
    let descriptors = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
    for error in [
        LinkError::Unreachable(descriptors),
        LinkError::UnknownNode(NodeName::parse("n").unwrap()),
        LinkError::NoTurn,
    ] {
        assert_eq!(error.sign(), Sign::None);
        health.note(&Err::<(), _>(error), Some(Errand::Login));
    }
    assert!(!health.is_calm());
    assert_eq!(health.report().state, NodeState::Up);
    // Whoever refuses an account is well.
    let refused = Err::<(), _>(LinkError::Refused(Refusal::Limit));
    health.note(&refused, Some(Errand::Login));
    assert!(health.is_calm());
}

#[tokio::test(start_paused = true)]
async fn few_wait_for_a_node_whose_last_answer_failed() {
    let health = health();
    fail(&health);
    let mut waiting = Vec::new();
    for _ in 0..MOST_WAITING {
        waiting.push(enter(&health, Errand::Login).await.unwrap().unwrap());
    }
    let error = enter(&health, Errand::Mail).await.unwrap_err();
    assert!(matches!(error, LinkError::Crowded { .. }), "{error:?}");
    waiting.pop();
    drop(enter(&health, Errand::Mail).await.unwrap());
    open(&health, Errand::Login);
    assert!(health.is_calm());
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_lets_in_twice_as_many_step_by_step() {
    let health = rising();
    let step = health.step().unwrap();
    assert_eq!(step * STEPS, HealthSettings::default().slow_start);
    let (mut inside, mut width) = (Vec::new(), FIRST_WIDTH);
    for _ in 1..STEPS {
        while inside.len() < width {
            inside.push(enter(&health, Errand::Login).await.unwrap().unwrap());
        }
        let error = enter(&health, Errand::Mail).await.unwrap_err();
        assert!(matches!(error, LinkError::NoTurn));
        assert!(!health.is_calm());
        // Who stands in line is let in by the next step, first come first served.
        let (first, ()) = tokio::join!(enter(&health, Errand::Mail), async {
            tokio::task::yield_now().await;
            health.widen();
        });
        inside.push(first.unwrap().unwrap());
        width *= 2;
    }
    while inside.len() < width {
        inside.push(enter(&health, Errand::Login).await.unwrap().unwrap());
    }
    let (last, ()) = tokio::join!(enter(&health, Errand::Login), async {
        tokio::task::yield_now().await;
        health.widen();
    });
    // Let in with the last step, or behind it: it is over.
    last.unwrap();
    assert!(health.step().is_none() && health.is_calm());
    assert_eq!(health.report().state, NodeState::Up);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_done_makes_room_for_the_next_in_line() {
    let health = rising();
    let mut inside = Vec::new();
    for _ in 0..FIRST_WIDTH {
        inside.push(enter(&health, Errand::Login).await.unwrap().unwrap());
    }
    let (next, ()) = tokio::join!(enter(&health, Errand::Mail), async {
        tokio::task::yield_now().await;
        inside.pop();
    });
    assert!(next.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_the_middle_of_a_slow_start_ends_the_line() {
    let health = rising();
    let mut inside = Vec::new();
    for _ in 0..FIRST_WIDTH {
        inside.push(enter(&health, Errand::Login).await.unwrap());
    }
    let (waiting, ()) = tokio::join!(enter(&health, Errand::Login), async {
        tokio::task::yield_now().await;
        for _ in 0..3 {
            fail(&health);
        }
    });
    assert!(matches!(waiting, Err(LinkError::Down { .. })));
    assert_eq!(shown(&health), 0);
    health.widen();
    assert_eq!(health.report().state, NodeState::Down);
}

#[tokio::test(start_paused = true)]
async fn without_a_slow_start_everybody_is_let_in_at_once() {
    let health = health_with(HealthSettings {
        slow_start: Duration::ZERO,
        down_after: 1,
        ..HealthSettings::default()
    });
    fail(&health);
    probe(&health, Ok(()));
    assert!(health.is_calm());
    assert_eq!(health.report().state, NodeState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_probe_login_that_fails_keeps_logins_out_and_lets_mail_through() {
    let health = health();
    for _ in 0..3 {
        assert_eq!(health.report().state, NodeState::Up);
        probe(&health, no_login());
        // Mail says nothing of the real server.
        open(&health, Errand::Mail);
    }
    assert_eq!(health.report().outage, Some(Outage::Logins));
    assert_eq!(shown(&health), 0);
    let refusal = enter(&health, Errand::Login).await.unwrap_err();
    assert!(
        refusal.to_string().ends_with(": probe login: nobody there"),
        "{refusal}"
    );
    assert!(enter(&health, Errand::Mail).await.unwrap().is_none());
    assert!(!*health.is_shut.borrow());
    // It gets worse, then better by halves.
    for _ in 0..3 {
        probe(&health, lost());
    }
    assert_eq!(health.report().outage, Some(Outage::Everything));
    enter(&health, Errand::Mail).await.unwrap_err();
    probe(&health, no_login());
    assert_eq!(health.report().outage, Some(Outage::Logins));
    assert!(enter(&health, Errand::Mail).await.unwrap().is_none());
    probe(&health, Ok(()));
    // Mail does not stand in the line of logins.
    let mut inside = Vec::new();
    for _ in 0..FIRST_WIDTH {
        inside.push(enter(&health, Errand::Login).await.unwrap().unwrap());
    }
    assert!(enter(&health, Errand::Mail).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn logins_that_succeed_outweigh_a_probe_login_that_fails() {
    let health = health();
    for _ in 0..5 {
        probe(&health, no_login());
        open(&health, Errand::Login);
    }
    assert!(health.is_calm());
    let health = health_with(HealthSettings {
        probe_login_counts: false,
        ..HealthSettings::default()
    });
    for _ in 0..5 {
        probe(&health, no_login());
    }
    assert!(health.is_calm());
}

#[tokio::test(start_paused = true)]
async fn keepers_wait_for_the_end_of_an_outage() {
    let health = down();
    let mut is_shut = health.is_shut();
    let (was_shut, ()) = tokio::join!(Health::opened(&mut is_shut), async {
        tokio::task::yield_now().await;
        probe(&health, Ok(()));
    });
    assert!(was_shut);
    assert!(!Health::opened(&mut is_shut).await);
    // Nor does one escape them that is over when they look.
    (0..3).for_each(|_| fail(&health));
    probe(&health, Ok(()));
    assert!(Health::opened(&mut is_shut).await);
    assert!(!Health::opened(&mut is_shut).await);
}

#[tokio::test(start_paused = true)]
async fn other_settings_hold_from_now_on() {
    let health = health_with(HealthSettings {
        probe_every: None,
        ..HealthSettings::default()
    });
    health.adopt(HealthSettings {
        down_after: 1,
        ..HealthSettings::default()
    });
    assert!(health.probe_at().is_some());
    fail(&health);
    health.adopt(HealthSettings {
        probe_every: None,
        ..HealthSettings::default()
    });
    // It is down: it is tried whatever the settings say.
    assert_eq!(health.report().state, NodeState::Down);
    assert!(health.probe_at().is_some());
}
