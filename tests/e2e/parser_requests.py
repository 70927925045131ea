"""Generated requests of every operation for parsers.py: valid ones, drawn from requests.toml, and changes to them.

Everything follows from a seed and a number. The changes are such that one parser could read them and another not: keys
that are almost the name of a field, the same field twice, values that are almost of the field's type, text that is
almost JSON.
"""

import base64
import gzip
import json
import random
import re
import string
import tomllib
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from urllib.parse import quote

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from generated import Pairs, Raw, camel, escaped, tree
from harness import ROOT

MINE, THEIRS = ["1", "2", "30"], ["7", "8", "90"]
EXPERIMENTS = MINE + THEIRS
OTLP = "otlp.ExportTraceServiceRequest"


def hexes(letter, length, count=4):
    return [f"{letter}{number}" * (length // 2) for number in range(count)]


POOLS = {
    "experiment": EXPERIMENTS, "run": hexes("a", 32), "trace": [*MINE, *(f"tr-{one}" for one in hexes("b", 32))],
    "model": [f"m-{one}" for one in hexes("c", 32)], "id": [f"d-{one}" for one in hexes("d", 16)],
    "name": ["one", "two words", "drei-ä", "x/y", "[]", "a[]b", "a+b&c=d;e%2", "100", "None", "\U0001f600"],
    "key": ["k", "a.b", "mlflow.user", "mlflow.User ", "mlflow.auth.username", "mlflow.note.content", "ключ"],
    "path": ["model", "a/b.txt", "x y.txt", "ä.txt"],
}
WORDS = ["", "v", "some text", "zwei\nZeilen", "a\tb", "\"quoted\"", "back\\slash", "\u2028", "€", "\x7f", "null",
         "true", "0", "-1", "1e3",
         "[1]", "{}", "a=b&c", "%41", "%5B%5D", "[]", "é", "tr-1", "x" * 300]
NUMBERS = [0, 1, -1, 7, 2**31 - 1, -2**31, 12345]
LONG = [*NUMBERS, 2**31, 2**53 + 1, 2**63 - 1, -2**63]
DOUBLES = [0.0, 1.5, -0.0, 1e-7, 1e300, 3, 0.1, 123456789.123456789]


@dataclass
class Row:
    """One operation of routes.toml, as the generator and the workers use it."""

    index: int
    name: str
    methods: list
    path: str
    send: str
    needs: list
    narrow: dict | None
    author: str | None
    query: str | None = None
    body: str | None = None
    required: dict = field(default_factory=dict)  # type name -> fields

    @property
    def twins(self):
        twin = ["/ajax-api" + self.path.removeprefix("/api")] if self.path.startswith("/api/") else []
        return [self.path, *twin]

    def for_worker(self):
        return {"name": self.name, "method": self.methods[0], "sample": self.sample(), "needs": self.needs,
                "narrow": self.narrow, "author": self.author}

    def sample(self):
        return re.sub(r"\{(\*?)([a-z_]+)\}", lambda match: "1/a/b" if match.group(1) else "one", self.path)


def narrow_of(text):
    """The list that `THING SOURCE.FIELD` names."""
    source, _, name = text.split(" ")[1].partition(".")
    return {"source": source, "steps": steps_of(name + "[]")}


def rows(schema):
    made = []
    for entry in tomllib.loads((ROOT / "src/mlflow/routes.toml").read_text())["operation"]:
        methods, path = entry["route"].split(" ")
        methods = methods.split(",")
        send = entry.get("send", "query" if methods[0] in ("GET", "HEAD") else "json")
        narrow = narrow_of(entry["narrow"]) if "narrow" in entry else None
        row = Row(len(made), entry["name"], methods, path, send, list(filter(None, map(need_of, entry["needs"]))),
                  narrow, entry.get("author"))
        places = schema.operations.get(row.name, {})
        row.query, row.body = places.get("query"), places.get("body") if send == "json" else None
        for need in [*row.needs, *([narrow | {"with": None}] if narrow else [])]:
            kind = getattr(row, need["source"]) if need["source"] in ("query", "body") else None
            for step in need["steps"]:
                fields = schema.types.get(kind, {})
                wanted = row.required.setdefault(kind, set())
                wanted.add(step["names"][0])
                if need["with"]:
                    wanted.add(need["with"])
                kind = named(fields.get(step["names"][0], ""))
        made.append(row)
    return made


def need_of(text):
    words = text.split(" ")
    if len(words) != 3 or words[0] == "TIER":
        return None
    source, where = words[2].rstrip("?").split(".", 1)
    where, _, beside = where.partition("+")
    thing = "".join(word.title() for word in words[1].split("-"))
    return {"thing": thing, "source": source, "steps": steps_of(where), "with": beside or None,
            "optional": words[2].endswith("?")}


def steps_of(text):
    return [{"names": step.removesuffix("[]").split("|"), "each": step.endswith("[]")} for step in text.split(".")]


def named(kind):
    return re.sub(r" @\w+$", "", kind).strip("[]{}")


class Schema:
    """requests.toml, and values that fit its types."""

    def __init__(self):
        table = tomllib.loads((ROOT / "src/mlflow/requests.toml").read_text())
        self.enums, self.operations = table["enum"], table["operation"]
        self.types = table["message"] | table["object"]
        self.edges, self.camel = True, False
        self.names = sorted({name for fields in self.types.values() for name in fields if name != "*"})

    def message(self, name, rng, required, depth=0):
        """Makes a valid object of this type; `required` maps type names to fields that must be there."""
        made, groups = {}, set()
        forced = required.get(name, ()) or ALWAYS.get(name, ())
        likely = 0.7 if depth < 2 else 0.45
        fields = self.types[name].items()
        for one, kind in sorted(fields, key=lambda item: item[0] not in forced) if forced else fields:
            kind, _, group = kind.partition(" @")
            if one not in forced and rng.random() > likely or group in groups:
                continue
            if group:
                groups.add(group)
            if one == "*":
                made[rng.choice(["extra", "messages", "input", "temperature"])] = free(rng, 0)
                continue
            key = camel(one) if self.camel else one
            value = self.value(kind, one, rng, required, depth)
            if value is not None:
                made[key] = value
        if "run_uuid" in made and "run_id" in made and rng.random() < 0.9:
            made["run_uuid"] = made["run_id"]
        return made

    def stray(self, kind, node):
        """Returns a complaint about a key in a sent body that is no field of its message or object, or None."""
        if isinstance(node, list):
            return next(filter(None, (self.stray(kind, one) for one in node)), None)
        if isinstance(node, dict):
            fields = self.types[kind]
            for key, value in node.items():
                known = fields.get(key) or fields.get("*")
                if known is None:
                    return f"the key {key!r} of {kind} was sent"
                inner = named(known)
                if inner in self.types and isinstance(value, dict | list):
                    if "{" in known:
                        value = list(value.values()) if isinstance(value, dict) else value
                    if found := self.stray(inner, value):
                        return found
        return None

    def value(self, kind, name, rng, required, depth):
        if kind[0] == "[":
            count = rng.choice((1, 1, 1, 2, 2, 3)) if depth < 4 else rng.choice((0, 0, 1))
            made = [self.value(kind[1:-1], name, rng, required, depth + 1) for _ in range(count)]
            return [one for one in made if one is not None or "null" in kind]
        if kind[0] == "{":
            return {rng.choice(POOLS["key"] + WORDS[1:8]).strip("\n\t\x7f").replace("\n", "").replace("\t", ""):
                    self.value(kind[1:-1], "", rng, required, depth + 1) for _ in range(rng.choice((0, 1, 2)))}
        if kind in self.types:
            return self.message(kind, rng, required, depth + 1) if depth < 7 else None
        return self.scalar(kind, name, rng)

    def scalar(self, kind, name, rng):
        if self.edges and kind in EDGES and rng.random() < 0.06:
            return rng.choice(EDGES[kind])
        if kind == "string":
            return text_for(name, rng)
        if kind == "key":
            return rng.choice(POOLS["key"])
        if kind.startswith("enum "):
            return rng.choice(list(self.enums[kind[5:]]))
        if kind == "bytes" and self.camel and name.endswith("_id"):  # OTLP's JSON has ids in hex
            return rng.randbytes(SIZES[name]).hex()
        if "|" in kind:
            return self.scalar(rng.choice(kind.split("|")), name, rng)
        return SCALARS[kind](rng, name)


# Fields without which pydantic refuses an object.
ALWAYS = {
    "CreateMCPServerVersionRequest": {"server_json"}, "ServerJSONPayload": {"name", "version"},
    "ServerJSONPackagePayload": {"registryType", "identifier", "transport"},
    "ServerJSONEnvironmentVariablePayload": {"name"}, "ServerJSONRemotePayload": {"type"},
    "MCPToolRequestPayload": {"name"}, "MCPIconRequestPayload": {"src"},
    "SessionPatchRequest": {"status"}, "PermissionDecision": {"request_id", "decision"},
    "ClientToolResult": {"request_id", "content"},
}


def text_for(name, rng):
    if name in TEXTS:
        return rng.choice(TEXTS[name])
    for end, pool in ENDS:
        if name.endswith(end):
            return rng.choice(POOLS[pool])
    return rng.choice(WORDS)


ENDS = [
    ("experiment_id", "experiment"), ("experiment_ids", "experiment"), ("run_id", "run"), ("run_uuid", "run"),
    ("run_ids", "run"), ("trace_id", "trace"), ("trace_ids", "trace"), ("request_id", "trace"),
    ("request_ids", "trace"), ("item_ids", "trace"), ("model_id", "model"), ("_id", "id"), ("_ids", "id"),
    ("name", "name"), ("model", "name"), ("path", "path"),
]
TEXTS = {
    "source_prompt_uri": ["prompts:/one/1", "prompts:/one@latest"],
    "source": ["models:/one/1", "mlflow-artifacts:/1/x/artifacts/model", "dummy-source", "s3://bucket/x"],
    "artifact_location": ["mlflow-artifacts:/x", "s3://bucket/x", ""], "version": ["1", "2", "10"],
    "src": ["https://example.com/icon.png"], "url": ["https://example.com/mcp"], "websiteUrl": ["https://example.com"],
    "name": POOLS["name"], "user_id": ["ada", "eve", ""], "created_by": ["eve", ""], "completed_by": ["eve"],
    "source_id": ["eve", "ada", "judge"], "status": ["pending", "running", "ACTIVE", "done", "cancelled"],
    "decision": ["allow", "deny"], "type": ["url", "string", "global"],
}


def free(rng, depth):
    """Makes JSON of any shape."""
    choice = rng.random()
    if depth < 3 and choice < 0.2:
        return [free(rng, depth + 1) for _ in range(rng.choice((0, 1, 2)))]
    if depth < 3 and choice < 0.45:
        return {rng.choice(("a", "experiment_id", "run_id", "experimentId", "b c", "ö")): free(rng, depth + 1)
                for _ in range(rng.choice((0, 1, 2)))}
    return rng.choice((None, True, False, 0, 1, -7, 1.5, 1e20, "", "x", "5", "1", "null", "text", 10**18))


def json_text(rng, name):
    if name == "records":
        return json.dumps([{"inputs": {"q": free(rng, 1)}, "tags": {"mlflow.user": "eve"}}
                           for _ in range(rng.choice((0, 1, 2)))])
    if name == "tags":
        return json.dumps({rng.choice(POOLS["key"]): "v" for _ in range(rng.choice((0, 1, 2)))})
    return json.dumps(free(rng, 0) if rng.random() < 0.3 else {"a": free(rng, 1)})


def timestamp(rng, _):
    day = f"{rng.choice((1, 1969, 1970, 2025, 9999)):04d}-0{rng.randint(1, 9)}-{rng.randint(10, 28)}"
    fraction = rng.choice(("", ".5", ".123456789", ".000001", ".120"))
    clock = f"{rng.randint(10, 23)}:{rng.randint(10, 59)}:{rng.randint(10, 59)}"
    return f"{day}T{clock}{fraction}{rng.choice(('Z', 'Z', '+02:00', '-11:30'))}"


SCALARS = {
    "int32": lambda rng, _: rng.choice(NUMBERS) if rng.random() < 0.8 else str(rng.choice(NUMBERS)),
    "int64": lambda rng, _: rng.choice(LONG) if rng.random() < 0.7 else str(rng.choice(LONG)),
    "uint32": lambda rng, _: rng.choice((0, 1, 2**32 - 1)),
    "uint64": lambda rng, _: rng.choice((0, "1", 2**64 - 1, str(2**63))),
    "double": lambda rng, _: rng.choice(DOUBLES) if rng.random() < 0.9 else rng.choice(("NaN", "Infinity", "1.5")),
    "float": lambda rng, _: rng.choice((0, 0.5, 1.25, 50, 0.1)),
    "bool": lambda rng, _: rng.random() < 0.5,
    "bytes": lambda rng, name: base64.b64encode(rng.randbytes(SIZES.get(name) or rng.choice((0, 1, 3)))).decode(),
    "struct": lambda rng, _: {"a": free(rng, 0)},
    "value": lambda rng, _: free(rng, 0),
    "list": lambda rng, _: [free(rng, 0)],
    "timestamp": timestamp,
    "duration": lambda rng, _: rng.choice(("0s", "1s", "1.5s", "0.000001s", "-3.250s", "1.123456789s", "-0.5s")),
    "fieldmask": lambda rng, _: rng.choice(("rationale", "source,rationale", "assessmentName", "error.errorCode", "")),
    "null": lambda rng, _: None,
    "any": lambda rng, _: free(rng, 0),
    "json": json_text,
}
# Lengths of the ids of spans.
SIZES = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}

# Values at the border of what a type can hold.
EDGES = {
    "fieldmask": ["a_b", "aB,a_b", "A", "a,,b", "ä", "a b", "_", "a.b_c", "a.b,C.d", ",", ".", "aBC", "a1B", "aB2c,D",
                  "a.B", "A.b", " a", "a,"],
    "float": [3.4028234e38, Raw("3.4028235e38"), Raw("3.40282357e38"), Raw("3.5e38"), 1e39, -1e39, Raw("1e-46"),
              "1e39", "NaN", "Infinity", "-Infinity", "1.5"],
    "double": [Raw("1.7976931348623157e308"), Raw("1.7976931348623159e308"), Raw("1e309"), Raw("5e-324"),
               Raw("1e-400"), "1e400", "1.5e1", Raw("1E+2"), Raw("-0"),
               Raw("0." + "1" * 400), Raw("1" * 309), Raw("1" * 300)],
    "int32": [2**31, -2**31 - 1, Raw("1.0"), Raw("-0"), "-0", Raw("2147483647.0"), "2147483648", Raw("1e2"), "007",
              "1.0"],
    "int64": [2**63, -2**63 - 1, Raw("1.0"), Raw("-0"), Raw("9223372036854775807.0"), "9223372036854775808",
              Raw("-9223372036854775808.0"), Raw("9007199254740993.0"), Raw("1e18")],
    "uint32": [-1, 2**32, Raw("4294967295.0"), "-0"],
    "uint64": [-1, 2**64, "18446744073709551616", Raw("18446744073709551615.0")],
    "timestamp": ["0001-01-01T00:00:00Z", "0000-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z",
                  "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00",
                  "2016-12-31T23:59:60Z", "2025-02-29T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01t00:00:00z",
                  "2025-01-01T00:00:00.Z", "2025-01-01T00:00:00",
                  "2025-01-01 00:00:00Z", "2025-01-01T00:00:00+0100", "2025-01-01T00:00:00.1234567890Z",
                  "2025-01-01T00:00:00-00:00", "2025-01-01T00:00:00+24:00",
                  "2025-01-01T00:00:00+23:59", "2025-01-01T00:00Z", "12025-01-01T00:00:00Z", "2025-1-1T0:0:0Z",
                  "2025-01-01T00:00:00+05:99", "\u0662025-01-01T00:00:00Z"],
    "duration": ["315576000000s", "-315576000000s", "315576000001s", "315576000000.999999999s", "-0s", "-0.000000001s",
                 ".5s", "1.s", "1", "1S", "+1s", "1.5", "1e3s", "01s", " 1s", "1 s",
                 "1.1234567890s", "-1.-5s", "1m", "\u0661s", "-315576000000.5s"],
    "bytes": ["A", "AB", "AB=", "AB==", "ABC", "ABC=", "A===", "AB=C", "-_-_", "+/+/", "-/+_", "====", "AB==AB==",
              "QQ", "QR=="],
    "bool": [0, 1, "true", "false", "True", None],
    "json": ["", " ", "null", "{", "{}", "[]", "1", '{"a":1,"a":2}', '{"mlflow.user":"eve","mlflow.user":"eve"}',
             '{"mlflow.us\\u0065r":"eve"}', '{"a\\u0000":1}', "NaN", '{"a":NaN}',
             '{"a":"\\ud800"}', '\ufeff{}', ' {"a":1} ', '{"a":1}x', '"{}"', "[" * 70 + "]" * 70,
             '{"a":' + "1" * 4400 + "}", '[{"tags":{"mlflow.user":"eve"}}]', '[{"tags":null}]',
             '[{"tags":[]}]', "[[]]", "[null]"],
}


# ---- one request

@dataclass
class Draft:
    """A request that is still being changed."""

    row: Row
    method: str
    path: str
    params: dict
    query: list = field(default_factory=list)  # pairs of encoded text
    body: object = None  # a tree, bytes, or nothing
    headers: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)

    def content(self):
        if self.body is None or isinstance(self.body, bytes):
            return self.body or b""
        return dump(self.body).encode(errors="surrogatepass")

    def line(self):
        """Returns the request as a line for the test program rebuild.rs."""
        query = "&".join(key if value is None else f"{key}={value}" for key, value in self.query)
        line = {"method": self.method, "path": self.path, "query": query, "headers": self.headers,
                "body": base64.b64encode(self.content()).decode()}
        return json.dumps(line).encode() + b"\n"


