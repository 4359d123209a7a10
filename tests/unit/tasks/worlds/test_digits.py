"""The digits world: reproducible, unmixed, and with the colour posterior that it claims."""

from __future__ import annotations

import numpy as np
import pytest

from mirl_core.tasks.worlds import digits


@pytest.mark.parametrize("kind", digits.KINDS)
@pytest.mark.parametrize("part", digits.PARTS)
def test_a_scene_depends_on_its_name_alone(kind: digits.Kind, part: digits.Part) -> None:
    first = [digits.draw_scene(kind, part, i) for i in (3, 4)]
    again = [digits.draw_scene(kind, part, i) for i in (4, 3)]
    assert first == again[::-1]
    assert np.array_equal(digits.render(first)[0], digits.render(again)[1])


@pytest.mark.parametrize("part", digits.PARTS)
def test_glyph_pools_are_never_mixed(part: digits.Part) -> None:
    used = {
        g
        for kind in digits.KINDS
        for s in digits.scenes(kind, part, 150)
        for t in s.objects
        for g in (t.glyph, t.other_glyph)
    }
    assert used <= set(digits.GLYPH_POOLS[part])
    pools = [set(p) for p in digits.GLYPH_POOLS.values()]
    assert sum(map(len, pools)) == len(set.union(*pools)) == 1797


def test_pictures_are_rgb_bytes_of_the_right_size() -> None:
    pictures = digits.render(list(digits.scenes("iid", "dev", 5)))
    assert pictures.shape == (5, 64, 64, 3)
    assert pictures.dtype == np.uint8


def test_an_empty_cell_holds_background_only() -> None:
    scene = next(s for s in digits.scenes("iid", "dev", 50) if len(s.objects) == 1)
    cell = scene.objects[0].cell
    picture = digits.render([scene])[0].astype(float) / 255
    other = 3 - cell
    y, x = 32 * (other // 2), 32 * (other % 2)
    assert abs(picture[y : y + 32, x : x + 32].mean() - scene.background) < 0.1


@pytest.mark.parametrize(("kind", "low", "high"), [("iid", 0.72, 0.78), ("shifted", 0.02, 0.06)])
def test_colours_follow_the_language_prior(kind: digits.Kind, low: float, high: float) -> None:
    things = [t for s in digits.scenes(kind, "train", 1500) for t in s.objects]
    usual = np.mean([t.colour == digits.USUAL_COLOUR[t.cell] for t in things])
    assert low < usual < high


def test_the_likelihood_is_that_of_the_generator() -> None:
    """Each strength's density, computed from the normal distribution directly in the centred space."""
    rng = np.random.default_rng(0)
    e = rng.standard_normal(4)
    e -= e.mean()
    direct = []
    for k in range(4):
        density = 0.0
        for share, strength in zip((0.6, 0.4), digits.STRENGTHS, strict=True):
            mean = strength * (np.eye(4)[k] - 0.25)
            density += share * np.exp(-0.5 * ((e - mean) ** 2).sum())
        direct.append(np.log(density))
    ours = digits.colour_log_likelihood(tuple(e), "iid")
    assert np.allclose(ours - ours[0], np.array(direct) - direct[0])


@pytest.mark.parametrize("kind", digits.KINDS)
def test_the_exact_posterior_is_calibrated(kind: digits.Kind) -> None:
    things = [t for s in digits.scenes(kind, "test", 1500) for t in s.objects]
    p = np.array([digits.colour_posterior(t, kind) for t in things])
    hit = np.arange(4)[None, :] == np.array([t.colour for t in things])[:, None]
    assert np.allclose(p.sum(1), 1)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        chosen = (p >= low) & (p < high)
        assert abs(p[chosen].mean() - hit[chosen].mean()) < 0.05


def test_weak_evidence_is_about_as_strong_as_the_prior() -> None:
    prior = np.log(0.75 / (0.25 / 3))
    assert 2.0 < digits.STRENGTHS[0] ** 2 < 3.0
    assert abs(digits.STRENGTHS[0] ** 2 - prior) < 0.5


def test_an_ambiguous_scene_has_two_readings() -> None:
    labels = {g: d for d in range(10) for g in digits.glyphs_by_digit("test")[d]}
    for scene in digits.scenes("ambiguous", "test", 60):
        blended = [t for t in scene.objects if t.blend]
        assert blended
        for thing in blended:
            pair = {labels[thing.glyph], labels[thing.other_glyph]}
            assert len(pair) == 2
            assert thing.digit in pair
            assert digits.BLEND_RANGE[0] <= thing.blend <= digits.BLEND_RANGE[1]
