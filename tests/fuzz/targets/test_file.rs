#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "other targets have the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::test_file(text));
