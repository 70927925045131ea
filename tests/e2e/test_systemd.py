"""The systemd unit, as systemd's own tool reads it, and its agreement with the configuration. The messages that the proxy sends are in tests/it/service.rs."""

import re
import shutil
import subprocess
import tomllib

from balancers import program
from harness import ROOT, binary

UNITS = ROOT / "deploy/systemd"
UNIT = UNITS / "mlflow-auth-proxy.service"


def analyze(*arguments):
    return subprocess.run([program("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60)


def test_the_units_are_understood_and_hardened(tmp_path):
    # With a program that is there.
    path = str(shutil.copy(binary(), tmp_path / "proxy"))
    for unit in UNITS.glob("*.*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/mlflow-auth-proxy", path))
    units = sorted(tmp_path.glob("*.service"))
    assert [unit.name for unit in units] == ["mlflow-auth-proxy-backup.service", "mlflow-auth-proxy.service"]
    checked = analyze("verify", "--man=no", "--recursive-errors=no", *units, *tmp_path.glob("*.timer"))
    assert checked.returncode == 0 and checked.stderr == "", checked.stderr
    for unit in units:
        rated = analyze("security", "--offline=true", "--threshold=20", "--no-pager", unit)
        assert rated.returncode == 0, rated.stdout


def test_the_drain_fits_into_the_time_that_systemd_allows():
    defaults = tomllib.loads((ROOT / "config/default.toml").read_text())["server"]
    allowed = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.M)[1])
    effects = 30  # app.rs: EFFECTS_DRAIN
    assert allowed > defaults["drain_delay_seconds"] + defaults["drain_timeout_seconds"] + effects


def test_completions_and_manual_pages_are_made(tmp_path):
    for shell, word in (("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")):
        made = subprocess.run([binary(), "completions", shell], capture_output=True, text=True, check=True, timeout=30)
        assert word in made.stdout and "set-password" in made.stdout
    script = subprocess.run([binary(), "completions", "bash"], capture_output=True, text=True, check=True, timeout=30).stdout
    (tmp_path / "bash").write_text(script)
    function = re.search(r"complete -F (\S+)", script)[1]
    completed = subprocess.run(
        ["bash", "-c", f'source {tmp_path}/bash; COMP_WORDS=(mlflow-auth-proxy user set-); COMP_CWORD=2; '
                       f'{function} mlflow-auth-proxy set- user; echo "${{COMPREPLY[@]}}"'],
        capture_output=True, text=True, timeout=30)
    assert completed.stdout.split() == ["set-password", "set-admin"], completed.stderr
    page = subprocess.run([binary(), "man"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert page.count(".TH mlflow-auth-proxy 1") == 1
    pages = tmp_path / "man1"
    pages.mkdir()
    subprocess.run([binary(), "man", "--out", pages], check=True, timeout=30)
    assert {"mlflow-auth-proxy.1", "mlflow-auth-proxy-serve.1", "mlflow-auth-proxy-user-set-password.1"} <= {file.name for file in pages.iterdir()}
    missing = subprocess.run([binary(), "man", "--out", tmp_path / "none"], capture_output=True, text=True, timeout=30)
    assert missing.returncode == 1 and "none" in missing.stderr
