#!/usr/bin/env bash
# Makes the private Python environment of the end-to-end tests and prints the path of its interpreter.
# `test-env.sh 2.10.2` makes one with that MLflow and nothing else, to run its server and its client.
#
# Nothing outside ${XDG_CACHE_HOME:-~/.cache}/mlflow-auth-proxy is touched, except for Debian packages that are missing:
# as root with apt they are installed, otherwise the one command to run is printed. A complete environment is verified and
# reused; one that is incomplete, or made by a Python that is gone, is completed or made anew.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/packages.sh
. "$here/scripts/packages.sh"
file=$here/tests/e2e/requirements.txt
ours=$(sed -n 's/^mlflow\[auth\]==//p' "$file")
version=${1:-$ours}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy
env=$cache/mlflow-$version

dependencies=
case $version in
    "$ours") mapfile -t requirements < <(sed 's/#.*//; /^ *$/d' "$file") ;;
    # It imports pkg_resources, breaks with what pandas 3 and SQLAlchemy 2.1 do differently, and before 2.11 there is no
    # extra `auth`, which brings Flask-WTF.
    2.*) requirements=("mlflow[auth]==$version" 'setuptools<80' 'pandas<3' 'sqlalchemy==2.0.58' 'flask-wtf==1.3.0') ;;
    # It breaks with what SQLAlchemy 2.1 removed.
    3.6.*) requirements=("mlflow[auth]==$version" 'sqlalchemy==2.0.58') ;;
    # It requires mlflow-skinny and mlflow-tracing 3.18.0, which were never published. The package mlflow contains their
    # modules too, so it is installed without its requirements, over the dependencies of 3.17.2.
    3.18.0)
        requirements=("mlflow==$version" 'flask-wtf<2' 'python-multipart<1')
        dependencies='mlflow[auth]==3.17.2'
        ;;
    *) requirements=("mlflow[auth]==$version") ;;
esac
modules=(flask flask_wtf sqlalchemy requests)
[ -z "$dependencies" ] || modules+=(python_multipart mlflow.server.fastapi_app)
[ "$version" != "$ours" ] || modules+=(sklearn pytest pytest_timeout playwright.sync_api uvicorn)

# The browser of tests/e2e/test_browser.py: Debian's, or the one that CHROMIUM names. Playwright's own is never downloaded.
browser() {
    "${CHROMIUM:-chromium}" --version >/dev/null 2>&1
}

# Without it everything else can be tested; the browser's tests then fail and say the same command.
need_browser() {
    browser && return
    if [ -z "${CHROMIUM:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing chromium ..."
        apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >&2
        browser && return
        say "apt-get could not install chromium, or it does not start."
    fi
    say "Chromium is missing, and the tests in a browser will fail. Run this once, or name one with CHROMIUM=PATH:"
    say "    sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium"
}

system_packages() {
    local missing=()
    command -v cc >/dev/null || missing+=(build-essential)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v python3 >/dev/null || missing+=(python3)
    # Debian ships python3 without the part that makes environments.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        say "MLflow $version needs Python 3.10 or newer; python3 here is $(python3 --version 2>&1)."
        exit 1
    }
}

# True when the interpreter runs and every pinned package is there, in its pinned version, and loads.
complete() {
    [ -x "$env/bin/python" ] && "$env/bin/python" - "${requirements[@]}" -- "${modules[@]}" 2>/dev/null <<'PYTHON'
import importlib
import re
import sys
from importlib.metadata import version

split = sys.argv.index("--")
for requirement in sys.argv[1:split]:
    name, how, wanted = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?(==|<)(\S+)", requirement).groups()
    found = version(name)
    if found != wanted if how == "==" else int(found.split(".")[0]) >= int(wanted):
        sys.exit(f"{name} is {found}, not {how}{wanted}")
for module in sys.argv[split + 1 :]:
    importlib.import_module(module)
PYTHON
}

make_it() {
    if [ -d "$env" ] && ! "$env/bin/python" -m pip --version >/dev/null 2>&1; then
        say "The environment in $env is broken; making it anew."
        rm -rf "$env"
    fi
    if [ ! -d "$env" ]; then
        say "Making a private Python environment in $env ..."
        python3 -m venv "$env"
    fi
    say "Installing ${requirements[*]} (a minute or two) ..."
    if [ -z "$dependencies" ]; then
        pip install "${requirements[@]}"
    else
        pip install "$dependencies" "${requirements[@]:1}"
        pip uninstall --yes mlflow mlflow-skinny mlflow-tracing
        pip install --no-deps "${requirements[0]}"
    fi
}

pip() {
    local command=$1
    shift
    "$env/bin/python" -m pip "$command" --quiet --disable-pip-version-check --no-input "$@" >&2
}

system_packages
# Other versions are only asked by their own client.
[ "$version" != "$ours" ] || need_browser
mkdir -p "$cache"
# Two at once would trip over each other; `quickstart` takes the same lock.
exec 9>"$env.lock"
if command -v flock >/dev/null; then flock 9; fi

if ! complete; then
    make_it
    if ! complete; then
        say "The environment is still incomplete; making it anew."
        rm -rf "$env"
        make_it
        complete || {
            say "MLflow $version could not be installed in $env. Look at the messages of pip above."
            exit 1
        }
    fi
fi
printf '%s\n' "$env/bin/python"
