"""The AI gateway, MCP servers, prompts as the registry keeps them, the prompt lab: every endpoint, with a request that
works for whoever may send it, and the things that it is about.

Written by hand from MLflow's documentation, as in `endpoints.py`.
"""

import json

from endpoints import EDIT, MANAGE, READ, USE, Endpoint, body, experiment, query
from harness import Http, World, new_password, unique
from provider import the_provider

V2, V3, AJAX2 = "/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/2.0/mlflow"
GATEWAY, MCP = f"{V3}/gateway", f"{V3}/mcp-servers"
MESSAGES = [{"role": "user", "content": "hello"}]


# ---- what there is to reach


def make(world, mlflow_server):
    """Adds one of everything to a world, made by its owner; the ids stand in `world.names`."""
    owner, names = world.owner, world.names
    names["secret"] = new_secret(owner)
    names["unused_secret"] = new_secret(owner)
    names["definition"] = new_definition(owner, names["secret"])
    names["spare_definition"] = new_definition(owner, names["secret"])
    names["endpoint_name"] = unique("endpoint")
    names["gateway_endpoint"] = new_endpoint(owner, names["definition"], names["endpoint_name"])
    names["provider_path"] = "chat/completions"
    owner.ok("POST", f"{GATEWAY}/endpoints/set-tag", tag_of_endpoint(world))
    owner.ok("POST", f"{GATEWAY}/endpoints/bindings/create", binding(world, "bound"))
    owner.ok("POST", f"{GATEWAY}/endpoints/models/attach", attached(world))
    names["guarded_endpoint"] = new_endpoint(owner, names["definition"])
    for key in ("guardrail", "spare_guardrail"):
        names[f"{key}_scorer"] = unique("guard")
        names[key] = new_guardrail(world, mlflow_server, names[f"{key}_scorer"])
    owner.ok("POST", f"{GATEWAY}/guardrails/add-to-endpoint", guarded(world, "guardrail"))

    names["namespace"], names["slug"] = unique("com.example"), "tool"
    server = f"{MCP}/{mcp_name(world)}"
    owner.ok("POST", MCP, {"name": mcp_name(world), "description": World.SECRET})
    owner.ok("POST", f"{server}/versions", a_version(world, "1.0.0"))
    owner.ok("POST", f"{server}/versions/1.0.0/tags", {"key": "tag", "value": World.SECRET})
    owner.ok("POST", f"{server}/tags", {"key": "tag", "value": World.SECRET})
    owner.ok("POST", f"{server}/aliases", {"alias": "champion", "version": "1.0.0"})
    names["endpoint_id"] = owner.ok("POST", f"{server}/endpoints", an_address(world))["id"]
    names |= {"version": "1.0.0", "alias": "champion", "key": "tag"}


def share(world, other, permission):
    owner, names = world.owner, world.names
    for kind, keys in {
        "gateway_secret": ("secret", "unused_secret"), "gateway_model_definition": ("definition", "spare_definition"),
        "gateway_endpoint": ("gateway_endpoint", "guarded_endpoint"),
    }.items():
        for key in keys:
            owner.grant(other, kind, names[key], permission)
    for key in ("guardrail_scorer", "spare_guardrail_scorer"):
        owner.grant(other, "scorer", f"{world.experiment}/{names[key]}", permission)
    owner.grant(other, "mcp_server", mcp_name(world), permission)


def new_secret(who, name=None, key=None):
    made = who.ok("POST", f"{GATEWAY}/secrets/create", {
        "secret_name": name or unique("secret"), "secret_value": {"api_key": key or new_password()}, "provider": "openai",
        "auth_config": {"api_base": the_provider().url},
    })
    return made["secret"]["secret_id"]


def new_definition(who, secret, name=None):
    made = who.ok("POST", f"{GATEWAY}/model-definitions/create", definition_on(secret, name))
    return made["model_definition"]["model_definition_id"]


def definition_on(secret, name=None):
    return {"name": name or unique("definition"), "secret_id": secret, "provider": "openai", "model_name": "stub"}


