"""The policy file with a real MLflow: names, subjects, what is made, reloading, the shadow; and the same by REST."""

import re

import pytest

from harness import check_refused, unique, wait_until

API = "/api/2.0/mlflow"
GRANTS = "/auth/api/v1/grants"


def sentence(to, on, permission):
    return f"[[grants]]\nto = {{ {to} }}\non = {{ {on} }}\npermission = \"{permission}\"\n"


def create(person, name):
    return person.ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]


def get(person, experiment):
    return person.get(f"{API}/experiments/get", {"experiment_id": experiment})


def tag(person, experiment):
    return person.post(f"{API}/experiments/set-experiment-tag", {"experiment_id": experiment, "key": "k", "value": "v"})


def rename(person, experiment, name):
    return person.post(f"{API}/experiments/update", {"experiment_id": experiment, "new_name": name})


def metric(proxy, name, **labels):
    """A number of the metrics page; 0 while there is none."""
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^mlflow_auth_proxy_{name}{{{re.escape(wanted)}}} (\S+)$", proxy.probe("/metrics").text, re.M)
    return float(found[1]) if found else 0


def policy_check(front):
    """What `/readyz` tells about the policy file, of a proxy that is ready."""
    answer = front.probe("/readyz")
    assert answer.status_code == 200, answer.text
    return next(check for check in answer.json()["checks"] if check["name"] == "authz.policy_file")


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text("empty = true\n")
    return file


@pytest.fixture
def front(start_proxy, policy):
    return start_proxy({"AUTHZ__POLICY_FILE": str(policy)})


def enforce(front, policy, text):
    """Writes the file and waits until the proxy has read it."""
    before = metric(front, "policy_loads_total", file="policy", outcome="loaded")
    policy.write_text(text)
    wait_until(lambda: metric(front, "policy_loads_total", file="policy", outcome="loaded") > before, 15, "it is read")


def test_experiments_are_granted_by_name_to_users_and_roles(front, policy):
    owner, ann, bob = front.person("owner"), front.person("ann"), front.person("bob")
    prefix = unique("fraud")
    one, other, secret = create(owner, f"{prefix}-eu"), create(owner, f"x-{prefix}"), create(owner, f"{prefix}-secret")
    run = owner.ok("POST", f"{API}/runs/create", {"experiment_id": one})["run"]["info"]["run_id"]
    hidden = owner.ok("POST", f"{API}/runs/create", {"experiment_id": secret})["run"]["info"]["run_id"]
    role = unique("reviewers")
    front.cli("role", "create", role)
    front.cli("role", "assign", role, "--user", bob.name)
    enforce(front, policy, sentence(f'user = "{ann.name}"', f'experiment = "{prefix}-*"', "EDIT")
            + sentence(f'role = "{role}"', f'experiment = "{prefix}-*"', "READ")
            + sentence('user = "*"', f'experiment = "{prefix}-secret"', "DENY"))
    assert get(ann, one).status_code == tag(ann, one).status_code == get(bob, one).status_code == 200
    check_refused(tag(bob, one))
    for person in (ann, bob):
        check_refused(get(person, other))
        check_refused(get(person, secret))
        assert person.get(f"{API}/runs/get", {"run_id": run}).status_code == 200
        check_refused(person.get(f"{API}/runs/get", {"run_id": hidden}))
        listed = person.ok("POST", f"{API}/experiments/search", {"max_results": 1000}).get("experiments", [])
        assert [row["experiment_id"] for row in listed] == [one]
        found = person.ok("POST", f"{API}/runs/search", {"experiment_ids": [one, other, secret]})["runs"]
        assert [row["info"]["run_id"] for row in found] == [run]
        query = {"query": f'{{ mlflowSearchRuns(input: {{experimentIds: ["{one}", "{secret}"]}}) {{ runs {{ info {{ runId }} }} }} }}'}
        answer = person.post("/graphql", query).json()
        assert hidden not in str(answer)
    # Whoever may not even read a name may not take it either.
    check_refused(ann.post(f"{API}/experiments/create", {"name": f"{prefix}-secret"}))

    explained = ann.ok("GET", "/auth/api/v1/explain", params={"operation": "EDIT", "resource": f"experiment:{one}"})
    assert explained["allowed"] and [grant["source"] for grant in explained["grants"]] == ["policy file, line 1"]
    said = front.cli("explain", "--user", ann.name, "--operation", "EDIT", "--resource", f"experiment:{secret}")
    assert said.stdout.startswith("no: ") and "policy file, line 9" in said.stdout


