"""Roles as MLflow's own client makes them, and what they give on a real experiment."""

import json

import pytest
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from harness import new_password, unique, wait_until

RUN = "/api/2.0/mlflow/runs/get"
ROLES = "/api/3.0/mlflow/roles"
GRANTS = "/api/3.0/mlflow/users/permissions"


class Client:
    """`AuthServiceClient` as somebody; their credentials are in force during each call."""

    def __init__(self, person, url):
        self.person, self.client = person, AuthServiceClient(url)

    def __getattr__(self, name):
        def call(*arguments, **more):
            with self.person.mlflow():
                return getattr(self.client, name)(*arguments, **more)

        return call

    def refused(self, code, name, *arguments, match="", **more):
        with pytest.raises(MlflowException, match=match) as raised:
            getattr(self, name)(*arguments, **more)
        assert raised.value.error_code == code, raised.value


@pytest.fixture
def client_of(proxy):
    return lambda person: Client(person, proxy.url)


@pytest.fixture
def root(admin, client_of):
    return client_of(admin)


@pytest.fixture
def role(root):
    made = root.create_role("default", unique("role"), "for a test")
    yield made
    if any(left.id == made.id for left in root.list_all_roles()):
        root.delete_role(made.id)


@pytest.fixture
def workspace_admin(bob, root):
    """Bob, as an administrator of a workspace of its own name."""
    name = unique("team")
    made = root.create_role(name, "admins")
    root.add_role_permission(made.id, "workspace", "*", "MANAGE")
    root.assign_role(bob.name, made.id)
    return name


def may_read(person, world):
    status = person.get(RUN, {"run_id": world.run}).status_code
    assert status in (200, 403), status
    return status == 200


def test_the_life_of_a_role(root, bob):
    name = unique("role")
    made = root.create_role("default", name, "they look")
    assert (made.name, made.workspace, made.description, made.permissions) == (name, "default", "they look", [])
    root.refused("RESOURCE_ALREADY_EXISTS", "create_role", "default", name, match="already exists")
    assert root.get_role(made.id).name == name
    assert root.update_role(made.id, name=name + "2", description="they only look").name == name + "2"
    root.refused("INVALID_PARAMETER_VALUE", "update_role", made.id, match="At least one of 'name' or 'description'")

    given = root.add_role_permission(made.id, "experiment", "*", "READ")
    assert (given.role_id, given.resource_type, given.resource_pattern, given.permission) == (
        made.id, "experiment", "*", "READ")
    assert root.update_role_permission(given.id, "EDIT").permission == "EDIT"
    assert [row.permission for row in root.list_role_permissions(made.id)] == ["EDIT"]
    root.refused("RESOURCE_ALREADY_EXISTS", "add_role_permission", made.id, "experiment", "*", "READ")
    root.remove_role_permission(given.id)
    assert root.list_role_permissions(made.id) == []
    root.refused("RESOURCE_DOES_NOT_EXIST", "remove_role_permission", given.id, match="not found")

    assignment = root.assign_role(bob.name, made.id)
    assert assignment.role_id == made.id
    root.refused("RESOURCE_ALREADY_EXISTS", "assign_role", bob.name, made.id, match="already exists")
    assert [one.user_id for one in root.list_role_users(made.id)] == [assignment.user_id]
    assert [held.id for held in root.list_user_roles(bob.name)] == [made.id]
    assert made.id in [one.id for one in root.list_roles("default")]
    root.unassign_role(bob.name, made.id)
    root.refused("RESOURCE_DOES_NOT_EXIST", "unassign_role", bob.name, made.id, match="not found")
    root.delete_role(made.id)
    root.refused("RESOURCE_DOES_NOT_EXIST", "get_role", made.id, match=f"Role with id={made.id} not found")


