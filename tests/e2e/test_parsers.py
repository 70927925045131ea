"""What the proxy authorised is what the request parser of each MLflow release hands to the handler.

Generated requests of every operation go through the proxy's rebuilding, and what it would send goes through the parsers
of six releases of MLflow; see parsers.py. Requests that failed once are in parser_seeds and are replayed first. A
failure prints the seed and the number: `PARSERS=seed:first-last` repeats it. `PARSER_SECONDS=3600` sets the time of a
longer run.
"""

import itertools
import json
import os
import pickle
import secrets
import time

import pytest

import parsers
from parser_requests import MINE, Draft, Requests
from parsers import ACCEPTED, ACCEPTED_UNCHANGED, RELEASES, Parsers, Worker


@pytest.fixture(scope="module")
def program():
    return parsers.rebuild_program()


@pytest.mark.timeout(3600)
def test_every_mlflow_reads_what_was_authorised(program):
    run(program, int(os.environ.get("PARSER_SECONDS", 60)))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_mlflow_reads_what_was_authorised_for_long(program):
    run(program, int(os.environ.get("PARSER_SECONDS", 600)))


def run(program, seconds):
    seed, numbers = secrets.token_hex(4), itertools.count()
    again = os.environ.get("PARSERS")
    if again:
        seed, numbers = parsers.given(again)
    several = Parsers(Requests(seed), program)
    try:
        print(f"\nseed {seed}; {several.replay()} kept requests are replayed")
        several.run(numbers, None if again else time.monotonic() + seconds)
        print(several.report())
        several.check()
        if not again:
            check_share(several)
    finally:
        several.close()


def check_share(several):
    """Fails if too little was accepted and compared."""
    enough = several.accepted * 100 >= ACCEPTED * several.bodies
    assert enough, f"only {several.accepted} of {several.bodies} were accepted"
    enough = several.plain_accepted * 100 >= ACCEPTED_UNCHANGED * several.plain
    assert enough, f"only {several.plain_accepted} of {several.plain} unchanged ones were accepted"
    never = [row.name for row in several.rows if (row.query or row.body) and not several.by_row[row.index]]
    assert not never, f"no request of these operations was accepted: {never}"
    for worker in several.workers:
        counts = several.compared[worker.version]
        never = {row.name for row, kind in zip(several.rows, worker.kinds) if kind in ("message", "spans")
                 and not counts[row.index]}
        assert not never, f"MLflow {worker.version} read no request of {sorted(never)}"


# ---- the comparison can fail

@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    requests = Requests("forged")
    made = [Worker(version, requests.rows, tmp_path_factory.mktemp("worker")) for version in RELEASES]
    for worker in made:
        worker.started()
    yield requests.rows, made
    for worker in made:
        worker.close()


def findings(workers, operation, method="POST", query="", body=None, located=(), params=None,
             content_type="application/json"):
    """Returns the findings of each release that has the operation; None where MLflow refuses the request."""
    rows, made = workers
    row = next(row for row in rows if row.name == operation and method in row.methods)
    body = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    item = {"number": 0, "row": row.index, "query": query, "body": body, "content_type": content_type,
            "located": list(located),
            "path": row.sample(), "params": params or {}, "headers": {}, "mine": MINE}
    found = {}
    for worker in made:
        worker.send(pickle.dumps([item], protocol=4))
        answer = worker.receive()
        if worker.kinds[row.index]:
            found[worker.version] = [text for _, texts, _ in answer["problems"]
                                     for text in texts] if answer["compared"] else None
    return found


def test_a_key_with_nul_would_be_noticed(workers):
    sent = {"experiment_ids": ["1"], "experiment_ids\x00": ["7"]}
    found = findings(workers, "SearchRuns", body=sent)
    assert set(found) == set(RELEASES)
    assert all(any("['7'] is read" in text for text in texts) for texts in found.values()), found


