//! The types that requests are put together from.

use crate::{
    common::TagClass,
    structure::{PL, StructureTag},
    universal::Types,
};

/// What can be written as a value.
pub trait ASNTag {
    /// The value.
    fn into_structure(self) -> StructureTag;
}

/// Any of the types.
#[derive(Clone, Debug, PartialEq)]
pub enum Tag {
    /// A number.
    Integer(Integer),
    /// One of a few.
    Enumerated(Enumerated),
    /// Values in an order.
    Sequence(Sequence),
    /// Values without one.
    Set(Set),
    /// Octets.
    OctetString(OctetString),
    /// True or false.
    Boolean(Boolean),
    /// Nothing.
    Null(Null),
    /// A value in a tag around its own.
    ExplicitTag(ExplicitTag),
    /// A value as it is on the wire.
    StructureTag(StructureTag),
}

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $default:expr, $inner_name:ident => $payload:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            /// Its tag's number.
            pub id: u64,
            /// Whose tag it is.
            pub class: TagClass,
            /// What it holds.
            pub inner: $inner,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    id: Types::$name as u64,
                    class: TagClass::Universal,
                    inner: $default,
                }
            }
        }

        impl ASNTag for $name {
            fn into_structure(self) -> StructureTag {
                let $inner_name = self.inner;
                StructureTag {
                    class: self.class,
                    id: self.id,
                    payload: $payload,
                }
            }
        }
    };
}

kind! {
    /// `BOOLEAN`.
    Boolean, bool, false, inner => PL::P(vec![if inner { 0xff } else { 0 }])
}
kind! {
    /// `INTEGER`.
    Integer, i64, 0, inner => PL::P(shortest(inner))
}
kind! {
    /// `ENUMERATED`.
    Enumerated, i64, 0, inner => PL::P(shortest(inner))
}
kind! {
    /// `NULL`.
    Null, (), (), _nothing => PL::P(Vec::new())
}
kind! {
    /// `OCTET STRING`.
    OctetString, Vec<u8>, Vec::new(), inner => PL::P(inner)
}
kind! {
    /// `SEQUENCE` or `SEQUENCE OF`.
    Sequence, Vec<Tag>, Vec::new(), inner => PL::C(all(inner))
}
kind! {
    /// `SET` or `SET OF`.
    Set, Vec<Tag>, Vec::new(), inner => PL::C(all(inner))
}

/// A value in a tag around its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplicitTag {
    /// The outer tag's number.
    pub id: u64,
    /// Whose that is.
    pub class: TagClass,
    /// The value.
    pub inner: Box<Tag>,
}

impl ASNTag for ExplicitTag {
    fn into_structure(self) -> StructureTag {
        StructureTag {
            class: self.class,
            id: self.id,
            payload: PL::C(vec![self.inner.into_structure()]),
        }
    }
}

impl ASNTag for Tag {
    fn into_structure(self) -> StructureTag {
        match self {
            Self::Integer(value) => value.into_structure(),
            Self::Enumerated(value) => value.into_structure(),
            Self::Sequence(value) => value.into_structure(),
            Self::Set(value) => value.into_structure(),
            Self::OctetString(value) => value.into_structure(),
            Self::Boolean(value) => value.into_structure(),
            Self::Null(value) => value.into_structure(),
            Self::ExplicitTag(value) => value.into_structure(),
            Self::StructureTag(value) => value,
        }
    }
}

fn all(values: Vec<Tag>) -> Vec<StructureTag> {
    values.into_iter().map(ASNTag::into_structure).collect()
}

/// Two's complement in as few octets as hold it (X.690, 8.3.2).
fn shortest(number: i64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    let mut rest = octets.as_slice();
    // An octet that only repeats the sign of the next one is not needed.
    while let [first @ (0 | 0xff), tail @ ..] = rest
        && let [next, ..] = tail
        && (*first == 0xff) == (next & 0x80 != 0)
    {
        rest = tail;
    }
    rest.to_vec()
}
