use std::time::Duration;

use smallvec::smallvec;

use super::*;
use crate::engine::{Code, StatsPath, Status};

fn metrics() -> Metrics {
    Metrics::new(MetricsSettings::default(), Arc::default())
}

fn path(domain: &str, parts: &[&str]) -> StatsPath {
    StatsPath { domain: domain.into(), parts: parts.iter().map(|part| (*part).into()).collect() }
}

/// Records a decision with `hit_counts` under `path`.
fn record(metrics: &Metrics, path: StatsPath, hit_counts: HitCounts) {
    let stats = StatsRef::Named(Box::new(path));
    let counted = Some((stats, hit_counts));
    let status = Status {
        code: Code::Ok,
        rule: None,
        limit: None,
        name: None,
        locked_out: false,
        shadowed: false,
        larger_than_limit: false,
        budget: None,
        overridden: None,
        remaining: 0,
        reset: None,
        counted,
    };
    metrics.record_decision(&Decision {
        code: Code::Ok,
        shadowed: false,
        domain_known: true,
        unmatched: 0,
        statuses: smallvec![status],
        binding: None,
        hold: None,
    });
}

fn hits(total_hits: u64) -> HitCounts {
    HitCounts { total_hits, ..HitCounts::default() }
}

/// The samples of `text` whose names begin with `prefix`, without its comments.
fn samples<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(prefix)).collect()
}

#[test]
fn emitted_names_are_sanitised() {
    for (name, expected) in [
        ("plain", "plain"),
        ("a:b|c", "a_b_c"),
        ("remote_address_10.0.0.1", "remote_address_10_0_0_1"),
        ("masked_10.0.0.0/24", "masked_10_0_0_0/24"),
        ("10.0.0.1.key", "10_0_0_1.key"),
        ("v1.2", "v1.2"),
        ("version_1.2.3", "version_1.2.3"),
        ("300.1.1.1", "300.1.1.1"),
        ("ä|1.2.3.4", "ä_1_2_3_4"),
        ("", ""),
    ] {
        assert_eq!(name::sanitize(name), expected, "{name}");
    }
}

#[test]
fn flat_names_join_the_levels_by_dots() {
    let metrics = metrics();
    record(&metrics, path("shop", &["user_a:b", "ip_10.0.0.1", "5"]), hits(3));
    let stats = metrics.render_stats();
    assert_eq!(
        samples(&stats, "ratelimit.service.rate_limit."),
        ["ratelimit.service.rate_limit.shop.user_a_b.ip_10_0_0_1.5.total_hits: 3"]
    );
}

#[test]
fn every_count_of_a_rule_has_its_flat_name() {
    let metrics = metrics();
    let hit_counts = HitCounts {
        total_hits: 7,
        over_limit_with_local_cache: 6,
        over_limit: 5,
        near_limit: 4,
        within_limit: 3,
        shadow_mode: 2,
        total_negative_hits: 1,
        denied_requests: 0,
    };
    record(&metrics, path("d", &["k"]), hit_counts);
    let stats = metrics.render_stats();
    assert_eq!(
        samples(&stats, "ratelimit.service.rate_limit."),
        [
            "ratelimit.service.rate_limit.d.k.near_limit: 4",
            "ratelimit.service.rate_limit.d.k.over_limit: 5",
            "ratelimit.service.rate_limit.d.k.over_limit_with_local_cache: 6",
            "ratelimit.service.rate_limit.d.k.shadow_mode: 2",
            "ratelimit.service.rate_limit.d.k.total_hits: 7",
            "ratelimit.service.rate_limit.d.k.total_negative_hits: 1",
            "ratelimit.service.rate_limit.d.k.within_limit: 3",
        ]
    );
}

