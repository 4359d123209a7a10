"""The page of trajectories: readable, alone, and harmless whatever a model says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.planners.rows import Trajectory
from mirl_core.training.rl.report.monitor import read_lines
from mirl_core.training.rl.report.pages import TRAJECTORIES, TrajectoryLog, write_page

EVIL = "<script>alert(1)</script> & \"quoted\" 'single' <img src=http://evil/x>"


def question(key: str, text: str = "How many?") -> Question:
    return Question(key, text, "3", lambda: Image.new("RGB", (8, 8), (200, 30, 30)))


def trajectory(key: str, text: str = "a 3", advantage: float = 1.0, reward: float = 0.5) -> Trajectory:
    return Trajectory(key, text, "reasoning", reward, advantage, {"exact": 1.0}, "3", True)


class Tags(HTMLParser):
    """All tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def logged(folder: Path, *, text: str = "a 3") -> Path:
    folder.mkdir(exist_ok=True)
    log = TrajectoryLog(folder, 0)
    log.log(1, [question("q1", text), question("q2"), question("q3")], [
        trajectory("q1", text), trajectory("q1", "worse", -1.0), trajectory("q2"), trajectory("q3"),
    ])  # fmt: skip
    log.close()
    return folder


def test_the_page_shows_rewards_pictures_and_answers(tmp_path: Path) -> None:
    path = write_page(logged(tmp_path / "run"), tmp_path / "page.html")
    assert path is not None
    page = Tags(path.read_text())
    for shown in ("Step 1", "a 3", "q1", "q2", "+1.000", "-1.000", "0.500", "yes"):
        assert shown in page.text
    assert "q3" not in page.text
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    classes = [attributes.get("class") for tag, attributes in page.tags if tag == "tr"]
    assert "up" in classes
    assert "down" in classes


def test_nothing_that_was_said_becomes_markup(tmp_path: Path) -> None:
    path = write_page(logged(tmp_path / "run", text=EVIL), tmp_path / "page.html")
    assert path is not None
    page = Tags(path.read_text())
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert EVIL in page.text
    values = [value for _, attributes in page.tags for value in attributes.values()]
    assert not [value for value in values if value and "http:" in value]
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_a_line_can_pull_no_other_file_into_the_page(tmp_path: Path) -> None:
    run = logged(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"secret")
    lines = (run / TRAJECTORIES).read_text()
    (run / TRAJECTORIES).write_text(re.sub(r'"pictures/[^"]+"', '"../secret.png"', lines))
    path = write_page(run, tmp_path / "page.html")
    assert path is not None
    assert "<img" not in path.read_text()


def test_samples_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    run = logged(tmp_path / "run")
    log = TrajectoryLog(run, 1)
    log.log(2, [question("q1")], [trajectory("q1")])
    log.close()
    TrajectoryLog(run, 1).close()
    assert [line["step"] for line in read_lines(run / TRAJECTORIES)] == [1, 1]


def test_rewards_that_are_no_numbers_are_shown_as_such(tmp_path: Path) -> None:
    log = TrajectoryLog(tmp_path, 0)
    log.log(1, [question("q1")], [trajectory("q1", reward=float("nan"))])
    log.close()
    path = write_page(tmp_path, tmp_path / "page.html")
    assert path is not None
    assert "–" in path.read_text()


def test_a_run_without_samples_has_no_page_and_foreign_lines_are_named(tmp_path: Path) -> None:
    assert write_page(tmp_path, tmp_path / "page.html") is None
    (tmp_path / TRAJECTORIES).write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match="not written by"):
        write_page(tmp_path, tmp_path / "page.html")


def test_a_long_run_is_thinned_out_evenly(tmp_path: Path) -> None:
    log = TrajectoryLog(tmp_path, 0)
    for step in range(1, 201):
        log.log(step, [question("q1")], [trajectory("q1")])
    log.close()
    path = write_page(tmp_path, tmp_path / "page.html")
    assert path is not None
    steps = [int(number) for number in re.findall(r"Step (\d+) ", path.read_text())]
    assert len(steps) == 40
    assert steps[0] == 1
    assert steps[-1] > 190
