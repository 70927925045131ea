"""Two identity providers at once, whose people have the same names: what was granted to a name goes to one identity only."""

import contextlib
from types import SimpleNamespace

import pytest

from harness import Http, Proxy, new_password, secret, unique, wait_until
from keycloak import CLIENTS, Visitor, claims

pytestmark = pytest.mark.timeout(600)
API = "/api/2.0/mlflow"
SOON = 20

POLICY = """
[[grants]]
to = {{ user = "{ceo}" }}
on = {{ experiment = "board-*" }}
permission = "EDIT"

[[grants]]
to = {{ user = "{ceo}", provider = "partner" }}
on = {{ experiment = "joint-*" }}
permission = "READ"

[[grants]]
to = {{ group = "/ml/team-a", provider = "partner" }}
on = {{ experiment = "guests-*" }}
permission = "READ"

[[grants]]
to = {{ user = "*" }}
on = {{ experiment = "home:{{user}}:*" }}
permission = "EDIT"

[[grants]]
to = {{ user = "{robot}" }}
on = {{ experiment = "nightly-*" }}
permission = "EDIT"
"""

DENIAL = """
[[grants]]
to = {{ user = "{ceo}", provider = "partner" }}
on = {{ experiment = "*" }}
permission = "DENY"
"""


@pytest.fixture(scope="module")
def two(keycloak, mlflow_server, tmp_path_factory):
    """The first provider is `company`, the second `partner`: two realms, each with keys, clients and people of its own."""
    partner = keycloak.another_realm(unique("partner"))
    folder = tmp_path_factory.mktemp("two")
    names = {"ceo": f"{unique('ceo')}@example.org", "robot": f"{unique('robot')}@example.org"}
    proxy = Proxy(folder / "proxy", mlflow_server.url)
    proxy.url = f"http://localhost:{proxy.port}"
    policy = folder / "policy.toml"
    policy.write_text(POLICY.format(**names))
    proxy.settings |= {"SERVER__PUBLIC_URL": proxy.url, "AUTHZ__POLICY_FILE": str(policy)}
    for name, realm in (("COMPANY", keycloak), ("PARTNER", partner)):
        shared = {"ISSUER": realm.issuer, "GROUPS_CLAIMS": "groups", "ALLOWED_GROUPS": "/ml/**", "ADMIN_GROUPS": "/ml/admins"}
        provider = shared | {"CLIENT_ID": "mlflow", "CLIENT_SECRET": CLIENTS["mlflow"], "SYNC_SECONDS": "1", "LOGOUT_TOKENS": "suspend"}
        issuer = shared | {"AUDIENCES": "mlflow"}
        proxy.settings |= {f"OIDC__PROVIDERS__{name}__{key}": value for key, value in provider.items()}
        proxy.settings |= {f"JWT__ISSUERS__{name}__{key}": value for key, value in issuer.items()}
    machine = f'[{{ where = {{ azp = "ci" }}, name = "{names["robot"]}", groups = ["/ml/team-a"] }}]'
    proxy.settings["JWT__ISSUERS__COMPANY__MACHINES"] = machine
    before = keycloak.client("mlflow")
    keycloak.send_back_to(proxy.url, "company")
    partner.send_back_to(proxy.url, "partner")
    proxy.start()
    yield SimpleNamespace(company=keycloak, partner=partner, proxy=proxy, policy=policy, admin=proxy.admin(), **names)
    proxy.stop()
    keycloak.change_client("mlflow", attributes=before["attributes"], redirectUris=before["redirectUris"])


@pytest.fixture
def experiment(two):
    """Makes one of the administrator's own, so that nobody else has anything on it but by the policy."""
    return lambda name: two.admin.ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]


def visitor(two, provider):
    return Visitor(two.proxy.url, getattr(two, provider), provider)


def signed_in(two, provider, email, *groups):
    """Somebody new of that provider, with this address; gives their name there, too."""
    name = getattr(two, provider).fresh_person(*(groups or ("/ml/team-a",)), email=email)
    one = visitor(two, provider)
    return one, one.sign_in(name), name


