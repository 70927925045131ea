#!/usr/bin/env bash
# Installs the tools of `make check` from crates.io and prints the directory of their programs.
#
# Each tool is pinned, has a directory of its own in ${XDG_CACHE_HOME:-~/.cache}/mlflow-auth-proxy, and is built once. The
# build is optimised a little: it takes minutes on two cores, and the tools run for seconds.
set -euo pipefail

tools=(cargo-deny@0.20.2 cargo-machete@0.9.2 typos-cli@1.52.0)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy/tools

mkdir -p "$cache/bin"
# Two installations at once would build everything twice.
exec 9>"$cache/lock"
if command -v flock >/dev/null; then flock 9; fi

for tool in "${tools[@]}"; do
    [ ! -e "$cache/$tool/.crates.toml" ] || continue
    echo "Installing $tool in $cache (some minutes, once) ..." >&2
    # A package's own profile is for its releases: link-time optimisation takes longer than all checks.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_STRIP=debuginfo CARGO_TARGET_DIR="$cache/build" \
        cargo install --quiet --locked --root "$cache/$tool" "${tool%@*}" --version "${tool#*@}" >&2
done
rm -rf "$cache/build"

# The directory contains the pinned versions only.
rm -f "$cache/bin/"*
for tool in "${tools[@]}"; do
    ln -s "$cache/$tool/bin/"* "$cache/bin/"
done
printf '%s\n' "$cache/bin"
