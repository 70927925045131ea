"""An experiment's artifacts are what lies below its stored location, wherever that is, and nobody else's."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import check_refused, unique

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def team(mlflow_server, tmp_path_factory):
    """A proxy of whose users each may store experiments below the team's folder."""
    from conftest import running
    from harness import Proxy

    root = unique("team")
    settings = {"AUTHZ__ARTIFACT_LOCATIONS": f"mlflow-artifacts:/{root}/,s3://bucket/{root}/"}
    for proxy in running(Proxy(tmp_path_factory.mktemp("locations") / "proxy", mlflow_server.url, settings=settings)):
        proxy.root = root
        yield proxy


def create(who, location=None):
    body = {"name": unique("located")} | ({"artifact_location": location} if location else {})
    return who.ok("POST", f"{API}/experiments/create", body)["experiment_id"]


def log(who, path, content=b"x"):
    return who.call("PUT", f"{FILES}/{path}", data=content)


def check_owned(owner, stranger, experiment, root):
    """The owner's client works; others are refused; shared means shared."""
    with owner.mlflow() as client:
        run = client.create_run(experiment).info
        client.log_text(run.run_id, "hello", "folder/file.txt")
        assert [file.path for file in client.list_artifacts(run.run_id, "folder")] == ["folder/file.txt"]
        import mlflow

        assert mlflow.artifacts.load_text(f"{run.artifact_uri}/folder/file.txt") == "hello"
    path = f"{root}/{run.run_id}/artifacts/folder/file.txt"
    assert owner.get(f"{FILES}/{path}").text == "hello"
    for method in ("GET", "PUT", "DELETE"):
        check_refused(stranger.call(method, f"{FILES}/{path}"))
    check_refused(stranger.get(FILES, {"path": root}))
    owner.grant(stranger, "experiment", experiment, "READ")
    assert stranger.get(f"{FILES}/{path}").text == "hello"
    check_refused(stranger.call("PUT", f"{FILES}/{path}", data=b"x"))
    assert owner.call("DELETE", f"{FILES}/{root}/{run.run_id}").status_code == 200


@pytest.mark.parametrize("location", ["workspaces/default/{id}", "{tag}/one", "{tag}/deep/er/two/", "0/{tag}"])
def test_a_location_that_an_administrator_chose(team, location):
    admin, owner, stranger = team.admin(), team.person("owner"), team.person("stranger")
    root = location.format(id=create(admin), tag=unique("chosen"))
    experiment = create(admin, f"mlflow-artifacts:/{root}")
    admin.grant(owner, "experiment", experiment, "MANAGE")
    root = root.rstrip("/")
    check_owned(owner, stranger, experiment, root)
    # What stands beside it, and what an id would stand for, is not the owner's.
    for path in (f"{root}x/f", f"{experiment}/f", f"{root.rsplit('/', 1)[0]}/f", root.rsplit("/", 1)[0]):
        check_refused(log(owner, path))


def test_a_location_that_the_configuration_allows(team):
    owner, stranger = team.person("owner"), team.person("stranger")
    root = f"{team.root}/{unique('mine')}"
    check_owned(owner, stranger, create(owner, f"mlflow-artifacts:/{root}"), root)


def test_a_location_made_past_the_proxy_is_found(team, mlflow_server):
    import requests

    owner, stranger = team.person("owner"), team.person("stranger")
    root = unique("past")
    made = requests.post(f"{mlflow_server.url}{API}/experiments/create",
                         json={"name": root, "artifact_location": f"mlflow-artifacts:/{root}"}, timeout=30)
    experiment = made.json()["experiment_id"]
    team.admin().grant(owner, "experiment", experiment, "MANAGE")
    from harness import wait_until

    # A path that belonged to nobody may be asked for again after five seconds.
    wait_until(lambda: log(owner, f"{root}/f").status_code == 200, 15, "the new location is known", every=0.5)
    check_owned(owner, stranger, experiment, root)


