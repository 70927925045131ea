"""Things worth looking at in MLflow's web UI, made with the unmodified client: of everything one to share, one to hide.

Argument: a suffix for the names. Prints what it made as JSON.
"""

import json
import sys

import mlflow

suffix = sys.argv[1]
client = mlflow.MlflowClient()
made = {}
for fate in ("shared", "hidden"):
    experiment = client.create_experiment(f"{fate}-experiment-{suffix}")
    mlflow.set_experiment(experiment_id=experiment)
    runs = []
    for depth in (3, 5):
        with mlflow.start_run(run_name=f"{fate}-depth-{depth}") as run:
            mlflow.log_param("depth", depth)
            for step in range(5):
                mlflow.log_metric("loss", 1 / (step + depth), step=step)
            mlflow.log_text(f"What {fate} notes say", "notes.txt")
            mlflow.log_text("flavors: {}\n", "model/MLmodel")
            runs.append(run.info.run_id)
    model = f"{fate}-model-{suffix}"
    client.create_registered_model(model)
    client.create_model_version(model, f"mlflow-artifacts:/{experiment}/{runs[0]}/artifacts/model", runs[0])
    prompt = f"{fate}-prompt-{suffix}"
    mlflow.genai.register_prompt(prompt, f"Say {{{{word}}}} to the {fate}")
    for number in range(3):
        with mlflow.start_span("answer") as span:
            span.set_inputs({"question": f"{fate} question {number}"})
            span.set_outputs({"answer": f"{fate} answer {number}"})
    made[fate] = {
        "experiment": experiment, "experiment_name": f"{fate}-experiment-{suffix}", "runs": runs,
        "model": model, "prompt": prompt, "fate": fate,
    }
mlflow.flush_trace_async_logging()
print(json.dumps(made))
