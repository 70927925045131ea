"""The main story, with two people and the real client, over HTTP and over TLS.

The tests of this file tell it in order: logging, refusal, READ, EDIT, MANAGE.
"""

import json
import math
from dataclasses import dataclass

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from harness import Person, big_file, remove, sha256, unique

MEGABYTES = 300


@dataclass
class Story:
    first: Person
    second: Person
    third: Person
    experiment_name: str
    experiment: str
    run: str
    logged_model: str
    model: str
    file: str
    digest: str


@pytest.fixture(scope="module", params=["http", "tls"])
def story(request, tmp_path_factory):
    """The first person's script has run; nobody else has been given anything."""
    front = request.getfixturevalue("proxy" if request.param == "http" else "tls_proxy")
    folder = tmp_path_factory.mktemp("story")
    first, second, third = (front.person(name) for name in ("first", "second", "third"))
    token = first.with_token(first.token()["token"])
    digest = big_file(folder / "big.bin", MEGABYTES)
    name = unique("story")
    made = json.loads(token.python("story.py", name, folder / "big.bin").splitlines()[-1])
    yield Story(first, second, third, name, file="big/big.bin", digest=digest, **made)
    remove(folder)


def forbidden(act, *arguments, **more):
    with pytest.raises(MlflowException) as raised:
        act(*arguments, **more)
    assert raised.value.error_code == "PERMISSION_DENIED", raised.value
    assert "Permission denied." in str(raised.value)


def ids(experiments):
    return [experiment.experiment_id for experiment in experiments]


def test_the_first_reads_back_what_was_logged(story, tmp_path):
    with story.first.mlflow() as client:
        run = client.get_run(story.run)
        assert run.info.status == "FINISHED"
        assert run.data.params == {"depth": "3", "rate": "0.1"}
        assert run.data.tags["team"] == "first"
        assert run.data.metrics["loss"] == pytest.approx(1 / 3)
        assert [metric.step for metric in client.get_metric_history(story.run, "loss")] == [0, 1, 2]
        assert math.isnan(run.data.metrics["nan"])
        # MLflow stores infinities as the largest float.
        assert run.data.metrics["inf"] >= 1.79e308
        assert run.data.metrics["minus_inf"] <= -1.79e308
        assert {item.path for item in client.list_artifacts(story.run)} >= {"big", "folder with space"}
        listed = client.list_artifacts(story.run, "big")
        assert [(item.path, item.file_size) for item in listed] == [(story.file, MEGABYTES << 20)]
        assert mlflow.artifacts.load_dict(f"runs:/{story.run}/folder with space/ä.json") == {"answer": 42}
        got = mlflow.artifacts.download_artifacts(f"runs:/{story.run}/{story.file}", dst_path=str(tmp_path))
        assert sha256(got) == story.digest
        remove(tmp_path)


def test_the_first_loads_the_model_by_each_of_its_names(story):
    with story.first.mlflow():
        for uri in (f"models:/{story.model}/1", f"models:/{story.logged_model}"):
            assert mlflow.pyfunc.load_model(uri).predict([[10.0]])[0] == pytest.approx(21)


def test_the_first_owns_what_the_script_made(story):
    for kind, key in (("experiment", story.experiment), ("registered_model", story.model)):
        got = story.first.ok("GET", "/api/3.0/mlflow/users/permissions/get", params={
            "username": story.first.name, "resource_type": kind, "resource_id": key})
        assert got == {"allowed": True, "permission": "MANAGE"}


def test_a_bearer_token_is_the_same_person(story):
    token = story.first.with_token(story.first.token()["token"])
    with token.mlflow(bearer=True) as client:
        assert client.get_run(story.run).data.params["depth"] == "3"
        assert ids(client.search_experiments()) == [story.experiment]


def test_the_second_finds_nothing(story):
    with story.first.mlflow() as client:
        assert ids(client.search_experiments()) == [story.experiment]
        assert [run.info.run_id for run in client.search_runs([story.experiment])] == [story.run]
        assert [model.name for model in client.search_registered_models()] == [story.model]
        assert [version.version for version in client.search_model_versions(f"name = '{story.model}'")] == ["1"]
        assert [m.model_id for m in client.search_logged_models([story.experiment])] == [story.logged_model]
    with story.second.mlflow() as client:
        assert client.search_experiments() == []
        assert client.search_runs([story.experiment]) == []
        assert client.search_registered_models() == []
        assert client.search_model_versions() == []
        assert client.search_model_versions(f"name = '{story.model}'") == []
        assert client.search_logged_models([story.experiment]) == []


def test_the_second_is_refused_by_the_client_too(story):
    with story.second.mlflow() as client:
        refuse_reads(story, client)
        refuse_writes(story, client)
        refuse_managing(story, client)


