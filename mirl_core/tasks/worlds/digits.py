"""The world of coloured handwritten digits: an explicit generator whose colour posterior is exact.

A scene is a 64 x 64 picture of 2 x 2 cells with one to four digits in distinct cells. All of it is drawn
here, in this order, from one seed per (kind, part, index):

1. *Occupancy*: the number of objects (1 to 4) and their cells, independent of everything below.
2. *Colour*: from the **language prior** of the cell: its usual colour with probability 0.75, each other
   colour with a third of the rest (2.2 nats of log-odds). In ``shifted`` scenes the usual colour has 0.04.
3. *Evidence*: a strength is drawn, then a vector ``e`` in R^4 is the strength times the colour's unit vector
   plus standard normal noise, centred. The object is painted with the blend ``softmax(e)`` of the four
   prototypes. The prototypes are affinely independent, so the painted colour determines ``e``, and
   ``log p(e | colour k, strength s) = s * e_k - 3/8 s^2 + const``: weak objects (60 %) carry 2.5 nats on
   average against any one other colour, about as much as the prior; clear ones carry 16. ``ambiguous``
   objects are blends of two colours in near equal parts. `colour_posterior` is therefore the exact Bayes
   posterior.
4. *Digit*: uniform, then a handwritten glyph of that digit from the part's pool. An ambiguous object
   blends two glyphs of different digits in near equal parts; the truth is drawn by the blend's weight.
5. *Nuisance*: size, place, tilt, stroke, background, pixel noise. Training scenes add shear and mixtures of
   two glyphs of the same digit; nothing else differs between the parts.

Glyphs are scikit-learn's ``load_digits`` images: 0 to 1399 train, 1400 to 1499 dev, 1500 to 1796 test,
never mixed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Kind = Literal["iid", "shifted", "ambiguous"]
Part = Literal["train", "dev", "test"]

CELLS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = ("red", "green", "blue", "yellow")
KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS: tuple[Part, ...] = get_args(Part)
GLYPH_POOLS: dict[Part, range] = {
    "train": range(1400),
    "dev": range(1400, 1500),
    "test": range(1500, 1797),
}
IMAGE_SIZE = 64
CELL_SIZE = 32

USUAL_COLOUR = (0, 1, 2, 3)
"""The colour that usually stands in each cell."""
USUAL_PROBABILITY = {"iid": 0.75, "shifted": 0.04, "ambiguous": 0.75}
COUNT_PROBABILITIES = (0.15, 0.30, 0.30, 0.25)
PROTOTYPES = np.array([[0.85, 0.18, 0.18], [0.16, 0.75, 0.22], [0.20, 0.32, 0.92], [0.92, 0.85, 0.18]])
WEAK_SHARE = 0.6
TRAINING_AMBIGUOUS_SHARE = 0.25
"""Share of ambiguous scenes among training scenes, where a recipe names no other."""
STRENGTHS = (math.sqrt(2.5), 4.0)
"""Weak and clear; the mean log-odds against any one other colour is the square, in nats."""
MIXED_STRENGTH = 4.0
BLEND_RANGE = (0.35, 0.65)
AMBIGUOUS_SHARE = 0.6
NOISE_RANGE = (0.04, 0.22)
SIZE_RANGE = (18.0, 27.0)
_SEED = 20261122
_MIXED_NODES = np.linspace(BLEND_RANGE[0], BLEND_RANGE[1], 31)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One digit in a scene; the first three fields are the truth, the others parametrise the drawing."""

    cell: int
    digit: int
    colour: int
    glyph: int
    other_glyph: int
    blend: float
    """Weight of `other_glyph` in the picture, 0 to 1."""
    evidence: tuple[float, float, float, float]
    """Centred colour evidence; `softmax` of it is the painted blend of prototypes."""
    size: float
    """Width of the 8 x 8 glyph in pixels."""
    centre: tuple[float, float]
    """x and y inside the cell, in pixels."""
    tilt: float
    shear: float
    stroke: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's truth and the parameters that draw it, objects in reading order of cells."""

    kind: Kind
    part: Part
    index: int
    objects: tuple[SceneObject, ...]
    background: float
    noise: float
    noise_seed: int

    @property
    def name(self) -> str:
        return f"digits-{self.kind}-{self.part}-{self.index:06d}"


@functools.lru_cache(maxsize=1)
def _glyphs() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return all glyphs, smoothly enlarged with a blank border: [1797, 40, 40] in 0..1, and their digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    big = np.zeros((len(data.images), 40, 40), np.float32)
    for i, small in enumerate(data.images):
        picture = Image.fromarray((small / 16.0).astype(np.float32), mode="F")
        big[i, 4:36, 4:36] = np.clip(np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)), 0.0, 1.0)
    return big, np.asarray(data.target, np.int64)


