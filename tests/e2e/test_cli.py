"""The command line beside the running server: it changes the store, and the server notices within moments."""

import json

import pytest

from harness import ADMIN, Http, Person, World, basic, new_password, secret, unique, wait_until

WHO = "/api/2.0/mlflow/users/current"
RUN = "/api/2.0/mlflow/runs/get"
NOTICED = 2  # seconds in which a running server must have taken over a change


@pytest.fixture
def cli(proxy):
    def run(*arguments, stdin=None):
        return json.loads(proxy.cli(*arguments, "--json", stdin=stdin).stdout)

    return run


def create(proxy, cli, *more):
    name, password = unique("cli"), new_password()
    made = cli("user", "create", name, "--password-stdin", *more, stdin=password + "\n")
    assert made["username"] == name
    assert password not in json.dumps(made)
    return Person(proxy, name, password)


def test_a_user_is_created_listed_and_deleted(proxy, cli):
    person = create(proxy, cli)
    assert person.ok("GET", WHO)["user"]["username"] == person.name
    users = {user["username"]: user for user in cli("user", "list")["users"]}
    assert users[person.name]["is_admin"] is False and users[ADMIN]["is_admin"] is True
    cli("user", "delete", person.name)
    wait_until(lambda: person.get(WHO).status_code == 401, NOTICED, "the deletion is noticed")
    assert person.name not in proxy.cli("user", "list").stdout


def test_a_password_set_here_counts_at_once(proxy, cli):
    person, new = create(proxy, cli), new_password()
    assert person.get(WHO).status_code == 200
    cli("user", "set-password", person.name, "--password-stdin", stdin=new + "\n")
    wait_until(lambda: person.get(WHO).status_code == 401, NOTICED, "the old password stops")
    assert Http(proxy.url, basic(person.name, new)).get(WHO).status_code == 200


def test_an_administrator_is_made_and_unmade(proxy, cli, world):
    person = create(proxy, cli)
    assert person.get(RUN, {"run_id": world.run}).status_code == 403
    cli("user", "set-admin", person.name, "true")
    wait_until(lambda: person.get(RUN, {"run_id": world.run}).status_code == 200, NOTICED, "made")
    cli("user", "set-admin", person.name, "false")
    wait_until(lambda: person.get(RUN, {"run_id": world.run}).status_code == 403, NOTICED, "unmade")


def test_a_grant_takes_effect_in_the_running_server(proxy, cli, bob, world):
    def status():
        return bob.get(RUN, {"run_id": world.run}).status_code

    def tag():
        return bob.post("/api/2.0/mlflow/runs/set-tag", {"run_id": world.run, "key": "k", "value": "v"}).status_code

    on = ("--user", bob.name, "--experiment", world.experiment)
    assert (status(), tag()) == (403, 403)
    cli("grant", "set", *on, "--permission", "READ")
    wait_until(lambda: status() == 200, NOTICED, "READ is noticed")
    assert tag() == 403
    cli("grant", "set", *on, "--permission", "EDIT")
    wait_until(lambda: tag() == 200, NOTICED, "EDIT is noticed")
    (row,) = cli("grant", "list", "--user", bob.name)["grants"]
    assert (row["subject"], row["resource_type"], row["resource"], row["permission"]) == (
        bob.name, "experiment", world.experiment, "EDIT")
    called = world.owner.ok("GET", "/api/2.0/mlflow/experiments/get", params={"experiment_id": world.experiment})
    assert row["name"] == called["experiment"]["name"], "the name comes from MLflow"
    assert row["name"] in proxy.cli("grant", "list", "--user", bob.name).stdout
    away = proxy.cli("grant", "list", "--user", bob.name, "--set", "upstream.url=http://127.0.0.1:1").stdout
    assert world.experiment in away and row["name"] not in away, "without MLflow, the list has no names"
    cli("grant", "revoke", *on)
    wait_until(lambda: status() == 403, NOTICED, "its end is noticed")


def test_a_grant_by_name_pattern(proxy, cli, bob, alice):
    prefix = unique("fraud")
    for name in (f"{prefix}-a", f"{prefix}-b", unique("other")):
        alice.ok("POST", "/api/2.0/mlflow/registered-models/create", {"name": name})
    cli("grant", "create", "--user", bob.name, "--registered-model", f"glob:{prefix}-*", "--permission", "READ")

    def seen():
        found = bob.ok("GET", "/api/2.0/mlflow/registered-models/search", params={"max_results": 10})
        return sorted(model["name"] for model in found.get("registered_models", []))

    wait_until(lambda: seen() == [f"{prefix}-a", f"{prefix}-b"], NOTICED, "the pattern is noticed")
    again = proxy.cli("grant", "create", "--user", bob.name, "--registered-model", f"glob:{prefix}-*", "--permission", "EDIT",
                      check=False)
    assert again.returncode == 1 and "grant set" in again.stderr


