"""Alerts, recording rules and the dashboard: they name what a running proxy exposes, and Prometheus accepts them."""

import itertools
import json
import re
import subprocess
import time

import pytest
import requests
import yaml

from balancers import program
from harness import ROOT, Process, Proxy, Tls, free_port, plain_environment, wait_until
from keycloak import EXAMPLE
from monitoring import PREFIX, TARGET, described, faults

RULES = ROOT / "deploy/prometheus/rules.yaml"
TESTS = ROOT / "deploy/prometheus/rules.test.yaml"
DASHBOARD = ROOT / "deploy/grafana/mlflow-auth-proxy.json"


@pytest.fixture(scope="module")
def complete(mlflow_server, tmp_path_factory):
    """A proxy that has everything metrics are about: TLS, a policy file, and a provider that does not answer."""
    folder = tmp_path_factory.mktemp("complete")
    provider = {"ISSUER": "http://127.0.0.1:9/realms/none", "CLIENT_ID": "mlflow", "CLIENT_SECRET": "a-secret-of-nobody"}
    proxy = Proxy(folder, mlflow_server.url, tls=Tls.make(folder), settings={
        "AUTHZ__POLICY_FILE": str(EXAMPLE / "policy.toml"),
        **{f"OIDC__PROVIDERS__KEYCLOAK__{key}": value for key, value in provider.items()},
    })
    try:
        yield proxy.start()
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def rules():
    return list(itertools.chain.from_iterable(group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"]))


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text())


def samples(text):
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M):
        yield name, dict(re.findall(r'(\w+)="([^"]*)"', labels))


def recorded(rules):
    """The series that the recording rules make, with the labels that they keep."""
    return {rule["record"]: dict.fromkeys(TARGET | {"status", "kind"}) for rule in rules if "record" in rule}


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def queries(dashboard):
    """The panels' expressions as Grafana sends them when everything is selected."""
    for name, expression in expressions(dashboard):
        yield name, re.sub(r"\$(namespace|job|instance)", ".*", expression).replace("$__rate_interval", "1m")


# ---- what is exposed


def test_the_running_proxy_exposes_what_the_table_lists(complete, alice, proxy):
    alice.get("/api/2.0/mlflow/users/current")
    complete.anonymous().get("/nowhere")
    known = described()
    seen = {}
    for name, labels in itertools.chain(samples(complete.probe("/metrics").text), samples(proxy.probe("/metrics").text)):
        assert labels.keys() == known[name].keys(), name
        for label, value in labels.items():
            assert known[name][label] is None or value in known[name][label], f"{name}: {label}={value}"
            seen.setdefault(name, {}).setdefault(label, set()).add(value)
        seen.setdefault(name, {})
    for name, labels in known.items():
        for label, values in labels.items():
            assert not values or seen[name][label] == values, f"{name}: {label}"
    silent = known.keys() - seen.keys() - {"up", "ALERTS"}
    # These need an event that did not happen here, or PostgreSQL. Their labels are those that the program registers.
    assert silent <= {PREFIX + name for name in (
        "denials_total", "directory_syncs_total", "edge_refusals_total", "logins_total", "store_listening", "unknown_fields_total",
    )}, silent


def test_the_metrics_follow_prometheus_conventions(complete):
    # It wants `_total` and base units; the exceptions are names that say `bytes` or `seconds` already.
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=complete.probe("/metrics").text, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr


# ---- what is named


def test_rules_name_what_exists(rules):
    known = described() | recorded(rules)
    assert [(rule.get("alert"), fault) for rule in rules for fault in faults(rule["expr"], known)] == []
    # The test notices what it looks for.
    assert faults('rate(mlflow_auth_proxy_request_total[5m]) / sum by (user) (up{users="x"})', known) == [
        "metric mlflow_auth_proxy_request_total", "label users of up", "label user"]
    assert faults('mlflow_auth_proxy_session_refreshes_total{outcome=~"kept|lots"}', known) == [
        "outcome=lots of mlflow_auth_proxy_session_refreshes_total"]


def test_labels_in_texts_of_alerts_exist(rules):
    known = described()
    for rule in rules:
        labels = set(itertools.chain.from_iterable(
            known[name] for name in re.findall(rf"{PREFIX}\w+", rule["expr"]) if name in known))
        for label in re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))):
            assert label in TARGET | labels, f"{rule['alert']}: {label}"


def test_panels_name_what_exists_and_show_everything(dashboard):
    known = described()
    assert [(name, fault) for name, expression in expressions(dashboard) for fault in faults(expression, known)] == []
    text = " ".join(expression for _, expression in expressions(dashboard))
    shown = set(re.findall(rf"{PREFIX}\w+", text))
    missing = {name for name in known if name.startswith(PREFIX)} - shown
    assert missing == set()
    for name, expression in expressions(dashboard):
        for selector in re.findall(r"\b(?:mlflow_auth_proxy_\w+|process_\w+|up)\b(\{[^}]*\})?", expression):
            assert all(f'{label}=~"${label}"' in selector for label in ("namespace", "job", "instance")), name


