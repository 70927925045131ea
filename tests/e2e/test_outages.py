"""Three proxies behind HAProxy on a PostgreSQL behind another HAProxy, under steady load, while parts of them go away.

The real client logs, searches and uploads without repeating anything, so each failure is one that a user would see. A keeper
makes and revokes access tokens all the time, and remembers what was acknowledged.
"""

import contextlib
import json
import threading
import time
from pathlib import Path

import pytest
import requests

from balancers import HaProxy, PgBouncer
from harness import Http, Process, plain_environment, secret, unique, wait_until
from postgres import Postgres
from test_balanced import API, Balanced
from test_coverage import python_of
from test_restarts import OURS, Loop, check_nothing_is_lost, experiment_of, train_on

pytestmark = pytest.mark.timeout(600)
# Seconds for which a replica decides from memory.
STALENESS = 4


@pytest.fixture(scope="module")
def server():
    own = Postgres(apart=True)
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture(scope="module")
def balanced(server, mlflow_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outages")
    settings = {"STORE__MAX_STALENESS_SECONDS": str(STALENESS)}
    together = Balanced(folder, mlflow_server.url, server.database(), settings)
    try:
        yield together.start()
    finally:
        together.stop()


class Training(Loop):
    """A training loop that repeats no request."""

    def __init__(self, person, folder):
        self.person, self.experiment = person, experiment_of(person)
        self.folder = Path(folder)
        self.folder.mkdir()
        self.end = self.folder / "end"
        script = Path(__file__).parent / "restart_client.py"
        env = plain_environment(**person.client_environment()) | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        argv = [python_of(OURS), "-W", "ignore", script, self.experiment, self.end]
        self.process = Process(argv, self.folder / "log", env, folder)


@contextlib.contextmanager
def training(balanced, folder, count=2):
    loops = [Training(balanced.person(f"trainer{number}"), folder / f"loop{number}") for number in range(count)]
    try:
        train_on(loops)
        yield loops
    finally:
        for loop in loops:
            loop.end.touch()
            loop.process.stop()


class Keeper:
    """Makes and revokes access tokens, and uses live and dead ones, until it is told to end."""

    def __init__(self, balanced):
        self.balanced, self.person = balanced, balanced.person("keeper")
        self.live, self.dead, self.wrong, self.answers = [], [], [], {}
        self.ending, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self._until_the_end, args=(step,)) for step in (self._change, self._use, self._use)]
        for thread in self.threads:
            thread.start()

    def _until_the_end(self, step):
        turn = 0
        while not self.ending.is_set():
            with contextlib.suppress(requests.RequestException):
                step(turn)
            turn += 1
            time.sleep(0.02)

    def _note(self, kind, answer):
        with self.lock:
            key = (kind, answer.status_code)
            self.answers[key] = self.answers.get(key, 0) + 1
        return answer.status_code

    def _change(self, turn):
        made = self.person.call("POST", "/auth/api/v1/tokens", json={"name": unique("kept"), "expires_in_days": 7}, timeout=30)
        if self._note("create", made) not in (200, 201):
            return
        token = made.json()
        secret(token["token"])
        if turn % 2:
            self.live.append(token)
            return
        for _ in range(50):
            revoked = self.person.call("DELETE", f"/auth/api/v1/tokens/{token['id']}", timeout=30)
            # 404: the first attempt has ended it, without an answer.
            if self._note("revoke", revoked) in (200, 204):
                self.dead.append((token, time.monotonic()))
                return
            if self.ending.wait(0.2):
                return

    def _use(self, turn):
        if turn % 2 and self.live:
            token = self.live[turn // 2 % len(self.live)]
            answer = Http(self.balanced.url, f"Bearer {token['token']}").get("/auth/api/v1/me", timeout=30)
            if self._note("live", answer) in (401, 403):
                self.wrong.append(f"live: {answer.status_code}")
        elif self.dead:
            token, since = self.dead[-1 - turn // 2 % min(len(self.dead), 20)]
            asked = time.monotonic()
            answer = Http(self.balanced.url, f"Bearer {token['token']}").get("/auth/api/v1/me", timeout=30)
            # Until then another replica that has lost the store may decide from memory.
            if self._note("dead", answer) == 200 and asked - since > STALENESS + 1:
                self.wrong.append(f"dead for {asked - since:.1f} s")

    def settle(self):
        """Ends, and checks on every replica that what was acknowledged is in force."""
        self.ending.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.wrong, self.wrong
        expected = [(token, 200) for token in self.live] + [(token, 401) for token, _ in self.dead]
        assert len(self.live) > 2 and len(self.dead) > 2, self.answers
        for replica in self.balanced.replicas:
            for token, status in expected:
                url = f"http://127.0.0.1:{replica.port}/auth/api/v1/me"
                headers = {"Authorization": f"Bearer {token['token']}", "Host": self.balanced.url.removeprefix("http://")}
                answer = requests.get(url, headers=headers, timeout=30)
                assert answer.status_code == status, (replica.folder.name, answer.status_code, answer.text)
        return self.answers


@contextlib.contextmanager
def keeper(balanced):
    one = Keeper(balanced)
    try:
        wait_until(lambda: len(one.live) > 2 and len(one.dead) > 2, 60, "the keeper keeps tokens")
        yield one
    finally:
        one.ending.set()
        for thread in one.threads:
            thread.join(60)


def report(title, **figures):
    """Shown by `pytest -s`, and by the slow tests."""
    print(f"\n{title}: " + json.dumps(figures, default=str))


def told(keeper):
    return {f"{kind} {status}": count for (kind, status), count in sorted(keeper.answers.items())}


def in_order(balanced):
    wait_until(lambda: all(one.probe("/readyz").ok for one in balanced.replicas), 60, "every replica is ready", every=0.2)
    wait_until(lambda: set(balanced.balancer.states().values()) == {"UP"}, 30, "HAProxy sees it")


def roll(balanced):
    for replica in balanced.replicas:
        assert replica.stop() == 0, replica.process.output()[-2000:]
        replica.start()
        in_order(balanced)


def rolling_restarts(balanced, folder, rounds, loops):
    in_order(balanced)
    with keeper(balanced) as kept, training(balanced, folder, loops) as loops:
        before = balanced.balancer.counted()
        for _ in range(rounds):
            roll(balanced)
        train_on(loops)
        kept.settle()
        for loop in loops:
            check_nothing_is_lost(loop.person, loop.experiment, loop.told())
        after = balanced.balancer.counted()
        grown = {key: after[key] - before[key] for key in after}
        report("rolling restart", rounds=rounds, **grown, **told(kept))
        assert grown["hrsp_5xx"] == 0 and grown["eresp"] == 0, grown
        assert {status for kind, status in kept.answers if kind != "dead"} <= {200, 201, 204}, kept.answers


def test_a_rolling_restart_fails_no_request(balanced, tmp_path):
    rolling_restarts(balanced, tmp_path, rounds=1, loops=1)


@pytest.mark.slow
def test_three_rolling_restarts_fail_no_request(balanced, tmp_path):
    rolling_restarts(balanced, tmp_path, rounds=3, loops=3)


def test_after_a_kill_only_its_own_requests_fail_and_every_creation_has_an_owner(balanced, mlflow_server, tmp_path):
    in_order(balanced)
    creator, prefix, ending = balanced.person("creator"), unique("killed"), threading.Event()
    failures, made, count = [], [], 6

    def create(number):
        client, turn = Http(balanced.url, creator.session.headers["Authorization"]), 0
        while not ending.is_set():
            turn += 1
            name, began = f"{prefix}-{number}-{turn}", time.monotonic()
            try:
                answer = client.post(f"{API}/experiments/create", {"name": name}, timeout=60)
            except requests.RequestException as error:
                failures.append((began, time.monotonic(), repr(error)))
                continue
            if answer.status_code == 200:
                made.append(answer.json()["experiment_id"])
            else:
                failures.append((began, time.monotonic(), f"{answer.status_code} {answer.text[:80]}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    doomed = balanced.replicas[1]
    try:
        wait_until(lambda: len(made) > 30, 60, "creations go on")
        doomed.kill()
        killed = time.monotonic()
        more = len(made) + 30
        wait_until(lambda: len(made) > more, 60, "creations go on without it")
    finally:
        ending.set()
        for thread in threads:
            thread.join(60)
        doomed.start()
    in_order(balanced)
    report("kill -9", created=len(made), failures=failures)
    # In flight: begun before the kill, at most one of each client.
    assert len(failures) <= count and all(began <= killed for began, _, _ in failures), (killed, failures)
    found = requests.get(f"{mlflow_server.url}{API}/experiments/search", timeout=60,
                         params={"max_results": 5000, "filter": f"name LIKE '{prefix}-%'"}).json().get("experiments", [])
    ids = {experiment["experiment_id"] for experiment in found}
    assert set(made) <= ids

    def owned():
        page = creator.get(f"{API}/experiments/search", {"max_results": 5000, "filter": f"name LIKE '{prefix}-%'"}).json()
        return {experiment["experiment_id"] for experiment in page.get("experiments", [])} == ids

    wait_until(owned, 60, "the creator sees everything that MLflow created", every=0.5)
    tag = lambda number: creator.post(f"{API}/experiments/set-experiment-tag", {"experiment_id": number, "key": "k", "value": "v"})
    assert {tag(number).status_code for number in ids} == {200}


def accepted_again(kept):
    """Changes are accepted after an outage, and what was acknowledged holds; returns what the keeper saw."""
    live, dead = len(kept.live), len(kept.dead)
    wait_until(lambda: len(kept.live) > live and len(kept.dead) > dead, 60, "changes are accepted again")
    kept.settle()
    assert {status for _, status in kept.answers} <= {200, 201, 204, 401, 404, 503}, kept.answers
    return told(kept)


def outage(server, balanced, seconds):
    """PostgreSQL is stopped for so long; returns what the keeper saw."""
    in_order(balanced)
    with keeper(balanced) as kept:
        server.shut_down()
        end = time.monotonic() + seconds
        wait_until(lambda: all(one.probe("/readyz").status_code == 503 for one in balanced.replicas), 30, "no replica is ready")
        time.sleep(max(0, end - time.monotonic()))
        server.start_again()
        in_order(balanced)
        return accepted_again(kept)


def test_a_restarted_postgresql_is_found_again(server, balanced):
    report("PostgreSQL restarted", **outage(server, balanced, 0))


@pytest.mark.slow
def test_a_postgresql_that_is_away_for_two_minutes_is_found_again(server, balanced):
    report("PostgreSQL stopped for two minutes", **outage(server, balanced, 120))


@pytest.mark.parametrize("pooled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_promoted_standby_is_followed_without_a_restart(mlflow_server, tmp_path, pooled):
    """Behind one address, HAProxy in TCP mode; `pooled`: and behind PgBouncer, which keeps the connections of its clients."""
    primary, name = Postgres(apart=True), HaProxy(tmp_path / "name")
    standby = together = pooler = None
    try:
        database = primary.database().rsplit("/", 1)[1]
        standby = primary.standby()
        ports = [one.url.rsplit(":", 1)[1] for one in (primary, standby)]
        name.before_servers(ports)
        server = f"postgres://postgres@127.0.0.1:{name.port}"
        settings = {"STORE__MAX_STALENESS_SECONDS": str(STALENESS)}
        if pooled:
            pooler = PgBouncer(tmp_path / "pgbouncer", server)
            settings |= {"STORE__PGBOUNCER": "true", "STORE__LISTEN_URL": f"{server}/{database}"}
        together = Balanced(tmp_path, mlflow_server.url, f"{pooler.url if pooled else server}/{database}", settings).start()
        processes = [one.process.child.pid for one in together.replicas]
        with keeper(together) as kept:
            primary.shut_down("immediate")
            wait_until(lambda: not any(one.counted("store_answers") for one in together.replicas), 30, "the store does not answer")
            # It answers reads, and refuses to be the store: no replica takes it before it is promoted.
            wait_until(lambda: all(one.probe("/readyz").status_code == 503 for one in together.replicas), 30, "no replica is ready")
            standby.promote()
            in_order(together)
            report("fail-over", pooled=pooled, **accepted_again(kept))
        wait_until(lambda: all(one.counted("store_listening") for one in together.replicas), 30, "changes are announced again")
        assert all(one.counted("store_answers") for one in together.replicas)
        assert [one.process.child.pid for one in together.replicas] == processes
    finally:
        if together:
            together.stop()
        if pooler:
            pooler.stop()
        name.stop()
        if standby:
            standby.shut_down("immediate")
        primary.stop()
