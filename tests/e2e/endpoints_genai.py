"""Traces, assessments, evaluation datasets, issues, label schemas, review queues, scorers, prompt optimisation: every
endpoint, with a request that works for whoever may send it, and the things that it is about.

Written by hand from MLflow's documentation, as in `endpoints.py`.
"""

import contextlib
import json
import secrets
import sqlite3

from endpoints import EDIT, MANAGE, READ, Endpoint, body, experiment, query, run
from harness import World, unique

V2, V3, AJAX3 = "/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/3.0/mlflow"
START, END = 1_700_000_000_000_000_000, 1_700_000_001_000_000_000  # of every span, in nanoseconds

# What a judge made of instructions looks like on the wire.
SCORER = {
    "name": "judge", "aggregations": [], "description": None, "is_session_level_scorer": False,
    "mlflow_version": "3.17.2", "serialization_version": 1, "instructions_judge_pydantic_data": {
        "feedback_value_type": {"type": "string"}, "instructions": "Is {{ outputs }} good?", "model": "openai:/gpt-4",
    },
    "builtin_scorer_class": None, "builtin_scorer_pydantic_data": None, "call_source": None, "call_signature": None,
    "original_func_name": None,
}


# ---- what there is to reach


def make(world, mlflow_server):
    """Adds one of everything to a world, made by its owner; the ids stand in `world.names`."""
    owner, names = world.owner, world.names
    names["trace_id"], names["another_trace"] = new_trace(owner, world.experiment), new_trace(owner, world.experiment)
    names["request_id"] = owner.ok("POST", f"{V2}/traces", {
        "experiment_id": world.experiment, "timestamp_ms": 1, "request_metadata": [], "tags": a_tag(World.SECRET),
    })["trace_info"]["request_id"]
    names["assessment_id"] = owner.ok("POST", f"{V3}/traces/{names['trace_id']}/assessments", {"assessment": feedback("good")})[
        "assessment"]["assessment_id"]
    names["dataset_id"] = owner.ok("POST", f"{V3}/datasets/create", {
        "name": unique("dataset"), "experiment_ids": [world.experiment], "tags": json.dumps({"tag": World.SECRET}),
    })["dataset"]["dataset_id"]
    names["key"] = "tag"
    owner.ok("POST", f"{V3}/datasets/{names['dataset_id']}/records", {"records": records(World.SECRET)})
    names["issue_id"] = owner.ok("POST", f"{V3}/issues", {
        "experiment_id": world.experiment, "name": "issue", "description": World.SECRET,
    })["issue"]["issue_id"]
    names["schema"] = owner.ok("POST", f"{V3}/label-schemas/create", {
        "experiment_id": world.experiment, "name": "schema", "instruction": World.SECRET, **TEXT_SCHEMA,
    })["label_schema"]["schema_id"]
    # The first listing makes the experiment's default schema.
    owner.ok("GET", f"{V3}/label-schemas/list", params={"experiment_id": world.experiment})
    names["queue"] = new_queue(world, [owner.name], name="queue")
    owner.ok("POST", f"{V3}/review-queues/items/add", {"queue_id": names["queue"], "item_ids": [names["trace_id"]]})
    names["scorer"] = owner.ok("POST", f"{V3}/scorers/register", a_scorer(world))["scorer_id"]
    owner.ok("PUT", f"{V3}/scorers/online-config", {"experiment_id": world.experiment, "name": "judge", "sample_rate": 0})
    names["job_id"] = a_job(mlflow_server, "optimize_prompts", {"experiment_id": world.experiment, "run_id": world.run})


def share(world, other, permission):
    """A scorer has grants of its own; a queue is seen by who sits in it."""
    owner = world.owner
    owner.grant(other, "scorer", f"{world.experiment}/judge", permission)
    queue = owner.ok("GET", f"{V3}/review-queues/get", params={"queue_id": world.names["queue"]})["review_queue"]
    owner.ok("POST", f"{V3}/review-queues/update", {
        "queue_id": world.names["queue"], "update_users": True, "users": [*queue.get("users", []), other.name],
    })


