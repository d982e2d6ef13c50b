#!/usr/bin/env bash
# Checks the OpenAPI document of the admin API, and the API against it: openapi-spec-validator, and schemathesis with a
# bounded number of requests and a fixed seed.
#
#   tests/schemathesis.sh       TOLLGATE is a program that is built already; otherwise cargo builds one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

examples=10
tools=$PWD/target/schemathesis

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

if ! [ -x "$tools/bin/schemathesis" ] || ! [ -x "$tools/bin/openapi-spec-validator" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --disable-pip-version-check --quiet schemathesis==4.32.5 openapi-spec-validator==0.9.0
fi
if [ -z "${TOLLGATE-}" ]; then
    cargo build --locked
    TOLLGATE=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi

work=$(mktemp -d)
service=
stop() {
    [ -z "$service" ] || kill "$service" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf 'admin:%s\n' "$token" >"$work/tokens"
mkdir "$work/rules"
cat >"$work/rules/shop.yaml" <<'RULES'
domain: shop
descriptors:
  - {key: user, layer: user, rate_limit: 2/day}
  - key: account
    rate_limit: 1/day
    penalty: {after: 1, within: 10m, block: [1h]}
RULES
RULES_PATH=$work/rules ADMIN_TOKEN_FILE=$work/tokens HOST=127.0.0.1 GRPC_HOST=127.0.0.1 DEBUG_HOST=127.0.0.1 \
    PORT=0 GRPC_PORT=0 DEBUG_PORT=0 ADMIN_PORT=0 "$TOLLGATE" >"$work/log" 2>&1 &
service=$!

# The banner says where it listens.
address=
for _ in $(seq 100); do
    address=$(sed -n 's/^ *console  *\(127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/log" | head -1)
    [ -z "$address" ] || break
    kill -0 "$service" 2>/dev/null || fail "tollgate has ended:" "$(cat "$work/log")"
    sleep 0.1
done
[ -n "$address" ] || fail "tollgate does not say where its admin listener is:" "$(cat "$work/log")"
http=$(sed -n 's/^ *HTTP  *\(127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/log" | head -1)

# Keys, denials and a lockout, for lists that are not empty.
for _ in 1 2 3 4; do
    for key in user account; do
        curl -s -o /dev/null "http://$http/json" -d "{\"domain\":\"shop\",\"descriptors\":[{\"entries\":[{\"key\":\"$key\",\"value\":\"x\"}]}]}"
    done
done

document=$work/openapi.json
curl -sSf -H "authorization: Bearer $token" "http://$address/api/v1/openapi.json" >"$document"
"$tools/bin/openapi-spec-validator" "$document"
cat >"$work/schemathesis.toml" <<CONFIG
[auth.openapi.bearer]
bearer = "$token"
CONFIG
# It keeps what failed in the current folder. /events never ends. Requests that fit the schema may be rejected: no
# schema can say which domains and rules there are, and which Idempotency-Key belongs to another body.
cd "$work"
"$tools/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$document" --url "http://$address" \
    --exclude-path /api/v1/events --exclude-checks positive_data_acceptance --phases examples,coverage,fuzzing --max-examples "$examples" --seed 1 \
    --continue-on-failure --generation-database none --no-color
