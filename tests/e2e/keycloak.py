"""A real Keycloak with the example's realm, once for all tests that want it, and what an administrator of it can do.

It listens on loopback, calls itself by one address whatever it is asked under, and is stopped by its own process id.
"""

import base64
import contextlib
import json
import os
import subprocess
import time
from functools import cached_property
from pathlib import Path

import requests

from harness import ROOT, Process, free_port, plain_environment, secret, wait_until

REALM_FILE = ROOT / "examples" / "keycloak" / "realm.json"
REALM = "mlflow"
# Those of the example's realm.
CLIENTS = {"mlflow": "demo-secret-of-mlflow", "ci": "demo-secret-of-ci", "other": "demo-secret-of-other"}
for _secret in CLIENTS.values():
    secret(_secret)


def claims_of(token):
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
        self.issuer = f"{self.url}/realms/{REALM}"
        self.password = secret("kc-" + base64.b16encode(os.urandom(12)).decode())
        self.process = None
        self.http = requests.Session()
        self.http.trust_env = False
        self._admin_token, self._admin_until = None, 0

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

        wait_until(answers, 180, "Keycloak answers", every=0.5)
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

    # ---- what programs do

    def token(self, client, **form):
        """The token endpoint's answer, a refusal too."""
        form = {"client_id": client, "client_secret": CLIENTS[client]} | form
        return self.http.post(f"{self.issuer}/protocol/openid-connect/token", data=form, timeout=30)

    def client_token(self, client="ci"):
        """What a pipeline gets for its own credentials."""
        return self._tokens(self.token(client, grant_type="client_credentials"))["access_token"]

    def tokens_of(self, person, client="mlflow", scope="openid"):
        """A person's tokens, as the client gets them."""
        password = self.people[person]
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

    def admin(self, method, path, body=None, realm=REALM, **more):
        if time.monotonic() > self._admin_until:
            form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": self.password}
            answer = self.http.post(f"{self.url}/realms/master/protocol/openid-connect/token", data=form, timeout=30)
            answer.raise_for_status()
            self._admin_token, self._admin_until = answer.json()["access_token"], time.monotonic() + 30
        answer = self.http.request(
            method, f"{self.url}/admin/realms/{realm}{path}", json=body, timeout=30,
            headers={"Authorization": f"Bearer {self._admin_token}"}, **more,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def settings(self, **changes):
        """Changes the realm's own settings, such as `accessTokenLifespan`; gives back what they were."""
        before = self.admin("GET", "")
        self.admin("PUT", "", changes)
        return {key: before[key] for key in changes}

    @contextlib.contextmanager
    def with_settings(self, **changes):
        before = self.settings(**changes)
        try:
            yield
        finally:
            self.settings(**before)

    def client(self, client_id):
        return self.admin("GET", "/clients", params={"clientId": client_id})[0]

    def change_client(self, client_id, attributes=None, **changes):
        client = self.client(client_id)
        client |= changes
        client["attributes"] |= attributes or {}
        self.admin("PUT", f"/clients/{client['id']}", client)

    def serves(self, public_url, provider="keycloak"):
        """Makes the client `mlflow` one of the proxy at this address: one proxy at a time gets logouts announced."""
        redirects = set(self.client("mlflow")["redirectUris"]) | {f"{public_url}/auth/callback/{provider}"}
        after = self.client("mlflow")["attributes"]["post.logout.redirect.uris"].split("##") + [f"{public_url}/*"]
        self.change_client("mlflow", redirectUris=sorted(redirects), attributes={
            "post.logout.redirect.uris": "##".join(dict.fromkeys(after)),
            "backchannel.logout.url": f"{public_url}/auth/backchannel-logout",
        })

    def user(self, name):
        return self.admin("GET", "/users", params={"username": name, "exact": "true"})[0]

    def new_person(self, name, *groups):
        """Somebody of the test's own, so that what happens to them happens to nobody else."""
        self.people[name] = password = secret(f"password-of-{name}")
        self.admin("POST", "/users", {
            "username": name, "email": f"{name}@example.com", "emailVerified": True, "enabled": True,
            "firstName": name, "lastName": "Tester", "groups": list(groups),
            "credentials": [{"type": "password", "value": password, "temporary": False}],
        })
        return f"{name}@example.com"

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

    def new_key(self):
        """A further signing key that is preferred from now on; gives its component's id for `drop_key`."""
        realm = self.admin("GET", "")["id"]
        name = f"rotated-{int(time.time() * 1000)}"
        self.admin("POST", "/components", {
            "name": name, "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider", "parentId": realm,
            "config": {"priority": [str(int(time.time()))], "enabled": ["true"], "active": ["true"],
                       "algorithm": ["RS256"], "keySize": ["2048"]},
        })
        return self.admin("GET", "/components", params={"name": name})[0]["id"]

    def drop_key(self, component):
        self.admin("DELETE", f"/components/{component}")

