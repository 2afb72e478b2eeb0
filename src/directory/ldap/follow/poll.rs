//! Following by asking for what was modified: for servers without content synchronisation.
//!
//! Every `poll_every` entries are searched whose `modifyTimestamp` is not older than some seconds before the server's own time, as
//! far as that is known from what it showed: changes that reach a replica late are seen for so long. Who is gone shows no time:
//! the entries of sessions are looked for in turn, some with each question, by their UUIDs, and judged by what they are;
//! what the cache keeps of others ends by itself.
//!
//! Servers should have an index on `modifyTimestamp` (and `entryUUID`). Without one they read all entries each time, so the
//! pause grows with the time that an answer takes: asking is at most a fiftieth of the time, since there are many fronts.
//!
//! When more was modified than the server shows, or shows in time, all that was learned before is asked for again, and the
//! question goes on from now.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        code,
        connection::{Broken, Connection, Search},
        entry::MODIFIED,
        server::Known,
    },
    Ended, Followed, Follower,
};
use crate::directory::{facts::EntryId, live::Refresh};

/// How far a server's clock and ours may be apart.
const SKEW: Duration = Duration::from_secs(3600);

/// How late a change may reach a replica, and an answer be committed behind a later one.
const OVERLAP: Duration = Duration::from_secs(10);

/// How much longer than an answer took is waited before the next question.
const REST: u32 = 49;

/// After how many times `poll_every`, at least, the same session is looked for again.
const LOOK_AFTER: u32 = 30;

/// How many are looked for at a time.
const LOOK_FOR: usize = 50;

/// How far polling has come.
pub(super) struct Poll {
    /// What the server's clock showed at least, and when we saw that.
    clock: (Timestamp, Instant),
    /// By that clock, when the last question was asked that was answered.
    reached: Timestamp,
    /// Whether the last answer was not complete.
    is_cut: bool,
    look: Option<Look>,
    looked: Option<Instant>,
}

/// Looking for those who have sessions.
struct Look {
    refresh: Refresh,
    left: Vec<EntryId>,
}

impl Poll {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let skewed = Timestamp::now().saturating_sub(SKEW);
        let skewed = skewed.unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            clock: (skewed, now),
            reached: skewed,
            is_cut: false,
            look: None,
            looked: None,
        }
    }

    /// From when on changes may be new to us.
    fn since(&self) -> String {
        let since = self.reached.saturating_sub(OVERLAP);
        generalized(since.unwrap_or(self.reached))
    }

    /// All is known that was modified until then.
    fn reached(&mut self, asked: Instant) {
        let (time, seen) = self.clock;
        let since = asked.saturating_duration_since(seen);
        self.reached = time.saturating_add(since).unwrap_or(time);
    }

    /// A time that the server has set. One that is far from our own is a mistake, which must not blind us.
    fn saw(&mut self, text: &str) {
        let (time, seen) = self.clock;
        if let Some(shown) = parsed(text)
            && Timestamp::now()
                .saturating_add(SKEW)
                .is_ok_and(|latest| shown <= latest)
            && time
                .saturating_add(seen.elapsed())
                .is_ok_and(|now| shown > now)
        {
            self.clock = (shown, Instant::now());
        }
    }
}

impl Follower {
    /// Asks for what was modified, again and again.
    pub(super) async fn poll(
        &mut self,
        place: usize,
        server: &Arc<Known>,
    ) -> Result<Infallible, Ended> {
        let mut connection = server.serving(Instant::now() + self.timeout).await?;
        let mut followed = None;
        loop {
            if self.choose() != place || self.has_sync(place) {
                return Err(Ended::Preferred);
            }
            let asked = Instant::now();
            self.ask_for_modified(&mut connection).await?;
            let took = asked.elapsed();
            if followed.is_none() {
                followed = Some(Followed::new(&self.by_poll));
                self.begins(server, "modifyTimestamp");
            }
            self.look_for_sessions(&mut connection).await?;
            sleep(self.settings.poll_every.max(took * REST)).await;
        }
    }

    async fn ask_for_modified(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let since = format!("({MODIFIED}>={})", self.poll.since());
        let search = self
            .common
            .schema
            .everybody(self.base, Some(&since), Some(MODIFIED));
        let (schema, base) = (&self.common.schema, self.base);
        let (live, poll) = (&self.live, &mut self.poll);
        let asked = Instant::now();
        let searched = connection.search_each(&search, asked + self.timeout, |tag| {
            // A malformed one is nobody's.
            if let Ok(read) = schema.read(tag, base) {
                if let Some(shown) = &read.modified {
                    poll.saw(shown);
                }
                live.hear(base, read.entry, read.now());
            }
        });
        let searched = searched.await;
        let cut = match searched {
            Ok(reply) => match reply.code {
                code::SUCCESS => None,
                code::TIME_LIMIT_EXCEEDED
                | code::SIZE_LIMIT_EXCEEDED
                | code::ADMIN_LIMIT_EXCEEDED => Some(Ended::Refused(reply)),
                _ => return Err(Ended::Refused(reply)),
            },
            Err(Broken::Late(_)) => Some(Ended::Slow),
            Err(broken) => return Err(broken.into()),
        };
        self.poll.reached(asked);
        let was_cut = std::mem::replace(&mut self.poll.is_cut, cut.is_some());
        match cut {
            None => Ok(()),
            // The connection may still get answers to that.
            Some(slow @ Ended::Slow) => {
                self.live.outdate(base);
                Err(slow)
            }
            // Twice in a row means that it is so with every question.
            Some(cut) if was_cut => Err(cut),
            Some(_) => {
                tracing::warn!("more was modified than the directory shows");
                self.live.outdate(base);
                Ok(())
            }
        }
    }