def test_nobody_takes_a_location_that_touches_that_of_another(team):
    alice, mallory = team.person("alice"), team.person("mallory")
    root = f"{team.root}/{unique('hers')}"
    experiment = create(alice, f"mlflow-artifacts:/{root}/deep")
    run = alice.ok("POST", f"{API}/runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
    assert log(alice, f"{root}/deep/{run}/artifacts/f").status_code == 200
    for location in (f"mlflow-artifacts:/{root}/deep", f"mlflow-artifacts:/{root}/deep/", f"mlflow-artifacts:/{root}", f"mlflow-artifacts:/{team.root}",
                     f"mlflow-artifacts:/{root}/deep/{run}", f"mlflow-artifacts:/{root}/deep/{run}/artifacts",
                     f"mlflow-artifacts:/{root}//deep/x", f"mlflow-artifacts:/{root}/./deep/x", f"mlflow-artifacts:/{root}/%64eep/x",
                     f"mlflow-artifacts:///{root}/deep/x", f"mlflow-artifacts:/{root}/deep;/x", f"mlflow-artifacts:/{root}/de\tep/x",
                     f"mlflow-artifacts:/{experiment}", "mlflow-artifacts:/", f"MLFLOW-ARTIFACTS:/{root}/deep/x"):
        answer = mallory.post(f"{API}/experiments/create", {"name": unique("take"), "artifact_location": location})
        assert answer.status_code in (400, 403), location
    assert mallory.post(f"{API}/experiments/create", {
        "name": unique("bucket"), "artifact_location": f"s3://bucket/{team.root}/x"}).status_code == 200
    for path in (f"{root}/deep/{run}/artifacts/f", f"{root}/deep", root, team.root):
        check_refused(mallory.get(f"{FILES}/{path}"))


def test_one_location_goes_to_one_of_those_who_ask_at_once(team):
    people = [team.person(name) for name in ("one", "two", "three", "four")]
    for _ in range(3):
        root = f"mlflow-artifacts:/{team.root}/{unique('race')}"
        bodies = [{"name": unique("race"), "artifact_location": f"{root}{'/deep' * (index % 2)}"} for index in range(len(people))]
        with ThreadPoolExecutor(len(people)) as pool:
            answers = list(pool.map(lambda who, body: who.post(f"{API}/experiments/create", body), people, bodies))
        assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403], [answer.text for answer in answers]


def test_overlapping_locations_belong_to_the_most_specific(team):
    admin, outer, inner = team.admin(), team.person("outer"), team.person("inner")
    root = unique("overlap")
    wide = create(admin, f"mlflow-artifacts:/{root}")
    nested = create(admin, f"mlflow-artifacts:/{root}/nested")
    below = create(admin, f"mlflow-artifacts:/{wide}/below")
    plain = create(outer)
    in_plain = create(admin, f"mlflow-artifacts:/{plain}/below")
    for who, experiment in ((outer, wide), (inner, nested), (inner, below), (inner, in_plain)):
        admin.grant(who, "experiment", experiment, "MANAGE")
    for who, other, path in ((outer, inner, f"{root}/x"), (inner, outer, f"{root}/nested/x"), (outer, inner, f"{root}/nestedx"),
                             (outer, inner, f"{plain}/x"), (inner, outer, f"{plain}/below/x"), (inner, outer, f"{wide}/below/x")):
        check_refused(log(other, path))
        assert log(who, path).status_code == 200
        check_refused(other.get(f"{FILES}/{path}"))
        assert who.get(f"{FILES}/{path}").status_code == 200
    # Deleting the outer folder would delete what is inside.
    for path in (root, plain):
        for method in ("DELETE", "PUT"):
            check_refused(outer.call(method, f"{FILES}/{path}"))
    admin.grant(outer, "experiment", nested, "MANAGE")
    assert outer.call("DELETE", f"{FILES}/{root}").status_code == 200


def test_what_two_experiments_share_is_for_administrators(team):
    admin, owner = team.admin(), team.person("owner")
    root = unique("shared")
    for _ in range(2):
        admin.grant(owner, "experiment", create(admin, f"mlflow-artifacts:/{root}"), "MANAGE")
    check_refused(log(owner, f"{root}/x"))
    # The default location of a number that is, or will be, an experiment's.
    admin.grant(owner, "experiment", create(admin, "mlflow-artifacts:/987654321"), "MANAGE")
    check_refused(log(owner, "987654321/x"))
    assert log(admin, f"{root}/x").status_code == 200


def test_a_version_cannot_be_registered_from_where_another_experiment_is(team):
    admin, outer, inner = team.admin(), team.person("outer"), team.person("inner")
    plain = create(outer)
    nested = create(admin, f"mlflow-artifacts:/{plain}/{'a' * 32}")
    admin.grant(inner, "experiment", nested, "MANAGE")
    name = unique("model")
    outer.ok("POST", f"{API}/registered-models/create", {"name": name})
    source = f"mlflow-artifacts:/{plain}/{'a' * 32}/artifacts/model"
    check_refused(outer.post(f"{API}/model-versions/create", {"name": name, "source": source}))
