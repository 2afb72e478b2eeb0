//! The mailStore-forward listener's role on a node: from an admitted link to mailboxes.

/// The mailstore role.
#[derive(Clone, Debug)]
pub struct Settings {}
