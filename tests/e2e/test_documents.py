"""What the documents tell people to write is a configuration that starts."""

import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from harness import Tls, binary, plain_environment
from keycloak import EXAMPLE

ROOT = EXAMPLE.parent.parent
README = "README.md"
KEYCLOAK = "docs/keycloak.md"


@pytest.fixture
def places(tmp_path):
    """Where the documents' paths lead here."""
    tls = Tls.make(tmp_path)
    (tmp_path / "secret").write_text("what-keycloak-shows\n")
    return {
        "/etc/mlflow-auth-proxy/tls.crt": tls.cert,
        "/etc/mlflow-auth-proxy/tls.key": tls.key,
        "/etc/mlflow-auth-proxy/policy.toml": EXAMPLE / "policy.toml",
        "/var/lib/mlflow-auth-proxy": tmp_path,
        "/run/secrets/keycloak-client": tmp_path / "secret",
    }


def blocks(document, language, places):
    text = (ROOT / document).read_text()
    for theirs, ours in places.items():
        text = text.replace(theirs, str(ours))
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def check_config(*arguments, **environment):
    argv = [binary(), "check-config", *arguments]
    done = subprocess.run(argv, env=plain_environment(**environment), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def variables(block):
    return dict(re.findall(r"^export (MLFLOW_AUTH_PROXY_\w+)='?([^'\n]*)'?$", block, re.M))


def test_the_readmes_variables_are_enough(places):
    (in_front,) = (found for found in map(variables, blocks(README, "sh", places)) if found)
    (with_keycloak,) = (found for found in map(variables, blocks(KEYCLOAK, "sh", places)) if found)
    check_config(**in_front)
    check_config(**in_front | with_keycloak)


def test_the_configuration_for_a_keycloak_of_ones_own_is_enough(places, tmp_path):
    (found,) = blocks(KEYCLOAK, "toml", places)
    (tmp_path / "proxy.toml").write_text(found)
    check_config("--config", tmp_path / "proxy.toml")


def test_the_configuration_behind_a_reverse_proxy_is_enough(places, tmp_path):
    (found,) = blocks("docs/reverse-proxies.md", "toml", places)
    (tmp_path / "proxy.toml").write_text(found)
    check_config("--config", tmp_path / "proxy.toml")


OLD_TABLES = """
CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, password_hash TEXT, is_admin BOOLEAN);
INSERT INTO users VALUES (1, 'admin', 'hash', 1), (2, 'ann o''hara', 'hash', 0), (3, 'bob', 'hash', 1);
CREATE TABLE experiment_permissions (id INTEGER PRIMARY KEY, experiment_id TEXT, user_id INTEGER, permission TEXT);
INSERT INTO experiment_permissions VALUES (1, '12', 2, 'MANAGE');
CREATE TABLE scorer_permissions (id INTEGER PRIMARY KEY, experiment_id TEXT, scorer_name TEXT, user_id INTEGER, permission TEXT);
INSERT INTO scorer_permissions VALUES (1, '12', 'is it / good?', 2, 'READ');
"""
# MLflow 3.12 and later; the tables from before stay, and are not read any more.
ROLES = """
CREATE TABLE roles (id INTEGER PRIMARY KEY, name TEXT, workspace TEXT, description TEXT);
INSERT INTO roles VALUES (1, '__user_2__', 'default', NULL), (2, 'analysts', 'default', NULL), (3, 'others', 'elsewhere', NULL);
CREATE TABLE role_permissions (id INTEGER PRIMARY KEY, role_id INTEGER, resource_type TEXT, resource_pattern TEXT, permission TEXT);
INSERT INTO role_permissions VALUES (1, 1, 'experiment', '12', 'EDIT'), (2, 2, 'registered_model', '*', 'READ');
CREATE TABLE user_role_assignments (id INTEGER PRIMARY KEY, user_id INTEGER, role_id INTEGER);
INSERT INTO user_role_assignments VALUES (1, 2, 1), (2, 3, 2), (3, 3, 3);
"""


@pytest.mark.parametrize(("script", "grants", "roles"), [
    (OLD_TABLES, {("ann o'hara", "experiment", "12", "MANAGE"), ("ann o'hara", "scorer", "12/is%20it%20%2F%20good%3F", "READ")}, []),
    (OLD_TABLES + ROLES, {("ann o'hara", "experiment", "12", "EDIT")}, ["analysts"]),
], ids=["before roles", "with roles"])
def test_what_is_exported_from_basic_auth_can_be_imported(tmp_path, script, grants, roles):
    with sqlite3.connect(tmp_path / "basic_auth.db") as database:
        database.executescript(script)
    exported = subprocess.run(
        [sys.executable, ROOT / "examples/basic-auth/export.py", f"sqlite:///{tmp_path}/basic_auth.db"],
        capture_output=True, text=True, check=True, timeout=60)
    (tmp_path / "mlflow-auth-proxy").symlink_to(binary())
    # No MLflow answers there: grants are not compared with its resources.
    env = plain_environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}", MLFLOW_AUTH_PROXY_STORE__URL=f"sqlite://{tmp_path}/store.db",
        MLFLOW_AUTH_PROXY_UPSTREAM__URL="http://127.0.0.1:9")

    def run(*argv, **more):
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, **more)

    first = run("mlflow-auth-proxy", "user", "create", "admin", "--admin", "--password-stdin", input="first-password\n")
    assert first.returncode == 0, first.stderr
    imported = run("sh", input=exported.stdout)
    assert [line for line in imported.stderr.splitlines() if line.startswith("error")] == ["error: user `admin` already exists"]
    users = json.loads(run("mlflow-auth-proxy", "user", "list", "--json").stdout)["users"]
    assert {(user["username"], user["is_admin"]) for user in users} == {("admin", True), ("ann o'hara", False), ("bob", True)}
    given = json.loads(run("mlflow-auth-proxy", "grant", "list", "--json").stdout)["grants"]
    own = {(grant["subject"], grant["resource_type"], grant["resource"], grant["permission"])
           for grant in given if grant["subject_type"] == "user"}
    assert own == grants
    named = json.loads(run("mlflow-auth-proxy", "role", "list", "--json").stdout)["roles"]
    assert [(role["name"], role["members"]) for role in named] == [(name, ["bob"]) for name in roles]
