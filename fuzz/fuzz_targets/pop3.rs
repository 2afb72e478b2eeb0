//! Any client that speaks to POP3 before login.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::pop3::fuzz(data));
