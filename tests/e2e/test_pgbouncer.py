"""Three proxies whose store is behind a real PgBouncer in transaction mode."""

import concurrent.futures

import pytest

from balancers import PgBouncer
from harness import ADMIN, ADMIN_PASSWORD, Person, unique, wait_until
from postgres import Replica, start_together
from test_replicas import at, everywhere, experiment_of


@pytest.fixture(scope="module")
def pgbouncer(postgres, tmp_path_factory):
    pooler = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgres.url)
    try:
        yield pooler
    finally:
        pooler.stop()


def behind(pgbouncer, url):
    """The same database through PgBouncer."""
    return f"{pgbouncer.url}/{url.rsplit('/', 1)[1]}"


@pytest.mark.parametrize("announced", [True, False])
def test_a_change_is_in_force_on_the_other_replicas(postgres, pgbouncer, mlflow_server, tmp_path, announced):
    url = postgres.database()
    settings = {"STORE__PGBOUNCER": "true"} | ({"STORE__LISTEN_URL": url} if announced else {})
    # They create the tables and the administrator together, also through PgBouncer.
    replicas = [Replica(tmp_path / name, mlflow_server.url, behind(pgbouncer, url), settings) for name in ("one", "two", "three")]
    try:
        one, two, three = start_together(replicas)
        database = url.rsplit("/", 1)[1]
        assert postgres.sql(database, "SELECT name FROM users") == [ADMIN]
        for replica in replicas:
            wait_until(lambda replica=replica: replica.counted("store_listening") == announced, 30, "as configured")
            said = replica.process.output()
            assert ("twice a second" in said) != announced, said
        alice, bob = one.person("alice"), two.person("bob")
        experiment = experiment_of(alice)
        bobs = [at(replica, bob) for replica in replicas]
        everywhere(bobs, experiment, 403)
        alice.grant(bob, "experiment", experiment, "READ")
        everywhere(bobs, experiment, 200)
        body = {"username": bob.name, "resource_type": "experiment", "resource_id": experiment}
        at(three, alice).ok("POST", "/api/3.0/mlflow/users/permissions/revoke", body)
        everywhere(bobs, experiment, 403)
        two.admin().ok("DELETE", "/api/2.0/mlflow/users/delete", {"username": bob.name})
        everywhere(bobs, experiment, 401)
        # Many statements at once, on many more connections than PgBouncer has sessions of the server.
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda number: experiment_of(at(replicas[number % 3], alice)), range(20)))
        assert Person(three, ADMIN, ADMIN_PASSWORD).get("/auth/api/v1/me").status_code == 200
        connections = postgres.sql(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mlflow-auth-proxy %'")
        assert int(connections[0]) > 0
        done = one.cli("doctor", check=False)
        found = "announces changes" if announced else "half a second"
        assert "FAILED" not in done.stdout.split("MLflow")[0] and found in done.stdout, done.stdout
        for replica in replicas:
            for fault in ("prepared statement", "does not answer", "ERROR"):
                assert fault not in replica.process.output(), replica.process.output()
    finally:
        for replica in replicas:
            replica.stop()


def test_wrong_settings_are_refused_by_start_and_doctor(postgres, pgbouncer, mlflow_server, tmp_path):
    url = postgres.database()
    through, elsewhere, there = behind(pgbouncer, url), postgres.database(), {"STORE__PGBOUNCER": "true"}
    lenient = PgBouncer(tmp_path / "lenient", postgres.url, settings="ignore_startup_parameters = options, extra_float_digits")
    by_statement = PgBouncer(tmp_path / "statement", postgres.url, mode="statement")
    cases = [
        # (store.url, settings, exit code of `serve`, what is said)
        (through, {}, 1, "set store.pgbouncer"),
        (behind(lenient, url), {}, 1, "set store.pgbouncer"),
        (behind(by_statement, url), there, 1, "pool_mode"),
        (through, there | {"STORE__LISTEN_URL": through}, 2, "store.listen_url"),
        # Another name of the same PgBouncer.
        (through, there | {"STORE__LISTEN_URL": through.replace("127.0.0.1", "localhost")}, 1, "store.listen_url: a notification"),
        (through, there | {"STORE__LISTEN_URL": elsewhere}, 1, "store.listen_url: a notification"),
        (through, there | {"STORE__LISTEN_URL": f"{postgres.url}/nowhere"}, 1, "store.listen_url: "),
        (through, there | {"STORE__LISTEN_URL": "postgres://postgres:hunter2hunter2@127.0.0.1/d"}, 2, "store.password"),
        (through, there | {"STORE__LISTEN_URL": "sqlite://x.db"}, 2, "postgres://"),
        (f"sqlite://{tmp_path}/x.db", there, 2, "store.pgbouncer"),
        (f"sqlite://{tmp_path}/x.db", {"STORE__LISTEN_URL": url}, 2, "store.listen_url"),
    ]
    try:
        for number, (store, settings, code, why) in enumerate(cases):
            replica = Replica(tmp_path / str(number), mlflow_server.url, store, settings)
            for command in ("serve", "doctor"):
                done = replica.cli(command, check=False)
                said = done.stdout + done.stderr
                assert done.returncode == code and why in said, (command, settings, done.returncode, said)
                assert "hunter2" not in said, said
        # A server that does not answer is no mistake of the settings: changes are found by asking until it does.
        alone = Replica(tmp_path / "alone", mlflow_server.url, through, there | {"STORE__LISTEN_URL": "postgres://postgres@127.0.0.1:1/d"})
        try:
            alone.start()
            assert alone.counted("store_listening") == 0
            assert "store.listen_url" in alone.cli("doctor", check=False).stdout
            wait_until(lambda: "not received" in alone.process.output(), 30, "it is told once")
        finally:
            alone.stop()
    finally:
        lenient.stop()
        by_statement.stop()
