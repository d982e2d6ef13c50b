#!/usr/bin/env bash
# Measures envoyproxy/ratelimit beside tollgate, in the same rounds and with the same requests, and prints tables in
# Markdown. CI does not run it. See docs/performance.md.
#
#   tests/peers.sh [ARGUMENT]...   builds the peer with Go, into target/peers, then runs
#                                  `cargo bench --bench service -- --ratelimit PROGRAM ARGUMENT...`
#
# Limitador's server is not measured: it is published on neither crates.io nor PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
# shellcheck source=tests/shell.sh
. tests/shell.sh

version=v1.4.1-0.20260122083618-3fb702589d36
peer=$PWD/target/peers/service_cmd

has cargo || fail "cargo: not found. See https://rustup.rs"
if ! [ -x "$peer" ]; then
    has go || fail "go: not found. See https://go.dev/dl"
    say "building envoyproxy/ratelimit $version" >&2
    GOBIN=$PWD/target/peers go install "github.com/envoyproxy/ratelimit/src/service_cmd@$version"
fi
if [ $# -eq 0 ]; then set -- --only uniform hot descriptors open; fi
say "building the program" >&2
cargo build --release --locked
cargo bench --locked --bench service -- --program "${CARGO_TARGET_DIR:-target}/release/tollgate" --ratelimit "$peer" "$@"
