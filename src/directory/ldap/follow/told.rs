//! A search that goes on and tells what changes (RFC 4533, refreshAndPersist): one message of it at a time.
//!
//! The library's own decoding of what is said about synchronisation panics on odd input; it is not used. Where the library
//! panics on what is around that, the connection is taken for dead.

use ldap3::{
    ResultEntry, Scope, SearchStream,
    asn1::StructureTag,
    controls::{Control, MakeCritical as _, RefreshMode, SyncRequest},
};

use super::super::connection::{Broken, Connection, Reply, Search, contained};
use crate::proto::content_sync::{
    Cookie, Malformed, SYNC_DONE, SYNC_INFO, SYNC_STATE, SyncDone, SyncInfo, SyncState,
};

/// A search that goes on: it tells what changes.
pub(super) struct Following(SearchStream<'static, String, Vec<String>>);

/// What such a search tells.
pub(super) enum Told {
    /// An entry, and what became of it.
    Entry(StructureTag, SyncState),
    /// Something about the search itself.
    Info(SyncInfo),
    /// Nothing that concerns us.
    Nothing,
    /// It is over.
    Ended(Reply, Option<SyncDone>),
}

impl Connection {
    /// Begins a search that tells what changes (RFC 4533, refreshAndPersist), from where the cookie says.
    pub(super) async fn follow(
        &mut self,
        search: &Search,
        cookie: Option<Cookie>,
    ) -> Result<Following, Broken> {
        let request = SyncRequest {
            mode: RefreshMode::RefreshAndPersist,
            cookie,
            reload_hint: false,
        };
        contained(async {
            let stream = self.0.with_controls(request.critical()).streaming_search(
                &search.base,
                Scope::Subtree,
                &search.filter,
                search.attributes.to_vec(),
            );
            stream.await.map(Following).map_err(|e| Broken::of(&e))
        })
        .await
    }
}

// === impl Following ===

impl Following {
    /// What comes next; waits without a limit. Nothing is lost when the wait is given up.
    pub(super) async fn next(&mut self) -> Result<Told, Broken> {
        let item = contained(async { self.0.next().await.map_err(|e| Broken::of(&e)) }).await?;
        let malformed = |_| Broken::Dead("malformed content synchronisation".to_owned());
        let Some(ResultEntry {
            0: tag,
            1: controls,
            ..
        }) = item
        else {
            let result = contained(async { Ok(self.0.finish().await) }).await?;
            let done = value_of(&result.ctrls, SYNC_DONE);
            let done = done.map(SyncDone::parse).transpose();
            let done = done.map_err(malformed)?;
            return Ok(Told::Ended(Reply::new(result, Vec::new()), done));
        };
        match tag.id {
            // SearchResultEntry, IntermediateResponse (RFC 4511, 4.5.2, 4.13).
            4 => {
                let state = value_of(&controls, SYNC_STATE).unwrap_or_default();
                let state = SyncState::parse(state).map_err(malformed)?;
                Ok(Told::Entry(tag, state))
            }
            25 => {
                let info = info_value(tag).ok_or_else(|| malformed(Malformed))?;
                let info = info.as_deref().map(SyncInfo::parse).transpose();
                Ok(info.map_err(malformed)?.map_or(Told::Nothing, Told::Info))
            }
            _ => Ok(Told::Nothing),
        }
    }
}

/// The value of a control.
fn value_of<'c>(controls: &'c [Control], oid: &str) -> Option<&'c [u8]> {
    let mut controls = controls.iter();
    let control = controls.find(|Control(_, control)| control.ctype == oid)?;
    control.1.val.as_deref()
}

/// The value of a message about synchronisation; `Some(None)` for one about something else, none when it is malformed.
fn info_value(tag: StructureTag) -> Option<Option<Vec<u8>>> {
    let (mut is_ours, mut value) = (false, None);
    for part in tag.expect_constructed()? {
        match part.id {
            0 => is_ours = part.expect_primitive()? == SYNC_INFO.as_bytes(),
            1 => value = Some(part.expect_primitive()?),
            _ => {}
        }
    }
    if is_ours && value.is_none() {
        return None;
    }
    Some(value.filter(|_| is_ours))
}