def new_trace(who, experiment, **more):
    """A finished trace with one span that says the secret; gives its id."""
    trace = "tr-" + secrets.token_hex(16)
    who.ok("POST", f"{V3}/traces", trace_info(trace, experiment, **more))
    sent = who.call("POST", "/v1/traces", json=otlp(trace), headers={"x-mlflow-experiment-id": experiment})
    assert sent.status_code == 200, f"{sent.status_code} {sent.text}"
    return trace


def check_stays(answer):
    """A trace that is in one experiment does not come into another; newer MLflows say 400 themselves."""
    assert answer.status_code in (400, 403), f"{answer.status_code} {answer.text}"
    assert World.SECRET not in answer.text


def new_queue(world, users, who=None, name=None):
    made = (who or world.owner).ok("POST", f"{V3}/review-queues/create", {
        "experiment_id": world.experiment, "name": name or unique("queue"), "queue_type": "CUSTOM", "users": users,
    })
    return made["review_queue"]["queue_id"]


def trace_info(trace, experiment, **more):
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    return {"trace": {"trace_info": {
        "trace_id": trace, "trace_location": location, "request_time": "2023-11-14T22:13:20Z", "state": "OK",
        "request_preview": World.SECRET, "tags": {"tag": World.SECRET}, **more,
    }}}


def otlp(*traces, name="span", parent=None):
    """Spans as OpenTelemetry writes them in JSON, one for each trace."""
    attribute = {"key": "mlflow.spanInputs", "value": {"stringValue": json.dumps(World.SECRET)}}
    spans = [{
        "traceId": trace.removeprefix("tr-"), "spanId": secrets.token_hex(8), "name": name, "kind": 1,
        "startTimeUnixNano": str(START), "endTimeUnixNano": str(END), "attributes": [attribute],
        **({"parentSpanId": parent} if parent else {}),
    } for trace in traces]
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"spans": spans}]}]}


def spans_of(who, trace):
    return who.ok("GET", f"{V3}/traces/get", params={"trace_id": trace})["trace"]["spans"]


def feedback(value, name="quality", **more):
    return {
        "assessment_name": name, "source": {"source_type": "HUMAN", "source_id": "somebody"}, "feedback": {"value": value},
        "create_time": "2023-11-14T22:13:20Z", "last_update_time": "2023-11-14T22:13:20Z", **more,
    }


def records(text):
    """Dataset records travel as JSON in a string."""
    return json.dumps([{"inputs": {"question": text}, "expectations": {"answer": "42"}}])


def a_tag(value):
    return [{"key": "tag", "value": value}]


def a_scorer(world, name="judge"):
    return {"experiment_id": world.experiment, "name": name, "serialized_scorer": json.dumps(SCORER | {"name": name})}


def a_job(mlflow_server, job, params):
    """A job as MLflow's own workers leave one. The MLflow of these tests runs none."""
    key = secrets.token_hex(16)
    with contextlib.closing(sqlite3.connect(mlflow_server.database, timeout=10)) as database, database:
        columns = {"id": key, "creation_time": 1, "job_name": job, "params": json.dumps(params), "status": 0,
                   "retry_count": 0, "last_update_time": 1, "workspace": "default"}
        marks = ", ".join("?" * len(columns))
        database.execute(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))
    return key


TEXT_SCHEMA = {"type": "FEEDBACK", "input": {"text": {"max_length": 100}}}


# ---- the requests


def named(name):
    return lambda w: w.names[name]


def several(name):
    return lambda w: [w.names[name]]


def experiments(w):
    return [w.experiment]


