"""Three proxies on one PostgreSQL, before one real MLflow: what one of them does counts on the others."""

import concurrent.futures

import pytest
import requests

from harness import ADMIN, ADMIN_PASSWORD, Person, Tls, new_password, unique, wait_until
from postgres import Postgres, Replica, start_together

API = "/api/2.0/mlflow"
# Seconds that a test waits for a change to be in force everywhere; on a busy machine the checks themselves take long.
SOON = 60


@pytest.fixture(scope="module")
def replicas(postgres, mlflow_server, tmp_path_factory):
    folder, url = tmp_path_factory.mktemp("replicas"), postgres.database()
    three = [Replica(folder / name, mlflow_server.url, url) for name in ("one", "two", "three")]
    try:
        yield start_together(three)
    finally:
        for one in three:
            one.stop()


def at(replica, person):
    """The same person at another replica."""
    return Person(replica, person.name, person.password)


def experiment_of(person):
    return person.ok("POST", f"{API}/experiments/create", {"name": unique("shared")})["experiment_id"]


def status(person, experiment):
    return person.get(f"{API}/experiments/get", {"experiment_id": experiment}).status_code


def everywhere(people, experiment, expected):
    """Waits until every replica answers so."""
    wait_until(lambda: [status(one, experiment) for one in people] == [expected] * len(people), SOON, f"{expected} everywhere")


def test_five_processes_start_together_on_an_empty_database(postgres, mlflow_server, tmp_path):
    url = postgres.database()
    # No password is given: one process makes the administrator, and only one says so.
    five = [Replica(tmp_path / str(number), mlflow_server.url, url) for number in range(5)]
    try:
        start_together(five)
        database = url.rsplit("/", 1)[1]
        assert postgres.sql(database, "SELECT name, admin FROM users") == [f"{ADMIN}\tt"]
        assert postgres.sql(database, "SELECT count(*) FROM audit WHERE action = 'user.create'") == ["1"]
        for one in five:
            assert Person(one, ADMIN, ADMIN_PASSWORD).get("/auth/api/v1/me").status_code == 200
        names = postgres.sql(database, f"SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = '{database}'")
        assert any(name.startswith("mlflow-auth-proxy ") for name in names), names
    finally:
        for one in five:
            one.stop()


def test_grants_revocations_and_roles_count_on_the_other_replicas(replicas):
    one, two, three = replicas
    alice, bob = one.person("alice"), two.person("bob")
    experiment = experiment_of(alice)
    bobs = [at(replica, bob) for replica in replicas]
    # Warm everywhere, and refused.
    everywhere(bobs, experiment, 403)
    assert status(at(three, alice), experiment) == 200, "the owner owns it on every replica"
    alice.grant(bob, "experiment", experiment, "READ")
    everywhere(bobs, experiment, 200)
    body = {"username": bob.name, "resource_type": "experiment", "resource_id": experiment}
    at(three, alice).ok("POST", "/api/3.0/mlflow/users/permissions/revoke", body)
    everywhere(bobs, experiment, 403)
    admin = at(two, one.admin())
    role = admin.ok("POST", "/api/3.0/mlflow/roles/create", {"name": unique("role"), "workspace": "default"})["role"]["id"]
    permission = {"role_id": role, "resource_type": "experiment", "resource_pattern": experiment, "permission": "READ"}
    admin.ok("POST", "/api/3.0/mlflow/roles/permissions/add", permission)
    admin.ok("POST", "/api/3.0/mlflow/roles/assign", {"role_id": role, "username": bob.name})
    everywhere(bobs, experiment, 200)
    at(three, one.admin()).ok("DELETE", "/api/3.0/mlflow/roles/delete", {"role_id": role})
    everywhere(bobs, experiment, 403)


def test_a_revoked_token_and_a_deleted_user_are_dead_everywhere(replicas):
    one, two, three = replicas
    alice = one.person("alice")
    experiment, token = experiment_of(alice), alice.token()
    by_token = [Person(replica, alice.name, token["token"], f"Bearer {token['token']}") for replica in replicas]
    everywhere(by_token, experiment, 200)
    revoked = at(two, alice).delete(f"/auth/api/v1/tokens/{token['id']}")
    assert revoked.status_code in (200, 204), revoked.text
    everywhere(by_token, experiment, 401)
    alices = [at(replica, alice) for replica in replicas]
    everywhere(alices, experiment, 200)
    at(three, one.admin()).ok("PATCH", f"{API}/users/update-password", {"username": alice.name, "password": new_password()})
    everywhere(alices, experiment, 401)
    carol = two.person("carol")
    mine = experiment_of(carol)
    carols = [at(replica, carol) for replica in replicas]
    everywhere(carols, mine, 200)
    at(three, one.admin()).ok("DELETE", f"{API}/users/delete", {"username": carol.name})
    everywhere(carols, mine, 401)


