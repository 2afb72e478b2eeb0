//! IMAP before login, server half. (stub)

/// Limits of the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Longest command line without its literals, in octets; default 8192.
    pub max_line_bytes: usize,
    /// Largest literal taken, in octets; default 4096.
    pub max_literal_bytes: usize,
    /// Bad commands before BYE; default 10.
    pub max_bad_commands: u32,
    /// Failed logins before BYE; default 3.
    pub max_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_line_bytes: 8192,
            max_literal_bytes: 4096,
            max_bad_commands: 10,
            max_attempts: 3,
        }
    }
}
