//! slapd with the accounts, loaded in one go before it starts.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::{
    LDAP_IP, LDAP_PORT, MAIL_UID, OWN_UIDS, PASSWORD, PEOPLE, SERVICE_DN, SERVICE_PASSWORD, fill,
    home_node, own_uid, user, user_with_own_uid, wait_for,
};
use crate::processes::Program;

/// Loads that many accounts and [`OWN_UIDS`] more, and starts it.
pub(super) fn start(dir: &Path, accounts: usize) -> Program {
    fs::create_dir(dir.join("data")).unwrap();
    let configuration = dir.join("slapd.conf");
    let text = fill(
        include_str!("slapd.conf"),
        &[("DIR", dir.to_str().unwrap()), ("SERVICE_DN", SERVICE_DN)],
    );
    fs::write(&configuration, text).unwrap();
    let configuration = configuration.to_str().unwrap();
    load(dir, configuration, accounts);
    let log = dir.join("log");
    let uri = format!("ldap://{LDAP_IP}:{LDAP_PORT}");
    let arguments = ["slapd", "-d", "0", "-f", configuration, "-h", &uri];
    let program = Program::start(&arguments, &log);
    wait_for(SocketAddr::from((LDAP_IP, LDAP_PORT)), &[&log]);
    program
}

fn load(dir: &Path, configuration: &str, accounts: usize) {
    let ldif = dir.join("accounts.ldif");
    fs::write(&ldif, entries(accounts)).unwrap();
    let output = Command::new("slapadd")
        .args(["-q", "-f", configuration, "-l"])
        .arg(&ldif)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "slapadd: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_file(ldif).unwrap();
}

/// The tree and the accounts, in LDIF.
fn entries(accounts: usize) -> String {
    let mut ldif = fill(
        include_str!("../../../demo/tree.ldif"),
        &[("SERVICE_PASSWORD", SERVICE_PASSWORD)],
    );
    let password = stored_password();
    let mut add = |name: &str, node: usize, uid: u32| {
        let host = super::NODE_IPS[node];
        write!(
            ldif,
            "\ndn: uid={name},{PEOPLE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
             objectClass: inetLocalMailRecipient\nuid: {name}\ncn: {name}\nsn: {name}\nmail: {name}@example.org\n\
             mailHost: {host}\nuidNumber: {uid}\ngidNumber: {uid}\nhomeDirectory: {name}\nuserPassword: {password}\n"
        )
        .unwrap();
    };
    for number in 0..accounts {
        add(&user(number), home_node(number), MAIL_UID);
    }
    for number in 0..OWN_UIDS {
        add(&user_with_own_uid(number), 2, own_uid(number));
    }
    ldif
}

/// One hash for all: {SSHA}, which is what slapd itself makes.
fn stored_password() -> String {
    const SALT: &[u8] = b"saltsalt";
    let mut octets = Sha1::new()
        .chain_update(PASSWORD)
        .chain_update(SALT)
        .finalize()
        .to_vec();
    octets.extend(SALT);
    format!("{{SSHA}}{}", STANDARD.encode(octets))
}
