"""What the MLflow client of any version does through the proxy; runs inside that version's environment.

    version_client.py log EXPERIMENT        logs a run and reads it; prints its id
    version_client.py story EXPERIMENT MODEL    whatever else the client of this version can do, and reads it again
    version_client.py refused EXPERIMENT RUN
    version_client.py experiments PREFIX    prints the names of the experiments one sees, by pages of two
    version_client.py accounts EXPERIMENT MODEL    users and permissions, as an administrator
"""

import json
import os
import secrets
import sys

# A trace is there when its span has ended.
os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.server.auth.client import AuthServiceClient  # noqa: E402


def log(experiment):
    client = mlflow.MlflowClient()
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_params({"rate": 0.1, "layers": 3})
        for step in range(3):
            mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
        mlflow.set_tag("stage", "smoke")
        mlflow.log_text("hello", "notes/hello.txt")
    data = client.get_run(run.info.run_id).data
    assert data.params == {"rate": "0.1", "layers": "3"}, data.params
    assert data.tags["stage"] == "smoke"
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]
    assert [found.info.run_id for found in client.search_runs([experiment])] == [run.info.run_id]
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/hello.txt") == "hello"
    print(run.info.run_id)


def story(experiment, model):
    client = mlflow.MlflowClient()
    run = client.create_run(experiment, tags={"made": "by the client"}).info.run_id
    batch(client, run)
    inputs(run)
    registry(client, run, model)
    if hasattr(client, "create_logged_model"):  # 3.0; with OpenTelemetry of today, 2.x does not end its traces
        traces(client, experiment)
        logged_models(client, experiment, run)
        assessments()
    if hasattr(getattr(mlflow, "genai", None), "register_prompt"):
        prompts(f"{model}-prompt")
    if hasattr(client, "create_skill"):  # 3.18
        for organization in ("", "acme"):
            skills(client, f"{model}-skill", organization)
    client.set_experiment_tag(experiment, "stage", "told")
    client.set_terminated(run, "FINISHED")
    client.delete_run(run)
    client.restore_run(run)
    print("told")


def batch(client, run):
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric("m", value, 1700000000000, step) for step, value in enumerate([0.5, float("nan"), float("inf"), -1e300])]
    client.log_batch(run, metrics=metrics, params=[Param("p", "1")], tags=[RunTag("t", "1")])
    client.set_tag(run, "note", "ä\nb")
    client.delete_tag(run, "t")
    found = client.get_run(run).data
    assert found.params == {"p": "1"} and found.tags["note"] == "ä\nb" and "t" not in found.tags
    assert len(client.get_metric_history(run, "m")) == 4


def inputs(run):
    import pandas

    data = mlflow.data.from_pandas(pandas.DataFrame({"x": [1, 2]}), name="data", targets=None)
    with mlflow.start_run(run_id=run):
        mlflow.log_input(data, context="training", **({"tags": {"k": "v"}} if accepts(mlflow.log_input, "tags") else {}))
    assert [one.dataset.name for one in mlflow.get_run(run).inputs.dataset_inputs] == ["data"]


def registry(client, run, model):
    client.create_registered_model(model, tags={"team": "a"}, description="first")
    client.update_registered_model(model, description="second")
    client.log_text(run, "x", "model/MLmodel")
    source = f"{client.get_run(run).info.artifact_uri}/model"
    version = client.create_model_version(model, source, run_id=run, tags={"v": "1"}, description="d").version
    client.update_model_version(model, version, description="e")
    client.set_model_version_tag(model, version, "more", "1")
    client.delete_model_version_tag(model, version, "more")
    client.set_registered_model_alias(model, "champion", version)
    assert client.get_model_version_by_alias(model, "champion").description == "e"
    client.delete_registered_model_alias(model, "champion")
    client.transition_model_version_stage(model, version, "Staging", archive_existing_versions=True)
    assert [one.name for one in client.search_registered_models(f"name = '{model}'")] == [model]
    assert [one.version for one in client.search_model_versions(f"name = '{model}'")] == [version]
    assert client.get_model_version_download_uri(model, version) == source
    client.delete_model_version(model, version)
    client.rename_registered_model(model, f"{model}-renamed")
    client.delete_registered_model(f"{model}-renamed")


