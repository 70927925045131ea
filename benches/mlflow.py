"""What the proxy costs in front of a real MLflow. `benches/mlflow` builds what is needed and starts this.

Two questions, each asked of the proxy and of the same bare MLflow in one run, in turns, so that whatever else happens on
the machine hits both alike:

- How long does a search take for somebody who may read 10 of 5,000 experiments? Beside it, bare MLflow's whole page of
  1,000 and its page of 10.
- How many requests a second go through, with 1, 8 and 32 clients, one that reads and one that writes? And what does each
  cost in CPU, which says more on a machine that others use, too?

From the environment: `BENCH_EXPERIMENTS` (5000), `BENCH_SEARCHES` (40 of each), `BENCH_ROUNDS` (4 there and back),
`BENCH_SECONDS` (3, of one slot), `BENCH_CLIENTS` (1,8,32), `BENCH_WORKERS` (1, MLflow's), `BENCH_STRICT=1` (a missed goal is
exit code 1).

Everything listens on loopback and is stopped by its process id, also when this fails.
"""

import json
import os
import signal
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from harness import Mlflow, Proxy  # noqa: E402


def setting(name, otherwise):
    return os.environ.get(f"BENCH_{name}") or otherwise


EXPERIMENTS = int(setting("EXPERIMENTS", 5000))
SEARCHES = int(setting("SEARCHES", 40))
ROUNDS = int(setting("ROUNDS", 4))
SECONDS = float(setting("SECONDS", 3))
CLIENTS = [int(count) for count in setting("CLIENTS", "1,8,32").split(",")]
WORKERS = setting("WORKERS", "1")
STRICT = setting("STRICT", "0") != "0"

READABLE = 10
SEARCH_MS = 25
RATE = 0.97
API = "/api/2.0/mlflow"


class Connection:
    """One kept-alive connection; as little HTTP/1.1 as it takes."""

    def __init__(self, url, authorization=None):
        self.host = url.removeprefix("http://")
        host, port = self.host.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", buffering=256 * 1024)
        self.authorization = f"Authorization: {authorization}\r\n" if authorization else ""

    def close(self):
        self.file.close()
        self.socket.close()

    def ask(self, method, path, body=None):
        """The body of an answer, which must be 200."""
        raw = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{self.authorization}{kind}\r\n"
        self.socket.sendall(head.encode() + raw)
        return self.answer(f"{method} {path}")

    def answer(self, what):
        status = self.file.readline()
        length, chunked = 0, False
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "content-length":
                length = int(value)
            elif name.lower() == "transfer-encoding":
                chunked = value.strip().lower() == "chunked"
        text = b"".join(self.chunks()) if chunked else self.file.read(length)
        if b" 200 " not in status:
            raise SystemExit(f"bench: {what} answered {status!r}: {text[:500]!r}")
        return text

    def chunks(self):
        while size := int(self.file.readline().split(b";")[0], 16):
            yield self.file.read(size)
            self.file.readline()
        self.file.readline()


def progress(text):
    print(text, file=sys.stderr, flush=True)


