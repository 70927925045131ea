"""MLflow's own API for users and permissions, both generations, and its client `AuthServiceClient`."""

import re

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from harness import ADMIN, Person, World, new_password, unique

USERS = "/api/2.0/mlflow/users"
GRANTS = "/api/3.0/mlflow/users/permissions"
OLD = {
    "experiment": ("/api/2.0/mlflow/experiments/permissions", "experiment_id", "experiment_permission"),
    "registered_model": ("/api/2.0/mlflow/registered-models/permissions", "name", "registered_model_permission"),
}


def check_error(answer, status, code, message=""):
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    error = answer.json()
    assert error["error_code"] == code
    assert message in error["message"], error["message"]


# ---- users


def test_the_sign_up_page_is_off_until_it_is_turned_on(admin, start_proxy):
    assert admin.get("/signup").status_code == 404
    root = start_proxy(settings={"AUTHN__SIGNUP": "true"}).admin()
    token = re.search(r'name="csrf_token" value="(\S+)"', root.get("/signup").text).group(1)
    name, password = unique("page"), new_password()

    def send(**form):
        # As a browser that is on our page.
        return root.call("POST", f"{USERS}/create-ui", data=form, headers={"Origin": root.url})

    assert "The CSRF token is missing" in send(username=name, password=password).text
    made = send(username=name, password=password, csrf_token=token)
    assert made.status_code == 200 and f"Successfully signed up user: {name}" in made.text
    assert Person(root.front, name, password).get("/signup").status_code == 403


def test_create_and_get_a_user(admin, proxy):
    name, password = unique("new"), new_password()
    made = admin.ok("POST", f"{USERS}/create", {"username": name, "password": password})["user"]
    assert (made["username"], made["is_admin"]) == (name, False)
    assert isinstance(made["id"], int)
    # Older clients read these.
    for key in ("experiment_permissions", "registered_model_permissions", "scorer_permissions"):
        assert made[key] == []
    got = admin.ok("GET", f"{USERS}/get", params={"username": name})["user"]
    assert got == made
    listed = admin.ok("GET", f"{USERS}/list")["users"]
    assert [user["id"] for user in listed if user["username"] == name] == [made["id"]]


def test_the_web_uis_twin_answers_too(alice):
    current = alice.ok("GET", "/ajax-api/2.0/mlflow/users/current")
    assert current == alice.ok("GET", f"{USERS}/current")
    assert set(current["user"]) == {"id", "username", "is_admin"}
    assert current["user"]["username"] == alice.name
    assert current["is_basic_auth"] is True


@pytest.mark.parametrize(("body", "message"), [
    ({"password": "a long password"}, "Missing value for required parameter 'username'"),
    ({"username": "x"}, "Missing value for required parameter 'password'"),
    ({"username": "", "password": "a long password"}, "Username and password cannot be empty."),
    ({"username": "x", "password": ""}, "Username and password cannot be empty."),
    ({"username": None, "password": "a long password"}, "Username and password cannot be empty."),
    ({"username": "x", "password": "elevenchars"}, "Password must be at least 12 characters."),
    ({}, "Missing value for required parameter 'username'"),
], ids=str)
def test_a_bad_user_is_refused(admin, body, message):
    answer = admin.post(f"{USERS}/create", body)
    assert answer.status_code == 400, f"{answer.status_code} {answer.text}"
    assert message in answer.text


def test_a_second_user_of_the_same_name_is_refused(admin, alice):
    password = new_password()
    answer = admin.post(f"{USERS}/create", {"username": alice.name, "password": password})
    check_error(answer, 400, "RESOURCE_ALREADY_EXISTS")
    assert password not in answer.text


def test_only_administrators_make_change_and_delete_users(alice, bob):
    for answer in (
        alice.post(f"{USERS}/create", {"username": unique("x"), "password": new_password()}),
        alice.patch(f"{USERS}/update-admin", {"username": alice.name, "is_admin": True}),
        alice.patch(f"{USERS}/update-admin", {"username": bob.name, "is_admin": True}),
        alice.patch(f"{USERS}/update-password", {"username": bob.name, "password": new_password()}),
        alice.delete(f"{USERS}/delete", {"username": bob.name}),
        alice.get(f"{USERS}/get", {"username": bob.name}),
        alice.get(f"{GRANTS}/list", {"username": bob.name}),
    ):
        check_error(answer, 403, "PERMISSION_DENIED", "Permission denied.")
    assert alice.ok("GET", f"{USERS}/get", params={"username": alice.name})["user"]["is_admin"] is False
    assert bob.get(f"{USERS}/current").status_code == 200


