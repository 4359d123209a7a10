"""Counts of a module's mutants, the list of equivalent mutants and the table; independent of mutmut."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirl_core.evaluation.measures.statistics import wilson

HEADER = f"{'module':46}{'mutants':>8}{'killed':>8}{'survived':>9}{'equivalent':>11}{'%':>7}{'s each':>8}"


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutant that no test kills: the mutated function and the changed lines, each with its sign."""

    function: str
    change: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """Counts of one module's mutants, its survivors and the duration of all its mutants' tests in seconds."""

    path: str
    tested: int
    untested: int
    survivors: tuple[Survivor, ...]
    seconds: float


def changed_lines(diff: str) -> tuple[str, ...]:
    """Return the removed and the added lines of a unified diff, without headers, context and line numbers."""
    return tuple(line for line in diff.splitlines()[2:] if line.startswith(("-", "+")))


def read_equivalent(text: str) -> dict[str, set[Survivor]]:
    """Return the equivalent mutants by group; raise ValueError where an entry has no reason."""
    groups: dict[str, set[Survivor]] = {}
    for group, entries in tomllib.loads(text).items():
        for entry in entries:
            if not entry["reason"].strip():
                raise ValueError(f"{group}: the entry for {entry['function']} has no reason")
        groups[group] = {Survivor(entry["function"], tuple(entry["change"])) for entry in entries}
    return groups


def merged(name: str, modules: Sequence[Module]) -> Module:
    """Return the sum of the modules."""
    return Module(
        path=name,
        tested=sum(module.tested for module in modules),
        untested=sum(module.untested for module in modules),
        survivors=tuple(survivor for module in modules for survivor in module.survivors),
        seconds=sum(module.seconds for module in modules),
    )


def kill_rate(module: Module, equivalent: set[Survivor]) -> float:
    """Return the percentage killed of the tested mutants that are not equivalent; 100 if there is none."""
    same = sum(survivor in equivalent for survivor in module.survivors)
    real = module.tested - same
    return 100.0 * (module.tested - len(module.survivors)) / real if real else 100.0


def estimate(module: Module, equivalent: set[Survivor]) -> str:
    """Return the kill rate of a random sample with its 95% interval (Wilson), as a sentence."""
    real = module.tested - sum(survivor in equivalent for survivor in module.survivors)
    share = kill_rate(module, equivalent) / 100
    low, high = wilson(share, real)
    return f"{100 * share:.1f}% [{100 * low:.1f}, {100 * high:.1f}] killed, n = {real} drawn at random"


def row(module: Module, equivalent: set[Survivor]) -> str:
    """Return the module's line of the table under `HEADER`."""
    same = sum(survivor in equivalent for survivor in module.survivors)
    survived, total = len(module.survivors), module.tested + module.untested
    counts = f"{module.path:46}{total:8}{module.tested - survived:8}{survived - same:9}{same:11}"
    if not module.tested:
        return f"{counts}{'-':>7}{'-':>8}"
    return f"{counts}{kill_rate(module, equivalent):7.1f}{module.seconds / module.tested:8.2f}"


def as_entries(group: str, modules: Sequence[Module], equivalent: set[Survivor]) -> str:
    """Return the survivors that are not listed, as entries of `equivalent.toml` without a reason."""
    return "\n".join(
        f"[[{group}]]  # {module.path}\nfunction = {json.dumps(survivor.function)}\n"
        f'change = {json.dumps(survivor.change, ensure_ascii=False)}\nreason = ""\n'
        for module in modules
        for survivor in module.survivors
        if survivor not in equivalent
    )


def stale(modules: Mapping[str, Module], equivalent: Mapping[str, set[Survivor]]) -> list[str]:
    """Return a line for each entry whose group is tested to the end and has no such survivor."""
    return [
        f"stale entry in equivalent.toml: {group}: {entry.function} {list(entry.change)}"
        for group, entries in equivalent.items()
        if group in modules and not modules[group].untested
        for entry in sorted(entries - set(modules[group].survivors), key=lambda entry: entry.function)
    ]
