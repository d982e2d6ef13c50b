//! The names of counters.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use tollgate::engine::{Entry, KeyDomain, KeyFormat, KeyWriter, Limit, Unit};

use crate::rules::load;

const RULES: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: 100/minute
  - key: tenant
    descriptors:
      - key: path
        descriptors:
          - {key: method, rate_limit: 100/minute}
";

/// The key of a counter for one entry and for three, in both spellings.
pub(crate) fn write(criterion: &mut Criterion) {
    let rules = load(RULES);
    let domain = rules.domain(b"shop").expect("it is there");
    let limit = Limit::per(100, Unit::Minute);
    let of_domain = KeyDomain { name: b"shop", hash_tag: None, only_limit: true };
    let entry =
        |key: &'static str, value: &'static str| Entry { key: key.as_bytes(), value: value.as_bytes() };
    let one = vec![entry("user", "9f1c2d7a-6b54")];
    let three = vec![entry("tenant", "acme"), entry("path", "/v1/checkout"), entry("method", "POST")];
    let mut group = criterion.benchmark_group("key");
    for (format, name) in [(KeyFormat::Native, "native"), (KeyFormat::Envoyproxy, "envoyproxy")] {
        let keys = KeyWriter::new(format, "");
        for entries in [&one, &three] {
            let matched = domain.find(entries).expect("a rule applies");
            let id = BenchmarkId::new(name, if entries.len() == 1 { "1 entry" } else { "3 entries" });
            group.bench_with_input(id, entries, |bencher, entries| {
                bencher.iter(|| keys.key(of_domain, black_box(entries), Some(&matched), limit));
            });
        }
    }
    group.finish();
}
