//! Any response in a SASL exchange.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::sasl::fuzz(data));
