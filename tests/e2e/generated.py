"""Requests that nobody would write by hand: an endpoint's ordinary request, changed at random in where and how ids stand.

Everything follows from a seed and a number. Nothing here knows what the proxy should say; `test_differential.py` judges.
"""

import gzip
import json
import random
import re
import string
from dataclasses import dataclass, field
from urllib.parse import quote


class Raw(str):
    """JSON text that is written as it stands."""


class Pairs(list):
    """A JSON object whose keys may repeat and keep their order."""


def tree(value):
    if isinstance(value, dict):
        return Pairs([key, tree(one)] for key, one in value.items())
    return [tree(one) for one in value] if isinstance(value, list) else value


def dump(value):
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{dump(key)}:{dump(one)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


class Sides:
    """What is the caller's, and what stands in its place on the other side."""

    def __init__(self, mine, theirs):
        self.mine, self.theirs = mine, theirs
        ids = {getattr(mine, key): getattr(theirs, key) for key in (
            "experiment", "experiment_name", "deleted_experiment", "run", "deleted_run", "logged_model", "model")}
        # Guardrails are administrators' things: they are on neither side.
        ids |= {value: theirs.names[key] for key, value in mine.names.items() if key in theirs.names and "guardrail" not in key}
        self.ids = {a: b for a, b in ids.items() if isinstance(a, str) and isinstance(b, str) and a and a != b}
        # OpenTelemetry writes the same ids without their prefix.
        bare = {a[3:]: b[3:] for a, b in self.ids.items() if a.startswith("tr-")}
        self.long = {a: b for a, b in (self.ids | bare).items() if len(a) > 5}
        folder = re.escape(mine.experiment)
        self.folder = re.compile(rf"(?<![0-9A-Za-z.-]){folder}(?=/)")

    def swap(self, text):
        """The same text about the other side; unchanged if it names nothing."""
        if text in self.ids:
            return self.ids[text]
        swapped = self.folder.sub(self.theirs.experiment, text) if "artifacts" in text else text
        for mine, theirs in self.long.items():
            swapped = swapped.replace(mine, theirs)
        return swapped


@dataclass
class Draft:
    """A request that is still being changed."""

    name: str
    method: str
    path: str
    query: list = field(default_factory=list)
    body: object = None
    """A tree, bytes, or nothing."""
    headers: list = field(default_factory=list)
    content_type: object = "application/json"
    """One value, several, or none."""
    encode: object = staticmethod(lambda text: text.encode(errors="surrogatepass"))
    framing: str = "length"
    changes: list = field(default_factory=list)

    @classmethod
    def of(cls, endpoint, world):
        more = endpoint.send(world)
        draft = cls(str(endpoint), endpoint.method, endpoint.path(world))
        for key, value in (more.get("params") or {}).items():
            for one in value if isinstance(value, list) else [value]:
                draft.query.append([quote(str(key), safe=""), quote(str(one), safe="")])
        if "json" in more:
            draft.body = tree(more["json"])
        elif "data" in more:
            draft.body, draft.content_type = more["data"], "application/octet-stream"
        draft.headers = [[key, value] for key, value in (more.get("headers") or {}).items()]
        return draft

    def content(self):
        return self.body if isinstance(self.body, bytes | None) else self.encode(dump(self.body))

    def to_bytes(self, host, authorization):
        """The request as it goes over the wire."""
        target = self.path
        if self.query:
            target += "?" + "&".join(key if value is None else f"{key}={value}" for key, value in self.query)
        content = self.content()
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {host}", f"Authorization: {authorization}"]
        lines += [f"{key}: {value}" for key, value in self.headers]
        types = self.content_type if isinstance(self.content_type, list) else [self.content_type]
        lines += [f"Content-Type: {one}" for one in types if one is not None and content is not None]
        if content is not None or self.framing == "zero":
            content = content or b""
            if self.framing in ("chunked", "both"):
                lines.append("Transfer-Encoding: chunked")
                half = len(content) // 2
                parts = [part for part in (content[:half], content[half:]) if part]
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            if self.framing != "chunked":
                lines.append(f"Content-Length: {len(content)}")
            if self.framing in ("chunked", "both"):
                content = chunks
        head = "\r\n".join(lines) + "\r\n\r\n"
        return head.encode("latin-1", "replace") + (content or b"")


# ---- where ids stand

def places(draft, sides):
    """Setters for every id of the caller's in the request: (is it in the body, the id, how to replace it)."""
    found = []
    if sides.swap(draft.path) != draft.path:
        found.append(("path", draft.path, lambda value: setattr(draft, "path", value)))
    for pair in draft.query:
        if pair[1] is not None and sides.swap(pair[1]) != pair[1]:
            found.append(("query", pair[1], lambda value, pair=pair: pair.__setitem__(1, value)))
    for pair in draft.headers:
        if sides.swap(pair[1]) != pair[1]:
            found.append(("header", pair[1], lambda value, pair=pair: pair.__setitem__(1, value)))
    walk(draft.body, sides, found)
    return found


def walk(node, sides, found):
    if isinstance(node, Pairs):
        for pair in node:
            visit(pair, 1, sides, found)
    elif isinstance(node, list):
        for index in range(len(node)):
            visit(node, index, sides, found)


def visit(holder, index, sides, found):
    value = holder[index]
    if isinstance(value, str) and not isinstance(value, Raw):
        if sides.swap(value) != value:
            found.append(("body", value, lambda new: holder.__setitem__(index, new)))
    else:
        walk(value, sides, found)


def objects(node):
    """Every object of a JSON tree."""
    if isinstance(node, Pairs):
        yield node
        for _, value in node:
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


def keyed(draft, sides):
    """(object, index) of every pair of the body that holds an id of the caller's, alone or in a list."""
    found = []
    for one in objects(draft.body):
        for index, (_, value) in enumerate(one):
            first = value[0] if isinstance(value, list) and not isinstance(value, Pairs) and value else value
            if isinstance(first, str) and sides.swap(first) != first:
                found.append((one, index))
    return found


def swapped(value, sides):
    return [swapped(one, sides) for one in value] if isinstance(value, list) else sides.swap(value)


# ---- changes. Each says whether it could be made.

def camel(key):
    return re.sub(r"_([a-z])", lambda match: match.group(1).upper(), key)


def escaped(key, rng):
    """The same key in JSON, one letter of it written as an escape."""
    at = rng.randrange(len(key))
    return Raw(json.dumps(key[:at])[:-1] + f"\\u{ord(key[at]):04x}" + json.dumps(key[at + 1:])[1:])


OTHER_NAMES = {
    "run_id": ["run_uuid", "run_ids", "source_run_id"], "run_uuid": ["run_id"], "run_ids": ["run_id"],
    "experiment_id": ["experiment_ids", "experiment_name"], "experiment_ids": ["experiment_id"],
    "name": ["new_name", "model_name", "registered_model_name"], "trace_id": ["request_id", "trace_ids"],
    "request_id": ["trace_id"], "trace_ids": ["trace_id", "request_ids"], "model_id": ["model_ids", "name"],
    "path": ["artifact_path"], "endpoint_id": ["name", "endpoint_name"],
}


def all_theirs(draft, rng, sides):
    found = places(draft, sides)
    for _, value, put in found:
        put(sides.swap(value))
    return bool(found)


def one_theirs(draft, rng, sides):
    found = places(draft, sides)
    if found:
        _, value, put = rng.choice(found)
        put(sides.swap(value))
    return bool(found)


def repeated_parameter(draft, rng, sides):
    ours = [pair for pair in draft.query if pair[1] is not None and sides.swap(pair[1]) != pair[1]]
    if not ours:
        return False
    key, value = rng.choice(ours)
    at = rng.choice([0, len(draft.query)])
    key = rng.choice([key, key, f"{key}[]", camel(key), coded(key, rng), key.upper(), f"{key}+", f"%20{key}",
                      *OTHER_NAMES.get(key, [])])
    draft.query.insert(at, [key, sides.swap(value)])
    return True


def odd_query(draft, rng, sides):
    value = rng.choice(list(sides.ids.values()))
    key = rng.choice(["run_id", "experiment_id", "name", "path", "x", "model_id", "trace_id"])
    odd = rng.choice([[f"x;{key}", value], ["", None], ["x", "1"], [f"x=1#{key}", value], [f"{key}%00", value],
                      [f"{key}%FF", value], [key, f"%FF{value}"], [f"?{key}", value], [key, None], [f"&{key}", value]])
    draft.query.insert(rng.choice([0, len(draft.query)]), odd)
    return True


def repeated_key(draft, rng, sides):
    found = keyed(draft, sides)
    if not found:
        return False
    one, index = rng.choice(found)
    key, value = one[index]
    if not isinstance(key, str) or isinstance(key, Raw) or not key:
        return False
    key = rng.choice([key, escaped(key, rng), camel(key), Raw(f'"[{key}]"'), key.upper(), key + " ", *OTHER_NAMES.get(key, [])])
    one.insert(rng.choice([0, index, index + 1, len(one)]), [key, swapped(value, sides)])
    return True


def other_spelling(draft, rng, sides):
    found = keyed(draft, sides)
    if not found:
        return False
    one, index = rng.choice(found)
    key, value = one[index]
    if isinstance(key, Raw) or not key:
        return False
    key = rng.choice([camel(key), escaped(key, rng), *OTHER_NAMES.get(key, [])])
    one[index] = [key, rng.choice([value, swapped(value, sides)])]
    return True


def ids_elsewhere(draft, rng, sides):
    """The ids of the query in the body, those of the body in the query; theirs, beside ours or alone."""
    if isinstance(draft.body, Pairs):
        for key, value in list(draft.body):
            if isinstance(value, str) and not isinstance(key, Raw) and sides.swap(value) != value:
                draft.query.append([key, quote(rng.choice([value, sides.swap(value)]), safe="")])
                if rng.random() < 0.3:
                    draft.content_type = "text/plain"
                    for pair in draft.body:
                        if pair[0] == key:
                            pair[1] = sides.swap(value)
                return True
        return False
    if draft.body is not None:
        return False
    draft.body = Pairs([key, sides.swap(value or "")] for key, value in draft.query)
    if not draft.body:
        kind = rng.choice(["experiment", "run", "logged_model", "model"])
        draft.body = Pairs([[{"experiment": "experiment_id", "run": "run_id", "logged_model": "model_id", "model": "name"}[kind],
                             getattr(sides.theirs, kind)]])
    if rng.random() < 0.4:
        draft.query = rng.choice([[], [["x", "1"]]])
    return True


ALIASES = ["0{}", " {}", "{} ", "+{}", "-{}", "{}\n", "\t{}", "\u00a0{}", "{}.0", "{}e0", "0x{}", "{}_", "\u2003{}", "{}\x00"]


def alias(number, rng):
    """Another way to write a number, most of which Python reads as the same one."""
    digits = rng.choice(["\u0660", "\uff10", "\u0966"])
    foreign = "".join(chr(ord(digits) + int(c)) for c in number)
    return rng.choice([*(form.format(number) for form in ALIASES), foreign, "_".join("0" + number)])


def aliased_id(draft, rng, sides):
    found = [place for place in places(draft, sides) if place[1] in (sides.mine.experiment, sides.mine.deleted_experiment)]
    if not found:
        found = [place for place in places(draft, sides) if place[0] == "path" and sides.folder.search(place[1])]
        if not found:
            return False
        _, path, put = rng.choice(found)
        wrong = quote(alias(rng.choice([sides.mine, sides.theirs]).experiment, rng))
        put(sides.folder.sub(wrong, path, count=1))
        return True
    where, value, put = rng.choice(found)
    written = alias(rng.choice([value, sides.swap(value)]), rng)
    put(written if where == "body" else quote(written, safe=""))
    return True


def wrong_type(draft, rng, sides):
    found = keyed(draft, sides)
    if not found:
        return False
    one, index = rng.choice(found)
    value = one[index][1]
    other = swapped(value, sides)
    first = other[0] if isinstance(other, list) else other
    kinds = [None, True, [], Pairs(), [value, other], [other, value], [None, first], Pairs([["value", first]]), "", [first, 0],
             [[first]], Raw("NaN"), first + "\x00", first + " ", json.dumps(first), Raw(json.dumps(first)[:-1] + '\\ud800"')]
    if first.isdigit():
        kinds += [int(first), Raw(f"{first}.0"), [int(first)], Raw(f"{first}e0")]
    one[index][1] = rng.choice(kinds)
    return True


def bracket_key(draft, rng, sides):
    if not isinstance(draft.body, Pairs):
        return False
    bracket = [rng.choice(["[x]", "[a.b]", "[", "@type", "[experiment_id]"]), rng.choice([1, "x", None])]
    one = rng.choice(list(objects(draft.body)))
    one.insert(rng.choice([0, len(one)]), bracket)
    if rng.random() < 0.5:
        all_theirs(draft, rng, sides)
    return True


def other_encoding(draft, rng, sides):
    if not isinstance(draft.body, Pairs):
        return False
    draft.encode = rng.choice([
        lambda text: text.encode("utf-16"), lambda text: text.encode("utf-16-le"), lambda text: text.encode("utf-32"),
        lambda text: b"\xef\xbb\xbf" + text.encode(), lambda text: json.dumps(text).encode(),
        lambda text: json.dumps(json.dumps(text)).encode(), lambda text: text.encode() + b" {}", lambda text: text.encode()[:-1] + b",}",
        lambda text: text.encode().replace(b'"', b'"\xff', 1), lambda text: b"/**/" + text.encode(), lambda text: b"[" + text.encode() + b"]",
        lambda text: text.encode()[:-1] + b',"x":NaN}', lambda text: text.encode()[:-1] + b',"x":1e400}',
        lambda text: text.encode()[:-1] + b',"x":' + b"[" * 90 + b"]" * 90 + b"}", lambda text: b"\x00" + text.encode(),
        lambda text: text.encode()[:-1] + b',"x":"\\ud800"}', lambda text: text.encode().replace(b",", b"\n,\t"), lambda text: b"",
    ])
    if rng.random() < 0.5:
        all_theirs(draft, rng, sides)
    return True


def other_method(draft, rng, sides):
    draft.method = rng.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "PROPFIND"])
    if draft.method == "HEAD" and rng.random() < 0.5:
        all_theirs(draft, rng, sides)
    return True


