"""The chart: linted, rendered, validated against the API's own schema, and what it refuses. Needs no cluster."""

import difflib
import os
import subprocess
from pathlib import Path

import pytest
import yaml

import generator
from chart import CHART, HELMS, HERE, ROOT, SETS, TOOLS, documents, fixed, kubeconform, rendered, run, template

GOLDEN = HERE / "golden"


@pytest.mark.parametrize("helm", HELMS)
def test_the_chart_has_no_lint(helm):
    for name, values in SETS.items():
        result = run(TOOLS / helm, "lint", "--strict", CHART, "--values", values)
        assert result.returncode == 0, f"{name}: {result.stdout}"


@pytest.mark.parametrize("name", SETS)
def test_the_rendering_is_the_reviewed_one(name):
    """UPDATE_GOLDEN=1 writes the files anew. Read the difference before you commit it."""
    golden = GOLDEN / f"{name}.yaml"
    text = fixed(rendered(SETS[name]))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    expected = golden.read_text().splitlines()
    difference = list(difflib.unified_diff(expected, text.splitlines(), "golden", "rendered", lineterm="", n=2))
    assert not difference, "\n".join(difference[:80])
    assert fixed(rendered(SETS[name], "helm3")) == text, "Helm 3 and Helm 4 differ"


def test_every_golden_file_has_values():
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_the_api_knows_every_field(name):
    assert not kubeconform(template(SETS[name]).stdout)


def test_kubeconform_finds_mistakes():
    """Otherwise the test above would pass for any manifest."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [], "hostNetwrk": True}}
    assert "hostNetwrk" in str(kubeconform(yaml.safe_dump(pod)))


REFUSED = {
    "SQLite with three replicas": ({"replicas": 3}, "The embedded store (SQLite) is for one proxy: set replicas to 1, or set store.url"),
    "SQLite with autoscaling": ({"autoscaling": {"enabled": True}}, "The embedded store (SQLite) is for one proxy: set autoscaling.enabled to false"),
    "MLflow's files in three pods": (
        {"mode": "sidecar", "replicas": 3, "store": {"url": "postgres://u@h/d?sslmode=require", "passwordSecret": {"name": "s"}}},
        "MLflow's files on a volume are for one pod: set replicas to 1, or set mlflow.backendStore.uri",
    ),
    "MLflow's files and two servers": ({"mlflow": {"replicas": 2}}, "MLflow's files on a volume are for one server"),
    "a store without password": ({"store": {"url": "postgres://u@h/d?sslmode=require"}}, "store.url requires store.passwordSecret.name"),
    "a password without store": ({"store": {"passwordSecret": {"name": "s"}}}, "belong to PostgreSQL: set store.url, or remove them"),
    "a password in the store's URL": ({"store": {"url": "postgres://u:secret@h/d"}}, "store/url"),
    "a password in MLflow's URI": ({"mlflow": {"backendStore": {"uri": "postgresql+psycopg2://u:p@h/d"}}}, "contains a password"),
    "the driver of psycopg 3": ({"mlflow": {"backendStore": {"uri": "postgresql://u@h/d"}}}, "write postgresql+psycopg2://"),
    "a sidecar with an address": ({"mode": "sidecar", "mlflow": {"url": "http://mlflow:5000"}}, "remove mlflow.url, or set mode to gateway"),
    "a sidecar with servers": ({"mode": "sidecar", "mlflow": {"replicas": 2}}, "set replicas instead of mlflow.replicas"),
    "an unknown mode": ({"mode": "proxy"}, "mode"),
    "an Ingress without host": ({"ingress": {"enabled": True}}, "require publicUrl"),
    "a provider without address": ({"config": {"oidc": {"providers": {"k": {"issuer": "https://k"}}}}}, "require publicUrl"),
    "a public URL with a path": ({"publicUrl": "https://example.com/mlflow"}, "publicUrl"),
    "a route without gateway": ({"publicUrl": "https://m.example.com", "httpRoute": {"enabled": True}}, "requires httpRoute.parentRefs"),
    "a budget with two limits": ({"podDisruptionBudget": {"minAvailable": 1}}, "set the other one to null"),
    "two monitors": ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "count each proxy twice"),
    "users without passwords": ({"initialUsers": [{"name": "a", "passwordKey": "a"}]}, "requires initialUsersSecret"),
    "a user's name that a shell would read": ({"initialUsers": [{"name": "a'b", "passwordKey": "a"}], "initialUsersSecret": "s"}, "name"),
    "a key that the chart sets": ({"config": {"server": {"listen": "0.0.0.0:80"}}}, "config.server.listen is set by the chart: use bindAddress."),
    "a password in the ConfigMap": ({"config": {"bootstrap": {"admin_password": "x"}}}, "use secrets.existingSecret with the key admin-password"),
    "a client secret in the ConfigMap": (
        {"publicUrl": "https://m.example.com", "config": {"oidc": {"providers": {"k": {"client_secret": "x"}}}}},
        "put it into a Secret, list that in secrets.more, and set client_secret_file",
    ),
    "a misspelt value": ({"replica": 2}, "replica"),
    "a misspelt key of the configuration": ({"config": {"server": {"maximum_connections": 1}}}, "maximum_connections"),
    "a key with the wrong type": ({"config": {"server": {"max_connections": "many"}}}, "max_connections"),
    "replicas and autoscaling": (
        {"replicas": 2, "autoscaling": {"enabled": True}, "store": {"url": "postgres://u@h/d", "passwordSecret": {"name": "s"}}},
        "Either autoscaling.enabled or replicas",
    ),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused_with_a_sentence(name, helm, tmp_path):
    values, sentence = REFUSED[name]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    result = template(tmp_path / "values.yaml", helm)
    assert result.returncode != 0, result.stdout
    assert sentence.replace("/", ".") in result.stderr.replace("/", "."), result.stderr


def test_generated_files_are_up_to_date():
    """`tests/kubernetes/generator.py` writes them."""
    for path, content in generator.generated().items():
        assert path.read_text() == content, f"{path} is old: run tests/kubernetes/generator.py"


def pods(manifests):
    """Yields the name and the specification of each pod that the manifests make."""
    for manifest in manifests:
        name, spec = f"{manifest['kind']}/{manifest['metadata']['name']}", manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if manifest["kind"] == "Pod":
            yield name, spec
        elif "template" in spec:
            yield name, spec["template"]["spec"]


@pytest.mark.parametrize("name", SETS)
def test_secrets_are_files_and_whole(name):
    """No environment variable has one, except MLflow's password of its database; no subPath keeps an old one."""
    manifests = rendered(SETS[name])
    for pod, spec in pods(manifests):
        for container in spec.get("initContainers", []) + spec["containers"]:
            for variable in container.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert (container["name"], variable["name"]) == ("mlflow", "PGPASSWORD"), pod
            for mount in container.get("volumeMounts", []):
                assert "subPath" not in mount, pod


