"""A real Keycloak with the example's realm, once for all tests that want it, and what an administrator of it can do.

It listens on loopback, calls itself by one address whatever it is asked under, and is stopped by its own process id.
"""

import base64
import contextlib
import copy
import html
import http.cookiejar
import json
import os
import re
import subprocess
import time
from functools import cached_property
from pathlib import Path
from urllib.parse import urlencode, urljoin

import requests

from harness import ROOT, Process, free_port, plain_environment, secret, unique, wait_until

EXAMPLE = ROOT / "examples" / "keycloak"
REALM_FILE = EXAMPLE / "realm.json"
REALM = "mlflow"
# What only Keycloak's sign-in page has.
FORM = 'id="kc-form-login"'
NAVIGATION = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
SCRIPT = {"Accept": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}
# Those of the example's realm.
CLIENTS = {"mlflow": "demo-secret-of-mlflow", "ci": "demo-secret-of-ci", "other": "demo-secret-of-other"}
for _secret in CLIENTS.values():
    secret(_secret)


def claims(token):
    """What a JWT says, unverified."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


class Keycloak:
    """The server, its admin API, and tokens as programs get them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.home = self.folder / "keycloak"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.name = REALM
        self.password = secret("kc-" + base64.b16encode(os.urandom(12)).decode())
        self.process = None
        self.http = requests.Session()
        self.http.trust_env = False
        self._admin_token, self._admin_until = None, 0

    @property
    def issuer(self):
        return f"{self.url}/realms/{self.name}"

    def start(self):
        if not self.home.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Maven and apt need the proxies of this machine's environment, which the servers must not have.
            subprocess.run([ROOT / "scripts" / "keycloak.sh", self.home], check=True, stdout=subprocess.DEVNULL)
            import_folder = self.home / "data" / "import"
            import_folder.mkdir(parents=True)
            (import_folder / "realm.json").write_text(json.dumps(self.realm()))
        argv = [self.home / "bin" / "kc.sh", "start-dev", "--http-host=127.0.0.1", f"--http-port={self.port}"]
        argv += [f"--hostname={self.url}", "--cache=local", "--import-realm"]
        env = plain_environment(
            KC_BOOTSTRAP_ADMIN_USERNAME="admin", KC_BOOTSTRAP_ADMIN_PASSWORD=self.password,
            JAVA_OPTS_APPEND="-XX:TieredStopAtLevel=1", JAVA_OPTS_KC_HEAP="-Xms64m -Xmx512m",
        )
        self.process = Process(argv, self.folder / "keycloak.log", env, self.folder)

        def answers():
            self.process.check_alive()
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.issuer}/.well-known/openid-configuration", timeout=5).ok

        wait_until(answers, 400, "Keycloak answers", every=0.5)
        # Its first token takes it long, longer than the proxy waits on a busy machine.
        self.token("ci", grant_type="client_credentials")
        return self

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    @staticmethod
    def realm():
        """The example's realm; only tests may trade a password for a token."""
        realm = json.loads(REALM_FILE.read_text())
        for client in realm["clients"]:
            client["directAccessGrantsEnabled"] = True
        return realm

    def another_realm(self, name):
        """A further realm of this server, made from the same file: another issuer, with keys, clients and people of its own."""
        self.admin("POST", "", self.realm() | {"realm": name}, realm=None)
        # Its rights are in tokens that are made from now on.
        self._admin_until = 0
        other = copy.copy(self)
        other.name = name
        other.__dict__.pop("people", None)
        return other

    # ---- what programs do

    def token(self, client, **form):
        """The token endpoint's answer, a refusal too."""
        form = {"client_id": client, "client_secret": CLIENTS[client]} | form
        return self.http.post(f"{self.issuer}/protocol/openid-connect/token", data=form, timeout=60)

    def machine_token(self, client="ci"):
        """What a pipeline gets for its own credentials."""
        return self._tokens(self.token(client, grant_type="client_credentials"))["access_token"]

    def tokens_of(self, person, client="mlflow", scope="openid"):
        """A person's tokens, as the client gets them."""
        password = self.people[person.lower()]
        return self._tokens(self.token(client, grant_type="password", username=person, password=password, scope=scope))

    @staticmethod
    def _tokens(answer):
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        tokens = answer.json()
        for name in ("access_token", "id_token", "refresh_token"):
            if tokens.get(name):
                secret(tokens[name])
        return tokens

    # ---- what an administrator does

    @cached_property
    def people(self):
        """Name and password of everybody in the realm; tests add theirs."""
        realm = json.loads(REALM_FILE.read_text())
        return {user["username"]: user["credentials"][0]["value"] for user in realm["users"] if "credentials" in user}

    def admin(self, method, path, body=None, **more):
        """`realm`: another one; `None`: all of them."""
        realm = more.pop("realm", self.name)
        if time.monotonic() > self._admin_until:
            form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": self.password}
            answer = self.http.post(f"{self.url}/realms/master/protocol/openid-connect/token", data=form, timeout=30)
            answer.raise_for_status()
            self._admin_token, self._admin_until = answer.json()["access_token"], time.monotonic() + 30
        answer = self.http.request(
            method, f"{self.url}/admin/realms{f'/{realm}' if realm else ''}{path}", json=body, timeout=30,
            headers={"Authorization": f"Bearer {self._admin_token}"}, **more,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    @contextlib.contextmanager
    def with_settings(self, **changes):
        """Other settings of the realm, such as `accessTokenLifespan`, for a while."""
        before = self.admin("GET", "")
        self.admin("PUT", "", changes)
        try:
            yield
        finally:
            self.admin("PUT", "", {key: before[key] for key in changes})

    def client(self, client_id):
        return self.admin("GET", "/clients", params={"clientId": client_id})[0]

    def change_client(self, client_id, attributes=None, **changes):
        client = self.client(client_id)
        client |= changes
        client["attributes"] |= attributes or {}
        self.admin("PUT", f"/clients/{client['id']}", client)

    def send_back_to(self, public_url, provider="keycloak"):
        """Lets the client `mlflow` be this proxy as well, and announces logouts to it: to one at a time."""
        redirects = set(self.client("mlflow")["redirectUris"]) | {f"{public_url}/auth/callback/{provider}"}
        after = self.client("mlflow")["attributes"]["post.logout.redirect.uris"].split("##") + [f"{public_url}/auth/signed-out"]
        self.change_client("mlflow", redirectUris=sorted(redirects), attributes={
            "post.logout.redirect.uris": "##".join(dict.fromkeys(after)),
            "backchannel.logout.url": f"{public_url}/auth/backchannel-logout",
        })

    @contextlib.contextmanager
    def without_service_account_roles(self, client_id):
        """The client's service account may look at nothing, for a while."""
        account = self.admin("GET", f"/clients/{self.client(client_id)['id']}/service-account-user")["id"]
        path = f"/users/{account}/role-mappings/clients/{self.client('realm-management')['id']}"
        roles = self.admin("GET", path)
        self.admin("DELETE", path, roles)
        try:
            yield
        finally:
            self.admin("POST", path, roles)

    def user(self, name):
        return self.admin("GET", "/users", params={"username": name, "exact": "true"})[0]

    def fresh_person(self, *groups, prefix="person", email=None):
        """Somebody of the test's own, so that what happens to them happens to nobody else; gives their name."""
        name = unique(prefix)
        self.people[name.lower()] = password = secret(f"password-of-{name}")
        self.admin("POST", "/users", {
            "username": name, "email": email or f"{name}@example.com", "emailVerified": True, "enabled": True,
            "firstName": name, "lastName": "Tester", "groups": list(groups),
            "credentials": [{"type": "password", "value": password, "temporary": False}],
        })
        return name

    def change_user(self, name, **changes):
        user = self.user(name) | changes
        self.admin("PUT", f"/users/{user['id']}", user)

    def disable(self, name):
        self.change_user(name, enabled=False)

    def enable(self, name):
        self.change_user(name, enabled=True)

    def delete(self, name):
        self.admin("DELETE", f"/users/{self.user(name)['id']}")

    def group_id(self, path):
        return self.admin("GET", f"/group-by-path/{path.lstrip('/')}")["id"]

    def join(self, name, path):
        self.admin("PUT", f"/users/{self.user(name)['id']}/groups/{self.group_id(path)}")

    def leave(self, name, path):
        self.admin("DELETE", f"/users/{self.user(name)['id']}/groups/{self.group_id(path)}")

    def sessions(self, name):
        return self.admin("GET", f"/users/{self.user(name)['id']}/sessions")

    def sign_out(self, name):
        """Ends all sessions of somebody; each client hears of it on the back channel."""
        self.admin("POST", f"/users/{self.user(name)['id']}/logout")

    def end_session(self, sid):
        self.admin("DELETE", f"/sessions/{sid}")

    def rotate_keys(self):
        """Signs with a new key from now on; the old one stays known, as an administrator does it."""
        self._priority = getattr(self, "_priority", 1000) + 1
        self.admin("POST", "/components", {
            "name": unique("rotated"), "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": self.admin("GET", "")["id"],
            "config": {"priority": [str(self._priority)], "enabled": ["true"], "active": ["true"],
                       "algorithm": ["RS256"], "keySize": ["2048"]},
        })


def behind_keycloak(proxy, keycloak, **more):
    """Makes people and programs of this Keycloak known to a proxy that was not started yet, under the example's rules.

    The proxy is at `localhost`, Keycloak at 127.0.0.1: two sites, as they usually are.
    """
    proxy.url = f"http://localhost:{proxy.port}"
    ours = {
        "SERVER__PUBLIC_URL": proxy.url,
        "AUTHZ__POLICY_FILE": str(EXAMPLE / "policy.toml"),
    }
    provider = {
        "ISSUER": keycloak.issuer,
        "CLIENT_ID": "mlflow",
        "CLIENT_SECRET": CLIENTS["mlflow"],
        "GROUPS_CLAIMS": '["groups", "realm_access.roles"]',
        "ALLOWED_GROUPS": '["/ml/**"]',
        "ADMIN_GROUPS": '["/ml/admins"]',
    }
    issuer = {
        "ISSUER": keycloak.issuer,
        "AUDIENCES": '["mlflow"]',
        "GROUPS_CLAIMS": '["groups", "realm_access.roles"]',
        "ALLOWED_GROUPS": '["/ml/**"]',
        "ADMIN_GROUPS": '["/ml/admins"]',
        "MACHINES": '[{ where = { azp = "ci" }, name = "pipeline-ci", groups = ["/ml/team-a"] }]',
    }
    ours |= {f"OIDC__PROVIDERS__KEYCLOAK__{key}": value for key, value in provider.items()}
    ours |= {f"JWT__ISSUERS__KEYCLOAK__{key}": value for key, value in issuer.items()}
    proxy.settings |= ours | more
    return proxy


class Loopback(http.cookiejar.DefaultCookiePolicy):
    """As browsers do it: loopback is as good as TLS, so `Secure` cookies come back."""

    def set_ok(self, cookie, request):
        cookie.secure = False
        return super().set_ok(cookie, request)


class Visitor:
    """Somebody with a browser, without one: keeps cookies, follows redirects as a navigation does, fills Keycloak's form."""

    def __init__(self, front, keycloak, provider="keycloak"):
        """`provider`: what the proxy calls this Keycloak."""
        self.front, self.keycloak, self.provider = front, keycloak, provider
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.cookies.set_policy(Loopback())

    def get(self, address, navigate=True):
        """`navigate`: as the address bar asks; otherwise as a script of a page."""
        return self.http.get(self._absolute(address), headers=NAVIGATION if navigate else SCRIPT, timeout=30, allow_redirects=False)

    def post(self, path, form=None, **headers):
        """As a form of our own page sends it."""
        headers = NAVIGATION | {"Origin": self.front, "Sec-Fetch-Site": "same-origin"} | headers
        return self.http.post(self._absolute(path), data=form or {}, headers=headers, timeout=30, allow_redirects=False)

    def _absolute(self, address):
        return address if address.startswith("http") else self.front + address

    def follow(self, answer):
        """To where the redirects end."""
        for _ in range(10):
            if not answer.is_redirect:
                return answer
            answer = self.get(urljoin(answer.url, answer.headers["Location"]))
        raise AssertionError(f"redirects without end, at {answer.url}")

    def begin(self, return_to="/auth/api/v1/me"):
        """To Keycloak's form; or to the end of it all, when Keycloak knows the browser."""
        return self.follow(self.get("/auth/login?" + urlencode({"provider": self.provider, "return_to": return_to})))

    def fill(self, form, name, password=None):
        """Answers Keycloak's form; what follows is not followed."""
        assert FORM in form.text, f"{form.status_code} at {form.url}: {form.text[:500]}"
        action = html.unescape(re.search(r'<form[^>]*action="([^"]+)"', form.text).group(1))
        fields = {"username": name, "password": password or self.keycloak.people[name.lower()], "credentialId": ""}
        return self.http.post(action, data=fields, headers=NAVIGATION, timeout=30, allow_redirects=False)

    def sign_in(self, name, return_to="/auth/api/v1/me"):
        return self.follow(self.fill(self.begin(return_to), name))

    def me(self):
        """What the proxy says of them; `None` while it does not know them."""
        answer = self.get("/auth/api/v1/me", navigate=False)
        if answer.status_code == 401:
            return None
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.json()
