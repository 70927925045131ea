"""READ on a registered model is enough to load it, and shows no other file of the run that trained it."""

import json

import pytest

from harness import check_refused, unique
from test_coverage import python_of

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


class Trained:
    """A model with versions of every kind, made by the client of a release; the reader may read the model only."""

    def __init__(self, proxy, python):
        self.proxy, self.python = proxy, python
        self.owner, self.reader, self.stranger = (proxy.person(name) for name in ("trainer", "reader", "stranger"))
        self.name = unique("model")
        self.experiment = self.owner.ok("POST", f"{API}/experiments/create", {"name": unique("training")})["experiment_id"]
        told = self.owner.python("model_client.py", "register", self.experiment, self.name, python=python)
        self.made = json.loads(told.splitlines()[-1])
        self.owner.grant(self.reader, "registered_model", self.name, "READ")

    def load(self, who, *uris):
        return who.python("model_client.py", "load", *uris, python=self.python).splitlines()[-1]


def check_reader(trained):
    made, reader, stranger, owner = trained.made, trained.reader, trained.stranger, trained.owner
    # The client loads every version, by number and by alias.
    assert trained.load(reader, *made["uris"]) == f"loaded {len(made['uris'])}"
    paths = [uri.removeprefix("mlflow-artifacts:/") for uri in made["download"]]
    run = f"{trained.experiment}/{made['run']}/artifacts"
    assert set(paths[1:]) == {f"{run}/by-hand"}
    for path in paths:
        assert reader.get(f"{FILES}/{path}/MLmodel").status_code == 200
        assert reader.get(FILES, {"path": path}).status_code == 200
        for answer in (stranger.get(f"{FILES}/{path}/MLmodel"), stranger.get(FILES, {"path": path})):
            check_refused(answer)
        # Reading is all.
        check_refused(reader.call("PUT", f"{FILES}/{path}/MLmodel", data=b"x"))
        check_refused(reader.call("DELETE", f"{FILES}/{path}/MLmodel"))
        check_refused(reader.get(FILES, {"path": path.rsplit("/", 1)[0]}))
    # Nothing else of the run or of the experiment.
    for path in (f"{run}/other/secret.txt", f"{run}/by-handy", f"{run}/by-han", run, f"{run}/", f"{trained.experiment}/{made['run']}",
                 trained.experiment, f"{run}/by-hand/../other/secret.txt", f"{run}/by-hand%2f..%2fother/secret.txt",
                 f"{trained.experiment}/models"):
        assert owner.get(f"{FILES}/{path}").status_code in (200, 400, 404, 500), path
        for answer in (reader.get(f"{FILES}/{path}"), reader.get(FILES, {"path": path})):
            assert answer.status_code in (400, 403), f"{path}: {answer.status_code} {answer.text}"
            assert "secret of the run" not in answer.text
    if not paths[0].startswith(run):
        other = paths[0].split("/")
        other[2] = "m-" + "0" * 32
        check_refused(reader.get(f"{FILES}/{'/'.join(other)}/MLmodel"))
    check_refused(reader.get(f"{API}/runs/get", {"run_id": made["run"]}))
    if "copy" in made:
        # A reader of the copy only.
        other = trained.proxy.person("copyist")
        check_refused(other.get(f"{FILES}/{paths[0]}/MLmodel"))
        owner.grant(other, "registered_model", f"{trained.name}-copy", "READ")
        assert trained.load(other, made["copy"]) == "loaded 1"
        check_refused(other.get(f"{FILES}/{paths[1]}/MLmodel"))
    if "alone" in made:
        # A logged model that no run made, registered without a word of its experiment.
        name = unique("alone")
        owner.ok("POST", f"{API}/registered-models/create", {"name": name})
        owner.ok("POST", f"{API}/model-versions/create", {"name": name, "source": f"models:/{made['alone']}",
                                                           "model_id": made["alone"]})
        path = f"{trained.experiment}/models/{made['alone']}/artifacts/MLmodel"
        check_refused(reader.get(f"{FILES}/{path}"))
        owner.grant(reader, "registered_model", name, "READ")
        assert reader.get(f"{FILES}/{path}").status_code == 200
    # A version that is gone opens nothing, at once.
    for version in range(2, len(paths) + 1):
        owner.ok("DELETE", f"{API}/model-versions/delete", {"name": trained.name, "version": str(version)})
    check_refused(reader.get(f"{FILES}/{paths[1]}/MLmodel"))
    assert reader.get(f"{FILES}/{paths[0]}/MLmodel").status_code == 200
    owner.post("/api/3.0/mlflow/users/permissions/revoke",
               {"username": reader.name, "resource_type": "registered_model", "resource_id": trained.name})


@pytest.mark.parametrize("client", ["2.22.5", "3.6.0", "3.17.2"])
def test_a_reader_of_a_model_loads_it_and_nothing_else(proxy, client):
    check_reader(Trained(proxy, python_of(client)))


def test_a_version_of_all_files_of_a_run_opens_none(proxy):
    """What belongs to such a version cannot be told from the rest of the run."""
    owner, reader = proxy.person("owner"), proxy.person("reader")
    experiment = owner.ok("POST", f"{API}/experiments/create", {"name": unique("wide")})["experiment_id"]
    run = owner.ok("POST", f"{API}/runs/create", {"experiment_id": experiment})["run"]["info"]
    path = f"{experiment}/{run['run_id']}/artifacts"
    assert owner.call("PUT", f"{FILES}/{path}/MLmodel", data=b"x").status_code == 200
    name = unique("wide")
    owner.ok("POST", f"{API}/registered-models/create", {"name": name})
    for source in (run["artifact_uri"], f"mlflow-artifacts:/{experiment}", f"mlflow-artifacts:/{experiment}/{run['run_id']}"):
        owner.post(f"{API}/model-versions/create", {"name": name, "source": source, "run_id": run["run_id"]})
    owner.grant(reader, "registered_model", name, "READ")
    assert reader.get(f"{API}/model-versions/get", {"name": name, "version": "1"}).status_code == 200
    check_refused(reader.get(f"{FILES}/{path}/MLmodel"))
