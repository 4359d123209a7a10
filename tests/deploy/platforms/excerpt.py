"""Cut the part out of another project's schema that a file of deploy/platforms uses.

`python -m tests.deploy.platforms.excerpt SCHEMA FILE SOURCE` prints what goes to schemas/NAME.json. SCHEMA is
a values.schema.json or a CRD (YAML), SOURCE says where it is from. At every level that the file uses, all
properties keep their names, so that a misspelt key is an error; those that it does not use keep nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

DROPPED = ("description", "title", "default", "examples")


def excerpt(schema: Any, value: object) -> Any:
    """Return the part of a schema that concerns a value; unknown keys of its objects are errors."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: inner for key, inner in schema.items() if key not in DROPPED}
    properties = kept.get("properties")
    if properties and isinstance(value, dict):
        kept["properties"] = {
            name: excerpt(inner, value[name]) if name in value else True for name, inner in properties.items()
        }
        if not (schema.get("additionalProperties") or schema.get("x-kubernetes-preserve-unknown-fields")):
            kept["additionalProperties"] = False
    elif properties:
        kept.pop("properties")
    if "items" in kept:
        values = value if isinstance(value, list) and value else [None]
        kept["items"] = excerpt(kept["items"], _joined(values))
    return kept


def _joined(values: list[Any]) -> Any:
    """Return one value with the keys of all."""
    if not all(isinstance(value, dict) for value in values):
        return values[0]
    joined: dict[str, Any] = {}
    for value in values:
        joined |= value
    return joined


def schema_of(text: str, api_version: str | None) -> Any:
    """Return the JSON schema in a file: its own, or that of a CRD's version."""
    content = yaml.safe_load(text)
    if content.get("kind") != "CustomResourceDefinition":
        return content
    wanted = (api_version or "").rpartition("/")[2]
    (version,) = [item for item in content["spec"]["versions"] if item["name"] == wanted]
    return version["schema"]["openAPIV3Schema"]


def main() -> None:
    """Print the excerpt."""
    schema_file, file, source = sys.argv[1:]
    value = yaml.safe_load(Path(file).read_text())
    schema = schema_of(Path(schema_file).read_text(), value.get("apiVersion"))
    cut = {"$comment": f"Excerpt of {source}; unknown keys are made errors."} | excerpt(schema, value)
    print(json.dumps(cut, indent=1))


if __name__ == "__main__":
    main()
