//! Any octets as values in other servers' protocols.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::encode::property(data));
