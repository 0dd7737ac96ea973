"""Holding a manifest against the published schema of its kind, strictly."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.34"


def _strict(node: Any) -> Any:
    """Unknown fields forbidden: the operators drop them without a word."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "type" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return strict


@cache
def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


@cache
def custom(kind: str, group: str, version: str) -> dict[str, Any]:
    strict = _strict(schema(f"{kind.lower()}.{group}.{version}"))
    strict["properties"]["metadata"] = {"type": "object", "required": ["name"]}  # the API server's own business
    return strict


def validate(document: dict[str, Any]) -> None:
    """Raises a ValidationError, of jsonschema or of kubernetes_validate, and KeyError for a document that says not what it is."""
    group, _, version = document["apiVersion"].rpartition("/")
    if group in ("", "scheduling.k8s.io", "networking.k8s.io", "rbac.authorization.k8s.io"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    else:
        jsonschema.Draft202012Validator(custom(document["kind"], group, version)).validate(document)
