"""What a trainer and a reader of models do with the client of any release, in a process of its own.

`register EXPERIMENT NAME`: logs models and registers them as NAME (two versions) and a copy; prints what there is as JSON.
`load URI...`: loads each model and prints what it predicts.
"""

import json
import os
import pathlib
import sys
import tempfile

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [2 * value for value in model_input]


NEW = int(mlflow.__version__.split(".")[0]) >= 3


def log(name, registered=None):
    more = {"name": name} if NEW else {"artifact_path": name}
    return mlflow.pyfunc.log_model(
        python_model=Double(), pip_requirements=["mlflow"], registered_model_name=registered, **more
    )


def register(experiment, name):
    client = MlflowClient()
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run() as run:
        mlflow.log_text("secret of the run", "other/secret.txt")
        info = log("model", registered=name)
        log("modelx")
        # As a client before 3.0 stores it: below the run.
        with tempfile.TemporaryDirectory() as folder:
            saved = os.path.join(folder, "saved")
            mlflow.pyfunc.save_model(saved, python_model=Double(), pip_requirements=["mlflow"])
            mlflow.log_artifacts(saved, "by-hand")
        client.create_model_version(name, f"{run.info.artifact_uri}/by-hand", run.info.run_id)
        versions = ["1", "2"]
        try:
            client.create_model_version(name, f"{run.info.artifact_uri}/by-hand")
            versions.append("3")
        except MlflowException:
            # Newer servers want the run's id beside such a source.
            pass
    made = {"run": run.info.run_id, "root": run.info.artifact_uri, "uri": info.model_uri}
    made["uris"] = [f"models:/{name}/{version}" for version in versions] + [f"models:/{name}@best"]
    client.set_registered_model_alias(name, "best", "1")
    if hasattr(client, "copy_model_version"):
        client.copy_model_version(f"models:/{name}/1", f"{name}-copy")
        made["copy"] = f"models:/{name}-copy/1"
    if NEW:
        with_no_run = mlflow.pyfunc.log_model(name="alone", python_model=Double(), pip_requirements=["mlflow"])
        made["alone"] = with_no_run.model_id
    made["download"] = [client.get_model_version_download_uri(name, version) for version in versions]
    print(json.dumps(made))


def load(*uris):
    for uri in uris:
        assert mlflow.pyfunc.load_model(uri).predict([1, 2]) == [2, 4], uri
        folder = pathlib.Path(mlflow.artifacts.download_artifacts(uri))
        assert (folder / "MLmodel").is_file(), list(folder.iterdir())
    print("loaded", len(uris))


{"register": register, "load": load}[sys.argv[1]](*sys.argv[2:])
