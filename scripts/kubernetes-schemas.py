"""Makes the schemas of kubeconform from the API's own description and from CRDs: kubernetes-schemas.py FOLDER SWAGGER CRD...

The CRDs are copied into FOLDER/crds, for a real API server.
"""

import json
import sys
from pathlib import Path

import yaml

# Written as a number or a string, whatever the description says.
LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


def strict(schema):
    """Returns the schema with unknown fields refused, and references into one file."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/definitions/", "_definitions.json#/definitions/")}
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    for key in ("items", "additionalProperties", "not"):
        if key in made:
            made[key] = strict(made[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in made:
            # Parts of a whole, which alone lists the fields.
            made.pop(key)
    if "properties" in made:
        made["properties"] = {name: strict(value) for name, value in made["properties"].items()}
        if "additionalProperties" not in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    return made


def save(folder, kind, group, version, schema):
    parts = [kind, group.split(".")[0], version]
    (folder / ("-".join(part for part in parts if part).lower() + ".json")).write_text(json.dumps(schema))


def main(folder, swagger, *crds):
    folder = Path(folder)
    definitions = json.loads(Path(swagger).read_text())["definitions"]
    made = {name: LOOSE.get(name) or strict(schema) for name, schema in definitions.items()}
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            save(folder, kind["kind"], kind["group"], kind["version"], made[name])
    (folder / "crds").mkdir(exist_ok=True)
    for crd in map(Path, crds):
        (folder / "crds" / crd.name).write_text(crd.read_text())
        spec = yaml.safe_load(crd.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            save(folder, spec["names"]["kind"], spec["group"], version["name"], schema)
    # Last, as a sign that the folder is complete.
    (folder / "_definitions.json").write_text(json.dumps({"definitions": made}))


if __name__ == "__main__":
    main(*sys.argv[1:])
