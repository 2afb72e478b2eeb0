//! Arguments and environment of a server that is started, with places for what the front said of user and client.
//!
//! | place | stands for |
//! | --- | --- |
//! | `%u`, `%n`, `%d` | the account; the part before its last `@` (all of it when there is none); the part after it, or nothing |
//! | `%{home}` | the home folder, absolute |
//! | `%{client_ip}` `%{client_port}` `%{local_ip}` `%{local_port}` | the client's address, and the one that it connected to |
//! | `%{session}` `%{protocol}` | the session's id; `imap` or `pop3` |
//! | `%{tls}` `%{tls_version}` `%{tls_cipher}` | `1` for a client with TLS, else `0`; its version and cipher, or nothing |
//! | `%{uid}` `%{gid}` `%{quota}` | the account's ids; its quota in octets, or nothing |
//! | `%%` | a percent sign |
//!
//! A template becomes one text, whatever the values hold: nothing splits it, no shell sees it, and a value is never read
//! for places again. What it is for is up to the caller: the value of a variable may be any text, but what a value begins
//! is no argument when it begins with `-`, since a program might take it for an option. Names are never templates.
//!
//! Limits: none of its own, since names, ids and homes have theirs. On failure: a place that is not known is refused when the
//! template is read; NUL, which would end an argument early, in the template or when it is rendered; an option when it is rendered.

use super::{
    encode::{EncodeError, canonical},
    link::Context,
};

/// The places, as they are written.
const PLACES: [(&str, Place); 16] = [
    ("u", Place::Account),
    ("n", Place::LocalPart),
    ("d", Place::Domain),
    ("{home}", Place::Home),
    ("{client_ip}", Place::ClientIp),
    ("{client_port}", Place::ClientPort),
    ("{local_ip}", Place::LocalIp),
    ("{local_port}", Place::LocalPort),
    ("{session}", Place::Session),
    ("{protocol}", Place::Protocol),
    ("{tls}", Place::Tls),
    ("{tls_version}", Place::TlsVersion),
    ("{tls_cipher}", Place::TlsCipher),
    ("{uid}", Place::Uid),
    ("{gid}", Place::Gid),
    ("{quota}", Place::Quota),
];

/// One text with places.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(Vec<Piece>);

/// What the places are filled with.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// What the front said.
    pub context: &'a Context,
    /// The home folder, absolute.
    pub home: &'a str,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Place(Place),
    Text(String),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Account,
    ClientIp,
    ClientPort,
    Domain,
    Gid,
    Home,
    LocalIp,
    LocalPart,
    LocalPort,
    Protocol,
    Quota,
    Session,
    Tls,
    TlsCipher,
    TlsVersion,
    Uid,
}

/// Why a text is no template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// It holds NUL.
    #[error("holds NUL")]
    Nul,
    /// A percent sign stands before something else than a place.
    #[error("%{0} is no place (known: {known})", known = known())]
    Place(String),
}

impl Template {
    /// Reads a text of the configuration.
    ///
    /// # Errors
    ///
    /// When a percent sign begins no place that is known, or the text holds NUL.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.contains('\0') {
            return Err(TemplateError::Nul);
        }
        let (first, rest) = text
            .split_once('%')
            .map_or((text, None), |(first, rest)| (first, Some(rest)));
        let mut pieces = Vec::new();
        push_text(&mut pieces, first);
        let mut rest = rest;
        while let Some(text) = rest {
            let text = if let Some(text) = text.strip_prefix('%') {
                push_text(&mut pieces, "%");
                text
            } else {
                let (place, text) = place(text)?;
                pieces.push(Piece::Place(place));
                text
            };
            let (literal, next) = text
                .split_once('%')
                .map_or((text, None), |(literal, next)| (literal, Some(next)));
            push_text(&mut pieces, literal);
            rest = next;
        }
        Ok(Self(pieces))
    }

    /// The text for one session.
    ///
    /// # Errors
    ///
    /// When a value holds NUL, which no context can cause.
    pub fn render(&self, values: &Values<'_>) -> Result<String, EncodeError> {
        let text: String = self
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Place(place) => place.value(values),
                Piece::Text(text) => text.clone(),
            })
            .collect();
        if text.contains('\0') {
            return Err(EncodeError::Nul);
        }
        Ok(text)
    }

    /// The text for one session, as an argument.
    ///
    /// # Errors
    ///
    /// As for [`Template::render`], and when a value makes an option of it.
    pub fn render_argument(&self, values: &Values<'_>) -> Result<String, EncodeError> {
        let text = self.render(values)?;
        if text.starts_with('-') && matches!(self.0.first(), Some(Piece::Place(_))) {
            return Err(EncodeError::Option);
        }
        Ok(text)
    }
}

