"""The AI gateway's own things: who makes one owns it, what may not be seen is in no list, and no key is ever told."""

import pytest

from endpoints_gateway import (
    GATEWAY,
    definition_on,
    endpoint_on,
    model_config,
    new_definition,
    new_endpoint,
    new_secret,
)
from harness import PROXIES, new_password, unique
from provider import the_provider
from test_ownership import level

SECRET, DEFINITION, ENDPOINT = "gateway_secret", "gateway_model_definition", "gateway_endpoint"
AJAX = "/ajax-api/3.0/mlflow/gateway"


class Kind:
    """One of the three things that the gateway is made of, and the requests about it."""

    def __init__(self, kind, path, listed, key, make):
        self.kind, self.path, self.listed, self.key, self.make = kind, f"{GATEWAY}/{path}", listed, key, make

    def get(self, who, key):
        return who.get(f"{self.path}/get", {self.key: key}).status_code

    def delete(self, who, key):
        return who.delete(f"{self.path}/delete", {self.key: key})

    def list(self, who, **params):
        return [row[self.key] for row in who.ok("GET", f"{self.path}/list", params=params).get(self.listed, [])]

    def __repr__(self):
        return self.kind


def a_definition(who, name=None):
    return new_definition(who, new_secret(who), name)


def an_endpoint(who, name=None):
    return new_endpoint(who, a_definition(who), name)


KINDS = [
    Kind(SECRET, "secrets", "secrets", "secret_id", new_secret),
    Kind(DEFINITION, "model-definitions", "model_definitions", "model_definition_id", a_definition),
    Kind(ENDPOINT, "endpoints", "endpoints", "endpoint_id", an_endpoint),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=repr)


@every_kind
def test_the_creator_gets_manage(alice, bob, kind):
    key = kind.make(alice)
    assert level(alice, kind.kind, key) == "MANAGE"
    assert level(bob, kind.kind, key) == "NO_PERMISSIONS"
    assert kind.get(alice, key) == 200
    assert kind.get(bob, key) == 403


@every_kind
def test_deleting_drops_everybodys_grants(alice, bob, proxy, kind):
    key = kind.make(alice)
    alice.grant(bob, kind.kind, key, "EDIT")
    assert kind.delete(bob, key).status_code == 403
    assert kind.delete(alice, key).status_code == 200
    assert not proxy.rows("SELECT 1 FROM grants WHERE selector = ?", key)


@every_kind
def test_one_of_the_same_name_is_not_inherited(alice, bob, kind):
    name = unique("again")
    key = kind.make(alice, name)
    alice.grant(bob, kind.kind, key, "MANAGE")
    assert kind.delete(alice, key).status_code == 200
    again = kind.make(alice, name)
    assert kind.get(bob, again) == 403
    assert level(bob, kind.kind, again) == "NO_PERMISSIONS"


@every_kind
def test_a_name_that_is_taken_gives_nothing(alice, bob, mlflow_server, kind):
    name = unique("taken")
    key = kind.make(alice, name)
    before = mlflow_server.state()
    body = {
        SECRET: {"secret_name": name, "secret_value": {"api_key": new_password()}, "provider": "openai"},
        DEFINITION: definition_on("s-of-nobody", name),
        ENDPOINT: {"name": name, "model_configs": []},
    }[kind.kind]
    assert bob.post(f"{kind.path}/create", body).status_code in (400, 403, 404)
    assert mlflow_server.state() == before
    assert kind.get(bob, key) == 403


@every_kind
def test_lists_show_what_may_be_read(alice, bob, kind):
    shown, hidden = kind.make(alice), kind.make(alice)
    assert kind.list(bob) == []
    alice.grant(bob, kind.kind, shown, "READ")
    for path in (kind.path, kind.path.replace("/api/", "/ajax-api/")):
        rows = bob.ok("GET", f"{path}/list").get(kind.listed, [])
        assert [row[kind.key] for row in rows] == [shown]
    assert {shown, hidden} <= set(kind.list(alice))


def test_a_list_of_a_hidden_secrets_models_is_refused(alice, bob):
    secret = new_secret(alice)
    definition = new_definition(alice, secret)
    for path in ("model-definitions/list", "endpoints/list"):
        assert bob.get(f"{GATEWAY}/{path}", {"secret_id": secret}).status_code == 403
    alice.grant(bob, SECRET, secret, "READ")
    alice.grant(bob, DEFINITION, definition, "READ")
    found = bob.ok("GET", f"{GATEWAY}/model-definitions/list", params={"secret_id": secret})
    assert [row["model_definition_id"] for row in found["model_definitions"]] == [definition]


