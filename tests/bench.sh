#!/usr/bin/env bash
# Measures what tollgate costs on this machine, and prints one report in Markdown: first each step by itself, then
# the program beside an empty service. CI does not run it. See docs/performance.md.
#
#   tests/bench.sh              about half an hour; more where the machine has other things to do
#   tests/bench.sh --quick      some minutes: shows that it works, and not much more
#
# It needs cargo, redis-server, and Linux; and two cores or more that have nothing else to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

say() { printf '\n== %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

micro=()
service=(--growth)
case "${1-}" in
'') ;;
--quick)
    micro=(--warm-up-time 0.3 --measurement-time 0.5 --sample-size 10)
    service+=(--rounds 1 --seconds 1)
    shift
    ;;
*) fail "$1: expected --quick, or nothing" ;;
esac
[ $# -eq 0 ] || fail "$1: expected nothing more"

[ "$(uname -s)" = Linux ] || fail "processors' times are read from /proc, which Linux alone has"
has cargo || fail "cargo: not found. See https://rustup.rs"
has redis-server || fail "redis-server: not found. Debian has it in: redis-server"

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Built along with a benchmark, the program would have its libraries with what tests need of them.
say "building the program"
cargo build --profile dist --locked
cp "${CARGO_TARGET_DIR:-target}/dist/tollgate" "$results/"
say "building the benchmarks"
cargo bench --locked --no-run --bench micro --bench service

say "measuring each step"
CRITERION_HOME="$results/criterion" cargo bench --locked --bench micro -- "${micro[@]}" >&2
say "measuring the program"
cargo bench --locked --bench service -- \
    --program "$results/tollgate" --micro "$results/criterion" "${service[@]}"
