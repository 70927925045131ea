#!/bin/sh
# Restores what backup.sh wrote: `restore.sh FOLDER`. Requests are not answered meanwhile. The databases that were there are kept, as
# before-TIME in the volumes or as databases NAME_before_TIME; artifacts are added to those that are there.
set -eu
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")"
now=$(date +%Y%m%d%H%M%S)

services=$(docker compose config --services)
has() { printf '%s\n' "$services" | grep -qx "$1"; }

# move TIME FILE : moves a database of SQLite with its log away, as a whole.
# shellcheck disable=SC2016
move='mkdir -m 700 "/data/before-$1"; for file in "/data/$2" "/data/$2-wal" "/data/$2-shm"; do
    [ ! -e "$file" ] || mv "$file" "/data/before-$1/"; done'

# anew NAME : an empty database of the role of the same name.
anew() {
    docker compose exec -T postgres psql --quiet --username=postgres --set ON_ERROR_STOP=1 --set name="$1" --set old="$1_before_$now" <<'SQL'
ALTER DATABASE :"name" RENAME TO :"old";
CREATE DATABASE :"name" OWNER :"name" ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

# The file is checked before anything changes.
docker compose run --rm --no-deps -T --entrypoint sh proxy -euc '
    umask 077
    cat >/data/restore.db
    mlflow-auth-proxy store check /data/restore.db' <"$folder/store.db"

docker compose stop proxy mlflow
for service in postgres s3; do
    if has "$service"; then docker compose up --detach --wait "$service"; fi
done

if has postgres; then
    anew mlflow_auth
    anew mlflow
    docker compose exec -T postgres pg_restore --username=postgres --dbname=mlflow --no-owner --role=mlflow --exit-on-error <"$folder/mlflow.dump"
else
    docker compose run --rm --no-deps -T --entrypoint sh proxy -euc "$move" sh "$now" store.db
    docker compose run --rm --no-deps -T --entrypoint sh mlflow -euc "umask 077; cat >/data/restore.db; $move; mv /data/restore.db /data/mlflow.db" \
        sh "$now" mlflow.db <"$folder/mlflow.db"
fi
docker compose run --rm --no-deps -T proxy store restore /data/restore.db
docker compose run --rm --no-deps -T --entrypoint rm proxy /data/restore.db
docker compose run --rm --no-deps -T mlflow python -c "$(cat artifacts.py)" load <"$folder/artifacts.tar"

docker compose up --detach --wait
