//! Conversations as transcripts: documentation and test at once. Not in ordinary builds.
//!
//! How they are written stands in `tests/transcripts/mod.rs`. Each one is played as written (every reply must come where
//! it stands), whole, octet by octet, and cut at every offset; a long one at fewer.

use std::mem;

use super::{
    conversation::{Answer, Conversation, Machine, play},
    denial::Denial,
    script::{ACCOUNTS, Listener, Standing, Step, load, parse},
    talk::{Channel, Credentials},
};

/// What the real server of the accounts can do.
const CAPABILITIES: &str = "IMAP4rev1 IDLE";

/// How many octets of one transcript are played, cut here and there.
const MOST_OCTETS: usize = 1 << 19;

/// Plays a transcript in all ways; answers are given in turn, and the last one again and again.
pub(super) fn check<M: Machine>(machine: impl Fn() -> M, answers: &[Answer], script: &str) {
    check_steps(
        || Conversation::new(machine(), Answer::in_turn(answers)),
        &parse(script),
    );
}

/// Plays all transcripts of a protocol, on each channel where they hold.
pub(super) fn check_all<M: Machine>(protocol: &str, machine: impl Fn(Channel) -> M) {
    let scripts = load(protocol);
    assert!(scripts.len() > 100, "only {} {protocol}", scripts.len());
    for script in scripts {
        assert!(!script.on.is_empty(), "{} holds nowhere", script.name);
        for listener in &script.on {
            let channel = Channel {
                encrypted: *listener == Listener::Tls,
                starttls: matches!(listener, Listener::Private | Listener::Starttls),
                cleartext: matches!(listener, Listener::Plain | Listener::Starttls),
            };
            // Said only when it fails.
            println!("{} on {listener:?}", script.name);
            check_steps(
                || Conversation::new(machine(channel), answer),
                &script.steps,
            );
        }
    }
}

/// What a cluster with the accounts would say.
fn answer(credentials: &Credentials) -> Answer {
    let (login, password) = (credentials.login.as_str(), credentials.password.expose());
    let found = ACCOUNTS
        .iter()
        .find(|(name, word, _)| *name == login && word.as_bytes() == password);
    let same = |other: &crate::names::Login| other.as_str() == login;
    match found {
        None | Some((_, _, Standing::Disabled)) => Answer::Deny(Denial::BadCredentials),
        Some(_) if !credentials.authorize.as_ref().is_none_or(same) => {
            Answer::Deny(Denial::AuthorizationFailed)
        }
        Some((_, _, Standing::Away)) => Answer::Deny(Denial::Unavailable),
        Some((_, _, Standing::Misconfigured)) => Answer::Deny(Denial::Misconfigured),
        Some((_, _, Standing::Served)) => Answer::Accept(Some(CAPABILITIES.to_owned())),
    }
}

fn check_steps<M: Machine>(begin: impl Fn() -> Conversation<M>, steps: &[Step]) {
    let begin = || {
        let mut conversation = begin();
        conversation.log.clear();
        conversation
    };
    let shown = |log: &[u8]| String::from_utf8_lossy(log).into_owned();
    let mut written = begin();
    let (mut clear, mut secured) = (Vec::new(), Vec::new());
    let (mut log, mut left) = (Vec::new(), Vec::new());
    let mut said = &mut clear;
    for step in steps {
        match step {
            Step::Client(octets) => {
                let before = String::from_utf8_lossy(octets);
                assert_eq!(shown(&written.log), shown(&log), "before {before}");
                written.hear(octets);
                said.extend_from_slice(octets);
            }
            Step::Server(text) => {
                let text =
                    text.replace("[CAPABILITY ...]", &format!("[CAPABILITY {CAPABILITIES}]"));
                log.extend_from_slice(format!("{text}\r\n").as_bytes());
            }
            Step::Event(text) => log.extend_from_slice(format!("E: {text}\r\n").as_bytes()),
            Step::Left(octets) => left.clone_from(octets),
            Step::Tls => {
                written.secure();
                said = &mut secured;
            }
        }
    }
    assert_eq!(shown(&written.log), shown(&log), "as written");
    let length = clear.len() + secured.len();
    let mut cuts: Vec<(usize, usize)> = (1..length)
        .step_by((length * length).div_ceil(MOST_OCTETS).max(1))
        .map(|first| (first, usize::MAX))
        .collect();
    cuts.extend([(usize::MAX, usize::MAX), (1, 1)]);
    for (first, rest) in cuts {
        let mut next = first;
        let cut = || mem::replace(&mut next, rest);
        let (heard, unread) = play(begin(), &clear, &secured, cut);
        assert_eq!(shown(&heard), shown(&log), "cut at {first}, {rest}");
        assert_eq!(shown(&unread), shown(&left), "left; cut at {first}, {rest}");
    }
}
