//! Rules to measure with.

use tollgate::engine::rules::{CompileOptions, HashKey, Rules, SourceFile, compile};

/// The rules in `text`.
pub(crate) fn load(text: &str) -> Rules {
    let file = SourceFile { name: "bench.yaml".to_owned(), text: text.to_owned() };
    let options =
        CompileOptions { hash_key: Some(HashKey::new(b"secret of the bench")), ..CompileOptions::default() };
    compile(&[file], options, None).expect("the rules are right")
}

/// A limit for each of a store's users, addresses and paths.
pub(crate) const LAYERS: &str = "
domain: store
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: {unit: hour, requests_per_unit: 4000000000}}
  - {key: remote_address, layer: ip, rate_limit: {unit: hour, requests_per_unit: 4000000000}}
  - {key: path, layer: endpoint, rate_limit: {unit: hour, requests_per_unit: 4000000000}}
";

/// A descriptor of one entry for each of them, in their order.
pub(crate) const ASKED: [(&str, &str); 3] =
    [("user", "9f1c2d7a-6b54"), ("remote_address", "203.0.113.42"), ("path", "/v1/checkout")];
