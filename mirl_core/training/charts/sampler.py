"""Turns of a stage's model on dev scenes of one kind, sampled in plain torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mirl_core.errors import ConfigError
from mirl_core.tasks.worlds.charts import drawing, language
from mirl_core.tasks.worlds.charts.scenes import KINDS, Kind, Scene, scenes
from mirl_core.training.charts.decode import decode, split_turn
from mirl_core.training.charts.model import ChartsForward
from mirl_core.training.charts.rows import table_prompt
from mirl_core.training.sft import text
from mirl_core.training.sft.model import ModelShape, build_model, preprocess
from mirl_core.training.sft.stage import load_finished
from mirl_core.training.state_files import CHECKPOINT, WEIGHTS, read_whole

_BATCH = 64


class Sampler:
    """A stage's model on scenes of one kind, with one question about each."""

    def __init__(self, folder: Path, kind: Kind, count: int, start: int, rough: float | None = None) -> None:
        """Load the model, draw scenes and questions, and encode the pictures.

        Args:
            folder: a stage's folder, or a file of averaged weights in it.
            kind: the kind of scenes.
            count: number of scenes.
            start: index of the first dev scene.
            rough: replace pictures by written tables with this share of rough entries, 0 to 1; None for
                pictures.

        Raises:
            ConfigError: the folder holds no weights or no tokenizer.
        """
        path = (folder.parent if folder.is_file() else folder) / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{path} does not exist: name the folder of a charts stage")
        self.tokenizer = Tokenizer.from_file(str(path))
        self.forward = ChartsForward(build_model(ModelShape(), self.tokenizer))
        self.forward.load_state_dict(load_weights(folder))
        self.forward.eval()
        self.scenes: list[Scene] = list(scenes(kind, "dev", count, start))
        rng = np.random.default_rng([515, KINDS.index(kind), start])
        self.questions = [language.ask(s, rng) for s in self.scenes]
        self.prompts = [text.render_prompt(q.text, True) for q in self.questions]
        truths = [language.Reading(tuple(language.see(s).items())) for s in self.scenes]
        self.answers = [language.imply(q, t) for q, t in zip(self.questions, truths, strict=True)]
        self.right, self.wrong, self.wrong_answers = [], [], []
        for scene, question, answer in zip(self.scenes, self.questions, self.answers, strict=True):
            reading = language.select(language.see(scene), question, rng)
            self.right.append(language.write_description(reading, rng))
            other = answer
            while other == answer:
                reading = language.select(language.corrupt(language.see(scene), rng), question, rng)
                other = language.imply(question, reading)
            self.wrong.append(language.write_description(reading, rng))
            self.wrong_answers.append(other)
        self.connected = None
        if rough is not None:
            self.prompts = [
                table_prompt(q.text, language.see(s), rough, rng)
                for q, s in zip(self.questions, self.scenes, strict=True)
            ]
            return
        with torch.no_grad():
            pixels = preprocess(drawing.render(self.scenes))
            self.connected = self.forward.connect(self.forward.see(pixels))

    def turns(self, temperature: float, copies: int, prefixes: list[str] | None = None) -> list[list[str]]:
        """Return sampled turns of every question, without the prompt: [questions][copies].

        Args:
            temperature: 0 is greedy.
            copies: turns per question.
            prefixes: for each question, the start of its turn, which is not sampled.
        """
        generator = torch.Generator().manual_seed(int(1000 * temperature) + copies)
        prompts = (
            self.prompts if prefixes is None else [p + d for p, d in zip(self.prompts, prefixes, strict=True)]
        )
        out: list[list[str]] = [[] for _ in prompts]
        jobs = [n for n in range(len(prompts)) for _ in range(copies)]
        for a in range(0, len(jobs), _BATCH):
            part = jobs[a : a + _BATCH]
            turns = decode(
                self.forward,
                self.tokenizer,
                [prompts[n] for n in part],
                part,
                self.connected,
                temperature,
                generator,
            )
            for n, turn in zip(part, turns, strict=True):
                out[n].append(turn)
        return out

    def answers_of(self, turns: list[list[str]]) -> list[list[str]]:
        """Return the answers of turns, empty where a turn has none: [questions][copies]."""
        return [[split_turn(t)[2] for t in row] for row in turns]

    def length(self, written: str) -> int:
        """Return the length of a text in tokens."""
        return len(self.tokenizer.encode(written).ids)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the averaged weights in a stage's folder, from its checkpoint if unfinished, or in a file.

    Raises:
        ConfigError: the folder holds no weights, or they are damaged.
    """
    if folder.is_file():
        return read_whole(folder, (), "folder", "name another file")
    if (folder / WEIGHTS).exists():
        return load_finished(folder, "folder")
    if not (folder / CHECKPOINT).exists():
        raise ConfigError(f"{folder} holds neither {WEIGHTS} nor {CHECKPOINT}: train that stage first")
    average = read_whole(folder / CHECKPOINT, ("average",), "folder", "put a copy in its place")["average"]
    return dict(average)
