//! All metrics. No other file names one.
//!
//! Metrics of envoyproxy/ratelimit have the names and labels of its Prometheus mapping, so that its dashboards keep
//! working. Names of other metrics begin with `tollgate_`.

use super::model::{Flat, Kind, Metric};
use crate::engine::hit_counts::HitCounts;

/// Defines metrics, each with its kind, name, labels, flat name, and its doc comment as help text.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $kind:ident $metric:ident $name:literal [$($label:literal),*] $flat:expr;)+) => {
        $(
            $(#[doc = $help])+
            pub static $metric: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: concat!($($help),+),
                flat: $flat,
            };
        )+
        /// Every metric, in the order of Prometheus' text form.
        pub static ALL: &[&Metric] = &[$(&$metric),+];
    };
}

use Flat::{Derived, GaugeOf, Of};

metrics! {
    /// Calls, rejected ones included.
    Counter TOTAL_REQUESTS "ratelimit_service_total_requests" ["grpc_method"]
        Of("ratelimit_server.{}.total_requests");
    /// Calls without a decision: bad requests or no rules (service_error), or a store that did not count
    /// (redis_error).
    Counter CALL_ERRORS "ratelimit_service_should_rate_limit_error" ["err_type"]
        Of("ratelimit.service.call.should_rate_limit.{}");
    /// Rule sets that came into force.
    Counter CONFIG_LOADS "ratelimit_service_config_load_success" [] Of("ratelimit.service.config_load_success");
    /// Rule sets with errors.
    Counter CONFIG_ERRORS "ratelimit_service_config_load_error" [] Of("ratelimit.service.config_load_error");
    /// Requests that passed only because of SHADOW_MODE.
    Counter SHADOWED_REQUESTS "ratelimit_service_global_shadow_mode" []
        Of("ratelimit.service.global_shadow_mode");
    /// Lookups that found a key over its limit.
    Counter LOCAL_CACHE_HITS "ratelimit_localcache_hitCount" [] GaugeOf("ratelimit.localcache.hitCount");
    /// Lookups of keys that were not known to be over their limit.
    Counter LOCAL_CACHE_MISSES "ratelimit_localcache_missCount" [] GaugeOf("ratelimit.localcache.missCount");
    /// Lookups in the cache of keys over their limit.
    Counter LOCAL_CACHE_LOOKUPS "ratelimit_localcache_lookupCount" []
        GaugeOf("ratelimit.localcache.lookupCount");
    /// Keys known to be over their limit.
    Gauge LOCAL_CACHE_ENTRIES "ratelimit_localcache_entryCount" [] Of("ratelimit.localcache.entryCount");

    /// Requests to a domain without rules.
    Counter UNKNOWN_DOMAIN_REQUESTS "tollgate_unknown_domain_requests" [] Derived;
    /// Calls to the store that were not counted, by kind.
    Counter STORE_ERRORS "tollgate_store_errors" ["kind"] Derived;
    /// Denied requests, by the layer that denied.
    Counter LAYER_DENIED_REQUESTS "tollgate_layer_denied_requests" ["domain", "layer"] Derived;
    /// Descriptors that no rule matched, in domains that have rules.
    Counter UNMATCHED_DESCRIPTORS "tollgate_unmatched_descriptors" ["domain"] Derived;
    /// Overrides of operators in force, by kind: block, exempt, limit or shadow.
    Gauge OVERRIDES "tollgate_overrides" ["kind"] Derived;
    /// Failed reads of overrides from the store.
    Counter OVERRIDE_READ_ERRORS "tollgate_override_read_errors" [] Derived;
    /// Rules in force.
    Gauge RULES "tollgate_rules" [] Derived;
    /// Unix time at which the rules came into force.
    Gauge CONFIG_LOADED_AT "tollgate_config_loaded_at_seconds" [] Derived;
    /// 1 while rules have errors, so that an earlier version of them is in force.
    Gauge CONFIG_WRONG "tollgate_config_wrong" [] Derived;
    /// Hash of the rules in force, as a number of 48 bits: the same on replicas with the same rules.
    Gauge RULES_HASH "tollgate_rules_hash" [] Derived;
    /// Requests denied because their client is locked out.
    Counter LOCKED_OUT_REQUESTS "tollgate_locked_out_requests" [] Derived;
    /// Tickets of concurrency limits by event: acquired, denied, released, renewed, or unknown (released without
    /// being held).
    Counter TICKETS "tollgate_tickets" ["event"] Derived;
    /// Hits of leased limits that this replica holds, charged in Redis and not spent.
    Gauge LEASE_CREDITS "tollgate_lease_credits" ["domain", "rule"] Derived;
    /// Leases that were requested from Redis.
    Counter LEASE_ASKS "tollgate_lease_asks" ["domain", "rule"] Derived;
    /// Hits that were leased.
    Counter LEASE_GRANTED "tollgate_lease_granted" ["domain", "rule"] Derived;
    /// Leased hits that requests spent, without a call to Redis.
    Counter LEASE_SPENDS "tollgate_lease_spends" ["domain", "rule"] Derived;
    /// Leased hits that were returned unspent.
    Counter LEASE_RETURNED "tollgate_lease_returned" ["domain", "rule"] Derived;
    /// Leased hits that were lost: their window ended, their server was replaced, or it did not answer.
    Counter LEASE_STRANDED "tollgate_lease_stranded" ["domain", "rule"] Derived;
    /// Holds of budgets by event: opened, denied, settled, late, repeated, expired, unsettled (an amount
    /// was lost) or unknown_model.
    Counter HOLDS "tollgate_holds" ["event"] Derived;
    /// Holds of budgets and places of concurrency limits by rule and event: opened, denied, settled (or given back),
    /// late, repeated, or expired.
    Counter RULE_HOLDS "tollgate_rule_holds" ["domain", "rule", "event"] Derived;
    /// Denials within 5 minutes of the key that each rule denies the most, estimated.
    Gauge MOST_DENIED_KEY "tollgate_most_denied_key_requests" ["rule"] Derived;
    /// Largest share of its limit that a key of each rule has used within 5 minutes, estimated.
    Gauge HIGHEST_KEY_USE "tollgate_highest_key_use_ratio" ["rule"] Derived;
    /// 1 while a stream to the management server is open.
    Gauge XDS_CONNECTED "tollgate_xds_connected" [] Derived;
    /// Unix time of the last response of the management server; 0 before the first.
    Gauge XDS_LAST_RESPONSE_AT "tollgate_xds_last_response_timestamp_seconds" [] Derived;
    /// Responses of the management server that were accepted.
    Counter XDS_ACKS "tollgate_xds_acks" [] Derived;
    /// Responses of the management server that were refused, in whole or in part.
    Counter XDS_NACKS "tollgate_xds_nacks" [] Derived;
    /// Streams to the management server after the first one.
    Counter XDS_RECONNECTS "tollgate_xds_reconnects" [] Derived;
    /// Attempts to connect to the management server that failed, and streams that ended.
    Counter XDS_STREAM_ERRORS "tollgate_xds_stream_errors" [] Derived;
    /// Counters held in this process.
    Gauge MEMORY_COUNTERS "tollgate_memory_counters" [] Derived;
    /// Approximate size of the counters held in this process, in bytes.
    Gauge MEMORY_COUNTER_BYTES "tollgate_memory_counter_bytes" [] Derived;
    /// Counters dropped before their window ended, because memory for counters was full.
    Counter MEMORY_EVICTED_COUNTERS "tollgate_memory_evicted_counters" [] Derived;
    /// Log lines that were not written, because stderr was not read in time.
    Counter LOG_LINES_DROPPED "tollgate_log_lines_dropped" [] Derived;
    /// Decisions that are missing from the decision log, because it was not written in time.
    Counter DECISION_LOG_LINES_DROPPED "tollgate_decision_log_lines_dropped" [] Derived;
    /// Rejected writes on the admin listener that are missing from the audit log, because there were too many in one
    /// second: of authenticated actors (known) and of others (unknown).
    Counter AUDIT_SUPPRESSED "tollgate_audit_suppressed_writes" ["actor"] Derived;
    /// Admin actions of this replica by their result: done, dry_run, not_found, failed, or rejected for writes that were not
    /// carried out.
    Counter ADMIN_ACTIONS "tollgate_admin_actions" ["action", "result"] Derived;
    /// Open connections, by the core that serves them.
    Gauge CONNECTIONS "tollgate_connections" ["core"] Derived;
    /// Idle connections that were closed to make room for new ones, by listener.
    Counter DISPLACED_CONNECTIONS "tollgate_displaced_connections" ["listener"] Derived;
    /// Request bodies that were dropped before they had arrived in full, by reason.
    Counter INCOMPLETE_REQUEST_BODIES "tollgate_incomplete_request_bodies" ["reason"] Derived;

    /// Unix time at which a file of certificates expires: with the first of a chain, or the last of several CAs.
    Gauge TLS_CERTIFICATE_EXPIRY "tollgate_tls_certificate_expiry_timestamp_seconds" ["use", "file"] Derived;
    /// Reloads of certificates and keys.
    Counter TLS_RELOADS "tollgate_tls_reloads" ["use"] Derived;
    /// Changes of certificates and keys that were rejected.
    Counter TLS_RELOAD_FAILURES "tollgate_tls_reload_failures" ["use"] Derived;
    /// Clients and listeners that keep earlier certificates, because the files are invalid.
    Gauge TLS_STALE_FILES "tollgate_tls_stale_files" ["use"] Derived;
    /// TLS handshakes of clients that failed.
    Counter TLS_HANDSHAKE_FAILURES "tollgate_tls_handshake_failures" ["listener"] Derived;

    /// Connections to a Redis node: one for each core, and one for operators.
    Gauge REDIS_CONNECTIONS "tollgate_redis_connections" ["node"] Derived;
    /// Connections to a Redis node that are up.
    Gauge REDIS_CONNECTIONS_UP "tollgate_redis_connections_up" ["node"] Derived;
    /// Connections to a Redis node whose circuit breaker is open.
    Gauge REDIS_BREAKERS_OPEN "tollgate_redis_breakers_open" ["node"] Derived;
    /// Calls that wait for a batch to a Redis node.
    Gauge REDIS_QUEUED_CALLS "tollgate_redis_queued_calls" ["node"] Derived;
    /// Age of the oldest call that waits for a batch to a Redis node.
    Gauge REDIS_OLDEST_QUEUED "tollgate_redis_oldest_queued_seconds" ["node"] Derived;
    /// Calls that were sent to a Redis node and are not answered yet.
    Gauge REDIS_CALLS_IN_FLIGHT "tollgate_redis_calls_in_flight" ["node"] Derived;
    /// Calls in the latest batch to a Redis node, the largest of all connections.
    Gauge REDIS_BATCH_SIZE "tollgate_redis_batch_size" ["node"] Derived;
    /// Counters in a Redis node whose TTL is still to be set.
    Gauge REDIS_TTLS_NOT_SET "tollgate_redis_ttls_not_set" ["node"] Derived;
    /// Counters that may stay in Redis without a TTL, because setting it was given up.
    Counter REDIS_TTLS_LOST "tollgate_redis_ttls_lost" [] Derived;
    /// Releases of places that were given up.
    Counter REDIS_RELEASES_LOST "tollgate_redis_releases_lost" [] Derived;
    /// Settlements of budgets that were given up.
    Counter REDIS_SETTLEMENTS_LOST "tollgate_redis_settlements_lost" [] Derived;
    /// Commands that tollgate needs but the Redis user may not run.
    Gauge REDIS_DENIED_COMMANDS "tollgate_redis_denied_commands" ["node"] Derived;
    /// Connections to Redis that are up.
    Gauge REDIS_POOL_ACTIVE "ratelimit_redis_pool_cx_active" [] Of("ratelimit.redis_pool.cx_active");

    /// Requests by the decision of the candidate rules: the same, stricter, looser, or not compared (failed).
    Counter CANDIDATE_REQUESTS "tollgate_candidate_requests" ["outcome"] Derived;
    /// Requests that the candidate rules would decide differently, by the rule that denies.
    Counter CANDIDATE_DIFFERING_REQUESTS "tollgate_candidate_differing_requests" ["domain", "rule", "outcome"]
        Derived;
    /// Candidate rules.
    Gauge CANDIDATE_RULES "tollgate_candidate_rules" [] Derived;
    /// 1 while candidate files have errors.
    Gauge CANDIDATE_CONFIG_WRONG "tollgate_candidate_config_wrong" [] Derived;
    /// Candidate rule sets that were loaded.
    Counter CANDIDATE_CONFIG_LOADS "tollgate_candidate_config_load_success" [] Derived;
    /// Candidate rule sets with errors.
    Counter CANDIDATE_CONFIG_ERRORS "tollgate_candidate_config_load_error" [] Derived;

    /// Version and commit of the program; always 1.
    Gauge BUILD_INFO "tollgate_build_info" ["version", "revision"] Flat::None;
    /// User and system CPU time.
    Counter PROCESS_CPU "process_cpu_seconds_total" [] Derived;
    /// Open file descriptors.
    Gauge PROCESS_OPEN_FDS "process_open_fds" [] Derived;
    /// Upper bound on open file descriptors.
    Gauge PROCESS_MAX_FDS "process_max_fds" [] Derived;
    /// Virtual memory in bytes.
    Gauge PROCESS_VIRTUAL_MEMORY "process_virtual_memory_bytes" [] Derived;
    /// Upper bound on virtual memory in bytes.
    Gauge PROCESS_MAX_VIRTUAL_MEMORY "process_virtual_memory_max_bytes" [] Derived;
    /// Resident memory in bytes.
    Gauge PROCESS_RESIDENT_MEMORY "process_resident_memory_bytes" [] Derived;
    /// Unix time at which the process started.
    Gauge PROCESS_START_TIME "process_start_time_seconds" [] Derived;
    /// Threads.
    Gauge PROCESS_THREADS "process_threads" [] Derived;

    /// Time from a call's arrival to its answer.
    Histogram RESPONSE_TIME "ratelimit_service_response_time_seconds" ["grpc_method"]
        Of("ratelimit_server.{}.response_time");
    /// Time from a charge to the store's answer.
    Histogram STORE_LATENCY "tollgate_store_latency_seconds" [] Derived;

    /// Hits of a rule.
    Counter RULE_TOTAL_HITS "ratelimit_service_rate_limit_total_hits" ["domain", "key1", "key2"]
        Of("ratelimit.service.rate_limit.{}.total_hits");
    /// Hits of requests that passed.
    Counter RULE_WITHIN_LIMIT "ratelimit_service_rate_limit_within_limit" ["domain", "key1", "key2"]
        Of("ratelimit.service.rate_limit.{}.within_limit");
    /// Hits within the limit and above NEAR_LIMIT_RATIO of it.
    Counter RULE_NEAR_LIMIT "ratelimit_service_rate_limit_near_limit" ["domain", "key1", "key2"]
        Of("ratelimit.service.rate_limit.{}.near_limit");
    /// Hits above the limit.
    Counter RULE_OVER_LIMIT "ratelimit_service_rate_limit_over_limit" ["domain", "key1", "key2"]
        Of("ratelimit.service.rate_limit.{}.over_limit");
    /// Hits above the limit that were denied without asking the store.
    Counter RULE_OVER_LIMIT_WITH_LOCAL_CACHE "ratelimit_service_rate_limit_over_limit_with_local_cache"
        ["domain", "key1", "key2"] Of("ratelimit.service.rate_limit.{}.over_limit_with_local_cache");
    /// Hits above the limit that passed because of the rule's shadow mode.
    Counter RULE_SHADOW_MODE "ratelimit_service_rate_limit_shadow_mode" ["domain", "key1", "key2"]
        Of("ratelimit.service.rate_limit.{}.shadow_mode");
    /// Hits that were refunded.
    Counter RULE_TOTAL_NEGATIVE_HITS "ratelimit_service_rate_limit_total_negative_hits"
        ["domain", "key1", "key2"] Of("ratelimit.service.rate_limit.{}.total_negative_hits");
    /// Denied requests that were over the rule's limit, peeks included.
    Counter RULE_DENIED_REQUESTS "tollgate_rate_limit_denied_requests" ["domain", "key1", "key2"]
        Of("tollgate.rate_limit.{}.denied_requests");
}

