"""Who leaves Keycloak without signing out: its list of people is asked, and their access tokens follow."""

import pytest

from harness import Http, Proxy, secret, wait_until
from keycloak import Visitor, behind_keycloak

pytestmark = pytest.mark.timeout(600)
SOON = 20


@pytest.fixture(scope="module")
def asking(keycloak, mlflow_server, tmp_path_factory):
    """A proxy that asks every second; a sign-out at Keycloak lets access tokens rest."""
    proxy = Proxy(tmp_path_factory.mktemp("directory") / "proxy", mlflow_server.url)
    provider = {"SYNC_SECONDS": "1", "LOGOUT_TOKENS": "suspend"}
    behind_keycloak(proxy, keycloak, **{f"OIDC__PROVIDERS__KEYCLOAK__{key}": value for key, value in provider.items()})
    client = keycloak.client("mlflow")
    keycloak.send_back_to(proxy.url)
    proxy.start()
    yield proxy
    proxy.stop()
    keycloak.change_client("mlflow", attributes=client["attributes"], redirectUris=client["redirectUris"])


class Leaver:
    """Somebody with an access token, and with a session unless they closed the browser."""

    def __init__(self, proxy, keycloak, *groups):
        self.name = keycloak.fresh_person(*groups)
        self.visitor = Visitor(proxy.url, keycloak)
        assert self.visitor.sign_in(self.name).status_code == 200
        headers = {"Origin": proxy.url, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
        body = {"name": "laptop", "expires_in_days": 7}
        made = self.visitor.http.post(f"{proxy.url}/auth/api/v1/tokens", json=body, headers=headers, timeout=30)
        assert made.status_code in (200, 201), made.text
        self.token = Http(proxy.url, f"Bearer {secret(made.json()['token'])}")

    def me(self):
        answer = self.token.get("/auth/api/v1/me")
        assert answer.status_code in (200, 401), answer.text
        return answer.json() if answer.status_code == 200 else None

    def works(self):
        return self.me() is not None

    def out(self):
        return not self.works()


def test_a_token_rests_while_its_owner_is_disabled(asking, keycloak):
    leaver, other = Leaver(asking, keycloak, "/ml/team-a"), Leaver(asking, keycloak, "/ml/team-a")
    assert leaver.works()
    keycloak.disable(leaver.name)
    wait_until(leaver.out, SOON, "the token of the disabled stops", every=0.3)
    assert leaver.visitor.me() is None, "and the session with it"
    keycloak.enable(leaver.name)
    wait_until(leaver.works, SOON, "it works again", every=0.3)
    assert other.works() and other.visitor.me()


def test_a_token_stops_when_its_owner_is_deleted(asking, keycloak):
    leaver = Leaver(asking, keycloak, "/ml/team-a")
    keycloak.delete(leaver.name)
    wait_until(leaver.out, SOON, "the token of the deleted stops", every=0.3)
    assert leaver.visitor.me() is None


def test_groups_follow_without_a_session(asking, keycloak):
    leaver = Leaver(asking, keycloak, "/ml/team-a")
    leaver.visitor.http.cookies.clear()
    keycloak.join(leaver.name, "/ml/team-b")
    wait_until(lambda: set(leaver.me()["groups"]) >= {"/ml/team-a", "/ml/team-b"}, SOON, "the second group is seen", every=0.3)
    keycloak.join(leaver.name, "/ml/admins")
    wait_until(lambda: leaver.me()["is_admin"], SOON, "they are an administrator", every=0.3)
    for group in ("/ml/team-a", "/ml/team-b", "/ml/admins"):
        keycloak.leave(leaver.name, group)
    wait_until(leaver.out, SOON, "without any allowed group the token stops", every=0.3)


def test_a_token_that_rests_since_a_sign_out_is_not_woken_by_the_list(asking, keycloak):
    leaver = Leaver(asking, keycloak, "/ml/team-a")
    keycloak.sign_out(leaver.name)
    wait_until(leaver.out, SOON, "it rests", every=0.3)
    seen = asking.counted("directory_syncs_total", outcome="ok")
    wait_until(lambda: asking.counted("directory_syncs_total", outcome="ok") >= seen + 2, SOON, "two rounds", every=0.3)
    assert leaver.out()
    assert leaver.visitor.sign_in(leaver.name).status_code == 200
    assert leaver.works(), "signing in wakes it"


def test_a_service_account_that_may_not_ask_changes_nothing_and_says_what_it_needs(asking, keycloak):
    leaver = Leaver(asking, keycloak, "/ml/team-a")
    with keycloak.without_service_account_roles("mlflow"):
        before = asking.counted("directory_syncs_total", outcome="forbidden")
        wait_until(lambda: asking.counted("directory_syncs_total", outcome="forbidden") > before, SOON, "it may not", every=0.3)
        keycloak.disable(leaver.name)
        before = asking.counted("directory_syncs_total", outcome="forbidden")
        wait_until(lambda: asking.counted("directory_syncs_total", outcome="forbidden") > before + 1, SOON, "again", every=0.3)
        assert leaver.works()
        said = [line for line in asking.process.output().splitlines() if "the disabled users of keycloak cannot be determined" in line]
        assert len(said) == 1 and "needs the role `view-users`" in said[0]
    wait_until(leaver.out, SOON, "it may again", every=0.3)
