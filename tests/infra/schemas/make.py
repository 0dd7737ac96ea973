"""Make the reduced schemas beside this file from published ones: `python tests/infra/schemas/make.py FILE [FILE ...]`.

A FILE is a CustomResourceDefinition (YAML) or a JSON schema. Kept is what validates: of a definition the stored version, undescribed;
equal parts stand once, under `$defs`. README.md says where each came from.
"""

import collections
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SHARED_BYTES = 400  # smaller parts are left where they are
DROPPED = {"description", "default", "example", "format"}


def reduced(node: Any, *, is_properties: bool = False) -> Any:
    """Without what validates nothing. The keys of `properties` are names, not keywords."""
    if isinstance(node, list):
        return [reduced(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: reduced(value, is_properties=key == "properties" and not is_properties)
        for key, value in node.items()
        if is_properties or key not in DROPPED
    }


def shared(schema: dict[str, Any]) -> dict[str, Any]:
    """Equal large parts as references to one."""
    counts: collections.Counter[str] = collections.Counter()

    def count(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            if isinstance(child, dict) and child.get("type") in ("object", "array"):
                counts[json.dumps(child, sort_keys=True)] += 1
            count(child)

    count(schema)
    names = {text: f"d{i}" for i, (text, n) in enumerate(counts.items()) if n > 1 and len(text) > SHARED_BYTES}

    def point(node: Any, top: str = "") -> Any:
        if isinstance(node, list):
            return [point(item) for item in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if text in names and text != top:
            return {"$ref": f"#/$defs/{names[text]}"}
        return {key: point(value) for key, value in node.items()}

    definitions = {name: point(json.loads(text), text) for text, name in names.items()}
    return {**point(schema), "$defs": definitions} if definitions else point(schema)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if document.get("kind") == "CustomResourceDefinition":
            (version,) = [version for version in document["spec"]["versions"] if version["storage"]]
            spec = document["spec"]
            name = f"{spec['names']['kind'].lower()}.{spec['group']}.{version['name']}"
            schema = shared(reduced(version["schema"]["openAPIV3Schema"]))
        else:
            name, schema = path.stem, document
        (HERE / f"{name}.json").write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
