"""Every tracking, registry, logged-model and artifact endpoint, with a request that works for whoever may send it.

Written by hand from MLflow's documentation, not from the proxy's route table: `test_matrix.py` compares the two.
"""

from dataclasses import dataclass
from typing import Callable

READ, USE, EDIT, MANAGE = "READ", "USE", "EDIT", "MANAGE"


@dataclass(frozen=True)
class Endpoint:
    needs: str
    method: str
    route: str
    """The path with the world's names in braces."""
    send: Callable = lambda w: {}
    """What goes with it: `params`, `json` or `data`."""
    ok: tuple = (200,)
    """MLflow's answers to somebody who may; 501 where a local artifact folder cannot do it."""
    spoils: bool = False
    """Deletes or renames what the other endpoints need."""
    before: Callable = lambda w: None
    """What the owner does first."""

    def __str__(self):
        return f"{self.method} {self.route}"

    def path(self, world):
        artifact = f"{world.experiment}/{world.run}/artifacts/folder/file.txt"
        return self.route.format(
            model_id=world.logged_model, tag_key="tag",
            artifact_path=artifact if self.method != "PUT" else artifact + ".new", **world.names
        )

    def paths(self, world):
        """The path and its twin for the web UI."""
        path = self.path(world)
        return [path, path.replace("/api/", "/ajax-api/", 1)] if path.startswith("/api/") else [path]

    def request(self, world, who, path=None):
        return who.call(self.method, path or self.path(world), **self.send(world))


API = "/api/2.0/mlflow"


def query(**of):
    return lambda w: {"params": {key: value(w) if callable(value) else value for key, value in of.items()}}


def body(**of):
    return lambda w: {"json": {key: value(w) if callable(value) else value for key, value in of.items()}}


def experiment(w):
    return w.experiment


def run(w):
    return w.run


def model(w):
    return w.model


def version(w):
    return w.version


def logged(w):
    return w.logged_model


def input_models(w):
    return [{"model_id": w.logged_model}]


def output_models(w):
    return [{"model_id": w.logged_model, "step": 1}]


