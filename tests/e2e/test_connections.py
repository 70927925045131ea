"""What makes MLflow open a connection: no caller leads it to itself, to its neighbours, or to another owner's endpoint."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from endpoints_gateway import (
    GATEWAY, JUDGE, definition_on, endpoint_on, model_config, new_definition, new_endpoint, new_guardrail, new_secret,
)
from endpoints_genai import AJAX3, V3, new_trace
from harness import Http, World, check_refused, new_password, unique
from provider import the_provider

API = "/api/2.0/mlflow"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def direct(mlflow_server):
    """MLflow itself, past the proxy: things that were stored before the proxy came."""
    return Http(mlflow_server.url, None)


@pytest.fixture
def mallory(proxy):
    return World.make(proxy.person("mallory"))


def secret_with(auth_config=None, provider="openai", **secret_value):
    return {"secret_name": unique("secret"), "secret_value": secret_value or {"api_key": new_password()},
            "provider": provider, "auth_config": auth_config or {}}


# ---- addresses in secrets

REFUSED = [
    "http://127.0.0.1:{port}/api/2.0/mlflow", "http://localhost:{port}", "http://[::1]:{port}", "https://127.0.0.1",
    "http://10.0.0.1", "http://169.254.169.254/latest", "https://api.openai.com:{port}", "http://api.openai.com",
    "https://mallory.openai.azure.com", "https://mallory.example", "https://[::ffff:7f00:1]",
]
MALFORMED = [
    "https://api.openai.com@127.0.0.1", "https://api.openai.com\\@127.0.0.1", "https://api.openai.com#@127.0.0.1",
    "https://api.openai.com/%2e%2e", " https://api.openai.com", "https://api.openai.com\n", "127.0.0.1:{port}", "file:///etc",
    "http://127.1:{port}", "http://2130706433", "https://api.openai.com.", "//127.0.0.1",
]


@pytest.mark.parametrize("address", REFUSED + MALFORMED)
def test_a_secret_leads_to_no_address_that_is_not_allowed(mallory, admin, mlflow_server, address):
    written = address.replace("{port}", str(mlflow_server.port))
    stored = new_secret(mallory.owner)
    with mlflow_server.unchanged():
        for who in (mallory.owner, admin):
            made = who.post(f"{GATEWAY}/secrets/create", secret_with({"api_base": written}))
            assert made.status_code == (403 if address in REFUSED else 400), made.text
            changed = who.post(f"{GATEWAY}/secrets/update", {"secret_id": stored, "auth_config": {"api_base": written}})
            assert changed.status_code == made.status_code, changed.text
    assert "authz.provider_hosts" in made.text or address in MALFORMED


ODD_SECRETS = [
    secret_with({"aws_region_name": "x.example/"}, "bedrock"),
    secret_with({"aws_region_name": "eu-west-1@x.example"}, "bedrock"),
    secret_with({"vertex_location": "127.0.0.1:9999/"}, "vertex_ai"),
    secret_with({"vertex_project": "../../x"}, "vertex_ai"),
    secret_with(provider="vertex_ai", vertex_credentials=json.dumps({"type": "service_account", "token_uri": "http://127.0.0.1:1"})),
    secret_with(provider="vertex_ai", vertex_credentials=json.dumps({"type": "external_account", "token_url": "http://127.0.0.1"})),
    secret_with(provider="vertex_ai", vertex_credentials=json.dumps({"universe_domain": "mallory.example"})),
    secret_with(provider="vertex_ai", vertex_credentials="/etc/credentials.json"),
    secret_with({"base_url": "http://127.0.0.1:1"}),
    secret_with({"API_BASE": "http://127.0.0.1:1"}),
    secret_with({"aws_bedrock_runtime_endpoint": "http://127.0.0.1:1"}, "bedrock"),
    secret_with({"custom_llm_provider": "ollama"}, "cohere"),
    secret_with({"auth_mode": "default_chain"}, "bedrock"),
    secret_with({"auth_mode": "iam_role", "aws_role_name": "arn:aws:iam::1:role/x"}, "bedrock"),
    secret_with(api_base="http://127.0.0.1:1"),
    secret_with(model_list="[]", api_key="x"),
    secret_with(api_key="$OPENAI_API_KEY"),
    secret_with(api_key="/etc/passwd"),
]


@pytest.mark.parametrize("body", ODD_SECRETS, ids=lambda body: json.dumps(body["auth_config"] or list(body["secret_value"])))
def test_a_secret_has_no_other_way_to_an_address_or_to_the_servers_identity(mallory, mlflow_server, body):
    with mlflow_server.unchanged():
        answer = mallory.owner.post(f"{GATEWAY}/secrets/create", body)
        assert answer.status_code in (400, 403), answer.text


def test_an_ordinary_secret_is_made(mallory, admin):
    account = json.dumps({"type": "service_account", "token_uri": "https://oauth2.googleapis.com/token", "project_id": "p"})
    for body in (
        secret_with(),
        secret_with({"api_base": the_provider().url}),
        secret_with({"auth_mode": "access_keys", "aws_region_name": "eu-central-1"}, "bedrock",
                    aws_access_key_id=new_password(), aws_secret_access_key=new_password()),
        secret_with({"vertex_project": "my-project", "vertex_location": "europe-west1"}, "vertex_ai", vertex_credentials=account),
        secret_with({"api_version": "2024-06-01", "api_base": ""}, "azure"),
    ):
        assert mallory.owner.post(f"{GATEWAY}/secrets/create", body).status_code == 200, body
    # What goes beyond is an administrator's.
    assert admin.post(f"{GATEWAY}/secrets/create", secret_with({"auth_mode": "default_chain"}, "bedrock")).status_code == 200
    assert admin.post(f"{GATEWAY}/secrets/create", secret_with({"rpm": "5"}, "cohere")).status_code == 200
    assert admin.post(f"{GATEWAY}/secrets/create", secret_with({"rpm": "http://127.0.0.1"}, "cohere")).status_code == 403


# ---- what was stored before

@pytest.fixture
def stored(direct, mlflow_server):
    """An endpoint that leads to MLflow itself, made past the proxy; mallory may use it."""
    secret = direct.ok("POST", f"{GATEWAY}/secrets/create", secret_with({"api_base": f"{mlflow_server.url}/api/2.0/mlflow"}))
    definition = direct.ok("POST", f"{GATEWAY}/model-definitions/create", definition_on(secret["secret"]["secret_id"]))
    name = unique("inward")
    made = direct.ok("POST", f"{GATEWAY}/endpoints/create",
                     endpoint_on(definition["model_definition"]["model_definition_id"], name))
    return name, made["endpoint"]["endpoint_id"], secret["secret"]["secret_id"]


USES = [
    ("/gateway/proxy/{name}/mlflow/experiments/delete", lambda name, world: {"experiment_id": world.experiment}),
    ("/gateway/{name}/mlflow/invocations", lambda name, world: CHAT),
    ("/gateway/mlflow/v1/chat/completions", lambda name, world: CHAT | {"model": name}),
    ("/gateway/openai/v1/chat/completions", lambda name, world: CHAT | {"model": name}),
    ("/gateway/openai/v1/responses", lambda name, world: {"input": "hello", "model": name}),
    ("/gateway/anthropic/v1/messages", lambda name, world: CHAT | {"model": name, "max_tokens": 5}),
    ("/gateway/gemini/v1beta/models/{name}:generateContent", lambda name, world: {"contents": []}),
]


@pytest.mark.parametrize("path, body", USES, ids=[path for path, _ in USES])
def test_a_stored_endpoint_that_leads_inward_is_not_used(admin, mallory, world, stored, mlflow_server, path, body):
    name, key, _ = stored
    admin.grant(mallory.owner, "gateway_endpoint", key, "USE")
    with mlflow_server.unchanged():
        for who in (mallory.owner, admin):
            answer = who.post(path.format(name=name), body(name, world))
            assert answer.status_code == 403 and "authz.provider_hosts" in answer.text, answer.text
    kept = world.owner.ok("GET", f"{API}/experiments/get", params={"experiment_id": world.experiment})["experiment"]
    assert kept["lifecycle_stage"] == "active"


def test_the_doctor_lists_what_leads_inward(proxy, stored, mlflow_server):
    name, _, _ = stored
    told = proxy.cli("doctor", check=False)
    lines = [line for line in told.stdout.splitlines() if mlflow_server.url in line and "AI gateway" in line or name in line]
    assert any(f"the endpoint `{name}`" in line for line in lines), told.stdout
    assert any("the secret `" in line for line in told.stdout.splitlines())
    assert "authz.provider_hosts" in told.stdout


def test_a_fallback_that_leads_inward_is_found_too(admin, mallory, stored, direct):
    _, _, secret = stored
    good = new_definition(mallory.owner, new_secret(mallory.owner))
    bad = direct.ok("POST", f"{GATEWAY}/model-definitions/create", definition_on(secret))["model_definition"]["model_definition_id"]
    name = unique("fallback")
    body = endpoint_on(good, name)
    body["model_configs"].append(model_config(bad) | {"linkage_type": "FALLBACK", "fallback_order": 1})
    direct.ok("POST", f"{GATEWAY}/endpoints/create", body | {"fallback_config": {"strategy": "SEQUENTIAL", "max_attempts": 2}})
    assert admin.post(f"/gateway/{name}/mlflow/invocations", CHAT).status_code == 403


def test_a_definition_of_a_provider_on_loopback_needs_its_address(mallory, mlflow_server):
    secret = mallory.owner.ok("POST", f"{GATEWAY}/secrets/create", secret_with(provider="ollama"))["secret"]["secret_id"]
    with mlflow_server.unchanged():
        for provider in ("ollama", "ollama_chat", "vllm"):
            answer = mallory.owner.post(f"{GATEWAY}/model-definitions/create", definition_on(secret) | {"provider": provider})
            assert answer.status_code == 403, answer.text
        for provider in ("open/ai", "../openai", "openai:", ""):
            answer = mallory.owner.post(f"{GATEWAY}/model-definitions/create", definition_on(secret) | {"provider": provider})
            assert answer.status_code == 400, answer.text
        answer = mallory.owner.post(f"{GATEWAY}/model-definitions/create",
                                    definition_on(secret) | {"provider": "huggingface", "model_name": "http://127.0.0.1:1/x"})
        assert answer.status_code == 403, answer.text


def test_a_secret_goes_to_its_own_provider(alice, bob, mlflow_server):
    secret = new_secret(alice)
    alice.grant(bob, "gateway_secret", secret, "USE")
    with mlflow_server.unchanged():
        check_refused(bob.post(f"{GATEWAY}/model-definitions/create", definition_on(secret) | {"provider": "openrouter"}))
    new_definition(bob, secret)


def test_a_secret_is_not_changed_into_a_way_inward(mallory, mlflow_server):
    """Its definitions stay as they are; what they would lead to afterwards is what counts."""
    databricks = mallory.owner.ok("POST", f"{GATEWAY}/secrets/create", secret_with({"api_base": the_provider().origin}, "databricks"))
    ollama = mallory.owner.ok("POST", f"{GATEWAY}/secrets/create", secret_with({"api_base": the_provider().url}, "ollama"))
    keys = {}
    for provider, made in (("databricks", databricks), ("ollama", ollama)):
        keys[provider] = made["secret"]["secret_id"]
        mallory.owner.ok("POST", f"{GATEWAY}/model-definitions/create", definition_on(keys[provider]) | {"provider": provider})
    with mlflow_server.unchanged():
        for provider, change in (
            ("databricks", {"auth_config": {"client_id": "x"}}),
            ("databricks", {"secret_value": {"aws_session_token": "x"}}),
            ("ollama", {"auth_config": {"organization": "x"}}),
        ):
            answer = mallory.owner.post(f"{GATEWAY}/secrets/update", {"secret_id": keys[provider]} | change)
            assert answer.status_code == 403, answer.text
    mallory.owner.ok("POST", f"{GATEWAY}/secrets/update", {"secret_id": keys["ollama"], "secret_value": {"api_key": new_password()}})


@pytest.mark.parametrize("value", ["00-{}-00f067aa0ba902b7-01", "00-{}-00f067aa0ba902b7-00-more"])
def test_a_span_of_the_gateway_enters_no_other_owners_trace(alice, world, mallory, value):
    name, trace = unique("endpoint"), new_trace(alice, world.experiment)
    body = endpoint_on(new_definition(mallory.owner, new_secret(mallory.owner)), name) | {"usage_tracking": True}
    mallory.owner.ok("POST", f"{GATEWAY}/endpoints/create", body)

    def invoke(header):
        return mallory.owner.call("POST", f"/gateway/{name}/mlflow/invocations", json=CHAT, headers={"traceparent": header})

    read = lambda: alice.ok("GET", f"{V3}/traces/get", params={"trace_id": trace})  # noqa: E731
    before = read()
    for one in (trace.removeprefix("tr-"), "ab" * 16, trace.removeprefix("tr-").upper() + "0"):
        assert invoke(value.format(one)).status_code == 200
    asked = the_provider().asked[-1].headers
    assert "traceparent" not in asked or trace.removeprefix("tr-") not in asked["traceparent"]
    assert read() == before
    # Her own she may.
    own = new_trace(mallory.owner, mallory.experiment)
    assert invoke(value.format(own.removeprefix("tr-"))).status_code == 200


def test_a_source_names_no_host_that_clients_would_follow(mallory, mlflow_server):
    folder = f"{mallory.experiment}/{mallory.run}/artifacts/folder"
    with mlflow_server.unchanged():
        for source in (f"mlflow-artifacts://127.0.0.1:1/{folder}", f"MLFLOW-ARTIFACTS://x.example/{folder}"):
            answer = mallory.owner.post(f"{API}/model-versions/create", {"name": mallory.model, "source": source, "run_id": mallory.run})
            assert answer.status_code in (400, 403), answer.text


STEERING = ["api_base", "base_url", "api_key", "custom_llm_provider", "fallbacks", "model_list", "extra_headers",
            "aws_bedrock_runtime_endpoint", "vertex_location", "azure_ad_token", "Api_Base"]


@pytest.mark.parametrize("key", STEERING)
def test_an_invocation_chooses_no_address_key_or_provider(mallory, key):
    name = unique("endpoint")
    new_endpoint(mallory.owner, new_definition(mallory.owner, new_secret(mallory.owner)), name)
    asked = len(the_provider().asked)
    for path, body in ((f"/gateway/{name}/mlflow/invocations", CHAT), ("/gateway/mlflow/v1/chat/completions", CHAT | {"model": name})):
        answer = mallory.owner.post(path, body | {key: "http://127.0.0.1:1"})
        assert answer.status_code == 400 and key in answer.json()["message"], answer.text
    assert len(the_provider().asked) == asked


PARTS = [
    {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}},
    {"type": "image_url", "image_url": "http://127.0.0.1:1/a.png"},
    {"type": "file", "file": {"file_id": "http://127.0.0.1:1/a.pdf"}},
    {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/a.png"}},
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: "+".join(str(value)[:40] for value in part.values()))
def test_mlflow_fetches_no_address_that_a_message_names(mallory, admin, part):
    name = unique("endpoint")
    secret = mallory.owner.ok("POST", f"{GATEWAY}/secrets/create", secret_with({"api_base": the_provider().url}, "cohere_chat"))
    model = definition_on(secret["secret"]["secret_id"]) | {"provider": "cohere_chat"}
    definition = mallory.owner.ok("POST", f"{GATEWAY}/model-definitions/create", model)
    new_endpoint(mallory.owner, definition["model_definition"]["model_definition_id"], name)
    messages = [{"role": "user", "content": [{"type": "text", "text": "see http://127.0.0.1:1/a"}, part]}]
    harmless = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    for path, body in ((f"/gateway/{name}/mlflow/invocations", {}), ("/gateway/mlflow/v1/chat/completions", {"model": name}),
                       ("/gateway/anthropic/v1/messages", {"model": name, "max_tokens": 5})):
        for who in (mallory.owner, admin):
            answer = who.post(path, body | {"messages": messages})
            assert answer.status_code == 403 and "authz.provider_hosts" in answer.json()["message"], answer.text
        # LiteLLM is not installed: MLflow refuses it.
        answer = mallory.owner.post(path, body | {"messages": harmless})
        assert "authz.provider_hosts" not in answer.text and answer.status_code != 403, answer.text


def test_a_provider_fetches_what_a_message_names(mallory):
    name = unique("endpoint")
    new_endpoint(mallory.owner, new_definition(mallory.owner, new_secret(mallory.owner)), name)
    for part in PARTS[:1]:
        chat = {"messages": [{"role": "user", "content": [part]}]}
        assert mallory.owner.post(f"/gateway/{name}/mlflow/invocations", chat).status_code == 200


def test_webhooks_lead_to_public_addresses(admin, mlflow_server):
    hook = {"name": unique("hook"), "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]}
    with mlflow_server.unchanged():
        for address in (f"{mlflow_server.url}/api", "https://localhost/x", "https://169.254.169.254", "http://hooks.example.com",
                        "https://hooks.example.com:8443/x", "https://mlflow.default.svc"):
            assert admin.post(f"{API}/webhooks", hook | {"url": address}).status_code == 403, address
        assert admin.post(f"{API}/webhooks", hook | {"url": "ftp://hooks.example.com"}).status_code == 400
    # Named in the configuration.
    made = admin.ok("POST", f"{API}/webhooks", hook | {"url": "https://127.0.0.1:9/hook"})["webhook"]
    assert admin.patch(f"{API}/webhooks/{made['webhook_id']}", {"url": mlflow_server.url}).status_code == 403
    assert admin.delete(f"{API}/webhooks/{made['webhook_id']}").status_code == 200


def test_artifacts_are_at_no_private_address_whoever_says_so(admin, world, mlflow_server):
    with mlflow_server.unchanged():
        for address in (f"{mlflow_server.url}/api/2.0/mlflow-artifacts/artifacts", "http://10.0.0.1/x", "https://localhost/x"):
            made = admin.post(f"{API}/experiments/create", {"name": unique("x"), "artifact_location": address})
            assert made.status_code == 403, made.text
            made = admin.post(f"{API}/model-versions/create", {"name": world.model, "source": f"{address}/model"})
            assert made.status_code == 403, made.text


# ---- judges

def judge(**data):
    told = {"feedback_value_type": {"type": "string"}, "instructions": "Is {{ outputs }} good?", "model": "openai:/gpt-4"}
    return JUDGE | {"instructions_judge_pydantic_data": told | data}


def built_in(scorer_class, **data):
    return JUDGE | {"builtin_scorer_class": scorer_class, "builtin_scorer_pydantic_data": data}


@pytest.fixture
def endpoint(alice):
    """Alice's endpoint, by name."""
    name = unique("ep-alice")
    new_endpoint(alice, new_definition(alice, new_secret(alice)), name)
    return name