def other_framing(draft, rng, sides):
    if draft.body is None:
        if rng.random() < 0.5:
            draft.framing = "zero"
        else:
            draft.body = b"" if rng.random() < 0.2 else Pairs([["x", 1]])
    draft.framing = rng.choice(["chunked", "chunked", "both", draft.framing])
    return True


TYPES = [None, "text/plain", "Application/JSON", "application/json; charset=utf-16", "application/x-www-form-urlencoded",
         "application/json;charset=utf-8", "application/vnd+json", "multipart/form-data; boundary=x", "application/json ,text/plain",
         ["application/json", "application/json"], ["application/json", "text/plain"], "", "application/x-protobuf", "*/*"]


def other_content_type(draft, rng, sides):
    if draft.body is None:
        return False
    draft.content_type = rng.choice(TYPES)
    return True


def content_encoding(draft, rng, sides):
    if draft.body is None:
        return False
    draft.headers.append(["Content-Encoding", rng.choice(["gzip", "deflate", "identity", "gzip, gzip", "br", "zstd"])])
    if rng.random() < 0.5:
        content = draft.content()
        draft.body = gzip.compress(content or b"")
    return True


def coded(text, rng):
    """One character percent-encoded, or an encoded one encoded again."""
    at = rng.randrange(len(text))
    one = "".join(f"%{byte:02x}" for byte in text[at].encode())
    return text[:at] + rng.choice([one, one, one.upper(), one.replace("%", "%25")]) + text[at + 1:]


