"""The recipe of a reinforcement-learning run: one pydantic tree, unknown keys rejected.

The docstring under each field is its documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mirl_core.config import EstimatorName, GateName, MIRLOptions, Settings

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class DataConfig(Settings):
    """The questions of training."""

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("digits/iid",)
    """Data sets, as for `mirl-eval`: `digits/iid`, `easy-vqa`, FILE.jsonl, `hf:NAME`. Mixed evenly."""
    part: str = "train"
    """The part of each data set."""
    limit: PositiveInt | None = None
    """Maximum number of questions per set; None: all (of a world, which has no end: 20,000)."""
    questions: PositiveInt = 8
    """Questions per step, over all ranks."""
    mapping: Path | None = None
    """A YAML file that maps columns to fields, for `hf:` sets."""


class RolloutConfig(Settings):
    """Sampling of trajectories."""

    descriptions: PositiveInt = 10
    """N: descriptions per question; planner `mirl`."""
    keep: PositiveInt = 6
    """k: descriptions that the gate keeps; planner `mirl`."""
    forks: PositiveInt = 2
    """m: chains per kept description; planner `mirl`."""
    gate: GateName = "mi"
    """Which descriptions are continued: by the policy's own MI (`mi`), `confidence`, `random`, `none`."""
    mi_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """λ: weight of the image-free term in the gate."""
    clip: Positive | None = None
    """Bound of a token's log-ratio in the gate; nats."""
    normalize: Literal["token", "sum"] = "token"
    """Whether the gate ranks by MI per token, or by the sum."""
    fork_image: Literal["keep", "drop"] = "keep"
    """Whether chains see the image."""
    trajectories: PositiveInt = 16
    """G: complete trajectories per question; planner `grpo`."""
    description_tokens: PositiveInt = 128
    """Longest description, in tokens; a longer one is truncated and gets the reward of an invalid one."""
    max_tokens: PositiveInt = 512
    """Longest trajectory, in tokens, description included."""
    temperature: Annotated[float, Field(ge=1, le=1)] = 1.0
    """Always 1: ratios need log-probabilities at the sampling temperature, so the policy itself is
    sampled."""
    asynchronous: bool = False
    """Sample the next step's batch with the old weights while the current batch is trained on
    (staleness 1)."""
    serial: bool = False
    """Run one question and one branch at a time: exactly repeatable on the CPU, slower."""
    engine: str = "in-process"
    """Where rollouts run: `in-process` vLLM, or the base URL of a vLLM server (several separated by
    commas)."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Fields of vLLM's `AsyncEngineArgs`, for `in-process`. With `weight_transfer_config: {backend: ipc}` (or
    `nccl`) weights go to the engine by that backend, otherwise through a file."""
    weights: Literal["folder", "nccl"] = "folder"
    """How weights reach servers: through a folder, or by NCCL from the first rank's GPU to theirs. For `nccl`
    servers must be started with `--weight-transfer-config '{"backend": "nccl"}'`."""
    weights_folder: Path | None = None
    """Folder for the weights, for servers or an engine in process, under a path that trainer and servers
    share; a folder in memory (`/dev/shm/…`) is fastest. Its content is deleted. None: a folder in the run's
    output."""
    weights_address: str | None = None
    """Where servers meet the first rank for `nccl`: `HOST`, `HOST:PORT` or `:PORT`, an IPv4 address or name
    of the first rank's machine. Default host: the address from which it reaches them; default port: any free
    one."""

    def gated_options(self) -> MIRLOptions:
        """Return the options of the planner `mirl`'s requests."""
        return MIRLOptions(
            descriptions=self.descriptions,
            keep=self.keep,
            forks=self.forks,
            gate=self.gate,
            mi_weight=self.mi_weight,
            clip=self.clip,
            normalize=self.normalize,
            fork_image=self.fork_image,
            description_tokens=self.description_tokens,
            early_stop=False,
            # The vote isn't used, and `best` compares no answers.
            aggregate="best",
        )


