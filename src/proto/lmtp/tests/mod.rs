//! Tests of LMTP: each half by transcripts, both halves against each other, and any input.

mod client;
mod dice;
mod pair;
mod server;

use self::dice::Dice;
use super::property::fuzz;

#[test]
fn the_property_holds_for_babble() {
    const WORDS: [&[u8]; 24] = [
        b"LHLO x\r\n",
        b"MAIL FROM:<eve@b.example>\r\n",
        b"MAIL FROM:<> SIZE=9 SMTPUTF8\r\n",
        b"RCPT TO:<ann@a.example>\r\n",
        b"RCPT TO:<full@a.example> XOURS=a+3Db\r\n",
        b"RCPT TO:<nobody>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"\r\n.\r\n",
        b"\r\n",
        b".",
        b"\n",
        b"\r",
        b"QUIT\r\n",
        b"220 mx\r\n",
        b"250-mx\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
        b"250 mx\r\n",
        b"250 2.1.5 OK\r\n250 OK\r\n",
        b"354 go\r\n",
        b"550-5.1.1 a\r\n550 5.1.1 b\r\n",
        b"450 no\r\n",
        b"421 bye\r\n",
        b"some words of a message that are not too few",
    ];
    for seed in 1..=3_000 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut octets = vec![dice.below(256) as u8, dice.below(256) as u8];
        let begins: [&[u8]; 3] = [
            b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<ann>\r\nDATA\r\n",
            b"220 mx\r\n250-mx\r\n250-8BITMIME\r\n250 PIPELINING\r\n250 OK\r\n",
            b"",
        ];
        octets.extend_from_slice(begins[dice.below(3)]);
        octets.extend_from_slice(&dice.octets(&WORDS, 30));
        fuzz(&octets);
    }
}
