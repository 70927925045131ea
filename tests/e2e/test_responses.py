"""What answers of the real MLflow carry on their way through: lengths without bodies, and who may keep them."""

import re

import pytest
import requests

ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts"
PRIVATE = {"no-store": "private, no-store", "no-cache": "private, no-cache"}


@pytest.fixture
def file(alice, world):
    """A text in an artifact of Alice's run, and two ways to it."""
    path = f"{ARTIFACT}/{world.experiment}/{world.run}/artifacts/answers/notes.txt"
    assert alice.call("PUT", path, data=b"some notes").status_code == 200
    return path, f"/get-artifact?run_id={world.run}&path=answers/notes.txt"


def test_head_tells_what_get_would_send(alice, bob, file):
    for path in [*file, "/version", "/", "/health"]:
        get, head = alice.get(path), alice.call("HEAD", path)
        assert (get.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert head.headers["Content-Length"] == str(len(get.content)), path
    for path in file:
        assert bob.call("HEAD", path).status_code == bob.get(path).status_code == 403, path
    for path in ["/api/2.0/mlflow/experiments/search?max_results=1000", "/api/2.0/mlflow/registered-models/search"]:
        head = bob.call("HEAD", path)
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(bob.get(path).content))), path
    assert alice.call("HEAD", "/api/2.0/mlflow/runs/create").status_code == 405


def test_an_answer_for_one_person_is_kept_by_no_shared_cache(alice, bob, world, file):
    downloaded = alice.get(file[1])
    assert downloaded.headers["Cache-Control"] == PRIVATE["no-cache"]
    assert "Authorization, Cookie" in downloaded.headers["Vary"]
    tag = {"If-None-Match": downloaded.headers["ETag"]}
    again = alice.get(file[1], headers=tag)
    assert (again.status_code, again.headers["Cache-Control"]) == (304, PRIVATE["no-cache"])
    refused = bob.get(file[1], headers=tag)
    assert (refused.status_code, refused.headers["Cache-Control"]) == (403, PRIVATE["no-store"])
    for method, path, body in [
        ("GET", f"/api/2.0/mlflow/runs/get?run_id={world.run}", None),
        ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [world.experiment]}),
        ("GET", "/version", None),
    ]:
        answer = alice.call(method, path, json=body)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, PRIVATE["no-store"]), path


def test_files_of_mlflows_pages_stay_cacheable_and_the_page_does_not(alice, mlflow_server, proxy):
    page = alice.get("/")
    assert page.headers["Cache-Control"] in PRIVATE.values()
    script = re.search(r'src="(static-files/[^"]+\.js)"', page.text).group(1)
    ours, direct = proxy.anonymous().get(f"/{script}"), requests.get(f"{mlflow_server.url}/{script}", timeout=60)
    assert ours.status_code == direct.status_code == 200
    assert ours.headers.get("Cache-Control") == direct.headers.get("Cache-Control")
    missing = proxy.anonymous().get("/static-files/nothing-of-this-name.js")
    assert missing.status_code == 404
