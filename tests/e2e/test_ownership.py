"""Who makes something owns it; what is deleted or renamed takes its grants along."""

import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from endpoints_genai import SCORER, V3
from harness import Http, World, plain_environment, unique, wait_until

API = "/api/2.0/mlflow"


def level(person, kind, key, asker=None):
    """What the proxy says that `person` may do, or None when the asker may not know."""
    answer = (asker or person).get("/api/3.0/mlflow/users/permissions/get",
                                   {"username": person.name, "resource_type": kind, "resource_id": key})
    return answer.json()["permission"] if answer.status_code == 200 else None


def create_model(person, name):
    return person.post(f"{API}/registered-models/create", {"name": name})


def get_model(person, name):
    return person.get(f"{API}/registered-models/get", {"name": name})


def test_the_creator_gets_manage_and_can_delete(alice, bob):
    experiment = alice.ok("POST", f"{API}/experiments/create", {"name": unique("mine")})["experiment_id"]
    assert level(alice, "experiment", experiment) == "MANAGE"
    assert level(bob, "experiment", experiment) == "NO_PERMISSIONS"
    model = unique("mine")
    assert create_model(alice, model).status_code == 200
    assert level(alice, "registered_model", model) == "MANAGE"
    assert alice.delete(f"{API}/registered-models/delete", {"name": model}).status_code == 200
    assert alice.post(f"{API}/experiments/delete", {"experiment_id": experiment}).status_code == 200
    gone = alice.ok("GET", f"{API}/experiments/get", params={"experiment_id": experiment})
    assert gone["experiment"]["lifecycle_stage"] == "deleted"
    assert alice.post(f"{API}/experiments/restore", {"experiment_id": experiment}).status_code == 200


def test_the_grant_is_there_when_the_answer_is(alice):
    """No window in which the creator cannot use what they just made."""
    for _ in range(10):
        experiment = alice.ok("POST", f"{API}/experiments/create", {"name": unique("fast")})["experiment_id"]
        assert alice.post(f"{API}/runs/create", {"experiment_id": experiment}).status_code == 200


def test_a_name_that_exists_gives_nothing(alice, bob, world):
    taken = bob.post(f"{API}/experiments/create", {"name": world.experiment_name})
    assert taken.status_code == 400
    assert taken.json()["error_code"] == "RESOURCE_ALREADY_EXISTS"
    assert level(bob, "experiment", world.experiment) == "NO_PERMISSIONS"
    assert create_model(bob, world.model).status_code in (400, 403)
    assert get_model(bob, world.model).status_code == 403
    assert level(alice, "registered_model", world.model) == "MANAGE"


def test_deleting_a_model_drops_everybodys_grants(alice, bob, proxy, world):
    alice.grant(bob, "registered_model", world.model, "EDIT")
    assert get_model(bob, world.model).status_code == 200
    assert alice.delete(f"{API}/registered-models/delete", {"name": world.model}).status_code == 200
    for person in (alice, bob):
        assert level(person, "registered_model", world.model) == "NO_PERMISSIONS"
    # Another makes one of the same name: it is theirs alone.
    carol = proxy.person("carol")
    assert create_model(carol, world.model).status_code == 200
    assert get_model(carol, world.model).status_code == 200
    for person in (alice, bob):
        assert get_model(person, world.model).status_code == 403
        assert level(person, "registered_model", world.model) == "NO_PERMISSIONS"


def test_renaming_a_model_moves_the_grants(alice, bob, proxy, world):
    alice.grant(bob, "registered_model", world.model, "READ")
    new = unique("renamed")
    assert bob.post(f"{API}/registered-models/rename", {"name": world.model, "new_name": new}).status_code == 403
    assert alice.post(f"{API}/registered-models/rename", {"name": world.model, "new_name": new}).status_code == 200
    assert level(alice, "registered_model", new) == "MANAGE"
    assert level(bob, "registered_model", new) == "READ"
    assert get_model(bob, new).status_code == 200
    assert level(alice, "registered_model", world.model) == "NO_PERMISSIONS"
    assert level(bob, "registered_model", world.model) == "NO_PERMISSIONS"
    # The old name is free, and what another makes under it is theirs alone.
    carol = proxy.person("carol")
    assert create_model(carol, world.model).status_code == 200
    for person in (alice, bob):
        assert get_model(person, world.model).status_code == 403
    assert get_model(carol, new).status_code == 403


