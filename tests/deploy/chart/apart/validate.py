"""Validate objects strictly by Kubernetes' own schemas, in the environment of requirements/deploy.lock.

Reads `{"versions": [...], "objects": [...]}` from standard input and prints a JSON array of faults. A kind
that Kubernetes does not have is a fault.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

# The definitions of a version have some megabytes, and are read for every object otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


def fault(item: dict[str, Any], version: str) -> str | None:
    """Return what is wrong with an object in a version of Kubernetes."""
    name = f"{item['kind']} {item['metadata']['name']} in {version}"
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return f"{name}: unknown kind"
    except kubernetes_validate.ValidationError as error:
        return f"{name}: {'.'.join(str(part) for part in error.path)}: {error.message[:300]}"
    return None


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    faults = [fault(item, version) for version in request["versions"] for item in request["objects"]]
    print(json.dumps([text for text in faults if text]))


if __name__ == "__main__":
    main()
