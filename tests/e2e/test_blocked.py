"""What nobody may use, what only administrators may, and what everybody may see without signing in."""

import re

import pytest

from harness import Proxy, new_password, unique

API2, API3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
AJAX2, AJAX3 = "/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow"
ASSISTANT = f"{AJAX3}/assistant"

# method, path, body; what it belongs to.
BLOCKED = [
    ("POST", f"{AJAX3}/demo/generate", {}, "demo"),
    ("POST", f"{AJAX3}/demo/delete", {}, "demo"),
    ("POST", f"{AJAX2}/gateway-proxy", {"gateway_path": "gateway/x/invocations", "json_data": {}}, "gateway-proxy"),
    ("POST", "/ajax-api/3.0/jobs/", {"job_name": "invoke_scorer", "params": {}}, "job-submission"),
    ("POST", "/ajax-api/3.0/jobs", {"job_name": "invoke_scorer", "params": {}}, "job-submission"),
    ("GET", "/metrics", None, "upstream-metrics"),
    ("POST", f"{ASSISTANT}/message", {"message": "hello"}, "assistant"),
    ("GET", f"{ASSISTANT}/sessions/x/stream", None, "assistant"),
    ("PATCH", f"{ASSISTANT}/sessions/x", {"status": "cancelled"}, "assistant"),
    ("POST", f"{ASSISTANT}/sessions/x/permission", {}, "assistant"),
    ("POST", f"{ASSISTANT}/sessions/x/tool-result", {}, "assistant"),
    ("GET", f"{ASSISTANT}/providers/x/health", None, "assistant"),
    ("GET", f"{ASSISTANT}/providers/x/models", None, "assistant"),
    ("PUT", f"{ASSISTANT}/config", {}, "assistant"),
    ("POST", f"{ASSISTANT}/skills/install", {}, "assistant"),
]

# What MLflow's pages ask without being asked to, and the field that says there is nothing.
SILENT = [
    (f"{ASSISTANT}/config", "providers"),
    (f"{ASSISTANT}/providers", "providers"),
    (f"{AJAX2}/gateway-proxy?gateway_path=api/2.0/endpoints/", "endpoints"),
]

UNKNOWN = [
    ("GET", f"{API3}/talents", None),
    ("POST", f"{API3}/talents", {"name": "s"}),
    ("GET", f"{AJAX3}/talents", None),
    ("GET", f"{API3}/talents/a/b/versions/1", None),
    ("DELETE", f"{API3}/talents/a/b", {}),
    ("GET", f"{API2}/no-such-family/get", None),
    ("POST", "/api/9.9/mlflow/experiments/delete", {"experiment_id": "0"}),
    ("GET", "/docs", None),
    ("GET", "/redoc", None),
    ("GET", "/openapi.json", None),
    ("GET", "/gateway/unknown/v1/models", None),
    ("GET", "/anything", None),
]

every_blocked = pytest.mark.parametrize(("method", "path", "body", "feature"), BLOCKED)
every_unknown = pytest.mark.parametrize(("method", "path", "body"), UNKNOWN)


def check_refused(answer):
    assert answer.status_code == 403, f"{answer.status_code} {answer.text}"
    error = answer.json()
    assert error["error_code"] == "PERMISSION_DENIED"
    assert re.match(r"Permission denied\. \S", error["message"])