def may(one, number):
    """What a browser or a program may do: nothing, READ or EDIT."""
    body = {"experiment_id": number, "key": "k", "value": "v"}
    if isinstance(one, Visitor):
        headers = {"Origin": one.front, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
        read = one.get(f"{API}/experiments/get?experiment_id={number}", navigate=False).status_code
        edit = one.http.post(f"{one.front}{API}/experiments/set-experiment-tag", json=body, headers=headers, timeout=30).status_code
    else:
        read = one.get(f"{API}/experiments/get", {"experiment_id": number}).status_code
        edit = one.post(f"{API}/experiments/set-experiment-tag", body).status_code
    assert {read, edit} <= {200, 403}, (read, edit)
    return {(403, 403): None, (200, 403): "READ", (200, 200): "EDIT"}[read, edit]


def access_token(one):
    headers = {"Origin": one.front, "Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
    made = one.http.post(f"{one.front}/auth/api/v1/tokens", json={"name": unique("laptop"), "expires_in_days": 7}, headers=headers, timeout=30)
    assert made.status_code == 201, made.text
    return Http(one.front, f"Bearer {secret(made.json()['token'])}")


def bearer(two, realm, name):
    return Http(two.proxy.url, f"Bearer {realm.tokens_of(name)['access_token']}")


def test_both_know_the_same_address_and_each_gets_what_is_theirs(two, experiment):
    board, joint, guests = experiment(unique("board")), experiment(unique("joint")), experiment(unique("guests"))
    home = experiment(f"home:{two.ceo}:{unique('x')}")
    # The stranger comes first, and has the name for as long as nobody else brings it.
    theirs, page, their_name = signed_in(two, "partner", two.ceo)
    assert page.status_code == 200 and theirs.me()["username"] == two.ceo, page.text
    token = access_token(theirs)
    assert [may(theirs, it) for it in (board, joint, guests, home)] == [None, "READ", "READ", None]
    ours, page, our_name = signed_in(two, "company", two.ceo)
    assert page.status_code == 200 and ours.me()["username"] == two.ceo, page.text
    assert [may(ours, it) for it in (board, joint, guests, home)] == ["EDIT", None, None, "EDIT"]
    # The other keeps session, token and grants, under another name.
    assert theirs.me()["username"] == f"{two.ceo}~{theirs.me()['id']}" and theirs.me()["id"] != ours.me()["id"]
    for one in (theirs, token, bearer(two, two.partner, their_name)):
        assert [may(one, it) for it in (board, joint, guests, home)] == [None, "READ", "READ", None]
    assert [may(bearer(two, two.company, our_name), it) for it in (board, joint, guests, home)] == ["EDIT", None, None, "EDIT"]
    # What a rule takes from them by their name at their provider stays taken.
    with changed(two.policy, two.policy.read_text() + DENIAL.format(ceo=two.ceo)):
        wait_until(lambda: may(theirs, guests) is None, SOON, "the new rule holds", every=0.3)
        assert may(token, guests) is None and may(ours, board) == "EDIT"
    wait_until(lambda: may(theirs, guests) == "READ", SOON, "the rule is gone", every=0.3)
    # So they are after they came again, in whatever order.
    again = visitor(two, "partner")
    assert again.sign_in(their_name).status_code == 200 and again.me()["id"] == theirs.me()["id"]
    assert may(again, board) is None and may(ours, board) == "EDIT"


def test_a_token_before_any_sign_in_makes_nobody_of_the_other_provider(two, experiment):
    email, number = f"{unique('vp')}@example.org", experiment(unique("guests"))
    name = two.partner.fresh_person("/ml/team-a", email=email)
    first = bearer(two, two.partner, name)
    assert first.ok("GET", "/auth/api/v1/me")["username"] == email and may(first, number) == "READ"
    ours = bearer(two, two.company, two.company.fresh_person("/ml/team-a", email=email))
    assert ours.ok("GET", "/auth/api/v1/me")["username"] == email and may(ours, number) is None
    assert first.ok("GET", "/auth/api/v1/me")["username"].startswith(f"{email}~")


def test_a_program_and_a_person_never_have_the_same_name(two, experiment):
    number = experiment(unique("nightly"))
    program = Http(two.proxy.url, f"Bearer {two.company.machine_token('ci')}")
    assert program.ok("GET", "/auth/api/v1/me")["username"] == two.robot and may(program, number) == "EDIT"
    for provider in ("company", "partner"):
        one, page, name = signed_in(two, provider, two.robot)
        assert page.status_code == 403 and one.me() is None, page.text
        assert bearer(two, getattr(two, provider), name).get("/auth/api/v1/me").status_code == 401
    # The rule is of one issuer.
    foreign = two.partner.machine_token("ci")
    assert claims(foreign)["azp"] == "ci"
    assert Http(two.proxy.url, f"Bearer {foreign}").get("/auth/api/v1/me").status_code == 401


def test_nobody_of_a_provider_becomes_an_account_with_a_password(two):
    for provider in ("company", "partner"):
        email = f"{unique('local')}@example.org"
        made = two.admin.post(f"{API}/users/create", {"username": email, "password": new_password()})
        assert made.status_code == 200, made.text
        one, page, _ = signed_in(two, provider, email)
        assert page.status_code == 409 and one.me() is None, page.text


def test_a_name_that_became_free_waits_for_its_identity(two, experiment):
    email = f"{unique('leaver')}@example.org"
    number = experiment(f"home:{email}:{unique('x')}")
    leaver, page, name = signed_in(two, "company", email)
    assert page.status_code == 200 and may(leaver, number) == "EDIT"
    # They are renamed at their provider, and somebody new of it gets their address; so does somebody of the other.
    two.company.change_user(name, email=f"new-{email}")
    wait_until(lambda: leaver.me() and leaver.me()["username"] == f"new-{email}", SOON, "the new name is known", every=0.3)
    heirs = [signed_in(two, "company", email), signed_in(two, "partner", email)]
    for heir, page, _ in heirs:
        assert page.status_code == 409 and heir.me() is None, page.text
    assert email in two.proxy.cli("user", "reserved").stdout
    two.proxy.cli("user", "release", email)
    heir, _, name = heirs[0]
    assert heir.begin().status_code == 200 and heir.me()["username"] == email and may(heir, number) == "EDIT"
    # A deleted account's name waits just so.
    two.proxy.cli("user", "delete", email)
    other = heirs[1][0]
    page = other.begin()
    assert page.status_code == 409 and other.me() is None, page.text
    again = visitor(two, "company")
    assert again.sign_in(name).status_code == 200 and again.me()["username"] == email


def test_a_code_of_one_provider_is_nothing_at_the_other(two):
    """An answer of one, brought to the other's address: with the other's state, and with its own."""
    name = two.partner.fresh_person("/ml/team-a")
    one = visitor(two, "partner")
    back = one.fill(one.begin(), name).headers["Location"]
    assert "/auth/callback/partner?" in back
    crossed = one.get(back.replace("/callback/partner?", "/callback/company?"))
    assert crossed.status_code == 400 and one.me() is None, crossed.text
    ours = visitor(two, "company")
    begun = ours.fill(ours.begin(), two.company.fresh_person("/ml/team-a")).headers["Location"]
    code, state = (part.partition("=")[2] for address, key in ((back, "code="), (begun, "state="))
                   for part in address.partition("?")[2].split("&") if part.startswith(key))
    iss = next(part for part in begun.split("&") if part.startswith("iss="))
    crossed = ours.get(f"{two.proxy.url}/auth/callback/company?state={state}&code={code}&{iss}")
    assert crossed.status_code == 400 and ours.me() is None, crossed.text


def test_a_sign_out_at_one_ends_nothing_of_the_other(two):
    email = f"{unique('both')}@example.org"
    theirs, _, their_name = signed_in(two, "partner", email)
    ours, _, our_name = signed_in(two, "company", email)
    assert theirs.me()["username"].startswith(f"{email}~") and ours.me()["username"] == email
    token = access_token(ours)
    two.partner.sign_out(their_name)
    wait_until(lambda: theirs.me() is None, SOON, "the session is over", every=0.1)
    assert ours.me() and token.get("/auth/api/v1/me").status_code == 200
    two.company.sign_out(our_name)
    wait_until(lambda: ours.me() is None, SOON, "the session is over", every=0.1)
    assert token.get("/auth/api/v1/me").status_code == 401, "and the tokens rest"


def test_each_ones_list_of_people_speaks_of_its_own(two):
    ours, _, our_name = signed_in(two, "company", f"{unique('ours')}@example.org")
    theirs, _, their_name = signed_in(two, "partner", f"{unique('theirs')}@example.org")
    tokens = [access_token(ours), access_token(theirs)]
    works = [lambda token=token: token.get("/auth/api/v1/me").status_code == 200 for token in tokens]
    assert works[0]() and works[1]()
    two.partner.disable(their_name)
    wait_until(lambda: not works[1](), SOON, "the token of the disabled stops", every=0.3)
    assert works[0]() and ours.me()
    # What one does not know, the other does not end.
    two.company.join(our_name, "/ml/team-b")
    wait_until(lambda: "/ml/team-b" in ours.me()["groups"], SOON, "the group is known", every=0.3)
    two.company.delete(our_name)
    wait_until(lambda: not works[0](), SOON, "the token of the deleted stops", every=0.3)


def test_one_in_trouble_leaves_the_other_alone(two):
    name, token = two.company.fresh_person("/ml/team-a"), None
    theirs, _, their_name = signed_in(two, "partner", f"{unique('there')}@example.org")
    token = access_token(theirs)
    with two.partner.with_settings(enabled=False):
        page = visitor(two, "company").get("/auth/login")
        assert page.status_code == 200 and "company" in page.text and "partner" in page.text
        assert visitor(two, "company").sign_in(name).status_code == 200
        assert token.get("/auth/api/v1/me").status_code == 200 and theirs.me(), "nothing is known against them"
        told = two.proxy.cli("doctor", check=False).stdout
        failed = [line for line in told.splitlines() if line.startswith("FAILED")]
        assert len(failed) == 1 and "provider partner: realm: the realm is disabled" in failed[0], told
    assert "0 failed" in two.proxy.cli("doctor").stdout


def test_rules_that_several_could_match_are_warned_of(two):
    told = two.proxy.cli("check-config").stderr
    lines = [number for number in range(1, 40) if f"line {number}: names a user without a provider" in told]
    source = two.policy.read_text().splitlines()
    assert [source[number] for number in lines] == [line for line in source if "user =" in line and "provider" not in line], told
    assert "It means the user of `company`; for one of partner" in told
    with changed(two.policy, two.policy.read_text().replace('provider = "partner"', 'provider = "partnr"')):
        refused = two.proxy.cli("check-config", check=False)
        assert refused.returncode == 2 and "partnr" in refused.stderr, refused.stderr


@contextlib.contextmanager
def changed(path, text):
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)
