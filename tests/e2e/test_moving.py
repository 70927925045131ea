"""Copies between SQLite and PostgreSQL, backups and restores, as an operator makes them."""

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import threading
import time

import pytest

from harness import ADMIN, ADMIN_PASSWORD, ROOT, Person, Proxy, binary, free_port, new_password, secret, unique, wait_until

API = "/api/2.0/mlflow"


class Life:
    """Everything that has to survive: credentials of every kind, grants, roles, and a form that a browser has open."""

    def __init__(self, front):
        self.front = front
        self.alice, self.bob = front.person("alice"), front.person("bob")
        created = self.alice.ok("POST", f"{API}/experiments/create", {"name": unique("moved")})
        self.experiment = created["experiment_id"]
        self.shared = self.alice.ok("POST", f"{API}/experiments/create", {"name": unique("by-role")})["experiment_id"]
        self.alice.grant(self.bob, "experiment", self.experiment, "READ")
        admin, role = front.admin(), unique("role")
        made = admin.ok("POST", "/api/3.0/mlflow/roles/create", {"name": role, "workspace": "default"})["role"]["id"]
        permission = {"role_id": made, "resource_type": "experiment", "resource_pattern": self.shared, "permission": "READ"}
        admin.ok("POST", "/api/3.0/mlflow/roles/permissions/add", permission)
        admin.ok("POST", "/api/3.0/mlflow/roles/assign", {"role_id": made, "username": self.bob.name})
        self.token = self.alice.with_token(self.alice.token()["token"], bearer=True)
        revoked = self.alice.token()
        self.alice.delete(f"/auth/api/v1/tokens/{revoked['id']}")
        self.revoked = self.alice.with_token(revoked["token"], bearer=True)
        # The last IDs of their tables, which must not be given again.
        self.gone = front.person("gone")
        admin.ok("DELETE", f"{API}/users/delete", {"username": self.gone.name})
        form = {"username": self.alice.name, "password": self.alice.password, "return_to": "/"}
        signed_in = front.anonymous().call("POST", "/auth/login", data=form, headers={"Origin": front.url})
        # A browser sends its cookie to loopback over plain HTTP as well.
        self.cookie = secret(signed_in.headers["Set-Cookie"].split(";")[0])
        self.form_token = re.search(r'name="form_token" value="([^"]+)"', self.browser("GET", "/auth/account").text)[1]
        self.highest = front.rows("SELECT seq FROM sqlite_sequence WHERE name = 'users'")[0][0]

    def browser(self, method, path, **more):
        return self.front.anonymous().call(method, path, headers={"Cookie": self.cookie, "Origin": self.front.url}, **more)

    def users(self):
        return {user["username"]: user for user in json.loads(self.front.cli("user", "list", "--json").stdout)["users"]}

    def check(self):
        """The same requests are answered the same as before the move."""
        status = lambda person, experiment: person.get(f"{API}/experiments/get", {"experiment_id": experiment}).status_code
        seen = [(status(person, self.experiment), status(person, self.shared))
                for person in (self.alice, self.bob, self.token, self.revoked, self.gone)]
        assert seen == [(200, 200), (200, 200), (200, 200), (401, 401), (401, 401)]
        assert self.bob.post(f"{API}/experiments/update", {"experiment_id": self.experiment, "new_name": "x"}).status_code == 403
        me = self.browser("GET", "/auth/api/v1/me")
        assert me.status_code == 200 and self.alice.name in me.text, me.text
        form = {"form_token": self.form_token, "name": unique("page"), "expires_in_days": "3"}
        made = self.browser("POST", "/auth/account/tokens", data=form)
        assert made.status_code == 200 and "mlap_" in made.text, made.text[:2000]
        with self.alice.mlflow() as client:
            run = client.create_run(self.experiment)
            client.log_metric(run.info.run_id, "m", 1.0)
        new = self.front.person("new")
        given = self.users()[new.name]["id"]
        assert given > self.highest, "the ID of a deleted user is not given again"
        self.highest = given


