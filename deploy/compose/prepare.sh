#!/bin/sh
# Makes the folder `secrets`: random passwords and keys, a certificate for localhost, and Keycloak's realm with a random client secret.
# What is there already stays, so it can be run again after an update.
#
# The folder is for its owner alone. The files in it can be read by all: containers run as users of their own, each sees only the
# files that are mounted into it, and users of this machine cannot enter the folder.
set -eu
cd "$(dirname "$0")"

command -v openssl >/dev/null || { echo "prepare.sh needs openssl" >&2; exit 1; }
mkdir -p secrets/tls
chmod 700 secrets
umask 022
cd secrets

# put NAME CONTENT: all or nothing, because an interrupted start must not leave an empty password.
put() {
    printf '%s\n' "$2" >"$1.new"
    mv "$1.new" "$1"
}

random() { openssl rand -hex 24; }

for name in admin-password store-password postgres-password mlflow-db-password s3-secret-key keycloak-client keycloak-ci grafana-password; do
    [ -s "$name" ] || put "$name" "$(random)"
done
[ -s s3-access-key ] || put s3-access-key mlflow
[ -s session-keys ] || put session-keys "k1:$(openssl rand -base64 32)"
[ -s keycloak.conf ] || put keycloak.conf "bootstrap-admin-username=admin
bootstrap-admin-password=$(random)"

# Made of the others, so written every time.
put mlflow-pg-service "[mlflow]
host=postgres
port=5432
dbname=mlflow
user=mlflow
password=$(cat mlflow-db-password)"
put aws-credentials "[default]
aws_access_key_id=$(cat s3-access-key)
aws_secret_access_key=$(cat s3-secret-key)"

# setting NAME DEFAULT : of the environment or of `.env`, as Compose reads them.
setting() {
    value=$(printenv "$1" || sed -n "s/^$1=//p" ../.env 2>/dev/null || true)
    printf '%s' "${value:-$2}"
}

# The proxy's addresses in browsers, without and with TLS, and the one for Keycloak.
plain=http://localhost:$(setting PROXY_PORT 8080)
secure=$(setting PUBLIC_URL "https://localhost:$(setting HTTPS_PORT 8443)")
sed -e "s|demo-secret-of-mlflow|$(cat keycloak-client)|" \
    -e "s|demo-secret-of-[a-z]*|$(cat keycloak-ci)|" \
    -e "s|\"http://localhost:8080\(/auth/callback/keycloak\)\"|\"$plain\1\", \"$secure\1\"|" \
    -e "s|http://localhost:8080\(/auth/signed-out\)|$plain\1##$secure\1|" \
    -e "/backchannel.logout.url/s|http://localhost:8080|http://proxy:8080|" \
    -e "s|http://localhost:8080|$plain|" \
    ../../../examples/keycloak/realm.json >realm.json.new
mv realm.json.new realm.json

if [ ! -s tls/tls.crt ]; then
    # An authority whose key is thrown away, and one certificate of it.
    key=$(mktemp)
    trap 'rm -f "$key" tls/request' EXIT
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -subj "/CN=MLflow test authority" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout "$key" -out tls/ca.crt 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" -keyout tls/tls.key -out tls/request 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' |
        openssl x509 -req -in tls/request -CA tls/ca.crt -CAkey "$key" -CAcreateserial -days 397 -extfile /dev/stdin -out tls/tls.crt.new 2>/dev/null
    mv tls/tls.crt.new tls/tls.crt
    rm -f tls/ca.srl
    chmod 644 tls/tls.key
fi
