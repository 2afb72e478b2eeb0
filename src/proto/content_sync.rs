//! Content synchronisation (RFC 4533): what an LDAP server says beside the entries of a search that follows their changes.
//!
//! ```text
//! Sync State control (2.2), with an entry:   SEQUENCE { ENUMERATED 0-3, OCTET STRING uuid (16), OCTET STRING cookie? }
//! Sync Done control (2.3), with the result:  SEQUENCE { OCTET STRING cookie?, BOOLEAN refreshDeletes = FALSE }
//! Sync Info message (2.5), in between:       [0] cookie
//!                                          | [1] or [2] { OCTET STRING cookie?, BOOLEAN refreshDone = TRUE }
//!                                          | [3] { OCTET STRING cookie?, BOOLEAN refreshDeletes = FALSE, SET OF uuid }
//! ```
//!
//! BER in the form that LDAP allows (RFC 4511, 5.1): definite lengths, strings in one piece; tags below 31. Components behind
//! those that are known are passed over, as RFC 4511, section 4, asks for.
//!
//! Limits: a cookie has 4096 octets at most; a set of identifiers is as large as its message. Nothing recurses, and nothing
//! is reserved that is not there. What is malformed is an error without detail: the server cannot be talked with.
//!
//! It does not know what phase a synchronisation is in; that is its reader's to keep. Encoders and `fuzz` are compiled for tests
//! and fuzzing only.

/// OID of the control that asks for synchronisation (2.1).
pub const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";
/// OID of the control with an entry (2.2).
pub const SYNC_STATE: &str = "1.3.6.1.4.1.4203.1.9.1.2";
/// OID of the control with the result (2.3).
pub const SYNC_DONE: &str = "1.3.6.1.4.1.4203.1.9.1.3";
/// OID of the message in between (2.5).
pub const SYNC_INFO: &str = "1.3.6.1.4.1.4203.1.9.1.4";

/// The longest cookie, in octets; OpenLDAP's has some 60 for each provider.
const MAX_COOKIE_BYTES: usize = 4096;

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const NEW_COOKIE: u8 = 0x80;
const REFRESH_DELETE: u8 = 0xa1;
const REFRESH_PRESENT: u8 = 0xa2;
const ID_SET: u8 = 0xa3;

/// What never changes of an entry (`entryUUID`, RFC 4530), as octets.
pub type EntryUuid = [u8; 16];

/// How far a synchronisation has come, for the server to continue from.
pub type Cookie = Vec<u8>;

/// It is not what RFC 4533 says, or has a cookie that is too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed content synchronisation")]
pub struct Malformed;

/// What became of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It is as it was.
    Present,
    /// It came in; while a refresh goes on it may have been there before.
    Add,
    /// It is another than it was.
    Modify,
    /// It is gone, or what is searched for does not match it any more.
    Delete,
}

/// The control with an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyncState {
    /// What became of it.
    pub state: State,
    /// Which one it is.
    pub uuid: EntryUuid,
    /// How far that is.
    pub cookie: Option<Cookie>,
}

/// The control with the result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyncDone {
    /// How far that is.
    pub cookie: Option<Cookie>,
    /// Whether all that is gone was named; else what was not named is gone.
    pub refresh_deletes: bool,
}

/// A message between entries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SyncInfo {
    /// A new cookie and nothing else.
    NewCookie(Cookie),
    /// All that is gone was named.
    RefreshDelete {
        /// How far that is.
        cookie: Option<Cookie>,
        /// Whether changes come from now on as they happen.
        refresh_done: bool,
    },
    /// All that is there was named.
    RefreshPresent {
        /// How far that is.
        cookie: Option<Cookie>,
        /// Whether changes come from now on as they happen.
        refresh_done: bool,
    },
    /// Entries by their identifiers alone.
    IdSet {
        /// How far that is.
        cookie: Option<Cookie>,
        /// Whether they are gone; else they are as they were.
        refresh_deletes: bool,
        /// Which.
        uuids: Vec<EntryUuid>,
    },
}

/// What is left to read of one value.
struct Reader<'v>(&'v [u8]);

