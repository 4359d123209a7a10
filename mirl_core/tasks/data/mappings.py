"""Column mappings of Hugging Face data sets, and the ready ones.

The sources of the ready mappings' columns are in docs/evaluation-data.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mirl_core.config import Settings, first_problem
from mirl_core.errors import ConfigError


class Mapping(Settings):
    """Columns of a data set. `a.b` is field b of the struct a."""

    path: str = ""
    """The data set's name on the hub, or a folder of its files; `hf:PATH` gives it too."""
    configs: tuple[str, ...] = ()
    """The configurations (subsets) to read, one after another; empty: the only one."""
    splits: Annotated[dict[str, str], Field(min_length=1)] = {"test": "test"}  # noqa: RUF012  pydantic copies it
    """Part (`dev`, `test`, …) → split."""
    where: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
    """Column → values: rows with another value (as text) are left out."""
    image: Annotated[tuple[str, ...], Field(min_length=1)] = ("image",)
    """Columns of pictures: image features, bytes, base64 or data URLs; a list of those; empty cells are
    skipped."""
    question: str = "question"
    """Column of the question's text."""
    template: str = "{question}\n{choices}"
    """The user's text: `{choices}` are lines `A. …`, any other name in braces is a column."""
    answer: str = "answer"
    """Column of the truth. A list (in a row without choices) holds several truths, each of them right."""
    answer_form: Literal["letter", "index", "text"] = "text"
    """Form of the answer in a row with choices: an option's letter, its index from 0, or its text."""
    answers: dict[str, str] = {}  # noqa: RUF012
    """Other words for some answers, such as {"1": "yes", "0": "no"}."""
    choices: str | tuple[str, ...] | None = None
    """A list column; a column of text to be parsed (a list as Python or JSON writes it, or `A: … B: …`); or
    one column an option."""
    choices_in_question: bool = False
    """Whether the question's text contains its choices; they are then parsed only to recognise answers."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """A number is right if it differs from the truth by at most this share of it (ChartQA: 0.05)."""
    precision: str | None = None
    """Column of a number of decimals: a number is right if it equals the truth once rounded to them."""
    key: tuple[str, ...] = ()
    """Columns whose values name a row; empty: the row's number."""
    family: str | None = None
    """Column of the kind of question."""
    cluster: tuple[str, ...] = ()
    """Columns that are equal in rows that belong together (one picture or problem), for the intervals."""


_MMMU_SUBJECTS = (
    "Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory",
    "Basic_Medical_Science", "Biology", "Chemistry", "Clinical_Medicine", "Computer_Science", "Design",
    "Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics", "Energy_and_Power", "Finance",
    "Geography", "History", "Literature", "Manage", "Marketing", "Materials", "Math",
    "Mechanical_Engineering", "Music", "Pharmacy", "Physics", "Psychology", "Public_Health", "Sociology",
)  # fmt: skip

READY: dict[str, Mapping] = {
    "mathvista": Mapping(
        path="AI4Math/MathVista",
        splits={"test": "testmini"},
        image=("decoded_image",),
        # The published prompt: a hint at the form of the answer, the question, the unit, the choices.
        question="query",
        choices="choices",
        choices_in_question=True,
        precision="precision",
        key=("pid",),
        family="metadata.task",
    ),
    "mathverse": Mapping(
        path="AI4Math/MathVerse",
        configs=("testmini",),
        splits={"test": "testmini"},
        # `question` is empty where the question stands in the picture ("Vision Only").
        question="query_cot",
        choices="question_for_eval",
        choices_in_question=True,
        answer_form="letter",
        key=("sample_index",),
        family="problem_version",
        cluster=("problem_index",),
    ),
    "mathvision": Mapping(
        path="MathLLMs/MathVision",
        splits={"test": "test", "testmini": "testmini"},
        image=("decoded_image",),
        choices="options",
        answer_form="letter",
        key=("id",),
        family="subject",
    ),
    "mmmu": Mapping(
        path="MMMU/MMMU",
        configs=_MMMU_SUBJECTS,
        # The published test split has no answers.
        splits={"dev": "dev", "test": "validation"},
        image=tuple(f"image_{number}" for number in range(1, 8)),
        choices="options",
        answer_form="letter",
        key=("id",),
        family="subfield",
    ),
    "mmstar": Mapping(
        path="Lin-Chen/MMStar",
        splits={"test": "val"},
        choices="question",
        choices_in_question=True,
        answer_form="letter",
        key=("index",),
        family="category",
    ),
    "hallusionbench": Mapping(
        path="lmms-lab/HallusionBench",
        splits={"test": "image"},
        answer="gt_answer",
        answers={"1": "yes", "0": "no"},
        key=("category", "subcategory", "set_id", "figure_id", "question_id"),
        family="subcategory",
        cluster=("category", "subcategory", "set_id"),
    ),
    "pope": Mapping(
        path="lmms-lab/POPE",
        splits={"test": "test"},
        key=("id",),
        family="category",
        cluster=("image_source",),
    ),
    "chartqa": Mapping(
        path="HuggingFaceM4/ChartQA",
        splits={"train": "train", "dev": "val", "test": "test"},
        question="query",
        answer="label",
        tolerance=0.05,
        family="human_or_machine",
    ),
}


def read_mapping(path: str | Path, base: Mapping) -> Mapping:
    """Return `base`, or the ready mapping that the file names as `like`, with a YAML file's keys changed.

    The path is always that of `base`.

    Raises:
        ConfigError: the file can't be read, or a key in it is unknown or out of range.
    """
    import yaml

    try:
        keys: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"mapping: can't read {path}: {reason}", param="mapping") from error
    if not isinstance(keys, dict):
        raise ConfigError(f"mapping: {path} must hold keys such as 'question: query'", param="mapping")
    like = keys.pop("like", None)
    if like is not None:
        if like not in READY:
            raise ConfigError(f"mapping: {path}: like: '{like}' is none of {', '.join(READY)}", param="like")
        base = READY[like].model_copy(update={"path": base.path})
    try:
        return Mapping.model_validate(base.model_dump() | keys)
    except ValidationError as error:
        message, where = first_problem(error, Mapping)
        raise ConfigError(f"mapping: {path}: {message}", param=where) from error