def dump(value):
    """Writes a tree as JSON; `Raw` stands as it is, and `Pairs` may repeat keys."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, Pairs):
        return "{" + ",".join([f"{dump(key)}:{dump(one)}" for key, one in value]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


class Requests:
    """All requests of a seed."""

    def __init__(self, seed):
        self.seed, self.schema = seed, Schema()
        self.rows = rows(self.schema)
        spans = next(row for row in self.rows if row.send == "otlp")
        # Operations without fields have nothing to change; OTLP has more than one encoding.
        weight = {row.index: 10 if row.query or row.body else 1 for row in self.rows} | {spans.index: 60}
        self.turns = [row for row in self.rows if row.send != "graphql" for _ in range(weight[row.index])]
        random.Random("turns").shuffle(self.turns)

    def draw(self, number):
        rng = random.Random(f"{self.seed}:{number}")
        row = self.turns[(number * 7919) % len(self.turns)]
        draft = self.valid(row, rng)
        wanted = rng.choices((0, 1, 2, 3, 4), (15, 36, 26, 14, 9))[0]
        if wanted and row.send == "otlp" and isinstance(draft.body, bytes):
            for _ in range(wanted):
                draft.changes.append(change_wire(draft, rng))
        elif wanted:
            if isinstance(draft.body, dict):
                draft.body = tree(draft.body)
            for _ in range(wanted * 3):
                if len(draft.changes) >= wanted:
                    break
                # Most operations have either a query or a body.
                in_body = draft.body is not None and (not draft.query or rng.random() < 0.85)
                table, weights = BODY_CHANGES if in_body else QUERY_CHANGES
                change = rng.choices(table, cum_weights=weights)[0]
                if change(draft, rng, self.schema):
                    draft.changes.append(change.__name__)
        elif isinstance(draft.body, dict):
            draft.body = dump(tree(draft.body)).encode(errors="surrogatepass")
        if row.send == "otlp" and rng.random() < 0.1:
            draft.body, draft.headers["content-encoding"] = gzip.compress(draft.content(), 1), "gzip"
        return draft

    def valid(self, row, rng):
        path, params = row.path if rng.random() < 0.5 else row.twins[-1], {}

        def fill(match):
            name = match.group(2)
            if match.group(1):
                value = f"{rng.choice(EXPERIMENTS)}/{rng.choice(POOLS['run'])}/artifacts/{rng.choice(POOLS['path'])}"
            else:
                of_server = name in ("namespace", "slug", "version", "alias")
                value = rng.choice(("space", "server", "1.0")) if of_server else text_for(name, rng)
                value = value.replace("/", "-") or "x"
            params[name] = value
            return quote(value, safe="/")

        path = re.sub(r"\{(\*?)([a-z_]+)\}", fill, path)
        draft = Draft(row, rng.choice(row.methods), path, params)
        if row.send == "otlp":
            self.spans(draft, rng)
            return draft
        if row.query:
            given = self.schema.message(row.query, rng, row.required)
            for key, value in given.items():
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, dict | list) and one is not None:
                        one = rng.choice(("true", "false", "True")) if isinstance(one, bool) else str(one)
                        draft.query.append([key, quote(one, safe="")])
            if row.name == "ProxyListArtifacts":
                draft.query = [["path", f"{rng.choice(EXPERIMENTS)}/x"]]
        if row.send == "json" and (row.body or draft.method != "GET"):
            draft.body = self.schema.message(row.body, rng, row.required) if row.body else {}
            # A parameter of the path that stands in the body too must have the same value.
            for name in params.keys() & draft.body.keys():
                if rng.random() < 0.5:
                    draft.body[name] = params[name]
                else:
                    del draft.body[name]
        return draft

    def spans(self, draft, rng):
        is_json = rng.random() < 0.5
        self.schema.edges, self.schema.camel = is_json, True  # protobuf's wire has edges of its own
        export = self.schema.message(OTLP, rng, {
            OTLP: ["resource_spans"], "otlp.ResourceSpans": ["scope_spans"], "otlp.ScopeSpans": ["spans"],
            "otlp.Span": ["trace_id", "span_id"], "otlp.KeyValue": ["key"]})
        self.schema.edges, self.schema.camel = True, False
        draft.headers["x-mlflow-experiment-id"] = rng.choice(EXPERIMENTS)
        if is_json:
            draft.headers["content-type"] = "application/json"
            draft.body = export
        else:
            draft.headers["content-type"] = "application/x-protobuf"
            draft.body = to_wire(export)


def changes(table):
    total, sums = 0, []
    for weight in table.values():
        total += weight
        sums.append(total)
    return list(table), sums


# ---- changes to a JSON body

def objects(node, found):
    """Collects every object of a tree that has members."""
    if isinstance(node, Pairs):
        if node:
            found.append(node)
        for _, value in node:
            if isinstance(value, list):
                objects(value, found)
    elif isinstance(node, list):
        for value in node:
            if isinstance(value, list):
                objects(value, found)
    return found


def member(draft, rng):
    """Picks an object of the body, the outer one more often, and the index of a member with an ordinary key."""
    if not isinstance(draft.body, Pairs) or not draft.body:
        return None
    one = draft.body if rng.random() < 0.5 else rng.choice(objects(draft.body, []))
    at = rng.randrange(len(one))
    key = one[at][0]
    return (one, at) if isinstance(key, str) and not isinstance(key, Raw) and key else None


LOOKALIKES = {"e": "е", "i": "і", "a": "а", "o": "о", "_": "\uff3f", "n": "ո", "p": "р", "s": "ѕ", "r": "г"}


def almost(key, rng):
    """Makes a key that some parser could take for this one."""
    at = rng.randrange(len(key))
    looks = "".join(LOOKALIKES.get(letter, letter) if place == at else letter for place, letter in enumerate(key))
    return rng.choice((
        f"{key}\x00", f"{key}\x00x", f"\x00{key}", f"{key[:at]}\x00{key[at:]}", f"{key} ", f" {key}", f"{key}\t",
        f"{key}\n", f"{key}\x7f",
        f"{key}\x85", key.upper(), key.title(), camel(key), camel(key), camel(key)[:1].upper() + camel(key)[1:], looks,
        f"[{key}]", f"{key}[]",
        f"{key}[0]", escaped(key, rng), escaped(key, rng), f"{key}\u200b", f"\ufeff{key}", key.replace("_", "-"),
        key.replace("_", ""),
        f"{key}.", f".{key}", f"_{key}", f"{key}_", key[:-1] or "x",
        re.sub("(?<!^)([A-Z])", lambda match: "_" + match.group(1).lower(), key),
        f"mlflow.{key}", f"{key}\u0301", key.replace("i", "ı"), key.replace("s", "ſ"), Raw(f'"{key}\\u0000"'),
        Raw(f'"{key}\\/"'), f"@{key}", ""))


def near_key(draft, rng, schema):
    """Adds a member whose key is almost the name of a field, with another value."""
    if not (found := member(draft, rng)):
        return False
    one, at = found
    key = almost(one[at][0], rng)
    value = other_value(one[at][1], rng)
    one.insert(rng.choice((0, at, at + 1, len(one))), [key, value])
    return True


def other_key(draft, rng, schema):
    """Renames a member to a key that is almost its own."""
    if not (found := member(draft, rng)):
        return False
    one, at = found
    one[at] = [almost(one[at][0], rng), one[at][1]]
    return True


def second_spelling(draft, rng, schema):
    if not (found := member(draft, rng)):
        return False
    one, at = found
    key = one[at][0]
    key = rng.choice((key, camel(key), escaped(key, rng)))
    one.insert(rng.choice((0, at, at + 1, len(one))), [key, rng.choice((one[at][1], other_value(one[at][1], rng)))])
    return True


def camel_case(draft, rng, schema):
    """Renames any number of members to their lowerCamelCase names."""
    if not isinstance(draft.body, Pairs):
        return False
    for one in objects(draft.body, []):
        for pair in one:
            if type(pair[0]) is str and rng.random() < 0.6:
                pair[0] = camel(pair[0])
    return True


def escaped_key(draft, rng, schema):
    if not (found := member(draft, rng)):
        return False
    one, at = found
    one[at] = [escaped(one[at][0], rng), one[at][1]]
    return True


def foreign_field(draft, rng, schema):
    """Adds a field of another message, at any level."""
    if not isinstance(draft.body, Pairs):
        return False
    key = rng.choice(schema.names)
    key = rng.choice((key, key, camel(key)))
    value = rng.choice((text_for(key, rng), text_for(key, rng), [text_for(key, rng)], 1, None,
                        tree({"experiment_id": "7"})))
    one = draft.body if rng.random() < 0.6 else rng.choice(objects(draft.body, []) or [draft.body])
    one.insert(rng.choice((0, len(one))), [key, value])
    return True


def unknown_field(draft, rng, schema):
    if not isinstance(draft.body, Pairs):
        return False
    key = "".join(rng.choices(string.ascii_lowercase + "_.- ", k=rng.randint(1, 9)))
    one = draft.body if rng.random() < 0.5 else rng.choice(objects(draft.body, []) or [draft.body])
    value = rng.choice((tree(free(rng, 0)), Raw("1" * 4400), Raw("-1" + "0" * 4400), Raw("1e400"), Raw("1.0e-400"),
                        "\x00", Raw('"\\ud83d\\ude00"'),
                        nested(rng.choice((3, 30, 62)), rng)))
    one.insert(rng.choice((0, len(one))), [key, value])
    return True


def nested(depth, rng):
    text = "".join(rng.choice("[{") for _ in range(depth))
    opened = text.replace("{", '{"a":')
    return Raw(opened + "1" + "".join("]" if letter == "[" else "}" for letter in reversed(text)))


def other_value(value, rng):
    """Makes another value of the same kind."""
    if isinstance(value, Pairs):
        return Pairs([list(pair) for pair in value[:-1]]) if value else Pairs([["experiment_id", "7"]])
    if isinstance(value, list):
        return [other_value(one, rng) for one in value] or ["7"]
    if isinstance(value, str) and not isinstance(value, Raw):
        for pool in POOLS.values():
            if value in pool:
                return rng.choice(pool)
        return rng.choice(("7", value + "x"))
    return rng.choice((0, 1, 7, "7"))


def wrong_value(draft, rng, schema):
    if not (found := member(draft, rng)):
        return False
    one, at = found
    value = one[at][1]
    kinds = [None, None, True, [], Pairs(), "", 0, 1.5, [value], Pairs([["value", value]]), [None], nested(40, rng),
             Raw("NaN"), Raw("Infinity"), Raw("-0")]
    if isinstance(value, str) and not isinstance(value, Raw):
        kinds += [value + "\x00", "\x00" + value, value + " ", " " + value, value + "\n", value.upper(), value.lower(),
                  [value, value], Pairs([["value", value]]),
                  Raw(json.dumps(value)[:-1] + '\\ud800"'), Raw(json.dumps(value)[:-1] + '\\udc00\\ud800"'),
                  Raw(json.dumps(value)[:-1] + '\\u0000x"'),
                  value + "\u200b", value + "\x1f", "[" + value + "]", value + ",", camel(value.lower())]
        if value.lstrip("-").isdigit():
            kinds += [int(value), Raw(value + ".0"), Raw(value + "e0"), *numeric(value, rng)]
    if isinstance(value, int | float):
        text = str(value)
        kinds += [text, Raw(text + ".0"), Raw(text + "e0"), Raw("0" + text), Raw("+" + text), 2**63, 2**64, -2**63 - 1,
                  10**30, Raw("1" * 4400), Raw("1e400"), Raw("-1e400"),
                  Raw("1e39"), 1e39, Raw("0." + "3" * 400), Raw("1E2"), Raw("1.5e1"), Raw("-0.0"), "NaN", "nan", "inf",
                  "Infinity", "-Infinity", "+1", "1e5", "1_000", "0x10", *numeric(text, rng)]
    if isinstance(value, list) and not isinstance(value, Pairs):
        kinds += [[*value, None], [None, *value], [*value, *value], value[0] if value else None, [value],
                  Pairs([["0", one] for one in value]), [*value, 1], [*value, ""], [*value, Pairs()]]
    if isinstance(value, Pairs):
        kinds += [[value], [list(pair) for pair in value], Raw(encode_basestring_ascii(dump(value)))]
    one[at][1] = rng.choice(kinds)
    return True


def numeric(text, rng):
    """Writes a number in other ways, most of which Python's int() reads as the same one."""
    digits = "".join(chr(ord("\u0660") + int(one)) if one.isdigit() and one.isascii() else one for one in text)
    return [f" {text}", f"{text} ", f"+{text}", f"0{text}", f"{text}_0", f"{text}\n", f"{text}\u00a0", f"{text}\u2003",
            digits, f"{text}.0", f"{text}e0", f"{text}\x00"]


