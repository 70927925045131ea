"""Who reaches what: every endpoint at every level of permission, against MLflow's real state.

Each endpoint is asked by somebody one level below what it needs, which must be refused and must change nothing, and by
somebody at exactly that level, which must work: so a refusal is never owed to a request that could not work anyway.
"""

import re

import pytest

import endpoints
import endpoints_gateway
import endpoints_genai
from endpoints import ADMINISTRATORS_ONLY, EDIT, MANAGE, READ, USE
from harness import ROOT, World, check_refused, difference

# Each has ENDPOINTS, and fills and shares the world with what they are about.
FAMILIES = [
    endpoints_genai,
    endpoints_gateway,
]

ENDPOINTS = [*endpoints.ENDPOINTS, *(endpoint for family in FAMILIES for endpoint in family.ENDPOINTS)]
# Routes that this MLflow does not have: test_skills.py asks one that does.
NEWER = ("/api/3.0/mlflow/skills", "/ajax-api/3.0/mlflow/issues/schedule/state")
NOTHING = "nothing"
BELOW = {READ: [NOTHING], USE: [NOTHING, READ], EDIT: [NOTHING, USE], MANAGE: [NOTHING, USE, EDIT]}


class Stage:
    """A world and one person at each level on it."""

    def __init__(self, proxy, mlflow_server):
        self.mlflow_server = mlflow_server
        self.world = self.make(proxy.person("owner")).with_deleted_experiment()
        self.people = {NOTHING: proxy.person("nobody")}
        for level in (READ, USE, EDIT, MANAGE):
            self.people[level] = proxy.person(level.lower())
            self.share(self.world, self.people[level], level)

    def make(self, owner):
        world = World.make(owner)
        for family in FAMILIES:
            family.make(world, self.mlflow_server)
        return world

    @staticmethod
    def share(world, other, permission):
        world.share(other, permission)
        for family in FAMILIES:
            family.share(world, other, permission)


@pytest.fixture(scope="module")
def stage(proxy, mlflow_server):
    return Stage(proxy, mlflow_server)


def cases(pick):
    return [pytest.param(e, level, id=f"{level}: {e}") for e in ENDPOINTS for level in pick(e.needs)]


@pytest.mark.parametrize(("endpoint", "level"), cases(lambda needs: BELOW[needs]))
def test_below_its_level_an_endpoint_refuses_and_changes_nothing(mlflow_server, stage, endpoint, level):
    before = mlflow_server.state()
    for path in endpoint.paths(stage.world):
        message = check_refused(endpoint.request(stage.world, stage.people[level], path))
        if level != NOTHING:
            assert endpoint.needs in message, f"the message does not say what was missing: {message}"
    assert not difference(before, mlflow_server.state())


@pytest.mark.parametrize(("endpoint", "level"), cases(lambda needs: [needs]))
def test_at_its_level_an_endpoint_works(mlflow_server, proxy, stage, endpoint, level):
    world, person = stage.world, stage.people[level]
    if endpoint.spoils:
        world = stage.make(world.owner)
    endpoint.before(world)
    if endpoint.spoils:
        stage.share(world, person, level)
    before = mlflow_server.state()
    answer = endpoint.request(world, person)
    assert answer.status_code in endpoint.ok, f"{answer.status_code} {answer.text}"
    changed = difference(before, mlflow_server.state())
    if endpoint.needs == READ:
        assert not changed
    elif endpoint.needs != USE and endpoint.ok == (200,):
        assert changed, "a write that works leaves a trace"


def test_strangers_are_refused_everywhere(mlflow_server, proxy, stage):
    before = mlflow_server.state()
    anonymous = proxy.anonymous()
    for endpoint in ENDPOINTS:
        for path in endpoint.paths(stage.world):
            answer = endpoint.request(stage.world, anonymous, path)
            assert answer.status_code == 401, f"{endpoint.method} {path}: {answer.status_code}"
            assert "You are not authenticated." in answer.text
    assert not difference(before, mlflow_server.state())


def test_deny_beats_the_owner(proxy, stage):
    """DENY takes away what other grants gave, on every endpoint."""
    owner, victim = proxy.person("owner"), proxy.person("victim")
    world = stage.make(owner)
    stage.share(world, victim, MANAGE)
    assert victim.get("/api/2.0/mlflow/runs/get", {"run_id": world.run}).status_code == 200
    stage.share(world, victim, "DENY")
    for endpoint in ENDPOINTS:
        if "restore" not in endpoint.route:
            check_refused(endpoint.request(world, victim))


@pytest.mark.parametrize(("method", "path", "json"), ADMINISTRATORS_ONLY, ids=lambda value: str(value)[:60])
def test_everything_else_is_for_administrators(mlflow_server, stage, method, path, json):
    before = mlflow_server.state()
    for person in stage.people.values():
        check_refused(person.call(method, path, json=json))
    assert not difference(before, mlflow_server.state())


def test_administrators_reach_everything(proxy, stage):
    admin = proxy.admin()
    for endpoint in ENDPOINTS:
        if endpoint.needs == READ:
            answer = endpoint.request(stage.world, admin)
            assert answer.status_code in endpoint.ok, f"{endpoint}: {answer.status_code} {answer.text}"
    answer = admin.get("/api/2.0/mlflow/webhooks")
    assert answer.status_code == 200, answer.text


def test_another_method_is_405(stage):
    for path in ("/api/2.0/mlflow/runs/create", "/ajax-api/2.0/mlflow/runs/create"):
        answer = stage.people[READ].get(path)
        assert answer.status_code == 405, f"{answer.status_code} {answer.text}"


def test_the_table_here_covers_the_route_table_of_the_proxy():
    """Whoever adds a route adds it here, and whoever drops one there notices."""
    text = (ROOT / "src" / "mlflow" / "routes.toml").read_text()
    rows = re.findall(r'^route = "(\S+) (\S+)"\nneeds = \[(.*)\]', text, re.MULTILINE)
    assert len(rows) > 60
    rows = [row for row in rows if not row[1].startswith(NEWER)]
    theirs = set()
    for methods, route, needs in rows:
        # Jobs know no levels: `test_jobs.py`.
        if re.search(r'"(READ|USE|EDIT|MANAGE) (?!job )', needs):
            theirs |= {(method, route.replace("{*", "{")) for method in methods.split(",")}
    ours = {(endpoint.method, endpoint.route) for endpoint in ENDPOINTS}
    assert ours == theirs
