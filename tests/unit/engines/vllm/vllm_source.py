"""What vLLM's source defines, read without importing vLLM."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest


def source() -> Path:
    """Return the folder of the package `vllm` under test; skip the test where there is none."""
    if folder := os.environ.get("MIRL_VLLM_SOURCE"):
        return Path(folder) / "vllm"
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    return Path(spec.origin).parent


@cache
def module(name: str) -> ast.Module:
    """Return the syntax tree of a module of vLLM's; raise AssertionError where it has none."""
    path = source().joinpath(*name.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.is_file(), f"vLLM has no module {name}"
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of one scope, those under `if` and `try` included."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for child in getattr(statement, block, []):
                    yield from statements(child.body if isinstance(child, ast.ExceptHandler) else [child])


def names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a scope defines."""
    definitions: dict[str, ast.stmt] = {}
    for statement in statements(body):
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                definitions[name] = statement
            case ast.Assign(targets=targets):
                definitions |= {node.id: statement for node in targets if isinstance(node, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = statement
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                definitions |= {alias.asname or alias.name: statement for alias in aliases}
    return definitions


def members(module_name: str, path: str) -> set[str]:
    """Parameters of a function, or names in a class and what its methods set on `self`."""
    scope: dict[str, ast.stmt] = names(module(module_name).body)
    node: ast.stmt | None = None
    for part in path.split("."):
        assert part in scope, f"{module_name} has no {path}"
        node = scope[part]
        scope = names(node.body) if isinstance(node, ast.ClassDef) else {}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = node.args
        return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    assert isinstance(node, ast.ClassDef), f"{module_name}.{path} is neither a class nor a function"
    on_self = {
        child.attr
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == "self"
    }
    return set(scope) | on_self
