#!/bin/sh
# Run once by PostgreSQL's image, on an empty data folder: a role and a database each for MLflow and for the proxy.
set -eu
export PGUSER="${POSTGRES_USER:-postgres}"

create() {
    psql --quiet --set ON_ERROR_STOP=1 --set role="$1" --set password="$(cat "/run/secrets/$2")" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"role" OWNER :"role" ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;
SQL
}

create mlflow mlflow-db-password
create mlflow_auth store-password
