//! The codec of a context, field by field.

use super::*;

pub(in crate::proto::link) fn sample() -> Context {
    Context {
        account: AccountName::parse("Zoë@example.org").unwrap(),
        session: SessionId::parse("000102030405060708090a0b").unwrap(),
        client: ClientAddr("[2001:db8::77]:4242".parse().unwrap()),
        local: LocalAddr("192.0.2.1:993".parse().unwrap()),
        protocol: Protocol::Imap,
        tls: Some(ClientTls {
            version: "TLSv1.3".to_owned(),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
        }),
        uid: 10_001,
        gid: 10_000,
        home: "z/zoë".to_owned(),
        quota: Some(5 << 30),
        hops: 1,
    }
}

fn encoded(context: &Context) -> Vec<u8> {
    let mut octets = Vec::new();
    context.encode(&mut octets).unwrap();
    octets
}

pub(super) fn field(id: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = vec![id];
    octets.extend_from_slice(&(value.len() as u16).to_be_bytes());
    octets.extend_from_slice(value);
    octets
}

/// The fields of a context as (id, value).
fn split(octets: &[u8]) -> Vec<(u8, Vec<u8>)> {
    Values::split(octets)
        .unwrap()
        .0
        .into_iter()
        .map(|(id, value)| (id, value.to_vec()))
        .collect()
}

fn with(context: &Context, id: u8, value: &[u8]) -> Result<Context, ContextError> {
    let octets: Vec<u8> = split(&encoded(context))
        .into_iter()
        .flat_map(|(old, old_value)| field(old, if old == id { value } else { &old_value }))
        .collect();
    Context::decode(&octets, Service::Imap)
}

#[test]
fn a_context_reads_back_as_written() {
    let full = sample();
    let bare = Context {
        tls: None,
        quota: None,
        protocol: Protocol::Pop3,
        ..sample()
    };
    assert_eq!(
        Context::decode(&encoded(&full), Service::Imap),
        Ok(full.clone())
    );
    assert_eq!(
        Context::decode(&encoded(&bare), Service::Pop3),
        Ok(bare.clone())
    );
    fuzz(&encoded(&full));
    fuzz(&encoded(&bare));
}

#[test]
fn the_largest_context_fits_into_an_open() {
    let largest = Context {
        account: AccountName::parse(&"a".repeat(255)).unwrap(),
        session: SessionId::parse(&"s".repeat(64)).unwrap(),
        local: LocalAddr("[::1]:1".parse().unwrap()),
        tls: Some(ClientTls {
            version: "v".repeat(64),
            cipher: "c".repeat(64),
        }),
        home: "h".repeat(4095),
        ..sample()
    };
    let body = OpenBody::session(&largest).unwrap();
    assert!(body.unsealed.len() + 32 <= 4 + Kind::Open.max_body());
    let longer = Context {
        home: "h".repeat(4096),
        ..largest
    };
    assert_eq!(
        OpenBody::session(&longer).unwrap_err(),
        ContextError::Value(Field::Home)
    );
}

#[test]
fn order_does_not_matter_and_unknown_fields_are_skipped() {
    let mut octets = field(200, b"\0\xff anything");
    for (id, value) in split(&encoded(&sample())).into_iter().rev() {
        octets.extend(field(id, &value));
    }
    octets.extend(field(13, b""));
    octets.extend(field(0, b""));
    assert_eq!(Context::decode(&octets, Service::Imap), Ok(sample()));
}

#[test]
fn required_fields_are_missed() {
    let optional = [Field::TlsVersion, Field::TlsCipher, Field::Quota].map(Field::id);
    let all = split(&encoded(&sample()));
    assert_eq!(all.len(), 12);
    for (left_out, _) in &all {
        let octets: Vec<u8> = all
            .iter()
            .filter(|(id, _)| id != left_out)
            .flat_map(|(id, value)| field(*id, value))
            .collect();
        let result = Context::decode(&octets, Service::Imap);
        if *left_out == Field::Quota.id() {
            assert_eq!(result.unwrap().quota, None);
        } else if optional.contains(left_out) {
            // One TLS word without the other is no TLS description.
            assert!(matches!(result, Err(ContextError::Missing(_))));
        } else {
            assert!(
                matches!(result, Err(ContextError::Missing(field)) if field.id() == *left_out),
                "{left_out}"
            );
        }
    }
}

