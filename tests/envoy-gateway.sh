#!/usr/bin/env bash
# Runs the real Envoy Gateway without Kubernetes: its Envoy limits requests as a BackendTrafficPolicy says, with
# tollgate started in the environment of its pod. A check before a release: it builds Envoy Gateway with Go once,
# for several minutes, into target/envoy-gateway.
#
#   tests/envoy-gateway.sh      TOLLGATE is a program that is built already; otherwise cargo builds one.
#                               ENVOY_GATEWAY is an envoy-gateway that is built already.
#
# Everything runs in a network of its own, made by bubblewrap, and ends with this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
# shellcheck source=tests/shell.sh
. tests/shell.sh

version=v1.9.0
envoy=$PWD/target/envoy/bin/envoy

# Until the command succeeds; its last output is in $work/output.
eventually() {
    local what=$1 attempt
    shift
    for attempt in $(seq 300); do
        if "$@" >"$work/output" 2>&1; then
            printf '%s (%s tenths of a second)\n' "$what" "$attempt"
            return
        fi
        sleep 0.1
    done
    fail "$what: not within 30 seconds" "$(tail -n 5 "$work/output")" "$(tail -n 20 "$work"/*.log)"
}

status() { curl -s -o /dev/null -w '%{http_code}' --max-time 5 -H 'host: shop.example' -H "x-user-id: $1" http://127.0.0.1:8888/; }

answers() { [ "$(status "$1")" = "$2" ]; }

# One request each, which must have this status.
expect() {
    local user=$1 got=()
    shift
    for _ in "$@"; do got+=("$(status "$user")"); done
    printf '%s: %s\n' "$user" "${got[*]}"
    [ "${got[*]}" = "$*" ] || fail "$user gets ${got[*]}, not $*" "$(tail -n 20 "$work/tollgate.log")"
}

# --- Outside: build, make certificates, enter the sandbox. ---

if [ -z "${INSIDE-}" ]; then
    for tool in bwrap curl redis-server python3; do
        command -v "$tool" >/dev/null || fail "$tool: not found; tests/run.sh installs most of what this needs"
    done
    [ -x "$envoy" ] || fail "$envoy: not found; tests/run.sh installs it"
    if [ -z "${ENVOY_GATEWAY-}" ]; then
        ENVOY_GATEWAY=$PWD/target/envoy-gateway/envoy-gateway
        if ! [ -x "$ENVOY_GATEWAY" ]; then
            say "building Envoy Gateway $version"
            GOBIN=$PWD/target/envoy-gateway go install "github.com/envoyproxy/gateway/cmd/envoy-gateway@$version"
        fi
    fi
    if [ -z "${TOLLGATE-}" ]; then
        cargo build --locked
        TOLLGATE=${CARGO_TARGET_DIR:-target}/debug/tollgate
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$ENVOY_GATEWAY" certgen --local --config-home "$work/config" >/dev/null
    # The directory as a Secret is mounted: links into one that is replaced whole.
    mkdir "$work/certs" "$work/resources"
    cp -r "$work/config/certs/envoy-rate-limit" "$work/certs/..v1"
    ln -s ..v1 "$work/certs/..data"
    for file in tls.crt tls.key ca.crt; do ln -s "..data/$file" "$work/certs/$file"; done
    # The names that Envoy Gateway and its Envoy use in a cluster.
    printf '127.0.0.1 %s\n' localhost envoy-gateway redis.redis-system.svc.cluster.local collector.monitoring \
        envoy-ratelimit.envoy-gateway-system.svc.cluster.local >"$work/hosts"
    ln -s "$(realpath "$TOLLGATE")" "$work/ratelimit"
    sandbox=(--unshare-net --unshare-pid --die-with-parent --proc /proc --dev /dev)
    # All of this machine, so that /certs can be added to it.
    for entry in /*; do
        if [ -L "$entry" ]; then
            sandbox+=(--symlink "$(readlink "$entry")" "$entry")
        elif [ "$entry" != /proc ] && [ "$entry" != /dev ]; then
            sandbox+=(--dev-bind "$entry" "$entry")
        fi
    done
    sandbox+=(--ro-bind "$work/hosts" /etc/hosts --ro-bind "$work/certs" /certs)
    INSIDE=$work ENVOY_GATEWAY=$ENVOY_GATEWAY TOLLGATE=$(realpath "$TOLLGATE") bwrap "${sandbox[@]}" "$(realpath "${BASH_SOURCE[0]}")"
    exit
fi

# --- Inside. ---

work=$INSIDE
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

cat >"$work/gateway.yaml" <<EOF
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Custom
  custom:
    resource: {type: File, file: {paths: [$work/resources]}}
    infrastructure:
      type: Host
      host: {configHome: $work/config, dataHome: $work/data, stateHome: $work/state, runtimeDir: $work/run}
rateLimit: {backend: {type: Redis, redis: {url: "redis.redis-system.svc.cluster.local:6379"}}}
extensionApis: {enableBackend: true}
EOF
envoy_version=$("$envoy" --version | sed -n 's#.*/\([0-9.]*\)/.*#\1#p')
mkdir -p "$work/data/envoy-versions/$envoy_version/bin" "$work/run"
# With the libraries of its package: a script in place of the program.
printf '#!/bin/sh\nexec %s "$@"\n' "$envoy" >"$work/data/envoy-versions/$envoy_version/bin/envoy"
chmod +x "$work/data/envoy-versions/$envoy_version/bin/envoy"

cat >"$work/resources/gateway.yaml" <<EOF
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: host, namespace: envoy-gateway-system}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: host, namespace: envoy-gateway-system}
spec:
  provider: {type: Host, host: {envoyVersion: $envoy_version}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, namespace: default}
