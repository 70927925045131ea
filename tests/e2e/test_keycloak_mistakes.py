"""What is set wrong in a real realm, one thing at a time: `doctor` names that one setting, in the words of Keycloak's console."""

import contextlib
import json
import re
import zipfile
from dataclasses import dataclass, field

import pytest

from harness import Proxy, secret, unique
from keycloak import CLIENTS, Visitor, behind_keycloak

# The first of them may wait for Keycloak to start.
pytestmark = pytest.mark.timeout(600)
PROVIDER, ISSUER = "OIDC__PROVIDERS__KEYCLOAK__", "JWT__ISSUERS__KEYCLOAK__"
DIRECTORY_ROLES = {"view-users", "view-clients"}


class Realm:
    """A client as the example describes it, somebody to sign in, and one proxy that fits both."""

    def __init__(self, keycloak, proxy):
        self.keycloak, self.proxy = keycloak, proxy
        self.name = unique("mistakes")
        self.person = keycloak.fresh_person("/ml/team-a")
        CLIENTS[self.name] = secret(f"secret-of-{self.name}")
        mappers = [{key: mapper[key] for key in mapper if key != "id"} for mapper in keycloak.client("mlflow")["protocolMappers"]]
        audience = next(mapper for mapper in mappers if mapper["protocolMapper"] == "oidc-audience-mapper")
        audience["config"] |= {"included.client.audience": self.name}
        keycloak.admin("POST", "/clients", {
            "clientId": self.name, "secret": CLIENTS[self.name], "serviceAccountsEnabled": True, "directAccessGrantsEnabled": True,
            "redirectUris": [f"{proxy.url}/auth/callback/keycloak"], "protocolMappers": mappers, "attributes": {
                "pkce.code.challenge.method": "S256", "post.logout.redirect.uris": f"{proxy.url}/auth/signed-out",
                "backchannel.logout.url": f"{proxy.url}/auth/backchannel-logout",
            },
        })
        self.grant_roles()
        proxy.settings |= {f"{PROVIDER}CLIENT_ID": self.name, f"{PROVIDER}CLIENT_SECRET": CLIENTS[self.name],
                           f"{ISSUER}AUDIENCES": self.name}

    def grant_roles(self):
        account = self.keycloak.admin("GET", f"/clients/{self.id}/service-account-user")["id"]
        management = self.keycloak.client("realm-management")["id"]
        roles = [role for role in self.keycloak.admin("GET", f"/clients/{management}/roles") if role["name"] in DIRECTORY_ROLES]
        self.keycloak.admin("POST", f"/users/{account}/role-mappings/clients/{management}", roles)

    @property
    def id(self):
        return self.keycloak.client(self.name)["id"]

    # ---- one thing wrong, for a while

    @contextlib.contextmanager
    def client(self, attributes=None, **changes):
        before = self.keycloak.client(self.name)
        self.keycloak.change_client(self.name, attributes, **changes)
        try:
            yield
        finally:
            right = before | {"attributes": dict.fromkeys(attributes or {}, "") | before["attributes"]}
            self.keycloak.admin("PUT", f"/clients/{before['id']}", right)
            if {"serviceAccountsEnabled", "publicClient"} & changes.keys():
                # Its account went with it.
                self.grant_roles()

    @contextlib.contextmanager
    def mapper(self, kind, **config):
        """`config`: what it says instead; without any it is not there."""
        path = f"/clients/{self.id}/protocol-mappers/models"
        mapper = next(one for one in self.keycloak.admin("GET", path) if one["protocolMapper"] == kind)
        self.keycloak.admin("DELETE", f"{path}/{mapper['id']}")
        config = {name.replace("_", "."): value for name, value in config.items()}
        if config:
            self.keycloak.admin("POST", path, mapper | {"config": mapper["config"] | config})
        try:
            yield
        finally:
            if config:
                self.keycloak.admin("DELETE", f"{path}/{mapper['id']}")
            self.keycloak.admin("POST", path, mapper)

    @contextlib.contextmanager
    def without_scope(self, name):
        scope = next(one for one in self.keycloak.admin("GET", "/client-scopes") if one["name"] == name)["id"]
        path = f"/clients/{self.id}/default-client-scopes/{scope}"
        self.keycloak.admin("DELETE", path)
        try:
            yield
        finally:
            self.keycloak.admin("PUT", path)

    @contextlib.contextmanager
    def user(self, **changes):
        before = self.keycloak.user(self.person)
        self.keycloak.change_user(self.person, **changes)
        try:
            yield
        finally:
            self.keycloak.change_user(self.person, **{key: before[key] for key in changes})

    @contextlib.contextmanager
    def outside_of_groups(self):
        self.keycloak.leave(self.person, "/ml/team-a")
        try:
            yield
        finally:
            self.keycloak.join(self.person, "/ml/team-a")

    def without_roles(self):
        return self.keycloak.without_service_account_roles(self.name)

    def settings(self, **changes):
        return self.keycloak.with_settings(**changes)

    # ---- what is said of it

    def doctor(self, settings=None, token=None):
        """All that is not ok, but for what other tests left in the AI gateway of the MLflow they share."""
        before = self.proxy.settings
        changed = {key: value.format(**self.words) if value else value for key, value in (settings or {}).items()}
        self.proxy.settings = {key: value for key, value in (before | changed).items() if value is not None}
        arguments = ["doctor", "--json"]
        if token:
            file = self.proxy.folder / "token"
            file.write_text(token)
            arguments += ["--token-file", file]
        try:
            done = self.proxy.cli(*arguments, check=False)
        finally:
            self.proxy.settings = before
        assert done.stdout, done.stderr
        found = [finding for finding in json.loads(done.stdout)["findings"] if finding["outcome"] != "ok"]
        assert done.returncode == int(any(finding["outcome"] == "failed" for finding in found))
        return [finding for finding in found if finding["check"] != "AI gateway"]

    @property
    def words(self):
        return {"client": self.name, "proxy": self.proxy.url, "keycloak": self.keycloak.url, "issuer": self.keycloak.issuer}

    def token(self, kind="access_token", client=None):
        if client and client != self.name:
            return self.keycloak.machine_token(client)
        return self.keycloak.tokens_of(self.person, client=self.name)[kind]

    def evaluated(self):
        """As the console shows it: Client scopes > Evaluate > Generated access token."""
        query = {"scope": "openid", "userId": self.keycloak.user(self.person)["id"]}
        path = f"/clients/{self.id}/evaluate-scopes/generate-example-access-token"
        return json.dumps(self.keycloak.admin("GET", path, params=query))