impl Place {
    fn value(self, values: &Values<'_>) -> String {
        let Values { context, home } = *values;
        let account = context.account.as_str();
        let (client, local) = (canonical(context.client.0), canonical(context.local.0));
        let tls = context.tls.as_ref();
        match self {
            Self::Account => account.to_owned(),
            Self::ClientIp => client.ip().to_string(),
            Self::ClientPort => client.port().to_string(),
            Self::Domain => account
                .rsplit_once('@')
                .map_or("", |(_, domain)| domain)
                .to_owned(),
            Self::Gid => context.gid.to_string(),
            Self::Home => home.to_owned(),
            Self::LocalIp => local.ip().to_string(),
            Self::LocalPart => account
                .rsplit_once('@')
                .map_or(account, |(local, _)| local)
                .to_owned(),
            Self::LocalPort => local.port().to_string(),
            Self::Protocol => context.protocol.as_str().to_owned(),
            Self::Quota => context
                .quota
                .map(|octets| octets.to_string())
                .unwrap_or_default(),
            Self::Session => context.session.as_str().to_owned(),
            Self::Tls => u8::from(tls.is_some()).to_string(),
            Self::TlsCipher => tls.map(|tls| tls.cipher.clone()).unwrap_or_default(),
            Self::TlsVersion => tls.map(|tls| tls.version.clone()).unwrap_or_default(),
            Self::Uid => context.uid.to_string(),
        }
    }
}

/// Takes a place off the front of what follows a percent sign.
fn place(text: &str) -> Result<(Place, &str), TemplateError> {
    for (word, place) in PLACES {
        if let Some(rest) = text.strip_prefix(word) {
            return Ok((place, rest));
        }
    }
    let end = match text.find('}') {
        Some(end) if text.starts_with('{') => end.saturating_add(1),
        Some(_) | None => text.chars().next().map_or(0, char::len_utf8),
    };
    let word = text.get(..end).unwrap_or_default();
    Err(TemplateError::Place(word.escape_debug().take(32).collect()))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        Some(Piece::Place(_)) | None => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn known() -> String {
    let mut words: Vec<_> = PLACES.iter().map(|(word, _)| format!("%{word}")).collect();
    words.push("%%".to_owned());
    words.join(" ")
}

/// Holds for any text: as a value it comes out as it is, alone and between others; as a template it is refused or rendered
/// as a reader of its own rules does.
///
/// # Panics
///
/// When it does not hold.
#[cfg(any(fuzzing, test))]
#[allow(
    clippy::expect_used,
    reason = "a property of the fuzz target and the tests panics when it does not hold"
)]
pub(super) fn property(text: &str, context: &Context) {
    let values = Values {
        context,
        home: text,
    };
    for (before, after) in [("", ""), ("a ", " b"), ("%%", "%%u"), ("{", "}")] {
        let template = Template::parse(&format!("{before}%{{home}}{after}")).expect("a template");
        let (before, after) = (before.replace("%%", "%"), after.replace("%%", "%"));
        match template.render(&values) {
            Ok(rendered) => assert_eq!(rendered, format!("{before}{text}{after}")),
            Err(_) => assert!(text.contains('\0')),
        }
    }
    let values = Values {
        context,
        home: "/h%u",
    };
    match Template::parse(text) {
        Ok(template) => assert_eq!(template.render(&values), Ok(read(text, context))),
        Err(TemplateError::Nul) => assert!(text.contains('\0')),
        Err(TemplateError::Place(_)) => assert!(text.contains('%')),
    }
    // Doubled percent signs are the text itself.
    if let Ok(template) = Template::parse(&text.replace('%', "%%")) {
        assert_eq!(template.render(&values).as_deref(), Ok(text));
    }
}

