"""The metrics that the documents promise, and what expressions of PromQL name."""

import re

from harness import ROOT

PREFIX = "mlflow_auth_proxy_"
# Prometheus adds these to every series, Kubernetes' service discovery the middle ones.
TARGET = {"job", "instance", "namespace", "pod", "service"}
# `ALERTS` and `up` are Prometheus's own.
OTHERS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset", "group_left", "group_right"}
GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"


def described():
    """Each metric of docs/metrics.md: its labels, each with its values where the document lists them."""
    text = (ROOT / "docs/metrics.md").read_text()
    found = {name: {} for name in re.findall(r"`(process_\w+)`", text)} | {name: dict.fromkeys(labels) for name, labels in OTHERS.items()}
    for name, kind, labels in re.findall(rf"^\| `({PREFIX}\w+)` \| (\w+) \| (.*?) \|", text, re.M):
        one, _, values = labels.partition(": ")
        values = set(re.findall(r"`(\w+)`", values)) or None
        found[name] = {label: values for label in re.findall(r"`(\w+)`", one)}
        if kind == "histogram":
            of = found.pop(name)
            found |= {f"{name}_bucket": of | {"le": None}, f"{name}_sum": of, f"{name}_count": of}
    return found


def faults(expression, known):
    """What this expression names that no proxy has: metrics, labels, and values of labels."""
    found, labels_of_all = [], set(TARGET)
    bare = re.sub(GROUPING, " ", re.sub(r'"[^"]*"', '""', expression))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    for name in re.findall(r"(?<![\w.:])[a-zA-Z_][\w:]*\b(?!\s*\()", re.sub(r"\{[^}]*\}", " ", bare)):
        if name in WORDS:
            continue
        if name not in known:
            found.append(f"metric {name}")
            continue
        labels_of_all |= known[name].keys()
    for name, matchers in re.findall(r"([a-zA-Z_][\w:]*)\s*\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            labels = known.get(name, {})
            if label not in TARGET | labels.keys():
                found.append(f"label {label} of {name}")
            elif labels.get(label) and not value.startswith("$"):
                values = value.split("|") if "~" in operator else [value]
                found += [f"{label}={one} of {name}" for one in values if one not in labels[label]]
    for group in re.findall(GROUPING, expression):
        found += [f"label {label}" for label in re.findall(r"\w+", group) if label not in labels_of_all]
    return found