# ---- one thing names another: permission on one is no permission on the other


def test_a_model_definition_needs_use_of_its_secret(alice, bob, mlflow_server):
    secret, mine = new_secret(alice), new_secret(bob)
    own = new_definition(bob, mine)
    for permission in (None, "READ"):
        if permission:
            alice.grant(bob, SECRET, secret, permission)
        before = mlflow_server.state()
        assert bob.post(f"{GATEWAY}/model-definitions/create", definition_on(secret)).status_code == 403
        moved = bob.post(f"{GATEWAY}/model-definitions/update", {"model_definition_id": own, "secret_id": secret})
        assert moved.status_code == 403
        assert mlflow_server.state() == before
    alice.grant(bob, SECRET, secret, "USE")
    assert new_definition(bob, secret)
    bob.ok("POST", f"{GATEWAY}/model-definitions/update", {"model_definition_id": own, "secret_id": secret})


def test_an_endpoint_needs_use_of_every_model_definition(alice, bob, mlflow_server):
    theirs, mine = a_definition(alice), a_definition(bob)
    endpoint = new_endpoint(bob, mine)
    both = [model_config(mine), model_config(theirs)]
    for permission in (None, "READ"):
        if permission:
            alice.grant(bob, DEFINITION, theirs, permission)
        before = mlflow_server.state()
        refused = [
            bob.post(f"{GATEWAY}/endpoints/create", endpoint_on(theirs)),
            bob.post(f"{GATEWAY}/endpoints/create", endpoint_on(mine) | {"model_configs": both}),
            bob.post(f"{GATEWAY}/endpoints/update", {"endpoint_id": endpoint, "model_configs": both}),
            bob.post(f"{GATEWAY}/endpoints/models/attach", {"endpoint_id": endpoint, "model_config": model_config(theirs)}),
        ]
        assert [answer.status_code for answer in refused] == [403] * 4
        assert mlflow_server.state() == before
    alice.grant(bob, DEFINITION, theirs, "USE")
    assert new_endpoint(bob, theirs)
    bob.ok("POST", f"{GATEWAY}/endpoints/models/attach", {"endpoint_id": endpoint, "model_config": model_config(theirs)})


def test_an_endpoint_writes_into_no_foreign_experiment(alice, bob, world, mlflow_server):
    """Usage is traced into the experiment that the endpoint names."""
    definition = a_definition(bob)
    before = mlflow_server.state()
    body = endpoint_on(definition) | {"experiment_id": world.experiment, "usage_tracking": True}
    assert bob.post(f"{GATEWAY}/endpoints/create", body).status_code == 403
    assert mlflow_server.state() == before
    endpoint = new_endpoint(bob, definition)
    moved = bob.post(f"{GATEWAY}/endpoints/update", {"endpoint_id": endpoint, "experiment_id": world.experiment})
    assert moved.status_code == 403
    alice.grant(bob, "experiment", world.experiment, "EDIT")
    bob.ok("POST", f"{GATEWAY}/endpoints/create", body | {"name": unique("endpoint")})


def test_usage_is_not_traced_into_a_foreign_experiment_of_the_endpoints_name(alice, bob, mlflow_server):
    """MLflow takes the experiment `gateway/NAME`, whosever it is, when it is told none: its owner reads what passes."""
    definition, name = a_definition(bob), unique("endpoint")
    theirs = alice.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": f"gateway/{name}"})["experiment_id"]
    body = endpoint_on(definition, name)
    without = {key: value for key, value in body.items() if key != "usage_tracking"}
    quiet, other = new_endpoint(bob, definition, name), new_endpoint(bob, definition)
    changes = [
        ("create", without),
        ("create", without | {"usageTracking": True}),
        ("update", {"endpoint_id": quiet, "usage_tracking": True}),
        ("update", {"endpoint_id": other, "name": name, "usage_tracking": True}),
    ]
    with mlflow_server.unchanged():
        for path, change in changes:
            assert bob.post(f"{GATEWAY}/endpoints/{path}", change).status_code == 403, change
        for odd in ({"usage_tracking": "yes"}, {"routing_strategy": 5, "usage_tracking": True}):
            assert bob.post(f"{GATEWAY}/endpoints/create", body | odd).status_code == 400, odd
    alice.grant(bob, "experiment", theirs, "EDIT")
    bob.ok("POST", f"{GATEWAY}/endpoints/update", {"endpoint_id": quiet, "usage_tracking": True})
    # One that has its experiment is not asked again, and one that nobody has is made.
    alice.ok("POST", "/api/3.0/mlflow/users/permissions/revoke",
             {"username": bob.name, "resource_type": "experiment", "resource_id": theirs})
    bob.ok("POST", f"{GATEWAY}/endpoints/update", {"endpoint_id": quiet, "usage_tracking": True})
    bob.ok("POST", f"{GATEWAY}/endpoints/create", endpoint_on(definition) | {"usage_tracking": True})


