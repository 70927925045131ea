"""The chart on a real node: installed, used by MLflow's client, upgraded and disturbed under load, removed.

Not there: cluster DNS (the values have addresses instead), enforcement of NetworkPolicies, an Ingress controller, a metrics server.
"""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import requests
import yaml

from chart import CHART, HELMS, ROOT, SETS, TOOLS, run, template
from node import ADDRESS, PODS, Node, free_port, wait_until
from plain import OVERLAYS, PLAIN

pytestmark = pytest.mark.node

PROXY_IMAGE = os.environ.get("MLFLOW_AUTH_PROXY_IMAGE", "mlflow-auth-proxy:latest")
MLFLOW_IMAGE = os.environ.get("MLFLOW_AUTH_PROXY_MLFLOW_IMAGE", "mlflow-auth-proxy-mlflow:3.17.2")
LOAD = ROOT / "tests/e2e/restart_client.py"


def image(name, **more):
    repository, tag = name.rsplit(":", 1)
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"} | more


# What the values of these tests have in common: images that are there, and addresses for want of DNS.
def common(service, mlflow_service, release):
    name = f"{release}-mlflow-auth-proxy"
    return {
        "image": image(PROXY_IMAGE),
        "service": {"type": "NodePort", "clusterIP": service},
        "hostAliases": [{"ip": service, "hostnames": [name]}, {"ip": mlflow_service, "hostnames": [f"{name}-mlflow"]}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "mlflow": {
            "image": image(MLFLOW_IMAGE),
            "workers": 2,
            "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}},
            # Asked for prices of models, which are on the internet.
            "extraEnv": [{"name": "MLFLOW_MODEL_CATALOG_URI", "value": "http://127.0.0.1:9"}],
        },
    }


def merged(*maps):
    whole = {}
    for one in maps:
        for key, value in one.items():
            whole[key] = merged(whole[key], value) if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
    return whole


@pytest.fixture(scope="module")
def images():
    """The images of the proxy and of MLflow, which the container engine has."""
    for name, source in ((PROXY_IMAGE, "Dockerfile"), (MLFLOW_IMAGE, "deploy/compose/Dockerfile.mlflow")):
        found = run("docker", "image", "inspect", name)
        assert found.returncode == 0, f"{name} is not in the container engine; build it from {source}: {found.stderr}"
    return PROXY_IMAGE, MLFLOW_IMAGE


@pytest.fixture(scope="module")
def node(images):
    node = Node()
    try:
        node.start()
        node.load(*images)
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL server on the node's own address, with a role and a database for the proxy and for MLflow."""
    environment = dict(os.environ, POSTGRES_OPTIONS=f"-c listen_addresses=127.0.0.1,{ADDRESS}")
    server = subprocess.Popen([ROOT / "scripts/postgres.sh", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    url = server.stdout.readline().strip()
    programs = run(ROOT / "scripts/postgres.sh").stdout.strip()

    def sql(text):
        done = run(Path(programs) / "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", url, input=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        with Path(sql("SHOW hba_file")).open("a") as file:
            file.write(f"host all all {PODS} scram-sha-256\n")
        sql("SELECT pg_reload_conf()")
        for role in ("proxy", "mlflow"):
            sql(f"CREATE ROLE {role} LOGIN PASSWORD 'the-password-of-{role}'")
        for database, owner in (("proxy", "proxy"), ("plain", "proxy"), ("mlflow", "mlflow")):
            sql(f"CREATE DATABASE {database} OWNER {owner} TEMPLATE template0 ENCODING UTF8")
        yield f"{ADDRESS}:{url.rsplit(':', 1)[1]}"
    finally:
        server.stdin.close()
        server.wait(30)


class Release:
    """An installed release, as its users see it: through its node port."""

    def __init__(self, node, namespace, release, values, helm="helm"):
        self.node, self.namespace, self.release, self.values, self.program = node, namespace, release, values, helm
        self.name = f"{release}-mlflow-auth-proxy"

    def helm(self, command, *arguments, values=None, check=True):
        more = () if values is None else ("--values", "-")
        text = None if values is None else yaml.safe_dump(values)
        return self.node.helm(command, self.release, *arguments, "--namespace", self.namespace, *more, program=self.program, check=check, input=text)

    def install(self):
        result = self.helm("install", CHART, "--wait", "--timeout", "10m", values=self.values)
        assert "would violate PodSecurity" not in result.stderr, result.stderr
        return result

    def upgrade(self, *more, timeout="5m", check=True):
        result = self.helm("upgrade", CHART, "--wait", "--timeout", timeout, values=merged(self.values, *more), check=check)
        assert "would violate PodSecurity" not in result.stderr, result.stderr
        return result

    @property
    def url(self):
        [port] = self.node.get("service", self.name, "--namespace", self.namespace)["spec"]["ports"]
        return f"http://127.0.0.1:{port['nodePort']}"

    def password(self):
        data = self.node.get("secret", self.values.get("secrets", {}).get("existingSecret") or self.name, "--namespace", self.namespace)["data"]
        return base64.b64decode(data["admin-password"]).decode()

    def search(self, password=None, user="admin"):
        auth = None if password is None else (user, password)
        return requests.get(f"{self.url}/api/2.0/mlflow/experiments/search", params={"max_results": 10}, auth=auth, timeout=30)

    def pods(self, component="proxy"):
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={component}"
        return self.node.get("pods", "--namespace", self.namespace, "--selector", selector)["items"]

    def names(self, component="proxy"):
        return sorted(pod["metadata"]["name"] for pod in self.pods(component))

    def kubectl(self, *arguments, **more):
        return self.node.kubectl(*arguments, "--namespace", self.namespace, **more)


class Load:
    """The training loop of MLflow's client while a release is disturbed. Without `patient`, the client repeats nothing."""

    def __init__(self, release, folder, patient=False):
        self.end, self.folder, self.release, self.patient = folder / "end", folder, release, patient

    def __enter__(self):
        environment = dict(
            os.environ, MLFLOW_TRACKING_URI=self.release.url, MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD=self.release.password()
        )
        if not self.patient:
            environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        self.end.unlink(missing_ok=True)
        experiment = client(self.release).create_experiment(f"load-{time.monotonic_ns()}")
        self.log = self.folder / "load.log"
        self.process = subprocess.Popen([sys.executable, LOAD, experiment, self.end], stdout=self.log.open("w"), stderr=subprocess.STDOUT, env=environment)
        wait_until(lambda: self.log.read_text().count("\n") >= 2, 120, lambda: f"the first runs: {self.log.read_text()}")
        return self

    def __exit__(self, kind, *_):
        self.end.touch()
        self.process.wait(180)
        if kind is None:
            last = self.log.read_text().strip().splitlines()[-1]
            self.result = json.loads(last)


def client(release, password=None):
    os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = password or release.password()
    return mlflow.MlflowClient(release.url)


def log_a_run(release, name):
    """A run with a parameter and an artifact; returns its ID."""
    user = client(release)
    found = user.get_experiment_by_name(name)
    run_id = user.create_run(found.experiment_id if found else user.create_experiment(name)).info.run_id
    user.log_param(run_id, "a", "1")
    user.log_text(run_id, "content", "notes.txt")
    user.set_terminated(run_id)
    return run_id


def the_run_is_there(release, run_id):
    user = client(release)
    assert user.get_run(run_id).data.params == {"a": "1"}
    assert [file.path for file in user.list_artifacts(run_id)] == ["notes.txt"]


# ---- Everything that the chart can render

@pytest.mark.parametrize("helm", HELMS)
def test_the_api_server_accepts_every_value_set(node, helm):
    namespace = node.namespace("tracking")
    for name, values in SETS.items():
        manifests = template(values, helm).stdout
        result = node.kubectl("apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", "-", input=manifests, check=False)
        # A class of priority, of storage or of an account that only the cluster has.
        assert result.returncode == 0, f"{name}: {result.stderr}"
        assert "Warning" not in result.stderr, f"{name}: {result.stderr}"


# ---- Sidecar mode, with the embedded store

@pytest.fixture(scope="module")
def team(node):
    namespace = node.namespace("team")
    node.volume(3)
    node.apply(namespace, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "people"}, "stringData": {"alice": "the-password-of-alice"}})
    values = merged(
        yaml.safe_load((CHART / "values-sidecar.yaml").read_text()),
        common("10.96.0.50", "10.96.0.51", "team"),
        {"backup": {"keep": 2}, "initialUsers": [{"name": "alice", "passwordKey": "alice"}], "initialUsersSecret": "people"},
    )
    release = Release(node, namespace, "team", values, helm="helm3")
    release.install()
    return release


def test_sidecar_signs_in_with_the_generated_password(team):
    assert team.search().status_code == 401
    assert team.search("not the password").status_code == 401
    assert team.search(team.password()).status_code == 200
    assert team.search("the-password-of-alice", user="alice").status_code == 200
    [pod] = team.pods()
    with pytest.raises(OSError):
        socket.create_connection((pod["status"]["podIP"], 5000), timeout=5).close()


def test_sidecar_passes_helm_test(team):
    team.helm("test", "--timeout", "3m")


def test_sidecar_starts_mlflow_first_and_keeps_everything_over_a_restart(team):
    run_id, password = log_a_run(team, "kept"), team.password()
    before = team.pods()[0]["metadata"]["uid"]
    [sidecar] = team.pods()[0]["status"]["initContainerStatuses"]
    [proxy] = team.pods()[0]["status"]["containerStatuses"]
    assert sidecar["started"] and sidecar["state"]["running"]["startedAt"] <= proxy["state"]["running"]["startedAt"]
    team.kubectl("delete", "pod", f"{team.name}-0", "--timeout=90s")
    wait_until(lambda: [pod["metadata"]["uid"] for pod in team.pods()] not in ([], [before]), 60, "another pod")
    team.kubectl("wait", "pod", f"{team.name}-0", "--for=condition=Ready", "--timeout=240s")
    assert team.password() == password
    the_run_is_there(team, run_id)


def test_sidecar_backs_its_store_up(team):
    for number in range(3):
        team.kubectl("create", "job", f"backup-{number}", f"--from=cronjob/{team.name}-backup")
        team.kubectl("wait", f"job/backup-{number}", "--for=condition=Complete", "--timeout=120s")
    [claim] = [one for one in team.node.get("persistentvolumeclaims", "--namespace", team.namespace)["items"] if one["metadata"]["name"].endswith("-backup")]
    folder = team.node.folder / "volumes" / claim["spec"]["volumeName"].removeprefix("volume-")
    assert len(list(folder.glob("store-*.db"))) == 2, list(folder.iterdir())


def test_sidecar_survives_scaling_by_hand(team):
    """Pods that were added have an empty store of their own, and must not answer."""
    team.node.volume(2)
    team.kubectl("scale", "statefulset", team.name, "--replicas=2")
    team.kubectl("wait", "pod", f"{team.name}-1", "--for=condition=Ready", "--timeout=300s")
    password = team.password()
    experiments = {one["name"] for one in team.search(password).json()["experiments"]}
    assert "kept" in experiments
    for _ in range(30):
        assert {one["name"] for one in team.search(password).json()["experiments"]} == experiments
    team.kubectl("scale", "statefulset", team.name, "--replicas=1")
    team.kubectl("wait", "pod", f"{team.name}-1", "--for=delete", "--timeout=120s")


def test_sidecar_is_upgraded_while_a_patient_client_works(team, tmp_path):
    password = team.password()
    with Load(team, tmp_path, patient=True) as load:
        # As on a cluster without native sidecars.
        team.upgrade({"mlflow": {"nativeSidecar": False}, "config": {"log": {"level": "debug"}}})
    assert len(team.pods()[0]["spec"]["containers"]) == 2
    assert team.password() == password
    assert load.result["lost"] == [], load.result
    assert load.result["lacking"] == [], load.result


def test_sidecar_leaves_no_secret_behind_and_is_installed_again_on_its_volumes(team):
    password = team.password()
    team.helm("uninstall", "--wait")
    wait_until(lambda: not team.pods(), 120, "all pods are gone")
    assert [one["metadata"]["name"] for one in team.node.get("secrets", "--namespace", team.namespace)["items"]] == ["people"]
    kept = {one["metadata"]["name"] for one in team.node.get("persistentvolumeclaims", "--namespace", team.namespace)["items"]}
    assert {f"data-{team.name}-0", f"mlflow-{team.name}-0", f"{team.name}-backup"} <= kept
    team.install()
    # The store is the old one, so the password is as well.
    assert team.search(team.password()).status_code == 401
    assert "kept" in {one["name"] for one in team.search(password).json()["experiments"]}
    team.helm("uninstall", "--wait")


# ---- Gateway mode: two proxies on PostgreSQL

@pytest.fixture(scope="module")
def gateway(node, postgres):
    namespace = node.namespace("company")
    node.volume(1)
    secret = {"apiVersion": "v1", "kind": "Secret"}
    node.apply(
        namespace,
        {**secret, "metadata": {"name": "store"}, "stringData": {"password": "the-password-of-proxy"}},
        {**secret, "metadata": {"name": "backend"}, "stringData": {"password": "the-password-of-mlflow"}},
        {**secret, "metadata": {"name": "people"}, "stringData": {"alice": "the-password-of-alice"}},
    )
    values = merged(common("10.96.0.60", "10.96.0.61", "company"), {
        "store": {"url": f"postgres://proxy@{postgres}/proxy?sslmode=disable", "passwordSecret": {"name": "store"}},
        "secrets": {"keep": True},
        "initialUsers": [{"name": "alice", "passwordKey": "alice"}],
        "initialUsersSecret": "people",
        "policy": '[[grants]]\nto = { user = "alice" }\non = { experiment = "shared" }\npermission = "READ"\n',
        "mlflow": {
            "backendStore": {"uri": f"postgresql+psycopg2://mlflow@{postgres}/mlflow", "passwordSecret": {"name": "backend"}},
            "service": {"clusterIP": "10.96.0.61"},
        },
    })
    release = Release(node, namespace, "company", values)
    release.install()
    return release


def test_gateway_signs_in_and_logs(gateway):
    assert len(gateway.names()) == 2
    assert gateway.search().status_code == 401
    the_run_is_there(gateway, log_a_run(gateway, "shared"))
    gateway.helm("test", "--timeout", "3m")


def test_gateway_creates_the_initial_users(gateway):
    log_a_run(gateway, "secret")
    seen = gateway.search("the-password-of-alice", user="alice")
    assert [one["name"] for one in seen.json()["experiments"]] == ["shared"]


def test_gateway_is_upgraded_without_a_failed_request(gateway, tmp_path):
    before, password = gateway.names(), gateway.password()
    with Load(gateway, tmp_path) as load:
        gateway.upgrade({"config": {"log": {"level": "debug"}}})
    assert not set(before) & set(gateway.names())
    assert gateway.password() == password
    assert load.result["lost"] == [], load.result
    assert load.result["lacking"] == [], load.result


def test_gateway_loses_no_request_when_a_pod_is_deleted(gateway, tmp_path):
    with Load(gateway, tmp_path) as load:
        for name in gateway.names():
            gateway.kubectl("delete", "pod", name, "--timeout=90s")
            gateway.kubectl("rollout", "status", f"deployment/{gateway.name}", "--timeout=120s")
    assert load.result["lost"] == [], load.result
    assert load.result["lacking"] == [], load.result


def test_gateway_answers_while_mlflow_restarts(gateway, tmp_path):
    with Load(gateway, tmp_path, patient=True) as load:
        gateway.kubectl("delete", "pod", *gateway.names("mlflow"), "--timeout=90s")
        gateway.kubectl("rollout", "status", f"statefulset/{gateway.name}-mlflow", "--timeout=240s")
    assert load.result["lost"] == [], load.result
    assert load.result["lacking"] == [], load.result


def test_gateway_never_gives_both_pods_to_a_drain(gateway):
    first, second = gateway.names()

    def evict(pod):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": gateway.namespace}}
        path = f"/api/v1/namespaces/{gateway.namespace}/pods/{pod}/eviction"
        return gateway.node.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body), check=False)

    assert evict(first).returncode == 0
    assert "disruption budget" in evict(second).stderr
    gateway.kubectl("rollout", "status", f"deployment/{gateway.name}", "--timeout=120s")