def test_with_read_the_second_reads_and_no_more(story, tmp_path):
    give(story, "READ")
    with story.second.mlflow() as client:
        assert ids(client.search_experiments()) == [story.experiment]
        assert [run.info.run_id for run in client.search_runs([story.experiment])] == [story.run]
        assert [model.name for model in client.search_registered_models()] == [story.model]
        assert [m.model_id for m in client.search_logged_models([story.experiment])] == [story.logged_model]
        assert client.get_run(story.run).data.params["depth"] == "3"
        assert mlflow.pyfunc.load_model(f"models:/{story.model}/1").predict([[1.0]])[0] == pytest.approx(3)
        got = mlflow.artifacts.download_artifacts(f"runs:/{story.run}/{story.file}", dst_path=str(tmp_path))
        assert sha256(got) == story.digest
        remove(tmp_path)
        refuse_writes(story, client)
        refuse_managing(story, client)


def test_with_edit_the_second_writes_and_cannot_delete(story):
    give(story, "EDIT")
    with story.second.mlflow() as client:
        client.log_metric(story.run, "second", 2.0)
        client.set_tag(story.run, "second", "was here")
        client.log_text(story.run, "text", "second.txt")
        client.set_registered_model_alias(story.model, "champion", "1")
        with mlflow.start_run(experiment_id=story.experiment) as run:
            mlflow.log_metric("mine", 1.0)
        assert client.get_run(story.run).data.metrics["second"] == 2.0
        assert client.get_run(run.info.run_id).data.metrics["mine"] == 1.0
        refuse_managing(story, client)


def test_with_manage_the_second_shares_and_deletes(story):
    with story.third.mlflow() as client:
        forbidden(client.get_run, story.run)
    give(story, "MANAGE")
    story.second.grant(story.third, "experiment", story.experiment, "READ")
    with story.third.mlflow() as client:
        assert client.get_run(story.run).data.params["depth"] == "3"
        forbidden(client.set_tag, story.run, "third", "no")
    with story.second.mlflow() as client:
        client.delete_run(story.run)
        assert client.get_run(story.run).info.lifecycle_stage == "deleted"
        client.restore_run(story.run)
        assert client.get_run(story.run).info.lifecycle_stage == "active"
        client.delete_registered_model(story.model)
        assert client.search_registered_models() == []
        client.delete_experiment(story.experiment)
        assert client.search_experiments() == []


def give(story, permission):
    story.first.grant(story.second, "experiment", story.experiment, permission)
    story.first.grant(story.second, "registered_model", story.model, permission)


def refuse_reads(story, client):
    forbidden(client.get_experiment, story.experiment)
    forbidden(client.get_experiment_by_name, story.experiment_name)
    forbidden(client.get_run, story.run)
    forbidden(client.get_metric_history, story.run, "loss")
    forbidden(client.list_artifacts, story.run)
    forbidden(client.get_logged_model, story.logged_model)
    forbidden(client.get_registered_model, story.model)
    forbidden(client.get_model_version, story.model, "1")
    forbidden(mlflow.artifacts.download_artifacts, f"runs:/{story.run}/{story.file}")
    forbidden(mlflow.pyfunc.load_model, f"models:/{story.model}/1")
    forbidden(mlflow.set_experiment, story.experiment_name)


def refuse_writes(story, client):
    forbidden(client.create_run, story.experiment)
    forbidden(client.log_metric, story.run, "m", 1)
    forbidden(client.log_param, story.run, "p", 1)
    forbidden(client.set_tag, story.run, "t", 1)
    forbidden(client.log_batch, story.run, params=[mlflow.entities.Param("p", "1")])
    forbidden(client.set_experiment_tag, story.experiment, "t", 1)
    forbidden(client.set_terminated, story.run)
    forbidden(client.create_model_version, story.model, f"runs:/{story.run}/x", story.run)
    forbidden(client.set_registered_model_alias, story.model, "champion", "1")
    forbidden(client.update_registered_model, story.model, "text")
    forbidden(client.finalize_logged_model, story.logged_model, "READY")
    # The artifact client gives the refusal its own kind of error.
    with pytest.raises(Exception, match="403|Permission denied"):
        client.log_text(story.run, "text", "no.txt")


def refuse_managing(story, client):
    forbidden(client.delete_run, story.run)
    forbidden(client.delete_experiment, story.experiment)
    forbidden(client.delete_registered_model, story.model)
    forbidden(client.delete_model_version, story.model, "1")
    forbidden(client.rename_registered_model, story.model, "other")
    forbidden(client.delete_logged_model, story.logged_model)
    body = {"username": story.third.name, "resource_type": "experiment", "resource_id": story.experiment}
    shared = story.second.post("/api/3.0/mlflow/users/permissions/grant", body | {"permission": "READ"})
    assert shared.status_code == 403, shared.text
