"""The policy: the same log-probabilities as the engines', whichever way they are computed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.errors import ConfigError
from mirl_core.training.rl.model.encoding import prompt_inputs
from mirl_core.training.rl.model.policy import Policy
from tests.unit.training.rl.model.policy_cases import (
    conversation,
    furthest,
    gradients,
    make_policy,
    make_row,
    make_rows,
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


@pytest.mark.parametrize("prompts_once", [True, False])
async def test_logprobs_equal_the_engine_s_scores(bundled_model: Path, prompts_once: bool) -> None:
    policy = make_policy(prompts_once=prompts_once)
    policy.network.banned = []  # The engine leaves media placeholders their share of the probability.
    engine = await HFEngine.start(str(bundled_model), dtype=torch.float32)
    prompts = [
        conversation("Sum?"),
        conversation("How many digits are there, and where?", 1),
        conversation("Why?", None),
    ]
    rows = [make_row(prompts[i % 3], 3 + 2 * i, i, masked=0) for i in range(7)]
    batch = policy.encode(rows)
    with torch.no_grad():
        values = policy.logprobs(batch)
    assert values.dtype == torch.float32
    for row, ours in zip(rows, values, strict=True):
        context = RequestContext(uuid.uuid4().hex)
        rendered = await engine.render(row.prompt, context)
        (theirs,) = await engine.score(rendered, [row.completion_ids], context)
        assert ours[: len(theirs)].tolist() == pytest.approx(theirs, abs=1e-5, rel=1e-6)
        assert not ours[len(theirs) :].any()
    await engine.close()


def test_prompts_are_expanded(policy: Policy) -> None:
    """Rows hold conversations, so the image tokens are those that transformers wants, not vLLM's one."""
    rows = make_rows()
    batch = policy.encode(rows)
    image = policy.model.config.image_token_id
    for row, place in zip(rows, batch.owner.tolist(), strict=True):
        assert (batch.prompts[place].tokens["input_ids"] == image).sum() == 16 * len(row.prompt.images)
    assert len(batch.prompts) == 4
    assert prompt_inputs(batch)["pixel_values"].shape[0] == 3


def test_both_ways_have_the_same_gradient() -> None:
    rows = make_rows()
    results = []
    for prompts_once in (True, False):
        policy = make_policy(torch.float64, prompts_once)
        values = policy.logprobs(policy.encode(rows))
        results.append(gradients(policy, (values * torch.linspace(-1, 1, values.shape[1])).sum()))
    scale = max(float(value.abs().max()) for value in results[0].values())
    assert furthest(*results) < 1e-12 * scale


