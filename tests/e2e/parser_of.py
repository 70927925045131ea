"""Reads requests with the parsers of the MLflow whose Python runs this, and compares them with what the proxy decided.

A worker of parsers.py: it exchanges frames on standard input and output, each of four bytes of length and a pickle.
The first frame holds the rows of routes.toml, and the answer the kind of parser that each has here. Every further frame
is a batch of requests as the proxy would send them, and the answer is what does not agree.

Two comparisons. The fields that were authorised hold the ids that were authorised, in the message that a handler gets.
And the whole message is what was sent: no field was read that was not sent under exactly its name, no known field was
sent and not read, and every value is equal.
"""

import base64
import calendar
import contextlib
import dataclasses
import datetime
import functools
import inspect
import json
import os
import pickle
import re
import socket
import struct
import sys
import warnings
from urllib.parse import quote, unquote

os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", "only-for-parsing")
warnings.simplefilter("ignore")

from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor  # noqa: E402
from google.protobuf.json_format import ParseError  # noqa: E402
from werkzeug.datastructures import ImmutableMultiDict  # noqa: E402
from werkzeug.exceptions import HTTPException  # noqa: E402
from werkzeug.sansio.request import Request as WerkzeugRequest  # noqa: E402

from mlflow.server import app, handlers  # noqa: E402

AUTHOR = "ada"
MOST_PROBLEMS = 20
Field = FieldDescriptor


class Skipped(Exception):
    """Raised for a request that MLflow refuses before a handler sees it."""


# ---- the parsers

class FakeRequest:
    """The parts of a Flask request that MLflow's parsers read, computed as Flask and werkzeug do."""

    parameter_storage_class = ImmutableMultiDict

    def __init__(self, method, query, body, content_type):
        self.method, self.query_string, self.body, self.content_type = method, query.encode(), body, content_type

    @property
    def args(self):
        found = self.__dict__.get("_args")
        if found is None:
            found = self.__dict__["_args"] = WerkzeugRequest.args.fget(self)
        return found

    def get_json(self, force=False, silent=False, cache=True):
        try:
            return json.loads(self.body)
        except ValueError:
            if silent:
                return None
            raise

    json = property(get_json)

    def get_data(self, *_, **__):
        return self.body

    data = property(get_data)


class Noted:
    """The error of the last parse_dict, which `_get_request_message` swallows."""

    error = None


def note_errors():
    parse = handlers.parse_dict

    def noting(*given, **named):
        try:
            return parse(*given, **named)
        except ParseError as error:
            Noted.error = error
            raise

    handlers.parse_dict = noting


class MessageParser:
    """A Flask route whose handler calls `_get_request_message`."""

    kind = "message"

    def __init__(self, row, message):
        self.row, self.message, self.plan = row, message, plan_of(message.DESCRIPTOR)
        self.lacking = {need["thing"] for need in row["needs"] if need["source"] in ("query", "body")
                        and not has_steps(message.DESCRIPTOR, need)}

    def read(self, item):
        request = FakeRequest(self.row["method"], item["query"], item["body"], item["content_type"])
        message, Noted.error = self.message(), None
        try:
            handlers._get_request_message(message, flask_request=request)
        except ParseError:
            raise Skipped from None  # not swallowed: 2.10 reads queries outside of its `try`
        except Exception as error:  # noqa: BLE001, what a handler's decorator answers with an error
            raise Skipped from error
        return message

    def compare(self, item):
        message = self.read(item)
        if Noted.error is not None:
            yield f"the parser stopped: {Noted.error}"
        from_query = self.row["method"] == "GET" and item["query"]
        where = {"query": message if from_query or not item["query"] else Arguments(item), "body": message,
                 "path": item["params"],
                 "header": item["headers"]}
        yield from check_ids(self.row, item, where, self.lacking)
        for name, value in item["params"].items():
            if name in self.plan.checks and (read := getattr(message, name)) and read != value:
                yield f"{name} of the path is {value!r}, of the message {read!r}"
        if self.row["author"] and not from_query:
            yield from check_author(self.row["author"], message)
        if Noted.error is None:
            sent = Arguments(item).tree(self.plan) if from_query else json.loads(item["body"] or b"{}")
            if problem := self.plan.compare(message, sent, from_query):
                yield problem


