"""Evaluation datasets belong to every experiment that they are attached to: each of them must allow it."""

import json

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai import datasets

from endpoints import EDIT, MANAGE, READ
from endpoints_genai import V3, records
from harness import World, check_refused, unique


def new_dataset(who, *experiments):
    made = who.ok("POST", f"{V3}/datasets/create", {"name": unique("dataset"), "experiment_ids": list(experiments)})
    dataset = made["dataset"]["dataset_id"]
    who.ok("POST", f"{V3}/datasets/{dataset}/records", {"records": records(World.SECRET)})
    return dataset


def experiments_of(who, dataset):
    return set(who.ok("GET", f"{V3}/datasets/{dataset}/experiment-ids")["experiment_ids"])


@pytest.fixture
def other_world(proxy):
    return World.make(proxy.person("other"))


def check_not_done(answer, experiments):
    """Refused; or, when no experiment was named, told to name one."""
    if experiments:
        check_refused(answer)
    else:
        assert answer.status_code in (400, 403), answer.text


def reads(dataset):
    """Every way to look at a dataset."""
    for part in ("", "/records", "/experiment-ids"):
        yield "GET", f"{V3}/datasets/{dataset}{part}", None


def writes(dataset, experiment):
    """Every way to change it, the end of it last."""
    yield "POST", f"{V3}/datasets/{dataset}/records", {"records": records("more")}
    yield "DELETE", f"{V3}/datasets/{dataset}/records", {"dataset_record_ids": ["dr-1"]}
    yield "PATCH", f"{V3}/datasets/{dataset}/tags", {"tags": json.dumps({"k": "v"})}
    yield "DELETE", f"{V3}/datasets/{dataset}/tags/k", {}
    yield "POST", f"{V3}/datasets/{dataset}/add-experiments", {"experiment_ids": [experiment]}
    yield "POST", f"{V3}/datasets/{dataset}/remove-experiments", {"experiment_ids": [experiment]}
    yield "DELETE", f"{V3}/datasets/{dataset}", {}


def test_the_client_makes_fills_and_finds_datasets(proxy, people, world):
    reader, editor, manager = people(world, READ, EDIT, MANAGE)
    stranger = proxy.person("stranger")
    with editor.mlflow():
        made = datasets.create_dataset(name=unique("questions"), experiment_id=[world.experiment], tags={"team": "a"})
        made.merge_records([{"inputs": {"question": "why?"}, "expectations": {"answer": "42"}}])
        datasets.set_dataset_tags(made.dataset_id, {"stage": "draft"})
        datasets.delete_dataset_tag(made.dataset_id, "stage")
    with reader.mlflow():
        assert [one.name for one in datasets.search_datasets(experiment_ids=[world.experiment])] == [made.name]
        found = datasets.get_dataset(dataset_id=made.dataset_id)
        assert list(found.to_df()["inputs"]) == [{"question": "why?"}]
    for person in (reader, stranger):
        with person.mlflow():
            for refused in (
                lambda: datasets.set_dataset_tags(made.dataset_id, {"stage": "final"}),
                lambda: datasets.delete_dataset(dataset_id=made.dataset_id),
                lambda: datasets.create_dataset(name=unique("questions"), experiment_id=[world.experiment]),
            ):
                with pytest.raises(MlflowException, match="Permission denied"):
                    refused()
    with stranger.mlflow():
        with pytest.raises(MlflowException, match="Permission denied"):
            datasets.get_dataset(dataset_id=made.dataset_id)
        with pytest.raises(MlflowException, match="Permission denied"):
            datasets.search_datasets(experiment_ids=[world.experiment])
    with editor.mlflow(), pytest.raises(MlflowException, match="Permission denied"):
        datasets.delete_dataset(dataset_id=made.dataset_id)
    with manager.mlflow():
        datasets.delete_dataset(dataset_id=made.dataset_id)


