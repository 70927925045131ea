"""Generated requests go through the proxy to a real MLflow: what was decided about is what MLflow acts on.

One person owns one of everything. On the other side stands the same, which they have no grant for. They send the
requests of `generated.py`, over raw sockets so that odd bytes arrive; whatever the proxy answers, the other side must
not change, and nothing of it may show. `make test` sends a fixed five hundred, `make slow` ten thousand; a seed and a
number make any of them again: `DIFFERENTIAL=seed:first-last make slow`.
"""

import collections
import contextlib
import json
import os
import re
import secrets
import socket
import sqlite3
import time

import pytest

import endpoints
import endpoints_gateway
import endpoints_genai
from generated import Draft, Sides, draw
from harness import World, unique

FAMILIES = [endpoints_genai, endpoints_gateway]
ENDPOINTS = [*endpoints.ENDPOINTS, *(endpoint for family in FAMILIES for endpoint in family.ENDPOINTS)]
# Asks a model provider, which is not there.
ENDPOINTS = [endpoint for endpoint in ENDPOINTS if not endpoint.route.startswith("/gateway/")]
LASTING = [endpoint for endpoint in ENDPOINTS if not endpoint.spoils]
SPOILING = [endpoint for endpoint in ENDPOINTS if endpoint.spoils]

BATCH = 250
# A batch ends with what may delete the caller's own things; then they are made anew.
LASTING_OF_BATCH = 215
# So many of all requests, in per cent, reach MLflow, and are answered with success: or the test tests nothing.
FORWARDED, SUCCEEDED = 45, 25
# What an endpoint of the gateway is bound to is free text to MLflow.
FREE = {"resource_id"}


@pytest.mark.odd_requests
def test_five_hundred_generated_requests_act_on_what_was_decided(proxy, mlflow_server):
    Comparison(proxy, mlflow_server, "every-day").run(range(500))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.odd_requests
def test_ten_thousand_generated_requests_act_on_what_was_decided(proxy, mlflow_server):
    given = re.fullmatch(r"([\w-]+)(?::(\d+)-(\d+))?", os.environ.get("DIFFERENTIAL", secrets.token_hex(4)))
    seed, first, last = given.group(1), int(given.group(2) or 0), int(given.group(3) or 9_999)
    Comparison(proxy, mlflow_server, seed).run(range(first, last + 1))


