"""Prints, as JSON, the request fields of the MLflow whose Python runs this.

Output: `routes` (one entry per method and path, with its protobuf messages, its FastAPI parameters, and the keys that
its handler reads without a message), `messages` (fields of protobuf messages), `enums` (their values) and `objects`
(fields of pydantic models).

Runs inside that release's environment, in a folder of its own. The caller merges the answers; see request_schema.py.
"""

import ast
import dataclasses
import enum
import inspect
import json
import os
import re
import sys
import textwrap
import types
import typing

os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", "only-for-listing")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor  # noqa: E402

from mlflow.server import app, handlers  # noqa: E402
from mlflow.version import VERSION  # noqa: E402

Field = FieldDescriptor
SCALARS = {
    Field.TYPE_STRING: "string", Field.TYPE_BYTES: "bytes", Field.TYPE_BOOL: "bool", Field.TYPE_FLOAT: "float",
    Field.TYPE_DOUBLE: "double", Field.TYPE_INT32: "int32", Field.TYPE_SINT32: "int32", Field.TYPE_SFIXED32: "int32",
    Field.TYPE_INT64: "int64", Field.TYPE_SINT64: "int64", Field.TYPE_SFIXED64: "int64", Field.TYPE_UINT32: "uint32",
    Field.TYPE_FIXED32: "uint32", Field.TYPE_UINT64: "uint64", Field.TYPE_FIXED64: "uint64",
}
# Messages with a JSON form of their own. A wrapper is its value.
WELL_KNOWN = {
    "Struct": "struct", "Value": "value", "ListValue": "list", "Timestamp": "timestamp", "Duration": "duration",
    "FieldMask": "fieldmask", "StringValue": "string", "BoolValue": "bool", "FloatValue": "float",
    "DoubleValue": "double", "Int32Value": "int32", "Int64Value": "int64", "UInt32Value": "uint32",
    "UInt64Value": "uint64",
}
# Functions that read the request for a handler; their own reads are not counted again in each handler.
READERS = {
    "_get_request_json", "_get_normalized_request_json", "_get_validated_flask_request_json", "_raw_request_has_field",
    "_get_workspace_request_message", "_get_request_body",
}
PARSERS = {"_get_request_message", "_validate_request_json_with_schema", "_reject_conflicting_field_aliases"}
# Functions whose first argument is the message that the request is parsed into.
MESSAGES = {"_get_request_message", "_get_workspace_request_message"}
# What of a Flask or Starlette request holds the query or the body.
PARTS = {
    "args", "json", "data", "stream", "query_string", "get_json", "get_data", "files", "form", "values", "query_params",
    "body", "full_path",
}


class Protos:
    """Protobuf messages and enums that a request can contain, under the names used in requests.toml."""

    def __init__(self):
        self.messages, self.enums, self.origins = {}, {}, {}

    def name(self, descriptor):
        name = descriptor.full_name
        if name.startswith("opentelemetry.proto."):
            name = "otlp." + re.sub(r"^opentelemetry\.proto\.[a-z.]+\.v\d+\.", "", name)
        name = name.removeprefix("mlflow.")
        assert self.origins.setdefault(name, descriptor.full_name) == descriptor.full_name, f"two messages {name}"
        return name

    def message(self, descriptor):
        name = self.name(descriptor)
        if name not in self.messages:
            fields = self.messages[name] = {}
            for field in descriptor.fields:
                camel = re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), field.name)
                assert field.json_name == camel, f"{name}.{field.name} has the JSON name {field.json_name}"
                fields[field.name] = self.field(field)
        return name

    def field(self, field):
        if field.type == Field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            assert entry["key"].type == Field.TYPE_STRING, f"{field.full_name} is not a map from strings"
            return "{" + self.type(entry["value"]) + "}"
        kind = self.type(field)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == Field.LABEL_REPEATED
        if repeated:
            return f"[{kind}]"
        oneof = field.containing_oneof
        # proto3 `optional` is a oneof with a single member, named after the field with a leading underscore.
        if oneof is not None and not (len(oneof.fields) == 1 and oneof.name == f"_{field.name}"):
            return f"{kind} @{oneof.name}"
        return kind

    def type(self, field):
        if field.type == Field.TYPE_STRING and field.name == "key" and not field.containing_type.GetOptions().map_entry:
            return "key"
        if field.type in SCALARS:
            return SCALARS[field.type]
        if field.type == Field.TYPE_ENUM:
            name = self.name(field.enum_type)
            self.enums[name] = {value.name: value.number for value in field.enum_type.values}
            return f"enum {name}"
        assert field.type == Field.TYPE_MESSAGE, f"{field.full_name} is a group"
        package, _, name = field.message_type.full_name.rpartition(".")
        if package == "google.protobuf":
            assert name in WELL_KNOWN, f"{field.full_name} is a google.protobuf.{name}"
            return WELL_KNOWN[name]
        return self.message(field.message_type)


