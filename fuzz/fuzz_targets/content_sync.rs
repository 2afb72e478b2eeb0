//! Any value of a control or message of content synchronisation.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::content_sync::fuzz(data));
