"""The recipe of a reinforcement-learning run: one pydantic tree, unknown keys rejected.

The docstring under each field is its documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mirl_core.config import EstimatorName, GateName, Settings

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class DataConfig(Settings):
    """What is asked during training."""

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("digits/iid",)
    """Data sets, as for `mirl-eval`: `digits/iid`, `easy-vqa`, FILE.jsonl, `hf:NAME`. Mixed evenly."""
    part: str = "train"
    """Which part of them."""
    limit: PositiveInt | None = None
    """At most so many questions a set; None: all (a world has no end: 20,000)."""
    questions: PositiveInt = 8
    """Questions a step, over all ranks."""
    mapping: Path | None = None
    """A YAML file that says what is in which column, for `hf:` sets."""


class RolloutConfig(Settings):
    """How trajectories are sampled."""

    descriptions: PositiveInt = 10
    """N, of the planner `mirl`."""
    keep: PositiveInt = 6
    """k, of the planner `mirl`."""
    forks: PositiveInt = 2
    """m, of the planner `mirl`."""
    gate: GateName = "mi"
    """Which descriptions are continued: by the policy's own MI, `confidence`, `random`, `none`."""
    mi_weight: NotNegative = 1.0
    """λ of the gate."""
    clip: Positive | None = None
    """Bound of a token's log-ratio in the gate; nats."""
    normalize: Literal["token", "sum"] = "token"
    """Whether the gate ranks per token."""
    fork_image: Literal["keep", "drop"] = "keep"
    """Whether chains see the image."""
    trajectories: PositiveInt = 16
    """G, of the planner `grpo`: complete trajectories a question."""
    description_tokens: PositiveInt = 128
    """Longest description; a longer one is truncated, and is worth what invalid ones are."""
    max_tokens: PositiveInt = 512
    """Longest trajectory, description included."""
    temperature: Annotated[float, Field(ge=1, le=1)] = 1.0
    """Sampling is from the policy itself: ratios need log-probabilities at the sampling temperature."""
    asynchronous: bool = False
    """Sample the next step's batch with the old weights while this one is trained on (staleness 1)."""
    serial: bool = False
    """One question at a time, one branch at a time: exactly repeatable on the CPU, slower."""
    engine: str = "in-process"
    """Where rollouts run: `in-process` vLLM, or the base URL of a vLLM server (several with commas)."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Fields of vLLM's `AsyncEngineArgs`, for `in-process`. With `weight_transfer_config: {backend: ipc}` (or
    `nccl`) weights go to the engine by that way, else through a file."""
    weights: Literal["folder", "nccl"] = "folder"
    """How weights reach servers: through a folder, or by NCCL from the first rank's GPU to theirs. They must
    have been started for `nccl`: `--weight-transfer-config '{"backend": "nccl"}'`."""
    weights_folder: Path | None = None
    """That folder, or the one for an engine in process, under a path that trainer and servers share; one in
    memory (`/dev/shm/…`) is fastest. What it holds is deleted. None: in the run's own folder."""
    weights_address: str | None = None
    """Where servers meet the first rank for `nccl`: `HOST`, `HOST:PORT` or `:PORT`, an IPv4 address or name
    of its machine. What isn't given: the address from which it reaches them, and any free port."""


class MIReward(Settings):
    """Mutual information of a description with its image, in nats."""

    weight: NotNegative = 1.0
    """λ: weight of the image-free term."""
    estimator: EstimatorName = "text"
    """The image-free term."""
    scorer: Literal["frozen", "policy"] = "frozen"
    """Whose probabilities: a frozen copy of the start, or the policy itself (which can then reward itself
    for odd strings)."""
    normalize: Literal["token", "sum"] = "token"
    """Reward per content token, or the sum."""
    clip: Positive | None = 4.0
    """Bound of a token's log-ratio; nats."""
    invalid: float | None = None
    """Reward of truncated, empty, unparsable or degenerate descriptions; None: the lowest of the group."""
    max_repetition: Share = 0.5
    """A description of 8 or more content tokens is degenerate if more than this share of its 4-grams repeat
    an earlier one."""


class AnswerReward(Settings):
    """One reward of a whole chain."""

    kind: Literal["exact", "numeric", "math", "format", "callable"] = "exact"
    """`exact` (the same answer after normalisation, or by the data set's own rule), `numeric` (equal numbers
    within `tolerance`), `math` (equal expressions), `format` (all tags in place), `callable`."""
    weight: float = 1.0
    """Rewards of several kinds are added with these weights."""
    tolerance: NotNegative = 0.0
    """Of `numeric`, relative."""
    target: str | None = None
    """Of `callable`: `package.module:function`, called with (question, answer or None, text) → float."""

    @model_validator(mode="after")
    def _target(self) -> AnswerReward:
        if (self.kind == "callable") != (self.target is not None):
            raise ValueError("target belongs to kind 'callable', and 'callable' needs one")
        return self


