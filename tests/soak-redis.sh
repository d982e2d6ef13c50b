#!/usr/bin/env bash
# Runs the exactness experiment on a Redis Cluster again and again: replicas are killed, nodes stop, slots move.
# Fails if any key is admitted more often than its limit, or if hits are lost without an error.
#
# usage: tests/soak-redis.sh [SECONDS]   (default 600)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TOLLGATE_SOAK_SECS=${1:-600} exec cargo test --locked --test tests -- \
    --ignored --exact --nocapture redis_exactness::soak
