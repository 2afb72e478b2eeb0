//! The dialer's half of a link: the front proves itself, then opens.
//!
//! ```text
//! Dialer --hello--> Proving --proven--> Ready --open()--> Waiting --verdict--> Verdict
//!                      \--open_early()--> Early --proven--> Waiting
//! ```
//!
//! Each arrow consumes its value: a link that failed a check is gone, and nothing can be sent twice. [`Ready`] is what a
//! pool keeps. [`Proving::open_early`] puts `prove` and `open` into one write, on a channel without TLS only: under TLS
//! the context waits until the node has proved that no one sits in between.
//!
//! It does not send the [`PREFACE`](super::record::PREFACE), has no deadline, and makes no nonce. On failure: an
//! [`Error`]; the link has no further use. `proto::link::tests` walks all edges.

use std::time::Duration;

use super::{
    Channel, ChannelKind, Verdict,
    context::OpenBody,
    record::{Hello, Kind, NONCE_BYTES, Prove, RecordError, unseal},
    schedule::{Binding, Schedule, Transcript},
};
use crate::{
    names::{KeyId, NodeName},
    secret::Key,
};

/// Why a dialer gives a link up.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The node does not see the channel that we see.
    #[error(
        "the node says its channel is {node:?}, ours is {ours:?}: something between us ends TLS"
    )]
    Channel {
        /// What `hello` says.
        node: ChannelKind,
        /// What we dialled.
        ours: ChannelKind,
    },
    /// A record of the node's has a wrong MAC.
    #[error(
        "the node's {0} has a wrong MAC: is the key the same on both sides, and is it really that node?"
    )]
    Mac(Kind),
    /// Another node answers.
    #[error("the node calls itself {said}: is the address right, and [acceptor] name?")]
    Name {
        /// What `hello` says.
        said: NodeName,
    },
    /// What came is not the record that was due.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A fault of this program.
    #[error("impossible: {0}")]
    Unreachable(&'static str),
}

/// Connected; `hello` is due.
#[derive(Debug)]
pub struct Dialer {
    /// The name that the node must have.
    pub node: NodeName,
    /// Which of the node's keys ours is.
    pub key_id: KeyId,
    /// The key.
    pub key: Key,
    /// What we see of the channel.
    pub channel: Channel,
    /// 32 octets that were never used before.
    pub nonce: [u8; NONCE_BYTES],
}

/// `hello` is good; `prove` goes out and `proven` is due.
#[derive(Debug)]
pub struct Proving {
    schedule: Schedule,
    transcript: Transcript,
    prove: Vec<u8>,
    idle_limit: Duration,
    channel: ChannelKind,
}

/// Proven on both sides, not opened.
#[derive(Debug)]
pub struct Ready {
    schedule: Schedule,
    transcript: Transcript,
    proven: Vec<u8>,
    idle_limit: Duration,
}

/// Opened before `proven` came, which is due.
#[derive(Debug)]
pub struct Early {
    proving: Proving,
    open: Vec<u8>,
}

/// Opened; `verdict` is due.
#[derive(Debug)]
pub struct Waiting {
    schedule: Schedule,
    transcript: Transcript,
}

impl Dialer {
    /// Takes `hello`: the name must be the expected one (relay to another node), the channel ours (TLS taken off).
    pub fn hello(self, record: &[u8]) -> Result<Proving, Error> {
        let hello = Hello::decode(record)?;
        if hello.node != self.node {
            return Err(Error::Name { said: hello.node });
        }
        let ours = self.channel.kind();
        if hello.channel != ours {
            return Err(Error::Channel {
                node: hello.channel,
                ours,
            });
        }
        let binding = Binding {
            node_nonce: &hello.nonce,
            dialer_nonce: &self.nonce,
            channel: &self.channel,
            node: &self.node,
            key_id: &self.key_id,
        };
        let schedule = Schedule::new(&self.key, &binding)
            .ok_or(Error::Unreachable("HKDF refused a length"))?;
        let mut transcript = Transcript::new();
        transcript.add(record);
        let mut prove = Prove {
            nonce: self.nonce,
            key_id: self.key_id,
        }
        .encode();
        let mac = schedule.prove.seal(&transcript.with(&prove));
        prove.extend_from_slice(&mac);
        transcript.add(&prove);
        Ok(Proving {
            schedule,
            transcript,
            prove,
            idle_limit: hello.idle_limit,
            channel: ours,
        })
    }
}

impl Proving {
    /// The record to send.
    pub fn prove(&self) -> &[u8] {
        &self.prove
    }

    /// Takes `proven`.
    pub fn proven(self, record: &[u8]) -> Result<Ready, Error> {
        self.check(record)?;
        Ok(Ready {
            schedule: self.schedule,
            transcript: self.transcript,
            proven: record.to_vec(),
            idle_limit: self.idle_limit,
        })
    }

    /// `prove` and `open` as one write. Under TLS it gives the step back: there `open` waits for `proven`.
    pub fn open_early(self, body: &OpenBody) -> Result<(Vec<u8>, Early), Box<Self>> {
        if self.channel != ChannelKind::None {
            return Err(Box::new(self));
        }
        // The transcript ends with `prove`: what `proven` will say is not known yet.
        let open = seal_open(&self.schedule, &self.transcript, body);
        let mut octets = self.prove.clone();
        octets.extend_from_slice(&open);
        Ok((
            octets,
            Early {
                proving: self,
                open,
            },
        ))
    }

    fn check(&self, record: &[u8]) -> Result<(), Error> {
        let proven = unseal(record, Kind::Proven)?;
        let transcript = self.transcript.with(proven.unsealed);
        if !self.schedule.proven.verify(&transcript, proven.mac) {
            return Err(Error::Mac(Kind::Proven));
        }
        Ok(())
    }
}

impl Early {
    /// Takes `proven`.
    pub fn proven(self, record: &[u8]) -> Result<Waiting, Error> {
        self.proving.check(record)?;
        let mut transcript = self.proving.transcript;
        transcript.add(record);
        transcript.add(&self.open);
        Ok(Waiting {
            schedule: self.proving.schedule,
            transcript,
        })
    }
}

impl Ready {
    /// How long the node waits for `open` before it closes; whole seconds, at least one.
    pub fn idle_limit(&self) -> Duration {
        self.idle_limit
    }

    /// The record to send, and the wait for its answer.
    pub fn open(self, body: &OpenBody) -> (Vec<u8>, Waiting) {
        let mut transcript = self.transcript;
        // The same octets as of an early `open`: the node need not know which it was.
        let open = seal_open(&self.schedule, &transcript, body);
        transcript.add(&self.proven);
        transcript.add(&open);
        let waiting = Waiting {
            schedule: self.schedule,
            transcript,
        };
        (open, waiting)
    }
}

impl Waiting {
    /// Takes `verdict`.
    pub fn verdict(self, record: &[u8]) -> Result<Verdict, Error> {
        let verdict = unseal(record, Kind::Verdict)?;
        let transcript = self.transcript.with(verdict.unsealed);
        if !self.schedule.verdict.verify(&transcript, verdict.mac) {
            return Err(Error::Mac(Kind::Verdict));
        }
        Ok(Verdict::decode(verdict.fields)?)
    }
}

fn seal_open(schedule: &Schedule, transcript: &Transcript, body: &OpenBody) -> Vec<u8> {
    let mut open = body.unsealed.clone();
    open.extend_from_slice(&schedule.open.seal(&transcript.with(&open)));
    open
}
