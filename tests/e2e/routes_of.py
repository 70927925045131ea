"""Prints every route of the MLflow whose Python runs this, `METHOD path` a line: its Flask app, what its own
authorisation adds, and its FastAPI routers where it has them.

Runs inside that version's environment, in a folder that may be littered: MLflow's authorisation makes its database there.
"""

import os
import secrets

os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", "only-for-listing")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_AUTH_ADMIN_PASSWORD", secrets.token_hex(16))

from mlflow.server import app  # noqa: E402


def flask_routes():
    for rule in app.url_map.iter_rules():
        for method in rule.methods:
            yield method, rule.rule


def fastapi_routes():
    try:
        from mlflow.server.fastapi_app import create_fastapi_app
    except ImportError:  # 2.x has none
        return
    for route in walk(create_fastapi_app().routes):
        for method in route.methods or ():
            yield method, route.path


def walk(routes):
    for route in routes:
        if getattr(route, "methods", None):
            yield route
        elif hasattr(route, "effective_route_contexts"):
            # Newer FastAPI keeps a router that was included as one entry.
            yield from route.effective_route_contexts()


def with_authorisation():
    """The routes that `--app-name basic-auth` adds to the same Flask app."""
    from mlflow.server import auth

    auth.create_app(app)


found = set(flask_routes()) | set(fastapi_routes())
with_authorisation()
found |= set(flask_routes())
for method, path in sorted(found, key=lambda route: route[::-1]):
    if method not in ("HEAD", "OPTIONS"):
        print(method, path)
