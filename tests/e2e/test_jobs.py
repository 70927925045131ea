"""Background jobs belong to who started them. This MLflow runs jobs; the others of these tests do not."""

import json

import pytest

from endpoints import EDIT, MANAGE
from endpoints_genai import AJAX3, SCORER, V3, a_job, new_trace
from harness import Mlflow, Proxy, check_refused, wait_until

JOBS = "/ajax-api/3.0/jobs"


@pytest.fixture(scope="module")
def mlflow_with_jobs(folder):
    server = Mlflow(folder / "mlflow-jobs", env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true"})
    try:
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(mlflow_with_jobs, folder):
    one = Proxy(folder / "proxy-jobs", mlflow_with_jobs.url).start()
    yield one
    assert one.stop() == 0


@pytest.fixture
def admin_of(proxy):
    return proxy.admin()


def invoke(person, world, trace):
    body = {"experiment_id": world.experiment, "trace_ids": [trace], "serialized_scorer": json.dumps(SCORER)}
    (job,) = person.ok("POST", f"{AJAX3}/scorer/invoke", body)["jobs"]
    return job["job_id"]


def evaluate(person, world, trace):
    body = {"experiment_id": world.experiment, "trace_ids": [trace], "serialized_scorers": [json.dumps(SCORER)]}
    return person.ok("POST", f"{AJAX3}/genai/evaluate/invoke", body)["job_id"]


def ways_to(person, job):
    yield person.get(f"{AJAX3}/jobs/{job}")
    yield person.get(f"{JOBS}/{job}")
    yield person.call("PATCH", f"{AJAX3}/jobs/cancel/{job}")
    yield person.call("PATCH", f"{JOBS}/cancel/{job}")


@pytest.mark.parametrize("start", [invoke, evaluate])
def test_a_job_is_seen_and_cancelled_by_who_started_it(people, world, start):
    editor, manager = people(world, EDIT, MANAGE)
    job = start(editor, world, new_trace(editor, world.experiment))
    for answer in ways_to(manager, job):
        check_refused(answer)
    # Only the first of two to cancel it does.
    assert [answer.status_code for answer in ways_to(editor, job)] == [200, 200, 200, 400]


def test_a_search_finds_ones_own_jobs(admin_of, people, world):
    one, other = people(world, EDIT, EDIT)
    trace = new_trace(one, world.experiment)
    mine, theirs = invoke(one, world, trace), invoke(other, world, trace)

    def found(person):
        return {job["job_id"] for job in person.ok("POST", f"{JOBS}/search", {})["jobs"]}

    assert found(one) == {mine}
    assert found(other) == {theirs}
    assert found(world.owner) == set()
    assert found(admin_of) >= {mine, theirs}


def test_a_job_of_any_kind_is_submitted_by_administrators(mlflow_with_jobs, world):
    """The jobs interface takes any job with any parameters; the routes that are for people say what they do."""
    params = {"experiment_id": world.experiment, "trace_ids": [], "serialized_scorer": "{}", "username": "admin"}
    with mlflow_with_jobs.unchanged():
        check_refused(world.owner.post(f"{JOBS}/", {"job_name": "invoke_scorer", "params": params}))


def test_a_job_that_nobody_started_here_is_for_administrators(mlflow_with_jobs, admin_of, world):
    job = a_job(mlflow_with_jobs, "invoke_scorer", {"experiment_id": world.experiment})
    for answer in ways_to(world.owner, job):
        check_refused(answer)
    hidden = [check_refused(world.owner.get(f"{AJAX3}/jobs/{one}")).replace(one, "ID") for one in (job, job[::-1])]
    assert hidden[0] == hidden[1]
    assert admin_of.get(f"{AJAX3}/jobs/{job}").status_code == 200


def test_prompt_optimisation_is_its_experiments(people, world, proxy):
    """Other than the jobs above, these are found by whoever may read the experiment."""
    editor, manager = people(world, EDIT, MANAGE)
    prompt = f"{world.model}-prompt"
    editor.ok("POST", "/api/2.0/mlflow/registered-models/create",
              {"name": prompt, "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]})
    editor.ok("POST", "/api/2.0/mlflow/model-versions/create", {
        "name": prompt, "source": "dummy-source", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"},
                                                           {"key": "mlflow.prompt.text", "value": "Say {{ this }}"}]})
    made = editor.ok("POST", f"{V3}/prompt-optimization/jobs", {
        "experiment_id": world.experiment, "source_prompt_uri": f"prompts:/{prompt}/1",
        "config": {"optimizer_type": "OPTIMIZER_TYPE_GEPA"}})
    job = made["job"]["job_id"]
    path = f"{V3}/prompt-optimization/jobs/{job}"
    check_refused(proxy.person("stranger").get(path))
    assert manager.get(path).status_code == 200
    wait_until(lambda: manager.ok("GET", path)["job"]["state"]["status"] != "JOB_STATUS_PENDING", 60, "the job ends", every=0.5)
    check_refused(editor.delete(path))
    assert manager.delete(path).status_code == 200