def test_an_unknown_user_is_404(admin):
    name = unique("ghost")
    for answer in (
        admin.get(f"{USERS}/get", {"username": name}),
        admin.patch(f"{USERS}/update-password", {"username": name, "password": new_password()}),
        admin.patch(f"{USERS}/update-admin", {"username": name, "is_admin": True}),
        admin.delete(f"{USERS}/delete", {"username": name}),
    ):
        check_error(answer, 404, "RESOURCE_DOES_NOT_EXIST", f"User with username={name} not found")


def test_changing_ones_own_password_needs_the_old_one(alice):
    def change(**fields):
        return alice.patch(f"{USERS}/update-password", {"username": alice.name, **fields})

    new = new_password()
    assert change(password=new).status_code == 400
    assert "Current password is required" in change(password=new).text
    assert "Current password does not match" in change(password=new, current_password=new_password()).text
    assert "at least 12 characters" in change(password="short", current_password=alice.password).text
    assert alice.get(f"{USERS}/current").status_code == 200
    assert change(password=new, current_password=alice.password).status_code == 200
    assert alice.get(f"{USERS}/current").status_code == 401


def test_an_administrator_is_made_and_unmade(admin, alice, bob):
    world = World.make(bob)
    run = {"run_id": world.run}
    assert alice.get("/api/2.0/mlflow/runs/get", run).status_code == 403
    admin.ok("PATCH", f"{USERS}/update-admin", {"username": alice.name, "is_admin": True})
    assert alice.get("/api/2.0/mlflow/runs/get", run).status_code == 200
    admin.ok("PATCH", f"{USERS}/update-admin", {"username": alice.name, "is_admin": False})
    assert alice.get("/api/2.0/mlflow/runs/get", run).status_code == 403


def test_the_last_administrator_stays(start_proxy):
    admin = start_proxy().admin()
    assert admin.patch(f"{USERS}/update-admin", {"username": ADMIN, "is_admin": False}).status_code == 400
    answer = admin.delete(f"{USERS}/delete", {"username": ADMIN})
    assert answer.status_code == 400
    assert admin.ok("GET", f"{USERS}/current")["user"]["is_admin"] is True


def test_a_deleted_users_grants_do_not_pass_to_the_next_of_that_name(admin, alice, proxy, world):
    name, password = unique("again"), new_password()
    admin.ok("POST", f"{USERS}/create", {"username": name, "password": password})
    person = Person(proxy, name, password)
    alice.grant(person, "experiment", world.experiment, "EDIT")
    assert person.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 200
    admin.ok("DELETE", f"{USERS}/delete", {"username": name})
    assert person.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 401
    admin.ok("POST", f"{USERS}/create", {"username": name, "password": password})
    assert person.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 403


# ---- grants, as MLflow 3.13 and later speak of them


def test_grant_get_list_revoke(alice, bob, world):
    who = {"username": bob.name, "resource_type": "experiment", "resource_id": world.experiment}
    assert bob.ok("GET", f"{GRANTS}/get", params=who) == {"allowed": False, "permission": "NO_PERMISSIONS"}
    assert alice.ok("POST", f"{GRANTS}/grant", who | {"permission": "READ"}) == {}
    # MLflow's `allowed` means USE or more.
    assert bob.ok("GET", f"{GRANTS}/get", params=who) == {"allowed": False, "permission": "READ"}
    (row,) = bob.ok("GET", f"{GRANTS}/list", params={"username": bob.name})["permissions"]
    assert (row["resource_type"], row["resource_pattern"], row["permission"]) == ("experiment", world.experiment, "READ")
    assert row["workspace"] == "default"
    current = bob.ok("GET", "/api/3.0/mlflow/users/current/permissions")
    assert current["is_admin"] is False and len(current["permissions"]) == 1
    check_error(alice.post(f"{GRANTS}/grant", who | {"permission": "EDIT"}), 400, "RESOURCE_ALREADY_EXISTS")
    assert alice.ok("POST", f"{GRANTS}/revoke", who) == {}
    check_error(alice.post(f"{GRANTS}/revoke", who), 404, "RESOURCE_DOES_NOT_EXIST")
    assert bob.ok("GET", f"{GRANTS}/list", params={"username": bob.name})["permissions"] == []


