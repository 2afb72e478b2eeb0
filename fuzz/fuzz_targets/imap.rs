//! Any client that speaks to IMAP before login.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::imap::fuzz(data));