class PlainParser:
    """A route whose handler reads the query and the JSON body as they are."""

    kind = "plain"

    def __init__(self, row):
        self.row = row

    def compare(self, item):
        request = FakeRequest(self.row["method"], item["query"], item["body"], item["content_type"])
        body = request.get_json(force=True, silent=True)
        if item["body"] and not isinstance(body, dict):
            raise Skipped
        where = {"query": Arguments(item), "body": body or {}, "path": item["params"], "header": item["headers"]}
        yield from check_ids(self.row, item, where, frozenset())
        if self.row["author"]:
            yield from check_author(self.row["author"], body or {})


class PydanticParser(PlainParser):
    """A route whose query parameters and body FastAPI reads into pydantic's types."""

    kind = "pydantic"

    def __init__(self, row, dependants):
        from fastapi.dependencies.utils import request_params_to_args
        from starlette.datastructures import QueryParams

        super().__init__(row)
        self.to_arguments, self.parameters = request_params_to_args, QueryParams
        self.query = [field for one in dependants for field in one.query_params]
        body = [field for one in dependants for field in one.body_params]
        assert len(body) < 2, row
        self.body = body[0] if body else None

    def compare(self, item):
        yield from super().compare(item)
        received = self.parameters(item["query"])
        values, errors = self.to_arguments(self.query, received)
        if errors:
            raise Skipped
        for field in self.query:
            value = values[field.name]
            given = received.getlist(field.alias)
            if not given:
                if value != field.get_default():
                    yield f"{field.alias} was read as {value!r}, but not sent"
            elif isinstance(value, list):
                if value != given:
                    yield f"{field.alias} was sent as {given!r}, but read as {value!r}"
            elif as_text(value) != given[-1] and not (isinstance(value, int)
                                                      and same_integer(value, given[-1]) is None):
                yield f"{field.alias} was sent as {given!r}, but read as {value!r}"
        if self.body is not None:
            sent = json.loads(item["body"] or b"null")
            try:
                value, errors = self.body.validate(sent, {}, loc=("body",))
            except Exception as error:  # a validator of MLflow's own
                raise Skipped from error
            if errors:
                raise Skipped
            if problem := compare_model(value, sent):
                yield problem


class SpansParser:
    """`POST /v1/traces`: spans in OTLP, as mlflow.server.otel_api reads them."""

    kind = "spans"

    def __init__(self, row):
        from google.protobuf.json_format import Parse
        from mlflow.entities.span import Span
        from mlflow.server import otel_api

        self.row, self.api, self.parse_json, self.to_span = row, otel_api, Parse, Span.from_otel_proto
        self.export = otel_api.ExportTraceServiceRequest
        self.to_base64 = getattr(otel_api, "_convert_otlp_json_ids_to_base64", None)
        self.plan = plan_of(self.export.DESCRIPTOR, camel=True)

    def compare(self, item):
        export, is_json = self.export(), item["content_type"] == "application/json"
        if is_json and self.to_base64 is None:
            raise Skipped
        try:
            if is_json:
                self.parse_json(self.to_base64(item["body"]), export, ignore_unknown_fields=True)
            else:
                export.ParseFromString(item["body"])
        except Exception as error:
            raise Skipped from error
        if not export.resource_spans:
            raise Skipped
        traces = set()
        for span in (span for one in export.resource_spans for scope in one.scope_spans for span in scope.spans):
            try:
                traces.add(self.to_span(span).trace_id)
            except Exception as error:
                raise Skipped from error
            for attribute in span.attributes:
                tag = attribute.key.removeprefix("mlflow.traceTag.")
                if tag != attribute.key and tag.lower().startswith("mlflow.") and tag != "mlflow.traceName":
                    yield f"the attribute {attribute.key!r} becomes a reserved tag"
                if any(ord(letter) < 32 for letter in attribute.key):
                    yield f"the attribute {attribute.key!r} holds a control character"
        expected = {one for thing, one in item["located"] if thing == "Trace"}
        if traces != expected:
            yield f"authorised traces {sorted(expected)}, read {sorted(traces)}"
        if is_json and (problem := self.plan.compare(export, ids_as_base64(json.loads(item["body"])), False)):
            yield problem


def ids_as_base64(export):
    """Rewrites the ids of spans and links from hex to base64, as protobuf's JSON has them."""
    for resource in export.get("resourceSpans") or []:
        for scope in resource.get("scopeSpans") or []:
            for span in scope.get("spans") or []:
                for one in [span, *(span.get("links") or [])]:
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if one.get(name):
                            one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
    return export


