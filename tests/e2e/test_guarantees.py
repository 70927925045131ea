"""Sixteen rules about what a request reaches, whatever MLflow itself makes of it. Half of them have their tests here:

 1. a deletion is about what its body names                       here
 2. an upload is about one run                                    here
 3. a search is answered for the list that was judged             here; test_datasets.py: ..._for_the_list_that_was_judged
 4. no field stands behind one that cannot be read                here
 5. what the path names is what is changed                        here
 6. spans stay in the experiment of their trace                   test_otlp.py: test_spans_of_a_trace_of_another_experiment_are_refused
 7. the run of spans needs EDIT too                               test_otlp.py: test_the_run_of_spans_needs_edit_too
 8. a trace stays where it is                                     test_traces.py: test_a_trace_id_of_another_experiment_is_refused
 9. where a trace's files lie is for administrators               test_traces.py: test_where_a_traces_artifacts_lie_is_for_administrators
10. jobs of any kind are submitted by administrators              test_jobs.py: test_a_job_of_any_kind_is_submitted_by_administrators
11. where an experiment's files lie is for administrators         test_ownership.py: test_an_ordinary_user_chooses_no_artifact_location
12. what is a model stays a model, and a prompt a prompt          here
13. an id has one spelling                                        test_two_readings.py: test_an_id_spelled_otherwise_evades_no_deny
14. an artifact path has one spelling                             here
15. a listing is about the path in its query                      here
16. what others were granted themselves is theirs to see          test_roles.py: test_nobody_sees_what_others_were_granted_themselves
"""

import pytest

from harness import World
from test_two_readings import ARTIFACTS, dump, raw

V2, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
JSON = "application/json"


@pytest.fixture(scope="module")
def sides(proxy):
    """What belongs to somebody else, and what is the caller's own."""
    return World.make(proxy.person("alice")), World.make(proxy.person("bob"))


def refused(proxy, person, *request):
    status, text = raw(proxy, person, *request)
    assert status in (400, 403), f"{status} {text}"


def test_a_deletion_is_about_what_its_body_names(proxy, mlflow_server, sides):
    theirs, mine = sides
    with mlflow_server.unchanged():
        for content_type in ("text/plain", "application/octet-stream", JSON):
            for path, body in (
                (f"registered-models/delete-tag?name={mine.model}&key=tag", {"name": theirs.model, "key": "tag"}),
                (f"registered-models/delete?name={mine.model}", {"name": theirs.model}),
                (f"model-versions/delete?name={mine.model}&version=1", {"name": theirs.model, "version": "1"}),
                (f"registered-models/alias?name={mine.model}&alias=a", {"name": theirs.model, "alias": "a"}),
            ):
                refused(proxy, mine.owner, "DELETE", f"{V2}/{path}", dump(body), content_type)


def test_an_upload_is_about_one_run(proxy, mlflow_server, sides):
    theirs, mine = sides
    upload = "/ajax-api/2.0/mlflow/upload-artifact?path=x.txt"
    with mlflow_server.unchanged():
        for runs in (f"run_id={mine.run}&run_uuid={theirs.run}", f"run_uuid={theirs.run}&run_id={mine.run}"):
            refused(proxy, mine.owner, "POST", f"{upload}&{runs}", b"x", "application/octet-stream")


def test_a_search_is_answered_for_the_list_in_its_query(proxy, sides):
    theirs, mine = sides
    body = dump({"experiment_ids": [mine.experiment]})
    refused(proxy, mine.owner, "GET", f"{V3}/datasets/search?experiment_ids={theirs.experiment}", body, JSON)
    refused(proxy, mine.owner, "GET", f"{V3}/datasets/search?experiment_ids={theirs.experiment}")


def test_no_field_stands_behind_one_that_cannot_be_read(proxy, sides):
    theirs, mine = sides
    theirs.owner.ok("POST", f"{V3}/datasets/create", json={"name": "hidden-set", "experiment_ids": [theirs.experiment]})
    own = mine.experiment.encode()
    refused(proxy, mine.owner, "POST", f"{V3}/datasets/search", b'{"[x]":1,"experiment_ids":["%s"]}' % own, JSON)
    for field in (b'"order_by":[1]', b'"max_results":"many"', b'"filter_string":{}'):
        body = b'{%s,"experiment_ids":["%s"]}' % (field, own)
        status, text = raw(proxy, mine.owner, "POST", f"{V3}/datasets/search", body, JSON)
        assert status in (200, 400) and "hidden-set" not in text, f"{status} {text}"


def test_what_the_path_names_is_what_is_changed(proxy, mlflow_server, sides):
    theirs, mine = sides
    with mlflow_server.unchanged():
        for name in ("model_id", "modelId"):
            body = dump({name: theirs.logged_model, "status": "LOGGED_MODEL_READY"})
            refused(proxy, mine.owner, "PATCH", f"{V2}/logged-models/{mine.logged_model}", body, JSON)


@pytest.mark.odd_requests
def test_what_is_a_model_stays_a_model(proxy, mlflow_server, sides):
    _, mine = sides
    tag = {"name": mine.model, "key": "mlflow.prompt.is_prompt", "value": "true"}
    with mlflow_server.unchanged():
        refused(proxy, mine.owner, "POST", f"{V2}/registered-models/set-tag", dump(tag), JSON)
        refused(proxy, mine.owner, "DELETE", f"{V2}/registered-models/delete-tag", dump(tag), JSON)


@pytest.mark.parametrize("before", ["./", "%2e/", "%252e/", "x/../", "%2e%2e/"])
def test_an_artifact_path_has_one_spelling(proxy, sides, before):
    theirs, mine = sides
    refused(proxy, mine.owner, "GET", f"{ARTIFACTS}/{before}{theirs.files[0]}")
    refused(proxy, mine.owner, "GET", f"{ARTIFACTS}?path={before}{theirs.experiment}/{theirs.run}/artifacts")


def test_a_listing_is_about_the_path_in_its_query(proxy, sides):
    theirs, mine = sides
    path = f"{theirs.experiment}/{theirs.run}/artifacts"
    refused(proxy, mine.owner, "GET", ARTIFACTS, dump({"path": path}), JSON)
    refused(proxy, mine.owner, "GET", ARTIFACTS)
    refused(proxy, mine.owner, "GET", f"{ARTIFACTS}?path=")