@pytest.mark.parametrize("name", SETS)
def test_a_pod_has_time_to_drain(name):
    manifests = rendered(SETS[name])
    [proxy] = [one for one in manifests if one["kind"] in ("Deployment", "StatefulSet") and not one["metadata"]["name"].endswith("-mlflow")]
    server = (yaml.safe_load(SETS[name].read_text()).get("config") or {}).get("server", {})
    drain = server.get("drain_delay_seconds", 5) + server.get("drain_timeout_seconds", 30)
    assert proxy["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain


def test_the_configuration_is_valid_for_the_proxy(tmp_path):
    """The proxy itself reads what the chart writes, with secrets in place."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("MLFLOW_AUTH_PROXY_BINARY") or target / "debug/mlflow-auth-proxy"
    secrets, etc = tmp_path / "secrets", tmp_path / "etc"
    for folder in (secrets, etc):
        folder.mkdir()
    (secrets / "admin-password").write_text("a long passphrase")
    (secrets / "session-keys").write_text("k1:" + "A" * 43 + "=")
    (secrets / "client-secret").write_text("secret")
    (secrets / "keycloak-client-secret").write_text("secret")
    (secrets / "store-password").write_text("secret")
    for name, values in SETS.items():
        maps = [one for one in rendered(values) if one["kind"] == "ConfigMap"]
        for file, text in [item for one in maps for item in (one.get("data") or {}).items() if item[0].endswith(".toml")]:
            text = text.replace("/run/secrets/mlflow-auth-proxy", str(secrets)).replace("/etc/mlflow-auth-proxy", str(etc))
            # The certificate is the business of the test on a node.
            (etc / file).write_text(text.replace('[server.tls]\ncert = "/run/tls/tls.crt"\nkey = "/run/tls/tls.key"', "[server.tls]"))
        more = ["--set", "server.allow_plain_http=true", "--set", "server.listen=0.0.0.0:8080"]
        # Files of authorities that only the cluster has.
        url = (yaml.safe_load(values.read_text()).get("store") or {}).get("url", "sqlite:///data/store.db").split("&sslrootcert")[0]
        result = subprocess.run([binary, "--config", etc / "proxy.toml", "--store", url, *more, "check-config"], env={}, capture_output=True, text=True)
        assert result.returncode == 0, f"{name}: {result.stderr}"


def test_the_package_is_whole(tmp_path):
    for helm in HELMS:
        folder = tmp_path / helm
        result = run(TOOLS / helm, "package", CHART, "--destination", folder)
        assert result.returncode == 0, result.stderr
        [package] = folder.glob("*.tgz")
        files = run("tar", "tzf", package).stdout
        for file in ("values.schema.json", "README.md", "files/rules.yaml", "values-eks.yaml", "templates/proxy.yaml"):
            assert f"mlflow-auth-proxy/{file}" in files, file
        assert documents(run(TOOLS / helm, "template", "r", package).stdout)