def coded_path(draft, rng, sides):
    for _ in range(rng.choice([1, 1, 2, 4])):
        draft.path = coded(draft.path, rng)
    return True


def odd_path(draft, rng, sides):
    slashes = [match.start() for match in re.finditer("/", draft.path)]
    if not slashes:  # all of them are encoded by now
        return False
    at = rng.choice(slashes)
    odd = rng.choice(["/", "/.", "/..", "/x/..", "/%2e", "/%2e%2e", "/%252e%252e", "/./.", "//", ";x=1", "\\", "%2f", "%5c", "%00",
                      "%0a", "%20", "%c0%ae", "%ff", "/x;/..", "?", "#", "/;", "%3f", "%23"])
    how = rng.random()
    if how < 0.6:
        draft.path = draft.path[:at] + odd + draft.path[at:]
    elif how < 0.8:
        draft.path += odd
    else:
        draft.path = draft.path[:at] + rng.choice(["%2f", "\\", "%5c", "%252f", "//"]) + draft.path[at + 1:]
    return True


def twin_path(draft, rng, sides):
    path = draft.path
    draft.path = rng.choice([
        path.replace("/api/", "/ajax-api/", 1) if path.startswith("/api/") else path.replace("/ajax-api/", "/api/", 1),
        path.replace("/api/", "/ajax-api/", 1) if path.startswith("/api/") else path.replace("/ajax-api/", "/api/", 1),
        path.replace("/2.0/", "/3.0/", 1), path.upper(), "/mlflow" + path, f"http://localhost{path}", path + "/", path.replace("-", "_"),
    ])
    return True