def test_a_token_is_made_used_rotated_and_revoked(proxy, cli, bob):
    which = ("--user", bob.name, "--name", unique("cli"))
    made = cli("token", "create", *which, "--expires-in-days", "2", "--scope", "read-only")
    token = bob.with_token(secret(made["token"]))
    assert token.get(WHO).status_code == 200
    assert token.post("/api/2.0/mlflow/experiments/create", {"name": unique("no")}).status_code == 403
    listed = cli("token", "list", "--user", bob.name)["tokens"]
    assert [(row["name"], row["scopes"], row["state"]) for row in listed] == [(which[3], ["read-only"], "active")]
    assert made["token"] not in json.dumps(listed)
    new = bob.with_token(secret(cli("token", "rotate", *which)["token"]))
    wait_until(lambda: token.get(WHO).status_code == 401, NOTICED, "the old secret stops")
    assert new.get(WHO).status_code == 200
    assert new.post("/api/2.0/mlflow/experiments/create", {"name": unique("no")}).status_code == 403, "still read-only"
    cli("token", "revoke", str(listed[0]["id"]))
    wait_until(lambda: new.get(WHO).status_code == 401, NOTICED, "the revocation is noticed")
    assert cli("token", "list", "--user", bob.name)["tokens"][0]["state"] == "revoked"


def test_a_token_can_be_piped(proxy, bob):
    """Only the secret on standard output, so that `$(...)` holds it and nothing else."""
    done = proxy.cli("token", "create", "--user", bob.name, "--name", unique("pipe"))
    token = secret(done.stdout.strip())
    assert token.startswith("mlap_") and "\n" not in token
    assert token not in done.stderr
    assert bob.with_token(token, bearer=True).get(WHO).status_code == 200


def test_the_audit_shows_who_did_what(proxy, cli, bob, world):
    assert bob.get(RUN, {"run_id": world.run}).status_code == 403
    cli("grant", "set", "--user", bob.name, "--experiment", world.experiment, "--permission", "READ")

    def denial():
        entries = cli("audit", "list", "--limit", "50")["entries"]
        return [entry for entry in entries if entry["actor"] == bob.name and entry["action"] == "request.denied"]

    (entry,) = wait_until(denial, 5, "the denial is shown")
    conditions = ("--outcome", "denied", "--operation", "GetRun", "--address", "127.0.0.1", "--since", "1h")
    assert cli("audit", "list", "--user", bob.name, *conditions)["entries"] == [entry]
    assert cli("audit", "list", "--user", bob.name, "--outcome", "denied", "--until", "1h")["entries"] == []
    assert entry["address"] == "127.0.0.1"
    assert "GetRun" in entry["target"] + entry["detail"]
    entries = cli("audit", "list", "--limit", "50")["entries"]
    given = [entry for entry in entries if entry["actor"] == "command-line" and bob.name in str(entry)]
    assert len(given) == 1, entries
    (given,) = given
    assert world.experiment in given["target"] + given["detail"]
    assert given["action"].startswith("grant") and "READ" in given["detail"] + given["target"]


@pytest.mark.parametrize(("arguments", "stdin", "words"), [
    (["user", "create", "x y z\n", "--password-stdin"], "a long password\n", ["name"]),
    (["user", "create", "short", "--password-stdin"], "elevenchars\n", ["12"]),
    (["user", "create", ADMIN, "--password-stdin"], "a long password\n", ["already exists"]),
    (["user", "create", "none", "--password-stdin"], "", ["standard input"]),
    (["user", "delete", "nobody-at-all"], None, ["no user `nobody-at-all`"]),
    (["user", "delete", ADMIN], None, ["last administrator"]),
    (["user", "set-admin", ADMIN, "false"], None, ["last administrator"]),
    (["token", "revoke", "--user", ADMIN, "--name", "none"], None, ["token"]),
    (["token", "create", "--user", ADMIN, "--name", "n", "--expires-in-days", "100000"], None, ["365"]),
    (["token", "create", "--user", ADMIN, "--name", "n", "--scope", "everything"], None, ["everything"]),
    (["grant", "set", "--user", ADMIN, "--experiment", "by-name", "--permission", "READ"], None, ["number"]),
    (["grant", "revoke", "--user", ADMIN, "--experiment", "999999"], None, ["grant"]),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_command_that_cannot_be_done_says_why(start_proxy_once, arguments, stdin, words):
    done = start_proxy_once.cli(*arguments, stdin=stdin, check=False)
    assert done.returncode == 1, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""
    assert "panicked" not in done.stderr


@pytest.fixture(scope="module")
def start_proxy_once(mlflow_server, folder):
    """A proxy of its own: here the one administrator really is the last."""
    from harness import Proxy

    one = Proxy(folder / "proxy-cli", mlflow_server.url).start()
    yield one
    one.stop()


def test_a_wrong_command_is_2_and_helps(proxy):
    for arguments in (["grant", "set"], ["nonsense"], ["grant", "set", "--user", "x", "--experiment", "1", "--permission", "SOMETIMES"]):
        done = proxy.cli(*arguments, check=False)
        assert done.returncode == 2
        assert "--help" in done.stderr
    assert "Examples:" in proxy.cli("--help").stdout
    assert proxy.cli("--version").stdout.startswith("mlflow-auth-proxy ")


def test_check_config_says_what_it_comes_to(proxy):
    done = proxy.cli("check-config")
    assert proxy.settings["UPSTREAM__URL"] in done.stdout + done.stderr
    assert proxy.settings["BOOTSTRAP__ADMIN_PASSWORD"] not in done.stdout + done.stderr
    wrong = proxy.cli("check-config", "--set", "server.listen=nowhere", "--set", "upstream.url=x", check=False)
    assert wrong.returncode == 2
    assert "server.listen" in wrong.stderr and "upstream.url" in wrong.stderr