def test_a_rename_onto_the_model_of_another_changes_nothing(alice, bob, world):
    mine = unique("mine")
    assert create_model(bob, mine).status_code == 200
    renamed = bob.post(f"{API}/registered-models/rename", {"name": mine, "new_name": world.model})
    assert renamed.status_code in (400, 403), renamed.text
    assert get_model(bob, mine).status_code == 200
    assert get_model(bob, world.model).status_code == 403
    assert level(alice, "registered_model", world.model) == "MANAGE"


def test_a_failed_delete_keeps_the_grants(alice, bob, world):
    alice.grant(bob, "registered_model", world.model, "READ")
    gone = alice.delete(f"{API}/model-versions/delete", {"name": world.model, "version": "99"})
    assert gone.status_code == 404, gone.text
    assert get_model(bob, world.model).status_code == 200


def remove_experiment(mlflow_server, experiment):
    """What an operator's `mlflow gc` does. SQLite then gives the ID again if it was the highest."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", f"sqlite:///{mlflow_server.database}", "--experiment-ids", experiment],
        env=plain_environment(MLFLOW_TRACKING_URI=mlflow_server.url), capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_an_experiment_id_that_comes_again_opens_nothing_to_earlier_holders(alice, bob, proxy, mlflow_server):
    first = alice.ok("POST", f"{API}/experiments/create", {"name": unique("first")})["experiment_id"]
    alice.grant(bob, "experiment", first, "EDIT")
    scorer = {"experiment_id": first, "name": "judge", "serialized_scorer": json.dumps(SCORER | {"name": "judge"})}
    alice.ok("POST", "/api/3.0/mlflow/scorers/register", scorer)
    alice.ok("POST", f"{API}/experiments/delete", {"experiment_id": first})
    remove_experiment(mlflow_server, first)
    carol = proxy.person("carol")
    second = carol.ok("POST", f"{API}/experiments/create", {"name": unique("second")})["experiment_id"]
    assert second == first, "SQLite gives the highest ID again"
    for person in (alice, bob):
        assert person.get(f"{API}/experiments/get", {"experiment_id": second}).status_code == 403
        assert level(person, "experiment", second) == "NO_PERMISSIONS"
    assert level(carol, "experiment", second) == "MANAGE"
    carol.ok("POST", "/api/3.0/mlflow/scorers/register", scorer)
    owners = proxy.rows("SELECT users.name FROM grants JOIN users ON users.id = grants.subject WHERE kind = 'scorer' AND selector = ?",
                        f"{second}/judge")
    assert owners == [(carol.name,)]


@pytest.mark.parametrize("left", ["data set", "file", "file of a trace"])
def test_an_experiment_id_under_which_data_is_left_is_not_given_again(alice, proxy, mlflow_server, left):
    first = alice.ok("POST", f"{API}/experiments/create", {"name": unique("first")})["experiment_id"]
    if left == "data set":
        data_set = alice.ok("POST", f"{V3}/datasets/create", {"name": unique("data"), "experiment_ids": [first]})["dataset"]["dataset_id"]
        path = f"{V3}/datasets/{data_set}"
    else:
        path = f"{API}-artifacts/artifacts/{first}/{'custom' if left == 'file' else 'traces/tr-1/artifacts'}/file.txt"
        assert alice.call("PUT", path, data=b"secret").status_code == 200
    assert alice.get(path).status_code == 200
    alice.ok("POST", f"{API}/experiments/delete", {"experiment_id": first})
    remove_experiment(mlflow_server, first)
    carol, name = proxy.person("carol"), unique("second")
    refused = carol.post(f"{API}/experiments/create", {"name": name})
    assert refused.status_code == 503 and f"the ID {first}" in refused.json()["message"] and refused.headers["Retry-After"], refused.text
    second = carol.ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]
    assert second != first and level(carol, "experiment", second) == "MANAGE"
    assert level(carol, "experiment", first) == "NO_PERMISSIONS"
    assert carol.get(path).status_code == 403
    assert carol.get(f"{V3}/datasets/search", {"experiment_ids": first}).status_code == 403


def test_grants_do_not_count_for_what_was_made_anew_beside_the_proxy(start_proxy, mlflow_server):
    """The proxy compares creation times when it starts, and every minute."""
    proxy = start_proxy()
    alice, bare = proxy.person("alice"), Http(mlflow_server.url, None)
    experiment = alice.ok("POST", f"{API}/experiments/create", {"name": unique("first")})["experiment_id"]
    model, prompt, kept = unique("model"), unique("prompt"), unique("kept")
    is_prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    made = {model: [], prompt: is_prompt, kept: []}
    for name, tags in made.items():
        alice.ok("POST", f"{API}/registered-models/create", {"name": name, "tags": tags})
    server = f"acme/{unique('server')}"
    alice.ok("POST", f"{V3}/mcp-servers", {"name": server})

    def undated():
        return proxy.rows("SELECT kind, selector FROM grants WHERE thing_created IS NULL")

    # The minute's comparison may have dated some of them already.
    assert len(proxy.rows("SELECT kind, selector FROM grants")) == 5
    proxy.stop()
    proxy.start()
    wait_until(lambda: not undated(), 30, "the proxy knows what its grants are about")

    bare.post(f"{API}/experiments/delete", {"experiment_id": experiment})
    remove_experiment(mlflow_server, experiment)
    assert bare.post(f"{API}/experiments/create", {"name": unique("second")}).json()["experiment_id"] == experiment
    for name in (model, prompt):
        assert bare.delete(f"{API}/registered-models/delete", {"name": name}).status_code == 200
        assert bare.post(f"{API}/registered-models/create", {"name": name, "tags": made[name]}).status_code == 200
    assert bare.delete(f"{V3}/mcp-servers/{server}").status_code == 200
    assert bare.post(f"{V3}/mcp-servers", {"name": server}).status_code == 200
    proxy.stop()
    proxy.start()
    left = "SELECT kind, selector FROM grants"
    wait_until(lambda: len(proxy.rows(left)) == 1, 30, "grants on what is gone are dropped")
    assert proxy.rows(left) == [("registered_model", kept)]
    assert alice.get(f"{API}/experiments/get", {"experiment_id": experiment}).status_code == 403
    assert get_model(alice, model).status_code == 403
    assert get_model(alice, kept).status_code == 200
    assert alice.get(f"{V3}/mcp-servers/{server}").status_code in (403, 404)
    told = proxy.rows("SELECT target FROM audit WHERE action = 'resource.reissue'")
    assert {target for target, in told} == {
        f"experiment:{experiment}", f"registered_model:{model}", f"registered_model:{prompt}", f"mcp_server:{server}"}


def test_somebody_denied_a_name_cannot_take_it(alice, bob, admin):
    """A DENY on a name that is not there yet holds for whoever would make it."""
    name = unique("reserved")
    admin.ok("POST", "/api/3.0/mlflow/users/permissions/grant", {
        "username": bob.name, "resource_type": "registered_model", "resource_id": name, "permission": "DENY"})
    assert create_model(bob, name).status_code == 403
    assert create_model(alice, name).status_code == 200


def test_prompts_are_a_namespace_of_their_own(alice, bob, mlflow_server):
    """A grant on models is none on prompts, and the tag that makes one of the other is for administrators."""
    prompt = unique("prompt")
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    alice.ok("POST", f"{API}/registered-models/create", {"name": prompt, "tags": tags})
    assert level(alice, "prompt", prompt) == "MANAGE"
    assert level(alice, "registered_model", prompt) == "NO_PERMISSIONS"
    assert get_model(alice, prompt).status_code == 200
    alice.grant(bob, "prompt", prompt, "READ")
    assert get_model(bob, prompt).status_code == 200
    model = unique("model")
    create_model(alice, model)
    before = mlflow_server.state()
    flip = alice.post(f"{API}/registered-models/set-tag", {"name": model, "key": "mlflow.prompt.is_prompt", "value": "true"})
    assert flip.status_code == 403
    flip = alice.delete(f"{API}/registered-models/delete-tag", {"name": prompt, "key": "mlflow.prompt.is_prompt"})
    assert flip.status_code == 403
    assert mlflow_server.state() == before


def test_an_ordinary_user_chooses_no_artifact_location(alice, world, mlflow_server):
    before = mlflow_server.state()
    for location in ("/etc", "file:///etc", f"mlflow-artifacts:/{world.experiment}", "s3://bucket/x", "mlflow-artifacts:/"):
        made = alice.post(f"{API}/experiments/create", {"name": unique("where"), "artifact_location": location})
        assert made.status_code == 403, f"{location}: {made.status_code} {made.text}"
    assert mlflow_server.state() == before


def test_a_creation_whose_client_leaves_still_has_an_owner(alice, proxy, mlflow_server):
    """The client hangs up while MLflow works; the effect runs to its end."""
    direct = Http(mlflow_server.url, None)
    alice.get(f"{API}/users/current")
    # Who leaves before the request was read asked for nothing, so there is no telling how long to stay: longer each time.
    for stay in (0, 0.002, 0.004, 0.008, 0.016, 0.032):
        name = unique("left")
        leave_after_asking(alice, proxy, {"name": name}, stay)
        if (experiment := found_within(direct, name, 2)) is not None:
            break
    else:
        pytest.fail("none of the creations reached MLflow")
    wait_until(lambda: level(alice, "experiment", experiment) == "MANAGE", 10, "the experiment has an owner")


def found_within(direct, name, seconds):
    """The id of the experiment, once MLflow has it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = direct.get(f"{API}/experiments/get-by-name", {"experiment_name": name})
        if found.status_code == 200:
            return found.json()["experiment"]["experiment_id"]
        time.sleep(0.05)
    return None


