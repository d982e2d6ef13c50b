//! Every metric with its names: one list that all formats render.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::proto::MetricType;

use super::histogram::Histogram;
use super::name::sanitize;
use super::{Gauge, HitCounts, Metrics};
use crate::engine::rules::{Domain, Layer};

/// Counters of a rule.
pub(super) const RULE_COUNTERS: [RuleCounter; 8] = [
    RuleCounter {
        name: "ratelimit_service_rate_limit_total_hits",
        flat: ("ratelimit.service.rate_limit", "total_hits"),
        read: |hit_counts| hit_counts.total_hits,
        help: "Hits asked for.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_within_limit",
        flat: ("ratelimit.service.rate_limit", "within_limit"),
        read: |hit_counts| hit_counts.within_limit,
        help: "Hits of requests that passed.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_near_limit",
        flat: ("ratelimit.service.rate_limit", "near_limit"),
        read: |hit_counts| hit_counts.near_limit,
        help: "Hits within the limit and past NEAR_LIMIT_RATIO of it.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_over_limit",
        flat: ("ratelimit.service.rate_limit", "over_limit"),
        read: |hit_counts| hit_counts.over_limit,
        help: "Hits past the limit.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_over_limit_with_local_cache",
        flat: ("ratelimit.service.rate_limit", "over_limit_with_local_cache"),
        read: |hit_counts| hit_counts.over_limit_with_local_cache,
        help: "Hits past the limit that were denied without asking the store.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_shadow_mode",
        flat: ("ratelimit.service.rate_limit", "shadow_mode"),
        read: |hit_counts| hit_counts.shadow_mode,
        help: "Hits past the limit that passed by the rule's shadow mode.",
    },
    RuleCounter {
        name: "ratelimit_service_rate_limit_total_negative_hits",
        flat: ("ratelimit.service.rate_limit", "total_negative_hits"),
        read: |hit_counts| hit_counts.total_negative_hits,
        help: "Hits given back.",
    },
    RuleCounter {
        name: "tollgate_rate_limit_denied_requests",
        flat: ("tollgate.rate_limit", "denied_requests"),
        read: |hit_counts| hit_counts.denied_requests,
        help: "Denied requests that were over the limit, peeks included.",
    },
];

/// A counter that every rule has.
#[derive(Clone, Copy)]
pub(super) struct RuleCounter {
    pub(super) name: &'static str,
    /// Flat name: what stands in front of the rule, and what follows it.
    pub(super) flat: (&'static str, &'static str),
    pub(super) read: fn(&HitCounts) -> u64,
    pub(super) help: &'static str,
}

type Labels = Vec<(&'static str, String)>;

/// Points of one name.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) points: Vec<Point>,
}

/// A number.
pub(super) struct Point {
    pub(super) labels: Labels,
    /// The name that says it all, for those who know no labels.
    pub(super) flat: String,
    pub(super) value: u64,
}

/// Durations of one name.
pub(super) struct Durations<'m> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: Labels,
    pub(super) histogram: &'m Histogram,
}

/// The labels of one per-rule series: the domain, then the first two levels. Deeper levels add up in
/// their second one.
pub(super) type RuleLabels = (String, String, Option<String>);

