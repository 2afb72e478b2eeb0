//! Any octets as a header of the PROXY protocol.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pigeonair::proto::proxy_header::fuzz(data));
