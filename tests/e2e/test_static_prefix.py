"""An MLflow that was started with `--static-prefix`, behind the proxy, behind another proxy that passes on what is below the
prefix and changes no path. People sign in at a real Keycloak in a real Chromium.
"""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from conftest import running
from harness import Mlflow, Person, Proxy, ADMIN, ADMIN_PASSWORD, unique
from keycloak import behind_keycloak

PREFIX = "/mlflow"
API = f"{PREFIX}/api/2.0/mlflow"
pytestmark = pytest.mark.timeout(600)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade"}


class Outer(BaseHTTPRequestHandler):
    """The web server in front: it knows one path and passes it on as it is."""

    protocol_version = "HTTP/1.1"
    behind = None

    def handle_any(self):
        if not (self.path == PREFIX or self.path.startswith((f"{PREFIX}/", f"{PREFIX}?"))):
            return self.reply(404, [], b"the front page of another application")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers | {"X-Forwarded-For": self.client_address[0]})
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP | {"content-length"}]
            self.reply(answer.status, kept, answer.read())
        finally:
            connection.close()

    def reply(self, status, headers, body):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def outer(keycloak, folder):
    """The address of the web server in front, and the proxy behind it."""
    mlflow = Mlflow(folder / "mlflow-prefix", prefix=PREFIX)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Outer)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        proxy = behind_keycloak(Proxy(folder / "proxy-prefix", mlflow.wait().url), keycloak, **{
            "SERVER__PUBLIC_URL": url, "SERVER__TRUSTED_PROXIES": "127.0.0.0/8", "UPSTREAM__STATIC_PREFIX": PREFIX})
        Outer.behind = proxy.port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keycloak.send_back_to(url + PREFIX)
        for one in running(proxy):
            one.outer = url
            yield one
    finally:
        server.shutdown()
        server.server_close()
        mlflow.stop()


@pytest.fixture
def admin(outer):
    person = Person(outer, ADMIN, ADMIN_PASSWORD)
    person.url = outer.outer
    return person


def test_the_first_page_and_the_users_api_are_below_the_prefix(admin, outer):
    for path, status in [
        (PREFIX, 302),
        (f"{PREFIX}/", 200),
        (f"{PREFIX}/version", 200),
        (f"{PREFIX}/auth/account", 200),
        (f"{API}/users/get?username=admin", 200),
        (f"{PREFIX}/ajax-api/2.0/mlflow/users/current", 200),
        (f"{PREFIX}/api/3.0/mlflow/users/permissions/list?username=admin", 200),
    ]:
        assert admin.get(path).status_code == status, path
    root = admin.front.anonymous().get("/")
    assert (root.status_code, root.headers["Location"]) == (302, f"{PREFIX}/")


def test_the_python_client_works_below_the_prefix(admin):
    """Runs, artifacts, models, prompts and traces; then a download as a browser asks for it."""
    admin.url += PREFIX
    made = json.loads(admin.python("gallery.py", unique("below")).splitlines()[-1])
    path = f"/get-artifact?run_id={made['shared']['runs'][0]}&path=notes.txt"
    assert admin.get(path).text == "What shared notes say"


def test_signing_in_and_out_happens_below_the_prefix(visit, keycloak, admin, outer):
    experiment = admin.ok("POST", f"{API}/experiments/create", {"name": unique("prefixed")})["experiment_id"]
    name = keycloak.fresh_person("/ml/admins")
    window = visit("static-prefix", outer.outer + PREFIX)
    page = window.page
    page.goto(f"{window.url}/#/experiments/{experiment}")
    page.locator("#username").fill(name)
    page.locator("#password").fill(keycloak.people[name.lower()])
    page.locator("#kc-login").click()
    page.wait_for_url(f"{window.url}/#/experiments/{experiment}**")
    page.get_by_text("prefixed-").first.wait_for()
    window.picture("deep-link")
    for hidden, text in [("account", f"{name}@example.com"), ("admin", "admin")]:
        page.goto(f"{window.url}/#/{hidden}")
        page.get_by_text(text).first.wait_for()
        window.picture(f"mlflow-{hidden}")
    page.goto(f"{window.url}/auth/account")
    expect(page.get_by_role("heading", name="Account", exact=True)).to_be_visible()
    window.picture("account")
    page.goto(f"{window.url}/nopage")
    expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
    window.picture("not-found")
    page.get_by_role("link", name="Go to MLflow").click()
    page.wait_for_url(f"{window.url}/**")
    page.goto(f"{window.url}/auth/logout")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{window.url}/auth/signed-out**")
    window.picture("signed-out")
    bad = [trouble for trouble in window.troubles if not trouble.startswith("403 GET /mlflow/nopage")]
    assert not bad, bad
