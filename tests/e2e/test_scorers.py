"""Scorers have permissions of their own, given by who registers them; what runs them needs EDIT on the experiment."""

import json

import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import Guidelines, delete_scorer, get_scorer, list_scorers

from endpoints import EDIT, MANAGE, READ
from endpoints_gateway import GATEWAY, new_endpoint
from endpoints_genai import AJAX3, SCORER, V3, a_scorer, new_trace
from harness import World, check_refused, unique

SCORERS = f"{V3}/scorers"


@pytest.fixture
def other_world(proxy):
    return World.make(proxy.person("other"))


def register(who, world, name="judge"):
    return who.ok("POST", f"{SCORERS}/register", a_scorer(world, name))["scorer_id"]


def versions(who, world, name="judge"):
    return who.get(f"{SCORERS}/versions", {"experiment_id": world.experiment, "name": name})


def delete(who, world, name="judge", **more):
    return who.delete(f"{SCORERS}/delete", {"experiment_id": world.experiment, "name": name} | more)


def listed(who, **query):
    return {(str(one["experiment_id"]), one["scorer_name"]) for one in
            who.ok("GET", f"{SCORERS}/list", params=query).get("scorers", [])}


def test_the_client_registers_lists_and_deletes(people, world):
    reader, editor = people(world, READ, EDIT)
    with editor.mlflow():
        Guidelines(name="polite", guidelines="be polite", model="openai:/gpt-4").register(experiment_id=world.experiment)
        assert get_scorer(name="polite", experiment_id=world.experiment).name == "polite"
        assert [one.name for one in list_scorers(experiment_id=world.experiment)] == ["polite"]
    with reader.mlflow():
        with pytest.raises(MlflowException, match="Permission denied"):
            delete_scorer(name="polite", experiment_id=world.experiment, version="all")
        with pytest.raises(MlflowException, match="Permission denied"):
            Guidelines(name="rude", guidelines="be rude", model="openai:/gpt-4").register(experiment_id=world.experiment)
    with editor.mlflow():
        # Theirs: they registered it.
        delete_scorer(name="polite", experiment_id=world.experiment, version="all")


@pytest.mark.parametrize("name", ["judge", "a judge", "is/it good?", "ä%2Fö", "*"])
def test_who_registers_a_scorer_manages_it(mlflow_server, people, world, name):
    maker, other = people(world, EDIT, EDIT)
    register(maker, world, name)
    with mlflow_server.unchanged():
        check_refused(versions(other, world, name))
        check_refused(delete(other, world, name))
        check_refused(delete(other, world, name, version=1))
    assert versions(maker, world, name).status_code == 200
    assert delete(maker, world, name).status_code == 200


def test_a_grant_on_a_scorer_is_for_that_scorer(mlflow_server, proxy, people, world):
    (reader,) = people(world, READ)
    register(world.owner, world), register(world.owner, world, "another")
    world.owner.grant(reader, "scorer", f"{world.experiment}/judge", READ)
    assert versions(reader, world).status_code == 200
    with mlflow_server.unchanged():
        check_refused(versions(reader, world, "another"))
        check_refused(delete(reader, world))
    world.owner.grant(reader, "scorer", f"{world.experiment}/judge", MANAGE)
    assert delete(reader, world).status_code == 200


def test_with_a_scorer_go_the_grants_on_it(people, world):
    reader, maker = people(world, READ, EDIT)
    register(maker, world)
    maker.grant(reader, "scorer", f"{world.experiment}/judge", MANAGE)
    assert delete(maker, world).status_code == 200
    register(world.owner, world)
    check_refused(versions(reader, world))
    check_refused(delete(reader, world))
    check_refused(delete(maker, world))


def test_deleting_a_version_leaves_the_grants(people, world):
    reader, maker = people(world, READ, EDIT)
    register(maker, world), register(maker, world)
    maker.grant(reader, "scorer", f"{world.experiment}/judge", READ)
    assert delete(maker, world, version=1).status_code == 200
    assert len(versions(reader, world).json()["scorers"]) == 1


@pytest.mark.parametrize("version", [1.5, "1.5", True, "one", [1], -1])
def test_a_version_that_is_none_deletes_nothing(mlflow_server, people, world, version):
    """MLflow would read it as no version at all, and delete them all."""
    editor, = people(world, EDIT)
    register(editor, world)
    with mlflow_server.unchanged():
        assert delete(editor, world, version=version).status_code == 400


@pytest.fixture
def endpoint(alice, bob):
    """Alice's endpoint of the AI gateway, by its name and id."""
    secret = alice.ok("POST", f"{GATEWAY}/secrets/create", {
        "secret_name": unique("secret"), "secret_value": {"api_key": "sk-1234567890"}, "provider": "openai"})
    definition = alice.ok("POST", f"{GATEWAY}/model-definitions/create", {
        "name": unique("definition"), "secret_id": secret["secret"]["secret_id"], "provider": "openai",
        "model_name": "gpt-4"})["model_definition"]["model_definition_id"]
    name = unique("endpoint")
    return name, new_endpoint(alice, definition, name)