def test_a_judges_parameters_choose_no_model(mallory, endpoint):
    """What is left of it is seen in what MLflow stored."""
    scorers = [
        judge(model="openai:/gpt-4", inference_params={"model": endpoint, "temperature": 0.5, "api_base": "http://127.0.0.1:1"}),
        built_in("Guidelines", name="g", guidelines=["be nice"], model="openai:/gpt-4", extra_headers={"Authorization": "x"},
                 base_url="http://127.0.0.1:1", inference_params={"model": endpoint, "temperature": 0.5}),
    ]
    for scorer in scorers:
        name = unique("judge")
        mallory.owner.ok("POST", f"{V3}/scorers/register", {
            "experiment_id": mallory.experiment, "name": name, "serialized_scorer": json.dumps(scorer | {"name": name, "odd": 1})})
        kept = mallory.owner.ok("GET", f"{V3}/scorers/get", params={"experiment_id": mallory.experiment, "name": name})
        kept = kept["scorer"]["serialized_scorer"]
        assert endpoint not in kept and "127.0.0.1" not in kept and "extra_headers" not in kept and "odd" not in kept
        assert '"temperature"' in kept and "gpt-4" in kept


@pytest.mark.parametrize("scorer", [
    built_in("invoke_judge_model", model_uri="ollama:/m", base_url="http://127.0.0.1:1"),
    built_in("InstructionsJudge", base_url="http://127.0.0.1:1"),
    built_in("Scorer"),
    JUDGE | {"ensemble_scorer_data": {"scorers": [built_in("invoke_judge_model")]}},
    JUDGE | {"memory_augmented_judge_data": {"base_judge": built_in("invoke_judge_model")}},
    JUDGE | {"third_party_scorer_data": {"module": "os.path", "class": "x"}},
    JUDGE | {"third_party_scorer_data": {"module": "mlflow.genai.scorers.trulens.models", "class": "create_trulens_provider"}},
    JUDGE | {"third_party_scorer_data": {"module": "mlflow.genai.scorers.ragas", "class": "get_scorer"}},
    JUDGE | {"third_party_scorer_data": {"module": "mlflow.genai.scorers.ragas", "class": "Faithfulness", "metric_name": "a.b.c"}},
    judge(model="../x:/m"),
    judge(model=" gateway:/m"),
    judge() | {"name": 5},
], ids=["function", "class", "base", "ensemble", "memory", "module", "inner-module", "lower-case-class", "metric", "provider", "blank", "name"])
def test_a_scorer_is_built_of_scorers_only(mallory, scorer, mlflow_server):
    trace = new_trace(mallory.owner, mallory.experiment)
    written = json.dumps(scorer)
    with mlflow_server.unchanged():
        for method, path, body in (
            ("POST", f"{V3}/scorers/register", {"name": "x", "serialized_scorer": written}),
            ("POST", f"{AJAX3}/scorer/invoke", {"serialized_scorer": written, "trace_ids": [trace]}),
            ("POST", f"{AJAX3}/genai/evaluate/invoke", {"serialized_scorers": [written], "trace_ids": [trace]}),
        ):
            answer = mallory.owner.call(method, path, json={"experiment_id": mallory.experiment} | body)
            assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("model", ["gateway:/{}", "gateway://{}", "GATEWAY:/{}"])
