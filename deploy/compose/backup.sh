#!/bin/sh
# Writes the databases of MLflow and of the proxy and all artifacts into a folder, while everything runs: `backup.sh [FOLDER]`, by default
# backups/TIME. The folder contains secrets. The files in `secrets` are not in it: keep a copy of them in another place.
set -eu
cd "$(dirname "$0")"
umask 077
folder=${1:-backups/$(date +%Y-%m-%dT%H%M%S)}
[ ! -e "$folder" ] || { echo "$folder exists already" >&2; exit 1; }
mkdir -p "$folder.partial"

services=$(docker compose config --services)
has() { printf '%s\n' "$services" | grep -qx "$1"; }

docker compose exec -T proxy sh -euc '
    mlflow-auth-proxy store backup --overwrite /data/backup.db >&2
    cat /data/backup.db
    rm /data/backup.db' >"$folder.partial/store.db"

if has postgres; then
    docker compose exec -T postgres pg_dump --username=postgres --format=custom mlflow >"$folder.partial/mlflow.dump"
else
    docker compose exec -T mlflow sh -euc '
        python -c "import sqlite3; sqlite3.connect(\"/data/mlflow.db\").backup(sqlite3.connect(\"/data/backup.db\"))"
        cat /data/backup.db
        rm /data/backup.db' >"$folder.partial/mlflow.db"
fi

# After the databases: what they name is there.
docker compose exec -T mlflow python -c "$(cat artifacts.py)" save >"$folder.partial/artifacts.tar"

mv "$folder.partial" "$folder"
echo "$folder"