impl SyncState {
    /// Reads the value of the control.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let mut parts = Reader::only(value, SEQUENCE)?;
        let state = match parts.expect(ENUMERATED)? {
            [0] => State::Present,
            [1] => State::Add,
            [2] => State::Modify,
            [3] => State::Delete,
            _ => return Err(Malformed),
        };
        let uuid = parts.expect(OCTET_STRING)?.try_into();
        Ok(Self {
            state,
            uuid: uuid.map_err(|_| Malformed)?,
            cookie: parts.cookie()?,
        })
    }
}

impl SyncDone {
    /// Reads the value of the control.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let mut parts = Reader::only(value, SEQUENCE)?;
        Ok(Self {
            cookie: parts.cookie()?,
            refresh_deletes: parts.boolean()?.unwrap_or(false),
        })
    }
}

impl SyncInfo {
    /// Reads the value of the message.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let tag = *value.first().ok_or(Malformed)?;
        let mut parts = Reader::only(value, tag)?;
        match tag {
            NEW_COOKIE => parts.whole_cookie().map(Self::NewCookie),
            REFRESH_DELETE => Ok(Self::RefreshDelete {
                cookie: parts.cookie()?,
                refresh_done: parts.boolean()?.unwrap_or(true),
            }),
            REFRESH_PRESENT => Ok(Self::RefreshPresent {
                cookie: parts.cookie()?,
                refresh_done: parts.boolean()?.unwrap_or(true),
            }),
            ID_SET => {
                let cookie = parts.cookie()?;
                let refresh_deletes = parts.boolean()?.unwrap_or(false);
                let mut set = Reader(parts.expect(SET)?);
                let mut uuids = Vec::new();
                while !set.0.is_empty() {
                    let uuid = set.expect(OCTET_STRING)?.try_into();
                    uuids.push(uuid.map_err(|_| Malformed)?);
                }
                Ok(Self::IdSet {
                    cookie,
                    refresh_deletes,
                    uuids,
                })
            }
            _ => Err(Malformed),
        }
    }
}

impl<'v> Reader<'v> {
    /// The content of a value that is one element and nothing behind it.
    fn only(value: &'v [u8], tag: u8) -> Result<Self, Malformed> {
        let mut outside = Self(value);
        let content = outside.expect(tag)?;
        outside
            .0
            .is_empty()
            .then_some(Self(content))
            .ok_or(Malformed)
    }

    /// The content of the next element, which has this tag.
    fn expect(&mut self, tag: u8) -> Result<&'v [u8], Malformed> {
        self.next_if(tag)?.ok_or(Malformed)
    }

    /// The content of the next element, if it has this tag.
    fn next_if(&mut self, tag: u8) -> Result<Option<&'v [u8]>, Malformed> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        if *first != tag {
            return Ok(None);
        }
        let (length, rest) = rest.split_first().ok_or(Malformed)?;
        let (length, rest) = match usize::from(*length) {
            short @ 0..0x80 => (short, rest),
            // So many octets of a length: 0 would be an indefinite one.
            long => match long & 0x7f {
                octets @ 1..=4 => {
                    let (length, rest) = rest.split_at_checked(octets).ok_or(Malformed)?;
                    let add = |sum: usize, octet: &u8| sum << 8 | usize::from(*octet);
                    (length.iter().fold(0, add), rest)
                }
                _ => return Err(Malformed),
            },
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(content))
    }

    fn cookie(&mut self) -> Result<Option<Cookie>, Malformed> {
        let cookie = self.next_if(OCTET_STRING)?;
        cookie
            .map(|octets| Reader(octets).whole_cookie())
            .transpose()
    }

    /// What is left, as a cookie.
    fn whole_cookie(&mut self) -> Result<Cookie, Malformed> {
        let fits = self.0.len() <= MAX_COOKIE_BYTES;
        fits.then(|| self.0.to_vec()).ok_or(Malformed)
    }

    fn boolean(&mut self) -> Result<Option<bool>, Malformed> {
        match self.next_if(BOOLEAN)? {
            None => Ok(None),
            Some([octet]) => Ok(Some(*octet != 0)),
            Some(_) => Err(Malformed),
        }
    }
}