#[test]
fn the_service_s_own_counts_have_their_flat_names() {
    let metrics = metrics();
    metrics.record_call(Duration::from_millis(1));
    metrics.record_service_error();
    metrics.record_store_failure(StoreFailure::Unreachable);
    metrics.record_store_failure(StoreFailure::Rejected);
    metrics.record_config_load(Timestamp::from_secs(1_700_000_000));
    metrics.record_config_error();
    metrics.record_config_error();
    metrics.record_decision(&Decision {
        code: Code::Ok,
        shadowed: true,
        domain_known: false,
        unmatched: 0,
        statuses: smallvec![],
        binding: None,
        hold: None,
    });
    let stats = metrics.render_stats();
    for line in [
        "ratelimit_server.ShouldRateLimit.total_requests: 1",
        "ratelimit.service.call.should_rate_limit.service_error: 1",
        "ratelimit.service.call.should_rate_limit.redis_error: 2",
        "ratelimit.service.config_load_success: 1",
        "ratelimit.service.config_load_error: 2",
        "ratelimit.service.global_shadow_mode: 1",
        "tollgate.unknown_domain_requests: 1",
        "tollgate.store_errors.unreachable: 1",
        "tollgate.store_errors.unanswered: 0",
        "tollgate.config_loaded_at_seconds: 1700000000",
        "tollgate.config_wrong: 1",
    ] {
        assert!(stats.lines().any(|found| found == line), "{line}\nin\n{stats}");
    }
}

#[test]
fn a_rule_has_its_domain_and_two_levels_as_labels_and_deeper_ones_add_up() {
    let metrics = metrics();
    record(&metrics, path("shop", &["user"]), hits(1));
    record(&metrics, path("shop", &["user", "path_/a"]), hits(2));
    record(&metrics, path("shop", &["user", "path_/a", "method_GET"]), hits(4));
    record(&metrics, path("shop", &["user", "path_/a", "method_PUT"]), hits(8));
    record(&metrics, path("shop", &["route_v1.2"]), HitCounts { total_hits: 1, over_limit: 1, ..hits(1) });
    let text = metrics.render_prometheus();
    assert_eq!(
        samples(&text, "ratelimit_service_rate_limit_"),
        [
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="route_v1.2"} 1"#,
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="user"} 1"#,
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="user",key2="path_/a"} 14"#,
            r#"ratelimit_service_rate_limit_over_limit{domain="shop",key1="route_v1.2"} 1"#,
        ]
    );
    assert!(text.contains("# TYPE ratelimit_service_rate_limit_total_hits counter\n"));
}

#[test]
fn a_series_appears_with_its_first_increment() {
    let metrics = metrics();
    assert_eq!(samples(&metrics.render_prometheus(), "ratelimit_service_rate_limit").len(), 0);
    record(&metrics, path("shop", &["user"]), hits(0));
    assert_eq!(samples(&metrics.render_prometheus(), "ratelimit_service_rate_limit").len(), 0);
}