def test_judges_use_endpoints_that_their_caller_may_use(alice, mallory, endpoint, model, mlflow_server):
    trace, written = new_trace(mallory.owner, mallory.experiment), model.format(endpoint)
    nested = [
        judge(model=written),
        built_in("Safety", model=written),
        JUDGE | {"ensemble_scorer_data": {"scorers": [judge(model=written)]}},
        JUDGE | {"memory_augmented_judge_data": {"base_judge": judge(), "reflection_lm": written}},
        JUDGE | {"memory_augmented_judge_data": {"base_judge": judge(), "embedding_model": written}},
    ]
    with mlflow_server.unchanged():
        for scorer in nested:
            body = {"experiment_id": mallory.experiment, "serialized_scorer": json.dumps(scorer), "trace_ids": [trace]}
            check_refused(mallory.owner.post(f"{AJAX3}/scorer/invoke", body))


def test_a_judge_on_loopback_needs_its_address(mallory, admin, mlflow_server):
    trace = new_trace(mallory.owner, mallory.experiment)
    with mlflow_server.unchanged():
        for scorer in (judge(model="ollama:/m"), judge(model="OLLAMA:/m"), built_in("Safety", model="vllm:/m"),
                       judge(model="huggingface:/http://127.0.0.1:1/m"),
                       JUDGE | {"ensemble_scorer_data": {"scorers": [judge(model="ollama:/m")]}}):
            body = {"experiment_id": mallory.experiment, "serialized_scorer": json.dumps(scorer), "trace_ids": [trace]}
            for who in (mallory.owner, admin):
                assert who.post(f"{AJAX3}/scorer/invoke", body).status_code == 403
        body = {"experiment_id": mallory.experiment, "trace_ids": [trace], "categories": ["x"], "provider": "ollama", "model": "m"}
        assert mallory.owner.post(f"{AJAX3}/issues/invoke", body).status_code == 403
        value = json.dumps({"version": 1, "cadence": "daily", "model": {"provider": "Ollama", "model": "m"}})
        assert mallory.owner.post(f"{API}/experiments/set-experiment-tag", {
            "experiment_id": mallory.experiment, "key": "mlflow.issueDetection.schedule", "value": value}).status_code == 403