def test_an_endpoint_is_found_by_name_and_by_id_alike(alice, bob):
    name = unique("endpoint")
    key = an_endpoint(alice, name)
    for params in ({"endpoint_id": key}, {"name": name}):
        assert bob.get(f"{GATEWAY}/endpoints/get", params).status_code == 403
    alice.grant(bob, ENDPOINT, key, "READ")
    for params in ({"endpoint_id": key}, {"name": name}):
        assert bob.ok("GET", f"{GATEWAY}/endpoints/get", params=params)["endpoint"]["endpoint_id"] == key


def test_a_renamed_endpoint_keeps_its_grants_and_its_old_name_is_free(alice, bob):
    old, new = unique("old"), unique("new")
    key = an_endpoint(alice, old)
    alice.grant(bob, ENDPOINT, key, "USE")
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    assert bob.post(f"/gateway/{old}/mlflow/invocations", chat).status_code == 200
    alice.ok("POST", f"{GATEWAY}/endpoints/update", {"endpoint_id": key, "name": new})
    assert bob.post(f"/gateway/{new}/mlflow/invocations", chat).status_code == 200
    taken = an_endpoint(alice, old)
    assert bob.post(f"/gateway/{old}/mlflow/invocations", chat).status_code == 403, taken


def test_bindings_of_all_endpoints_are_for_administrators(alice, admin):
    key = an_endpoint(alice)
    alice.ok("POST", f"{GATEWAY}/endpoints/bindings/create",
             {"endpoint_id": key, "resource_type": "scorer", "resource_id": "x"})
    assert alice.get(f"{GATEWAY}/endpoints/bindings/list", {"endpoint_id": key}).status_code == 200
    assert alice.get(f"{GATEWAY}/endpoints/bindings/list").status_code == 403
    assert alice.get(f"{GATEWAY}/endpoints/bindings/list", {"resource_type": "scorer"}).status_code == 403
    assert admin.get(f"{GATEWAY}/endpoints/bindings/list").status_code == 200


# ---- what is for administrators, and what for everybody

BUDGET = {"budget_unit": "USD", "budget_amount": 5, "duration": {"unit": "DAYS", "value": 1}, "target_scope": "GLOBAL",
          "budget_action": "ALERT"}


def test_budgets_are_written_by_administrators_and_read_by_everybody(alice, admin, mlflow_server):
    before = mlflow_server.state()
    assert alice.post(f"{GATEWAY}/budgets/create", BUDGET).status_code == 403
    assert mlflow_server.state() == before
    key = admin.ok("POST", f"{GATEWAY}/budgets/create", BUDGET)["budget_policy"]["budget_policy_id"]
    before = mlflow_server.state()
    assert alice.post(f"{GATEWAY}/budgets/update", {"budget_policy_id": key, "budget_amount": 9}).status_code == 403
    assert alice.delete(f"{GATEWAY}/budgets/delete", {"budget_policy_id": key}).status_code == 403
    assert mlflow_server.state() == before
    alice.ok("GET", f"{GATEWAY}/budgets/get", params={"budget_policy_id": key})
    assert key in [row["budget_policy_id"] for row in alice.ok("GET", f"{GATEWAY}/budgets/list")["budget_policies"]]
    alice.ok("GET", f"{GATEWAY}/budgets/windows")
    admin.ok("POST", f"{GATEWAY}/budgets/update", {"budget_policy_id": key, "budget_amount": 9})
    admin.ok("DELETE", f"{GATEWAY}/budgets/delete", {"budget_policy_id": key})


