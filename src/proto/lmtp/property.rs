//! tbd
/// tbd
pub fn fuzz(_data: &[u8]) {}
