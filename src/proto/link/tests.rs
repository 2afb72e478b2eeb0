//! Both halves against each other in memory, with fixed nonces and time, and somebody in between.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;

use super::{
    Channel, MailContext, Opening, Purpose, Refusal, Verdict,
    context::{ContextError, Field, OpenBody, tests::sample},
    dialer::{self, Dialer},
    node::{self, Keys, Node, NodeKey},
    record::{Kind, MAC_BYTES, RecordError, put_word, unseal, unsealed},
};
use crate::{
    names::{KeyId, NodeName, Service},
    secret::Key,
};

/// What happens to a record on its way.
type Meddler<'a> = &'a dyn Fn(Kind, &mut Vec<u8>);

/// Which half refused, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Refused {
    Dialer(dialer::Error),
    Node(node::Error),
}

impl From<dialer::Error> for Refused {
    fn from(error: dialer::Error) -> Self {
        Self::Dialer(error)
    }
}

impl From<node::Error> for Refused {
    fn from(error: node::Error) -> Self {
        Self::Node(error)
    }
}

/// Two ends of one link.
#[derive(Clone)]
struct Pair {
    early: bool,
    dialer_channel: Channel,
    node_channel: Channel,
    dialer_nonce: [u8; 32],
    node_nonce: [u8; 32],
    dials: &'static str,
    node: &'static str,
    key_id: &'static str,
    key: [u8; 32],
    known: Vec<NodeKey>,
    peer: Option<IpAddr>,
    now: Timestamp,
    purpose: Purpose,
    verdict: Verdict,
}

impl Pair {
    fn new() -> Self {
        Self {
            early: false,
            dialer_channel: Channel::None,
            node_channel: Channel::None,
            dialer_nonce: [0xd1; 32],
            node_nonce: [0xa0; 32],
            dials: "node1",
            node: "node1",
            key_id: "proxy1",
            key: [0x11; 32],
            known: vec![known_key("other", 0x22), known_key("proxy1", 0x11)],
            peer: Some("10.0.0.7".parse().unwrap()),
            now: at("2026-01-01T00:00:00Z"),
            purpose: Purpose::Session(sample()),
            verdict: Verdict::Ok(Opening::Ready("IMAP4rev1 IDLE".to_owned())),
        }
    }

    fn early() -> Self {
        Self {
            early: true,
            ..Self::new()
        }
    }

    fn tls() -> Self {
        Self {
            dialer_channel: Channel::TlsExporter([0xc4; 32]),
            node_channel: Channel::TlsExporter([0xc4; 32]),
            ..Self::new()
        }
    }

    /// For mail, over TLS.
    fn mail() -> Self {
        Self {
            purpose: Purpose::Mail(MailContext {
                session: sample().session,
            }),
            verdict: Verdict::Ok(Opening::Silent),
            ..Self::tls()
        }
    }

    fn all() -> [Self; 4] {
        [Self::new(), Self::early(), Self::tls(), Self::mail()]
    }

    fn body(&self) -> OpenBody {
        match &self.purpose {
            Purpose::Mail(context) => OpenBody::mail(context),
            Purpose::Session(context) => OpenBody::session(context).unwrap(),
        }
    }

    fn key(mut self, change: impl Fn(&mut NodeKey)) -> Self {
        change(&mut self.known[1]);
        self
    }

    fn dialer(&self) -> Dialer {
        Dialer {
            node: NodeName::parse(self.dials).unwrap(),
            key_id: KeyId::parse(self.key_id).unwrap(),
            key: Key::new(self.key),
            channel: self.dialer_channel.clone(),
            nonce: self.dialer_nonce,
        }
    }

    fn greet(&self) -> (Vec<u8>, node::Greeted) {
        Node {
            name: NodeName::parse(self.node).unwrap(),
            idle_limit: Duration::from_secs(60),
            channel: self.node_channel.clone(),
            nonce: self.node_nonce,
        }
        .greet()
    }

    fn keys(&self) -> Keys {
        Keys {
            known: self.known.clone(),
            dummy: Key::new([0xdd; 32]),
        }
    }

