#!/usr/bin/env bash
# A container engine for the tests. `docker.sh serve` prints the DOCKER_HOST of one: the engine of this machine if one answers,
# otherwise a private one that is removed when standard input ends. As root it installs Debian's packages that are missing,
# otherwise it prints the one command to run. The private one needs root.
set -euo pipefail

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
PATH=$PATH:/usr/local/sbin:/usr/sbin

stop() {
    trap - EXIT
    if [ -n "${daemon:-}" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    # Mounts of containers that did not end with it.
    awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
    rm -rf "$folder"
}

serve() {
    local base=${TMPDIR:-/tmp} host
    # Memory is many times faster than a disk for files that are thrown away; about 5 GB are needed.
    [ "$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')" -ge 6000 ] 2>/dev/null && base=/dev/shm
    folder=$(mktemp -d "$base/mlflow-auth-proxy-docker.XXXXXX")
    host=unix://$folder/docker.sock
    trap stop EXIT
    trap 'exit 143' TERM INT HUP
    dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" --host "$host" \
        --bip 172.31.99.1/24 --default-address-pool base=172.31.100.0/22,size=26 >"$folder/log" 2>&1 </dev/null &
    daemon=$!
    until docker --host "$host" version >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || { cat "$folder/log" >&2 && exit 1; }
        sleep 0.1
    done
    printf '%s\n' "$host"
    # Until standard input ends.
    cat >/dev/null
}

[ "${1:-}" = serve ] || { echo "usage: scripts/docker.sh serve" >&2; exit 2; }

if command -v docker >/dev/null && endpoint=$(docker version --format ok 2>/dev/null) && [ "$endpoint" = ok ]; then
    printf '%s\n' "${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}"
    cat >/dev/null
    exit
fi
[ "$(id -u)" = 0 ] || { say "No container engine answers, and only root can start one for the tests."; exit 1; }
missing=()
command -v docker >/dev/null && command -v dockerd >/dev/null || missing+=(docker.io)
command -v iptables >/dev/null || missing+=(iptables)
[ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
serve