def test_guardrails_are_administrators_things(alice, mlflow_server):
    before = mlflow_server.state()
    body = {"name": "g", "scorer_id": "x", "scorer_version": 1, "stage": "BEFORE", "action": "VALIDATION"}
    assert alice.post(f"{GATEWAY}/guardrails/create", body).status_code == 403
    assert alice.get(f"{GATEWAY}/guardrails/get", {"guardrail_id": "x"}).status_code == 403
    assert alice.get(f"{GATEWAY}/guardrails/list").status_code == 403
    assert alice.delete(f"{GATEWAY}/guardrails/delete", {"guardrail_id": "x"}).status_code == 403
    assert mlflow_server.state() == before


def test_what_the_gateway_supports_is_for_everybody_who_signed_in(alice, proxy):
    for path in ("supported-providers", "provider-config?provider=openai", "secrets/config"):
        assert alice.get(f"{AJAX}/{path}").status_code == 200, path
        assert proxy.anonymous().get(f"{AJAX}/{path}").status_code == 401, path


def test_only_administrators_hear_how_the_secrets_are_sealed(alice, admin):
    assert "using_default_passphrase" not in alice.ok("GET", f"{AJAX}/secrets/config")
    assert "using_default_passphrase" in admin.ok("GET", f"{AJAX}/secrets/config")


# ---- who made it


def test_the_signed_in_name_is_the_author(alice):
    """Whatever the client says."""
    secret = alice.ok("POST", f"{GATEWAY}/secrets/create", {
        "secret_name": unique("secret"), "secret_value": {"api_key": new_password()}, "provider": "openai",
        "created_by": "somebody-else"})["secret"]
    assert secret["created_by"] == alice.name
    definition = alice.ok("POST", f"{GATEWAY}/model-definitions/create",
                          definition_on(secret["secret_id"]) | {"created_by": "somebody-else"})["model_definition"]
    assert definition["created_by"] == alice.name
    endpoint = alice.ok("POST", f"{GATEWAY}/endpoints/create",
                        endpoint_on(definition["model_definition_id"]) | {"created_by": "somebody-else"})["endpoint"]
    assert endpoint["created_by"] == alice.name


# ---- keys


def test_a_key_is_told_to_nobody_and_written_down_nowhere(alice, admin, proxy):
    """`new_password` also has every log and store searched for it after all tests."""
    keys = [new_password() for _ in range(4)]
    secret = new_secret(alice, key=keys[0])
    told = [
        alice.get(f"{GATEWAY}/secrets/get", {"secret_id": secret}).text,
        alice.get(f"{GATEWAY}/secrets/list").text,
        alice.post(f"{GATEWAY}/secrets/update", {"secret_id": secret, "secret_value": {"api_key": keys[1]}}).text,
        admin.get(f"{GATEWAY}/secrets/list").text,
        # Refused, broken and misdirected requests are where a key gets into a message.
        proxy.person("nobody").post(f"{GATEWAY}/secrets/update", {"secret_id": secret, "secret_value": {"api_key": keys[2]}}).text,
        alice.call("POST", f"{GATEWAY}/secrets/create", data=f'{{"secret_value": {{"api_key": "{keys[3]}"}}, ',
                   headers={"Content-Type": "application/json"}).text,
        alice.post(f"{GATEWAY}/secrets/create", {"secret_name": unique("s"), "secret_value": keys[3]}).text,
        alice.post(f"{GATEWAY}/secrets/create-not", {"secret_value": {"api_key": keys[3]}}).text,
    ]
    logs = [one.process.output() for one in PROXIES if one.process]
    assert any("CreateGatewaySecret" in log for log in logs), "the logs are the right ones"
    stores = [file.read_bytes().decode(errors="replace") for file in proxy.folder.glob("proxy.db*")]
    for key in keys:
        for text in (*told, *logs, *stores):
            assert key not in text
    definition = new_definition(alice, secret)
    name = unique("endpoint")
    new_endpoint(alice, definition, name)
    marker = unique("with-the-second-key")
    alice.ok("POST", f"/gateway/{name}/mlflow/invocations", {"messages": [{"role": "user", "content": marker}]})
    assert the_provider().last(marker).headers["authorization"] == f"Bearer {keys[1]}"
