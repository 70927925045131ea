"""Prompts, as the unmodified client keeps them in the registry: their own namespace, owners and levels."""

import pytest

from harness import unique
from test_ownership import create_model, get_model, level

API = "/api/2.0/mlflow"
IS_PROMPT = "mlflow.prompt.is_prompt"


def with_client(person, do):
    """Runs `do` with `mlflow.genai` as this person; a refusal comes back as its error code."""
    import mlflow
    from mlflow.exceptions import MlflowException

    with person.mlflow():
        try:
            return do(mlflow.genai)
        except MlflowException as error:
            return error.error_code


def register(person, name, template="Hello {{ name }}"):
    return with_client(person, lambda genai: genai.register_prompt(name=name, template=template, commit_message="first"))


def load(person, name, version=1):
    loaded = with_client(person, lambda genai: genai.load_prompt(f"prompts:/{name}/{version}", cache_ttl_seconds=0))
    return loaded if isinstance(loaded, str) else loaded.template


@pytest.fixture
def prompt(alice):
    name = unique("prompt")
    assert register(alice, name).version == 1
    return name


def test_the_creator_gets_manage_of_a_prompt_and_of_no_model(alice, bob, prompt):
    assert level(alice, "prompt", prompt) == "MANAGE"
    assert level(alice, "registered_model", prompt) == "NO_PERMISSIONS"
    assert level(bob, "prompt", prompt) == "NO_PERMISSIONS"
    assert load(alice, prompt) == "Hello {{ name }}"


def test_without_a_grant_a_prompt_is_closed(bob, prompt, mlflow_server):
    before = mlflow_server.state()
    assert load(bob, prompt) == "PERMISSION_DENIED"
    # The client does not see the prompt, so it makes one, and the name is taken; or there is no such prompt for it.
    refused = ("PERMISSION_DENIED", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
    assert register(bob, prompt, "mine now") in refused
    assert with_client(bob, lambda genai: genai.set_prompt_alias(prompt, "production", 1)) in refused
    assert mlflow_server.state() == before


def test_a_reader_loads_and_changes_nothing(alice, bob, prompt, mlflow_server):
    alice.grant(bob, "prompt", prompt, "READ")
    with_client(alice, lambda genai: genai.set_prompt_alias(prompt, "production", 1))
    before = mlflow_server.state()
    assert load(bob, prompt) == "Hello {{ name }}"
    by_alias = with_client(bob, lambda genai: genai.load_prompt(f"prompts:/{prompt}@production", cache_ttl_seconds=0))
    assert by_alias.version == 1
    assert register(bob, prompt, "mine now") == "PERMISSION_DENIED"
    for change in (
        lambda genai: genai.set_prompt_alias(prompt, "other", 1),
        lambda genai: genai.delete_prompt_alias(prompt, "production"),
        lambda genai: genai.set_prompt_tag(prompt, "k", "v"),
        lambda genai: genai.set_prompt_version_tag(prompt, 1, "k", "v"),
    ):
        assert with_client(bob, change) in ("PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")
    assert mlflow_server.state() == before


def test_an_editor_writes_versions_and_does_not_delete(alice, bob, prompt, mlflow_server):
    alice.grant(bob, "prompt", prompt, "EDIT")
    assert register(bob, prompt, "Good day {{ name }}").version == 2
    assert with_client(bob, lambda genai: genai.set_prompt_alias(prompt, "production", 2)) is None
    before = mlflow_server.state()
    assert bob.delete(f"{API}/model-versions/delete", {"name": prompt, "version": "1"}).status_code == 403
    assert bob.delete(f"{API}/registered-models/delete", {"name": prompt}).status_code == 403
    assert bob.delete(f"{API}/registered-models/alias", {"name": prompt, "alias": "production"}).status_code == 403
    assert mlflow_server.state() == before


def test_a_manager_deletes_and_the_name_is_free(alice, bob, proxy, prompt):
    alice.grant(bob, "prompt", prompt, "MANAGE")
    assert with_client(bob, lambda genai: genai.delete_prompt_alias(prompt, "none-such")) in (None, "RESOURCE_DOES_NOT_EXIST")
    assert bob.delete(f"{API}/registered-models/delete", {"name": prompt}).status_code == 200
    carol = proxy.person("carol")
    assert register(carol, prompt).version == 1
    for person in (alice, bob):
        assert level(person, "prompt", prompt) == "NO_PERMISSIONS"
        assert load(person, prompt) == "PERMISSION_DENIED"


def test_a_grant_on_a_model_is_none_on_a_prompt(alice, bob, admin, prompt):
    model = unique("model")
    assert create_model(alice, model).status_code == 200
    for kind, other in (("registered_model", prompt), ("prompt", model)):
        admin.ok("POST", "/api/3.0/mlflow/users/permissions/grant", {
            "username": bob.name, "resource_type": kind, "resource_id": other, "permission": "MANAGE"})
    assert load(bob, prompt) == "PERMISSION_DENIED"
    assert get_model(bob, prompt).status_code == 403
    assert get_model(bob, model).status_code == 403


def test_every_model_is_not_every_prompt(alice, bob, admin, prompt):
    model = unique("model")
    assert create_model(alice, model).status_code == 200
    admin.grant(bob, "registered_model", "*", "READ")
    assert get_model(bob, model).status_code == 200
    assert get_model(bob, prompt).status_code == 403
    admin.grant(bob, "prompt", "*", "READ")
    assert load(bob, prompt) == "Hello {{ name }}"


def test_a_model_and_a_prompt_share_their_names(alice, bob, prompt):
    """The registry has one list of names; taking one as the other gives nothing."""
    assert create_model(bob, prompt).status_code in (400, 403)
    assert level(bob, "registered_model", prompt) == "NO_PERMISSIONS"
    model = unique("model")
    assert create_model(alice, model).status_code == 200
    assert isinstance(register(bob, model), str)
    assert level(bob, "prompt", model) == "NO_PERMISSIONS"


def test_a_search_shows_what_may_be_read(alice, bob):
    part = unique("searched")
    every = [f"{part}-{number}" for number in range(5)]
    for name in every:
        register(alice, name)
    for name in every[::2]:
        alice.grant(bob, "prompt", name, "READ")

    def search(person, **more):
        found = with_client(person, lambda genai: genai.search_prompts(filter_string=f"name LIKE '{part}%'", **more))
        return sorted(prompt.name for prompt in found)

    assert search(bob) == every[::2]
    assert search(bob, max_results=2) == every[::2][:2]
    assert search(alice) == every


def test_the_list_of_models_hides_prompts_that_may_not_be_read(alice, bob, admin, prompt):
    """Whoever may read every model still reads no prompt."""
    admin.grant(bob, "registered_model", "*", "READ")
    found = bob.ok("GET", f"{API}/registered-models/search",
                   params={"filter": f"tags.`{IS_PROMPT}` = 'true'", "max_results": 1000})
    assert found.get("registered_models", []) == []
    versions = bob.ok("GET", f"{API}/model-versions/search", params={"filter": f"name = '{prompt}'"})
    assert versions.get("model_versions", []) == []
