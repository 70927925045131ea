"""What goes through the AI gateway to a model provider: who may, whose key, and that a stream streams."""

import gzip
import json
from dataclasses import dataclass

import pytest

from endpoints_gateway import GATEWAY, MESSAGES, new_definition, new_endpoint, new_secret
from harness import Http, Person, basic, new_password, unique, wait_until
from provider import the_provider


@dataclass
class Gateway:
    owner: Person
    name: str
    endpoint: str
    key: str
    """The provider's, which the gateway holds."""

    def let(self, who, permission):
        self.owner.grant(who, "gateway_endpoint", self.endpoint, permission)


def gateway_of(owner, name=None):
    key, name = new_password(), name or unique("endpoint")
    return Gateway(owner, name, new_endpoint(owner, new_definition(owner, new_secret(owner, key=key)), name), key)


@pytest.fixture
def gateway(alice):
    return gateway_of(alice)


def messages(text):
    return [{"role": "user", "content": text}]


# path and body, given the endpoint's name; and whether the stub answers it, or MLflow refuses to send it there.
FORMS = [
    ("/gateway/{}/mlflow/invocations", {"messages": MESSAGES}, True),
    ("/gateway/{}/mlflow/invocations", {"input": "text"}, True),
    ("/gateway/mlflow/v1/chat/completions", {"model": "{}", "messages": MESSAGES}, True),
    ("/gateway/openai/v1/chat/completions", {"model": "{}", "messages": MESSAGES}, True),
    ("/gateway/openai/v1/embeddings", {"model": "{}", "input": "text"}, True),
    ("/gateway/openai/v1/responses", {"model": "{}", "input": "text"}, True),
    ("/gateway/openai/v1/responses/compact", {"model": "{}", "input": "text"}, True),
    ("/gateway/proxy/{}/chat/completions", {"model": "stub", "messages": MESSAGES}, True),
    ("/gateway/proxy/{}/some/other/path", {"any": "thing"}, True),
    ("/gateway/typesafe/v1/systemone", {"model": "{}", "input": "text"}, False),
    ("/gateway/anthropic/v1/messages", {"model": "{}", "messages": MESSAGES, "max_tokens": 5}, False),
    ("/gateway/gemini/v1beta/models/{}:generateContent", {"contents": []}, False),
    ("/gateway/gemini/v1beta/models/{}:streamGenerateContent", {"contents": []}, False),
]


def fill(path, body, name):
    return path.format(name), body | ({"model": name} if body.get("model") == "{}" else {})


@pytest.mark.parametrize(("path", "body", "answers"), FORMS)
def test_invoking_needs_use(gateway, bob, proxy, path, body, answers):
    path, body = fill(path, body, gateway.name)
    asked = len(the_provider().asked)
    assert proxy.anonymous().post(path, body).status_code == 401
    for permission in (None, "READ"):
        if permission:
            gateway.let(bob, permission)
        refused = bob.post(path, body)
        assert refused.status_code == 403, f"{refused.status_code} {refused.text}"
        assert refused.json()["error_code"] == "PERMISSION_DENIED"
    assert len(the_provider().asked) == asked
    gateway.let(bob, "USE")
    allowed = bob.post(path, body)
    if answers:
        assert allowed.status_code == 200, f"{allowed.status_code} {allowed.text}"
        assert len(the_provider().asked) == asked + 1
    else:
        assert allowed.status_code != 403 and ("provider" in allowed.text or "System One" in allowed.text)
    gateway.let(bob, "DENY")
    assert bob.post(path, body).status_code == 403


@pytest.mark.parametrize(("path", "body", "answers"), FORMS)
def test_an_endpoint_that_is_not_there_is_refused_like_a_hidden_one(gateway, bob, path, body, answers):
    no_name = unique("absent")
    hidden = bob.post(*fill(path, body, gateway.name))
    absent = bob.post(*fill(path, body, no_name))
    assert (absent.status_code, absent.text.replace(no_name, gateway.name)) == (hidden.status_code, hidden.text)


