"""Logs a few runs through the proxy with the credentials in the environment. Prints `experiment_id=...`."""

import math

import mlflow

client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("demo")
experiment_id = experiment.experiment_id if experiment else client.create_experiment("demo")

if not client.search_runs([experiment_id], max_results=1):
    for rate in (0.001, 0.01, 0.1):
        with mlflow.start_run(experiment_id=experiment_id, run_name=f"rate-{rate}"):
            mlflow.log_params({"learning_rate": rate, "epochs": 20})
            for epoch in range(20):
                mlflow.log_metric("loss", math.exp(-epoch * rate * 5) + rate, step=epoch)
            mlflow.log_text("Logged through mlflow-auth-proxy.\n", "notes.txt")

print(f"experiment_id={experiment_id}")
