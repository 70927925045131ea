#!/usr/bin/env bash
# Fetches Keycloak for the tests and the demo, once, and prints its folder. `keycloak.sh DIR` also makes a copy in DIR to
# run: Keycloak writes into its own folder, and what is cached stays as it was unpacked. The copy shares the 170 MB of
# libraries, which Keycloak only reads, by hard links where the file system allows.
#
# It comes from Maven Central, through Maven and whatever its settings on this machine say. What was fetched is compared with
# the checksum below before it is unpacked, and what is unpacked with what was unpacked before it is used again. Missing
# Debian packages are installed as root with apt; otherwise the one command to run is printed.
set -euo pipefail

version=26.7.3
size=176710367
sha256=27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f
artifact=org.keycloak:keycloak-quarkus-dist:$version:zip

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy
home=$cache/keycloak-$version

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

java_is_new_enough() {
    local major
    major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 17 ]
}

system_packages() {
    local missing=()
    java_is_new_enough || missing+=(openjdk-17-jre-headless)
    # What is cached already needs neither.
    if ! whole; then
        command -v mvn >/dev/null || missing+=(maven)
        command -v unzip >/dev/null || missing+=(unzip)
    fi
    [ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
}

# Every file of the unpacked folder with its size, in one line.
contents() { (cd "$home" && find . -type f ! -name .unpacked -printf '%p %s\n' | LC_ALL=C sort | sha256sum); }

# True when this version is there, every file with the size it had when it was unpacked.
whole() { [ -f "$home/.unpacked" ] && [ "$(cat "$home/.unpacked")" = "$sha256 $(contents)" ]; }

# The path of the archive in Maven's local repository, wherever that is.
archive() {
    local repository
    repository=$(mvn -q -B help:evaluate -Dexpression=settings.localRepository -DforceStdout 2>/dev/null |
        sed 's/\x1b\[[0-9;]*m//g' | tail -n 1)
    printf '%s' "${repository:-$HOME/.m2/repository}/org/keycloak/keycloak-quarkus-dist/$version/keycloak-quarkus-dist-$version.zip"
}

genuine() { [ -f "$1" ] && [ "$(stat -c %s "$1")" = "$size" ] && [ "$(sha256sum <"$1")" = "$sha256  -" ]; }

fetch() {
    say "Fetching Keycloak $version (170 MB) with Maven ..."
    mvn -q -B dependency:get -Dartifact="$artifact" -Dtransitive=false >&2
}

make_it() {
    local zip
    zip=$(archive)
    genuine "$zip" || fetch
    if ! genuine "$zip"; then
        # Half of a download that was interrupted, say: once more, from the beginning.
        rm -f "$zip"
        fetch
        genuine "$zip" || {
            say "What Maven fetched as $artifact is not Keycloak $version: its SHA-256 should be $sha256."
            say "It is in $zip"
            exit 1
        }
    fi
    rm -rf "$home" "$home.new"
    mkdir "$home.new"
    unzip -q "$zip" -d "$home.new"
    mv "$home.new/keycloak-$version" "$home"
    rmdir "$home.new"
    echo "$sha256 $(contents)" >"$home/.unpacked"
}

mkdir -p "$cache"
# Two at once would trip over each other.
exec 9>"$home.lock"
if command -v flock >/dev/null; then flock 9; fi

system_packages
whole || make_it

if [ $# = 0 ]; then
    printf '%s\n' "$home"
else
    rm -rf "$1"
    mkdir -p "$1/lib"
    (cd "$home" && tar -c --exclude=./lib/lib --exclude=./.unpacked .) | tar -x -C "$1"
    cp -al "$home/lib/lib" "$1/lib/lib" 2>/dev/null || {
        rm -rf "$1/lib/lib"
        cp -a "$home/lib/lib" "$1/lib/lib"
    }
    (cd "$1" && pwd)
fi
