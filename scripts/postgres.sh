#!/usr/bin/env bash
# PostgreSQL for the tests. `postgres.sh` prints the folder of its programs; as root it installs Debian's package when it is
# missing, otherwise it prints the one command to run. `postgres.sh serve` starts a server with an empty data folder on a free
# loopback port, prints its URL, and removes it all when its standard input ends, so that no server outlives its tests.
# PGBIN names the folder of another version's programs.
set -euo pipefail

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

# The newest version that is installed.
programs() {
    local folder
    for folder in ${PGBIN:-} $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) /usr/local/pgsql/bin /opt/homebrew/bin /usr/local/bin /usr/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            printf '%s' "$folder"
            return
        fi
    done
    return 1
}

find_programs() {
    if ! bin=$(programs); then
        # The package would start a server of its own.
        if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
            mkdir -p /etc/postgresql-common
            echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
        fi
        need_packages postgresql
        bin=$(programs)
    fi
}

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/ "$@"
    else
        "$@"
    fi
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

serve() {
    local base=${TMPDIR:-/tmp} port started=
    # Memory is many times faster than a disk for files that are thrown away.
    [ -d /dev/shm ] && [ -w /dev/shm ] && base=/dev/shm
    folder=$(mktemp -d "$base/mlflow-auth-proxy-postgres.XXXXXX")
    trap stop EXIT
    trap 'exit 143' TERM INT HUP
    [ "$(id -u)" != 0 ] || chown postgres: "$folder"
    as_server "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --no-sync --no-instructions >"$folder/initdb.log" 2>&1 || {
        cat "$folder/initdb.log" >&2
        exit 1
    }
    # One role proves its password, for the tests of wrong ones.
    sed -i '1i host all scram 127.0.0.1/32 scram-sha-256' "$folder/data/pg_hba.conf"
    for _ in 1 2 3 4 5; do
        port=$(free_port)
        # 1>&2: pg_ctl's server would otherwise keep our standard output open.
        if as_server "$bin/pg_ctl" -D "$folder/data" -l "$folder/data/log" -w -s \
            -o "-p $port -c listen_addresses=127.0.0.1 -k '$folder' -c fsync=off -c max_connections=500 ${POSTGRES_OPTIONS:-}" start >/dev/null 2>&1; then
            started=yes
            break
        fi
    done
    [ -n "$started" ] || {
        cat "$folder/data/log" >&2
        exit 1
    }
    printf 'postgres://postgres@127.0.0.1:%s\n' "$port"
    # Until standard input ends.
    cat >/dev/null
}

stop() {
    if [ -e "$folder/data/postmaster.pid" ]; then
        as_server "$bin/pg_ctl" -D "$folder/data" -m immediate -s -w stop >/dev/null 2>&1 || true
    fi
    rm -rf "$folder"
}

find_programs
case ${1:-} in
    '') printf '%s\n' "$bin" ;;
    serve) serve ;;
    *)
        echo "usage: scripts/postgres.sh [serve]" >&2
        exit 2
        ;;
esac
