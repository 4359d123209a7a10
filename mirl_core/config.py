"""Settings: a request's options, a model's defaults, the operator's limits. Unknown keys fail.

The docstring under each field is its documentation: the server's API reference and docs/configuration.md are
generated from it.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mirl_core.errors import ConfigError, RequestError
from mirl_core.presets import PRESETS, PresetName

GateName = Literal["mi", "confidence", "random", "none"]
EstimatorName = Literal["text", "blank", "reference"]
Aggregation = Literal["auto", "majority", "mi_weighted", "best"]
DIRECT = ":direct"
"""The suffix of a served name that stands for the same model without the gate."""


def _weight(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    """Report one problem at the field itself; a union reports one for each of its members."""
    # pydantic reads True as 1.0; nobody means that as λ.
    if not isinstance(value, bool):
        with suppress(ValidationError):
            return validate(value)
    raise PydanticCustomError("mi_weight", "Input should be a number of at least 0, or 'auto'")


def _no_bool(value: object) -> object:
    """Refuse a bool, which pydantic reads as a number, as `_weight` does."""
    if isinstance(value, bool):
        raise PydanticCustomError("weight", "Input should be a number of at least 0")
    return value


MIWeight = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"], WrapValidator(_weight)
]


def listed(value: object) -> object:
    """Split `a, b`, the environment's form, into a list; return any other value unchanged."""
    return [item for item in re.split(r"[\s,]+", value) if item] if isinstance(value, str) else value


