#!/usr/bin/env bash
# Serves for long under load, and fails unless memory stays flat: rounds of calls over connections that come and go,
# idle connections, requests that do not arrive in full, and reloads of the rules.
#
#   tests/soak.sh               ten rounds of thirty seconds: millions of calls over thousands of connections
#   tests/soak.sh 4 5           four rounds of five seconds
#
# It needs cargo, curl, and Linux. SOAK_PROGRAM is a program that is built already; SOAK_GROWTH_MIB is the growth that is allowed after the second round, 16 unless set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

rounds=${1:-10}
seconds=${2:-30}
growth=${SOAK_GROWTH_MIB:-16}
connections=${SOAK_CONNECTIONS:-1000}
port=${SOAK_PORT:-28180}

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

[ "$rounds" -ge 3 ] || fail "$rounds rounds: expected three or more; the first two are for warming up"
[ "$(uname -s)" = Linux ] || fail "memory is read from /proc, which Linux alone has"
ulimit -n "$(ulimit -Hn)"

program=${SOAK_PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --release --locked
    program=${CARGO_TARGET_DIR:-target}/release/tollgate
fi
work=$(mktemp -d)
mkdir "$work/rules"

# The limits differ from round to round, so that each reload has something to compile.
write_rules() {
    {
        printf 'domain: example\ndescriptors:\n  - {key: user, rate_limit: %s/second}\n' "$((1000 + $1))"
        for rule in $(seq 1000); do
            printf '  - {key: route, value: r%s, rate_limit: %s/minute}\n' "$rule" "$((rule + $1))"
        done
    } >"$work/rules.new"
    mv "$work/rules.new" "$work/rules/rules.yaml"
}

write_rules 0
env -i RULES_PATH="$work/rules" HOST=127.0.0.1 GRPC_HOST=127.0.0.1 DEBUG_HOST=127.0.0.1 \
    PORT="$port" GRPC_PORT="$((port + 1))" DEBUG_PORT="$((port + 2))" ADMIN_PORT=off MEMORY_MAX_COUNTERS=200000 \
    "$program" >"$work/tollgate.log" 2>&1 &
served=$!
trap 'kill "$served" 2>/dev/null || true; rm -rf "$work"' EXIT

for _ in $(seq 100); do
    if curl -fsS "http://127.0.0.1:$port/healthcheck" >/dev/null 2>&1; then break; fi
    kill -0 "$served" 2>/dev/null || fail "the program does not start: $(cat "$work/tollgate.log")"
    sleep 0.1
done

resident_mib() { awk '/^VmRSS:/ { print int($2 / 1024) }' "/proc/$served/status"; }

# Connections that say one byte, and requests that stop in the middle of their body. They end with this shell.
hold_back() (
    for _ in $(seq 200); do
        exec {fd}<>"/dev/tcp/127.0.0.1/$((port + 1))" && printf P >&"$fd"
        exec {fd}<>"/dev/tcp/127.0.0.1/$port" &&
            printf 'POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n%65536s' x >&"$fd"
    done 2>/dev/null
    sleep "$seconds"
)

# Looks once a second whether memory has returned to `allowed`, for ten seconds.
settled_mib() {
    local now
    for _ in $(seq 10); do
        sleep 1
        now=$(resident_mib)
        if [ "$now" -le "${1:-0}" ]; then break; fi
    done
    echo "$now"
}

# A number of the report.
field() { sed -nE "s/^ *\"$1\": *([0-9]+),?\$/\1/p" "$work/bench.json"; }

base=0
calls=0
for round in $(seq "$rounds"); do
    hold_back &
    held=$!
    "$program" bench --address "127.0.0.1:$((port + 1))" --connections "$connections" \
        --concurrency "$connections" --duration "${seconds}s" --keys 100000 --seed "$round" \
        --timeout 10s --json >"$work/bench.json" || fail "bench: $(cat "$work/bench.json")"
    wait "$held" || true
    for reload in $(seq 20); do
        write_rules "$((round * 20 + reload))"
        kill -HUP "$served"
        curl -fsS "http://127.0.0.1:$((port + 2))/metrics" >/dev/null
    done
    kill -0 "$served" 2>/dev/null || fail "the program has ended: $(tail -20 "$work/tollgate.log")"
    calls=$((calls + $(field requests)))
    [ "$(field errors)" -eq 0 ] || fail "$(field errors) calls have failed: $(cat "$work/bench.json")"
    allowed=$((base + growth))
    memory=$(settled_mib "$allowed")
    printf 'round %s: %s calls so far, %s MiB\n' "$round" "$calls" "$memory"
    if [ "$round" -le 2 ]; then
        base=$memory
    elif [ "$memory" -gt "$allowed" ]; then
        fail "memory has grown from $base MiB to $memory MiB"
    fi
done
[ "$calls" -gt 0 ] || fail "no call was counted"
echo "memory is flat: $base MiB after the second round, $memory MiB at the end, $calls calls"
