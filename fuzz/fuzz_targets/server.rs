//! Any real server: what it says before and while it is logged in to, and as the opening of a session.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pigeonair::proto::login::fuzz(data);
    pigeonair::proto::pop3::login::fuzz(data);
    pigeonair::proto::opening::fuzz(data);
    pigeonair::proto::survey::fuzz(data);
});
