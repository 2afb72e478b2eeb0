//! A link from its handshake to the first word of the real server, both halves against each other in memory.
//!
//! A step consumes what it is called on. But for the whole handshake, that is made beforehand and not counted.

use std::{hint::black_box, time::Duration};

use bytes::BytesMut;
use criterion::BatchSize;
use jiff::Timestamp;
use pigeonair::{
    names::{AccountName, ClientAddr, KeyId, LocalAddr, NodeName, Protocol, Service, SessionId},
    proto::{
        link::{
            Channel, Context, Opening, Purpose, Verdict,
            context::{ClientTls, OpenBody},
            dialer::{Dialer, Waiting},
            node::{Keys, Node, NodeKey, Opened, Proven},
        },
        opening::{Reader, Step},
    },
    secret::Key,
};

use super::Criterion;

/// What Dovecot says to a session that begins logged in.
const PREAUTH: &[u8] = b"* PREAUTH [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT \
    SORT=DISPLAY THREAD=REFERENCES THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT \
    CHILDREN NAMESPACE UIDPLUS LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN \
    CONTEXT=SEARCH LIST-STATUS BINARY MOVE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW STATUS=SIZE SAVEDATE LITERAL+ NOTIFY \
    SPECIAL-USE] Logged in as ann\r\n";

pub(crate) fn run(criterion: &mut Criterion) {
    let lab = Lab::new();
    let context = context();
    let body = OpenBody::session(&context).unwrap();
    for (name, channel) in [
        ("handshake, plain", Channel::None),
        ("handshake, bound to TLS", Channel::TlsExporter([3; 32])),
    ] {
        criterion.bench_function(&format!("link/{name}"), |bencher| {
            bencher.iter(|| lab.handshake(black_box(&channel)));
        });
    }
    criterion.bench_function("link/encode a context", |bencher| {
        bencher.iter(|| OpenBody::session(black_box(&context)).unwrap());
    });
    criterion.bench_function("link/verify and decode a context", |bencher| {
        bencher.iter_batched(
            || lab.opening(&body),
            |(proven, open, _)| proven.open(&open, Timestamp::UNIX_EPOCH).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let capabilities = "IMAP4rev1 SASL-IR ID ENABLE IDLE SORT THREAD=REFERENCES MULTIAPPEND UNSELECT CHILDREN \
        NAMESPACE UIDPLUS LIST-EXTENDED CONDSTORE QRESYNC ESEARCH WITHIN MOVE LITERAL+ SPECIAL-USE";
    for (name, opening, said) in [
        (
            "ready",
            Opening::Ready(capabilities.to_owned()),
            b"" as &[u8],
        ),
        ("PREAUTH", Opening::Preauth, PREAUTH),
    ] {
        criterion.bench_function(&format!("link/verdict and opening, {name}"), |bencher| {
            bencher.iter_batched(
                || lab.verdict(&body, &opening),
                |(waiting, verdict)| begin(waiting, &verdict, said),
                BatchSize::SmallInput,
            );
        });
    }
}

/// What both halves know beforehand.
struct Lab {
    node: NodeName,
    key_id: KeyId,
    key: Key,
    keys: Keys,
}

impl Lab {
    fn new() -> Self {
        let key_id = KeyId::parse("front-1").unwrap();
        let key = Key::new([7; Key::BYTES]);
        let known = NodeKey {
            id: key_id.clone(),
            key: key.clone(),
            services: vec![Service::Imap, Service::Pop3, Service::Mailstore],
            from: Vec::new(),
            not_after: None,
        };
        Self {
            node: NodeName::parse("node-1").unwrap(),
            key_id,
            key,
            keys: Keys {
                known: vec![known],
                dummy: Key::new([8; Key::BYTES]),
            },
        }
    }

    /// Until both have proven themselves: what each has then.
    fn handshake(&self, channel: &Channel) -> (pigeonair::proto::link::dialer::Ready, Proven) {
        let (hello, greeted) = Node {
            name: self.node.clone(),
            idle_limit: Duration::from_secs(30),
            channel: channel.clone(),
            nonce: [1; 32],
        }
        .greet();
        let proving = Dialer {
            node: self.node.clone(),
            key_id: self.key_id.clone(),
            key: self.key.clone(),
            channel: channel.clone(),
            nonce: [2; 32],
        }
        .hello(&hello)
        .unwrap();
        let proven = greeted
            .prove(proving.prove(), &self.keys, None, Timestamp::UNIX_EPOCH)
            .unwrap();
        let ready = proving.proven(proven.proven()).unwrap();
        (ready, proven)
    }

    /// A link that is being opened: the node's half, what it is to read, the dialer's half.
    fn opening(&self, body: &OpenBody) -> (Proven, Vec<u8>, Waiting) {
        let (ready, proven) = self.handshake(&Channel::None);
        let (open, waiting) = ready.open(body);
        (proven, open, waiting)
    }

    /// A link that was opened: the dialer's half and what it is to read.
    fn verdict(&self, body: &OpenBody, opening: &Opening) -> (Waiting, Vec<u8>) {
        let (proven, open, waiting) = self.opening(body);
        let Opened { purpose, seal, .. } = proven.open(&open, Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(purpose, Purpose::Session(_)));
        (waiting, seal.verdict(&Verdict::Ok(opening.clone())))
    }
}

/// From the verdict's octets to the session's capabilities.
fn begin(waiting: Waiting, verdict: &[u8], said: &[u8]) -> String {
    let Verdict::Ok(opening) = waiting.verdict(verdict).unwrap() else {
        panic!("the link was refused");
    };
    let mut input = BytesMut::from(said);
    let Step::Done { capabilities } = Reader::new(&opening).step(&mut input).unwrap() else {
        panic!("the opening is not complete");
    };
    capabilities.unwrap()
}

fn context() -> Context {
    Context {
        account: AccountName::parse("ann@example.org").unwrap(),
        session: SessionId::from_random([9; 12]),
        client: ClientAddr("[2001:db8::1]:49152".parse().unwrap()),
        local: LocalAddr("[2001:db8::2]:993".parse().unwrap()),
        protocol: Protocol::Imap,
        tls: Some(ClientTls {
            version: "TLSv1.3".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
        }),
        uid: 5000,
        gid: 5000,
        home: "/var/mail/example.org/an/ann".to_owned(),
        quota: Some(1 << 30),
        hops: 0,
    }
}
