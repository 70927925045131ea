"""Access tokens: how they prove who is asking, what limits them, and how they end."""

import re

import pytest

from harness import Http, basic, unique

WHO = "/api/2.0/mlflow/users/current"
TOKENS = "/auth/api/v1/tokens"
RUN = "/api/2.0/mlflow/runs/get"


def who(person):
    answer = person.get(WHO)
    return answer.json()["user"]["username"] if answer.status_code == 200 else answer.status_code


def test_a_token_is_shown_once_and_recognisable(alice):
    made = alice.token("laptop")
    assert re.fullmatch(r"mlap_[A-Za-z0-9_-]{43,}", made["token"])
    assert made["name"] == "laptop"
    listed = alice.get(TOKENS)
    assert listed.status_code == 200
    assert '"laptop"' in listed.text
    assert made["token"] not in listed.text


def test_a_token_works_as_basic_and_as_bearer(alice):
    token = alice.token()["token"]
    assert who(alice.with_token(token)) == alice.name
    assert who(alice.with_token(token, bearer=True)) == alice.name


def test_a_token_does_not_work_under_the_name_of_another(alice, bob, proxy, admin):
    token = alice.token()["token"]
    assert who(alice.with_token(token)) == alice.name
    for name in (bob.name, "admin", "", alice.name + "x", alice.name.upper()):
        assert who(Http(proxy.url, basic(name, token))) == 401, name


@pytest.mark.parametrize("damage", [
    lambda token: token[:-1] + ("a" if token[-1] != "a" else "b"),
    lambda token: token[:10] + ("a" if token[10] != "a" else "b") + token[11:],
    lambda token: token[:-1],
    lambda token: token + "a",
    lambda token: token.upper(),
    lambda token: token.removeprefix("mlap_"),
    lambda token: "mlap_" + "A" * (len(token) - 5),
    lambda token: "mlap_",
    lambda token: "",
], ids=["end", "middle", "shorter", "longer", "case", "no prefix", "zeros", "prefix", "empty"])
def test_a_damaged_token_is_refused(alice, damage):
    token = alice.token()["token"]
    for bearer in (False, True):
        assert who(alice.with_token(token, bearer)) == alice.name
        assert who(alice.with_token(damage(token), bearer)) == 401


