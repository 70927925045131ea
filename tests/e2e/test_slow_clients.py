"""Slow bodies and the limits of one address, together: who sends slowly takes nothing from others, and not for long."""

import contextlib
import selectors
import socket
import time

import pytest

from harness import Http, basic, new_password, wait_until

SLOW, OTHER = "127.0.0.2", "127.0.0.1"
ROOM, GUESSES, GRACE = 8, 3, 2
JSON, FORM = "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"
SPANS = "Content-Type: application/x-protobuf\r\nX-MLflow-Experiment-Id: {experiment}\r\n"
UPLOAD = "/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/slow"
# As many as one address has room for.
PLACES = [
    ("POST", "/auth/login", FORM, 408),
    ("POST", "/auth/backchannel-logout", FORM, 408),
    ("POST", "/auth/api/v1/tokens", JSON, 408),
    ("PATCH", "/api/2.0/mlflow/users/update-password", JSON, 408),
    ("POST", "/api/2.0/mlflow/runs/log-batch", JSON, 408),
    ("POST", "/graphql", JSON, 408),
    ("POST", "/v1/traces", SPANS, 408),
    ("PUT", UPLOAD, "", None),
]


class Slow:
    """A request whose body comes byte by byte from one address, on a connection of its own."""

    def __init__(self, port, head):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(SLOW, 0))
        self.socket.sendall(head.encode())
        self.answer, self.is_closed = b"", False

    def step(self):
        with contextlib.suppress(OSError):
            self.socket.send(b"x")
        with selectors.DefaultSelector() as ready:
            ready.register(self.socket, selectors.EVENT_READ)
            while not self.is_closed and ready.select(0):
                try:
                    data = self.socket.recv(65536)
                except OSError:
                    data = b""
                self.answer += data
                self.is_closed = not data

    @property
    def status(self):
        return int(self.answer.split(b" ", 2)[1]) if self.answer else None


@pytest.fixture
def limited(start_proxy):
    return start_proxy({
        "SERVER__HEAD_TIMEOUT_SECONDS": str(GRACE), "SERVER__MAX_CONNECTIONS_PER_ADDRESS": str(ROOM), "AUTHN__PASSWORD_FORM": "true",
        "AUTHN__GUESSES_PER_ADDRESS": str(GUESSES), "AUTHN__GUESSES_PER_ACCOUNT": "1000",
    })


def head(proxy, method, path, headers, authorization):
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nAuthorization: {authorization}\r\n{headers}"
            "Content-Length: 50000\r\n\r\n").replace("Authorization: None\r\n", "")


def raw(proxy, request=None):
    """What the slow address is answered to a request of its own; nothing when it is let go."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10, source_address=(SLOW, 0)) as one:
        with contextlib.suppress(OSError):
            one.sendall((request or f"GET /version HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nConnection: close\r\n\r\n").encode())
            answer = b""
            while data := one.recv(65536):
                answer += data
            return answer
    return b""


def test_slow_bodies_fill_the_room_of_one_address_for_a_moment_and_nobody_elses(limited, mlflow_server):
    alice = limited.person("alice")
    experiment = alice.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": "slow"})["experiment_id"]
    run = alice.ok("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
    names = {"experiment": experiment, "run": run}
    # An idle one is closed for the first that needs its place.
    idle = socket.create_connection(("127.0.0.1", limited.port), timeout=10, source_address=(SLOW, 0))
    idle.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{limited.port}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"OK"):
        answer += idle.recv(65536)
    began = time.monotonic()
    slow = []
    for method, path, headers, _ in PLACES:
        authorization = None if path.startswith(("/auth/login", "/auth/back")) else basic(alice.name, alice.password)
        slow.append(Slow(limited.port, head(limited, method, path.format(**names), headers.format(**names), authorization)))
    assert idle.recv(65536) == b"", "closed"
    idle.close()
    # Its room is full of connections that are at work: a further one is let go, and others notice nothing.
    refused = limited.counted("connections_refused_total")
    assert raw(limited) == b""
    assert limited.counted("connections_refused_total") == refused + 1
    done = 0
    while not all(one.is_closed for one in slow):
        assert time.monotonic() - began < 60, [(place[1], one.answer) for place, one in zip(PLACES, slow) if not one.is_closed]
        [one.step() for one in slow]
        assert alice.get("/api/2.0/mlflow/experiments/get", {"experiment_id": experiment}).status_code == 200
        done += 1
    assert done > 1
    assert time.monotonic() - began >= GRACE
    for (method, path, _, status), one in zip(PLACES, slow):
        assert one.status == 408 or status is None and (one.status is None or one.status >= 400), (method, path, one.answer)
    assert limited.counted("body_refusals_total", reason="body_too_slow") == len(PLACES)
    # Nothing is held for them any more: neither memory nor a place.
    assert limited.counted("inspection_reserved_bytes") == 0
    wait_until(lambda: raw(limited).startswith(b"HTTP/1.1 "), 10, "the address has room again", every=0.1)
    # A body that never came was no guess: as many are left as ever, and they are this address's alone.
    def guess():
        request = head(limited, "GET", "/api/2.0/mlflow/users/current", "Connection: close\r\n", basic(alice.name, new_password()))
        return int(raw(limited, request.replace("Content-Length: 50000\r\n", "")).split(b" ", 2)[1])

    assert [guess() for _ in range(GUESSES + 1)] == [401] * GUESSES + [429]
    assert Http(limited.url, basic(alice.name, alice.password)).get("/api/2.0/mlflow/users/current").status_code == 200