class MIReward(Settings):
    """Mutual information of a description with its image, in nats."""

    weight: NotNegative = 1.0
    """λ: weight of the image-free term."""
    estimator: EstimatorName = "text"
    """Estimator of the image-free term."""
    scorer: Literal["frozen", "policy"] = "frozen"
    """Model that scores: a frozen copy of the start, or the policy itself (which can then reward itself for
    odd strings)."""
    normalize: Literal["token", "sum"] = "token"
    """Whether the reward is the MI per content token, or the sum."""
    clip: Positive | None = 4.0
    """Bound of a token's log-ratio; nats."""
    invalid: float | None = None
    """Reward of truncated, empty, unparsable or degenerate descriptions; None: the lowest reward in the
    group."""
    max_repetition: Share = 0.5
    """A description of 8 or more content tokens is degenerate if more than this share of its 4-grams repeat
    an earlier 4-gram."""


class AnswerReward(Settings):
    """A reward of a whole chain."""

    kind: Literal["exact", "numeric", "math", "format", "callable"] = "exact"
    """`exact` (the same answer after normalisation, or by the data set's own rule), `numeric` (equal numbers
    within `tolerance`), `math` (equal expressions), `format` (all tags in place), `callable`."""
    weight: float = 1.0
    """Weight of this reward in the sum of all answer rewards."""
    tolerance: NotNegative = 0.0
    """Relative tolerance of `numeric`."""
    target: str | None = None
    """Function of `callable`: `package.module:function`, called with (question, answer or None, text) →
    float."""

    @model_validator(mode="after")
    def _target(self) -> AnswerReward:
        if (self.kind == "callable") != (self.target is not None):
            raise ValueError("target belongs to kind 'callable', and 'callable' needs one")
        return self


class RewardConfig(Settings):
    """The rewards, and the tokens that get their credit."""

    description: Literal["mi", "answer", "none"] = "mi"
    """Reward of a description's tokens: its MI, the mean reward of its chains (only for kept descriptions),
    or none. Planner `mirl`."""
    mi: MIReward = MIReward()
    """The MI reward."""
    answer: Annotated[tuple[AnswerReward, ...], Field(min_length=1)] = (AnswerReward(),)
    """The rewards of the chains."""
    credit: Literal["decoupled", "shared"] = "decoupled"
    """`decoupled`: descriptions and reasoning have separate rewards. `shared` (an ablation): every chain's
    whole trajectory is trained on the sum of both advantages."""
    baseline: Literal["prompt", "description"] = "prompt"
    """Compare chains with all chains of the question, or with those of the same description."""
    scale: Literal["group", "none"] = "group"
    """Divide advantages by the group's standard deviation, or not (Dr. GRPO)."""
    mi_floor: NotNegative = 0.05
    """Smallest deviation that MI advantages are divided by, since rounding is not signal; nats."""
    answer_floor: NotNegative = 1e-4
    """Smallest deviation that answer advantages are divided by."""


class LoRAConfig(Settings):
    """Low-rank adapters instead of all weights (peft)."""

    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """Scale of the adapters."""
    dropout: Share = 0.0
    """Dropout within the adapters; a value above 0 makes the trainer's policy differ from the sampler's."""
    targets: tuple[str, ...] | str = "all-linear"
    """Module names, or `all-linear` (all linear layers of the language model but its head)."""


