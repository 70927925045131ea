"""Three proxies behind a real HAProxy: clients and browsers do not notice that they talk to several."""

import concurrent.futures

import mlflow
import pytest

from balancers import HaProxy
from harness import Person, unique, wait_until
from keycloak import Loopback, Visitor, behind_keycloak
from postgres import Replica, start_together

pytestmark = pytest.mark.timeout(600)
API = "/api/2.0/mlflow"
# Seconds that a test waits for a change to be in force everywhere; on a busy machine the checks themselves take long.
SOON = 60


class Balanced:
    """HAProxy and its replicas, as one address."""

    tls, verify = None, True

    def __init__(self, folder, mlflow, url, settings=None, change=lambda replica: None):
        self.balancer = HaProxy(folder / "haproxy")
        self.url = self.balancer.url
        ours = {"SERVER__TRUSTED_PROXIES": "127.0.0.1", "SERVER__DRAIN_DELAY_SECONDS": "1"}
        self.replicas = [Replica(folder / name, mlflow, url, ours | (settings or {})) for name in ("one", "two", "three")]
        for replica in self.replicas:
            change(replica)
            replica.settings["SERVER__PUBLIC_URL"] = self.url

    def start(self):
        start_together(self.replicas)
        self.balancer.before_replicas(self.replicas)
        return self

    def stop(self):
        self.balancer.stop()
        return [replica.stop() for replica in self.replicas]

    def admin(self):
        return Person(self, self.replicas[0].admin().name, self.replicas[0].admin().password)

    person = Replica.person

    def everywhere(self, ask, expected):
        """Waits until each replica answers so. `ask` sends one request with the given headers."""

        def all_of_them():
            # Without keep-alive: HAProxy stays with a server that has answered 401.
            answers = [ask({"Connection": "close"}) for _ in self.replicas]
            served = {answer.headers["X-Replica"] for answer in answers}
            return len(served) == len(answers) and all(answer.status_code == expected for answer in answers)

        wait_until(all_of_them, SOON, f"{expected} everywhere")


@pytest.fixture(scope="module")
def balanced(postgres, mlflow_server, keycloak, tmp_path_factory):
    """People sign in at Keycloak, which ends sessions at the address of HAProxy."""
    sync = {"OIDC__PROVIDERS__KEYCLOAK__SYNC_SECONDS": "1"}
    folder = tmp_path_factory.mktemp("balanced")
    together = Balanced(folder, mlflow_server.url, postgres.database(), change=lambda one: behind_keycloak(one, keycloak, **sync))
    client = keycloak.client("mlflow")
    keycloak.send_back_to(together.url)
    try:
        yield together.start()
    finally:
        assert together.stop() == [0, 0, 0]
        keycloak.change_client("mlflow", attributes=client["attributes"], redirectUris=client["redirectUris"])


def reading(person, experiment):
    path = f"{API}/experiments/get?experiment_id={experiment}"
    return lambda headers: person.call("GET", path, headers=headers)


def by_session(visitor, path="/auth/api/v1/me"):
    """A request of the browser's scripts."""
    return lambda headers: visitor.http.get(visitor.front + path, headers={"Accept": "application/json"} | headers, timeout=30)


def test_the_real_client_works_through_the_balancer_and_grants_count_everywhere(balanced):
    alice, bob = balanced.person("alice"), balanced.person("bob")
    with alice.mlflow() as client:
        experiment = client.create_experiment(unique("balanced"))
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "loss", 0.5)
        client.log_text(run, "text", "notes.txt")
        client.set_terminated(run)
        assert [one.info.run_id for one in client.search_runs([experiment])] == [run]
        assert mlflow.artifacts.load_text(f"runs:/{run}/notes.txt") == "text"
    balanced.everywhere(reading(alice, experiment), 200)
    balanced.everywhere(reading(bob, experiment), 403)
    alice.grant(bob, "experiment", experiment, "READ")
    balanced.everywhere(reading(bob, experiment), 200)
    alice.ok("POST", "/api/3.0/mlflow/users/permissions/revoke",
             {"username": bob.name, "resource_type": "experiment", "resource_id": experiment})
    balanced.everywhere(reading(bob, experiment), 403)
    role = balanced.admin().ok("POST", "/api/3.0/mlflow/roles/create", {"name": unique("role"), "workspace": "default"})["role"]["id"]
    permission = {"role_id": role, "resource_type": "experiment", "resource_pattern": experiment, "permission": "READ"}
    added = balanced.admin().ok("POST", "/api/3.0/mlflow/roles/permissions/add", permission)["role_permission"]["id"]
    balanced.admin().ok("POST", "/api/3.0/mlflow/roles/assign", {"role_id": role, "username": bob.name})
    balanced.everywhere(reading(bob, experiment), 200)
    balanced.admin().ok("DELETE", "/api/3.0/mlflow/roles/permissions/remove", {"role_permission_id": added})
    balanced.everywhere(reading(bob, experiment), 403)


def test_a_browser_signs_in_across_replicas_and_its_session_ends_on_all(balanced, keycloak):
    """Each redirect of the sign-in is answered by another replica."""
    name = keycloak.fresh_person("/ml/team-a")
    visitor, second = Visitor(balanced.url, keycloak), Visitor(balanced.url, keycloak)
    for one in (visitor, second):
        assert one.sign_in(name).status_code == 200
        balanced.everywhere(by_session(one), 200)
    # Signed out on the page: this session alone.
    page = visitor.get("/auth/account")
    assert page.status_code == 200
    listed = second.get("/auth/api/v1/sessions", navigate=False).json()["sessions"]
    (other,) = [one["id"] for one in listed if not one["current"]]
    ended = second.http.delete(f"{balanced.url}/auth/api/v1/sessions/{other}", timeout=30,
                               headers={"Origin": balanced.url, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"})
    assert ended.status_code in (200, 204), ended.text
    balanced.everywhere(by_session(visitor), 401)
    balanced.everywhere(by_session(second), 200)
    # Ended at Keycloak: its back-channel logout reaches one replica.
    keycloak.sign_out(name)
    balanced.everywhere(by_session(second), 401)


def test_a_disabled_person_is_out_on_all_replicas(balanced, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    visitor = Visitor(balanced.url, keycloak)
    assert visitor.sign_in(name).status_code == 200
    balanced.everywhere(by_session(visitor), 200)
    keycloak.disable(name)
    balanced.everywhere(by_session(visitor), 401)


def test_used_sign_ins_and_many_clients_at_once(balanced, keycloak):
    """A callback is accepted once, whichever replica gets it, and ten browsers sign in at once."""
    names = [keycloak.fresh_person("/ml/team-b") for _ in range(4)]
    visitors = [Visitor(balanced.url, keycloak) for _ in names]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda pair: pair[0].sign_in(pair[1]), zip(visitors, names, strict=True)))
    assert [end.status_code for end in ends] == [200] * 4
    visitor = Visitor(balanced.url, keycloak)
    back = visitor.fill(visitor.begin(), names[0])
    assert back.is_redirect
    cookies = visitor.http.cookies.copy()
    assert visitor.follow(back).status_code == 200
    again = Visitor(balanced.url, keycloak)
    cookies.set_policy(Loopback())
    again.http.cookies = cookies
    for _ in balanced.replicas:
        refused = again.get(back.headers["Location"])
        assert refused.status_code in (302, 400, 403) and again.me() is None, refused.status_code