    /// The whole exchange with `meddle` in between; returns what the node took and what the dialer heard.
    fn meddled(&self, meddle: Meddler<'_>) -> Result<(Purpose, Verdict), Refused> {
        let pass = |kind, octets: &[u8]| {
            let mut octets = octets.to_vec();
            meddle(kind, &mut octets);
            octets
        };
        let body = self.body();
        let (hello, greeted) = self.greet();
        let proving = self.dialer().hello(&pass(Kind::Hello, &hello))?;
        let prove = proving.prove().to_vec();
        let take = |prove: &[u8]| {
            let prove = pass(Kind::Prove, prove);
            greeted.prove(&prove, &self.keys(), self.peer, self.now)
        };
        let (open, waiting, proven) = if self.early {
            let (octets, early) = proving.open_early(&body).unwrap();
            let (prove, open) = octets.split_at(prove.len());
            let proven = take(prove)?;
            let waiting = early.proven(&pass(Kind::Proven, proven.proven()))?;
            (open.to_vec(), waiting, proven)
        } else {
            let proven = take(&prove)?;
            let ready = proving.proven(&pass(Kind::Proven, proven.proven()))?;
            assert_eq!(ready.idle_limit(), Duration::from_secs(60));
            let (open, waiting) = ready.open(&body);
            (open, waiting, proven)
        };
        let opened = proven.open(&pass(Kind::Open, &open), self.now)?;
        assert_eq!(opened.key_id.as_str(), self.key_id);
        let verdict = pass(Kind::Verdict, &opened.seal.verdict(&self.verdict));
        Ok((opened.purpose, waiting.verdict(&verdict)?))
    }

    fn run(&self) -> Result<(Purpose, Verdict), Refused> {
        self.meddled(&|_, _| {})
    }

    /// The records of an undisturbed exchange.
    fn records(&self) -> Vec<(Kind, Vec<u8>)> {
        let records = std::cell::RefCell::new(Vec::new());
        self.meddled(&|kind, octets| records.borrow_mut().push((kind, octets.clone())))
            .unwrap();
        records.into_inner()
    }

    fn record(&self, kind: Kind) -> Vec<u8> {
        let mut records = self.records().into_iter();
        records.find(|(of, _)| *of == kind).unwrap().1
    }

