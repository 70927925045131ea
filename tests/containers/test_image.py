"""The image: what is in it, and how its process runs without rights."""

import gzip
import json
import os
import shutil
import subprocess
import tarfile

import pytest
import requests

from conftest import SOURCES
from engine import ROOT, script
from harness import free_port, unique, wait_until

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
PLAIN = ("--env", "MLFLOW_AUTH_PROXY_SERVER__ALLOW_PLAIN_HTTP=true")
PASSWORD = "a-long-first-password"
# Answers every request as an MLflow that is well.
MLFLOW = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"OK")
http.server.HTTPServer(("0.0.0.0", 5000), Handler).serve_forever()
"""


@pytest.fixture
def start(engine, image):
    """Starts containers of the image that are removed in the end."""
    started = []

    def begin(*options, command=()):
        name = unique("image")
        started.append(name)
        engine.run("run", "--detach", "--name", name, *HARDENED, *PLAIN, *options, image, *command)
        return name

    yield begin
    for name in started:
        engine.run("rm", "--force", "--volumes", name)


@pytest.fixture
def mlflow(engine):
    """A network in which `mlflow:5000` answers."""
    network, name = unique("network"), unique("mlflow")
    engine.base("python:3.12-slim-bookworm")
    engine.run("network", "create", network)
    engine.run("run", "--detach", "--name", name, "--network", network, "--network-alias", "mlflow", "python:3.12-slim-bookworm",
               "python", "-c", MLFLOW)
    yield network
    engine.run("rm", "--force", name)
    engine.run("network", "rm", network)


def logs(engine, name):
    return engine.run("logs", name).stdout


def test_it_says_what_it_is_and_runs_as_a_user_without_a_name(engine, image):
    config = engine.inspect(image, "image")["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["mlflow-auth-proxy"] and config["Cmd"] == ["serve"]
    assert list(config["Volumes"]) == ["/data"] and list(config["ExposedPorts"]) == ["8080/tcp"]
    assert config["Healthcheck"]["Test"] == ["CMD", "mlflow-auth-proxy", "health"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert {"title", "description", "licenses", "version", "revision", "created"} <= set(labels), labels


def test_the_build_gets_the_sources_and_nothing_else(engine, image):
    engine.run("build", "--target", "build", "--tag", "mlflow-auth-proxy:sources", ROOT)
    found = engine.run("run", "--rm", "mlflow-auth-proxy:sources", "ls", "-A", "/source").stdout.split()
    assert set(found) == set(SOURCES) - {"Dockerfile", ".dockerignore"} | {"target"}
    tests = "find /source -name 'tests.rs' -o -name '*.snap'"
    assert not engine.run("run", "--rm", "mlflow-auth-proxy:sources", "sh", "-c", tests).stdout
    engine.run("rmi", "--no-prune", "mlflow-auth-proxy:sources")


def test_a_change_of_the_code_leaves_the_layer_of_the_dependencies(engine, image, tmp_path):
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with open(tmp_path / "src" / "main.rs", "a") as file:
        file.write(f"// {unique('change')}\n")
    steps = engine.run("build", tmp_path).stdout.split("Step ")
    (dependencies,) = (step for step in steps if "cargo clean" in step)
    (code,) = (step for step in steps if ": RUN cargo build" in step)
    assert "Using cache" in dependencies and "Using cache" not in code


def test_the_product_adds_less_than_60_megabytes(engine, image, tmp_path):
    engine.run("save", "--output", tmp_path / "image.tar", image)
    below = len(engine.inspect("debian:bookworm-slim", "image")["RootFS"]["Layers"])
    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        added = [gzip.compress(archive.extractfile(layer).read(), 6) for layer in manifest["Layers"][below:]]
    size = sum(map(len, added))
    print(f"{size / 1e6:.1f} MB compressed")
    assert size < 60_000_000


def test_it_serves_with_a_read_only_root_and_becomes_healthy(engine, mlflow, start, tmp_path):
    # As a compose secret or a volume of Kubernetes: a file that others wrote.
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o644)
    port = free_port()
    name = start(
        "--network", mlflow, "--env", "MLFLOW_AUTH_PROXY_UPSTREAM__URL=http://mlflow:5000",
        "--volume", f"{secret}:/run/secrets/admin:ro", "--env", "MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD_FILE=/run/secrets/admin",
        "--publish", f"127.0.0.1:{port}:8080",
    )
    engine.wait_healthy(name)
    assert json.loads(engine.run("exec", name, "mlflow-auth-proxy", "health").stdout)["ready"]
    url = f"http://127.0.0.1:{port}/auth/api/v1/me"
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, auth=("admin", PASSWORD), timeout=10).status_code == 200
    # Maintenance needs no other folder either.
    engine.run("exec", name, "mlflow-auth-proxy", "store", "backup", "/data/backup.db")
    engine.run("exec", name, "mlflow-auth-proxy", "store", "check", "/data/backup.db")
    assert engine.run("exec", name, "stat", "-c", "%u:%g %a", "/data/store.db").stdout.strip() == "10001:10001 600"
    # Nothing but the place of the mounted file.
    changed = {line.split()[1] for line in engine.run("diff", name).stdout.splitlines()}
    assert changed <= {"/run", "/run/secrets", "/run/secrets/admin"}, changed


def test_it_is_not_ready_without_mlflow_and_says_so(engine, start):
    name = start("--env", f"MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD={PASSWORD}")
    wait_until(lambda: "ready on" in logs(engine, name), 60, "it serves", every=0.2)
    asked = engine.run("exec", name, "mlflow-auth-proxy", "health", check=False)
    assert asked.returncode == 1 and "MLflow cannot be reached" in asked.stdout
    assert engine.run("exec", name, "mlflow-auth-proxy", "health", "--live").returncode == 0


def test_a_signal_ends_it_after_the_drain_and_a_second_one_at_once(engine, start):
    name = start("--env", f"MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD={PASSWORD}", "--env", "MLFLOW_AUTH_PROXY_SERVER__DRAIN_DELAY_SECONDS=2")
    wait_until(lambda: "ready on" in logs(engine, name), 60, "it serves", every=0.2)
    engine.run("stop", "--time", "60", name)
    # Killed, it would be 137.
    assert engine.inspect(name)["State"]["ExitCode"] == 0
    assert "draining" in logs(engine, name)

    slow = start("--env", f"MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD={PASSWORD}", "--env", "MLFLOW_AUTH_PROXY_SERVER__DRAIN_DELAY_SECONDS=600")
    wait_until(lambda: "ready on" in logs(engine, slow), 60, "it serves", every=0.2)
    engine.run("kill", "--signal", "TERM", slow)
    wait_until(lambda: "draining" in logs(engine, slow), 30, "it drains", every=0.2)
    assert engine.inspect(slow)["State"]["Running"]
    engine.run("kill", "--signal", "TERM", slow)
    wait_until(lambda: not engine.inspect(slow)["State"]["Running"], 30, "it ends", every=0.2)


@pytest.mark.parametrize(
    "mistake, options, said",
    [
        ("no TLS", ["--env", "MLFLOW_AUTH_PROXY_SERVER__ALLOW_PLAIN_HTTP=false"], "server.allow_plain_http"),
        ("no password file", ["--env", "MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD_FILE=/run/secrets/admin"], "/run/secrets/admin cannot be read"),
        ("a short password", ["--env", "MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD=short"], "bootstrap.admin_password"),
        ("another user's folder", ["--tmpfs", "/data:mode=0700"], "/data/store.db"),
        ("no room", ["--tmpfs", "/data:size=16k,uid=10001,mode=0700"], "/data/store.db"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_does_not_start_with_a_mistake_and_says_which(engine, start, mistake, options, said):
    name = start(*options)
    wait_until(lambda: not engine.inspect(name)["State"]["Running"], 60, "it ends", every=0.2)
    output = logs(engine, name)
    assert engine.inspect(name)["State"]["ExitCode"] in (1, 2) and said in output, output
    assert "panicked" not in output


def test_buildah_builds_the_same_without_a_daemon(engine, image, tmp_path):
    script("programs.sh", "buildah")
    # Layers are large, and a disk is slow.
    environment = {key: value for key, value in os.environ.items() if key != "DOCKER_CONFIG"}
    stores = [f"--root={tmp_path}/root", f"--runroot={tmp_path}/run", "--storage-driver=vfs"]

    def buildah(*arguments):
        done = subprocess.run(["buildah", *stores, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=900)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    for number, base in enumerate(("rust:1.95-bookworm", "debian:bookworm-slim")):
        engine.run("save", "--output", tmp_path / f"{number}.tar", base)
        buildah("pull", f"docker-archive:{tmp_path}/{number}.tar")
        (tmp_path / f"{number}.tar").unlink()
    # The format of OCI has no health check.
    buildah("bud", "--format=docker", "--isolation=chroot", "--pull-never", "--tag=by-buildah", ROOT)
    config = json.loads(buildah("inspect", "--type=image", "by-buildah"))["Docker"]["config"]
    ours = engine.inspect(image, "image")["Config"]
    for key in ("User", "Entrypoint", "Cmd", "WorkingDir", "StopSignal", "Volumes"):
        assert config[key] == ours[key], key
    assert config["Healthcheck"]["Test"] == ours["Healthcheck"]["Test"]
    shutil.rmtree(tmp_path / "root")
