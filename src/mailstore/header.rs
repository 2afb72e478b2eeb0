//! The beginning of a message on its way to the node's server, held back until it is known whether it was here before.
//!
//! A field `Delivered-To` with the address of a recipient, or with what the server is told of him, is a sign of a loop:
//! Dovecot writes it into a message that it stores for one recipient. Only values with a domain are signs: the field of a
//! message that was forwarded from elsewhere may name a user there who is called as one of ours.
//!
//! The header ends with the first empty line; of a longer one the first 256 KiB are looked at. Folded fields and
//! comments are not understood: neither Dovecot nor we write them. Nothing here can fail.

use bytes::BytesMut;

/// How much is held back at most.
const MAX_BYTES: usize = 256 * 1024;

const DELIVERED_TO: &[u8] = b"delivered-to:";

/// What has come of a message.
#[derive(Debug, Default)]
pub(super) struct Header {
    octets: BytesMut,
    is_complete: bool,
}

impl Header {
    /// Adds octets; whether enough is known.
    pub(super) fn push(&mut self, octets: &[u8]) -> bool {
        // Where an empty line may have begun.
        let from = self.octets.len().saturating_sub(3);
        self.octets.extend_from_slice(octets);
        let fresh = self.octets.get(from..).unwrap_or_default();
        self.is_complete = self.is_complete
            || self.octets.len() >= MAX_BYTES
            || self.octets.starts_with(b"\r\n")
            || self.octets.starts_with(b"\n")
            || fresh.windows(2).any(|end| end == b"\n\n")
            || fresh.windows(3).any(|end| end == b"\n\r\n");
        self.is_complete
    }

    /// All that was held back.
    pub(super) fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Whether the header says that the message was delivered to this address.
    pub(super) fn names(&self, address: &str) -> bool {
        address.contains('@')
            && self
                .octets()
                .split(|octet| *octet == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.split_at_checked(DELIVERED_TO.len()))
                .filter(|(name, _)| name.eq_ignore_ascii_case(DELIVERED_TO))
                .any(|(_, value)| is_address(value, address))
    }
}

/// With or without `<` and `>`.
fn is_address(value: &[u8], address: &str) -> bool {
    let value = value.trim_ascii();
    let value = value
        .strip_prefix(b"<")
        .and_then(|value| value.strip_suffix(b">"))
        .unwrap_or(value);
    value.eq_ignore_ascii_case(address.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the message, in every cut into two, is known to be for `ann@a.example`, and after how many octets.
    fn found(message: &str) -> (bool, bool) {
        let mut all = Vec::new();
        for at in 0..=message.len() {
            let (first, second) = message.as_bytes().split_at(at);
            let mut header = Header::default();
            let complete = header.push(first) || header.push(second);
            all.push((header.names("ann@a.example"), complete));
            assert!(message.as_bytes().starts_with(header.octets()));
        }
        let complete = all.iter().all(|(_, complete)| *complete);
        // With the whole message in hand.
        (all.last().unwrap().0, complete)
    }

    #[test]
    fn headers_that_name_a_recipient_are_found_at_every_split() {
        for (message, expected) in [
            ("Delivered-To: ann@a.example\r\n\r\n", (true, true)),
            (
                "Subject: x\r\ndelivered-to:<ANN@a.example> \r\n\r\nx",
                (true, true),
            ),
            ("A: b\nDelivered-To: ann@a.example\n\nx", (true, true)),
            ("Delivered-To: ann@a.example\r\nA: b", (true, false)),
            ("Delivered-To: nann@a.example\r\n\r\n", (false, true)),
            ("X-Delivered-To: ann@a.example\r\n\r\n", (false, true)),
            ("A: b\r\n\r\nDelivered-To: ann@a.example\r\n", (false, true)),
            ("\r\nDelivered-To: ann@a.example\r\n\r\n", (false, true)),
            ("\nDelivered-To: ann@a.example\r\n\r\n", (false, true)),
            ("", (false, false)),
        ] {
            assert_eq!(found(message), expected, "{message:?}");
        }
    }

    #[test]
    fn a_user_name_without_a_domain_is_no_sign() {
        let mut header = Header::default();
        assert!(header.push(b"Delivered-To: ann\r\n\r\n"));
        assert!(!header.names("ann"));
    }

    #[test]
    fn an_endless_header_is_held_back_so_far() {
        let mut header = Header::default();
        let line = [b'x'; 1024];
        let pieces = (0..1000).take_while(|_| !header.push(&line)).count();
        assert_eq!(pieces, 255);
    }
}