class Objects:
    """Pydantic models and dataclasses that FastAPI routes take, with the types of their fields."""

    # Modules whose models have the names of another module's models.
    PREFIX = {"mlflow.server.skill_registry_api": "SkillRegistry"}
    SCALARS = {str: "string", int: "int64", float: "double", bool: "bool", bytes: "bytes"}

    def __init__(self):
        self.objects, self.origins = {}, {}

    def type(self, hint, name=""):
        if hint in self.SCALARS:
            return "key" if hint is str and name == "key" else self.SCALARS[hint]
        if hint is typing.Any:
            return "any"
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.type(arguments[0], name)
        if origin is typing.Literal:
            assert all(isinstance(value, str) for value in arguments), hint
            return "string"
        if origin in (typing.Union, types.UnionType):
            members = [self.type(one, name) for one in arguments if one is not type(None)]
            members = list(dict.fromkeys(members))
            assert len(members) == 1 or not any(re.search(r"[^a-z0-9]", one) for one in members), hint
            return "|".join(members)
        if hint is dict or origin is dict:
            value = self.type(arguments[1]) if arguments else "any"
            return "{" + value + "}"
        if hint is list or origin is list:
            return f"[{self.type(arguments[0]) if arguments else 'any'}]"
        assert isinstance(hint, type), f"{name}: {hint} is not understood"
        if issubclass(hint, enum.Enum):
            assert all(isinstance(one.value, str) for one in hint), hint
            return "string"
        return self.object(hint)

    def object(self, kind):
        name = self.PREFIX.get(kind.__module__, "") + kind.__name__
        assert self.origins.setdefault(name, kind) is kind, f"two objects {name}"
        if name not in self.objects:
            fields = self.objects[name] = {}
            hints = typing.get_type_hints(kind)
            if hasattr(kind, "model_fields"):
                extra = kind.model_config.get("extra")
                for own, field in kind.model_fields.items():
                    made = self.type(hints[own], own)
                    alias = field.validation_alias or field.alias
                    assert alias is None or isinstance(alias, str), f"{name}.{own}: {alias}"
                    if alias:
                        fields[alias] = made
                    if not alias or kind.model_config.get("populate_by_name"):
                        fields[own] = made
                if extra == "allow":
                    fields["*"] = "any"
            else:
                assert dataclasses.is_dataclass(kind), f"{kind} is neither a pydantic model nor a dataclass"
                for field in dataclasses.fields(kind):
                    fields[field.name] = self.type(hints[field.name], field.name)
        return name