def leave_after_asking(person, proxy, experiment, seconds):
    """Sends the creation of an experiment and hangs up after so long."""
    body = json.dumps(experiment).encode()
    head = (f"POST {API}/experiments/create HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n"
            f"Authorization: {person.session.headers['Authorization']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(head + body)
        time.sleep(seconds)


def test_two_who_create_the_same_name_at_once(proxy):
    """Exactly one of them gets it."""
    people = [proxy.person("racer") for _ in range(4)]
    for _ in range(3):
        name, answers = unique("race"), {}
        threads = [threading.Thread(target=lambda p=p: answers.update({p.name: create_model(p, name).status_code}))
                   for p in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [person for person in people if answers[person.name] == 200]
        assert len(winners) == 1, answers
        for person in people:
            allowed = get_model(person, name).status_code
            assert allowed == (200 if person is winners[0] else 403)


# ---- requests that name two things: permission on one is no permission on the other


@pytest.fixture
def worlds(alice, bob):
    return World.make(alice), World.make(bob)


VERSIONS = f"{API}/model-versions/create"

# method, path, the fields that name `x`'s thing beside `mine`, and whether MLflow itself takes them when x is mine.
DEPUTIES = [
    ("POST", f"{API}/runs/log-batch", lambda mine, x: {"run_id": mine.run, "metrics": [
        {"key": "m", "value": 1, "timestamp": 1, "step": 0, "model_id": x.logged_model}]}, True),
    ("POST", f"{API}/runs/log-metric", lambda mine, x: {
        "run_id": mine.run, "key": "m", "value": 1, "timestamp": 1, "model_id": x.logged_model}, True),
    ("POST", f"{API}/runs/log-inputs", lambda mine, x: {
        "run_id": mine.run, "models": [{"model_id": x.logged_model}]}, True),
    ("POST", f"{API}/runs/outputs", lambda mine, x: {
        "run_id": mine.run, "models": [{"model_id": x.logged_model, "step": 0}]}, True),
    ("POST", f"{API}/logged-models", lambda mine, x: {
        "experiment_id": mine.experiment, "name": "m", "source_run_id": x.run}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": f"models:/{x.model}/1"}, True),
    ("POST", VERSIONS, lambda mine, x: {
        "name": mine.model, "source": f"models:/{x.logged_model}", "model_id": x.logged_model}, True),
    ("POST", VERSIONS, lambda mine, x: {
        "name": mine.model, "source": f"models:/{x.logged_model}", "model_id": mine.logged_model}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": f"runs:/{x.run}/folder", "run_id": x.run}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": f"runs:/{x.run}/folder", "run_id": mine.run}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "run_id": x.run,
                                        "source": f"mlflow-artifacts:/{x.experiment}/{x.run}/artifacts"}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "run_id": mine.run,
                                        "source": f"mlflow-artifacts:/{x.experiment}/{x.run}/artifacts"}, True),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": "file:///etc"}, False),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": "/etc"}, False),
    ("POST", VERSIONS, lambda mine, x: {"name": mine.model, "source": "file:///etc", "run_id": mine.run}, False),
    ("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk?metric_key=metric",
     lambda mine, x: {"run_id": [mine.run, x.run]}, True),
    ("GET", f"{API}/metrics/get-history-bulk-interval?metric_key=metric&max_results=5",
     lambda mine, x: {"run_ids": [mine.run, x.run]}, True),
]


@pytest.mark.parametrize(("method", "path", "fields", "works"), DEPUTIES)
def test_permission_on_one_is_none_on_the_other(worlds, mlflow_server, method, path, fields, works):
    theirs, mine = worlds
    before = mlflow_server.state()
    where = "params" if method == "GET" else "json"
    answer = mine.owner.call(method, path, **{where: fields(mine, theirs)})
    assert answer.status_code == 403, f"{answer.status_code} {answer.text}"
    assert World.SECRET not in answer.text
    assert mlflow_server.state() == before
    if works:
        answer = mine.owner.call(method, path, **{where: fields(mine, mine)})
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
