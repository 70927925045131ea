"""What the MLflow client of any version does through the proxy; runs inside that version's environment.

    version_client.py log EXPERIMENT        logs a run and reads it; prints its id
    version_client.py refused EXPERIMENT RUN
    version_client.py experiments PREFIX    prints the names of the experiments one sees, by pages of two
    version_client.py accounts EXPERIMENT MODEL    users and permissions, as an administrator
"""

import json
import os
import secrets
import sys

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient


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
