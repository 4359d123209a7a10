"""The whole corpus, and a sample of it that comes out the same every time."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import chain

from tests.hostile import bodies, fields, parts, urls, wire
from tests.hostile.case import Case

FAMILIES = (
    bodies.wrong_bodies, bodies.wrong_headers, bodies.mutations, fields.wrong_fields, fields.models,
    fields.knobs, fields.templates, fields.plain_fields, fields.mutated_bodies, parts.shapes,
    parts.other_shapes, parts.pictures, parts.mutated_pictures, parts.forms, parts.tools, urls.urls,
    urls.other_media, wire.paths,
)  # fmt: skip


def corpus() -> list[Case]:
    """Every request; some thousands."""
    return list(chain.from_iterable(family() for family in FAMILIES))


def sample(cases: list[Case], of_each: int, seed: int) -> list[Case]:
    """Some of each family, chosen by `seed`."""
    families: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        families[case.family].append(case)
    chance = random.Random(seed)
    return [drawn for some in families.values() for drawn in chance.sample(some, min(of_each, len(some)))]