def test_renaming_is_sharing_where_names_decide(front, policy):
    owner, ann = front.person("owner"), front.person("ann")
    mine = unique("mine")
    experiment = create(owner, unique("theirs"))
    owner.grant(ann, "experiment", experiment, "EDIT")
    enforce(front, policy, sentence(f'user = "{ann.name}"', f'experiment = "{mine}-*"', "MANAGE"))
    check_refused(rename(ann, experiment, f"{mine}-now"))
    assert rename(owner, experiment, f"{mine}-now").status_code == 200
    assert ann.post(f"{API}/experiments/delete", {"experiment_id": experiment}).status_code == 200
    ann.ok("POST", f"{API}/experiments/restore", {"experiment_id": experiment})
    # The old name is forgotten at once.
    assert rename(owner, experiment, unique("theirs")).status_code == 200
    check_refused(ann.post(f"{API}/experiments/delete", {"experiment_id": experiment}))


def test_what_somebody_makes_is_shared_along(front, policy):
    ann, bob, other = front.person("ann"), front.person("bob"), front.person("other")
    rule = '[[on_create]]\nby = {{ user = "{}" }}\nkinds = ["experiment", "registered_model"]\nto = {{ {} }}\npermission = "EDIT"\n'
    enforce(front, policy, rule.format(ann.name, f'user = "{bob.name}"') + rule.format(ann.name, 'group = "/ml"'))
    experiment, model = create(ann, unique("shared")), unique("shared")
    ann.ok("POST", f"{API}/registered-models/create", {"name": model})
    assert tag(bob, experiment).status_code == 200
    assert bob.patch(f"{API}/registered-models/update", {"name": model, "description": "x"}).status_code == 200
    check_refused(get(other, experiment))
    check_refused(get(ann, create(bob, unique("alone"))))
    told = ann.ok("GET", GRANTS, params={"experiment_id": experiment})["grants"]
    assert {"to": {"group": "/ml"}, "on": {"experiment_id": experiment}, "permission": "EDIT", "source": "store"} in told


def test_everybody_has_a_corner_of_their_own(front, policy):
    ann, bob = front.person("ann"), front.person("bob")
    enforce(front, policy, sentence('user = "*"', 'experiment = "/Users/{user}/*"', "READ"))
    admin = front.admin()
    anns, bobs = create(admin, f"/Users/{ann.name}/x"), create(admin, f"/Users/{bob.name}/x")
    assert get(ann, anns).status_code == get(bob, bobs).status_code == 200
    check_refused(get(ann, bobs))
    check_refused(get(bob, anns))


def test_a_file_that_does_not_hold_changes_nothing_and_is_said_once(front, policy):
    ann = front.person("ann")
    experiment = create(front.admin(), unique("kept"))
    good = sentence(f'user = "{ann.name}"', f'experiment_id = "{experiment}"', "READ")
    enforce(front, policy, good)
    assert get(ann, experiment).status_code == 200
    policy.write_text(good + sentence('team = "x"', 'run = "12"', "NOTHING"))
    wait_until(lambda: metric(front, "policy_loads_total", file="policy", outcome="refused") == 1, 15, "it is read")
    assert metric(front, "policy_loaded", file="policy") == 0
    check = policy_check(front)
    assert check["warning"].startswith("the policy from before is in use: line 5: grants 2") and "problem" not in check
    said = [line for line in front.process.output().splitlines() if "line 5: grants 2" in line]
    assert len(said) == 3, said
    assert get(ann, experiment).status_code == 200
    # A file that lost all its rules, as one does that a program has just begun to write.
    policy.write_text("")
    wait_until(lambda: "has no rule" in policy_check(front)["warning"], 15, "it is read")
    assert get(ann, experiment).status_code == 200
    assert "has no rule" in front.cli("policy", "check", str(policy), check=False).stderr
    enforce(front, policy, "empty = true\n")
    assert "warning" not in policy_check(front)
    check_refused(get(ann, experiment))
    checked = front.cli("check-config")
    assert checked.stdout.endswith("configuration is valid\n")
    policy.write_text("[[grants]]\n")
    refused = front.cli("check-config", check=False)
    assert refused.returncode == 2 and "authz.policy_file: line 1" in refused.stderr


def test_a_shadow_policy_is_tried_and_never_enforced(start_proxy, policy, tmp_path):
    shadow = tmp_path / "shadow.toml"
    prefix = unique("shadowed")
    policy.write_text(sentence('user = "*"', f'experiment = "{prefix}-a"', "READ"))
    shadow.write_text(sentence('user = "*"', f'experiment = "{prefix}-b"', "READ"))
    front = start_proxy({"AUTHZ__POLICY_FILE": str(policy), "AUTHZ__SHADOW_POLICY_FILE": str(shadow)})
    ann, admin = front.person("ann"), front.admin()
    a, b = create(admin, f"{prefix}-a"), create(admin, f"{prefix}-b")
    assert get(ann, a).status_code == 200
    check_refused(get(ann, b))
    assert metric(front, "shadow_decisions_total", outcome="would_deny") == 1
    assert metric(front, "shadow_decisions_total", outcome="would_allow") == 1
    log = front.process.output()
    for outcome, experiment in (("would_deny", a), ("would_allow", b)):
        line = next(line for line in log.splitlines() if outcome in line)
        assert ann.name in line and "GetExperiment" in line and f"experiment:{experiment}" in line