def fine_value(draft, rng, schema):
    """Replaces a value by another that is valid for many fields."""
    if not (found := member(draft, rng)):
        return False
    one, at = found
    value = one[at][1]
    if isinstance(value, str) and not isinstance(value, Raw):
        one[at][1] = other_value(value, rng) if any(value in pool
                                                    for pool in POOLS.values()) or value.isupper() is False else value
    elif isinstance(value, list) and not isinstance(value, Pairs) and value:
        one[at][1] = [*value, rng.choice(value)]
    elif isinstance(value, int) and not isinstance(value, bool):
        one[at][1] = str(value)
    else:
        return False
    return True


def null_value(draft, rng, schema):
    if not (found := member(draft, rng)):
        return False
    one, at = found
    one[at][1] = None
    return True


def dropped(draft, rng, schema):
    if not (found := member(draft, rng)):
        return False
    one, at = found
    del one[at]
    return True


def enum_value(draft, rng, schema):
    """Writes an enum's value in another spelling."""
    if not isinstance(draft.body, Pairs):
        return False
    found = [pair for one in objects(draft.body, []) for pair in one if type(pair[1]) is str and pair[1]
             and re.fullmatch("[A-Z_0-9]{2,}", pair[1])]
    if not found:
        return False
    pair = rng.choice(found)
    name = pair[1]
    pair[1] = rng.choice((name.lower(), f"{name}\x00", f"{name} ", f"{name}\x00x", 0, 1, 2, 3, 99, -1, "1", "0",
                          Raw("1.0"), Raw("1e0"), f"{name}_", name.title(), None,
                          Raw(json.dumps(name)[:-1] + '\\u0000"'), [name], True))
    return True


