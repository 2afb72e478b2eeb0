//! Following what changes below one base: by content synchronisation (RFC 4533), or by asking for what was modified.
//!
//! ```text
//!            ┌─ sync ──> refresh ──> changes as they happen ──┐ server away, silent, or a preferred one is back
//! choose a ──┤                                                ├──> choose again, from the cookie or time that was reached
//! server     └─ poll ──> modified since? ──> pause ──> ... ───┘
//! ```
//!
//! Servers are chosen as for questions: the first that is up. One that has no content synchronisation is polled, and tried
//! again after [`TRY_SYNC_AGAIN`].
//!
//! A search that only listens looks alive when it is not: on the same connection a probe is sent when nothing was said for
//! twice the time that an answer may take, and without an answer the connection is given up.
//!
//! A refresh names everybody who is there, or all who are gone. Sessions are judged by it; where everybody was named, what the
//! cache has learned before is asked for again.
//!
//! A server may be behind the one that was followed before, and then refuses the cookie that that one gave: another is tried, or
//! it is waited for. What it would say without a cookie is of the past.
//!
//! Limits: one connection per base; a pause between tries that grows to ten seconds, after refusals to a minute.

mod examine;
mod poll;
mod told;

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::{Instant, sleep};

pub(super) use examine::examine;
use poll::Poll;
use told::Told;

use super::{
    Common, code,
    connection::{Broken, Connection, Reply},
    server::{Known, jittered},
};
use crate::{
    directory::{
        Follow, FollowSettings,
        facts::{EntryId, Now},
        live::{Followed, Live, Refresh},
    },
    metrics::Metrics,
    proto::content_sync::{Cookie, State, SyncInfo},
};

/// When a server that had no content synchronisation is asked for it again.
const TRY_SYNC_AGAIN: Duration = Duration::from_secs(600);

/// The first pause after a failure, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LAST: Duration = Duration::from_secs(10);
/// The longest after a refusal that does not pass by itself.
const PAUSE_REFUSED: Duration = Duration::from_secs(60);

/// How often it is logged at once that changes are not followed any more, and how long it may last unsaid.
const LOG_EVERY: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(5);

/// How long it must have worked for the pauses to begin anew.
const LASTING: Duration = Duration::from_secs(60);

/// How long a server that failed is passed over, if there are others.
const SHUN: Duration = Duration::from_secs(30);

/// After so long of nothing but refusals a cookie is of no use to any server.
const COOKIE_REFUSED: Duration = Duration::from_secs(300);

/// Who follows one base.
pub(super) struct Follower {
    common: Arc<Common>,
    base: usize,
    live: Arc<Live>,
    settings: FollowSettings,
    /// Of a probe and of a poll.
    timeout: Duration,
    by_sync: IntGauge,
    by_poll: IntGauge,
    /// How far synchronisation has come.
    cookie: Option<Cookie>,
    /// Since when no server has gone on from there.
    refused_since: Option<Instant>,
    poll: Poll,
    /// Servers by place that have no content synchronisation, and when that was found out.
    without_sync: HashMap<usize, Instant>,
    /// Servers by place that failed a moment ago, and until when others are tried rather.
    shunned: HashMap<usize, Instant>,
    /// Since when changes are heard of at the present server.
    followed: Option<Instant>,
    /// Whether it was logged last that changes are followed, and when.
    logged: Option<(bool, Instant)>,
    /// When they were last heard of before that.
    lost: Instant,
}

