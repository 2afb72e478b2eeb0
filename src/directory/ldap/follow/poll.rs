//! Following by asking for what was modified: for servers without content synchronisation.
//!
//! Every few seconds entries are searched whose `modifyTimestamp` is not older than some seconds before the server's own time, as
//! far as that is known from what it showed: changes that reach a replica late are seen for so long. Who is gone shows no time:
//! the entries of sessions are looked for once a minute, by their UUIDs; what the cache keeps of others ends by itself.
//!
//! Servers should have an index on `modifyTimestamp` (and `entryUUID`). Without one they read all entries each time, so the
//! pause grows with the time that an answer takes: asking is at most a fiftieth of the time, since there are many fronts.
//!
//! When more was modified than the server shows, all that was learned before is asked for again.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        code,
        connection::{Connection, Search},
        entry::MODIFIED,
        server::Known,
    },
    Ended, Followed, Follower,
};
use crate::directory::live::EntryId;

/// How far our clocks may be apart at first.
const SKEW: Duration = Duration::from_secs(300);

/// How late a change may reach a replica, and an answer be committed behind a later one.
const OVERLAP: Duration = Duration::from_secs(10);

/// How much longer than an answer took is waited before the next question.
const REST: u32 = 49;

/// How often those who have sessions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How many of them at a time.
const LOOK_FOR: usize = 50;

/// How far polling has come.
pub(super) struct Poll {
    /// What the server's clock showed at least, and when we saw that.
    clock: (Timestamp, Instant),
    /// By that clock, when the last question was asked that was answered.
    reached: Timestamp,
    looked: Instant,
}

impl Poll {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let skewed = Timestamp::now().saturating_sub(SKEW);
        let skewed = skewed.unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            clock: (skewed, now),
            reached: skewed,
            looked: now,
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

    /// A time that the server has set.
    fn saw(&mut self, text: &str) {
        let (time, seen) = self.clock;
        if let Some(shown) = parsed(text)
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
            if followed.is_none() {
                followed = Some(Followed::new(&self.by_poll));
                self.begins(server, "modifyTimestamp");
            }
            if self.poll.looked.elapsed() >= LOOK_EVERY {
                self.poll.looked = Instant::now();
                self.look_for_sessions(&mut connection).await?;
            }
            let rest = asked.elapsed() * REST;
            sleep(self.settings.poll_every.max(rest)).await;
        }
    }

    async fn ask_for_modified(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let since = format!("({MODIFIED}>={})", self.poll.since());
        let search = self
            .common
            .schema
            .everybody(self.base, Some(&since), Some(MODIFIED));
        let (schema, base) = (&self.common.schema, self.base);
        let mut modified = Vec::new();
        let asked = Instant::now();
        let searched = connection.search_each(&search, asked + self.timeout, |tag| {
            // A malformed one is nobody's.
            modified.extend(schema.read(tag, base));
        });
        let reply = searched.await?;
        for read in &modified {
            if let Some(shown) = &read.modified {
                self.poll.saw(shown);
            }
            self.live.hear(read.entry, read.now());
        }
        match reply.code {
            code::SUCCESS => {}
            code::TIME_LIMIT_EXCEEDED | code::SIZE_LIMIT_EXCEEDED | code::ADMIN_LIMIT_EXCEEDED => {
                tracing::warn!(error = %reply, "more was modified than the directory shows");
                self.live.outdate(self.base);
                self.poll.saw(&generalized(Timestamp::now()));
            }
            _ => return Err(Ended::Refused(reply)),
        }
        self.poll.reached(asked);
        Ok(())
    }

    /// Looks whether those who have sessions are still there.
    async fn look_for_sessions(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let watched = self.live.watched(self.base);
        let mut refresh = self.live.refresh(self.base, []);
        for some in watched.chunks(LOOK_FOR) {
            let search = self.search_for(some);
            let (schema, base) = (&self.common.schema, self.base);
            let deadline = Instant::now() + self.timeout;
            let searched = connection.search_each(&search, deadline, |tag| {
                if let Ok(read) = schema.read(tag, base) {
                    refresh.name(read.entry);
                }
            });
            let reply = searched.await?;
            if reply.code != code::SUCCESS {
                return Err(Ended::Refused(reply));
            }
        }
        self.live.conclude(refresh);
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
    fn a_clock_only_goes_on() {
        let mut poll = Poll::new();
        let before = poll.since();
        poll.saw("19990101000000Z");
        poll.saw("nonsense");
        poll.reached(Instant::now());
        assert!(poll.since() >= before);
        poll.saw("20990101000010Z");
        assert!(poll.since().as_str() < "2099", "nothing was answered since");
        poll.reached(Instant::now());
        assert_eq!(poll.since(), "20990101000000Z");
    }

    #[test]
    fn a_uuid_is_written_with_hyphens() {
        let uuid = *b"\x7d\x0f\xa6\xe4\x7f\xcc\x10\x41\x8a\xc5\x9d\x2f\x6b\x87\xf5\x23";
        assert_eq!(uuid_text(uuid), "7d0fa6e4-7fcc-1041-8ac5-9d2f6b87f523");
    }
}
