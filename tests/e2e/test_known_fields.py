"""Only fields that MLflow has reach it: what stands under any other name changes and shows nothing.

Each request is the caller's own but for one more member, whose name begins like the field that is authorised and goes
on after a NUL. MLflow must not see it, in whatever order it comes.
"""

import json

import pytest

from endpoints_gateway import GATEWAY, definition_on, new_secret
from endpoints_genai import V3, new_trace
from harness import World, unique

API = "/api/2.0/mlflow"

pytestmark = pytest.mark.odd_requests


@pytest.fixture
def theirs(world):
    """Another owner's world, with a trace in it."""
    world.names["trace"] = new_trace(world.owner, world.experiment)
    return world


@pytest.fixture
def mallory(proxy):
    """Owner of a world of her own, without any right on the other."""
    mine = World.make(proxy.person("mallory"))
    mine.names["trace"] = new_trace(mine.owner, mine.experiment)
    return mine


def spellings(body, hidden):
    """The body with further members behind and before its own, under names that end at a NUL or go on after it."""
    more = {f"{name}\0": value for name, value in hidden.items()}
    yield body | more
    yield more | body
    yield {f"{name}\0 more": value for name, value in hidden.items()} | body
    yield body | {f"{camel(name)}\0": value for name, value in hidden.items()}
    yield body | {f"{name} ": value for name, value in hidden.items()} | {name.upper(): value for name, value in hidden.items()}


def camel(name):
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def send(owner, method, path, body):
    return owner.call(method, path, data=json.dumps(body), headers={"Content-Type": "application/json"})


READS = [
    ("POST", f"{API}/runs/search", lambda w: {"experiment_ids": [w.experiment]}),
    ("POST", f"{API}/logged-models/search", lambda w: {"experiment_ids": [w.experiment]}),
    ("POST", f"{V3}/traces/search", lambda w: {
        "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": w.experiment}}]}),
    ("POST", f"{V3}/traces/batchGetInfos", lambda w: {"trace_ids": [w.names["trace"]]}),
]


@pytest.mark.parametrize("method, path, body", READS, ids=[path for _, path, _ in READS])
def test_nothing_is_read_by_a_field_after_a_nul(mallory, theirs, method, path, body):
    mine, hidden = body(mallory), body(theirs)
    plain = mallory.owner.ok(method, path, mine)
    for odd in spellings(mine, hidden):
        answer = send(mallory.owner, method, path, odd)
        assert answer.status_code == 200, f"{odd} {answer.text}"
        for word in (theirs.run, theirs.logged_model, theirs.names["trace"], theirs.experiment_name):
            assert word not in answer.text, odd
        assert answer.json().keys() == plain.keys(), odd


def nested(w):
    return {"locations": [{"mlflow_experiment": {"experiment_id\0": w.experiment}}]}


def test_nothing_is_read_by_a_nested_field_after_a_nul(mallory, theirs):
    body = {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {
        "experiment_id": mallory.experiment, "experiment_id\0": theirs.experiment}}]}
    answer = send(mallory.owner, "POST", f"{V3}/traces/search", body)
    assert answer.status_code == 200 and theirs.names["trace"] not in answer.text
    assert mallory.names["trace"] in answer.text
    # Nothing is left to search in.
    assert send(mallory.owner, "POST", f"{V3}/traces/search", nested(theirs)).status_code in (200, 400, 403)


WRITES = [
    ("POST", f"{API}/experiments/update", lambda w: {"experiment_id": w.experiment, "new_name": unique("renamed")}),
    ("POST", f"{API}/experiments/set-experiment-tag", lambda w: {"experiment_id": w.experiment, "key": "k", "value": "v"}),
    ("POST", f"{API}/runs/log-parameter", lambda w: {"run_id": w.run, "key": unique("p"), "value": "v"}),
    ("POST", f"{API}/runs/set-tag", lambda w: {"run_id": w.run, "key": "k", "value": "v"}),
    ("POST", f"{API}/runs/log-batch", lambda w: {"run_id": w.run, "tags": [{"key": "k", "value": "v"}]}),
    ("PATCH", f"{API}/registered-models/update", lambda w: {"name": w.model, "description": "changed"}),
    ("POST", f"{API}/registered-models/set-tag", lambda w: {"name": w.model, "key": "k", "value": "v"}),
    ("POST", f"{API}/experiments/delete", lambda w: {"experiment_id": w.experiment}),
]


