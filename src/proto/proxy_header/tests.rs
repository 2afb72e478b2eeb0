//! Headers octet by octet: what is written, what is taken, and every wrong form by its name.

use std::net::SocketAddr;

use super::*;

fn header(client: &str, local: &str, version: Version) -> Vec<u8> {
    let tls = ClientTls {
        version: "TLSv1.3".to_owned(),
        cipher: "AES".to_owned(),
    };
    let session = SessionId::parse("sess-0001").unwrap();
    let header = ProxyHeader {
        client: ClientAddr(client.parse().unwrap()),
        local: LocalAddr(local.parse().unwrap()),
        session: &session,
        tls: Some(&tls),
    };
    let mut out = BytesMut::new();
    header.put(version, &mut out);
    out.to_vec()
}

#[test]
fn version_1_is_a_line() {
    for (client, local, line) in [
        (
            "192.0.2.77:4242",
            "192.0.2.1:993",
            "PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n",
        ),
        (
            "[::ffff:192.0.2.77]:4242",
            "192.0.2.1:993",
            "PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n",
        ),
        (
            "[2001:db8::77]:1",
            "[2001:db8::1]:993",
            "PROXY TCP6 2001:db8::77 2001:db8::1 1 993\r\n",
        ),
        (
            "192.0.2.77:4242",
            "[2001:db8::1]:993",
            "PROXY TCP6 ::ffff:192.0.2.77 2001:db8::1 4242 993\r\n",
        ),
    ] {
        let octets = header(client, local, Version::V1);
        assert_eq!(String::from_utf8(octets).unwrap(), line);
    }
}

#[test]
fn version_2_has_the_octets_of_the_protocol() {
    let octets = header("192.0.2.77:4242", "[::ffff:192.0.2.1]:993", Version::V2);
    let expected = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x30"[..],
        &[192, 0, 2, 77, 192, 0, 2, 1, 0x10, 0x92, 0x03, 0xe1],
        b"\x05\0\x09sess-0001",
        b"\x20\0\x15\x01\0\0\0\x01\x21\0\x07TLSv1.3\x23\0\x03AES",
    ]
    .concat();
    assert_eq!(
        octets.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    let octets = header("[2001:db8::77]:1", "192.0.2.1:993", Version::V2);
    let mapped = "[::ffff:192.0.2.1]:993".parse::<SocketAddr>().unwrap();
    let SocketAddr::V6(mapped) = mapped else {
        panic!("not IPv6");
    };
    assert_eq!(octets[32..48], mapped.ip().octets());
    let said = whole(&octets);
    assert_eq!(
        said.addresses,
        addresses("[2001:db8::77]:1", "192.0.2.1:993")
    );
}

#[test]
fn a_header_of_our_own_names_nobody() {
    for (version, expected) in [
        (Version::V1, &b"PROXY UNKNOWN\r\n"[..]),
        (Version::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let mut out = BytesMut::new();
        put_own(version, &mut out);
        assert_eq!(out, expected);
        assert_eq!(whole(&out), Introduction::default());
    }
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let session = SessionId::parse(&"s".repeat(64)).unwrap();
    property(b"", &session);
    for octet in 0..=255 {
        property(&[octet; 3], &session);
        property(&[octet; 40], &session);
        property(
            &[1, 2, octet, 3, 4, 5, 6, 7, 8, octet.wrapping_mul(7), 9],
            &session,
        );
    }
}

// === taking ===

fn whole(octets: &[u8]) -> Introduction {
    let (used, introduction) = Decoder::default().take(octets).unwrap();
    assert_eq!(used, octets.len());
    introduction.unwrap()
}

fn wrong(octets: &[u8]) -> HeaderError {
    let shown = octets.escape_ascii().to_string();
    fuzz(octets);
    match Decoder::default().take(octets) {
        Ok(taken) => panic!("{shown}: {taken:?}"),
        Err(error) => error,
    }
}

fn addresses(client: &str, local: &str) -> Option<(ClientAddr, LocalAddr)> {
    let (client, local) = (client.parse().unwrap(), local.parse().unwrap());
    Some((ClientAddr(client), LocalAddr(local)))
}

/// A header of version 2 with this command and family.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_v2(command, family, rest, &mut out);
    out.to_vec()
}

const V4: &[u8] = &[192, 0, 2, 77, 192, 0, 2, 1, 0x10, 0x92, 0x03, 0xe1];

