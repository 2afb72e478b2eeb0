//! What two processes say to each other while one takes the other's place, as octets.
//!
//! ```text
//! record   kind (1 octet)  length of the rest (2 octets, most significant first)  the rest
//!
//! ask      1  "PigeonAir upgrade" 0  version  role (1 front, 2 node)  what for (1 sockets, 2 who is there)
//! refused  2  why, UTF-8
//! who      3  process id (4 octets)  its program: device and inode (8 octets each), version, UTF-8
//! socket   4  nothing: a listening socket travels with the record, and the kernel knows its address
//! lock     5  nothing: the lock of the node's sessions_file travels with it
//! all      6  how many descriptors there were (2 octets)
//! ready    7  nothing
//! yours    8  how many sessions the process that hands over still has (4 octets)
//! ```
//!
//! `ask` and `refused` have this form in every version, so that processes of different versions understand at least that they
//! don't understand each other. It does no I/O, and does not know in which order records come. Limits: [`MAX_REST`] octets; a
//! record that is longer, of another kind or of another form is an error, after which nothing more is read.

use super::Program;

/// What the two speak. Another number: another meaning.
pub(super) const VERSION: u8 = 1;

/// The longest rest of a record.
const MAX_REST: usize = 512;
/// Kind and length.
const HEAD: usize = 3;
const NAME: &[u8] = b"PigeonAir upgrade\0";

/// One record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Record {
    Ask {
        version: u8,
        role: Role,
        wants: Wants,
    },
    Refused(String),
    Who {
        pid: u32,
        program: Program,
    },
    Socket,
    Lock,
    All(u16),
    Ready,
    Yours {
        sessions: u32,
    },
}

/// Which of the two processes is meant; a number that this program does not know is somebody else's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Role(pub(super) u8);

impl Role {
    pub(super) const FRONT: Self = Self(1);
    pub(super) const NODE: Self = Self(2);

    /// The word for people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::FRONT => "front",
            Self::NODE => "node",
            _ => "unknown process",
        }
    }
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wants {
    Sockets,
    Who,
    /// Something that this program does not know.
    Other(u8),
}

/// What came is no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Its kind.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// Its length.
    #[error("a record of {0} octets is too long")]
    Long(usize),
    /// Its form.
    #[error("a record of kind {0} is malformed")]
    Malformed(u8),
}

// === impl Record ===

impl Record {
    /// As octets. Text is cut where a record ends.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, mut rest): (u8, Vec<u8>) = match self {
            Self::Ask {
                version,
                role,
                wants,
            } => {
                let wants = match wants {
                    Wants::Sockets => 1,
                    Wants::Who => 2,
                    Wants::Other(number) => *number,
                };
                (1, [NAME, &[*version, role.0, wants]].concat())
            }
            Self::Refused(why) => (2, why.clone().into_bytes()),
            Self::Who { pid, program } => {
                let Program { version, file } = program;
                let [device, inode] = file.map(u64::to_be_bytes);
                let parts = [&pid.to_be_bytes()[..], &device, &inode, version.as_bytes()];
                (3, parts.concat())
            }
            Self::Socket => (4, Vec::new()),
            Self::Lock => (5, Vec::new()),
            Self::All(count) => (6, count.to_be_bytes().to_vec()),
            Self::Ready => (7, Vec::new()),
            Self::Yours { sessions } => (8, sessions.to_be_bytes().to_vec()),
        };
        rest.truncate(MAX_REST);
        let length = u16::try_from(rest.len()).unwrap_or_default();
        let mut octets = vec![kind];
        octets.extend(length.to_be_bytes());
        octets.append(&mut rest);
        octets
    }

    fn decode(kind: u8, rest: &[u8]) -> Result<Self, RecordError> {
        let malformed = RecordError::Malformed(kind);
        let text = |octets: &[u8]| {
            let text = String::from_utf8_lossy(octets);
            // It is going to be logged.
            text.replace(char::is_control, " ")
        };
        let record = match (kind, rest) {
            (1, rest) => match rest.strip_prefix(NAME) {
                // A later version may say more.
                Some([version, role, wants, ..]) => Self::Ask {
                    version: *version,
                    role: Role(*role),
                    wants: match wants {
                        1 => Wants::Sockets,
                        2 => Wants::Who,
                        number => Wants::Other(*number),
                    },
                },
                _ => return Err(malformed),
            },
            (2, why) => Self::Refused(text(why)),
            (3, rest) => {
                let (pid, rest) = rest.split_first_chunk().ok_or(malformed)?;
                let (device, rest) = rest.split_first_chunk().ok_or(malformed)?;
                let (inode, version) = rest.split_first_chunk().ok_or(malformed)?;
                Self::Who {
                    pid: u32::from_be_bytes(*pid),
                    program: Program {
                        version: text(version),
                        file: [*device, *inode].map(u64::from_be_bytes),
                    },
                }
            }
            (4, []) => Self::Socket,
            (5, []) => Self::Lock,
            (6, rest) => Self::All(u16::from_be_bytes(rest.try_into().map_err(|_| malformed)?)),
            (7, []) => Self::Ready,
            (8, rest) => Self::Yours {
                sessions: u32::from_be_bytes(rest.try_into().map_err(|_| malformed)?),
            },
            (4 | 5 | 7, _) => return Err(malformed),
            _ => return Err(RecordError::Kind(kind)),
        };
        Ok(record)
    }
}

