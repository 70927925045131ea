"""Signing in and out as people see it: a real Chromium between the proxy and a real Keycloak.

Each page of ours leaves a picture, in light and dark.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from conftest import running
from harness import Http, Proxy, secret, unique
from keycloak import behind_keycloak

API = "/api/2.0/mlflow"
# The first of them waits for Keycloak to start.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def person(visit, front, keycloak):
    """A window of somebody who is at Keycloak already, or will be: `person("/ml/team-a")`."""

    def make(*groups):
        name = keycloak.fresh_person(*groups)
        window = visit("signing-in", front.url)
        window.account, window.password = name, keycloak.people[name.lower()]
        return window

    return make


def fill(window):
    page = window.page
    page.locator("#username").fill(window.account)
    page.locator("#password").fill(window.password)
    page.locator("#kc-login").click()


def sign_in(window, path="/auth/account"):
    window.page.goto(window.url + path)
    fill(window)


def picture(window, name):
    """In light and in dark."""
    for scheme in ("light", "dark"):
        window.page.emulate_media(color_scheme=scheme)
        window.picture(f"{name}-{scheme}")
    window.page.emulate_media(color_scheme="light")


def test_a_deep_link_is_still_there_after_signing_in(person, front):
    admin = front.admin()
    experiment = admin.ok("POST", f"{API}/experiments/create", {"name": unique("team-a")})["experiment_id"]
    window = person("/ml/admins")
    window.page.goto(f"{front.url}/#/experiments/{experiment}")
    fill(window)
    window.page.wait_for_url(f"{front.url}/#/experiments/{experiment}**")
    window.page.get_by_text("team-a-").first.wait_for()
    picture(window, "deep-link")


def test_the_account_page_makes_a_token_that_works_in_a_notebook(person, front):
    window = person("/ml/team-a")
    sign_in(window)
    page = window.page
    page.wait_for_url(f"{front.url}/auth/account")
    expect(page.get_by_role("heading", name="Account", exact=True)).to_be_visible()
    expect(page.get_by_text(f"{window.account}@example.com").first).to_be_visible()
    expect(page.get_by_text("/ml/team-a")).to_be_visible()
    picture(window, "account")
    page.get_by_label("Name", exact=True).fill("notebook")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("heading", name="Access token created")).to_be_visible()
    token = secret(next(word for word in page.locator("pre").first.inner_text().replace("=", " ").replace('"', " ").split()
                        if word.startswith("mlap_")))
    me = Http(front.url, f"Bearer {token}").ok("GET", "/auth/api/v1/me")
    assert me["username"] == f"{window.account}@example.com" and "/ml/team-a" in me["groups"]
    page.goto(f"{front.url}/auth/account")
    expect(page.get_by_role("row", name="notebook")).to_be_visible()
    expect(page.get_by_text(token)).to_have_count(0)
    picture(window, "account-with-a-token")
    page.get_by_label("Revoke notebook").click()
    page.get_by_role("button", name="Revoke token").click()
    expect(page.get_by_role("row", name="notebook")).to_have_count(0)
    assert Http(front.url, f"Bearer {token}").get("/auth/api/v1/me").status_code == 401


def test_who_is_in_no_allowed_group_sees_which_one_it_takes(person, front):
    window = person()
    sign_in(window)
    expect(window.page.get_by_role("heading", name="Access denied")).to_be_visible()
    expect(window.page.get_by_text("/ml or a group below it")).to_be_visible()
    picture(window, "denied")


def test_signing_out_asks_first_and_ends_it_at_keycloak_too(person, front):
    window = person("/ml/team-a")
    sign_in(window)
    page = window.page
    page.wait_for_url(f"{front.url}/auth/account")
    page.goto(f"{front.url}/auth/logout")
    expect(page.get_by_role("heading", name="Sign out")).to_be_visible()
    picture(window, "sign-out")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{front.url}/auth/signed-out**")
    picture(window, "signed-out")
    page.goto(f"{front.url}/auth/account")
    expect(page.locator("#kc-login")).to_be_visible()


class Another(BaseHTTPRequestHandler):
    """What the other application shows, whatever is asked."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the other application")

    def log_message(self, *_):
        pass


@pytest.fixture
def other_application(keycloak):
    """The address of another application, which the client `other` is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Another)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    keycloak.change_client("other", redirectUris=[f"{url}/*"])
    yield url
    server.shutdown()
    server.server_close()


def test_a_sign_out_at_another_application_ends_this_one_too(person, front, keycloak, other_application):
    """Single sign-on, and single sign-out: both in one browser, which carries Keycloak's session to each."""
    window = person("/ml/team-a")
    sign_in(window)
    page = window.page
    page.wait_for_url(f"{front.url}/auth/account")
    # The other application's own sign-in shows no form: it is the same session at Keycloak.
    at_keycloak, back = f"{keycloak.issuer}/protocol/openid-connect", f"{other_application}/back"
    page.goto(f"{at_keycloak}/auth?client_id=other&response_type=code&scope=openid&redirect_uri={back}")
    expect(page.get_by_text("the other application")).to_be_visible()
    code = parse_qs(urlsplit(page.url).query)["code"][0]
    tokens = keycloak.token("other", grant_type="authorization_code", redirect_uri=back, code=code).json()
    hint = secret(tokens["id_token"])
    page.goto(f"{at_keycloak}/logout?client_id=other&post_logout_redirect_uri={back}&id_token_hint={hint}")
    expect(page.get_by_text("the other application")).to_be_visible()
    page.goto(f"{front.url}/auth/account")
    expect(page.locator("#kc-login")).to_be_visible()


def test_two_tabs_that_sign_in_at_the_same_time_both_arrive(person, front):
    window = person("/ml/team-a")
    window.page.goto(f"{front.url}/?tab=1")
    second = window.context.new_page()
    second.goto(f"{front.url}/?tab=2")
    fill(window)
    window.page.wait_for_url(f"{front.url}/?tab=1**")
    # Keycloak's page notices by itself that somebody signed in, and goes on with what it was opened for.
    second.wait_for_url(f"{front.url}/?tab=2**", timeout=60_000)


def test_the_sign_in_page_with_a_password_form_beside_the_provider(visit, keycloak, mlflow_server, tmp_path):
    proxy = behind_keycloak(Proxy(tmp_path / "proxy", mlflow_server.url), keycloak, **{
        "AUTHN__PASSWORD_FORM": "true", "OIDC__PROVIDERS__KEYCLOAK__DISPLAY_NAME": "Company account"})
    for _ in running(proxy):
        window = visit("signing-in", proxy.url)
        window.page.goto(f"{proxy.url}/auth/login")
        expect(window.page.get_by_role("link", name="Sign in with Company account")).to_be_visible()
        picture(window, "sign-in")
        window.page.get_by_label("User name").fill("nobody")
        window.page.get_by_label("Password").fill("wrong")
        window.page.get_by_role("button", name="Sign in", exact=True).click()
        expect(window.page.get_by_role("alert")).to_contain_text("User name or password is wrong")
        picture(window, "sign-in-refused")
        window.page.goto(f"{proxy.url}/auth/callback/keycloak?state=made-up&code=x")
        expect(window.page.get_by_role("heading", name="Not signed in")).to_be_visible()
        picture(window, "error")
