//! An LDAP server and its replica by `config/openldap/`, and a front that asks both: either may be down.

use super::site::{SERVICE_PASSWORD, Side, Site};
use crate::lab::{User, adapt, eventually};

const SERVERS: [&str; 2] = ["ldap", "ldap2"];
const BASE: &str = "dc=example,dc=org";

fn people() -> [User; 3] {
    [
        User::new("ann", "node1", 20001),
        User::new("bob", "node1", 20002),
        User::new("cid", "node1", 20003),
    ]
}

/// The sample of slapd.conf with the lines that it includes.
fn slapd_conf(lines: &str) -> String {
    let password = format!("rootpw \"{}\"", super::site::ADMIN_PASSWORD);
    adapt(
        include_str!("../../../config/openldap/slapd.conf"),
        &[
            ("rootpw secret", &password),
            ("include /etc/ldap/pigeonair.conf", lines),
        ],
    )
}

/// As an administrator asks whether a replica has everything.
fn state(site: &Site, server: &str) -> String {
    let machine = site.machine("proxy1");
    let output = machine.ask(&[
        "ldapsearch",
        "-x",
        "-LLL",
        "-H",
        &format!("ldap://{server}.example.org"),
        "-D",
        "cn=pigeonair,ou=services,dc=example,dc=org",
        "-w",
        SERVICE_PASSWORD,
        "-s",
        "base",
        "-b",
        BASE,
        "contextCSN",
    ]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn replicated(site: &Site) {
    eventually("the replica has everything", || {
        let state = SERVERS.map(|server| state(site, server));
        state[0].contains("contextCSN: ") && state[0] == state[1]
    });
}

/// A provider with the accounts, a replica that has got them, a node, and a front that asks the replica first.
fn site() -> Site {
    let mut site = Site::new();
    site.add("proxy1", Side::Servers, 11);
    let provider = slapd_conf(include_str!("../../../config/openldap/provider.conf"));
    site.start_ldap_as("ldap", 5, &provider);
    let password = format!("userPassword: {SERVICE_PASSWORD}");
    let tree = adapt(
        include_str!("../../../config/openldap/tree.ldif"),
        &[("userPassword: secret", &password)],
    );
    site.change_directory("ldapadd", &tree);
    for user in &people()[..2] {
        site.add_account(user);
    }
    let credentials = format!("credentials={SERVICE_PASSWORD}");
    let replica = adapt(
        include_str!("../../../config/openldap/replica.conf"),
        &[("credentials=secret", &credentials)],
    );
    site.start_ldap_as("ldap2", 6, &slapd_conf(&replica));
    replicated(&site);
    site.add("node1", Side::Servers, 21);
    site.start_node("node1");
    both_for_dovecot(&mut site);
    let one = "uri = \"ldap://ldap.example.org\" ";
    let both = "uri = [\"ldap://ldap2.example.org\", \"ldap://ldap.example.org\"] ";
    let text = adapt(&site.proxy_toml("proxy1", ""), &[(one, both)]);
    site.install_front("proxy1", &text);
    site.run_front("proxy1");
    site.add("client1", Side::Clients, 11);
    site
}

/// The real server looks its users up, too.
fn both_for_dovecot(site: &mut Site) {
    let machine = site.machine("node1");
    let one = "uris = ldap://ldap.example.org";
    let both = "uris = ldap://ldap2.example.org ldap://ldap.example.org";
    machine.run(&format!(
        "sed -i 's|^{one}$|{both}|' /etc/dovecot/users-ldap.conf.ext
        grep -qx '{both}' /etc/dovecot/users-ldap.conf.ext"
    ));
    site.stop("dovecot-node1");
    site.launch_dovecot("node1");
}

fn logs_in(site: &Site, user: &User) {
    let address = site.machine("proxy1").port(993);
    let mut session = site.session("client1", address, user);
    session.client.command("LOGOUT").ok();
}

#[test]
fn a_front_is_served_by_a_replica_or_by_the_provider() {
    let mut site = site();
    let program = site.program();
    let check = ["check", "front", "--online", "--config"];
    let path = "/etc/pigeonair/front.toml";
    let output = site
        .machine("proxy1")
        .ask(&[&[program.as_str()], &check[..], &[path]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for server in SERVERS {
        assert!(
            said.contains(&format!("ldap://{server}.example.org:389: ok (")),
            "{said}"
        );
    }
    // Whoever was just made is at the replica, too.
    let [ann, bob, cid] = people();
    site.add_account(&cid);
    replicated(&site);
    site.process("slapd-ldap").kill();
    logs_in(&site, &ann);
    logs_in(&site, &cid);
    site.launch_slapd("ldap");
    site.process("slapd-ldap2").kill();
    logs_in(&site, &bob);
    let away = ["directory is not available", "ldap2.example.org"];
    eventually("the front says who is away", || {
        !site.lines("front", "proxy1", &away).is_empty()
    });
}
