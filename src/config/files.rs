//! The files that configuration names: keys, passwords, certificates, the accounts file, the system's users.
//!
//! Everything is read once, here, before anything starts: a process that runs has its secrets in memory and may give
//! up the right to read them. What is too open is refused (the rule stands in `secret`), a certificate is tried
//! together with its key, as TLS would use them, and an accounts file is read as the directory would.
//!
//! It keeps neither certificates nor accounts: they are read again where they are used, and this check tells
//! beforehand what would fail there.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{form, section::Section};
use crate::{
    directory::{self, AddressSettings, FileSettings},
    net::tls,
    outcome::chain,
    secret::{Key, Secret, SecretFileError},
};

/// What of the system matters to configuration; tests have another one.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// The list of users.
    pub(super) passwd: PathBuf,
    /// The list of groups.
    pub(super) group: PathBuf,
    /// The authorities that servers are verified against when the configuration names none.
    pub(super) authorities: PathBuf,
    /// Our own uid.
    pub(super) uid: u32,
}

/// The password in the file that key `name` names.
pub(super) fn password(section: &mut Section<'_>, name: &'static str) -> Option<Secret> {
    let path = section.required(name, &form::path("the path of a file with a password"))?;
    section.report().reads(&path);
    taken(section, name, Secret::from_file(&path))
}

/// The password in the file that key `name` names, if it does; none also when that is not usable, which is then reported.
pub(super) fn optional_password(section: &mut Section<'_>, name: &'static str) -> Option<Secret> {
    if section.has(name) {
        return password(section, name);
    }
    // It is a key, even where nobody has it.
    section.optional(name, &form::path("")).and(None)
}

/// The key in the file that key `name` names.
pub(super) fn key(section: &mut Section<'_>, name: &'static str) -> Option<Key> {
    let path = section.required(
        name,
        &form::path("the path of a file made by `pigeonair key`"),
    )?;
    section.report().reads(&path);
    taken(section, name, Key::from_file(&path))
}

/// A certificate that we show clients: both files, tried.
pub(super) fn certificate(section: &mut Section<'_>) -> Option<(tls::Files, tls::Certificate)> {
    pair(section, "certificate", "key")
}

/// The certificate that we show LDAP servers, if there is one.
pub(super) fn client_certificate(section: &mut Section<'_>) -> Option<tls::Files> {
    const NAMES: [&str; 2] = ["client_certificate", "client_key"];
    let [certificate, key] = NAMES;
    if NAMES.iter().any(|name| section.has(name)) {
        return pair(section, certificate, key).map(|(files, _)| files);
    }
    // They are keys, even where nobody has them.
    for name in NAMES {
        let _ = section.optional(name, &form::path(""));
    }
    None
}

/// A certificate and its key, both required.
fn pair(
    section: &mut Section<'_>,
    certificate_name: &'static str,
    key_name: &'static str,
) -> Option<(tls::Files, tls::Certificate)> {
    let certificate = section.required(
        certificate_name,
        &form::path("the path of a PEM file: certificate, then its chain"),
    );
    let key = section.required(
        key_name,
        &form::path("the path of a PEM file: the private key"),
    );
    let files = tls::Files {
        certificate: certificate?,
        key: key?,
    };
    for path in [&files.certificate, &files.key] {
        section.report().reads(path);
    }
    let problem = match tls::Certificate::load(&files) {
        Ok(certificate) => return Some((files, certificate)),
        Err(error) => error,
    };
    use tls::TlsError::{Certificate, Form};
    let of_certificate = matches!(problem, Certificate { .. } | Form { .. });
    let name = if of_certificate {
        certificate_name
    } else {
        key_name
    };
    section.problem(name, chain(&problem));
    // The other file may be wrong as well.
    if of_certificate && let Err(error) = tls::private_key(&files.key) {
        section.problem(key_name, chain(&error));
    }
    None
}

/// The authorities that sign a server's certificate: the file named, else the system's; checked when `used`.
pub(super) fn authorities(
    section: &mut Section<'_>,
    system: &System,
    used: bool,
) -> Option<PathBuf> {
    let named = section.optional(
        "ca_file",
        &form::path("the path of a PEM file with certificates"),
    );
    let bad = section.has("ca_file") && named.is_none();
    let path = named.as_ref().unwrap_or(&system.authorities);
    section.report().reads(path);
    if used
        && !bad
        && let Err(error) = tls::certificates(path)
    {
        section.problem("ca_file", chain(&error));
    }
    named
}

/// The accounts file that key `name` names, tried.
pub(super) fn accounts(
    section: &mut Section<'_>,
    name: &'static str,
    addresses: &AddressSettings,
) -> Option<FileSettings> {
    let path = section.required(name, &form::path("the path of a file"))?;
    section.report().reads(&path);
    let settings = FileSettings { path };
    match directory::check_accounts(settings.clone(), addresses) {
        Ok(()) => Some(settings),
        Err(error) => {
            section.problem(name, chain(&error));
            None
        }
    }
}

/// The path of a folder that must be there.
pub(super) fn folder(section: &mut Section<'_>, name: &'static str) -> Option<PathBuf> {
    let path = section.required(name, &form::path("the path of a folder"))?;
    let text = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => return Some(path),
        Ok(_) => format!("{} is not a folder", path.display()),
        Err(error) => format!("cannot read {}: {error}", path.display()),
    };
    section.problem(name, text);
    None
}

/// The path of a program that must be there, an element of key `name`.
pub(super) fn program(section: &Section<'_>, name: &str, text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let problem = match fs::metadata(&path) {
        _ if !path.is_absolute() => "is not an absolute path".to_owned(),
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
            return Some(path);
        }
        Ok(_) => "is no program".to_owned(),
        Err(error) => format!("cannot be read: {error}"),
    };
    section.problem(&format!("{name}[1]"), format!("{text:?} {problem}"));
    None
}

/// The uid of a user by name.
///
/// Read from the list itself: what name services beyond it say may hang, and they are not the place for the two or
/// three system users that are meant here.
pub(super) fn uid_of(user: &str, passwd: &Path) -> io::Result<Option<u32>> {
    let list = String::from_utf8_lossy(&fs::read(passwd)?).into_owned();
    Ok(list.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then_some(())?;
        fields.nth(1)?.parse().ok()
    }))
}

fn taken<T>(section: &Section<'_>, name: &str, read: Result<T, SecretFileError>) -> Option<T> {
    read.map_err(|error| section.problem(name, chain(&error)))
        .ok()
}
