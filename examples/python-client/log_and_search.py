"""Logs a run with an artifact and finds it again; address and token come from the environment."""

import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException


def main() -> None:
    mlflow.set_experiment("hello from the proxy")

    with mlflow.start_run() as run:
        mlflow.log_params({"depth": 6, "rate": 0.1})
        for step in range(10):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        with tempfile.TemporaryDirectory() as folder:
            notes = Path(folder, "notes.txt")
            notes.write_text("what we learnt\n")
            mlflow.log_artifact(str(notes))
    print("logged run", run.info.run_id)

    # Searches contain only what this user can read.
    for experiment in mlflow.search_experiments():
        print("may read experiment", experiment.experiment_id, experiment.name)

    try:
        mlflow.get_experiment("0")
    except MlflowException as refusal:
        print("not granted:", refusal.message)


if __name__ == "__main__":
    main()
