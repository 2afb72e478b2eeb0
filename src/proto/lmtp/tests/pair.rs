//! Both halves against each other, in pieces of random sizes: what one sends the other gets, octet for octet, and each reply
//! reaches its recipient.

use bytes::BytesMut;

use super::dice::Dice;
use crate::proto::{
    conversation::pieces,
    lmtp::{
        Address, Body, Client, Envelope, Event, Fate, LineEnds, Recipient, Reply, Server, Settings,
        client::{self, Step},
        property::{answer, refusal},
    },
};

const TEXT: [&[u8]; 10] = [
    b"\r\n",
    b"\r\n.",
    b".",
    b".\r\n",
    b"\r",
    b"\n",
    b"a",
    b"\xeb",
    b"\0",
    b"some words",
];

/// A server with a driver, and what it got.
struct Peer {
    server: Server<Recipient>,
    recipients: Vec<Recipient>,
    message: Vec<u8>,
    got: Vec<(Envelope<Recipient>, Vec<u8>)>,
}

impl Peer {
    fn hear(&mut self, input: &mut BytesMut, out: &mut BytesMut) {
        loop {
            match self.server.step(input, out) {
                Event::More => return,
                Event::Body(octets) => self.message.extend_from_slice(&octets),
                Event::Recipient(recipient) => match refusal(&recipient) {
                    Some(cause) => self.server.refuse(&cause.reply(), out),
                    None => self.server.accept_recipient(recipient, out),
                },
                Event::Begin(envelope) => {
                    self.recipients.clone_from(&envelope.recipients);
                    self.got.push((envelope, Vec::new()));
                    self.server.accept_message(out);
                }
                Event::End => {
                    self.got.last_mut().unwrap().1 = std::mem::take(&mut self.message);
                    for recipient in self.recipients.drain(..) {
                        self.server.answer(&answer(&recipient), out);
                    }
                }
                event @ (Event::Close(_) | Event::Discard(_)) => panic!("{event:?}"),
            }
        }
    }
}

/// Moves some of what was written to the other side.
fn transfer(dice: &mut Dice, from: &mut BytesMut, to: &mut BytesMut) {
    if !from.is_empty() {
        let count = 1 + dice.below(from.len().min(400));
        to.extend_from_slice(&from.split_to(count));
    }
}

fn random_envelope(dice: &mut Dice) -> Envelope<Recipient> {
    const LOCALS: [&str; 8] = [
        "ann", "nobody", "later", "full", "slow", "\"a b>\"", "zo\u{eb}", ".x.",
    ];
    let recipients = (0..dice.below(200))
        .map(|at| Recipient {
            address: Address::parse(&format!("{}@d{at}.example", LOCALS[dice.below(8)])).unwrap(),
            private: (dice.below(2) == 0).then(|| dice.octets(&TEXT, 9)),
        })
        .map(|recipient| Recipient {
            private: recipient.private.filter(|octets| !octets.is_empty()),
            ..recipient
        })
        .collect();
    Envelope {
        sender: (dice.below(3) > 0).then(|| Address::parse("eve@b.example").unwrap()),
        recipients,
        size: (dice.below(2) == 0).then(|| dice.below(4000) as u64),
        body: Body::EightBit,
        smtputf8: true,
        private: None,
    }
}

#[test]
fn what_one_half_sends_the_other_gets() {
    for seed in 1..=60 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut peer = Peer {
            server: Server::new(Settings {
                private: Some("XOURS"),
                ..Settings::default()
            }),
            recipients: Vec::new(),
            message: Vec::new(),
            got: Vec::new(),
        };
        let mut client = Client::new(client::Settings {
            hostname: "front".to_owned(),
            line_ends: LineEnds::Exact,
            private: Some("XOURS"),
        });
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        let (mut server_in, mut client_in) = (BytesMut::new(), BytesMut::new());
        peer.server.greet(&mut down);
        let mut done = 0;
        let mut sent: Vec<(Envelope<Recipient>, Vec<u8>)> = Vec::new();
        while done < 4 {
            transfer(&mut dice, &mut up, &mut server_in);
            peer.hear(&mut server_in, &mut down);
            transfer(&mut dice, &mut down, &mut client_in);
            let fates = match client.step(&mut client_in, &mut up).unwrap() {
                Step::More => continue,
                Step::Data => {
                    let message = &sent.last().unwrap().1;
                    for piece in pieces(message, || 1 + dice.below(50)) {
                        client.body(piece, &mut up);
                    }
                    client.finish(&mut up);
                    continue;
                }
                Step::Ready => Vec::new(),
                Step::Done(fates) => {
                    done += 1;
                    let envelope = &sent.last().unwrap().0;
                    assert_fates(envelope, &fates);
                    fates
                }
            };
            drop(fates);
            let mut message = dice.octets(&TEXT, 300);
            message.extend_from_slice(b"\r\n");
            let envelope = random_envelope(&mut dice);
            client.send(envelope.clone(), &mut up).unwrap();
            sent.push((envelope, message));
        }
        // What nobody takes never begins; the last one is on its way.
        sent.pop();
        for (envelope, _) in &mut sent {
            envelope
                .recipients
                .retain(|recipient| refusal(recipient).is_none());
        }
        sent.retain(|(envelope, _)| !envelope.recipients.is_empty());
        peer.got.truncate(sent.len());
        assert_eq!(peer.got, sent, "seed {seed}");
    }
}

fn assert_fates(envelope: &Envelope<Recipient>, fates: &[Fate]) {
    let expected: Vec<_> = envelope
        .recipients
        .iter()
        .map(|recipient| {
            let reply = match refusal(recipient) {
                Some(cause) => cause.reply(),
                None => answer(recipient),
            };
            fate(reply)
        })
        .collect();
    assert_eq!(fates, expected);
}

fn fate(reply: Reply) -> Fate {
    match reply.code() {
        250 => Fate::Delivered(reply),
        400..500 => Fate::Temporary(reply),
        _ => Fate::Permanent(reply),
    }
}
