//! The mailStore-forward listener's role on a node: from an admitted link to mailboxes.