def a_dataset(w):
    dataset = {"name": "data", "digest": "d1", "source_type": "local", "source": "{}"}
    return [{"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "train"}]}]


def a_metric(w):
    return [{"key": "metric", "value": 1.5, "timestamp": 2, "step": 1, "model_id": w.logged_model}]


MODEL_JSON = '{"artifact_path": "folder", "run_id": "%s", "utc_time_created": "2026-01-01 00:00:00", "flavors": {}}'
NOT_HERE = (501, 400)  # a local artifact folder has no multipart uploads and no presigned URLs


ENDPOINTS = [
    # experiments
    Endpoint(READ, "GET", f"{API}/experiments/get", query(experiment_id=experiment)),
    Endpoint(READ, "GET", f"{API}/experiments/get-by-name", query(experiment_name=lambda w: w.experiment_name)),
    Endpoint(EDIT, "POST", f"{API}/experiments/update",
             body(experiment_id=experiment, new_name=lambda w: w.experiment_name + "-new"), spoils=True),
    Endpoint(EDIT, "POST", f"{API}/experiments/set-experiment-tag", body(experiment_id=experiment, key="k", value="v")),
    Endpoint(EDIT, "POST", f"{API}/experiments/delete-experiment-tag", body(experiment_id=experiment, key="tag"), spoils=True),
    Endpoint(MANAGE, "POST", f"{API}/experiments/delete", body(experiment_id=experiment), spoils=True),
    Endpoint(MANAGE, "POST", f"{API}/experiments/restore", body(experiment_id=lambda w: w.deleted_experiment), spoils=True,
             before=lambda w: w.with_deleted_experiment()),
    # runs
    Endpoint(EDIT, "POST", f"{API}/runs/create", body(experiment_id=experiment, start_time=1)),
    Endpoint(READ, "GET", f"{API}/runs/get", query(run_id=run)),
    Endpoint(EDIT, "POST", f"{API}/runs/update", body(run_id=run, status="FINISHED", end_time=2)),
    Endpoint(MANAGE, "POST", f"{API}/runs/delete", body(run_id=run), spoils=True),
    Endpoint(MANAGE, "POST", f"{API}/runs/restore", body(run_id=lambda w: w.deleted_run), spoils=True),
    Endpoint(EDIT, "POST", f"{API}/runs/log-metric", body(run_id=run, key="metric", value=1.0, timestamp=3, step=2)),
    Endpoint(EDIT, "POST", f"{API}/runs/log-parameter", body(run_id=run, key="another", value="v")),
    Endpoint(EDIT, "POST", f"{API}/runs/set-tag", body(run_id=run, key="k", value="v")),
    Endpoint(EDIT, "POST", f"{API}/runs/delete-tag", body(run_id=run, key="tag"), spoils=True),
    Endpoint(EDIT, "POST", f"{API}/runs/log-batch",
             body(run_id=run, metrics=a_metric, params=[{"key": "p", "value": "1"}], tags=[{"key": "t", "value": "1"}])),
    Endpoint(EDIT, "POST", f"{API}/runs/log-model", body(run_id=run, model_json=lambda w: MODEL_JSON % w.run)),
    Endpoint(EDIT, "POST", f"{API}/runs/log-inputs", body(run_id=run, datasets=a_dataset, models=input_models)),
    Endpoint(EDIT, "POST", f"{API}/runs/outputs", body(run_id=run, models=output_models)),
    # metrics
    Endpoint(READ, "GET", f"{API}/metrics/get-history", query(run_id=run, metric_key="metric")),
    Endpoint(READ, "GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk", query(run_id=run, metric_key="metric")),
    Endpoint(READ, "GET", f"{API}/metrics/get-history-bulk-interval", query(run_ids=run, metric_key="metric", max_results=10)),
    # artifacts of runs
    Endpoint(READ, "GET", f"{API}/artifacts/list", query(run_id=run)),
    Endpoint(READ, "GET", "/get-artifact", query(run_id=run, path="folder/file.txt")),
    Endpoint(EDIT, "POST", "/ajax-api/2.0/mlflow/upload-artifact",
             lambda w: {"params": {"run_uuid": w.run, "path": "folder/up.txt"}, "data": b"uploaded"}),
    Endpoint(EDIT, "POST", f"{API}/artifacts/presigned-upload-url", body(run_id=run, path="folder/x"), ok=NOT_HERE),
    Endpoint(READ, "POST", f"{API}/artifacts/presigned-download-url", body(run_id=run, path="folder/file.txt"), ok=NOT_HERE),
    # the artifact proxy
    Endpoint(READ, "GET", "/api/2.0/mlflow-artifacts/artifacts", query(path=lambda w: f"{w.experiment}/{w.run}/artifacts")),
    Endpoint(READ, "GET", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}"),
    Endpoint(EDIT, "PUT", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}", lambda w: {"data": b"put"}),
    Endpoint(MANAGE, "DELETE", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}", spoils=True),
    Endpoint(EDIT, "POST", "/api/2.0/mlflow-artifacts/mpu/create/{artifact_path}",
             body(path=lambda w: f"{w.experiment}/{w.run}/artifacts/folder/file.txt", num_parts=1), ok=NOT_HERE),
    Endpoint(EDIT, "POST", "/api/2.0/mlflow-artifacts/mpu/complete/{artifact_path}",
             body(path="x", upload_id="1", parts=[]), ok=NOT_HERE),
    Endpoint(EDIT, "POST", "/api/2.0/mlflow-artifacts/mpu/abort/{artifact_path}", body(path="x", upload_id="1"), ok=NOT_HERE),
    Endpoint(READ, "GET", "/api/2.0/mlflow-artifacts/presigned/{artifact_path}", ok=NOT_HERE),
    # logged models
    Endpoint(EDIT, "POST", f"{API}/logged-models",
             body(experiment_id=experiment, name="another", source_run_id=run)),
    Endpoint(READ, "GET", f"{API}/logged-models/{{model_id}}"),
    Endpoint(EDIT, "PATCH", f"{API}/logged-models/{{model_id}}", body(model_id=logged, status="LOGGED_MODEL_READY")),
    Endpoint(MANAGE, "DELETE", f"{API}/logged-models/{{model_id}}", spoils=True),
    Endpoint(EDIT, "PATCH", f"{API}/logged-models/{{model_id}}/tags", body(tags=[{"key": "k", "value": "v"}])),
    Endpoint(MANAGE, "DELETE", f"{API}/logged-models/{{model_id}}/tags/{{tag_key}}", spoils=True),
    Endpoint(EDIT, "POST", f"{API}/logged-models/{{model_id}}/params",
             body(model_id=logged, params=[{"key": "p", "value": "1"}])),
    Endpoint(READ, "GET", f"{API}/logged-models/{{model_id}}/artifacts/directories"),
    Endpoint(READ, "GET", "/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files",
             query(artifact_file_path="MLmodel")),
    # registered models
    Endpoint(READ, "GET", f"{API}/registered-models/get", query(name=model)),
    Endpoint(EDIT, "PATCH", f"{API}/registered-models/update", body(name=model, description="new")),
    Endpoint(MANAGE, "POST", f"{API}/registered-models/rename",
             body(name=model, new_name=lambda w: w.model + "-new"), spoils=True),
    Endpoint(MANAGE, "DELETE", f"{API}/registered-models/delete", body(name=model), spoils=True),
    Endpoint(READ, "GET", f"{API}/registered-models/get-latest-versions", query(name=model)),
    Endpoint(READ, "POST", f"{API}/registered-models/get-latest-versions", body(name=model)),
    Endpoint(EDIT, "POST", f"{API}/registered-models/set-tag", body(name=model, key="k", value="v")),
    Endpoint(EDIT, "DELETE", f"{API}/registered-models/delete-tag", body(name=model, key="tag"), spoils=True),
    Endpoint(EDIT, "POST", f"{API}/registered-models/alias", body(name=model, alias="second", version=version)),
    Endpoint(MANAGE, "DELETE", f"{API}/registered-models/alias", body(name=model, alias="champion"), spoils=True),
    Endpoint(READ, "GET", f"{API}/registered-models/alias", query(name=model, alias="champion")),
    # model versions
    Endpoint(EDIT, "POST", f"{API}/model-versions/create",
             body(name=model, run_id=run, source=lambda w: f"mlflow-artifacts:/{w.experiment}/{w.run}/artifacts/folder")),
    Endpoint(READ, "GET", f"{API}/model-versions/get", query(name=model, version=version)),
    Endpoint(EDIT, "PATCH", f"{API}/model-versions/update", body(name=model, version=version, description="new")),
    Endpoint(EDIT, "POST", f"{API}/model-versions/transition-stage",
             body(name=model, version=version, stage="Staging", archive_existing_versions=False)),
    Endpoint(MANAGE, "DELETE", f"{API}/model-versions/delete", body(name=model, version=version), spoils=True),
    Endpoint(EDIT, "POST", f"{API}/model-versions/set-tag", body(name=model, version=version, key="k", value="v")),
    Endpoint(MANAGE, "DELETE", f"{API}/model-versions/delete-tag", body(name=model, version=version, key="tag"), spoils=True),
    Endpoint(READ, "GET", f"{API}/model-versions/get-download-uri", query(name=model, version=version)),
    Endpoint(READ, "GET", "/model-versions/get-artifact", query(name=model, version=version, path="file.txt")),
]

# What MLflow serves besides: for administrators until its own rows are written.
ADMINISTRATORS_ONLY = [
    ("GET", "/api/2.0/mlflow/webhooks", None),
    ("POST", "/api/2.0/mlflow/webhooks", {"name": "w", "url": "https://example.com", "events": []}),
    ("GET", "/api/3.0/mlflow/workspaces", None),
    ("POST", "/ajax-api/3.0/mlflow/demo/generate", {}),
    ("POST", "/ajax-api/3.0/jobs/", {"job_name": "j", "params": {}}),
    ("PUT", "/ajax-api/3.0/mlflow/assistant/config", {}),
    ("GET", "/metrics", None),
    ("GET", "/docs", None),
    ("GET", "/openapi.json", None),
    ("GET", "/api/2.0/mlflow/no-such-family/get", None),
    ("POST", "/api/9.9/mlflow/experiments/delete", {"experiment_id": "0"}),
]