ONEOF = [
    ("trace_location", "mlflow_experiment", {"experiment_id": "7"}),
    ("trace_location", "inference_table", {"full_table_name": "a.b"}),
    ("assessment", "feedback", {"value": 1}), ("assessment", "expectation", {"value": 2}), ("input", "text", {}),
    ("input", "numeric", {"min_value": 1}),
    ("locations", "mlflow_experiment", {"experiment_id": "7"}),
    ("locations", "inference_table", {"full_table_name": "a.b"}),
    ("assessments", "feedback", {"value": 1}),
]


def oneof(draft, rng, schema):
    """Adds a member of a oneof."""
    if not isinstance(draft.body, Pairs):
        return False
    found = []
    for one in objects(draft.body, []):
        for key, value in one:
            for holder, name, inner in ONEOF:
                if key == holder and isinstance(value, list):
                    found += [(each, name, inner) for each in ([value] if isinstance(value, Pairs) else value)
                              if isinstance(each, Pairs)]
    if not found:
        return False
    one, name, inner = rng.choice(found)
    one.insert(rng.choice((0, len(one))),
               [rng.choice((name, camel(name))), rng.choice((tree(inner), tree(inner), None, Pairs()))])
    return True


def nesting(draft, rng, schema):
    """Puts the body or a part of it into a list, an object or a string."""
    if not isinstance(draft.body, Pairs):
        return False
    how = rng.random()
    if how < 0.25:
        draft.body = rng.choice(([draft.body], Pairs([["request", draft.body]]),
                                 Raw(encode_basestring_ascii(dump(draft.body))),
                                 Pairs([["", draft.body]]), [[draft.body]]))
        return True
    if not (found := member(draft, rng)):
        return False
    one, at = found
    key, value = one[at]
    one[at] = [rng.choice(("request", key, "info", "params", "tags", "data")), Pairs([[key, value]])]
    return True