def out_of_the_folder(draft, rng, sides):
    """An artifact path that leads from ours to theirs."""
    theirs = f"{sides.theirs.experiment}/{sides.theirs.run}/artifacts/folder/file.txt"
    up = rng.choice(["..", "%2e%2e", "%252e%252e", "..;", "%2e.", ".%2e"])
    slash = rng.choice(["/", "/", "%2f", "%252f", "%5c", "//"])
    way = slash.join([sides.mine.experiment, *[up] * rng.choice([1, 2, 3]), theirs])
    way = rng.choice([way, f".{slash}{theirs}", f"{slash}{theirs}", f"%2e{slash}{theirs}", f"{theirs}{slash}.", f"{theirs}%00",
                      f"{theirs}%23", f"{theirs}%3f", f"mlflow-artifacts:{slash}{theirs}", f"file:{slash}{theirs}"])
    for pair in draft.query:
        if "path" in pair[0]:
            pair[1] = way
            return True
    if "/mlflow-artifacts/" in draft.path and "/artifacts/" in draft.path or "/mpu/" in draft.path:
        head = re.match(r".*?/(?:artifacts|mpu/\w+|presigned)/", draft.path)
        if head:
            draft.path = head.group() + way
            return True
    for one in objects(draft.body):
        for pair in one:
            if isinstance(pair[0], str) and ("path" in pair[0] or pair[0] in ("source", "artifact_location")):
                pair[1] = rng.choice(["../../../", "./", f"mlflow-artifacts:/{sides.mine.experiment}/../", "mlflow-artifacts:/",
                                      "/", ""]) + theirs
                return True
    return False


