//! `[mailstore]`: how messages that come over links are stored on a node.

use super::{files::System, section::Section};
use crate::mailstore::Settings;

/// Reads the section.
pub(super) fn read(_section: &mut Section<'_>, _system: &System) -> Option<Settings> {
    Some(Settings {})
}
