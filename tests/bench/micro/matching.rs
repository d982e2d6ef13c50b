//! Cost of finding the rule of a descriptor.
//!
//! `in turn`, each lookup takes another descriptor, so that with many rules they do not all lie in the
//! processor's nearest cache; `one descriptor` asks for the same one again and again.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use tollgate::engine::Entry;
use tollgate::engine::rules::Rules;

use crate::rules::load;

/// Descriptors to ask for in turn.
const DESCRIPTORS: usize = 8_192;

/// `count` users below one service, a rule for each of them and one method.
fn users(count: usize) -> Rules {
    let mut text =
        "domain: bench\ndescriptors:\n  - key: service\n    value: shop\n    descriptors:\n".to_owned();
    for user in 0..count {
        write!(
            text,
            "      - key: user\n        value: user-{user:06}\n        descriptors: \
             [{{key: method, value: GET, rate_limit: 100/minute}}]\n"
        )
        .expect("text");
    }
    load(&text)
}

/// `count` rules for tenant, path and method: ten for each tenant, two for each of its paths.
fn tenants(count: usize) -> Rules {
    let mut text = "domain: bench\ndescriptors:\n".to_owned();
    for tenant in 0..count.div_ceil(10) {
        writeln!(text, "  - key: tenant\n    value: tenant-{tenant:06}\n    descriptors:").expect("text");
        for path in 0..5 {
            write!(
                text,
                "      - key: path\n        value: /api/v{path}\n        descriptors:\n          \
                 - {{key: method, value: GET, rate_limit: 100/minute}}\n          \
                 - {{key: method, rate_limit: 10/minute}}\n"
            )
            .expect("text");
        }
    }
    load(&text)
}

type Texts = [(&'static str, String); 3];

fn of_users(rules: usize) -> Vec<Texts> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut one = || {
        let user = format!("user-{:06}", random.usize(..rules));
        [("service", "shop".to_owned()), ("user", user), ("method", "GET".to_owned())]
    };
    (0..DESCRIPTORS).map(|_| one()).collect()
}

fn of_tenants(rules: usize) -> Vec<Texts> {
    let mut random = fastrand::Rng::with_seed(7);
    let tenants = rules.div_ceil(10);
    let one = |_| {
        let method = if random.bool() { "GET" } else { "POST" };
        [
            ("tenant", format!("tenant-{:06}", random.usize(..tenants))),
            ("path", format!("/api/v{}", random.u8(..5))),
            ("method", method.to_owned()),
        ]
    };
    (0..DESCRIPTORS).map(one).collect()
}

fn entries(texts: &Texts) -> [Entry<'_>; 3] {
    texts.each_ref().map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() })
}

type Shape = (&'static str, fn(usize) -> Rules, fn(usize) -> Vec<Texts>);

/// Three entries, under ten rules to 100,000.
pub(crate) fn by_number_of_rules(criterion: &mut Criterion) {
    let shapes: [Shape; 2] = [("users", users, of_users), ("tenants", tenants, of_tenants)];
    for (shape, rules, descriptors) in shapes {
        let mut group = criterion.benchmark_group(format!("match, three entries, {shape}"));
        for count in [10, 1_000, 100_000] {
            let rules = rules(count);
            assert_eq!(rules.len(), count);
            let domain = rules.domain(b"bench").expect("it is there");
            let texts = descriptors(count);
            let asked: Vec<_> = texts.iter().map(entries).collect();
            assert!(asked.iter().all(|entries| domain.find(entries).is_some()));
            group.bench_with_input(BenchmarkId::new("in turn", count), &asked, |bencher, asked| {
                let mut next = asked.iter().cycle();
                bencher.iter(|| domain.find(black_box(next.next().expect("they go round"))).is_some());
            });
            group.bench_with_input(
                BenchmarkId::new("one descriptor", count),
                &asked[0],
                |bencher, entries| {
                    bencher.iter(|| domain.find(black_box(entries)).is_some());
                },
            );
        }
        group.finish();
    }
}

/// One entry, and each kind of pattern and step.
pub(crate) fn by_kind(criterion: &mut Criterion) {
    let rules = load(
        "
domain: bench
descriptors:
  - {key: value, value: gold, rate_limit: 1/day}
  - {key: one_of, one_of: [gold, silver], rate_limit: 1/day}
  - {key: glob, value: /static/*.css, rate_limit: 1/day}
  - {key: cidr, cidr: [10.0.0.0/8, 'fd00::/8'], rate_limit: 1/day}
  - {key: regex, regex: '/v[0-9]+/users/[^/]+', rate_limit: 1/day}
  - {key: bare, rate_limit: 1/day}
  - {key: lowercase, normalize: [lowercase], rate_limit: 1/day}
  - {key: ip_prefix, normalize: [ip_prefix], rate_limit: 1/day}
  - {key: forwarded_for, normalize: [forwarded_for], rate_limit: 1/day}
  - {key: hash, normalize: [hash], rate_limit: 1/day}
",
    );
    let domain = rules.domain(b"bench").expect("it is there");
    let mut group = criterion.benchmark_group("match, one entry");
    for (key, value) in [
        ("value", "gold"),
        ("one_of", "silver"),
        ("glob", "/static/a/b/c.css"),
        ("cidr", "10.1.2.3"),
        ("cidr", "fd00:1:2::3"),
        ("regex", "/v12/users/alice"),
        ("bare", "anything"),
        ("lowercase", "Alice@Example.com"),
        ("ip_prefix", "2001:db8:1:2:3:4:5:6"),
        ("forwarded_for", "1.2.3.4, [2001:db8::1]:443"),
        ("hash", "alice@example.com"),
    ] {
        let entry = [Entry { key: key.as_bytes(), value: value.as_bytes() }];
        group.bench_with_input(BenchmarkId::new(key, value), &entry, |bencher, entry| {
            bencher.iter(|| domain.find(black_box(entry)).expect("a rule applies").path.len());
        });
    }
    group.finish();
}
