//! An account of the sample directory.

/// Somebody with a mailbox; made with [`User::new`], changed field by field.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The account's name.
    pub(crate) name: String,
    pub(crate) password: String,
    /// The password as the directory keeps it; if none, the password itself in LDAP and a cheap hash in a file.
    pub(crate) stored: Option<String>,
    /// What the directory says of the home node; empty: nothing.
    pub(crate) node: String,
    /// uid and gid.
    pub(crate) uid: u32,
    /// Below the node's `home_root`.
    pub(crate) home: String,
    /// `active`, `disabled`, ...
    pub(crate) status: String,
    /// Further mail addresses than [`User::address`].
    pub(crate) aliases: Vec<String>,
    /// Octets.
    pub(crate) quota: Option<u64>,
}

impl User {
    /// An active account with a password and home of its own.
    pub(crate) fn new(name: &str, node: &str, uid: u32) -> Self {
        Self {
            name: name.to_owned(),
            password: format!("pass word of {uid}"),
            stored: None,
            node: node.to_owned(),
            uid,
            home: format!("home{uid}"),
            status: "active".to_owned(),
            aliases: Vec::new(),
            quota: None,
        }
    }

    /// Where mail for it goes.
    pub(crate) fn address(&self) -> String {
        format!("u{}@example.org", self.uid)
    }

    pub(crate) fn password(self, password: &str) -> Self {
        Self {
            password: password.to_owned(),
            ..self
        }
    }

    pub(crate) fn stored(self, stored: &str) -> Self {
        Self {
            stored: Some(stored.to_owned()),
            ..self
        }
    }

    pub(crate) fn home(self, home: &str) -> Self {
        Self {
            home: home.to_owned(),
            ..self
        }
    }

    pub(crate) fn status(self, status: &str) -> Self {
        Self {
            status: status.to_owned(),
            ..self
        }
    }

    /// A further mail address.
    pub(crate) fn alias(mut self, address: &str) -> Self {
        self.aliases.push(address.to_owned());
        self
    }

    pub(crate) fn quota(self, octets: u64) -> Self {
        Self {
            quota: Some(octets),
            ..self
        }
    }
}
