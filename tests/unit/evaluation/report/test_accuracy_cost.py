"""The plot of accuracy over cost: its frontier, scale, labels and colours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from mirl_core.evaluation.report import accuracy_cost
from mirl_core.tasks.plotting import method_colour

FEW = {
    "greedy": (60.0, 0.62),
    "sc@4": (240.0, 0.7),
    "sc@16": (1000.0, 0.75),
    "mirl": (600.0, 0.8),
    "steered(ahead=0;share_chains=false)": (400.0, 0.66),
}


def rows(points: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "tokens": tokens,
            "accuracy": accuracy,
            "low": accuracy - 0.08,
            "high": accuracy + 0.08,
            "n": 100,
        }
        for name, (tokens, accuracy) in points.items()
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that draws the plot of data set → points, and returns its figure, laid out."""
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return path

    def draw(**data: Mapping[str, tuple[float, float]]) -> Figure:
        path = tmp_path / "plot.png"
        assert accuracy_cost.draw({"data": {name: rows(of) for name, of in data.items()}}, path) == path
        figures[-1].canvas.draw()
        return figures[-1]

    monkeypatch.setattr(accuracy_cost, "save", keep)
    yield draw
    import matplotlib.pyplot as plt

    plt.close("all")


def labels(axis: Axes) -> dict[str, Annotation]:
    """The labels by method; lines to markers have no text."""
    return {
        text.get_text().replace("\n", ""): text
        for text in axis.texts
        if isinstance(text, Annotation) and text.get_text()
    }


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_frontier_is_what_nothing_cheaper_reaches() -> None:
    assert accuracy_cost.frontier(rows(FEW)) == ["greedy", "sc@4", "mirl"]
    # As accurate for more is dominated; of two that cost the same the more accurate one stays.
    same = {
        "a": (10.0, 0.5),
        "b": (10.0, 0.6),
        "c": (20.0, 0.6),
        "oracle": (5.0, 0.9),
        "oracle-answer@4": (5.0, 0.9),
    }
    assert accuracy_cost.frontier(rows(same)) == ["b"]
    assert accuracy_cost.frontier({}) == []


def test_labels_stand_at_the_points_and_hide_nothing(drawn: Any) -> None:
    figure = drawn(iid=FEW, shifted={name: (cost, 1.2 - right) for name, (cost, right) in FEW.items()})
    assert legend_of(figure) == ["frontier: nothing cheaper is as accurate"]
    for axis in figure.axes:
        assert set(labels(axis)) == set(FEW)
        boxes = [Text.get_window_extent(label) for label in labels(axis).values()]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        for box in boxes:
            assert axis.bbox.contains(box.x0, box.y0)
            assert axis.bbox.contains(box.x1, box.y1)
    bold = {name for name, label in labels(figure.axes[0]).items() if label.get_fontweight() == "bold"}
    assert bold == {"greedy", "sc@4", "mirl"}


def test_methods_without_room_for_a_label_are_in_the_legend(drawn: Any) -> None:
    crowd = {
        f"mirl(keep={keep};forks={forks})": (500.0, 0.7) for keep in range(1, 7) for forks in range(1, 6)
    }
    figure = drawn(iid={**FEW, **crowd})
    in_legend, at_points = legend_of(figure), labels(figure.axes[0])
    assert set(in_legend[:-1]) | set(at_points) == {*FEW, *crowd}
    assert not set(in_legend) & set(at_points)
    assert len(in_legend) > 10
    assert in_legend[-1].startswith("frontier")


def test_every_point_has_its_methods_colour(drawn: Any) -> None:
    axis = drawn(iid=FEW).axes[0]
    points = {
        (float(line.get_xdata()[0]), to_hex(line.get_color()).upper())
        for line in axis.lines
        if line.get_marker() not in ("None", "", None)
    }
    assert points == {(cost, method_colour(name)) for name, (cost, _) in FEW.items()}
    (frontier,) = [line for line in axis.lines if line.get_drawstyle() == "steps-post"]
    assert list(zip(frontier.get_xdata(), frontier.get_ydata(), strict=True)) == [
        (60.0, pytest.approx(62.0)),
        (240.0, pytest.approx(70.0)),
        (600.0, pytest.approx(80.0)),
    ]


@pytest.mark.parametrize(("most", "scale"), [(590.0, "linear"), (601.0, "log")])
def test_costs_over_more_than_a_decade_are_on_a_log_scale(drawn: Any, most: float, scale: str) -> None:
    """Over all panels, so that panels compare."""
    figure = drawn(a={"x": (60.0, 0.5)}, b={"y": (most, 0.6)})
    assert [axis.get_xscale() for axis in figure.axes] == [scale, scale]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    words = "cost: tokens a question, generated and scored" + (", log scale" if scale == "log" else "")
    assert [axis.get_xlabel() for axis in figure.axes] == [words, words]
    assert figure.axes[0].get_ylabel() == "accuracy: right answers, %"
    assert [axis.get_title() for axis in figure.axes] == ["a (n = 100)", "b (n = 100)"]


def test_free_methods_and_a_single_cost_have_a_scale_too(drawn: Any) -> None:
    assert drawn(a={"x": (0.0, 0.5), "y": (100.0, 0.6)}).axes[0].get_xscale() == "linear"
    low, high = drawn(a={"x": (100.0, 0.5)}).axes[0].get_xlim()
    assert low < 100 < high
