//! What travels with a message over a link of the service `mailstore`, besides LMTP itself.
//!
//! The link's `open` says who opened it and nothing of accounts: a link carries one message after the other, each for several
//! accounts. What a node must know of a message and of each of its recipients is the value of the private parameter
//! [`KEYWORD`] of MAIL and RCPT, in the same form as a context: fields in any order, those not known skipped, a string
//! without control characters. LMTP carries the octets as xtext (RFC 3461, 4).
//!
//! It does not judge. Limits: those of a context. On failure a [`ContextError`].

use super::{ContextError, Field, MAX_HOME_BYTES, Values, address_octets, put, put_text};
use crate::names::{AccountName, ClientAddr, SessionId};

/// The keyword of the private parameter.
pub const KEYWORD: &str = "PIGEONAIR";

/// The longest MAIL or RCPT line that the facts may make, in octets: three for each of the largest facts, and an address.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// The most deliveries that a message may pass, as Dovecot's proxies have it: more is a loop.
pub const MAX_HOPS: u8 = 5;

/// What a node is told of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MessageFacts {
    /// The id of the delivery, for every log on the way.
    pub session: SessionId,
    /// The MTA that brought the message; loopback and port 0 if it came over a Unix socket.
    pub client: ClientAddr,
    /// How many deliveries the message has passed, this one included; to stop loops.
    pub hops: u8,
}

/// What a node is told of a recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecipientFacts {
    /// The directory's name of the account.
    pub account: AccountName,
    /// The account's uid.
    pub uid: u32,
    /// The account's gid.
    pub gid: u32,
    /// The account's home folder: absolute, or relative to the node's `home_root`.
    pub home: String,
    /// The account's quota in octets, if the directory gives one.
    pub quota: Option<u64>,
}

impl MessageFacts {
    /// The value of the parameter.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, Field::Session, self.session.as_str().as_bytes());
        put(&mut out, Field::Client, &address_octets(self.client.0));
        put(&mut out, Field::Hops, &[self.hops]);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When a field is missing, double or not valid.
    pub fn decode(octets: &[u8]) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        Ok(Self {
            session: values.name(Field::Session, SessionId::from_bytes)?,
            client: ClientAddr(values.address(Field::Client)?),
            hops: u8::from_be_bytes(values.array(Field::Hops)?),
        })
    }
}

impl RecipientFacts {
    /// The value of the parameter.
    ///
    /// # Errors
    ///
    /// When the home can't be written.
    pub fn encode(&self) -> Result<Vec<u8>, ContextError> {
        let mut out = Vec::new();
        put(&mut out, Field::Account, self.account.as_str().as_bytes());
        put(&mut out, Field::Uid, &self.uid.to_be_bytes());
        put(&mut out, Field::Gid, &self.gid.to_be_bytes());
        put_text(&mut out, Field::Home, &self.home, MAX_HOME_BYTES)?;
        if let Some(quota) = self.quota {
            put(&mut out, Field::Quota, &quota.to_be_bytes());
        }
        Ok(out)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When a field is missing, double or not valid.
    pub fn decode(octets: &[u8]) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        Ok(Self {
            account: values.name(Field::Account, AccountName::from_bytes)?,
            uid: u32::from_be_bytes(values.array(Field::Uid)?),
            gid: u32::from_be_bytes(values.array(Field::Gid)?),
            home: values.text(Field::Home, MAX_HOME_BYTES)?,
            quota: match values.find(Field::Quota) {
                Some(_) => Some(u64::from_be_bytes(values.array(Field::Quota)?)),
                None => None,
            },
        })
    }
}