    /// Puts `with` in the place of the record of this kind.
    fn replaced(&self, kind: Kind, with: &[u8]) -> Result<(Purpose, Verdict), Refused> {
        self.meddled(&|of, octets| {
            if of == kind {
                *octets = with.to_vec();
            }
        })
    }
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn known_key(id: &str, fill: u8) -> NodeKey {
    NodeKey {
        id: KeyId::parse(id).unwrap(),
        key: Key::new([fill; 32]),
        services: vec![Service::Imap, Service::Mailstore],
        from: Vec::new(),
        not_after: None,
    }
}

fn wrong_mac(kind: Kind) -> Refused {
    Refused::Node(node::Error::Mac {
        kind,
        key_id: KeyId::parse("proxy1").unwrap(),
    })
}

const EXCHANGE: [Kind; 5] = [
    Kind::Hello,
    Kind::Prove,
    Kind::Proven,
    Kind::Open,
    Kind::Verdict,
];

#[test]
fn a_link_is_proven_opened_and_answered() {
    for pair in Pair::all() {
        assert_eq!(pair.run(), Ok((pair.purpose.clone(), pair.verdict.clone())));
        let refused = Pair {
            verdict: Verdict::Refused(Refusal::Limit),
            ..pair
        };
        assert_eq!(refused.run().unwrap().1, refused.verdict);
        let order: Vec<_> = refused.records().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(order, EXCHANGE);
    }
}

#[test]
fn an_early_open_is_the_same_record_as_a_late_one() {
    assert_eq!(Pair::new().records(), Pair::early().records());
}

#[test]
fn under_tls_nothing_is_opened_before_the_node_is_proven() {
    let pair = Pair::tls();
    let proving = pair.dialer().hello(&pair.greet().0).unwrap();
    let body = pair.body();
    assert!(proving.open_early(&body).is_err());
}

#[test]
fn every_flipped_bit_of_every_record_is_refused() {
    for pair in Pair::all() {
        for (kind, record) in pair.records() {
            for offset in 0..record.len() {
                for bit in 0..8 {
                    let result = pair.meddled(&|of, octets| {
                        if of == kind {
                            octets[offset] ^= 1 << bit;
                        }
                    });
                    assert!(result.is_err(), "{kind} octet {offset} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn every_cut_or_lengthened_record_is_refused() {
    for pair in Pair::all() {
        for (kind, record) in pair.records() {
            for len in 0..record.len() {
                let result = pair.replaced(kind, &record[..len]);
                assert!(result.is_err(), "{kind} cut to {len}");
                let cut = &record[..len];
                if let Some(body) = cut.len().checked_sub(4) {
                    // The same with a header that agrees.
                    let mut cut = cut.to_vec();
                    cut[2..4].copy_from_slice(&(body as u16).to_be_bytes());
                    assert!(pair.replaced(kind, &cut).is_err(), "{kind} cut to {len}");
                }
            }
            let mut longer = record.clone();
            longer.push(0);
            assert!(pair.replaced(kind, &longer).is_err(), "{kind} longer");
            longer[2..4].copy_from_slice(&((record.len() - 3) as u16).to_be_bytes());
            assert!(pair.replaced(kind, &longer).is_err(), "{kind} longer");
        }
    }
}

#[test]
fn no_record_of_an_earlier_link_is_of_use() {
    for pair in Pair::all() {
        for (kind, old) in pair.records() {
            // Either side alone would be enough: the nonces of both are in every key.
            let node_anew = Pair {
                node_nonce: [0xa1; 32],
                ..pair.clone()
            };
            let dialer_anew = Pair {
                dialer_nonce: [0xd2; 32],
                ..pair.clone()
            };
            assert!(node_anew.replaced(kind, &old).is_err(), "{kind}");
            if kind != Kind::Hello {
                assert!(dialer_anew.replaced(kind, &old).is_err(), "{kind}");
            }
        }
    }
}

#[test]
fn a_whole_recorded_dialer_is_of_no_use() {
    let (old, new) = (
        Pair::new(),
        Pair {
            node_nonce: [0xa1; 32],
            ..Pair::new()
        },
    );
    let (_, greeted) = new.greet();
    let result = greeted.prove(&old.record(Kind::Prove), &new.keys(), new.peer, new.now);
    assert_eq!(Refused::Node(result.unwrap_err()), wrong_mac(Kind::Prove));
}

#[test]
fn every_record_in_the_place_of_another_is_refused() {
    for pair in Pair::all() {
        let records = pair.records();
        for (kind, record) in &records {
            for due in EXCHANGE.into_iter().filter(|due| due != kind) {
                let expected = RecordError::Kind {
                    expected: due,
                    got: kind.code(),
                };
                let refused = match due {
                    Kind::Hello | Kind::Proven | Kind::Verdict => {
                        Refused::Dialer(dialer::Error::Record(expected))
                    }
                    Kind::Prove | Kind::Open => Refused::Node(node::Error::Record(expected)),
                };
                assert_eq!(pair.replaced(due, record), Err(refused), "{kind} for {due}");
                // The same with a header that lies about the kind.
                let mut relabelled = record.clone();
                relabelled[1] = due.code();
                assert!(pair.replaced(due, &relabelled).is_err(), "{kind} as {due}");
            }
        }
    }
}

#[test]
fn a_proof_of_one_half_is_not_one_of_the_other() {
    let pair = Pair::new();
    let prove = pair.record(Kind::Prove);
    let mut reflected = unsealed(Kind::Proven, &[]);
    reflected.extend_from_slice(unseal(&prove, Kind::Prove).unwrap().mac);
    assert_eq!(
        pair.replaced(Kind::Proven, &reflected),
        Err(Refused::Dialer(dialer::Error::Mac(Kind::Proven)))
    );
    // The node's own nonce and MAC, sent back to it.
    let proven = pair.record(Kind::Proven);
    let mut fields = pair.node_nonce.to_vec();
    put_word(&mut fields, b"proxy1");
    let mut reflected = unsealed(Kind::Prove, &fields);
    reflected.extend_from_slice(&proven[proven.len() - MAC_BYTES..]);
    assert_eq!(
        pair.replaced(Kind::Prove, &reflected),
        Err(wrong_mac(Kind::Prove))
    );
}

#[test]
fn a_link_cannot_be_relayed_to_another_node() {
    // Both nodes know the same key; the one in between lets node2 look like node1.
    let node2 = Pair {
        node: "node2",
        ..Pair::new()
    };
    assert_eq!(
        node2.run(),
        Err(Refused::Dialer(dialer::Error::Name {
            said: NodeName::parse("node2").unwrap()
        }))
    );
    let renamed = Pair::new().record(Kind::Hello);
    assert_eq!(
        node2.replaced(Kind::Hello, &renamed),
        Err(wrong_mac(Kind::Prove))
    );
}

#[test]
fn who_ends_tls_in_between_is_found_out() {
    let two_sessions = Pair {
        node_channel: Channel::TlsExporter([0xc5; 32]),
        ..Pair::tls()
    };
    assert_eq!(two_sessions.run(), Err(wrong_mac(Kind::Prove)));
    // TLS taken off on one side, said honestly and then not.
    let (tls, plain) = (Pair::tls(), Pair::new());
    for (dialer, node) in [(&tls, &plain), (&plain, &tls)] {
        let stripped = Pair {
            node_channel: node.node_channel.clone(),
            ..(*dialer).clone()
        };
        assert!(matches!(
            stripped.run(),
            Err(Refused::Dialer(dialer::Error::Channel { .. }))
        ));
        let lie = dialer.record(Kind::Hello);
        assert_eq!(
            stripped.replaced(Kind::Hello, &lie),
            Err(wrong_mac(Kind::Prove))
        );
    }
}

#[test]
fn another_version_is_refused_by_both() {
    for version in [0, 2, 255] {
        for kind in EXCHANGE {
            let result = Pair::new().meddled(&|of, octets| {
                if of == kind {
                    octets[0] = version;
                }
            });
            let wrong = RecordError::Version(version);
            assert!(
                result == Err(Refused::Dialer(wrong.into()))
                    || result == Err(Refused::Node(wrong.into())),
                "{kind}: {result:?}"
            );
        }
    }
}

#[test]
fn a_wrong_key_and_an_unknown_one_are_refused() {
    let key_id = KeyId::parse("nobody").unwrap();
    for pair in Pair::all() {
        let wrong = Pair {
            key: [0x12; 32],
            ..pair.clone()
        };
        assert_eq!(wrong.run(), Err(wrong_mac(Kind::Prove)));
        // Even who knew the dummy would be refused.
        for key in [[0x11; 32], [0xdd; 32]] {
            let unknown = Pair {
                key,
                key_id: "nobody",
                ..pair.clone()
            };
            assert_eq!(
                unknown.run(),
                Err(Refused::Node(node::Error::UnknownKey(key_id.clone())))
            );
        }
        // A known key under the id of another one.
        let other = Pair {
            key_id: "other",
            ..pair
        };
        assert!(matches!(
            other.run(),
            Err(Refused::Node(node::Error::Mac { .. }))
        ));
    }
}

#[test]
fn a_node_without_the_key_is_refused() {
    let pair = Pair::new();
    let impostor = Pair::new().key(|key| key.key = Key::new([0x66; 32]));
    // It cannot check `prove`, so it answers whatever it likes.
    let (hello, _) = impostor.greet();
    let proving = pair.dialer().hello(&hello).unwrap();
    let mut proven = unsealed(Kind::Proven, &[]);
    proven.extend_from_slice(&[0x66; MAC_BYTES]);
    assert_eq!(
        proving.proven(&proven).unwrap_err(),
        dialer::Error::Mac(Kind::Proven)
    );
}

#[test]
fn a_key_opens_only_its_services() {
    let key_id = KeyId::parse("proxy1").unwrap();
    for pair in Pair::all() {
        let others = [Service::Imap, Service::Mailstore, Service::Pop3]
            .into_iter()
            .filter(|service| *service != pair.purpose.service());
        for services in [vec![], others.collect()] {
            let pair = pair.clone().key(|key| key.services = services.clone());
            assert_eq!(
                pair.run(),
                Err(Refused::Node(node::Error::Service(key_id.clone())))
            );
        }
    }
}

#[test]
fn a_key_comes_only_from_its_networks() {
    let key_id = KeyId::parse("proxy1").unwrap();
    let from = |peer: Option<&str>| {
        Pair {
            peer: peer.map(|peer| peer.parse().unwrap()),
            ..Pair::new()
        }
        .key(|key| {
            key.from = vec![
                "10.0.0.0/29".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ];
        })
        .run()
    };
    for inside in ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1"] {
        assert!(from(Some(inside)).is_ok(), "{inside}");
    }
    assert!(from(None).is_ok());
    for outside in ["10.0.0.8", "::ffff:10.0.0.8", "2001:db9::1", "::1"] {
        assert_eq!(
            from(Some(outside)),
            Err(Refused::Node(node::Error::From(key_id.clone()))),
            "{outside}"
        );
    }
}

#[test]
fn a_key_ends_at_its_time_also_on_a_link_proven_ahead() {
    let end = at("2026-01-01T00:00:00Z");
    let expired = node::Error::Expired(KeyId::parse("proxy1").unwrap());
    let pair = Pair::new().key(|key| key.not_after = Some(end));
    assert!(pair.run().is_ok());
    let later = end + jiff::SignedDuration::from_nanos(1);
    let late = Pair {
        now: later,
        ..pair.clone()
    };
    assert_eq!(late.run(), Err(Refused::Node(expired.clone())));

    let (_, greeted) = pair.greet();
    let proven = greeted
        .prove(&pair.record(Kind::Prove), &pair.keys(), pair.peer, end)
        .unwrap();
    assert_eq!(
        proven.open(&pair.record(Kind::Open), later).unwrap_err(),
        expired
    );
}

#[test]
fn a_malformed_context_of_a_proven_peer_is_answered() {
    // A dialer of a later version, say: everything is right but the context.
    let pair = Pair::new();
    let mut body = pair.body();
    let hops = body.unsealed.len() - 4;
    body.unsealed[hops] = 99;
    let (hello, greeted) = pair.greet();
    let proving = pair.dialer().hello(&hello).unwrap();
    let proven = greeted
        .prove(proving.prove(), &pair.keys(), pair.peer, pair.now)
        .unwrap();
    let ready = proving.proven(proven.proven()).unwrap();
    let (open, waiting) = ready.open(&body);
    let Err(node::Error::Context { source, refusal }) = proven.open(&open, pair.now) else {
        panic!("taken");
    };
    assert_eq!(source, ContextError::Missing(Field::Hops));
    assert_eq!(
        waiting.verdict(&refusal),
        Ok(Verdict::Refused(Refusal::Forbidden))
    );
}

#[test]
fn a_service_that_is_not_known_is_closed_without_a_word() {
    let pair = Pair::new();
    let mut body = pair.body();
    body.unsealed[5..9].copy_from_slice(b"imao");
    let (hello, greeted) = pair.greet();
    let proving = pair.dialer().hello(&hello).unwrap();
    let proven = greeted
        .prove(proving.prove(), &pair.keys(), pair.peer, pair.now)
        .unwrap();
    let (open, _) = proving.proven(proven.proven()).unwrap().open(&body);
    assert!(matches!(
        proven.open(&open, pair.now),
        Err(node::Error::Service(_))
    ));
}

#[test]
fn nothing_secret_is_printed() {
    let pair = Pair::tls();
    let dialer = pair.dialer();
    let printed = format!("{dialer:?}");
    assert!(
        printed.contains("Key(..)") && !printed.contains("196"),
        "{printed}"
    );
    let proving = dialer.hello(&pair.greet().0).unwrap();
    assert!(format!("{proving:?}").contains("StepKey(..)"));
}

#[test]
fn decoding_survives_anything_and_encoding_gives_it_back() {
    for pair in Pair::all() {
        for (_, record) in pair.records() {
            super::fuzz(&record);
            for offset in 0..record.len() {
                super::fuzz(&record[offset..]);
                super::fuzz(&record[..offset]);
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut changed = record.clone();
                    changed[offset] = value;
                    super::fuzz(&changed);
                    super::fuzz(&changed[4..]);
                }
            }
        }
    }
}
