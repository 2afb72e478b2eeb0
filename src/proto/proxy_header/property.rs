//! What holds for any header, for fuzzing and the tests: what is encoded decodes to itself; and whatever arrives, in
//! whatever pieces, is taken or refused the same way, octet for octet.
#![allow(
    clippy::expect_used,
    reason = "a property of the fuzz target and the tests panics when it does not hold"
)]

use std::net::Ipv4Addr;

use super::{
    decode::{CRC32C, crc32c},
    *,
};

/// What no decoder needs to see.
const LONGEST: usize = 16 + 4096;

/// What came of taking octets.
type Taken = Result<(usize, Option<Introduction>), HeaderError>;

/// Holds for any octets, taken as they are, as the line of version 1 and as what follows the head of version 2, so that
/// more than a few of them get far.
///
/// # Panics
///
/// When it does not hold.
pub fn fuzz(data: &[u8]) {
    for octets in [data, &[b"PROXY ", data, b"\r\n"].concat()] {
        let _taken = received(octets);
    }
    if let Some((way, data)) = data.split_first() {
        let family = if way & 1 == 0 { TCP4 } else { TCP6 };
        let command = if way & 2 == 0 { PROXY } else { LOCAL };
        let mut out = BytesMut::new();
        put_v2(command, family, data, &mut out);
        let plain = received(&out);
        summed(command, family, data, &plain);
    }
    let session = SessionId::from_random([7; 12]);
    property(data, &session);
}

/// A right checksum behind everything else changes nothing, and a wrong one is seen.
fn summed(command: u8, family: u8, data: &[u8], plain: &Taken) {
    if data.len() > 1024 {
        return;
    }
    let mut rest = BytesMut::from(data);
    put_tlv(CRC32C, &[0; 4], &mut rest);
    let mut out = BytesMut::new();
    put_v2(command, family, &rest, &mut out);
    let place = out.len().saturating_sub(4)..out.len();
    let sum = crc32c(&out, place.clone());
    let with = |sum: u32| {
        let mut octets = out.to_vec();
        octets.truncate(place.start);
        octets.extend_from_slice(&sum.to_be_bytes());
        received(&octets)
    };
    if let Ok((_, said)) = plain {
        match with(sum) {
            Ok((_, summed)) => assert_eq!(&summed, said),
            // What was taken had one already.
            Err(error) => assert!(matches!(error, HeaderError::Twice), "{error}"),
        }
        let wrong = with(!sum);
        if command == PROXY {
            wrong.expect_err("a wrong checksum");
        }
    }
}

/// Takes octets at once, cut in two at every place, and one by one.
fn received(octets: &[u8]) -> Taken {
    let at_once = Decoder::default().take(octets);
    if let Ok((used, introduction)) = &at_once {
        assert!(*used <= octets.len() && *used <= LONGEST.max(octets.len()));
        // All of it is the header's, or the header is whole.
        assert!(introduction.is_some() || *used == octets.len());
        if let Some(introduction) = introduction {
            assert!(*used <= LONGEST);
            sane(introduction);
            let (header, _) = octets.split_at(*used);
            assert_eq!(Decoder::default().take(header), at_once, "what follows");
        }
    }
    let pieces = octets.iter().map(std::slice::from_ref);
    assert_eq!(piecemeal(pieces), at_once, "octet by octet");
    for cut in 0..octets.len().min(128) {
        let (one, two) = octets.split_at(cut);
        assert_eq!(piecemeal([one, two].into_iter()), at_once, "cut at {cut}");
    }
    at_once
}

fn piecemeal<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Taken {
    let mut decoder = Decoder::default();
    let mut used: usize = 0;
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let (more, introduction) = decoder.take(piece)?;
        used = used.saturating_add(more);
        if introduction.is_some() {
            return Ok((used, introduction));
        }
        assert_eq!(more, piece.len(), "not all was taken, and no more is there");
    }
    Ok((used, None))
}

/// Nothing in it can break a line of a log, and it can be said again.
fn sane(introduction: &Introduction) {
    let Introduction { addresses, id, tls } = introduction;
    let cipher = tls.as_ref().and_then(|tls| tls.cipher.as_ref());
    for text in id
        .iter()
        .chain(tls.iter().map(|tls| &tls.version))
        .chain(cipher)
    {
        assert!(text.bytes().all(|octet| octet.is_ascii_graphic()), "{text}");
        assert!((1..=128).contains(&text.len()));
    }
    let Some((client, local)) = *addresses else {
        return;
    };
    assert_eq!(client.0.ip(), client.0.ip().to_canonical());
    let session = SessionId::from_random([7; 12]);
    let again = ProxyHeader {
        client,
        local,
        session: &session,
        tls: None,
    };
    for version in [Version::V1, Version::V2] {
        let mut out = BytesMut::new();
        again.put(version, &mut out);
        let said = Decoder::default().take(&out).expect("a header").1;
        assert_eq!(said.expect("whole").addresses, *addresses);
    }
}

/// Holds for any addresses, ids and TLS words: what is encoded decodes to itself, in one family, and is short. The
/// octets become addresses, ports and words.
///
/// # Panics
///
/// When it does not hold.
pub fn property(octets: &[u8], session: &SessionId) {
    let mut padded = octets.iter().copied().chain(std::iter::repeat(0));
    let mut next = || padded.next().unwrap_or_default();
    let mut address = || {
        let port = u16::from_be_bytes([next(), next()]);
        let ip = match next() % 3 {
            0 => IpAddr::from([next(), next(), next(), next()]),
            1 => Ipv4Addr::new(next(), next(), next(), next())
                .to_ipv6_mapped()
                .into(),
            _ => IpAddr::from(std::array::from_fn::<u8, 16, _>(|_| next())),
        };
        SocketAddr::new(ip, port)
    };
    let (client, local) = (address(), address());
    let text: String = String::from_utf8_lossy(octets).chars().take(16).collect();
    let tls = ClientTls {
        version: "TLSv1.3".to_owned(),
        cipher: text,
    };
    let form = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let addresses = Some((ClientAddr(form(client)), LocalAddr(form(local))));
    for tls in [None, Some(&tls)] {
        let said = ProxyHeader {
            client: ClientAddr(client),
            local: LocalAddr(local),
            session,
            tls,
        };
        let [v1, v2] = [Version::V1, Version::V2].map(|version| {
            let mut out = BytesMut::new();
            said.put(version, &mut out);
            assert!(out.len() <= 512);
            let (used, header) = Decoder::default().take(&out).expect("a header");
            assert_eq!(used, out.len());
            header.expect("whole")
        });
        assert_eq!((v1.addresses, v2.addresses), (addresses, addresses));
        assert_eq!(v2.id.as_deref(), Some(session.as_str()));
        // A receiver of ours takes no blanks.
        let is_word = |text: &String| {
            let mut octets = text.bytes();
            !text.is_empty() && octets.all(|octet| octet.is_ascii_graphic())
        };
        let words = tls.map(|tls| Tls {
            version: tls.version.clone(),
            cipher: Some(tls.cipher.clone()).filter(is_word),
        });
        assert_eq!(v2.tls, words);
    }
}