class Arguments:
    """The query as Flask's handlers read it: one value of a name, or all of them."""

    def __init__(self, item):
        self.args = WerkzeugRequest.args.fget(FakeRequest("GET", item["query"], b"", None))

    def get(self, name, default=None):
        return self.args.get(name, default)

    def tree(self, plan):
        """Returns the query as JSON for a message: lists for repeated fields, the first value of others."""
        return {name: self.args.getlist(name) if name in plan.repeated else self.args.get(name) for name in self.args}


def as_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return getattr(value, "value", value) if not isinstance(value, int | float) else str(value)


def compare_model(value, sent):
    """Compares what pydantic made of a JSON value: each field that is set was sent under its name or alias."""
    if hasattr(value, "model_fields_set"):
        if not isinstance(sent, dict):
            return f"{sent!r} was read as an object"
        fields = type(value).model_fields
        for name in value.model_fields_set:
            names = [name] if name not in fields else [fields[name].alias or name, name]
            key = next((one for one in names if one in sent), None)
            if key is None:
                return f"{name} was read, but not sent"
            # A further member can have the name of an attribute of the model's class.
            read = getattr(value, name) if name in fields else value.model_extra[name]
            if problem := compare_model(read, sent[key]):
                return f"{name}: {problem}"
        return None
    if dataclasses.is_dataclass(value) and isinstance(sent, dict):
        given = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.name in sent}
        if any(getattr(value, one.name) != one.default for one in dataclasses.fields(value) if one.name not in sent):
            return f"{sent!r} was read as {value!r}"
        return compare_model(given, {name: sent[name] for name in given})
    if isinstance(value, dict) and isinstance(sent, dict):
        if value.keys() != sent.keys():
            return f"keys {sorted(sent)} were read as {sorted(value)}"
        return next(filter(None, (compare_model(value[key], sent[key]) for key in sent)), None)
    if isinstance(value, list) and isinstance(sent, list):
        if len(value) != len(sent):
            return f"{len(sent)} entries were read as {len(value)}"
        return next(filter(None, map(compare_model, value, sent)), None)
    value = getattr(value, "value", value)
    same = value == sent or (value != value and sent != sent)
    if not same and type(value) is not type(sent):
        same = str(as_text(value)).lower() == str(sent).lower()
        same = same or float_or_none(value) == float_or_none(sent) is not None
    return None if same else f"{sent!r} was read as {value!r}"


