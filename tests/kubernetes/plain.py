"""Writes the plain manifests of `deploy/kubernetes` from the chart's output: what both overlays have is their base.

`python tests/kubernetes/plain.py`, with the folder of scripts/kubernetes-tools.sh in MLFLOW_AUTH_PROXY_KUBERNETES_TOOLS.
"""

import re
import textwrap

import yaml

from chart import HERE, ROOT, template

PLAIN = ROOT / "deploy/kubernetes"
OVERLAYS = {file.stem: file for file in sorted((HERE / "manifests").glob("*.yaml"))}
CONFIG = "mlflow-auth-proxy"

# What only Helm needs.
HELM = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by|checksum/config):.*\n|^# Source:.*\n|^ *# Other keys are read at start only\.\n", re.MULTILINE)


def parts(name):
    """Returns the texts of the chart's manifests for an overlay, by kind and name, without those of hooks."""
    result = template(OVERLAYS[name])
    assert result.returncode == 0, result.stderr
    found = {}
    for text in re.split(r"^---\n", result.stdout, flags=re.MULTILINE):
        manifest = yaml.safe_load(text)
        if manifest and "helm.sh/hook" not in manifest["metadata"].get("annotations", {}):
            kind, own = manifest["kind"].lower(), manifest["metadata"]["name"].removeprefix("mlflow-auth-proxy").strip("-")
            found[f"{kind}-{own}" if own else kind] = HELM.sub("", text).strip() + "\n"
    return found


def kustomization(resources, overlay=None):
    text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    if overlay:
        text += "namespace: mlflow\n"
    text += "resources:\n" + "".join(f"  - {name}\n" for name in resources)
    if overlay:
        text += textwrap.dedent(f"""\
            # A change of proxy.toml replaces the pods.
            configMapGenerator:
              - name: {CONFIG}
                files: [proxy.toml]
            images:
              - name: mlflow-auth-proxy
                newTag: {yaml.safe_load((ROOT / "deploy/helm/mlflow-auth-proxy/Chart.yaml").read_text())["appVersion"]}
              - name: ghcr.io/mlflow/mlflow
                newTag: v3.17.2
            """)
    return text


def generated():
    """Returns the content of every generated file by its path."""
    overlays = {name: parts(name) for name in OVERLAYS}
    first, *others = overlays.values()
    base = {name: text for name, text in first.items() if all(other.get(name) == text for other in others)}
    files = {PLAIN / "base/kustomization.yaml": kustomization(f"{name}.yaml" for name in sorted(base))}
    files |= {PLAIN / f"base/{name}.yaml": text for name, text in base.items()}
    for overlay, manifests in overlays.items():
        folder = PLAIN / "overlays" / overlay
        own = {name: text for name, text in manifests.items() if name not in base}
        files[folder / "proxy.toml"] = yaml.safe_load(own.pop("configmap"))["data"]["proxy.toml"]
        files[folder / "kustomization.yaml"] = kustomization(["../../base", *(f"{name}.yaml" for name in sorted(own))], overlay)
        files |= {folder / f"{name}.yaml": text for name, text in own.items()}
    return files


if __name__ == "__main__":
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