    /// Looks whether some of those who have sessions are still there, and what they are.
    async fn look_for_sessions(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let pause = self.settings.poll_every * LOOK_AFTER;
        let is_due = |looked: Instant| looked.elapsed() >= pause;
        if self.poll.look.is_none() && self.poll.looked.is_none_or(is_due) {
            let refresh = self.live.refresh(self.base);
            let left = refresh.suspects().collect();
            self.poll.looked = Some(Instant::now());
            self.poll.look = Some(Look { refresh, left });
        }
        let Some(mut look) = self.poll.look.take() else {
            return Ok(());
        };
        let some = look
            .left
            .split_off(look.left.len().saturating_sub(LOOK_FOR));
        let (schema, base) = (&self.common.schema, self.base);
        let mut found = Vec::new();
        if !some.is_empty() {
            let search = self.search_for(&some);
            let deadline = Instant::now() + self.timeout;
            let searched = connection.search_each(&search, deadline, |tag| {
                found.extend(schema.read(tag, base));
            });
            let reply = searched.await?;
            if reply.code != code::SUCCESS {
                return Err(Ended::Refused(reply));
            }
        }
        for read in &found {
            look.refresh.name(read.entry);
            self.live.hear(base, read.entry, read.now());
        }
        if !look.left.is_empty() {
            self.poll.look = Some(look);
            return Ok(());
        }
        if !look.refresh.has_named() && look.refresh.suspects().next().is_some() {
            let anybody = schema.everybody(base, None, None);
            let deadline = Instant::now() + self.timeout;
            let reply = connection.search(&anybody, deadline).await?;
            if !reply.entries.is_empty() {
                look.refresh.name_somebody();
            }
        }
        self.live.conclude(look.refresh);
        Ok(())
    }

    fn search_for(&self, entries: &[EntryId]) -> Search {
        let filters = entries.iter().filter_map(|entry| match entry {
            EntryId::Uuid(uuid) => Some(format!("(entryUUID={})", uuid_text(*uuid))),
            EntryId::Name(_) => None,
        });
        let any = format!("(|{})", filters.collect::<String>());
        self.common.schema.everybody(self.base, Some(&any), None)
    }
}

/// As RFC 4122, 3, writes it.
fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::new();
    for (place, octet) in uuid.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// How LDAP writes a time (`GeneralizedTime`, RFC 4517, 3.3.13), without fractions and zone.
const GENERALIZED: &str = "%Y%m%d%H%M%S";

fn generalized(time: Timestamp) -> String {
    format!("{}Z", time.strftime(GENERALIZED))
}

/// Reads such a time, in UTC; fractions are left out.
fn parsed(text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z')?.split(['.', ',']).next()?;
    if digits.len() != 14 || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let time = DateTime::strptime(GENERALIZED, digits).ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for text in ["20261128230016Z", "19700101000000Z", "20280229235959Z"] {
            assert_eq!(generalized(parsed(text).unwrap()), text);
        }
        assert_eq!(parsed("20261128230016.123456Z"), parsed("20261128230016Z"));
        for wrong in [
            "",
            "Z",
            "20261128230016",
            "20261328230016Z",
            "2026112823001Z",
            "20261128230016+0100",
            "２０２６",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_clock_goes_on_and_is_not_led_astray() {
        let mut poll = Poll::new();
        let before = poll.since();
        for wrong in ["19990101000000Z", "20990101000010Z", "nonsense"] {
            poll.saw(wrong);
        }
        poll.reached(Instant::now());
        let since = poll.since();
        assert!(since >= before && since.as_str() < "2099", "{since}");
        let shown = Timestamp::now();
        poll.saw(&generalized(shown));
        assert_eq!(poll.since(), since, "nothing was answered since");
        poll.reached(Instant::now());
        let expected = shown.saturating_sub(OVERLAP).unwrap();
        assert_eq!(poll.since(), generalized(expected));
    }

    #[test]
    fn a_uuid_is_written_with_hyphens() {
        let uuid = *b"\x7d\x0f\xa6\xe4\x7f\xcc\x10\x41\x8a\xc5\x9d\x2f\x6b\x87\xf5\x23";
        assert_eq!(uuid_text(uuid), "7d0fa6e4-7fcc-1041-8ac5-9d2f6b87f523");
    }
}
