#!/usr/bin/env bash
# Runs h2spec (https://github.com/summerwind/h2spec) against every port of the program, and fails if a case fails that
# is not expected to. Install it with: go install github.com/summerwind/h2spec/cmd/h2spec@latest
#
#   tests/h2spec.sh             builds the program and checks it; about half a minute
#
# H2SPEC_PROGRAM is a program that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

PATH=$PATH:$(go env GOPATH 2>/dev/null || true)/bin
command -v h2spec >/dev/null 2>&1 || {
    echo "h2spec: not found, nothing is checked. Install it with: go install github.com/summerwind/h2spec/cmd/h2spec@latest"
    exit 0
}

# Cases that fail for a reason, one a line.
expected=$(
    cat <<'CASES'
Sends invalid connection preface
Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded
Sends a WINDOW_UPDATE frame on half-closed (remote) stream
Sends a PRIORITY frame on half-closed (remote) stream
Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length
Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA frames payload length
Sends a HEADERS frame that contains a pseudo-header field as trailers
Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream
CASES
)
# In this order: the connection is closed with FIN where the case waits for a GOAWAY; its own calls end before the
# limit is exceeded; two cases wait for DATA where the answer has headers alone; the others send frames on a stream
# that has ended by then, since pages are answered before a body that they do not use has arrived.

program=${H2SPEC_PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --locked
    program=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi
work=$(mktemp -d)
mkdir "$work/rules"
printf 'domain: h2spec\ndescriptors: [{key: user, rate_limit: 10/second}]\n' >"$work/rules/rules.yaml"
port=${H2SPEC_PORT:-28080}
env -i RULES_PATH="$work/rules" HOST=127.0.0.1 GRPC_HOST=127.0.0.1 DEBUG_HOST=127.0.0.1 \
    PORT="$port" GRPC_PORT="$((port + 1))" DEBUG_PORT="$((port + 2))" ADMIN_PORT=off \
    "$program" >"$work/tollgate.log" 2>&1 &
served=$!
trap 'kill "$served" 2>/dev/null || true; rm -rf "$work"' EXIT

is_ready() { (exec 3<>"/dev/tcp/127.0.0.1/$((port + 2))") 2>/dev/null; }
for _ in $(seq 100); do
    if is_ready; then break; fi
    kill -0 "$served" 2>/dev/null || fail "the program does not start: $(cat "$work/tollgate.log")"
    sleep 0.1
done

# Cases that fail against this port and are not expected to, one a line.
unexpected_cases() {
    # Its exit code is 1 when a case fails, which some are expected to.
    h2spec --host 127.0.0.1 --port "$1" --timeout 2 >"$work/report" 2>&1 || true
    grep -aqE '^[0-9]+ tests, ' "$work/report" || fail "h2spec ends early: $(tail -5 "$work/report")"
    grep -aoE '× [0-9]+: .*' "$work/report" | sed -E 's/^× [0-9]+: //' | sort -u | grep -vxF -- "$expected" || true
}

unexpected=0
for name in HTTP gRPC debug; do
    # A page may be answered before or after the frames of a case have arrived: what fails for a reason fails each time.
    failed=$(unexpected_cases "$port")
    for _ in 1 2; do
        if [ -z "$failed" ]; then break; fi
        failed=$(comm -12 <(echo "$failed") <(unexpected_cases "$port"))
    done
    printf '%-6s %s\n' "$name" "$(grep -aE '^[0-9]+ tests, ' "$work/report")"
    if [ -n "$failed" ]; then
        printf '  failed, and is not expected to: %s\n' "$failed"
        unexpected=1
    fi
    port=$((port + 1))
done
kill -0 "$served" 2>/dev/null || fail "the program has ended: $(cat "$work/tollgate.log")"
[ "$unexpected" -eq 0 ] || fail "cases of HTTP/2 have failed"
echo "every case has passed or is expected to fail"
