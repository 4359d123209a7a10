"""Settings, model facts, questions and bank of a run."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mirl_core.algorithm.mi.estimators import ESTIMATORS
from mirl_core.config import ModelSettings, first_problem
from mirl_core.engines.base import Engine
from mirl_core.errors import ConfigError
from mirl_core.evaluation.bank.fill import fill
from mirl_core.evaluation.bank.identity import other_versions
from mirl_core.evaluation.bank.judge import judged_by
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.records import BankedQuestion
from mirl_core.evaluation.bank.store import Bank
from mirl_core.evaluation.methods import Method, parse_methods
from mirl_core.evaluation.run.needs import plan_for
from mirl_core.evaluation.run.progress import Bars
from mirl_core.families import find_settings
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import DataSet

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OpenEngine", "RunSettings", "RunSetup", "missing"]

OpenEngine = Callable[[], Awaitable[Engine]]
"""Returns the engine; the first call starts it."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The command's options."""

    model: Path
    data: tuple[str, ...]
    methods: str
    output: Path
    live: str = ""
    live_n: int | None = None
    """Number of questions, the first ones, for live runs; None: all."""
    n: int = 1000
    """Questions per data set, at most."""
    skip: int = 0
    """Questions of each data set before them."""
    part: str = "test"
    seed: int = 0
    descriptions: int = 16
    forks: int = 3
    replays: int = 8
    estimators: tuple[str, ...] = ("text", "blank")
    references: int = 8
    """Pictures of the estimator `reference`, where it is among the estimators."""
    contrast: tuple[float, ...] | None = None
    """λ of each description to decode; None: what the methods need."""
    temperatures: tuple[float, ...] | None = None
    """Further temperatures at which to sample; None: what the methods need."""
    fork_image: str | None = None
    """Whether chains see the picture, `keep` or `drop`; None: the model's setting."""
    max_tokens: int = 512
    """Longest trajectory, description and chain; tokens."""
    mapping: Path | None = None
    """YAML file with an `hf:` data set's columns."""
    unlabelled: bool = False
    """Whether a file's questions may lack an answer."""
    browse: int = 100
    """Questions of each data set in `questions.html`; 0: no such page."""
    command: str = ""
    """The command line, for the report."""

    def plan(self, model: ModelSettings) -> BankPlan:
        """Return the bank's plan, without decoded descriptions and further temperatures.

        Raises:
            ConfigError: an estimator is unknown.
        """
        for name in self.estimators:
            if name not in ESTIMATORS:
                raise ConfigError(
                    f"estimators: there is no '{name}'; there are {', '.join(ESTIMATORS)}", param="estimators"
                )
        needed = any(kind.needs_references for name, kind in ESTIMATORS.items() if name in self.estimators)
        return BankPlan.model_validate(
            {
                "descriptions": self.descriptions,
                "forks": self.forks,
                "estimators": self.estimators,
                "references": self.references if needed else 0,
                "seed": self.seed,
                "max_tokens": self.max_tokens,
                "fork_image": self.fork_image or model.options.fork_image,
            }
        ).resolved(model)