def test_a_read_only_token_reads_and_cannot_write(alice, world, mlflow_server):
    token = alice.with_token(alice.token(scopes=["read-only"])["token"])
    assert token.get(RUN, {"run_id": world.run}).status_code == 200
    assert token.get(f"/api/2.0/mlflow-artifacts/artifacts/{world.files[0]}").status_code == 200
    assert len(token.ok("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 5})["experiments"]) == 1
    assert len(token.ok("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [world.experiment]})["runs"]) == 1
    before = mlflow_server.state()
    writes = [
        ("POST", "/api/2.0/mlflow/experiments/create", {"json": {"name": unique("no")}}),
        ("POST", "/api/2.0/mlflow/registered-models/create", {"json": {"name": unique("no")}}),
        ("POST", "/api/2.0/mlflow/runs/create", {"json": {"experiment_id": world.experiment}}),
        ("POST", "/api/2.0/mlflow/runs/set-tag", {"json": {"run_id": world.run, "key": "k", "value": "v"}}),
        ("POST", "/api/2.0/mlflow/runs/delete", {"json": {"run_id": world.run}}),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", {"json": {"name": world.model}}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{world.files[0]}", {"data": b"no"}),
        ("POST", "/api/3.0/mlflow/users/permissions/grant", {"json": {
            "username": "admin", "resource_type": "experiment", "resource_id": world.experiment, "permission": "READ"}}),
    ]
    for method, path, more in writes:
        answer = token.call(method, path, **more)
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code} {answer.text}"
        assert "read" in answer.json()["message"], answer.text
    assert mlflow_server.state() == before
    tag = alice.post("/api/2.0/mlflow/runs/set-tag", {"run_id": world.run, "key": "k", "value": "v"})
    assert tag.status_code == 200, "the same by password works"


def test_an_administrators_read_only_token_cannot_write_either(admin, world):
    token = admin.with_token(admin.token(scopes=["read-only"])["token"])
    assert token.get(RUN, {"run_id": world.run}).status_code == 200
    assert token.post("/api/2.0/mlflow/runs/delete", {"run_id": world.run}).status_code == 403
    assert token.post("/api/2.0/mlflow/users/create", {"username": unique("x"), "password": "x" * 12}).status_code == 403
    assert token.post("/api/2.0/mlflow/webhooks", {"name": "w"}).status_code == 403


def test_a_scoped_token_reaches_only_what_it_names(alice, world):
    other = alice.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": unique("other")})["experiment_id"]
    token = alice.with_token(alice.token(scopes=[f"experiment:{world.experiment}"])["token"])
    get = "/api/2.0/mlflow/experiments/get"
    assert token.get(get, {"experiment_id": world.experiment}).status_code == 200
    assert token.get(get, {"experiment_id": other}).status_code == 403
    assert alice.get(get, {"experiment_id": other}).status_code == 200
    assert token.post("/api/2.0/mlflow/runs/set-tag", {"run_id": world.run, "key": "k", "value": "v"}).status_code == 200
    assert token.get("/api/2.0/mlflow/registered-models/get", {"name": world.model}).status_code == 403
    found = token.ok("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
    assert [experiment["experiment_id"] for experiment in found] == [world.experiment]
    assert "registered_models" not in token.ok("GET", "/api/2.0/mlflow/registered-models/search")


def test_a_scoped_token_gives_nothing_its_owner_does_not_have(bob, world):
    token = bob.with_token(bob.token(scopes=[f"experiment:{world.experiment}"])["token"])
    assert who(token) == bob.name
    assert token.get("/api/2.0/mlflow/experiments/get", {"experiment_id": world.experiment}).status_code == 403


def test_a_revoked_token_stops_at_once(alice):
    made = alice.token()
    token = alice.with_token(made["token"])
    assert who(token) == alice.name
    gone = alice.call("DELETE", f"{TOKENS}/{made['id']}")
    assert gone.status_code in (200, 204), gone.text
    assert who(token) == 401
    assert who(alice.with_token(made["token"], bearer=True)) == 401


def test_who_proves_the_secret_of_a_token_that_ended_is_told_so_and_nobody_else(alice, proxy):
    made = alice.token("told")
    alice.call("DELETE", f"{TOKENS}/{made['id']}")
    for token in (alice.with_token(made["token"]), alice.with_token(made["token"], bearer=True)):
        answer = token.get("/auth/api/v1/me")
        assert answer.status_code == 401 and "was revoked on" in answer.text and "/auth/account" in answer.text, answer.text
    generic = proxy.person("stranger").with_token("mlap_" + made["token"][5:][::-1]).get("/auth/api/v1/me")
    assert generic.status_code == 401 and "revoked" not in generic.text
    others = proxy.person("thief").with_token(made["token"]).get("/auth/api/v1/me")
    assert others.status_code == 401 and others.text == generic.text, "under another's name nothing is told"


def test_a_refusal_names_the_scope_that_is_missing(alice, world):
    token = alice.with_token(alice.token(scopes=[f"experiment:{world.experiment}"])["token"])
    answer = token.get("/api/2.0/mlflow/registered-models/get", {"name": world.model})
    assert answer.status_code == 403 and f"`registered_model:{world.model}`" in answer.json()["message"], answer.text
    answer = token.post("/api/2.0/mlflow/registered-models/create", {"name": unique("new")})
    assert answer.status_code == 403 and "registered_model:" in answer.json()["message"], answer.text


def test_a_rotated_token_is_new_and_the_old_one_stops(alice):
    made = alice.token("rotating")
    old = alice.with_token(made["token"])
    assert who(old) == alice.name
    answer = alice.call("POST", f"{TOKENS}/{made['id']}/rotate", json={"expires_in_days": 7})
    assert answer.status_code == 200, answer.text
    new = alice.with_token(answer.json()["token"])
    assert new.password != old.password
    assert who(new) == alice.name
    assert who(old) == 401


def test_a_token_makes_no_tokens_and_changes_no_password(alice):
    made = alice.token()
    for bearer in (False, True):
        token = alice.with_token(made["token"], bearer)
        assert who(token) == alice.name
        refused = token.post(TOKENS, {"name": unique("more"), "expires_in_days": 1})
        assert refused.status_code == 403, refused.text
        body = {"username": alice.name, "password": "a new password 123", "current_password": alice.password}
        assert token.patch("/api/2.0/mlflow/users/update-password", body).status_code == 403
    assert who(alice) == alice.name


def test_nobody_sees_or_revokes_the_tokens_of_another(alice, bob):
    made = alice.token("private-name")
    assert "private-name" in alice.get(TOKENS).text
    assert "private-name" not in bob.get(TOKENS).text
    assert bob.call("DELETE", f"{TOKENS}/{made['id']}").status_code in (403, 404)
    assert bob.call("POST", f"{TOKENS}/{made['id']}/rotate", json={}).status_code in (403, 404)
    assert who(alice.with_token(made["token"])) == alice.name


@pytest.mark.parametrize("body", [
    {}, {"name": "x"}, {"expires_in_days": 7}, {"name": "x", "expires_in_days": 0}, {"name": "x", "expires_in_days": -1},
    {"name": "x", "expires_in_days": 100_000}, {"name": "", "expires_in_days": 7}, {"name": "x", "expires_in_days": "soon"},
    {"name": "x", "expires_in_days": 7, "scopes": ["everything"]}, {"name": "x", "expires_in_days": 7, "scopes": "read-only"},
], ids=str)
def test_a_token_needs_a_name_an_expiry_and_known_scopes(alice, body):
    answer = alice.post(TOKENS, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"]
    assert alice.get(TOKENS).text.count("mlap_") == 0


def test_deleting_a_user_ends_their_tokens(proxy, admin):
    carol = proxy.person("carol")
    token = carol.with_token(carol.token()["token"])
    assert who(token) == carol.name
    assert admin.delete("/api/2.0/mlflow/users/delete", {"username": carol.name}).status_code == 200
    assert who(token) == 401
    assert who(carol) == 401
