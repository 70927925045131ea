"""Every name that MLflow stores and returns works through the proxy, in every route that carries a path."""

import http.client
import tempfile
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from harness import check_refused, unique

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"

# What MLflow 3.17.2 takes between two letters. A tab and a carriage return it drops; other control characters it writes
# as `%01`, for itself as for a client that asks for the file of that name.
CHARACTERS = [*"\x01\t\r\x1f\x7f !\"$%&'()*+,:;<=>?@[\\]^`{|}~\x85\xa0\u200b\u2028\u202e\ufeff\u00e9\U0001f600"]
NAMES = [f"a{character}b.txt" for character in CHARACTERS] + [
    "e\u0301", "..a", "a..", "...", "~", "C:", "file:x", "http:x", "a%", "%zz", "a;", "a;;", "a;b;c", "a?", "a?b?", "a\\", "\\..\\x",
    " lead", "trail ", "a;b\\c?d e\tf", "%41", "a%00b", "100%fat",
]


class Plain:
    """Requests whose path is sent as it is written."""

    def __init__(self, url, authorization=None):
        self.at, self.headers = urlsplit(url), {"Authorization": authorization} if authorization else {}

    def __call__(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.at.hostname, self.at.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def place(proxy, mlflow_server):
    owner, stranger = proxy.person("owner"), proxy.person("stranger")
    experiment = owner.ok("POST", f"{API}/experiments/create", {"name": unique("names")})["experiment_id"]
    run = owner.ok("POST", f"{API}/runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
    through, direct = Plain(proxy.url, owner.session.headers["Authorization"]), Plain(mlflow_server.url)
    return owner, stranger, f"{experiment}/{run}/artifacts", run, through, direct


def spellings(path):
    """How clients write a path: encoded whole, as Python's `requests` sends it, encoded twice where it holds no `%`."""
    found = [quote(path, safe="/"), quote(path, safe="/;:@!$&'()*+,=~")]
    return found + ([quote(quote(path, safe="/"), safe="/")] if "%" not in path and "\t" not in path and "\r" not in path else [])


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_works_as_without_the_proxy(place, name):
    owner, stranger, root, run, through, direct = place
    # Beside each other, so that both see the same.
    number = NAMES.index(name)
    there, here = f"{root}/direct-{number}", f"{root}/through-{number}"
    content = name.encode()
    for ask, folder in ((direct, there), (through, here)):
        assert ask("PUT", f"{FILES}/{quote(folder)}/{quote(name, safe='')}", content)[0] == 200
    for spelling in spellings(f"{here}/{name}"):
        assert through("GET", f"{FILES}/{spelling}") == (200, content), spelling
        # Whoever may not read is refused whatever it is called.
        status, _ = Plain(owner.url, stranger.session.headers["Authorization"])("GET", f"{FILES}/{spelling}")
        assert status == 403
    # Listed the same, and what is listed can be fetched.
    listed = [ask("GET", f"{FILES}?path={quote(folder, safe='')}") for ask, folder in ((direct, there), (through, here))]
    assert listed[0] == listed[1] and listed[0][0] == 200
    names = [file["path"] for file in owner.ok("GET", FILES, params={"path": here})["files"]]
    assert len(names) == 1
    for ask, folder in ((direct, there), (through, here)):
        assert ask("GET", f"{FILES}/{quote(folder)}/{quote(names[0], safe='')}") == (200, content)
    # As a folder.
    for ask, folder in ((direct, there), (through, here)):
        assert ask("PUT", f"{FILES}/{quote(folder)}/in/{quote(name, safe='')}/file", b"x")[0] == 200
    listed = [ask("GET", f"{FILES}?path={quote(f'{folder}/in/{name}', safe='')}") for ask, folder in ((direct, there), (through, here))]
    assert listed[0] == listed[1] and listed[0][0] == 200
    # By the run.
    inside = here.removeprefix(f"{root}/")
    for path, key in ((f"/get-artifact?run_id={run}&path=", None), (f"{API}/artifacts/list?run_id={run}&path=", "files")):
        asked = path + quote(f"{inside}/{names[0]}" if key is None else inside, safe="")
        assert through("GET", asked) == direct("GET", asked)
    assert through("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_id={run}&path={quote(f'{inside}/up/{name}', safe='')}", b"up") == direct(
        "POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_id={run}&path={quote(f'{inside}/up/{name}', safe='')}", b"up")
    # MLflow does not delete a file that it calls `%01`.
    left = []
    for ask, folder in ((direct, there), (through, here)):
        assert ask("DELETE", f"{FILES}/{quote(folder)}/{quote(names[0], safe='')}")[0] == 200
        left.append(ask("GET", f"{FILES}/{quote(folder)}/{quote(names[0], safe='')}")[0])
    assert left[0] == left[1]


@pytest.mark.parametrize("spelling", [
    "a%0Ab", "a%250Ab", "a%23b", "a%2523b", "a//b", "a/./b", "a/../b", "a/%2e%2e/b", "a/%252e%252e/b", "a%2fb",
    "%2e%2e;", ".%09./b", "..%3B",
])
def test_a_name_with_two_readings_is_refused(place, spelling):
    _, _, root, _, through, _ = place
    for method, body in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
        assert through(method, f"{FILES}/{root}/{spelling}", body)[0] == 400, spelling


def test_the_client_logs_lists_and_downloads_odd_names(place, proxy):
    owner, *_ = place
    import mlflow

    odd = ["a;b.txt", "a\\b.txt", "tab\tname.txt", "per%cent.txt", "sp ace.txt", "plus+.txt", "\u00e9.txt", "amp&.txt", "q'uote.txt"]
    with owner.mlflow() as client, tempfile.TemporaryDirectory() as folder:
        experiment = client.create_experiment(unique("odd"))
        run = client.create_run(experiment).info.run_id
        for name in odd:
            path = Path(folder) / name
            path.write_text(name)
            client.log_artifact(run, str(path), "run;1")
        whole = Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="run;1", dst_path=tempfile.mkdtemp(dir=folder)))
        assert sorted(path.read_text() for path in whole.iterdir()) == sorted(odd)
        for file in client.list_artifacts(run, "run;1"):
            assert Path(client.download_artifacts(run, file.path, tempfile.mkdtemp(dir=folder))).is_file()
    check_refused(proxy.person("other").get(FILES, {"path": f"{experiment}/{run}/artifacts/run;1"}))