/// Writes values, for what reads them to be tried with.
#[cfg(any(fuzzing, test))]
mod encode {
    use super::{
        BOOLEAN, ENUMERATED, ID_SET, NEW_COOKIE, OCTET_STRING, REFRESH_DELETE, REFRESH_PRESENT,
        SEQUENCE, SET, SyncDone, SyncInfo, SyncState,
    };

    pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut octets = vec![tag];
        let length = content.len().to_be_bytes();
        match &length[..] {
            [.., short @ 0..0x80] if content.len() < 0x80 => octets.push(*short),
            [.., a, b, c, d] => octets.extend([0x84, *a, *b, *c, *d]),
            _ => {}
        }
        octets.extend(content);
        octets
    }

    fn cookie(cookie: Option<&Vec<u8>>) -> Vec<u8> {
        cookie.map_or_else(Vec::new, |cookie| element(OCTET_STRING, cookie))
    }

    fn boolean(value: bool) -> Vec<u8> {
        element(BOOLEAN, &[if value { 0xff } else { 0 }])
    }

    impl SyncState {
        pub(super) fn encode(&self) -> Vec<u8> {
            let state = element(ENUMERATED, &[self.state as u8]);
            let uuid = element(OCTET_STRING, &self.uuid);
            let parts = [state, uuid, cookie(self.cookie.as_ref())];
            element(SEQUENCE, &parts.concat())
        }
    }

    impl SyncDone {
        pub(super) fn encode(&self) -> Vec<u8> {
            let parts = [cookie(self.cookie.as_ref()), boolean(self.refresh_deletes)];
            element(SEQUENCE, &parts.concat())
        }
    }

    impl SyncInfo {
        pub(super) fn encode(&self) -> Vec<u8> {
            let phase = |tag, text: &Option<Vec<u8>>, done| {
                element(tag, &[cookie(text.as_ref()), boolean(done)].concat())
            };
            match self {
                Self::NewCookie(cookie) => element(NEW_COOKIE, cookie),
                Self::RefreshDelete {
                    cookie,
                    refresh_done,
                } => phase(REFRESH_DELETE, cookie, *refresh_done),
                Self::RefreshPresent {
                    cookie,
                    refresh_done,
                } => phase(REFRESH_PRESENT, cookie, *refresh_done),
                Self::IdSet {
                    cookie: text,
                    refresh_deletes,
                    uuids,
                } => {
                    let uuids: Vec<_> = uuids
                        .iter()
                        .flat_map(|uuid| element(OCTET_STRING, uuid))
                        .collect();
                    let parts = [
                        cookie(text.as_ref()),
                        boolean(*refresh_deletes),
                        element(SET, &uuids),
                    ];
                    element(ID_SET, &parts.concat())
                }
            }
        }
    }
}

/// Whatever is read is read again from what is written of it.
///
/// # Panics
///
/// When it is not.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    if let Ok(read) = SyncState::parse(data) {
        assert_eq!(SyncState::parse(&read.encode()), Ok(read));
    }
    if let Ok(read) = SyncDone::parse(data) {
        assert_eq!(SyncDone::parse(&read.encode()), Ok(read));
    }
    if let Ok(read) = SyncInfo::parse(data) {
        if let SyncInfo::IdSet { uuids, .. } = &read {
            assert!(uuids.len() * 16 <= data.len(), "more than there was");
        }
        assert_eq!(SyncInfo::parse(&read.encode()), Ok(read));
    }
}

#[cfg(test)]
mod tests {
    use super::{encode::element, *};

    const UUID: EntryUuid = *b"0123456789abcdef";