/// Fills a template that was taken, by its longest words first, one character at a time.
#[cfg(any(fuzzing, test))]
fn read(text: &str, context: &Context) -> String {
    let account = context.account.as_str();
    let mut parts = account.rsplitn(2, '@');
    let (local, domain) = match (parts.next(), parts.next()) {
        (Some(domain), Some(local)) => (local, domain),
        _ => (account, ""),
    };
    let mut filled = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let found = [
            ("%%", "%".to_owned()),
            ("%u", context.account.to_string()),
            ("%n", local.to_owned()),
            ("%d", domain.to_owned()),
            ("%{home}", "/h%u".to_owned()),
            ("%{client_ip}", "192.0.2.77".to_owned()),
            ("%{client_port}", "4242".to_owned()),
            ("%{local_ip}", "192.0.2.1".to_owned()),
            ("%{local_port}", "993".to_owned()),
            ("%{session}", context.session.to_string()),
            ("%{protocol}", "imap".to_owned()),
            ("%{tls}", "0".to_owned()),
            ("%{tls_version}", String::new()),
            ("%{tls_cipher}", String::new()),
            ("%{uid}", "1001".to_owned()),
            ("%{gid}", "1002".to_owned()),
            ("%{quota}", String::new()),
        ]
        .into_iter()
        .find_map(|(word, value)| Some((rest.strip_prefix(word)?, value)));
        rest = match found {
            Some((after, value)) => {
                filled.push_str(&value);
                after
            }
            None => {
                filled.push(first);
                rest.strip_prefix(first).unwrap_or_default()
            }
        };
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{AccountName, ClientAddr, LocalAddr, Protocol, SessionId},
        proto::link::context::ClientTls,
    };

    fn context() -> Context {
        Context {
            account: AccountName::parse("ann@example.org").unwrap(),
            session: SessionId::parse("sess-0001").unwrap(),
            client: ClientAddr("[::ffff:192.0.2.77]:4242".parse().unwrap()),
            local: LocalAddr("[2001:db8::1]:993".parse().unwrap()),
            protocol: Protocol::Imap,
            tls: Some(ClientTls {
                version: "TLSv1.3".to_owned(),
                cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
            }),
            uid: 1001,
            gid: 1002,
            home: "ann".to_owned(),
            quota: Some(1_000_000),
            hops: 1,
        }
    }

    fn render(text: &str, context: &Context) -> String {
        let home = "/srv/mail/a %u\n$(b)";
        let values = Values { context, home };
        Template::parse(text).unwrap().render(&values).unwrap()
    }

    #[test]
    fn every_place_is_filled() {
        let mut context = context();
        for (text, filled) in [
            ("", ""),
            ("-c", "-c"),
            ("%u %n %d %%", "ann@example.org ann example.org %"),
            ("%{home}", "/srv/mail/a %u\n$(b)"),
            ("%{client_ip}:%{client_port}", "192.0.2.77:4242"),
            ("%{local_ip} %{local_port}", "2001:db8::1 993"),
            ("%{session}/%{protocol}", "sess-0001/imap"),
            (
                "%{tls} %{tls_version} %{tls_cipher}",
                "1 TLSv1.3 TLS13_AES_256_GCM_SHA384",
            ),
            ("%{uid}.%{gid}", "1001.1002"),
            ("%{quota}S", "1000000S"),
            ("100%%%u%%", "100%ann@example.org%"),
        ] {
            assert_eq!(render(text, &context), filled, "{text}");
        }
        (context.tls, context.quota) = (None, None);
        context.account = AccountName::parse("ann").unwrap();
        assert_eq!(
            render("%{tls}%{tls_version}%{tls_cipher}%{quota}", &context),
            "0"
        );
        assert_eq!(render("%u|%n|%d", &context), "ann|ann|");
    }

    #[test]
    fn what_is_no_place_is_named_with_those_that_are() {
        for (text, word) in [
            ("%x", "%x"),
            ("a%", "%"),
            ("%{homes}", "%{homes}"),
            ("%{home", "%{"),
            ("%U", "%U"),
            ("%\u{1f600}}", "%\u{1f600}"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{word} is no place (known: %u %n %d %{{home}} ")),
                "{error}"
            );
            assert!(error.ends_with("%{quota} %%)"), "{error}");
        }
        assert_eq!(Template::parse("a\0"), Err(TemplateError::Nul));
    }

    #[test]
    fn nul_is_refused_in_a_value() {
        let context = context();
        let values = Values {
            context: &context,
            home: "/a\0b",
        };
        let template = Template::parse("%{home}").unwrap();
        assert_eq!(template.render(&values), Err(EncodeError::Nul));
    }

    #[test]
    fn no_value_makes_an_option_of_an_argument() {
        let mut context = context();
        context.account = AccountName::parse("-c@example.org").unwrap();
        (context.tls, context.quota) = (None, None);
        let values = Values {
            context: &context,
            home: "/h",
        };
        for (text, argument) in [
            ("%u", Err(EncodeError::Option)),
            ("%n%d", Err(EncodeError::Option)),
            ("%{quota}%u", Err(EncodeError::Option)),
            ("%d", Ok("example.org")),
            ("-u%n", Ok("-u-c")),
            ("--user=%u", Ok("--user=-c@example.org")),
            ("%{home}/%n", Ok("/h/-c")),
        ] {
            let template = Template::parse(text).unwrap();
            let rendered = template.render_argument(&values);
            assert_eq!(rendered.as_deref(), argument.as_ref().copied(), "{text}");
            assert!(template.render(&values).is_ok(), "{text}");
        }
    }
}