def test_what_a_role_gives_holds_at_the_next_request_and_ends_with_it(root, role, bob, world):
    assert not may_read(bob, world)
    given = root.add_role_permission(role.id, "experiment", world.experiment, "READ")
    assert not may_read(bob, world)
    root.assign_role(bob.name, role.id)
    assert may_read(bob, world)
    with bob.mlflow() as tracking:
        assert tracking.get_experiment(world.experiment).experiment_id == world.experiment
    rename = {"experiment_id": world.experiment, "new_name": unique("renamed")}
    assert bob.post("/api/2.0/mlflow/experiments/update", rename).status_code == 403
    root.update_role_permission(given.id, "EDIT")
    assert bob.post("/api/2.0/mlflow/experiments/update", rename).status_code == 200
    root.remove_role_permission(given.id)
    assert not may_read(bob, world)
    root.add_role_permission(role.id, "experiment", "*", "READ")
    assert may_read(bob, world)
    root.unassign_role(bob.name, role.id)
    assert not may_read(bob, world)
    root.assign_role(bob.name, role.id)
    assert may_read(bob, world)
    root.delete_role(role.id)
    assert not may_read(bob, world)


def test_a_deny_of_a_role_beats_a_grant_of_ones_own(root, role, alice, world):
    assert may_read(alice, world)
    root.add_role_permission(role.id, "experiment", world.experiment, "DENY")
    root.assign_role(alice.name, role.id)
    assert not may_read(alice, world)
    mine = {"username": alice.name, "resource_type": "experiment", "resource_id": world.experiment}
    assert alice.ok("GET", f"{GRANTS}/get", params=mine) == {"allowed": False, "permission": "DENY"}


def test_a_role_of_another_workspace_gives_nothing_here(root, bob, world):
    elsewhere = root.create_role(unique("team"), "readers")
    root.add_role_permission(elsewhere.id, "experiment", "*", "MANAGE")
    root.assign_role(bob.name, elsewhere.id)
    assert not may_read(bob, world)


@pytest.mark.parametrize("tier", [
    "run", "trace", "assessment", "logged_model", "review_queue", "registered_model_version", "prompt_version",
    "scorer_version", "mcp_server_version",
])
def test_a_tier_is_granted_as_a_whole(root, role, bob, tier):
    message = "This resource type supports only wildcard"
    assert root.add_role_permission(role.id, tier, "*", "READ").resource_type == tier
    root.refused("INVALID_PARAMETER_VALUE", "add_role_permission", role.id, tier, "abc", "READ", match=message)
    root.grant_user_permission(bob.name, tier, "*", "DENY")
    root.refused("INVALID_PARAMETER_VALUE", "grant_user_permission", bob.name, tier, "abc", "READ", match=message)
    root.revoke_user_permission(bob.name, tier, "*")


def test_a_role_on_runs_takes_runs_away_and_leaves_the_experiment(root, role, alice, bob, world):
    alice.grant(bob, "experiment", world.experiment, "EDIT")
    root.assign_role(bob.name, role.id)
    tag = {"run_id": world.run, "key": "k", "value": "v"}
    assert bob.post("/api/2.0/mlflow/runs/set-tag", tag).status_code == 200
    given = root.add_role_permission(role.id, "run", "*", "READ")
    assert may_read(bob, world)
    assert bob.post("/api/2.0/mlflow/runs/set-tag", tag).status_code == 403
    root.update_role_permission(given.id, "DENY")
    assert not may_read(bob, world)
    experiment = {"experiment_id": world.experiment}
    assert bob.get("/api/2.0/mlflow/experiments/get", experiment).status_code == 200
    root.remove_role_permission(given.id)
    assert bob.post("/api/2.0/mlflow/runs/set-tag", tag).status_code == 200