@pytest.fixture(scope="module")
def realm(keycloak, mlflow_server, tmp_path_factory):
    proxy = behind_keycloak(Proxy(tmp_path_factory.mktemp("mistakes") / "proxy", mlflow_server.url), keycloak)
    proxy.settings[f"{PROVIDER}GROUPS_CLAIMS"] = proxy.settings[f"{ISSUER}GROUPS_CLAIMS"] = "groups"
    one = Realm(keycloak, proxy)
    proxy.start()
    yield one
    proxy.stop()
    keycloak.admin("DELETE", f"/clients/{one.id}")


def told(findings):
    return json.dumps(findings, indent=1)


def check(findings, outcome, change, words):
    """One finding, with this outcome, that names this setting and has nothing else to say."""
    assert len(findings) == 1, told(findings)
    assert (findings[0]["outcome"], findings[0]["change"]) == (outcome, change.format(**words)), told(findings)


def test_where_nothing_is_wrong_nothing_is_said(realm):
    assert realm.doctor() == []
    assert realm.doctor(token=realm.token()) == []
    assert realm.doctor(token=realm.evaluated()) == []
    assert realm.doctor(token=realm.token(client="ci"), settings={f"{ISSUER}AUDIENCES": "mlflow"}) == []


@dataclass
class Mistake:
    make: object
    change: str
    outcome: str = "failed"
    settings: dict = field(default_factory=dict)


def nothing(realm):
    return contextlib.nullcontext()


def both(**settings):
    return {side + key: value for side in (PROVIDER, ISSUER) for key, value in settings.items()}