def float_or_none(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# ---- which parser a row has

class Routes:
    """Routes of this release. FastAPI's come first, because its application contains Flask's."""

    def __init__(self):
        self.fastapi, self.flask, self.messages = fastapi_routes(), app.url_map.bind("localhost"), message_classes()
        self.find = functools.lru_cache(100_000)(self.find)

    def find(self, method, path):
        """Returns the route of a path and the values of its parameters, or None."""
        for at, one in enumerate(self.fastapi):
            if method in one[1] and (found := one[0].fullmatch(path)):
                return at, "/".join(found.groups())
        try:
            rule, values = self.flask.match(path, method=method, return_rule=True)
        except HTTPException:
            return None
        return rule, "/".join(map(str, values.values()))


def parser_of(row, routes):
    found = routes.find(row["method"], row["sample"])
    if found is None:
        return None
    if isinstance(found[0], int):
        parser = fastapi_parser(row, *routes.fastapi[found[0]][2:])
    else:
        parser = flask_parser(row, found[0], routes.messages)
    parser.routes, parser.route = routes, found[0]
    return parser


def check_route(parser, item):
    """Checks that MLflow finds the same route for the sent path, with the same values in it."""
    found = parser.routes.find(parser.row["method"], item["path"])
    if found is None:
        raise Skipped
    ours = parser.routes.find(parser.row["method"], parser.row["sample"].replace("/api/", "/ajax-api/", 1))
    if found[0] != parser.route and (ours is None or found[0] != ours[0]):
        yield f"another route is found for {item['path']!r}"
    elif found[1] != "/".join(item["params"].values()):
        yield f"the parameters of the path are {item['params']}, but {found[1]!r} is read"


def flask_parser(row, rule, messages):
    message = messages.get((row["method"], rule.rule))
    handler = inspect.unwrap(app.view_functions[rule.endpoint])
    # Some handlers parse another message than the one that their endpoint declares.
    source = inspect.getsource(handler)
    parsed = re.search(r"_get_(?:workspace_)?request_message\(\s*(\w+)\(\)", source)
    if parsed:
        message = handler.__globals__[parsed.group(1)]
    elif "_get_request_message" not in source and PLAIN.search(source):
        message = None
    return MessageParser(row, message) if message else PlainParser(row)


# What handlers contain that read the query, the JSON or the stream themselves.
PLAIN = re.compile(r"request\.(args|json|get_json|stream)|_get_validated_flask")


def message_classes():
    found = {}
    for service in vars(handlers).values():
        if isinstance(service, type) and isinstance(getattr(service, "DESCRIPTOR", None), ServiceDescriptor):
            for path, message, methods in handlers.get_service_endpoints(service, lambda request: request):
                for method in methods:
                    found.setdefault((method, path), message)
    return found


def fastapi_routes():
    """Returns pattern, methods, dependants and path of every route that FastAPI answers itself."""
    try:
        from mlflow.server.fastapi_app import create_fastapi_app
    except ImportError:  # 2.x has none
        return []
    from starlette.routing import compile_path

    def walk(routes):
        for one in routes:
            if getattr(one, "methods", None):
                yield one
            elif hasattr(one, "effective_route_contexts"):
                yield from one.effective_route_contexts()

    def flat(dependant):
        yield dependant
        for inner in dependant.dependencies:
            yield from flat(inner)

    return [(compile_path(one.path)[0], set(one.methods), list(flat(one.dependant)), one.path)
            for one in walk(create_fastapi_app().routes) if hasattr(one, "dependant")]


def fastapi_parser(row, dependants, path):
    if path == "/v1/traces":
        return SpansParser(row)
    if any(one.query_params or one.body_params for one in dependants):
        return PydanticParser(row, dependants)
    return PlainParser(row)


# ---- what was authorised

def check_ids(row, item, where, lacking):
    """Checks that the fields that routes.toml names hold the ids that were authorised, thing by thing."""
    read = {}
    for need in row["needs"]:
        values = ids_at(where[need["source"]], need["steps"])
        if need["with"]:
            second = [need["steps"][-1] | {"names": [need["with"]]}]
            seconds = [*ids_at(where[need["source"]], [*need["steps"][:-1], *second]), ""]
            values = [joined(need["thing"], *pair) for pair in zip(values, seconds)]
        elif need["thing"] == "Artifact":
            values = map(decoded, values)
        read.setdefault(need["thing"], set()).update(one for one in values if one)
    for thing, ids in read.items():
        expected = {one for other, one in item["located"] if other == thing}
        if ids != expected and not (thing in lacking and ids < expected):
            yield f"authorised {thing} {sorted(expected)}, read {sorted(map(str, ids))}"
    if row["narrow"]:
        ids = set(ids_at(where[row["narrow"]["source"]], row["narrow"]["steps"]))
        if not ids or not ids <= set(item["mine"]):
            yield f"the search was narrowed to {item['mine']}, but {sorted(ids)} is read"


def ids_at(holder, steps):
    """Yields every value that these steps lead to in a message, a dictionary or a query, except empty ones."""
    first, rest = steps[0], steps[1:]
    for name in first["names"]:
        if isinstance(holder, Arguments):
            value = holder.args.getlist(name) if first["each"] else holder.get(name)
        else:
            value = get(holder, name)
        for one in value if first["each"] and value is not None else [value]:
            if rest:
                if one is not None:
                    yield from ids_at(one, rest)
            elif one:
                yield one


def joined(thing, first, second):
    """Joins two fields to one key as `authz` does."""
    if thing in ("Skill", "NewSkill"):
        return f"@{first}/{second}"
    return f"{first}/{quote(second, safe='') if thing in ('Scorer', 'ScorerVersion') else second}"


def decoded(path):
    """Decodes an artifact path as MLflow does: until nothing changes."""
    while (again := unquote(path)) != path:
        path = again
    return path


def get(holder, name):
    """Returns a field of a message or a member of a dictionary."""
    if holder is None:
        return None
    if isinstance(holder, dict):
        return holder.get(name)
    return getattr(holder, name) if name in holder.DESCRIPTOR.fields_by_name else None


def has_steps(descriptor, need):
    """Returns true if this release's message has every field that a need names."""
    for step in need["steps"]:
        if descriptor is None or not all(name in descriptor.fields_by_name for name in step["names"]):
            return False
        descriptor = descriptor.fields_by_name[step["names"][0]].message_type
    return True


def check_author(author, message):
    """Checks that the caller is the author in every field that holds one; see authorship.rs."""
    if author.endswith("-by"):
        name = author.replace("-", "_")
        if not isinstance(message, dict) and name not in message.DESCRIPTOR.fields_by_name:
            return
        wanted = AUTHOR
        if author == "completed-by" and get(message, "status") not in (2, 3, "COMPLETE", "DECLINED"):
            wanted = ""
        if (get(message, name) or "") != wanted:
            yield f"{name} is {get(message, name)!r}"
    elif author in ("run", "promptlab-run"):
        if get(message, "user_id") != AUTHOR:
            yield f"user_id is {get(message, 'user_id')!r}"
        yield from check_tags(get(message, "tags"), author == "run")
    elif author == "tags":
        yield from check_tags(get(message, "tags"), False)
    elif author == "tag":
        yield from check_tags([message], False)
    elif author == "assessment":
        yield from check_assessment(get(message, "assessment"))
    elif author == "trace":
        info = get(get(message, "trace"), "trace_info")
        for assessment in get(info, "assessments") or []:
            yield from check_assessment(assessment)
        yield from check_map(get(info, "tags"), False)
        yield from check_map(get(info, "trace_metadata"), True)
    elif author in ("trace-v2", "trace-v2-end"):
        yield from check_tags(get(message, "tags"), False)
        yield from check_tags(get(message, "request_metadata"), author == "trace-v2")
    elif author in ("dataset", "dataset-tags"):
        if tags := get(message, "tags"):
            yield from check_map(parsed(tags), author == "dataset")
        elif author == "dataset":
            yield "the tags of the dataset hold no author"
    elif author == "dataset-records":
        for record in parsed(get(message, "records")) or []:
            yield from check_map(record.get("tags"), True)
    else:
        yield f"parser_of.py does not know the author {author}"


def parsed(text):
    """Parses JSON that is written in a string; raises Skipped where a handler fails."""
    try:
        return json.loads(text) if text else None
    except ValueError as error:  # such as an integer of more than 4,300 digits
        raise Skipped from error


def check_tags(tags, required):
    yield from check_pairs([(get(tag, "key"), get(tag, "value")) for tag in tags or []], required)


def check_map(tags, required):
    yield from check_pairs(list((tags or {}).items()), required)


def check_pairs(pairs, required):
    claims = [(key, value) for key, value in pairs if key
              and key.rstrip().lower() in ("mlflow.user", "mlflow.auth.username")]
    yield from (f"the tag {key!r} is {value!r}" for key, value in claims if value != AUTHOR)
    yield from (f"the tag {key!r} is set" for key, value in pairs if value and key
                and key.rstrip().lower() == "mlflow.auth.userid")
    if required and not any(key == "mlflow.user" for key, _ in claims):
        yield "there is no tag `mlflow.user`"


def check_assessment(assessment):
    source = get(assessment, "source")
    if source is None or (not isinstance(assessment, dict) and not assessment.HasField("source")):
        return
    if get(source, "source_type") not in (2, 3, "LLM_JUDGE", "CODE") and get(source, "source_id") != AUTHOR:
        yield f"source_id is {get(source, 'source_id')!r}"


# ---- the whole message

class Plan:
    """Comparison of one kind of message with JSON that has snake_case or lowerCamelCase names."""

    def __init__(self, descriptor, camel):
        self.names, self.checks, self.repeated, self.plain_default, self.enums = {}, {}, set(), {}, {}
        self.descriptor, self.camel = descriptor, camel

    def fill(self):
        for field in self.descriptor.fields:
            name = field.json_name if self.camel else field.name
            self.names[field.number] = name
            repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == Field.LABEL_REPEATED
            single = self.single(field)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self.checks[name] = map_of(self.single(field.message_type.fields_by_name["value"]))
                self.plain_default[name] = ({},)
            elif repeated:
                self.checks[name] = list_of(single)
                self.repeated.add(name)
                self.plain_default[name] = ([],)
            else:
                self.checks[name] = single
                if not field.has_presence:
                    self.plain_default[name] = (field.default_value,)
            if field.enum_type is not None:
                self.enums[name] = set(field.enum_type.values_by_name)

    def single(self, field):
        if field.message_type is not None:
            known = WELL_KNOWN.get(field.message_type.full_name)
            return known or plan_of(field.message_type, self.camel).compare
        if field.enum_type is not None:
            numbers = {value.name: value.number for value in field.enum_type.values}
            return lambda value, sent, text=False: None if numbers.get(sent, sent) == value else different(value, sent)
        return SCALARS[field.type]

    def compare(self, message, sent, text=False):
        """Returns the first difference, or None. `text`: the values are strings, from a query."""
        if not isinstance(sent, dict):
            return f"{sent!r} was read as a message"
        read = set()
        for field, value in message.ListFields():
            name = self.names[field.number]
            if name not in sent:
                return f"{name} was read as {shown(value)}, but not sent"
            if problem := self.checks[name](value, sent[name], text):
                return f"{name}: {problem}"
            read.add(name)
        for name, value in sent.items():
            if name not in read and name in self.checks and not self.may_be_unset(name, value):
                return f"{name} was sent as {shown(value)}, but not read"
        return None

    def may_be_unset(self, name, sent):
        if name in self.enums:
            # A value that this release does not have is ignored.
            values = sent if isinstance(sent, list) else [sent]
            if not self.enums[name].issuperset(values):
                return True
        if sent is None:
            return True
        defaults = self.plain_default.get(name, ())
        if name in self.enums and defaults and name not in self.repeated:
            return True
        return any(self.checks[name](default, sent) is None for default in defaults)


PLANS = {}


def plan_of(descriptor, camel=False):
    key = (descriptor.full_name, camel)
    if key not in PLANS:
        PLANS[key] = Plan(descriptor, camel)
        PLANS[key].fill()
    return PLANS[key]


def shown(value):
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "…"


def different(value, sent):
    return f"sent {shown(sent)}, read {shown(value)}"


def same_text(value, sent, text=False):
    return None if value == sent else different(value, sent)


def same_integer(value, sent, text=False):
    fits = isinstance(sent, int) and not isinstance(sent, bool) or isinstance(sent, str) and re.fullmatch(r"-?[0-9]+",
                                                                                                          sent)
    return None if fits and int(sent) == value else different(value, sent)


def same_bool(value, sent, text=False):
    if text:
        sent = {"true": True, "false": False}.get(str(sent).lower())
    return None if value is sent else different(value, sent)


def same_double(value, sent, text=False):
    number = float_or_none(sent) if not isinstance(sent, bool) else None
    return None if number is not None and (number == value
                                           or (number != number and value != value)) else different(value, sent)


def same_float(value, sent, text=False):
    number = float_or_none(sent) if not isinstance(sent, bool) else None
    if number is None or number != number:
        return same_double(value, sent)
    try:
        number = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        pass
    return same_double(value, number)


def same_bytes(value, sent, text=False):
    digits = str(sent).rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/_-]*", digits) or len(digits) % 4 == 1:
        return different(value, sent)
    made = base64.urlsafe_b64decode(digits.replace("+", "-").replace("/", "_") + "=" * (-len(digits) % 4))
    return None if made == value else different(value, sent)