impl Metrics {
    /// Every number that is not a rule's.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = self.reference_families();
        families.extend(self.own_families());
        families.extend(self.candidate.get().into_iter().flat_map(|candidate| candidate.families()));
        families
    }

    /// Those that envoyproxy/ratelimit has too.
    fn reference_families(&self) -> Vec<Family> {
        let error = |err_type: &str, value| Point {
            labels: vec![("err_type", err_type.to_owned())],
            flat: format!("ratelimit.service.call.should_rate_limit.{err_type}"),
            value,
        };
        vec![
            Family {
                points: vec![Point {
                    labels: method(),
                    flat: "ratelimit_server.ShouldRateLimit.total_requests".to_owned(),
                    value: self.calls.count(),
                }],
                ..counter("ratelimit_service_total_requests", "Calls, refused ones included.")
            },
            Family {
                points: vec![
                    error("service_error", read(&self.service_errors)),
                    error("redis_error", self.store_errors().map(|(_, errors)| errors).iter().sum()),
                ],
                ..counter(
                    "ratelimit_service_should_rate_limit_error",
                    "Calls without a decision: bad requests or no rules (service_error), or a store that \
                     did not count (redis_error).",
                )
            },
            counter("ratelimit_service_config_load_success", "Rule sets that came into force.")
                .of("ratelimit.service.config_load_success", read(&self.config_loads)),
            counter("ratelimit_service_config_load_error", "Rule sets that were refused.")
                .of("ratelimit.service.config_load_error", read(&self.config_errors)),
            counter("ratelimit_service_global_shadow_mode", "Requests that passed by SHADOW_MODE alone.")
                .of("ratelimit.service.global_shadow_mode", read(&self.shadowed_requests)),
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::LocalCacheHits)),
                ..counter("ratelimit_localcache_hitCount", "Times that a key was known to be over its limit.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::LocalCacheMisses)),
                ..counter("ratelimit_localcache_missCount", "Times that a key was not known to be over.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::LocalCacheLookups)),
                ..counter("ratelimit_localcache_lookupCount", "Times that this was looked up.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::LocalCacheEntries)),
                ..gauge("ratelimit_localcache_entryCount", "Keys that are known to be over their limit.")
            },
        ]
    }

    fn own_families(&self) -> Vec<Family> {
        let rules = self.rules.load();
        let denied = |(domain, layer): (&str, &Layer)| Point {
            labels: vec![("domain", domain.to_owned()), ("layer", layer.name().to_owned())],
            flat: format!("tollgate.layer_denied_requests.{domain}.{}", layer.name()),
            value: layer.denied(),
        };
        let mut domains: Vec<_> = rules.iter().flat_map(|rules| rules.domains()).collect();
        domains.sort_unstable_by_key(|domain| domain.name());
        let unmatched = |domain: &Domain| Point {
            labels: vec![("domain", domain.name().to_owned())],
            flat: format!("tollgate.unmatched_descriptors.{}", domain.name()),
            value: domain.unmatched(),
        };
        let store_error = |(kind, value): (&str, u64)| Point {
            labels: vec![("kind", kind.to_owned())],
            flat: format!("tollgate.store_errors.{kind}"),
            value,
        };
        vec![
            counter("tollgate_unknown_domain_requests", "Requests to a domain without rules.")
                .of("tollgate.unknown_domain_requests", read(&self.unknown_domain_requests)),
            Family {
                points: self.store_errors().map(store_error).into(),
                ..counter("tollgate_store_errors", "Calls to the store that it did not count, by kind.")
            },
            Family {
                points: rules.iter().flat_map(|rules| rules.layers()).map(denied).collect(),
                ..counter(
                    "tollgate_layer_denied_requests",
                    "Requests that were denied, by the layer that did.",
                )
            },
            Family {
                points: domains.into_iter().map(unmatched).collect(),
                ..counter("tollgate_unmatched_descriptors", "Descriptors without a rule in their domain.")
            },
            gauge("tollgate_rules", "Rules in force.")
                .of("tollgate.rules", rules.as_ref().map_or(0, |rules| rules.len() as u64)),
            gauge("tollgate_config_loaded_at_seconds", "When the rules came into force, in Unix time.")
                .of("tollgate.config_loaded_at_seconds", read(&self.config_loaded_at_secs)),
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::MemoryCounters)),
                ..gauge("tollgate_memory_counters", "Counters that this process holds.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::MemoryBytes)),
                ..gauge("tollgate_memory_counter_bytes", "Bytes that these counters take, about.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::MemoryEvicted)),
                ..counter(
                    "tollgate_memory_evicted_counters",
                    "Counters dropped before their window ended, because memory for counters was full.",
                )
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::LogLinesDropped)),
                ..counter("tollgate_log_lines_dropped", "Log lines that could not be written in time.")
            },
            Family {
                points: self.watched(|gauge| matches!(gauge, Gauge::Connections { .. })),
                ..gauge("tollgate_connections", "Open connections, by the core that serves them.")
            },
        ]
    }

    /// Every distribution of durations.
    pub(super) fn durations(&self) -> [Durations<'_>; 2] {
        [
            Durations {
                name: "ratelimit_service_response_time_seconds",
                help: "From a call's arrival to its answer.",
                labels: method(),
                histogram: &self.calls,
            },
            Durations {
                name: "tollgate_store_latency_seconds",
                help: "From a charge to the store's answer.",
                labels: Labels::new(),
                histogram: &self.store_latency,
            },
        ]
    }

    /// Sums of [`RULE_COUNTERS`] by labels, in order.
    pub(super) fn rule_counters(&self) -> BTreeMap<RuleLabels, [u64; RULE_COUNTERS.len()]> {
        let mut sums = BTreeMap::<RuleLabels, [u64; RULE_COUNTERS.len()]>::new();
        for (path, hit_counts) in self.totals() {
            let mut parts = path.parts.iter().map(|part| sanitize(part));
            let Some(key1) = parts.next() else { continue };
            let labels = (sanitize(&path.domain), key1, parts.next());
            for (sum, counter) in sums.entry(labels).or_default().iter_mut().zip(RULE_COUNTERS) {
                *sum += (counter.read)(&hit_counts);
            }
        }
        sums
    }

    fn store_errors(&self) -> [(&'static str, u64); 3] {
        [
            ("unreachable", read(&self.store_errors.unreachable)),
            ("unanswered", read(&self.store_errors.unanswered)),
            ("rejected", read(&self.store_errors.rejected)),
        ]
    }

    fn watched(&self, wanted: fn(Gauge) -> bool) -> Vec<Point> {
        let watched = self.watched.lock();
        let wanted = watched.iter().filter(|watched| wanted(watched.gauge));
        wanted
            .map(|watched| {
                let value = (watched.read)() as u64;
                match watched.gauge {
                    Gauge::MemoryCounters => {
                        Point { labels: Labels::new(), flat: "tollgate.memory_counters".to_owned(), value }
                    }
                    Gauge::MemoryBytes => Point {
                        labels: Labels::new(),
                        flat: "tollgate.memory_counter_bytes".to_owned(),
                        value,
                    },
                    Gauge::MemoryEvicted => Point {
                        labels: Labels::new(),
                        flat: "tollgate.memory_evicted_counters".to_owned(),
                        value,
                    },
                    Gauge::LogLinesDropped => {
                        Point { labels: Labels::new(), flat: "tollgate.log_lines_dropped".to_owned(), value }
                    }
                    Gauge::LocalCacheHits => local_cache("hitCount", value),
                    Gauge::LocalCacheMisses => local_cache("missCount", value),
                    Gauge::LocalCacheLookups => local_cache("lookupCount", value),
                    Gauge::LocalCacheEntries => local_cache("entryCount", value),
                    Gauge::Connections { core } => Point {
                        labels: vec![("core", core.to_string())],
                        flat: format!("tollgate.connections.{core}"),
                        value,
                    },
                }
            })
            .collect()
    }
}

impl Family {
    /// The family with one point, which has no labels.
    pub(super) fn of(self, flat: &str, value: u64) -> Self {
        Self { points: vec![Point { labels: Labels::new(), flat: flat.to_owned(), value }], ..self }
    }
}

fn local_cache(name: &str, value: u64) -> Point {
    Point { labels: Labels::new(), flat: format!("ratelimit.localcache.{name}"), value }
}

pub(super) const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::COUNTER, points: Vec::new() }
}

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::GAUGE, points: Vec::new() }
}

fn method() -> Labels {
    vec![("grpc_method", "ShouldRateLimit".to_owned())]
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