class Reads(ast.NodeVisitor):
    """Reads of the query or the body in one function: how, and under which keys."""

    def __init__(self, function, found):
        self.names, self.known = request_names(function), function.__globals__
        self.found, self.variables = found, set()

    def how(self, node):
        """The read that this expression is, or None."""
        if isinstance(node, ast.Await):
            return self.how(node.value)
        if isinstance(node, ast.IfExp):
            return self.how(node.body) or self.how(node.orelse)
        if isinstance(node, ast.BoolOp):
            return next(filter(None, map(self.how, node.values)), None)
        if isinstance(node, ast.Name):
            return "variable" if node.id in self.variables else None
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) in {f"{name}.url.query" for name in self.names}:
                return "request.url.query"
            of_request = isinstance(node.value, ast.Name) and node.value.id in self.names
            return f"request.{node.attr}" if of_request and node.attr in PARTS else None
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return node.func.id if node.func.id in READERS else None
            if isinstance(node.func, ast.Attribute):
                return self.how(node.func.value if node.func.attr in ("to_dict", "copy") else node.func)
        return None

    def visit_Assign(self, node):
        self.generic_visit(node)
        if self.how(node.value):
            for target in node.targets:
                several = target.elts if isinstance(target, ast.Tuple) else [target]
                self.variables.update(one.id for one in several if isinstance(one, ast.Name))

    def visit_NamedExpr(self, node):
        self.generic_visit(node)
        if self.how(node.value):
            self.variables.add(node.target.id)

    def visit_Attribute(self, node):
        how = self.how(node)
        if how:
            self.found["reads"].add(how)
        self.generic_visit(node)

    def visit_Call(self, node):
        how = self.how(node)
        if how and how != "variable":
            self.found["reads"].add(how)
        if isinstance(node.func, ast.Name) and node.func.id in MESSAGES and isinstance(node.args[0], ast.Call):
            self.found["messages"].add(self.known[node.args[0].func.id])
        by_key = isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "getlist", "pop")
        if by_key and self.how(node.func.value):
            self.key(node.args[0])
        for keyword in node.keywords:
            # `schema={"run_id": [...]}` names keys that a validator requires in the JSON itself.
            if keyword.arg == "schema" and isinstance(keyword.value, ast.Dict):
                for key in keyword.value.keys:
                    self.key(key)
        self.generic_visit(node)

    def visit_Subscript(self, node):
        if self.how(node.value):
            self.key(node.slice)
        self.generic_visit(node)

    def visit_Compare(self, node):
        if isinstance(node.ops[0], (ast.In, ast.NotIn)) and self.how(node.comparators[0]):
            self.key(node.left)
        self.generic_visit(node)

    def key(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.found["keys"].add(node.value)


def reads_of(function, found=None, seen=None):
    """What a handler, its decorators and the functions of mlflow.server that it calls read from the request."""
    found = {"reads": set(), "keys": set(), "messages": set()} if found is None else found
    seen = set() if seen is None else seen
    while function is not None:
        if function.__code__ not in seen:
            seen.add(function.__code__)
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            Reads(function, found).visit(tree)
            for called in called_by(tree, function):
                reads_of(called, found, seen)
        function = getattr(function, "__wrapped__", None)
    return found


def request_names(function):
    """Names under which this function has the request: Flask's global, or a parameter that FastAPI fills."""
    if function.__module__ in (handlers.__name__, "mlflow.server"):
        return {"request", "flask_request"}
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {one.name for one in parameters if getattr(one.annotation, "__name__", one.annotation) == "Request"}


def called_by(tree, function):
    for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
        called = function.__globals__.get(name)
        if name in READERS | PARSERS or not inspect.isfunction(called):
            continue
        if called.__module__.startswith("mlflow.server"):
            yield called


def flask_routes(protos):
    messages = {}
    for service in vars(handlers).values():
        if isinstance(service, type) and isinstance(getattr(service, "DESCRIPTOR", None), ServiceDescriptor):
            for path, message, methods in handlers.get_service_endpoints(service, lambda request: request):
                for method in methods:
                    messages.setdefault((method, path), message)
    for rule in app.url_map.iter_rules():
        function = app.view_functions[rule.endpoint]
        reads = reads_of(function)
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
            declared = messages.pop((method, rule.rule), None)
            parsed = reads["messages"] | ({declared} if declared else set())
            names = sorted(protos.message(message.DESCRIPTOR) for message in parsed)
            yield route(method, rule.rule, function, reads) | {"messages": names}
    assert not messages, f"endpoints of services without a route: {sorted(messages)}"


def route(method, path, function, reads):
    return {"method": method, "path": path, "handler": function.__name__, "reads": sorted(reads["reads"]),
            "keys": sorted(reads["keys"])}


def fastapi_routes(objects):
    try:
        from mlflow.server.fastapi_app import create_fastapi_app
    except ImportError:  # 2.x has none
        return
    for one in walk(create_fastapi_app().routes):
        if not hasattr(one, "dependant"):
            assert not one.path.startswith(("/api", "/ajax-api", "/gateway")), one.path
            continue
        query, body, reads = {}, [], reads_of(one.endpoint)
        for dependant in flat(one.dependant):
            for field in dependant.query_params:
                query[field.alias] = objects.type(field.field_info.annotation, field.name)
            body += [objects.type(field.field_info.annotation, field.name) for field in dependant.body_params]
        assert len(body) < 2, f"{one.path} has several body parameters: {body}"
        for method in sorted(one.methods):
            yield route(method, one.path, one.endpoint, reads) | {"query": query, "body": body[0] if body else None}


def flat(dependant):
    yield dependant
    for inner in dependant.dependencies:
        yield from flat(inner)


def walk(routes):
    for one in routes:
        if getattr(one, "methods", None):
            yield one
        elif hasattr(one, "effective_route_contexts"):
            # Newer FastAPI keeps a router that was included as one entry.
            yield from one.effective_route_contexts()


def trace_export(protos):
    try:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    except ImportError:  # 2.x takes no OTLP
        return
    protos.message(ExportTraceServiceRequest.DESCRIPTOR)


protos, objects = Protos(), Objects()
routes = [*flask_routes(protos), *fastapi_routes(objects)]
trace_export(protos)
json.dump({"version": VERSION, "routes": routes, "messages": protos.messages, "enums": protos.enums,
           "objects": objects.objects}, sys.stdout)
