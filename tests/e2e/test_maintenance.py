"""The commands of docs/maintenance.md and docs/runbooks.md, run as they are written there."""

import os
import re
import subprocess

import pytest

from harness import ROOT, binary, free_port, new_password, plain_environment


@pytest.fixture
def run(tmp_path):
    """Runs a block of commands in an empty folder, in which `mlflow-auth-proxy` is the one under test."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mlflow-auth-proxy").symlink_to(binary())

    def run(block, **environment):
        environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=plain_environment(**environment),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def block(document, heading, number=0, **replaced):
    """A block of commands below this heading, with the document's examples replaced by what is here."""
    section = re.split(rf"^##+ {re.escape(heading)}$", (ROOT / "docs" / document).read_text(), maxsplit=1, flags=re.M)[1]
    found = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)[number]
    for theirs, ours in replaced.items():
        assert theirs in found, f"{document}, {heading}: {theirs}"
        found = found.replace(theirs, str(ours))
    return found


def test_the_backup_can_be_restored_as_the_drill_does(run, proxy, world, mlflow_server, tmp_path):
    (tmp_path / "backup").mkdir()
    made = block("maintenance.md", "Back up", **{"/backup": tmp_path / "backup"})
    store = {"MLFLOW_AUTH_PROXY_STORE__URL": proxy.settings["STORE__URL"], "MLFLOW_AUTH_PROXY_UPSTREAM__URL": mlflow_server.url}
    run(made, **store)
    drill = block("maintenance.md", "Restore drill", **{
        "/backup": tmp_path / "backup", "http://127.0.0.1:5000": mlflow_server.url, "8090": free_port(), "9091": free_port()})
    shown = run(drill.replace("user admin", f"user {proxy.admin().name}"), **store)
    assert world.owner.name in shown and f'"ready":true' in shown
    assert '"experiments"' in shown, "MLflow answered through the restored proxy"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("drill")] == []


def test_session_keys_are_replaced_as_written(run, tmp_path):
    keys = tmp_path / "session-keys"
    first, second, third = block("maintenance.md", "Replace secrets").splitlines()
    run('echo "k1:$(openssl rand -base64 32)" > session-keys')
    ids = []
    for step in (first, second, third):
        run(f"{step}\nmlflow-auth-proxy check-config --set session.keys_file=session-keys")
        ids.append([line.split(":")[0] for line in keys.read_text().splitlines()])
    assert ids == [["k1", "k2"], ["k2", "k1"], ["k2"]]


def test_a_leaked_token_and_a_leaver_are_dealt_with_as_written(run, proxy, alice, bob, world):
    token = alice.token("notebook")["token"]
    assert alice.with_token(token).get("/api/2.0/mlflow/users/current").status_code == 200
    settings = {f"MLFLOW_AUTH_PROXY_{key}": value for key, value in proxy.settings.items()}
    leak = block("runbooks.md", "A token or password leaked", alice=alice.name)
    shown = run(re.sub(r"(set-password \S+)", rf"\1 --password-stdin <<< '{new_password()}'", leak), **settings)
    assert "notebook" in shown and "resource.create" in shown
    assert alice.with_token(token).get("/api/2.0/mlflow/users/current").status_code == 401
    assert alice.get("/api/2.0/mlflow/users/current").status_code == 401, "with the old password"
    leaver = block("runbooks.md", "A user leaves", alice=alice.name, bob=bob.name, **{"--experiment 12": f"--experiment {world.experiment}"})
    run(leaver, **settings)
    assert bob.get("/api/2.0/mlflow/experiments/get", {"experiment_id": world.experiment}).status_code == 200