/// A header for TCP over IPv4 with these TLVs.
fn with(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[V4, tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_tlv(kind, value, &mut out);
    out.to_vec()
}

#[test]
fn version_1_is_taken_as_senders_write_it() {
    for (line, said) in [
        (
            "PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n",
            addresses("192.0.2.77:4242", "192.0.2.1:993"),
        ),
        (
            "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
            addresses("255.255.255.255:65535", "0.0.0.0:0"),
        ),
        (
            "PROXY TCP6 2001:db8::77 2001:DB8:0:0:0:0:0:1 1 993\r\n",
            addresses("[2001:db8::77]:1", "[2001:db8::1]:993"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.77 ::1 1 993\r\n",
            addresses("192.0.2.77:1", "[::1]:993"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN whatever  192.0.2.1 stands here\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             65535 65535\r\n",
            None,
        ),
    ] {
        fuzz(line.as_bytes());
        assert_eq!(whole(line.as_bytes()).addresses, said, "{line}");
    }
}

#[test]
fn version_1_has_107_octets_at_most() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert_eq!(line(107).len(), 107);
    assert_eq!(whole(line(107).as_bytes()), Introduction::default());
    assert_eq!(wrong(line(108).as_bytes()), HeaderError::Long);
    assert_eq!(wrong(line(109).as_bytes()), HeaderError::Long);
    // And is not waited for any longer.
    let endless = line(200).into_bytes();
    let mut decoder = Decoder::default();
    assert_eq!(decoder.take(&endless[..106]), Ok((106, None)));
    assert_eq!(decoder.take(b"x"), Err(HeaderError::Long));
}

#[test]
fn every_wrong_form_of_version_1_is_refused_by_name() {
    use HeaderError::{Address, Character, Family, LineEnd, Port, Start, Words};
    for (line, error) in [
        ("proxy TCP4 192.0.2.77 192.0.2.1 1 2\r\n", Start),
        ("PROXY\r\n", Start),
        ("PROXY\tTCP4 192.0.2.77 192.0.2.1 1 2\r\n", Start),
        (" PROXY TCP4 192.0.2.77 192.0.2.1 1 2\r\n", Start),
        ("\r\nPROXY TCP4 192.0.2.77 192.0.2.1 1 2\r\n", Start),
        ("a LOGIN ann password\r\n", Start),
        ("GET / HTTP/1.1\r\n", Start),
        ("\u{16}\u{3}\u{1}", Start),
        ("PROXY \r\n", Family),
        ("PROXY  TCP4 192.0.2.77 192.0.2.1 1 2\r\n", Family),
        ("PROXY tcp4 192.0.2.77 192.0.2.1 1 2\r\n", Family),
        ("PROXY TCP5 192.0.2.77 192.0.2.1 1 2\r\n", Family),
        ("PROXY UDP4 192.0.2.77 192.0.2.1 1 2\r\n", Family),
        ("PROXY UNKNOWNS\r\n", Family),
        ("PROXY TCP4\r\n", Words),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1\r\n", Words),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 2 3\r\n", Words),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 2 \r\n", Words),
        ("PROXY TCP4  192.0.2.77 192.0.2.1 1 2\r\n", Words),
        ("PROXY TCP4 192.0.2.77 192.0.2.1  2\r\n", Words),
        ("PROXY TCP4 192.0.2.77 192.0.2.01 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.077 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 3221226061 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 0x7f.0.0.1 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 ::1 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Address),
        ("PROXY TCP4 localhost 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP6 192.0.2.77 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP6 ::1 192.0.2.1 1 2\r\n", Address),
        ("PROXY TCP6 [::1] ::1 1 2\r\n", Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Address),
        ("PROXY TCP6 1::2::3 ::1 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 01 2\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 +1 2\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 -1 2\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 65536\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 00\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 a 2\r\n", Port),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 2\n", LineEnd),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1 2\r\r\n", LineEnd),
        ("PROXY TCP4 192.0.2.77\r192.0.2.1 1 2\r\n", LineEnd),
        ("PROXY UNKNOWN\n", LineEnd),
        ("PROXY UNKNOWN \n\r\n", LineEnd),
        ("PROXY UNKNOWN \0\r\n", Character),
        ("PROXY UNKNOWN \u{e9}\r\n", Character),
        ("PROXY TCP4 192.0.2.77 192.0.2.1 1\t2\r\n", Character),
        ("PROXY TCP4\t192.0.2.77 192.0.2.1 1 2\r\n", Character),
    ] {
        assert_eq!(wrong(line.as_bytes()), error, "{line:?}");
    }
    assert_eq!(wrong(b"PROXY UNKNOWN \xff\r\n"), Character);
}

#[test]
fn version_2_is_taken_with_whatever_it_does_not_need() {
    let plain = with(b"");
    assert_eq!(
        whole(&plain),
        Introduction {
            addresses: addresses("192.0.2.77:4242", "192.0.2.1:993"),
            ..Introduction::default()
        }
    );
    let tlvs = [
        tlv(0x01, b"imap"),
        tlv(0x02, b"mail.example.org"),
        tlv(0x04, &[0; 9]),
        tlv(0x30, b"blue"),
        tlv(0xea, b"\x01vpce"),
        tlv(0xff, b""),
    ];
    let header = with(&tlvs.concat());
    fuzz(&header);
    assert_eq!(whole(&header), whole(&plain));
    // An IPv4 address in an IPv6 one is IPv4.
    let mut ips = [0_u8; 36];
    ips[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 77]);
    ips[31] = 1;
    let said = whole(&v2(0x21, 0x21, &ips)).addresses;
    assert_eq!(said, addresses("192.0.2.77:0", "[::1]:0"));
}

