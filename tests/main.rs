//! Every integration test: one binary, so that it links once and shares what starts the servers.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod admin;
mod admin_access;
mod admin_load;
mod admin_state;
mod allocations;
mod answers;
mod bodies;
mod calendar;
mod candidate;
mod candidate_service;
mod candidate_stores;
mod cli;
mod cli_bench;
mod cli_bench_slow;
mod cli_top;
mod clocks;
mod concurrency;
mod conformance;
mod connections;
mod console;
mod decision_log;
mod denials;
mod deployment;
mod docs;
mod docs_recipes;
mod docs_testing;
mod envoy;
mod explanations;
mod fuzzing;
mod hostile;
mod hostile_http;
mod image;
mod kuadrant;
mod lab;
mod limits;
mod lockout_access;
mod lockouts;
mod logs;
mod metrics;
mod otlp;
mod overrides;
mod places;
mod presets;
mod protobuf;
mod provider;
mod redis_charges;
mod redis_cluster;
mod redis_deployments;
mod redis_errors;
mod redis_exactness;
mod redis_failures;
mod redis_faults;
mod redis_lockouts;
mod redis_logs;
mod redis_names;
mod redis_permissions;
mod redis_servers;
mod redis_topology;
mod reference_settings;
mod releases;
mod replay;
mod replay_envoy;
mod server;
mod signals;
mod simulation;
mod statsd;
mod store;
mod store_faults;
mod store_redis;
mod store_scripts;
mod supervision;
mod support;
mod tidy;
mod tls;
mod traces;
mod xds;
mod xds_faults;
mod xds_service;
mod xds_tls;
