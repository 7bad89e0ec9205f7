#!/usr/bin/env bash
# Prove the README's two commands on bare machines: prove_quickstart.sh IMAGE...
# An IMAGE is a Debian with python3 and python3-venv and nothing else. Each gets the committed files (git archive of HEAD), a
# plain user and no shared data; the commands are read from the README. Needs docker and git. Takes 10 to 20 minutes an image.
#   PROVE_ONLY=demo|tests   do one of the two
#   PROVE_TREE=COMMIT       prove another commit than HEAD
#   CONTAINER_OPTIONS       further options of `docker run` (default: --network host)
# pip's and the certificates' settings of this machine are handed on, so that the container reaches what this machine reaches.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,9s/^# //p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/../.."
tree=${PROVE_TREE:-HEAD}

# The commands of the quick start: every line of its code blocks.
commands=$(git show "$tree:README.md" | awk '/^## /{inside = ($0 == "## Quick start")} inside && /^```/{code = !code; next} inside && code')
mapfile -t commands <<<"$commands"
[ ${#commands[@]} = 2 ] || { echo "the quick start has ${#commands[@]} commands; expected 2" >&2; exit 1; }

settings=()
while IFS= read -r name; do settings+=(--env "$name"); done < <(compgen -e | grep -E '^(PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT|RETRIES|TRUSTED_HOST|PROXY)|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(https?|no)_proxy)$' || true)

for image in "$@"; do
    # shellcheck disable=SC2086
    container=$(docker run --detach --rm --init ${CONTAINER_OPTIONS:---network host} "${settings[@]}" "$image" sleep infinity)
    trap 'docker kill "$container" >/dev/null 2>&1' EXIT
    in_container() { docker exec --interactive --user person --workdir /home/person/checkout "$container" sh -c "$1" </dev/null; }

    docker exec "$container" useradd --create-home person
    docker exec --user person "$container" mkdir /home/person/checkout
    git archive "$tree" | docker exec --interactive --user person "$container" tar -x -C /home/person/checkout
    for tool in git gcc cc curl uv; do
        if in_container "command -v $tool" >/dev/null; then echo "$image is not bare: it has $tool" >&2; exit 1; fi
    done

    echo "== $image: $(in_container 'python3 --version'), $(git rev-parse --short "$tree")"
    timed() {
        local start=$SECONDS status=0
        echo "-- $1"
        in_container "$1" || status=$?
        echo "-- exit $status after $((SECONDS - start)) s"
        [ "$status" = 0 ] || { echo "FAILED on $image: $1" >&2; exit 1; }
    }
    timed "./scale --version"                               # the set-up alone
    [ -z "$(in_container './scale --version 2>&1 >/dev/null')" ] || { echo "FAILED on $image: the second call set up again" >&2; exit 1; }
    [ "${PROVE_ONLY:-}" = tests ] || timed "${commands[0]}"
    [ "${PROVE_ONLY:-}" = demo ] || timed "${commands[1]}"
    echo "-- size of the environment: $(in_container 'du -sh .venv | cut -f1')"
    docker kill "$container" >/dev/null
    trap - EXIT
done
echo "proved on: $*"