#[test]
fn the_service_s_series_have_the_names_and_labels_of_envoyproxy_ratelimit() {
    let metrics = metrics();
    metrics.record_call(Duration::from_micros(300));
    metrics.record_call(Duration::from_millis(30));
    metrics.record_service_error();
    metrics.record_config_load(Timestamp::from_secs(5));
    let text = metrics.render_prometheus();
    for line in [
        r#"ratelimit_service_total_requests{grpc_method="ShouldRateLimit"} 2"#,
        r#"ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="0.005"} 1"#,
        r#"ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="0.05"} 2"#,
        r#"ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="1"} 2"#,
        r#"ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="+Inf"} 2"#,
        r#"ratelimit_service_response_time_seconds_sum{grpc_method="ShouldRateLimit"} 0.0303"#,
        r#"ratelimit_service_response_time_seconds_count{grpc_method="ShouldRateLimit"} 2"#,
        r#"ratelimit_service_should_rate_limit_error{err_type="service_error"} 1"#,
        r#"ratelimit_service_should_rate_limit_error{err_type="redis_error"} 0"#,
        "ratelimit_service_config_load_success 1",
        "ratelimit_service_config_load_error 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
    let of_reference = samples(&text, "ratelimit_");
    assert!(of_reference.iter().all(|line| !line.contains("_total{") && !line.contains("_total ")), "{text}");
}

#[test]
fn extra_tags_are_on_the_series_of_rules_alone() {
    let extra_tags = vec![("cluster".to_owned(), "eu \"1\"".to_owned())];
    let metrics = Metrics::new(MetricsSettings { extra_tags, ..MetricsSettings::default() }, Arc::default());
    record(&metrics, path("shop", &["user"]), hits(1));
    let text = metrics.render_prometheus();
    let expected =
        r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="user",cluster="eu \"1\""} 1"#;
    assert_eq!(text.lines().filter(|line| line.contains("cluster=")).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_registered_source_is_read_for_each_snapshot() {
    let metrics = metrics();
    assert!(!metrics.render_prometheus().contains("tollgate_memory_counters"), "no source reports it");
    let kept = Arc::new(AtomicU64::new(0));
    let reader = Arc::clone(&kept);
    metrics.register(move |snapshot| {
        snapshot.add(&defined::MEMORY_COUNTERS, [], reader.load(Ordering::Relaxed))
    });
    for core in 0..2_usize {
        metrics.register(move |snapshot| snapshot.add(&defined::CONNECTIONS, [&core.to_string()], 10 + core));
    }
    kept.store(42, Ordering::Relaxed);
    let text = metrics.render_prometheus();
    assert_eq!(samples(&text, "tollgate_memory_counters"), ["tollgate_memory_counters 42"]);
    assert_eq!(
        samples(&text, "tollgate_connections"),
        [r#"tollgate_connections{core="0"} 10"#, r#"tollgate_connections{core="1"} 11"#]
    );
}

#[test]
fn a_request_to_an_unknown_domain_creates_no_series() {
    let metrics = metrics();
    let before = metrics.render_prometheus().lines().count();
    for _ in 0..3 {
        metrics.record_decision(&Decision {
            code: Code::Ok,
            shadowed: false,
            domain_known: false,
            unmatched: 0,
            statuses: smallvec![],
            binding: None,
            hold: None,
        });
    }
    let text = metrics.render_prometheus();
    assert_eq!(samples(&text, "tollgate_unknown_domain"), ["tollgate_unknown_domain_requests 3"]);
    assert_eq!(text.lines().count(), before);
}

#[test]
fn a_denied_peek_is_a_denied_request_though_it_has_no_hits() {
    let metrics = metrics();
    let status = |code| Status {
        code,
        rule: None,
        limit: None,
        name: None,
        locked_out: false,
        larger_than_limit: false,
        budget: None,
        overridden: None,
        shadowed: false,
        remaining: 0,
        reset: None,
        counted: Some((StatsRef::Named(Box::new(path("d", &["k"]))), HitCounts::default())),
    };
    for (decided, code) in [
        (Code::OverLimit, Code::OverLimit),
        (Code::OverLimit, Code::Ok),
        // The global shadow mode lets it pass.
        (Code::Ok, Code::OverLimit),
    ] {
        metrics.record_decision(&Decision {
            code: decided,
            shadowed: false,
            domain_known: true,
            unmatched: 0,
            statuses: smallvec![status(code)],
            binding: None,
            hold: None,
        });
    }
    let stats = metrics.render_stats();
    assert_eq!(samples(&stats, "tollgate.rate_limit."), ["tollgate.rate_limit.d.k.denied_requests: 1"]);
}

#[test]
fn a_name_from_a_request_never_starts_a_line() {
    let metrics = metrics();
    record(&metrics, path("d", &["k_a\nfake_metric{} 42\u{1b}[31m"]), hits(1));
    let stats = metrics.render_stats();
    assert_eq!(
        samples(&stats, "ratelimit.service.rate_limit."),
        [r"ratelimit.service.rate_limit.d.k_a\nfake_metric{} 42\u{1b}[31m.total_hits: 1"]
    );
    assert!(samples(&stats, "fake").is_empty() && samples(&metrics.render_prometheus(), "fake").is_empty());
}

#[test]
fn braces_in_a_label_value_are_not_replaced_by_the_next_label() {
    let metrics = metrics();
    metrics.register(|snapshot| snapshot.add(&defined::LAYER_DENIED_REQUESTS, ["a{}b", "user"], 1_u64));
    let stats = metrics.render_stats();
    assert_eq!(samples(&stats, "tollgate.layer"), ["tollgate.layer_denied_requests.a{}b.user: 1"]);
}

#[test]
fn values_of_one_series_add_up() {
    let metrics = metrics();
    for connections in [2_usize, 3] {
        metrics.register(move |snapshot| snapshot.add(&defined::CONNECTIONS, ["0"], connections));
    }
    let text = metrics.render_prometheus();
    assert_eq!(samples(&text, "tollgate_connections"), [r#"tollgate_connections{core="0"} 5"#]);
}
