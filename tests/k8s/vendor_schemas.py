"""Turns a CustomResourceDefinition into a small JSON schema beside this file, which refuses unknown fields.

    python tests/k8s/vendor_schemas.py CRD.yaml …

schemas/README.md names the sources. Descriptions are dropped. Embedded pod and job templates, nine tenths of some
definitions, are left open here: the tests validate them as a Job of Kubernetes itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parent / "schemas"
_DROPPED = ("description", "default", "format")


def strict(schema: Any, *, root: bool = False) -> Any:
    """The schema in JSON Schema's terms: unknown fields refused, templates of pods and jobs open."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    fields = schema.get("properties", {})
    if "podFailurePolicy" in fields.get("spec", {}).get("properties", {}) or "containers" in fields:
        return {"type": "object"}
    kept = {key: value for key, value in schema.items() if key not in _DROPPED and not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]}
    if fields:
        kept["properties"] = {name: strict(field) for name, field in fields.items()}
        if not root and not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "not"):
        if isinstance(kept.get(key), dict | list):
            kept[key] = strict(kept[key])
    return kept


def vendor(definition: dict[str, Any]) -> None:
    """Write one schema for each served version."""
    spec = definition["spec"]
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"], root=True)
        schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata", "spec"})
        schema["properties"].pop("status", None)
        file = SCHEMAS / f"{spec['names']['kind'].lower()}-{spec['group']}-{version['name']}.json"
        file.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{file.name}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        vendor(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
