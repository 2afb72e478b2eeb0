//! Servers whose answers are nested as deep as they like, too long, or of no length at all: over plain connections, StartTLS and
//! TLS the process goes on, and the server has not answered.

use std::io::Write as _;

use bytes::BytesMut;
use ldap3::asn1::{
    ASNTag as _, Integer, OctetString, PL, Sequence, StructureTag, Tag, TagClass, parse_tag, write,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// As deep as is taken.
const DEPTH: usize = 16;

/// Sequences in sequences, this many.
fn nested(depth: usize) -> Vec<u8> {
    // From the innermost out, and so from the end.
    let mut octets = Vec::new();
    for _ in 0..depth {
        let length = octets.len();
        match u8::try_from(length) {
            Ok(short @ ..0x80) => octets.push(short),
            _ => {
                octets.extend(u32::try_from(length).unwrap().to_le_bytes());
                octets.push(0x84);
            }
        }
        octets.push(0x30);
    }
    octets.reverse();
    octets
}

fn is_taken(octets: &[u8]) -> bool {
    parse_tag(octets).is_ok()
}

/// Whether more octets could make it right.
fn is_incomplete(octets: &[u8]) -> bool {
    parse_tag(octets).is_err_and(|error| error.is_incomplete())
}

#[test]
fn answers_have_limits() {
    assert!(is_taken(&nested(DEPTH)));
    for depth in [DEPTH + 1, 8_000, 1_000_000] {
        let octets = nested(depth);
        assert!(!is_taken(&octets) && !is_incomplete(&octets), "{depth}");
    }
    // As many values as there may be, and one more.
    for (count, taken) in [((1 << 18) - 1, true), (1 << 18, false)] {
        let mut octets = vec![0x30, 0x83];
        octets.extend_from_slice(&u32::to_be_bytes(count * 2)[1..]);
        octets.extend([5, 0].repeat(usize::try_from(count).unwrap()));
        assert_eq!(is_taken(&octets), taken, "{count}");
        assert!(!is_incomplete(&octets), "{count}");
    }
    for wrong in [
        // Indefinite, within a sequence too; and a length of more octets than any has.
        &b"\x30\x80\x05\x00\x00\x00"[..],
        b"\x30\x04\x30\x80\x00\x00",
        b"\x30\x85\x00\x00\x00\x00\x00",
        b"\x30\xff",
        // 16 MiB and one octet, and four GiB: before there is any of it.
        b"\x30\x84\x01\x00\x00\x01",
        b"\x04\x84\xff\xff\xff\xff",
        // Longer than what it is in; or its length is.
        b"\x30\x03\x04\x02\x00",
        b"\x30\x02\x04\x82",
        b"\x30\x01\x04",
        // A tag of more than one octet.
        b"\x3f\x20\x00",
    ] {
        assert!(!is_taken(wrong), "{wrong:x?}");
        assert!(!is_incomplete(wrong), "{wrong:x?}");
    }
    let whole = nested(DEPTH);
    for length in 0..whole.len() {
        assert!(is_incomplete(&whole[..length]), "{length}");
    }
    assert!(is_incomplete(b"\x30\x84\x01\x00\x00\x00"));
}

#[test]
fn what_is_written_is_read() {
    let text = |length: usize| {
        Tag::OctetString(OctetString {
            inner: vec![b'x'; length],
            ..OctetString::default()
        })
    };
    let numbers = [0, 1, 127, 128, 255, 256, -1, -128, -129, i64::MAX, i64::MIN];
    let numbers = numbers.map(|inner| {
        Tag::Integer(Integer {
            inner,
            ..Integer::default()
        })
    });
    let value = Tag::Sequence(Sequence {
        id: 30,
        class: TagClass::Application,
        inner: [0, 127, 128, 255, 256, 65_535, 65_536]
            .map(text)
            .into_iter()
            .chain(numbers)
            .collect(),
    });
    let value = value.into_structure();
    let mut octets = BytesMut::new();
    write::encode_into(&mut octets, value.clone()).unwrap();
    octets.extend_from_slice(b"more");
    assert_eq!(parse_tag(&octets), Ok((&b"more"[..], value.clone())));
    let PL::C(values) = value.payload else {
        panic!("not a sequence");
    };
    // In as few octets as hold it, with its sign.
    let short: Vec<_> = values.into_iter().skip(7).collect();
    let octets = |value: StructureTag| value.expect_primitive().unwrap();
    let written: Vec<_> = short.into_iter().map(octets).collect();
    assert_eq!(
        written[..9],
        [
            &[0][..],
            &[1],
            &[127],
            &[0, 128],
            &[0, 255],
            &[1, 0],
            &[255],
            &[128],
            &[255, 127],
        ]
    );
    // 30 is the last tag of one octet.
    let large = StructureTag {
        class: TagClass::Context,
        id: 31,
        payload: PL::P(Vec::new()),
    };
    assert!(write::encode_into(&mut BytesMut::new(), large).is_err());
}

/// How a hostile server is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Plain,
    StartTls,
    Tls,
}