class Comparison:
    def __init__(self, proxy, mlflow_server, seed):
        self.proxy, self.mlflow_server, self.seed = proxy, mlflow_server, seed
        self.marker = unique("differential-marker")
        with said_secret(self.marker):
            self.theirs = self.make(proxy.person("other"))
        self.watch = Watch(mlflow_server, self.theirs)
        self.owner = proxy.person("caller")
        self.authorization = f"Bearer {self.owner.token()['token']}"
        self.wire = Wire(proxy.port)
        self.counts = collections.Counter()
        self.changes = collections.Counter()
        self.broken = collections.Counter()
        self.complaints = []

    def make(self, owner):
        world = World.make(owner).with_deleted_experiment()
        for family in FAMILIES:
            family.make(world, self.mlflow_server)
        return world

    def run(self, numbers):
        print(f"\nseed {self.seed}, requests {numbers.start} to {numbers.stop - 1}")
        began, forwarded = time.monotonic(), self.forwarded()
        for start in range(numbers.start, numbers.stop, BATCH):
            self.batch(range(start, min(start + BATCH, numbers.stop)))
        took, forwarded = time.monotonic() - began, self.forwarded() - forwarded
        total = len(numbers)
        print(f"{total} requests in {took:.1f} s, {total / took:.0f} a second; {forwarded} reached MLflow")
        print("answers:", ", ".join(f"{status} {count}" for status, count in sorted(self.counts.items())))
        print("changes:", ", ".join(f"{name} {count}" for name, count in sorted(self.changes.items())))
        print("500:", ", ".join(f"{name} {count}" for name, count in self.broken.most_common()))
        assert not self.complaints, f"{len(self.complaints)} wrong answers\n\n" + "\n\n".join(self.complaints[:10])
        succeeded = self.counts[200]
        assert forwarded * 100 >= FORWARDED * total, f"only {forwarded} of {total} reached MLflow"
        assert succeeded * 100 >= SUCCEEDED * total, f"only {succeeded} of {total} succeeded"

    def forwarded(self):
        """How many requests went on to MLflow, from the proxy's access log."""
        return self.proxy.process.output().count('"upstream_ms"')

    def batch(self, numbers):
        sides = Sides(self.make(self.owner), self.theirs)
        drafts = Drafts(sides)
        self.watch.settle()
        before = self.mlflow_server.database.with_name("before.db")
        copy_database(self.mlflow_server.database, before)
        sent = []
        for number in numbers:
            draft = self.draft(number, numbers, drafts)
            request = draft.to_bytes(f"127.0.0.1:{self.proxy.port}", self.authorization)
            sent.append((number, draft, request))
            status, complaint = self.judge(draft, self.wire.exchange(request, draft.method), request)
            self.counts[status] += 1
            self.changes.update(draft.changes)
            if status == 500:
                self.broken[draft.name] += 1
            if complaint:
                self.complaints.append(self.describe(complaint, number, draft, request))
        if changed := self.watch.changed():
            self.find(changed, sent, before)

    def draft(self, number, numbers, drafts):
        # In turn, so that no endpoint waits for its luck.
        pick = LASTING if number - numbers.start < LASTING_OF_BATCH else SPOILING
        turn = number % len(pick)
        return draw(self.seed, number, lambda _: drafts.plain([*pick[turn:], *pick[:turn]]))

    def judge(self, draft, answer, request):
        """The status, and what is wrong with the answer."""
        status, head, body = answer
        if status is None:
            return "none", None if head is None else head
        if status in (502, 503, 504):
            return status, f"the proxy lost MLflow: {status}"
        if self.marker.encode() in head or self.marker.encode() in body:
            return status, "the answer holds what only the other side may read"
        if 200 <= status < 300:
            with contextlib.suppress(ValueError, RecursionError):
                if found := self.watch.identified(json.loads(body)):
                    return status, f"a success is about the other side: {found}"
        return status, None

    def find(self, changed, sent, before):
        """Which of these requests did that: the batch again from where it began, and again with half of it."""
        low, high = 0, len(sent)
        while high - low > 1:
            middle = (low + high) // 2
            if self.again(sent[:middle], before):
                high = middle
            else:
                low = middle
        again = self.again(sent[:high], before)
        number, draft, request = sent[high - 1]
        sure = "" if again else " (or not it alone: sent again, the batch changes nothing)"
        raise AssertionError(self.describe(f"the other side changed{sure}:\n{again or changed}", number, draft, request))

    def again(self, sent, before):
        copy_database(before, self.mlflow_server.database)
        for _, draft, request in sent:
            self.wire.exchange(request, draft.method)
        return self.watch.changed()

    def describe(self, complaint, number, draft, request):
        words = f"{complaint}\nseed {self.seed}, request {number}: {draft.name}, changed by {draft.changes or 'nothing'}\n"
        return words + repr(request.replace(self.authorization.encode(), b"..."))


class Drafts:
    """The plain requests of one world."""

    def __init__(self, sides):
        self.sides, self.ready = sides, set()

    def plain(self, endpoints):
        for endpoint in endpoints:
            # What some ask for first does not work in a world that another has spoiled.
            with contextlib.suppress(AssertionError):
                if endpoint not in self.ready:
                    self.ready.add(endpoint)
                    endpoint.before(self.sides.mine)
                return Draft.of(endpoint, self.sides.mine), self.sides


class Watch:
    """Everything that stood there before the caller owned anything, and every mention of the other side since."""

    def __init__(self, mlflow_server, theirs):
        self.mlflow_server, self.theirs = mlflow_server, theirs
        self.columns = {}
        self.stood = self.rows()
        self.files = self.artifacts()
        # What names the other side and nothing else.
        words = [theirs.experiment_name, theirs.run, theirs.deleted_run, theirs.logged_model, theirs.model]
        words += [value for key, value in theirs.names.items() if len(value) > 20 and "guardrail" not in key]
        self.words = set(words)
        self.traces = {theirs.names[name] for name in ("trace_id", "another_trace", "request_id")}
        self.experiments = {theirs.experiment, theirs.deleted_experiment}
        self.known = {}
        self.settle()

    def rows(self):
        """The rows of every table, and its columns under the table's name."""
        rows = {}
        with contextlib.closing(connect(self.mlflow_server.database)) as database:
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found = database.execute(f'SELECT * FROM "{name}"')
                self.columns[name] = [column[0] for column in found.description]
                rows[name] = collections.Counter(found)
        return rows

    def artifacts(self):
        root = self.mlflow_server.artifacts
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    def settle(self):
        """What the caller's new things mention is no finding."""
        self.known = {name: set(rows) for name, rows in self.rows().items()}

    def changed(self):
        """What is not as it stood, in words; empty when all is."""
        lines, now, files = [], self.rows(), self.artifacts()
        for name, stood in self.stood.items():
            lines += [f"- {name}: {row}" for row in stood - now.get(name, collections.Counter())]
        for name, rows in now.items():
            fresh = rows.keys() - self.known.get(name, set())
            lines += [f"+ {name}: {row}" for row in fresh if self.mentions(name, self.columns[name], row)]
        lines += [f"file {path}" for path, state in self.files.items() if files.get(path) != state]
        ours = (f"{self.theirs.experiment}/", f"{self.theirs.deleted_experiment}/")
        lines += [f"new file {path}" for path in files.keys() - self.files.keys() if path.startswith(ours)]
        return "\n".join(lines)

    def mentions(self, table, columns, row):
        """Whether an id in this row is one of the other side's. In free text anybody may write one."""
        for column, value in zip(columns, row):
            if column == "name" and table.startswith(("registered_model", "model_version")) and value == self.theirs.model:
                return True
            if re.search("(^|_)(id|ids|uuid)$", column) and self.is_theirs(column, value):
                return True
            if column == "experiment_id" and str(value) in self.experiments:
                return True
        return False

    def is_theirs(self, column, value):
        # Clients choose the ids of traces: the id of another kind of thing is as good as any.
        words = self.traces if column in ("trace_id", "request_id", "traceId", "requestId") else self.words
        return column not in FREE and value in words

    def identified(self, value, key=""):
        """The first id of the other side in an answer, with its key."""
        if isinstance(value, dict):
            return next(filter(None, (self.identified(one, key) for key, one in value.items())), None)
        if isinstance(value, list):
            return next(filter(None, (self.identified(one, key) for one in value)), None)
        if isinstance(value, str | int) and re.search("(id|ids|Id|Ids|uuid)$", key):
            if self.is_theirs(key, value) or ("xperiment" in key and str(value) in self.experiments):
                return f"{key} {value}"
        return None


