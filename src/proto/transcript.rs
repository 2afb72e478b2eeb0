//! Conversations as transcripts: documentation and test at once. Not in ordinary builds.
//!
//! `C:` the client sends a line, `c:` it sends octets without CRLF; `S:` the server sends a line; `E:` the driver sees
//! an event; `T:` TLS is established; `L:` this is left to the next reader. In `C`, `c` and `L`, `\r \n \0 \\ \xNN` are
//! escapes. Each one is played as written (every reply must come where it stands), whole, octet by octet, and cut at
//! every offset.

use std::mem;

use super::conversation::{Answer, Conversation, Machine, play};

/// Plays a transcript in all ways. The greeting is not part of it.
pub(super) fn check<M: Machine>(machine: impl Fn() -> M, answers: &[Answer], script: &str) {
    let begin = || {
        let mut conversation = Conversation::new(machine(), answers);
        conversation.log.clear();
        conversation
    };
    let mut written = begin();
    let (mut clear, mut secured) = (Vec::new(), Vec::new());
    let (mut log, mut left) = (Vec::new(), Vec::new());
    let mut said = &mut clear;
    for line in script
        .lines()
        .map(str::trim_start)
        .filter(|l| !l.is_empty())
    {
        let (who, text) = line.split_at(2);
        let text = text.strip_prefix(' ').unwrap_or(text);
        match who {
            "C:" | "c:" => {
                let told = String::from_utf8_lossy(&written.log).into_owned();
                assert_eq!(told, String::from_utf8_lossy(&log), "before {line}");
                let mut octets = unescape(text);
                if who == "C:" {
                    octets.extend_from_slice(b"\r\n");
                }
                written.hear(&octets);
                said.extend_from_slice(&octets);
            }
            "S:" => log.extend_from_slice(format!("{text}\r\n").as_bytes()),
            "E:" => log.extend_from_slice(format!("E: {text}\r\n").as_bytes()),
            "L:" => left = unescape(text),
            "T:" => {
                written.secure();
                said = &mut secured;
            }
            _ => panic!("{line}"),
        }
    }
    let shown = |log: &[u8]| String::from_utf8_lossy(log).into_owned();
    assert_eq!(shown(&written.log), shown(&log), "as written");
    let mut cuts: Vec<(usize, usize)> = (1..clear.len() + secured.len())
        .map(|first| (first, usize::MAX))
        .collect();
    cuts.extend([(usize::MAX, usize::MAX), (1, 1)]);
    for (first, rest) in cuts {
        let mut next = first;
        let cut = || mem::replace(&mut next, rest);
        let (heard, unread) = play(begin(), &clear, &secured, cut);
        assert_eq!(shown(&heard), shown(&log), "cut at {first}, {rest}");
        assert_eq!(shown(&unread), shown(&left), "left; cut at {first}, {rest}");
    }
}

pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next().unwrap() {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} is no escape", char::from(other)),
        });
    }
    octets
}
