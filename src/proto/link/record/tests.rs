//! Framing and the fields of each kind.

use super::*;

#[test]
fn a_header_alone_says_what_to_read() {
    let cases: &[(&[u8; 4], Kind, Result<usize, RecordError>)] = &[
        (b"\x01\x03\x00\x20", Kind::Proven, Ok(32)),
        (
            b"\x01\x03\x00\x21",
            Kind::Proven,
            Err(RecordError::Length(Kind::Proven)),
        ),
        (
            b"\x01\x03\x00\x1f",
            Kind::Proven,
            Err(RecordError::Length(Kind::Proven)),
        ),
        (b"\x01\x04\x20\x00", Kind::Open, Ok(8192)),
        (
            b"\x01\x04\x20\x01",
            Kind::Open,
            Err(RecordError::Length(Kind::Open)),
        ),
        (
            b"\x02\x04\x00\x40",
            Kind::Open,
            Err(RecordError::Version(2)),
        ),
        (
            b"\x00\x04\x00\x40",
            Kind::Open,
            Err(RecordError::Version(0)),
        ),
        (
            b"\x01\x02\x00\x40",
            Kind::Open,
            Err(RecordError::Kind {
                expected: Kind::Open,
                got: 2,
            }),
        ),
        (
            b"\x15\x03\x03\x00",
            Kind::Hello,
            Err(RecordError::Tls(Kind::Hello)),
        ),
    ];
    for (header, due, expected) in cases {
        assert_eq!(body_len(**header, *due), *expected, "{header:?}");
    }
}

#[test]
fn a_preface_tells_tls_from_noise() {
    assert_eq!(check_preface(PREFACE), Ok(()));
    assert_eq!(
        check_preface(*b"\x16\x03\x01\x00\xc0\x01\x00\x00"),
        Err(PrefaceError::Tls)
    );
    assert_eq!(check_preface(*b"GET / HT"), Err(PrefaceError::Other));
}

#[test]
fn verdicts_read_back_as_written() {
    for verdict in [
        Verdict::Ok(Opening::Capability),
        Verdict::Ok(Opening::PlusOk),
        Verdict::Ok(Opening::Preauth),
        Verdict::Ok(Opening::Ready(String::new())),
        Verdict::Ok(Opening::Ready("x".repeat(MAX_CAPABILITY_BYTES))),
        Verdict::Ok(Opening::Silent),
        Verdict::Ok(Opening::Tagged),
        Verdict::Refused(Refusal::Forbidden),
        Verdict::Refused(Refusal::InUse),
        Verdict::Refused(Refusal::Limit),
        Verdict::Refused(Refusal::Unavailable),
    ] {
        let octets = verdict.encode();
        assert_eq!(Verdict::decode(&octets[HEADER_BYTES..]), Ok(verdict));
    }
    for fields in [
        &b""[..],
        b"\0",
        b"\0\0",
        b"\0\x07",
        b"\0\x02x",
        b"\x01\0",
        b"\x01\x05",
        b"\x02\x01",
        b"\0\x01A\r\n",
        b"\0\x01\xff",
    ] {
        assert_eq!(
            Verdict::decode(fields),
            Err(RecordError::Malformed(Kind::Verdict)),
            "{fields:?}"
        );
    }
}

#[test]
fn a_capability_text_that_does_not_fit_is_a_refusal() {
    for text in ["IMAP4rev1\r\nx".to_owned(), "x".repeat(4097)] {
        assert_eq!(
            Verdict::Ok(Opening::Ready(text)).encode(),
            Verdict::Refused(Refusal::Unavailable).encode()
        );
    }
}

#[test]
fn a_hello_that_allows_no_time_is_refused() {
    let hello = Hello {
        channel: ChannelKind::None,
        idle_limit: Duration::from_millis(1),
        nonce: [7; NONCE_BYTES],
        node: NodeName::parse("n").unwrap(),
    };
    let mut octets = hello.encode();
    assert_eq!(
        Hello::decode(&octets).unwrap().idle_limit,
        Duration::from_secs(1)
    );
    octets[8] = 0;
    assert_eq!(
        Hello::decode(&octets),
        Err(RecordError::Malformed(Kind::Hello))
    );
}