def shuffled(draft, rng, schema):
    if not isinstance(draft.body, Pairs):
        return False
    for one in objects(draft.body, []):
        rng.shuffle(one)
    return True


def attribute(draft, rng, schema):
    """Replaces the key of a tag, a parameter or an attribute."""
    if not isinstance(draft.body, Pairs):
        return False
    found = [pair for one in objects(draft.body, []) for pair in one if pair[0] == "key" and type(pair[1]) is str]
    if not found:
        return False
    pair = rng.choice(found)
    pair[1] = rng.choice(("mlflow.user", "MLFLOW.USER", "mlflow.user\x00", "mlflow.user ", "mlflow.auth.userId",
                          "mlflow.auth.username", "a\x00b", "a\nb", "", "\x85",
                          "mlflow.traceTag.mlflow.user", "mlflow.traceTag.x", "mlflow.traceTag.mlflow.traceName",
                          "mlflow.traceTag.MLFLOW.user",
                          "mlflow.tracetag.mlflow.user", Raw('"mlflow.us\\u0065r"'),
                          "mlflow.traceTag.mlflow.artifactLocation", "mlflow.traceRequestId"))
    return True


def raw_text(draft, rng, schema):
    """Makes the body text that is almost JSON."""
    content = draft.content()
    if not content:
        draft.body = rng.choice((b"{}", b"null", b"[]", b" ", b"\x00", b'""', b'{"experiment_id":"7"}'))
        return True
    at = rng.randrange(len(content))
    with_member = content[:-1] + (b"," if len(content) > 2 else b"")
    draft.body = rng.choice((
        lambda: content.decode(errors="replace").encode("utf-16"),
        lambda: content.decode(errors="replace").encode("utf-16-le"),
        lambda: content.decode(errors="replace").encode("utf-32-be"), lambda: b"\xef\xbb\xbf" + content,
        lambda: content[:at],
        lambda: content[:at] + content[at:at + 1] * 2 + content[at + 1:], lambda: content[:at] + b"\x00" + content[at:],
        lambda: content + rng.choice((b" ", b"\n", b"{}", b"x", b"\x00", b",", b"]", content, b"\xc2\xa0", b"\x0c")),
        lambda: rng.choice((b" \n\t", b"\x0b", b"\xc2\xa0", b"/**/", b"\x1e", b"//x\n", b")]}'\n")) + content,
        lambda: with_member + b'"x":NaN}', lambda: with_member + b'"x":.5}', lambda: with_member + b"}",
        lambda: with_member + b"'x':1}",
        lambda: with_member + b'"x":"\\x41"}', lambda: with_member + b'"\xff":1}',
        lambda: with_member + b'"x":"\xed\xa0\x80"}',
        lambda: with_member + b'"x":"\t"}', lambda: with_member + b'"x":01}', lambda: with_member + b'"x":tRue}',
        lambda: content.replace(b":", b" :\n\t"),
        lambda: content.replace(b",", b" ,\r\n "),
        lambda: content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1:]))()
    return True