def test_gateway_refuses_a_wrong_configuration_before_it_replaces_a_pod(gateway, tmp_path):
    """Valid for the schema, not for the proxy: the Job before the upgrade says so."""
    before = gateway.names()
    with Load(gateway, tmp_path) as load:
        result = gateway.upgrade({"config": {"server": {"max_head_bytes": 1}}}, timeout="2m", check=False)
    assert result.returncode != 0
    assert gateway.names() == before
    assert load.result["lost"] == [], load.result
    # The Job that failed stays, with its log.
    log = gateway.kubectl("logs", f"job/{gateway.name}-upgrade").stdout
    assert "server.max_head_bytes" in log, log


def test_gateway_serves_on_while_an_upgrade_is_stuck_and_rolled_back(gateway, tmp_path):
    """A Secret that is not there: the new pod never starts, the old ones stay."""
    before = gateway.names()
    with Load(gateway, tmp_path) as load:
        result = gateway.upgrade({"secrets": {"more": ["not-there"]}, "migration": {"enabled": False}}, timeout="20s", check=False)
        assert result.returncode != 0
        assert set(before) <= set(gateway.names())
        warnings = gateway.kubectl("get", "events", "--field-selector=type=Warning").stdout
        assert "not-there" in warnings
        # Without a revision, Helm takes the one before, which failed as well.
        history = json.loads(gateway.helm("history", "--output", "json").stdout)
        good = max(one["revision"] for one in history if one["status"] in ("deployed", "superseded"))
        gateway.helm("rollback", str(good), "--wait", "--timeout", "5m")
    assert set(gateway.names()) & set(before)
    assert load.result["lost"] == [], load.result


