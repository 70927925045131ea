"""One of several processes that log into the same experiment at the same time, with two threads each.

Arguments: experiment id, process number. Prints the ids of its runs as JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import mlflow

experiment, process = sys.argv[1:3]
client = mlflow.MlflowClient()


def log(thread):
    run = client.create_run(experiment, run_name=f"{process}-{thread}").info.run_id
    for step in range(10):
        client.log_metric(run, "step", step, step=step)
    client.log_param(run, "who", f"{process}-{thread}")
    client.log_text(run, f"{process}-{thread}", "who.txt")
    client.set_terminated(run)
    return run


with ThreadPoolExecutor(2) as pool:
    print(json.dumps(list(pool.map(log, range(2)))))