SCALARS = {
    Field.TYPE_STRING: same_text, Field.TYPE_BYTES: same_bytes, Field.TYPE_BOOL: same_bool,
    Field.TYPE_FLOAT: same_float,
    Field.TYPE_DOUBLE: same_double, **{kind: same_integer for kind in (
        Field.TYPE_INT32, Field.TYPE_SINT32, Field.TYPE_SFIXED32, Field.TYPE_INT64, Field.TYPE_SINT64,
        Field.TYPE_SFIXED64,
        Field.TYPE_UINT32, Field.TYPE_FIXED32, Field.TYPE_UINT64, Field.TYPE_FIXED64)},
}


def list_of(single):
    def same_list(value, sent, text=False):
        if not isinstance(sent, list) or len(value) != len(sent):
            return different(list(value), sent)
        for one, other in zip(value, sent):
            if problem := single(one, other, text):
                return problem
        return None

    return same_list


def map_of(single):
    def same_map(value, sent, text=False):
        if not isinstance(sent, dict) or set(value) != set(sent):
            return different(dict(value), sent)
        for key in sent:
            if problem := single(value[key], sent[key], text):
                return f"{key!r}: {problem}"
        return None

    return same_map


def same_struct(value, sent, text=False):
    if not isinstance(sent, dict) or set(value.fields) != set(sent):
        return different(dict(value.fields), sent)
    for key in sent:
        # Up to 3.9, `_stringify_all_experiment_ids` rewrites these wherever they stand.
        if key not in ("experiment_id", "experiment_ids") and (problem := same_value(value.fields[key], sent[key])):
            return f"{key!r}: {problem}"
    return None


