//! The node's half of a link: who knocks must prove itself, then may open one service.
//!
//! ```text
//! Node --greet()--> Greeted --prove--> Proven --open--> Opened --seal.verdict()--> the record's octets
//! ```
//!
//! Each arrow but the last consumes its value. A peer that fails hears nothing: an [`Error`] is for counter and log, and
//! the one failure with an answer is a context that a *proven* peer got wrong ([`Error::Context`] holds that answer).
//! A key id that is not known is checked like any other, against a key that nobody has, so that neither answer nor time
//! tells it from a wrong MAC; `from` and `not_after` are looked at in every case and decide last.
//!
//! It does not hold peers to a quota or a deadline, reads no clock (the time is an argument) and makes no nonce.
//! `proto::link::tests` walks all edges.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;

use super::{
    Channel, Refusal, Verdict,
    context::{ContextError, Purpose},
    record::{Hello, Kind, NONCE_BYTES, Open, Prove, RecordError, unseal, unsealed},
    schedule::{Binding, Schedule, StepKey, Transcript},
};
use crate::{
    names::{KeyId, NodeName, Service},
    secret::Key,
};

/// One key a node knows.
#[derive(Clone, Debug)]
pub struct NodeKey {
    /// Its id.
    pub id: KeyId,
    /// The key.
    pub key: Key,
    /// What it may open.
    pub services: Vec<Service>,
    /// Where it may come from; empty: anywhere that `[acceptor] from` allows. (A Unix socket is always allowed.)
    pub from: Vec<IpNet>,
    /// When it ends to be valid, if ever.
    pub not_after: Option<Timestamp>,
}

/// The keys a node knows, and the one that nobody has.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Those of the configuration; ids are unique.
    pub known: Vec<NodeKey>,
    /// Random, never leaves the process: what an unknown key id is checked against.
    pub dummy: Key,
}

/// Why a node gives a link up.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The peer is proven and opened properly, but its context cannot be taken; it is told so.
    #[error("the context of a proven peer is malformed")]
    Context {
        /// What is wrong with it.
        #[source]
        source: ContextError,
        /// The `verdict` to write before closing.
        refusal: Vec<u8>,
    },
    /// The key's `not_after` has passed.
    #[error("key {0} has expired")]
    Expired(KeyId),
    /// The key may not come from there.
    #[error("key {0} may not be used from this address")]
    From(KeyId),
    /// A record has a wrong MAC.
    #[error("{kind} has a wrong MAC for key {key_id}: is the key the same on both sides?")]
    Mac {
        /// Which record.
        kind: Kind,
        /// The key that the peer claims to have.
        key_id: KeyId,
    },
    /// What came is not the record that was due.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The key may not open that service, or there is no such service.
    #[error("key {0} may not open this service")]
    Service(KeyId),
    /// No key has that id.
    #[error("there is no key {0}")]
    UnknownKey(KeyId),
    /// A fault of this program.
    #[error("impossible: {0}")]
    Unreachable(&'static str),
}

impl Error {
    /// The word for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Context { .. } => "context",
            Self::Expired(_) => "expired",
            Self::From(_) => "from",
            Self::Mac { .. } => "mac",
            Self::Record(_) => "record",
            Self::Service(_) => "service",
            Self::UnknownKey(_) => "unknown-key",
            Self::Unreachable(_) => "bug",
        }
    }
}

/// Connected.
#[derive(Debug)]
pub struct Node {
    /// This node's name.
    pub name: NodeName,
    /// How long a proven peer may wait before it opens; at least one second is announced.
    pub idle_limit: Duration,
    /// What we see of the channel.
    pub channel: Channel,
    /// 32 octets that were never used before.
    pub nonce: [u8; NONCE_BYTES],
}

/// `hello` goes out; `prove` is due.
#[derive(Debug)]
pub struct Greeted {
    node: Node,
    hello: Vec<u8>,
}

/// Proven on both sides; `proven` goes out and `open` is due.
#[derive(Debug)]
pub struct Proven {
    key_id: KeyId,
    services: Vec<Service>,
    not_after: Option<Timestamp>,
    schedule: Schedule,
    /// Up to `prove`: what `open` covers.
    transcript: Transcript,
    proven: Vec<u8>,
}

/// Opened; a verdict goes out.
#[derive(Debug)]
pub struct Opened {
    /// What for.
    pub purpose: Purpose,
    /// Which key proved the peer.
    pub key_id: KeyId,
    /// Makes the verdict.
    pub seal: VerdictSeal,
}

/// What makes the verdict's record.
#[derive(Debug)]
pub struct VerdictSeal {
    key: StepKey,
    transcript: Transcript,
}

impl NodeKey {
    /// Whether it opens a service now, for a peer there.
    pub fn opens(&self, service: Service, peer: Option<IpAddr>, now: Timestamp) -> bool {
        self.services.contains(&service) && self.admits_from(peer) && !is_past(self.not_after, now)
    }