def test_a_dataset_of_two_experiments_needs_both(mlflow_server, proxy, world, other_world):
    owner, other = world.owner, other_world.owner
    other.grant(owner, "experiment", other_world.experiment, EDIT)
    dataset = new_dataset(owner, world.experiment, other_world.experiment)
    third = proxy.person("third")
    owner.grant(third, "experiment", world.experiment, MANAGE)
    with mlflow_server.unchanged():
        for method, path, body in [*reads(dataset), *writes(dataset, world.experiment)]:
            check_refused(third.call(method, path, json=body))
    other.grant(third, "experiment", other_world.experiment, READ)
    with mlflow_server.unchanged():
        for method, path, body in reads(dataset):
            assert third.call(method, path, json=body).status_code == 200, path
        for method, path, body in writes(dataset, world.experiment):
            check_refused(third.call(method, path, json=body))
    other.grant(third, "experiment", other_world.experiment, EDIT)
    *changes, (method, path, body) = writes(dataset, world.experiment)
    check_refused(third.call(method, path, json=body))
    for change in changes:
        answer = third.call(change[0], change[1], json=change[2])
        assert answer.status_code == 200, f"{change}: {answer.text}"


def test_a_new_dataset_needs_edit_on_all_its_experiments(mlflow_server, world, other_world):
    owner, name = world.owner, unique("dataset")
    with mlflow_server.unchanged():
        for experiments in ([], [other_world.experiment], [world.experiment, other_world.experiment], ["987654321"]):
            check_not_done(owner.post(f"{V3}/datasets/create", {"name": name, "experiment_ids": experiments}), experiments)
        check_not_done(owner.post(f"{V3}/datasets/create", {"name": name}), [])
        check_refused(owner.post(f"{V3}/datasets/create", {"name": name, "experimentIds": [other_world.experiment]}))
        other_world.owner.grant(owner, "experiment", other_world.experiment, READ)
        check_refused(owner.post(f"{V3}/datasets/create",
                                 {"name": name, "experiment_ids": [world.experiment, other_world.experiment]}))


def test_attaching_a_dataset_needs_edit_on_both_sides(mlflow_server, world, other_world):
    owner, other = world.owner, other_world.owner
    mine, theirs = new_dataset(owner, world.experiment), new_dataset(other, other_world.experiment)

    def attach(dataset, *experiments):
        return owner.post(f"{V3}/datasets/{dataset}/add-experiments", {"experiment_ids": list(experiments)})

    with mlflow_server.unchanged():
        check_refused(attach(mine, other_world.experiment))
        check_refused(attach(mine, world.experiment, other_world.experiment))
        check_refused(attach(theirs, world.experiment))
        other.grant(owner, "experiment", other_world.experiment, READ)
        check_refused(attach(mine, other_world.experiment))
        check_refused(attach(theirs, world.experiment))
    other.grant(owner, "experiment", other_world.experiment, EDIT)
    assert attach(mine, other_world.experiment).status_code == 200
    assert experiments_of(owner, mine) == {world.experiment, other_world.experiment}
    # Once attached there, it needs that experiment too.
    other.grant(owner, "experiment", other_world.experiment, "DENY")
    check_refused(owner.get(f"{V3}/datasets/{mine}"))


def test_what_a_dataset_belongs_to_is_looked_up_each_time(world, other_world):
    """The experiments of a dataset change; the proxy must not remember the old ones."""
    owner, other = world.owner, other_world.owner
    other.grant(owner, "experiment", other_world.experiment, EDIT)
    dataset = new_dataset(owner, world.experiment, other_world.experiment)
    check_refused(other.get(f"{V3}/datasets/{dataset}"))
    owner.ok("POST", f"{V3}/datasets/{dataset}/remove-experiments", {"experiment_ids": [world.experiment]})
    assert other.get(f"{V3}/datasets/{dataset}").status_code == 200
    other.ok("POST", f"{V3}/datasets/{dataset}/remove-experiments", {"experiment_ids": [other_world.experiment]})
    for person in (owner, other):
        check_refused(person.get(f"{V3}/datasets/{dataset}"))