REALM = "oidc.providers.keycloak.issuer: Keycloak's is https://HOST/realms/REALM, in Realm settings > General > Endpoints > OpenID " \
        "Endpoint Configuration"
SETTINGS = "Clients > {client} > Settings > "
CAPABILITY = f"{SETTINGS}Capability config > "
ROLES = "Clients > {client} > Service account roles > Assign role > Client roles: "
SECRET = "oidc.providers.keycloak.client_secret must be the value of Clients > {client} > Credentials > Client Secret"
OURS = 'oidc.providers.keycloak.issuer = "{issuer}", if that is the right realm; otherwise Keycloak\'s `hostname` option, or Realm ' \
       "settings > General > Frontend URL"

OF_THE_CLIENT = {
    "another-realm": Mistake(nothing, REALM, settings=both(ISSUER="{keycloak}/realms/nowhere")),
    "no-realm": Mistake(nothing, REALM, settings=both(ISSUER="{keycloak}")),
    "a-slash-at-the-end": Mistake(nothing, OURS, settings=both(ISSUER="{issuer}/")),
    "realm-disabled": Mistake(lambda realm: realm.settings(enabled=False), "Realm settings > Enabled: On"),
    "https-required": Mistake(
        lambda realm: realm.settings(sslRequired="all"),
        "an https address in oidc.providers.keycloak.issuer or oidc.providers.keycloak.internal_url; Keycloak refuses plain HTTP as "
        "Realm settings > General > Require SSL says"),
    "no-such-client": Mistake(
        nothing, "oidc.providers.keycloak.client_id: it is the Client ID in Clients, in this realm",
        settings={f"{PROVIDER}CLIENT_ID": "nobody"}),
    "client-disabled": Mistake(lambda realm: realm.client(enabled=False), SETTINGS + "Enabled: On"),
    "wrong-secret": Mistake(nothing, SECRET, settings={f"{PROVIDER}CLIENT_SECRET": "another-secret"}),
    "no-secret": Mistake(
        nothing, "oidc.providers.keycloak.client_secret, from Clients > {client} > Credentials > Client Secret; or, for a public client, "
        + CAPABILITY + "Client authentication: Off", settings={f"{PROVIDER}CLIENT_SECRET": None}),
    "another-authenticator": Mistake(
        lambda realm: realm.client(clientAuthenticatorType="client-jwt"),
        "Clients > {client} > Credentials > Client Authenticator: Client Id and Secret"),
    "public": Mistake(lambda realm: realm.client(publicClient=True), CAPABILITY + "Client authentication: On", "warning"),
    "standard-flow-off": Mistake(lambda realm: realm.client(standardFlowEnabled=False), CAPABILITY + "Standard flow: On"),
    "another-pkce-method": Mistake(
        lambda realm: realm.client({"pkce.code.challenge.method": "plain"}), CAPABILITY + "PKCE Method: S256"),
    "pushed-requests-required": Mistake(
        lambda realm: realm.client({"require.pushed.authorization.requests": "true"}),
        "Clients > {client} > Advanced > Pushed authorization request required: Off"),
    "dpop-required": Mistake(
        lambda realm: realm.client({"dpop.bound.access.tokens": "true"}), CAPABILITY + "Require DPoP bound tokens: Off"),
    "no-redirect-uri": Mistake(
        lambda realm: realm.client(redirectUris=[]), SETTINGS + "Valid redirect URIs: {proxy}/auth/callback/keycloak"),
    "redirect-uri-of-another-provider": Mistake(
        lambda realm: realm.client(redirectUris=[f"{realm.proxy.url}/auth/callback/company"]),
        SETTINGS + "Valid redirect URIs: {proxy}/auth/callback/keycloak"),
    "no-way-back-from-the-logout": Mistake(
        lambda realm: realm.client({"post.logout.redirect.uris": ""}),
        SETTINGS + "Valid post logout redirect URIs: {proxy}/auth/signed-out"),
    "no-scope-email": Mistake(
        lambda realm: realm.without_scope("email"),
        "Clients > {client} > Client scopes > Add client scope > email; or leave it out of oidc.providers.keycloak.scopes"),
    "no-such-scope": Mistake(
        nothing, "Client scopes > Create client scope `nonsense`, then Clients > {client} > Client scopes > Add client scope; or leave it "
        "out of oidc.providers.keycloak.scopes", settings={f"{PROVIDER}SCOPES": '["openid", "email", "nonsense"]'}),
    "service-account-off": Mistake(
        lambda realm: realm.client(serviceAccountsEnabled=False),
        CAPABILITY + "Service account roles: On, then " + ROLES + "`view-users` of `realm-management`; or "
        "oidc.providers.keycloak.sync_seconds = 0", "warning"),
    "service-account-off-though-needed": Mistake(
        lambda realm: realm.client(serviceAccountsEnabled=False),
        CAPABILITY + "Service account roles: On, then " + ROLES + "`view-users` of `realm-management`",
        settings={f"{PROVIDER}SYNC_SECONDS": "30"}),
    "no-role": Mistake(
        lambda realm: realm.without_roles(),
        ROLES + "`view-users` of `realm-management`; or oidc.providers.keycloak.sync_seconds = 0", "warning"),
}


