"""What the end-to-end tests stand on: real servers on free loopback ports, and people who talk to them.

Every process that is started here is stopped here, by its own process id.
"""

import base64
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests

from provider import the_provider

ROOT = Path(__file__).resolve().parents[2]
ADMIN = "admin"
ADMIN_PASSWORD = "correct-horse-" + secrets.token_hex(8)

# Every password and token that a test used or tried. None of them may ever turn up in a log or, readable, in a store.
SECRETS = {ADMIN_PASSWORD}
# Every proxy that ran, for the same search.
PROXIES = []
# Every port that was given to a server.
PORTS = set()


def check_refused(answer):
    """MLflow's way to say no, with what was missing and nothing else; gives the message."""
    assert answer.status_code == 403, f"{answer.status_code} {answer.text}"
    error = answer.json()
    assert error["error_code"] == "PERMISSION_DENIED"
    # Clients match the full stop; what follows says what was missing.
    assert re.match(r"Permission denied\. \S", error["message"])
    assert World.SECRET not in answer.text
    return error["message"]


def unique(prefix):
    return f"{prefix}-{secrets.token_hex(4)}"


def secret(value):
    """Notes a value that must stay secret, and hands it back."""
    if len(value) >= 12:  # shorter ones are parts of tests, not secrets, and would be found anywhere
        SECRETS.add(value)
    return value


def new_password():
    return secret("pw-" + secrets.token_hex(12))