class RunSetup:
    """A run's model, data and bank; `fill` samples the questions.

    Raises:
        ConfigError: a data set doesn't exist or is named twice, a method makes no sense, or the bank was
            filled under other conditions.
    """

    def __init__(self, settings: RunSettings, status: Callable[[str], None] = lambda line: None) -> None:
        """Open model facts, questions and bank; `status` shows a line on what takes a while."""
        self.settings = settings
        self._unchecked: dict[str, int] = {}
        self.model_settings = find_settings(settings.model).settings
        self.plan = settings.plan(self.model_settings)
        self.opening_tokens = _opening_tokens(settings.model, self.model_settings)
        self.data = []
        for name in settings.data:
            status(f"reading the questions of {name} …")
            self.data.append(self._open(name))
        twice = {data.name for data in self.data if sum(data.name == other.name for other in self.data) > 1}
        if twice:
            raise ConfigError(f"data: {', '.join(sorted(twice))} comes twice; name it once", param="data")
        self.plan = self._completed(settings.output / "bank")
        self.bank = Bank.open(
            settings.output / "bank", settings.model, self.model_settings, self.plan, settings.part
        )

    def methods(self, text: str) -> tuple[Method, ...]:
        """Return the methods named in `text`, with the costs of this model."""
        settings = self.model_settings
        if self.plan.references:
            # Scoring costs one pass for each of the bank's pictures.
            settings = settings.model_copy(update={"reference_images": ("reference",) * self.plan.references})
        if self.plan.fork_image != settings.options.fork_image:
            # The calibration was fitted on other chains; methods don't know whether the bank's chains see the
            # picture.
            settings = settings.model_copy(update={"calibration": None})
        return parse_methods(text, settings, self.opening_tokens)

    async def fill(self, engine: OpenEngine, bars: Bars) -> None:
        """Sample every question that the bank lacks or holds with another content; `engine` is called only if
        there is one."""
        with self.bank:
            for note in self.bank.notes:
                bars.say(note)
            versions = other_versions(self.bank.header)
            for data in self.data:
                current = self.bank.current(data)
                for note in current.notes(data.name):
                    bars.say(note)
                self._unchecked[data.name] = len(current.unchecked)
                if lacking := missing(data, current.records):
                    while versions:
                        bars.say(versions.pop(0))
                    # Started before the bar, so that the time left is that of the questions.
                    started = await engine()
                    with bars.bar(f"{data.name}: sampling", len(data.questions), missing=lacking) as bar:
                        await fill(
                            self.bank,
                            started,
                            self.model_settings,
                            data,
                            self.plan,
                            self.references(data),
                            progress=bar.at,
                        )

    def banked(self, data: DataSet) -> list[BankedQuestion]:
        """Return the bank's records of the data set's questions, in their order, judged by the present
        truths."""
        records = self.bank.current(data).records
        return [judged_by(records[question.key], question) for question in data.questions]

    def references(self, data: DataSet) -> Sequence[Image]:
        """Return pictures for the estimator `reference`: the model's, or else training pictures of the
        world."""
        if not self.plan.references:
            return ()
        files = self.model_settings.reference_images
        if files:
            if len(files) != self.plan.references:
                raise ConfigError(
                    f"references: the model's mirl.json names {len(files)} pictures; give that many",
                    param="references",
                )
            from PIL import Image as Images

            return tuple(Images.open(file).convert("RGB") for file in files)
        from mirl_core.tasks.data.worlds import references

        return references(data.name, self.plan.references, self.settings.seed)

    def facts(self) -> dict[str, Any]:
        """Return the run's facts for the report, with the names of folders instead of their paths."""
        header = self.bank.header
        plain = self.model_settings.model_dump(mode="json")
        plain["reference_images"] = [Path(name).name for name in plain["reference_images"]]
        return {
            "model": _model_name(self.settings.model),
            "fingerprint": header["model"],
            "versions": {"python": platform.python_version(), **header.get("versions", {})},
            "settings": plain,
            "part": self.settings.part,
            "seed": self.settings.seed,
            "draws": self.settings.replays,
            "bank": header["plan"],
            "unchecked_pictures": {name: count for name, count in self._unchecked.items() if count},
            "opening_tokens": self.opening_tokens,
            "command": self.settings.command,
        }

    def _completed(self, folder: Path) -> BankPlan:
        """Return the plan with what the run's methods need besides sampled descriptions and their chains."""
        settings = self.settings
        methods = self.methods(settings.methods) + (self.methods(settings.live) if settings.live else ())
        banked = Bank.existing(folder).plan if (folder / "bank.json").exists() else None
        try:
            plan = plan_for(
                methods,
                self.plan,
                banked,
                contrast=settings.contrast,
                temperatures=settings.temperatures,
            )
        except ValidationError as error:
            message, field = first_problem(error, BankPlan)
            raise ConfigError(message, param=field.partition(".")[0]) from error
        return plan.resolved(self.model_settings)

    def _open(self, name: str) -> DataSet:
        settings = self.settings
        mapping = settings.mapping if name.startswith("hf:") else None
        data = open_data(
            name,
            settings.part,
            settings.n,
            settings.seed,
            mapping,
            skip=settings.skip,
            unlabelled=settings.unlabelled,
        )
        return replace(data, name=_short(data.name))


def _model_name(model: Path) -> str:
    """Return the model's folder name; for a model that ships with MIRL, its name."""
    from mirl_core.bundled import MODELS

    names = {bundled.path.resolve(): bundled.name for bundled in MODELS.values()}
    return names.get(model.resolve(), model.resolve().name)


def _short(data: str) -> str:
    """Return a data set's name, of a file or folder without its parent folders."""
    if data.endswith((".jsonl", ".ndjson")):
        return Path(data).name
    kind, colon, name = data.partition(":")
    return f"{kind}:{Path(name).name}" if colon and Path(name).exists() else data


def _opening_tokens(model: Path, settings: ModelSettings) -> int:
    """Return the length of the description's opening tag, which is scored with every description; tokens.

    1 where the folder has no `tokenizer.json`: the true number then needs the model.
    """
    file = model / "tokenizer.json"
    if not file.is_file():
        return 1
    from tokenizers import Tokenizer

    tag = settings.tags.description[0]
    return len(Tokenizer.from_file(str(file)).encode(tag, add_special_tokens=False).ids)


def missing(data: DataSet, banked_keys: Container[str]) -> int:
    """Return the number of the data set's questions whose keys are not in `banked_keys`."""
    return sum(question.key not in banked_keys for question in data.questions)