@pytest.fixture(scope="module")
def front(mlflow_server, tmp_path_factory):
    one = Proxy(tmp_path_factory.mktemp("moving"), mlflow_server.url, settings={"AUTHN__PASSWORD_FORM": "true"}).start()
    yield one
    one.stop()


def moved(front, url):
    front.settings["STORE__URL"] = url
    return front.start()


def test_everything_works_after_moving_to_postgresql_and_back(front, postgres, tmp_path):
    life = Life(front)
    life.check()
    first, database = front.settings["STORE__URL"], postgres.database()
    copy = ("store", "copy", "--from", first, "--to", database)
    refused = front.cli(*copy, check=False)
    assert refused.returncode == 1 and "the source is in use" in refused.stderr, refused.stderr
    assert front.stop() == 0
    copied = json.loads(front.cli(*copy, "--json").stdout)["rows"]
    assert copied["users"] >= 4 and copied["sessions"] == 1 and copied["audit"] > 10, copied
    moved(front, database)
    life.check()
    for arguments, why in ((copy, "the target is in use"), (("store", "copy", "--from", database, "--to", first), "the source is in use")):
        refused = front.cli(*arguments, check=False)
        assert refused.returncode == 1 and why in refused.stderr, refused.stderr
    backup = tmp_path / "backup.db"
    front.cli("store", "backup", str(backup))
    assert backup.stat().st_mode & 0o777 == 0o600
    assert front.stop() == 0
    refused = front.cli(*copy, check=False)
    assert refused.returncode == 1 and "the target is not empty" in refused.stderr and "rows in users" in refused.stderr, refused.stderr
    folder = front.folder
    back = f"sqlite://{folder}/back.db"
    said = front.cli("store", "copy", "--from", database, "--to", back)
    assert "set store.url" in said.stdout
    assert (folder / "back.db").stat().st_mode & 0o777 == 0o600 and not (folder / "back.db-wal").exists()
    moved(front, back)
    life.check()
    assert front.cli("store", "check").stdout.endswith(" 0 faults\n")
    (entry,) = json.loads(front.cli("audit", "list", "--action", "store.copy", "--limit", "1", "--json").stdout)["entries"]
    assert entry["actor"] == "command-line" and database in entry["detail"]


