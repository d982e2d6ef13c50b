#!/usr/bin/env bash
# Collects the root file system of the image: rootfs.sh BINARY DIRECTORY
#
# BINARY is a build of tollgate for this machine's architecture. The image contains nothing else that runs: no
# shell, no package manager. Its C library is this machine's, so build on Debian 12 for a release, as the
# Dockerfile does.
set -euo pipefail
# Every user may read the files, whatever the umask of the build is.
umask 022

[ $# -eq 2 ] || { echo "usage: rootfs.sh BINARY DIRECTORY" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$1
root=$2

[ -x "$binary" ] || { echo "error: $binary: not an executable file" >&2; exit 1; }
if [ -e "$root" ] && [ -n "$(ls -A "$root")" ]; then
    echo "error: $root: not empty" >&2
    exit 1
fi

install -d "$root/bin" "$root/etc/ssl/certs" "$root/usr/share/doc/tollgate" "$root/data/ratelimit/config"
install -m 0755 "$binary" "$root/bin/tollgate"
# Envoy Gateway, Istio and Contour start /bin/ratelimit.
ln -s tollgate "$root/bin/ratelimit"

# The dynamic loader and the libraries that it finds for the program, at the paths where it looks.
libraries=()
while read -r library; do
    libraries+=("$library")
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done < <(ldd "$binary" | grep -o '/[^ ]*')
[ "${#libraries[@]}" -gt 0 ] || { echo "error: $binary: ldd finds no libraries" >&2; exit 1; }

certificates=/etc/ssl/certs/ca-certificates.crt
[ -f "$certificates" ] || { echo "error: $certificates: not found; install ca-certificates" >&2; exit 1; }
install -m 0644 "$certificates" "$root$certificates"

cat >"$root/etc/passwd" <<'EOF'
root:x:0:0:root:/:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
EOF
cat >"$root/etc/group" <<'EOF'
root:x:0:
nogroup:x:65534:
EOF
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"

install -m 0644 "$here/../../LICENSE" "$root/usr/share/doc/tollgate/LICENSE"
packages=()
for package in libc6 libgcc-s1 gcc-12-base ca-certificates; do
    copyright=/usr/share/doc/$package/copyright
    if [ -e "$copyright" ]; then
        install -D -m 0644 "$(readlink -f "$copyright")" "$root$copyright"
        packages+=("$package")
    fi
done
"$here/sbom.py" "${packages[@]}" >"$root/usr/share/doc/tollgate/sbom.cdx.json"
