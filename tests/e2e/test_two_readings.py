"""Requests that a checker and a doer could read differently.

Bob has things of his own and nothing on Alice's. Whatever he sends, what happens is what he was allowed: hers never
changes and never shows.
"""

import http.client
import json

import pytest

from harness import World, basic

API, API3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def sides(proxy):
    return World.make(proxy.person("alice")), World.make(proxy.person("bob"))


def raw(proxy, person, method, path, body=b"", content_type="application/json"):
    """Sends exactly these bytes; `requests` would tidy the path."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    headers = {"Authorization": basic(person.name, person.password)}
    if body:
        headers["Content-Type"] = content_type
    connection.request(method, path, body=body or None, headers=headers)
    answer = connection.getresponse()
    status, text = answer.status, answer.read().decode(errors="replace")
    connection.close()
    return status, text


def dump(value):
    return json.dumps(value).encode()


# method, path, body, content type; `t` is what is not his, `m` what is his.
TRICKS = {
    "delete: his in the query, hers in the body":
        lambda t, m: ("DELETE", f"{API}/registered-models/delete?name={m.model}", dump({"name": t.model}), "text/plain"),
    "delete a tag: his in the query, hers in the body":
        lambda t, m: ("DELETE", f"{API}/registered-models/delete-tag?name={m.model}&key=tag",
                      dump({"name": t.model, "key": "tag"}), "application/octet-stream"),
    "upload: two names of the run":
        lambda t, m: ("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_id={m.run}&run_uuid={t.run}&path=x.txt", b"x",
                      "application/octet-stream"),
    "upload: the same names the other way round":
        lambda t, m: ("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={t.run}&run_id={m.run}&path=x.txt", b"x",
                      "application/octet-stream"),
    "run twice in the query":
        lambda t, m: ("GET", f"{API}/runs/get?run_id={m.run}&run_id={t.run}", b"", ""),
    "run twice in the query, hers first":
        lambda t, m: ("GET", f"{API}/runs/get?run_id={t.run}&run_id={m.run}", b"", ""),
    "run_id and run_uuid":
        lambda t, m: ("GET", f"{API}/runs/get?run_id={m.run}&run_uuid={t.run}", b"", ""),
    "the body of a GET":
        lambda t, m: ("GET", f"{API}/runs/get", dump({"run_id": t.run}), "application/json"),
    "the body of a GET beside a query":
        lambda t, m: ("GET", f"{API}/runs/get?run_id={m.run}", dump({"run_id": t.run}), "application/json"),
    "the body of a listing":
        lambda t, m: ("GET", ARTIFACTS, dump({"path": f"{t.experiment}/{t.run}/artifacts"}), "application/json"),
    "a listing of the root":
        lambda t, m: ("GET", ARTIFACTS, b"", ""),
    "a listing of an empty path":
        lambda t, m: ("GET", f"{ARTIFACTS}?path=", b"", ""),
    "the same key twice":
        lambda t, m: ("POST", f"{API}/runs/set-tag",
                      b'{"run_id":"%s","run_id":"%s","key":"k","value":"v"}' % (m.run.encode(), t.run.encode()),
                      "application/json"),
    "the same key, once escaped":
        lambda t, m: ("POST", f"{API}/runs/set-tag",
                      b'{"run_id":"%s","run\\u005fid":"%s","key":"k","value":"v"}' % (m.run.encode(), t.run.encode()),
                      "application/json"),
    "both spellings of a field":
        lambda t, m: ("POST", f"{API}/runs/set-tag", dump({"run_id": m.run, "runId": t.run, "key": "k", "value": "v"}),
                      "application/json"),
    "both names of a field":
        lambda t, m: ("POST", f"{API}/runs/set-tag", dump({"run_id": m.run, "run_uuid": t.run, "key": "k", "value": "v"}),
                      "application/json"),
    "the other spelling alone":
        lambda t, m: ("POST", f"{API}/runs/log-parameter", dump({"runId": t.run, "run_id": m.run, "key": "k", "value": "v"}),
                      "application/json"),
    "another encoding":
        lambda t, m: ("POST", f"{API}/runs/set-tag",
                      json.dumps({"run_id": t.run, "key": "k", "value": "v"}).encode("utf-16"), "application/json"),
    "JSON in a JSON string":
        lambda t, m: ("POST", f"{API}/runs/set-tag", dump(json.dumps({"run_id": t.run, "key": "k", "value": "v"})),
                      "application/json"),
    "a key in brackets before the rest":
        lambda t, m: ("POST", f"{API}/runs/search", b'{"[x]":1,"experiment_ids":["%s"]}' % t.experiment.encode(),
                      "application/json"),
    # MLflow keeps what stands before a field that it cannot read, and searches everything when no experiment is left.
    "a field that cannot be read before a search's experiment":
        lambda t, m: ("POST", f"{API3}/issues/search", b'{"filter_string":5,"experiment_id":"%s"}' % m.experiment.encode(),
                      "application/json"),
    "a field that cannot be read before a search's experiments":
        lambda t, m: ("POST", f"{API3}/datasets/search", b'{"order_by":[1],"experiment_ids":["%s"]}' % m.experiment.encode(),
                      "application/json"),
    "the same in the other spelling":
        lambda t, m: ("POST", f"{API3}/datasets/search", b'{"orderBy":[1],"experimentIds":["%s"]}' % m.experiment.encode(),
                      "application/json"),
    "another content type":
        lambda t, m: ("PATCH", f"{API}/registered-models/update", dump({"name": t.model, "description": "x"}), "text/plain"),
    "the id in the path and another in the body":
        lambda t, m: ("PATCH", f"{API}/logged-models/{m.logged_model}",
                      dump({"model_id": t.logged_model, "status": "LOGGED_MODEL_READY"}), "application/json"),
    "the id in the path and another in the body's other spelling":
        lambda t, m: ("PATCH", f"{API}/logged-models/{m.logged_model}",
                      dump({"model_id": m.logged_model, "modelId": t.logged_model, "status": "LOGGED_MODEL_READY"}),
                      "application/json"),
    "a path through his":
        lambda t, m: ("GET", f"{ARTIFACTS}/{m.experiment}/../{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "the same encoded":
        lambda t, m: ("GET", f"{ARTIFACTS}/{m.experiment}/%2e%2e/{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "the same encoded twice":
        lambda t, m: ("GET", f"{ARTIFACTS}/{m.experiment}/%252e%252e/{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "a dot before the id":
        lambda t, m: ("GET", f"{ARTIFACTS}/./{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "an encoded dot before the id":
        lambda t, m: ("GET", f"{ARTIFACTS}/%252e/{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "an encoded slash":
        lambda t, m: ("GET", f"{ARTIFACTS}/{m.experiment}%2f..%2f{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "two slashes":
        lambda t, m: ("GET", f"{ARTIFACTS}//{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "a path in a listing":
        lambda t, m: ("GET", f"{ARTIFACTS}?path={m.experiment}/../{t.experiment}", b"", ""),
    "an artifact of a run, out of its folder":
        lambda t, m: ("GET", f"/get-artifact?run_id={m.run}&path=../../../{t.experiment}/{t.run}/artifacts/folder/file.txt", b"", ""),
    "a leading double slash":
        lambda t, m: ("GET", f"//api/2.0/mlflow/runs/get?run_id={t.run}", b"", ""),
    "an encoded route":
        lambda t, m: ("GET", f"/%61pi/2.0/mlflow/runs/get?run_id={t.run}", b"", ""),
    "an encoded slash in the route":
        lambda t, m: ("GET", f"/api/2.0/mlflow/runs%2fget?run_id={t.run}", b"", ""),
    "a parameter on the path":
        lambda t, m: ("GET", f"{API}/runs/get;x=1?run_id={t.run}", b"", ""),
    "a trailing slash":
        lambda t, m: ("GET", f"{API}/runs/get/?run_id={t.run}", b"", ""),
    "HEAD with a body":
        lambda t, m: ("HEAD", f"{API}/runs/get?run_id={m.run}", dump({"run_id": t.run}), "application/json"),
    "a proxied address":
        lambda t, m: ("GET", f"{ARTIFACTS}/http:%2f%2f127.0.0.1/{t.experiment}", b"", ""),
}
TRICKS |= {
    f"the experiment's id written as {form!r}": (lambda form: lambda t, m: (
        "POST", f"{API}/runs/search", dump({"experiment_ids": [form.format(t.experiment)]}), "application/json"))(form)
    for form in ("0{}", " {}", "{} ", "+{}", "{}\n", "\u00a0{}")
}
TRICKS |= {
    f"GET with the id written as {form!r}": (lambda form: lambda t, m: (
        "GET", f"{API}/experiments/get?experiment_id={form.format(t.experiment)}", b"", ""))(form)
    for form in ("0{}", "%20{}", "{}%20", "%2B{}", "{}%0a")
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_a_trick_reaches_nothing(proxy, mlflow_server, sides, trick):
    theirs, mine = sides
    method, path, body, content_type = trick(theirs, mine)
    before = mlflow_server.state()
    status, text = raw(proxy, mine.owner, method, path, body, content_type)
    after = mlflow_server.state()
    assert status < 500, f"{status} {text}"
    if status == 200:
        # Answered about his own, then: nothing of hers is in it.
        for word in (theirs.experiment_name, theirs.run, theirs.logged_model, theirs.model):
            assert word not in text
        assert f"{theirs.experiment}/" not in text
        assert '"is_dir"' not in text
    else:
        assert status in (308, 400, 403, 404, 405), f"{status} {text}"
    changed = [line for line in (set(map(str, after["artifacts"])) ^ set(map(str, before["artifacts"])))]
    assert not [line for line in changed if theirs.run in line]
    for table in before.keys() - {"artifacts"}:
        for row in set(before[table]) ^ set(after[table]):
            for word in (theirs.run, theirs.logged_model, theirs.model):
                assert word not in row, f"{table}: {row}"


def test_the_tricks_would_have_something_to_find(proxy, sides):
    """The same requests, sent plainly by the owner, do reach it."""
    theirs, _ = sides
    for path in (f"{API}/runs/get?run_id={theirs.run}", f"{ARTIFACTS}/{theirs.files[0]}",
                 f"{API}/experiments/get?experiment_id={theirs.experiment}",
                 f"{ARTIFACTS}?path={theirs.experiment}/{theirs.run}/artifacts"):
        status, text = raw(proxy, theirs.owner, "GET", path)
        assert status == 200, f"{path}: {status} {text}"
    assert raw(proxy, theirs.owner, "POST", f"{API}/runs/search", dump({"experiment_ids": [theirs.experiment]}))[0] == 200


def test_the_body_of_a_get_is_read_as_mlflow_reads_it(proxy, sides):
    """mlflow-export-import names things in a JSON body; MLflow reads it where there is no query."""
    theirs, mine = sides
    named = {
        "runs/get": {"run_id": mine.run},
        "experiments/get": {"experiment_id": mine.experiment},
        "experiments/get-by-name": {"experiment_name": mine.experiment_name},
        "registered-models/get": {"name": mine.model},
        "experiments/search": {"max_results": 5},
    }
    for path, body in named.items():
        status, text = raw(proxy, mine.owner, "GET", f"{API}/{path}", dump(body))
        assert status == 200, f"{path}: {status} {text}"
        expected = mine.experiment_name if path == "experiments/search" else next(iter(body.values()))
        assert expected in text, f"{path}: {text}"
        # MLflow does not look at the Content-Type of a GET.
        assert raw(proxy, mine.owner, "GET", f"{API}/{path}", dump(body), "text/plain")[0] == 200
    status, text = raw(proxy, mine.owner, "GET", f"{API}/runs/get?run_id={mine.run}", dump({"run_id": theirs.run}))
    assert (status, mine.run in text, theirs.run in text) == (200, True, False)


def test_an_id_spelled_otherwise_evades_no_deny(proxy, admin, alice, bob):
    """Somebody with READ on everything and DENY on one does not reach that one by another spelling."""
    world = World.make(alice)
    for key, permission in (("*", "READ"), (world.experiment, "DENY")):
        admin.ok("POST", "/api/3.0/mlflow/users/permissions/grant", {
            "username": bob.name, "resource_type": "experiment", "resource_id": key, "permission": permission})
    for form in ("{}", "0{}", "%20{}", "{}%20", "%2B{}", "{}%0a", "%D9%A0{}"):
        status, text = raw(proxy, bob, "GET", f"{API}/experiments/get?experiment_id={form.format(world.experiment)}")
        assert status in (400, 403, 404), f"{form}: {status} {text}"
    for form in ("./{}", "{}/.", "%252e/{}", "%2e/{}", "0{}"):
        status, text = raw(proxy, bob, "GET", f"{ARTIFACTS}?path={form.format(world.experiment)}/{world.run}/artifacts")
        assert status in (400, 403, 404) or (status == 200 and "is_dir" not in text), f"{form}: {status} {text}"


def test_headers_of_the_client_do_not_make_somebody_else_of_them(proxy, sides):
    theirs, mine = sides
    headers = {
        "X-Forwarded-User": "admin", "X-Remote-User": "admin", "Remote-User": "admin", "X-Forwarded-Email": "admin",
        "X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "X-Rewrite-URL": "/health",
        "X-HTTP-Method-Override": "GET", "X-MLFLOW-WORKSPACE": "other", "Cookie": "mlflow-request-header-Authorization=x",
    }
    for name, value in headers.items():
        got = mine.owner.get(f"{API}/runs/get", {"run_id": theirs.run}, headers={name: value})
        assert got.status_code in (400, 403), f"{name}: {got.status_code}"
        who = mine.owner.get(f"{API}/users/current", headers={name: value})
        assert who.status_code == 400 or who.json()["user"] == mine.owner.ok("GET", f"{API}/users/current")["user"], name


def test_a_page_of_another_site_changes_nothing(proxy, alice, mlflow_server):
    before = mlflow_server.state()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = alice.post(f"{API}/experiments/create", {"name": "cross-site"}, headers=headers)
        assert answer.status_code == 403, f"{headers}: {answer.status_code} {answer.text}"
    assert mlflow_server.state() == before
    # Its own page may.
    own = alice.post(f"{API}/experiments/search", {"max_results": 1}, headers={"Origin": proxy.url})
    assert own.status_code == 200
