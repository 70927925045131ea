"""OTLP: spans of any OpenTelemetry program reach the experiment that their header names, and no other."""

import gzip
import http.client
import json
import secrets
import zlib

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from endpoints import EDIT, READ
from endpoints_genai import V3, check_stays, new_trace, otlp, spans_of
from harness import World, check_refused

EXPERIMENT, RUN = "x-mlflow-experiment-id", "x-mlflow-run-id"
PROTOBUF = "application/x-protobuf"
ENCODINGS = {"gzip": gzip.compress, "deflate": zlib.compress}


def send(person, body, experiment, encoding=None, **headers):
    """A batch of spans, as JSON when it is a dictionary."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    headers = {EXPERIMENT: experiment, "Content-Type": "application/json" if isinstance(body, dict) else PROTOBUF} | headers
    if encoding:
        data, headers["Content-Encoding"] = ENCODINGS[encoding](data), encoding
    return person.call("POST", "/v1/traces", data=data, headers={key: value for key, value in headers.items() if value})



def protobuf(*traces):
    """The same spans as `otlp`, in binary."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for trace in traces:
        scope.spans.add(
            trace_id=bytes.fromhex(trace.removeprefix("tr-")), span_id=secrets.token_bytes(8), name="span", kind=1,
            start_time_unix_nano=1_700_000_000_000_000_000, end_time_unix_nano=1_700_000_001_000_000_000,
        )
    return request.SerializeToString()


WIRES = {"JSON": otlp, "protobuf": protobuf}


def fresh():
    return "tr-" + secrets.token_hex(16)


@pytest.fixture
def other_world(proxy):
    world = World.make(proxy.person("other"))
    world.names["trace_id"] = new_trace(world.owner, world.experiment)
    return world


@pytest.mark.parametrize("compression", list(Compression), ids=str)
def test_the_exporter_of_the_sdk_delivers(proxy, people, world, compression):
    reader, editor = people(world, READ, EDIT)
    for person, result in ((editor, SpanExportResult.SUCCESS), (reader, SpanExportResult.FAILURE)):
        exporter = OTLPSpanExporter(
            f"{proxy.url}/v1/traces", compression=compression, timeout=30, session=requests.Session(),
            headers={EXPERIMENT: world.experiment, "Authorization": person.session.headers["Authorization"]},
        )
        seen = []
        deliver = exporter.export
        exporter.export = lambda spans, deliver=deliver, seen=seen: seen.append(deliver(spans)) or seen[-1]
        provider = TracerProvider(resource=Resource({"service.name": "shop"}))
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("shop").start_as_current_span("order") as span:
            span.set_attribute("price", 7)
        provider.shutdown()
        assert seen == [result]
        trace = f"tr-{span.get_span_context().trace_id:032x}"
        asked = reader.get(f"{V3}/traces/get", {"trace_id": trace})
        if result is SpanExportResult.SUCCESS:
            assert [one["name"] for one in asked.json()["trace"]["spans"]] == ["order"]
        else:
            check_refused(asked)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_format_arrives(world, wire, encoding):
    traces = [fresh(), fresh()]
    answer = send(world.owner, WIRES[wire](*traces), world.experiment, encoding)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, PROTOBUF), answer.text
    for trace in traces:
        assert len(spans_of(world.owner, trace)) == 1


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("wire", WIRES)
def test_spans_need_edit_on_their_experiment(mlflow_server, proxy, people, world, wire, encoding):
    reader, editor = people(world, READ, EDIT)
    with mlflow_server.unchanged():
        for person in (reader, proxy.person("stranger")):
            check_refused(send(person, WIRES[wire](fresh()), world.experiment, encoding))
    assert send(editor, WIRES[wire](fresh()), world.experiment, encoding).status_code == 200


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("wire", WIRES)
def test_spans_of_a_trace_of_another_experiment_are_refused(mlflow_server, world, other_world, wire, encoding):
    """All of the batch is refused, wherever in it the span stands."""
    taken = other_world.names["trace_id"]
    with mlflow_server.unchanged():
        for traces in ((taken,), (fresh(), taken), (taken, fresh())):
            check_stays(send(world.owner, WIRES[wire](*traces), world.experiment, encoding))


def test_a_trace_stays_even_for_somebody_who_may_edit_both(mlflow_server, world, other_world):
    other_world.owner.grant(world.owner, "experiment", other_world.experiment, EDIT)
    with mlflow_server.unchanged():
        for wire in WIRES.values():
            check_stays(send(world.owner, wire(other_world.names["trace_id"]), world.experiment))