@functools.lru_cache(maxsize=3)
def glyphs_by_digit(part: Part) -> tuple[tuple[int, ...], ...]:
    """Return the indices of the part's glyphs, for each digit 0 to 9."""
    digits = _glyphs()[1]
    return tuple(tuple(i for i in GLYPH_POOLS[part] if digits[i] == d) for d in range(10))


def colour_prior(kind: Kind = "iid") -> npt.NDArray[np.float64]:
    """Return the probability of each colour in each cell: [4 cells, 4 colours]."""
    usual = USUAL_PROBABILITY[kind]
    table = np.full((4, 4), (1.0 - usual) / 3.0)
    table[np.arange(4), USUAL_COLOUR] = usual
    return table


def colour_log_likelihood(evidence: Sequence[float], kind: Kind) -> npt.NDArray[np.float64]:
    """Return the log density of the painted colour under each true colour, up to one constant: [4], nats."""
    e = np.asarray(evidence, np.float64)
    terms = []
    if kind == "ambiguous":
        distance = ((e - _mixed_means()) ** 2).sum(2)
        mixed = np.array([_log_mean_exp(-0.5 * row) for row in distance]) + 0.5 * float(e @ e)
        terms.append(mixed + math.log(AMBIGUOUS_SHARE))
        scale = 1.0 - AMBIGUOUS_SHARE
    else:
        scale = 1.0
    for share, s in zip((WEAK_SHARE, 1.0 - WEAK_SHARE), STRENGTHS, strict=True):
        terms.append(s * e - 0.375 * s * s + math.log(share * scale))
    return np.asarray(np.logaddexp.reduce(np.stack(terms), axis=0))


def colour_posterior(
    scene_object: SceneObject, kind: Kind, prior: Kind | None = None
) -> npt.NDArray[np.float64]:
    """Return the exact p(colour | cell, painted colour) under the prior of `prior`, or else of `kind`: [4].

    An ambiguous scene always has an ambiguous object; that dependence between objects is left out.
    """
    logits = colour_log_likelihood(scene_object.evidence, kind) + np.log(
        colour_prior(prior or kind)[scene_object.cell]
    )
    logits -= logits.max()
    return np.asarray(np.exp(logits) / np.exp(logits).sum())


@functools.lru_cache(maxsize=1)
def _mixed_means() -> npt.NDArray[np.float64]:
    """Return the centres of the evidence of an ambiguous object: [4 colours, rivals x shares, 4]."""
    eye = np.eye(4) - 0.25
    return np.array(
        [
            [
                MIXED_STRENGTH * (u * eye[k] + (1 - u) * eye[j])
                for j in range(4)
                if j != k
                for u in _MIXED_NODES
            ]
            for k in range(4)
        ]
    )


def _log_mean_exp(x: npt.NDArray[np.float64]) -> float:
    top = float(x.max())
    return top + math.log(float(np.exp(x - top).mean()))


def draw_scene(kind: Kind, part: Part, index: int, smallest: float = SIZE_RANGE[0]) -> Scene:
    """Return the scene of this kind, part and index: the same on every machine and in every order of calls.

    `smallest` is the least size of a glyph in pixels; only training draws other sizes than the world's.
    """
    rng = np.random.default_rng([_SEED, KINDS.index(kind), PARTS.index(part), index])
    count = 1 + int(rng.choice(4, p=COUNT_PROBABILITIES))
    cells = sorted(int(c) for c in rng.permutation(4)[:count])
    doubtful = rng.random(count) < AMBIGUOUS_SHARE
    doubtful[rng.integers(count)] = True
    prior = colour_prior(kind)
    objects = tuple(
        _draw_object(rng, part, cell, prior[cell], kind == "ambiguous" and bool(doubtful[i]), smallest)
        for i, cell in enumerate(cells)
    )
    background, noise = float(rng.uniform(0.02, 0.34)), float(rng.uniform(*NOISE_RANGE))
    return Scene(kind, part, index, objects, background, noise, int(rng.integers(2**31)))


