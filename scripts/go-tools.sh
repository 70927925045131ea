#!/usr/bin/env bash
# Builds programs for the tests of containers from their Go modules and prints the path of each, one a line:
#
#   go-tools.sh docker-compose versitygw
#
# Each is pinned, has a folder of its own in ${XDG_CACHE_HOME:-~/.cache}/mlflow-auth-proxy/tools and is built once, which takes
# minutes. The modules are what Go's checksum database knows under these versions.
set -euo pipefail

declare -A versions=([docker-compose]=2.40.3 [versitygw]=1.8.0)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy/tools

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

# build NAME VERSION TARGET
build() {
    case $1 in
        docker-compose)
            # `go install` refuses a module with `exclude` directives: it is built in a copy of its folder.
            local module source
            module=github.com/docker/compose/v2
            source=$(GOFLAGS=-mod=mod go mod download -json "$module@v$2" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
            cp -r "$source" "$work/source"
            chmod -R u+w "$work/source"
            (cd "$work/source" && GOFLAGS=-mod=mod go build -trimpath -ldflags "-s -w -X $module/internal.Version=v$2" -o "$3" ./cmd)
            ;;
        versitygw) install "github.com/versity/versitygw/cmd/versitygw@v$2" "-X main.Version=v$2" "$3" ;;
    esac
}

# install PACKAGE FLAGS TARGET
install() {
    GOBIN=$work go install -trimpath -ldflags "-s -w $2" "$1"
    mv "$work/$(basename "${1%@*}")" "$3"
}

for name in "$@"; do
    version=${versions[$name]:-}
    [ -n "$version" ] || { say "go-tools.sh does not know $name"; exit 2; }
    target=$cache/$name@$version/$name
    mkdir -p "$(dirname "$target")"
    # Two at once would build everything twice.
    exec 9>"$target.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [ ! -x "$target" ]; then
        command -v go >/dev/null || { say "Go 1.25 or newer is missing: it builds $name $version, once."; exit 1; }
        say "Building $name $version in $cache (some minutes, once) ..."
        work=$(mktemp -d "$cache/build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        CGO_ENABLED=0 build "$name" "$version" "$work/$name.new" >&2
        mv "$work/$name.new" "$target"
        rm -rf "$work"
    fi
    exec 9>&-
    printf '%s\n' "$target"
done