/// Finds records in what arrives.
#[derive(Debug, Default)]
pub(super) struct Records {
    input: Vec<u8>,
}

impl Records {
    /// More has arrived.
    pub(super) fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
    }

    /// The next record, if all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Record>, RecordError> {
        let Some(([kind, high, low], rest)) = self.input.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > MAX_REST {
            return Err(RecordError::Long(length));
        }
        let Some(rest) = rest.get(..length) else {
            return Ok(None);
        };
        let record = Record::decode(*kind, rest)?;
        self.input.drain(..HEAD.saturating_add(length));
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        vec![
            Record::Ask {
                version: VERSION,
                role: Role::NODE,
                wants: Wants::Sockets,
            },
            Record::Ask {
                version: 9,
                role: Role(7),
                wants: Wants::Other(5),
            },
            Record::Refused("because of 北".to_owned()),
            Record::Who {
                pid: 4711,
                program: Program {
                    version: "0.1.0".to_owned(),
                    file: [254, 1 << 40],
                },
            },
            Record::Socket,
            Record::Lock,
            Record::All(513),
            Record::Ready,
            Record::Yours { sessions: 70_000 },
        ]
    }

    fn read(parts: &[&[u8]]) -> Result<Vec<Record>, RecordError> {
        let (mut records, mut found) = (Records::default(), Vec::new());
        for part in parts {
            records.feed(part);
            while let Some(record) = records.next()? {
                found.push(record);
            }
        }
        Ok(found)
    }

    #[test]
    fn records_are_found_however_they_are_split() {
        let octets: Vec<u8> = all().iter().flat_map(Record::encode).collect();
        for end in 0..=octets.len() {
            let (one, two) = octets.split_at(end);
            assert_eq!(read(&[one, two]), Ok(all()), "split at {end}");
        }
        let single: Vec<&[u8]> = octets.chunks(1).collect();
        assert_eq!(read(&single), Ok(all()));
        for end in 0..octets.len() {
            let found = read(&[&octets[..end]]).unwrap();
            assert_eq!(found, all()[..found.len()]);
            assert!(found.len() < all().len());
        }
    }

    #[test]
    fn what_is_no_record_is_an_error_at_once() {
        for (octets, error) in [
            (&[9, 0, 0][..], RecordError::Kind(9)),
            (&[0, 0, 0], RecordError::Kind(0)),
            (b"GET / HTTP/1.1\r\n", RecordError::Long(0x4554)),
            (&[2, 2, 1], RecordError::Long(513)),
            (&[1, 0, 1, b'P'], RecordError::Malformed(1)),
            (&[3, 0, 3, 0, 0, 0], RecordError::Malformed(3)),
            (
                &[&[3, 0, 19][..], &[0; 19]].concat(),
                RecordError::Malformed(3),
            ),
            (&[4, 0, 1, 0], RecordError::Malformed(4)),
            (&[5, 0, 1, 0], RecordError::Malformed(5)),
            (&[6, 0, 1, 0], RecordError::Malformed(6)),
            (&[7, 0, 1, 0], RecordError::Malformed(7)),
            (&[8, 0, 3, 0, 0, 0], RecordError::Malformed(8)),
        ] {
            assert_eq!(read(&[octets]), Err(error));
        }
    }

    #[test]
    fn text_of_others_is_short_and_in_one_line() {
        let long = Record::Refused("x".repeat(MAX_REST * 2)).encode();
        assert_eq!(
            read(&[&long]),
            Ok(vec![Record::Refused("x".repeat(MAX_REST))])
        );
        let lines = Record::Refused("one\ntwo\u{1b}[2J".to_owned()).encode();
        assert_eq!(
            read(&[&lines]),
            Ok(vec![Record::Refused("one two [2J".to_owned())])
        );
    }

    /// A later version's words are still understood as a question.
    #[test]
    fn a_longer_question_is_one() {
        let mut octets = all()[0].encode();
        octets.extend(b"more");
        octets[2] += 4;
        assert_eq!(read(&[&octets]), Ok(vec![all()[0].clone()]));
    }
}
