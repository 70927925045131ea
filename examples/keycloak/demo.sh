#!/usr/bin/env bash
# Keycloak with the example's realm, an MLflow, and the proxy in front of it, on this machine, without containers.
#
#   demo.sh [FOLDER]     everything is kept in FOLDER, `keycloak-demo` unless given; remove it to begin anew
#
# PROXY_PORT and KEYCLOAK_PORT choose other ports than 8080 and 8180. Ctrl-C stops all of it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
folder=${1:-keycloak-demo}
proxy_port=${PROXY_PORT:-8080}
keycloak_port=${KEYCLOAK_PORT:-8180}
proxy=http://localhost:$proxy_port
# Another site than the proxy's, as it usually is.
keycloak=http://127.0.0.1:$keycloak_port

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*" && exit 1; }

find_binary() {
    if [ -n "${MLFLOW_AUTH_PROXY_BINARY:-}" ]; then
        printf '%s' "$MLFLOW_AUTH_PROXY_BINARY"
    else
        say "Building the proxy without optimisation; the first time this takes some minutes ..."
        (cd "$repository" && cargo build --profile quick --locked >&2) || fail "the proxy could not be built"
        printf '%s' "${CARGO_TARGET_DIR:-$repository/target}/quick/mlflow-auth-proxy"
    fi
}

# Whoever listens on a port answers a connection.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# What is missing on this machine is said before the build, which takes minutes.
fetch_keycloak() { "$repository/scripts/keycloak.sh" >/dev/null; }

# Keycloak keeps what the realm was made with, the proxy's address too.
prepare() {
    umask 077
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    local made_for="$proxy $keycloak"
    if [ -f "$folder/addresses" ] && [ "$(cat "$folder/addresses")" != "$made_for" ]; then
        fail "$folder was made for $(cat "$folder/addresses"), not $made_for; remove it or name another folder"
    fi
    if [ ! -f "$folder/addresses" ]; then
        "$repository/scripts/keycloak.sh" "$folder/keycloak" >/dev/null
        mkdir -p "$folder/keycloak/data/import"
        sed "s|http://localhost:8080|$proxy|g" "$here/realm.json" >"$folder/keycloak/data/import/realm.json"
        # Yours to change: the proxy reads the policy again when it changes.
        cp "$here/policy.toml" "$folder/policy.toml"
        printf '%s' "$made_for" >"$folder/addresses"
    fi
    sed "s|http://127.0.0.1:8180|$keycloak|g" "$here/proxy.toml" >"$folder/proxy.toml"
}

start_keycloak() {
    KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=admin JAVA_OPTS_KC_HEAP="-Xms64m -Xmx512m" \
        "$folder/keycloak/bin/kc.sh" start-dev --http-host=127.0.0.1 --http-port="$keycloak_port" --hostname="$keycloak" \
        --cache=local --import-realm >"$folder/keycloak.log" 2>&1 </dev/null &
    keycloak_pid=$!
}

# MLflow comes with it, in a Python environment of its own.
start_proxy() {
    local mlflow=()
    [ -z "${MLFLOW_PYTHON:-}" ] || mlflow=(--mlflow-python "$MLFLOW_PYTHON")
    "$binary" quickstart --config "$folder/proxy.toml" --dir "$folder/data" --port "$proxy_port" "${mlflow[@]}" \
        --set server.public_url="$proxy" --set authz.policy_file="$folder/policy.toml" \
        >"$folder/proxy.log" 2>&1 </dev/null &
    proxy_pid=$!
}

alive() { kill -0 "$1" 2>/dev/null; }

# wait_for NAME PID LOG SECONDS COMMAND... : until the command succeeds.
wait_for() {
    local name=$1 pid=$2 log=$3 left=$4
    shift 4
    until "$@" >/dev/null 2>&1; do
        alive "$pid" || { tail -n 20 "$log" >&2 && fail "$name ended; all it said is in $log"; }
        [ $((left -= 1)) -gt 0 ] || fail "$name does not answer; what it said is in $log"
        sleep 1
    done
}

stop() {
    trap - EXIT
    # The terminal's Ctrl-C reaches nobody in the background.
    for pid in "$proxy_pid" "$keycloak_pid"; do [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; done
    for pid in "$proxy_pid" "$keycloak_pid"; do [ -z "$pid" ] || wait "$pid" 2>/dev/null || true; done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$3" "$2" >&3 && head -n 1 <&3 | grep -q ' [23]0[0-9] '); }

proxy_pid='' keycloak_pid=''
for port in "$proxy_port" "$keycloak_port"; do
    if taken "$port"; then fail "port $port is taken; choose others with PROXY_PORT and KEYCLOAK_PORT"; fi
done
fetch_keycloak
binary=$(find_binary)
prepare
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Starting Keycloak, MLflow and the proxy; the first time MLflow is installed, which takes some minutes ..."
start_keycloak
start_proxy
wait_for Keycloak "$keycloak_pid" "$folder/keycloak.log" 400 \
    answers "$keycloak_port" "127.0.0.1:$keycloak_port" /realms/mlflow/.well-known/openid-configuration
wait_for "MLflow or the proxy" "$proxy_pid" "$folder/proxy.log" 600 grep -q "Ctrl-C to stop" "$folder/proxy.log"
# Who is invited to sign in can: Keycloak's first answers take it long, longer than the proxy waits.
wait_for "The proxy's sign-in" "$proxy_pid" "$folder/proxy.log" 120 \
    answers "$proxy_port" "localhost:$proxy_port" "/auth/login?provider=keycloak"

# From here on Ctrl-C is how it ends.
trap 'say "Stopping ..." && exit 0' INT

cat <<TEXT

MLflow, behind the proxy   $proxy
Your account and tokens    $proxy/auth/account
Keycloak's own console     $keycloak/admin        admin / admin

Sign in with Keycloak as
  alice / alice            in /ml/team-a: works on experiments named team-a-*
  bob / bob                in /ml/team-b: reads team-a-*, works on team-b-*
  carol / carol            in /ml/admins: is an administrator
  dave / dave              in no group: is told what is missing
  eve / eve                disabled at Keycloak

A token for a pipeline, from Keycloak (lives five minutes):
  curl -s -d grant_type=client_credentials -d client_id=ci -d client_secret=demo-secret-of-ci \\
       $keycloak/realms/mlflow/protocol/openid-connect/token

Who may do what is in $folder/policy.toml; change it while this runs.
Press Ctrl-C to stop.
TEXT
wait -n "$proxy_pid" "$keycloak_pid" || true
fail "something ended; see $folder/proxy.log and $folder/keycloak.log"