/// Whatever decodes as facts can be sent, and arrives as the same.
#[cfg(any(fuzzing, test))]
pub(super) fn fuzz(data: &[u8]) {
    if let Ok(facts) = MessageFacts::decode(data) {
        assert_eq!(MessageFacts::decode(&facts.encode()), Ok(facts));
    }
    if let Ok(facts) = RecipientFacts::decode(data) {
        let octets = facts.encode().unwrap_or_default();
        assert_eq!(RecipientFacts::decode(&octets), Ok(facts));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{
        super::tests::{field, sample},
        *,
    };
    use crate::proto::lmtp::{
        Address, Body, Client, Envelope, Event, LineEnds, MAX_PATH_BYTES, Recipient, Server,
        Settings,
        client::{self, Step},
    };

    fn message() -> MessageFacts {
        MessageFacts {
            session: sample().session,
            client: sample().client,
            hops: 2,
        }
    }

    fn recipient() -> RecipientFacts {
        RecipientFacts {
            account: sample().account,
            uid: 10_001,
            gid: 10_000,
            home: "z/zoë".to_owned(),
            quota: Some(5 << 30),
        }
    }

    /// The fields as (id, value).
    fn split(octets: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let values = Values::split(octets).unwrap().0.into_iter();
        values.map(|(id, value)| (id, value.to_vec())).collect()
    }

    fn joined(fields: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let fields = fields.iter().map(|(id, value)| field(*id, value));
        fields.collect::<Vec<_>>().concat()
    }

    #[test]
    fn facts_read_back_as_written() {
        let without = RecipientFacts {
            quota: None,
            ..recipient()
        };
        for facts in [recipient(), without] {
            let octets = facts.encode().unwrap();
            fuzz(&octets);
            assert_eq!(RecipientFacts::decode(&octets), Ok(facts));
        }
        let octets = message().encode();
        fuzz(&octets);
        assert_eq!(MessageFacts::decode(&octets), Ok(message()));
        // In whatever order, and with what a later delivery may say.
        let mut fields = split(&octets);
        fields.reverse();
        fields.push((99, b"\n".to_vec()));
        assert_eq!(MessageFacts::decode(&joined(&fields)), Ok(message()));
    }

    #[test]
    fn every_field_is_there_once_and_whole() {
        type Decode = fn(&[u8]) -> Result<(), ContextError>;
        let cases: [(Vec<u8>, &[u8], Decode); 2] = [
            (message().encode(), &[2, 3, 12], |octets| {
                MessageFacts::decode(octets).map(drop)
            }),
            (recipient().encode().unwrap(), &[1, 8, 9, 10], |octets| {
                RecipientFacts::decode(octets).map(drop)
            }),
        ];
        for (octets, required, decode) in cases {
            let fields = split(&octets);
            for (at, (id, _)) in fields.iter().enumerate() {
                let mut fewer = fields.clone();
                fewer.remove(at);
                let missing = decode(&joined(&fewer));
                if required.contains(id) {
                    assert!(
                        matches!(missing, Err(ContextError::Missing(field)) if field.id() == *id),
                        "{id}: {missing:?}"
                    );
                } else {
                    assert_eq!(missing, Ok(()), "{id}");
                }
                let mut more = fields.clone();
                more.push(fields[at].clone());
                let double = Err(ContextError::Duplicate(*id));
                assert_eq!(decode(&joined(&more)), double, "{id}");
            }
            for len in 0..octets.len() {
                let cut = decode(&octets[..len]);
                // At the end of a field nothing is cut, but it is the quota alone that may be missing.
                let is_whole = len == octets.len() - 11 && !required.contains(&12);
                assert_eq!(cut.is_ok(), is_whole, "{len}");
            }
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let long = "h".repeat(MAX_HOME_BYTES + 1);
        let cases: [(Field, &[&[u8]]); 5] = [
            (Field::Account, &[b"", b"a\nb", b"\xff", &[b'a'; 256]]),
            (Field::Uid, &[b"", b"\0\0\0", &[0; 5]]),
            (Field::Gid, &[b"", b"\0\0\0", &[0; 5]]),
            (Field::Home, &[b"", b"a\x7f", b"\xc3", long.as_bytes()]),
            (Field::Quota, &[b"", &[0; 7], &[0; 9]]),
        ];
        assert_refused(&recipient().encode().unwrap(), &cases, |octets| {
            RecipientFacts::decode(octets).map(drop)
        });
        let cases: [(Field, &[&[u8]]); 3] = [
            (Field::Session, &[b"", b"a b", &[b'a'; 65]]),
            (Field::Client, &[b"", &[0; 7], &[0; 17]]),
            (Field::Hops, &[b"", &[0; 2]]),
        ];
        assert_refused(&message().encode(), &cases, |octets| {
            MessageFacts::decode(octets).map(drop)
        });
        for home in ["", "a\nb", &long] {
            let facts = RecipientFacts {
                home: home.to_owned(),
                ..recipient()
            };
            assert_eq!(facts.encode(), Err(ContextError::Value(Field::Home)));
        }
    }

    fn assert_refused(
        octets: &[u8],
        cases: &[(Field, &[&[u8]])],
        decode: impl Fn(&[u8]) -> Result<(), ContextError>,
    ) {
        for (wrong, values) in cases {
            for value in *values {
                let mut fields = split(octets);
                for (id, old) in &mut fields {
                    if *id == wrong.id() {
                        *old = value.to_vec();
                    }
                }
                let refused = Err(ContextError::Value(*wrong));
                assert_eq!(decode(&joined(&fields)), refused, "{wrong:?} {value:?}");
            }
        }
    }

    /// The longest path whose every octet has two more in quotes or in UTF-8.
    fn longest_address() -> Address {
        let address = Address::parse(&format!("{}@d", "é".repeat(MAX_PATH_BYTES / 2 - 2))).unwrap();
        assert_eq!(address.to_string().len(), MAX_PATH_BYTES - 2);
        address
    }

    /// The largest facts, with no octet that xtext leaves as it is where it may be another.
    fn largest() -> Envelope<Recipient> {
        let message = MessageFacts {
            session: SessionId::parse(&"=".repeat(64)).unwrap(),
            client: ClientAddr("[::]:0".parse().unwrap()),
            hops: 0xff,
        };
        let recipient = RecipientFacts {
            account: AccountName::parse(&"€".repeat(85)).unwrap(),
            uid: u32::MAX,
            gid: u32::MAX,
            home: "€".repeat(MAX_HOME_BYTES / 3),
            quota: Some(u64::MAX),
        };
        assert_eq!(recipient.home.len(), MAX_HOME_BYTES);
        Envelope {
            sender: Some(longest_address()),
            recipients: vec![Recipient {
                address: longest_address(),
                private: Some(recipient.encode().unwrap()),
            }],
            size: Some(u64::MAX),
            body: Body::EightBit,
            smtputf8: true,
            private: Some(message.encode()),
        }
    }

    #[test]
    fn the_largest_facts_fit_into_a_line() {
        let mut server = Server::new(Settings {
            private: Some(KEYWORD),
            max_line_bytes: MAX_LINE_BYTES,
            max_message_bytes: u64::MAX,
            ..Settings::default()
        });
        let mut client = Client::new(client::Settings {
            hostname: "front".to_owned(),
            line_ends: LineEnds::Exact,
            private: Some(KEYWORD),
        });
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        server.greet(&mut down);
        assert_eq!(client.step(&mut down, &mut up), Ok(Step::More));
        assert!(matches!(server.step(&mut up, &mut down), Event::More));
        assert_eq!(client.step(&mut down, &mut up), Ok(Step::Ready));
        client.send(largest(), &mut up).unwrap();
        let lines = up.as_ref().split(|octet: &u8| *octet == b'\n');
        let longest = lines.map(<[u8]>::len).max().unwrap() + 1;
        assert!(longest > 13_000, "xtext has become shorter: {longest}");
        assert!(longest <= MAX_LINE_BYTES, "{longest}");
        let Event::Recipient(recipient) = server.step(&mut up, &mut down) else {
            panic!("not taken: {down:?}");
        };
        server.accept_recipient(recipient, &mut down);
        let Event::Begin(envelope) = server.step(&mut up, &mut down) else {
            panic!("not taken: {down:?}");
        };
        assert_eq!(envelope, largest());
    }
}