@pytest.mark.parametrize("body", [
    {"messages": MESSAGES}, {"model": None, "messages": MESSAGES}, {"model": "", "messages": MESSAGES},
    {"model": ["{}"], "messages": MESSAGES}, {"model": {"name": "{}"}, "messages": MESSAGES}, {"Model": "{}", "messages": MESSAGES},
])
def test_a_request_that_names_no_endpoint_is_refused(gateway, bob, body):
    gateway.let(bob, "USE")
    body = json.loads(json.dumps(body).replace("{}", gateway.name))
    asked = len(the_provider().asked)
    for path in ("/gateway/mlflow/v1/chat/completions", "/gateway/openai/v1/chat/completions"):
        answer = bob.post(path, body)
        assert answer.status_code in (400, 403), f"{answer.status_code} {answer.text}"
    assert len(the_provider().asked) == asked


def test_a_name_given_twice_has_one_reading(gateway, bob, proxy):
    mine = gateway_of(bob)
    asked = len(the_provider().asked)
    for first, second in ((mine.name, gateway.name), (gateway.name, mine.name)):
        raw = f'{{"model": "{first}", "messages": [], "model": "{second}"}}'
        answer = bob.call("POST", "/gateway/openai/v1/chat/completions", data=raw, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 403), f"{answer.status_code} {answer.text}"
    assert len(the_provider().asked) == asked


def test_a_body_that_is_packed_is_read_or_refused(gateway, bob):
    """A name that cannot be seen is no name that may be used."""
    raw = gzip.compress(json.dumps({"model": gateway.name, "messages": MESSAGES}).encode())
    asked = len(the_provider().asked)
    for encoding in ("gzip", "zstd", "deflate", "identity, zstd"):
        answer = bob.call("POST", "/gateway/openai/v1/chat/completions", data=raw,
                          headers={"Content-Type": "application/json", "Content-Encoding": encoding})
        assert answer.status_code in (400, 403, 415), f"{encoding}: {answer.status_code} {answer.text}"
    assert len(the_provider().asked) == asked


def test_a_path_with_two_readings_needs_what_mlflow_reads(alice, bob):
    """Endpoints may be called like parts of other paths. MLflow reads this one as an endpoint called `proxy`."""
    odd = gateway_of(alice, "proxy")
    mine = gateway_of(bob, "mlflow")
    try:
        asked = len(the_provider().asked)
        for encoded in ("proxy", "prox%79"):
            answer = bob.post(f"/gateway/{encoded}/mlflow/invocations", {"messages": MESSAGES})
            assert answer.status_code == 403, f"{answer.status_code} {answer.text}"
        assert len(the_provider().asked) == asked
        for path in ("/gateway/mlflow/mlflow/invocations", "/gateway/proxy/mlflow/other"):
            assert bob.post(path, {"messages": MESSAGES}).status_code == 200, path
            assert the_provider().asked[-1].headers["authorization"] == f"Bearer {mine.key}"
    finally:
        alice.delete(f"{GATEWAY}/endpoints/delete", {"endpoint_id": odd.endpoint})
        bob.delete(f"{GATEWAY}/endpoints/delete", {"endpoint_id": mine.endpoint})


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent"])
def test_a_name_with_a_colon_is_one_name(gateway, bob, verb):
    """What stands before the last colon is the endpoint."""
    mine = gateway_of(bob)
    for path in (f"{mine.name}:{gateway.name}:{verb}", f"{gateway.name}:{mine.name}:{verb}", f"{gateway.name}%3A{verb}"):
        answer = bob.post(f"/gateway/gemini/v1beta/models/{path}", {"contents": []})
        assert answer.status_code in (400, 403), f"{path}: {answer.status_code} {answer.text}"
    assert bob.post(f"/gateway/gemini/v1beta/models/{mine.name}:{verb}", {"contents": []}).status_code != 403
    assert bob.post(f"/gateway/gemini/v1beta/models/{mine.name}:countTokens", {"contents": []}).status_code in (403, 404, 405)
    assert bob.post(f"/gateway/gemini/v1beta/models/{mine.name}", {"contents": []}).status_code in (403, 404, 405)


# ---- what comes back


@pytest.mark.parametrize("path", [
    "/gateway/{}/mlflow/invocations", "/gateway/mlflow/v1/chat/completions", "/gateway/openai/v1/chat/completions",
    "/gateway/proxy/{}/chat/completions",
])
def test_a_stream_arrives_while_it_is_written(gateway, bob, path):
    """The first chunk is here before the provider has written the last."""
    gateway.let(bob, "USE")
    body = {"messages": MESSAGES, "stream": True}
    if "{}" not in path or "proxy" in path:
        body["model"] = gateway.name
    provider = the_provider()
    provider.go_on.clear()
    try:
        answer = bob.post(path.format(gateway.name), body, stream=True)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        chunks = answer.iter_content(None)
        read = ""
        while "first" not in read:
            read += next(chunks).decode()
        assert "last" not in read
        provider.go_on.set()
        read += b"".join(chunks).decode()
        assert "last" in read
    finally:
        provider.go_on.set()