def test_rows_of_a_batch_do_not_touch_each_other(policy: Policy) -> None:
    rows = make_rows()
    with torch.no_grad():
        together = policy.logprobs(policy.encode(rows))
        for row, values in zip(rows, together, strict=True):
            alone = policy.logprobs(policy.encode([row]))[0]
            assert torch.allclose(alone, values[: len(alone)], atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_of_the_head_equal_all_logits_at_once(chunk: int) -> None:
    policy = make_policy(torch.float64, head_chunk=chunk)
    batch = policy.encode(make_rows())
    values = policy.logprobs(batch)
    hidden = policy.network._prompts_once(batch)
    logits = policy.model.lm_head(hidden).index_fill(-1, torch.tensor(policy.network.banned), -torch.inf)
    full = logits.log_softmax(-1).gather(-1, batch.completions.unsqueeze(-1)).squeeze(-1) * batch.mask
    assert torch.allclose(values, full, atol=1e-10, rtol=0)
    weights = torch.linspace(-1, 2, values.shape[1])
    ours, theirs = gradients(policy, (values * weights).sum()), gradients(policy, (full * weights).sum())
    assert furthest(ours, theirs) < 1e-8


def test_chunks_never_make_all_logits() -> None:
    """No tensor of the forward and backward pass has more than a chunk of logits."""
    policy = make_policy(head_chunk=8)
    batch = policy.encode(make_rows())
    assert batch.mask.sum() > 40
    seen: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            made = [leaf for leaf in torch.utils._pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            seen.extend(tensor.numel() // 664 for tensor in made if tensor.ndim and tensor.shape[-1] == 664)
            return out

    kept: list[tuple[int, ...]] = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(value.shape))
        return value

    with Watch():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            values = policy.logprobs(batch)
        values.sum().backward()
    # Between the passes there are no logits at all, of which all chunks together would be as many.
    assert not any(shape and shape[-1] == 664 and shape[0] <= 8 for shape in kept)
    # The head's own gradient, transposed or not, has 160 lines.
    assert {count for count in seen if count != 160} <= {*range(9)}
    assert 8 in seen


def test_placeholders_have_no_probability(policy: Policy) -> None:
    assert policy.network.banned == [policy.model.config.image_token_id]
    hidden = torch.randn(3, 160)
    tokens = torch.arange(664)
    every = torch.stack([policy.network._head(hidden, tokens[i].expand(3)) for i in range(664)])
    assert torch.allclose(every.exp().sum(0), torch.ones(3), atol=1e-5)
    assert (every[policy.model.config.image_token_id] == -torch.inf).all()


def test_a_sampled_placeholder_is_refused(policy: Policy) -> None:
    row = make_row(conversation("Sum?"), 3, 0)
    object.__setattr__(row, "completion_ids", (30, policy.model.config.image_token_id, 31))
    with pytest.raises(ValueError, match="placeholder"):
        policy.encode([row])


def test_a_batch_without_trained_tokens_has_zero_gradients(policy: Policy) -> None:
    values = policy.logprobs(policy.encode([policy.idle_row()]))
    assert not values.any()
    zeros = gradients(policy, values.sum())
    # Whatever rank runs this, it takes part in adding up every gradient.
    assert zeros.keys() == policy.trained().keys()
    assert not any(value.any() for value in zeros.values())


def test_prompts_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    rows, rendered, calls = make_rows(), {}, []
    original = type(policy.processor).__call__
    monkeypatch.setattr(
        type(policy.processor),
        "__call__",
        lambda self, *args, **kwargs: (calls.append(1), original(self, *args, **kwargs))[1],
    )
    policy.encode(rows, rendered)
    policy.encode(rows[3:], rendered)
    assert len(calls) == 4


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Several share a sum as they find time, so that it differs in its last bits from call to call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_activation_checkpointing_changes_nothing_but_memory() -> None:
    rows = make_rows()
    results = []
    for switch in (False, True):
        policy = make_policy(activation_checkpointing=switch)
        policy.logprobs(policy.encode(rows)).sum().backward()
        results.append({name: value.grad for name, value in policy.trained().items()})
        assert not any(module.training for module in policy.model.modules())
    assert furthest(*results) == 0


def test_activation_checkpointing_keeps_fewer_activations() -> None:
    rows = make_rows()
    kept = []
    for switch in (False, True):
        policy = make_policy(activation_checkpointing=switch)
        amount = 0

        def pack(value: torch.Tensor) -> torch.Tensor:
            nonlocal amount
            amount += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            policy.logprobs(policy.encode(rows))
        kept.append(amount)
    assert kept[1] < 0.3 * kept[0]


def test_bfloat16_is_near() -> None:
    rows = make_rows()
    exact, policy = make_policy(), make_policy(torch.bfloat16, dtype="bfloat16")
    assert all(value.dtype == torch.float32 for value in policy.trained().values())
    with torch.no_grad():
        values = policy.logprobs(policy.encode(rows))
        apart = (values - exact.logprobs(exact.encode(rows))).abs()
    assert values.dtype == torch.float32
    assert 0 < apart.max() < 0.5
    assert apart.mean() < 0.05


def test_frozen_parameters_keep_no_gradient() -> None:
    policy = make_policy(freeze=("vision_model", r"layers\.0\."))
    names = policy.trained()
    assert names
    assert not any("vision_model" in name or "layers.0." in name for name in names)
    policy.logprobs(policy.encode(make_rows())).sum().backward()
    assert all((value.grad is not None) == value.requires_grad for value in policy.model.parameters())


@pytest.mark.parametrize(("pattern", "message"), [("visual", "'visual'"), (".", "nothing is trained")])
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_policy(freeze=(pattern,))
    assert caught.value.param == "optimizer.freeze"


def test_a_model_that_changes_its_logits_is_refused() -> None:
    folder = make_policy()._folder
    assert folder is not None
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    forward = model.forward

    def capped(*args, **kwargs):  # type: ignore[no-untyped-def]
        out = forward(*args, **kwargs)
        out.logits = 3 * torch.tanh(out.logits / 3)
        return out

    model.forward = capped
    with pytest.raises(ConfigError, match="after the LM head"):
        Policy(model, AutoProcessor.from_pretrained(folder), make_policy().settings)


def test_export_is_the_policy(tmp_path: Path, bundled_model: Path) -> None:
    policy = make_policy(torch.bfloat16)
    with torch.no_grad():
        for value in policy.trained().values():
            value.add_(0.01 * torch.randn_like(value))
    policy.export(tmp_path / "model", torch.float32)
    again = Policy.load(str(tmp_path / "model"), policy.settings)
    assert furthest(policy.weights(), again.weights()) == 0
    rows = make_rows()
    with torch.no_grad():
        # Loaded weights stand elsewhere in memory, which sums of products may depend on.
        apart = again.logprobs(again.encode(rows)) - policy.logprobs(policy.encode(rows))
    assert apart.abs().max() < 1e-4
    theirs = {path.name for path in bundled_model.iterdir()} - {"README.md"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == theirs
    # What the start's votes were worth says nothing of other weights.
    start = ModelSettings.load(bundled_model)
    assert start is not None
    assert start.calibration is not None
    assert ModelSettings.load(tmp_path / "model") == start.model_copy(update={"calibration": None})
    assert again.model.generation_config.suppress_tokens == policy.model.generation_config.suppress_tokens
    policy.export(tmp_path / "half")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be loaded"):
        Policy.load(str(tmp_path), make_policy().settings)


def test_reference_is_the_start() -> None:
    policy = make_policy(kl=0.1)
    batch = policy.encode(make_rows())
    start = policy.logprobs(batch).detach()
    with torch.no_grad():
        for value in policy.trained().values():
            value.mul_(1.01)
    reference = policy.reference_logprobs(batch)
    assert reference is not None
    assert torch.equal(reference, start)
    assert not torch.equal(policy.logprobs(batch), start)
    assert make_policy().reference_logprobs(batch) is None