@pytest.mark.parametrize("method, path, body", WRITES, ids=[path for _, path, _ in WRITES])
def test_nothing_is_written_by_a_field_after_a_nul(mallory, theirs, method, path, body):
    for odd in spellings(body(mallory), body(theirs)):
        send(mallory.owner, method, path, odd)
    owner = theirs.owner
    kept = owner.ok("GET", f"{API}/experiments/get", params={"experiment_id": theirs.experiment})["experiment"]
    assert (kept["name"], kept["lifecycle_stage"]) == (theirs.experiment_name, "active")
    assert [tag["key"] for tag in kept["tags"]] == ["tag"]
    run = owner.ok("GET", f"{API}/runs/get", params={"run_id": theirs.run})["run"]["data"]
    assert [one["key"] for one in run["params"]] == ["param"]
    assert {one["key"] for one in run["tags"]} <= {"tag", "mlflow.user", "mlflow.runName"}
    model = owner.ok("GET", f"{API}/registered-models/get", params={"name": theirs.model})["registered_model"]
    assert not model.get("description") and [tag["key"] for tag in model["tags"]] == ["tag"]


def test_an_artifact_location_is_not_chosen_by_a_field_after_a_nul(mallory):
    for odd in spellings({}, {"artifact_location": "file:///tmp/elsewhere"}):
        answer = send(mallory.owner, "POST", f"{API}/experiments/create", {"name": unique("located")} | odd)
        assert answer.status_code == 200, answer.text
        key = answer.json()["experiment_id"]
        made = mallory.owner.ok("GET", f"{API}/experiments/get", params={"experiment_id": key})["experiment"]
        assert made["artifact_location"].startswith("mlflow-artifacts:/"), odd


def test_an_author_is_not_forged_by_a_field_after_a_nul(mallory, theirs):
    for odd in spellings({"experiment_id": mallory.experiment}, {"user_id": theirs.owner.name}):
        answer = send(mallory.owner, "POST", f"{API}/runs/create", odd)
        assert answer.status_code == 200, answer.text
        assert theirs.owner.name not in answer.text, odd


def test_a_secret_is_not_taken_by_a_field_after_a_nul(mallory, theirs):
    secret = new_secret(theirs.owner)
    mine = definition_on(new_secret(mallory.owner))
    for odd in spellings(mine, {"secret_id": secret}):
        answer = send(mallory.owner, "POST", f"{GATEWAY}/model-definitions/create", odd | {"name": unique("definition")})
        assert secret not in answer.text, odd


def test_a_span_does_not_enter_another_trace_by_a_member_after_a_nul(mallory, theirs):
    mine, other = "ab" * 16, theirs.names["trace"].removeprefix("tr-")
    span = {"traceId": mine, "spanId": "cd" * 8, "name": "odd", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    headers = {"Content-Type": "application/json", "X-MLflow-Experiment-Id": mallory.experiment}
    before = theirs.owner.ok("GET", f"{V3}/traces/get", params={"trace_id": theirs.names["trace"]})
    for name in ("traceId\0", "trace_id\0", "trace_id", "traceId "):
        for odd in (span | {name: other}, {name: other} | span):
            body = {"resourceSpans": [{"scopeSpans": [{"spans": [odd]}]}]}
            answer = mallory.owner.call("POST", "/v1/traces", data=json.dumps(body), headers=headers)
            assert answer.status_code in (200, 400, 422), answer.text
    after = theirs.owner.ok("GET", f"{V3}/traces/get", params={"trace_id": theirs.names["trace"]})
    assert before == after


def test_unknown_fields_are_counted_and_named_once(start_proxy):
    proxy = start_proxy()
    owner = proxy.admin()
    for _ in range(3):
        owner.ok("POST", f"{API}/experiments/create", {"name": unique("counted"), "colour": "red"})
    assert proxy.counted("unknown_fields_total", operation="CreateExperiment") == 3
    said = [line for line in proxy.process.output().splitlines() if "unknown request fields" in line]
    assert len(said) == 1 and "colour" in said[0]


def test_unknown_fields_are_refused_where_the_operator_wants_it(start_proxy, mlflow_server):
    owner = start_proxy({"AUTHZ__UNKNOWN_FIELDS": "refuse"}).admin()
    with mlflow_server.unchanged():
        answer = owner.post(f"{API}/experiments/create", {"name": unique("refused"), "colour": "red"})
    assert answer.status_code == 400 and answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "'colour'" in answer.json()["message"]
    owner.ok("POST", f"{API}/experiments/create", {"name": unique("fine")})