class RewardConfig(Settings):
    """What is rewarded, and which tokens get the credit."""

    description: Literal["mi", "answer", "none"] = "mi"
    """What a description's own tokens are rewarded by: its MI, the mean reward of its chains (only of those
    that were kept), or nothing. Of the planner `mirl`."""
    mi: MIReward = MIReward()
    """The MI reward."""
    answer: Annotated[tuple[AnswerReward, ...], Field(min_length=1)] = (AnswerReward(),)
    """The chains' rewards."""
    credit: Literal["decoupled", "shared"] = "decoupled"
    """`decoupled`: descriptions and reasoning have rewards of their own. `shared` (an ablation): every
    chain's whole trajectory is trained on the sum of both advantages."""
    baseline: Literal["prompt", "description"] = "prompt"
    """Chains are compared with all chains of the question, or with those of the same description."""
    scale: Literal["group", "none"] = "group"
    """Divide advantages by the group's standard deviation, or not (Dr. GRPO)."""
    mi_floor: NotNegative = 0.05
    """Least deviation that MI advantages are divided by: rounding is not signal; nats."""
    answer_floor: NotNegative = 1e-4
    """Least deviation that answer advantages are divided by."""


class LoRAConfig(Settings):
    """Low-rank adapters instead of all weights (peft)."""

    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """Scale of the adapters."""
    dropout: Share = 0.0
    """Dropout within the adapters; anything above 0 makes the trainer's policy differ from the sampler's."""
    targets: tuple[str, ...] | str = "all-linear"
    """Module names, or `all-linear` (the language model's)."""


class OptimizerConfig(Settings):
    """The update."""

    learning_rate: Positive = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to a tenth."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: NotNegative = 0.0
    """AdamW's, of matrices."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    stop_grad_norm: Positive | None = 1e4
    """A norm above this, before clipping, stops the run with a checkpoint, as NaN does: the loss explodes."""
    clip_low: Share = 0.2
    """Ratios below 1 − this stop counting."""
    clip_high: Positive = 0.2
    """Ratios above 1 + this stop counting."""
    kl: NotNegative = 0.0
    """Weight of the KL divergence to the frozen start; a token, in nats."""
    importance_cap: Positive | None = 2.0
    """Truncation of the per-token importance weight trainer / sampler; None: no correction."""
    normalization: Literal["token", "sequence", "constant"] = "token"
    """Within a segment: by its tokens in the whole step, by row then token, or by rows × `max_tokens`."""
    description_weight: NotNegative = 1.0
    """Weight of the description segment's loss."""
    reasoning_weight: NotNegative = 1.0
    """Weight of the reasoning segment's loss (and of whole trajectories)."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of rollouts: it is split into so many."""
    accumulate: PositiveInt = 1
    """Forward passes an optimiser step: rows are split into so many, by length."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    head_chunk: PositiveInt = 1024
    """Positions that are put through the LM head at once: full logits are the memory cost."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; master weights and optimiser state are float32."""
    freeze: tuple[str, ...] = ()
    """Regular expressions of parameter names that are not trained."""
    lora: LoRAConfig | None = None
    """Train adapters instead of all weights."""
    sharding: Literal["none", "fsdp2"] = "none"
    """With several ranks: replicate (DDP), or shard parameters, gradients and optimiser state."""


class CheckpointConfig(Settings):
    """What is kept, for resuming and for use."""

    every: PositiveInt = 20
    """Steps between checkpoints. SIGTERM and a failed step leave one in any case."""
    keep: PositiveInt = 2
    """How many resumable checkpoints stay; the oldest go first."""
    export_every: PositiveInt | None = None
    """Steps between Hugging Face folders under `export/` that stay; the final one is always written."""


class EvaluationConfig(Settings):
    """A look at dev data during training: one sampled trajectory a question."""

    every: PositiveInt = 20
    """Steps between looks; also at the start and the end."""
    sets: tuple[str, ...] = ()
    """Data sets; none: no looks."""
    part: str = "dev"
    """Which part of them."""
    n: PositiveInt = 200
    """Questions a set."""
    seed: int = 0
    """Which questions, where there are more, and of their samples: the same in runs of several seeds."""


class LogConfig(Settings):
    """What is written beside metrics.jsonl, which always is."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""
    trajectories_every: PositiveInt = 10
    """Steps between samples of trajectories (trajectories.jsonl, read by `mirl-train report`)."""


class RLRecipe(Settings):
    """One run of `mirl-train rl`."""

    model: str
    """Folder or hub name of the start: the policy, the frozen scorer and the KL reference; `bundled` is the
    bundled model, `bundled-start` the same less trained."""
    output: Path
    """Folder of the run: checkpoints, metrics, export. Run the same command again to resume."""
    planner: Literal["mirl", "grpo"] = "mirl"
    """`mirl`: gated forks with separate rewards. `grpo`: complete trajectories, correctness on all tokens."""
    seed: int = 0
    """Of data order and sampling."""
    steps: PositiveInt = 100
    """Batches of rollouts."""
    data: DataConfig = DataConfig()
    """What is asked."""
    rollout: RolloutConfig = RolloutConfig()
    """How trajectories are sampled."""
    rewards: RewardConfig = RewardConfig()
    """What they are worth."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The update."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """DevEvaluation at dev data."""
    log: LogConfig = LogConfig()
    """What is written."""
    assumed_parameters: PositiveInt | None = None
    """Only for the estimate of `--dry-run`: how large a model is that isn't on this machine."""