@pytest.mark.parametrize("name", OF_THE_CLIENT)
def test_a_mistake_in_client_or_realm_is_one_finding_with_its_one_setting(realm, name):
    mistake = OF_THE_CLIENT[name]
    with mistake.make(realm):
        found = realm.doctor(mistake.settings)
    check(found, mistake.outcome, mistake.change, realm.words)


GROUP_MAPPER, AUDIENCE_MAPPER = "oidc-group-membership-mapper", "oidc-audience-mapper"
DEDICATED = "Clients > {client} > Client scopes > {client}-dedicated > "
NO_GROUPS = "Users > USER > Groups > Join Group; if the user is in a group, " + DEDICATED + "Add mapper > By configuration > Group " \
            "Membership, with Token Claim Name `groups`, Full group path On, Add to access token On"
AUDIENCE = DEDICATED + "Add mapper > By configuration > Audience, with Included Client Audience `{client}` and Add to access token On; " \
           "or, if such tokens are meant for this proxy, jwt.issuers.keycloak.audiences"

# A key of what signing in then ends with, where it cannot work.
OF_TOKENS = {
    "groups-without-path": (Mistake(
        lambda realm: realm.mapper(GROUP_MAPPER, full_path="false"),
        DEDICATED + "the mapper of type Group Membership > Full group path: On, because oidc.providers.keycloak.allowed_groups names full "
        "paths"), "/ml"),
    "no-group-mapper": (Mistake(lambda realm: realm.mapper(GROUP_MAPPER), NO_GROUPS), "/ml"),
    "no-group": (Mistake(lambda realm: realm.outside_of_groups(), NO_GROUPS), "/ml"),
    "groups-under-another-name": (Mistake(
        lambda realm: realm.mapper(GROUP_MAPPER, claim_name="memberOf"),
        DEDICATED + "the mapper that writes `memberOf` > Token Claim Name: groups; or jwt.issuers.keycloak.groups_claims"), "/ml"),
    "no-group-that-is-allowed": (Mistake(
        nothing, "oidc.providers.keycloak.allowed_groups, or Users > USER > Groups > Join Group", settings=both(ALLOWED_GROUPS="/other/**")),
        None),
    "allowed-groups-without-path": (Mistake(
        nothing, "oidc.providers.keycloak.allowed_groups with full paths, such as `/ml/team-a`; or "
        'oidc.providers.keycloak.groups_form = "both"', settings=both(ALLOWED_GROUPS="team-a")), None),
    "address-not-verified": (Mistake(
        lambda realm: realm.user(emailVerified=False),
        "Users > USER > Email verified: On; or oidc.providers.keycloak.require_verified_email = false"), "verified"),
    "no-audience-mapper": (Mistake(lambda realm: realm.mapper(AUDIENCE_MAPPER), AUDIENCE), None),
    "audience-only-elsewhere": (Mistake(lambda realm: realm.mapper(AUDIENCE_MAPPER, access_token_claim="false"), AUDIENCE), None),
    "no-scope-basic": (Mistake(
        lambda realm: realm.without_scope("basic"), "Clients > {client} > Client scopes > Add client scope > basic (Default)"), None),
    "lightweight-tokens": (Mistake(
        lambda realm: realm.client({"client.use.lightweight.access.token.enabled": "true"}),
        "Clients > {client} > Advanced > Always use lightweight access token: Off"), None),
    "another-client": (Mistake(
        nothing, "jwt.issuers.keycloak.authorized_parties, if `{client}` is allowed to request tokens for this proxy",
        settings={f"{ISSUER}AUTHORIZED_PARTIES": '["ci"]'}), None),
}


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_mistake_in_a_token_is_one_finding_with_its_one_setting(realm, name):
    mistake, refusal = OF_TOKENS[name]
    with mistake.make(realm):
        found = realm.doctor(mistake.settings, realm.token())
        claims = realm.doctor(mistake.settings, realm.evaluated())
        if refusal:
            visitor = Visitor(realm.proxy.url, realm.keycloak)
            page = visitor.sign_in(realm.person)
            assert page.status_code == 403 and refusal in page.text and visitor.me() is None, page.text
    check(found, mistake.outcome, mistake.change, realm.words)
    check(claims, mistake.outcome, mistake.change, realm.words)