def metric(proxy, name):
    """The sum over all labels."""
    lines = [line for line in proxy.probe("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.parametrize(("path", "field"), SILENT)
def test_pages_that_ask_for_what_is_closed_hear_of_nothing(proxy, alice, admin, path, field):
    for person in (alice, admin):
        answer = person.get(path)
        assert answer.status_code == 200 and not answer.json()[field]
    assert proxy.anonymous().get(path).status_code == 401


@every_blocked
def test_what_acts_with_the_servers_rights_is_closed_to_everybody(mlflow_server, proxy, alice, admin, method, path, body, feature):
    before = mlflow_server.state()
    for person in (alice, admin):
        check_refused(person.call(method, path, json=body))
    assert proxy.anonymous().call(method, path, json=body).status_code == 401
    assert mlflow_server.state() == before


@every_unknown
def test_what_the_table_does_not_know_is_closed_to_everybody(mlflow_server, proxy, alice, admin, method, path, body):
    before = mlflow_server.state()
    for person in (alice, admin):
        check_refused(person.call(method, path, json=body))
    assert mlflow_server.state() == before


def test_unknown_paths_are_counted(proxy, alice, admin):
    name = next(line.split()[2] for line in proxy.probe("/metrics").text.splitlines()
                if line.startswith("# HELP") and "unlisted" in line)
    before = metric(proxy, name)
    for person in (alice, admin):
        person.get(f"{API3}/talents")
    assert metric(proxy, name) == before + 2


@pytest.fixture(scope="module")
def opened(mlflow_server, tmp_path_factory):
    """A proxy whose operator opened everything."""
    one = Proxy(tmp_path_factory.mktemp("opened") / "proxy", mlflow_server.url, settings={
        "AUTHZ__OPENED": "assistant,job-submission,demo,gateway-proxy,upstream-metrics",
        "AUTHZ__UNLISTED_ROUTES_FOR_ADMINS": "true",
    }).start()
    yield one
    one.stop()


def harmless(method, path):
    """Of what is blocked, that which a test may call for real."""
    return method == "GET" and "stream" not in path


@pytest.mark.parametrize(("method", "path", "body", "feature"), [row for row in BLOCKED if harmless(*row[:2])])
def test_what_is_opened_is_for_administrators_only(opened, method, path, body, feature):
    check_refused(opened.person().call(method, path, json=body))
    answer = opened.admin().call(method, path, json=body)
    assert answer.status_code != 403, answer.text


def test_nobody_counts_as_local_to_the_assistant(opened):
    """MLflow lets local callers write the assistant's configuration; a caller of the proxy is one that came over the network."""
    answer = opened.admin().call("PUT", f"{ASSISTANT}/config", json={})
    assert answer.status_code in (200, 403), answer.text


def test_opened_unknown_paths_are_for_administrators_only(opened):
    check_refused(opened.person().get(f"{API3}/talents"))
    assert opened.admin().get(f"{API3}/talents").status_code == 404


# ---- administrators' things


WEBHOOK = {"url": "https://127.0.0.1:9/hook", "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}], "status": "DISABLED"}


def test_webhooks_are_administrators_things(alice, admin, proxy, mlflow_server):
    made = admin.ok("POST", f"{API2}/webhooks", WEBHOOK | {"name": unique("hook"), "secret": new_password()})["webhook"]
    one = f"{API2}/webhooks/{made['webhook_id']}"
    before = mlflow_server.state()
    for prefix in (API2, AJAX2):
        path = one.replace(API2, prefix)
        check_refused(alice.post(f"{prefix}/webhooks", WEBHOOK | {"name": unique("hook")}))
        check_refused(alice.get(f"{prefix}/webhooks"))
        check_refused(alice.get(path))
        check_refused(alice.patch(path, {"description": "x"}))
        check_refused(alice.post(f"{path}/test"))
        check_refused(alice.delete(path))
        assert proxy.anonymous().get(path).status_code == 401
    assert mlflow_server.state() == before
    assert made["webhook_id"] in admin.get(f"{API2}/webhooks").text
    admin.ok("GET", one)
    admin.ok("PATCH", one, {"description": "x"})
    admin.ok("DELETE", one, {})


def test_workspaces_are_not_for_ordinary_people(alice, proxy, mlflow_server):
    before = mlflow_server.state()
    for prefix in (API3, AJAX3):
        check_refused(alice.get(f"{prefix}/workspaces"))
        check_refused(alice.post(f"{prefix}/workspaces", {"name": "team"}))
        check_refused(alice.get(f"{prefix}/workspaces/default"))
        check_refused(alice.patch(f"{prefix}/workspaces/default", {"description": "x"}))
        check_refused(alice.delete(f"{prefix}/workspaces/default"))
    assert mlflow_server.state() == before


@pytest.mark.parametrize("value", ["team", "DEFAULT", "default2", "*", "default,team", "..", "a b"])
def test_another_workspace_than_the_default_is_refused(alice, admin, world, value):
    for person in (alice, admin):
        answer = person.get(f"{API2}/experiments/get", {"experiment_id": world.experiment}, headers={"X-MLFLOW-WORKSPACE": value})
        assert answer.status_code == 400, f"{answer.status_code} {answer.text}"
        error = answer.json()
        assert error["error_code"] == "INVALID_PARAMETER_VALUE"
        assert "workspace" in error["message"].lower()


@pytest.mark.parametrize("value", ["default", "default ", ""])
def test_the_default_workspace_may_be_named(alice, world, value):
    headers = {"X-MLFLOW-WORKSPACE": value}
    answer = alice.get(f"{API2}/experiments/get", {"experiment_id": world.experiment}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert alice.get("/api/2.0/mlflow/users/current", headers=headers).status_code == 200


def test_telemetry_of_the_ui_may_be_asked_for_and_not_sent(alice, proxy):
    assert alice.get(f"{AJAX3}/ui-telemetry").status_code == 200
    check_refused(alice.post(f"{AJAX3}/ui-telemetry", {"records": []}))
    assert proxy.anonymous().get(f"{AJAX3}/ui-telemetry").status_code == 401


# ---- jobs: whose they are


def new_job(mlflow_server):
    """As MLflow's own workers leave one; the MLflow of these tests runs none."""
    import secrets
    import sqlite3

    key = secrets.token_hex(16)
    with sqlite3.connect(mlflow_server.database, timeout=10) as database:
        columns = {"id": key, "creation_time": 1, "job_name": "invoke_scorer", "params": "{}", "status": 0,
                   "retry_count": 0, "last_update_time": 1, "workspace": "default"}
        marks = ", ".join("?" * len(columns))
        database.execute(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
    database.close()
    return key


def test_a_job_that_nobody_here_submitted_is_for_administrators(alice, admin, mlflow_server):
    key = new_job(mlflow_server)
    before = mlflow_server.state()
    for method, path in (("GET", f"/ajax-api/3.0/jobs/{key}"), ("GET", f"{AJAX3}/jobs/{key}"),
                         ("PATCH", f"/ajax-api/3.0/jobs/cancel/{key}"), ("PATCH", f"{AJAX3}/jobs/cancel/{key}")):
        hidden = alice.call(method, path)
        check_refused(hidden)
        absent = alice.call(method, path.replace(key, "0" * 32))
        assert (absent.status_code, absent.text.replace("0" * 32, key)) == (hidden.status_code, hidden.text)
    assert mlflow_server.state() == before
    assert alice.ok("POST", "/ajax-api/3.0/jobs/search", {}) == {"jobs": []}
    assert admin.get(f"/ajax-api/3.0/jobs/{key}").status_code == 200
    assert key in [job["job_id"] for job in admin.ok("POST", "/ajax-api/3.0/jobs/search", {})["jobs"]]


# ---- the pages


def test_static_files_need_nobody_to_sign_in(proxy):
    page = proxy.anonymous().get("/static-files/index.html")
    assert page.status_code == 200
    assert "MLflow" in page.text
    script = re.search(r'"(static-files/[^"]+\.js)"', page.text)[1]
    assert proxy.anonymous().get(f"/{script}").status_code == 200
    for path in ("/static-files/nothing.js", "/build/nothing.js", "/favicon.ico"):
        assert proxy.anonymous().get(path).status_code in (200, 404), path


@pytest.mark.parametrize("path", ["/static-files/../api/2.0/mlflow/experiments/search", "/static-files/%2e%2e/version",
                                  "/static-files//version", "/static-files/..%2fversion", "/build/../version"])
def test_nothing_but_files_is_below_static_files(proxy, path):
    answer = proxy.anonymous().get(path)
    assert answer.status_code in (400, 401, 404), f"{answer.status_code} {answer.text}"
    assert "3.17" not in answer.text


def test_the_page_itself_needs_a_sign_in(proxy, alice):
    assert proxy.anonymous().get("/").status_code == 401
    assert alice.get("/").status_code == 200
    assert proxy.anonymous().get("/version").status_code == 401


# ---- the prompt lab and the datasets of runs


def test_a_promptlab_run_is_made_in_the_callers_name(alice, bob, world, mlflow_server):
    from endpoints_gateway import PROMPTLAB

    path, body = f"{AJAX2}/runs/create-promptlab-run", PROMPTLAB | {"experiment_id": world.experiment, "user_id": "somebody-else"}
    before = mlflow_server.state()
    check_refused(bob.post(path, body))
    alice.grant(bob, "experiment", world.experiment, "READ")
    check_refused(bob.post(path, body))
    assert mlflow_server.state() == before
    alice.grant(bob, "experiment", world.experiment, "EDIT")
    run = bob.ok("POST", path, body)["run"]["info"]
    assert run["user_id"] == bob.name
    assert alice.ok("GET", f"{API2}/runs/get", params={"run_id": run["run_id"]})["run"]["info"]["experiment_id"] == world.experiment


def test_datasets_of_several_experiments_need_all_of_them(alice, bob, world):
    from harness import World

    theirs = World.make(bob)
    path = f"{AJAX2}/experiments/search-datasets"
    assert alice.post(path, {"experiment_ids": [world.experiment]}).status_code == 200
    check_refused(alice.post(path, {"experiment_ids": [world.experiment, theirs.experiment]}))
    assert alice.post(path, {"experiment_ids": []}).status_code in (400, 403)
    assert alice.post(path, {}).status_code in (400, 403)
