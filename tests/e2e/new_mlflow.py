"""Prints, as a checklist, what a release of MLflow changes for the proxy, compared with an earlier release.

scripts/new-mlflow runs this: `new_mlflow.py VERSION [EARLIER]`. What the proxy's tables have already is ticked; the rest is to be
decided. CONTRIBUTING.md has the steps.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import request_fields as hand
from harness import ROOT, plain_environment
from known_routes import Table, routes, unanswered
from request_schema import REQUESTS, Problem, Rows, missing, read, schema_of
from test_coverage import python_of

# Words of a changed function's name that make it likely that the proxy is concerned.
TELLING = re.compile(r"artifact|auth|filter|permission|request_message|search|tag|trace|valid", re.IGNORECASE)


@dataclass
class Surface:
    """What a proxy must know of one release."""

    version: str
    routes: set  # (method, path)
    schema: dict  # output of schema_of.py
    more: dict  # output of surface_of.py

    @classmethod
    def of(cls, version):
        python = python_of(version)
        with tempfile.TemporaryDirectory() as folder:
            found = routes(python, folder)
            lines = "\n".join(" ".join(route) for route in found)
            done = subprocess.run(
                [python, "-W", "ignore", ROOT / "tests/e2e/surface_of.py"], capture_output=True, text=True, timeout=180,
                cwd=folder, env=plain_environment(), input=lines,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            return cls(version, set(found), schema_of(python, folder), json.loads(done.stdout))

    def asks(self, method, path):
        """The words for what MLflow's own authorisation asks of a route."""
        found = self.more["validators"].get(f"{method} {path}")
        if found and found.endswith("<lambda>"):
            return "MLflow's authorisation refuses it to all but administrators"
        return f"MLflow asks `{found}`" if found else "MLflow's authorisation has no function for it"


class Checklist:
    """Lines for people, ticked or not."""

    def __init__(self):
        self.lines, self.open = [], 0

    def title(self, text, why):
        self.lines += ["", f"## {text}", "", why, ""]

    def item(self, text, done=None):
        """`done`: whether the tables have it; None where only a person can tell."""
        self.open += not done
        self.lines.append(f"- [{'x' if done else ' '}] {text}")

    def nothing(self):
        if not self.lines[-1]:
            self.lines.append("Nothing.")

    def text(self):
        return "\n".join(self.lines).strip() + "\n"


def compare(before, after, table, rows, committed):
    """The checklist of what `after` has and `before` has not."""
    out = Checklist()
    out.lines.append(f"# MLflow {after.version} compared with {before.version}")
    compare_routes(out, before, after, table)
    compare_fields(out, before, after, committed)
    compare_validators(out, before, after)
    compare_kinds(out, before, after)
    compare_functions(out, before, after)
    compare_clients(out, before, after)
    compare_pages(out, before, after, table)
    compare_environment(out, before, after)
    check_tables(out, before, after, rows, committed)
    check_places(out, after.version)
    out.lines += ["", f"{out.open} open."]
    return out


def without_twins(found):
    """Leaves out the `/ajax-api` twin of each route that is also below `/api`."""
    for method, path in sorted(found, key=lambda route: route[::-1]):
        if (method, path.removeprefix("/ajax-api")) == (method, path) or (method, path.replace("/ajax-api", "/api", 1)) not in found:
            yield method, path


def compare_routes(out, before, after, table):
    out.title("Routes", "Each needs a row in src/mlflow/routes.toml: which resource, which level, which effect. Routes that are "
              "gone keep their rows for the releases that have them.")
    lacking = set(unanswered(after.routes, table))
    for method, path in without_twins(after.routes - before.routes):
        route = f"{method} {path}"
        out.item(f"new: `{route}`; {after.asks(method, path)}", done=route not in lacking)
    for method, path in without_twins(before.routes - after.routes):
        out.item(f"gone: `{method} {path}`")
    out.nothing()