def test_a_search_needs_every_experiment_that_it_names(mlflow_server, world, other_world):
    owner, both = world.owner, [world.experiment, other_world.experiment]
    mine, theirs = new_dataset(owner, world.experiment), new_dataset(other_world.owner, other_world.experiment)

    def search(experiments):
        yield owner.post(f"{V3}/datasets/search", {"experiment_ids": experiments})
        yield owner.get(f"{V3}/datasets/search", {"experiment_ids": experiments})

    with mlflow_server.unchanged():
        for experiments in (both, both[::-1], [other_world.experiment], []):
            for answer in search(experiments):
                check_not_done(answer, experiments)
        check_not_done(owner.post(f"{V3}/datasets/search", {}), [])
        check_refused(owner.post(f"{V3}/datasets/search", {"experimentIds": [other_world.experiment]}))
    for answer in search([world.experiment]):
        assert [one["dataset_id"] for one in answer.json()["datasets"]] == [mine]
    other_world.owner.grant(owner, "experiment", other_world.experiment, READ)
    for answer in search(both):
        assert {one["dataset_id"] for one in answer.json()["datasets"]} == {mine, theirs}


@pytest.mark.odd_requests
def test_a_search_is_answered_for_the_list_that_was_judged(world, other_world):
    """A query and a body in one request, or a list that is spelt twice, never mean more than what was judged."""
    owner = world.owner
    new_dataset(owner, world.experiment)
    hidden = new_dataset(other_world.owner, other_world.experiment)
    mine, theirs = {"experiment_ids": [world.experiment]}, {"experiment_ids": [other_world.experiment]}
    asked = [
        owner.call("GET", f"{V3}/datasets/search", params=theirs, json=mine),
        owner.call("GET", f"{V3}/datasets/search", params=mine, json=theirs),
        owner.call("GET", f"{V3}/datasets/search", json=theirs),
        owner.call("POST", f"{V3}/datasets/search", params=theirs, json=mine),
        owner.call("POST", f"{V3}/datasets/search", params=mine, json=theirs),
        owner.post(f"{V3}/datasets/search", mine | {"experimentIds": [other_world.experiment]}),
        owner.post(f"{V3}/datasets/search", {"[x]": 1} | mine),
        owner.post(f"{V3}/datasets/search", mine | {"no_such_field": 1}),
    ]
    for answer in asked:
        assert answer.status_code in (200, 400, 403), answer.status_code
        assert hidden not in answer.text, f"{answer.request.method} {answer.request.path_url} {answer.request.body}"


def test_an_unknown_dataset_is_answered_as_a_hidden_one(world, other_world):
    hidden = new_dataset(other_world.owner, other_world.experiment)
    unknown = hidden[:-4] + "0000"
    for method, path, body in [*reads("ID"), *writes("ID", world.experiment)]:
        answers = [
            check_refused(world.owner.call(method, path.replace("ID", one), json=body)).replace(one, "ID")
            for one in (hidden, unknown)
        ]
        assert answers[0] == answers[1], path


def test_the_secret_of_a_dataset_stays_with_its_readers(proxy, people, world):
    (reader,) = people(world, READ)
    dataset = new_dataset(world.owner, world.experiment)
    assert World.SECRET in reader.get(f"{V3}/datasets/{dataset}/records").text
    check_refused(proxy.person("stranger").get(f"{V3}/datasets/{dataset}/records"))


def test_a_dataset_bears_its_makers_name(people, world):
    (editor,) = people(world, EDIT)
    for tags in ({}, {"tags": json.dumps({"mlflow.user": world.owner.name})}):
        body = {"name": unique("dataset"), "experiment_ids": [world.experiment], "created_by": world.owner.name} | tags
        made = editor.ok("POST", f"{V3}/datasets/create", body)["dataset"]
        assert made.get("created_by") in (None, editor.name)
        assert json.loads(made["tags"]).get("mlflow.user") == editor.name
