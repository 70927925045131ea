"""Renders the chart with Helm 3 and 4, and compares manifests."""

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/mlflow-auth-proxy"
HERE = Path(__file__).resolve().parent
TOOLS = Path(os.environ["MLFLOW_AUTH_PROXY_KUBERNETES_TOOLS"])
HELMS = ("helm", "helm3")
# Where the rendering depends on the cluster's version, the newest one that a node of the tests has.
KUBERNETES = "1.34.4"

EXAMPLES = ("values-eks", "values-sidecar", "values-onprem")
SETS = {name: CHART / f"{name}.yaml" for name in EXAMPLES} | {
    file.stem: file for file in sorted((HERE / "values").glob("*.yaml"))
}


def run(*command, **options):
    """Runs a command and returns its result, with its output as text."""
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False, **options)


@functools.cache
def template(values, helm="helm", release="mlflow", more=()):
    """Returns the result of `helm template` with a file of values."""
    return run(
        *(TOOLS / helm, "template", release, CHART, "--namespace", "tracking", "--values", values),
        *("--kube-version", KUBERNETES, *more),
    )


def documents(text):
    """Returns the manifests of a stream, in the order of kind and name."""
    loaded = [document for document in yaml.safe_load_all(text) if document]
    return sorted(loaded, key=lambda one: (one["kind"], one["metadata"]["name"]))


def rendered(values, helm="helm", release="mlflow"):
    result = template(values, helm, release)
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


COMMON = ("helm.sh/chart", "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")


def fixed(manifests):
    """Returns the text of manifests without what all of them have, and without what differs from one rendering or release to the next."""
    for manifest in manifests:
        labels = manifest["metadata"].get("labels", {})
        # Extra objects are as the values have them.
        if labels:
            for label in COMMON:
                labels.pop(label)
        if manifest["kind"] == "Secret":
            manifest["data"] = dict.fromkeys(manifest["data"], "GENERATED")
        # Files of their own, which have tests of their own.
        if manifest["kind"] == "PrometheusRule":
            assert manifest["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
            manifest["spec"] = "FILE"
        if manifest["metadata"]["name"].endswith("-dashboard"):
            for name, text in manifest["data"].items():
                assert json.loads(text) == json.loads((ROOT / "deploy/grafana" / name).read_text())
                manifest["data"][name] = "FILE"
    Compact.add_representer(str, lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", re.sub(r" +$", "", text, flags=re.MULTILINE), style="|" if "\n" in text else None))
    text = yaml.dump_all(manifests, Dumper=Compact, width=160, default_flow_style=None)
    text = re.sub(r"(checksum/config: )\w+", r"\1CHECKSUM", text)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    return re.sub(rf"(?<=[-:\s']){re.escape(version)}(?=['\s,}}])", "VERSION", text)


class Compact(yaml.SafeDumper):
    """Writes innermost maps in one line, and equal parts again instead of as references."""

    def ignore_aliases(self, data):
        return True


def kubeconform(text):
    """Returns the problems that kubeconform finds in a stream of manifests."""
    schemas = "%s/{{ .ResourceKind }}{{ .KindSuffix }}.json" % (TOOLS / "schemas").resolve()
    result = run(TOOLS / "kubeconform", "-strict", "-output", "json", "-schema-location", schemas, input=text)
    return [
        f"{one['kind']} {one['name']}: {one['msg']}" for one in json.loads(result.stdout)["resources"]
    ] or ([] if result.returncode == 0 else [result.stderr])
