#!/usr/bin/env bash
# Measures `tollgate replay` on one core: tests/replay-bench.sh [MIB], on 1024 MiB of logs by default.
#
# Generates a day of an Envoy's logs, as text and as JSON, with 100,000 users of whom few send most requests, and replays
# each with two rules. Needs a release build: cargo build --release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mib=${1:-1024}
program=${TOLLGATE:-${CARGO_TARGET_DIR:-target}/release/tollgate}
[ -x "$program" ] || { echo "build it first: cargo build --release"; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/replay-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT

cat > "$dir/rules.yaml" <<'RULES'
domain: shop
descriptors:
  - {key: user, rate_limit: 60/minute}
  - {key: remote_address, rate_limit: {unit: minute, requests_per_unit: 600, algorithm: sliding_window}}
RULES
cat > "$dir/text.yaml" <<'MAP'
format: '[%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DURATION% "%REQ(X-USER)%" "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" "%REQ(USER-AGENT)%"'
requests: [{domain: shop, descriptors: [{user: "%REQ(X-USER)%"}]}]
MAP
cat > "$dir/json.yaml" <<'MAP'
format: {time: "%START_TIME%", user: "%REQ(X-USER)%", address: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}
requests: [{domain: shop, descriptors: [{user: "%REQ(X-USER)%"}]}]
MAP
sed 's/descriptors: .*/descriptors: [{user: "%REQ(X-USER)%"}, {remote_address: "%remote_address%"}]}]/' \
    "$dir/text.yaml" > "$dir/two.yaml"

# Lines of a form until there are so many bytes; the time of day advances by some 20 ms a line, out of order by seconds.
generate() {
    awk -v form="$1" -v bytes=$((mib << 20)) 'BEGIN {
        srand(7)
        while (written < bytes) {
            at += rand() * 0.04
            t = at - rand() * 3; if (t < 0) t = 0
            s = int(t)
            time = sprintf("2026-11-%02dT%02d:%02d:%02d.%03dZ", 1 + s / 86400, s / 3600 % 24, s / 60 % 60, s % 60, (t - s) * 1000)
            user = int(100000 * rand() ^ 4)
            address = "10." int(user / 65536) "." int(user / 256) % 256 "." user % 256
            if (form == "json")
                line = "{\"time\":\"" time "\",\"method\":\"GET\",\"path\":\"/api/items/" user "?page=2\",\"status\":200,\"flags\":null,\"duration\":12,\"user\":\"u" user "\",\"address\":\"" address "\",\"user_agent\":\"Mozilla/5.0 (X11; Linux x86_64)\"}"
            else
                line = "[" time "] \"GET /api/items/" user "?page=2 HTTP/1.1\" 200 - 512 12 \"u" user "\" \"" address "\" \"Mozilla/5.0 (X11; Linux x86_64)\""
            print line
            written += length(line) + 1
        }
    }' > "$dir/$1.log"
}

measure() {
    local name=$1 map=$2 log=$3 lines start end
    lines=$(wc -l < "$log")
    start=$(date +%s%N)
    taskset -c "${CORE:-0}" "$program" replay --rules "$dir/rules.yaml" --map "$map" --json "$log" > "$dir/report.json"
    end=$(date +%s%N)
    awk -v name="$name" -v lines="$lines" -v ns=$((end - start)) 'BEGIN {
        printf "%-30s %9d lines  %6.2f s  %9d lines/s\n", name, lines, ns / 1e9, lines / ns * 1e9
    }'
}

generate text
cat "$dir/text.log" > /dev/null # In the page cache.
measure "text, one descriptor" "$dir/text.yaml" "$dir/text.log"
measure "text, two descriptors" "$dir/two.yaml" "$dir/text.log"
rm "$dir/text.log"
generate json
cat "$dir/json.log" > /dev/null
measure "JSON, one descriptor" "$dir/json.yaml" "$dir/json.log"
