"""Run mutmut over the groups of `groups.toml`, report each module, and fail if a group is below 90%."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

from tests.mutants import results
from tests.mutants.results import Module, Survivor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "mutants"
REQUIRED = 90.0
# Pytest's code where collecting tests that call the mutant fails; mutmut takes it for an interrupt.
COLLECTION_FAILED = 2
SKIPPED = 34
KILLED = {"killed", "timeout", "segfault", status_by_exit_code[COLLECTION_FAILED]}
# Plugins are loaded by name: to look for all that are installed takes longer than most mutants' tests.
PLUGINS = ["pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin", "tests.mutants.plugin"]


def files(patterns: list[str]) -> list[Path]:
    """Return the files that match, relative to the root; raise ValueError for a pattern without a match."""
    paths = {pattern: sorted(ROOT.glob(pattern)) for pattern in patterns}
    for pattern, matches in paths.items():
        if not matches:
            raise ValueError(f"groups.toml: {pattern} matches no file")
    return [path.relative_to(ROOT) for matches in paths.values() for path in matches]


def import_root(path: Path) -> Path:
    """Return the folder from which the module is imported: the nearest without an `__init__.py`."""
    return next(folder for folder in path.parents if not (ROOT / folder / "__init__.py").exists())


def stage(folder: Path, modules: Mapping[str, Path], tests: list[Path]) -> None:
    """Make mutmut's working folder, where the package of every module lies at the top."""
    packages = {Path(path).parts[0]: root for path, root in modules.items()}
    for name, root in {**packages, "tests": Path()}.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(ROOT / root / name)
    # Mutmut copies the tests and never removes one that has moved.
    shutil.rmtree(folder / "mutants" / "tests", ignore_errors=True)
    # At least 30 s: a timeout counts as killed, and a busy machine is slow.
    settings = {
        "source_paths": sorted(packages),
        "only_mutate": list(modules),
        "pytest_add_cli_args_test_selection": [str(path) for path in tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", *(f"-p{plugin}" for plugin in PLUGINS)],
        "timeout_multiplier": 5.0,
        "timeout_constant": 6.0,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text("\n".join([project, "[tool.mutmut]", *lines, ""]))


def forget(folder: Path, modules: Iterable[str], tests: list[Path]) -> None:
    """Have mutmut test again what an interrupt may have ended and, after a change of tests, the survivors."""
    digest = hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in tests)).hexdigest()
    record = folder / "tests.sha256"
    changed = not record.exists() or record.read_text() != digest
    if changed:
        (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for meta in (folder / "mutants" / f"{path}.meta" for path in modules):
        if meta.exists():
            data: dict[str, Any] = json.loads(meta.read_text())
            for name, code in data["exit_code_by_key"].items():
                if code == COLLECTION_FAILED or (changed and status_by_exit_code[code] not in KILLED):
                    data["exit_code_by_key"][name] = None
            meta.write_text(json.dumps(data))
    record.write_text(digest)


def run_mutmut(
    folder: Path, modules: Mapping[str, Path], tests: list[Path], arguments: list[str], *, check: bool = True
) -> None:
    """Test mutants that have no result; exit if mutmut already runs in the folder or, with `check`, fails."""
    command = [str(Path(sys.executable).with_name("mutmut")), "run", *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with (folder / "mutmut.log").open("a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"mutmut already runs in {folder}")
        stage(folder, modules, tests)
        forget(folder, modules, tests)
        log.truncate(0)
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False)
    if check and ended.returncode:
        sys.exit(f"mutmut ended with {ended.returncode}; its output is in {log.name}")


def recorded(folder: Path, path: str) -> dict[str, Any]:
    """Return what mutmut has recorded of a module's mutants: exit codes and durations by name."""
    meta = folder / "mutants" / f"{path}.meta"
    return json.loads(meta.read_text()) if meta.exists() else {"exit_code_by_key": {}}


def recode(folder: Path, modules: Iterable[str], names: set[str], old: int | None, new: int | None) -> None:
    """Replace an exit code of these mutants in mutmut's records."""
    for path in modules:
        data = recorded(folder, path)
        codes = data["exit_code_by_key"]
        if changed := [name for name, code in codes.items() if name in names and code == old]:
            codes.update(dict.fromkeys(changed, new))
            (folder / "mutants" / f"{path}.meta").write_text(json.dumps(data))


def run_sample(
    folder: Path, modules: Mapping[str, Path], tests: list[Path], arguments: list[str], size: int
) -> set[str]:
    """Test a random sample of the mutants, the same in every run of the same code; return their names."""
    # Mutmut makes all mutants before it refuses a name that none of them has.
    run_mutmut(folder, modules, tests, [*arguments, "no mutant"], check=False)
    names = sorted(name for path in modules for name in recorded(folder, path)["exit_code_by_key"])
    random.Random(folder.name).shuffle(names)
    # Given names, mutmut would pass all their tests' ids to pytest, some of which hold "::". It leaves out
    # what has a result instead.
    others = set(names[size:])
    recode(folder, modules, others, None, SKIPPED)
    try:
        run_mutmut(folder, modules, tests, arguments)
    finally:
        recode(folder, modules, others, SKIPPED, None)
    return set(names[:size])


def read_results(folder: Path, modules: Iterable[str], sample: set[str] | None = None) -> Iterator[Module]:
    """Yield the recorded results of each module that has mutants, or has some in the sample."""
    with contextlib.chdir(folder):
        for path in modules:
            data = recorded(Path(), path)
            codes = {
                name: code
                for name, code in data["exit_code_by_key"].items()
                if sample is None or name in sample
            }
            tested = {name: status_by_exit_code[code] for name, code in codes.items() if code is not None}
            survivors = []
            for name, status in tested.items():
                if status not in KILLED:
                    function, owner = orig_function_and_class_names_from_key(name)
                    change = results.changed_lines(get_diff_for_mutant(name, path=path))
                    survivors.append(Survivor(f"{owner}.{function}" if owner else function, change))
            if codes:
                seconds = sum(data["durations_by_key"].get(name, 0.0) for name in tested)
                yield Module(path, len(tested), len(codes) - len(tested), tuple(survivors), seconds)


def main() -> int:
    """Run the groups of the command line, or all; return 1 if a group is below the rate or unfinished."""
    groups = tomllib.loads((HERE / "groups.toml").read_text())
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"all, or some of: {', '.join(groups)}")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are tested at a time")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="names of mutants: 'mirl_core.algorithm.voting.*'",
    )
    parser.add_argument("--report", action="store_true", help="only show the recorded results")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants of each group, drawn at random")
    options = parser.parse_args()
    if options.sample is not None and (options.sample < 1 or options.only or options.report):
        parser.error("--sample takes a number from 1, and neither --only nor --report")
    if unknown := set(options.groups) - set(groups):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    equivalent = results.read_equivalent((HERE / "equivalent.toml").read_text())
    totals: dict[str, Module] = {}
    for group in options.groups or groups:
        sources, tests = files(groups[group]["sources"]), files(groups[group]["tests"])
        folder = BUILD / group
        roots = {str(path.relative_to(import_root(path))): import_root(path) for path in sources}
        folder.mkdir(parents=True, exist_ok=True)
        arguments, sample = [f"--max-children={options.jobs}"], None
        if options.sample:
            sample = run_sample(folder, roots, tests, arguments, options.sample)
        elif not options.report:
            run_mutmut(folder, roots, tests, [*arguments, *options.only])
        modules = list(read_results(folder, roots, sample))
        totals[group] = results.merged(group, modules)
        same = equivalent.setdefault(group, set())
        (folder / "survived.toml").write_text(results.as_entries(group, modules, same))
        table = [results.row(module, same) for module in [*modules, totals[group]]]
        print("\n".join([results.HEADER, *table, ""]), flush=True)
        if sample:
            print(f"{group}: {results.estimate(totals[group], same)}\n", flush=True)
    for line in [] if options.sample else results.stale(totals, equivalent):
        print(line)
    below = [name for name, total in totals.items() if results.kill_rate(total, equivalent[name]) < REQUIRED]
    unfinished = [f"{name} ({total.untested} left)" for name, total in totals.items() if total.untested]
    print(f"below {REQUIRED:.0f}%: {', '.join(below) or 'none'}")
    print(f"unfinished: {', '.join(unfinished) or 'none'}")
    return 1 if below or unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