def same_list_value(value, sent, text=False):
    return list_of(same_value)(value.values, sent)


def same_value(value, sent, text=False):
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return same_struct(value.struct_value, sent)
    if kind == "list_value":
        return same_list_value(value.list_value, sent)
    if kind == "number_value":
        return same_double(value.number_value, sent) if not isinstance(sent, str) else different(value, sent)
    read = None if kind == "null_value" else getattr(value, kind) if kind else value
    return None if read == sent and type(read) is type(sent) else different(value, sent)


def same_timestamp(value, sent, text=False):
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", str(sent))
    if not found:
        return different(value, sent)
    seconds = calendar.timegm(datetime.datetime.fromisoformat(found.group(1)).timetuple())
    if found.group(3) != "Z":
        sign, hours, minutes = found.group(3)[0], found.group(3)[1:3], found.group(3)[4:6]
        seconds -= (1 if sign == "+" else -1) * (int(hours) * 3600 + int(minutes) * 60)
    nanos = int((found.group(2) or "").ljust(9, "0"))
    return None if (value.seconds, value.nanos) == (seconds, nanos) else different(value, sent)


def same_duration(value, sent, text=False):
    found = re.fullmatch(r"(-?)(\d+)(?:\.(\d{1,9}))?s", str(sent))
    if not found:
        return different(value, sent)
    sign = -1 if found.group(1) else 1
    wanted = (sign * int(found.group(2)), sign * int((found.group(3) or "").ljust(9, "0")))
    return None if (value.seconds, value.nanos) == wanted else different(value, sent)