class Settings(BaseModel):
    """Base of every settings model: unknown keys fail, values are frozen, docstrings describe fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MIRLOptions(Settings):
    """One request's options: `extra_body={"mirl": {...}}` in an OpenAI client."""

    preset: PresetName | None = None
    """A named set of options, under those beside it: `paper`, `gate` and `waves` sample and gate;
    `steered`, `triple` and `fast` decode contrastively."""
    contrast: Annotated[
        tuple[Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_no_bool)], ...],
        Field(max_length=8),
    ] = ()
    """λ of each description that is decoded instead of sampled: greedy over
    log p(t | image, question) − λ · log p(t | question). Empty: descriptions are sampled and gated. With it,
    the options of the gate (`keep`, `forks`, `adaptive_keep`, `gate`, `distinct`, `waves`) don't apply."""
    prior_votes: tuple[Annotated[int, Field(ge=1, le=16)], ...] = ()
    """Votes of each decoded description, in the order of `contrast`; empty: one each."""
    descriptions: Annotated[int, Field(ge=0)] = 10
    """N: how many descriptions to sample. With `contrast` at most so many, after the decoded ones and while
    the vote is open; 0: only decoded ones."""
    keep: Annotated[int, Field(ge=1)] = 6
    """k: how many descriptions the gate keeps."""
    forks: Annotated[int, Field(ge=1)] = 2
    """m: reasoning chains per kept description."""
    adaptive_keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keep fewer than `keep` descriptions once their softmax mass reaches this; None: always k."""
    gate: GateName = "mi"
    """How to rank descriptions: `mi`, `confidence` (λ = 0), `random`, `none` (every description goes on)."""
    estimator: EstimatorName = "text"
    """The image-free term: `text` (images removed), `blank` (mean-colour image), `reference`."""
    mi_weight: MIWeight = 1.0
    """λ: weight of the image-free term. 1 is mutual information, 0 plain confidence, `auto` the share of the
    descriptions' surprise that the image explains."""
    normalize: Literal["token", "sum"] = "token"
    """Rank by MI per content token, or by the plain sum."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Clip every per-token log-ratio to ±this many nats; None: no clipping."""
    distinct: bool = False
    """Rank distinct descriptions instead of samples."""
    fork_image: Literal["keep", "drop"] = "keep"
    """Whether chains still see the image. `drop` makes them depend on the description alone."""
    aggregate: Aggregation = "auto"
    """How chains become one answer: `majority`, `mi_weighted`, `best`; `auto` chooses by the answers."""
    early_stop: bool = True
    """Abort the remaining chains once none of them can change the winner; with `contrast` or `waves` all that
    still runs, once the vote is certain enough."""
    plausibility: Annotated[float, Field(gt=0, le=1)] = 0.1
    """A decoded token is at least this share as likely, given the image, as the likeliest one."""
    lookahead: Annotated[int, Field(ge=1)] = 8
    """A decoded token takes the place of a likelier one if that pays over so many tokens; 1: the token alone
    decides, as in plain contrastive decoding."""
    certainty: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """The vote is certain enough once the leading answer stays ahead of the second with this probability."""
    waves: bool = False
    """Start `wave` of a gated request's chains, those of the best descriptions, and the others only while the
    vote is not certain enough; else all at once."""
    wave: Annotated[int, Field(ge=1)] = 2
    """Sequences that start together: first chains with `waves`, samples with `contrast`."""
    ahead: Annotated[int, Field(ge=0)] = 0
    """Descriptions sampled beside the decoded ones, before the vote needs them: less time, more tokens."""
    draft_tokens: Annotated[int, Field(ge=1)] = 8
    """Tokens of a decoded description that are drafted before they are verified without the image."""
    share_chains: bool = True
    """Equal descriptions share one chain, which has all their votes; `false`: every vote has a chain. For
    models whose reasoning slips: two chains of one description often give different answers."""
    description_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest description; tokens. A longer one is truncated and dropped."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which the best vote so far is returned, marked partial."""
    max_total_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens sampled for this request, all descriptions and chains of all its answers (`n`) together."""
    token_mi: bool = False
    """Also return every description's MI per token, with the tokens' texts."""

    @property
    def steered(self) -> bool:
        """Whether descriptions are decoded contrastively instead of gated."""
        return bool(self.contrast)

    @property
    def votes(self) -> tuple[int, ...]:
        """Votes of each decoded description, in the order of `contrast`."""
        return self.prior_votes or (1,) * len(self.contrast)

    @property
    def most_descriptions(self) -> int:
        """How many descriptions there may be, decoded and sampled."""
        return len(self.contrast) + self.descriptions

    @model_validator(mode="before")
    @classmethod
    def _under_own(cls, values: Any) -> Any:
        """Put the preset's options under those beside it."""
        preset = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(preset, str) or preset not in PRESETS:
            return values
        # Its votes are those of its own decoded descriptions.
        votes = {"prior_votes": ()} if "contrast" in values else {}
        return {**PRESETS[preset], **votes, **values}

    @field_validator("prior_votes")
    @classmethod
    def _as_many_as_contrast(cls, votes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        decoded = len(info.data.get("contrast", votes))
        if votes and len(votes) != decoded:
            raise PydanticCustomError(
                "prior_votes",
                "Input should have a number of votes for each of the {decoded} values of contrast",
                {"decoded": decoded},
            )
        return votes

    @field_validator("descriptions")
    @classmethod
    def _some_description(cls, descriptions: int, info: ValidationInfo) -> int:
        if not descriptions and not info.data.get("contrast", True):
            raise PydanticCustomError("descriptions", "Input should be at least 1 where contrast is empty")
        return descriptions

    @classmethod
    def parse(cls, value: object, defaults: MIRLOptions | None = None) -> MIRLOptions:
        """Return the options of a request's `mirl` object, over `defaults`.

        Raises:
            RequestError: a key is unknown or a value is out of range; `param` is `mirl.<key>`.
        """
        if value is None:
            return defaults or cls()
        if not isinstance(value, dict):
            raise RequestError('mirl must be an object such as {"keep": 4}', param="mirl")
        base = defaults.model_dump() if defaults else {}
        preset = value.get("preset")
        if isinstance(preset, str) and preset in PRESETS:
            # The request's preset counts more than the defaults, which name all options.
            base |= PRESETS[preset]
        if "contrast" in value:
            # The votes below are those of other decoded descriptions.
            base["prior_votes"] = ()
        try:
            return cls.model_validate(base | value)
        except ValidationError as error:
            message, field = first_problem(error, cls)
            raise RequestError(message, param=f"mirl.{field}") from error


class Tags(Settings):
    """The markup of a trajectory's segments."""

    description: tuple[str, str] = ("<description>", "</description>")
    reasoning: tuple[str, str] = ("<think>", "</think>")
    answer: tuple[str, str] = ("<answer>", "</answer>")


DEFAULT_INSTRUCTION = (
    "First look: describe what in the image matters for the question, briefly and concretely, inside "
    "<description> and </description>. Then reason step by step inside <think> and </think>. "
    "Give the final answer alone inside <answer> and </answer>."
)


class Calibration(Settings):
    """Weights that turn a vote into a probability, as logits; see `mirl_core.algorithm.confidence`."""

    intercept: Annotated[float, Field(allow_inf_nan=False)]
    """Logit where both shares are 0."""
    vote_share: Annotated[float, Field(allow_inf_nan=False)]
    """Weight of the winner's share of the vote."""
    distinct_share: Annotated[float, Field(allow_inf_nan=False)]
    """Weight of the share of distinct descriptions among the usable ones."""
    least_logprob: Annotated[float, Field(le=0, allow_inf_nan=False)] | None = None
    """Least log p(d | I, q) per token of a familiar request's descriptions, nats. The confidence of a request
    beyond this bound or one of the next two is not called calibrated; None: no bound."""
    least_mi: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Least MI per token of a familiar request's descriptions, nats, under the model's options."""
    most_unusable: Annotated[float, Field(ge=0, le=1)] | None = None
    """Largest share of unusable descriptions of a familiar request."""


class ModelSettings(Settings):
    """A model's settings: the `mirl.json` beside its weights. Without that file the paper's values hold."""

    tags: Tags = Tags()
    """Markup of the segments."""
    instruction: str = DEFAULT_INSTRUCTION
    """Appended to the newest user message of a gated request; empty for a model trained on the format."""
    lenient: bool = False
    """Whether descriptions are read leniently, for a model that was never trained on the tags: one may end
    with another spelling of its closing tag, with the next segment's tag or with the turn."""
    options: MIRLOptions = MIRLOptions()
    """Defaults of a request's options."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature where the request gives none."""
    reference_images: tuple[str, ...] = ()
    """Files for the `reference` estimator, relative to `mirl.json`. Never images of other requests."""
    calibration: Calibration | None = None
    """Confidence is the calibrated probability that the answer is right; None: the raw vote share. Fitted for
    these weights and `options`: `mirl-eval calibrate --confidence-only` fits it anew for others."""

    @classmethod
    def load(cls, model: str | Path) -> ModelSettings | None:
        """Return the settings of the model in folder `model`; None where it has no `mirl.json`.

        Raises:
            ConfigError: the file can't be read, or a key in it is unknown or out of range.
        """
        path = Path(model) / "mirl.json"
        if not path.is_file():
            return None
        try:
            settings = cls.model_validate(json.loads(path.read_text(encoding="utf-8-sig")))
        except ValidationError as error:
            message, field = first_problem(error, cls)
            raise ConfigError(f"{path}: {message}", param=field) from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not readable JSON: {error}") from error
        absolute = tuple(str((path.parent / name).resolve()) for name in settings.reference_images)
        return settings.model_copy(update={"reference_images": absolute})


class Limits(Settings):
    """The operator's limits on one request."""

    max_descriptions: Annotated[int, Field(ge=1)] = 32
    """Largest N, decoded descriptions included."""
    max_keep: Annotated[int, Field(ge=1)] = 32
    """Largest k."""
    max_forks: Annotated[int, Field(ge=1)] = 16
    """Largest m."""
    max_choices: Annotated[int, Field(ge=1)] = 8
    """Largest `n`: answers to one request, each with its own N, k and m."""
    max_total_tokens: Annotated[int, Field(ge=1)] = 65536
    """Most tokens one request may sample."""
    max_images: Annotated[int, Field(ge=1)] = 8
    """Most images in one conversation."""
    max_image_bytes: Annotated[int, Field(ge=1)] = 20 * 2**20
    """Largest encoded image; bytes."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 40_000_000
    """Largest decoded image; pixels."""
    max_total_image_bytes: Annotated[int, Field(ge=1)] = 50 * 2**20
    """Most bytes of all encoded images of one request together."""
    max_total_image_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    """Most pixels of all decoded images of one request together."""

    def check(self, options: MIRLOptions) -> None:
        """Raise RequestError naming the first option above its limit."""
        for name, value, limit in (
            ("descriptions", options.most_descriptions, self.max_descriptions),
            ("keep", options.keep, self.max_keep),
            ("forks", options.forks, self.max_forks),
            ("max_total_tokens", options.max_total_tokens, self.max_total_tokens),
        ):
            if value is not None and value > limit:
                raise RequestError(
                    f"mirl.{name} is {value}; this server allows at most {limit}", param=f"mirl.{name}"
                )


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Return the first problem of a ValidationError as (one sentence with the remedy, dotted field)."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown_key(field, _owner(model, problem["loc"])), field
    where = f"{field}: " if field else ""
    return f"{where}{problem['msg']} (got {problem.get('input')!r:.80})", field


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field holds, optional or not; None for values, lists and dicts."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [member for member in get_args(kind) if member is not type(None)]
        kind = kinds[0] if len(kinds) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _owner(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that the last key of a path belongs to; None below lists and dicts."""
    owner: type[BaseModel] | None = model
    for part in path[:-1]:
        field = owner.model_fields.get(str(part)) if owner else None
        owner = nested_model(field) if field else None
    return owner


def _unknown_key(field: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return f"unknown key '{field}'; known keys: see the documentation"
    known = sorted(owner.model_fields)
    meant = difflib.get_close_matches(field.rpartition(".")[2], known, n=1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return f"unknown key '{field}'; known keys: {', '.join(known)}{hint}"
