"""Wrong credentials: the shape of the answer, and how often somebody may guess."""

import base64

import pytest

from harness import ADMIN, ADMIN_PASSWORD, Http, basic, new_password, unique, wait_until

WHO = "/api/2.0/mlflow/users/current"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"
TEXT = "You are not authenticated. Please see"


@pytest.mark.parametrize("path", [WHO, SEARCH, "/", "/api/2.0/mlflow-artifacts/artifacts/0/x", "/get-artifact?run_id=x&path=y",
                                  "/version", "/no/such/path"])
def test_a_program_is_told_in_mlflows_words(proxy, alice, path):
    for who in (proxy.anonymous(), Http(proxy.url, basic(alice.name, new_password()))):
        answer = who.get(path)
        assert answer.status_code == 401
        assert answer.text.startswith(TEXT)
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="mlflow"'
        assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("headers", [{"X-Requested-With": "XMLHttpRequest"}, {"Sec-Fetch-Mode": "cors"}, {}], ids=str)
def test_a_browsers_own_request_opens_no_password_box(proxy, headers):
    answer = proxy.anonymous().get("/ajax-api/2.0/mlflow/users/current", headers=headers)
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers
    assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert answer.json()["message"].startswith(TEXT)


def test_an_unknown_user_looks_like_a_wrong_password(proxy, alice):
    wrong = Http(proxy.url, basic(alice.name, new_password())).get(WHO)
    unknown = Http(proxy.url, basic(unique("ghost"), new_password())).get(WHO)
    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text) == (401, wrong.text)
    for answer in (wrong, unknown):
        del answer.headers["Date"]  # the second may turn between the two
    assert wrong.headers == unknown.headers


@pytest.mark.parametrize("value", [
    "Basic", "Basic ", "Basic !!!", "Basic " + base64.b64encode(b"no-colon").decode(), "Basic " + base64.b64encode(b":").decode(),
    "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Bearer", "Bearer ", "Bearer x y", "Digest username=admin",
    "Negotiate abc", "bearer null", "Basic " + "A" * 8000,
], ids=lambda value: value[:24])
def test_an_unreadable_credential_is_401_everywhere(proxy, value):
    assert proxy.anonymous().call("GET", WHO, headers={"Authorization": value}).status_code == 401
    # A credential that fails stops, also where none would have been needed to fall through to.
    assert proxy.anonymous().call("POST", "/graphql", headers={"Authorization": value}, json={}).status_code == 401


def test_two_credentials_are_refused(proxy, alice):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.putrequest("GET", WHO)
    connection.putheader("Authorization", basic(alice.name, alice.password))
    connection.putheader("Authorization", basic(ADMIN, ADMIN_PASSWORD))
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_the_scheme_name_is_not_case_sensitive(proxy, alice):
    value = "bAsIc " + basic(alice.name, alice.password).split()[1]
    assert Http(proxy.url, value).ok("GET", WHO)["user"]["username"] == alice.name


def test_a_changed_password_stops_at_once(alice, proxy):
    assert alice.get(WHO).status_code == 200
    new = new_password()
    changed = alice.patch("/api/2.0/mlflow/users/update-password",
                          {"username": alice.name, "password": new, "current_password": alice.password})
    assert changed.status_code == 200, changed.text
    assert alice.get(WHO).status_code == 401
    assert Http(proxy.url, basic(alice.name, new)).get(WHO).status_code == 200


def test_guessing_one_account_is_limited(start_proxy):
    limited = start_proxy({"AUTHN__GUESSES_PER_ACCOUNT": "3"})
    victim, other = limited.person("victim"), limited.person("other")
    answers = [Http(limited.url, basic(victim.name, new_password())).get(WHO) for _ in range(6)]
    assert [answer.status_code for answer in answers[:3]] == [401] * 3
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert answers[-1].json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert "WWW-Authenticate" not in answers[-1].headers
    # Also the right password waits, or the limit would tell which guess was right ...
    fresh = Http(limited.url, basic(victim.name, victim.password))
    assert fresh.get(WHO).status_code in (200, 429)
    # ... and nobody else does.
    assert other.get(WHO).status_code == 200
    # An account that does not exist is limited just the same.
    ghost = unique("ghost")
    codes = [Http(limited.url, basic(ghost, new_password())).get(WHO).status_code for _ in range(6)]
    assert codes[:3] == [401] * 3 and codes[-1] == 429


def test_guessing_from_one_address_is_limited(start_proxy, alice):
    limited = start_proxy({"AUTHN__GUESSES_PER_ADDRESS": "5", "AUTHN__GUESSES_PER_ACCOUNT": "1000"})
    person = limited.person("person")
    token = person.with_token(person.token()["token"], bearer=True)
    codes = [Http(limited.url, basic(unique("ghost"), new_password())).get(WHO).status_code for _ in range(9)]
    assert codes[:5] == [401] * 5
    assert codes[-1] == 429
    # A token that is well formed and unknown, here another proxy's, is a guess too.
    answer = Http(limited.url, f"Bearer {alice.token()['token']}").get(WHO)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    # Nobody guesses 256 bits: a token that is right passes, or one neighbour could lock out all programs.
    assert token.get(WHO).status_code == 200


def test_guessed_tokens_count(start_proxy, alice):
    limited = start_proxy({"AUTHN__GUESSES_PER_ADDRESS": "3"})
    codes = [Http(limited.url, f"Bearer {alice.token()['token']}").get(WHO).status_code for _ in range(6)]
    assert codes[:3] == [401] * 3 and codes[-1] == 429


def test_requests_without_credentials_are_no_guesses(start_proxy):
    """A browser asks without credentials first, each time."""
    limited = start_proxy({"AUTHN__GUESSES_PER_ADDRESS": "5"})
    for _ in range(12):
        assert limited.anonymous().get(WHO).status_code == 401
    assert limited.admin().get(WHO).status_code == 200


def test_the_limit_ends(start_proxy):
    limited = start_proxy({"AUTHN__GUESSES_PER_ACCOUNT": "2", "AUTHN__GUESS_WINDOW_SECONDS": "3"})
    victim = limited.person("victim")
    for _ in range(5):
        last = Http(limited.url, basic(victim.name, new_password())).get(WHO).status_code
    assert last == 429
    wait_until(lambda: victim.get(WHO).status_code == 200, 10, "the limit ends", every=0.3)
