"""Merges the request fields of all known MLflow releases into src/mlflow/requests.toml.

scripts/request-schema runs this. Facts that MLflow's descriptors do not contain are in request_fields.py.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import request_fields as hand
from harness import ROOT, plain_environment
from known_routes import Path, Table, samples
from test_coverage import python_of

REQUESTS = ROOT / "src/mlflow/requests.toml"
# Values of `send` in routes.toml whose bodies the proxy does not rebuild from fields.
NO_BODY = {"stream", "otlp", "graphql"}
# Operations that the proxy handles by rules of their own, and the message of the second one.
OWN_RULES = {"GraphQl", "ExportTraces"}
# Fields that a handler takes from the path, whatever the body contains.
PATH_FIELDS = {"request_id", "trace_id"}
OTLP_ROOT = "otlp.ExportTraceServiceRequest"
SCALARS = {
    "string", "key", "int32", "int64", "uint32", "uint64", "float", "double", "bool", "bytes", "any", "json", "null",
    "struct", "value", "list", "timestamp", "duration", "fieldmask",
}

HEAD = """\
# Fields of every MLflow request: the members of each JSON body and query that MLflow reads.
#
# Made by scripts/request-schema from MLflow {releases}.
# Do not edit by hand: facts that MLflow's descriptors do not contain are in tests/e2e/request_fields.py.
#
#   enum       values of a protobuf enum by name. Names here are without the leading package `mlflow.`; OTLP's begin
#              with `otlp.`.
#   message    fields of a protobuf message, in snake_case; MLflow accepts the lowerCamelCase twin of each as well.
#   object     members of a plain JSON object; `*` is the type of all others, where MLflow accepts others.
#   operation  what an operation of routes.toml reads: `query` and `body` name a message or an object. None: no field.
#
# Types: string, key (a string that is the key of a tag, a parameter or a metric), int32, int64, uint32, uint64, float,
# double, bool, bytes, `enum NAME`, NAME (a message or an object), [T] a list, {{T}} a map from strings, struct, value,
# list, timestamp, duration and fieldmask (of google.protobuf), any (free JSON), json (a string whose text MLflow parses
# as JSON), `A|B` (either of these scalars). `T @NAME`: one member of the oneof NAME.
#
# A comment after a field is the first release that has it, if others have its message without it. `X to Y`, `only X`:
# later releases have the message without it.
"""


class Problem(Exception):
    """The releases cannot be merged; the message says what has to be decided by hand."""


@dataclass
class Release:
    """Request fields of one release, under the operations of routes.toml."""

    version: str
    operations: dict = field(default_factory=dict)  # name -> Operation
    messages: dict = field(default_factory=dict)
    enums: dict = field(default_factory=dict)
    objects: dict = field(default_factory=dict)


@dataclass
class Operation:
    """What one operation reads in one release."""

    query: dict = field(default_factory=dict)  # parameters of FastAPI
    query_types: set = field(default_factory=set)  # messages
    body_types: set = field(default_factory=set)
    reads: set = field(default_factory=set)
    keys: set = field(default_factory=set)
    methods: set = field(default_factory=set)


class Rows(Table):
    """The route table with the operation of each method and path."""

    def __init__(self):
        super().__init__()
        self.rows = tomllib.loads((ROOT / "src/mlflow/routes.toml").read_text())["operation"]
        self.names, self.sends = {}, {}
        for row in self.rows:
            methods, path = row["route"].split(" ")
            twins = [path, "/ajax-api" + path.removeprefix("/api")] if path.startswith("/api/") else [path]
            for method in methods.split(","):
                send = row.get("send", "query" if method in ("GET", "HEAD") else "json")
                self.sends.setdefault(row["name"], set()).add(send)
                for twin in twins:
                    self.names[method, Path(twin).pattern] = row["name"]

    def operations(self, method, path):
        """Names of the operations that this route of MLflow is; None for one that the proxy answers itself."""
        names = set()
        for sample in samples(path):
            if self.owns(sample):
                return None
            found = next((known for known in self.paths if known.regex.fullmatch(sample)), None)
            names.add(self.names.get((method, found.pattern)) if found else None)
        return names - {None}


def schema_of(python, folder):
    """Output of schema_of.py in the environment of this interpreter."""
    done = subprocess.run(
        [python, "-W", "ignore", ROOT / "tests/e2e/schema_of.py"], capture_output=True, text=True, timeout=180,
        cwd=folder, env=plain_environment(), stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def read(answer, rows):
    """One release out of the output of schema_of.py."""
    release = Release(answer["version"], messages=answer["messages"], enums=answer["enums"], objects=answer["objects"])
    problems, unrouted = [], set()
    for route in answer["routes"]:
        method, path = route["method"], route["path"]
        names = rows.operations(method, path)
        if names is None:
            continue
        if not names:
            folder = next((one for one in hand.UNROUTED.get(release.version, []) if inside(path, one)), None)
            unrouted.add(folder)
            if folder is None:
                problems.append(f"{method} {path} has no row in routes.toml")
        for name in names:
            operation = release.operations.setdefault(name, Operation())
            operation.reads.update(route["reads"])
            operation.keys.update(route["keys"])
            operation.methods.add(method)
            operation.query.update(route.get("query", {}))
            if route.get("body"):
                operation.body_types.add(route["body"])
            (operation.query_types if method == "GET" else operation.body_types).update(route.get("messages", []))
    for folder in set(hand.UNROUTED.get(release.version, [])) - unrouted:
        problems.append(f"every route in {folder} has a row; remove it from request_fields.UNROUTED")
    for name, operation in release.operations.items():
        if operation.reads and name not in hand.RAW:
            reads = ", ".join(sorted(operation.reads))
            problems.append(f"{name}: the handler reads {reads}; it needs an entry in request_fields.RAW")
    for name, fields in release.messages.items():
        for one in fields:
            if f"{name}.{one}" in hand.JSON_TEXT:
                fields[one] = fields[one].replace("string", "json")
    if problems:
        raise Problem(f"MLflow {release.version}:\n" + "\n".join(sorted(set(problems))))
    return release


def inside(path, folder):
    rest = re.sub(r"^/(ajax-)?api/3\.0", "", path)
    return rest == folder or rest.startswith(f"{folder}/")


@dataclass
class Schema:
    """The merged schema, as it is written to requests.toml."""

    enums: dict = field(default_factory=dict)
    messages: dict = field(default_factory=dict)
    objects: dict = field(default_factory=dict)
    operations: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)  # (type, field) -> comment


def merge(releases, rows, whole=True):
    """The schema of these releases together, oldest first. `whole`: they are all, so nothing may be left over."""
    schema, problems = Schema(), []
    for kind in ("messages", "objects", "enums"):
        for name in sorted({name for release in releases for name in getattr(release, kind)}):
            having = [release for release in releases if name in getattr(release, kind)]
            getattr(schema, kind)[name] = merged(kind, name, having, schema.notes, problems)
    schema.objects.update(hand.OBJECTS)
    for name in sorted({row["name"] for row in rows.rows} - OWN_RULES):
        having = [release.operations[name] for release in releases if name in release.operations]
        if not having and not whole:
            continue
        if not having and name not in hand.UNLISTED:
            problems.append(f"{name}: no release has this operation")
        if having and name in hand.UNLISTED:
            problems.append(f"{name} is listed after all; remove it from request_fields.UNLISTED")
        schema.operations[name] = operation(name, having, rows.sends[name], schema, problems)
    if whole:
        problems += stale(releases, schema)
        for release in releases:
            problems += unknown_keys(release, schema.operations, schema.messages | schema.objects)
    both = set(schema.messages) & set(schema.objects)
    problems += [f"{name} is a message and an object" for name in sorted(both)]
    if problems:
        raise Problem("\n".join(problems))
    keep_reachable(schema)
    return schema


def merged(kind, name, having, notes, problems):
    """The union of the fields of one message, object or enum over the releases that have it."""
    fields = {}
    for one in sorted({one for release in having for one in getattr(release, kind)[name]}):
        found = {release.version: getattr(release, kind)[name][one] for release in having
                 if one in getattr(release, kind)[name]}
        full = f"{name}.{one}"
        if len(set(found.values())) == 1:
            fields[one] = next(iter(found.values()))
        elif full in hand.CONFLICTS:
            fields[one] = hand.CONFLICTS[full][0]
        else:
            problems.append(f"{full} differs: {found}; decide in request_fields.CONFLICTS")
        versions, all_versions = list(found), [release.version for release in having]
        if versions[-1] != all_versions[-1]:
            notes[name, one] = f"{versions[0]} to {versions[-1]}" if len(versions) > 1 else f"only {versions[0]}"
        elif versions[0] != all_versions[0]:
            notes[name, one] = versions[0]
    return fields


def operation(name, having, sends, schema, problems):
    """The `query` and `body` of one operation."""
    raw = hand.RAW.get(name, hand.Raw(""))
    made = {}
    parameters = {}
    for key, kind in (entry for one in having for entry in one.query.items()):
        if parameters.setdefault(key, kind) != kind:
            problems.append(f"{name}: the query parameter {key} is {kind} or {parameters[key]}")
    query_types = {kind for one in having for kind in one.query_types}
    body_types = {kind for one in having for kind in one.body_types}
    for place, types, extra in (("query", query_types, parameters | raw.query), ("body", body_types, raw.body)):
        if name in hand.MESSAGE and types:
            chosen = hand.MESSAGE[name][0]
            for other in types - {chosen}:
                missing = set(schema.messages[other]) - set(schema.messages[chosen]) - PATH_FIELDS
                problems += [f"{name}: {other}.{one} is not in {chosen}" for one in sorted(missing)]
            types = {chosen}
        if len(types) > 1:
            problems.append(f"{name}: the {place} is one of {sorted(types)}; decide in request_fields.MESSAGE")
            continue
        known = {} if not types else (schema.messages | schema.objects)[next(iter(types))]
        if place == "body" and sends & NO_BODY:
            assert not extra, f"{name}: the body passes through unread"
        elif extra:
            made[place] = f"{name}{place.title()}"
            plain = {key: re.sub(r" @\w+$", "", kind) for key, kind in known.items()}
            schema.objects[made[place]] = dict(sorted((plain | extra).items()))
        elif types:
            made[place] = next(iter(types))
    return made


def unknown_keys(release, operations, types):
    """Keys that handlers of this release read and that are no field of their operation, one line each."""
    for name, operation in sorted(release.operations.items()):
        made = operations.get(name, {}) if name not in OWN_RULES else None
        known = {"*"} if made is None else {key for kind in made.values() for key in types[kind]}
        for key in sorted(operation.keys - known - hand.RAW.get(name, hand.Raw("")).unsent):
            if "*" not in known:
                yield f"{name}: its handler in MLflow {release.version} reads `{key}`, which is no field of it"


def stale(releases, schema):
    """Hand-written entries that no release needs."""
    everything = schema.messages | schema.objects
    for full in [*hand.JSON_TEXT, *hand.CONFLICTS]:
        name, one = full.rsplit(".", 1)
        if one not in everything.get(name, {}):
            yield f"request_fields names {full}, which no release has"
    for name in hand.RAW:
        if not any(name in release.operations and release.operations[name].reads for release in releases):
            if name not in hand.UNLISTED:
                yield f"request_fields.RAW has {name}, whose handler reads nothing but its message"
    for name in hand.MESSAGE:
        types = [release.operations[name].query_types | release.operations[name].body_types for release in releases
                 if name in release.operations]
        if all(len(one) < 2 for one in types):
            yield f"request_fields.MESSAGE has {name}, which has one message"


def below(name, everything, seen=None):
    """This message or object and every one that its fields refer to."""
    seen = set() if seen is None else seen
    if name not in seen and name in everything:
        seen.add(name)
        for kind in everything[name].values():
            below(named(kind), everything, seen)
    return seen


def named(kind):
    """The message, object or enum that a type refers to, or None."""
    kind = re.sub(r" @\w+$", "", kind).strip("[]{}")
    return None if all(one in SCALARS for one in kind.split("|")) else kind


def keep_reachable(schema):
    """Drops what no operation refers to, and checks that everything that is referred to exists."""
    everything = schema.messages | schema.objects
    wanted, reached = [kind for made in schema.operations.values() for kind in made.values()], set()
    wanted += [OTLP_ROOT] if OTLP_ROOT in everything else []
    while wanted:
        name = wanted.pop()
        if name in reached:
            continue
        reached.add(name)
        if name.startswith("enum "):
            assert name.removeprefix("enum ") in schema.enums, name
            continue
        assert name in everything, f"{name} is not defined"
        wanted += filter(None, map(named, everything[name].values()))
    schema.messages = {name: fields for name, fields in schema.messages.items() if name in reached}
    schema.objects = {name: fields for name, fields in schema.objects.items() if name in reached}
    schema.enums = {name: values for name, values in schema.enums.items() if f"enum {name}" in reached}


def render(schema, versions):
    """The text of requests.toml."""
    lines = [HEAD.format(releases=", ".join(versions))]
    for title, tables in (("enum", schema.enums), ("message", schema.messages), ("object", schema.objects),
                          ("operation", schema.operations)):
        for name, fields in sorted(tables.items()):
            lines.append(f"[{title}.{quoted(name)}]")
            order = list(fields.items()) if title == "operation" else sorted(fields.items())
            for key, value in order:
                note = f"  # {schema.notes[name, key]}" if (name, key) in schema.notes else ""
                lines.append(f"{quoted(key)} = {json.dumps(value)}{note}")
            lines.append("")
    return "\n".join(lines)


def quoted(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def missing(release, committed, rows):
    """Fields of this release that the committed table lacks, one line each with the operations that use them."""
    everything = committed.get("message", {}) | committed.get("object", {})
    users = {}
    for name, made in committed["operation"].items():
        for kind in made.values():
            for reached in below(kind, everything):
                users.setdefault(reached, []).append(name)
    alone = merge([release], rows, whole=False)
    for name, made in sorted(alone.operations.items()):
        have = committed["operation"].get(name)
        if have is None:
            yield f"{name}: no table [operation.{name}]"
            continue
        yield from (f"{name}: no {place}; it is {kind}" for place, kind in made.items() if place not in have)
    for name, fields in sorted((alone.messages | alone.objects).items()):
        by = ", ".join(users.get(name, [])) or "no operation"
        for key, kind in sorted(fields.items()):
            found = everything.get(name, {}).get(key)
            if found is None:
                yield f"{by}: {name}.{key} ({kind}) is missing"
            elif found != kind and f"{name}.{key}" not in hand.CONFLICTS:
                yield f"{by}: {name}.{key} is {kind}, not {found}"
    yield from unknown_keys(release, committed["operation"], everything)
    for name, values in sorted(alone.enums.items()):
        for key, value in values.items():
            if committed["enum"].get(name, {}).get(key) != value:
                yield f"enum {name}: {key} = {value} is missing"


def generate():
    """The text of requests.toml, made from the environments of all releases."""
    rows = Rows()

    def one(version):
        with tempfile.TemporaryDirectory() as folder:
            return read(schema_of(python_of(version), folder), rows)

    with ThreadPoolExecutor(4) as pool:
        releases = list(pool.map(one, hand.RELEASES))
    assert [release.version for release in releases] == hand.RELEASES
    return render(merge(releases, rows), hand.RELEASES)


def main():
    try:
        text = generate()
    except Problem as problem:
        sys.exit(str(problem))
    REQUESTS.write_text(text)


if __name__ == "__main__":
    main()
