"""GraphQL answers what the REST interface would: what is hidden is null, lists are narrowed, and the status is 200."""

import re
from pathlib import Path

import mlflow
import pytest

from endpoints import READ
from harness import World

RUN = "query Q($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) { run { info { runUuid } data { params { value } } } } }"
RUNS = "mlflowSearchRuns(input: {experimentIds: %s}) { runs { info { runUuid experimentId } } }"


def pages():
    """The documents that MLflow's own pages send, as its build has them."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    found = {}
    for file in folder.glob("*.js"):
        for document, name in re.findall(r"`\s*(query (\w+)\([^`]*?)\s*`", file.read_text(errors="replace")):
            found[name] = document
    return found


def variables(world):
    return {
        "GetRun": {"data": {"runId": world.run}},
        "SearchRuns": {"data": {"filter": "", "experimentIds": [world.experiment]}},
        "MlflowGetExperimentQuery": {"input": {"experimentId": world.experiment}},
        "GetMetricHistoryBulkInterval": {"data": {"runIds": [world.run], "metricKey": "metric", "maxResults": 10}},
    }


def ask(person, query, method="POST", **more):
    answer = person.call(method, "/graphql", json={"query": query} | more)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.json()


def hidden(person, query, **more):
    """Whether the answer says nothing: no data, and nothing of the world."""
    answer = person.call("POST", "/graphql", json={"query": query} | more)
    assert answer.status_code in (200, 400, 403), answer.text
    assert World.SECRET not in answer.text
    data = answer.json().get("data") if answer.status_code == 200 else None
    return not any((data or {}).values())


def listing(world):
    return '["' + '", "'.join(world) + '"]'


@pytest.fixture
def other_world(proxy):
    return World.make(proxy.person("other"))


def test_the_pages_send_these_four():
    assert set(pages()) == {"GetRun", "SearchRuns", "MlflowGetExperimentQuery", "GetMetricHistoryBulkInterval"}


@pytest.mark.parametrize("name", ["GetRun", "SearchRuns", "MlflowGetExperimentQuery", "GetMetricHistoryBulkInterval"])
def test_the_pages_queries_answer_readers(proxy, people, world, name):
    (reader,) = people(world, READ)
    request = {"operationName": name, "variables": variables(world)[name]}
    document = pages()[name]
    (field,) = ask(reader, document, **request)["data"].values()
    assert field
    (field,) = ask(proxy.admin(), document, **request)["data"].values()
    assert field

    data = ask(proxy.person("stranger"), document, **request)["data"]
    (field,) = data.values()
    assert not field or not field.get("runs"), data
    assert World.SECRET not in str(data)


def test_strangers_are_401(proxy):
    answer = proxy.anonymous().post("/graphql", {"query": "{ test { outputString } }"})
    assert answer.status_code == 401
    assert "You are not authenticated." in answer.text


def test_a_hidden_run_and_one_that_is_not_there_are_both_null(world, other_world):
    for run in (other_world.run, "0" * 32):
        data = ask(world.owner, RUN, variables={"data": {"runId": run}})["data"]
        assert data == {"mlflowGetRun": None}


def test_a_search_is_narrowed_to_what_its_caller_reads(world, other_world):
    owner = world.owner
    both = listing([other_world.experiment, world.experiment])
    runs = ask(owner, f"{{ {RUNS % both} }}")["data"]["mlflowSearchRuns"]["runs"]
    assert {run["info"]["experimentId"] for run in runs} == {world.experiment}
    assert hidden(owner, f"{{ {RUNS % listing([other_world.experiment])} }}")
    assert hidden(owner, f"{{ {RUNS % '[]'} }}")
    # As a mutation, which MLflow knows too.
    answer = owner.post("/graphql", {"query": f"mutation {{ {RUNS % both} }}"})
    assert other_world.run not in answer.text


def test_however_a_field_is_written_it_is_the_same_field(people, world, other_world):
    """Aliases, fragments, variables with defaults, several operations in one document."""
    owner, run = world.owner, other_world.run
    documents = [
        f'{{ mlflowGetRun(input: {{runId: "{run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ a: mlflowGetRun(input: {{runId: "{run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ mlflowGetRun(input: {{runUuid: "{run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ mlflowGetRun(input: {{runId: "{run}", runUuid: "{world.run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ mlflowGetRun(input: {{runId: "{world.run}", runUuid: "{run}"}}) {{ run {{ info {{ experimentId }} }} }} }}',
        f'query ($run: String = "{run}") {{ mlflowGetRun(input: {{runId: $run}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ ...F }} fragment F on Query {{ mlflowGetRun(input: {{runId: "{run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}',
        f'{{ ... on Query {{ mlflowGetRun(input: {{runId: "{run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }} }}',
        f'{{ mlflowListArtifacts(input: {{runId: "{run}", path: "folder"}}) {{ files {{ path }} }} }}',
        f'{{ mlflowGetExperiment(input: {{experimentId: "{other_world.experiment}"}}) {{ experiment {{ name }} }} }}',
        f'{{ mlflowGetExperiment(input: {{experimentId: "0{other_world.experiment}"}}) {{ experiment {{ name }} }} }}',
        f'{{ mlflowGetMetricHistoryBulkInterval(input: {{runIds: ["{world.run}", "{run}"], metricKey: "metric"}})'
        " { metrics { value } } }",
    ]
    for document in documents[:4] + documents[5:]:
        assert hidden(owner, document), document
    answer = owner.post("/graphql", {"query": documents[4]})
    assert f'"experimentId":"{other_world.experiment}"' not in answer.text.replace(" ", "")


def test_the_operation_that_runs_is_the_one_that_is_judged(world, other_world):
    document = (
        f'query Mine {{ mlflowGetRun(input: {{runId: "{world.run}"}}) {{ run {{ info {{ runUuid }} }} }} }} '
        f'query Theirs {{ mlflowGetRun(input: {{runId: "{other_world.run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}'
    )
    assert hidden(world.owner, document, operationName="Theirs")
    answer = world.owner.post("/graphql", {"query": document, "operationName": "Mine"})
    assert other_world.run not in answer.text


def test_one_hidden_field_leaves_the_others(world, other_world):
    document = (
        f'{{ mine: mlflowGetRun(input: {{runId: "{world.run}"}}) {{ run {{ info {{ runUuid }} }} }} '
        f'theirs: mlflowGetRun(input: {{runId: "{other_world.run}"}}) {{ run {{ info {{ runUuid }} }} }} }}'
    )
    answer = world.owner.post("/graphql", {"query": document})
    assert answer.status_code in (200, 400, 403)
    assert other_world.run not in answer.text
    if answer.status_code == 200:
        assert answer.json()["data"]["theirs"] is None


def test_model_versions_of_a_run_are_those_of_readable_models(people, world):
    """READ on the experiment shows the run; its versions are shown with READ on their model."""
    (reader,) = people(world, READ)
    request = {"operationName": "GetRun", "variables": variables(world)["GetRun"]}
    run = ask(world.owner, pages()["GetRun"], **request)["data"]["mlflowGetRun"]["run"]
    assert [version["name"] for version in run["modelVersions"]] == [world.model]
    answer = ask(reader, pages()["GetRun"], **request)
    assert answer["data"]["mlflowGetRun"]["run"]["modelVersions"] in ([], None)
    assert world.model not in str(answer)
    search = {"operationName": "SearchRuns", "variables": variables(world)["SearchRuns"]}
    assert world.model not in str(ask(reader, pages()["SearchRuns"], **search))
    versions = "{ mlflowSearchModelVersions(input: {}) { modelVersions { name } } }"
    answer = reader.post("/graphql", {"query": versions})
    assert world.model not in answer.text
    world.owner.grant(reader, "registered_model", world.model, READ)
    run = ask(reader, pages()["GetRun"], **request)["data"]["mlflowGetRun"]["run"]
    assert [version["name"] for version in run["modelVersions"]] == [world.model]


def test_what_is_no_graphql_reaches_nothing(world, other_world):
    owner = world.owner
    document = f'{{ mlflowGetRun(input: {{runId: "{other_world.run}"}}) {{ run {{ data {{ params {{ value }} }} }} }} }}'
    for answer in (
        owner.post("/graphql", [{"query": document}]),
        owner.call("POST", "/graphql", data=document, headers={"Content-Type": "application/graphql"}),
        owner.call("GET", "/graphql", params={"query": document}),
        owner.call("GET", "/graphql", json={"query": document}),
        owner.call("POST", "/graphql", params={"query": document}, json={"query": "{ test { outputString } }"}),
        owner.call("POST", "/graphql", data={"query": document}),
        owner.post("/graphql", {"query": document + " }"}),
        owner.post("/graphql", {"query": 7}),
        owner.post("/graphql", {}),
    ):
        assert answer.status_code in (200, 400, 403, 405, 415), f"{answer.status_code} {answer.text}"
        assert World.SECRET not in answer.text


def test_versions_that_are_denied_are_in_no_list(admin, bob, world):
    """A DENY on the tier takes them away, whatever may be read of the models."""
    world.owner.grant(bob, "registered_model", world.model, "READ")
    query = {"query": "query { mlflowSearchModelVersions(input: {}) { modelVersions { name } } }"}

    def lists():
        return bob.get("/api/2.0/mlflow/model-versions/search").text, bob.post("/graphql", query).text

    assert all(world.model in told for told in lists())
    admin.grant(bob, "registered_model_version", "*", "DENY")
    assert not any(world.model in told for told in lists())
