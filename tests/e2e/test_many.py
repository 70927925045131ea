"""Ten thousand readable things of each kind: every list comes to its end, page by page, with and without a filter and an order.

MLflow's SQL parser stops at 10,000 tokens and its server at 64 KiB of request head. The rows and the grants are written
straight into both databases, which takes a second.
"""

import contextlib
import sqlite3

import pytest

from harness import unique

API, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
COUNT = 10_000
# Of every six rows the reader may read five.
ROWS = COUNT * 6 // 5
FIRST = 5_000_000


class Many:
    """The rows, and somebody who holds READ on five of every six of each kind."""

    def __init__(self, server, proxy):
        self.database, self.store = server.database, proxy.store
        self.tag = unique("many")
        self.reader = proxy.person("reader")
        self.home = proxy.admin().ok("POST", f"{API}/experiments/create", {"name": self.tag})["experiment_id"]
        self.rows = range(ROWS)
        self.shown = [number for number in self.rows if number % 6]
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as database, database:
            self.insert(database)
        with contextlib.closing(sqlite3.connect(self.store, timeout=60)) as store, store:
            self.subject = subject = store.execute("SELECT id FROM users WHERE name = ?", [self.reader.name]).fetchone()[0]
            grants = [("experiment", self.home)]
            for number in self.shown:
                grants += [
                    ("experiment", str(FIRST + number)), ("registered_model", self.model(number)),
                    ("prompt", self.prompt(number)), ("scorer", f"{self.home}/{self.tag}-{number}"),
                    ("gateway_secret", self.key("s", number)), ("gateway_endpoint", self.key("e", number)),
                    ("gateway_model_definition", self.key("d", number)), ("mcp_server", self.server(number)),
                ]
            store.executemany(
                "INSERT INTO grants (subject_kind, subject, kind, form, selector, permission)"
                " VALUES ('user', ?, ?, 'exact', ?, 'READ')",
                [(str(subject), kind, key) for kind, key in grants],
            )
            # As every change does: what is remembered of this person is forgotten.
            store.execute("UPDATE meta SET value = value + 1 WHERE name = 'revision'")

    def key(self, letter, number):
        return f"{letter}-{self.tag}-{number}"

    def model(self, number):
        return f"{self.tag}-{number:05}-".ljust(60, "x")

    def prompt(self, number):
        return f"{self.tag}-prompt-{number:05}"

    def server(self, number):
        return f"com.{self.tag}/server-{number:05}"

    def insert(self, database):
        def write(table, rows):
            rows = list(rows)
            names = ", ".join(rows[0])
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", [tuple(row.values()) for row in rows])

        times = {"creation_time": 1, "last_updated_time": 1}
        ats = {"created_at": 1, "last_updated_at": 1}
        write("experiments", ({"experiment_id": FIRST + n, "name": f"{self.tag}-{n:05}", "lifecycle_stage": "active",
                               "artifact_location": f"mlflow-artifacts:/{FIRST + n}", "creation_time": n} for n in self.rows))
        write("registered_models", ({"name": self.model(n)} | times for n in self.rows))
        write("registered_models", ({"name": self.prompt(n)} | times for n in self.rows))
        write("registered_model_tags", ({"name": self.prompt(n), "key": "mlflow.prompt.is_prompt", "value": "true"} for n in self.rows))
        for name in (self.model, self.prompt):
            write("model_versions", ({"name": name(n), "version": 1, "current_stage": "None", "source": "x", "status": "READY"}
                                     | times for n in self.rows))
        write("scorers", ({"experiment_id": self.home, "scorer_name": f"{self.tag}-{n}", "scorer_id": self.key("c", n)[-36:]}
                          for n in self.rows))
        write("scorer_versions", ({"scorer_id": self.key("c", n)[-36:], "scorer_version": 1, "serialized_scorer": "{}",
                                   "creation_time": 1} for n in self.rows))
        write("secrets", ({"secret_id": self.key("s", n), "secret_name": self.key("s", n), "encrypted_value": b"x",
                           "wrapped_dek": b"x", "kek_version": 1, "masked_value": '{"k": "v"}'} | ats for n in self.rows))
        write("endpoints", ({"endpoint_id": self.key("e", n), "name": self.key("e", n)} | ats for n in self.rows))
        write("model_definitions", ({"model_definition_id": self.key("d", n), "name": self.key("d", n), "provider": "openai",
                                     "model_name": "m"} | ats for n in self.rows))
        # MLflow lists endpoints with a model only.
        write("endpoint_model_mappings", ({"mapping_id": self.key("p", n), "endpoint_id": self.key("e", n), "weight": 1,
                                           "model_definition_id": self.key("d", n), "created_at": 1} for n in self.rows))
        write("mcp_servers", ({"name": self.server(n)} | ats for n in self.rows))

    def remove(self):
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as database, database:
            for table in ("model_versions", "registered_model_tags", "registered_models", "mcp_servers"):
                database.execute(f"DELETE FROM {table} WHERE name LIKE '%{self.tag}%'")
            for table, column in (("endpoint_model_mappings", "endpoint_id"), ("scorer_versions", "scorer_id"), ("scorers", "scorer_id"), ("secrets", "secret_id"),
                                  ("endpoints", "endpoint_id"), ("model_definitions", "model_definition_id")):
                database.execute(f"DELETE FROM {table} WHERE {column} LIKE '%{self.tag}%'")
            database.execute("DELETE FROM runs WHERE experiment_id >= ?", [FIRST])
            database.execute("DELETE FROM experiments WHERE experiment_id >= ?", [FIRST])
        with contextlib.closing(sqlite3.connect(self.store, timeout=60)) as store, store:
            store.execute("DELETE FROM grants WHERE subject = ? AND subject_kind = 'user'", [str(self.subject)])