HEADERS = [
    ("X-Forwarded-User", "admin"), ("X-Remote-User", "admin"), ("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health"),
    ("X-HTTP-Method-Override", "DELETE"), ("X-MLFLOW-WORKSPACE", "other"), ("X-Forwarded-Prefix", "/x"), ("X-Forwarded-For", "127.0.0.1"),
    ("Content_Type", "text/plain"), ("Content_Length", "0"), ("Transfer_Encoding", "chunked"), ("Cookie", "session=x"),
    ("Connection", "authorization"), ("Connection", "content-type, x-mlflow-run-id"), ("Authorization", "Basic eDp5"),
    ("Host", "other.example"), ("X-Forwarded-Host", "other.example"), ("Origin", "http://other.example"), ("Expect", "200-ok"),
    ("Upgrade", "h2c"), ("TE", "trailers"), ("Range", "bytes=0-3"), ("X-MLflow-Guardrail-Bypass", "1"), ("X-MLflow-Authorization", "Basic eDp5"),
    ("Accept-Encoding", "gzip"), ("If-None-Match", "*"), ("X-Middle", "a\tb"),
]


def odd_header(draft, rng, sides):
    ours = [pair for pair in draft.headers if sides.swap(pair[1]) != pair[1]]
    choice = rng.random()
    if ours and choice < 0.5:
        key, value = rng.choice(ours)
        draft.headers.insert(rng.choice([0, len(draft.headers)]), [rng.choice([key, key.upper(), key.replace("-", "_")]), sides.swap(value)])
    elif choice < 0.7:
        key, value = rng.choice([("X-MLflow-Run-Id", sides.theirs.run), ("X-MLflow-Experiment-Id", sides.theirs.experiment),
                                 ("x-mlflow-experiment-id", alias(sides.theirs.experiment, rng)), ("X-MLflow-Model-Id", sides.theirs.logged_model)])
        draft.headers.append([key, value])
    else:
        draft.headers.append(list(rng.choice(HEADERS)))
    return True


