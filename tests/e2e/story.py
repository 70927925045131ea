"""What a data scientist's script does, with nothing but the unmodified client and its environment variables.

Arguments: experiment name, a file to log. Prints what it made as JSON.
"""

import json
import math
import sys

import mlflow
import numpy as np
from sklearn.linear_model import LinearRegression

experiment, file = sys.argv[1:3]

mlflow.set_experiment(experiment)
with mlflow.start_run(run_name="first") as run:
    mlflow.log_params({"depth": 3, "rate": 0.1})
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf})
    mlflow.set_tag("team", "first")
    mlflow.log_dict({"answer": 42}, "folder with space/ä.json")
    mlflow.log_artifact(file, "big")
    x = np.arange(8.0).reshape(-1, 1)
    model = LinearRegression().fit(x, 2 * x[:, 0] + 1)
    logged = mlflow.sklearn.log_model(
        model, name="line", registered_model_name=f"{experiment}-model", pip_requirements=["scikit-learn"]
    )

print(
    json.dumps({
        "experiment": run.info.experiment_id,
        "run": run.info.run_id,
        "logged_model": logged.model_id,
        "model": f"{experiment}-model",
    })
)
