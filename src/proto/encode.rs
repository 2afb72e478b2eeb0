//! What is written into other servers' protocols: one encoder per form, fields from a fixed list.
//!
//! | form | encoder | how a value is kept a value |
//! | --- | --- | --- |
//! | IMAP `ID` argument (RFC 2971) | [`imap_id`] | quoted string; `"` and `\` escaped, all but printable ASCII refused |
//! | POP3 `XCLIENT` (Dovecot's) | [`pop3_xclient`] | addresses, numbers and ids; `FORWARD` tab-escaped, then base64 |
//! | PROXY protocol, versions 1 and 2 | [`ProxyHeader::put`](super::proxy_header::ProxyHeader::put) | addresses and ports; TLVs by their lengths |
//! | Dovecot's `imap-master` request | [`ImapMaster::line`] | tab-escaped; values inside `userdb_fields` twice; octets as base64 |
//! | arguments and environment | [`Template`](super::template::Template) | one text each; NUL refused |
//!
//! The second escaping matters: Dovecot takes a field of `userdb_fields` that it does not know as a setting, so a tab in
//! a home folder would set any setting of Dovecot's.
//!
//! Nothing here decides what is sent; it does no I/O. Limits: none of its own, since names, ids and homes have theirs.
//! On failure, an [`EncodeError`] before anything was written. For each encoder there is a decoder, compiled for tests and
//! fuzzing only, and `property`, which decodes what was encoded.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut as _, BytesMut};
use zeroize::Zeroize as _;

use crate::names::{AccountName, ClientAddr, LocalAddr, SessionId};

/// Dovecot's tab-escaping: what is escaped, and the letter that stands for it behind 0x01.
const TAB_ESCAPES: [(u8, u8); 5] = [
    (b'\0', b'0'),
    (0x01, b'1'),
    (b'\t', b't'),
    (b'\r', b'r'),
    (b'\n', b'n'),
];

/// The longest value that Dovecot takes in `ID`.
const MAX_FORWARD_BYTES: usize = 1024;

/// The longest line that Dovecot's pop3-login reads, its end included.
const MAX_XCLIENT_BYTES: usize = 1024;

/// The first line either side of an `imap-master` connection says, up to the minor version.
pub const IMAP_MASTER_VERSION: &str = "VERSION\timap-master\t1\t";

/// Why something can't be written in a form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// An octet that ends an argument or variable.
    #[error("value holds NUL")]
    Nul,
    /// What is filled in would make an option of an argument.
    #[error("value begins an argument with \"-\"")]
    Option,
    /// An octet that no quoted string may hold.
    #[error("value cannot stand in a quoted string")]
    Quoted,
}

/// What a real server is told of client and account before it logs in.
#[derive(Clone, Copy, Debug)]
pub struct ClientId<'a> {
    /// Where the client connected from.
    pub client: ClientAddr,
    /// Where it connected to.
    pub local: LocalAddr,
    /// The session's id.
    pub session: &'a SessionId,
    /// How many proxies may still follow.
    pub ttl: u8,
    /// The account's uid, for a server that would have to look it up.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Its home folder, absolute.
    pub home: &'a str,
}

/// A request to Dovecot's `imap-master` socket.
#[derive(Clone, Copy, Debug)]
pub struct ImapMaster<'a> {
    /// The account.
    pub account: &'a AccountName,
    /// Where the client connected from.
    pub client: ClientAddr,
    /// Where it connected to.
    pub local: LocalAddr,
    /// The session's id.
    pub session: &'a SessionId,
    /// When the session began, in seconds of Unix time.
    pub created: i64,
    /// Device of the socket that is passed: major, minor.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
    /// The uid to become.
    pub uid: u32,
    /// The gid to become.
    pub gid: u32,
    /// The home folder, absolute.
    pub home: &'a str,
    /// What Dovecot writes to the socket first.
    pub output: &'a [u8],
    /// What it takes as if it had read it from the socket.
    pub input: &'a [u8],
}

