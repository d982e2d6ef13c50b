#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::log(bytes));
