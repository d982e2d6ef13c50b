#!/usr/bin/env bash
# Checks the subjects of the commits since a base: `area: verb …`, at most 72 characters.
#
#   tests/commit-subjects.sh [BASE]     BASE is a commit or branch, main unless given; main.. means the same
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

base=${1:-main}
base=${base%..}
git rev-parse --quiet --verify "$base^{commit}" >/dev/null || {
    printf 'error: no such commit: %s\n' "$base" >&2
    exit 2
}

wrong=0
complain() {
    printf '%s: %s\n  %s\n' "$1" "$2" "$3" >&2
    wrong=1
}

while IFS=$'\t' read -r commit subject; do
    [ "${#subject}" -le 72 ] || complain "$commit" "longer than 72 characters" "$subject"
    [[ $subject =~ ^[a-z0-9./,_-]+(\ [a-z0-9./,_-]+)?:\ [a-z] ]] ||
        complain "$commit" "expected an area, a colon and an imperative in lower case" "$subject"
    [[ $subject != *. ]] || complain "$commit" "ends in a period" "$subject"
    [[ ! $subject =~ ^[^:]*:\ (added|adds|fixed|fixes|changed|changes|removed|removes|renamed|renames|moved|moves)\  ]] ||
        complain "$commit" "expected an imperative: add, fix, change" "$subject"
done < <(git log --no-merges --format='%h%x09%s' "$base..HEAD")
exit "$wrong"
