#!/usr/bin/env bash
# Builds the image without a Docker daemon, as an OCI archive: build.sh [--binary FILE] [--level N] [OUTPUT]
#
#   --binary FILE   a tollgate that is already built; otherwise cargo builds a release
#   --level N       gzip level of the layer, 0 to 9 (9)
#   OUTPUT          the archive (target/image/tollgate-VERSION-ARCHITECTURE.tar)
#
# The SBOM is in the image, and beside the archive as OUTPUT.cdx.json. Load the image with
# `docker load -i OUTPUT`, or push it with `skopeo copy oci-archive:OUTPUT docker://REGISTRY/tollgate:VERSION`.
# For both platforms, run this on a machine of each and join the archives with `oci.py merge`.
set -euo pipefail
invoked_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' deploy/image/build.sh >&2
    exit 2
}

binary=
level=9
output=
while [ $# -gt 0 ]; do
    case $1 in
    --binary) binary=${2:?} && shift 2 ;;
    --level) level=${2:?} && shift 2 ;;
    -*) usage ;;
    *) [ -z "$output" ] || usage; output=$1 && shift ;;
    esac
done
absolute() { case $1 in /*) echo "$1" ;; *) echo "$invoked_from/$1" ;; esac; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
created=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

if [ -n "$binary" ]; then
    binary=$(absolute "$binary")
else
    cargo build --release --locked
    binary=${CARGO_TARGET_DIR:-target}/release/tollgate
fi
if [ -n "$output" ]; then
    output=$(absolute "$output")
else
    mkdir -p target/image
    output=target/image/tollgate-$version-$(uname -m).tar
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
deploy/image/rootfs.sh "$binary" "$work/rootfs"
deploy/image/oci.py pack --rootfs "$work/rootfs" --name "tollgate:$version" --revision "$revision" \
    --created "$created" --level "$level" --output "$output"
cp "$work/rootfs/usr/share/doc/tollgate/sbom.cdx.json" "$output.cdx.json"
printf '%s\n%s\n' "$output" "$output.cdx.json"