class OptimizerConfig(Settings):
    """The update."""

    learning_rate: Positive = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule after the warm-up: constant, or a cosine to a tenth."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Betas of AdamW."""
    weight_decay: NotNegative = 0.0
    """Weight decay of matrices (AdamW)."""
    max_grad_norm: Positive = 1.0
    """Norm to which gradients are clipped."""
    stop_grad_norm: Positive | None = 1e4
    """A gradient norm above this, before clipping, stops the run with a checkpoint, as NaN does: the loss
    explodes."""
    clip_low: Share = 0.2
    """Ratios below 1 − `clip_low` are clipped."""
    clip_high: Positive = 0.2
    """Ratios above 1 + `clip_high` are clipped."""
    kl: NotNegative = 0.0
    """Weight of the KL divergence to the frozen start, which is per token, in nats."""
    importance_cap: Positive | None = 2.0
    """Cap of the per-token importance weight trainer / sampler; None: no correction."""
    normalization: Literal["token", "sequence", "constant"] = "token"
    """Normalisation of a segment's loss: by its tokens in the whole step, by row then token, or by rows ×
    `max_tokens`."""
    description_weight: NotNegative = 1.0
    """Weight of the description segment's loss."""
    reasoning_weight: NotNegative = 1.0
    """Weight of the reasoning segment's loss (and of whole trajectories)."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of rollouts; the batch is split into as many parts."""
    accumulate: PositiveInt = 1
    """Forward passes per optimiser step; its rows are split into as many parts, by length."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    head_chunk: PositiveInt = 1024
    """Positions that go through the LM head at once: full logits dominate the memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the forward pass; master weights and optimiser state are float32."""
    freeze: tuple[str, ...] = ()
    """Regular expressions for names of parameters that are not trained."""
    lora: LoRAConfig | None = None
    """Train adapters instead of all weights."""
    sharding: Literal["none", "fsdp2"] = "none"
    """With several ranks: replicate the model (DDP), or shard parameters, gradients and optimiser state."""


class CheckpointConfig(Settings):
    """Checkpoints for resuming, and exports for use."""

    every: PositiveInt = 20
    """Steps between checkpoints. SIGTERM and a failed step leave a checkpoint in any case."""
    keep: PositiveInt = 2
    """Number of resumable checkpoints that stay; the oldest are deleted first."""
    export_every: PositiveInt | None = None
    """Steps between Hugging Face folders under `export/`, which all stay; the final one is always written."""


class EvaluationConfig(Settings):
    """Evaluation on dev data during training: one sampled trajectory per question."""

    every: PositiveInt = 20
    """Steps between dev evaluations; there is also one at the start and one at the end."""
    sets: tuple[str, ...] = ()
    """Data sets; empty: no dev evaluation."""
    part: str = "dev"
    """The part of each data set."""
    n: PositiveInt = 200
    """Questions per set."""
    seed: int = 0
    """Seed of the choice of questions, where a set has more, and of their samples; keep it equal in runs of
    several seeds."""


class LogConfig(Settings):
    """Logs in addition to metrics.jsonl, which is always written."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""
    trajectories_every: PositiveInt = 10
    """Steps between samples of trajectories (trajectories.jsonl, read by `mirl-train report`)."""


class RLRecipe(Settings):
    """A run of `mirl-train rl`."""

    model: str
    """Folder or hub name of the start: the policy, the frozen scorer and the KL reference; `bundled` is the
    bundled model, `bundled-start` the same model with less training."""
    output: Path
    """Folder of the run: checkpoints, metrics, export. Run the same command again to resume."""
    planner: Literal["mirl", "grpo"] = "mirl"
    """`mirl`: gated forks with separate rewards. `grpo`: complete trajectories, correctness on all tokens."""
    seed: int = 0
    """Seed of data order and sampling."""
    steps: PositiveInt = 100
    """Number of steps; each trains on one batch of rollouts."""
    data: DataConfig = DataConfig()
    """The questions of training."""
    rollout: RolloutConfig = RolloutConfig()
    """Sampling of trajectories."""
    rewards: RewardConfig = RewardConfig()
    """The rewards, and the tokens that get their credit."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The update."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints and exports."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation on dev data."""
    log: LogConfig = LogConfig()
    """Logs."""
    assumed_parameters: PositiveInt | None = None
    """Only for the estimate of `--dry-run`: number of parameters of a model that isn't on this machine."""

    @property
    def description_reward(self) -> Literal["mi", "answer", "none"]:
        """Reward of a description by itself; the planner `grpo` has none, whatever `rewards` says."""
        return self.rewards.description if self.planner == "mirl" else "none"
