"""Writes the generated files of the Helm chart and of the plain manifests; `make test-kubernetes` compares them.

values.schema.json   from values.yaml, the rules below and config/default.toml
README.md            from the comments of values.yaml
"""

import json
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/mlflow-auth-proxy"

PORT = {"type": ["integer", "null"], "minimum": 1, "maximum": 65535}
COUNT = {"type": ["integer", "null"], "minimum": 1}
NUMBER_OR_PERCENT = {"type": ["integer", "string", "null"]}
QUANTITY = {"type": "string", "pattern": r"^[0-9.]+(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"}
CIDR = {"type": "string", "pattern": r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"}
PULL_POLICY = {"enum": ["Always", "IfNotPresent", "Never"]}
DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"}

# What the defaults of values.yaml do not tell, by path.
RULES = {
    "mode": {"enum": ["gateway", "sidecar"]},
    "publicUrl": {"type": "string", "pattern": "^(https?://[^/@?#]+)?$"},
    "replicas": {"type": ["integer", "null"], "minimum": 0},
    "image.pullPolicy": PULL_POLICY,
    "image.digest": DIGEST,
    "secrets.more": {"type": "array", "items": NAME},
    "store.url": {"type": "string", "pattern": "^(postgres(ql)?://[^:@/]+@[^@]+)?$"},
    "store.volume.size": QUANTITY,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": PORT,
    "service.nodePort": PORT,
    "service.loadBalancerSourceRanges": {"type": "array", "items": CIDR},
    "service.externalTrafficPolicy": {"enum": ["", "Cluster", "Local"]},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.cpu": COUNT,
    "autoscaling.memory": COUNT,
    "podDisruptionBudget.maxUnavailable": NUMBER_OR_PERCENT,
    "podDisruptionBudget.minAvailable": NUMBER_OR_PERCENT,
    "networkPolicy.databases": {"type": "array", "items": CIDR},
    "networkPolicy.objectStorage": {"type": "array", "items": CIDR},
    "networkPolicy.identityProviders.cidrs": {"type": "array", "items": CIDR},
    "networkPolicy.providers.cidrs": {"type": "array", "items": CIDR},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "initialUsers": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "passwordKey"],
            "properties": {
                "name": {"type": "string", "pattern": r"^[^\s'\"\\$`]+$"},
                "admin": {"type": "boolean"},
                "passwordKey": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
            },
        },
    },
    "backup.keep": {"type": "integer", "minimum": 1},
    "backup.volume.size": QUANTITY,
    "mlflow.url": {"type": "string", "pattern": "^(https?://[^/@?#]+/?)?$"},
    "mlflow.image.pullPolicy": PULL_POLICY,
    "mlflow.image.digest": DIGEST,
    "mlflow.replicas": {"type": "integer", "minimum": 0},
    "mlflow.workers": {"type": "integer", "minimum": 1},
    "mlflow.artifacts.s3.endpointUrl": {"type": "string", "pattern": "^(https?://[^/@?#]+/?)?$"},
    "mlflow.volume.size": QUANTITY,
    "mlflow.nativeSidecar": {"type": ["boolean", "null"]},
}
# Maps of Kubernetes' own, whose keys are not listed.
OPEN = re.compile(
    r"(annotations|labels|resources|behavior|affinity|nodeSelector|containerSecurityContext|podSecurityContext"
    r"|podAnnotations|podLabels|startup|liveness|readiness)$"
)


def schema(value, path=""):
    """Returns the schema of a value with this default."""
    if path == "config":
        return config_schema()
    if path in RULES:
        return RULES[path]
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer"}
    if isinstance(value, str):
        return {"type": "string"}
    if isinstance(value, list):
        return {"type": "array"}
    if not isinstance(value, dict):
        raise ValueError(f"{path} has no default that shows its type: add it to RULES")
    if OPEN.search(path):
        return {"type": "object"}
    below = {key: schema(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
    return {"type": "object", "additionalProperties": False, "properties": below}


def config_schema():
    """Returns the schema of the proxy's configuration: every section and key of default.toml, with the type of its value."""
    root = {"type": "object", "additionalProperties": False, "properties": {}}
    section = root
    for line in (ROOT / "config/default.toml").read_text().splitlines():
        if heading := re.fullmatch(r"(?:# )?\[([a-z_.]+)\]", line):
            section = root
            for part in heading[1].split("."):
                below = section.setdefault("properties", {})
                section = below.setdefault(part, {"type": "object", "additionalProperties": False, "properties": {}})
        elif assignment := re.match(r"(?:# )?([a-z_]+ = .*)", line):
            try:
                [(key, value)] = tomllib.loads(assignment[1]).items()
            except tomllib.TOMLDecodeError:
                continue
            section["properties"][key] = {"type": CONFIG_TYPES[type(value)]}
    for family, example in (("oidc", "providers"), ("jwt", "issuers")):
        named = root["properties"][family]["properties"][example]
        root["properties"][family]["properties"][example] = {
            "type": "object",
            "additionalProperties": named["properties"]["keycloak"],
        }
    return root


CONFIG_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array"}


def described(text):
    """Yields (path, default, description) for every value of values.yaml that has no values below it."""
    comments, stack = [], []
    for line in text.splitlines():
        if match := re.match(r"\s*# -- (.*)", line):
            comments = [match[1]]
            continue
        if not (match := re.match(r"( *)([A-Za-z0-9]+):(?: (.*))?$", line)):
            comments = []
            continue
        depth, key = len(match[1]) // 2, match[2]
        stack = stack[:depth] + [key]
        yield ".".join(stack), " ".join(comments)
        comments = []


def readme():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    descriptions = dict(described(text))
    rows = []

    def walk(value, path):
        if isinstance(value, dict) and value and not OPEN.search(path) and path not in RULES:
            for key, item in value.items():
                walk(item, f"{path}.{key}".lstrip("."))
            return
        default = json.dumps(value).replace("|", "\\|")
        rows.append(f"| `{path}` | `{default}` | {descriptions.get(path, '')} |")

    walk(values, "")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    head = (CHART / "README.head.md").read_text()
    return head.replace("VERSION", version) + "\n## Values\n\n| value | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def generated():
    """Returns the content of every generated file of the chart by its path."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **schema(values)}
    whole["properties"]["global"] = {"type": "object"}
    files = {
        CHART / "values.schema.json": json.dumps(whole, indent=1) + "\n",
        CHART / "README.md": readme(),
    }
    return files


if __name__ == "__main__":
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    sys.exit(0)
