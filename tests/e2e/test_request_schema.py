"""The table of request fields covers every release of MLflow, and is what scripts/request-schema makes.

Our own release is compared in every run; the others, each in an environment of its own, by `make test-versions`.
"""

import copy
import sys
import tomllib

import pytest

import request_fields as hand
import request_schema
from request_schema import OWN_RULES, REQUESTS, SCALARS, Problem, Rows, missing, named, read, schema_of
from test_coverage import OTHERS, OURS, python_of


@pytest.fixture(scope="module")
def rows():
    return Rows()


@pytest.fixture(scope="module")
def committed():
    return tomllib.loads(REQUESTS.read_text())


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """Output of schema_of.py for our own release."""
    return schema_of(sys.executable, tmp_path_factory.mktemp("schema"))


def check_every_field_is_known(answer, committed, rows):
    lines = list(missing(read(answer, rows), committed, rows))
    assert not lines, f"fields of MLflow {answer['version']} that requests.toml lacks:\n" + "\n".join(lines)


def test_every_request_field_of_our_mlflow_is_known(answer, committed, rows):
    assert answer["version"] == OURS
    # A short list would make the test pass for the wrong reason.
    assert len(answer["routes"]) > 400 and len(answer["messages"]) > 200 and len(answer["objects"]) > 20
    check_every_field_is_known(answer, committed, rows)


@pytest.mark.versions
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mlflow", [one for one in hand.RELEASES if one != OURS])
def test_every_request_field_of_each_mlflow_is_known(mlflow, tmp_path, committed, rows):
    check_every_field_is_known(schema_of(python_of(mlflow), tmp_path), committed, rows)


@pytest.mark.versions
@pytest.mark.timeout(900)
def test_the_committed_table_is_what_the_generator_makes():
    assert request_schema.generate() == REQUESTS.read_text(), "run scripts/request-schema and review what changes"


def test_the_schema_is_made_from_every_known_release():
    assert {*OTHERS, OURS} <= set(hand.RELEASES)


def test_every_operation_has_a_table(committed, rows):
    assert {row["name"] for row in rows.rows} - OWN_RULES == set(committed["operation"])


def test_every_type_is_defined(committed):
    types = committed["message"] | committed["object"]
    assert len(types) == len(committed["message"]) + len(committed["object"]), "a message and an object have one name"
    for name, made in committed["operation"].items():
        assert set(made) <= {"query", "body"} and set(made.values()) <= set(types), name
    for name, fields in types.items():
        for field, kind in fields.items():
            reference = named(kind)
            if reference and reference.startswith("enum "):
                assert reference.removeprefix("enum ") in committed["enum"], f"{name}.{field}: {kind}"
            else:
                assert reference is None or reference in types, f"{name}.{field}: {kind}"
    assert not SCALARS & set(types)


def test_a_missing_field_would_be_noticed(answer, committed, rows):
    lacking = copy.deepcopy(committed)
    del lacking["message"]["Metric"]["model_id"]
    del lacking["operation"]["CreateRun"]["body"]
    lacking["message"]["CreateModelVersion"]["source"] = "int32"
    lines = list(missing(read(answer, rows), lacking, rows))
    assert "CreateRun: no body; it is CreateRun" in lines
    assert "LogBatch: Metric.model_id (string) is missing" in lines
    assert "CreateModelVersion: CreateModelVersion.source is string, not int32" in lines


def test_a_new_raw_handler_would_be_noticed(answer, rows):
    changed = copy.deepcopy(answer)
    route = next(one for one in changed["routes"] if one["path"] == "/api/2.0/mlflow/runs/delete")
    route["reads"].append("request.json")
    with pytest.raises(Problem, match="DeleteRun: the handler reads"):
        read(changed, rows)


def test_a_new_key_of_a_raw_handler_would_be_noticed(answer, committed, rows):
    changed = copy.deepcopy(answer)
    route = next(one for one in changed["routes"] if one["path"] == "/get-artifact")
    route["keys"].append("new_key")
    line = f"GetArtifact: its handler in MLflow {OURS} reads `new_key`, which is no field of it"
    assert list(missing(read(changed, rows), committed, rows)) == [line]


def test_a_route_without_a_row_would_be_noticed(answer, rows):
    changed = copy.deepcopy(answer)
    changed["routes"].append(changed["routes"][0] | {"path": "/api/2.0/mlflow/runs/new"})
    with pytest.raises(Problem, match="/api/2.0/mlflow/runs/new has no row in routes.toml"):
        read(changed, rows)