/// How following ended.
enum Ended {
    /// Another server is preferred and up again.
    Preferred,
    /// The server does not do it.
    Refused(Reply),
    /// It takes too long to say what was modified, which says nothing of other questions.
    Slow,
    /// The connection is of no use any more.
    Broken(Broken),
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Follower {
    pub(super) fn new(
        common: Arc<Common>,
        base: usize,
        live: Arc<Live>,
        (settings, timeout): (FollowSettings, Duration),
        metrics: &Metrics,
    ) -> Self {
        let by = |word| metrics.directory_followed.with_label_values(&[word]);
        Self {
            common,
            base,
            live,
            settings,
            timeout,
            by_sync: by("sync"),
            by_poll: by("poll"),
            cookie: None,
            refused_since: None,
            poll: Poll::new(),
            without_sync: HashMap::new(),
            shunned: HashMap::new(),
            followed: None,
            logged: None,
            lost: Instant::now(),
        }
    }

    /// Follows for as long as the process runs.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        loop {
            let place = self.choose();
            let Some(server) = self.common.servers.get(place).cloned() else {
                return;
            };
            let (began, by_sync) = (Instant::now(), self.has_sync(place));
            self.followed = None;
            let ended = if by_sync {
                self.synchronize(place, &server).await
            } else {
                self.poll(place, &server).await
            };
            let Err(ended) = ended;
            if let Some(since) = self.followed {
                self.lost = Instant::now();
                if by_sync {
                    // Up to now all is known, by the server's clock as well as we know it.
                    self.poll = Poll::new();
                }
                if since.elapsed() >= LASTING {
                    pause = PAUSE_FIRST;
                }
            }
            let mut longest = PAUSE_LAST;
            let reason = match ended {
                Ended::Preferred => continue,
                Ended::Slow => "no answer in time to what was modified".to_owned(),
                Ended::Broken(broken) => {
                    server.note_following(&broken, began);
                    broken.to_string()
                }
                Ended::Refused(reply) => {
                    let reason = reply.to_string();
                    if self.refused(place, &server, by_sync, reply) {
                        continue;
                    }
                    if self.cookie.is_none() || !by_sync {
                        longest = PAUSE_REFUSED;
                    }
                    reason
                }
            };
            self.shunned.insert(place, Instant::now() + SHUN);
            self.failed(&server, &reason);
            sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// Says that changes are not followed: at once, or, soon after it was said that they are, if it lasts.
    fn failed(&mut self, server: &Known, reason: &str) {
        let lasts = self.lost.elapsed() >= LASTS;
        let is_due = match self.logged {
            None => lasts,
            Some((is_followed, at)) => is_followed && (lasts || at.elapsed() >= LOG_EVERY),
        };
        if is_due {
            self.logged = Some((false, Instant::now()));
            let (base, server) = (self.base_name(), &server.name);
            tracing::warn!(base, server, reason, "changes are not followed for now");
        }
    }

    /// What to do after a refusal; whether to try again at once.
    fn refused(&mut self, place: usize, server: &Arc<Known>, by_sync: bool, reply: Reply) -> bool {
        if !by_sync {
            server.complain(&format!("asking for what was modified: {reply}"));
            return false;
        }
        if reply.code == code::SYNC_REFRESH_REQUIRED {
            // The server has forgotten where we are.
            self.cookie = None;
            return false;
        }
        // With a cookie most of these mean that this server is behind the one that gave it.
        let lacks_sync = match reply.code {
            code::UNAVAILABLE_CRITICAL_EXTENSION => true,
            code::PROTOCOL_ERROR
            | code::TIME_LIMIT_EXCEEDED
            | code::SIZE_LIMIT_EXCEEDED
            | code::ADMIN_LIMIT_EXCEEDED
            | code::INSUFFICIENT_ACCESS_RIGHTS
            | code::UNWILLING_TO_PERFORM => self.cookie.is_none(),
            _ => false,
        };
        if lacks_sync {
            self.without_sync.insert(place, Instant::now());
            if self.settings.by == Follow::Auto {
                tracing::info!(
                    server = server.name,
                    base = self.base_name(),
                    error = %reply,
                    "no content synchronisation, asking for what was modified instead"
                );
                return true;
            }
        }
        server.complain(&format!("following changes: {reply}"));
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if self.cookie.is_some() && since.elapsed() >= COOKIE_REFUSED {
            // No server will ever go on from there.
            self.cookie = None;
            self.refused_since = None;
        }
        false
    }

    fn base_name(&self) -> &str {
        self.common.schema.base(self.base)
    }

    /// The first server that is up, of those that can be followed as is wanted and did not just fail to be.
    fn choose(&self) -> usize {
        let places = || 0..self.common.servers.len();
        let is_up = |place: &usize| {
            let server = self.common.servers.get(*place);
            server.is_some_and(|server| server.is_up())
        };
        let is_good = |place: &usize| is_up(place) && !self.is_shunned(*place);
        let with_sync = |place: &usize| is_good(place) && self.has_sync(*place);
        let chosen = places().find(with_sync).or_else(|| places().find(is_good));
        chosen.or_else(|| places().find(is_up)).unwrap_or(0)
    }

    fn is_shunned(&self, place: usize) -> bool {
        let until = self.shunned.get(&place);
        until.is_some_and(|until| Instant::now() < *until)
    }

    /// Servers before that one that could be synchronised with, and from when on.
    fn preferred(&self, place: usize) -> Vec<(Arc<Known>, Instant)> {
        let servers = self.common.servers.iter().take(place).enumerate();
        let with_sync = servers.filter(|(place, _)| self.has_sync(*place));
        let from = |place: &usize| self.shunned.get(place).copied();
        with_sync
            .map(|(place, server)| {
                (
                    Arc::clone(server),
                    from(&place).unwrap_or_else(Instant::now),
                )
            })
            .collect()
    }

    fn has_sync(&self, place: usize) -> bool {
        let lacked = self.without_sync.get(&place);
        match self.settings.by {
            Follow::Poll | Follow::Off => false,
            Follow::Sync => true,
            Follow::Auto => lacked.is_none_or(|at| at.elapsed() >= TRY_SYNC_AGAIN),
        }
    }

    async fn synchronize(
        &mut self,
        place: usize,
        server: &Arc<Known>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut connection = server.serving(Instant::now() + self.timeout).await?;
        let search = self.common.schema.everybody(self.base, None, None);
        // Before anybody is named: who is learned of from now on is not suspected.
        let refresh = self.live.refresh(self.base);
        let mut following = connection.follow(&search, self.cookie.clone()).await?;
        let mut stage = Stage {
            is_full: self.cookie.is_none(),
            refresh: Some(refresh),
            followed: None,
        };
        let was_told = AtomicBool::new(false);
        let check = Check {
            preferred: self.preferred(place),
            common: Arc::clone(&self.common),
            was_told: &was_told,
            timeout: self.timeout,
        };
        let mut check = pin!(check.run(connection));
        loop {
            let told = tokio::select! {
                told = following.next() => told?,
                ended = &mut check => return Err(ended),
            };
            was_told.store(true, Relaxed);
            if let Told::Ended(reply, done) = told {
                self.learn(done.and_then(|done| done.cookie));
                return Err(Ended::Refused(reply));
            }
            self.hear(told, &mut stage, server)?;
        }
    }

    fn hear(&mut self, told: Told, stage: &mut Stage, server: &Known) -> Result<(), Broken> {
        match told {
            Told::Entry(tag, state) => {
                let entry = EntryId::Uuid(state.uuid);
                match state.state {
                    State::Present => stage.name(entry),
                    State::Delete => self.live.hear(self.base, entry, Now::Gone),
                    // A refresh of everything concerns few: the others need not be read.
                    State::Add | State::Modify
                        if stage.is_passing() && !self.live.may_concern(entry) =>
                    {
                        stage.name(entry);
                    }
                    State::Add | State::Modify => {
                        let read = self.common.schema.read(tag, self.base);
                        let read = read.map_err(|error| Broken::Dead(error.to_string()))?;
                        let now = read.now();
                        if !stage.is_passing() || self.live.may_concern(read.entry) {
                            self.live.hear(self.base, read.entry, now);
                        }
                        stage.name(entry);
                        stage.name(read.entry);
                    }
                }
                self.learn(state.cookie);
            }
            Told::Info(SyncInfo::NewCookie(cookie)) => self.learn(Some(cookie)),
            Told::Info(SyncInfo::IdSet {
                cookie,
                refresh_deletes,
                uuids,
            }) => {
                for entry in uuids.into_iter().map(EntryId::Uuid) {
                    if refresh_deletes {
                        self.live.hear(self.base, entry, Now::Gone);
                    } else {
                        stage.name(entry);
                    }
                }
                self.learn(cookie);
            }
            Told::Info(SyncInfo::RefreshPresent {
                cookie,
                refresh_done,
            }) => {
                self.phase_ends(stage, true, refresh_done, server);
                self.learn(cookie);
            }
            Told::Info(SyncInfo::RefreshDelete {
                cookie,
                refresh_done,
            }) => {
                self.phase_ends(stage, false, refresh_done, server);
                self.learn(cookie);
            }
            Told::Nothing | Told::Ended(..) => {}
        }
        Ok(())
    }

    /// A phase of a refresh is over, in which everybody who is there was named, or all that is gone.
    fn phase_ends(&mut self, stage: &mut Stage, all_named: bool, is_last: bool, server: &Known) {
        if let Some(refresh) = stage.refresh.take()
            && (all_named || stage.is_full)
        {
            self.live.conclude(refresh);
            // The cache keeps more than was looked for.
            self.live.outdate(self.base);
        }
        if !is_last || stage.followed.is_some() {
            return;
        }
        stage.followed = Some(Followed::new(&self.by_sync));
        self.begins(server, "content synchronisation");
    }

    fn begins(&mut self, server: &Known, by: &str) {
        self.refused_since = None;
        self.followed.get_or_insert_with(Instant::now);
        if self.logged.is_none_or(|(is_followed, _)| !is_followed) {
            self.logged = Some((true, Instant::now()));
            let (base, server) = (self.base_name(), &server.name);
            tracing::info!(base, server, by, "changes are followed");
        }
    }

    fn learn(&mut self, cookie: Option<Cookie>) {
        if cookie.is_some() {
            self.cookie = cookie;
        }
    }
}

/// How far a synchronisation has come.
struct Stage {
    /// It began without a cookie.
    is_full: bool,
    /// While everybody who is there may be named.
    refresh: Option<Refresh>,
    /// Since the refresh is over.
    followed: Option<Followed>,
}

impl Stage {
    /// Whether everybody is named, changed or not.
    fn is_passing(&self) -> bool {
        self.is_full && self.followed.is_none()
    }

    fn name(&mut self, entry: EntryId) {
        if let Some(refresh) = &mut self.refresh {
            refresh.name(entry);
        }
    }
}

/// What is looked at while nothing is told.
struct Check<'f> {
    /// Servers that would rather be followed, and from when on.
    preferred: Vec<(Arc<Known>, Instant)>,
    common: Arc<Common>,
    /// Whether anything was told since it was last looked at.
    was_told: &'f AtomicBool,
    timeout: Duration,
}

impl Check<'_> {
    /// Ends when the connection does not answer, or when a preferred server is up.
    async fn run(self, mut connection: Connection) -> Ended {
        let probe = self.common.schema.probe();
        loop {
            sleep(self.timeout * 2).await;
            let mut preferred = self.preferred.iter();
            if preferred.any(|(server, from)| server.is_up() && Instant::now() >= *from) {
                return Ended::Preferred;
            }
            if self.was_told.swap(false, Relaxed) {
                continue;
            }
            let deadline = Instant::now() + self.timeout;
            if let Err(broken) = connection.search(&probe, deadline).await {
                return Ended::Broken(broken);
            }
        }
    }
}
