"""Why may they, or why not: the answer is the one that a request gets, by REST and on the command line."""

import json

import pytest

from harness import World

EXPLAIN = "/auth/api/v1/explain"


def explain(who, **question):
    return who.ok("GET", EXPLAIN, params=question)


@pytest.mark.parametrize(("permission", "allowed"), [("READ", False), ("EDIT", False), ("MANAGE", True)])
def test_it_says_what_a_request_would_meet(proxy, permission, allowed):
    world, person = World.make(proxy.person("owner")), proxy.person("asker")
    world.share(person, permission)
    answer = explain(person, operation="DeleteRun", resource=f"experiment:{world.experiment}")
    assert answer["allowed"] is allowed
    assert answer["permission"] == permission
    assert [(grant["subject"], grant["permission"]) for grant in answer["grants"]] == [(person.name, permission)]
    deleted = person.post("/api/2.0/mlflow/runs/delete", {"run_id": world.run})
    assert deleted.status_code == (200 if allowed else 403)
    if not allowed:
        _, question = deleted.json()["message"].split("GET ")
        assert question.endswith(f"{EXPLAIN}?operation=MANAGE&resource=experiment:{world.experiment}")
        assert person.get(question.removeprefix(proxy.url)).json()["reason"].startswith("Permission denied. MANAGE")
        assert answer["reason"].startswith("Permission denied. MANAGE on experiment")
    said = proxy.cli("explain", "--user", person.name, "--operation", "DeleteRun",
                     "--resource", f"experiment:{world.experiment}", "--json")
    assert json.loads(said.stdout) == answer
    words = proxy.cli("explain", "--user", person.name, "--operation", "DeleteRun",
                      "--resource", f"experiment:{world.experiment}").stdout
    assert words.startswith("yes: " if allowed else "no: ") and permission in words
    assert "groups: none; a local account has no groups" in words and answer["groups_reported_at"] is None


def test_others_are_for_administrators(proxy, alice, bob):
    question = {"user": bob.name, "operation": "READ", "resource": "experiment:0"}
    assert alice.get(EXPLAIN, question).status_code == 403
    assert explain(proxy.admin(), **question)["allowed"] is False
    assert explain(bob, **question)["user"] == bob.name


@pytest.mark.parametrize(("operation", "resource"), [("NoSuch", "experiment:1"), ("READ", "experiment"), ("READ", "nothing:1")])
def test_a_question_that_makes_no_sense_is_400(alice, operation, resource):
    answer = alice.get(EXPLAIN, {"operation": operation, "resource": resource})
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
