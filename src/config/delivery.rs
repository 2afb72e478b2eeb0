//! `[delivery]`: what takes mail from MTAs.

use super::{files::System, section::Section};
use crate::delivery::Settings;

/// Reads the section.
pub(super) fn read(section: &mut Section<'_>, _system: &System) -> Option<Settings> {
    let path = section.path();
    section.report().problem(path, "not there yet");
    None
}