def free_port():
    """A port that nobody listens on, and that was not given to another server of these tests that is yet to start."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        if port not in PORTS:
            PORTS.add(port)
            return port


def wait_until(check, seconds, what, every=0.05):
    """Calls `check` until it returns something true; fails loudly when it does not in time."""
    end = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


def binary():
    """The proxy under test: MLFLOW_AUTH_PROXY_BINARY, or what cargo built."""
    given = os.environ.get("MLFLOW_AUTH_PROXY_BINARY")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(given) if given else target / "debug" / "mlflow-auth-proxy"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; run `make test-e2e`, which builds it")
    return str(path)


def plain_environment(**more):
    """This machine's environment without anything that configures MLflow, the proxy or an HTTP client's proxies."""
    ours = re.compile(r"(MLFLOW|_MLFLOW|XDG_CONFIG|.*_PROXY$|.*_proxy$)")
    environment = {key: value for key, value in os.environ.items() if not ours.match(key)}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONUNBUFFERED": "1"}
    return environment | more


class Process:
    """A child in a session of its own, with its output in one file."""

    def __init__(self, argv, log, env, cwd):
        self.log = Path(log)
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                [str(arg) for arg in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def output(self):
        return self.log.read_text(errors="replace")

    def check_alive(self):
        if self.child.poll() is not None:
            raise AssertionError(f"ended with {self.child.returncode}:\n{self.output()[-4000:]}")

    def stop(self, seconds=15):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        # Whatever is left of its own session, e.g. workers of an MLflow that did not listen.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(5)
        return self.child.returncode


class Mlflow:
    """An unmodified MLflow with SQLite and a local artifact folder."""

    def __init__(self, folder, port=None, extra=(), env=None, python=sys.executable, prefix=""):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database = self.folder / "mlflow.db"
        self.artifacts = self.folder / "artifacts"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", "1"]
        argv += ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", self.artifacts, *extra]
        self.prefix = prefix
        argv += ["--static-prefix", prefix] if prefix else []
        # The provider of the AI gateway's tests stands on loopback, and so would a webhook's receiver.
        local = {"MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true", "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
                 "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
        # An answer comes after everything it caused is stored: a late trace would look like the next request's work.
        settled = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}
        env = plain_environment(**settled) | local | (env or {})
        # 2.x starts the gunicorn that it finds.
        env["PATH"] = f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.reader = self.seen = None
        self.rows = {}
        self.argv, self.env = argv, env
        self.start()

    def start(self):
        """Starts it, also again after `stop`: the same database on the same port."""
        self.process = Process(self.argv, self.folder / "mlflow.log", self.env, self.folder)

    def wait(self):
        def answers():
            self.process.check_alive()
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}{self.prefix}/health", timeout=2).ok

        wait_until(answers, 90, "MLflow answers", every=0.2)
        return self

    def stop(self):
        self.process.stop()

    def state(self):
        """Everything MLflow has stored: rows of every table, and every artifact's size and time of change."""
        if self.reader is None:
            self.reader = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10, check_same_thread=False)
        # SQLite says whether somebody else has written since: most refusals cost no second look.
        version = self.reader.execute("PRAGMA data_version").fetchone()
        if version != self.seen:
            names = [row[0] for row in self.reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = {name: self.reader.execute(f'SELECT * FROM "{name}"') for name in names}
            self.rows, self.seen = {f"table {name}": sorted(map(repr, found)) for name, found in rows.items()}, version
        state = dict(self.rows)
        files = [path for path in self.artifacts.rglob("*") if path.is_file()]
        state["artifacts"] = sorted(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
        return state

    @contextlib.contextmanager
    def unchanged(self):
        """Whatever happens inside must leave what MLflow stores as it is."""
        before = self.state()
        yield
        changed = difference(before, self.state())
        assert not changed, changed


def difference(before, after):
    """What changed between two `Mlflow.state()`s, in words; empty when nothing did."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = set(before.get(name, ())), set(after.get(name, ()))
        lines += [f"- {name}: {row}" for row in sorted(old - new)] + [f"+ {name}: {row}" for row in sorted(new - old)]
    return "\n".join(lines)


@dataclass
class Tls:
    """A certificate that signs itself."""

    cert: Path
    key: Path

    @classmethod
    def make(cls, folder, days=2, names="IP:127.0.0.1,DNS:localhost"):
        Path(folder).mkdir(exist_ok=True)
        tls = cls(Path(folder) / "cert.pem", Path(folder) / "key.pem")
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-days", str(days), "-subj", "/CN=127.0.0.1", "-addext", f"subjectAltName={names}"]
        argv += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"]
        subprocess.run([*argv, "-keyout", tls.key, "-out", tls.cert], check=True, capture_output=True)
        return tls


class Proxy:
    """The real proxy in front of `upstream`, on two free ports, with a store of its own."""

    def __init__(self, folder, upstream, tls=None, settings=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = self.folder / "proxy.db"
        self.tls = tls
        self.port, self.admin_port = free_port(), free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.settings = {
            "UPSTREAM__URL": upstream,
            "SERVER__LISTEN": f"127.0.0.1:{self.port}",
            "SERVER__PUBLIC_URL": self.url,
            "ADMIN__LISTEN": f"127.0.0.1:{self.admin_port}",
            "STORE__URL": f"sqlite://{self.store}",
            "BOOTSTRAP__ADMIN_USERNAME": ADMIN,
            "BOOTSTRAP__ADMIN_PASSWORD": ADMIN_PASSWORD,
            "AUTHZ__DEFAULT_PERMISSION": "NO_PERMISSIONS",
            # The model provider of the tests is on loopback, as is the receiver of their webhooks, where nothing listens;
            # nothing but their names opens that.
            "AUTHZ__PROVIDER_HOSTS": f"public,{the_provider().origin},https://127.0.0.1:9",
            # Every test guesses from the same address; the limits have tests of their own.
            "AUTHN__GUESSES_PER_ADDRESS": "100000",
            # No load balancer has to notice anything.
            "SERVER__DRAIN_DELAY_SECONDS": "0",
        }
        if tls:
            self.settings |= {"SERVER__TLS__CERT": str(tls.cert), "SERVER__TLS__KEY": str(tls.key)}
        self.settings |= settings or {}
        self.process = None
        PROXIES.append(self)

    @property
    def environment(self):
        return plain_environment(**{f"MLFLOW_AUTH_PROXY_{key}": value for key, value in self.settings.items()})

    def start(self, ready="/readyz"):
        self.process = Process([binary(), "serve"], self.folder / "proxy.log", self.environment, self.folder)

        def answers():
            self.process.check_alive()
            with contextlib.suppress(requests.RequestException):
                return self.probe(ready).ok

        wait_until(answers, 30, f"the proxy answers {ready}")
        return self

    def probe(self, path):
        return requests.get(self.admin_url + path, timeout=5)

    def counted(self, name, **labels):
        """The sum of a counter's series with these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        lines = re.findall(rf"^\w*{name}(?:{{(.*)}})? (\S+)$", self.probe("/metrics").text, re.MULTILINE)
        return sum(float(value) for found, value in lines if wanted <= set(found.split(",")))

    def unknown_fields(self):
        """How many request fields of each operation were not forwarded so far; empty when the proxy does not run."""
        if not self.process or self.process.child.poll() is not None:
            return {}
        with contextlib.suppress(requests.RequestException):
            found = re.findall(r'^\w*unknown_fields_total{operation="(\w+)"} (\d+)$', self.probe("/metrics").text, re.MULTILINE)
            return {operation: int(count) for operation, count in found}
        return {}

    def stop(self):
        return self.process.stop() if self.process else None

    def kill(self):
        """Without any chance to tidy up."""
        self.process.child.kill()
        self.process.child.wait(10)

    def rows(self, query, *values):
        """What the store holds, for what no interface shows."""
        with contextlib.closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(query, values).fetchall()

    def cli(self, *arguments, stdin=None, check=True):
        """The command line, on the same store as the running server."""
        done = subprocess.run(
            [binary(), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            cwd=self.folder,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    @property
    def verify(self):
        return str(self.tls.cert) if self.tls else True

    def anonymous(self):
        return Http(self.url, None, self.verify)

    def admin(self):
        return Person(self, ADMIN, ADMIN_PASSWORD)

    def person(self, prefix="user"):
        """A new ordinary user."""
        name, password = unique(prefix), new_password()
        created = self.admin().post("/api/2.0/mlflow/users/create", {"username": name, "password": password})
        assert created.status_code == 200, created.text
        return Person(self, name, password)


class Http:
    """Requests as one client sends them. Paths are sent as they are written."""

    def __init__(self, url, authorization, verify=True):
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify
        if authorization:
            self.session.headers["Authorization"] = authorization

    def call(self, method, path, **more):
        more.setdefault("timeout", 60)
        more.setdefault("allow_redirects", False)
        return self.session.request(method, self.url + path, **more)

    def get(self, path, params=None, **more):
        return self.call("GET", path, params=params, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, json=body if body is not None else {}, **more)

    def patch(self, path, body):
        return self.call("PATCH", path, json=body)

    def delete(self, path, body=None):
        return self.call("DELETE", path, json=body if body is not None else {})

    def ok(self, method, path, body=None, **more):
        """The JSON answer of a call that must succeed."""
        if body is not None:
            more["json"] = body
        answer = self.call(method, path, **more)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Person(Http):
    """Somebody with an account, talking to the proxy with HTTP Basic."""

    def __init__(self, front, name, password, authorization=None):
        secret(password)
        super().__init__(front.url, authorization or basic(name, password), front.verify)
        self.front, self.name, self.password = front, name, password

    def token(self, name=None, **more):
        """A new access token: the whole answer, secret included."""
        body = {"name": name or unique("token"), "expires_in_days": 7} | more
        made = self.call("POST", "/auth/api/v1/tokens", json=body)
        assert made.status_code in (200, 201), f"{made.status_code} {made.text}"
        answer = made.json()
        secret(answer["token"])
        return answer

    def with_token(self, token, bearer=False):
        """The same person, proving it with a token instead."""
        return Person(self.front, self.name, token, f"Bearer {token}" if bearer else None)

    # ---- sharing

    def grant(self, other, kind, key, permission):
        """Gives `other` a permission, in place of the one they had."""
        body = {"username": other.name, "resource_type": kind, "resource_id": key}
        self.post("/api/3.0/mlflow/users/permissions/revoke", body)
        self.ok("POST", "/api/3.0/mlflow/users/permissions/grant", body | {"permission": permission})

    # ---- the real client

    def client_environment(self, bearer=False):
        """What the Python client needs to be this person."""
        environment = {"MLFLOW_TRACKING_URI": self.url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
        if bearer:
            environment["MLFLOW_TRACKING_TOKEN"] = self.password
        else:
            environment |= {"MLFLOW_TRACKING_USERNAME": self.name, "MLFLOW_TRACKING_PASSWORD": self.password}
        if self.front.tls:
            environment["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.front.tls.cert)
        return environment

    def python(self, script, *arguments, bearer=False, timeout=150, python=sys.executable):
        """Runs a script of this folder in a Python of its own; what it printed."""
        done = subprocess.run(
            [python, str(Path(__file__).parent / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=plain_environment(**self.client_environment(bearer)),
        )
        assert done.returncode == 0, f"{script} as {self.name}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def mlflow(self, bearer=False):
        """The real client in this process, as this person: gives an `MlflowClient`."""
        import mlflow

        before = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
        for key in before:
            del os.environ[key]
        os.environ.update(plain_environment() | self.client_environment(bearer))
        mlflow.set_tracking_uri(self.url)
        try:
            yield mlflow.MlflowClient(self.url)
        finally:
            while mlflow.active_run():
                mlflow.end_run()
            for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
                del os.environ[key]
            os.environ.update(before)


@dataclass
class World:
    """One of everything, made by its owner through the proxy: what the others try to reach."""

    owner: Person
    experiment: str = ""
    experiment_name: str = ""
    deleted_experiment: str = ""
    run: str = ""
    deleted_run: str = ""
    logged_model: str = ""
    model: str = ""
    version: str = ""
    files: list = field(default_factory=list)
    # Ids of what further families of endpoints are about, under the names that stand in their paths.
    names: dict = field(default_factory=dict)

    # Stands in a parameter, a tag and an artifact; must not reach anybody who may not read them.
    SECRET = "the-quick-brown-secret"

    @classmethod
    def make(cls, owner):
        world = cls(owner)
        api, ok = "/api/2.0/mlflow", owner.ok
        world.experiment_name = unique("world")
        world.experiment = ok("POST", f"{api}/experiments/create", {"name": world.experiment_name})["experiment_id"]
        ok("POST", f"{api}/experiments/set-experiment-tag",
           {"experiment_id": world.experiment, "key": "tag", "value": cls.SECRET})
        world.run = world.new_run()
        ok("POST", f"{api}/runs/log-batch", {
            "run_id": world.run,
            "params": [{"key": "param", "value": cls.SECRET}],
            "metrics": [{"key": "metric", "value": 0.5, "timestamp": 1, "step": 0}],
            "tags": [{"key": "tag", "value": cls.SECRET}],
        })
        world.deleted_run = world.new_run()
        ok("POST", f"{api}/runs/delete", {"run_id": world.deleted_run})
        world.upload(f"{world.experiment}/{world.run}/artifacts/folder/file.txt")
        world.logged_model = ok("POST", f"{api}/logged-models", {
            "experiment_id": world.experiment, "name": "logged", "source_run_id": world.run,
            "tags": [{"key": "tag", "value": cls.SECRET}],
        })["model"]["info"]["model_id"]
        world.upload(f"{world.experiment}/models/{world.logged_model}/artifacts/MLmodel")
        world.model = unique("model")
        ok("POST", f"{api}/registered-models/create",
           {"name": world.model, "tags": [{"key": "tag", "value": cls.SECRET}]})
        world.version = ok("POST", f"{api}/model-versions/create", {
            "name": world.model, "source": f"mlflow-artifacts:/{world.experiment}/{world.run}/artifacts/folder",
            "run_id": world.run, "tags": [{"key": "tag", "value": cls.SECRET}],
        })["model_version"]["version"]
        ok("POST", f"{api}/registered-models/alias", {"name": world.model, "alias": "champion", "version": world.version})
        return world

    def new_run(self):
        created = self.owner.ok("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": self.experiment, "start_time": 1})
        return created["run"]["info"]["run_id"]

    def with_deleted_experiment(self):
        if not self.deleted_experiment:
            created = self.owner.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": unique("deleted")})
            self.deleted_experiment = created["experiment_id"]
            self.owner.ok("POST", "/api/2.0/mlflow/experiments/delete", {"experiment_id": self.deleted_experiment})
        return self

    def upload(self, path):
        put = self.owner.call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", data=f"{self.SECRET} {path}".encode())
        assert put.status_code == 200, put.text
        self.files.append(path)

    def share(self, other, permission):
        """The owner gives `other` the same permission on everything here."""
        for experiment in filter(None, (self.experiment, self.deleted_experiment)):
            self.owner.grant(other, "experiment", experiment, permission)
        self.owner.grant(other, "registered_model", self.model, permission)


class Relay:
    """A TCP relay to MLflow that can be cut and mended, and can hold MLflow's answers back."""

    def __init__(self, port):
        self.target = port
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.listener = None
        self.connections = set()
        self.answers = threading.Event()
        self.answers.set()

    def mend(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def cut(self):
        listener, self.listener = self.listener, None
        if listener:
            # Wakes the thread that waits in accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.connections |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink, source is far), daemon=True).start()

    def _copy(self, source, sink, answer):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answer:
                    self.answers.wait(60)
                sink.sendall(data)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def big_file(path, megabytes):
    """A file that does not compress and whose parts all differ; gives its SHA-256."""
    digest, block = hashlib.sha256(), bytearray(os.urandom(1 << 20))
    with open(path, "wb") as file:
        for number in range(megabytes):
            block[:8] = number.to_bytes(8, "big")
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file):
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