    /// No address is a Unix socket, whose peers are known by their uid.
    fn admits_from(&self, peer: Option<IpAddr>) -> bool {
        // A dual-stack listener sees 10.0.0.1 as ::ffff:10.0.0.1.
        let peer = peer.map(|peer| peer.to_canonical());
        self.from.is_empty()
            || peer.is_none_or(|peer| self.from.iter().any(|net| net.contains(&peer)))
    }
}

fn is_past(not_after: Option<Timestamp>, now: Timestamp) -> bool {
    not_after.is_some_and(|end| now > end)
}

impl Node {
    /// The record to send at once, and the wait for its answer.
    pub fn greet(self) -> (Vec<u8>, Greeted) {
        let hello = Hello {
            channel: self.channel.kind(),
            idle_limit: self.idle_limit,
            nonce: self.nonce,
            node: self.name.clone(),
        }
        .encode();
        let greeted = Greeted {
            node: self,
            hello: hello.clone(),
        };
        (hello, greeted)
    }
}

impl Greeted {
    /// Takes `prove` from a peer at an address (none: a Unix socket).
    pub fn prove(
        self,
        record: &[u8],
        keys: &Keys,
        peer: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Proven, Error> {
        let sealed = unseal(record, Kind::Prove)?;
        let Prove { nonce, key_id } = Prove::decode(sealed.fields)?;
        // The whole list, whichever key it is.
        let known = keys.known.iter().fold(
            None,
            |found, key| if key.id == key_id { Some(key) } else { found },
        );
        let binding = Binding {
            node_nonce: &self.node.nonce,
            dialer_nonce: &nonce,
            channel: &self.node.channel,
            node: &self.node.name,
            key_id: &key_id,
        };
        let schedule = Schedule::new(known.map_or(&keys.dummy, |key| &key.key), &binding)
            .ok_or(Error::Unreachable("HKDF refused a length"))?;
        let mut transcript = Transcript::new();
        transcript.add(&self.hello);
        let is_proof = schedule
            .prove
            .verify(&transcript.with(sealed.unsealed), sealed.mac);
        transcript.add(record);

        let Some(key) = known else {
            return Err(Error::UnknownKey(key_id));
        };
        let (is_from, is_late) = (key.admits_from(peer), is_past(key.not_after, now));
        if !is_proof {
            return Err(Error::Mac {
                kind: Kind::Prove,
                key_id,
            });
        }
        if !is_from {
            return Err(Error::From(key_id));
        }
        if is_late {
            return Err(Error::Expired(key_id));
        }
        let mut proven = unsealed(Kind::Proven, &[]);
        let mac = schedule.proven.seal(&transcript.with(&proven));
        proven.extend_from_slice(&mac);
        Ok(Proven {
            key_id,
            services: key.services.clone(),
            not_after: key.not_after,
            schedule,
            transcript,
            proven,
        })
    }
}

impl Proven {
    /// The record to send.
    pub fn proven(&self) -> &[u8] {
        &self.proven
    }

    /// Takes `open`.
    pub fn open(self, record: &[u8], now: Timestamp) -> Result<Opened, Error> {
        let sealed = unseal(record, Kind::Open)?;
        let key_id = self.key_id;
        if !self
            .schedule
            .open
            .verify(&self.transcript.with(sealed.unsealed), sealed.mac)
        {
            return Err(Error::Mac {
                kind: Kind::Open,
                key_id,
            });
        }
        let open = Open::decode(sealed.fields)?;
        let service = match open.service {
            Some(service) if self.services.contains(&service) => service,
            Some(_) | None => return Err(Error::Service(key_id)),
        };
        // A link that was proven ahead may have outlived its key.
        if is_past(self.not_after, now) {
            return Err(Error::Expired(key_id));
        }
        let mut transcript = self.transcript;
        transcript.add(&self.proven);
        transcript.add(record);
        let seal = VerdictSeal {
            key: self.schedule.verdict,
            transcript,
        };
        match Purpose::decode(open.context, service) {
            Ok(purpose) => Ok(Opened {
                purpose,
                key_id,
                seal,
            }),
            Err(source) => Err(Error::Context {
                source,
                refusal: seal.verdict(&Verdict::Refused(Refusal::Forbidden)),
            }),
        }
    }
}

impl VerdictSeal {
    /// The record to send, by us or by whoever the link is handed to.
    ///
    /// A capability text longer than [`MAX_CAPABILITY_BYTES`](super::record::MAX_CAPABILITY_BYTES) or with control
    /// characters cannot be said: the verdict is then [`Refusal::Unavailable`].
    pub fn verdict(&self, verdict: &Verdict) -> Vec<u8> {
        let mut record = verdict.encode();
        let mac = self.key.seal(&self.transcript.with(&record));
        record.extend_from_slice(&mac);
        record
    }
}
