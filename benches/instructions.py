"""Instructions per request, counted by callgrind: they do not depend on what else runs on the machine.

Every contender has one worker thread, one kept-alive connection, and a warm access token of a user with a grant. After
the first requests the counters are set to zero, then `BENCH_REQUESTS` (300) of a kind are counted. The kernel's part is not
in the figures. Background work is, and differs by 1 to 2 % between runs.

From the environment: `MLFLOW_AUTH_PROXY_BINARY`, built with the release profile; `BENCH_REQUESTS`.
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

ADMIN = "Basic " + base64.b64encode(b"admin:only-for-this-benchmark").decode()
READER = "Basic " + base64.b64encode(b"reader:a-reader-of-benchmarks").decode()
WARM = 50
COUNTED = int(os.environ.get("BENCH_REQUESTS") or 300)
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or "target") / "release"
RUN = "a" * 32

METRIC = {"run_id": RUN, "key": "loss", "value": 0.25, "timestamp": 1763700000000, "step": 7}
BATCH = {
    "run_id": RUN,
    "metrics": [{"key": f"m{i}", "value": 0.5, "timestamp": 1763700000000, "step": i} for i in range(100)],
}
REQUESTS = {
    "get experiment": ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=1", None),
    "log-metric": ("POST", "/api/2.0/mlflow/runs/log-metric", json.dumps(METRIC)),
    "log-batch, 100 metrics": ("POST", "/api/2.0/mlflow/runs/log-batch", json.dumps(BATCH)),
}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def running(command, environment=None, **more):
    """A process that ends with this block, and whose standard input stays open until then."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **more) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_for(address: str, process: subprocess.Popen) -> http.client.HTTPConnection:
    host, port = address.split(":")
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port))).close()
            return http.client.HTTPConnection(host, int(port), timeout=120)
        time.sleep(0.1)
    raise SystemExit(f"{process.args} does not listen on {address}")


def ask(connection, method, path, body, authorization) -> bytes:
    headers = {"Authorization": authorization, **({"Content-Type": "application/json"} if body else {})}
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status not in (200, 201):
        raise SystemExit(f"{method} {path} answered {response.status}: {answer[:300]}")
    return answer


def token(connection) -> str:
    """The token of a user who may edit the experiment of the requests."""
    user = {"username": "reader", "password": "a-reader-of-benchmarks"}
    grant = {"username": "reader", "resource_type": "experiment", "resource_id": "1", "permission": "EDIT"}
    ask(connection, "POST", "/api/2.0/mlflow/users/create", json.dumps(user), ADMIN)
    ask(connection, "POST", "/api/3.0/mlflow/users/permissions/grant", json.dumps(grant), ADMIN)
    wanted = json.dumps({"name": "benchmark", "expires_in_days": 1})
    return "Bearer " + json.loads(ask(connection, "POST", "/auth/api/v1/tokens", wanted, READER))["token"]


def control(process: subprocess.Popen, action: str) -> None:
    subprocess.run(["callgrind_control", action, str(process.pid)], check=True, capture_output=True)


def counted(folder: pathlib.Path) -> int:
    """The total of the newest dump."""
    newest = max(folder.glob("counts.*"), key=lambda file: file.stat().st_mtime_ns)
    return int(re.search(r"^(?:summary|totals): (\d+)", newest.read_text(), re.MULTILINE)[1])


def measure(command, environment, address, folder, sign_in) -> dict[str, float]:
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
    with running([*valgrind, *command], environment, stderr=subprocess.DEVNULL, cwd=folder) as process:
        connection = wait_for(address, process)
        authorization = sign_in(connection)
        figures = {}
        for name, (method, path, body) in REQUESTS.items():
            for _ in range(WARM):
                ask(connection, method, path, body, authorization)
            control(process, "--zero")
            for _ in range(COUNTED):
                ask(connection, method, path, body, authorization)
            control(process, "--dump")
            figures[name] = counted(folder) / COUNTED
        connection.close()
        return figures


def ours(upstream: str, store: str, folder: pathlib.Path) -> dict[str, float]:
    address = free_address()
    settings = {
        "UPSTREAM__URL": f"http://{upstream}",
        "SERVER__LISTEN": address,
        "ADMIN__LISTEN": free_address(),
        "STORE__URL": store,
        "BOOTSTRAP__ADMIN_PASSWORD": "only-for-this-benchmark",
        "LOG__ACCESS": "false",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {f"MLFLOW_AUTH_PROXY_{key}": value for key, value in settings.items()}
    environment["TOKIO_WORKER_THREADS"] = "1"
    binary = str(pathlib.Path(os.environ["MLFLOW_AUTH_PROXY_BINARY"]).absolute())
    return measure([binary, "serve"], environment, address, folder, token)


def main() -> None:
    examples = (RELEASE / "examples").absolute()
    with contextlib.ExitStack() as stack:
        folders = [pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        upstream, plain = free_address(), free_address()
        wait_for(upstream, stack.enter_context(running([str(examples / "stub"), upstream]))).close()
        postgres = stack.enter_context(postgresql())
        environment = {**os.environ, "TOKIO_WORKER_THREADS": "1"}
        command = [str(examples / "plain-proxy"), plain, upstream]
        results = {
            "do-nothing proxy": measure(command, environment, plain, folders[0], lambda _: "Bearer none"),
            "this proxy, SQLite": ours(upstream, f"sqlite://{folders[1]}/store.db", folders[1]),
            "this proxy, PostgreSQL": ours(upstream, f"{postgres}/postgres?sslmode=disable", folders[2]),
        }
    base = results["do-nothing proxy"]
    print(f"{'instructions per request':26}" + "".join(f"{name:>28}" for name in REQUESTS))
    for contender, figures in results.items():
        cells = (f"{round(figures[name]):>18,} ({figures[name] / base[name]:5.2f} x)" for name in REQUESTS)
        print(f"{contender:26}" + "".join(cells))


@contextlib.contextmanager
def postgresql():
    """The address of a PostgreSQL server that ends with this block."""
    with subprocess.Popen(["scripts/postgres.sh", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()


if __name__ == "__main__":
    main()