class Wire:
    """One kept-alive connection, and whole answers from it."""

    def __init__(self, port):
        self.port, self.socket, self.rest = port, None, b""

    def exchange(self, request, method):
        """(status, head, body) of the answer; no status when the proxy hung up instead, and then what is wrong."""
        fresh = self.socket is None
        try:
            return self.attempt(request, method)
        except (ConnectionError, BrokenPipeError):
            self.close()
            if fresh:
                return None, None, b""
        try:  # it had closed the idle connection
            return self.attempt(request, method)
        except (ConnectionError, BrokenPipeError):
            self.close()
            return None, None, b""

    def attempt(self, request, method):
        if self.socket is None:
            self.socket, self.rest = socket.create_connection(("127.0.0.1", self.port), timeout=30), b""
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an early answer may stand there to be read
            self.socket.sendall(request)
        while True:
            head = self.until(b"\r\n\r\n")
            status = int(head[9:12])
            if status >= 200:
                break
        fields = head.lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", fields)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif b"\r\ntransfer-encoding: chunked" in fields:
            body = self.chunks()
        elif length:
            body = self.take(int(length.group(1)))
        else:
            body = self.to_the_end()
        if b"\r\nconnection: close" in fields:
            self.close()
        elif self.rest:
            left, self.rest = self.rest, b""
            self.close()
            return None, f"a second answer came to one request: {left[:200]!r}", b""
        return status, head, body

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket, self.rest = None, b""

    def more(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("closed")
        self.rest += part

    def until(self, end):
        while end not in self.rest:
            self.more()
        found, self.rest = self.rest.split(end, 1)
        return found + end

    def take(self, count):
        while len(self.rest) < count:
            self.more()
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def chunks(self):
        body = b""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            body += self.take(size)
            self.take(2)
        self.until(b"\r\n")
        return body

    def to_the_end(self):
        with contextlib.suppress(ConnectionError):
            while True:
                self.more()
        body = self.rest
        self.close()
        return body


@contextlib.contextmanager
def said_secret(marker):
    """What is made here says this marker in tags, parameters, descriptions and files."""
    usual, World.SECRET = World.SECRET, marker
    try:
        yield
    finally:
        World.SECRET = usual


def connect(path):
    return sqlite3.connect(path, timeout=20)


def copy_database(source, target):
    with contextlib.closing(connect(source)) as one, contextlib.closing(connect(target)) as other:
        one.backup(other)


def test_a_change_on_the_other_side_would_be_noticed(proxy, mlflow_server):
    """The same judgement, over requests that the other side sends itself."""
    comparison = Comparison(proxy, mlflow_server, "noticed")
    theirs = comparison.theirs
    assert not comparison.watch.changed()
    theirs.owner.ok("POST", "/api/2.0/mlflow/runs/set-tag", {"run_id": theirs.run, "key": "new", "value": "v"})
    assert theirs.run in comparison.watch.changed()
    draft = Draft("GET", "GET", f"/api/2.0/mlflow/runs/get?run_id={theirs.run}")
    request = draft.to_bytes("127.0.0.1", theirs.owner.session.headers["Authorization"])
    status, complaint = comparison.judge(draft, comparison.wire.exchange(request, "GET"), request)
    assert status == 200 and "only the other side" in complaint