def test_gateway_takes_a_new_policy_without_a_restart(gateway):
    # Whatever the tests before have changed.
    gateway.upgrade()
    before = gateway.names()
    gateway.upgrade({"policy": gateway.values["policy"].replace('"shared"', '"*"')})
    seen = lambda: {one["name"] for one in gateway.search("the-password-of-alice", user="alice").json()["experiments"]}  # noqa: E731
    wait_until(lambda: {"shared", "secret"} <= seen(), 120, "the policy is in force")
    assert gateway.names() == before


def test_gateway_is_upgraded_after_scaling_by_hand(gateway):
    gateway.kubectl("scale", f"deployment/{gateway.name}", "--replicas=3")
    gateway.kubectl("rollout", "status", f"deployment/{gateway.name}", "--timeout=120s")
    assert len(gateway.names()) == 3
    assert gateway.search(gateway.password()).status_code == 200
    # Helm 4 leaves what others have set to them.
    result = gateway.upgrade(check=False)
    assert "conflict" in result.stderr, result.stderr
    gateway.helm("upgrade", CHART, "--wait", "--timeout", "5m", "--force-conflicts", values=gateway.values)
    wait_until(lambda: len(gateway.names()) == 2, 120, "the number of the values")


def certificate(folder, name):
    """A Secret with a new certificate, and its serial number."""
    key, cert = folder / f"{name}.key", folder / f"{name}.crt"
    done = run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-keyout", key, "-out", cert,
    )
    assert done.returncode == 0, done.stderr
    serial = run("openssl", "x509", "-noout", "-serial", "-in", cert).stdout
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "tls"}}
    return {**secret, "stringData": {"tls.crt": cert.read_text(), "tls.key": key.read_text()}}, serial