/// Writes `ID (...)`: the command without its tag and line end. The field names are Dovecot's, for clients in its
/// `login_trusted_networks`; other servers log them or pass over them. What begins with `x-forward-` is Dovecot's to use
/// in its passdb, as `%{passdb:forward_uid}`; a home that can't be quoted or is longer than Dovecot takes is left out.
///
/// # Errors
///
/// When a value can't be quoted, which no address, number or session id can cause.
pub fn imap_id(id: &ClientId<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (client, local) = (canonical(id.client.0), canonical(id.local.0));
    let mut command = BytesMut::with_capacity(256);
    command.put_slice(b"ID (");
    let home = Some(id.home).filter(|home| home.len() <= MAX_FORWARD_BYTES && is_quotable(home));
    let fields = [
        ("x-originating-ip", client.ip().to_string()),
        ("x-originating-port", client.port().to_string()),
        ("x-connected-ip", local.ip().to_string()),
        ("x-connected-port", local.port().to_string()),
        ("x-session-id", id.session.as_str().to_owned()),
        ("x-proxy-ttl", id.ttl.to_string()),
        ("x-forward-uid", id.uid.to_string()),
        ("x-forward-gid", id.gid.to_string()),
    ];
    let home = home.map(|home| ("x-forward-home", home.to_owned()));
    for (index, (name, value)) in fields.into_iter().chain(home).enumerate() {
        if index > 0 {
            command.put_u8(b' ');
        }
        quoted(name, &mut command)?;
        command.put_u8(b' ');
        quoted(&value, &mut command)?;
    }
    command.put_u8(b')');
    out.extend_from_slice(&command);
    Ok(())
}

/// Writes `XCLIENT ...` without its line end, as Dovecot's pop3-login takes it from its `login_trusted_networks`. What
/// stands in FORWARD is Dovecot's to use in its passdb, as `%{passdb:forward_uid}`; a home that makes the line longer than
/// Dovecot reads is left out.
pub fn pop3_xclient(id: &ClientId<'_>, out: &mut BytesMut) {
    let with = |home: Option<&str>| {
        let client = canonical(id.client.0);
        let mut fields = Vec::new();
        tab_field("uid", id.uid.to_string().as_bytes(), &mut fields);
        fields.push(b'\t');
        tab_field("gid", id.gid.to_string().as_bytes(), &mut fields);
        if let Some(home) = home {
            fields.push(b'\t');
            tab_field("home", home.as_bytes(), &mut fields);
        }
        format!(
            "XCLIENT ADDR={} PORT={} SESSION={} TTL={} FORWARD={}",
            client.ip(),
            client.port(),
            id.session.as_str(),
            id.ttl,
            BASE64.encode(fields),
        )
    };
    let mut command = with(Some(id.home));
    if command.len().saturating_add(2) > MAX_XCLIENT_BYTES {
        command = with(None);
    }
    out.put_slice(command.as_bytes());
}

impl ImapMaster<'_> {
    /// The request as one line, its end included.
    pub fn line(&self) -> Vec<u8> {
        let (client, local) = (canonical(self.client.0), canonical(self.local.0));
        let mut userdb = Vec::new();
        for (index, (name, value)) in [
            ("uid", self.uid.to_string()),
            ("gid", self.gid.to_string()),
            ("home", self.home.to_owned()),
        ]
        .into_iter()
        .enumerate()
        {
            if index > 0 {
                userdb.push(b'\t');
            }
            tab_field(name, value.as_bytes(), &mut userdb);
        }
        let mut line = Vec::new();
        tab_escape(self.account.as_str().as_bytes(), &mut line);
        for (name, value) in [
            ("lip", local.ip().to_string().into_bytes()),
            ("lport", local.port().to_string().into_bytes()),
            ("rip", client.ip().to_string().into_bytes()),
            ("rport", client.port().to_string().into_bytes()),
            ("peer_dev_major", self.device.0.to_string().into_bytes()),
            ("peer_dev_minor", self.device.1.to_string().into_bytes()),
            ("peer_ino", self.inode.to_string().into_bytes()),
            ("session", self.session.as_str().as_bytes().to_vec()),
            ("session_created", self.created.to_string().into_bytes()),
            ("userdb_fields", userdb),
            ("client_input", BASE64.encode(self.input).into_bytes()),
            ("client_output", BASE64.encode(self.output).into_bytes()),
            // No mailbox is selected.
            ("state", BASE64.encode("base\n").into_bytes()),
        ] {
            line.push(b'\t');
            tab_field(name, &value, &mut line);
        }
        line.push(b'\n');
        line
    }
}