def test_a_registered_scorer_is_run_by_those_who_may_use_its_endpoint(alice, bob, world, endpoint, mlflow_server):
    alice.grant(bob, "experiment", world.experiment, "EDIT")
    alice.ok("POST", f"{V3}/scorers/register", {
        "experiment_id": world.experiment, "name": "theirs", "serialized_scorer": json.dumps(judge(model=f"gateway:/{endpoint}"))})
    alice.grant(bob, "scorer", f"{world.experiment}/theirs", "READ")
    trace = new_trace(world.owner, world.experiment)
    runs = [
        ("PUT", f"{V3}/scorers/online-config", {"name": "theirs", "sample_rate": 1.0}),
        ("POST", f"{AJAX3}/scorer/invoke", {"scorer_name": "theirs", "trace_ids": [trace]}),
        ("POST", f"{AJAX3}/scorer/invoke", {"scorer_name": "theirs", "scorer_version": 1, "trace_ids": [trace]}),
        ("POST", f"{AJAX3}/genai/evaluate/invoke", {
            "serialized_scorers": [json.dumps(judge() | {"name": "theirs"})], "scorer_versions": [1], "trace_ids": [trace]}),
    ]
    with mlflow_server.unchanged():
        for method, path, body in runs:
            answer = bob.call(method, path, json={"experiment_id": world.experiment} | body)
            assert "USE" in check_refused(answer), path
    alice.grant(bob, "gateway_endpoint", alice.ok("GET", f"{GATEWAY}/endpoints/get", params={"name": endpoint})["endpoint"]["endpoint_id"], "USE")
    assert bob.call("PUT", f"{V3}/scorers/online-config", json={
        "experiment_id": world.experiment, "name": "theirs", "sample_rate": 1.0}).status_code == 200


