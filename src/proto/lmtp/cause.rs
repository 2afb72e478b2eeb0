//! Why a recipient or a message is not taken, and the reply that says so.
//!
//! The MTA in front acts on the first digit: 4 keeps the message in its queue, 5 returns it to its sender. So a cause is
//! permanent only where trying again can't help. The texts name no node, account or path: they end up in bounces.
//! What really happened goes to the log. RFC 3463 for the codes; RFC 1893 has the same.

use super::reply::Reply;

/// A reason that the MTA may hear.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// The account takes no mail.
    AccountDisabled,
    /// The account takes no mail for now.
    AccountSuspended,
    /// The message has a CR or LF alone, where that is refused.
    BareLineEnd,
    /// There are too many connections.
    Busy,
    /// The directory does not answer.
    DirectoryDown,
    /// The mailbox' disk is full.
    DiskFull,
    /// The message needs 8BITMIME, and the mailbox' server has it not.
    EightBit,
    /// Something failed that has no other word.
    Failed,
    /// The message has been here before.
    Loop,
    /// Nobody but an administrator can help: the account is outside what its node serves.
    Misconfigured,
    /// The home can't be reached.
    NodeDown,
    /// An administrator wants nothing to go there for now.
    NodeDrained,
    /// The directory knows no such account.
    NoSuchUser,
    /// The account's quota is used up; a setting says which of the two is meant.
    OverQuota,
    /// The same, and the MTA shall try again.
    OverQuotaForNow,
    /// We are going down.
    Shutdown,
    /// Something took too long.
    TimedOut,
    /// The message is larger than allowed.
    TooBig,
    /// There are more recipients than one message may have.
    TooManyRecipients,
    /// The connection broke when the message was sent and not yet answered: it may be stored.
    Uncertain,
    /// The message needs SMTPUTF8, and the mailbox' server has it not.
    Utf8,
}

impl Cause {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountDisabled => "account-disabled",
            Self::AccountSuspended => "account-suspended",
            Self::BareLineEnd => "bare-line-end",
            Self::Busy => "busy",
            Self::DirectoryDown => "directory-down",
            Self::DiskFull => "disk-full",
            Self::EightBit => "eight-bit",
            Self::Failed => "failed",
            Self::Loop => "loop",
            Self::Misconfigured => "misconfigured",
            Self::NodeDown => "node-down",
            Self::NodeDrained => "node-drained",
            Self::NoSuchUser => "no-such-user",
            Self::OverQuota => "over-quota",
            Self::OverQuotaForNow => "over-quota-for-now",
            Self::Shutdown => "shutdown",
            Self::TimedOut => "timed-out",
            Self::TooBig => "too-big",
            Self::TooManyRecipients => "too-many-recipients",
            Self::Uncertain => "uncertain",
            Self::Utf8 => "utf8",
        }
    }

    /// Codes and text.
    pub const fn reply(self) -> Reply {
        let (code, subject, detail, text) = match self {
            Self::AccountDisabled => (550, 2, 1, "This mailbox takes no mail."),
            Self::AccountSuspended => (450, 2, 1, "This mailbox takes no mail just now."),
            Self::BareLineEnd => (554, 6, 0, "Lines end in CRLF, here is a CR or LF alone."),
            Self::Busy => (421, 3, 2, "Too many connections, please try again later."),
            Self::DirectoryDown => (451, 4, 3, "The directory does not answer."),
            Self::DiskFull => (452, 3, 1, "No space left for this mailbox."),
            Self::EightBit => (554, 6, 3, "The mailbox can't take 8-bit messages."),
            Self::Failed => (451, 3, 0, "The message could not be stored."),
            Self::Loop => (554, 4, 6, "This message has been here before."),
            Self::Misconfigured => (451, 3, 5, "This mailbox is not set up correctly."),
            Self::NodeDown | Self::NodeDrained => {
                (451, 4, 1, "The mailbox is not reachable just now.")
            }
            Self::NoSuchUser => (550, 1, 1, "No such user here."),
            Self::OverQuota => (552, 2, 2, "The mailbox is full."),
            Self::OverQuotaForNow => (452, 2, 2, "The mailbox is full."),
            Self::Shutdown => (421, 3, 2, "Going down, please try again later."),
            Self::TimedOut => (451, 4, 2, "The mailbox did not answer in time."),
            Self::TooBig => (552, 3, 4, "The message is too big."),
            Self::TooManyRecipients => (452, 5, 3, "Too many recipients."),
            Self::Uncertain => (
                451,
                4,
                2,
                "The mailbox did not say whether it has the message.",
            ),
            Self::Utf8 => (554, 6, 7, "The mailbox can't take SMTPUTF8 messages."),
        };
        Reply::fixed(code, subject, detail, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_mtas_are_promised() {
        for (cause, codes) in [
            (Cause::AccountDisabled, "550 5.2.1"),
            (Cause::AccountSuspended, "450 4.2.1"),
            (Cause::BareLineEnd, "554 5.6.0"),
            (Cause::Busy, "421 4.3.2"),
            (Cause::DirectoryDown, "451 4.4.3"),
            (Cause::DiskFull, "452 4.3.1"),
            (Cause::EightBit, "554 5.6.3"),
            (Cause::Failed, "451 4.3.0"),
            (Cause::Loop, "554 5.4.6"),
            (Cause::Misconfigured, "451 4.3.5"),
            (Cause::NodeDown, "451 4.4.1"),
            (Cause::NodeDrained, "451 4.4.1"),
            (Cause::NoSuchUser, "550 5.1.1"),
            (Cause::OverQuota, "552 5.2.2"),
            (Cause::OverQuotaForNow, "452 4.2.2"),
            (Cause::Shutdown, "421 4.3.2"),
            (Cause::TimedOut, "451 4.4.2"),
            (Cause::TooBig, "552 5.3.4"),
            (Cause::TooManyRecipients, "452 4.5.3"),
            (Cause::Uncertain, "451 4.4.2"),
            (Cause::Utf8, "554 5.6.7"),
        ] {
            let text = cause.reply().to_string();
            let sentence = text.strip_prefix(codes).unwrap_or_else(|| panic!("{text}"));
            assert!(
                sentence.starts_with(' ') && sentence.ends_with('.'),
                "{text}"
            );
            assert!(text.bytes().all(|octet| matches!(octet, b' '..=b'~')));
        }
    }
}
