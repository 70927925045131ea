"""Traces and assessments: who sees, judges, links and deletes them, and to which experiment a trace belongs."""

import json
import secrets
import uuid

import mlflow
import pytest
from mlflow.entities import AssessmentSource, Feedback
from mlflow.exceptions import MlflowException
from mlflow.tracing.attachments import Attachment

from endpoints import EDIT, MANAGE, READ
from endpoints_genai import AJAX3, COUNT, V2, V3, check_stays, feedback, new_trace, otlp, trace_info
from harness import World, check_refused, unique

ARTIFACT_LOCATION = "mlflow.artifactLocation"
ARCHIVE_LOCATION = "mlflow.trace.archiveLocation"


def traced(person, experiment):
    """What a script with `@mlflow.trace` sends; gives the trace's id."""
    with person.mlflow():
        mlflow.set_experiment(experiment_id=experiment)

        @mlflow.trace
        def answer(question):
            with mlflow.start_span("look it up") as span:
                span.set_inputs({"question": question})
                span.set_outputs({"page": Attachment(content_type="text/plain", content_bytes=World.SECRET.encode())})
            return World.SECRET

        with mlflow.start_run():
            answer("why?")
        mlflow.flush_trace_async_logging()
        return mlflow.get_last_active_trace_id()


def place(experiment):
    return {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}


def stored_tags(person, trace):
    return person.ok("GET", f"{V3}/traces/{trace}")["trace"]["trace_info"].get("tags", {})


@pytest.fixture
def other_world(proxy):
    """Somebody else's world, with a trace."""
    world = World.make(proxy.person("other"))
    world.names["trace_id"] = new_trace(world.owner, world.experiment)
    return world


@pytest.fixture
def trace(world):
    return new_trace(world.owner, world.experiment)


# ---- the client


def test_the_client_traces_searches_and_judges(proxy, people, world):
    reader, editor, manager = people(world, READ, EDIT, MANAGE)
    stranger = proxy.person("stranger")
    trace = traced(editor, world.experiment)

    for person in (reader, editor, manager):
        with person.mlflow():
            (found,) = mlflow.search_traces(locations=[world.experiment], return_type="list")
            assert found.info.trace_id == trace
            assert [span.name for span in mlflow.get_trace(trace).data.spans] == ["answer", "look it up"]
    with stranger.mlflow():
        with pytest.raises(MlflowException, match="Permission denied"):
            mlflow.search_traces(locations=[world.experiment])
        with pytest.raises(MlflowException, match="Permission denied"):
            mlflow.MlflowClient().get_trace(trace)

    for person in (stranger, reader):
        with person.mlflow() as client:
            for refused in (
                lambda: mlflow.log_feedback(trace_id=trace, name="good", value=True),
                lambda: mlflow.log_expectation(trace_id=trace, name="answer", value="42"),
                lambda: client.set_trace_tag(trace, "k", "v"),
                lambda: client.delete_traces(world.experiment, trace_ids=[trace]),
            ):
                with pytest.raises(MlflowException, match="Permission denied"):
                    refused()

    with editor.mlflow() as client:
        given = mlflow.log_feedback(trace_id=trace, name="good", value=True, source=AssessmentSource("HUMAN", editor.name))
        mlflow.update_assessment(trace, given.assessment_id, Feedback(name="good", value=False))
        expected = mlflow.log_expectation(trace_id=trace, name="answer", value="42")
        mlflow.delete_assessment(trace, expected.assessment_id)
        client.set_trace_tag(trace, "k", "v")
        client.delete_trace_tag(trace, "k")
        with pytest.raises(MlflowException, match="Permission denied"):
            client.delete_traces(world.experiment, trace_ids=[trace])
    with reader.mlflow():
        (seen,) = mlflow.get_trace(trace).info.assessments
        assert (seen.name, seen.value, seen.source.source_id) == ("good", False, editor.name)
    with manager.mlflow() as client:
        assert client.delete_traces(world.experiment, trace_ids=[trace]) == 1


def test_an_attachment_of_a_trace_is_for_its_readers(proxy, people, world):
    reader, editor = people(world, READ, EDIT)
    trace = traced(editor, world.experiment)
    text = reader.ok("GET", f"{V3}/traces/get", params={"trace_id": trace})
    attached = json.dumps(text).partition("mlflow-attachment://")[2][:36]
    assert uuid.UUID(attached)
    ask = {"request_id": trace, "path": attached}
    answer = reader.get(f"{AJAX3}/get-trace-artifact", ask)
    assert (answer.status_code, answer.text) == (200, World.SECRET)
    check_refused(proxy.person("stranger").get(f"{AJAX3}/get-trace-artifact", ask))


