#!/usr/bin/env bash
# Other programs that the tests run: `programs.sh haproxy pgbouncer` prints the path of each. As root it installs Debian's
# packages that are missing, otherwise it prints the one command to run. It starts none of them.
set -euo pipefail

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/opt/homebrew/bin

missing=()
for program in "$@"; do
    command -v "$program" >/dev/null && continue
    case $program in
        promtool) missing+=(prometheus) ;;
        systemd-analyze) missing+=(systemd) ;;
        *) missing+=("$program") ;;
    esac
done
[ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
for program in "$@"; do
    command -v "$program"
done
