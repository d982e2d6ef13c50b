#!/usr/bin/env bash
# Fuzzes what reads input from outside: tests/fuzz.sh [SECONDS [TARGET…]], 60 seconds for each target by default.
# A finding is left in tests/fuzz/artifacts and ends the run; the corpus is kept in tests/fuzz/corpus.
#
# Needs a C++ compiler for libFuzzer. Coverage comes from the stable compiler's own instrumentation, so neither
# nightly Rust nor cargo-fuzz is necessary; `cargo fuzz run TARGET --fuzz-dir tests/fuzz` works too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/fuzz"

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(request json rules test_file log text keys)

# What cargo-fuzz sets, without a sanitizer: the program has no unsafe code.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# An explicit target keeps the flags away from build scripts, which are no fuzz targets.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host"

for target in "${targets[@]}"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    mkdir -p "corpus/$target" "artifacts/$target"
    max_len=4096
    case $target in rules | test_file) ;; *) max_len=65536 ;; esac
    # Inputs to begin with. From nothing, no line of a log is found within a minute.
    case $target in
    log) seeds=(seeds/log) ;;
    rules | test_file) seeds=(../../config/presets) ;;
    *) seeds=() ;;
    esac
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" "corpus/$target" "${seeds[@]}" \
        -max_total_time="$seconds" -max_len="$max_len" -timeout=5 -rss_limit_mb=1024 \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1
done
