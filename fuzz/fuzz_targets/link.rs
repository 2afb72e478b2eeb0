//! Any octets as a record of the link, or as its context.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::link::fuzz(data));