@pytest.mark.parametrize(("change", "message"), [
    ({"permission": "OWNER"}, "Invalid permission 'OWNER'. Valid permissions are:"),
    ({"resource_type": "exp"}, "Invalid resource type 'exp'"),
    ({"username": None}, "username"),
    ({"resource_id": None}, "resource_id"),
    ({"permission": None}, "permission"),
], ids=str)
def test_a_bad_grant_is_refused(alice, bob, world, change, message):
    body = {"username": bob.name, "resource_type": "experiment", "resource_id": world.experiment, "permission": "READ"}
    body = {key: value for key, value in (body | change).items() if value is not None}
    check_error(alice.post(f"{GRANTS}/grant", body), 400, "INVALID_PARAMETER_VALUE", message)
    assert bob.ok("GET", f"{GRANTS}/list", params={"username": bob.name})["permissions"] == []


@pytest.mark.parametrize("permission", ["READ", "EDIT"])
def test_sharing_needs_manage(alice, bob, proxy, world, permission):
    carol = proxy.person("carol")
    alice.grant(bob, "experiment", world.experiment, permission)
    who = {"username": carol.name, "resource_type": "experiment", "resource_id": world.experiment}
    check_error(bob.post(f"{GRANTS}/grant", who | {"permission": "READ"}), 403, "PERMISSION_DENIED")
    who["username"] = bob.name
    check_error(bob.post(f"{GRANTS}/grant", who | {"permission": "MANAGE"}), 403, "PERMISSION_DENIED")
    check_error(bob.post(f"{GRANTS}/revoke", who | {"username": alice.name}), 403, "PERMISSION_DENIED")
    for kind, path in (("experiment", OLD["experiment"]),):
        body = {path[1]: world.experiment, "username": bob.name, "permission": "MANAGE"}
        check_error(bob.patch(f"{path[0]}/update", body), 403, "PERMISSION_DENIED")
        check_error(bob.post(f"{path[0]}/create", body | {"username": carol.name}), 403, "PERMISSION_DENIED")
    assert bob.ok("GET", f"{GRANTS}/get", params=who)["permission"] == permission


def test_a_grant_on_everything_is_for_administrators(alice, bob, world, admin):
    who = {"username": bob.name, "resource_type": "experiment", "resource_id": "*", "permission": "READ"}
    check_error(alice.post(f"{GRANTS}/grant", who), 403, "PERMISSION_DENIED")
    assert bob.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 403
    admin.ok("POST", f"{GRANTS}/grant", who)
    assert bob.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 200


# ---- grants, as MLflow up to 3.12 speaks of them


@pytest.mark.parametrize("kind", OLD)
def test_the_older_generation(alice, bob, world, kind):
    path, field, word = OLD[kind]
    key = world.experiment if kind == "experiment" else world.model
    who = {field: key, "username": bob.name}
    made = alice.ok("POST", f"{path}/create", who | {"permission": "READ"})[word]
    assert (made[field], made["permission"]) == (key, "READ")
    assert isinstance(made["user_id"], int)
    assert alice.ok("GET", f"{path}/get", params=who)[word] == made
    if kind == "registered_model":
        assert made["workspace"] == "default"
        missing = f"Registered model permission with workspace=default, name={key} and username={bob.name} not found"
    else:
        missing = f"Experiment permission with experiment_id={key} and username={bob.name} not found"
    check_error(alice.post(f"{path}/create", who | {"permission": "READ"}), 400, "RESOURCE_ALREADY_EXISTS")
    assert alice.ok("PATCH", f"{path}/update", who | {"permission": "EDIT"}) == {}
    assert alice.ok("GET", f"{path}/get", params=who)[word]["permission"] == "EDIT"
    # Both generations speak of the same grants.
    new = {"username": bob.name, "resource_type": kind, "resource_id": key}
    assert bob.ok("GET", f"{GRANTS}/get", params=new) == {"allowed": True, "permission": "EDIT"}
    assert alice.ok("DELETE", f"{path}/delete", who) == {}
    for answer in (alice.get(f"{path}/get", who), alice.delete(f"{path}/delete", who),
                   alice.patch(f"{path}/update", who | {"permission": "READ"})):
        check_error(answer, 404, "RESOURCE_DOES_NOT_EXIST", missing)
    check_error(bob.get(f"{path}/get", who), 403, "PERMISSION_DENIED")