#[test]
fn duplicates_are_refused_even_of_unknown_fields() {
    for id in [1, 10, 99, 255] {
        let mut octets = encoded(&sample());
        if id > 12 {
            octets.extend(field(id, b"x"));
        }
        octets.extend(field(id, b"x"));
        assert_eq!(
            Context::decode(&octets, Service::Imap),
            Err(ContextError::Duplicate(id))
        );
    }
}

#[test]
fn a_cut_context_is_refused_at_every_offset() {
    let octets = encoded(&sample());
    for len in 0..octets.len() {
        assert!(
            Context::decode(&octets[..len], Service::Imap).is_err(),
            "{len}"
        );
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let cases: &[(Field, &[&[u8]])] = &[
        (
            Field::Account,
            &[b"", b"a\nb", b"a\0", b"\xff", &[b'a'; 256]],
        ),
        (Field::Session, &[b"", b"a b", b"a\tb", &[b'a'; 65]]),
        (
            Field::Client,
            &[b"", b"12345", b"1234567", &[0; 17], &[0; 19]],
        ),
        (Field::Local, &[b"", &[0; 16]]),
        (Field::Protocol, &[b"", b"IMAP", b"mailstore", b"smtp"]),
        (Field::TlsVersion, &[b"", b"a\r", &[b'a'; 65]]),
        (Field::TlsCipher, &[b"", "a\u{85}".as_bytes(), &[b'a'; 65]]),
        (Field::Uid, &[b"", b"\0\0\0", b"\0\0\0\0\0"]),
        (Field::Gid, &[b"", b"\0\0\0", b"\0\0\0\0\0"]),
        (
            Field::Home,
            &[b"", b"a\x1fb", b"a\x7f", b"\xc3", &[b'a'; 4096]],
        ),
        (Field::Quota, &[b"", b"\0\0\0\0", &[0; 9]]),
        (Field::Hops, &[b"", b"\0\0"]),
    ];
    for (field, values) in cases {
        for value in *values {
            assert_eq!(
                with(&sample(), field.id(), value),
                Err(ContextError::Value(*field)),
                "{field:?} {value:?}"
            );
        }
    }
}

#[test]
fn a_service_is_opened_for_its_own_protocol() {
    for service in [Service::Pop3, Service::Mailstore] {
        assert_eq!(
            Context::decode(&encoded(&sample()), service),
            Err(ContextError::Service)
        );
    }
    // Behind the header: the word, and its length before it.
    let body = OpenBody::session(&sample()).unwrap().unsealed;
    assert_eq!(body[4..9], *b"\x04imap");
    let mail = MailContext {
        session: sample().session,
    };
    let body = OpenBody::mail(&mail).unsealed;
    assert_eq!(body[4..14], *b"\x09mailstore");
}

#[test]
fn a_link_for_mail_is_opened_with_an_id_and_no_account() {
    let mail = MailContext {
        session: sample().session,
    };
    let mut octets = Vec::new();
    mail.encode(&mut octets);
    assert_eq!(octets, field(2, sample().session.as_str().as_bytes()));
    let decode = |octets: &[u8]| Purpose::decode(octets, Service::Mailstore);
    assert_eq!(decode(&octets), Ok(Purpose::Mail(mail.clone())));
    fuzz(&octets);
    // A later front may say more, of whatever kind.
    let longer = [octets.clone(), field(1, b"\n"), field(99, b"")].concat();
    assert_eq!(decode(&longer), Ok(Purpose::Mail(mail)));
    let twice = [octets.clone(), octets.clone()].concat();
    assert_eq!(decode(&twice), Err(ContextError::Duplicate(2)));
    assert_eq!(decode(b""), Err(ContextError::Missing(Field::Session)));
    for value in [&b""[..], b"a b", b"a\r", &[b'a'; 65]] {
        let wrong = decode(&field(2, value));
        assert_eq!(wrong, Err(ContextError::Value(Field::Session)), "{value:?}");
    }
    for len in 1..octets.len() {
        assert_eq!(decode(&octets[..len]), Err(ContextError::Cut), "{len}");
    }
}

#[test]
fn text_that_cannot_be_sent_is_not() {
    for home in ["", "a\nb"] {
        let context = Context {
            home: home.to_owned(),
            ..sample()
        };
        assert_eq!(
            context.encode(&mut Vec::new()),
            Err(ContextError::Value(Field::Home))
        );
    }
}
