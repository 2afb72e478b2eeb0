//! Any peer that speaks LMTP: a client to our server half, a server to our client half, and any message.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::lmtp::fuzz(data));