@pytest.fixture(scope="module")
def many(mlflow_server, proxy):
    one = Many(mlflow_server, proxy)
    yield one
    one.remove()


def walk(ask, rows, key, token="next_page_token"):
    """Everything on all pages, in order; fails on a page of more than it may have."""
    found, pages, at = [], 0, None
    while True:
        answer = ask({"page_token": at} if at else {})
        found += [key(row) for row in answer.get(rows) or []]
        pages += 1
        at = answer.get(token)
        if not at:
            return found, pages
        assert pages < 60, "the tokens do not end"


@pytest.mark.parametrize("method, order, narrow", [("GET", None, False), ("POST", "name DESC", False), ("POST", None, True)])
def test_experiments(many, method, order, narrow):
    body = {"max_results": 1000} | ({"order_by": [order]} if order else {})
    if narrow:
        body["filter"] = f"name LIKE '{many.tag}-0%'"
    more = "json" if method == "POST" else "params"
    found, pages = walk(lambda at: many.reader.ok(method, f"{API}/experiments/search", **{more: body | at}),
                        "experiments", lambda row: row["name"])
    expected = [f"{many.tag}-{n:05}" for n in many.shown if not narrow or n < 10_000]
    own = {many.tag} if not narrow else set()
    assert set(found) == set(expected) | own and len(found) == len(expected) + len(own)
    assert pages <= len(found) // 1000 + 1, "full pages"
    if order:
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("kind, order, narrow", [("model", None, False), ("model", "name DESC", True), ("prompt", None, True)])
def test_registered_models(many, kind, order, narrow):
    params = {"max_results": 1000} | ({"order_by": [order]} if order else {})
    conditions = ["tags.`mlflow.prompt.is_prompt` = 'true'"] if kind == "prompt" else []
    conditions += [f"name LIKE '{many.tag}%'"] if narrow else []
    if conditions:
        params["filter"] = " AND ".join(conditions)
    found, pages = walk(lambda at: many.reader.ok("GET", f"{API}/registered-models/search", params=params | at),
                        "registered_models", lambda row: row["name"])
    expected = [getattr(many, kind)(n) for n in many.shown]
    assert sorted(found) == expected and pages <= COUNT // 1000 + 1
    if order:
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("rows, order", [(None, "name DESC")])
def test_model_versions(many, order, rows):
    params = {"filter": f"name LIKE '{many.tag}%'"} | ({"max_results": rows} if rows else {})
    params |= {"order_by": [order]} if order else {}
    found, _ = walk(lambda at: many.reader.ok("GET", f"{API}/model-versions/search", params=params | at),
                    "model_versions", lambda row: row["name"])
    assert sorted(found) == sorted([many.model(n) for n in many.shown] + [many.prompt(n) for n in many.shown])
    if order:
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("path, rows, key, name", [
    (f"{V3}/scorers/list", "scorers", "scorer_name", lambda many, n: f"{many.tag}-{n}"),
    (f"{V3}/gateway/secrets/list", "secrets", "secret_id", lambda many, n: many.key("s", n)),
    (f"{V3}/gateway/endpoints/list", "endpoints", "endpoint_id", lambda many, n: many.key("e", n)),
    (f"{V3}/gateway/model-definitions/list", "model_definitions", "model_definition_id", lambda many, n: many.key("d", n)),
])
def test_lists_that_come_whole(many, path, rows, key, name):
    found = [row[key] for row in many.reader.ok("GET", path)[rows]]
    assert sorted(found) == sorted(name(many, n) for n in many.shown)


def test_mcp_servers(many):
    found, _ = walk(lambda at: many.reader.ok("GET", f"{V3}/mcp-servers", params={"max_results": 1000} | at),
                    "mcp_servers", lambda row: row["name"])
    assert sorted(found) == [many.server(n) for n in many.shown]


def test_searches_in_every_readable_experiment(many):
    """Clients name all that they found: ten thousand experiments in one request, some hidden ones among them."""
    ids = [str(FIRST + n) for n in many.rows]
    run = many.reader.front.admin().ok("POST", f"{API}/runs/create", {"experiment_id": str(FIRST + 1), "start_time": 1})
    assert [row["info"]["run_id"] for row in many.reader.ok("POST", f"{API}/runs/search", {"experiment_ids": ids})["runs"]] == [
        run["run"]["info"]["run_id"]]
    assert not many.reader.ok("POST", f"{API}/logged-models/search", {"experiment_ids": ids}).get("models")
    readable = [str(FIRST + n) for n in many.shown]
    assert not many.reader.ok("POST", f"{V3}/datasets/search", {"experiment_ids": readable}).get("datasets")
    assert many.reader.post(f"{V3}/datasets/search", {"experiment_ids": ids}).status_code == 403
