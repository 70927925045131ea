"""MCP servers: names of two parts, owners, lists, and what hangs below a name."""

import pytest

from endpoints_gateway import MCP
from harness import Http, unique
from test_ownership import level

KIND = "mcp_server"


def new_server(who, name=None):
    name = name or f"{unique('com.example')}/{unique('tool')}"
    who.ok("POST", MCP, {"name": name, "description": "a server"})
    return name


def new_version(who, name, version="1.0.0"):
    return who.post(f"{MCP}/{name}/versions", {"server_json": {"name": name, "version": version}, "status": "active"})


def new_address(who, name):
    made = who.ok("POST", f"{MCP}/{name}/endpoints", {"url": f"https://example.com/{unique('mcp')}", "server_version": "1.0.0"})
    return made["id"]


def get(who, name):
    return who.get(f"{MCP}/{name}").status_code


def test_the_creator_gets_manage(alice, bob):
    name = new_server(alice)
    assert level(alice, KIND, name) == "MANAGE"
    assert level(bob, KIND, name) == "NO_PERMISSIONS"
    assert get(alice, name) == 200
    assert get(bob, name) == 403


def test_every_level_gives_what_it_says(alice, bob, mlflow_server):
    name = new_server(alice)
    server = f"{MCP}/{name}"
    assert new_version(alice, name).status_code == 200
    before = mlflow_server.state()
    alice.grant(bob, KIND, name, "READ")
    assert get(bob, name) == 200
    assert bob.get(f"{server}/versions/1.0.0").status_code == 200
    refused = [
        bob.patch(server, {"description": "x"}),
        new_version(bob, name, "2.0.0"),
        bob.post(f"{server}/tags", {"key": "k", "value": "v"}),
        bob.post(f"{server}/aliases", {"alias": "a", "version": "1.0.0"}),
        bob.post(f"{server}/endpoints", {"url": "https://example.com/x", "server_version": "1.0.0"}),
        bob.delete(server),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert mlflow_server.state() == before
    alice.grant(bob, KIND, name, "EDIT")
    assert bob.patch(server, {"description": "x"}).status_code == 200
    assert new_version(bob, name, "2.0.0").status_code == 200
    before = mlflow_server.state()
    for path in (server, f"{server}/versions/2.0.0", f"{server}/tags/k", f"{server}/aliases/a"):
        assert bob.delete(path).status_code == 403, path
    assert mlflow_server.state() == before


def test_deleting_drops_everybodys_grants_and_the_name_is_free(alice, bob, proxy):
    name = new_server(alice)
    alice.grant(bob, KIND, name, "MANAGE")
    assert alice.delete(f"{MCP}/{name}").status_code == 200
    assert not proxy.rows("SELECT 1 FROM grants WHERE selector = ?", name)
    carol = proxy.person("carol")
    new_server(carol, name)
    assert get(carol, name) == 200
    assert get(alice, name) == get(bob, name) == 403


def test_a_name_that_exists_gives_nothing(alice, bob):
    name = new_server(alice)
    taken = bob.post(MCP, {"name": name})
    assert taken.status_code in (400, 403), taken.text
    assert level(bob, KIND, name) == "NO_PERMISSIONS"
    assert get(bob, name) == 403


def test_a_failed_delete_keeps_the_grants(alice, bob):
    """MLflow deletes no server with an active version."""
    name = new_server(alice)
    assert new_version(alice, name).status_code == 200
    alice.grant(bob, KIND, name, "READ")
    assert alice.delete(f"{MCP}/{name}").status_code == 400
    assert get(bob, name) == 200
    assert level(alice, KIND, name) == "MANAGE"


def test_a_server_that_is_not_there_is_told_as_by_mlflow(alice, bob, mlflow_server):
    """Names are no secret: trying to make one tells."""
    name = f"{unique('com.example')}/absent"
    direct = Http(mlflow_server.url, None)
    for path in (f"{MCP}/{name}", f"{MCP}/{name}/versions/1.0.0"):
        answer = bob.get(path)
        assert answer.status_code == direct.get(path).status_code == 404
        assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    new_server(alice, name)
    assert get(bob, name) == 403


def test_a_version_of_a_server_that_is_not_there_makes_it_its_creators(alice, bob):
    """MLflow makes the server along; then it has an owner like any other."""
    name = f"{unique('com.example')}/along"
    made = new_version(alice, name)
    assert made.status_code == 200, f"{made.status_code} {made.text}"
    assert level(alice, KIND, name) == "MANAGE"
    assert get(alice, name) == 200
    assert get(bob, name) == 403
    assert new_version(bob, name, "2.0.0").status_code == 403


def test_somebody_denied_a_name_cannot_take_it(bob, admin, mlflow_server):
    name = f"{unique('com.example')}/reserved"
    admin.ok("POST", "/api/3.0/mlflow/users/permissions/grant", {
        "username": bob.name, "resource_type": KIND, "resource_id": name, "permission": "DENY"})
    before = mlflow_server.state()
    assert bob.post(MCP, {"name": name}).status_code == 403
    assert new_version(bob, name).status_code == 403
    assert mlflow_server.state() == before


def test_a_version_belongs_to_the_server_in_the_path(alice, bob, mlflow_server):
    """The body names the server a second time."""
    theirs, mine = new_server(alice), new_server(bob)
    before = mlflow_server.state()
    for path, named in ((mine, theirs), (theirs, mine)):
        answer = bob.post(f"{MCP}/{path}/versions", {"server_json": {"name": named, "version": "1.0.0"}})
        assert answer.status_code in (400, 403), f"{answer.status_code} {answer.text}"
    wrapped = {"server_json": {"server": {"name": theirs, "version": "1.0.0"}}}
    assert bob.post(f"{MCP}/{mine}/versions", wrapped).status_code in (400, 403)
    assert mlflow_server.state() == before


@pytest.mark.parametrize("write", ["{0}%2F{1}", "{0}%2f{1}", "{0}%252F{1}", "{0}%2F..%2F{0}/{1}", "{0}//{1}", "{0}/./{1}", "{0}/{1}/", "x/../{0}/{1}", "{0}/{1}%2Fversions"])
def test_a_name_has_one_spelling(alice, bob, mlflow_server, write):
    """Whoever may not see a server does not see it under another spelling of its path."""
    name = new_server(alice)
    assert new_version(alice, name).status_code == 200
    path = f"{MCP}/{write.format(*name.split('/'))}"
    before = mlflow_server.state()
    for answer in (bob.get(path), bob.get(f"{path}/versions"), bob.delete(path), bob.call("PATCH", path, json={"description": "x"})):
        assert answer.status_code in (400, 403, 404, 405), f"{answer.status_code} {answer.text}"
        assert "a server" not in answer.text
    assert mlflow_server.state() == before


@pytest.mark.parametrize("slug", ["versions", "endpoints", "tags", "aliases"])
def test_a_server_may_be_called_like_a_part_of_a_path(alice, bob, slug):
    """Wherever MLflow takes such a name, it is one server's and nobody else's."""
    name = f"{unique('com.example')}/{slug}"
    made = alice.post(MCP, {"name": name})
    assert made.status_code in (200, 400), made.text
    for path in (f"{MCP}/{name}", f"{MCP}/{name}/versions", f"{MCP}/{name}/endpoints"):
        assert bob.get(path).status_code in (400, 403, 404), path


def test_keys_with_a_slash_can_be_deleted(alice):
    name = new_server(alice)
    alice.ok("POST", f"{MCP}/{name}/tags", {"key": "team/first", "value": "v"})
    for path in (f"{MCP}/{name}/tags/team%2Ffirst",):
        answer = alice.delete(path)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    assert alice.ok("GET", f"{MCP}/{name}")["tags"] == {}


def test_the_unmodified_client_keeps_servers(alice, bob):
    """It encodes the slash of a name, and makes a server along with its first version."""
    import mlflow

    name = f"{unique('com.example')}/client"
    with alice.mlflow() as client:
        version = mlflow.genai.register_mcp_server(server_json={"name": name, "version": "1.0.0"})
        assert (version.name, version.version) == (name, "1.0.0")
        client.set_mcp_server_tag(name, "team/first", "v")
        client.set_mcp_server_alias(name, "champion", "1.0.0")
        assert client.get_mcp_server(name).tags == {"team/first": "v"}
        assert client.get_mcp_server_version_by_alias(name, "champion").version == "1.0.0"
        client.delete_mcp_server_tag(name, "team/first")
        assert client.get_mcp_server(name).tags == {}
    assert level(alice, KIND, name) == "MANAGE"
    with bob.mlflow() as client:
        with pytest.raises(mlflow.MlflowException) as refused:
            client.get_mcp_server(name)
        assert refused.value.error_code == "PERMISSION_DENIED"


# ---- lists


def names(answer):
    return [row["name"] for row in answer["mcp_servers"]]


def pages(who, path, rows, **params):
    """Every row of every page, and the sizes of the pages."""
    token, found, sizes = None, [], []
    while True:
        answer = who.ok("GET", path, params=params | ({"page_token": token} if token else {}))
        found += answer[rows]
        sizes.append(len(answer[rows]))
        token = answer["next_page_token"]
        if not token:
            return found, sizes


def test_lists_show_what_may_be_read_in_full_pages(alice, bob):
    namespace = unique("com.example")
    every = [new_server(alice, f"{namespace}/tool{number}") for number in range(9)]
    for name in every[::2]:
        alice.grant(bob, KIND, name, "READ")
    assert names(bob.ok("GET", MCP)) == every[::2]
    assert names(bob.ok("GET", MCP.replace("/api/", "/ajax-api/"))) == every[::2]
    found, sizes = pages(bob, MCP, "mcp_servers", max_results=2)
    assert [row["name"] for row in found] == every[::2]
    assert sizes == [2, 2, 1]
    assert set(every) <= set(names(alice.ok("GET", MCP, params={"max_results": 1000})))


def test_somebody_who_may_read_nothing_gets_an_empty_list_of_the_same_shape(alice, bob):
    new_server(alice)
    assert bob.ok("GET", MCP) == {"mcp_servers": [], "next_page_token": None}
    assert bob.ok("GET", f"{MCP}/endpoints") == {"mcp_access_endpoints": [], "next_page_token": None}


def test_the_list_of_all_endpoints_shows_those_of_readable_servers(alice, bob):
    shown, hidden = new_server(alice), new_server(alice)
    for name in (shown, hidden):
        assert new_version(alice, name).status_code == 200
    keys = {name: [new_address(alice, name) for _ in range(3)] for name in (shown, hidden)}
    alice.grant(bob, KIND, shown, "READ")
    found, sizes = pages(bob, f"{MCP}/endpoints", "mcp_access_endpoints", max_results=2)
    assert sorted(row["id"] for row in found) == sorted(keys[shown])
    assert sizes == [2, 1]
    assert bob.get(f"{MCP}/{hidden}/endpoints").status_code == 403


def test_an_endpoint_of_another_server_is_not_reached_through_ones_own(alice, bob, mlflow_server):
    theirs, mine = new_server(alice), new_server(bob)
    for who, name in ((alice, theirs), (bob, mine)):
        assert new_version(who, name).status_code == 200
    key = new_address(alice, theirs)
    before = mlflow_server.state()
    path = f"{MCP}/{mine}/endpoints/{key}"
    for answer in (bob.get(path), bob.patch(path, {"url": "https://example.com/mine"}), bob.delete(path)):
        assert answer.status_code in (400, 403, 404), f"{answer.status_code} {answer.text}"
    assert mlflow_server.state() == before