def test_a_stream_that_breaks_off_is_not_passed_off_as_whole(gateway, bob, proxy):
    """A caller who leaves ends the stream; the proxy serves on."""
    gateway.let(bob, "USE")
    provider = the_provider()
    provider.go_on.clear()
    try:
        answer = bob.post("/gateway/openai/v1/chat/completions",
                          {"model": gateway.name, "messages": MESSAGES, "stream": True}, stream=True)
        next(answer.iter_content(None))
        answer.close()
    finally:
        provider.go_on.set()
    assert bob.post("/gateway/openai/v1/chat/completions", {"model": gateway.name, "messages": MESSAGES}).status_code == 200


def test_plain_answers_come_through(gateway, bob):
    gateway.let(bob, "USE")
    chat = bob.ok("POST", "/gateway/mlflow/v1/chat/completions", {"model": gateway.name, "messages": MESSAGES})
    assert chat["choices"][0]["message"]["content"] == "from the provider"
    vectors = bob.ok("POST", "/gateway/openai/v1/embeddings", {"model": gateway.name, "input": "text"})
    assert vectors["data"][0]["embedding"] == [0.5, 0.25]


def test_a_long_conversation_is_no_small_body(gateway, bob):
    gateway.let(bob, "USE")
    text = unique("long") + "x" * 3_000_000
    assert bob.post("/gateway/openai/v1/chat/completions",
                    {"model": gateway.name, "messages": messages(text)}).status_code == 200
    assert the_provider().last(text[:13]).body["messages"][0]["content"] == text