@pytest.mark.parametrize("kind", ["id_token", "refresh_token"])
def test_another_kind_of_token_is_called_so(realm, kind):
    check(realm.doctor(token=realm.token(kind)), "failed", "the access token: ID, refresh and logout tokens are never accepted", realm.words)


def test_a_program_that_no_rule_names_is_told_the_rule(realm):
    settings = {f"{ISSUER}AUDIENCES": "mlflow", f"{ISSUER}MACHINES": None}
    found = realm.doctor(settings, realm.token(client="ci"))
    check(found, "failed", "jwt.issuers.keycloak.machines", realm.words)
    assert 'where = { client_id = "ci" }' in found[0]["found"]


@pytest.mark.parametrize("preset", ["github-actions", "gitlab-ci"])
def test_a_preset_that_would_refuse_or_admit_everybody_is_no_configuration(realm, preset):
    settings = {f"{ISSUER}PRESET": preset, f"{ISSUER}MACHINES": None, f"{ISSUER}ALLOWED_GROUPS": None}
    before = realm.proxy.settings
    realm.proxy.settings = {key: value for key, value in (before | settings).items() if value is not None}
    try:
        for command in ("check-config", "doctor"):
            done = realm.proxy.cli(command, check=False)
            assert done.returncode == 2 and "jwt.issuers.keycloak.preset: requires a rule in `machines`" in done.stderr, done.stderr
    finally:
        realm.proxy.settings = before


def test_what_was_set_right_again_works(realm):
    """The last one: every mistake above was taken back."""
    assert realm.doctor(token=realm.token()) == []
    visitor = Visitor(realm.proxy.url, realm.keycloak)
    assert visitor.sign_in(realm.person).status_code == 200 and "/ml/team-a" in visitor.me()["groups"]


def test_the_settings_are_called_as_in_the_console(realm):
    """Every step of a path is a text of Keycloak's own pages; what it prints of mappers and authenticators is in its code."""
    archive = next((realm.keycloak.home / "lib" / "lib" / "main").glob("*keycloak-admin-ui-*.jar"))
    with zipfile.ZipFile(archive) as jar:
        name = next(name for name in jar.namelist() if name.endswith("admin/messages/messages_en.properties"))
        texts = {line.partition("=")[2].strip() for line in jar.read(name).decode().splitlines()}
    from_code = {"Full group path", "Group Membership", "email", "basic"}
    mistakes = [*OF_THE_CLIENT.values(), *(mistake for mistake, _ in OF_TOKENS.values())]
    steps = set()
    for mistake in mistakes:
        for path in re.findall(r"(?:Clients|Client scopes|Users|Realm settings)(?: > [^>;,(:`]+)+", mistake.change):
            steps |= {step.strip() for step in path.split(">")}
    named = {"{client}", "{client}-dedicated", "USER", "the mapper of type Group Membership", "the mapper that writes"}
    unknown = {re.sub(r" (says|On|and.*)$", "", step) for step in steps - named} - texts - from_code
    assert not unknown, unknown