def compare_fields(out, before, after, committed):
    out.title("Request fields", "Each is in src/mlflow/requests.toml after scripts/request-schema. To decide: does it name a "
              "resource (locate), an address (provider), an author (authorship), or something that MLflow acts on later (rules)?")
    for kind in ("messages", "objects"):
        old, new, have = before.schema[kind], after.schema[kind], committed[kind.removesuffix("s")]
        for name in sorted(new):
            if name not in old:
                fields = ", ".join(sorted(new[name])) or "no fields"
                out.item(f"new {kind.removesuffix('s')} `{name}`: {fields}", done=new[name].keys() <= have.get(name, {}).keys())
                continue
            for field in sorted(new[name].keys() - old[name].keys()):
                out.item(f"new field `{name}.{field}` ({new[name][field]})", done=field in have.get(name, {}))
            for field in sorted(name_ for name_ in new[name].keys() & old[name].keys() if new[name][name_] != old[name][name_]):
                out.item(f"`{name}.{field}` is {new[name][field]}, was {old[name][field]}")
            for field in sorted(old[name].keys() - new[name].keys()):
                out.item(f"field `{name}.{field}` is gone")
    for name in sorted(after.schema["enums"]):
        values = after.schema["enums"][name].keys() - before.schema["enums"].get(name, {}).keys()
        if values:
            out.item(f"new values of enum `{name}`: {', '.join(sorted(values))}")
    old, new = by_route(before), by_route(after)
    for route in [f"{method} {path}" for method, path in without_twins({tuple(one.split(" ", 1)) for one in old.keys() & new.keys()})]:
        for what, words in (("query", "query parameter"), ("keys", "key in its handler"), ("reads", "way to read the request")):
            fields = {field for name in new[route].get("messages", ()) for field in after.schema["messages"][name]}
            for one in sorted(set(new[route].get(what) or ()) - set(old[route].get(what) or ()) - fields):
                out.item(f"`{route}`: new {words} `{one}`")
    out.nothing()


def by_route(surface):
    return {f"{route['method']} {route['path']}": route for route in surface.schema["routes"]}


def compare_validators(out, before, after):
    out.title("What MLflow's own authorisation asks", "Read the function and compare it with the row.")
    old, new = before.more["validators"], after.more["validators"]
    changed = changed_functions(before, after, "server.auth")[1]
    common = [(method, path) for method, path in without_twins(after.routes & before.routes)]
    for method, path in common:
        route = f"{method} {path}"
        if old.get(route) != new.get(route):
            out.item(f"`{route}`: `{new.get(route)}`, was `{old.get(route)}`")
    for function in sorted(changed):
        used = [f"{method} {path}" for method, path in common if (new.get(f"{method} {path}") or "").split(".")[0] == function]
        if used:
            more = f" and {len(used) - 3} more" if len(used) > 3 else ""
            out.item(f"`{function}` changed; it decides about {', '.join(f'`{one}`' for one in used[:3])}{more}")
    out.nothing()


def compare_kinds(out, before, after):
    out.title("Resource types of grants", "A new one is a kind: levels, selectors, grant APIs, policy file, explain, golden matrix.")
    for kind in sorted(set(after.more["kinds"]) - set(before.more["kinds"])):
        out.item(f"new: `{kind}`", done=f'"{kind}"' in (ROOT / "src/authz/selector.rs").read_text())
    for kind in sorted(set(before.more["kinds"]) - set(after.more["kinds"])):
        out.item(f"gone: `{kind}`")
    out.nothing()


def changed_functions(before, after, module):
    """Names that are new, changed and gone in one module."""
    old, new = (one.more["functions"].get(module, {}) for one in (before, after))
    return (new.keys() - old.keys(), {name for name in new.keys() & old.keys() if new[name] != old[name]}, old.keys() - new.keys())