/// What a server does with its clients.
#[derive(Clone)]
struct Hostile {
    way: Way,
    tls: Arc<ServerConfig>,
    /// What it says whatever it is asked.
    answer: Vec<u8>,
    /// How many have heard all of that, or as much as they wanted.
    told: Arc<std::sync::atomic::AtomicUsize>,
}

impl Hostile {
    async fn serve(self, mut socket: TcpStream) {
        if self.way == Way::StartTls {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let go_on = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
            let _ = socket.write_all(go_on).await;
        }
        if self.way == Way::Plain {
            return self.answer(socket).await;
        }
        if let Ok(stream) = TlsAcceptor::from(Arc::clone(&self.tls))
            .accept(socket)
            .await
        {
            self.answer(stream).await;
        }
    }

    async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(&self.answer).await;
        let _ = stream.flush().await;
        self.told.fetch_add(1, Ordering::Relaxed);
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

/// One for this machine, and the file that says to trust it.
fn certificate() -> (tempfile::NamedTempFile, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    let der = {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        STANDARD.encode(made.cert.der())
    };
    write!(
        authority,
        "-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n"
    )
    .unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = ServerConfig::builder_with_provider(crate::net::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (authority, Arc::new(tls))
}

#[tokio::test]
async fn no_server_ends_the_process() {
    let (authority, tls) = certificate();
    for way in [Way::Plain, Way::StartTls, Way::Tls] {
        let bound = match way {
            Way::StartTls => b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
            Way::Plain | Way::Tls => b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
        };
        for answer in [
            nested(8_000),
            nested(1_000_000),
            [&bound[..], &nested(100_000)].concat(),
            [&bound[..], b"\x30\x80\x02\x01\x02\x64\x00\x00\x00"].concat(),
            [&bound[..], b"\x30\x84\xff\xff\xff\xff\x02\x01\x02"].concat(),
            b"\x30\x09\x02\x01\x01\x61\x82\x0f\xff\x0a\x01".to_vec(),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (server, tasks) = (
                Hostile {
                    way,
                    tls: Arc::clone(&tls),
                    answer,
                    told: Arc::default(),
                },
                Tasks::new(),
            );
            let (serving, serve) = (tasks.clone(), server.clone());
            tasks.spawn("hostile server", async move {
                while let Ok((socket, _)) = listener.accept().await {
                    serving.spawn("hostile connection", serve.clone().serve(socket));
                }
            });
            let scheme = if way == Way::Tls { "ldaps" } else { "ldap" };
            let uri = format!("{scheme}://localhost:{port}");
            let directory = start(but(settings(uri, Verify::Bind), |ldap| {
                ldap.timeout = Duration::from_secs(1);
                ldap.start_tls = way == Way::StartTls;
                ldap.ca_file = Some(authority.path().to_owned());
            }));
            assert_eq!(
                log_in(&directory, "ann", "secret").await,
                "unavailable",
                "{way:?}"
            );
            assert!(server.told.load(Ordering::Relaxed) > 0, "{way:?}");
            tasks.drain(Duration::ZERO).await;
        }
    }
}