def a_name_of_theirs(draft, rng, sides):
    """Any id of theirs where a field looks like one."""
    found = []
    for one in objects(draft.body):
        found += [pair for pair in one if isinstance(pair[0], str) and re.search("(id|ids|Id|name|uuid|key|source|uri)$", pair[0])]
    if not found:
        return False
    pair = rng.choice(found)
    value = rng.choice(list(sides.ids.values()))
    if pair[0] == "traceId":
        value = sides.theirs.names["trace_id"][3:]
    pair[1] = [value] if isinstance(pair[1], list) and not isinstance(pair[1], Pairs) else value
    return True


def more_fields(draft, rng, sides):
    """Fields that the endpoint does not ask for."""
    if not isinstance(draft.body, Pairs):
        return False
    key = rng.choice(["run_id", "run_uuid", "experiment_id", "experimentId", "model_id", "name", "trace_id", "request_id", "path", "user_id",
                      "source_run_id", "experiment_ids", "dataset_id", "new_name", "queue_id", "lifecycle_stage", "artifact_location"])
    value = rng.choice(list(sides.ids.values()))
    draft.body.insert(rng.choice([0, len(draft.body)]), [key, [value] if key.endswith("ids") else value])
    return True


def odd_key(draft, rng, sides):
    """A field of theirs under a name that goes on after a NUL, or differs in what an eye does not see."""
    def is_text(value):
        return isinstance(value, str) or isinstance(value, list) and all(isinstance(one, str) for one in value)

    found = [(one, pair) for one in objects(draft.body) for pair in one if isinstance(pair[0], str) and is_text(pair[1])]
    if not found:
        return False
    one, (key, value) = rng.choice(found)
    odd = rng.choice(["{}\0", "{}\0x", "\0{}", "{} ", " {}", "{}\u200b", "\ufeff{}", "{}\n", "{}[]", "{}.0", "$.{}"]).format(key)
    one.insert(rng.choice([0, len(one)]), [odd, swapped(value, sides)])
    return True


def harmless(draft, rng, sides):
    """What must not matter to anybody."""
    if isinstance(draft.body, Pairs) and rng.random() < 0.7:
        draft.body.append(["".join(rng.choices(string.ascii_lowercase, k=6)), rng.choice([1, "x", None, [1.5], Pairs([["a", "b"]])])])
        rng.shuffle(draft.body)
    elif not draft.path.startswith("/gateway"):
        draft.query.append(["".join(rng.choices(string.ascii_lowercase, k=6)), "1"])
    return True


CHANGES = {
    all_theirs: 5, one_theirs: 6, repeated_parameter: 6, odd_query: 3, repeated_key: 7, other_spelling: 4, ids_elsewhere: 6, aliased_id: 6,
    wrong_type: 5, bracket_key: 3, other_encoding: 4, other_method: 2, other_framing: 3, other_content_type: 3, content_encoding: 2,
    coded_path: 4, odd_path: 4, twin_path: 3, out_of_the_folder: 4, odd_header: 4, a_name_of_theirs: 4, more_fields: 5, odd_key: 6, harmless: 8,
}


def draw(seed, number, drafts):
    """Request `number` of this seed, from `drafts(rng)` which picks an endpoint's plain request and its sides."""
    rng = random.Random(f"{seed}:{number}")
    draft, sides = drafts(rng)
    wanted = rng.choices([0, 1, 2, 3], [15, 50, 25, 10])[0]
    changes, weights = list(CHANGES), list(CHANGES.values())
    for _ in range(20):
        if len(draft.changes) == wanted:
            break
        change = rng.choices(changes, weights)[0]
        if change(draft, rng, sides):
            draft.changes.append(change.__name__)
    return draft
