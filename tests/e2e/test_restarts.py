"""Training goes on while MLflow restarts, as it does on a bare MLflow or better."""

import json
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import requests

from conftest import running
from harness import Mlflow, Process, Proxy, plain_environment, unique, wait_until
from test_coverage import python_of

OURS = version("mlflow")
API = "/api/2.0/mlflow"
# Seconds; what an upgrade of a small MLflow takes.
OUTAGE = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow that this file may stop and start."""
    server = Mlflow(tmp_path_factory.mktemp("restarts") / "mlflow")
    try:
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    yield from running(Proxy(tmp_path_factory.mktemp("restarts") / "proxy", server.url))


@pytest.fixture
def hasty(server, tmp_path):
    """A proxy that holds requests so briefly that clients have to come again."""
    yield from running(Proxy(tmp_path / "proxy", server.url, settings={"UPSTREAM__HOLD_SECONDS": "2"}))


class Loop:
    """A training loop of a client in a process of its own: through the proxy as a person, or on the bare server."""

    def __init__(self, folder, python, url, experiment, environment):
        self.folder = Path(folder)
        self.folder.mkdir()
        self.end = self.folder / "end"
        script = Path(__file__).parent / "restart_client.py"
        # The client's own number of attempts.
        environment = {key: value for key, value in environment.items() if "RETRIES" not in key}
        env = plain_environment(MLFLOW_TRACKING_URI=url, **environment)
        self.process = Process([python, "-W", "ignore", script, experiment, self.end], self.folder / "log", env, folder)

    @classmethod
    def of(cls, person, experiment, folder, python):
        environment = person.client_environment()
        return cls(folder, python, environment.pop("MLFLOW_TRACKING_URI"), experiment, environment)

    def runs(self):
        self.process.check_alive()
        return sum(line.startswith("run ") for line in self.process.output().splitlines())

    def told(self):
        """Ends the loop; what it says at its end."""
        self.end.touch()
        try:
            assert self.process.child.wait(240) == 0, self.process.output()[-4000:]
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the loop does not end:\n{self.process.output()[-4000:]}") from error
        finally:
            self.process.stop()
        return json.loads(self.process.output().splitlines()[-1])


def experiment_of(person):
    return person.ok("POST", f"{API}/experiments/create", {"name": unique("restart")})["experiment_id"]


def check_nothing_is_lost(person, experiment, told):
    assert not told["lost"] and not told["lacking"], told
    found = person.ok("POST", f"{API}/runs/search", {"experiment_ids": [experiment], "max_results": 5000}).get("runs", [])
    # No run more than were created: nothing was carried out twice.
    assert sorted(run["info"]["run_id"] for run in found) == sorted(told["runs"]), told
    assert len(told["runs"]) == told["tried"]


def train_on(loops):
    """Waits until each loop has finished two further runs."""
    for loop in loops:
        before = loop.runs()
        wait_until(lambda loop=loop, before=before: loop.runs() > before + 1, 120, "the training goes on")


def test_training_goes_on_through_a_restart(server, proxy, hasty, tmp_path):
    """One client waits in the proxy; the other is told to come again, and does."""
    patient, told = proxy.person("patient"), hasty.person("told")
    experiments = [experiment_of(patient), experiment_of(told)]
    loops = [Loop.of(person, experiment, tmp_path / person.name, python_of(OURS))
             for person, experiment in zip((patient, told), experiments, strict=True)]
    train_on(loops)
    released = proxy.counted("upstream_holds_total", outcome="released")
    server.stop()
    wait_until(lambda: proxy.counted("upstream_holding"), 30, "a request waits")
    wait_until(lambda: hasty.counted("upstream_holds_total", outcome="expired"), 30, "a request waited for too long")
    assert proxy.probe("/readyz").status_code == 503 and proxy.probe("/livez").status_code == 200
    server.start()
    server.wait()
    train_on(loops)
    for person, experiment, loop in zip((patient, told), experiments, loops, strict=True):
        check_nothing_is_lost(person, experiment, loop.told())
    assert proxy.counted("upstream_holds_total", outcome="released") > released
    assert not proxy.counted("upstream_holding")
    assert proxy.probe("/readyz").status_code == 200


@pytest.mark.versions
@pytest.mark.timeout(900)
def test_no_client_loses_anything_in_a_restart_of_twenty_seconds(server, proxy, tmp_path):
    """Clients of three families of retry rules, through the proxy and, as a yardstick, on the bare server."""
    loops = {}
    for client in ("2.22.5", "3.17.2", "3.18.0"):
        python = python_of(client)
        person = proxy.person("trainer")
        experiment = experiment_of(person)
        loops[client, "proxy"] = Loop.of(person, experiment, tmp_path / f"{client}-proxy", python), person, experiment
        bare = requests.post(f"{server.url}{API}/experiments/create", json={"name": unique("bare")}, timeout=60)
        experiment = bare.json()["experiment_id"]
        loops[client, "bare"] = Loop(tmp_path / f"{client}-bare", python, server.url, experiment, {}), None, experiment
    wait_until(lambda: all(loop.runs() > 1 for loop, _, _ in loops.values()), 240, "everybody trains")
    server.stop()
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() - stopped > OUTAGE, OUTAGE + 5, "the outage is over")
    server.start()
    server.wait()
    train_on([loop for loop, _, _ in loops.values()])
    figures = {name: loop.told() for name, (loop, _, _) in loops.items()}
    for (client, where), told in figures.items():
        print(f"{client} {where}: {told['tried']} runs, longest call {told['longest']} s, lost {len(told['lost'])}, "
              f"lacking {len(told['lacking'])}")
    for (client, where), (_, person, experiment) in loops.items():
        if where == "proxy":
            check_nothing_is_lost(person, experiment, figures[client, where])