def traces(client, experiment):
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_span("outer", span_type="CHAIN", attributes={"a": 1}) as span:
        span.set_inputs({"question": "what"})
        with mlflow.start_span("inner") as inner:
            inner.set_outputs([1, "b", None])
        span.set_outputs({"answer": "this"})
    found = client.search_traces([experiment]) if accepts(client.search_traces, "experiment_ids") else client.search_traces(
        locations=[experiment])
    assert len(found) == 1, found
    trace = getattr(found[0].info, "trace_id", None) or found[0].info.request_id
    client.set_trace_tag(trace, "kind", "smoke")
    client.delete_trace_tag(trace, "kind")
    assert len(client.get_trace(trace).data.spans) == 2


def logged_models(client, experiment, run):
    made = client.create_logged_model(experiment, name="logged", source_run_id=run, tags={"a": "b"}, params={"p": "1"},
                                      model_type="agent")
    client.log_metric(run, "accuracy", 0.5, model_id=made.model_id)
    client.set_logged_model_tags(made.model_id, {"c": "d"})
    client.finalize_logged_model(made.model_id, "READY")
    found = client.search_logged_models([experiment], filter_string="name = 'logged'", order_by=[{"field_name": "creation_time"}])
    assert [one.model_id for one in found] == [made.model_id]
    assert client.get_logged_model(made.model_id).tags["c"] == "d"
    client.delete_logged_model_tag(made.model_id, "c")


def assessments():
    from mlflow.entities import AssessmentSource

    trace = mlflow.get_last_active_trace_id()
    made = mlflow.log_feedback(trace_id=trace, name="good", value={"score": 0.5, "why": [True, None]}, rationale="r",
                               source=AssessmentSource("HUMAN", "me"), metadata={"k": "v"})
    mlflow.log_expectation(trace_id=trace, name="expected", value="this")
    mlflow.update_assessment(trace_id=trace, assessment_id=made.assessment_id, assessment=mlflow.entities.Feedback(
        name="good", value=False, source=AssessmentSource("HUMAN", "me")))
    assert mlflow.get_assessment(trace_id=trace, assessment_id=made.assessment_id).name == "good"
    mlflow.delete_assessment(trace_id=trace, assessment_id=made.assessment_id)


def prompts(name):
    mlflow.genai.register_prompt(name=name, template="Say {{ this }}", commit_message="first", tags={"k": "v"})
    mlflow.genai.set_prompt_alias(name, alias="live", version=1)
    assert mlflow.genai.load_prompt(f"prompts:/{name}@live").template == "Say {{ this }}"


def skills(client, name, organization):
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        with open(f"{folder}/SKILL.md", "w") as file:
            file.write(f"---\nname: {name}\ndescription: a skill\n---\nSay hello.\n")
        made = mlflow.genai.register_skill(source=folder, organization=organization)
    named = {"name": name, "organization": organization}
    assert (made.name, made.organization, made.version) == (name, organization, 1)
    client.set_skill_alias(**named, alias="live", version=1)
    client.set_skill_tag(**named, key="team/first", value="v")
    client.set_skill_version_tag(**named, version=1, key="k", value="v")
    key = f"@{organization}/{name}" if organization else name
    with TemporaryDirectory() as folder:
        pulled = mlflow.genai.pull(f"skills:/{key}@live", destination=f"{folder}/to")
        assert "Say hello." in open(f"{pulled}/SKILL.md").read()
    client.update_skill(**named, description="changed")
    found = client.get_skill(**named)
    assert (found.description, found.tags, found.aliases) == ("changed", {"team/first": "v"}, {"live": 1})
    client.delete_skill_tag(**named, key="team/first")
    assert [one.name for one in mlflow.genai.search_skills(include_skill_identities=[key])] == [name]
    remote = client.create_skill_version(**named, source="git+https://example.com/skills.git")
    assert sorted(one.version for one in client.search_skill_versions(**named)) == [1, remote.version]
    client.delete_skill_alias(**named, alias="live")
    client.delete_skill(**named)