@pytest.mark.parametrize(("kind", "pattern", "permission", "message"), [
    ("exp", "1", "READ", "Invalid resource type 'exp'. Valid resource types are: ('assessment', 'experiment', "),
    ("job", "1", "READ", "Invalid resource type 'job'"),
    ("experiment", "1", "OWNER", "Invalid permission 'OWNER'. Valid permissions are: ('READ', 'USE', 'EDIT', "),
    ("experiment", "1", "NO_PERMISSIONS", "Resource-level grants accept only: ('DENY', 'EDIT', 'MANAGE', 'READ', 'USE')."),
    ("workspace", "*", "EDIT", "Workspace-wide grants accept only: ('MANAGE', 'USE')."),
    ("workspace", "default", "USE", "This resource type supports only wildcard ('*') grants."),
])
def test_a_wrong_permission_is_refused_in_mlflows_words(admin, role, kind, pattern, permission, message):
    body = {"role_id": role.id, "resource_type": kind, "resource_pattern": pattern, "permission": permission}
    answer = admin.post(f"{ROLES}/permissions/add", body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), answer.text
    assert message in answer.json()["message"]


def test_who_is_no_administrator_manages_no_roles(root, role, alice, bob, client_of):
    given = root.add_role_permission(role.id, "experiment", "*", "READ")
    theirs = client_of(bob)
    for name, *arguments in [
        ("create_role", "default", unique("x")),
        ("get_role", role.id),
        ("list_roles", "default"),
        ("list_all_roles",),
        ("update_role", role.id, "x"),
        ("delete_role", role.id),
        ("add_role_permission", role.id, "experiment", "*", "MANAGE"),
        ("update_role_permission", given.id, "MANAGE"),
        ("remove_role_permission", given.id),
        ("list_role_permissions", role.id),
        ("assign_role", bob.name, role.id),
        ("unassign_role", alice.name, role.id),
        ("list_role_users", role.id),
        ("list_user_roles", alice.name),
        # What is not there is refused alike.
        ("get_role", 10**9),
        ("remove_role_permission", 10**9),
        ("list_user_roles", unique("ghost")),
    ]:
        theirs.refused("PERMISSION_DENIED", name, *arguments, match="Permission denied.")
    root.assign_role(bob.name, role.id)
    assert theirs.get_role(role.id).id == role.id
    theirs.refused("PERMISSION_DENIED", "list_role_users", role.id)
    theirs.refused("PERMISSION_DENIED", "add_role_permission", role.id, "experiment", "*", "MANAGE")


def test_nobody_sees_what_others_were_granted_themselves(root, role, alice, bob, world, client_of):
    root.assign_role(bob.name, role.id)
    own = root.list_user_roles(alice.name)
    assert own[0].name.startswith("__user_") and own[0].workspace == "default"
    assert world.experiment in [row.resource_pattern for row in own[0].permissions]
    assert own[0].id in [one.id for one in root.list_all_roles()]
    theirs = client_of(bob)
    assert role.id in [one.id for one in theirs.list_roles("default")]
    assert not [one.name for one in theirs.list_roles("default") if one.name.startswith("__user_")]
    theirs.refused("PERMISSION_DENIED", "get_role", own[0].id)
    theirs.refused("PERMISSION_DENIED", "list_role_permissions", own[0].id)
    users = {user["username"]: user for user in bob.ok("GET", "/ajax-api/2.0/mlflow/users/list")["users"]}
    assert users[alice.name]["roles"] == []
    assert [held["id"] for held in users[bob.name]["roles"]] == [role.id]
    rows = bob.ok("GET", "/ajax-api/3.0/mlflow/users/current/permissions")
    assert rows == {"is_admin": False, "permissions": []}
    root.add_role_permission(role.id, "prompt", "*", "USE")
    rows = bob.ok("GET", "/ajax-api/3.0/mlflow/users/current/permissions")["permissions"]
    assert [(row["role_name"], row["resource_type"], row["permission"]) for row in rows] == [
        (role.name, "prompt", "USE")]
    root.refused("INVALID_PARAMETER_VALUE", "create_role", "default", "__user_7__", match="reserved '__user_' prefix")


