//! The cases: services and requests.

use std::fmt::Write as _;
use std::time::Duration;

use crate::load::{self, Pace, Shape};
use crate::options::{Case, Options};
use crate::rounds::{CEILING, Group, Subject};
use crate::servers::{Redis, Service, Setup};

/// Windows so long that none ends during a measurement, and limits so high that nothing is denied.
const RULES: &str = "\
domain: bench
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 4000000000}
---
domain: leased
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 4000000000, lease: true}
---
domain: sliding
descriptors:
  - key: user
    rate_limit: {unit: hour, requests_per_unit: 4000000000, algorithm: sliding_window}
---
domain: bucket
descriptors:
  - key: user
    rate_limit: {unit: hour, requests_per_unit: 4000000000, algorithm: token_bucket}
---
domain: layers
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: {unit: year, requests_per_unit: 4000000000}}
  - {key: address, layer: ip, rate_limit: {unit: year, requests_per_unit: 4000000000}}
  - {key: path, layer: endpoint, rate_limit: {unit: year, requests_per_unit: 4000000000}}
";

/// The first of them, as envoyproxy/ratelimit reads it.
const RATELIMIT_RULES: &str = "\
domain: bench
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 4000000000}
";

/// One descriptor for one of many users.
const UNIFORM: Shape = Shape {
    pace: Pace::Closed { in_flight: 64 },
    connections: 4,
    domain: "bench",
    templates: &["user={}"],
    descriptors: 1,
    keys: 100_000,
    distribution: load::UNIFORM,
};

/// Domain of the same limits with leases.
const LEASED: Option<&str> = Some("leased");
const LEASED_NAME: &str = "leased";

/// Duration of the measurement of the ceiling's capacity.
const PACING: Duration = Duration::from_secs(2);

/// Numbers of rules.
const RULE_COUNTS: [u32; 3] = [10, 1_000, 100_000];

/// Numbers of processes on one Redis.
const REPLICA_COUNTS: [usize; 3] = [1, 2, 4];

/// The services of most cases.
pub(crate) struct World {
    ceiling: Service,
    embedded: Service,
    /// Processes that share a Redis. All cases except [`replicas`] use only the first.
    on_redis: Vec<Service>,
    /// envoyproxy/ratelimit on the same Redis, if there is a program.
    ratelimit: Option<Service>,
    redis: Redis,
}

impl World {
    /// Starts the services.
    pub(crate) async fn start(options: &Options) -> Self {
        let program = options.program();
        let redis = Redis::start().await;
        let replicas = if options.wants(Case::Replicas) { REPLICA_COUNTS.into_iter().max() } else { None };
        let mut on_redis = Vec::new();
        for _ in 0..replicas.unwrap_or(1) {
            let setup = Setup { redis: Some(&redis), ..Setup::default() };
            on_redis.push(Service::tollgate(&program, RULES, setup).await);
        }
        let ratelimit = match &options.ratelimit {
            Some(program) => Some(Service::ratelimit(program, RATELIMIT_RULES, &redis).await),
            None => None,
        };
        Self {
            ceiling: Service::ceiling().await,
            embedded: Service::tollgate(&program, RULES, Setup::default()).await,
            on_redis,
            ratelimit,
            redis,
        }
    }

    /// The service that decides nothing.
    pub(crate) fn ceiling(&self) -> Subject<'_> {
        Subject { name: CEILING, services: vec![&self.ceiling], redis: None, domain: None }
    }

    /// The program with counters in memory.
    pub(crate) fn embedded(&self) -> Subject<'_> {
        Subject { name: "embedded", services: vec![&self.embedded], redis: None, domain: None }
    }

    /// `count` processes that share Redis.
    fn replicas(&self, count: usize) -> Subject<'_> {
        let services = self.on_redis.iter().take(count).collect();
        Subject { name: "Redis", services, redis: Some(&self.redis), domain: None }
    }

    /// One process on Redis.
    pub(crate) fn on_redis(&self) -> Subject<'_> {
        self.replicas(1)
    }

    /// The same with leases.
    pub(crate) fn leased(&self) -> Subject<'_> {
        Subject { name: LEASED_NAME, domain: LEASED, ..self.on_redis() }
    }

    /// envoyproxy/ratelimit, if it is measured.
    fn peer(&self) -> Option<Subject<'_>> {
        let services = vec![self.ratelimit.as_ref()?];
        Some(Subject { name: "envoyproxy/ratelimit", services, redis: Some(&self.redis), domain: None })
    }

    fn all(&self) -> Vec<Subject<'_>> {
        let mut subjects = vec![self.ceiling(), self.embedded(), self.on_redis()];
        subjects.extend(self.peer());
        subjects
    }
}

/// Cost of a request.
pub(crate) fn costs<'a>(world: &'a World, options: &Options) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    if options.wants(Case::Uniform) {
        let title = "100,000 keys, 64 in flight".to_owned();
        groups.push(Group { title, shape: UNIFORM, subjects: world.all() });
    }
    if options.wants(Case::Hot) {
        groups.push(Group {
            title: "one hot key, 256 in flight".to_owned(),
            shape: Shape { pace: Pace::Closed { in_flight: 256 }, keys: 1, ..UNIFORM },
            subjects: world.all(),
        });
    }
    if options.wants(Case::Layers) {
        let templates = &["user={}", "address=203.0.113.{}", "path=/v1/{}"];
        groups.push(Group {
            title: "three layers, `if_allowed`, 64 in flight".to_owned(),
            shape: Shape { domain: "layers", templates, descriptors: 3, ..UNIFORM },
            subjects: vec![world.ceiling(), world.embedded(), world.on_redis()],
        });
    }
    if options.wants(Case::Algorithms) {
        for (title, domain) in [("one sliding window", "sliding"), ("one token bucket", "bucket")] {
            groups.push(Group {
                title: format!("{title}, 64 in flight"),
                shape: Shape { domain, ..UNIFORM },
                subjects: vec![world.ceiling(), world.on_redis()],
            });
        }
    }
    groups
}