def test_sharing_by_rest_takes_manage_and_what_speaks_of_many_an_administrator(proxy):
    owner, ann, admin = proxy.person("owner"), proxy.person("ann"), proxy.admin()
    experiment = create(owner, unique("rest"))
    on = {"experiment_id": experiment}
    body = {"to": {"user": ann.name}, "on": on, "permission": "READ"}
    check_refused(ann.call("PUT", GRANTS, json=body))
    owner.ok("PUT", GRANTS, body)
    assert get(ann, experiment).status_code == 200
    assert owner.post(GRANTS, body).status_code == 400
    check_refused(ann.get(GRANTS, on))
    check_refused(owner.get(GRANTS))
    assert owner.call("PUT", GRANTS, json=body | {"to": {"group": "/ml/**"}}).status_code == 200
    assert [grant["to"] for grant in owner.ok("GET", GRANTS, params=on)["grants"]] \
        == [{"group": "/ml/**"}, {"user": owner.name}, {"user": ann.name}]
    for to in ({"group": "/ml/*"}, {"user": "*"}, {"team": "x"}, {}, {"user": "a", "group": "b"}):
        assert owner.call("PUT", GRANTS, json=body | {"to": to}).status_code == 400, to
    many = body | {"on": {"experiment": "rest-*"}}
    check_refused(owner.call("PUT", GRANTS, json=many))
    admin.ok("PUT", GRANTS, many)
    assert many | {"source": "store"} in admin.ok("GET", GRANTS)["grants"]
    assert owner.delete(GRANTS, {"to": body["to"], "on": on}).status_code == 200
    assert get(ann, experiment).status_code == 200, "the pattern still gives it"
    assert admin.delete(GRANTS, {"to": many["to"], "on": many["on"]}).status_code == 200
    check_refused(get(ann, experiment))
    proxy.cli("grant", "set", "--group", "/ml", "--experiment", "glob:rest-*", "--permission", "USE")
    assert "group:/ml" in proxy.cli("grant", "list", "--group", "/ml").stdout
    proxy.cli("grant", "revoke", "--group", "/ml", "--experiment", "glob:rest-*")


def test_a_grant_on_what_does_not_exist_warns(proxy):
    owner, ann, admin = proxy.person("owner"), proxy.person("ann"), proxy.admin()
    body = {"to": {"user": ann.name}, "on": {"experiment_id": "999999"}, "permission": "READ"}
    warned = admin.call("PUT", GRANTS, json=body)
    assert warned.status_code == 200 and "MLflow has no experiment `999999`" in warned.json()["warning"]
    assert warned.headers["x-mlflow-auth-proxy-warning"] == warned.json()["warning"]
    permission = {"username": ann.name, "experiment_id": "999998", "permission": "READ"}
    warned = admin.post(f"{API}/experiments/permissions/create", permission)
    assert warned.status_code == 200 and "999998" in warned.headers["x-mlflow-auth-proxy-warning"]
    said = proxy.cli("grant", "set", "--user", ann.name, "--registered-model", "no-such-model", "--permission", "READ")
    assert "no-such-model" in said.stderr and said.stdout.startswith(f"`{ann.name}` has READ")
    known = admin.call("PUT", GRANTS, json=body | {"on": {"experiment_id": create(owner, unique("there"))}})
    assert "warning" not in known.json() and "x-mlflow-auth-proxy-warning" not in known.headers
    assert proxy.cli("grant", "set", "--user", ann.name, "--prompt", "*", "--permission", "READ").stderr == ""


@pytest.mark.parametrize("name", ["a\u200bb", "a\u202eb", "\u0430dmin", "adm\uff49n", "cafe\u0301", "*", "..", "proxy", "Command-Line"])
def test_deceptive_names_are_refused_everywhere(proxy, name):
    admin = proxy.admin()
    answer = admin.post(f"{API}/users/create", {"username": name, "password": "correct horse battery"})
    assert answer.status_code == 400 and "Username" in answer.json()["message"], answer.text
    assert proxy.cli("user", "create", name, "--password-stdin", stdin="correct horse battery", check=False).returncode == 1
    if not name.isascii():
        assert proxy.cli("role", "create", name, check=False).returncode == 1
        assert admin.call("POST", "/auth/api/v1/tokens", json={"name": name}).status_code in (400, 403)