def test_documents_name_metrics_that_exist():
    known = described() | {PREFIX + "request_duration_seconds": {}}
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]:
        text = document.read_text()
        if document.name == "CHANGELOG.md":
            text = text.split("\n## [", 2)[1]
        names = set(re.findall(rf"\b({PREFIX}\w+?)\b(?![*.]\w)", text))
        names |= {PREFIX + name for name in re.findall(r"`([a-z_]+_total)\b", text) if not name.startswith((PREFIX, "process_"))}
        names = {name for name in names if not name.endswith("_")}
        assert names <= known.keys(), f"{document.name}: {names - known.keys()}"
    table = (ROOT / "docs/monitoring.md").read_text().split("## Metrics")[1].split("## Logs")[0]
    for row in re.findall(r"^\| (`.*?) \|", table, re.M):
        for name in re.findall(r"`(\w+)`", row):
            assert PREFIX + name in known, name


# ---- the dashboard


def test_the_dashboard_is_well_formed(dashboard):
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        mine = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not mine & cells, panel["title"]
        cells |= mine
        if panel["type"] != "row":
            assert all(target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for target in panel["targets"])
            assert [target["refId"] for target in panel["targets"]] == [chr(65 + i) for i in range(len(panel["targets"]))]
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    assert all(variables[name]["allValue"] == ".*" for name in ("namespace", "job", "instance"))
    assert dashboard.get("id") is None and "__inputs" not in dashboard, "an export that asks questions cannot be provisioned"


# ---- the alerts


def test_each_alert_has_a_runbook_and_each_runbook_an_alert(rules):
    text = (ROOT / "docs/runbooks.md").read_text().split("## Alerts\n")[1].split("\n## ")[0]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", text, re.M | re.S))
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert sections.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        parts = re.findall(r"^\*\*(.*?)\*\*", sections[name], re.M)
        assert parts == ["Meaning.", "Look at.", "Do.", "Over when."], name


def test_each_alert_is_tested_before_during_and_after(rules):
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    known = described() | recorded(rules)
    states = {}
    for test in tests:
        for series in test["input_series"]:
            assert faults(series["series"], known) == [], test["name"]
        for case in test.get("alert_rule_test", []):
            states.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert states == {alert: [False, True, False] for alert in alerts}
    tested = {case["expr"] for test in tests for case in test.get("promql_expr_test", [])}
    slow = "mlflow_auth_proxy:request_duration_seconds:p99_5m"  # by the alert on it
    assert tested | {slow} == {rule["record"] for rule in rules if "record" in rule}


def test_the_alerts_fire_when_they_should():
    done = subprocess.run([program("promtool"), "test", "rules", TESTS], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Prometheus itself


class Prometheus:
    """The real server, scraping these proxies every second."""

    def __init__(self, folder, proxies):
        self.url = f"http://127.0.0.1:{free_port()}"
        (folder / "prometheus.yml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{
                "job_name": "mlflow-auth-proxy",
                "static_configs": [{"targets": [f"127.0.0.1:{proxy.admin_port}" for proxy in proxies]}],
            }],
        }))
        argv = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        argv.append(f"--web.listen-address={self.url.removeprefix('http://')}")
        self.process = Process(argv, folder / "prometheus.log", plain_environment(), folder)

    def ask(self, path, **parameters):
        self.process.check_alive()
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        return body["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def is_up(self):
        self.process.check_alive()
        try:
            return requests.get(f"{self.url}/-/ready", timeout=1).ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def prometheus(complete, proxy, tmp_path_factory):
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), [complete, proxy])
    try:
        wait_until(server.is_up, 60, "Prometheus is ready")
        # `rate()` needs two scrapes of each.
        wait_until(lambda: [int(one["value"][1]) >= 3 for one in server.query("count_over_time(up[1m])")] == [True, True], 60, "scraped")
        yield server
    finally:
        server.process.stop()


def test_prometheus_evaluates_the_rules_on_running_proxies(prometheus):
    def evaluated():
        groups = prometheus.ask("rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = wait_until(evaluated, 60, "all rules were evaluated")
    assert [rule["name"] for rule in found if rule["health"] != "ok"] == []
    firing = {rule["name"] for rule in found if rule.get("state") == "firing"}
    assert firing == set(), "nothing is wrong for as long as an alert waits"
    pending = {rule["name"] for rule in found if rule.get("state") == "pending"}
    # Of the proxy whose provider does not answer; its certificate is for two days.
    assert pending >= {"MlflowAuthProxyIdentityProviderKeys", "MlflowAuthProxyCertificateExpires"}
    assert not pending & {"MlflowAuthProxyDown", "MlflowAuthProxyAbsent", "MlflowUnreachable", "MlflowAuthProxyStoreUnreachable"}


def test_prometheus_answers_every_panel(prometheus, dashboard):
    exposed = set(prometheus.ask("label/__name__/values"))
    empty = []
    for name, expression in queries(dashboard):
        result = prometheus.query(expression)
        if not result and set(re.findall(rf"{PREFIX}\w+", expression)) <= exposed:
            empty.append(name)
    assert empty == []
