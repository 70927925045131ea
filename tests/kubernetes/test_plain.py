"""The plain manifests: what kustomize makes of them is what the chart renders."""

import re

import pytest
import yaml

import plain
from chart import TOOLS, documents, kubeconform, rendered, run
from plain import OVERLAYS, PLAIN


def built(overlay):
    result = run(TOOLS / "kubectl", "kustomize", PLAIN / "overlays" / overlay)
    assert result.returncode == 0, result.stderr
    return result.stdout


def bare(manifests):
    """Returns manifests without what only Helm or only kustomize needs."""
    kept = []
    for manifest in manifests:
        manifest["metadata"].pop("namespace", None)
        if "helm.sh/hook" in manifest["metadata"].get("annotations", {}):
            continue
        pod = manifest.get("spec", {}).get("template", {}) if manifest["kind"] in ("Deployment", "StatefulSet") else {}
        for metadata in filter(None, (manifest["metadata"], pod.get("metadata"))):
            for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
                metadata.get("labels", {}).pop(label, None)
            metadata.get("annotations", {}).pop("checksum/config", None)
        if manifest["kind"] == "ConfigMap":
            # The generator of kustomize adds none.
            manifest["metadata"].pop("labels", None)
        kept.append(manifest)
    # The generator's name of the ConfigMap ends with a hash of its content.
    text = re.sub(r"(name: mlflow-auth-proxy)-[a-z0-9]{10}$", r"\1", yaml.safe_dump_all(kept), flags=re.MULTILINE)
    return documents(text)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_the_chart_renders(overlay):
    assert bare(documents(built(overlay))) == bare(rendered(OVERLAYS[overlay]))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_knows_every_field(overlay):
    assert not kubeconform(built(overlay))


def test_the_secrets_of_the_example_are_those_that_are_used():
    text = (PLAIN / "secret.example.yaml").read_text()
    assert not kubeconform(text)
    examples = {(one["metadata"]["name"], key) for one in documents(text) for key in one["stringData"]}
    used = set()
    for overlay in OVERLAYS:
        manifests = built(overlay)
        used |= set(re.findall(r"key: (\S+)\n\s+name: (\S+)", manifests))
        used |= set(re.findall(r"name: (\S+)$", manifests, re.MULTILINE))
    names = {item if isinstance(item, str) else item[1] for item in used}
    assert {name for name, _ in examples} <= names, names


def test_generated_files_are_up_to_date():
    """`tests/kubernetes/plain.py` writes them."""
    made = plain.generated()
    for path, content in made.items():
        assert path.read_text() == content, f"{path} is old: run tests/kubernetes/plain.py"
    there = {path for path in PLAIN.rglob("*.*") if path.suffix in (".yaml", ".toml") and path.parent != PLAIN}
    assert there == set(made)