def judges(endpoint):
    """Everything that may hold the model of a judge."""
    model = {"model": f"gateway:/{endpoint}"}
    plain = SCORER["instructions_judge_pydantic_data"]
    judge = SCORER | {"instructions_judge_pydantic_data": plain | model}
    yield judge
    yield SCORER | {"instructions_judge_pydantic_data": plain | {"model": f"gateway://{endpoint}"}}
    yield SCORER | {"instructions_judge_pydantic_data": None, "builtin_scorer_class": "Safety",
                    "builtin_scorer_pydantic_data": {"name": "safety"} | model}
    yield SCORER | {"instructions_judge_pydantic_data": None, "memory_augmented_judge_data": {"base_judge": judge}}


def test_a_judge_calls_an_endpoint_for_those_who_may_use_it(mlflow_server, proxy, alice, endpoint):
    """MLflow's jobs call the AI gateway past this proxy."""
    name, key = endpoint
    mine = World.make(proxy.person("judging"))
    owner, trace = mine.owner, new_trace(mine.owner, mine.experiment)

    def calls():
        for judge in map(json.dumps, judges(name)):
            yield f"{SCORERS}/register", {"experiment_id": mine.experiment, "name": "judge", "serialized_scorer": judge}
            yield f"{SCORERS}/register", {"experiment_id": mine.experiment, "name": "judge", "serializedScorer": judge}
            yield f"{AJAX3}/scorer/invoke", {
                "experiment_id": mine.experiment, "trace_ids": [trace], "serialized_scorer": judge}
            yield f"{AJAX3}/genai/evaluate/invoke", {
                "experiment_id": mine.experiment, "trace_ids": [trace], "serialized_scorers": [json.dumps(SCORER), judge]}
        yield f"{V3}/prompt-optimization/jobs", {
            "experiment_id": mine.experiment, "source_prompt_uri": f"prompts:/{mine.model}/1",
            "config": {"optimizer_type": "OPTIMIZER_TYPE_GEPA",
                       "optimizer_config_json": json.dumps({"reflection_model": f"gateway:/{name}"})}}

    with mlflow_server.unchanged():
        for path, body in calls():
            check_refused(owner.post(path, body))
    alice.grant(owner, "gateway_endpoint", key, "USE")
    for path, body in calls():
        assert owner.post(path, body).status_code != 403, path
    # A scorer that stands in the registry is for whoever may read it.
    register(owner, mine, "seen")
    stranger = proxy.person("stranger")
    owner.grant(stranger, "experiment", mine.experiment, EDIT)
    body = {"experiment_id": mine.experiment, "trace_ids": [trace], "serialized_scorer": json.dumps(SCORER),
            "scorer_name": "seen", "scorer_version": 1}
    check_refused(stranger.post(f"{AJAX3}/scorer/invoke", body))
    owner.grant(stranger, "scorer", f"{mine.experiment}/seen", READ)
    assert stranger.post(f"{AJAX3}/scorer/invoke", body).status_code != 403


def test_registering_needs_edit_on_the_experiment(mlflow_server, people, world, other_world):
    (reader,) = people(world, READ)
    with mlflow_server.unchanged():
        check_refused(reader.post(f"{SCORERS}/register", a_scorer(world)))
        check_refused(world.owner.post(f"{SCORERS}/register", a_scorer(other_world)))
        both = a_scorer(world) | {"experimentId": other_world.experiment}
        assert world.owner.post(f"{SCORERS}/register", both).status_code in (400, 403)


def test_lists_hold_the_readable_scorers(people, world, other_world):
    """Of one experiment with READ on it; of several, or of all, whatever the caller may read."""
    owner = world.owner
    (reader,) = people(world, READ)
    register(owner, world), register(owner, world, "another"), register(other_world.owner, other_world)
    check_refused(owner.get(f"{SCORERS}/list", {"experiment_id": other_world.experiment}))
    assert listed(owner, experiment_id=world.experiment) == {(world.experiment, "judge"), (world.experiment, "another")}
    mine = {(world.experiment, "judge"), (world.experiment, "another")}
    assert listed(owner) == mine
    assert listed(owner, experiment_ids=[world.experiment, other_world.experiment]) == mine
    assert listed(reader) == set()
    owner.grant(reader, "scorer", f"{world.experiment}/judge", READ)
    assert listed(reader) == {(world.experiment, "judge")}
    owner.grant(reader, "experiment", world.experiment, "DENY")
    assert listed(reader) == set()