def test_issue_detection_uses_endpoints_that_its_caller_may_use(mallory, endpoint, mlflow_server):
    body = {"experiment_id": mallory.experiment, "trace_ids": [new_trace(mallory.owner, mallory.experiment)], "categories": ["x"]}
    with mlflow_server.unchanged():
        for choice in ({"endpoint_name": endpoint}, {"endpoint_name": f"/{endpoint}"}, {"provider": "gateway", "model": endpoint},
                       {"provider": "Gateway", "model": f"/{endpoint}"}):
            check_refused(mallory.owner.post(f"{AJAX3}/issues/invoke", body | choice))
        for provider in ("gateway:/x", "../x", "gateway:"):
            answer = mallory.owner.post(f"{AJAX3}/issues/invoke", body | {"provider": provider, "model": endpoint})
            assert answer.status_code == 400, answer.text


def test_a_guardrail_is_added_by_those_who_may_use_what_it_calls(alice, bob, world, mlflow_server):
    world.names["endpoint_name"] = unique("endpoint")
    new_endpoint(alice, new_definition(alice, new_secret(alice)), world.names["endpoint_name"])
    guardrail = new_guardrail(world, mlflow_server, unique("scorer"))
    scorer = world.owner.ok("GET", f"{V3}/scorers/list", params={"experiment_id": world.experiment})["scorers"][-1]["scorer_name"]
    alice.grant(bob, "scorer", f"{world.experiment}/{scorer}", "READ")
    mine = new_endpoint(bob, new_definition(bob, new_secret(bob)))
    with mlflow_server.unchanged():
        answer = bob.post(f"{GATEWAY}/guardrails/add-to-endpoint", {"endpoint_id": mine, "guardrail_id": guardrail, "execution_order": 1})
        assert "USE" in check_refused(answer)


