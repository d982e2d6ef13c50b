# Functions of the scripts beside this one, which source it.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '\nerror: %s\n' "$@" >&2
    exit 1
}

run() {
    say "$*"
    "$@"
}

has() { command -v "$1" >/dev/null 2>&1; }
