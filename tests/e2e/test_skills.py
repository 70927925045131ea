"""What MLflow 3.18 brought: skills, with their names, owners, lists, versions and files; other new rows; and its pages."""

import io
import json
import os
import re
import tarfile

import pytest
import requests

from conftest import running
from harness import Http, Mlflow, Proxy, World, basic, check_refused, unique, wait_until
from test_coverage import python_of
from test_ownership import level

SKILLS = "/api/3.0/mlflow/skills"
KIND = "skill"
DIGEST = "0" * 64

pytestmark = [pytest.mark.versions, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    server = Mlflow(tmp_path_factory.mktemp("mlflow-3.18"), python=python_of("3.18.0"))
    try:
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(mlflow_server, tmp_path_factory):
    yield from running(Proxy(tmp_path_factory.mktemp("proxy-3.18"), mlflow_server.url))


@pytest.fixture(scope="module")
def admin(proxy):
    return proxy.admin()


def path(key):
    return f"{SKILLS}/{key}"


def parts(key):
    """The body that names a skill."""
    organization, _, name = key.rpartition("/")
    return {"organization": organization.removeprefix("@"), "name": name}


def new_name(organization=None):
    return f"@{organization}/{unique('skill')}" if organization else unique("skill")


def new_skill(who, key=None, organization=None):
    key = key or new_name(organization)
    who.ok("POST", SKILLS, parts(key) | {"description": "a skill"})
    return key


def new_version(who, key, **more):
    source = {"source_type": "git", "source": "https://example.com/skills.git", "ref": "main", "digest": DIGEST}
    return who.post(f"{path(key)}/versions", source | more)


def archive(**files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def upload(who, key, text="---\nname: a\n---\nhello", metadata=None):
    files = {"metadata": ("metadata", json.dumps(metadata or parts(key)), "application/json"),
             "content": ("content.tar.gz", archive(SKILL_md=text), "application/gzip")}
    return who.call("POST", f"{path(key)}/versions", files=files)


def get(who, key):
    return who.get(path(key)).status_code


@pytest.fixture(params=[None, "acme.example"], ids=["plain", "organization"])
def organization(request):
    return request.param


def test_the_creator_gets_manage(alice, bob, organization):
    key = new_skill(alice, organization=organization)
    assert level(alice, KIND, key) == "MANAGE"
    assert level(bob, KIND, key) == "NO_PERMISSIONS"
    assert get(alice, key) == 200
    assert get(bob, key) == 403
    # The same name in another organization, or in none, is another skill.
    other = f"@other/{parts(key)['name']}"
    new_skill(bob, other)
    assert (get(alice, other), get(bob, other)) == (403, 200)


def test_every_level_gives_what_it_says(alice, bob, mlflow_server, organization):
    key = new_skill(alice, organization=organization)
    skill = path(key)
    assert new_version(alice, key).status_code == 200
    alice.ok("POST", f"{skill}/aliases", {"alias": "live", "version": 1})
    alice.ok("POST", f"{skill}/tags", {"key": "team/first", "value": "v"})
    alice.ok("POST", f"{skill}/versions/1/tags", {"key": "k", "value": "v"})
    reads = [skill, f"{skill}/versions", f"{skill}/versions/1", f"{skill}/aliases/live"]
    edits = [("PATCH", skill, {"description": "x"}), ("POST", f"{skill}/tags", {"key": "l", "value": "v"}),
             ("DELETE", f"{skill}/tags/team%2Ffirst", None), ("POST", f"{skill}/versions", {"source": "https://example.com/x.git"}),
             ("PATCH", f"{skill}/versions/1", {"status": "deprecated"}),
             ("POST", f"{skill}/versions/1/tags", {"key": "m", "value": "v"}),
             ("POST", f"{skill}/aliases", {"alias": "next", "version": 1})]
    manages = [("PATCH", f"{skill}/versions/1", {"status": "deleted"}), ("DELETE", f"{skill}/versions/1/tags/k", None),
               ("DELETE", f"{skill}/aliases/live", None), ("DELETE", f"{skill}/versions/1", None), ("DELETE", skill, None)]

    def refused(*asked):
        with mlflow_server.unchanged():
            for method, where, body in asked:
                for twin in (where, where.replace("/api/", "/ajax-api/", 1)):
                    check_refused(bob.call(method, twin, json=body))

    refused(*[("GET", one, None) for one in reads], *edits, *manages)
    alice.grant(bob, KIND, key, "READ")
    assert [bob.get(one).status_code for one in reads] == [200] * len(reads)
    refused(*edits, *manages)
    alice.grant(bob, KIND, key, "EDIT")
    done = [bob.call(method, where, json=body) for method, where, body in edits]
    assert [answer.status_code for answer in done] == [200] * len(edits), [answer.text for answer in done]
    refused(*manages)
    alice.grant(bob, KIND, key, "MANAGE")
    for method, where, body in manages[1:]:
        answer = bob.call(method, where, json=body)
        assert answer.status_code == 200, f"{method} {where}: {answer.text}"
    assert get(alice, key) in (403, 404)


def test_use_cannot_be_granted(alice, bob, admin):
    key = new_skill(alice)
    body = {"username": bob.name, "resource_type": KIND, "resource_id": key, "permission": "USE"}
    answer = alice.post("/api/3.0/mlflow/users/permissions/grant", body)
    assert answer.status_code == 400
    assert "('DENY', 'EDIT', 'MANAGE', 'READ')" in answer.json()["message"]


@pytest.mark.parametrize("wrong", ["Name", "a_b", "-a", "a--b", "@acme", "@/a", "@acme/", "@acme/a/b", "a/b", "@Acme/a"])
def test_a_name_that_no_skill_has_is_not_granted(alice, bob, admin, wrong):
    body = {"username": bob.name, "resource_type": KIND, "resource_id": wrong, "permission": "READ"}
    assert admin.post("/api/3.0/mlflow/users/permissions/grant", body).status_code == 400
    role = admin.ok("POST", "/api/3.0/mlflow/roles/create", {"name": unique("role"), "workspace": "default"})["role"]["id"]
    body = {"role_id": role, "resource_type": KIND, "resource_pattern": wrong, "permission": "READ"}
    assert admin.post("/api/3.0/mlflow/roles/permissions/add", body).status_code == 400


def test_the_command_line_grants_and_explains(proxy, alice, bob, organization):
    key = new_skill(alice, organization=organization)
    named = ("--user", bob.name, "--type", KIND, "--resource", key)
    for wrong in (("USE", key), ("READ", key.upper())):
        done = proxy.cli("grant", "set", *named[:5], wrong[1], "--permission", wrong[0], check=False)
        assert done.returncode != 0
        assert "one of READ, EDIT, MANAGE" in done.stderr or "this matches no skill" in done.stderr
    proxy.cli("grant", "set", *named, "--permission", "EDIT")
    wait_until(lambda: get(bob, key) == 200, 30, "the proxy notices")
    for operation, allowed in (("UpdateSkill", True), ("CreateSkillVersion", True), ("DeleteSkill", False)):
        answer = bob.ok("GET", "/auth/api/v1/explain", params={"operation": operation, "resource": f"{KIND}:{key}"})
        assert (answer["allowed"], answer["permission"]) == (allowed, "EDIT")
    assert bob.patch(path(key), {"description": "x"}).status_code == 200
    check_refused(bob.delete(path(key)))
    proxy.cli("grant", "revoke", *named)
    wait_until(lambda: get(bob, key) == 403, 30, "the proxy notices")


def test_deleting_drops_everybodys_grants_and_the_name_is_free(alice, bob, proxy, organization):
    key = new_skill(alice, organization=organization)
    alice.grant(bob, KIND, key, "MANAGE")
    assert alice.delete(path(key)).status_code == 200
    assert not proxy.rows("SELECT 1 FROM grants WHERE selector = ?", key)
    carol = proxy.person("carol")
    new_skill(carol, key)
    assert (get(carol, key), get(alice, key), get(bob, key)) == (200, 403, 403)


def test_grants_do_not_count_for_a_skill_made_anew_beside_the_proxy(start_proxy_here, mlflow_server):
    proxy, bare = start_proxy_here({}), Http(mlflow_server.url, None)
    alice, bob = proxy.person("alice"), proxy.person("bob")
    old, kept = (new_skill(alice, organization="acme.example") for _ in range(2))
    for key in (old, kept):
        alice.grant(bob, KIND, key, "READ")
    undated = "SELECT 1 FROM grants WHERE thing_created IS NULL"
    proxy.stop()
    proxy.start()
    wait_until(lambda: not proxy.rows(undated), 30, "the proxy knows what its grants are about")
    assert bare.delete(path(old)).status_code == 200
    assert bare.post(SKILLS, parts(old)).status_code == 200
    proxy.stop()
    proxy.start()
    left = "SELECT DISTINCT selector FROM grants"
    wait_until(lambda: proxy.rows(left) == [(kept,)], 30, "grants on what is gone are dropped")
    assert (get(alice, old), get(bob, old), get(bob, kept)) == (403, 403, 200)


def test_a_name_that_exists_gives_nothing(alice, bob):
    key = new_skill(alice)
    assert bob.post(SKILLS, parts(key)).status_code in (400, 403)
    assert level(bob, KIND, key) == "NO_PERMISSIONS"


def test_somebody_denied_a_name_cannot_take_it(bob, admin, mlflow_server, organization):
    key = new_name(organization)
    admin.grant(bob, KIND, key, "DENY")
    with mlflow_server.unchanged():
        check_refused(bob.post(SKILLS, parts(key)))
        check_refused(new_version(bob, key))
        check_refused(upload(bob, key))
        check_refused(bulk(bob, key))


@pytest.mark.parametrize("how", [new_version, upload])
def test_a_first_version_makes_the_skill_its_creators(alice, bob, organization, how):
    key = new_name(organization)
    made = how(alice, key)
    assert made.status_code == 200, made.text
    assert level(alice, KIND, key) == "MANAGE"
    check_refused(how(bob, key))
    alice.grant(bob, KIND, key, "EDIT")
    assert how(bob, key).status_code == 200
    assert level(bob, KIND, key) == "EDIT"


def test_a_version_belongs_to_the_skill_in_the_path(alice, bob, mlflow_server):
    theirs, mine = new_skill(alice), new_skill(bob)
    with mlflow_server.unchanged():
        assert new_version(bob, mine, **parts(theirs)).status_code in (400, 403)
        assert upload(bob, mine, metadata=parts(theirs)).status_code in (400, 403)


def test_an_upload_may_be_large_and_slow(alice, bob):
    """The name is taken while the body arrives; other names are free."""
    key, other = new_name(), new_name()
    whole = upload_request(key, "x" * 2_000_000)

    def slowly():
        yield whole["data"][:1000]
        # In the middle of it.
        assert new_version(bob, other).status_code == 200
        yield whole["data"][1000:]

    answer = alice.call("POST", f"{path(key)}/versions", data=slowly(), headers=whole["headers"])
    assert answer.status_code == 200, answer.text
    assert (level(alice, KIND, key), level(bob, KIND, other)) == ("MANAGE", "MANAGE")


def test_two_first_versions_at_once_have_one_owner(alice, bob, mlflow_server):
    """Both were allowed while there was no such skill. Who ends second would have to be an editor of the first one's."""
    key, quick = new_name(), []
    whole = upload_request(key, "hello")

    def slowly():
        yield whole["data"][:1000]
        wait_until(lambda: looked_for(mlflow_server, key) == 1, 30, "the slow one is decided")
        quick.append(new_version(bob, key))
        yield whole["data"][1000:]

    answer = alice.call("POST", f"{path(key)}/versions", data=slowly(), headers=whole["headers"])
    assert quick[0].status_code == 200, quick[0].text
    assert (answer.status_code, answer.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    check_refused(new_version(alice, key))
    assert len(bob.ok("GET", f"{path(key)}/versions")["skill_versions"]) == 1
    assert (level(bob, KIND, key), level(alice, KIND, key)) == ("MANAGE", "NO_PERMISSIONS")


def looked_for(server, key):
    return server.process.output().count(f'"GET {path(key)} HTTP')


def upload_request(key, text):
    content = archive(SKILL_md=text, noise_bin=os.urandom(500_000).hex())
    files = {"metadata": ("metadata", json.dumps(parts(key)), "application/json"),
             "content": ("content.tar.gz", content, "application/gzip")}
    prepared = requests.Request("POST", "http://x/", files=files).prepare()
    return {"data": prepared.body, "headers": {"Content-Type": prepared.headers["Content-Type"]}}


# ---- many at once


def bulk(who, *keys, **more):
    organization = parts(keys[0])["organization"]
    one = {"source_type": "git", "source": "https://example.com/skills.git", "ref": "main", "digest": DIGEST}
    skills = [one | {"name": parts(key)["name"], "subpath": parts(key)["name"]} for key in keys]
    return who.post(f"{SKILLS}/bulk-register", {"organization": organization, "skills": skills} | more)


def test_many_are_registered_at_once(alice, bob, organization):
    keys = [new_name(organization) for _ in range(3)]
    new_skill(alice, keys[0])
    made = bulk(alice, *keys)
    assert made.status_code == 200, made.text
    assert [level(alice, KIND, key) for key in keys] == ["MANAGE"] * 3
    more = [new_name(organization), *keys]
    check_refused(bulk(bob, *more))
    assert level(bob, KIND, more[0]) == "NO_PERMISSIONS"
    for key in keys:
        alice.grant(bob, KIND, key, "EDIT")
    assert bulk(bob, *more).status_code == 200
    assert [level(bob, KIND, key) for key in more] == ["MANAGE", "EDIT", "EDIT", "EDIT"]


def test_as_many_as_mlflow_takes(alice, proxy):
    keys = [new_name("many") for _ in range(500)]
    assert bulk(alice, *keys).status_code == 200
    owned = proxy.rows("SELECT COUNT(*) FROM grants WHERE kind = 'skill' AND selector LIKE '@many/%' AND permission = 'MANAGE'")
    assert owned == [(500,)]
    assert len(names_of(alice.ok("GET", SKILLS, params={"max_results": 1000}))) >= 500
    assert bulk(alice, *keys, new_name("many")).status_code == 400


@pytest.mark.parametrize("odd", [{"skills": []}, {"skills": "x"}, {"skills": [1]}, {"skills": [{"name": "A"}]},
                                 {"skills": [{"name": 1}]}, {"organization": "Acme"}, {"organization": 1}])
@pytest.mark.odd_requests
def test_an_odd_batch_is_refused(alice, odd, mlflow_server):
    with mlflow_server.unchanged():
        assert bulk(alice, new_name(), **odd).status_code == 400


# ---- lists


def names_of(answer):
    return [f"@{row['organization']}/{row['name']}" if row["organization"] else row["name"] for row in answer["skills"]]


def test_a_list_holds_what_may_be_read(alice, bob, organization):
    keys = [new_skill(alice, organization=organization) for _ in range(5)]
    assert bob.ok("GET", SKILLS) == {"skills": [], "next_page_token": None}
    for key in keys[::2]:
        alice.grant(bob, KIND, key, "READ")
    assert sorted(names_of(bob.ok("GET", SKILLS))) == sorted(keys[::2])
    assert sorted(names_of(bob.ok("GET", SKILLS.replace("/api/", "/ajax-api/")))) == sorted(keys[::2])
    assert names_of(bob.ok("GET", SKILLS, params={"include_skill_identities": keys[:2]})) == [keys[0]]
    assert names_of(bob.ok("GET", SKILLS, params={"include_skill_identities": keys[1]})) == []
    assert names_of(bob.ok("GET", SKILLS, params={"include_skill_identities": ""})) == []
    found, token = [], None
    while True:
        page = bob.ok("GET", SKILLS, params={"max_results": 1} | ({"page_token": token} if token else {}))
        found += names_of(page)
        token = page["next_page_token"]
        if not token:
            break
        assert len(page["skills"]) == 1
    assert sorted(found) == sorted(keys[::2])


def test_a_list_leaves_out_what_is_denied(alice, bob, admin):
    team = unique("team")
    keys = [new_skill(alice, organization=team) for _ in range(3)]
    admin.grant(bob, KIND, f"glob:@{team}/*", "READ")
    admin.grant(bob, KIND, keys[1], "DENY")
    assert sorted(names_of(bob.ok("GET", SKILLS))) == sorted([keys[0], keys[2]])
    check_refused(bob.get(path(keys[1])))


# ---- what may be done


def test_actions_are_what_may_be_done(alice, bob, admin):
    key = unique("skill")
    made = alice.ok("POST", SKILLS, parts(key))
    everything = ["USE", "UPDATE", "DELETE", "MANAGE"]
    assert made["allowed_actions"] == everything
    assert alice.ok("GET", path(key))["allowed_actions"] == everything
    for permission, actions in (("READ", []), ("EDIT", ["USE", "UPDATE"]), ("MANAGE", everything)):
        alice.grant(bob, KIND, key, permission)
        assert bob.ok("GET", path(key))["allowed_actions"] == actions
        assert [row["allowed_actions"] for row in bob.ok("GET", SKILLS)["skills"]] == [actions]
        if permission != "READ":
            assert bob.ok("PATCH", path(key), {"description": permission})["allowed_actions"] == actions
    # Where all may be read, the list is MLflow's, with what may be done.
    carol = bob.front.person("carol")
    admin.grant(carol, KIND, "*", "READ")
    listed = carol.ok("GET", SKILLS, params={"max_results": 1000})["skills"]
    assert listed and all(row["allowed_actions"] == [] for row in listed)


# ---- files


ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def test_files_are_read_by_who_may_read_the_skill(alice, bob, admin, mlflow_server, organization):
    key = new_name(organization)
    root = upload(alice, key).json()["source"].removeprefix("mlflow-artifacts:/")
    assert root.startswith(f"skills/{key}/")
    file = f"{ARTIFACTS}/{root}/SKILL.md"
    listing = {"path": root}
    assert "hello" in alice.get(file).text
    assert [one["path"] for one in alice.ok("GET", ARTIFACTS, params=listing)["files"]] == ["SKILL.md"]
    check_refused(bob.get(file))
    check_refused(bob.get(ARTIFACTS, listing))
    alice.grant(bob, KIND, key, "READ")
    assert "hello" in bob.get(file).text
    assert bob.get(ARTIFACTS, listing).status_code == 200
    with mlflow_server.unchanged():
        for who in (alice, bob):
            for above in ("skills", "skills/@acme.example", "Skills", f"Skills/{root.partition('/')[2]}"):
                check_refused(who.get(ARTIFACTS, {"path": above}))
            check_refused(who.call("PUT", file, data=b"x"))
            check_refused(who.call("DELETE", f"{ARTIFACTS}/{root}"))
            check_refused(who.post(f"/api/2.0/mlflow-artifacts/mpu/create/{root}/x", {"path": "x", "num_parts": 1}))
        assert admin.call("PUT", file, data=b"x").status_code == 403


@pytest.mark.parametrize("spelled", ["skills/./{key}", "skills//{key}", "skills/{key}/../{key}", "./skills/{key}",
                                     "skills/{other}/../{key}", "skills%2F{key}", "workspaces/default/skills/{key}"])
def test_a_path_has_one_spelling(alice, bob, spelled):
    key, other = new_name(), new_name()
    root = upload(alice, key).json()["source"].removeprefix(f"mlflow-artifacts:/skills/{key}/")
    upload(bob, other)
    where = spelled.format(key=f"{key}/{root}", other=other)
    assert bob.get(f"{ARTIFACTS}/{where}/SKILL.md").status_code in (400, 403, 404)
    assert bob.get(ARTIFACTS, {"path": where}).status_code in (400, 403, 404)


def test_no_experiment_lies_where_skills_are(proxy, mlflow_server, start_proxy_here):
    front = start_proxy_here({"AUTHZ__ARTIFACT_LOCATIONS": "mlflow-artifacts:/"})
    alice = front.person("alice")
    for location in ("mlflow-artifacts:/skills", "mlflow-artifacts:/skills/a", "mlflow-artifacts:/Skills/a"):
        body = {"name": unique("e"), "artifact_location": location}
        check_refused(alice.post("/api/2.0/mlflow/experiments/create", body))


@pytest.fixture
def start_proxy_here(mlflow_server, tmp_path):
    started = []

    def start(settings):
        started.append(Proxy(tmp_path / "proxy", mlflow_server.url, settings=settings))
        return started[-1].start()

    yield start
    for one in started:
        one.stop()


# ---- other rows of 3.18


def test_a_model_is_not_called_as_all_of_them(alice, mlflow_server):
    v2 = "/api/2.0/mlflow/registered-models"
    model = unique("model")
    alice.ok("POST", f"{v2}/create", {"name": model})
    with mlflow_server.unchanged():
        assert alice.post(f"{v2}/create", {"name": "*"}).status_code == 400
        assert alice.post(f"{v2}/rename", {"name": model, "new_name": "*"}).status_code == 400


def test_the_state_of_a_schedule_follows_it_for_who_may_edit(alice, bob):
    experiment = alice.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": unique("e")})["experiment_id"]
    asked = "/ajax-api/3.0/mlflow/issues/schedule/state", {"experiment_id": experiment}
    check_refused(bob.post(*asked))
    alice.grant(bob, "experiment", experiment, "READ")
    check_refused(bob.post(*asked))
    assert alice.post(*asked).status_code == 200


def test_who_changed_an_issue_is_who_did_it(alice):
    experiment = alice.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": unique("e")})["experiment_id"]
    issues = "/api/3.0/mlflow/issues"
    made = alice.ok("POST", issues, {"experiment_id": experiment, "name": "i", "description": "d", "status": "pending"})
    issue = made["issue"]["issue_id"]
    body = {"issue_id": issue, "status": "resolved", "last_updated_by": "mallory"}
    changed = alice.ok("PATCH", f"{issues}/{issue}", body)
    assert changed["issue"]["last_updated_by"] == alice.name


def test_a_presigned_download_needs_what_a_download_needs(alice, bob):
    world = World.make(alice)
    version = {"name": world.model, "version": world.version, "path": "file.txt"}
    model = f"/ajax-api/2.0/mlflow/logged-models/{world.logged_model}/artifacts/files", {"artifact_file_path": "MLmodel"}
    for where, query in (("/model-versions/get-artifact", version), model):
        assert alice.get(where, query).status_code == 200
        # A local folder signs nothing.
        assert alice.get(where, query | {"presigned": "true"}).status_code == 501
        for presigned in ({}, {"presigned": "true"}, {"presigned": "TRUE"}):
            check_refused(bob.get(where, query | presigned))


def test_a_refused_artifact_tier_has_one_case(alice, bob, admin):
    world = World.make(alice)
    alice.grant(bob, "experiment", world.experiment, "EDIT")
    admin.grant(bob, "logged_model", "*", "DENY")
    for folder in ("models", "MODELS", "Models"):
        check_refused(bob.get(f"{ARTIFACTS}/{world.experiment}/{folder}/{world.logged_model}/artifacts/MLmodel"))


PAGES = ["/experiments", "/experiments/{experiment}/overview", "/experiments/{experiment}/runs",
         "/experiments/{experiment}/runs/{run}", "/experiments/{experiment}/runs/{run}/artifacts",
         "/experiments/{experiment}/traces", "/experiments/{experiment}/issues", "/experiments/{experiment}/issues/runs",
         "/experiments/{experiment}/models", "/experiments/{experiment}/judges", "/experiments/{experiment}/datasets",
         "/experiments/{experiment}/evaluation-runs", "/experiments/{experiment}/prompts", "/models", "/models/{model}",
         "/prompts", "/mcp-registry", "/skills", "/account"]


@pytest.mark.parametrize("who", ["owner", "reader", "stranger"])
def test_the_pages_work_for_who_may_see_them(visit, proxy, mlflow_server, who):
    """No request of a page is refused to an ordinary user who may see it; a stranger sees nothing of it."""
    world = World.make(proxy.person("owner"))
    person = world.owner if who == "owner" else proxy.person(who)
    if who == "reader":
        world.share(person, "READ")
    visitor = visit(f"3.18-{who}", proxy.url, basic(person.name, person.password))
    for number, page in enumerate(PAGES):
        visitor.go(page.format(experiment=world.experiment, run=world.run, model=world.model))
        visitor.picture(f"page-{number}")
        if who == "stranger":
            # A refusal repeats the name in the address.
            visitor.does_not_see(world.experiment_name, World.SECRET, *([world.model] if page == "/models" else []))
    refused = {line for line in visitor.troubles if re.match(r"4\d\d ", line)}
    assert who == "stranger" or not refused, sorted(refused)


def test_the_pages_show_skills_to_who_may_see_them(visit, proxy, alice, bob):
    """MLflow's pages of skills and of one skill, without any refused request; a stranger sees none of it."""
    key = new_name()
    upload(alice, key)
    alice.grant(bob, KIND, key, "READ")
    for who, sees in ((alice, True), (bob, True), (proxy.person("carol"), False)):
        visitor = visit(f"skills-{who.name}", proxy.url, basic(who.name, who.password))
        visitor.go("/skills")
        if sees:
            visitor.sees(key)
        else:
            visitor.settle()
            visitor.does_not_see(key)
        visitor.picture("skills")
        visitor.go(f"/skills/{key}")
        visitor.settle()
        visitor.picture("skill")
        refused = [line for line in visitor.troubles if line.startswith("4")]
        assert all("403 GET" in line for line in refused) if not sees else not refused, refused
        buttons = visitor.page.get_by_role("button", name="Delete")
        if who is bob:
            assert buttons.count() == 0