# ---- the schedule of issue detection

SCHEDULE = "mlflow.issueDetection.schedule"


@pytest.mark.parametrize("key", [SCHEDULE, SCHEDULE.upper(), f"{SCHEDULE}  "])
def test_a_schedule_names_what_its_author_may_use(alice, mallory, endpoint, mlflow_server, key):
    secret = new_secret(alice)
    plan = {"version": 1, "cadence": "daily", "timezone": "UTC", "paused": True, "fireTime": "03:00"}
    choices = [{"provider": "openai", "model": "gpt", "secretId": secret}, {"endpointName": endpoint}, {"endpointName": f" /{endpoint}"},
               {"provider": "gateway", "model": endpoint}, {"provider": "GATEWAY", "model": endpoint}]
    with mlflow_server.unchanged():
        for model in choices:
            value = json.dumps(plan | {"model": model})
            check_refused(mallory.owner.post(f"{API}/experiments/set-experiment-tag",
                                             {"experiment_id": mallory.experiment, "key": key, "value": value}))
            check_refused(mallory.owner.post(f"{API}/experiments/create",
                                             {"name": unique("x"), "tags": [{"key": key, "value": value}]}))
        for value in ("", "x", "[]", '{"model":[]}', '{"model":{"secretId":5}}', '{"a":1,"a":2}', '{"a":NaN}',
                      '{"model":{"provider":"gateway:","model":"x"}}', '{"model":{"secretId":"../x"}}'):
            answer = mallory.owner.post(f"{API}/experiments/set-experiment-tag",
                                        {"experiment_id": mallory.experiment, "key": key, "value": value})
            assert answer.status_code == 400, f"{value} {answer.text}"