#[test]
fn of_local_nothing_counts_but_its_length() {
    for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
        for rest in [&b""[..], V4, b"\x03\0\x04abcd", b"\x05\xff\xff"] {
            let header = v2(0x20, family, rest);
            fuzz(&header);
            assert_eq!(whole(&header), Introduction::default());
        }
    }
}

#[test]
fn every_wrong_form_of_version_2_is_refused_by_name() {
    use HeaderError::{Checksum, Command, Family, Id, Long, Short, Start, Tlv, Twice, Version};
    let mut other = with(b"");
    other[11] = b'\r';
    let twice = |value: &[u8], kind| [tlv(kind, value), tlv(kind, value)].concat();
    let tls = |inside: &[u8]| with(&tlv(0x20, &[b"\x01\0\0\0\0", inside].concat()));
    for (name, header, error) in [
        ("signature", other, Start),
        ("version 1 in octets", v2(0x11, 0x11, V4), Version),
        ("version 3", v2(0x31, 0x11, V4), Version),
        ("version 0", v2(0x01, 0x11, V4), Version),
        ("command 2", v2(0x22, 0x11, V4), Command),
        ("command 15", v2(0x2f, 0x11, V4), Command),
        ("unspecified", v2(0x21, 0x00, V4), Family),
        ("TCP over nothing", v2(0x21, 0x01, V4), Family),
        ("UDP over IPv4", v2(0x21, 0x12, V4), Family),
        ("UDP over IPv6", v2(0x21, 0x22, &[0; 36]), Family),
        ("a Unix socket", v2(0x21, 0x31, &[0; 216]), Family),
        ("IPv4 cut off", v2(0x21, 0x11, &V4[..11]), Short),
        ("IPv6 cut off", v2(0x21, 0x21, &[0; 35]), Short),
        ("no addresses", v2(0x21, 0x11, b""), Short),
        ("too long", v2(0x21, 0x11, &[0; 4097]), Long),
        ("too long for nothing", v2(0x20, 0x00, &[0; 4097]), Long),
        ("half a TLV", with(b"\x04\0"), Tlv),
        ("a TLV past the end", with(b"\x04\0\x02a"), Tlv),
        ("a short checksum", with(&tlv(0x03, b"abc")), Tlv),
        ("a long checksum", with(&tlv(0x03, b"abcde")), Tlv),
        ("a wrong checksum", with(&tlv(0x03, b"abcd")), Checksum),
        ("no checksum", with(&tlv(0x03, &[0; 4])), Checksum),
        ("two checksums", with(&twice(&[0; 4], 0x03)), Twice),
        ("a long id", with(&tlv(0x05, &[b'x'; 129])), Id),
        ("two ids", with(&twice(b"x", 0x05)), Twice),
        ("TLS without flags", with(&tlv(0x20, b"\x01\0\0\0")), Tlv),
        ("two of TLS", with(&twice(b"\x01\0\0\0\0", 0x20)), Twice),
        ("half a version", tls(b"\x21\0"), Tlv),
        ("a version past the end", tls(b"\x21\0\x03ab"), Tlv),
        ("two versions", tls(&twice(b"TLSv1.3", 0x21)), Twice),
        ("two ciphers", tls(&twice(b"AES", 0x23)), Twice),
    ] {
        assert_eq!(wrong(&header), error, "{name}");
    }
}

#[test]
fn what_is_wrong_is_seen_before_the_rest_has_come() {
    use HeaderError::{Command, Family, Long, Short, Start, Version};
    for (octets, error) in [
        (&b"a"[..], Start),
        (b"PROXZ", Start),
        (b"\r\n\r\n\0\r\nQUIT\r", Start),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", Version),
        (b"\r\n\r\n\0\r\nQUIT\n\x22", Command),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12", Family),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b", Short),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x01", Long),
    ] {
        let (last, before) = octets.split_last().unwrap();
        let mut decoder = Decoder::default();
        assert_eq!(decoder.take(before), Ok((before.len(), None)));
        assert_eq!(decoder.take(&[*last]), Err(error));
        wrong(octets);
    }
}