def new_endpoint(who, definition, name=None):
    return who.ok("POST", f"{GATEWAY}/endpoints/create", endpoint_on(definition, name))["endpoint"]["endpoint_id"]


def endpoint_on(definition, name=None):
    # With usage tracking, MLflow makes an experiment for the endpoint, and traces in it.
    return {"name": name or unique("endpoint"), "model_configs": [model_config(definition)], "usage_tracking": False}


def model_config(definition):
    return {"model_definition_id": definition, "linkage_type": "PRIMARY", "weight": 1.0}


def attached(world):
    """A second model for the endpoint, to be detached."""
    world.names["detachable"] = new_definition(world.owner, world.names["secret"])
    return {"endpoint_id": world.names["gateway_endpoint"], "model_config": model_config(world.names["detachable"])}


def binding(world, resource):
    return {"endpoint_id": world.names["gateway_endpoint"], "resource_type": "scorer", "resource_id": resource}


def tag_of_endpoint(world):
    return {"endpoint_id": world.names["gateway_endpoint"], "key": "tag", "value": World.SECRET}


def guarded(world, guardrail):
    return {"endpoint_id": world.names["guarded_endpoint"], "guardrail_id": world.names[guardrail], "execution_order": 1}


def new_guardrail(world, mlflow_server, scorer_name):
    """Guardrails are administrators' things; the scorer is its owner's."""
    direct = Http(mlflow_server.url, None)
    scorer = world.owner.ok("POST", f"{V3}/scorers/register", {
        "experiment_id": world.experiment, "name": scorer_name,
        "serialized_scorer": json.dumps(JUDGE | {"instructions_judge_pydantic_data": {
            "feedback_value_type": {"type": "string"}, "instructions": "Is {{ outputs }} good?",
            "model": f"gateway:/{world.names['endpoint_name']}"}}),
    })
    made = direct.ok("POST", f"{GATEWAY}/guardrails/create", {
        "name": unique("guardrail"), "scorer_id": scorer["scorer_id"], "scorer_version": 1, "stage": "BEFORE",
        "action": "VALIDATION"})
    return made["guardrail"]["guardrail_id"]


# What a judge made of instructions looks like on the wire.
JUDGE = {
    "name": "judge", "aggregations": [], "description": None, "is_session_level_scorer": False,
    "mlflow_version": "3.17.2", "serialization_version": 1, "builtin_scorer_class": None,
    "builtin_scorer_pydantic_data": None, "call_source": None, "call_signature": None, "original_func_name": None,
}


def mcp_name(world):
    return f"{world.names['namespace']}/{world.names['slug']}"


def a_version(world, version):
    remotes = [{"type": "streamable-http", "url": "https://example.com/mcp"}]
    return {"server_json": {"name": mcp_name(world), "version": version, "remotes": remotes}, "status": "active"}


def an_address(world):
    return {"url": f"https://example.com/{unique('mcp')}", "server_version": "1.0.0"}


def out_of_use(world):
    """MLflow deletes no version that is active, and no server with one."""
    world.owner.ok("PATCH", f"{MCP}/{mcp_name(world)}/versions/1.0.0", {"status": "draft"})


# ---- the requests


def named(name):
    return lambda w: w.names[name]


def of_endpoint(**of):
    return body(endpoint_id=named("gateway_endpoint"), **of)


def of_guarded(**of):
    return body(endpoint_id=named("guarded_endpoint"), guardrail_id=named("guardrail"), **of)


def chat(w):
    return {"json": {"model": w.names["endpoint_name"], "messages": MESSAGES}}


def embed(w):
    return {"json": {"model": w.names["endpoint_name"], "input": "hello"}}


PROMPTLAB = {
    "prompt_template": "Q {{ q }}", "prompt_parameters": [{"key": "q", "value": "1"}], "model_route": "route",
    "model_parameters": [{"key": "temperature", "value": "0.1"}], "model_input": "in", "model_output": "out",
    "mlflow_version": "3.17.2", "tags": [],
}
# What MLflow says to whoever may, of an endpoint whose provider is another one.
OTHER_PROVIDER = (400, 422)
SERVER, VERSION = f"{MCP}/{{namespace}}/{{slug}}", f"{MCP}/{{namespace}}/{{slug}}/versions/{{version}}"