def test_a_schedule_with_ones_own_endpoint_is_set(mallory, admin):
    name = unique("mine")
    new_endpoint(mallory.owner, new_definition(mallory.owner, new_secret(mallory.owner)), name)
    value = json.dumps({"version": 1, "cadence": "daily", "model": {"endpointName": name}})
    mallory.owner.ok("POST", f"{API}/experiments/set-experiment-tag",
                     {"experiment_id": mallory.experiment, "key": SCHEDULE, "value": value})
    mallory.owner.ok("POST", f"{API}/experiments/delete-experiment-tag", {"experiment_id": mallory.experiment, "key": SCHEDULE})


def test_the_schedulers_own_tags_are_not_the_clients(mallory, admin, mlflow_server):
    with mlflow_server.unchanged():
        for key in ("mlflow.issueDetection.scheduleState", "MLFLOW.issuedetection.checkpoint "):
            body = {"experiment_id": mallory.experiment, "key": key, "value": "{}"}
            check_refused(mallory.owner.post(f"{API}/experiments/set-experiment-tag", body))
            check_refused(mallory.owner.post(f"{API}/experiments/delete-experiment-tag",
                                             {"experiment_id": mallory.experiment, "key": key}))
            check_refused(mallory.owner.post(f"{API}/experiments/create", {
                "name": unique("x"), "tags": [{"key": key, "value": "{}"}]}))


def new_prompt(owner, config):
    """A prompt with one version that names a model; gives its name."""
    name, prompt = unique("prompt"), [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    owner.ok("POST", f"{API}/registered-models/create", {"name": name, "tags": prompt})
    new_version(owner, name, config)
    return name


def new_version(owner, name, config, check=True):
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}, {"key": "mlflow.prompt.text", "value": "Say {{ this }}"},
            {"key": "_mlflow_prompt_model_config", "value": config}]
    made = owner.post(f"{API}/model-versions/create", {"name": name, "source": "dummy-source", "tags": tags})
    assert made.ok or not check, made.text
    return made


def optimize(owner, experiment, uri):
    return owner.post(f"{V3}/prompt-optimization/jobs", {
        "experiment_id": experiment, "source_prompt_uri": uri, "config": {"optimizer_type": "OPTIMIZER_TYPE_GEPA"}})


@pytest.mark.parametrize("provider, allowed", [("openai", True), ("ollama", False), ("bedrock", False), ("Databricks", False)])
def test_prompt_optimization_calls_the_model_of_its_prompt(mallory, mlflow_server, provider, allowed):
    name = new_prompt(mallory.owner, json.dumps({"provider": provider, "model_name": "m"}))
    mallory.owner.ok("POST", f"{API}/registered-models/alias", {"name": name, "alias": "live", "version": "1"})
    for uri in (f"prompts:/{name}/1", f"prompts:/{name}@live"):
        answer = optimize(mallory.owner, mallory.experiment, uri)
        assert (answer.status_code != 403) == allowed, f"{uri} {answer.text}"


