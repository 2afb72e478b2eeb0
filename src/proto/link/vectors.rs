//! The test vectors of `docs/link-protocol.md`: computed here, compared with the document's text.

use std::{fmt::Write as _, time::Duration};

use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};

use super::{
    Channel, Context, MailContext, Opening, Purpose, Refusal, Verdict,
    context::{OpenBody, tests::sample},
    dialer::Dialer,
    node::{Keys, Node, NodeKey},
    record::{MAC_BYTES, PREFACE},
    schedule::{Binding, Schedule},
};
use crate::{
    names::{AccountName, ClientAddr, KeyId, LocalAddr, NodeName, Protocol, SessionId},
    secret::Key,
};

const DOCUMENT: &str = include_str!("../../../docs/link-protocol.md");

/// One exchange with everything fixed.
struct Vector {
    title: &'static str,
    channel: Channel,
    key: [u8; 32],
    key_id: &'static str,
    node: &'static str,
    node_nonce: [u8; 32],
    dialer_nonce: [u8; 32],
    purpose: Purpose,
    verdict: Verdict,
}

/// Octets that count up from `first`.
fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|n| first.wrapping_add(n as u8))
}

/// A context without what may be missing.
fn small() -> Context {
    Context {
        account: AccountName::parse("bob").unwrap(),
        session: SessionId::parse("s1").unwrap(),
        client: ClientAddr("192.0.2.77:50000".parse().unwrap()),
        local: LocalAddr("192.0.2.1:110".parse().unwrap()),
        protocol: Protocol::Pop3,
        tls: None,
        uid: 1000,
        gid: 1000,
        home: "/srv/mail/bob".to_owned(),
        quota: None,
        hops: 0,
    }
}

fn vectors() -> [Vector; 4] {
    let small = small();
    [
        Vector {
            title: "plain, IMAP, every field, ready",
            channel: Channel::None,
            key: counting(0x00),
            key_id: "proxy1",
            node: "node1",
            node_nonce: counting(0x20),
            dialer_nonce: counting(0x40),
            purpose: Purpose::Session(sample()),
            verdict: Verdict::Ok(Opening::Ready("IMAP4rev1 IDLE".to_owned())),
        },
        Vector {
            title: "TLS, POP3, required fields only, plus-ok",
            channel: Channel::TlsExporter(counting(0x60)),
            key: counting(0x80),
            key_id: "proxy2",
            node: "node-2.example.org",
            node_nonce: counting(0xa0),
            dialer_nonce: counting(0xc0),
            purpose: Purpose::Session(small.clone()),
            verdict: Verdict::Ok(Opening::PlusOk),
        },
        Vector {
            title: "TLS, IMAP, refused",
            channel: Channel::TlsExporter([0xff; 32]),
            key: [0xee; 32],
            key_id: "k",
            node: "n",
            node_nonce: [0xdd; 32],
            dialer_nonce: [0xcc; 32],
            purpose: Purpose::Session(Context {
                protocol: Protocol::Imap,
                ..small
            }),
            verdict: Verdict::Refused(Refusal::Limit),
        },
        Vector {
            title: "plain, mailstore, silent",
            channel: Channel::None,
            key: counting(0x01),
            key_id: "delivery",
            node: "node1",
            node_nonce: counting(0x21),
            dialer_nonce: counting(0x41),
            purpose: Purpose::Mail(MailContext {
                session: SessionId::parse("d1").unwrap(),
            }),
            verdict: Verdict::Ok(Opening::Silent),
        },
    ]
}

impl Vector {
    fn schedule(&self) -> Schedule {
        let binding = Binding {
            node_nonce: &self.node_nonce,
            dialer_nonce: &self.dialer_nonce,
            channel: &self.channel,
            node: &NodeName::parse(self.node).unwrap(),
            key_id: &KeyId::parse(self.key_id).unwrap(),
        };
        Schedule::new(&Key::new(self.key), &binding).unwrap()
    }