BODY_CHANGES = changes({
    near_key: 18, other_key: 6, second_spelling: 5, camel_case: 8, escaped_key: 6, foreign_field: 14, unknown_field: 7,
    wrong_value: 9, fine_value: 9,
    null_value: 4, dropped: 2, enum_value: 3, oneof: 3, nesting: 3, shuffled: 6, attribute: 3, raw_text: 3,
})


# ---- changes to a query

def odd_parameter(draft, rng, schema):
    """Adds a parameter whose name is almost that of another."""
    pair = rng.choice(draft.query) if draft.query else ["run_id", "x"]
    key = pair[0]
    value = rng.choice((pair[1] or "", quote(rng.choice(POOLS[rng.choice(list(POOLS))]), safe="")))
    at = rng.randrange(len(key)) if key else 0
    code = f"{key[:at]}%{ord(key[at]):02x}{key[at + 1:]}" if key and key.isascii() else key
    key = rng.choice((f"{key}[]", f"{key}%5B%5D", f"{key}%5B0%5D", f"{key}[0]", f"{key}[x]", camel(key), key.upper(),
                      f"{key}+", f"%20{key}", f"{key}%00", f"{key}%0a",
                      f"{key}%00x", f"x;{key}", f"%26{key}", f"{key}%3D", code, code, f"{key}.", f"{key}%FF",
                      f"?{key}", f"{key}%C2%A0", f"&{key}", f";{key}", key, "", f"[{key}]",
                      *([rng.choice(schema.names)] * 6)))
    draft.query.insert(rng.choice((0, len(draft.query))),
                       [key, rng.choice((value, value, value, None, f"{value};{pair[0]}=7", f"{value}=x"))])
    return True