def fill(mlflow):
    """Experiments as MLflow itself would have made them, in one transaction: through the API it takes minutes."""
    rows = range(1, EXPERIMENTS + 1)
    now = int(time.time() * 1000)
    # Ids that no insertion of MLflow's reaches, spread so that what is readable is not one run of neighbours.
    made = [(10_000 + row, f"bench-{row:05}", str(mlflow.artifacts / str(row)), "active", now + row, now + row) for row in rows]
    database = sqlite3.connect(mlflow.database, timeout=30)
    columns = [row[1] for row in database.execute("PRAGMA table_info(experiments)")]
    names = ["experiment_id", "name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time"]
    if "workspace" in columns:
        names.append("workspace")
        made = [row + ("default",) for row in made]
    with database:
        marks = ", ".join("?" * len(names))
        database.executemany(f"INSERT INTO experiments ({', '.join(names)}) VALUES ({marks})", made)
    database.close()
    ids = [str(row[0]) for row in made]
    return ids[:: max(1, len(ids) // READABLE)][:READABLE]


def searches(bare, ours, readable):
    """Milliseconds of each search, in turns."""
    whole, few = f"{API}/experiments/search?max_results=1000", f"{API}/experiments/search?max_results={READABLE}"
    asked = {"proxy, 10 readable": (ours, whole), "bare, page of 1000": (bare, whole), "bare, page of 10": (bare, few)}
    found = [row["experiment_id"] for row in json.loads(ours.ask("GET", whole))["experiments"]]
    if sorted(found) != sorted(readable):
        raise SystemExit(f"bench: the search shows {found}, not {readable}: nothing to measure")
    took = {name: [] for name in asked}
    for number in range(SEARCHES + 3):
        for name in asked if number % 2 else reversed(asked):
            connection, path = asked[name]
            begin = time.perf_counter()
            connection.ask("GET", path)
            if number >= 3:  # the first ones warm up
                took[name].append((time.perf_counter() - begin) * 1000)
        if number % 10 == 0:
            progress(f"  search {number} of {SEARCHES}")
    return took


class Reading:
    title = "experiments/get"

    def __init__(self, readable):
        self.path = f"{API}/experiments/get?experiment_id={readable[0]}"

    def ask(self, connection, client, number):
        connection.ask("GET", self.path)


class Writing:
    title = "runs/log-metric"

    def __init__(self, bare, readable):
        # A run for each client. Bare MLflow makes them, so that the proxy has to look up where each belongs.
        self.runs = []
        for _ in range(max(CLIENTS)):
            made = json.loads(bare.ask("POST", f"{API}/runs/create", {"experiment_id": readable[0], "start_time": 1}))
            self.runs.append(made["run"]["info"]["run_id"])

    def ask(self, connection, client, number):
        # A step for each, or it would be the same point twice.
        body = {"run_id": self.runs[client], "key": "m", "value": 1.0, "timestamp": time.time_ns() // 1_000_000, "step": number}
        connection.ask("POST", f"{API}/runs/log-metric", body)


def rate(task, connect, clients, seconds):
    """Requests a second of that many clients, each of which asks again as soon as it is answered."""
    connections = [connect() for _ in range(clients)]
    counts, failures, start = [0] * clients, [], threading.Barrier(clients + 1)

    def work(client):
        try:
            start.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                task.ask(connections[client], client, counts[client])
                counts[client] += 1
        except BaseException as failure:  # a thread's SystemExit says nothing by itself
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    for connection in connections:
        connection.close()
    if failures:
        raise SystemExit(f"bench: {task.title}: {failures[0]}")
    return sum(counts) / took


def cpu_seconds(process):
    """What this process and its children have used so far, ended children too."""
    total, open_ids = 0, [process.child.pid]
    while open_ids:
        pid = open_ids.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
        open_ids += [int(child) for line in children for child in line]
    return total / os.sysconf("SC_CLK_TCK")


def rates(tasks, connects, processes):
    """For each task and number of clients the rates of both sides, slot by slot, and what each request cost in CPU."""
    results = {}
    for task in tasks:
        for clients in CLIENTS:
            slots, cpu = {name: [] for name in connects}, {name: dict.fromkeys(processes, 0) for name in connects}
            asked = dict.fromkeys(connects, 0)
            for connect in connects.values():
                rate(task, connect, clients, min(1, SECONDS))
            for turn in range(2 * ROUNDS):
                order = list(connects) if turn % 2 else list(reversed(connects))
                for name in order:
                    before = {of: cpu_seconds(process) for of, process in processes.items()}
                    slots[name].append(rate(task, connects[name], clients, SECONDS))
                    asked[name] += slots[name][-1] * SECONDS
                    for of, process in processes.items():
                        cpu[name][of] += cpu_seconds(process) - before[of]
                progress(f"  {task.title}, {clients} clients: slot {turn + 1} of {2 * ROUNDS}")
            per_request = {name: {of: 1000 * cpu[name][of] / asked[name] for of in processes} for name in connects}
            results[task.title, clients] = slots, per_request
    return results


def verdict(goal, met):
    return f"{goal} {'met' if met else 'MISSED'}"


def report(took, results):
    met = []
    print(f"\n{'search of ' + str(EXPERIMENTS) + ' experiments':<36}{'median ms':>10}{'(min - max)':>20}")
    for name, times in took.items():
        print(f"{name:<36}{statistics.median(times):>10.1f}{f'({min(times):.1f} - {max(times):.1f})':>20}")
    ours, whole, _ = (statistics.median(times) for times in took.values())
    met += [ours <= SEARCH_MS, ours <= whole]
    print(verdict(f"goal: at most {SEARCH_MS} ms", met[-2]) + "; " + verdict("at most bare's whole page", met[-1]))
    print(f"\n{'requests per second':<36}{'bare':>10}{'proxy':>10}{'ratio':>8}{'(min - max)':>16}   goal")
    for (title, clients), (slots, _) in results.items():
        bare, ours = slots["bare"], slots["proxy"]
        # Neighbours in time, so that a disturbance is on both sides of a ratio.
        ratios = [one / other for one, other in zip(ours, bare)]
        ratio = statistics.median(ratios)
        met.append(ratio >= RATE)
        spread = f"({min(ratios):.2f} - {max(ratios):.2f})"
        row = f"{f'{title}, {clients} clients':<36}{statistics.median(bare):>10.0f}{statistics.median(ours):>10.0f}"
        print(f"{row}{ratio:>8.2f}{spread:>16}   {verdict(f'>= {RATE}', ratio >= RATE)}")
    print(f"\n{'CPU ms per request':<36}{'MLflow bare':>14}{'MLflow behind':>14}{'ratio':>8}{'proxy':>10}")
    for (title, clients), (_, cpu) in results.items():
        alone, behind, ours = cpu["bare"]["mlflow"], cpu["proxy"]["mlflow"], cpu["proxy"]["proxy"]
        print(f"{f'{title}, {clients} clients':<36}{alone:>14.2f}{behind:>14.2f}{behind / alone:>8.2f}{ours:>10.3f}")
    return all(met)


def serve(folder):
    mlflow = Mlflow(folder / "mlflow", extra=["--workers", WORKERS])
    proxy = None
    try:
        mlflow.wait()
        progress(f"adding {EXPERIMENTS} experiments")
        readable = fill(mlflow)
        # As in production, but for the line per request, which has a figure of its own in benches/run.
        proxy = Proxy(folder / "proxy", mlflow.url, settings={"LOG__ACCESS": "false"}).start()
        person = proxy.person("reader")
        admin = proxy.admin()
        for key in readable:
            admin.grant(person, "experiment", key, "EDIT")
        token = f"Bearer {person.token()['token']}"
        yield mlflow, proxy, token, readable
    finally:
        if proxy:
            proxy.stop()
        mlflow.stop()


def main():
    # As an exception, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: told to stop"))
    with tempfile.TemporaryDirectory(prefix="bench-mlflow-") as folder:
        running = serve(Path(folder))
        try:
            mlflow, proxy, token, readable = next(running)
            connects = {"bare": lambda: Connection(mlflow.url), "proxy": lambda: Connection(proxy.url, token)}
            bare, ours = connects["bare"](), connects["proxy"]()
            version = urllib.request.urlopen(f"{mlflow.url}/version", timeout=10).read().decode()
            progress("searching")
            took = searches(bare, ours, readable)
            tasks = [Reading(readable), Writing(bare, readable)]
            bare.close()
            ours.close()
            results = rates(tasks, connects, {"mlflow": mlflow.process, "proxy": proxy.process})
        finally:
            running.close()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nMLflow {version}, {WORKERS} worker(s), {os.cpu_count()} cores; load {load}")
    print(f"{ROUNDS} rounds there and back, {SECONDS:g} s a slot; medians")
    return 0 if report(took, results) or not STRICT else 1


if __name__ == "__main__":
    sys.exit(main())