    /// The records of the exchange, in order, as the halves make them.
    fn records(&self) -> [Vec<u8>; 5] {
        let (name, key_id) = (
            NodeName::parse(self.node).unwrap(),
            KeyId::parse(self.key_id).unwrap(),
        );
        let keys = Keys {
            known: vec![NodeKey {
                id: key_id.clone(),
                key: Key::new(self.key),
                services: vec![self.purpose.service()],
                from: Vec::new(),
                not_after: None,
            }],
            dummy: Key::new([0; 32]),
        };
        let now = jiff::Timestamp::UNIX_EPOCH;
        let (hello, greeted) = Node {
            name: name.clone(),
            idle_limit: Duration::from_secs(60),
            channel: self.channel.clone(),
            nonce: self.node_nonce,
        }
        .greet();
        let proving = Dialer {
            node: name,
            key_id,
            key: Key::new(self.key),
            channel: self.channel.clone(),
            nonce: self.dialer_nonce,
        }
        .hello(&hello)
        .unwrap();
        let prove = proving.prove().to_vec();
        let node = greeted.prove(&prove, &keys, None, now).unwrap();
        let proven = node.proven().to_vec();
        let body = match &self.purpose {
            Purpose::Mail(context) => OpenBody::mail(context),
            Purpose::Session(context) => OpenBody::session(context).unwrap(),
        };
        let (open, waiting) = proving.proven(&proven).unwrap().open(&body);
        let opened = node.open(&open, now).unwrap();
        assert_eq!(opened.purpose, self.purpose);
        let verdict = opened.seal.verdict(&self.verdict);
        assert_eq!(waiting.verdict(&verdict).as_ref(), Ok(&self.verdict));
        [hello, prove, proven, open, verdict]
    }

    /// The vector as the document shows it.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, octets: &[u8]| {
            let hex = octets.iter().fold(String::new(), |mut hex, octet| {
                write!(hex, "{octet:02x}").unwrap();
                hex
            });
            writeln!(text, "{}", format!("{name} = {hex}").trim_end()).unwrap();
        };
        let channel: &[u8] = match &self.channel {
            Channel::None => &[],
            Channel::TlsExporter(value) => value,
        };
        line("key", &self.key);
        line("key id", self.key_id.as_bytes());
        line("node name", self.node.as_bytes());
        line("channel kind", &[u8::from(!channel.is_empty())]);
        line("channel value", channel);
        line("node's nonce", &self.node_nonce);
        line("dialer's nonce", &self.dialer_nonce);

        let salt = [self.node_nonce, self.dialer_nonce].concat();
        line("PRK", &Hkdf::<Sha256>::extract(Some(&salt), &self.key).0);
        let schedule = self.schedule();
        line("prove key", schedule.prove.expose());
        line("proven key", schedule.proven.expose());
        line("open key", schedule.open.expose());
        line("verdict key", schedule.verdict.expose());

        let [hello, prove, proven, open, verdict] = self.records();
        let hash = |parts: &[&[u8]]| Sha256::digest([&PREFACE, parts.concat().as_slice()].concat());
        let bare = |record: &[u8]| record[..record.len() - MAC_BYTES].to_vec();
        line("preface", &PREFACE);
        line("hello", &hello);
        line("prove hash", &hash(&[&hello, &bare(&prove)]));
        line("prove", &prove);
        line("proven hash", &hash(&[&hello, &prove, &bare(&proven)]));
        line("proven", &proven);
        line("open hash", &hash(&[&hello, &prove, &bare(&open)]));
        line("open", &open);
        let all = [&hello, &prove, &proven, &open, &bare(&verdict)];
        line("verdict hash", &hash(&all.map(Vec::as_slice)));
        line("verdict", &verdict);
        text
    }
}

#[test]
fn the_document_has_the_vectors_that_the_code_computes() {
    let shown = DOCUMENT.split("\n## Test vectors\n").nth(1).unwrap();
    let computed: String = vectors()
        .iter()
        .enumerate()
        .map(|(n, vector)| {
            let (n, title, text) = (n + 1, vector.title, vector.text());
            format!("\n### Vector {n}: {title}\n\n```text\n{text}```\n")
        })
        .collect();
    assert!(
        shown.ends_with(&computed),
        "docs/link-protocol.md should end with these vectors:\n{computed}"
    );
}