def test_numbers_and_texts_reach_the_provider_as_they_were(gateway, bob):
    gateway.let(bob, "USE")
    marker = unique("as-is")
    body = {"model": gateway.name, "messages": messages(marker + " ä \u2028 \\ \" \U0001f600"), "temperature": 0.1,
            "seed": 9007199254740993, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    bob.ok("POST", "/gateway/openai/v1/chat/completions", body)
    assert the_provider().last(marker).body == body | {"model": "stub"}


def test_the_list_of_models_shows_what_may_be_used(gateway, alice, bob):
    hidden = gateway_of(alice)
    path = "/gateway/mlflow/v1/models"

    def shown():
        answer = bob.ok("GET", path)
        assert answer["object"] == "list"
        return [row["id"] for row in answer["data"]]

    assert shown() == []
    gateway.let(bob, "READ")
    assert shown() == []
    gateway.let(bob, "USE")
    assert shown() == [gateway.name]
    assert {gateway.name, hidden.name} <= {row["id"] for row in alice.ok("GET", path)["data"]}


# ---- whose key

CLI = {"User-Agent": "codex/1.0"}  # one of the clients whose own keys MLflow passes on


def test_our_credential_never_reaches_the_provider(gateway, bob):
    """Given as `Authorization`, it is ours and goes no further; MLflow puts its own key there."""
    gateway.let(bob, "USE")
    token = bob.token()["token"]
    for who in (bob, bob.with_token(token), bob.with_token(token, bearer=True)):
        marker = unique("ours")
        for path, model in (("/gateway/openai/v1/chat/completions", gateway.name),
                            (f"/gateway/proxy/{gateway.name}/chat/completions", "stub")):
            for agent in ({}, CLI):
                answer = who.post(path, {"model": model, "messages": messages(marker)}, headers=agent)
                assert answer.status_code == 200, answer.text
                asked = the_provider().last(marker)
                assert asked.headers["authorization"] == f"Bearer {gateway.key}"
                told = json.dumps(asked.headers)
                assert bob.password not in told and token not in told
                assert basic(bob.name, bob.password)[6:] not in told
                assert "x-mlflow-authorization" not in asked.headers


@pytest.mark.parametrize("path", ["/gateway/openai/v1/chat/completions", "/gateway/proxy/{}/chat/completions"])
def test_a_providers_key_goes_on_when_ours_stands_elsewhere(gateway, bob, proxy, path):
    """`X-MLflow-Authorization` is for us, `Authorization` then is for the provider."""
    gateway.let(bob, "USE")
    own = "sk-" + new_password()
    anonymous = Http(proxy.url, None)
    for credential in (basic(bob.name, bob.password), f"Bearer {bob.token()['token']}"):
        marker = unique("both")
        headers = {"X-MLflow-Authorization": credential, "Authorization": f"Bearer {own}"} | CLI
        answer = anonymous.post(path.format(gateway.name), {"model": gateway.name, "messages": messages(marker)}, headers=headers)
        assert answer.status_code == 200, answer.text
        asked = the_provider().last(marker)
        assert asked.headers["authorization"] == f"Bearer {own}"
        assert "x-mlflow-authorization" not in asked.headers
        assert credential not in json.dumps(asked.headers)


def test_a_providers_key_alone_signs_nobody_in(gateway, proxy):
    anonymous = Http(proxy.url, None)
    chat = {"model": gateway.name, "messages": MESSAGES}
    answer = anonymous.post("/gateway/openai/v1/chat/completions", chat, headers={"Authorization": "Bearer sk-" + new_password()} | CLI)
    assert answer.status_code == 401
    wrong = {"X-MLflow-Authorization": basic("nobody", new_password())} | CLI
    assert anonymous.post("/gateway/openai/v1/chat/completions", chat, headers=wrong).status_code == 401


def test_a_wrong_credential_is_not_saved_by_a_right_one(gateway, bob):
    """The one that counts is `X-MLflow-Authorization` where it is given."""
    gateway.let(bob, "USE")
    chat = {"model": gateway.name, "messages": MESSAGES}
    wrong = {"X-MLflow-Authorization": basic(bob.name, new_password())}
    assert bob.post("/gateway/openai/v1/chat/completions", chat, headers=wrong).status_code == 401


def test_elsewhere_there_is_one_place_for_a_credential(bob, proxy):
    """Only the gateway's invocations look at `X-MLflow-Authorization`."""
    headers = {"X-MLflow-Authorization": basic(bob.name, bob.password)}
    answer = Http(proxy.url, None).get("/api/2.0/mlflow/users/current", headers=headers)
    assert answer.status_code == 401


def test_headers_that_steer_the_gateway_are_not_the_callers(gateway, bob):
    gateway.let(bob, "USE")
    marker = unique("steer")
    headers = {"X-MLflow-Guardrail-Bypass": "true", "X-MLflow-Gateway-Caller": "guardrail", "X-Forwarded-For": "1.2.3.4",
               "Cookie": "session=1", "Forwarded": "for=1.2.3.4"}
    answer = bob.post(f"/gateway/proxy/{gateway.name}/chat/completions", {"messages": messages(marker)}, headers=headers)
    assert answer.status_code == 200, answer.text
    asked = the_provider().last(marker).headers
    for name in ("x-mlflow-guardrail-bypass", "x-mlflow-gateway-caller", "cookie", "forwarded"):
        assert name not in asked


def test_what_follows_the_endpoint_in_a_raw_path_reaches_the_provider(gateway, bob):
    gateway.let(bob, "USE")
    marker = unique("raw")
    bob.ok("POST", f"/gateway/proxy/{gateway.name}/some/path?alt=sse&x=1", {"marker": marker})
    assert the_provider().last(marker).path == "/some/path?alt=sse&x=1"


@pytest.mark.parametrize("path", ["../x", "%2e%2e/x", "a/../../x", "a%2F..%2F..%2Fx", "./x", "a//b"])
def test_a_raw_path_stays_below_the_providers_address(gateway, bob, path):
    gateway.let(bob, "USE")
    marker = unique("below")
    answer = bob.call("POST", f"/gateway/proxy/{gateway.name}/{path}", json={"marker": marker})
    if answer.status_code == 200:
        asked = the_provider().last(marker).path
        assert ".." not in asked and "//" not in asked
    else:
        assert answer.status_code in (400, 403, 404), f"{answer.status_code} {answer.text}"


def test_no_key_of_a_provider_is_in_a_log(gateway, bob, proxy):
    """`new_password` has every log searched after all tests; this one looks at once."""
    own = new_password()
    headers = {"X-MLflow-Authorization": basic(bob.name, bob.password), "Authorization": f"Bearer {own}"}
    Http(proxy.url, None).post("/gateway/openai/v1/chat/completions", {"model": gateway.name, "messages": MESSAGES}, headers=headers)
    wait_until(lambda: bob.name in proxy.process.output(), 5, "the request is in the log")
    text = proxy.process.output()
    assert own not in text and gateway.key not in text