/// An IPv4 client on a socket that takes both families is an IPv4 client.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_quotable(value: &str) -> bool {
    value.bytes().all(|octet| matches!(octet, b' '..=b'~'))
}

/// Writes a quoted string (RFC 9051, section 9).
fn quoted(value: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
    if !is_quotable(value) {
        return Err(EncodeError::Quoted);
    }
    out.put_u8(b'"');
    for octet in value.bytes() {
        if matches!(octet, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(octet);
    }
    out.put_u8(b'"');
    Ok(())
}

fn tab_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    tab_escape(value, out);
}

fn tab_escape(value: &[u8], out: &mut Vec<u8>) {
    for octet in value {
        match TAB_ESCAPES.iter().find(|(escaped, _)| escaped == octet) {
            Some((_, letter)) => out.extend_from_slice(&[0x01, *letter]),
            None => out.push(*octet),
        }
    }
}

/// Wipes what a secret was written into on its way to a socket.
pub fn wipe(out: &mut BytesMut) {
    out.as_mut().zeroize();
    out.clear();
}

#[cfg(any(fuzzing, test))]
pub use decode::property;

/// The decoders: they read the forms by their own rules, not by the encoders' tables.
#[cfg(any(fuzzing, test))]
mod decode {
    use super::*;
    use crate::{
        names::Protocol,
        proto::{link::Context, proxy_header, template},
    };

    /// A name and its value.
    type Pair = (Vec<u8>, Vec<u8>);

    /// Reads `ID ("name" "value" ...)`.
    pub(super) fn imap_id(command: &[u8]) -> Option<Vec<Pair>> {
        let mut rest = command.strip_prefix(b"ID (")?;
        let mut strings = Vec::new();
        loop {
            let (string, after) = quoted(rest)?;
            strings.push(string);
            match after.split_first()? {
                (b' ', after) => rest = after,
                (b')', []) => break,
                _ => return None,
            }
        }
        let mut pairs = Vec::new();
        let mut strings = strings.into_iter();
        while let Some(name) = strings.next() {
            pairs.push((name, strings.next()?));
        }
        Some(pairs)
    }

