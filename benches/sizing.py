"""What a large store costs: `benches/replicas sizing` builds what is needed and starts this.

A store with 5,000 people, 1,000 groups and 100,000 grants, on SQLite and on PostgreSQL, before one real MLflow that has 50,000
experiments of which each person may read ten. For each store: seconds from the start until `/readyz` answers, resident memory
then and after everybody's first request, milliseconds of a person's first request and of one that is in memory, and of a
search for experiments.

From the environment: `BENCH_PEOPLE`, `BENCH_GROUPS`, `BENCH_GRANTS`, `BENCH_EXPERIMENTS`, `BENCH_SEARCHES` (40).
Everything listens on loopback and is stopped by its process id, also when this fails.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
# The experiments are made as for benches/mlflow.py.
os.environ.setdefault("BENCH_EXPERIMENTS", "50000")
import mlflow as measured  # noqa: E402
from harness import Http, Mlflow, Proxy  # noqa: E402
from postgres import Postgres, Replica  # noqa: E402


def setting(name, otherwise):
    return int(os.environ.get(f"BENCH_{name}") or otherwise)


PEOPLE, GROUPS, GRANTS = setting("PEOPLE", 5000), setting("GROUPS", 1000), setting("GRANTS", 100_000)
SEARCHES = setting("SEARCHES", 40)
READABLE = 10
API = "/api/2.0/mlflow"
YEAR_MS = 365 * 24 * 3600 * 1000


def token(number):
    """An access token as the proxy makes them, but not random."""
    text = "mlap_" + hashlib.sha256(f"bench {number}".encode()).hexdigest()
    return text + hashlib.sha256(text.encode()).hexdigest()[:8]


def rows(experiments):
    """The rows of each table, by its columns. IDs begin at 10, after the administrator's."""
    now = int(time.time() * 1000)
    people = range(10, 10 + PEOPLE)
    # Five groups for each person.
    groups = lambda person: json.dumps([f"/org/group-{(person * 7 + number * 131) % GROUPS}" for number in range(5)])
    yield "users (id, name, admin, created, groups)", [(one, f"person-{one}", False, now, groups(one)) for one in people]
    yield "tokens (id, user_id, name, hash, scopes, created, expires)", [
        (one, one, "bench", hashlib.sha256(token(one).encode()).digest(), "[]", now, now + YEAR_MS) for one in people
    ]
    readable = lambda person: [experiments[(person * 37 + number * 4999) % len(experiments)] for number in range(READABLE)]
    grants = [("user", str(one), "experiment", "exact", each, "READ", now) for one in people for each in readable(one)]
    # The others are on models, of people and of groups in turns.
    for number in range(GRANTS - len(grants)):
        subject = ("user", str(people[number % PEOPLE])) if number % 2 else ("group", f"/org/group-{number % GROUPS}")
        grants.append((*subject, "registered_model", "exact", f"model-{number}", "READ", now))
    yield "grants (subject_kind, subject, kind, form, selector, permission, created)", grants


def fill_sqlite(path, experiments):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for table, values in rows(experiments):
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)


def fill_postgres(postgres, database, experiments):
    def literal(value):
        if isinstance(value, bytes):
            return f"'\\x{value.hex()}'"
        return f"'{value}'" if isinstance(value, str) else str(value)

    for table, values in rows(experiments):
        for start in range(0, len(values), 500):
            text = ", ".join(f"({', '.join(map(literal, row))})" for row in values[start : start + 500])
            postgres.sql(database, f"INSERT INTO {table} VALUES {text}")
    postgres.sql(database, "ANALYZE")


def memory(proxy):
    status = Path(f"/proc/{proxy.process.child.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def milliseconds(work):
    began = time.monotonic()
    answer = work()
    assert answer.status_code == 200, answer.text
    return (time.monotonic() - began) * 1000, answer


def measure(kind, proxy, size):
    began = time.monotonic()
    proxy.start()
    started, empty = time.monotonic() - began, memory(proxy)
    session = Http(proxy.url, None)
    ask = lambda number, path: session.get(path, headers={"Authorization": f"Bearer {token(number)}"})
    me = "/auth/api/v1/me"
    session.get("/auth/api/v1/me")
    first = [milliseconds(lambda number=number: ask(number, me))[0] for number in range(10, 10 + PEOPLE)]
    warm = [milliseconds(lambda number=number: ask(number, me))[0] for number in range(10, 210)]
    full = memory(proxy)
    searches, firsts = [], []
    for number in range(10, 10 + SEARCHES):
        for took in (firsts, searches):
            spent, answer = milliseconds(lambda number=number: ask(number, f"{API}/experiments/search?max_results=1000"))
            took.append(spent)
            found = len(answer.json()["experiments"])
            assert found == READABLE, found
    p99 = statistics.quantiles(first, n=100)[98]
    print(
        f"| {kind} | {size / 2**20:.0f} MB | {started:.1f} s | {empty:.0f} MB | {full:.0f} MB | {statistics.median(first):.1f} / {p99:.1f} ms "
        f"| {statistics.median(warm):.1f} ms | {statistics.median(firsts):.0f} ms | {statistics.median(searches):.0f} ms |",
        flush=True,
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        postgres, mlflow = Postgres(apart=True), Mlflow(folder / "mlflow")
        proxies = []
        try:
            mlflow.wait()
            measured.READABLE = measured.EXPERIMENTS
            experiments = measured.fill(mlflow)
            print(f"{PEOPLE} people, {GROUPS} groups, {GRANTS} grants, {len(experiments)} experiments, {READABLE} of them readable")
            print("| store | size | start | memory at start | with everybody | first request p50 / p99 | next | first search | next search |")
            print("|---|---|---|---|---|---|---|---|---|")
            small = Proxy(folder / "sqlite", mlflow.url)
            proxies.append(small)
            small.start()
            small.stop()
            fill_sqlite(small.store, experiments)
            measure("SQLite", small, small.store.stat().st_size)
            small.stop()
            url = postgres.database()
            database = url.rsplit("/", 1)[1]
            shared = Replica(folder / "postgres", mlflow.url, url)
            proxies.append(shared)
            shared.start()
            shared.stop()
            fill_postgres(postgres, database, experiments)
            measure("PostgreSQL", shared, int(postgres.sql(database, f"SELECT pg_database_size('{database}')")[0]))
        finally:
            for proxy in proxies:
                proxy.stop()
            mlflow.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
