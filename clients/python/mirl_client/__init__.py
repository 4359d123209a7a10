"""A client of MIRL servers: questions about pictures, answers with their evidence.

    client.py         `Mirl`: ask, stream, describe, score
    async_client.py   `AsyncMirl`, the same for asyncio
    answers.py        results: `Answer`, `Descriptions`, `Scores`, and their `Cost`
    events.py         events of a streamed answer
    evidence.py       the `mirl` object of a response as typed values
    pictures.py       pictures from files, bytes, PIL images, arrays and URLs
    requests.py       bodies of requests; reading.py: bodies of responses; tokens.py: texts of tokens
    cli/              the command `mirl`

It stands on the openai package and pydantic, and imports nothing of the server or of `mirl_core`.

>>> client = Mirl("http://127.0.0.1:8000")
>>> client.ask("chart.png", "Which year grew most?").text

Responses of the openai package and plain JSON are read by `evidence(response)`.
"""

from __future__ import annotations

from mirl_client.answers import Answer, Cost, Descriptions, Score, Scores
from mirl_client.async_client import AsyncMirl
from mirl_client.client import Mirl
from mirl_client.errors import NotMIRLError, PictureError
from mirl_client.events import (
    Branched,
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
    TextDelta,
)
from mirl_client.evidence import (
    Budget,
    Chain,
    Decoding,
    Description,
    Evidence,
    Representative,
    Stage,
    Switch,
    Vote,
    evidence,
)
from mirl_client.pictures import Picture, picture_url
from mirl_client.requests import AskSettings, ScoreSettings

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AskSettings",
    "AsyncMirl",
    "Branched",
    "Budget",
    "Chain",
    "ChainDone",
    "Cost",
    "Decided",
    "Decoding",
    "Described",
    "Description",
    "Descriptions",
    "Event",
    "Evidence",
    "FellBack",
    "Finished",
    "Gated",
    "Mirl",
    "NotMIRLError",
    "Picture",
    "PictureError",
    "Representative",
    "Score",
    "ScoreSettings",
    "Scores",
    "Stage",
    "Started",
    "Switch",
    "TextDelta",
    "Vote",
    "evidence",
    "picture_url",
]
