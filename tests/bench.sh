#!/usr/bin/env bash
# Measures what tollgate costs on this machine, and prints one report in Markdown: first each step by itself, then
# the program beside an empty service, then the Redis store alone. CI does not run it. See docs/performance.md.
#
#   tests/bench.sh              less than 25 minutes behind its builds; writes the charts in docs/charts
#   tests/bench.sh --quick      some minutes: shows that it works, and not much more; charts in target/charts
#   tests/bench.sh --only NAME  these cases of the program alone, such as `uniform` or `leases`; charts in target/charts
#
# It needs cargo, redis-server with its tools, and Linux; and two cores or more that have nothing else to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

say() { printf '\n== %s, %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

target="${CARGO_TARGET_DIR:-target}"
micro=(--warm-up-time 0.5 --measurement-time 1.5 --noplot)
service=(--growth)
charts=docs/charts
only=()
while [ $# -gt 0 ]; do
    case "$1" in
    --quick)
        micro=(--warm-up-time 0.3 --measurement-time 0.5 --sample-size 10 --noplot)
        service+=(--rounds 1 --seconds 1)
        charts="$target/charts"
        ;;
    --only)
        [ $# -gt 1 ] || fail "--only: expected the name of a case"
        shift
        only+=("$1")
        charts="$target/charts"
        ;;
    *) fail "$1: expected --quick, or --only and a case" ;;
    esac
    shift
done

[ "$(uname -s)" = Linux ] || fail "processors' times are read from /proc, which Linux alone has"
has cargo || fail "cargo: not found. See https://rustup.rs"
for tool in redis-server redis-cli redis-benchmark; do
    has "$tool" || fail "$tool: not found. Debian has it in: redis-server redis-tools"
done

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Built along with a benchmark, the program would have its libraries with what tests need of them.
say "building the program"
cargo build --release --locked
cp "$target/release/tollgate" "$results/"
say "building the benchmarks"
cargo bench --locked --no-run --bench micro --bench service --bench redis

measure() {
    cargo bench --locked --bench service -- --program "$results/tollgate" --charts "$charts" "${service[@]}" "$@"
}

if [ ${#only[@]} -gt 0 ]; then
    say "measuring the program: ${only[*]}"
    measure --only "${only[@]}"
    exit
fi
say "measuring each step"
CRITERION_HOME="$results/criterion" cargo bench --locked --bench micro -- "${micro[@]}" >&2
say "measuring the program"
measure --micro "$results/criterion"
say "measuring the Redis store"
printf '### The Redis store alone\n\n'
cargo bench --locked --bench redis
say "charts are in $charts"
