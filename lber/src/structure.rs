//! A value as it is on the wire: a tag, and octets or further values.

use crate::common::TagClass;

/// A value with its tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StructureTag {
    /// Whose tag it is.
    pub class: TagClass,
    /// Its number.
    pub id: u64,
    /// What it holds.
    pub payload: PL,
}

/// What a value holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PL {
    /// Octets.
    P(Vec<u8>),
    /// Values.
    C(Vec<StructureTag>),
}

impl StructureTag {
    /// Itself, if it is of this class.
    #[must_use]
    pub fn match_class(self, class: TagClass) -> Option<Self> {
        (self.class == class).then_some(self)
    }

    /// Itself, if it has this number.
    #[must_use]
    pub fn match_id(self, id: u64) -> Option<Self> {
        (self.id == id).then_some(self)
    }

    /// Its values, if it holds values.
    #[must_use]
    pub fn expect_constructed(self) -> Option<Vec<Self>> {
        match self.payload {
            PL::C(values) => Some(values),
            PL::P(_) => None,
        }
    }

    /// Its octets, if it holds octets.
    #[must_use]
    pub fn expect_primitive(self) -> Option<Vec<u8>> {
        match self.payload {
            PL::P(octets) => Some(octets),
            PL::C(_) => None,
        }
    }
}
