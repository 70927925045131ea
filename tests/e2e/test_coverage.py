"""Every route of a real MLflow, of the oldest to the newest version we know, has a row of the table or is ours.

What the MLflow of these tests has is compared in every run; the others, each in an environment of its own, by
`make test-versions`.
"""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from known_routes import Table, routes, samples, unanswered
from harness import ROOT

OURS = version("mlflow")
OTHERS = ["2.10.2", "2.22.5", "3.6.0", "3.9.0", "3.13.0", "3.18.0"]

# Routes that the proxy deliberately knows nothing of, `METHOD path` as MLflow lists them. This may only shrink: an entry
# that is answered after all, or that MLflow does not have, fails the test. For our own version it stays empty.
EXCEPTIONS = {one: set() for one in [*OTHERS, OURS]}


def python_of(mlflow):
    """The interpreter of that MLflow's own environment, which is made on first use."""
    if mlflow == OURS:
        return sys.executable
    done = subprocess.run([ROOT / "scripts/test-env.sh", mlflow], stdout=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 0, f"no environment with MLflow {mlflow}"
    return done.stdout.strip()


def check_every_route_is_answered(mlflow, folder):
    missing = unanswered(routes(python_of(mlflow), folder), Table())
    unexpected = sorted(set(missing) - EXCEPTIONS[mlflow])
    assert not unexpected, f"MLflow {mlflow} has routes without a row in routes.toml:\n" + "\n".join(unexpected)
    stale = sorted(EXCEPTIONS[mlflow] - set(missing))
    assert not stale, "exceptions that are none, remove them:\n" + "\n".join(stale)


def test_every_route_of_our_mlflow_is_answered(tmp_path):
    assert not EXCEPTIONS[OURS]
    check_every_route_is_answered(OURS, tmp_path)


@pytest.mark.versions
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mlflow", [*OTHERS, OURS])
def test_every_route_of_each_mlflow_is_answered(mlflow, tmp_path):
    check_every_route_is_answered(mlflow, tmp_path)


def test_an_unknown_route_would_be_noticed():
    table = Table()
    assert not unanswered([("GET", "/api/2.0/mlflow/runs/get"), ("POST", "/ajax-api/2.0/mlflow/runs/create")], table)
    noticed = [
        ("GET", "/api/2.0/mlflow/runs/get-new"),
        ("PUT", "/api/2.0/mlflow/runs/get"),
        ("GET", "/api/2.0/mlflow/logged-models/<model_id>/new"),
        ("POST", "/gateway/gemini/v1beta/models/{endpoint_name}:newContent"),
    ]
    assert unanswered(noticed, table) == sorted(f"{method} {path}" for method, path in noticed)


def test_parameters_of_both_frameworks_are_understood():
    assert samples("/a/<b_c>/<int:d>") == ["/a/one/7"]
    assert samples("/a/<path:b>") == ["/a/one", "/a/one/two/three"]
    assert samples("/a/{b}:c") == ["/a/one:c"]
    assert samples("/x/skills/@{organization}/{name}") == ["/x/skills/@one/one"]
    assert samples("/x/mcp-servers/{name:path}/versions/{version:path}") == ["/x/mcp-servers/space/server/versions/one"]
    with pytest.raises(AssertionError, match=re.escape("<uuid:b>")):
        samples("/a/<uuid:b>")


def test_an_own_folder_is_answered_whole():
    table = Table()
    assert table.answers("GET", "/api/3.0/mlflow/users/anything/new")
    assert table.answers("POST", "/ajax-api/2.0/mlflow/experiments/permissions/create")
    assert not table.answers("GET", "/api/3.0/mlflow/userships")
