"""A training loop in the client of any version, while its server goes away and comes back.

    restart_client.py EXPERIMENT END    logs one run after the other until the file END is there

Prints a line per run, and last, as JSON: the runs, the calls that failed, the longest call in seconds, and what the runs hold
that was logged and what they lack.
"""

import json
import sys
import time
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, RunTag


class Loop:
    def __init__(self, experiment):
        self.experiment, self.client = experiment, mlflow.MlflowClient()
        self.runs, self.lost, self.longest = [], [], 0.0

    def call(self, name, work, *arguments, **more):
        started = time.monotonic()
        try:
            return work(*arguments, **more)
        except Exception as error:  # whatever the client of the version raises
            self.lost.append(f"{name}: {error}")
        finally:
            self.longest = max(self.longest, time.monotonic() - started)

    def train(self, number):
        client, call = self.client, self.call
        run = call("create_run", client.create_run, self.experiment, tags={"number": str(number)})
        if run is None:
            return
        run = run.info.run_id
        self.runs.append(run)
        for step in range(3):
            call("log_metric", client.log_metric, run, "loss", 1.0 / (step + 1), step=step)
        metrics = [Metric("accuracy", 0.5, 1, step) for step in range(20)]
        call("log_batch", client.log_batch, run, metrics=metrics, tags=[RunTag("batch", "yes")])
        call("log_params", client.log_batch, run, params=[Param("rate", "0.1"), Param("layers", "3")])
        call("log_param", client.log_param, run, "seed", "7")
        call("set_tag", client.set_tag, run, "stage", "trained")
        call("log_text", client.log_text, run, f"run {number}\n" * 1000, "notes/log.txt")
        found = call("search_runs", client.search_runs, [self.experiment], f"attributes.run_id = '{run}'")
        if found is not None and [one.info.run_id for one in found] != [run]:
            self.lost.append("search_runs: the run is not found")
        call("set_terminated", client.set_terminated, run)

    def lacking(self):
        """What was logged and is not there."""
        for run in self.runs:
            data = self.client.get_run(run).data
            history = [metric.step for metric in self.client.get_metric_history(run, "loss")]
            accuracy = self.client.get_metric_history(run, "accuracy")
            files = [file.path for file in self.client.list_artifacts(run, "notes")]
            there = (sorted(history), len(accuracy), data.params, data.tags.get("stage"), data.tags.get("batch"), files)
            if there != ([0, 1, 2], 20, {"rate": "0.1", "layers": "3", "seed": "7"}, "trained", "yes", ["notes/log.txt"]):
                yield f"{run}: {there}"


def main(experiment, end):
    loop = Loop(experiment)
    number = 0
    while not Path(end).exists():
        loop.train(number)
        number += 1
        print(f"run {number}", flush=True)
    told = {"runs": loop.runs, "tried": number, "lost": loop.lost, "longest": round(loop.longest, 1)}
    print(json.dumps(told | {"lacking": list(loop.lacking())}))


main(*sys.argv[1:])