def same_mask(value, sent, text=False):
    paths = [re.sub(r"([A-Z])", lambda letter: "_" + letter.group(1).lower(), path)
             for path in sent.split(",")] if sent else []
    return None if list(value.paths) == paths else different(value, sent)


def same_wrapped(single):
    return lambda value, sent, text=False: single(value.value, sent, text)


WELL_KNOWN = {
    "google.protobuf.Struct": same_struct, "google.protobuf.Value": same_value,
    "google.protobuf.ListValue": same_list_value,
    "google.protobuf.Timestamp": same_timestamp, "google.protobuf.Duration": same_duration,
    "google.protobuf.FieldMask": same_mask, "google.protobuf.StringValue": same_wrapped(same_text),
    "google.protobuf.BoolValue": same_wrapped(same_bool), "google.protobuf.DoubleValue": same_wrapped(same_double),
    "google.protobuf.FloatValue": same_wrapped(same_float),
    **{f"google.protobuf.{kind}Value": same_wrapped(same_integer) for kind in ("Int32", "Int64", "UInt32", "UInt64")},
}


# ---- the worker

def answer(readers, batch):
    compared, refused, problems, seen = {}, 0, [], 0
    for item in batch:
        parser = readers[item["row"]]
        if parser is None:
            continue
        try:
            found = [*check_route(parser, item), *parser.compare(item)]
        except Skipped:
            refused += 1
            continue
        except Exception as error:  # noqa: BLE001, the report then has the request
            found = [f"the comparison failed: {error!r}"]
        compared[item["row"]] = compared.get(item["row"], 0) + 1
        seen += len(found)
        if found and len(problems) < MOST_PROBLEMS:
            problems.append((item["number"], found, read_again(parser, item)))
    return {"compared": compared, "refused": refused, "problems": problems, "count": seen}


def read_again(parser, item):
    """Returns what the handler gets, as text."""
    if isinstance(parser, MessageParser):
        with contextlib.suppress(Exception):
            return str(parser.read(item))
    return f"query {item['query']!r}, body {item['body']!r}"


def main():
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what MLflow prints is no answer

    def receive():
        head = stdin.read(4)
        return pickle.loads(stdin.read(int.from_bytes(head, "big"))) if head else None

    def send(value):
        data = pickle.dumps(value, protocol=4)
        stdout.write(len(data).to_bytes(4, "big") + data)
        stdout.flush()

    # Validators of URLs look names up. Here every name is one public address, without a network.
    socket.getaddrinfo = lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]
    note_errors()
    routes = Routes()
    readers = [parser_of(row, routes) for row in receive()]
    send([one and one.kind for one in readers])
    while (batch := receive()) is not None:
        send(answer(readers, batch))


if __name__ == "__main__":
    main()