def test_a_change_for_others_leaves_a_warm_client_warm(replicas):
    one, two, _ = replicas
    alice, bob = one.person("alice"), one.person("bob")
    experiment, other = experiment_of(alice), experiment_of(bob)
    warm = at(two, alice).token()
    alice = Person(two, alice.name, warm["token"], f"Bearer {warm['token']}")
    assert status(alice, experiment) == 200
    hits = lambda: two.counted("cache_total", cache="identities", result="hit")
    misses = lambda: two.counted("cache_total", cache="identities", result="miss")
    admin, carol = at(one, one.admin()), one.person("carol")
    admin.get(f"{API}/experiments/get", {"experiment_id": other})
    before = hits(), misses()
    for _ in range(20):
        for level in ("READ", "EDIT"):
            admin.call("PUT", "/auth/api/v1/grants", json={"to": {"user": carol.name}, "on": {"experiment_id": other}, "permission": level})
            assert status(alice, experiment) == 200
    found, missed = hits() - before[0], misses() - before[1]
    assert (found, missed) == (40, 0), (found, missed)


def test_one_of_two_creations_of_a_name_wins_and_owns_it(replicas):
    one, two, three = replicas
    people = [replica.person(f"p{number}") for number, replica in enumerate(replicas)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            name = unique("contested")
            create = lambda person: person.post(f"{API}/registered-models/create", {"name": name}).status_code
            answers = list(pool.map(create, people))
            assert answers.count(200) == 1, answers
            owner = people[answers.index(200)]
            for person in people:
                seen = at(three, person).get(f"{API}/registered-models/get", {"name": name}).status_code
                assert (seen == 200) == (person is owner), (seen, person.name, owner.name)
            deleted = at(two, owner).call("DELETE", f"{API}/registered-models/delete", json={"name": name})
            assert deleted.status_code == 200, deleted.text


def test_alternating_between_replicas_gives_no_more_attempts(postgres, mlflow_server, tmp_path):
    url, limit = postgres.database(), {"AUTHN__GUESSES_PER_ACCOUNT": "4"}
    three = [Replica(tmp_path / str(number), mlflow_server.url, url, limit) for number in range(3)]
    try:
        start_together(three)
        alice, bob = three[0].person("alice"), three[1].person("bob")
        experiment = experiment_of(alice)
        assert [status(at(one, alice), experiment) for one in three] == [200] * 3, "in the memory of all"
        wrong = [Person(three[number % 3], alice.name, new_password()) for number in range(9)]
        answers = [status(one, experiment) for one in wrong]
        assert answers == [401] * 4 + [429] * 5, answers
        everywhere([at(one, alice) for one in three], experiment, 429)
        assert [status(at(one, bob), experiment) for one in three] == [403] * 3, "others are not affected"
    finally:
        for one in three:
            one.stop()


def test_no_owner_is_missing_after_a_replica_was_killed(replicas, postgres, mlflow_server, tmp_path):
    """What a killed replica left behind is settled by another one; what a living one does is left alone."""
    one = replicas[0]
    url = one.settings["STORE__URL"]
    database = url.rsplit("/", 1)[1]
    serving = lambda: set(postgres.sql(database, "SELECT holder FROM leases WHERE name LIKE 'replica:%'"))
    before = serving()
    doomed = Replica(tmp_path / "doomed", mlflow_server.url, url).start()
    alice, name = doomed.person("alice"), unique("interrupted")
    (holder,) = serving() - before
    # An experiment whose creation was recorded and sent, and whose answer the replica does not live to see.
    postgres.sql(database, "INSERT INTO intents (effect, kind, subject, user_id, created, holder) SELECT 'create', 'experiment', "
                           f"'{name}', id, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, '{holder}' FROM users "
                           f"WHERE name = '{alice.name}'")
    created = requests.post(f"{mlflow_server.url}{API}/experiments/create", json={"name": name}, timeout=60)
    made = created.json()["experiment_id"]
    began = one.counted("store_listening")
    assert began == 1, "changes are announced"
    doomed.kill()
    assert status(at(one, alice), made) == 403
    assert postgres.sql(database, "SELECT holder FROM intents") == [holder], "it may be carrying it out"
    wait_until(lambda: status(at(one, alice), made) == 200, 60, "the creator owns it", every=0.5)
    assert postgres.sql(database, "SELECT count(*) FROM intents") == ["0"]


def test_without_its_store_a_replica_decides_from_memory_for_a_bounded_time(postgres, mlflow_server, tmp_path):
    own = Postgres(apart=True)
    replica = Replica(tmp_path / "alone", mlflow_server.url, own.database(), {"STORE__MAX_STALENESS_SECONDS": "4"})
    try:
        replica.start()
        alice = replica.person("alice")
        experiment = experiment_of(alice)
        token = alice.token()
        warm = Person(replica, alice.name, token["token"], f"Bearer {token['token']}")
        assert status(warm, experiment) == 200
        own.pause()
        assert status(warm, experiment) == 200, "from memory"
        created = warm.post(f"{API}/experiments/create", {"name": unique("lost")})
        assert created.status_code == 503, created.text
        assert replica.probe("/readyz").status_code == 503
        wait_until(lambda: status(warm, experiment) == 503, 30, "the memory is too old", every=0.2)
        answer = warm.get(f"{API}/experiments/get", {"experiment_id": experiment})
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE" and int(answer.headers["Retry-After"]) > 0
        own.resume()
        wait_until(lambda: status(warm, experiment) == 200, 30, "the store is there again", every=0.2)
        wait_until(lambda: replica.probe("/readyz").ok, 30, "it is ready again", every=0.2)
        assert experiment_of(warm)
    finally:
        replica.stop()
        own.stop()


def test_a_mistake_in_the_store_is_named_and_its_password_is_not(postgres, mlflow_server, tmp_path):
    database = postgres.database().rsplit("/", 1)[1]
    right, wrong = new_password(), new_password()
    postgres.role_with_password("scram", right)
    postgres.sql("postgres", f"ALTER DATABASE {database} OWNER TO scram")
    url = f"{postgres.url}/{database}".replace("postgres@", "scram@")
    mistaken = Replica(tmp_path / "mistaken", mlflow_server.url, url, {"STORE__PASSWORD": wrong})
    for command in ("doctor", "serve", "check-config"):
        done = mistaken.cli(command, check=False)
        said = done.stdout + done.stderr
        assert wrong not in said
        assert (done.returncode != 0 and "store.password" in said) or command == "check-config", said
    in_url = Replica(tmp_path / "url", mlflow_server.url, url.replace("scram@", f"scram:{wrong}@"))
    refused = in_url.cli("serve", check=False)
    assert refused.returncode == 2 and "store.password_file" in refused.stderr and wrong not in refused.stderr, refused.stderr
    secret = tmp_path / "password"
    secret.write_text(f"{right}\n")
    works = Replica(tmp_path / "works", mlflow_server.url, url, {"STORE__PASSWORD_FILE": str(secret)})
    try:
        assert experiment_of(works.start().person("alice"))
        shown = works.cli("user", "list").stdout
        assert "alice" in shown and right not in shown
    finally:
        works.stop()


def test_the_certificate_of_the_server_is_checked(mlflow_server, tmp_path):
    own = Postgres(apart=True)
    try:
        tls = Tls.make(tmp_path / "tls", names="DNS:localhost")
        own.serve_tls(tls)
        url = own.database()
        named = url.replace("127.0.0.1", "localhost")
        here = f"{named}?sslmode=verify-full&sslrootcert={tls.cert}"
        works = Replica(tmp_path / "works", mlflow_server.url, here)
        try:
            works.start()
            assert experiment_of(works.person("alice"))
            encrypted = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'mlflow%'"
            assert own.sql("postgres", encrypted) == ["t"]
            assert works.counted("store_listening") == 1
        finally:
            works.stop()
        # Nobody else trusts the certificate, and it is for another name.
        for wrong in (f"{named}?sslmode=verify-full", here.replace("localhost", "127.0.0.1")):
            refused = Replica(tmp_path / unique("refused"), mlflow_server.url, wrong).cli("serve", check=False)
            assert refused.returncode != 0 and "certificate" in refused.stderr and "sslrootcert" in refused.stderr, refused.stderr
    finally:
        own.stop()
