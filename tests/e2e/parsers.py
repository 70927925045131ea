"""Generated requests through the proxy's rebuilding, and what it sends through the request parsers of every MLflow.

There are no servers: the test program rebuild.rs returns what the proxy would authorise and send, and one worker for
each release of MLflow, parser_of.py in that release's environment, reads it with MLflow's own functions and compares.
Requests come from parser_requests.py.
"""

import base64
import collections
import contextlib
import json
import os
import pickle
import queue
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from harness import ROOT, plain_environment
from parser_requests import MINE, Draft, Requests
from test_coverage import python_of

RELEASES = ["2.10.2", "2.22.5", "3.6.0", "3.9.0", "3.17.2", "3.18.0"]
SEEDS = ROOT / "tests/e2e/parser_seeds"
BATCH = 1000
# Least shares, in per cent, that are accepted and compared: of all bodies, and of those without a change.
ACCEPTED, ACCEPTED_UNCHANGED = 35, 80
# Batches that the driver or a worker can have at once, so that none waits for the slowest.
AHEAD = 3
SHOWN = 12
MOST_ENDS = 5

# Findings that need no change of the proxy: operation, releases, text; and why.
HARMLESS = [
    ("InvokeEndpoint", RELEASES, r"of the path are \{\}, but 'proxy' is read",
     "the row requires an administrator; see routes.toml"),
    ("GetTrace", ["3.6.0"], r"of the path are \{\}, but 'get' is read",
     "3.6.0 has no such route; it answers with the trace `get`"),
]


def rebuild_program():
    """Builds the test program and returns its path."""
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--example", "rebuild"], cwd=ROOT, check=True, timeout=900)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/examples/rebuild"


class Feeder:
    """A thread that writes to a child, because both of a child's pipes can be full at once."""

    def __init__(self, stdin):
        self.queued = queue.Queue()
        self.thread = threading.Thread(target=self.run, args=(stdin,), daemon=True)
        self.thread.start()

    def run(self, stdin):
        with contextlib.suppress(BrokenPipeError):
            while (data := self.queued.get()) is not None:
                stdin.write(data)
                stdin.flush()
            stdin.close()

    def close(self):
        self.queued.put(None)
        self.thread.join(60)