def coded_name(draft, rng, schema):
    if not draft.query:
        return False
    pair = rng.choice(draft.query)
    if not pair[0] or not pair[0].isascii() or "%" in pair[0]:
        return False
    at = rng.randrange(len(pair[0]))
    pair[0] = f"{pair[0][:at]}%{ord(pair[0][at]):02X}{pair[0][at + 1:]}"
    return True


def odd_argument(draft, rng, schema):
    """Writes a value in another way, or as one that is almost of its type."""
    if not draft.query:
        return False
    pair = rng.choice(draft.query)
    value = pair[1] or ""
    plain = value.replace("%20", "+")
    pair[1] = rng.choice((
        plain, "".join(f"%{byte:02x}" for byte in value.encode()) if "%" not in value else value, value + "%00",
        "%00" + value, value + "%20", "+" + value, value + "%0A",
        value + "%FF", value + "%C0%80", value + "%ED%A0%80", value + "%", value + "%2", value + "%5B%5D",
        value + "[]", value + "%255B", value + ";x=1", value + "=", value + "%26x%3D1",
        "", "true", "True", "FALSE", "1", "NaN", "1.0", "1e3", "-1", "%2B1", "01", "%D9%A1", "1_0", "null", "%5B1%5D",
        "2147483648", "9223372036854775808"))
    return True


def twice(draft, rng, schema):
    if not draft.query:
        return False
    pair = list(rng.choice(draft.query))
    if rng.random() < 0.5:
        pair[1] = quote(rng.choice(POOLS[rng.choice(list(POOLS))]), safe="")
    draft.query.insert(rng.choice((0, len(draft.query))), pair)
    return True


