//! What clients say before they are logged in: parsed up to their credentials, in one read or in the usual steps.
//!
//! One call is a conversation of its own, from a new server half to the credentials, which are then wiped. The octets
//! are copied into a buffer that has been used before, as a read does it.

use std::hint::black_box;

use bytes::BytesMut;
use pigeonair::{
    names::Protocol,
    proto::{
        sasl::{Exchange, Turn},
        server::{Server, Settings},
        talk::{Channel, Credentials, Event},
    },
};

use super::Criterion;

/// Under TLS from the first octet.
const CHANNEL: Channel = Channel {
    encrypted: true,
    starttls: false,
    cleartext: false,
};

const LOGIN: &[u8] = b"a1 LOGIN \"ann@example.org\" \"correct horse 4\"\r\n";
const PIPELINED: &[u8] =
    b"a1 CAPABILITY\r\na2 LOGIN ann@example.org \"correct horse 4\"\r\na3 SELECT INBOX\r\n";
const LITERALS: &[&[u8]] = &[
    b"a1 LOGIN {15}\r\n",
    b"ann@example.org {15}\r\n",
    b"correct horse 4\r\n",
];
const AUTHENTICATE: &[u8] =
    b"a1 AUTHENTICATE PLAIN AGFubkBleGFtcGxlLm9yZwBjb3JyZWN0IGhvcnNlIDQ=\r\n";
const USER_PASS: &[&[u8]] = &[b"USER ann@example.org\r\n", b"PASS correct horse 4\r\n"];
const AUTH: &[u8] = b"AUTH PLAIN AGFubkBleGFtcGxlLm9yZwBjb3JyZWN0IGhvcnNlIDQ=\r\n";
const PLAIN: &[u8] = b"AGFubkBleGFtcGxlLm9yZwBjb3JyZWN0IGhvcnNlIDQ=";

pub(crate) fn run(criterion: &mut Criterion) {
    for (name, protocol, reads) in [
        ("LOGIN", Protocol::Imap, &[LOGIN] as &[&[u8]]),
        (
            "CAPABILITY and LOGIN in one read",
            Protocol::Imap,
            &[PIPELINED],
        ),
        ("LOGIN with literals", Protocol::Imap, LITERALS),
        ("AUTHENTICATE PLAIN", Protocol::Imap, &[AUTHENTICATE]),
        ("USER and PASS", Protocol::Pop3, USER_PASS),
        ("AUTH PLAIN", Protocol::Pop3, &[AUTH]),
    ] {
        let name = format!("{}/{name}", protocol.as_str());
        criterion.bench_function(&name, |bencher| {
            let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
            bencher.iter(|| converse(protocol, reads, &mut input, &mut out));
        });
    }
    criterion.bench_function("sasl/PLAIN", |bencher| {
        bencher.iter(|| {
            let exchange = Exchange::new(b"PLAIN").unwrap();
            let turn = exchange.start(Some(black_box(PLAIN)));
            assert!(matches!(turn, Ok(Turn::Done(_))));
        });
    });
}

fn converse(
    protocol: Protocol,
    reads: &[&[u8]],
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Credentials {
    let mut server = Server::new(protocol, Settings::default(), CHANNEL);
    input.clear();
    out.clear();
    for octets in black_box(reads) {
        input.extend_from_slice(octets);
        if let Event::Credentials(credentials) = server.step(input, out) {
            return credentials;
        }
    }
    panic!("no credentials came of it");
}