class Driver:
    """The test program rebuild.rs."""

    def __init__(self, program):
        self.program, self.asked = program, collections.deque()
        self.start()

    def start(self):
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen([self.program, *MINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.log, env=plain_environment())
        self.feeder = Feeder(self.child.stdin)
        for lines in self.asked:
            self.write(lines)

    def ask(self, lines):
        self.asked.append(lines)
        self.write(lines)

    def write(self, lines):
        self.feeder.queued.put(b"".join(lines) + b"\n")  # an empty line asks for every answer

    def answers(self):
        """Returns the answers to the oldest batch. A request that ends the program is answered with `ended`."""
        lines = self.asked.popleft()
        made = [self.child.stdout.readline() for _ in lines]
        if not made[-1]:
            self.close()
            made = self.apart(lines)
            self.start()
        return [json.loads(line) for line in made]

    def apart(self, lines):
        """Halves the lines between new programs until the line that ends one is alone; returns all answers."""
        done = subprocess.run([self.program, *MINE], input=b"".join(lines), capture_output=True,
                              env=plain_environment(), timeout=60)
        if done.returncode == 0:
            return done.stdout.splitlines()
        if len(lines) == 1:
            return [json.dumps({"operation": "", "refused": "", "ended": done.stderr.decode(errors="replace")[:400]})]
        return self.apart(lines[:len(lines) // 2]) + self.apart(lines[len(lines) // 2:])

    def close(self):
        self.feeder.close()
        self.child.stdout.close()
        self.child.wait(60)
        self.log.close()


class Worker:
    """The parsers of one release."""

    def __init__(self, version, rows, folder):
        self.version = version
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            [python_of(version), "-W", "ignore", ROOT / "tests/e2e/parser_of.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, cwd=folder, env=plain_environment(),
        )
        self.feeder = Feeder(self.child.stdin)
        self.send(pickle.dumps([row.for_worker() for row in rows], protocol=4))
        self.kinds = None

    def started(self):
        self.kinds = self.receive()
        return self

    def send(self, data):
        self.feeder.queued.put(len(data).to_bytes(4, "big") + data)

    def receive(self):
        head = self.child.stdout.read(4)
        if len(head) < 4:
            self.log.seek(0)
            log = self.log.read().decode(errors="replace")[-4000:]
            raise AssertionError(f"the worker of MLflow {self.version} ended:\n{log}")
        return pickle.loads(self.child.stdout.read(int.from_bytes(head, "big")))

    def close(self):
        self.feeder.close()
        self.child.stdout.close()
        try:
            self.child.wait(60)
        finally:
            if self.child.poll() is None:
                self.child.kill()
            self.log.close()


class Parsers:
    """The driver, the workers and their counts."""

    def __init__(self, requests, program, releases=RELEASES):
        self.requests, self.rows = requests, requests.rows
        self.folder = tempfile.TemporaryDirectory()
        self.workers = [Worker(version, self.rows, self.folder.name) for version in releases]
        self.driver = Driver(program)
        for worker in self.workers:
            worker.started()
        self.patterns = {row.index: [pattern(path) for path in row.twins] for row in self.rows}
        self.bodies = self.accepted = 0
        self.refusals = collections.Counter()
        self.valid_refused = []
        self.plain = self.plain_accepted = 0
        self.by_row = collections.Counter()
        self.compared = {worker.version: collections.Counter() for worker in self.workers}
        self.unread = collections.Counter()
        self.disagreements = self.ends = 0
        self.problems = {}  # request -> [(release, findings, what was read)]
        self.waiting = collections.deque()  # batches that the workers have

    def close(self):
        self.driver.close()
        for worker in self.workers:
            worker.close()
        self.folder.cleanup()

    # ---- one batch: generated, rebuilt, read by all workers at once

    def ask(self, drafts):
        """Hands requests to the driver, `(number, draft)` each."""
        self.driver.ask([draft.line() for _, draft in drafts])

    def hand_over(self, drafts):
        """Takes the driver's answers, and gives what was accepted to the workers."""
        items, waiting = [], {}
        for (number, draft), answer in zip(drafts, self.driver.answers()):
            self.bodies += 1
            unchanged = not draft.changes
            self.plain += unchanged
            if "sent" not in answer:
                reason = answer["refused"]
                if "ended" in answer:
                    self.ends += 1
                    findings = [("no release", [f"the proxy's code ended: {answer['ended']}"], "")]
                    self.problems[number] = (draft, {"query": "", "body": b"", "located": []}, findings)
                    continue
                self.refusals[re.sub(r"'[^']*'|`[^`]*`|\d+", "…", reason)[:80]] += 1
                if unchanged:
                    self.valid_refused.append((number, draft, reason))
                continue
            self.accepted += 1
            self.plain_accepted += unchanged
            draft.row = self.found(draft, answer)
            item = self.item(number, draft, answer)
            items.append(item)
            waiting[number] = (draft, item)
            if draft.row.body and (stray := self.stray(draft.row.body, item["body"])):
                self.problems.setdefault(number, (draft, item, []))[2].append(("no release", [stray], ""))
            self.by_row[draft.row.index] += 1
        if len(self.waiting) >= AHEAD:
            self.collect()
        data = pickle.dumps(items, protocol=4)
        for worker in self.workers:
            worker.send(data)
        self.waiting.append(waiting)

    def item(self, number, draft, answer):
        sent = answer["sent"]
        return {
            "number": number, "row": draft.row.index, "query": sent["query"], "body": base64.b64decode(sent["body"]),
            "content_type": sent["content_type"] if sent["body"] else None,
            "located": [(one["thing"], one["id"]) for one in answer["located"]],
            "path": sent["path"], "params": self.params(draft.row, sent["path"]), "headers": draft.headers,
            "mine": MINE,
        }

    def stray(self, kind, body):
        """Returns a complaint about a key of the sent body that requests.toml does not have, or that stands twice."""
        try:
            return self.requests.schema.stray(kind, json.loads(body, object_pairs_hook=once) if body else {})
        except ValueError as error:
            # Python refuses integers of more than 4,300 digits, so MLflow refuses such a body. Free JSON can hold one.
            return None if "integer string conversion" in str(error) else f"the sent body: {error}"

    def found(self, draft, answer):
        """Returns the row that the proxy found, which a changed path can make another one."""
        path = answer["sent"]["path"]
        for row in [draft.row, *self.rows]:
            if row.name == answer["operation"] and draft.method in row.methods:
                if any(one.fullmatch(path) for one in self.patterns[row.index]):
                    return row
        raise AssertionError(f"no row of {answer['operation']} fits {draft.method} {path}")

    def params(self, row, path):
        """Returns the parameters of a decoded path."""
        found = next(filter(None, (one.fullmatch(path) for one in self.patterns[row.index])), None)
        return found.groupdict() if found else {}

    def collect(self):
        """Takes the workers' answers to their oldest batch."""
        waiting = self.waiting.popleft()
        for worker in self.workers:
            answer = worker.receive()
            self.compared[worker.version].update(answer["compared"])
            self.unread[worker.version] += answer["refused"]
            for number, findings, read in answer["problems"]:
                draft, item = waiting[number]
                if why_harmless(draft.row.name, worker.version, findings):
                    continue
                self.disagreements += 1
                self.problems.setdefault(number, (draft, item, []))[2].append((worker.version, findings, read))

    # ---- runs

    def run(self, numbers, until=None):
        """Runs requests of these numbers until a time. The generator works while the driver and the workers do."""
        began, first = time.monotonic(), self.bodies
        numbers, asked = iter(numbers), collections.deque()
        while True:
            drafts = []
            # Each end of the test program takes seconds.
            if (until is None or time.monotonic() < until) and self.ends < MOST_ENDS:
                drafts = [(number, self.requests.draw(number)) for number, _ in zip(numbers, range(BATCH))]
            if drafts:
                self.ask(drafts)
                asked.append(drafts)
            if asked and (not drafts or len(asked) >= AHEAD):
                self.hand_over(asked.popleft())
            if not asked and not drafts:
                break
        while self.waiting:
            self.collect()
        self.took, self.counted = time.monotonic() - began, self.bodies - first

    def replay(self):
        """Runs the kept requests and returns their number."""
        drafts = list(seeds(self.rows))
        if drafts:
            self.ask(drafts)
            self.hand_over(drafts)
            self.collect()
        return len(drafts)

    # ---- what came of it

    def report(self):
        a_minute = self.counted / max(self.took, 0.001) * 60
        of_all, of_plain = self.accepted / max(self.bodies, 1), self.plain_accepted / max(self.plain, 1)
        lines = [
            f"seed {self.requests.seed}: {self.counted} bodies in {self.took:.1f} s, {a_minute:,.0f} a minute",
            f"accepted: {self.accepted} of {self.bodies} ({of_all:.1%}), {of_plain:.1%} of those without a change",
        ]
        for worker in self.workers:
            counts, known = self.compared[worker.version], sum(map(bool, worker.kinds))
            lines.append(f"MLflow {worker.version}: {counts.total()} compared in {len(counts)} of {known} operations, "
                         f"{self.unread[worker.version]} refused by MLflow")
        lines.append(f"disagreements: {self.disagreements} in {len(self.problems)} requests")
        lines.append("refused: " + "; ".join(f"{count} {reason}" for reason, count in self.refusals.most_common(12)))
        return "\n".join(lines)

    def kinds_of_problem(self):
        """Returns the counts of each kind of disagreement, with the number of one request."""
        found = {}
        for number, (draft, _, read) in self.problems.items():
            for version, findings, _ in read:
                for finding in findings:
                    key = (draft.row.name,
                           re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d[\w.e+-]*", "…", finding)[:110])
                    entry = found.setdefault(key, [collections.Counter(), number])
                    entry[0][version] += 1
        return found

    def describe(self, number):
        draft, item, read = self.problems[number]
        query = "&".join("=".join(map(str, pair)) for pair in draft.query)
        lines = [
            f"seed {self.requests.seed}, request {number}: {draft.row.name}, changed by {draft.changes or 'nothing'}",
            f"  {draft.method} {draft.path} query {query!r}",
            f"  body       {shortened(draft.content())}",
            f"  sent query {item['query']!r}",
            f"  sent body  {shortened(item['body'])}",
            f"  authorised {item['located']}",
        ]
        for version, findings, text in read:
            lines += [f"  MLflow {version}: {finding}" for finding in findings]
            lines.append("    read " + text[:600].replace("\n", "\n    "))
        return "\n".join(lines)

    def keep(self):
        """Writes one failing request of each kind to a seeds file and returns its path."""
        kept = {number for _, number in self.kinds_of_problem().values()}
        if kept:
            path = SEEDS / f"{self.requests.seed}.jsonl"
            path.write_text("".join(seed_of(self.requests.seed, number, self.problems[number][0])
                                    for number in sorted(kept, key=str)))
            return path
        return None

    def check(self):
        """Fails with a description of every kind of disagreement."""
        if not self.problems:
            return
        path, kinds = self.keep(), self.kinds_of_problem()
        lines = [f"{len(self.problems)} requests are read otherwise than they were authorised; kept in {path}"]
        for (name, text), (counts, _) in kinds.items():
            lines.append(f"{name} ({', '.join(f'{version} {count}' for version, count in counts.items())}): {text}")
        numbers = list(dict.fromkeys(number for _, number in kinds.values()))[:SHOWN]
        raise AssertionError("\n".join(lines) + "\n\n" + "\n\n".join(map(self.describe, numbers)))


def once(pairs):
    """Makes an object of pairs whose keys must be unique."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]}")
    return made


def pattern(path):
    """Converts a path of routes.toml to a regular expression."""
    def part(text):
        if not text.startswith("{"):
            return re.escape(text)
        return f"(?P<{text.strip('{*}')}>" + (".+)" if "*" in text else "[^/]+)")

    return re.compile("".join(map(part, re.split(r"(\{\*?[a-z_]+\})", path))), re.DOTALL)


def shortened(content):
    return repr(content) if len(content) < 1500 else repr(content[:1500]) + f"… ({len(content)} bytes)"


def why_harmless(operation, version, findings):
    """Returns the reasons why all of these findings are known and harmless, or None."""
    reasons = [next((why for names, releases, text, why in HARMLESS
                     if re.fullmatch(names, operation) and version in releases and re.search(text, finding)), None)
               for finding in findings]
    return reasons if all(reasons) else None


def seed_of(seed, number, draft):
    """Writes one request as a line of a seeds file."""
    return json.dumps({
        "operation": draft.row.name, "method": draft.method, "path": draft.path, "query": draft.query,
        "headers": draft.headers,
        "body": base64.b64encode(draft.content()).decode(), "from": f"{seed}:{number}",
    }) + "\n"


def seeds(rows):
    """Yields every request of the seeds files with its file and line."""
    for path in sorted(SEEDS.glob("*.jsonl")):
        for at, line in enumerate(path.read_text().splitlines()):
            one = json.loads(line)
            row = next((row for row in rows if row.name == one["operation"] and one["method"] in row.methods
                        and any(pattern(twin).fullmatch(one["path"]) for twin in row.twins)), None)
            assert row, f"{path.name}:{at + 1}: no such operation"
            yield f"{path.name}:{at + 1}", Draft(row, one["method"], one["path"], {}, one["query"],
                                                 base64.b64decode(one["body"]), one["headers"],
                                                  ["kept"])


def given(text):
    """Parses `seed:first-last`, the value of PARSERS."""
    found = re.fullmatch(r"([\w-]+):(\d+)-(\d+)", text)
    assert found, f"PARSERS={text}: it is seed:first-last"
    return found.group(1), range(int(found.group(2)), int(found.group(3)) + 1)