/// Limits with and without a lease: one key with one caller, one key with all callers, and many keys of which few are
/// hot.
pub(crate) fn leases<'a>(world: &'a World, options: &Options) -> Vec<Group<'a>> {
    if !options.wants(Case::Leases) {
        return Vec::new();
    }
    let one = Shape { keys: 1, ..UNIFORM };
    let shapes = [
        (
            "one key, 1 in flight",
            Shape { pace: Pace::Closed { in_flight: 1 }, connections: 1, ..one.clone() },
        ),
        ("one key, 256 in flight", Shape { pace: Pace::Closed { in_flight: 256 }, ..one }),
        ("1,000 keys by Zipf's law, 64 in flight", Shape { keys: 1_000, distribution: "zipf", ..UNIFORM }),
    ];
    let group = |(title, shape): (&str, Shape)| {
        let subjects = vec![world.ceiling(), world.on_redis(), world.leased()];
        Group { title: title.to_owned(), shape, subjects }
    };
    shapes.into_iter().map(group).collect()
}

/// Increasing numbers of processes on one Redis, which share the same load.
pub(crate) fn replicas<'a>(world: &'a World, options: &Options) -> Vec<Group<'a>> {
    if !options.wants(Case::Replicas) {
        return Vec::new();
    }
    let group = |count: usize| {
        let es = if count == 1 { "" } else { "es" };
        let subject = world.replicas(count);
        let leased = Subject { name: LEASED_NAME, domain: LEASED, ..subject.clone() };
        Group {
            title: format!("{count} process{es}, 1,000 keys by Zipf's law"),
            shape: Shape { keys: 1_000, distribution: "zipf", ..UNIFORM },
            subjects: vec![subject, leased],
        }
    };
    REPLICA_COUNTS.into_iter().map(group).collect()
}

/// A steady load of 5 % of the ceiling's capacity on this machine, and its rate in requests per second. The rate is not
/// higher, since requests that arrive one by one cost the load generator and the service several times as much as
/// requests that arrive together, and both share the machine with Redis.
pub(crate) async fn steady(world: &World, options: &Options) -> (u32, Shape) {
    let report = UNIFORM.send(&options.program(), &world.ceiling.address, PACING).await;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
    let per_second = ((report.requests_per_second / 2_000.0) as u32).max(1) * 100;
    (per_second, Shape { pace: Pace::Open { per_second }, ..UNIFORM })
}

/// The services under a steady load.
pub(crate) fn open(world: &World, shape: Shape) -> Group<'_> {
    Group { title: "100,000 keys".to_owned(), shape, subjects: world.all() }
}

/// Services with increasing numbers of rules.
pub(crate) async fn growing(options: &Options) -> Vec<(u32, Service)> {
    let mut services = Vec::new();
    if options.wants(Case::Rules) {
        for count in RULE_COUNTS {
            let service = Service::tollgate(&options.program(), &tenants(count), Setup::default()).await;
            services.push((count, service));
        }
    }
    services
}

/// `count` rules, one for each tenant.
pub(crate) fn tenants(count: u32) -> String {
    let mut text = "domain: bench\ndescriptors:\n".to_owned();
    for tenant in 0..count {
        let limit = "{unit: year, requests_per_unit: 4000000000}";
        writeln!(text, "  - {{key: tenant, value: tenant-{tenant}, rate_limit: {limit}}}").expect("text");
    }
    text
}

/// Cost by the number of rules (the services in `growing`), descriptors, keys and connections.
pub(crate) fn growth<'a>(
    world: &'a World,
    growing: &'a [(u32, Service)],
    options: &Options,
) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    for (count, service) in growing {
        groups.push(Group {
            title: format!("{} rules, each asked for", thousands(*count)),
            shape: Shape { templates: &["tenant=tenant-{}"], keys: *count, ..UNIFORM },
            subjects: vec![world.ceiling(), Subject { services: vec![service], ..world.embedded() }],
        });
    }
    let mut add = |case, title: String, shape| {
        if options.wants(case) {
            groups.push(Group { title, shape, subjects: world.all() });
        }
    };
    for descriptors in [1, 3, 16] {
        let s = if descriptors == 1 { "" } else { "s" };
        add(Case::Descriptors, format!("{descriptors} descriptor{s}"), Shape { descriptors, ..UNIFORM });
    }
    for keys in [100, 1_000_000] {
        add(Case::Keys, format!("{} keys", thousands(keys)), Shape { keys, ..UNIFORM });
    }
    for connections in [1, 16, 256] {
        let s = if connections == 1 { "" } else { "s" };
        let shape = Shape { pace: Pace::Closed { in_flight: 256 }, connections, ..UNIFORM };
        add(Case::Connections, format!("{connections} connection{s}, 256 in flight"), shape);
    }
    groups
}

/// A number with a comma before every third digit from the right.
pub(crate) fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Requests for `keys` keys.
pub(crate) const fn asking_for(keys: u32) -> Shape {
    Shape { keys, ..UNIFORM }
}

/// The rules of most cases.
pub(crate) const fn rules() -> &'static str {
    RULES
}
