//! `[proxy.tls]`: certificates, the keys of tickets, and what is asked of clients.
//!
//! All files are read, to try them: whatever is wrong with any of them is told with its key. That a certificate has
//! expired, or that two have the same name, is said and no problem: a front that serves most clients is better than
//! none.

use std::{path::PathBuf, time::Duration};

use super::{DAY, files, form, section::Section};
use crate::{
    net::tls::{
        Certificate, ClientSettings, Clients, Files, LoginFrom, Settings, TicketKeys, TlsError,
        clashes,
    },
    outcome::chain,
};

const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Whether a certificate is asked for, and whether it must be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Off,
    Optional,
    Required,
}

const ASKED: &[(&str, Asked)] = &[
    ("off", Asked::Off),
    ("optional", Asked::Optional),
    ("required", Asked::Required),
];
const LOGIN_FROM: &[(&str, LoginFrom)] = &[
    ("email", LoginFrom::Email),
    ("common-name", LoginFrom::CommonName),
    ("email-or-common-name", LoginFrom::Either),
];

/// Reads the section, which is there.
pub(super) fn read(section: &mut Section<'_>) -> Option<Settings> {
    let default = files::certificate(section);
    let others = others(section);
    let seconds = Duration::from_secs(1);
    let reload_every = section.or("reload_every", &form::duration(seconds..=DAY), RELOAD_EVERY);
    let ticket_keys = ticket_keys(section);
    let clients = clients(section);
    let ((certificate, shown), others) = (default?, others?);
    warn(section, &shown, &others);
    Some(Settings {
        certificate,
        others: others.into_iter().map(|(files, _)| files).collect(),
        reload_every,
        ticket_keys: ticket_keys?,
        clients: clients?,
    })
}

/// `[[proxy.tls.sni]]`, of which there may be none.
fn others(section: &mut Section<'_>) -> Option<Vec<(Files, Certificate)>> {
    if !section.has("sni") {
        // They are keys, even where nobody has them.
        let mut absent = section.table("sni");
        for name in ["certificate", "key"] {
            let _ = absent.optional(name, &form::path(""));
        }
        return Some(Vec::new());
    }
    let mut tables = section.tables("sni");
    let is_list = !tables.is_empty();
    let read: Vec<_> = tables
        .iter_mut()
        .map(|table| {
            let pair = files::certificate(table)?;
            if pair.1.names().is_empty() {
                let path = pair.0.certificate.display();
                table.problem(
                    "certificate",
                    format!("{path} has no DNS name, so nobody would be shown it (expected a subjectAltName)"),
                );
                return None;
            }
            Some(pair)
        })
        .collect();
    let read: Option<Vec<_>> = read.into_iter().collect();
    read.filter(|_| is_list)
}

/// `None` when it is wrong.
fn ticket_keys(section: &mut Section<'_>) -> Option<Option<PathBuf>> {
    const NAME: &str = "ticket_keys";
    let path = section.optional(
        NAME,
        &form::path("the path of a file with lines as `openssl rand -base64 48` writes"),
    );
    let Some(path) = path else {
        return (!section.has(NAME)).then_some(None);
    };
    section.report().reads(&path);
    match TicketKeys::from_file(&path) {
        Ok(_) => Some(Some(path)),
        Err(error) => {
            section.problem(NAME, chain(&error));
            None
        }
    }
}

/// `None` when something is wrong.
fn clients(section: &mut Section<'_>) -> Option<Option<ClientSettings>> {
    let file = || form::path("the path of a PEM file with certificates of authorities");
    let lists = || form::path("the path of a PEM file with revocation lists");
    let authorities = section.optional("client_ca", &file());
    let revocations = section.optional("client_crl", &lists());
    for path in [&authorities, &revocations].into_iter().flatten() {
        section.report().reads(path);
    }
    let default = if section.has("client_ca") {
        Asked::Optional
    } else {
        Asked::Off
    };
    let asked = section.optional("client_certificates", &form::word(ASKED));
    let is_wrong = asked.is_none() && section.has("client_certificates");
    let login = section.or("client_login", &form::word(LOGIN_FROM), LoginFrom::Email);
    let asked = asked.unwrap_or(default);
    if !section.has("client_ca") {
        if asked != Asked::Off {
            section.missing("client_ca", file().expected());
        }
        if section.has("client_crl") {
            section.problem("client_crl", "not used without client_ca");
        }
        return (asked == Asked::Off && !is_wrong).then_some(None);
    }
    if section.has("client_crl") && revocations.is_none() || is_wrong {
        return None;
    }
    let settings = ClientSettings {
        authorities: authorities?,
        revocations,
        required: asked == Asked::Required,
        login,
    };
    if let Err(error) = Clients::load(&settings) {
        let name = match error {
            TlsError::Revocations { .. } => "client_crl",
            _ => "client_ca",
        };
        section.problem(name, chain(&error));
        return None;
    }
    Some((asked != Asked::Off).then_some(settings))
}

fn warn(section: &Section<'_>, default: &Certificate, others: &[(Files, Certificate)]) {
    let key = |position: usize| match position {
        0 => section.key("certificate"),
        position => section.key(&format!("sni[{position}].certificate")),
    };
    let all = || std::iter::once(default).chain(others.iter().map(|(_, certificate)| certificate));
    for (position, certificate) in all().enumerate() {
        if let Some(problem) = certificate.untimely() {
            section
                .report()
                .warn(format!("{}: {problem}", key(position)));
        }
    }
    for clash in clashes(all()) {
        let name: String = clash.name.escape_debug().take(64).collect();
        section.report().warn(format!(
            "{}: {name} is a name of {} too, which is shown for it",
            key(clash.hidden),
            key(clash.shown)
        ));
    }
}
