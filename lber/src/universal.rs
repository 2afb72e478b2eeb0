//! The tags of ASN.1 itself (X.680, 8.4), as far as LDAP or its client names them.

/// A universal tag's number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Types {
    /// `BOOLEAN`.
    Boolean = 1,
    /// `INTEGER`.
    Integer = 2,
    /// `OCTET STRING`.
    OctetString = 4,
    /// `NULL`.
    Null = 5,
    /// `ENUMERATED`.
    Enumerated = 10,
    /// `SEQUENCE` and `SEQUENCE OF`.
    Sequence = 16,
    /// `SET` and `SET OF`.
    Set = 17,
}