# ---- more than one experiment in a request


def test_a_search_over_several_experiments_needs_all_of_them(mlflow_server, world, other_world, trace):
    both = [world.experiment, other_world.experiment]
    filters = {"filter_string1": "status = 'OK'", "filter_string2": "status = 'ERROR'"}

    def ask(person, experiments):
        yield person.post(f"{V3}/traces/search", {"locations": [place(e) for e in experiments]})
        yield person.get(f"{V2}/traces", {"experiment_ids": experiments})
        yield person.post(f"{V3}/traces/metrics", {"experiment_ids": experiments} | COUNT)
        yield person.post(f"{V3}/traces/calculate-filter-correlation", {"experiment_ids": experiments} | filters)

    with mlflow_server.unchanged():
        for experiments in (both, both[::-1]):
            for answer in ask(world.owner, experiments):
                check_refused(answer)
        for answer in ask(world.owner, []):
            assert answer.status_code in (400, 403) or answer.json() == {}, answer.text
        other_world.owner.grant(world.owner, "experiment", other_world.experiment, READ)
        for answer in ask(world.owner, both):
            assert answer.status_code == 200, answer.text
    found = world.owner.ok("POST", f"{V3}/traces/search", {"locations": [place(e) for e in both]})["traces"]
    assert {info["trace_id"] for info in found} == {trace, other_world.names["trace_id"]}


def test_a_search_in_the_other_spelling_of_its_fields_is_the_same_search(world, other_world):
    locations = [{"type": "MLFLOW_EXPERIMENT", "mlflowExperiment": {"experimentId": other_world.experiment}}]
    check_refused(world.owner.post(f"{V3}/traces/search", {"locations": locations}))
    both_spellings = [{**place(world.experiment), **locations[0]}]
    answer = world.owner.post(f"{V3}/traces/search", {"locations": both_spellings})
    assert answer.status_code in (400, 403), answer.text


@pytest.mark.parametrize("foreign", ["of another experiment", "unknown"])
def test_a_batch_of_traces_leaves_out_what_may_not_be_read(mlflow_server, world, other_world, trace, foreign):
    second = other_world.names["trace_id"] if foreign != "unknown" else "tr-" + secrets.token_hex(16)

    def ask(traces, **more):
        whole = world.owner.ok("GET", f"{V3}/traces/batchGet", params={"trace_ids": traces} | more).get("traces", [])
        infos = world.owner.ok("POST", f"{V3}/traces/batchGetInfos", {"trace_ids": traces} | more).get("trace_infos", [])
        found = [one["trace_info"]["trace_id"] for one in whole]
        assert sorted(found) == sorted(one["trace_id"] for one in infos)
        return found

    with mlflow_server.unchanged():
        for more in ({}, {"experiment_ids": [world.experiment]}, {"experiment_ids": [other_world.experiment, world.experiment]}):
            assert ask([trace, second], **more) == ask([second, trace, second], **more) == ask([trace], **more) == [trace]
            assert ask([second], **more) == []
        # MLflow reads the other spelling, too.
        both = {"traceIds": [second, trace]}
        assert len(world.owner.ok("POST", f"{V3}/traces/batchGetInfos", both)["trace_infos"]) == 1
        for odd in ([], ["a/b"], [""], ["x" * 100], [f"tr-{number}" for number in range(1001)]):
            assert world.owner.post(f"{V3}/traces/batchGetInfos", {"trace_ids": odd}).status_code == 400, odd
        assert world.owner.get(f"{V3}/traces/batchGet").status_code == 400
        assert world.owner.post(f"{V3}/traces/batchGetInfos", {"trace_ids": trace}).status_code == 400


def test_a_batch_of_traces_is_whole_for_who_reads_all(world, other_world, trace, admin):
    second = other_world.names["trace_id"]
    other_world.owner.grant(world.owner, "experiment", other_world.experiment, READ)
    for who in (world.owner, admin):
        assert len(who.ok("GET", f"{V3}/traces/batchGet", params={"trace_ids": [trace, second]})["traces"]) == 2
    admin.grant(world.owner, "trace", "*", "DENY")
    check_refused(world.owner.get(f"{V3}/traces/batchGet", {"trace_ids": [trace]}))
    check_refused(world.owner.post(f"{V3}/traces/batchGetInfos", {"trace_ids": [trace]}))