    /// One of each kind.
    fn values() -> Vec<Vec<u8>> {
        let cookies = [None, Some(b"rid=001,csn=x".to_vec())];
        let mut values = Vec::new();
        for cookie in cookies {
            for state in [State::Present, State::Add, State::Modify, State::Delete] {
                let cookie = cookie.clone();
                let uuid = UUID;
                values.push(
                    SyncState {
                        state,
                        uuid,
                        cookie,
                    }
                    .encode(),
                );
            }
            for flag in [false, true] {
                let done = SyncDone {
                    cookie: cookie.clone(),
                    refresh_deletes: flag,
                };
                let delete = SyncInfo::RefreshDelete {
                    cookie: cookie.clone(),
                    refresh_done: flag,
                };
                let present = SyncInfo::RefreshPresent {
                    cookie: cookie.clone(),
                    refresh_done: flag,
                };
                let set = SyncInfo::IdSet {
                    cookie: cookie.clone(),
                    refresh_deletes: flag,
                    uuids: vec![UUID; 20],
                };
                values.push(done.encode());
                values.extend([delete, present, set].map(|info| info.encode()));
            }
            values.push(SyncInfo::NewCookie(cookie.unwrap_or_default()).encode());
        }
        values
    }

    #[test]
    fn what_openldap_sends_is_read() {
        // An entry that was modified, as slapd 2.5 encodes it.
        let mut octets = vec![0x30, 0x15, 0x0a, 0x01, 0x02, 0x04, 0x10];
        octets.extend(UUID);
        let read = SyncState {
            state: State::Modify,
            uuid: UUID,
            cookie: None,
        };
        assert_eq!(SyncState::parse(&octets), Ok(read));
        // The end of a refresh: no cookie, and what is not said is true.
        let done = SyncInfo::RefreshDelete {
            cookie: None,
            refresh_done: true,
        };
        assert_eq!(SyncInfo::parse(&[0xa1, 0x00]), Ok(done));
    }

    #[test]
    fn components_that_are_not_known_are_passed_over() {
        let mut parts = element(ENUMERATED, &[1]);
        parts.extend(element(OCTET_STRING, &UUID));
        parts.extend(element(0x85, b"from the future"));
        let read = SyncState::parse(&element(SEQUENCE, &parts)).unwrap();
        assert_eq!((read.state, read.cookie), (State::Add, None));
    }

    #[test]
    fn cut_or_changed_anywhere_it_is_an_error_or_something_else() {
        for value in values() {
            fuzz(&value);
            for length in 0..value.len() {
                let cut = &value[..length];
                assert_eq!(SyncState::parse(cut), Err(Malformed));
                assert_eq!(SyncDone::parse(cut), Err(Malformed));
                assert_eq!(SyncInfo::parse(cut), Err(Malformed));
                for octet in [0x00, 0x01, 0x7f, 0x80, 0x84, 0x85, 0xa3, 0xff] {
                    let mut changed = value.clone();
                    changed[length] = octet;
                    fuzz(&changed);
                }
            }
        }
    }

    #[test]
    fn malformed_values_are_errors() {
        let uuid = element(OCTET_STRING, &UUID);
        let state = |state: &[u8], uuid: &[u8]| {
            let parts = [element(ENUMERATED, state), uuid.to_vec()].concat();
            SyncState::parse(&element(SEQUENCE, &parts))
        };
        assert!(state(&[1], &uuid).is_ok());
        assert_eq!(state(&[4], &uuid), Err(Malformed));
        assert_eq!(state(&[], &uuid), Err(Malformed));
        assert_eq!(state(&[0, 1], &uuid), Err(Malformed));
        assert_eq!(state(&[1], &uuid[..17]), Err(Malformed));
        assert_eq!(
            state(&[1], &element(OCTET_STRING, b"short")),
            Err(Malformed)
        );
        let long = [&uuid[..], &element(OCTET_STRING, &[b'x'; 4097])].concat();
        assert_eq!(state(&[1], &long), Err(Malformed));
        assert_eq!(SyncDone::parse(&[0x30, 0x00, 0x00]), Err(Malformed));
        assert_eq!(SyncDone::parse(&[0x30, 0x80]), Err(Malformed));
        // A length that would be beyond all that there is.
        assert_eq!(SyncInfo::parse(b"\x80\x84\xff\xff\xff\xff"), Err(Malformed));
        assert_eq!(
            SyncInfo::parse(b"\x80\x89\0\0\0\0\0\0\0\0\x01x"),
            Err(Malformed)
        );
        assert_eq!(SyncInfo::parse(&[0xa4, 0x00]), Err(Malformed));
        assert_eq!(SyncInfo::parse(&[]), Err(Malformed));
    }
}