/// A counter that every rule has, and its value in the counts of the rule.
type RuleCounter = (&'static Metric, fn(&HitCounts) -> u64);

/// Counters of a rule.
pub(super) static RULE_COUNTERS: [RuleCounter; 8] = [
    (&RULE_TOTAL_HITS, |hit_counts| hit_counts.total_hits),
    (&RULE_WITHIN_LIMIT, |hit_counts| hit_counts.within_limit),
    (&RULE_NEAR_LIMIT, |hit_counts| hit_counts.near_limit),
    (&RULE_OVER_LIMIT, |hit_counts| hit_counts.over_limit),
    (&RULE_OVER_LIMIT_WITH_LOCAL_CACHE, |hit_counts| hit_counts.over_limit_with_local_cache),
    (&RULE_SHADOW_MODE, |hit_counts| hit_counts.shadow_mode),
    (&RULE_TOTAL_NEGATIVE_HITS, |hit_counts| hit_counts.total_negative_hits),
    (&RULE_DENIED_REQUESTS, |hit_counts| hit_counts.denied_requests),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_help_is_one_line() {
        let mut names = HashSet::new();
        for metric in ALL {
            assert!(names.insert(metric.name), "{} is defined twice", metric.name);
            assert!(metric.help().ends_with('.') && !metric.help().contains("  "), "{}", metric.help());
        }
    }
}
