#!/usr/bin/env bash
# Makes a root file system of Debian 12 for the tests of containers, once, and prints the path of the archive. For machines that reach
# Debian's packages but no registry of images.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy
target=$cache/bookworm.tar

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

mkdir -p "$cache"
exec 9>"$target.lock"
if command -v flock >/dev/null; then flock 9; fi

if [ ! -s "$target" ]; then
    command -v mmdebstrap >/dev/null || need_packages mmdebstrap
    say "Making a root file system of Debian 12 (a minute, once) ..."
    base=${TMPDIR:-/tmp}
    # Memory is many times faster than a disk for files that are thrown away.
    [ -d /dev/shm ] && [ -w /dev/shm ] && base=/dev/shm
    TMPDIR=$base mmdebstrap --quiet --variant=minbase --include=ca-certificates --aptopt='Acquire::Languages "none"' \
        --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$target.new.tar" >&2
    mv "$target.new.tar" "$target"
fi
printf '%s\n' "$target"
