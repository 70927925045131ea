"""The proxy before every MLflow it promises to stand before, with the client of the same release."""

import json
import re
import sys

import pytest

from conftest import running
from harness import Mlflow, Proxy, basic, unique
from test_coverage import OTHERS, OURS, python_of
from test_model_readers import Trained, check_reader

API = "/api/2.0/mlflow"

pytestmark = [pytest.mark.versions, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=[*OTHERS, OURS])
def release(request, tmp_path_factory):
    """A server of that release with a proxy of its own, and the interpreter that has the client."""
    folder, python = tmp_path_factory.mktemp(request.param), python_of(request.param)
    server = Mlflow(folder / "mlflow", python=python)
    try:
        server.wait()
        for proxy in running(Proxy(folder / "proxy", server.url)):
            yield Release(request.param, python, proxy, server)
    finally:
        server.stop()


class Release:
    def __init__(self, version, python, proxy, server):
        self.version, self.interpreter, self.proxy, self.server = version, python, proxy, server

    def client(self, person, *arguments):
        return person.python("version_client.py", *arguments, python=self.interpreter).strip()

    def experiment(self, owner, name):
        return owner.ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]


def test_the_granted_log_and_read_and_others_do_not(release):
    admin, granted, other = release.proxy.admin(), release.proxy.person("granted"), release.proxy.person("other")
    experiment = release.experiment(admin, unique("smoke"))
    admin.grant(granted, "experiment", experiment, "EDIT")
    run = release.client(granted, "log", experiment).splitlines()[-1]
    release.client(other, "refused", experiment, run)
    # What the client's own words for it are differs; the proxy's answer does not.
    assert other.get(f"{API}/runs/get", {"run_id": run}).status_code == 403
    assert granted.get(f"{API}/runs/get", {"run_id": run}).status_code == 200


def test_everything_that_the_client_of_the_release_can_do(release):
    owner = release.proxy.person("teller")
    experiment = release.experiment(owner, unique("story"))
    assert release.client(owner, "story", experiment, unique("model")).splitlines()[-1] == "told"


def test_a_reader_of_a_model_loads_it(release):
    if release.version in ("2.22.5", "3.6.0", OURS, "3.18.0"):
        check_reader(Trained(release.proxy, release.interpreter))


PAGES = ["/experiments", "/experiments/{experiment}", "/experiments/{experiment}/runs", "/experiments/{experiment}/runs/{run}",
         "/experiments/{experiment}/runs/{run}/model-metrics", "/experiments/{experiment}/runs/{run}/artifacts",
         "/experiments/{experiment}/traces", "/models", "/models/{model}", "/prompts"]


def test_the_pages_of_the_release_work_as_without_the_proxy(release, visit):
    """Whatever goes wrong on a page does so on the bare server too, but for what the proxy closes on purpose."""
    owner = release.proxy.admin()
    experiment, model = release.experiment(owner, unique("pages")), unique("model")
    run = release.client(owner, "log", experiment).splitlines()[-1]
    owner.ok("POST", f"{API}/registered-models/create", {"name": model})
    troubles = {}
    for name, url, authorization in (
        ("bare", release.server.url, None),
        ("proxied", release.proxy.url, basic(owner.name, owner.password)),
    ):
        visitor = visit(f"{release.version}-{name}", url, authorization)
        for number, path in enumerate(PAGES):
            visitor.go(path.format(experiment=experiment, run=run, model=model))
            visitor.picture(f"page-{number}")
        troubles[name] = {line for line in visitor.troubles if not line.startswith("console")}
    closed = {line for line in troubles["proxied"] if re.search(r"^403 .*/(assistant|ui-telemetry|gateway-proxy|jobs)", line)}
    assert not troubles["proxied"] - troubles["bare"] - closed, troubles


def test_lists_are_filtered_completely_and_paged(release):
    admin, reader = release.proxy.admin(), release.proxy.person("reader")
    prefix = unique("list")
    names = [f"{prefix}-{number}" for number in range(9)]
    experiments = [release.experiment(admin, name) for name in names]
    for experiment in experiments[::2]:
        admin.grant(reader, "experiment", experiment, "READ")
    assert sorted(json.loads(release.client(reader, "experiments", prefix).splitlines()[-1])) == names[::2]
    assert sorted(json.loads(release.client(admin, "experiments", prefix).splitlines()[-1])) == names


def test_accounts_and_permissions_by_the_client_of_the_release(release):
    admin = release.proxy.admin()
    experiment, model = release.experiment(admin, unique("accounts")), unique("model")
    admin.ok("POST", f"{API}/registered-models/create", {"name": model})
    release.client(admin, "accounts", experiment, model)


def test_the_release_is_the_one_it_says(release):
    assert release.proxy.admin().get("/version").text == release.version
    assert release.interpreter != sys.executable or release.version == OURS