def test_gateway_serves_a_renewed_certificate_without_a_restart(gateway, tmp_path):
    def served():
        port = gateway.url.rsplit(":", 1)[1]
        shown = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", input="").stdout
        return run("openssl", "x509", "-noout", "-serial", input=shown).stdout

    secret, serial = certificate(tmp_path, "first")
    gateway.node.apply(gateway.namespace, secret)
    gateway.upgrade({"tls": {"secretName": "tls"}})
    assert served() == serial
    before = gateway.names()
    secret, serial = certificate(tmp_path, "second")
    gateway.node.apply(gateway.namespace, secret)
    wait_until(lambda: {served() for _ in range(6)} == {serial}, 180, "both pods serve the renewed certificate")
    assert gateway.names() == before
    gateway.helm("test", "--timeout", "3m")


def test_gateway_leaves_the_secret_that_was_to_be_kept(gateway):
    gateway.helm("uninstall", "--wait")
    wait_until(lambda: not gateway.pods(), 120, "all pods are gone")
    left = {one["metadata"]["name"] for one in gateway.node.get("secrets", "--namespace", gateway.namespace)["items"]}
    assert left == {gateway.name, "store", "backend", "people", "tls"}


# ---- The plain manifests

@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_applied_and_serves(node, postgres, overlay, tmp_path):
    """With an overlay on top that has images and addresses of this machine."""
    namespace = node.namespace(f"plain-{overlay}")
    node.volume(2)
    secrets = list(yaml.safe_load_all((PLAIN / "secret.example.yaml").read_text()))
    secrets[0]["stringData"]["session-keys"] = "k1:" + base64.b64encode(os.urandom(32)).decode()
    secrets[1]["stringData"]["password"], secrets[2]["stringData"]["password"] = "the-password-of-proxy", "the-password-of-mlflow"
    node.apply(namespace, *secrets)
    addresses = f"""
- {{op: replace, path: /spec/template/spec/containers/0/env/2/value, value: "postgres://proxy@{postgres}/plain?sslmode=disable"}}
- {{op: add, path: /spec/template/spec/hostAliases, value: [{{ip: 10.96.0.71, hostnames: [mlflow-auth-proxy-mlflow]}}]}}
"""
    mlflow_addresses = f"""
- {{op: replace, path: /spec/template/spec/containers/0/env/1/value, value: "postgresql+psycopg2://mlflow@{postgres}/mlflow"}}
"""
    patches = [
        {"patch": addresses, "target": {"kind": "Deployment", "name": "^mlflow-auth-proxy$"}},
        {"patch": mlflow_addresses, "target": {"kind": "Deployment", "name": "mlflow-auth-proxy-mlflow"}},
        {"patch": "- {op: add, path: /spec/clusterIP, value: 10.96.0.71}", "target": {"kind": "Service", "name": "mlflow-auth-proxy-mlflow"}},
    ]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": namespace,
        "resources": [os.path.relpath(PLAIN / "overlays" / overlay, tmp_path)],
        "images": [
            {"name": own, "newName": given.rsplit(":", 1)[0], "newTag": given.rsplit(":", 1)[1]}
            for own, given in (("mlflow-auth-proxy", PROXY_IMAGE), ("ghcr.io/mlflow/mlflow", MLFLOW_IMAGE))
        ],
        "patches": patches if overlay == "gateway" else [],
    }))
    applied = node.kubectl("apply", "-k", tmp_path)
    assert "would violate" not in applied.stderr
    kind = "deployment" if overlay == "gateway" else "statefulset"
    node.kubectl("rollout", "status", f"{kind}/mlflow-auth-proxy", "--namespace", namespace, "--timeout=300s")
    port = free_port()
    forward = subprocess.Popen(
        [TOOLS / "kubectl", "port-forward", "service/mlflow-auth-proxy", f"{port}:80", "--namespace", namespace], env=node.environment
    )
    try:
        def answer():
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(
                    f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", params={"max_results": 1},
                    headers={"Host": "mlflow.example.com"}, auth=("admin", secrets[0]["stringData"]["admin-password"]), timeout=30,
                )
            return None

        assert wait_until(answer, 30, "the forwarded port").status_code == 200
    finally:
        forward.terminate()
        forward.wait()
