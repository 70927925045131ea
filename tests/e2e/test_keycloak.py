"""People and programs of a real Keycloak: how they come in, what their groups give them, and how they are let go."""

import contextlib
import socket
import threading
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

from harness import Http, Person, Proxy, secret, unique, wait_until
from keycloak import Visitor, behind_keycloak, claims

# The first of them waits for Keycloak to start.
pytestmark = pytest.mark.timeout(600)
API = "/api/2.0/mlflow"


def experiment(front, prefix="team-a"):
    """One made by the administrator of the proxy's own."""
    name = unique(prefix)
    return front.admin().ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]


def get(visitor, number):
    return visitor.get(f"{API}/experiments/get?experiment_id={number}", navigate=False).status_code


def tag(visitor, number):
    body = {"experiment_id": number, "key": "k", "value": "v"}
    headers = {"Origin": visitor.front, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
    url = f"{visitor.front}{API}/experiments/set-experiment-tag"
    return visitor.http.post(url, json=body, headers=headers, timeout=30).status_code


def bearer(front, token):
    return Http(front.url, f"Bearer {token}")


def short_tokens(keycloak, seconds, **more):
    """Keycloak's access tokens live this long."""
    return keycloak.with_settings(accessTokenLifespan=seconds, **more)


def assert_nobody_waited(took):
    """Answers come within a second. A busy machine may hold one up; whoever waits for Keycloak waits ten seconds."""
    took = sorted(took)
    assert took[len(took) // 2] < 1 and took[-1] < 5, took


# ---- coming in


def test_somebody_signs_in_and_is_known_by_their_lower_case_address(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a", prefix="Anna")
    visitor = Visitor(front.url, keycloak)
    assert visitor.me() is None
    end = visitor.sign_in(name)
    assert end.status_code == 200, end.text
    assert end.json() | {"id": 0} == visitor.me() | {"id": 0}
    me = visitor.me()
    assert (me["username"], me["is_admin"], me["scheme"]) == (f"{name}@example.com".lower(), False, "session")
    assert "/ml/team-a" in me["groups"]
    created = front.admin().ok("GET", f"{API}/users/get?username={me['username']}")["user"]
    assert created["username"] == me["username"]


def test_an_administrators_group_makes_an_administrator(front, keycloak):
    visitor = Visitor(front.url, keycloak)
    visitor.sign_in(keycloak.fresh_person("/ml/admins"))
    assert visitor.me()["is_admin"] is True
    assert visitor.get(f"{API}/users/list", navigate=False).status_code == 200


def test_who_is_in_no_allowed_group_is_told_what_is_missing(front, keycloak):
    visitor = Visitor(front.url, keycloak)
    end = visitor.sign_in(keycloak.fresh_person())
    assert end.status_code == 403
    assert "<code>/ml</code> or a group below it" in end.text
    assert visitor.me() is None


def test_a_page_asked_for_before_signing_in_is_shown_after_it(front, keycloak):
    visitor = Visitor(front.url, keycloak)
    first = visitor.get("/?x=1")
    assert first.status_code == 302 and first.headers["Location"].startswith("/auth/login?"), first.headers
    end = visitor.sign_in(keycloak.fresh_person("/ml/team-a"), return_to="/?x=1#/experiments/1")
    assert end.status_code == 200
    assert end.url in (f"{front.url}/?x=1#/experiments/1", f"{front.url}/?x=1")


def test_programs_and_scripts_are_not_sent_to_a_log_in_page(front):
    for path, headers in [(f"{API}/experiments/search", {}), ("/ajax-api/2.0/mlflow/experiments/search", {"Accept": "text/html"}),
                          ("/", {"Accept": "*/*"}), ("/", {"Accept": "text/html", "Sec-Fetch-Mode": "cors"})]:
        answer = requests.get(front.url + path, headers=headers, timeout=30, allow_redirects=False)
        assert answer.status_code == 401, f"{path} {headers}: {answer.status_code}"


def test_groups_become_permissions(front, keycloak):
    team_a, other = experiment(front), experiment(front, "elsewhere")
    editor, reader = Visitor(front.url, keycloak), Visitor(front.url, keycloak)
    editor.sign_in(keycloak.fresh_person("/ml/team-a"))
    name = keycloak.fresh_person("/ml/team-b")
    reader.sign_in(name)
    assert (get(editor, team_a), tag(editor, team_a), get(editor, other)) == (200, 200, 403)
    assert (get(reader, team_a), tag(reader, team_a), get(reader, other)) == (200, 403, 403)
    told = front.cli("explain", "--user", f"{name}@example.com", "--operation", "EDIT", "--resource", f"experiment:{team_a}").stdout
    assert "/ml/team-b" in told and "reported by the identity provider" in told and " ago (20" in told, told


# ---- staying


def test_a_changed_group_is_seen_at_the_next_refresh(front, keycloak):
    team_a = experiment(front)
    name = keycloak.fresh_person("/ml/team-b")
    with short_tokens(keycloak, 15):
        visitor = Visitor(front.url, keycloak)
        visitor.sign_in(name)
        assert tag(visitor, team_a) == 403
        keycloak.join(name, "/ml/team-a")
        wait_until(lambda: tag(visitor, team_a) == 200, 40, "the new group counts", every=0.5)
        keycloak.leave(name, "/ml/team-a")
        keycloak.leave(name, "/ml/team-b")
        wait_until(lambda: visitor.me() is None, 40, "who lost every allowed group is out", every=0.5)


def test_a_session_outlives_many_access_tokens(front, keycloak):
    with short_tokens(keycloak, 10, revokeRefreshToken=True, refreshTokenMaxReuse=0):
        visitor = Visitor(front.url, keycloak)
        visitor.sign_in(keycloak.fresh_person("/ml/team-a"))
        end = time.monotonic() + 45
        while time.monotonic() < end:
            # In parallel: with rotation on, two refreshes of one session would end it.
            asked = [threading.Thread(target=visitor.me) for _ in range(8)]
            [thread.start() for thread in asked]
            [thread.join() for thread in asked]
            assert visitor.me() is not None
            time.sleep(1)


def access_token(visitor):
    """A client with an access token of this person."""
    headers = {"Origin": visitor.front, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
    body = {"name": unique("laptop"), "expires_in_days": 7}
    made = visitor.http.post(f"{visitor.front}/auth/api/v1/tokens", json=body, headers=headers, timeout=30)
    assert made.status_code == 201, made.text
    return Http(visitor.front, f"Bearer {secret(made.json()['token'])}")


@pytest.mark.parametrize("leave", ["disable", "delete"])
def test_who_is_disabled_or_deleted_is_out_at_the_next_refresh_with_every_access_token(front, keycloak, leave):
    name = keycloak.fresh_person("/ml/team-a")
    # The other browser's session is not due for a while.
    other = Visitor(front.url, keycloak)
    other.sign_in(name)
    with short_tokens(keycloak, 15):
        visitor = Visitor(front.url, keycloak)
        visitor.sign_in(name)
        token = access_token(visitor)
        assert visitor.me() and token.get("/auth/api/v1/me").status_code == 200
        getattr(keycloak, leave)(name)
        wait_until(lambda: visitor.me() is None, 40, "the session is over", every=0.5)
        assert token.get("/auth/api/v1/me").status_code == 401, "in the same step"
        assert other.me() is None


# ---- going


def test_logging_out_here_logs_out_there(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    visitor = Visitor(front.url, keycloak)
    visitor.sign_in(name)
    assert visitor.get("/auth/logout").status_code == 200, "a confirmation"
    assert visitor.me(), "which logged nobody out"
    end = visitor.follow(visitor.post("/auth/logout"))
    assert end.url.startswith(f"{front.url}/auth/signed-out"), end.url
    assert visitor.me() is None
    # Keycloak asks again.
    assert "kc-form-login" in visitor.follow(visitor.get("/auth/login?provider=keycloak")).text


def test_a_sign_out_at_keycloak_ends_the_session_at_once(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    visitor, second = Visitor(front.url, keycloak), Visitor(front.url, keycloak)
    visitor.sign_in(name)
    second.sign_in(name)
    keycloak.sign_out(name)
    wait_until(lambda: visitor.me() is None and second.me() is None, 5, "both sessions are over", every=0.1)


def test_an_old_cookie_is_worth_nothing_after_logging_out(front, keycloak):
    visitor = Visitor(front.url, keycloak)
    visitor.sign_in(keycloak.fresh_person("/ml/team-a"))
    cookie = next(cookie for cookie in visitor.http.cookies if cookie.name == "__Host-mlflow-session")
    visitor.post("/auth/logout")
    answer = requests.get(f"{front.url}/auth/api/v1/me", cookies={cookie.name: cookie.value}, timeout=30)
    assert answer.status_code == 401


def test_a_session_that_an_administrator_deletes_at_keycloak_is_over_here(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    visitor = Visitor(front.url, keycloak)
    visitor.sign_in(name)
    keycloak.end_session(keycloak.sessions(name)[0]["id"])
    wait_until(lambda: visitor.me() is None, 5, "the session is over", every=0.1)


def test_one_signs_out_by_a_form_of_ours_and_by_nothing_else(front, keycloak):
    visitor = Visitor(front.url, keycloak)
    visitor.sign_in(keycloak.fresh_person("/ml/team-a"))
    for headers in ({"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"},
                    {"Origin": "null", "Sec-Fetch-Site": "cross-site"}):
        assert visitor.post("/auth/logout", **headers).status_code == 403
        assert visitor.me()


def test_another_persons_code_with_ones_own_state_is_refused_as_a_wrong_request(front, keycloak):
    victim, attacker = Visitor(front.url, keycloak), Visitor(front.url, keycloak)
    stolen = victim.fill(victim.begin(), keycloak.fresh_person("/ml/team-a")).headers["Location"]
    own = attacker.fill(attacker.begin(), keycloak.fresh_person("/ml/team-b")).headers["Location"]
    code = parse_qs(urlsplit(stolen).query)["code"][0]
    query = parse_qs(urlsplit(own).query) | {"code": [code]}
    mixed = attacker.get(f"{front.url}/auth/callback/keycloak?{urlencode(query, doseq=True)}")
    assert mixed.status_code == 400 and "/auth/login" in mixed.text, f"{mixed.status_code} {mixed.text}"
    assert attacker.me() is None


def test_a_code_that_was_used_gives_nobody_a_second_session(front, keycloak):
    visitor, thief = Visitor(front.url, keycloak), Visitor(front.url, keycloak)
    callback = visitor.fill(visitor.begin(), keycloak.fresh_person("/ml/team-a")).headers["Location"]
    assert thief.get(callback).status_code != 200 and thief.me() is None, "another browser began it"
    assert visitor.follow(visitor.get(callback)).status_code == 200
    visitor.get(callback)
    thief.get(callback)
    assert visitor.me() and thief.me() is None


# ---- programs


def test_a_pipeline_comes_in_with_its_client_credentials(front, keycloak):
    token = keycloak.machine_token("ci")
    client = bearer(front, token)
    me = client.ok("GET", "/auth/api/v1/me")
    assert (me["username"], me["groups"], me["scheme"]) == ("pipeline-ci", me["groups"], "jwt") and "/ml/team-a" in me["groups"]
    number = experiment(front)
    assert client.get(f"{API}/experiments/get", {"experiment_id": number}).status_code == 200


def test_the_unmodified_client_takes_such_a_token(front, keycloak):
    number = experiment(front)
    program = Person(front, "pipeline-ci", keycloak.machine_token("ci"))
    with program.mlflow(bearer=True) as client:
        run = client.create_run(number)
        client.log_metric(run.info.run_id, "loss", 0.5)
        assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}


def test_a_persons_token_carries_their_groups(front, keycloak):
    name = keycloak.fresh_person("/ml/team-b")
    me = bearer(front, keycloak.tokens_of(name)["access_token"]).ok("GET", "/auth/api/v1/me")
    assert me["username"] == f"{name}@example.com" and "/ml/team-b" in me["groups"]


def test_an_id_token_is_no_bearer(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    tokens = keycloak.tokens_of(name)
    assert claims(tokens["id_token"])["typ"] == "ID"
    for token in (tokens["id_token"], tokens["refresh_token"]):
        assert bearer(front, token).get("/auth/api/v1/me").status_code == 401


def test_a_token_for_another_application_is_refused(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    assert bearer(front, keycloak.tokens_of(name, client="other")["access_token"]).get("/auth/api/v1/me").status_code == 401
    assert bearer(front, keycloak.machine_token("other")).get("/auth/api/v1/me").status_code == 401


def test_a_rotated_key_works_with_the_first_token_it_signs(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    assert bearer(front, keycloak.tokens_of(name)["access_token"]).get("/auth/api/v1/me").status_code == 200
    keycloak.rotate_keys()
    answer = bearer(front, keycloak.tokens_of(name)["access_token"]).get("/auth/api/v1/me")
    assert answer.status_code == 200, answer.text
    visitor = Visitor(front.url, keycloak)
    assert visitor.sign_in(name).status_code == 200


# ---- a provider in trouble


class Delay:
    """Passes bytes on to Keycloak; `hang()` stops that, without closing anything."""

    def __init__(self, port):
        self.target, self.open = port, threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    def pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self.open.wait()
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def hang(self):
        self.open.clear()

    def work(self):
        self.open.set()

    def close(self):
        self.open.set()
        self.listener.close()


def test_sessions_and_known_tokens_answer_while_the_provider_hangs(keycloak, mlflow_server, tmp_path):
    delay = Delay(keycloak.port)
    proxy = behind_keycloak(Proxy(tmp_path / "proxy", mlflow_server.url), keycloak, **{
        "OIDC__PROVIDERS__KEYCLOAK__INTERNAL_URL": f"http://127.0.0.1:{delay.port}",
        "OIDC__PROVIDERS__KEYCLOAK__DISCOVERY_URL": f"http://127.0.0.1:{delay.port}/realms/mlflow/.well-known/openid-configuration",
        "JWT__ISSUERS__KEYCLOAK__INTERNAL_URL": f"http://127.0.0.1:{delay.port}",
        "JWT__ISSUERS__KEYCLOAK__DISCOVERY_URL": f"http://127.0.0.1:{delay.port}/realms/mlflow/.well-known/openid-configuration",
    })
    client = keycloak.client("mlflow")
    keycloak.change_client("mlflow", redirectUris=[*client["redirectUris"], f"{proxy.url}/auth/callback/keycloak"])
    proxy.start()
    try:
        name = keycloak.fresh_person("/ml/team-a")
        token = keycloak.tokens_of(name)["access_token"]
        with short_tokens(keycloak, 15):
            visitor = Visitor(proxy.url, keycloak)
            assert visitor.sign_in(name).status_code == 200
            assert bearer(proxy, token).get("/auth/api/v1/me").status_code == 200
            delay.hang()
            took, end = [], time.monotonic() + 25
            while time.monotonic() < end:
                began = time.monotonic()
                assert visitor.me() is not None
                assert bearer(proxy, token).get("/auth/api/v1/me").status_code == 200
                took.append(time.monotonic() - began)
                time.sleep(0.2)
            assert_nobody_waited(took)
            delay.work()
            time.sleep(15)
            assert visitor.me() is not None, "and after it"
    finally:
        proxy.stop()
        delay.close()
        keycloak.change_client("mlflow", redirectUris=client["redirectUris"])


def test_who_is_signed_in_stays_so_while_keycloak_is_down(front, keycloak):
    name = keycloak.fresh_person("/ml/team-a")
    token = keycloak.tokens_of(name)["access_token"]
    with short_tokens(keycloak, 12):
        visitor = Visitor(front.url, keycloak)
        visitor.sign_in(name)
        keycloak.stop()
        try:
            took, end = [], time.monotonic() + 20
            while time.monotonic() < end:
                began = time.monotonic()
                assert visitor.me() is not None
                took.append(time.monotonic() - began)
                time.sleep(0.3)
            assert_nobody_waited(took)
            # Known keys still verify what was signed before, for the first time too.
            assert bearer(front, token).get("/auth/api/v1/me").status_code == 200
            shown = Visitor(front.url, keycloak).get("/auth/login?provider=keycloak")
            assert shown.status_code in (302, 503), "a new sign-in waits for Keycloak"
        finally:
            keycloak.start()
        # Its sessions are kept in its database, so the refresh goes on where it stopped.
        done = front.counted("session_refreshes_total", outcome="done")
        wait_until(lambda: front.counted("session_refreshes_total", outcome="done") > done, 20, "a refresh", every=0.5)
        assert visitor.me() is not None
