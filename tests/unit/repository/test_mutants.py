"""What `make mutants` counts, and how it knows an equivalent mutant again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.mutants.results import (
    Module,
    Survivor,
    as_entries,
    changed_lines,
    estimate,
    kill_rate,
    merged,
    read_equivalent,
    row,
    stale,
)

ROOT = Path(__file__).parents[3]
DIFF = "--- a.py\n+++ a.py\n@@ -7,3 +7,3 @@\n def f(a, b):\n-    if a < b:\n+    if a <= b:\n         pass"
STRICT = Survivor("f", ("-    if a < b:", "+    if a <= b:"))
OTHER = Survivor("Box.size", ("-    return 1", "+    return 2"))


def test_a_change_is_known_without_its_line_number() -> None:
    moved = DIFF.replace("@@ -7,3 +7,3 @@", "@@ -90,3 +90,3 @@")
    assert changed_lines(DIFF) == changed_lines(moved) == STRICT.change


def test_equivalent_mutants_count_neither_as_killed_nor_as_survived() -> None:
    module = Module("a.py", tested=12, untested=0, survivors=(STRICT, STRICT, OTHER), seconds=6.0)
    assert kill_rate(module, set()) == 75.0
    assert kill_rate(module, {STRICT}) == 90.0
    assert row(module, {STRICT}).split() == ["a.py", "12", "9", "1", "2", "90.0", "0.50"]
    untested = Module("b.py", tested=0, untested=7, survivors=(), seconds=0.0)
    assert row(untested, set()).split() == ["b.py", "7", "0", "0", "0", "-", "-"]


def test_a_group_is_the_sum_of_its_modules() -> None:
    first = Module("a.py", tested=4, untested=1, survivors=(STRICT,), seconds=1.5)
    second = Module("b.py", tested=6, untested=0, survivors=(OTHER,), seconds=2.0)
    assert merged("group", [first, second]) == Module("group", 10, 1, (STRICT, OTHER), 3.5)
    assert kill_rate(Module("c.py", 0, 0, (), 0.0), set()) == 100.0


def test_a_sample_is_reported_with_its_size_and_interval() -> None:
    module = Module("group", tested=101, untested=0, survivors=(STRICT, *[OTHER] * 10), seconds=1.0)
    assert estimate(module, {STRICT}) == "90.0% [82.6, 94.5] killed, n = 100 drawn at random"


def test_survivors_are_written_as_entries_that_only_lack_a_reason() -> None:
    module = Module("a.py", 3, 0, (STRICT, Survivor("g", ('-    say("é")', "+    say(None)"))), 1.0)
    written = as_entries("group", [module], {OTHER})
    with pytest.raises(ValueError, match="group: the entry for f has no reason"):
        read_equivalent(written)
    assert read_equivalent(written.replace('""', '"why"')) == {"group": set(module.survivors)}
    assert as_entries("group", [module], set(module.survivors)) == ""


def test_an_entry_without_its_survivor_is_stale_once_the_group_is_tested_to_the_end() -> None:
    entries = {"group": {STRICT, OTHER}, "absent": {OTHER}}
    done = Module("group", 5, 0, (OTHER,), 1.0)
    (line,) = stale({"group": done}, entries)
    assert line == "stale entry in equivalent.toml: group: f ['-    if a < b:', '+    if a <= b:']"
    assert stale({"group": Module("group", 5, 1, (OTHER,), 1.0)}, entries) == []


def test_the_committed_files_are_well_formed() -> None:
    folder = ROOT / "tests" / "mutants"
    groups = tomllib.loads((folder / "groups.toml").read_text())
    assert set(read_equivalent((folder / "equivalent.toml").read_text())) <= set(groups)
    for group in groups.values():
        assert set(group) == {"sources", "tests"}
        for pattern in group["sources"] + group["tests"]:
            assert list(ROOT.glob(pattern)), f"{pattern} matches no file"