def gone(draft, rng, schema):
    if not draft.query:
        return False
    draft.query.pop(rng.randrange(len(draft.query)))
    return True


def mixed(draft, rng, schema):
    rng.shuffle(draft.query)
    if rng.random() < 0.3:
        draft.query.insert(rng.choice((0, len(draft.query))), ["", None])
    return True


def odd_path(draft, rng, schema):
    """Writes a path parameter in another way."""
    if not draft.params:
        return False
    name = rng.choice(list(draft.params))
    value = quote(draft.params[name], safe="/")
    code = "".join(f"%{byte:02X}" for byte in value[:1].encode()) + value[1:] if not value.startswith("%") else value
    other = rng.choice((code, code, value + "%20", value + "%00", value + "%2F", value + "%252F", value + "%5B%5D",
                        value + ";x", value + "..", value + "%ff", value + "/", value + "?x=1"))
    draft.path = draft.path.replace(value, other, 1)
    return True


QUERY_CHANGES = changes({odd_parameter: 14, coded_name: 4, odd_argument: 8, twice: 3, gone: 1, mixed: 5, odd_path: 2})


# ---- changes to protobuf's wire

def to_wire(export):
    """Converts OTLP's JSON to protobuf with the descriptors of our own release."""
    from google.protobuf.json_format import ParseDict, ParseError

    def with_ids(node):
        if isinstance(node, dict):
            return {key: base64.b64encode(bytes.fromhex(value)).decode()
                    if key in ("traceId", "spanId", "parentSpanId") else with_ids(value)
                    for key, value in node.items()}
        return [with_ids(one) for one in node] if isinstance(node, list) else node

    try:
        return ParseDict(with_ids(export), ExportTraceServiceRequest(), ignore_unknown_fields=True).SerializeToString()
    except ParseError:
        return b""


def varint(number, padding=0):
    out = bytearray()
    while True:
        byte, number = number & 127, number >> 7
        if number or padding:
            out.append(byte | 128)
            if not number:
                padding -= 1
                out += b"\x80" * padding + b"\x00"
                return bytes(out)
        else:
            out.append(byte)
            return bytes(out)


def split(data):
    """Splits a message into its fields: number, wire type, and payload without its length."""
    fields, at = [], 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        wire, start = key & 7, at
        if wire == 0:
            number()
        elif wire == 2:
            size = number()
            start = at
            at += size
        else:
            at += 8 if wire == 1 else 4
        fields.append([key >> 3, wire, data[start:at]])
    return fields


def joined(fields, rng=None):
    out = b""
    for number, wire, payload in fields:
        pad = rng.choice((1, 2, 4)) if rng and rng.random() < 0.3 else 0
        out += varint(number << 3 | wire, pad)
        out += varint(len(payload), pad) + payload if wire == 2 else payload
    return out


# Field numbers of the messages within each other: resource_spans, scope_spans, spans, attributes.
CHAIN = [1, 2, 2, 9]


def change_wire(draft, rng):
    """Changes the fields of one message in an export; returns what was done."""
    depth = rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
    done = []

    def inside(data, level):
        fields = split(data)
        if level < depth:
            inner = [one for one in fields if one[0] == CHAIN[level] and one[1] == 2]
            if inner:
                one = rng.choice(inner)
                one[2] = inside(one[2], level + 1)
                return joined(fields)
        change = rng.choices(list(WIRE), list(WIRE.values()))[0]
        done.append(change.__name__)
        return change(fields, rng)

    try:
        draft.body = inside(draft.body, 0)
    except IndexError:  # what an earlier change left is no message
        done.append("nothing")
    return done[0]


def wire_unknown(fields, rng):
    number = rng.choice((17, 19, 100, 536870911, 8, 50))
    payload = rng.choice((b"", b"x", joined([[1, 2, b"\x07" * 16]])))
    extra = rng.choice(([number, 0, varint(rng.choice((0, 2**64 - 1)))], [number, 2, payload],
                        [number, 1, b"12345678"], [number, 5, b"1234"]))
    fields.insert(rng.randint(0, len(fields)), extra)
    return joined(fields)


def wire_group(fields, rng):
    number = rng.choice((1, 2, 9, 17, 100))
    group = varint(number << 3 | 3) + joined([[1, 2, b"\x07" * 16]]) + varint(number << 3 | 4)
    at = rng.randint(0, len(fields))
    return joined(fields[:at]) + group + joined(fields[at:])


def wire_type(fields, rng):
    if fields:
        one = rng.choice(fields)
        wire, payload = rng.choice(((0, b"\x05"), (1, b"12345678"), (5, b"1234"), (2, b"\x07" * 16)))
        fields.insert(rng.randint(0, len(fields)), [one[0], wire, payload])
    return joined(fields)


def wire_repeated(fields, rng):
    if fields:
        number, wire, payload = rng.choice(fields)
        payload = b"\x07" * len(payload) if wire == 2 and rng.random() < 0.7 else payload
        fields.insert(rng.randint(0, len(fields)), [number, wire, payload])
    return joined(fields)


def wire_varint(fields, rng):
    return joined(fields, rng)


def wire_order(fields, rng):
    rng.shuffle(fields)
    return joined(fields)


def wire_length(fields, rng):
    found = [one for one in fields if one[1] == 2]
    if found:
        one = rng.choice(found)
        one[2] = rng.choice((b"", one[2][:-1], one[2] + b"\x00", b"\x00" + one[2], one[2] * 2))
    return joined(fields)


def wire_cut(fields, rng):
    data = joined(fields)
    return rng.choice((data[:rng.randint(0, len(data))], data + bytes([rng.randrange(256)]), varint(0) + data,
                       data + b"\xff" * 10))


WIRE = {wire_unknown: 6, wire_group: 2, wire_type: 2, wire_repeated: 5, wire_varint: 4, wire_order: 4, wire_length: 2,
        wire_cut: 1}