def test_the_case_of_a_trace_id_in_json_does_not_matter(mlflow_server, world, other_world):
    taken = other_world.names["trace_id"]
    with mlflow_server.unchanged():
        check_stays(send(world.owner, otlp("tr-" + taken[3:].upper()), world.experiment))


def test_a_further_batch_of_the_same_trace_arrives(world):
    trace = fresh()
    for wire in WIRES.values():
        assert send(world.owner, wire(trace), world.experiment).status_code == 200
    assert len(spans_of(world.owner, trace)) == 2


# ---- the run


def test_the_run_of_spans_needs_edit_too(mlflow_server, people, world, other_world):
    mine = world.owner
    with mlflow_server.unchanged():
        for wire in WIRES.values():
            check_refused(send(mine, wire(fresh()), world.experiment, **{RUN: other_world.run}))
            check_refused(send(mine, wire(fresh()), world.experiment, **{RUN: secrets.token_hex(16)}))
        other_world.owner.grant(mine, "experiment", other_world.experiment, READ)
        for wire in WIRES.values():
            check_refused(send(mine, wire(fresh()), world.experiment, **{RUN: other_world.run}))
    trace = fresh()
    assert send(mine, otlp(trace), world.experiment, **{RUN: world.run}).status_code == 200
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": world.experiment}}
    found = mine.ok("POST", f"{V3}/traces/search", {
        "locations": [location], "filter": f"attributes.run_id = '{world.run}'"})["traces"]
    assert [info["trace_id"] for info in found] == [trace]


@pytest.mark.parametrize("header", [EXPERIMENT, RUN])
def test_a_header_counts_once(mlflow_server, world, other_world, header):
    """Whichever of two would count, neither is taken."""
    theirs = {EXPERIMENT: other_world.experiment, RUN: other_world.run}[header]
    mine = {EXPERIMENT: world.experiment, RUN: world.run}[header]
    with mlflow_server.unchanged():
        for values in ((mine, theirs), (theirs, mine)):
            answer = raw_post(world.owner, otlp(fresh()), [
                *([(EXPERIMENT, world.experiment)] if header == RUN else []), *((header, value) for value in values)])
            assert answer in (400, 403), answer


@pytest.mark.parametrize("written", ["0{}", "+{}", "{}.0", "{} ,{}", "{},1"])
def test_an_experiment_id_has_one_spelling(mlflow_server, world, written):
    with mlflow_server.unchanged():
        answer = send(world.owner, otlp(fresh()), written.replace("{}", world.experiment))
        assert answer.status_code in (400, 403, 404, 422), answer.text


# ---- what is not OTLP


def test_what_is_missing_or_malformed_is_said_as_mlflow_says_it(mlflow_server, world):
    with mlflow_server.unchanged():
        assert send(world.owner, otlp(fresh()), None).status_code == 422
        assert send(world.owner, b"not protobuf", world.experiment).status_code == 400
        assert send(world.owner, b"{", world.experiment, **{"Content-Type": "application/json"}).status_code == 400
        assert send(world.owner, otlp(fresh()), world.experiment, **{"Content-Type": "text/plain"}).status_code == 400
        assert send(world.owner, {"resourceSpans": []}, world.experiment).status_code == 400
        garbled = {"Content-Encoding": "gzip"}
        assert send(world.owner, b"not gzip", world.experiment, **garbled).status_code == 400


def test_a_body_that_unpacks_to_too_much_is_refused(mlflow_server, world):
    large = zlib.compress(b"\0" * (200 << 20), 9)
    with mlflow_server.unchanged():
        for encoding, data in (("deflate", large), ("gzip", gzip.compress(b"\0" * (200 << 20), 9))):
            answer = send(world.owner, data, world.experiment, **{"Content-Encoding": encoding})
            assert answer.status_code in (400, 413), answer.status_code


def raw_post(person, body, headers):
    """A request whose headers may repeat; gives the status."""
    host = person.url.partition("://")[2]
    connection = http.client.HTTPConnection(host, timeout=30)
    data = json.dumps(body).encode()
    connection.putrequest("POST", "/v1/traces")
    headers = [*headers, ("Authorization", person.session.headers["Authorization"]),
               ("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(data)
    try:
        return connection.getresponse().status
    finally:
        connection.close()