spec:
  gatewayClassName: eg
  listeners:
  - {name: http, protocol: HTTP, port: 8888}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: eg}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: shop}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: shop, namespace: default}
spec:
  endpoints: [{ip: {address: 127.0.0.1, port: 3000}}]
EOF
# The policy that docs/envoy-gateway.md shows.
cp deploy/envoy-gateway/policy.yaml "$work/resources/policy.yaml"

say "starting Redis, an upstream and tollgate"
redis-server --port 6379 --save '' --appendonly no >"$work/redis.log" 2>&1 &
mkdir "$work/upstream"
python3 -m http.server --bind 127.0.0.1 --directory "$work/upstream" 3000 >"$work/upstream.log" 2>&1 &
# The environment of Envoy Gateway's pod, but for one port: in one network, Envoy Gateway's own metrics have it.
environment=()
while IFS= read -r line; do
    case $line in
    '' | '#'*) ;;
    PROMETHEUS_ADDR=*) environment+=(PROMETHEUS_ADDR=:19002) ;;
    *) environment+=("$line") ;;
    esac
done <tests/data/envoy-gateway.env
env -i "${environment[@]}" "$work/ratelimit" >"$work/tollgate.log" 2>&1 &
healthy() { curl -sf http://127.0.0.1:8080/healthcheck; }
eventually 'tollgate is healthy before there is a management server' healthy

start_gateway() {
    HOME=$work "$ENVOY_GATEWAY" server --config-path "$work/gateway.yaml" >>"$work/gateway.log" 2>&1 &
    gateway=$!
}
say "starting Envoy Gateway $version with Envoy $envoy_version"
start_gateway
eventually 'Envoy passes requests' answers warm-up 200
has_rules() { curl -sf http://127.0.0.1:6070/rlconfig | grep -q "$1"; }
eventually 'tollgate has the rules of the policy' has_rules 'unit=HOUR requests_per_unit=3'
printf '%s\n' "--- /rlconfig" "$(curl -sf http://127.0.0.1:6070/rlconfig)"

say "three an hour for each user"
expect alice 200 200 200 429 429
expect bob 200
redis-cli -p 6379 dbsize | grep -qv '^0$' || fail "no counters in Redis"

say "a query as docs/envoy-gateway.md shows it"
route=httproute/default/shop/rule/0/match/0/shop_example
"$TOLLGATE" query --tls-cacert /certs/ca.crt --tls-skip-hostname-verification \
    -d default/eg/http "$route=$route,rule-0-match-0=bob"

say "the policy changes to five"
sed -i 's/requests: 3/requests: 5/' "$work/resources/policy.yaml"
eventually 'tollgate has the new rules' has_rules 'unit=HOUR requests_per_unit=5'
expect carol 200 200 200 200 200 429

say "Envoy Gateway stops: rules stay in force"
kill -TERM "$gateway"
wait "$gateway" || true
has_rules 'unit=HOUR requests_per_unit=5' || fail "rules are gone with the management server"
say "Envoy Gateway is back"
start_gateway
eventually 'Envoy passes requests' answers warm-up-2 200
expect dave 200 200 200 200 200 429
metrics=$(curl -sf http://127.0.0.1:19002/metrics)
for metric in 'tollgate_xds_connected 1' 'tollgate_xds_nacks 0' 'ratelimit_service_config_load_error 0'; do
    grep -qx "$metric" <<<"$metrics" || fail "the metrics lack $metric" "$metrics"
done
say "Envoy Gateway limits requests through tollgate"
