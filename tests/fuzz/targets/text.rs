#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| properties::text(input.1, input.0.into()));
