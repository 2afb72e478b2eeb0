//! Those who come and go, or stay, and what they have seen.

use std::{
    net::SocketAddr,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::{
    client::{Client, Method},
    lab::User,
    smtp::Smtp,
};

/// Between two signs of life of a session that stays.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the cluster is, for those who know nothing else of it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) imap: SocketAddr,
    pub(super) pop3: SocketAddr,
    pub(super) lmtp: SocketAddr,
}

/// What they have seen.
#[derive(Default)]
pub(super) struct Seen {
    over: AtomicBool,
    /// Had by each who is on the way, or by whoever wants nobody to be.
    road: RwLock<()>,
    /// By visitor and MTA: how often all went well.
    pub(super) well: [AtomicUsize; 4],
    /// "Unavailable", "try again".
    pub(super) later: AtomicUsize,
    /// Sessions at `n2` that were closed.
    pub(super) closed: AtomicUsize,
    /// By recipient: messages that were accepted.
    pub(super) accepted: [AtomicUsize; 2],
}

impl Seen {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Nobody rests while somebody comes.
    pub(super) fn come(&self) -> RwLockReadGuard<'_, ()> {
        self.road.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Visitors and MTA have left, and come again when this is over.
    pub(super) fn rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.road.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn went_well(&self, number: usize) {
        self.well[number].fetch_add(1, SeqCst);
    }
}

/// However this ends: nobody is waited for in vain.
pub(super) struct Over<'a>(pub(super) &'a Seen);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

/// Logs in as soon as that is possible; none if all is over before.
fn admitted(place: Place, user: &User, seen: &Seen) -> Option<Client> {
    while !seen.is_over() {
        let mut client = Client::connect_to(place.imap);
        let reply = client.login(Method::PlainInitial, &user.name, &user.password);
        if reply.status.starts_with("OK") {
            return Some(client);
        }
        reply.no("UNAVAILABLE");
        seen.later.fetch_add(1, SeqCst);
    }
    None
}

/// Is there from the beginning to the end, on one connection.
pub(super) fn stay(place: Place, user: &User, seen: &Seen) {
    let mut client = admitted(place, user, seen).expect("logs in before it is over");
    client.command("SELECT INBOX").ok();
    while !seen.is_over() {
        client.command("NOOP").ok();
        thread::sleep(PAUSE);
    }
    client.command("LOGOUT").ok();
}

/// Is there all the time, and comes again when it was closed.
pub(super) fn return_always(place: Place, user: &User, seen: &Seen) {
    while let Some(mut client) = admitted(place, user, seen) {
        let is_there = |client: &mut Client| {
            let sent = client.try_send(b"x NOOP\r\n");
            sent.is_ok()
                && client
                    .try_line()
                    .is_some_and(|line| line.starts_with("x OK"))
        };
        while !seen.is_over() && is_there(&mut client) {
            thread::sleep(PAUSE);
        }
        if seen.is_over() {
            return;
        }
        seen.closed.fetch_add(1, SeqCst);
    }
}

pub(super) fn visit(place: Place, number: usize, user: &User, seen: &Seen) {
    while !seen.is_over() {
        let _road = seen.come();
        let came = if number == 0 {
            visit_pop3(place, user)
        } else {
            visit_imap(place, user)
        };
        if came {
            seen.went_well(number);
        } else {
            seen.later.fetch_add(1, SeqCst);
        }
    }
}

pub(super) fn visit_imap(place: Place, user: &User) -> bool {
    let mut client = Client::connect_to(place.imap);
    let reply = client.login(Method::Login, &user.name, &user.password);
    if !reply.status.starts_with("OK") {
        reply.no("UNAVAILABLE");
        return false;
    }
    client.command("SELECT INBOX").ok();
    client.command("LOGOUT").ok();
    true
}

pub(super) fn visit_pop3(place: Place, user: &User) -> bool {
    let mut client = Client::connect_to(place.pop3);
    let mut ask = |command: &str| {
        client.send(format!("{command}\r\n"));
        client.line()
    };
    assert!(ask(&format!("USER {}", user.name)).starts_with("+OK"));
    let answer = ask(&format!("PASS {}", user.password));
    if !answer.starts_with("+OK") {
        assert!(answer.starts_with("-ERR [SYS/TEMP]"), "{answer}");
        return false;
    }
    assert!(ask("STAT").starts_with("+OK"));
    assert!(ask("QUIT").starts_with("+OK"));
    true
}

/// One message for both at a time.
pub(super) fn bring_mail(place: Place, users: &[User; 2], seen: &Seen) {
    while !seen.is_over() {
        let _road = seen.come();
        let mut mta = Smtp::connect(place.lmtp);
        mta.command("LHLO mta.example.org").says("250");
        mta.command("MAIL FROM:<sender@example.net>").says("250");
        let mut taken = Vec::new();
        for (number, user) in users.iter().enumerate() {
            let answer = mta.command(&format!("RCPT TO:<{}>", user.address()));
            if answer.text.starts_with("250") {
                taken.push(number);
            } else {
                answer.says("4");
            }
        }
        if taken.is_empty() {
            seen.later.fetch_add(1, SeqCst);
            continue;
        }
        // Their nodes may have been drained since, or gone.
        let answer = mta.command("DATA");
        if !answer.text.starts_with("354") {
            answer.says("4");
            seen.later.fetch_add(1, SeqCst);
            continue;
        }
        mta.send("Subject: soak\r\n\r\nhere\r\n.\r\n");
        let mut is_well = taken.len() == users.len();
        for number in taken {
            let answer = mta.answer();
            if answer.text.starts_with("250") {
                seen.accepted[number].fetch_add(1, SeqCst);
            } else {
                answer.says("4");
                is_well = false;
            }
        }
        mta.command("QUIT").says("221");
        if is_well {
            seen.went_well(3);
        } else {
            seen.later.fetch_add(1, SeqCst);
        }
    }
}