    /// Reads one quoted string off the front.
    pub(super) fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let mut rest = text.strip_prefix(b"\"")?;
        let mut string = Vec::new();
        loop {
            rest = match rest {
                [b'"', rest @ ..] => return Some((string, rest)),
                [b'\\', octet @ (b'"' | b'\\'), rest @ ..]
                | [octet @ (b' ' | b'!' | b'#'..=b'[' | b']'..=b'~'), rest @ ..] => {
                    string.push(*octet);
                    rest
                }
                _ => return None,
            };
        }
    }

    /// Reads `XCLIENT name=value ...`: its fields, and those inside FORWARD.
    pub(super) fn pop3_xclient(command: &[u8]) -> Option<(Vec<Pair>, Vec<Pair>)> {
        let mut fields: Vec<_> = command
            .strip_prefix(b"XCLIENT ")?
            .split(|octet| *octet == b' ')
            .map(|field| pair(field.to_vec()))
            .collect::<Option<_>>()?;
        let (name, forward) = fields.pop()?;
        let forward = tab_fields(&BASE64.decode(forward).ok()?)?;
        let forward = forward.into_iter().map(pair).collect::<Option<_>>()?;
        (name == b"FORWARD").then_some((fields, forward))
    }

    /// Splits at tabs and takes one level of tab-escaping off each part.
    pub(super) fn tab_fields(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        line.split(|octet| *octet == b'\t')
            .map(tab_unescape)
            .collect()
    }

    pub(super) fn tab_unescape(value: &[u8]) -> Option<Vec<u8>> {
        let mut octets = Vec::new();
        let mut rest = value.iter();
        while let Some(octet) = rest.next() {
            octets.push(match octet {
                0x01 => match rest.next()? {
                    b'0' => 0,
                    b'1' => 1,
                    b't' => 9,
                    b'n' => 10,
                    b'r' => 13,
                    _ => return None,
                },
                0 | 9 | 10 | 13 => return None,
                other => *other,
            });
        }
        Some(octets)
    }

    /// Reads an `imap-master` request into user and fields.
    pub(super) fn imap_master(line: &[u8]) -> Option<(Vec<u8>, Vec<Pair>)> {
        let mut fields = tab_fields(line.strip_suffix(b"\n")?)?.into_iter();
        let user = fields.next()?;
        Some((user, fields.map(pair).collect::<Option<_>>()?))
    }

    pub(super) fn pair(field: Vec<u8>) -> Option<Pair> {
        let equals = field.iter().position(|octet| *octet == b'=')?;
        let (name, value) = field.split_at(equals);
        Some((name.to_vec(), value.strip_prefix(b"=")?.to_vec()))
    }

    /// Holds for any octets: what is encoded decodes to itself, and what can't be encoded is refused.
    ///
    /// # Panics
    ///
    /// When it does not hold.
    #[allow(
        clippy::expect_used,
        reason = "a property of the fuzz target and the tests panics when it does not hold"
    )]
    pub fn property(octets: &[u8]) {
        let mut escaped = Vec::new();
        tab_escape(octets, &mut escaped);
        assert_eq!(tab_unescape(&escaped).as_deref(), Some(octets));

        let session = std::str::from_utf8(octets)
            .ok()
            .and_then(|text| SessionId::parse(text).ok())
            .unwrap_or(SessionId::from_random([7; 12]));
        proxy_header::property(octets, &session);

        let Ok(text) = std::str::from_utf8(octets) else {
            return;
        };
        let mut string = BytesMut::new();
        match super::quoted(text, &mut string) {
            Ok(()) => assert_eq!(quoted(&string), Some((octets.to_vec(), &b""[..]))),
            Err(_) => assert!(octets.iter().any(|octet| !(32..127).contains(octet))),
        }

        let account = AccountName::parse("ann").expect("a name");
        id_property(octets, &session);
        let id = ClientId {
            client: ClientAddr(([192, 0, 2, 77], 4242).into()),
            local: LocalAddr(([192, 0, 2, 1], 995).into()),
            session: &session,
            ttl: 5,
            uid: 1001,
            gid: 1002,
            home: text,
        };
        xclient_property(&id);
        let request = ImapMaster {
            account: &AccountName::parse(text).unwrap_or(account),
            client: ClientAddr(([192, 0, 2, 77], 4242).into()),
            local: LocalAddr(([192, 0, 2, 1], 993).into()),
            session: &session,
            created: 1,
            device: (0, 8),
            inode: 9,
            uid: 1001,
            gid: 1002,
            home: text,
            output: octets,
            input: octets,
        };
        master_property(&request);
        template_property(text, &request);
    }

    fn template_property(text: &str, request: &ImapMaster<'_>) {
        let context = Context {
            account: request.account.clone(),
            session: request.session.clone(),
            client: request.client,
            local: request.local,
            protocol: Protocol::Imap,
            tls: None,
            uid: request.uid,
            gid: request.gid,
            home: "ann".to_owned(),
            quota: None,
            hops: 0,
        };
        template::property(text, &context);
    }

    #[allow(
        clippy::expect_used,
        reason = "a property of the fuzz target and the tests panics when it does not hold"
    )]
    fn id_property(octets: &[u8], session: &SessionId) {
        let mut address = [0; 16];
        address
            .iter_mut()
            .zip(octets)
            .for_each(|(to, from)| *to = *from);
        let (client, ttl) = (SocketAddr::from((address, 993)), address[0]);
        let id = ClientId {
            client: ClientAddr(client),
            local: LocalAddr(client),
            session,
            ttl,
            uid: 1001,
            gid: 1002,
            home: "/srv/mail/ann",
        };
        let mut command = BytesMut::new();
        super::imap_id(&id, &mut command).expect("nothing that can't be quoted");
        let pairs = imap_id(&command).expect("an argument of ID");
        let values = [
            client.ip().to_canonical().to_string(),
            "993".to_owned(),
            client.ip().to_canonical().to_string(),
            "993".to_owned(),
            session.to_string(),
            ttl.to_string(),
            "1001".to_owned(),
            "1002".to_owned(),
            "/srv/mail/ann".to_owned(),
        ];
        assert!(
            pairs
                .iter()
                .map(|(_, value)| value.as_slice())
                .eq(values.iter().map(String::as_bytes))
        );
    }

    #[allow(
        clippy::expect_used,
        reason = "a property of the fuzz target and the tests panics when it does not hold"
    )]
    fn xclient_property(id: &ClientId<'_>) {
        let mut command = BytesMut::new();
        super::pop3_xclient(id, &mut command);
        assert!(command.len() + 2 <= MAX_XCLIENT_BYTES);
        assert!(!command.iter().any(u8::is_ascii_control));
        let (fields, forward) = pop3_xclient(&command).expect("one line of fields");
        let named = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(
            fields,
            [
                named("ADDR", "192.0.2.77"),
                named("PORT", "4242"),
                named("SESSION", id.session.as_str()),
                named("TTL", "5"),
            ]
        );
        let mut expected = vec![named("uid", "1001"), named("gid", "1002")];
        if forward.len() > 2 || id.home.len() < 300 {
            expected.push(named("home", id.home));
        }
        assert_eq!(forward, expected);
    }

    #[allow(
        clippy::expect_used,
        reason = "a property of the fuzz target and the tests panics when it does not hold"
    )]
    fn master_property(request: &ImapMaster<'_>) {
        let (user, fields) = imap_master(&request.line()).expect("one line of fields");
        assert_eq!(user, request.account.as_str().as_bytes());
        let names: Vec<_> = fields
            .iter()
            .map(|(name, _)| name.escape_ascii().to_string())
            .collect();
        assert_eq!(
            names.join(" "),
            "lip lport rip rport peer_dev_major peer_dev_minor peer_ino session session_created \
             userdb_fields client_input client_output state"
        );
        let value = |name: &str| {
            fields
                .iter()
                .find(|(found, _)| found == name.as_bytes())
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let userdb: Vec<_> = tab_fields(&value("userdb_fields"))
            .expect("fields inside a field")
            .into_iter()
            .map(pair)
            .collect();
        assert_eq!(
            userdb,
            [
                Some((b"uid".to_vec(), b"1001".to_vec())),
                Some((b"gid".to_vec(), b"1002".to_vec())),
                Some((b"home".to_vec(), request.home.as_bytes().to_vec())),
            ]
        );
        assert_eq!(
            BASE64.decode(value("client_output")).expect("base64"),
            request.output
        );
        assert_eq!(
            BASE64.decode(value("client_input")).expect("base64"),
            request.input
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        SessionId::parse("sess-0001").unwrap()
    }

    #[test]
    fn an_id_names_the_client() {
        let mut out = BytesMut::new();
        let session = session();
        let id = ClientId {
            client: ClientAddr("[::ffff:192.0.2.77]:4242".parse().unwrap()),
            local: LocalAddr("[2001:db8::1]:993".parse().unwrap()),
            session: &session,
            ttl: 5,
            uid: 1001,
            gid: 1002,
            home: "/srv/mail/a \"b\"",
        };
        imap_id(&id, &mut out).unwrap();
        let pairs = decode::imap_id(&out).unwrap();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        assert_eq!(
            pairs.join(" "),
            "x-originating-ip=192.0.2.77 x-originating-port=4242 x-connected-ip=2001:db8::1 \
             x-connected-port=993 x-session-id=sess-0001 x-proxy-ttl=5 \
             x-forward-uid=1001 x-forward-gid=1002 x-forward-home=/srv/mail/a \\\"b\\\""
        );
    }

    #[test]
    fn a_home_that_cannot_be_quoted_is_not_forwarded() {
        let session = session();
        for home in [
            "/srv/mail/Zo\u{eb}".to_owned(),
            format!("/{}", "x".repeat(1024)),
        ] {
            let id = ClientId {
                client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
                local: LocalAddr("192.0.2.1:993".parse().unwrap()),
                session: &session,
                ttl: 5,
                uid: 1001,
                gid: 1002,
                home: &home,
            };
            let mut out = BytesMut::new();
            imap_id(&id, &mut out).unwrap();
            let pairs = decode::imap_id(&out).unwrap();
            assert_eq!(pairs.last().unwrap().0, b"x-forward-gid");
        }
    }

    #[test]
    fn an_xclient_is_a_line_that_dovecot_reads() {
        let session = session();
        let of = |home: &str| {
            let id = ClientId {
                client: ClientAddr("[2001:db8::7]:4242".parse().unwrap()),
                local: LocalAddr("[2001:db8::1]:995".parse().unwrap()),
                session: &session,
                ttl: 5,
                uid: 1001,
                gid: 1002,
                home,
            };
            let mut out = BytesMut::new();
            pop3_xclient(&id, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let start = "XCLIENT ADDR=2001:db8::7 PORT=4242 SESSION=sess-0001 TTL=5 FORWARD=";
        let forward = BASE64.encode("uid=1001\tgid=1002\thome=/a\x01tmail=x");
        assert_eq!(of("/a\tmail=x"), format!("{start}{forward}"));
        let longest =
            (MAX_XCLIENT_BYTES - 2 - start.len()) / 4 * 3 - "uid=1001\tgid=1002\thome=".len();
        let home = "x".repeat(longest);
        let forward = BASE64.encode(format!("uid=1001\tgid=1002\thome={home}"));
        assert_eq!(of(&home), format!("{start}{forward}"));
        let forward = BASE64.encode("uid=1001\tgid=1002");
        assert_eq!(of(&format!("{home}x")), format!("{start}{forward}"));
    }

    #[test]
    fn a_request_is_one_line_in_a_fixed_form() {
        let session = session();
        let request = ImapMaster {
            account: &AccountName::parse("ann").unwrap(),
            client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
            local: LocalAddr("192.0.2.1:993".parse().unwrap()),
            session: &session,
            created: 1_700_000_000,
            device: (0, 8),
            inode: 4711,
            uid: 1001,
            gid: 1002,
            home: "/srv/mail/a\tmail=/etc\x01",
            output: b"v",
            input: b"x CAPABILITY\r\n",
        };
        // The tab of the home is escaped as 0x01 t, and this 0x01 as 0x01 1.
        assert_eq!(
            request.line().escape_ascii().to_string(),
            "ann\\tlip=192.0.2.1\\tlport=993\\trip=192.0.2.77\\trport=4242\\tpeer_dev_major=0\\t\
             peer_dev_minor=8\\tpeer_ino=4711\\tsession=sess-0001\\tsession_created=1700000000\\t\
             userdb_fields=uid=1001\\x01tgid=1002\\x01thome=/srv/mail/a\\x011tmail=/etc\\x0111\\t\
             client_input=eCBDQVBBQklMSVRZDQo=\\tclient_output=dg==\\tstate=YmFzZQo=\\n"
        );
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        property(b"");
        for octet in 0..=255 {
            property(&[octet]);
            property(&[b'a', octet, b't', octet]);
        }
        property(b"a \"quoted\" \\ string\r\na OK");
        property(&[b'\t'; 1000]);
        property("Zo\u{eb}\thome=/etc\u{1}t\0".as_bytes());
    }

    #[test]
    fn a_wiped_buffer_is_empty() {
        let mut out = BytesMut::from(&b"secret"[..]);
        wipe(&mut out);
        assert!(out.is_empty());
    }
}
