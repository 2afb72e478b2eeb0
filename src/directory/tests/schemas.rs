//! Entries of the schemas that there are presets for, in a real slapd; several bases and filters.
//!
//! slapd gets just what a preset asks for of each schema that it has no file of, with numbers that nobody uses.

use super::{slapd::BASE, *};

/// Object classes, and the attributes that no file of slapd's has.
pub(super) const SCHEMA: &str = "\
attributetype ( 1.3.6.1.4.1.4203.666.99.10 NAME 'qmailUID' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.4203.666.99.11 NAME 'qmailGID' EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.4203.666.99.12 NAME 'mailQuotaSize' SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 )
attributetype ( 1.3.6.1.4.1.4203.666.99.13 NAME 'accountStatus' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.14 NAME 'quota' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.15 NAME 'zimbraMailDeliveryAddress' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.16 NAME 'zimbraMailAlias' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.17 NAME 'zimbraMailHost' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.18 NAME 'zimbraMailQuota' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.19 NAME 'zimbraAccountStatus' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.20 NAME 'alias' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.21 NAME 'mailQuota' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.22 NAME 'inetUserStatus' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.23 NAME 'disableimap' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.99.24 NAME 'disablepop3' SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
objectclass ( 1.3.6.1.4.1.4203.666.98.10 NAME 'qmailUser' SUP top AUXILIARY MAY ( mail $ uid $ mailHost $ homeDirectory $ qmailUID $ qmailGID $ mailQuotaSize $ accountStatus $ mailAlternateAddress ) )
objectclass ( 1.3.6.1.4.1.4203.666.98.11 NAME 'CourierMailAccount' SUP top AUXILIARY MAY ( mail $ mailHost $ homeDirectory $ uidNumber $ gidNumber $ quota $ disableimap $ disablepop3 ) )
objectclass ( 1.3.6.1.4.1.4203.666.98.12 NAME 'zimbraAccount' SUP top AUXILIARY MAY ( uid $ zimbraMailDeliveryAddress $ zimbraMailAlias $ zimbraMailHost $ zimbraMailQuota $ zimbraAccountStatus ) )
objectclass ( 1.3.6.1.4.1.4203.666.98.13 NAME 'kolabInetOrgPerson' SUP top AUXILIARY MAY ( uid $ mail $ alias $ mailHost $ mailQuota $ inetUserStatus $ mailAlternateAddress ) )
";

/// One of each, all with the password \"secret\".
const ENTRIES: &str = "\
dn: ou=more,dc=example,dc=org
objectClass: organizationalUnit

dn: cn=qmail,ou=more,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: qmailUser
sn: x
uid: quentin
mail: quentin@example.org
mailAlternateAddress: q@example.org
mailHost: node1
qmailUID: 6001
qmailGID: 6002
homeDirectory: /srv/quentin
mailQuotaSize: 5000
accountStatus: noaccess
userPassword: secret

dn: cn=courier,ou=more,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: CourierMailAccount
sn: x
mail: carla@example.org
mailHost: node1.example.org:143
uidNumber: 6003
gidNumber: 6004
homeDirectory: /srv/carla
quota: 5000000S,100C
disableimap: 0
disablepop3: 1
userPassword: secret

dn: cn=posix,ou=more,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
objectClass: inetLocalMailRecipient
sn: x
uid: paula
mail: paula@example.org
mailHost: node2
uidNumber: 6005
gidNumber: 6006
homeDirectory: /home/paula
userPassword: secret

dn: cn=zimbra,ou=more,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: zimbraAccount
sn: x
uid: zack
zimbraMailDeliveryAddress: zack@example.org
zimbraMailAlias: z@example.org
zimbraMailHost: lmtp:node3.example.org:7025
zimbraMailQuota: 0
zimbraAccountStatus: maintenance
userPassword: secret

dn: cn=kolab,ou=more,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: kolabInetOrgPerson
sn: x
uid: kim
mail: kim@example.org
alias: k@example.org
mailHost: node1
mailQuota: 2048
inetUserStatus: active
userPassword: secret

";

pub(super) const MORE: &str = "ou=more,dc=example,dc=org";

/// Settings with a preset, as the configuration makes them.
fn preset(uri: String, preset: Preset) -> Settings {
    but(settings(uri, Verify::Bind), |ldap| {
        ldap.schema.bases = vec![MORE.to_owned()];
        ldap.schema.filters = vec![preset.filter().to_owned()];
        ldap.schema.delivery_filters = vec![preset.delivery_filter().to_owned()];
        ldap.schema.attributes = preset.attributes();
        ldap.schema.quota_unit = preset.quota_unit();
        ldap.schema.default_home = "%d/%n".to_owned();
    })
}

/// The account in words.
async fn account(directory: &Directory, login: &str) -> String {
    let account = directory.find(&Login::parse(login).unwrap()).await.unwrap();
    format!(
        "{} {} {}:{} {} {:?} {:?} {:?}",
        account.name,
        account.home_node.as_deref().unwrap_or("-"),
        account.uid,
        account.gid,
        account.home,
        account.quota,
        account.login,
        account.delivery
    )
}

#[tokio::test]
async fn each_preset_reads_entries_of_its_schema() {
    let slapd = Slapd::with_schema(SCHEMA, ENTRIES);
    for (word, logins, address, expected) in [
        (
            Preset::QmailLdap,
            &["quentin", "quentin@example.org"][..],
            "q@example.org",
            "quentin node1 6001:6002 /srv/quentin Some(5000) Refused Allowed",
        ),
        (
            Preset::Courier,
            &["carla@example.org"],
            "carla@example.org",
            "carla@example.org node1.example.org 6003:6004 /srv/carla Some(5000000) Allowed Allowed",
        ),
        (
            Preset::Posix,
            &["paula", "paula@example.org"],
            "paula@example.org",
            "paula node2 6005:6006 /home/paula None Allowed Allowed",
        ),
        (
            Preset::InetLocal,
            &["paula", "paula@example.org"],
            "paula@example.org",
            "paula node2 6005:6006 /home/paula None Allowed Allowed",
        ),
        (
            Preset::Dovecot,
            &["paula", "paula@elsewhere.example"],
            "paula@example.org",
            "paula node2 6005:6006 /home/paula None Allowed Allowed",
        ),
        (
            Preset::Zimbra,
            &["zack", "zack@example.org", "z@example.org"],
            "z@example.org",
            "zack@example.org node3.example.org 5000:5001 example.org/zack None TryLater TryLater",
        ),
        (
            Preset::Kolab3,
            &["kim", "kim@example.org", "k@example.org"],
            "k@example.org",
            "kim@example.org node1 5000:5001 example.org/kim Some(2097152) Allowed Allowed",
        ),
    ] {
        let directory = start(preset(slapd.uri(), word));
        for login in logins {
            assert_eq!(
                account(&directory, login).await,
                expected,
                "{word:?} {login}"
            );
        }
        let address = Address::parse(address).unwrap();
        let found = directory.find_recipient(&address).await.unwrap();
        assert!(expected.starts_with(found.name.as_str()), "{word:?}");
        let unknown = Login::parse("nobody").unwrap();
        assert!(directory.find(&unknown).await.is_err());
    }
}

#[tokio::test]
async fn bases_and_filters_are_tried_in_their_order() {
    let slapd = Slapd::with_schema(SCHEMA, ENTRIES);
    let (directory, metrics) = start_counted(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.schema.bases = vec![PEOPLE.to_owned(), MORE.to_owned()];
        ldap.schema.filters = vec!["(mail=%u)".to_owned(), "(uid=%n)".to_owned()];
    }));
    let uri = slapd.uri();
    let searches = || {
        metrics
            .ldap_requests
            .with_label_values(&[&uri, "search", "ok"])
            .get()
    };
    let mut before = 0;
    for (login, answer, expected) in [
        ("ann@example.org", "ok Ann", 1),
        ("kim@example.org", "ok kim", 2),
        ("ann", "ok Ann", 3),
        ("ann@elsewhere.example", "ok Ann", 3),
        ("kim", "ok kim", 4),
        ("nobody", "unknown user", 4),
    ] {
        assert_eq!(log_in(&directory, login, "secret").await, answer, "{login}");
        assert_eq!(searches() - before, expected, "{login}");
        before = searches();
    }
    // What is ambiguous at the first place is not looked for at the next.
    assert_eq!(log_in(&directory, "twin", "secret").await, "ambiguous");
    assert_eq!(searches() - before, 3);
    let whole = start(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.schema.bases = vec!["ou=nobody,dc=example,dc=org".to_owned(), BASE.to_owned()];
    }));
    // A base that is not there is a mistake in the settings, not an unknown user.
    assert_eq!(log_in(&whole, "ann", "secret").await, "unavailable");
}

