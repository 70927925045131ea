"""How long a change takes to be in force on other replicas. `benches/replicas` builds what is needed and starts this.

Three replicas on one PostgreSQL, before one real MLflow. One replica is told to revoke an access token that the two others have
in memory; from its answer on, both are asked with that token in turns until they refuse it. Meanwhile each replica has readers
with access tokens, one request in ten of which reaches MLflow, and grants of other people change.

From the environment: `BENCH_CHANGES` (200), `BENCH_READERS` (2 for each replica), `BENCH_RATE` (50 requests a second of each
reader), `BENCH_OTHERS` (10 changes a second to others' grants), `BENCH_STRICT=1` (a missed goal is exit code 1).

Without notifications means that the trigger that announces changes is disabled, so that all else is equal.
Everything listens on loopback and is stopped by its process id, also when this fails.
"""

import http.client
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from harness import Mlflow, unique  # noqa: E402
from postgres import Postgres, Replica, start_together  # noqa: E402


def setting(name, otherwise):
    return os.environ.get(f"BENCH_{name}") or otherwise


CHANGES = int(setting("CHANGES", 200))
READERS = int(setting("READERS", 2))
RATE = float(setting("RATE", 50))
OTHERS = float(setting("OTHERS", 10))
STRICT = setting("STRICT", "0") != "0"
# Milliseconds, of the 99th percentile.
GOALS = {"notifications": 100, "polling": 1000}
API, ME = "/api/2.0/mlflow", "/auth/api/v1/me"


def paced(rate, ending, step):
    due, done = time.monotonic(), 0
    while not ending.is_set():
        step(done)
        done += 1
        due = max(due + 1 / rate, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))
    return done


class Client:
    """One kept-alive connection, with less work for each request than `requests` has."""

    def __init__(self, url, authorization):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self.headers = {"Authorization": authorization, "Content-Type": "application/json"}

    def ask(self, path, method="GET", body=None):
        self.connection.request(method, path, body and json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def read(url, token, experiment, ending, counts):
    client, failed = Client(url, f"Bearer {token}"), []

    def ask(turn):
        status = client.ask(ME if turn % 10 else f"{API}/experiments/get?experiment_id={experiment}")
        if status != 200:
            failed.append(status)

    counts.put(("reads", paced(RATE, ending, ask)))
    counts.put(("failed reads", len(failed)))


def change_others(url, authorization, people, experiment, ending, counts):
    client = Client(url, authorization)

    def change(turn):
        body = {"to": {"user": people[turn % len(people)]}, "on": {"experiment_id": experiment}, "permission": ("READ", "EDIT")[turn // len(people) % 2]}
        assert client.ask("/auth/api/v1/grants", "PUT", body) in (200, 201)

    counts.put(("changes for others", paced(OTHERS, ending, change)))
    counts.put(("failed reads", 0))


def delays(replicas, bob):
    """Milliseconds from each revocation's answer until another replica has refused the token, its request included."""
    tokens = [bob.token() for _ in range(CHANGES)]
    revoke, found = Client(replicas[0].url, bob.session.headers["Authorization"]), []
    for token in tokens:
        others = [Client(replica.url, f"Bearer {token['token']}") for replica in replicas[1:]]
        if [other.ask(ME) for other in others] != [200, 200]:
            raise SystemExit("bench: a new token does not work everywhere")
        assert revoke.ask(f"/auth/api/v1/tokens/{token['id']}", "DELETE") in (200, 204)
        began = time.monotonic()
        while others:
            for other in list(others):
                if other.ask(ME) == 401:
                    found.append((time.monotonic() - began) * 1000)
                    others.remove(other)
        # Changes come at any moment of the interval at which replicas ask.
        time.sleep(random.random() * 0.2)
    return found


def measure(kind, replicas, cast):
    bob, experiment, people, tokens = cast
    ending, counts = multiprocessing.Event(), multiprocessing.Queue()
    load = [
        multiprocessing.Process(target=read, args=(replica.url, tokens[number], experiment, ending, counts))
        for replica in replicas for number in range(READERS)
    ]
    admin = replicas[-1].admin().session.headers["Authorization"]
    load.append(multiprocessing.Process(target=change_others, args=(replicas[-1].url, admin, people, experiment, ending, counts)))
    for process in load:
        process.start()
    began = time.monotonic()
    try:
        time.sleep(2)
        found = delays(replicas, bob)
        took = time.monotonic() - began
    finally:
        ending.set()
        totals = {}
        for _ in load * 2:
            what, count = counts.get(timeout=60)
            totals[what] = totals.get(what, 0) + count
        for process in load:
            process.join(30)
    p99 = sorted(found)[-max(1, len(found) // 100) - 1]
    rates = ", ".join(f"{count / took:.0f} {what} a second" for what, count in sorted(totals.items()) if count)
    print(f"| {kind} | {len(found)} | {statistics.median(found):.1f} | {p99:.1f} | {max(found):.1f} | {GOALS[kind]} | {rates} |", flush=True)
    return p99 <= GOALS[kind]


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        postgres, mlflow = Postgres(apart=True), Mlflow(folder / "mlflow")
        replicas = []
        try:
            url = postgres.database()
            mlflow.wait()
            replicas = [Replica(folder / name, mlflow.url, url) for name in ("one", "two", "three")]
            start_together(replicas)
            alice, bob = replicas[0].person("alice"), replicas[0].person("bob")
            experiment = alice.ok("POST", f"{API}/experiments/create", {"name": unique("bench")})["experiment_id"]
            people = [replicas[0].person("other").name for _ in range(10)]
            tokens = [alice.token()["token"] for _ in range(READERS)]
            cast = bob, experiment, people, tokens
            print("| other replicas learn of it by | decisions | p50 ms | p99 ms | max ms | goal p99 | load |")
            print("|---|---|---|---|---|---|---|")
            met = measure("notifications", replicas, cast)
            postgres.sql(url.rsplit("/", 1)[1], "ALTER TABLE changes DISABLE TRIGGER USER")
            met = measure("polling", replicas, cast) and met
        finally:
            for replica in replicas:
                replica.stop()
            mlflow.stop()
            postgres.stop()
    return 1 if STRICT and not met else 0


if __name__ == "__main__":
    sys.exit(main())
