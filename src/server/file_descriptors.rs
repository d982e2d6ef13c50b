//! File descriptors: the limit of the process, and its division among connections and everything else.

use rustix::process::{Resource, getrlimit};

/// Open connections of operators and of metrics scrapers, of each listener.
const MAX_OPERATORS: usize = 256;
/// Descriptors kept for listeners, rule files, logs and resolving names.
const RESERVED: usize = 64;
/// Descriptors kept for each core: its event queue and its connections to Redis.
const RESERVED_PER_CORE: usize = 16;

/// Connections that each listener may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionQuota {
    /// Of gRPC and of HTTP, each.
    pub(super) calls: usize,
    /// Of each port for operators: debug, metrics and admin.
    pub(super) operators: usize,
}

/// Divides the descriptors that the process may open: among `operator_ports` listeners for operators, and
/// `max_connections` for gRPC and for HTTP each, or fewer if the limit is lower.
pub(super) fn allot(max_connections: usize, cores: usize, operator_ports: usize) -> ConnectionQuota {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let quota = divide(limit, max_connections, cores, operator_ports);
    if quota.calls < max_connections {
        tracing::warn!(
            limit,
            max_connections,
            accepted = quota.calls,
            needed = reserved(cores) + MAX_OPERATORS * operator_ports + 2 * max_connections,
            "open file limit is too low, accepting fewer connections; raise it (ulimit -n, LimitNOFILE) or lower \
             MAX_CONNECTIONS"
        );
    }
    quota
}

/// Descriptors kept for everything but connections of clients and operators.
const fn reserved(cores: usize) -> usize {
    RESERVED + cores * RESERVED_PER_CORE
}

fn divide(limit: usize, max_connections: usize, cores: usize, operator_ports: usize) -> ConnectionQuota {
    let reserved = reserved(cores).min(limit / 2);
    let left = limit - reserved;
    let operators = (left / 8).clamp(1, MAX_OPERATORS);
    let calls = left.saturating_sub(operators * operator_ports) / 2;
    ConnectionQuota { calls: calls.clamp(1, max_connections.max(1)), operators }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let quota = |calls, operators| ConnectionQuota { calls, operators };
        assert_eq!(divide(usize::MAX, 10_000, 8, 2), quota(10_000, 256));
        assert_eq!(divide(1_048_576, 10_000, 8, 2), quota(10_000, 256));
        assert_eq!(divide(20_000, 10_000, 2, 1), quota(9_824, 256));
        assert_eq!(divide(1_024, 10_000, 2, 1), quota(406, 116));
        assert_eq!(divide(256, 10_000, 2, 2), quota(60, 20));
        for limit in [0, 1, 8, 64, 100] {
            let ConnectionQuota { calls, operators } = divide(limit, 10_000, 64, 2);
            assert!(calls >= 1 && operators >= 1, "{limit}");
        }
    }
}
