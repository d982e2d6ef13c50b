//! The store node by node, and the replicas that share it.

use maud::{Markup, html};

use super::{column, duration, milliseconds, numbers, share_bar, table};
use crate::server::admin::{Admin, NodeView};

const MIB: f64 = 1024.0 * 1024.0;

pub(in super::super) async fn store(admin: &Admin) -> Markup {
    let store = admin.store().await;
    html! {
        h1 { "Store" }
        dl .strip {
            div { dt { "Kind" } dd { (store.kind) } }
            @if let Some(latency) = &store.latency {
                div { dt { "p50, last minute" } dd { (milliseconds(latency.p50_secs)) } }
                div { dt { "p99" } dd { (milliseconds(latency.p99_secs)) } }
                div { dt { "Calls" } dd { (latency.calls) } }
            }
            @if let Some(memory) = &store.memory {
                div { dt { "Counters" } dd { (memory.counters) } }
                div { dt { "Memory" } dd { (mebibytes(memory.bytes as u64)) } }
                div { dt { "Evicted" } dd { (memory.evicted) } }
            }
        }
        @if let Some(error) = &store.error { p .bad role="alert" { (error) } }
        @if !store.nodes.is_empty() {
            (nodes(&store.nodes))
            @for node in &store.nodes { (checks(node)) }
        }
    }
}

fn nodes(nodes: &[NodeView]) -> Markup {
    let head = html! {
        (column("Node")) (column("State")) (column("Role")) (numbers("Connections")) (numbers("Breakers open"))
        (numbers("p50")) (numbers("p99")) (numbers("Queued")) (numbers("Oldest")) (numbers("In flight"))
        (numbers("Batch")) (numbers("Memory"))
        (column("Version")) (column("Error"))
    };
    let rows = html! {
        @for node in nodes {
            tr {
                th scope="row" { code { (node.node) } }
                td { @if node.state == "up" { "up" } @else { strong .bad { (node.state.replace('_', " ")) } } }
                td { @if let Some(server) = &node.server { (server.role) } }
                td .n { (node.connected) "/" (node.connections) }
                td .n { (node.breakers_open) }
                td .n { @if let Some(latency) = &node.latency { (milliseconds(latency.p50_secs)) } }
                td .n { @if let Some(latency) = &node.latency { (milliseconds(latency.p99_secs)) } }
                td .n { (node.queued) }
                td .n { (format!("{:.1} ms", node.oldest_queued_ms)) }
                td .n { (node.in_flight) } td .n { (node.batch_size) }
                td .n {
                    @if let Some(server) = &node.server {
                        (mebibytes(server.used_memory))
                        @if server.max_memory > 0 {
                            " " (share_bar(server.used_memory as f64 / server.max_memory as f64))
                        }
                    }
                }
                td { @if let Some(server) = &node.server { (server.version) } }
                td { (node.error.as_deref().or(node.server_error.as_deref()).unwrap_or("")) }
            }
        }
    };
    table("Nodes", &head, &rows)
}

/// Settings of a node that differ from the recommendation; if all agree, their number.
fn checks(node: &NodeView) -> Markup {
    let wrong: Vec<_> = node.checks.iter().filter(|check| !check.ok).collect();
    html! {
        section {
            h2 { code { (node.node) } }
            @if wrong.is_empty() && !node.checks.is_empty() {
                p .none { (node.checks.len()) " settings were checked; all are as recommended." }
            }
            @for check in wrong {
                p { strong .bad { (check.name) ": " (check.value) } " " (check.advice) "." }
            }
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

pub(in super::super) fn fleet(admin: &Admin) -> Markup {
    let (fleet, now) = (admin.fleet(), admin.summary().now);
    let head = html! {
        (column("Replica")) (numbers("Hits/s")) (numbers("Over/s")) (column("Version")) (column("Rules hash"))
        (numbers("Rules")) (numbers("Errors")) (numbers("Up")) (numbers("Announced"))
    };
    let rows = html! {
        @for replica in &fleet.replicas {
            tr {
                th scope="row" { code { (replica.id) } @if replica.is_self { " " small { "this one" } } }
                td .n { @if let Some(rate) = replica.hits_per_sec { (format!("{rate:.1}")) } }
                td .n { @if let Some(rate) = replica.over_limit_per_sec { (format!("{rate:.1}")) } }
                td { (replica.version) } td { code { (replica.rules_hash) } } td .n { (replica.rules) }
                td .n { @if replica.errors > 0 { strong .bad { (replica.errors) } } @else { "0" } }
                td .n { (duration(now.saturating_sub(replica.started_at))) }
                td .n { (duration(replica.announced_secs_ago)) " ago" }
            }
        }
    };
    html! {
        h1 { "Fleet" }
        p .note { "Replicas that share the store. A replica that has stopped stays in the list for up to 30 seconds." }
        @if let Some(error) = &fleet.error { p .bad role="alert" { "This list is out of date: " (error) } }
        @if !fleet.same_rules { p .bad role="alert" { "Replicas have different rules in force." } }
        (table("Replicas", &head, &rows))
    }
}