ENDPOINTS = [
    # secrets
    Endpoint(READ, "GET", f"{GATEWAY}/secrets/get", query(secret_id=named("secret"))),
    Endpoint(EDIT, "POST", f"{GATEWAY}/secrets/update",
             body(secret_id=named("secret"), secret_value=lambda w: {"api_key": new_password()})),
    Endpoint(MANAGE, "DELETE", f"{GATEWAY}/secrets/delete", body(secret_id=named("unused_secret")), spoils=True),
    # model definitions
    Endpoint(USE, "POST", f"{GATEWAY}/model-definitions/create", lambda w: {"json": definition_on(w.names["secret"])}),
    Endpoint(READ, "GET", f"{GATEWAY}/model-definitions/get", query(model_definition_id=named("definition"))),
    # The list of one secret needs READ on that secret; `test_gateway.py` has what the lists show.
    Endpoint(READ, "GET", f"{GATEWAY}/model-definitions/list", query(secret_id=named("secret"))),
    Endpoint(EDIT, "POST", f"{GATEWAY}/model-definitions/update",
             body(model_definition_id=named("definition"), model_name=lambda w: unique("stub"))),
    Endpoint(MANAGE, "DELETE", f"{GATEWAY}/model-definitions/delete", body(model_definition_id=named("spare_definition")),
             spoils=True),
    # endpoints
    Endpoint(USE, "POST", f"{GATEWAY}/endpoints/create", lambda w: {"json": endpoint_on(w.names["definition"])}),
    Endpoint(READ, "GET", f"{GATEWAY}/endpoints/get", query(endpoint_id=named("gateway_endpoint"))),
    Endpoint(READ, "GET", f"{GATEWAY}/endpoints/get", query(name=named("endpoint_name"))),
    Endpoint(READ, "GET", f"{GATEWAY}/endpoints/list", query(secret_id=named("secret"))),
    Endpoint(EDIT, "POST", f"{GATEWAY}/endpoints/update",
             of_endpoint(model_configs=lambda w: [model_config(w.names["definition"])])),
    Endpoint(MANAGE, "DELETE", f"{GATEWAY}/endpoints/delete", of_endpoint(), spoils=True),
    Endpoint(EDIT, "POST", f"{GATEWAY}/endpoints/models/attach",
             of_endpoint(model_config=lambda w: model_config(w.names["spare_definition"])), spoils=True),
    Endpoint(EDIT, "POST", f"{GATEWAY}/endpoints/models/detach", of_endpoint(model_definition_id=named("detachable")),
             spoils=True),
    Endpoint(EDIT, "POST", f"{GATEWAY}/endpoints/bindings/create", lambda w: {"json": binding(w, unique("scorer"))}),
    Endpoint(READ, "GET", f"{GATEWAY}/endpoints/bindings/list", query(endpoint_id=named("gateway_endpoint"))),
    Endpoint(EDIT, "DELETE", f"{GATEWAY}/endpoints/bindings/delete", lambda w: {"json": binding(w, "bound")}, spoils=True),
    Endpoint(EDIT, "POST", f"{GATEWAY}/endpoints/set-tag", of_endpoint(key="k", value=lambda w: unique("v"))),
    Endpoint(EDIT, "DELETE", f"{GATEWAY}/endpoints/delete-tag", of_endpoint(key="tag"), spoils=True),
    # guardrails of an endpoint
    Endpoint(EDIT, "POST", f"{GATEWAY}/guardrails/add-to-endpoint", lambda w: {"json": guarded(w, "spare_guardrail")},
             spoils=True),
    Endpoint(READ, "GET", f"{GATEWAY}/guardrails/list-for-endpoint", query(endpoint_id=named("guarded_endpoint"))),
    Endpoint(EDIT, "PATCH", f"{GATEWAY}/guardrails/update-config",
             of_guarded(execution_order=2), spoils=True),
    Endpoint(EDIT, "DELETE", f"{GATEWAY}/guardrails/remove-from-endpoint", of_guarded(), spoils=True),
    # invocations
    Endpoint(USE, "POST", "/gateway/{endpoint_name}/mlflow/invocations", lambda w: {"json": {"input": "hello"}}),
    Endpoint(USE, "POST", "/gateway/mlflow/v1/chat/completions", chat),
    Endpoint(USE, "POST", "/gateway/openai/v1/chat/completions", chat),
    Endpoint(USE, "POST", "/gateway/openai/v1/embeddings", embed),
    Endpoint(USE, "POST", "/gateway/openai/v1/responses", embed),
    Endpoint(USE, "POST", "/gateway/openai/v1/responses/compact", embed),
    Endpoint(USE, "POST", "/gateway/typesafe/v1/systemone", embed, ok=OTHER_PROVIDER),
    Endpoint(USE, "POST", "/gateway/anthropic/v1/messages", chat, ok=OTHER_PROVIDER),
    Endpoint(USE, "POST", "/gateway/gemini/v1beta/models/{endpoint_name}:generateContent", lambda w: {"json": {"contents": []}},
             ok=OTHER_PROVIDER),
    Endpoint(USE, "POST", "/gateway/gemini/v1beta/models/{endpoint_name}:streamGenerateContent",
             lambda w: {"json": {"contents": []}}),
    Endpoint(USE, "POST", "/gateway/proxy/{endpoint_name}/{provider_path}", lambda w: {"json": {"messages": MESSAGES}}),
    # MCP servers
    Endpoint(READ, "GET", SERVER),
    Endpoint(EDIT, "PATCH", SERVER, lambda w: {"json": {"description": unique("new")}}),
    Endpoint(MANAGE, "DELETE", SERVER, spoils=True, before=out_of_use),
    Endpoint(EDIT, "POST", f"{SERVER}/versions", lambda w: {"json": a_version(w, "2.0.0")}, spoils=True),
    Endpoint(READ, "GET", f"{SERVER}/versions"),
    Endpoint(READ, "GET", VERSION),
    Endpoint(EDIT, "PATCH", VERSION, body(status="deprecated"), spoils=True),
    Endpoint(MANAGE, "DELETE", VERSION, spoils=True, before=out_of_use),
    Endpoint(EDIT, "POST", f"{VERSION}/tags", lambda w: {"json": {"key": "k", "value": unique("v")}}),
    Endpoint(MANAGE, "DELETE", f"{VERSION}/tags/{{key}}", spoils=True),
    Endpoint(EDIT, "POST", f"{SERVER}/endpoints", lambda w: {"json": an_address(w)}),
    Endpoint(READ, "GET", f"{SERVER}/endpoints"),
    Endpoint(READ, "GET", f"{SERVER}/endpoints/{{endpoint_id}}"),
    Endpoint(EDIT, "PATCH", f"{SERVER}/endpoints/{{endpoint_id}}", lambda w: {"json": {"url": an_address(w)["url"]}}),
    Endpoint(MANAGE, "DELETE", f"{SERVER}/endpoints/{{endpoint_id}}", spoils=True),
    Endpoint(EDIT, "POST", f"{SERVER}/tags", lambda w: {"json": {"key": "k", "value": unique("v")}}),
    Endpoint(MANAGE, "DELETE", f"{SERVER}/tags/{{key}}", spoils=True),
    Endpoint(EDIT, "POST", f"{SERVER}/aliases", lambda w: {"json": {"alias": unique("alias"), "version": "1.0.0"}}),
    Endpoint(READ, "GET", f"{SERVER}/aliases/{{alias}}"),
    Endpoint(MANAGE, "DELETE", f"{SERVER}/aliases/{{alias}}", spoils=True),
    # what belongs to an experiment
    Endpoint(EDIT, "POST", f"{AJAX2}/runs/create-promptlab-run", body(experiment_id=experiment, **PROMPTLAB)),
    Endpoint(READ, "POST", f"{AJAX2}/experiments/search-datasets", body(experiment_ids=lambda w: [w.experiment])),
]
