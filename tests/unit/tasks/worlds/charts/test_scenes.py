"""Scenes of the charts world: the same by seed, the prior as stated, pictures that show the values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mirl_core.tasks.worlds.charts import drawing
from mirl_core.tasks.worlds.charts.scenes import (
    DAYS,
    FRUITS,
    KINDS,
    LARGEST,
    USUAL,
    USUAL_PROBABILITY,
    Column,
    Kind,
    Scene,
    draw_scene,
    scenes,
    value_posterior,
    value_prior,
)


def test_a_scene_depends_on_its_name_alone() -> None:
    later = list(scenes("iid", "dev", 3, start=5))
    assert later[1] == draw_scene("iid", "dev", 6)
    assert later[1].name == "charts-iid-dev-000006"
    assert draw_scene("iid", "dev", 6) != draw_scene("iid", "test", 6)


@pytest.mark.parametrize("kind", KINDS)
def test_usual_values_are_as_frequent_as_the_kind_states(kind: Kind) -> None:
    columns = [(s.day, c) for s in scenes(kind, "train", 600) for c in s.columns]
    usual = np.mean([c.value == USUAL[day][c.fruit] for day, c in columns])
    assert abs(usual - USUAL_PROBABILITY[kind]) < 0.03
    assert {abs(c.value - USUAL[day][c.fruit]) for day, c in columns} <= {0, 1, 2, 3, 4}
    assert all(1 <= c.value <= LARGEST for _, c in columns)


def test_only_ambiguous_scenes_have_second_readings_and_each_has_one() -> None:
    for kind in KINDS:
        seconds = [[c for c in s.columns if c.other is not None] for s in scenes(kind, "train", 50)]
        assert all(bool(columns) == (kind == "ambiguous") for columns in seconds)
    assert all(2 <= abs(c.value - (c.other or 0)) <= 4 for columns in seconds for c in columns)


@pytest.mark.parametrize("usual", [0.0, 0.25, 0.75])
def test_the_prior_is_a_distribution_around_the_usual_value(usual: float) -> None:
    for day in range(len(DAYS)):
        for fruit in range(len(FRUITS)):
            prior = value_prior(day, fruit, usual)
            assert prior.sum() == pytest.approx(1.0)
            assert prior[0] == 0.0
            assert prior[USUAL[day][fruit]] == pytest.approx(usual)


def test_the_posterior_of_ambiguous_columns_is_calibrated() -> None:
    columns = [(c, s.day) for s in scenes("ambiguous", "train", 2500) for c in s.columns]
    posteriors = [(value_posterior(c, day), c.value, c.other) for c, day in columns if c.other is not None]
    sure = [posterior[value] for posterior, value, _ in posteriors]
    wrong = [posterior[other] for posterior, _, other in posteriors]
    # Of all cases in which either reading has 0.8 to 1, it is the truth in that share.
    high = [(p, True) for p in sure if p > 0.8] + [(p, False) for p in wrong if p > 0.8]
    assert np.mean([hit for _, hit in high]) == pytest.approx(np.mean([p for p, _ in high]), abs=0.02)


def test_a_column_without_a_second_reading_has_a_sure_posterior() -> None:
    posterior = value_posterior(Column(0, 9), 0)
    assert posterior[9] == 1.0
    assert posterior.sum() == 1.0


def _plain(seed: int) -> Scene:
    """A scene without noise, blur, edges or grid."""
    import dataclasses

    scene = draw_scene("shifted", "dev", seed)
    style = dataclasses.replace(
        scene.style, noise=0.0, blur=0.0, outline=0.0, grid=0.0, labels=False, dark=False, ground=1.0
    )
    columns = tuple(dataclasses.replace(c, tint=(0.0, 0.0, 0.0)) for c in scene.columns)
    return dataclasses.replace(scene, style=style, columns=columns)


def test_pictures_show_each_value_at_its_height_and_colour() -> None:
    for seed in range(20):
        scene = _plain(seed)
        picture = drawing.render([scene])[0].astype(float) / 255
        for column, (x0, x1) in zip(scene.columns, drawing.slots(scene), strict=True):
            strip = picture[: int(scene.style.bottom), int((x0 + x1) / 2)]
            paint = drawing.PALETTE[column.fruit]
            painted = np.abs(strip - 1.0).sum() / np.abs(paint - 1.0).sum()
            unit = (scene.style.bottom - scene.style.top) / LARGEST
            assert (painted + scene.style.bottom % 1) / unit == pytest.approx(column.value, abs=0.2)
            assert np.allclose(strip[-1], paint, atol=0.01)


def test_pictures_are_the_same_alone_and_together() -> None:
    drawn = list(scenes("ambiguous", "dev", 3))
    together = drawing.render(drawn)
    assert together.shape == (3, 64, 64, 3)
    assert np.array_equal(together[1], drawing.render(drawn[1:2])[0])


def test_columns_stand_side_by_side_within_the_picture() -> None:
    for scene in scenes("iid", "train", 50):
        edges = [x for slot in drawing.slots(scene) for x in slot]
        assert all(a < b for a, b in pairwise(edges))
        assert scene.style.left <= edges[0]
        assert edges[-1] <= drawing.IMAGE_SIZE
