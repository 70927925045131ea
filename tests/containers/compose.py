"""One project of deploy/compose, in a copy of the files that users have."""

import json
import os
import shutil
import subprocess
import sys

import requests

from conftest import SOURCES
from engine import ROOT, script
from harness import free_port, plain_environment, unique, wait_until

CLIENT = ROOT / "tests" / "e2e"
# MLflow's client of 3.17 downloads from the storage itself where MLflow can sign addresses. The storage of compose.s3.yaml has no
# address for clients: docs/compose.md.
THROUGH_THE_PROXY = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false"}


class Compose:
    def __init__(self, engine, folder, *parts, **settings):
        """`parts`: of the files compose.PART.yaml; `settings`: lines of `.env` besides those that make ports and names free."""
        self.engine, self.root, self.name = engine, folder, unique("compose")
        self.folder = folder / "deploy" / "compose"
        folder.mkdir(exist_ok=True)
        for name in (*SOURCES, "deploy", "examples"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            ours = shutil.ignore_patterns("secrets", ".env", "backups") if copy is shutil.copytree else None
            copy(ROOT / name, folder / name, **({"ignore": ours} if ours else {}))
        ports = {key: free_port() for key in ("PROXY_PORT", "HTTPS_PORT", "KEYCLOAK_PORT", "PROMETHEUS_PORT")}
        files = ":".join(["compose.yaml", *(f"compose.{part}.yaml" for part in parts)])
        self.settings = {"COMPOSE_FILE": files, "COMPOSE_PROJECT_NAME": self.name} | ports | settings
        (self.folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        self.url = f"http://localhost:{ports['PROXY_PORT']}"
        self.environment = self.engine.environment | {"DOCKER_CONFIG": str(plugins(folder))}

    def run(self, *arguments, check=True, timeout=900, **more):
        """`docker compose ...`, as a user types it in the folder."""
        return self.shell("docker", "compose", *arguments, check=check, timeout=timeout, **more)

    def shell(self, *argv, check=True, timeout=900, **more):
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | more
        done = subprocess.run(list(map(str, argv)), cwd=self.folder, env=self.environment, timeout=timeout, **more)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}\n{self.logs()}"
        return done

    def logs(self):
        done = subprocess.run(["docker", "compose", "logs", "--tail=30"], cwd=self.folder, env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.stdout[-6000:]

    def up(self):
        self.run("up", "--detach", "--build", "--wait", "--wait-timeout", "600")

    def prepare(self):
        self.shell("./prepare.sh")
        for image in self.run("config", "--images").stdout.split():
            # The two that are built here have bases of their own.
            if not image.startswith("mlflow-auth-proxy"):
                self.engine.base(image)
        self.engine.base("python:3.12-slim-bookworm")

    def down(self):
        self.run("down", "--volumes", "--remove-orphans", check=False)

    def secret(self, name):
        return (self.folder / "secrets" / name).read_text().strip()

    def services(self):
        """The containers by service, as `docker inspect` describes them."""
        ids = self.run("ps", "--all", "--quiet").stdout.split()
        found = json.loads(self.engine.run("inspect", *ids).stdout)
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}

    def admin(self):
        session = requests.Session()
        session.trust_env = False
        session.auth = ("admin", self.secret("admin-password"))
        return session

    def new_experiment(self):
        # After a restore, IDs are given again whose artifacts are still there: the proxy asks to repeat the request then.
        for _ in range(10):
            name = unique("experiment")
            answer = self.admin().post(f"{self.url}/api/2.0/mlflow/experiments/create", json={"name": name}, timeout=60)
            if "Repeat the request" not in answer.text:
                break
        assert answer.status_code == 200, answer.text
        return answer.json()["experiment_id"]

    def python(self, script, *arguments, **environment):
        """Runs a program of the real client as the administrator; returns what it printed."""
        credentials = {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secret("admin-password"),
        }
        env = plain_environment(**credentials, **THROUGH_THE_PROXY, **environment)
        argv = [sys.executable, "-W", "ignore", str(script), *map(str, arguments)]
        done = subprocess.run(argv, env=env, cwd=self.root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:] + self.logs()
        return done.stdout

    def model(self):
        """Logs a run and models, registers one and loads it again; returns what `load` needs."""
        name = unique("model")
        made = json.loads(self.python(CLIENT / "model_client.py", "register", self.new_experiment(), name).splitlines()[-1])
        self.load(made)
        return made

    def load(self, made):
        assert "loaded" in self.python(CLIENT / "model_client.py", "load", made["uri"], *made["uris"])

    def wait_healthy(self, service, seconds=180):
        wait_until(lambda: self.services()[service]["State"]["Health"]["Status"] == "healthy", seconds, f"{service} is healthy", every=1)


def plugins(folder):
    """A configuration of `docker` that has `docker compose`."""
    config = folder / "docker-config"
    (config / "cli-plugins").mkdir(parents=True, exist_ok=True)
    target = config / "cli-plugins" / "docker-compose"
    if not target.exists():
        os.symlink(script("go-tools.sh", "docker-compose")[0], target)
    return config