def locations(w):
    return [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": w.experiment}}]


def record_ids(w):
    held = w.owner.ok("GET", f"{V3}/datasets/{w.names['dataset_id']}/records")["records"]
    return [record["dataset_record_id"] for record in (json.loads(held) if isinstance(held, str) else held)]


def spans(w):
    return {"json": otlp("tr-" + secrets.token_hex(16)), "headers": {"x-mlflow-experiment-id": w.experiment}}


def prompt(w):
    """The world's registered model is no prompt; nobody runs the job."""
    return f"prompts:/{w.model}/1"


COUNT = {"view_type": "TRACES", "metric_name": "trace_count", "aggregations": [{"aggregation_type": "COUNT"}]}
NO_JOBS = (200, 400, 500, 501)  # this MLflow takes no jobs
GONE = (404, 405)
PROMPTLAB = {
    "run_name": "r", "tags": [], "prompt_template": "Is {{x}}?", "prompt_parameters": [{"key": "x", "value": "y"}],
    "model_route": "route", "model_parameters": [{"key": "temperature", "value": "0"}], "model_input": "Is y?",
    "model_output_parameters": [], "model_output": "yes", "mlflow_version": "3.17.2", "user_id": "somebody", "start_time": 1,
}

ENDPOINTS = [
    # traces
    Endpoint(EDIT, "POST", f"{V3}/traces",
             lambda w: {"json": trace_info("tr-" + secrets.token_hex(16), w.experiment)}),
    Endpoint(EDIT, "POST", "/v1/traces", spans),
    Endpoint(READ, "GET", f"{V3}/traces/{{trace_id}}"),
    Endpoint(READ, "GET", f"{V3}/traces/get", query(trace_id=named("trace_id"))),
    Endpoint(READ, "POST", f"{V3}/traces/search", body(locations=locations)),
    Endpoint(READ, "POST", f"{V3}/traces/metrics", body(experiment_ids=experiments, **COUNT)),
    Endpoint(READ, "POST", f"{V3}/traces/calculate-filter-correlation",
             body(experiment_ids=experiments, filter_string1="status = 'OK'", filter_string2="status = 'ERROR'")),
    Endpoint(READ, "GET", "/ajax-api/3.0/mlflow/get-trace-artifact", query(request_id=named("trace_id"))),
    Endpoint(READ, "GET", "/ajax-api/2.0/mlflow/get-trace-artifact", query(request_id=named("trace_id"))),
    Endpoint(EDIT, "PATCH", f"{V3}/traces/{{trace_id}}/tags", body(key="k", value="v")),
    Endpoint(EDIT, "DELETE", f"{V3}/traces/{{trace_id}}/tags", body(key="tag"), spoils=True),
    Endpoint(EDIT, "POST", f"{V2}/traces/link-to-run", body(run_id=run, trace_ids=several("trace_id"))),
    Endpoint(EDIT, "POST", f"{V2}/traces/link-prompts",
             body(trace_id=named("trace_id"), prompt_versions=lambda w: [{"name": w.model, "version": "1"}])),
    Endpoint(MANAGE, "POST", f"{V3}/traces/delete-traces",
             body(experiment_id=experiment, request_ids=several("trace_id")), spoils=True),
    # traces as clients before 3.0 know them
    Endpoint(EDIT, "POST", f"{V2}/traces",
             body(experiment_id=experiment, timestamp_ms=1, request_metadata=[], tags=[])),
    Endpoint(EDIT, "PATCH", f"{V2}/traces/{{request_id}}",
             body(request_id=named("request_id"), timestamp_ms=2, status="OK", request_metadata=[], tags=[])),
    Endpoint(READ, "GET", f"{V2}/traces/{{request_id}}/info"),
    Endpoint(READ, "GET", f"{V2}/traces", query(experiment_ids=experiments)),
    Endpoint(EDIT, "PATCH", f"{V2}/traces/{{request_id}}/tags", body(key="k", value="v")),
    Endpoint(EDIT, "DELETE", f"{V2}/traces/{{request_id}}/tags", body(key="tag"), spoils=True),
    Endpoint(MANAGE, "POST", f"{V2}/traces/delete-traces",
             body(experiment_id=experiment, request_ids=several("trace_id")), spoils=True),
    # what MLflow 2.21 called them; this one answers 404 and 405
    Endpoint(READ, "GET", f"{V2}/traces/{{request_id}}", ok=GONE),
    Endpoint(EDIT, "POST", f"{V2}/traces/{{request_id}}/assessments", body(assessment=feedback("fine")), ok=GONE),
    Endpoint(READ, "GET", f"{V2}/traces/{{request_id}}/assessments/{{assessment_id}}", ok=GONE),
    Endpoint(EDIT, "PATCH", f"{V2}/traces/{{request_id}}/assessments/{{assessment_id}}",
             body(assessment=feedback("bad"), update_mask="feedback"), ok=GONE),
    Endpoint(EDIT, "DELETE", f"{V2}/traces/{{request_id}}/assessments/{{assessment_id}}", ok=GONE),
    # assessments
    Endpoint(EDIT, "POST", f"{V3}/traces/{{trace_id}}/assessments", body(assessment=feedback("fine"))),
    Endpoint(READ, "GET", f"{V3}/traces/{{trace_id}}/assessments/{{assessment_id}}"),
    Endpoint(EDIT, "PATCH", f"{V3}/traces/{{trace_id}}/assessments/{{assessment_id}}",
             body(assessment=feedback("bad"), update_mask="feedback")),
    Endpoint(EDIT, "DELETE", f"{V3}/traces/{{trace_id}}/assessments/{{assessment_id}}", spoils=True),
    # evaluation datasets
    Endpoint(EDIT, "POST", f"{V3}/datasets/create", body(name=lambda w: unique("dataset"), experiment_ids=experiments)),
    Endpoint(READ, "GET", f"{V3}/datasets/{{dataset_id}}"),
    Endpoint(READ, "GET", f"{V3}/datasets/search", query(experiment_ids=experiments)),
    Endpoint(READ, "POST", f"{V3}/datasets/search", body(experiment_ids=experiments)),
    Endpoint(READ, "GET", f"{V3}/datasets/{{dataset_id}}/experiment-ids"),
    Endpoint(READ, "GET", f"{V3}/datasets/{{dataset_id}}/records"),
    Endpoint(EDIT, "POST", f"{V3}/datasets/{{dataset_id}}/records",
             lambda w: {"json": {"records": records(secrets.token_hex(4))}}),
    Endpoint(EDIT, "DELETE", f"{V3}/datasets/{{dataset_id}}/records", body(dataset_record_ids=record_ids), spoils=True),
    Endpoint(EDIT, "PATCH", f"{V3}/datasets/{{dataset_id}}/tags", body(tags=json.dumps({"k": "v"}))),
    Endpoint(EDIT, "DELETE", f"{V3}/datasets/{{dataset_id}}/tags/{{key}}", spoils=True),
    Endpoint(EDIT, "POST", f"{V3}/datasets/{{dataset_id}}/add-experiments", body(experiment_ids=experiments)),
    Endpoint(EDIT, "POST", f"{V3}/datasets/{{dataset_id}}/remove-experiments", body(experiment_ids=experiments), spoils=True),
    Endpoint(MANAGE, "DELETE", f"{V3}/datasets/{{dataset_id}}", spoils=True),
    # issues
    Endpoint(EDIT, "POST", f"{V3}/issues", body(experiment_id=experiment, name="another", description="d")),
    Endpoint(READ, "GET", f"{V3}/issues/{{issue_id}}"),
    Endpoint(EDIT, "PATCH", f"{V3}/issues/{{issue_id}}", body(issue_id=named("issue_id"), description="new")),
    Endpoint(READ, "POST", f"{V3}/issues/search", body(experiment_id=experiment)),
    Endpoint(EDIT, "POST", f"{AJAX3}/issues/invoke",
             body(experiment_id=experiment, trace_ids=several("trace_id"), categories=["c"], provider="openai", model="m"),
             ok=NO_JOBS),
    # label schemas
    Endpoint(MANAGE, "POST", f"{V3}/label-schemas/create",
             lambda w: {"json": {"experiment_id": w.experiment, "name": unique("schema")} | TEXT_SCHEMA}),
    Endpoint(READ, "GET", f"{V3}/label-schemas/get", query(schema_id=named("schema"))),
    Endpoint(READ, "GET", f"{V3}/label-schemas/get-by-name", query(experiment_id=experiment, name="schema")),
    Endpoint(READ, "GET", f"{V3}/label-schemas/list", query(experiment_id=experiment)),
    Endpoint(MANAGE, "PATCH", f"{V3}/label-schemas/update", body(schema_id=named("schema"), instruction="new")),
    Endpoint(MANAGE, "DELETE", f"{V3}/label-schemas/delete", body(schema_id=named("schema")), spoils=True),
    # review queues; everybody here sits in this one, `test_reviews.py` has those who do not
    Endpoint(EDIT, "POST", f"{V3}/review-queues/create",
             lambda w: {"json": {"experiment_id": w.experiment, "name": unique("queue"), "queue_type": "CUSTOM"}}),
    Endpoint(EDIT, "POST", f"{V3}/review-queues/get-or-create-user",
             lambda w: {"json": {"experiment_id": w.experiment, "user": unique("reviewer")}}),
    Endpoint(READ, "GET", f"{V3}/review-queues/get", query(queue_id=named("queue"))),
    Endpoint(READ, "GET", f"{V3}/review-queues/get-by-name", query(experiment_id=experiment, name="queue")),
    Endpoint(READ, "GET", f"{V3}/review-queues/list", query(experiment_id=experiment)),
    Endpoint(MANAGE, "POST", f"{V3}/review-queues/update", body(queue_id=named("queue"), name="renamed"), spoils=True),
    Endpoint(MANAGE, "POST", f"{V3}/review-queues/delete", body(queue_id=named("queue")), spoils=True),
    Endpoint(EDIT, "POST", f"{V3}/review-queues/items/add", body(queue_id=named("queue"), item_ids=several("another_trace"))),
    Endpoint(MANAGE, "POST", f"{V3}/review-queues/items/remove",
             body(queue_id=named("queue"), item_ids=several("trace_id")), spoils=True),
    Endpoint(READ, "GET", f"{V3}/review-queues/items/list", query(queue_id=named("queue"))),
    Endpoint(EDIT, "POST", f"{V3}/review-queues/items/set-status",
             body(queue_id=named("queue"), item_id=named("trace_id"), status="COMPLETE", completed_by="whoever")),
    # scorers
    Endpoint(EDIT, "POST", f"{V3}/scorers/register", lambda w: {"json": a_scorer(w, unique("scorer"))}),
    Endpoint(READ, "GET", f"{V3}/scorers/list", query(experiment_id=experiment)),
    Endpoint(READ, "GET", f"{V3}/scorers/versions", query(experiment_id=experiment, name="judge")),
    Endpoint(READ, "GET", f"{V3}/scorers/get", query(experiment_id=experiment, name="judge")),
    Endpoint(MANAGE, "DELETE", f"{V3}/scorers/delete", body(experiment_id=experiment, name="judge"), spoils=True),
    Endpoint(READ, "GET", f"{V3}/scorers/online-configs", query(scorer_ids=several("scorer"))),
    Endpoint(EDIT, "PUT", f"{V3}/scorers/online-config", body(experiment_id=experiment, name="judge", sample_rate=0)),
    Endpoint(EDIT, "POST", f"{AJAX3}/scorer/invoke",
             body(experiment_id=experiment, trace_ids=several("trace_id"), serialized_scorer=json.dumps(SCORER)), ok=NO_JOBS),
    Endpoint(EDIT, "POST", f"{AJAX3}/genai/evaluate/invoke",
             body(experiment_id=experiment, trace_ids=several("trace_id"), serialized_scorers=[json.dumps(SCORER)]), ok=NO_JOBS),
    # datasets and prompts of runs, for the pages
    Endpoint(READ, "POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", body(experiment_ids=experiments)),
    Endpoint(EDIT, "POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run", body(experiment_id=experiment, **PROMPTLAB)),
    # prompt optimisation
    Endpoint(EDIT, "POST", f"{V3}/prompt-optimization/jobs",
             body(experiment_id=experiment, source_prompt_uri=prompt, config={"optimizer_type": "OPTIMIZER_TYPE_GEPA"}),
             ok=NO_JOBS),
    Endpoint(READ, "GET", f"{V3}/prompt-optimization/jobs/{{job_id}}"),
    Endpoint(READ, "GET", f"{V3}/prompt-optimization/jobs/search", query(experiment_id=experiment)),
    Endpoint(READ, "POST", f"{V3}/prompt-optimization/jobs/search", body(experiment_id=experiment)),
    Endpoint(EDIT, "POST", f"{V3}/prompt-optimization/jobs/{{job_id}}/cancel", spoils=True),
    Endpoint(MANAGE, "DELETE", f"{V3}/prompt-optimization/jobs/{{job_id}}", spoils=True),
]