def test_an_unknown_trace_is_answered_as_a_hidden_one(world, other_world):
    hidden, unknown = other_world.names["trace_id"], "tr-" + secrets.token_hex(16)
    for path in ("traces/{}", "traces/{}/assessments/a-1"):
        answers = [check_refused(world.owner.get(f"{V3}/{path.format(one)}")).replace(one, "ID") for one in (hidden, unknown)]
        assert answers[0] == answers[1]


def test_deleting_in_one_experiment_leaves_the_traces_of_another(mlflow_server, world, other_world):
    body = {"experiment_id": world.experiment, "request_ids": [other_world.names["trace_id"]]}
    with mlflow_server.unchanged():
        for version in (V2, V3):
            world.owner.post(f"{version}/traces/delete-traces", body)
    assert stored_tags(other_world.owner, other_world.names["trace_id"])


# ---- to which experiment a trace belongs


def test_a_trace_id_of_another_experiment_is_refused(mlflow_server, people, world, other_world):
    """A trace stays where it is, whoever asks: MLflow 3.17 would let it move."""
    (editor,) = people(world, EDIT)
    other_world.owner.grant(editor, "experiment", other_world.experiment, EDIT)
    taken = other_world.names["trace_id"]
    with mlflow_server.unchanged():
        for person in (world.owner, editor):
            check_stays(person.post(f"{V3}/traces", trace_info(taken, world.experiment)))
    # In the spelling of protobuf's JSON too.
    other = {"trace": {"traceInfo": {"traceId": taken, "traceLocation": {
        "type": "MLFLOW_EXPERIMENT", "mlflowExperiment": {"experimentId": world.experiment}}}}}
    with mlflow_server.unchanged():
        check_stays(world.owner.post(f"{V3}/traces", other))


def test_a_trace_may_be_sent_again_to_its_own_experiment(world, trace):
    """Clients send the spans first, then the trace, and both again after a lost answer."""
    spans = otlp(trace, name="late")
    sent = world.owner.call("POST", "/v1/traces", json=spans, headers={"x-mlflow-experiment-id": world.experiment})
    assert sent.status_code == 200, sent.text
    again = world.owner.ok("POST", f"{V3}/traces", trace_info(trace, world.experiment))
    assert again["trace"]["trace_info"]["trace_id"] == trace


def test_starting_a_trace_names_one_experiment(mlflow_server, world, other_world):
    fresh = "tr-" + secrets.token_hex(16)
    twice = trace_info(fresh, world.experiment)
    twice["trace"]["trace_info"]["traceLocation"] = place(other_world.experiment)
    with mlflow_server.unchanged():
        check_refused(world.owner.post(f"{V3}/traces", trace_info(fresh, other_world.experiment)))
        check_refused(world.owner.post(f"{V2}/traces", {
            "experiment_id": other_world.experiment, "timestamp_ms": 1, "request_metadata": [], "tags": []}))
        assert world.owner.post(f"{V3}/traces", twice).status_code in (400, 403)
        nowhere = trace_info(fresh, world.experiment)
        del nowhere["trace"]["trace_info"]["trace_location"]
        assert world.owner.post(f"{V3}/traces", nowhere).status_code in (400, 403)


# ---- links


def test_linking_to_a_run_needs_every_trace_and_the_run(mlflow_server, world, other_world, trace):
    mine, theirs = world.owner, other_world.names["trace_id"]

    def link(run, *traces):
        return mine.post(f"{V2}/traces/link-to-run", {"run_id": run, "trace_ids": list(traces)})

    with mlflow_server.unchanged():
        check_refused(link(world.run, theirs))
        check_refused(link(world.run, trace, theirs))
        check_refused(link(world.run, "tr-" + secrets.token_hex(16)))
        check_refused(link(other_world.run, trace))
        other_world.owner.grant(mine, "experiment", other_world.experiment, READ)
        check_refused(link(other_world.run, trace))
    # READ on the traces is enough, EDIT on the run is needed.
    assert link(world.run, trace, theirs).status_code == 200


def test_linking_prompts_needs_the_trace_and_the_prompts(mlflow_server, world, other_world, trace):
    def link(trace, *prompts):
        versions = [{"name": prompt, "version": "1"} for prompt in prompts]
        return world.owner.post(f"{V2}/traces/link-prompts", {"trace_id": trace, "prompt_versions": versions})

    with mlflow_server.unchanged():
        check_refused(link(other_world.names["trace_id"], world.model))
        check_refused(link(trace, world.model, other_world.model))
    assert link(trace, world.model).status_code == 200


