"""What the proxy has an answer for: its route table, and the folders that it serves itself.

Both are read from the source, so this cannot fall behind it. Matching follows `matchit`, which the proxy uses.
"""

import re
import subprocess
import tomllib
from dataclasses import dataclass, field

from harness import ROOT, plain_environment


@dataclass
class Path:
    """One path of the table, with the methods it is known for."""

    pattern: str
    methods: set = field(default_factory=set)

    def __post_init__(self):
        parts = re.split(r"(\{\*?[a-z_]+\})", self.pattern)
        self.regex = re.compile("".join(map(self._part, parts)))
        # A literal goes before @{x} and {x}:suffix, these before {x}, that before {*x}: segment by segment.
        self.rank = [0 if "{" not in s else 3 if s.startswith("{*") else 2 if s[0] + s[-1] == "{}" else 1
                     for s in self.pattern.split("/")]

    @staticmethod
    def _part(text):
        if not text.startswith("{"):
            return re.escape(text)
        return ".+" if text.startswith("{*") else "[^/]+?"


class Table:
    """The route table and what is answered without MLflow."""

    def __init__(self):
        rows = tomllib.loads((ROOT / "src/mlflow/routes.toml").read_text())["operation"]
        paths = {}
        for row in rows:
            methods, path = row["route"].split(" ")
            twins = [path, "/ajax-api" + path.removeprefix("/api")] if path.startswith("/api/") else [path]
            for twin in twins:
                paths.setdefault(twin, Path(twin)).methods.update(methods.split(","))
        self.paths = sorted(paths.values(), key=lambda path: path.rank)
        self.folders = tuple(self._folders())

    @staticmethod
    def _folders():
        """The constants behind `routes::owns`."""
        routes = (ROOT / "src/web/routes.rs").read_text()
        owned = re.search(r"const OWNED: \[&str; \d+\] = \[(.*?)\];", routes, re.DOTALL).group(1)
        families = (ROOT / "src/api/mlflow/resource_permissions.rs").read_text()
        folders = re.findall(r'"([^"]+)"', owned) + re.findall(r'folder: "([^"]+)"', families)
        assert len(folders) >= 9, "the folders of src/web/routes.rs were not found"
        for twin in ("/api", "/ajax-api"):
            yield from (twin + folder for folder in folders)

    def owns(self, path):
        return path in ("/auth", "/signup") or path.startswith(("/auth/", *self.folders))

    def answers(self, method, path):
        """Whether this request finds a row, or is ours."""
        if self.owns(path):
            return True
        found = next((known for known in self.paths if known.regex.fullmatch(path)), None)
        return found is not None and method in found.methods


def routes(python, folder):
    """Every (method, path) of the MLflow in this environment."""
    done = subprocess.run(
        [python, ROOT / "tests/e2e/routes_of.py"], capture_output=True, text=True, timeout=180, cwd=folder,
        env=plain_environment(), stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [tuple(line.split(" ", 1)) for line in done.stdout.splitlines()]
    # A short list would make the test pass for the wrong reason.
    assert len(found) > 100 and ("POST", "/api/2.0/mlflow/runs/create") in found, done.stdout
    return found


def samples(path):
    """Paths that this route of Flask or FastAPI answers."""
    # The name of an MCP server is `namespace/slug`; a version or an alias with a slash in it has no row.
    path = re.sub(r"(/mcp-servers)/\{[a-z_]+:path\}", r"\1/space/server", path)
    path = re.sub(r"/\{(version|alias):path\}", "/one", path)
    path = re.sub(r"<int:[a-z_]+>", "7", path)
    path = re.sub(r"<(?:string:)?[a-z_]+>|\{[a-z_]+\}", "one", path)
    rest = r"<path:[a-z_]+>|\{[a-z_]+:path\}"
    made = [re.sub(rest, value, path) for value in ("one", "one/two/three")] if re.search(rest, path) else [path]
    # 2.22 has `{assessment.trace_id}` in a path of Flask's, where it is no parameter.
    assert not re.search(r"[<>]|\{(?![a-z_]+\.)", "".join(made)), f"a parameter of {path} is not understood"
    return made


def unanswered(found, table):
    """The routes for which the proxy has neither a row nor an answer of its own, `METHOD path` each."""
    return sorted(f"{method} {path}" for method, path in found
                  if not all(table.answers(method, sample) for sample in samples(path)))