def test_an_optimized_prompt_neither_gives_its_name_nor_takes_another(mallory, admin):
    """The job reads the prompt of that name later."""
    optimized = new_prompt(mallory.owner, json.dumps({"provider": "openai", "model_name": "m"}))
    other = new_prompt(mallory.owner, json.dumps({"provider": "bedrock", "model_name": "m"}))
    assert optimize(mallory.owner, mallory.experiment, f"prompts:/{optimized}/1").status_code != 403
    for old, new in ((optimized, unique("away")), (other, optimized), (other, optimized.upper())):
        answer = mallory.owner.post(f"{API}/registered-models/rename", {"name": old, "new_name": new})
        assert answer.status_code == 403 and "optimized" in answer.json()["message"], answer.text
    assert mallory.owner.post(f"{API}/registered-models/rename", {"name": other, "new_name": unique("free")}).status_code == 200
    assert admin.post(f"{API}/registered-models/rename", {"name": optimized, "new_name": unique("away")}).status_code == 200


@pytest.mark.parametrize("config", [
    '{"provider": "openai", "provider": "ollama", "model_name": "m"}', '{"provider": "ollama", "model_name": "m", "top_p": NaN}',
    '{"provider": "openai", "model_name": 3}', '{"provider": "openai/../x", "model_name": "m"}', '["provider"]', "",
])
def test_a_prompt_whose_model_has_two_readings_is_not_optimized(mallory, mlflow_server, config):
    name = new_prompt(mallory.owner, config)
    with mlflow_server.unchanged():
        answer = optimize(mallory.owner, mallory.experiment, f"prompts:/{name}/1")
    assert answer.status_code == 400, answer.text


def test_a_prompt_that_does_not_exist_is_not_optimized(mallory, mlflow_server):
    name = new_prompt(mallory.owner, '{"provider": "openai", "model_name": "m"}')
    with mlflow_server.unchanged():
        assert optimize(mallory.owner, mallory.experiment, f"prompts:/{name}/2").status_code == 404


def test_the_model_of_a_prompt_stays_allowed_once_its_optimization_was_started(mallory, mlflow_server):
    """MLflow's job reads the model when it runs, which may be later."""
    good, bad = '{"provider": "openai", "model_name": "m"}', '{"provider": "ollama", "model_name": "m"}'
    name = new_prompt(mallory.owner, good)
    # Clients may call such a model themselves.
    new_version(mallory.owner, name, bad)
    mallory.owner.ok("POST", f"{API}/registered-models/alias", {"name": name, "alias": "live", "version": "1"})
    optimize(mallory.owner, mallory.experiment, f"prompts:/{name}@live")
    with mlflow_server.unchanged():
        for key in ("_mlflow_prompt_model_config", "_MLFLOW_prompt_model_config "):
            check_refused(mallory.owner.post(f"{API}/model-versions/set-tag", {"name": name, "version": "1", "key": key, "value": bad}))
        assert new_version(mallory.owner, name, bad, check=False).status_code == 403
    mallory.owner.ok("POST", f"{API}/model-versions/set-tag",
                     {"name": name, "version": "1", "key": "_mlflow_prompt_model_config", "value": good})


@pytest.mark.parametrize("provider", ["langflow", "zerogpu", "custom", "no-such-provider"])
def test_a_provider_that_the_proxy_does_not_know_is_an_administrators(mallory, mlflow_server, provider):
    secret = new_secret(mallory.owner)
    definition = {"name": unique("definition"), "secret_id": secret, "provider": provider, "model_name": "m"}
    scorer = {"experiment_id": mallory.experiment, "name": "judge", "serialized_scorer": json.dumps(judge(model=f"{provider}:/m"))}
    with mlflow_server.unchanged():
        check_refused(mallory.owner.post(f"{GATEWAY}/model-definitions/create", definition))
        check_refused(mallory.owner.post(f"{V3}/scorers/register", scorer))


def test_two_changes_at_once_reach_no_address_that_each_alone_does_not(mallory, admin):
    """A secret loses its address while a provider on loopback is given the secret."""
    base = the_provider().url
    for _ in range(5):
        made = mallory.owner.ok("POST", f"{GATEWAY}/secrets/create", secret_with({"api_base": base}, ""))
        secret = made["secret"]["secret_id"]
        change = {"secret_id": secret, "auth_config": {"version": "1"}}
        definition = {"name": unique("definition"), "secret_id": secret, "provider": "ollama", "model_name": "m"}
        with ThreadPoolExecutor(4) as pool:
            changed = pool.submit(mallory.owner.post, f"{GATEWAY}/secrets/update", change)
            defined = [pool.submit(mallory.owner.post, f"{GATEWAY}/model-definitions/create", definition | {"name": unique("definition")})
                       for _ in range(3)]
        assert not (changed.result().ok and any(one.result().ok for one in defined)), "both were allowed"
