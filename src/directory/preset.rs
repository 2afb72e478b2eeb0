//! What common LDAP schemas call things.
//!
//! A preset is nothing but defaults for the settings of [`SchemaSettings`](super::SchemaSettings): each may be replaced
//! alone. Words of status and forms of a quota or of a home node are understood under every preset, since no two schemas
//! mean different things by the same one.

use super::Attributes;

/// A schema by its usual name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Preset {
    /// `inetLocalMailRecipient` (OpenLDAP's `misc.schema`) with `posixAccount`, and qmail-ldap's quota and status: the default.
    InetLocal,
    /// `qmailUser` (qmail-ldap's `qmail.schema`).
    QmailLdap,
    /// `CourierMailAccount` (Courier's `authldap.schema`).
    Courier,
    /// `posixAccount` (RFC 2307) with `inetOrgPerson`.
    Posix,
    /// `zimbraAccount`.
    Zimbra,
    /// `kolabInetOrgPerson` on 389 Directory Server.
    Kolab3,
    /// The entries of Dovecot's own examples for LDAP: `posixAccount`, logins without a domain.
    Dovecot,
}

impl Preset {
    /// All, by the words that the configuration has for them.
    pub const ALL: &[(&str, Self)] = &[
        ("inetlocal", Self::InetLocal),
        ("qmail-ldap", Self::QmailLdap),
        ("courier", Self::Courier),
        ("posix", Self::Posix),
        ("zimbra", Self::Zimbra),
        ("kolab3", Self::Kolab3),
        ("dovecot", Self::Dovecot),
    ];

    /// Finds an entry by its login.
    pub const fn filter(self) -> &'static str {
        match self {
            Self::InetLocal => "(&(objectClass=inetLocalMailRecipient)(|(uid=%u)(mail=%u)))",
            Self::QmailLdap => "(&(objectClass=qmailUser)(|(uid=%u)(mail=%u)))",
            Self::Courier => "(&(objectClass=CourierMailAccount)(mail=%u))",
            Self::Posix => "(&(objectClass=posixAccount)(|(uid=%u)(mail=%u)))",
            Self::Zimbra => {
                "(&(objectClass=zimbraAccount)(|(uid=%u)(zimbraMailDeliveryAddress=%u)(zimbraMailAlias=%u)))"
            }
            Self::Kolab3 => {
                "(&(objectClass=kolabInetOrgPerson)(|(uid=%u)(mail=%u)(alias=%u)(mailAlternateAddress=%u)))"
            }
            Self::Dovecot => "(&(objectClass=posixAccount)(uid=%n))",
        }
    }

    /// Finds an entry by a mail address.
    pub const fn delivery_filter(self) -> &'static str {
        match self {
            Self::InetLocal => {
                "(&(objectClass=inetLocalMailRecipient)(|(uid=%u)(mail=%u)(mailAlternateAddress=%u)(mailLocalAddress=%u)))"
            }
            Self::QmailLdap => "(&(objectClass=qmailUser)(|(mail=%u)(mailAlternateAddress=%u)))",
            Self::Courier => "(&(objectClass=CourierMailAccount)(mail=%u))",
            Self::Posix => "(&(objectClass=posixAccount)(|(uid=%u)(mail=%u)))",
            Self::Zimbra => {
                "(&(objectClass=zimbraAccount)(|(zimbraMailDeliveryAddress=%u)(zimbraMailAlias=%u)))"
            }
            Self::Kolab3 => {
                "(&(objectClass=kolabInetOrgPerson)(|(mail=%u)(alias=%u)(mailAlternateAddress=%u)))"
            }
            Self::Dovecot => "(&(objectClass=posixAccount)(|(uid=%n)(mail=%u)))",
        }
    }

    /// Names of attributes.
    pub fn attributes(self) -> Attributes {
        let default = Attributes::default();
        let named = |name: &str| name.to_owned();
        match self {
            Self::InetLocal | Self::Posix | Self::Dovecot => default,
            Self::QmailLdap => Attributes {
                uid: named("qmailUID"),
                gid: named("qmailGID"),
                ..default
            },
            Self::Courier => Attributes {
                name: named("mail"),
                quota: named("quota"),
                no_imap: Some(named("disableimap")),
                no_pop3: Some(named("disablepop3")),
                ..default
            },
            Self::Zimbra => Attributes {
                name: named("zimbraMailDeliveryAddress"),
                home_node: named("zimbraMailHost"),
                quota: named("zimbraMailQuota"),
                status: named("zimbraAccountStatus"),
                password_changed: named("zimbraPasswordModifiedTime"),
                ..default
            },
            Self::Kolab3 => Attributes {
                name: named("mail"),
                quota: named("mailQuota"),
                status: named("inetUserStatus"),
                ..default
            },
        }
    }

    /// Octets of one unit of a quota that is a mere number.
    pub const fn quota_unit(self) -> u64 {
        match self {
            // Cyrus's, which Kolab stores as it is.
            Self::Kolab3 => 1024,
            _ => 1,
        }
    }
}