#[test]
fn status_words_of_all_schemas_are_known() {
    use Status::{Allowed, Refused, TryLater};
    for (word, login, delivery) in [
        ("active", Allowed, Allowed),
        ("enabled", Allowed, Allowed),
        ("NoAccess", Refused, Allowed),
        ("locked", Refused, Allowed),
        ("lockout", TryLater, Allowed),
        ("pending", Refused, TryLater),
        ("inactive", Refused, TryLater),
        ("hold", Refused, TryLater),
        ("maintenance", TryLater, TryLater),
        ("closed", Refused, Refused),
        ("deleted", Refused, Refused),
    ] {
        assert_eq!(parse_status(word), Some((login, delivery)), "{word}");
    }
    assert_eq!(parse_status("asleep"), None);
    for word in STATUS_WORDS.replace(" or ", ", ").split(", ") {
        assert!(parse_status(word).is_some(), "{word}");
    }
}

/// How a login by this protocol and from there ends.
async fn visit(directory: &Directory, login: &str, protocol: Protocol, client: &str) -> String {
    let visit = Visit {
        protocol,
        client: client.parse().unwrap(),
    };
    let password = Secret::new(b"secret".to_vec());
    let login = Login::parse(login).unwrap();
    match directory.authenticate(&login, &password, visit).await {
        Ok(admitted) => format!("ok {}", admitted.account.name),
        Err(LookupError::Wrong(wrong)) => wrong.to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn an_account_may_be_kept_to_protocols_and_networks() {
    let slapd = Slapd::with_schema(SCHEMA, ENTRIES);
    let courier = start(preset(slapd.uri(), Preset::Courier));
    let carla = "carla@example.org";
    assert_eq!(
        visit(&courier, carla, Protocol::Imap, "::1").await,
        format!("ok {carla}")
    );
    let (by, from) = (Wrong::Protocol.to_string(), Wrong::Network.to_string());
    assert_eq!(visit(&courier, carla, Protocol::Pop3, "::1").await, by);

    let kept = start(cached(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.schema.attributes.protocols = Some("businessCategory".to_owned());
        ldap.schema.attributes.networks = Some("departmentNumber".to_owned());
    })));
    // An entry that says nothing is kept to nothing.
    assert_eq!(
        visit(&kept, "ann", Protocol::Pop3, "192.0.2.1").await,
        "ok Ann"
    );
    slapd.replace("ann", "businessCategory", "imap, smtp").await;
    slapd
        .replace("ann", "departmentNumber", "192.0.2.0/24 ::1")
        .await;
    let afresh = start(cached(but(settings(slapd.uri(), Verify::Bind), |ldap| {
        ldap.schema.attributes.protocols = Some("businessCategory".to_owned());
        ldap.schema.attributes.networks = Some("departmentNumber".to_owned());
    })));
    for _ in 0..2 {
        assert_eq!(
            visit(&afresh, "ann", Protocol::Imap, "192.0.2.1").await,
            "ok Ann"
        );
        assert_eq!(visit(&afresh, "ann", Protocol::Pop3, "192.0.2.1").await, by);
        assert_eq!(
            visit(&afresh, "ann", Protocol::Imap, "198.51.100.1").await,
            from
        );
    }
    // A refusal that rests on a kept entry is not the last word.
    slapd.replace("ann", "businessCategory", "imap pop3").await;
    assert_eq!(
        visit(&afresh, "ann", Protocol::Pop3, "192.0.2.1").await,
        "ok Ann"
    );
    slapd.replace("ann", "departmentNumber", "the office").await;
    let wrong = visit(&afresh, "ann", Protocol::Imap, "198.51.100.1").await;
    assert!(
        wrong.contains("departmentNumber has something that is no network"),
        "{wrong}"
    );
}