def test_the_other_spelling_would_be_noticed(workers):
    found = findings(workers, "DeleteRun", body={"run_id": "a", "runId": "b"}, located=[("Run", "a")])
    read = {version: texts for version, texts in found.items() if texts is not None}
    # 3.17 refuses a body with both.
    assert set(read) >= {"2.10.2", "2.22.5", "3.6.0", "3.9.0"}
    assert all("authorised Run ['a'], read ['b']" in texts for texts in read.values()), found


def test_an_id_that_was_not_authorised_would_be_noticed(workers):
    found = findings(workers, "LogBatch", body={"run_id": "a", "metrics": [{"key": "k", "model_id": "m"}]},
                     located=[("Run", "a")])
    assert found["2.10.2"] == []  # its metrics have no model
    assert all("authorised LoggedModel [], read ['m']" in texts for version, texts in found.items()
               if version >= "3"), found


def test_a_query_that_is_read_otherwise_would_be_noticed(workers):
    found = findings(workers, "GetRun", "GET", query="run_id=a&run_uuid=b", located=[("Run", "a")])
    assert all(any("read ['a', 'b']" in text for text in texts) for texts in found.values()), found


def test_a_parser_that_stops_would_be_noticed(workers):
    found = findings(workers, "UpdateRun", body={"run_id": "a", "end_time": "soon"}, located=[("Run", "a")])
    assert all(any("the parser stopped" in text for text in texts) for texts in found.values()), found


def test_a_value_that_is_not_read_would_be_noticed(workers):
    found = findings(workers, "CreateExperiment", body={"name": "x", "artifact_location": "", "unknown": "y"})
    assert all(texts == [] for texts in found.values()), found
    found = findings(workers, "CreateExperiment", "POST", body={"name": "x", "tags": {}})
    assert all(texts for texts in found.values()), found


def test_a_key_that_stands_twice_would_be_noticed():
    with pytest.raises(ValueError, match="stands twice"):
        json.loads('{"name":"x","name":"y"}', object_pairs_hook=parsers.once)


def test_an_author_of_another_name_would_be_noticed(workers):
    sent = {"experiment_id": "1", "user_id": "eve", "tags": [{"key": "mlflow.User ", "value": "eve"}]}
    found = findings(workers, "CreateRun", body=sent, located=[("Experiment", "1")])
    expected = ["user_id is 'eve'", "the tag 'mlflow.User ' is 'eve'", "there is no tag `mlflow.user`"]
    assert all(texts == expected for texts in found.values()), found


def test_another_trace_of_an_export_would_be_noticed(workers):
    export = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "07" * 16, "spanId": "01" * 8, "name": "x"}]}]}]}
    found = findings(workers, "ExportTraces", body=export, located=[("Trace", "tr-" + "08" * 16)])
    assert found["3.6.0"] is found["3.9.0"] is None  # no JSON yet
    expected = [f"authorised traces ['tr-{'08' * 16}'], read ['tr-{'07' * 16}']"]
    assert found["3.17.2"] == found["3.18.0"] == expected


def test_a_sent_key_that_no_field_has_would_be_noticed(workers):
    schema = Requests("stray").schema
    assert schema.stray("SearchRuns", {"experiment_ids": ["1"], "filter": ""}) is None
    assert "experimentIds" in schema.stray("SearchRuns", {"experimentIds": ["1"]})
    assert "model_id\\x00" in schema.stray("LogBatch", {"metrics": [{"model_id\x00": "m"}]})


def test_the_same_seed_makes_the_same_requests():
    one, other = Requests("same"), Requests("same")
    for number in (0, 7, 12345):
        assert one.draw(number).line() == other.draw(number).line()


def test_a_request_that_ends_the_program_is_found(program):
    driver = parsers.Driver(program)
    row = next(row for row in Requests("end").rows if row.name == "GetRun")
    lines = [Draft(row, "GET", path, {}).line() for path in ("/a", "/b")]
    driver.ask([lines[0], b"no JSON\n", lines[1]])
    answers = driver.answers()
    driver.close()
    assert ["ended" in answer for answer in answers] == [False, True, False]
