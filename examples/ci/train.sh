#!/bin/sh
# Checks the token before an expensive job starts, then runs it.
set -eu

: "${MLFLOW_TRACKING_URI:?the address of the proxy}"
: "${MLFLOW_TRACKING_TOKEN:?an access token}"

# Through standard input, so that the list of processes does not show the token.
status=$(printf 'header = "Authorization: Bearer %s"\n' "$MLFLOW_TRACKING_TOKEN" |
    curl --silent --show-error --config - --output /dev/null --write-out '%{http_code}' \
        "${MLFLOW_TRACKING_URI%/}/api/2.0/mlflow/users/current")
case "$status" in
    200) ;;
    401) echo "The access token is wrong, expired or revoked: create a new one." >&2; exit 1 ;;
    *) echo "The proxy answered $status." >&2; exit 1 ;;
esac

exec python train.py "$@"
