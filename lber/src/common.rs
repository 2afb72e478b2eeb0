//! The two bits of a tag that say whose it is.

/// The class of a tag (X.690, 8.1.2.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TagClass {
    /// Of ASN.1 itself.
    Universal = 0,
    /// Of LDAP: its operations.
    Application = 1,
    /// Of the value around it.
    Context = 2,
    /// Of nobody that we know.
    Private = 3,
}

impl TagClass {
    /// The class that the upper two bits of a first octet mean.
    #[must_use]
    pub const fn of_octet(octet: u8) -> Self {
        match octet >> 6 {
            0 => Self::Universal,
            1 => Self::Application,
            2 => Self::Context,
            _ => Self::Private,
        }
    }
}
