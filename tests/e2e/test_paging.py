"""Lists show what one may read and nothing else, in full pages: nobody can count what is hidden from them."""

import pytest

from harness import unique

API = "/api/2.0/mlflow"
PAGE = 5
COUNT = 30


class Shelf:
    """Thirty of each kind, every other one shared with the reader."""

    def __init__(self, proxy):
        self.owner, self.reader = proxy.person("owner"), proxy.person("reader")
        self.prefix = unique("shelf")
        ok = self.owner.ok
        self.experiments, self.runs, self.logged, self.models, self.visible = {}, {}, {}, [], set()
        for number in range(COUNT):
            name = f"{self.prefix}-{number:02}"
            experiment = ok("POST", f"{API}/experiments/create", {"name": name})["experiment_id"]
            self.experiments[name] = experiment
            created = ok("POST", f"{API}/runs/create", {"experiment_id": experiment, "start_time": number + 1})
            self.runs[experiment] = created["run"]["info"]["run_id"]
            created = ok("POST", f"{API}/logged-models", {"experiment_id": experiment, "name": "m"})
            self.logged[experiment] = created["model"]["info"]["model_id"]
            ok("POST", f"{API}/registered-models/create", {"name": name})
            ok("POST", f"{API}/model-versions/create", {
                "name": name, "source": f"models:/{self.logged[experiment]}", "model_id": self.logged[experiment]})
            self.models.append(name)
            if number % 2 == 0:
                self.visible.add(name)
                self.owner.grant(self.reader, "experiment", experiment, "READ")
                self.owner.grant(self.reader, "registered_model", name, "READ")

    def shown(self, names):
        return sorted(name for name in names if name in self.visible)


@pytest.fixture(scope="module")
def shelf(proxy):
    return Shelf(proxy)


def pages(ask, rows, key, token="next_page_token"):
    """Follows the page tokens; gives the keys of each page. Fails on a token that leads round in circles."""
    result, request_token = [], None
    while True:
        answer = ask(request_token)
        result.append([key(row) for row in answer.get(rows, [])])
        request_token = answer.get(token)
        if not request_token:
            return result
        assert len(result) < 40, "the tokens do not end"