def compare_functions(out, before, after):
    out.title("Code of the server", "New modules may act on stored data with the server's rights, or read requests in a new way. "
              "Read what concerns requests first.")
    for module in sorted(set(after.more["functions"]) - set(before.more["functions"])):
        out.item(f"new module `mlflow.{module}`, {len(after.more['functions'][module])} functions")
    for module in sorted(set(before.more["functions"]) - set(after.more["functions"])):
        out.item(f"module `mlflow.{module}` is gone")
    for module in sorted(set(before.more["functions"]) & set(after.more["functions"])):
        if module.startswith("utils."):
            continue
        for words, names in zip(("new", "changed", "gone"), changed_functions(before, after, module), strict=True):
            first = sorted(names, key=lambda name: (not TELLING.search(name), name))
            if first:
                out.item(f"`mlflow.{module}`, {words}: {', '.join(first)}")
    out.nothing()


def compare_clients(out, before, after):
    out.title("The client's HTTP code", "What it repeats after which status decides how the proxy answers while MLflow is away "
              "(`resends_only_after_429` in src/pipeline/record.rs); new headers must be on the allow-list.")
    for module in ("utils.request_utils", "utils.rest_utils"):
        for words, names in zip(("new", "changed", "gone"), changed_functions(before, after, module), strict=True):
            if names:
                out.item(f"`mlflow.{module}`, {words}: {', '.join(sorted(names))}")
    out.nothing()


def compare_pages(out, before, after, table):
    out.title("Addresses that MLflow's pages call", "Open each page as an administrator, as a user and without grants.")
    for address in sorted(set(after.more["pages"]) - set(before.more["pages"])):
        known = any(table.answers(method, f"/{address}") for method in ("GET", "POST"))
        out.item(f"new: `/{address}`", done=known)
    out.nothing()


def compare_environment(out, before, after):
    out.title("Environment variables", "Those of the server can close, open or move features; those of the client can send new headers.")
    for name in sorted(set(after.more["environment"]) - set(before.more["environment"])):
        out.item(f"new: `{name}`")
    out.nothing()


def check_tables(out, before, after, rows, committed):
    out.title("Tables", f"What else the committed tables lack of MLflow {after.version}.")
    for method, path in without_twins({tuple(one.split(" ", 1)) for one in unanswered(after.routes & before.routes, rows)}):
        out.item(f"no row in routes.toml: `{method} {path}`")
    try:
        lines = list(missing(read(after.schema, rows), committed, rows))
    except Problem as problem:
        lines = [line for line in str(problem).splitlines()[1:] if "has no row in routes.toml" not in line]
    for line in lines:
        out.item(line)
    out.nothing()


def check_places(out, version):
    """Where releases are listed by hand."""
    out.title("Lists of releases", "They say which releases are tested.")
    minor = re.match(r"\d+\.\d+", version).group()
    text = (ROOT / "src/upstream/version.rs").read_text()
    below = re.search(r"self < Self::release\((\d+), (\d+)\)", text).groups()
    out.item("`Version::is_known` in src/upstream/version.rs", done=tuple(map(int, minor.split("."))) < tuple(map(int, below)))
    out.item("`RELEASES` in tests/e2e/request_fields.py", done=version in hand.RELEASES)
    for file in ("README.md", "src/mlflow/routes.toml", "tests/e2e/test_coverage.py"):
        named = re.search(rf"\b{re.escape(minor)}\b", (ROOT / file).read_text())
        out.item(f"`{file}` names {minor}", done=bool(named))


def checklist(version, earlier):
    with ThreadPoolExecutor(2) as pool:
        before, after = pool.map(Surface.of, (earlier, version))
    return compare(before, after, Table(), Rows(), tomllib.loads(REQUESTS.read_text()))


def main(version, earlier=None):
    if earlier is None:
        numbers = lambda one: tuple(int(part) for part in re.findall(r"\d+", one)[:3])  # noqa: E731
        earlier = max((one for one in hand.RELEASES if numbers(one) < numbers(version)), key=numbers)
    print(checklist(version, earlier).text(), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