def _draw_object(
    rng: np.random.Generator,
    part: Part,
    cell: int,
    prior: npt.NDArray[np.float64],
    doubtful: bool,
    smallest: float,
) -> SceneObject:
    pools = glyphs_by_digit(part)
    colour = int(rng.choice(4, p=prior))
    target = np.zeros(4)
    if doubtful:
        share = rng.uniform(*BLEND_RANGE)
        target[colour] = MIXED_STRENGTH * share
        target[(colour + 1 + rng.integers(3)) % 4] = MIXED_STRENGTH * (1.0 - share)
    else:
        target[colour] = STRENGTHS[int(rng.random() >= WEAK_SHARE)]
    evidence = target + rng.standard_normal(4)
    evidence -= evidence.mean()

    digit = int(rng.integers(10))
    glyph = other = int(rng.choice(pools[digit]))
    blend = 0.0
    if doubtful:
        rival = (digit + 1 + int(rng.integers(9))) % 10
        other = int(rng.choice(pools[rival]))
        blend = float(rng.uniform(*BLEND_RANGE))
        if rng.random() < blend:
            digit = rival
    elif part == "train" and rng.random() < 0.5:
        other, blend = int(rng.choice(pools[digit])), float(rng.uniform(0.0, 0.5))

    size = float(rng.uniform(smallest, SIZE_RANGE[1]))
    slack = max(0.0, (CELL_SIZE - size) / 2 - 1.0)
    centre = (
        CELL_SIZE / 2 + float(rng.uniform(-slack, slack)),
        CELL_SIZE / 2 + float(rng.uniform(-slack, slack)),
    )
    tilt = float(rng.normal(0.0, 0.10))
    shear = float(rng.normal(0.0, 0.10)) if part == "train" else 0.0
    stroke = float(rng.uniform(0.7, 1.5))
    e0, e1, e2, e3 = (float(x) for x in evidence)
    return SceneObject(
        cell, digit, colour, glyph, other, blend, (e0, e1, e2, e3), size, centre, tilt, shear, stroke
    )


def render(scenes: Sequence[Scene]) -> npt.NDArray[np.uint8]:
    """Return the pictures of the scenes: [n, 64, 64, 3] RGB."""
    glyphs = _glyphs()[0]
    canvas = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    owners = [(i, t) for i, scene in enumerate(scenes) for t in scene.objects]
    if owners:
        masks = _masks(glyphs, [t for _, t in owners])
        evidence = np.array([t.evidence for _, t in owners])
        weights = np.exp(evidence - evidence.max(1, keepdims=True))
        paint = (weights / weights.sum(1, keepdims=True)) @ PROTOTYPES
    for i, scene in enumerate(scenes):
        canvas[i] = scene.background
    for j, (i, scene_object) in enumerate(owners):
        y, x = CELL_SIZE * (scene_object.cell // 2), CELL_SIZE * (scene_object.cell % 2)
        mask = masks[j][:, :, None]
        patch = canvas[i, y : y + CELL_SIZE, x : x + CELL_SIZE]
        patch += mask * (paint[j].astype(np.float32) - patch)
    for i, scene in enumerate(scenes):
        noise = np.random.default_rng(scene.noise_seed).standard_normal(canvas.shape[1:], dtype=np.float32)
        canvas[i] += np.float32(scene.noise) * noise
    return np.asarray(np.clip(canvas * 255.0 + 0.5, 0, 255), np.uint8)


def _masks(glyphs: npt.NDArray[np.float32], objects: Sequence[SceneObject]) -> npt.NDArray[np.float32]:
    """Return the coverage of each object in its cell: [n, 32, 32] in 0..1.

    The turned glyph is sampled bilinearly.
    """
    n = len(objects)
    centre = np.array([t.centre for t in objects], np.float32)
    tilt = np.array([t.tilt for t in objects], np.float32)[:, None, None]
    shear = np.array([t.shear for t in objects], np.float32)[:, None, None]
    scale = (32.0 / np.array([t.size for t in objects], np.float32))[:, None, None]
    grid = np.arange(CELL_SIZE, dtype=np.float32) + 0.5
    x = grid[None, None, :] - centre[:, 0, None, None]
    y = grid[None, :, None] - centre[:, 1, None, None]
    u = np.clip((np.cos(tilt) * x + np.sin(tilt) * y + shear * y) * scale + 19.5, 0.0, 38.999)
    v = np.clip((np.cos(tilt) * y - np.sin(tilt) * x) * scale + 19.5, 0.0, 38.999)
    u0, v0 = u.astype(np.int32), v.astype(np.int32)
    du, dv = u - u0, v - v0
    blend = np.array([t.blend for t in objects], np.float32)[:, None, None]
    first = glyphs[[t.glyph for t in objects]]
    source = (first + blend * (glyphs[[t.other_glyph for t in objects]] - first)).reshape(n, -1)
    rows = np.arange(n)[:, None, None]
    at = v0 * 40 + u0
    top = source[rows, at] * (1 - du) + source[rows, at + 1] * du
    low = source[rows, at + 40] * (1 - du) + source[rows, at + 41] * du
    cover = np.clip(1.25 * (top * (1 - dv) + low * dv), 0.0, 1.0)
    stroke = np.array([t.stroke for t in objects], np.float32)[:, None, None]
    return np.asarray(cover**stroke, np.float32)


def scenes(kind: Kind, part: Part, count: int, start: int = 0) -> Iterator[Scene]:
    """Return `count` scenes of one kind and part, from index `start`."""
    return (draw_scene(kind, part, i) for i in range(start, start + count))
