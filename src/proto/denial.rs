//! Why a client is not served, and how its protocol says so.
//!
//! A client hears little: unknown user, wrong password and disabled account are one denial with one text. What really
//! happened goes to the log (`outcome`). IMAP words: RFC 5530 and RFC 3501/9051, 7.1. POP3 words: RFC 2449, 8 and RFC 3206,
//! where a client that reads `[AUTH]` asks its user for another password, and one that reads anything else must not.

use super::link::Refusal;

/// A reason that a client may hear.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Denial {
    /// Authenticated, but not allowed to act as the authorization identity it named.
    AuthorizationFailed,
    /// Wrong name, wrong password, or an account that may not log in.
    BadCredentials,
    /// Too many logins have failed, of this account or from where the client is: this one was not tried.
    Held,
    /// The account's mailbox is in use and the protocol allows one session.
    InUse,
    /// The account has as many sessions as it may.
    Limit,
    /// Nobody but an administrator can help: the account is outside what its node serves.
    Misconfigured,
    /// A password in clear where only an encrypted one is allowed.
    PrivacyRequired,
    /// Something behind us is away: the client may try again.
    Unavailable,
}

impl Denial {
    /// What a client hears when the node of its account refuses the session.
    pub const fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Forbidden => Self::Misconfigured,
            Refusal::InUse => Self::InUse,
            Refusal::Limit => Self::Limit,
            Refusal::Unavailable => Self::Unavailable,
        }
    }

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationFailed => "authorization-failed",
            Self::BadCredentials => "bad-credentials",
            Self::Held => "held",
            Self::InUse => "in-use",
            Self::Limit => "limit",
            Self::Misconfigured => "misconfigured",
            Self::PrivacyRequired => "privacy-required",
            Self::Unavailable => "unavailable",
        }
    }

    /// Response code and text after an IMAP `NO`.
    pub const fn imap(self) -> &'static str {
        match self {
            Self::AuthorizationFailed => "[AUTHORIZATIONFAILED] You may not act as that user.",
            Self::BadCredentials => "[AUTHENTICATIONFAILED] Wrong user name or password.",
            // Not AUTHENTICATIONFAILED: nobody is to be asked for another password.
            Self::Held => "[UNAVAILABLE] Too many failed logins, please try again later.",
            Self::InUse => "[INUSE] The mailbox is in use.",
            Self::Limit => "[LIMIT] Too many sessions for this account.",
            Self::Misconfigured => {
                "[CONTACTADMIN] Your account is not set up correctly, please ask your administrator."
            }
            Self::PrivacyRequired => {
                "[PRIVACYREQUIRED] Passwords are taken only on an encrypted connection."
            }
            Self::Unavailable => {
                "[UNAVAILABLE] Your mailbox is not reachable just now, please try again later."
            }
        }
    }

    /// Response code and text after a POP3 `-ERR`.
    pub const fn pop3(self) -> &'static str {
        match self {
            Self::AuthorizationFailed => "[AUTH] You may not act as that user.",
            Self::BadCredentials => "[AUTH] Wrong user name or password.",
            Self::Held => "[SYS/TEMP] Too many failed logins, please try again later.",
            Self::InUse => "[IN-USE] The mailbox is in use.",
            // POP3 has no code for it; a client does the right thing after this one: it tries later.
            Self::Limit => "[IN-USE] Too many sessions for this account.",
            Self::Misconfigured => {
                "[SYS/PERM] Your account is not set up correctly, please ask your administrator."
            }
            // RFC 3206, 4 counts an attempt against a policy among the reasons for AUTH.
            Self::PrivacyRequired => "[AUTH] Passwords are taken only on an encrypted connection.",
            Self::Unavailable => {
                "[SYS/TEMP] Your mailbox is not reachable just now, please try again later."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Denial; 8] = [
        Denial::AuthorizationFailed,
        Denial::BadCredentials,
        Denial::Held,
        Denial::InUse,
        Denial::Limit,
        Denial::Misconfigured,
        Denial::PrivacyRequired,
        Denial::Unavailable,
    ];

    /// The code of a text that is one response code and one sentence.
    fn code(words: &'static str) -> &'static str {
        let (code, text) = words.split_once("] ").unwrap();
        assert!(text.ends_with('.') && text.bytes().all(|octet| matches!(octet, b' '..=b'~')));
        code.strip_prefix('[').unwrap()
    }

    #[test]
    fn imap_texts_are_one_response_code_and_one_sentence() {
        for denial in ALL {
            let code = code(denial.imap());
            assert!(code.bytes().all(|octet| octet.is_ascii_uppercase()));
        }
    }

    #[test]
    fn pop3_texts_have_the_codes_that_are_registered() {
        for denial in ALL {
            // RFC 2449, 4: a first line of 512 octets, with its status and end.
            assert!(denial.pop3().len() <= 512 - "-ERR \r\n".len());
            let code = code(denial.pop3());
            assert!(matches!(code, "AUTH" | "IN-USE" | "SYS/PERM" | "SYS/TEMP"));
        }
    }
}
