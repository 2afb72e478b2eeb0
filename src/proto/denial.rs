//! Why a client is not served, and how its protocol says so.
//!
//! A client hears little: unknown user, wrong password and disabled account are one denial with one text. What really
//! happened goes to the log (`outcome`). IMAP words: RFC 5530 and RFC 3501/9051, 7.1.

/// A reason that a client may hear.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Denial {
    /// Authenticated, but not allowed to act as the authorization identity it named.
    AuthorizationFailed,
    /// Wrong name, wrong password, or an account that may not log in.
    BadCredentials,
    /// The account's mailbox is in use and the protocol allows one session.
    InUse,
    /// The account has as many sessions as it may.
    Limit,
    /// A password in clear where only an encrypted one is allowed.
    PrivacyRequired,
    /// Something behind us is away: the client may try again.
    Unavailable,
}

impl Denial {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationFailed => "authorization-failed",
            Self::BadCredentials => "bad-credentials",
            Self::InUse => "in-use",
            Self::Limit => "limit",
            Self::PrivacyRequired => "privacy-required",
            Self::Unavailable => "unavailable",
        }
    }

    /// Response code and text after an IMAP `NO`.
    pub const fn imap(self) -> &'static str {
        match self {
            Self::AuthorizationFailed => "[AUTHORIZATIONFAILED] You may not act as that user.",
            Self::BadCredentials => "[AUTHENTICATIONFAILED] Wrong user name or password.",
            Self::InUse => "[INUSE] The mailbox is in use.",
            Self::Limit => "[LIMIT] Too many sessions for this account.",
            Self::PrivacyRequired => {
                "[PRIVACYREQUIRED] Passwords are taken only on an encrypted connection."
            }
            Self::Unavailable => {
                "[UNAVAILABLE] Your mailbox is not reachable just now, please try again later."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imap_texts_are_one_response_code_and_one_sentence() {
        for denial in [
            Denial::AuthorizationFailed,
            Denial::BadCredentials,
            Denial::InUse,
            Denial::Limit,
            Denial::PrivacyRequired,
            Denial::Unavailable,
        ] {
            let (code, text) = denial.imap().split_once("] ").unwrap();
            assert!(
                code.strip_prefix('[')
                    .unwrap()
                    .bytes()
                    .all(|octet| octet.is_ascii_uppercase())
            );
            assert!(text.ends_with('.') && text.bytes().all(|octet| matches!(octet, b' '..=b'~')));
        }
    }
}
