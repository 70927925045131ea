"""Prints, as JSON, what a proxy must know of the MLflow whose Python runs this, beside its routes and request fields.

Output: `version`; `validators`, by `METHOD path`: the function of MLflow's own authorisation that decides about the route, or
null; `functions`, by module: a digest of each function of the server, its authorisation and the client's HTTP code; `kinds`: the
resource types that grants can have; `environment`: the variables that MLflow reads; `pages`: the addresses that its pages call.

Runs inside that release's environment, in a folder of its own. Standard input: the routes, `METHOD path` a line.
"""

import ast
import hashlib
import inspect
import json
import os
import re
import secrets
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", "only-for-listing")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_AUTH_ADMIN_PASSWORD", secrets.token_hex(16))

import mlflow  # noqa: E402
from mlflow.server import auth  # noqa: E402
from mlflow.version import VERSION  # noqa: E402

HOME = Path(mlflow.__file__).parent
# Where the server decides, acts and talks; where the client decides what it sends again.
MODULES = ["server/**/*.py", "utils/rest_utils.py", "utils/request_utils.py"]


def functions():
    found = {}
    for path in sorted(path for pattern in MODULES for path in HOME.glob(pattern)):
        module = str(path.relative_to(HOME).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        found[module] = dict(digests(ast.parse(path.read_text())))
    return found


def digests(tree, prefix=""):
    """A digest of each function, method and constant; comments, docstrings and places do not count."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from digests(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            yield prefix + node.name, digest(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id.lstrip("_").isupper():
                yield prefix + target.id, digest(node)


def digest(node):
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()[:16]


def validators(routes):
    """Asks the plugin for each route as it asks itself for a request."""
    flask = getattr(auth, "_find_validator", None)
    fastapi = getattr(auth, "_find_fastapi_validator", None)
    for method, path in routes:
        sample = re.sub(r"<int:[a-z_]+>", "7", path)
        sample = re.sub(r"<[^>]+>|\{[^}]+\}", "one", sample)
        found = None
        if flask:
            found = flask(SimpleNamespace(path=sample, method=method))
        if found is None and fastapi and len(inspect.signature(fastapi).parameters) == 2:
            found = fastapi(sample, method)
        elif found is None and fastapi:
            found = fastapi(sample)
        yield f"{method} {path}", found and getattr(found, "__qualname__", type(found).__name__)


def kinds():
    try:
        from mlflow.server.auth import permissions
    except ImportError:
        return []
    return sorted(value for name, value in vars(permissions).items()
                  if name.startswith("RESOURCE_TYPE_") and isinstance(value, str))


def environment():
    import mlflow.environment_variables as variables

    return sorted(name for name in vars(variables) if re.fullmatch(r"_?MLFLOW_[A-Z0-9_]+", name))


def pages():
    """Addresses of the API in the scripts of MLflow's pages, as far as they are written out."""
    found = set()
    for script in (HOME / "server/js/build").rglob("*.js"):
        text = script.read_text(errors="replace")
        found.update(re.findall(r"ajax-api/[0-9.]+/mlflow/[A-Za-z0-9/_-]+[A-Za-z0-9]", text))
    return sorted(found)


print(json.dumps({
    "version": VERSION,
    "validators": dict(validators([line.split(" ", 1) for line in sys.stdin.read().splitlines()])),
    "functions": functions(),
    "kinds": kinds(),
    "environment": environment(),
    "pages": pages(),
}))