#[test]
fn a_checksum_of_another_program_fits() {
    // The vector of RFC 3720, B.4, for 32 octets of zeros; and it is blind to nothing but its place.
    assert_eq!(decode::crc32c(&[0; 32], 0..0), 0x8a91_36aa);
    assert_eq!(decode::crc32c(&[0xff; 32], 0..0), 0x62a8_ab43);
    assert_eq!(decode::crc32c(&[0xff; 32], 0..32), 0x8a91_36aa);
    let mut header = with(&[tlv(0x03, &[0; 4]), tlv(0x05, b"id")].concat());
    let place = header.len() - 9..header.len() - 5;
    let sum = decode::crc32c(&header, place.clone());
    header[place].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(whole(&header).id.as_deref(), Some("id"));
    // But where the TLV's own kind is, with which it is another.
    for position in (16..header.len()).filter(|position| *position != 28) {
        let mut flipped = header.clone();
        flipped[position] ^= 1;
        assert!(Decoder::default().take(&flipped).is_err(), "{position}");
    }
}

#[test]
fn an_id_is_taken_if_a_log_can_have_it() {
    for (id, taken) in [
        (&b"7F000001:C0DE_1"[..], true),
        (&[b'x'; 128], true),
        (b"", false),
        (b"two words", false),
        (b"line\r\n", false),
        (b"\0", false),
        (b"caf\xc3\xa9", false),
        (b"\xff", false),
    ] {
        let header = with(&tlv(0x05, id));
        fuzz(&header);
        let expected = taken.then(|| String::from_utf8(id.to_vec()).unwrap());
        assert_eq!(whole(&header).id, expected);
    }
}

#[test]
fn tls_is_what_has_the_flag_and_a_version() {
    let said = |flags: u8, inside: &[&[u8]]| {
        let header = with(&tlv(
            0x20,
            &[&[flags, 0, 0, 0, 1], &*inside.concat()].concat(),
        ));
        fuzz(&header);
        whole(&header).tls
    };
    let (version, cipher) = (tlv(0x21, b"TLSv1.3"), tlv(0x23, b"AES"));
    let other = [
        tlv(0x22, b"CN of a client"),
        tlv(0x24, b"RSA"),
        tlv(0x77, b""),
    ]
    .concat();
    let tls = |cipher: Option<&str>| {
        Some(Tls {
            version: "TLSv1.3".to_owned(),
            cipher: cipher.map(str::to_owned),
        })
    };
    assert_eq!(said(0x01, &[&version, &cipher]), tls(Some("AES")));
    assert_eq!(said(0x07, &[&cipher, &other, &version]), tls(Some("AES")));
    assert_eq!(said(0x01, &[&version]), tls(None));
    assert_eq!(said(0x01, &[&version, &tlv(0x23, b"A B")]), tls(None));
    assert_eq!(said(0x01, &[&cipher]), None);
    assert_eq!(said(0x01, &[&tlv(0x21, b"TLS\n")]), None);
    assert_eq!(said(0x01, &[&tlv(0x21, &[b'x'; 65])]), None);
    assert_eq!(said(0x00, &[&version, &cipher]), None);
    assert_eq!(said(0x06, &[&version, &cipher]), None);
}

#[test]
fn what_follows_a_header_is_left_alone() {
    let v1 = b"PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n".to_vec();
    for header in [v1, with(&tlv(0x05, b"id")), v2(0x20, 0, b"")] {
        for more in [
            &b"a LOGIN ann pw\r\n"[..],
            b"\x16\x03\x01",
            &header,
            b"\r\n",
        ] {
            let octets = [&header, more].concat();
            fuzz(&octets);
            let (used, introduction) = Decoder::default().take(&octets).unwrap();
            assert_eq!(used, header.len());
            assert_eq!(introduction.unwrap(), whole(&header));
        }
    }
}

/// As HAProxy 2.6 wrote it, with all that it can say.
#[test]
fn a_header_of_haproxy_is_taken_whole() {
    let header = include_bytes!("../../../fuzz/corpus/proxy_header/v2-all-tlvs");
    assert_eq!(
        whole(header),
        Introduction {
            addresses: addresses("127.0.0.77:52361", "127.0.0.1:24004"),
            id: Some("7F00004D:CC89_6B0B8EFB_0003".to_owned()),
            tls: Some(Tls {
                version: "TLSv1.3".to_owned(),
                cipher: Some("TLS_AES_256_GCM_SHA384".to_owned()),
            }),
        }
    );
}