# ---- tags


def test_where_a_traces_artifacts_lie_is_for_administrators(mlflow_server, proxy, admin, world, trace):
    tag = {"key": ARTIFACT_LOCATION, "value": f"mlflow-artifacts:/{world.experiment}/elsewhere"}
    with mlflow_server.unchanged():
        for version in (V2, V3):
            check_refused(world.owner.patch(f"{version}/traces/{trace}/tags", tag))
            check_refused(world.owner.delete(f"{version}/traces/{trace}/tags", {"key": ARTIFACT_LOCATION}))
    assert admin.patch(f"{V3}/traces/{trace}/tags", tag).status_code == 200
    assert stored_tags(world.owner, trace)[ARTIFACT_LOCATION] == tag["value"]


def test_a_new_trace_does_not_choose_where_its_artifacts_lie(world):
    owner, elsewhere = world.owner, f"mlflow-artifacts:/{world.experiment}/elsewhere"
    fresh = "tr-" + secrets.token_hex(16)
    owner.post(f"{V3}/traces", trace_info(fresh, world.experiment, tags={ARTIFACT_LOCATION: elsewhere}))
    owner.post(f"{V2}/traces", {
        "experiment_id": world.experiment, "timestamp_ms": 1, "request_metadata": [],
        "tags": [{"key": ARTIFACT_LOCATION, "value": elsewhere}]})
    old = owner.ok("POST", f"{V2}/traces", {
        "experiment_id": world.experiment, "timestamp_ms": 1, "request_metadata": [], "tags": []})["trace_info"]["request_id"]
    owner.patch(f"{V2}/traces/{old}", {
        "request_id": old, "timestamp_ms": 2, "status": "OK", "request_metadata": [],
        "tags": [{"key": ARTIFACT_LOCATION, "value": elsewhere}]})
    found = owner.ok("POST", f"{V3}/traces/search", {"locations": [place(world.experiment)]})["traces"]
    assert old in {info["trace_id"] for info in found}
    for info in found:
        assert info["tags"].get(ARTIFACT_LOCATION) != elsewhere, info


@pytest.mark.parametrize("key", [ARCHIVE_LOCATION, ARCHIVE_LOCATION.lower(), f"{ARCHIVE_LOCATION} "])
def test_a_new_trace_does_not_choose_where_its_archive_lies(mlflow_server, world, tmp_path, key):
    """MLflow reads the archived spans from there, and deletes them there along with the trace."""
    (tmp_path / "traces.pb").write_bytes(b"somebody else's")
    owner, fresh = world.owner, "tr-" + secrets.token_hex(16)
    tags = {"mlflow.trace.spansLocation": "ARCHIVE_REPO", key: tmp_path.as_uri()}
    listed = [{"key": key, "value": value} for key, value in tags.items()]
    old = owner.ok("POST", f"{V2}/traces", {
        "experiment_id": world.experiment, "timestamp_ms": 1, "request_metadata": [], "tags": []})["trace_info"]["request_id"]
    with mlflow_server.unchanged():
        check_refused(owner.post(f"{V3}/traces", trace_info(fresh, world.experiment, tags=tags)))
        check_refused(owner.post(f"{V2}/traces", {
            "experiment_id": world.experiment, "timestamp_ms": 1, "request_metadata": [], "tags": listed}))
        check_refused(owner.patch(f"{V2}/traces/{old}", {
            "request_id": old, "timestamp_ms": 2, "status": "OK", "request_metadata": [], "tags": listed}))
    owner.ok("POST", f"{V3}/traces/delete-traces", {"experiment_id": world.experiment, "request_ids": [fresh, old]})
    assert (tmp_path / "traces.pb").exists()


# ---- assessments


