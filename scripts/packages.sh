# Sourced by the scripts that need Debian packages: installs what is missing, or says the one command that does.

say() { printf '%s\n' "$*" >&2; }

# need_packages PACKAGE... : as root with apt they are installed; otherwise the command is printed, and the script ends.
need_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing $* ..."
        if apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; then
            return
        fi
        say "apt-get could not install: $*"
        exit 1
    fi
    local sudo=sudo
    [ "$(id -u)" = 0 ] && sudo=
    say "Missing on this machine: $*. Run this once, then try again:"
    say "    $sudo apt-get update && $sudo apt-get install -y --no-install-recommends $*"
    exit 1
}
