"""The real client in everyday use: concurrent runs, prompts of the registry, models as code, plain downloads."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import requests

from harness import World, big_file, plain_environment, unique


def test_several_processes_and_threads_log_at_the_same_time(alice, proxy):
    token = alice.with_token(alice.token()["token"])
    with alice.mlflow() as client:
        experiment = client.create_experiment(unique("busy"))
    script = Path(__file__).parent / "several.py"
    children = [
        subprocess.Popen(
            [sys.executable, script, experiment, str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=plain_environment(**(token if number % 2 else alice).client_environment()),
        )
        for number in range(3)
    ]
    runs = []
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        runs += json.loads(out.splitlines()[-1])
    assert len(set(runs)) == 6
    with alice.mlflow() as client:
        assert {run.info.run_id for run in client.search_runs([experiment])} == set(runs)
        for run in runs:
            history = client.get_metric_history(run, "step")
            assert [metric.value for metric in history] == list(range(10))
            who = client.get_run(run).data.params["who"]
            assert mlflow.artifacts.load_text(f"runs:/{run}/who.txt") == who


def test_many_people_at_once_get_their_own_answers(proxy):
    """No answer, and no cached identity, ever goes to another person."""
    worlds = [World.make(proxy.person("many")) for _ in range(4)]

    def ask(number):
        mine, theirs = worlds[number % 4], worlds[(number + 1) % 4]
        search = mine.owner.ok("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 10})
        assert [e["experiment_id"] for e in search["experiments"]] == [mine.experiment]
        # A session of its own: requests' is not made for threads.
        run = requests.get(f"{proxy.url}/api/2.0/mlflow/runs/get", {"run_id": theirs.run},
                           auth=(mine.owner.name, mine.owner.password), timeout=30)
        assert run.status_code == 403
        return number

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ask, range(40))) == list(range(40))


def test_set_experiment_makes_a_new_one_for_an_ordinary_user(alice, bob):
    """It asks for the name first: what does not exist must be "not found", or nobody could create anything."""
    name = unique("new")
    with alice.mlflow() as client:
        assert client.get_experiment_by_name(name) is None
        experiment = mlflow.set_experiment(name)
        with mlflow.start_run() as run:
            mlflow.log_param("p", 1)
        assert run.info.experiment_id == experiment.experiment_id
        assert mlflow.set_experiment(name).experiment_id == experiment.experiment_id
    with bob.mlflow() as client:
        assert client.search_experiments() == []


def test_a_python_function_is_logged_registered_and_loaded(alice):
    name = unique("function")

    class Double(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input):
            return [2 * value for value in model_input]

    with alice.mlflow() as client:
        mlflow.set_experiment(unique("functions"))
        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="double", python_model=Double(), registered_model_name=name, pip_requirements=["mlflow"]
            )
        client.set_registered_model_alias(name, "best", "1")
        client.set_model_version_tag(name, "1", "stage", "test")
        assert mlflow.pyfunc.load_model(f"models:/{name}@best").predict([1, 2]) == [2, 4]
        assert client.get_model_version_by_alias(name, "best").tags == {"stage": "test"}
        # A copy of a version needs READ there and EDIT here; the owner has both.
        copy = client.copy_model_version(f"models:/{name}/1", unique("copy"))
        assert mlflow.pyfunc.load_model(f"models:/{copy.name}/1").predict([3]) == [6]


def test_a_version_copied_from_another_needs_read_there(alice, bob, world):
    with bob.mlflow() as client:
        with pytest.raises(mlflow.MlflowException) as raised:
            client.copy_model_version(f"models:/{world.model}/1", unique("stolen"))
        # The client wraps the refusal in words of its own.
        assert "Permission denied" in str(raised.value), raised.value
    assert bob.ok("GET", "/api/2.0/mlflow/model-versions/search") == {}


def test_data_sets_and_models_as_inputs(alice):
    import pandas

    with alice.mlflow() as client:
        mlflow.set_experiment(unique("inputs"))
        data = mlflow.data.from_pandas(pandas.DataFrame({"x": [1.0, 2.0]}), name="numbers")
        with mlflow.start_run() as run:
            mlflow.log_input(data, context="training")
            mlflow.log_figure(figure(), "plot.png")
        inputs = client.get_run(run.info.run_id).inputs.dataset_inputs
        assert [entry.dataset.name for entry in inputs] == ["numbers"]


def figure():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.figure()


def test_downloads_keep_their_headers_and_ranges(alice, world):
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.files[0]}"
    whole = alice.get(path)
    assert whole.status_code == 200
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert 'filename="file.txt"' in whole.headers["Content-Disposition"] or "file.txt" in whole.headers["Content-Disposition"]
    assert whole.content == f"{World.SECRET} {world.files[0]}".encode()


def test_a_chunked_upload_streams(alice, world):
    """Clients that do not know the length send chunks."""
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.experiment}/{world.run}/artifacts/chunked.bin"
    parts = [bytes([number]) * 70_000 for number in range(20)]
    put = alice.call("PUT", path, data=iter(parts))
    assert put.status_code == 200, put.text
    assert alice.get(path).content == b"".join(parts)


def test_a_refused_upload_is_not_read_to_its_end(bob, mlflow_server, world, tmp_path):
    """403 comes before the body is through, and MLflow sees none of it."""
    big_file(tmp_path / "big.bin", 64)
    before = mlflow_server.state()
    path = f"/api/2.0/mlflow-artifacts/artifacts/{world.experiment}/{world.run}/artifacts/big.bin"
    with open(tmp_path / "big.bin", "rb") as file:
        try:
            assert bob.call("PUT", path, data=file).status_code == 403
        except requests.ConnectionError:
            pass  # the proxy closed before the body was through
    assert mlflow_server.state() == before


def test_the_web_ui_is_served(alice, proxy):
    page = alice.get("/")
    assert page.status_code == 200
    assert "<html" in page.text
    script = page.text.split('src="')[1].split('"')[0].lstrip("./")
    assert proxy.anonymous().get("/" + script).status_code == 200
    assert proxy.anonymous().get("/health").text == "OK"
    assert alice.get("/version").text == "3.17.2"
    assert proxy.anonymous().get("/api/3.0/mlflow/server-info").status_code == 200