def test_an_assessment_belongs_to_the_trace_in_its_path(mlflow_server, world, other_world, trace):
    """What the body says about the trace is not what decides."""
    theirs = other_world.names["trace_id"]
    with mlflow_server.unchanged():
        check_refused(world.owner.post(f"{V3}/traces/{theirs}/assessments", {"assessment": feedback("fine", trace_id=trace)}))
    made = world.owner.ok("POST", f"{V3}/traces/{trace}/assessments", {"assessment": feedback("fine", trace_id=theirs)})
    assert made["assessment"]["trace_id"] == trace
    given = made["assessment"]["assessment_id"]
    with mlflow_server.unchanged():
        body = {"assessment": feedback("bad"), "update_mask": "feedback"}
        assert not other_world.owner.patch(f"{V3}/traces/{theirs}/assessments/{given}", body).ok
        assert not other_world.owner.get(f"{V3}/traces/{theirs}/assessments/{given}").ok
        other_world.owner.delete(f"{V3}/traces/{theirs}/assessments/{given}")  # 200, as for any that is not there


def assessments_of(who, trace):
    return who.ok("GET", f"{V3}/traces/{trace}")["trace"]["trace_info"].get("assessments", [])


@pytest.mark.parametrize("stored", [True, False], ids=["stored-trace", "new-trace"])
def test_a_started_trace_takes_no_assessment_of_another_trace(mlflow_server, world, other_world, trace, stored):
    """MLflow merges assessments by their ID alone, so one of another trace would be moved and overwritten."""
    theirs = other_world.names["trace_id"]
    made = other_world.owner.ok("POST", f"{V3}/traces/{theirs}/assessments", {"assessment": feedback("fine")})["assessment"]
    target = trace if stored else "tr-" + secrets.token_hex(16)
    for spelling in ("assessment_id", "assessmentId"):
        taken = feedback("bad", **{spelling: made["assessment_id"]})
        world.owner.ok("POST", f"{V3}/traces", trace_info(target, world.experiment, assessments=[taken]))
        assert assessments_of(other_world.owner, theirs) == [made]
    ids = [one["assessment_id"] for one in assessments_of(world.owner, target)]
    assert len(ids) == 2
    assert made["assessment_id"] not in ids


def test_a_trace_that_is_sent_again_keeps_the_ids_of_its_assessments(world, trace):
    made = world.owner.ok("POST", f"{V3}/traces/{trace}/assessments", {"assessment": feedback("fine")})["assessment"]
    again = feedback("better", assessment_id=made["assessment_id"])
    world.owner.ok("POST", f"{V3}/traces", trace_info(trace, world.experiment, assessments=[again]))
    (kept,) = assessments_of(world.owner, trace)
    assert kept["assessment_id"] == made["assessment_id"]
    assert kept["feedback"]["value"] == "better"


def test_assessments_of_a_started_trace_require_the_right_to_assess(mlflow_server, admin, people, world):
    (editor,) = people(world, EDIT)
    admin.grant(editor, "assessment", "*", "DENY")
    started = trace_info("tr-" + secrets.token_hex(16), world.experiment)
    editor.ok("POST", f"{V3}/traces", started)
    with mlflow_server.unchanged():
        started["trace"]["trace_info"] |= {"trace_id": "tr-" + secrets.token_hex(16), "assessments": [feedback("fine")]}
        check_refused(editor.post(f"{V3}/traces", started))


def test_a_persons_assessment_bears_their_own_name(people, world, trace):
    (editor,) = people(world, EDIT)
    claimed = feedback("fine") | {"source": {"source_type": "HUMAN", "source_id": world.owner.name}}
    made = editor.ok("POST", f"{V3}/traces/{trace}/assessments", {"assessment": claimed})
    assert made["assessment"]["source"]["source_id"] == editor.name
    judged = feedback("fine") | {"source": {"source_type": "LLM_JUDGE", "source_id": "gpt"}}
    made = editor.ok("POST", f"{V3}/traces/{trace}/assessments", {"assessment": judged})
    assert made["assessment"]["source"]["source_id"] == "gpt"


def test_a_trace_of_a_new_experiment_is_its_owners(alice, bob):
    """The proxy never takes one trace's experiment for another's."""
    experiments = {
        person: person.ok("POST", "/api/2.0/mlflow/experiments/create", {"name": unique("e")})["experiment_id"]
        for person in (alice, bob)
    }
    traces = {person: new_trace(person, experiments[person]) for person in (alice, bob)}
    for person, other in ((alice, bob), (bob, alice)):
        assert person.get(f"{V3}/traces/{traces[person]}").status_code == 200
        check_refused(person.get(f"{V3}/traces/{traces[other]}"))


def test_a_search_in_no_experiment_finds_nothing(alice):
    answer = alice.post("/api/3.0/mlflow/traces/search", {"locations": []})
    assert (answer.status_code, answer.json()) == (200, {})