def test_an_administrator_of_a_workspace_is_one_there_only(root, workspace_admin, alice, bob, world, client_of):
    theirs, team = client_of(bob), workspace_admin
    made = theirs.create_role(team, "readers")
    theirs.add_role_permission(made.id, "experiment", "*", "MANAGE")
    theirs.assign_role(alice.name, made.id)
    assert [held.id for held in theirs.list_user_roles(alice.name)] == [made.id], "and not what she was granted"
    assert {one.name for one in theirs.list_roles(team)} == {"admins", "readers"}
    both = [("workspace", team), ("workspace", "default")]
    assert bob.get(f"{ROLES}/list", both).status_code == 403
    listed = root.person.ok("GET", f"{ROLES}/list", params=both)["roles"]
    assert {role["workspace"] for role in listed} == {team, "default"}
    theirs.assign_role(bob.name, made.id)
    assert not may_read(bob, world), "not even by a role of their own making"
    for name, *arguments in [
        ("create_role", "default", "x"),
        ("list_roles", "default"),
        ("list_all_roles",),
        ("grant_user_permission", bob.name, "experiment", "*", "READ"),
        ("update_user_admin", bob.name, True),
        ("delete_user", alice.name),
    ]:
        theirs.refused("PERMISSION_DENIED", name, *arguments)
    assert theirs.create_user(unique("new"), new_password()).is_admin is False
    assert [held.id for held in client_of(alice).list_user_roles(alice.name) if held.workspace == team] == [made.id]
    theirs.delete_role(made.id)


def test_an_administrator_of_the_default_workspace_manages_every_resource(root, role, bob, world, client_of):
    experiment = world.experiment
    root.grant_user_permission(bob.name, "experiment", experiment, "DENY")
    root.add_role_permission(role.id, "workspace", "*", "MANAGE")
    root.assign_role(bob.name, role.id)
    theirs = client_of(bob)
    assert may_read(bob, world)
    assert theirs.get_user_permission(bob.name, "experiment", experiment).permission == "MANAGE"
    theirs.revoke_user_permission(bob.name, "experiment", experiment)
    theirs.refused("PERMISSION_DENIED", "update_user_admin", bob.name, True)
    root.unassign_role(bob.name, role.id)
    assert not may_read(bob, world)


def test_the_command_line_manages_roles_too(proxy, bob, world):
    def cli(*arguments):
        return json.loads(proxy.cli("role", *arguments, "--json").stdout)

    name = unique("role")
    made = cli("create", name, "--description", "from the command line")
    assert (made["name"], made["workspace"], made["members"], made["permissions"]) == (name, "default", [], [])
    assert cli("assign", name, "--user", bob.name)["members"] == [bob.name]
    given = cli("grant", name, "--experiment", world.experiment, "--permission", "READ")
    assert (given["subject_type"], given["subject"]) == ("role", f"default/{name}")
    wait_until(lambda: may_read(bob, world), 2, "the role is noticed")
    listed = [role for role in cli("list")["roles"] if role["name"] == name]
    assert listed[0]["permissions"] == [
        {"resource_type": "experiment", "resource": world.experiment, "permission": "READ"}]
    (line,) = [line for line in proxy.cli("role", "list").stdout.splitlines() if name in line]
    assert line.split()[1:] == ["default", name, "1", "1"]
    shown = proxy.cli("role", "show", name).stdout
    assert bob.name in shown and "READ" in shown and world.experiment in shown
    cli("revoke", name, "--experiment", world.experiment)
    wait_until(lambda: not may_read(bob, world), 2, "the revocation is noticed")
    cli("unassign", name, "--user", bob.name)
    cli("delete", name)
    for wrong in (["delete", name], ["create", "__user_1__"], ["grant", name, "--type", "run", "--resource", "x",
                                                                "--permission", "READ"]):
        assert proxy.cli("role", *wrong, check=False).returncode == 1