def check_full(found, expected):
    assert len(expected) == COUNT // 2
    assert sorted(sum(found, [])) == sorted(expected)
    assert [len(page) for page in found] == [PAGE] * (len(expected) // PAGE), "full pages, and no token on the last"


def with_token(body, token):
    return body | ({"page_token": token} if token else {})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("order", [["name ASC"], ["name DESC"], []], ids=str)
def test_experiments(shelf, method, order):
    body = {"max_results": PAGE, "filter": f"name LIKE '{shelf.prefix}%'"} | ({"order_by": order} if order else {})

    def ask(token):
        more = {"json" if method == "POST" else "params": with_token(body, token)}
        return shelf.reader.ok(method, f"{API}/experiments/search", **more)

    found = pages(ask, "experiments", lambda row: row["name"])
    check_full(found, shelf.visible)
    if order:
        assert sum(found, []) == sorted(shelf.visible, reverse="DESC" in order[0])


def test_experiments_without_a_filter_show_no_more(shelf):
    found = pages(
        lambda token: shelf.reader.ok("POST", f"{API}/experiments/search", with_token({"max_results": PAGE}, token)),
        "experiments", lambda row: row["name"],
    )
    check_full(found, shelf.visible)


def test_the_owner_sees_all_and_strangers_none(proxy, shelf):
    body = {"max_results": 1000, "filter": f"name LIKE '{shelf.prefix}%'"}
    assert len(shelf.owner.ok("POST", f"{API}/experiments/search", body)["experiments"]) == COUNT
    stranger = proxy.person("stranger")
    for token in (None, "e30=", "eyJvZmZzZXQiOiAyfQ=="):
        answer = stranger.post(f"{API}/experiments/search", with_token({"max_results": PAGE}, token))
        assert answer.status_code in ((200,) if token is None else (200, 400))
        assert not answer.json().get("experiments") and not answer.json().get("next_page_token")


def test_an_exact_last_page_ends(shelf):
    """As many as fit on one page: no token, so no empty page after it."""
    body = {"max_results": COUNT // 2, "filter": f"name LIKE '{shelf.prefix}%'"}
    found = pages(lambda token: shelf.reader.ok("POST", f"{API}/experiments/search", with_token(body, token)),
                  "experiments", lambda row: row["name"])
    assert [len(page) for page in found] == [COUNT // 2]


def test_a_page_token_tells_and_gives_nothing(shelf, proxy):
    """Somebody else's token shows no more than one's own permissions, and says nothing of what is hidden."""
    body = {"max_results": PAGE, "filter": f"name LIKE '{shelf.prefix}%'", "order_by": ["name ASC"]}
    token = shelf.owner.ok("POST", f"{API}/experiments/search", body)["next_page_token"]
    answer = shelf.reader.post(f"{API}/experiments/search", with_token(body, token))
    assert answer.status_code in (200, 400)
    assert {row["name"] for row in answer.json().get("experiments", [])} <= shelf.visible
    stranger = proxy.person("stranger")
    answer = stranger.post(f"{API}/experiments/search", with_token(body, token))
    assert not answer.json().get("experiments")


def test_registered_models(shelf):
    params = {"max_results": PAGE, "filter": f"name LIKE '{shelf.prefix}%'"}
    found = pages(
        lambda token: shelf.reader.ok("GET", f"{API}/registered-models/search", params=with_token(params, token)),
        "registered_models", lambda row: row["name"],
    )
    check_full(found, shelf.visible)


def test_model_versions(shelf):
    params = {"max_results": PAGE, "filter": f"name LIKE '{shelf.prefix}%'"}
    found = pages(
        lambda token: shelf.reader.ok("GET", f"{API}/model-versions/search", params=with_token(params, token)),
        "model_versions", lambda row: row["name"],
    )
    check_full(found, shelf.visible)


def test_runs(shelf):
    body = {"max_results": PAGE, "experiment_ids": list(shelf.experiments.values())}
    found = pages(lambda token: shelf.reader.ok("POST", f"{API}/runs/search", with_token(body, token)),
                  "runs", lambda row: row["info"]["run_id"])
    expected = [shelf.runs[shelf.experiments[name]] for name in shelf.visible]
    check_full(trimmed(found), expected)


def test_runs_of_hidden_experiments_only(shelf):
    hidden = [experiment for name, experiment in shelf.experiments.items() if name not in shelf.visible]
    answer = shelf.reader.ok("POST", f"{API}/runs/search", {"experiment_ids": hidden})
    assert not answer.get("runs") and not answer.get("next_page_token")
    assert len(shelf.owner.ok("POST", f"{API}/runs/search", {"experiment_ids": hidden})["runs"]) == COUNT // 2


def test_runs_of_no_experiment(shelf):
    for body in ({}, {"experiment_ids": []}, {"filter": "params.x = '1'"}):
        answer = shelf.reader.post(f"{API}/runs/search", body)
        assert answer.status_code in (200, 400)
        assert not answer.json().get("runs")


def test_logged_models(shelf):
    body = {"max_results": PAGE, "experiment_ids": list(shelf.experiments.values())}
    found = pages(lambda token: shelf.reader.ok("POST", f"{API}/logged-models/search", with_token(body, token)),
                  "models", lambda row: row["info"]["model_id"])
    expected = [shelf.logged[shelf.experiments[name]] for name in shelf.visible]
    check_full(trimmed(found), expected)


def trimmed(found):
    """MLflow itself ends these lists with an empty page when the last one was full."""
    return found[:-1] if found and not found[-1] else found


def test_the_client_pages_through(shelf):
    with shelf.reader.mlflow() as client:
        page = client.search_experiments(max_results=4, filter_string=f"name LIKE '{shelf.prefix}%'")
        names = [experiment.name for experiment in page]
        while page.token:
            assert len(page) == 4
            page = client.search_experiments(
                max_results=4, filter_string=f"name LIKE '{shelf.prefix}%'", page_token=page.token
            )
            names += [experiment.name for experiment in page]
        assert len(page) == 3
        assert sorted(names) == sorted(shelf.visible)


def test_a_deny_hides_one(shelf, proxy):
    reader = proxy.person("reader")
    names = sorted(shelf.visible)[:3]
    for name in names:
        shelf.owner.grant(reader, "experiment", shelf.experiments[name], "READ")
    shelf.owner.grant(reader, "experiment", shelf.experiments[names[1]], "DENY")
    found = reader.ok("POST", f"{API}/experiments/search", {"max_results": 10})["experiments"]
    assert sorted(row["name"] for row in found) == [names[0], names[2]]


def test_everything_for_somebody_with_a_grant_on_all(shelf, proxy, admin):
    reader = proxy.person("reader")
    admin.ok("POST", "/api/3.0/mlflow/users/permissions/grant", {
        "username": reader.name, "resource_type": "experiment", "resource_id": "*", "permission": "READ"})
    body = {"max_results": 100, "filter": f"name LIKE '{shelf.prefix}%'"}
    assert len(reader.ok("POST", f"{API}/experiments/search", body)["experiments"]) == COUNT
    run = shelf.runs[shelf.experiments[shelf.models[1]]]
    assert reader.get(f"{API}/runs/get", {"run_id": run}).status_code == 200
    assert reader.post(f"{API}/runs/set-tag", {"run_id": run, "key": "k", "value": "v"}).status_code == 403
