"""The marker `vllm` stands for exactly the tests that start or use a real vLLM engine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.vllm_marker import FIXTURE

TESTS = Path(__file__).parents[2]
STARTERS = {"running", "start_engine", "VLLMEngine.start"}
"""Calls that start an engine, in this process or another."""
PLUGIN = 'pytest_plugins = ["tests.helpers.vllm_marker"]\n'
FIXTURES = """
import pytest

@pytest.fixture
def real_vllm(): pass

@pytest.fixture
def server(real_vllm): pass
"""
MARKERS = "[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers =\n  vllm: as in MIRL\n"


def collect(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """Return what pytest says of the tests in `source` when it only collects them."""
    pytester.makeini(MARKERS)
    pytester.makeconftest(PLUGIN + FIXTURES)
    pytester.makepyfile(source)
    # Plugins of the environment that take seconds to start: pyproject.toml leaves them out of other runs.
    plain = [f"-pno:{plugin}" for plugin in ("cacheprovider", "schemathesis", "langsmith_plugin")]
    return pytester.runpytest_inprocess("--collect-only", "-q", *plain, *options)


def names(result: pytest.RunResult) -> set[str]:
    """Return the names of the tests that were collected."""
    assert result.ret == pytest.ExitCode.OK
    return {line.split("::")[1] for line in result.outlines if "::test" in line}


SOURCE = """
import pytest

def test_by_a_fixture(server): pass

@pytest.mark.usefixtures("real_vllm")
def test_by_itself(): pass

def test_without(): pass
"""


def test_the_fixture_brings_the_marker(pytester: pytest.Pytester) -> None:
    assert names(collect(pytester, SOURCE, "-m", "vllm")) == {"test_by_a_fixture", "test_by_itself"}
    assert names(collect(pytester, SOURCE, "-m", "not vllm")) == {"test_without"}


@pytest.mark.parametrize("fixture", ["", "server"])
def test_the_marker_by_hand_is_refused(pytester: pytest.Pytester, fixture: str) -> None:
    source = f"import pytest\n\n@pytest.mark.vllm\ndef test_marked({fixture}): pass\n"
    result = collect(pytester, source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: the marker `vllm` comes from the fixture `real_vllm`, *::test_marked"]
    )


def starts_without_fixture(source: str) -> Iterator[str]:
    """Yield the names of top-level functions that start an engine and do not request the fixture."""
    tree = ast.parse(source)
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    marks = [node.value for node in assignments if ast.unparse(node.targets[0]) == "pytestmark"]
    if any(FIXTURE in ast.unparse(mark) for mark in marks):
        return
    for function in tree.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            requested = {argument.arg for argument in function.args.args}
            decorated = any(FIXTURE in ast.unparse(decorator) for decorator in function.decorator_list)
            if calls & STARTERS and FIXTURE not in requested and not decorated:
                yield function.name


def test_a_start_without_the_fixture_is_noticed() -> None:
    start = "async def test_it(bundled_model):\n    await VLLMEngine.start(bundled_model)\n"
    assert list(starts_without_fixture(start)) == ["test_it"]
    assert list(starts_without_fixture(start.replace("(bundled", "(real_vllm, bundled", 1))) == []
    assert list(starts_without_fixture('@pytest.mark.usefixtures("real_vllm")\n' + start)) == []
    assert list(starts_without_fixture('pytestmark = pytest.mark.usefixtures("real_vllm")\n' + start)) == []


def test_whatever_starts_an_engine_requests_the_fixture() -> None:
    files = [TESTS / "conftest.py", *TESTS.glob("*/**/test_*.py")]
    files = [file for file in files if "unit" not in file.relative_to(TESTS).parts]
    assert len(files) > 30
    missing = {
        f"{file.relative_to(TESTS)}: {name}"
        for file in files
        for name in starts_without_fixture(file.read_text())
    }
    assert missing == set()