def test_online_configurations_are_seen_and_set_in_their_experiment(mlflow_server, people, world, other_world):
    (reader,) = people(world, READ)
    owner = world.owner
    mine, theirs = register(owner, world), register(other_world.owner, other_world)
    for person, of in ((owner, world), (other_world.owner, other_world)):
        person.ok("PUT", f"{SCORERS}/online-config", {"experiment_id": of.experiment, "name": "judge", "sample_rate": 0})
    with mlflow_server.unchanged():
        for asked in ([theirs], [mine, theirs], [theirs, mine]):
            check_refused(owner.get(f"{SCORERS}/online-configs", {"scorer_ids": asked}))
        # A body beside the query, or instead of it, asks for nothing more.
        for query in ({}, {"scorer_ids": [mine]}):
            answer = owner.call("GET", f"{SCORERS}/online-configs", params=query, json={"scorer_ids": [theirs]})
            assert theirs not in answer.text
        assert reader.get(f"{SCORERS}/online-configs", {"scorer_ids": [mine]}).status_code == 200
        change = {"name": "judge", "sample_rate": 0}
        check_refused(reader.call("PUT", f"{SCORERS}/online-config", json=change | {"experiment_id": world.experiment}))
        check_refused(owner.call("PUT", f"{SCORERS}/online-config", json=change | {"experiment_id": other_world.experiment}))


def test_a_refused_scorer_neither_runs_nor_shows_through_its_experiment(mlflow_server, people, world, admin):
    """As in MLflow 3.18: DENY on a scorer, or on the versions of all, counts whatever the level on the experiment."""
    (manager,) = people(world, MANAGE)
    scorer, key = register(world.owner, world), f"{world.experiment}/judge"
    named = {"experiment_id": world.experiment, "name": "judge"}
    world.owner.ok("PUT", f"{SCORERS}/online-config", named | {"sample_rate": 0})
    of = {"experiment_id": world.experiment, "trace_ids": [new_trace(world.owner, world.experiment)]}

    def ask():
        yield manager.get(f"{SCORERS}/online-configs", {"scorer_ids": [scorer]})
        yield manager.call("PUT", f"{SCORERS}/online-config", json=named | {"sample_rate": 0})
        yield manager.post(f"{AJAX3}/scorer/invoke", of | {"scorer_name": "judge"})
        yield manager.post(f"{AJAX3}/genai/evaluate/invoke",
                           of | {"serialized_scorers": [json.dumps(SCORER)], "scorer_versions": [1]})

    admin.grant(manager, "scorer", key, READ)
    assert all(answer.status_code != 403 for answer in ask())
    for kind, selector in (("scorer", key), ("scorer", "*"), ("scorer_version", "*")):
        admin.grant(manager, kind, selector, "DENY")
        with mlflow_server.unchanged():
            for answer in ask():
                check_refused(answer)
        admin.ok("POST", f"{V3}/users/permissions/revoke",
                 {"username": manager.name, "resource_type": kind, "resource_id": selector})
        admin.grant(manager, "scorer", key, READ)
    assert all(answer.status_code != 403 for answer in ask())


def test_what_scores_traces_stays_in_one_experiment(mlflow_server, world, other_world):
    owner = world.owner
    mine, theirs = (new_trace(one.owner, one.experiment) for one in (world, other_world))
    serialized = json.dumps(SCORER)

    def calls(experiment, traces):
        yield f"{AJAX3}/scorer/invoke", {"experiment_id": experiment, "trace_ids": traces, "serialized_scorer": serialized}
        yield f"{AJAX3}/genai/evaluate/invoke", {
            "experiment_id": experiment, "trace_ids": traces, "serialized_scorers": [serialized]}
        yield f"{AJAX3}/issues/invoke", {
            "experiment_id": experiment, "trace_ids": traces, "categories": ["c"], "provider": "openai", "model": "m"}

    with mlflow_server.unchanged():
        for path, body in calls(other_world.experiment, [theirs]):
            check_refused(owner.post(path, body))
        # MLflow itself looks at these, once it has a key for the judge.
        for path, body in [*calls(world.experiment, [theirs]), *calls(world.experiment, [mine, theirs])]:
            answer = owner.post(path, body)
            assert answer.status_code in (400, 403), f"{path}: {answer.text}"


def test_prompt_optimisation_takes_what_its_caller_may_read_and_change(mlflow_server, world, other_world):
    """The source prompt and the dataset of a job count as much as its experiment."""
    owner = world.owner
    dataset = other_world.owner.ok("POST", f"{V3}/datasets/create", {
        "name": unique("dataset"), "experiment_ids": [other_world.experiment]})["dataset"]["dataset_id"]

    def job(experiment, prompt, **config):
        return owner.post(f"{V3}/prompt-optimization/jobs", {
            "experiment_id": experiment, "source_prompt_uri": f"prompts:/{prompt}/1",
            "config": {"optimizer_type": "OPTIMIZER_TYPE_GEPA", **config}})

    with mlflow_server.unchanged():
        check_refused(job(other_world.experiment, world.model))
        check_refused(job(world.experiment, other_world.model))
        check_refused(job(world.experiment, world.model, dataset_id=dataset))
        # What comes of it is a further version of the prompt.
        other_world.owner.grant(owner, "registered_model", other_world.model, READ)
        check_refused(job(world.experiment, other_world.model))
        check_refused(owner.get(f"{V3}/prompt-optimization/jobs/search", {"experiment_id": other_world.experiment}))
        check_refused(owner.post(f"{V3}/prompt-optimization/jobs/search", {"experiment_id": other_world.experiment}))
        check_refused(owner.get(f"{V3}/prompt-optimization/jobs/no-such-job"))