def accepts(function, argument):
    import inspect

    return argument in inspect.signature(function).parameters


def refused(experiment, run):
    client = mlflow.MlflowClient()
    check_refused(client.get_run, run)
    check_refused(client.get_experiment, experiment)
    check_refused(client.create_run, experiment)
    check_refused(client.set_tag, run, "k", "v")
    check_refused(client.delete_run, run)
    try:
        assert client.search_runs([experiment]) == []
    except MlflowException as error:
        assert "ermission denied" in str(error), error


def check_refused(call, *arguments):
    try:
        result = call(*arguments)
    except MlflowException as error:
        assert error.error_code == "PERMISSION_DENIED", error
    else:
        raise AssertionError(f"{call.__name__} gave {result}")


def experiments(prefix):
    client, seen, token = mlflow.MlflowClient(), [], None
    while True:
        page = client.search_experiments(max_results=2, page_token=token, filter_string=f"name LIKE '{prefix}%'")
        assert len(page) <= 2
        seen += [experiment.name for experiment in page]
        token = page.token
        if not token:
            break
        assert len(page) == 2, "a page that is not the last one is full"
    print(json.dumps(seen))


def accounts(experiment, model):
    client = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    name, password = "user-" + secrets.token_hex(4), "pw-" + secrets.token_hex(12)
    user = client.create_user(name, password)
    assert (user.username, user.is_admin) == (name, False)
    assert client.get_user(name).id == user.id
    client.update_user_admin(name, True)
    assert client.get_user(name).is_admin
    client.update_user_admin(name, False)
    client.update_user_password(name, "pw-" + secrets.token_hex(12))
    if hasattr(client, "grant_user_permission"):
        by_grants(client, name, experiment, model)
    else:
        by_resource(client, name, experiment, model)
    client.delete_user(name)
    check_missing(client.get_user, name)


def by_resource(client, user, experiment, model):
    """Permissions until 3.12: four calls for each kind of thing."""
    for kind, key in (("experiment", experiment), ("registered_model", model)):
        made = getattr(client, f"create_{kind}_permission")(key, user, "READ")
        assert made.permission == "READ"
        get = getattr(client, f"get_{kind}_permission")
        assert get(key, user).permission == "READ"
        getattr(client, f"update_{kind}_permission")(key, user, "EDIT")
        assert get(key, user).permission == "EDIT"
        getattr(client, f"delete_{kind}_permission")(key, user)
        check_missing(get, key, user)


def by_grants(client, user, experiment, model):
    """Permissions since 3.12: grants and roles."""
    for kind, key in (("experiment", experiment), ("registered_model", model)):
        client.grant_user_permission(user, kind, key, "EDIT")
        assert client.get_user_permission(user, kind, key).permission == "EDIT"
        client.revoke_user_permission(user, kind, key)
    role = client.create_role("default", "role-" + secrets.token_hex(4))
    permission = client.add_role_permission(role.id, "experiment", experiment, "READ")
    client.assign_role(user, role.id)
    assert role.id in [held.id for held in client.list_user_roles(user)]
    assert permission.id in [one.id for one in client.list_role_permissions(role.id)]
    client.update_role_permission(permission.id, "EDIT")
    client.remove_role_permission(permission.id)
    client.unassign_role(user, role.id)
    client.delete_role(role.id)


def check_missing(call, *arguments):
    try:
        result = call(*arguments)
    except MlflowException as error:
        assert error.error_code == "RESOURCE_DOES_NOT_EXIST", error
    else:
        raise AssertionError(f"{call.__name__} gave {result}")


globals()[sys.argv[1]](*sys.argv[2:])
