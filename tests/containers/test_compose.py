"""deploy/compose: each part started as its documents say, and used by a real client."""

import hashlib
import json
import re
import sqlite3
import subprocess
import sys

import pytest
import requests

from compose import CLIENT, Compose
from engine import ROOT
from harness import Process, plain_environment, unique, wait_until
from keycloak import FORM, Visitor

PYTHON = "python:3.12-slim-bookworm"


def running(engine, folder, *parts, **settings):
    """The parts, started with the commands of docs/compose.md."""
    project = Compose(engine, folder, *parts, **settings)
    try:
        project.prepare()
        project.up()
        yield project
    finally:
        project.down()


@pytest.fixture(scope="module")
def embedded(engine, image, tmp_path_factory):
    yield from running(engine, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def databases(engine, image, tmp_path_factory):
    yield from running(engine, tmp_path_factory.mktemp("databases"), "postgres", "s3", "monitoring")


def check_closed(project, *services):
    """What belongs to MLflow publishes no port and is not reached from the network of the published ones."""
    for service in services:
        container = project.services()[service]
        assert not any((container["NetworkSettings"]["Ports"] or {}).values()), service
        address = container["NetworkSettings"]["Networks"][f"{project.name}_mlflow"]["IPAddress"]
        port = {"mlflow": 5000, "s3": 9000, "postgres": 5432}[service]
        probe = f"import socket; socket.create_connection(('{address}', {port}), 3)"
        asked = project.engine.run("run", "--rm", "--network", f"{project.name}_outside", PYTHON, "python", "-c", probe, check=False)
        assert asked.returncode != 0 and ("timed out" in asked.stdout or "unreachable" in asked.stdout), asked.stdout
    # It has no way out either, such as to the proxy's address in the other network.
    address = project.services()["proxy"]["NetworkSettings"]["Networks"][f"{project.name}_outside"]["IPAddress"]
    out = f"import socket; socket.create_connection(('{address}', 8080), 3)"
    tried = project.run("exec", "-T", "mlflow", "python", "-c", out, check=False).stdout
    assert "timed out" in tried or "unreachable" in tried, tried


def check_hardened(project, *services):
    for service in services:
        host = project.services()[service]["HostConfig"]
        assert host["CapDrop"] == ["ALL"] and "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}, service
        assert host["Memory"] and host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert project.services()[service]["State"]["Health"]["Status"] == "healthy", service


def check_no_password_is_shown(project):
    shown = json.dumps(list(project.services().values())) + project.run("logs").stdout
    for file in (project.folder / "secrets").iterdir():
        if file.is_file() and file.name not in ("realm.json", "s3-access-key"):
            secret = re.split("(?:password|key)=", file.read_text())[-1].strip()
            assert secret not in shown, file.name


def train_while(project, folder, change):
    """Trains with a client's own retries while `change` goes on; nothing may be lost."""
    end = folder / unique("end")
    environment = plain_environment(
        MLFLOW_TRACKING_URI=project.url, MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD=project.secret("admin-password")
    )
    argv = [sys.executable, "-W", "ignore", CLIENT / "restart_client.py", project.new_experiment(), end]
    client = Process(argv, folder / "client.log", environment, folder)
    try:
        wait_until(lambda: client.check_alive() or "\nrun " in client.output(), 120, "the first run", every=0.2)
        change()
        end.touch()
        assert client.child.wait(300) == 0, client.output()[-4000:]
    finally:
        client.stop()
    told = json.loads(next(line for line in reversed(client.output().splitlines()) if line.startswith("{")))
    assert not told["lost"] and not told["lacking"], (told, client.output()[-3000:], project.logs())
    assert len(told["runs"]) == told["tried"]
    return told


def test_the_embedded_parts_serve_a_client_and_are_closed(embedded):
    check_hardened(embedded, "proxy", "mlflow")
    assert all(container["HostConfig"]["ReadonlyRootfs"] for container in embedded.services().values())
    embedded.model()
    assert "logged run" in embedded.python(ROOT / "examples" / "python-client" / "log_and_search.py")
    assert requests.get(embedded.url, timeout=30).status_code == 401
    check_closed(embedded, "mlflow")
    check_no_password_is_shown(embedded)


def test_secrets_are_for_their_owner_and_stay(embedded):
    folder = embedded.folder / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    embedded.shell("./prepare.sh")
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("service", ["mlflow", "proxy"])
def test_a_restart_costs_a_client_nothing(embedded, tmp_path, service):
    def change():
        embedded.run("restart", service)
        embedded.wait_healthy(service)

    train_while(embedded, tmp_path, change)


def test_down_and_up_keeps_everything(embedded):
    made = embedded.model()
    embedded.run("down")
    embedded.up()
    embedded.load(made)


def check_backup_and_restore(project):
    before = project.model()
    folder = project.shell("./backup.sh").stdout.split()[-1]
    after = project.model()
    project.shell("./restore.sh", folder)
    project.load(before)
    # What came after the backup is gone.
    answer = project.admin().get(f"{project.url}/api/2.0/mlflow/runs/get", params={"run_id": after["run"]}, timeout=60)
    assert answer.status_code in (403, 404), answer.text
    for file in (project.folder / folder).iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_a_backup_restores_embedded_databases_and_artifacts(embedded):
    check_backup_and_restore(embedded)


def test_an_upgrade_migrates_the_store_of_the_schema_before(embedded, tmp_path):
    made = embedded.model()
    folder = embedded.shell("./backup.sh").stdout.split()[-1]
    old = earlier_store(embedded.folder / folder / "store.db", tmp_path / "store.db")
    embedded.run("stop", "proxy")
    replace = "umask 077; rm -f /data/store.db*; cat >/data/store.db"
    with open(old, "rb") as file:
        embedded.run("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "proxy", "-euc", replace, stdin=file)
    embedded.up()
    migrations = len(list((ROOT / "migrations" / "sqlite").glob("*.sql")))
    asked = 'umask 077; mlflow-auth-proxy store backup /data/check.db; mlflow-auth-proxy store check /data/check.db; rm /data/check.db'
    assert f"schema {migrations}, " in embedded.run("exec", "-T", "proxy", "sh", "-euc", asked).stdout
    # Its administrator signs in as before.
    embedded.load(made)


def earlier_store(current, path):
    """A store of the schema before this one, with the administrator of the current one."""
    (password,) = sqlite3.connect(current).execute("SELECT password FROM users WHERE name = 'admin'").fetchone()
    store = sqlite3.connect(path)
    store.execute(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL"
        " DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)"
    )
    for file in sorted((ROOT / "migrations" / "sqlite").glob("*.sql"))[:-1]:
        store.executescript(file.read_text())
        row = (int(file.name[:4]), file.stem[5:].replace("_", " "), True, hashlib.sha384(file.read_bytes()).digest(), -1)
        store.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (?, ?, ?, ?, ?)", row)
    store.execute("INSERT INTO users (name, password, admin, created) VALUES ('admin', ?, TRUE, 0)", (password,))
    store.commit()
    store.close()
    return path


def test_postgresql_and_s3_serve_a_client_and_are_closed(databases):
    check_hardened(databases, "proxy", "mlflow", "postgres", "s3", "prometheus")
    databases.model()
    # The artifacts are in the bucket, and both databases in PostgreSQL.
    assert databases.run("exec", "-T", "s3", "find", "/data/mlflow", "-name", "MLmodel").stdout
    assert not databases.run("exec", "-T", "proxy", "ls", "/data").stdout.split()
    check_closed(databases, "mlflow", "postgres", "s3")
    check_no_password_is_shown(databases)


def test_prometheus_scrapes_the_proxy_and_knows_the_rules(databases):
    url = f"http://127.0.0.1:{databases.settings['PROMETHEUS_PORT']}/api/v1"

    def scraped():
        targets = requests.get(f"{url}/targets", timeout=10).json()["data"]["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    wait_until(scraped, 60, "the proxy is scraped", every=1)
    assert requests.get(f"{url}/rules", timeout=10).json()["data"]["groups"]


@pytest.mark.parametrize("service", ["postgres", "s3", "mlflow"])
def test_a_restart_with_databases_costs_a_client_nothing(databases, tmp_path, service):
    def change():
        databases.run("restart", service)
        databases.wait_healthy(service)
        databases.wait_healthy("proxy")

    train_while(databases, tmp_path, change)


def test_a_backup_restores_postgresql_and_the_bucket(databases):
    check_backup_and_restore(databases)


# ---- Keycloak


class Realm:
    """What `Visitor` needs of a Keycloak."""

    people = {name: name for name in ("alice", "bob", "carol")}


@pytest.fixture(scope="module")
def keycloak(engine, image, tmp_path_factory):
    yield from running(engine, tmp_path_factory.mktemp("keycloak"), "keycloak")


def test_users_of_keycloak_sign_in_and_have_their_groups(keycloak):
    check_hardened(keycloak, "proxy", "mlflow", "keycloak")
    alice, carol = Visitor(keycloak.url, Realm()), Visitor(keycloak.url, Realm())
    # Keycloak's first answers take longer than the proxy waits.
    wait_until(lambda: FORM in Visitor(keycloak.url, Realm()).begin().text, 180, "Keycloak's form", every=1)
    alice.sign_in("alice")
    assert alice.me()["username"] == "alice@example.com" and "/ml/team-a" in alice.me()["groups"], alice.me()
    carol.sign_in("carol")
    assert carol.me()["is_admin"] is True, carol.me()
    # The realm's secrets are not those of the example, which are public.
    assert "demo-secret" not in (keycloak.folder / "secrets" / "realm.json").read_text()
    check_closed(keycloak, "mlflow")
    # MLflow does not reach Keycloak's network.
    assert "mlflow" not in {name.rpartition("_")[2] for name in keycloak.services()["keycloak"]["NetworkSettings"]["Networks"]}


# ---- TLS


def over_tls(project, authority):
    """The proxy's answer to its administrator over TLS, and the certificate's authority is checked."""
    url = f"https://localhost:{project.settings['HTTPS_PORT']}"
    session = project.admin()
    session.verify = str(authority)
    answer = session.get(f"{url}/auth/api/v1/me", timeout=30)
    assert answer.status_code == 200, answer.text
    # Plain HTTP is closed.
    with pytest.raises(requests.ConnectionError):
        requests.get(project.url, timeout=5)


def test_the_proxy_itself_serves_tls(engine, image, tmp_path):
    for project in running(engine, tmp_path / "tls", "tls"):
        check_hardened(project, "proxy", "mlflow")
        over_tls(project, project.folder / "secrets" / "tls" / "ca.crt")


def test_caddy_serves_tls_in_front(engine, image, tmp_path):
    for project in running(engine, tmp_path / "caddy", "caddy"):
        assert project.services()["caddy"]["State"]["Health"]["Status"] == "healthy"
        authority = tmp_path / "root.crt"
        root = "/data/caddy/pki/authorities/local/root.crt"
        authority.write_text(project.run("exec", "-T", "caddy", "cat", root).stdout)
        over_tls(project, authority)
        # The client's address reaches the log, not Caddy's.
        line = [line for line in project.run("logs", "proxy").stdout.splitlines() if '"user":"admin"' in line][-1]
        gateway = project.services()["caddy"]["NetworkSettings"]["Networks"][f"{project.name}_edge"]
        assert gateway["IPAddress"] not in line, line