def test_a_password_comes_from_a_file_and_is_never_shown(front, postgres, tmp_path):
    database, right, wrong = postgres.database().rsplit("/", 1)[1], new_password(), new_password()
    postgres.role_with_password("scram", right)
    postgres.sql("postgres", f"ALTER DATABASE {database} OWNER TO scram")
    url = f"{postgres.url}/{database}".replace("postgres@", "scram@")
    files = {"right": f"{right}\n", "wrong": wrong}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    source = tmp_path / "source.db"
    made = front.cli("user", "create", "root", "--admin", "--password-stdin", "--store", f"sqlite://{source}", stdin=f"{new_password()}\n")
    assert made.returncode == 0
    copy = ("store", "copy", "--from", f"sqlite://{source}", "--to")
    for arguments, code, why in (
        ((url, "--to-password-file", str(tmp_path / "wrong")), 1, "--to-password-file"),
        ((url,), 1, "--to-password-file"),
        ((url, "--to-password-file", str(tmp_path / "missing")), 2, "--to-password-file: "),
        ((url.replace("scram@", f"scram:{wrong}@"),), 2, "--to: must not contain a password: use --to-password-file"),
        ((f"sqlite://{tmp_path}/x.db", "--to-password-file", str(tmp_path / "right")), 2, "has no effect"),
        (("mysql://x",), 2, "--to: must start with sqlite://"),
        ((f"sqlite://{source}",), 1, "the same store"),
        ((url, "--to-password-file", str(tmp_path / "right")), 0, ""),
    ):
        done = front.cli(*copy, *arguments, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == code and why in said and right not in said and wrong not in said, (arguments, said)
    assert not (tmp_path / "x.db").exists()
    missing = front.cli("store", "copy", "--from", f"sqlite://{tmp_path}/none.db", "--to", url, check=False)
    assert missing.returncode == 1 and "there is no store" in missing.stderr and not (tmp_path / "none.db").exists()


def test_backups_are_consistent_while_the_store_changes(front, tmp_path):
    stop, made = threading.Event(), []

    def change():
        while not stop.is_set():
            name = unique("busy")
            front.admin().ok("POST", "/api/3.0/mlflow/roles/create", {"name": name, "workspace": "default"})
            made.append(name)

    worker = threading.Thread(target=change)
    worker.start()
    try:
        wait_until(lambda: len(made) > 3, 30, "changes are made")
        for number in range(3):
            before, file = set(made), tmp_path / f"{number}.db"
            front.cli("store", "backup", str(file))
            front.cli("store", "check", str(file))
            shown = front.cli("role", "list", "--json", "--store", f"sqlite://{shutil.copy(file, tmp_path / 'copy.db')}")
            roles = {role["name"] for role in json.loads(shown.stdout)["roles"]}
            assert before <= roles
            for end in ("", "-wal", "-shm"):
                (tmp_path / f"copy.db{end}").unlink(missing_ok=True)
    finally:
        stop.set()
        worker.join(30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.db", "1.db", "2.db"]


def section(title):
    """The commands of a section of the operator's document."""
    text = (ROOT / "docs" / "maintenance.md").read_text()
    return re.findall(r"```sh\n(.*?)```", text.split(f"\n## {title}\n")[1].split("\n## ")[0], re.S)


class Operator:
    """Types what the document says, on the machine of a proxy."""

    def __init__(self, front, backups, **environment):
        self.front, self.environment = front, front.environment | environment
        # The document's `mlflow-auth-proxy` is the one under test.
        tools = front.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "mlflow-auth-proxy").unlink(missing_ok=True)
        (tools / "mlflow-auth-proxy").symlink_to(binary())
        self.environment["PATH"] = os.pathsep.join([str(tools), environment.get("PATH", ""), os.environ["PATH"]])
        self.places = {"/backup": str(backups), "mv store.db*": "mv proxy.db*"}

    def types(self, block, **places):
        said = []
        for line in block.replace("\\\n", " ").splitlines():
            for theirs, ours in (self.places | places).items():
                line = line.replace(theirs, ours)
            command = shlex.split(line, comments=True)
            if command[:1] == ["systemctl"]:
                {"stop": self.front.stop, "start": self.front.start}[command[1]]()
                continue
            done = subprocess.run(["sh", "-c", line], cwd=self.front.folder, env=self.environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
        return said


def test_the_restore_drill_of_the_document(mlflow_server, postgres, tmp_path):
    """docs/maintenance.md, word by word: back up, lose something, restore it; then restore into PostgreSQL."""
    backups = tmp_path / "backups"
    backups.mkdir()
    front = Proxy(tmp_path / "proxy", mlflow_server.url).start()
    try:
        kept = front.person("kept")
        server = dict(zip(("PGHOST", "PGPORT"), postgres.url.split("@")[1].split(":")))
        operator = Operator(front, backups, **server, PGUSER="postgres", PATH=postgres.programs)
        (back_up,) = section("Back up")
        operator.types(back_up)
        (backup,) = backups.iterdir()
        later = front.person("later")
        front.admin().ok("DELETE", f"{API}/users/delete", {"username": kept.name})
        in_sqlite, in_postgres = section("Restore")
        said = operator.types(in_sqlite, **{"store-2026-11-30.db": backup.name})
        assert "store.restore" in said[-1], said
        who = lambda person: person.get("/auth/api/v1/me").status_code
        assert (who(kept), who(later)) == (200, 401)

        postgres.sql("postgres", "DROP DATABASE IF EXISTS mlflow_auth_restored")
        with_role = "SELECT 1 FROM pg_roles WHERE rolname = 'mlflow_auth'"
        if not postgres.sql("postgres", with_role):
            postgres.sql("postgres", "CREATE ROLE mlflow_auth LOGIN")
        places = {"store-2026-11-30.db": backup.name, "db.example.com:5432": postgres.url.split("@")[1], "?sslmode=verify-full": ""}
        operator.types(in_postgres, **places)
        moved(front, f"postgres://mlflow_auth@{postgres.url.split('@')[1]}/mlflow_auth_restored")
        assert (who(kept), who(later)) == (200, 401)
        assert who(Person(front, ADMIN, ADMIN_PASSWORD)) == 200
    finally:
        front.stop()


def test_mistakes_at_night_are_refused_with_what_to_do(tmp_path):
    """Without an MLflow: a wrong file, a folder that cannot be written, a store in use, a command that is killed."""
    front = Proxy(tmp_path / "proxy", f"http://127.0.0.1:{free_port()}").start("/livez")
    try:
        good, text = tmp_path / "good.db", tmp_path / "text.db"
        front.cli("store", "backup", str(good))
        text.write_text("not a database")
        for arguments, why in (
            (("backup", str(good)), "--overwrite"),
            (("backup", str(tmp_path / "no" / "b.db")), "No such file"),
            (("backup", str(front.store), "--overwrite"), "choose another name"),
            (("backup", "/dev/null", "--overwrite"), "choose another name"),
            (("backup", "/proc/b.db"), "/proc/b.db"),
            (("restore", str(good)), "another process has the file open; stop the proxy"),
            (("restore", str(text)), "is not a backup"),
            (("restore", str(tmp_path / "none.db")), "No such file"),
            (("check", str(text)), "is not a backup"),
        ):
            done = front.cli("store", *arguments, check=False)
            assert done.returncode == 1 and why in done.stderr and "panicked" not in done.stderr, (arguments, done.stderr)
        front.cli("store", "backup", str(good), "--overwrite")
        assert front.stop() == 0
        not_empty = front.cli("store", "restore", str(good), check=False)
        assert not_empty.returncode == 1 and "1 rows in users" in not_empty.stderr, not_empty.stderr
        # A failed restore leaves no store behind on which `serve` would begin anew.
        damaged = tmp_path / "damaged.db"
        damaged.write_bytes(good.read_bytes()[:20000])
        fresh = f"sqlite://{tmp_path}/fresh.db"
        assert front.cli("store", "restore", str(damaged), "--store", fresh, check=False).returncode == 1
        assert not (tmp_path / "fresh.db").exists()
        front.cli("store", "restore", str(good), "--store", fresh)
        assert [name for name in os.listdir(tmp_path) if "partial" in name] == []
    finally:
        front.stop()


def test_old_audit_entries_are_exported_and_deleted_while_the_proxy_serves(tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir(mode=0o700)
    nowhere = f"http://127.0.0.1:{free_port()}"
    front = Proxy(tmp_path / "proxy", nowhere, settings={"AUDIT__RETENTION_DAYS": "30", "AUDIT__EXPORT_BEFORE_DELETE": str(folder)})
    front.cli("user", "create", ADMIN, "--admin", "--password-stdin", stdin=f"{ADMIN_PASSWORD}\n")
    old = int(time.time() - 31 * 86400) * 1000
    rows = [(old + number, "ann", "request.denied", f"experiment:{number}", "READ is required", 1) for number in range(1500)]
    database = sqlite3.connect(front.store)
    with database:
        database.executemany("INSERT INTO audit (at, actor, action, target, detail, count) VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.close()
    lines = lambda text: [json.loads(line) for line in text.splitlines()]
    exported = lines(front.cli("audit", "export", "--until", "7d").stdout)
    assert [line["target"] for line in exported] == [f"experiment:{number}" for number in range(1500)]
    assert front.cli("audit", "export", "--since", "30d", "--until", "7d").stdout == ""
    assert f"old entries can be exported to {folder}" in front.cli("doctor", check=False).stdout
    try:
        front.start("/livez")
        deleted = lambda: front.rows("SELECT detail FROM audit WHERE action = 'audit.delete' AND detail LIKE '1500 entries%'")
        ((detail,),) = wait_until(deleted, 60, "old entries are deleted")
        (file,) = folder.iterdir()
        assert detail.endswith(f"exported to {file.name}") and file.stat().st_mode & 0o777 == 0o600
        assert lines(file.read_text()) == exported
        assert front.counted("audit_entries_deleted_total") == 1500
        assert [line["action"] for line in lines(front.cli("audit", "export").stdout)][-2:] == ["user.create", "audit.delete"]
    finally:
        front.stop()