def test_a_users_grants_show_in_the_older_shape(admin, alice, bob, world):
    alice.grant(bob, "experiment", world.experiment, "READ")
    alice.grant(bob, "registered_model", world.model, "EDIT")
    user = admin.ok("GET", f"{USERS}/get", params={"username": bob.name})["user"]
    assert [(g["experiment_id"], g["permission"]) for g in user["experiment_permissions"]] == [(world.experiment, "READ")]
    assert [(g["name"], g["permission"]) for g in user["registered_model_permissions"]] == [(world.model, "EDIT")]


def test_another_method_is_405(admin):
    for path in (f"{USERS}/create", f"{GRANTS}/grant", "/api/2.0/mlflow/experiments/permissions/create"):
        assert admin.get(path).status_code == 405, path


# ---- the client of 3.17.2


def test_auth_service_client_for_users(admin, proxy):
    name, password, new = unique("client"), new_password(), new_password()
    with admin.mlflow():
        client = mlflow.server.get_app_client("basic-auth", proxy.url)
        assert isinstance(client, AuthServiceClient)
        made = client.create_user(name, password)
        assert (made.username, made.is_admin) == (name, False)
        assert client.get_user(name).id == made.id
        client.update_user_admin(name, True)
        assert client.get_user(name).is_admin is True
        client.update_user_admin(name, False)
        client.update_user_password(name, new)
    assert Person(proxy, name, password).get(f"{USERS}/current").status_code == 401
    person = Person(proxy, name, new)
    assert person.get(f"{USERS}/current").status_code == 200
    with person.mlflow():
        client = AuthServiceClient(proxy.url)
        assert client.get_user(name).username == name
        with pytest.raises(MlflowException, match="Permission denied") as raised:
            client.create_user(unique("x"), new_password())
        assert raised.value.error_code == "PERMISSION_DENIED"
    with admin.mlflow():
        client = AuthServiceClient(proxy.url)
        client.delete_user(name)
        with pytest.raises(MlflowException, match=f"User with username={name} not found") as raised:
            client.get_user(name)
        assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_auth_service_client_for_grants(alice, bob, proxy, world):
    with alice.mlflow():
        client = AuthServiceClient(proxy.url)
        before = client.get_user_permission(alice.name, "experiment", world.experiment)
        assert (before.permission, before.allowed) == ("MANAGE", True)
        client.grant_user_permission(bob.name, "experiment", world.experiment, "USE")
        client.grant_user_permission(bob.name, "registered_model", world.model, "READ")
        with pytest.raises(MlflowException) as raised:
            client.grant_user_permission(bob.name, "experiment", world.experiment, "READ")
        assert raised.value.error_code == "RESOURCE_ALREADY_EXISTS"
    with bob.mlflow() as tracking:
        client = AuthServiceClient(proxy.url)
        mine = client.get_user_permission(bob.name, "experiment", world.experiment)
        assert (mine.permission, mine.allowed) == ("USE", True)
        assert tracking.get_run(world.run).info.run_id == world.run
        with pytest.raises(MlflowException) as raised:
            client.grant_user_permission(bob.name, "experiment", world.experiment, "MANAGE")
        assert raised.value.error_code == "PERMISSION_DENIED"
    with alice.mlflow():
        client = AuthServiceClient(proxy.url)
        client.revoke_user_permission(bob.name, "experiment", world.experiment)
        with pytest.raises(MlflowException) as raised:
            client.revoke_user_permission(bob.name, "experiment", world.experiment)
        assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert bob.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 403
