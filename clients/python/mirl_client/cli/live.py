"""An answer while it comes about, and when it has."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from mirl_client.answers import Answer
from mirl_client.cli.attempts import VOTES, full_answers_tokens
from mirl_client.cli.summary import summary
from mirl_client.cli.switches import largest_switches
from mirl_client.cli.tables import descriptions_table, shorten
from mirl_client.client import Mirl
from mirl_client.events import (
    Branched,
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Gated,
    Started,
    TextDelta,
)
from mirl_client.evidence import Chain, Description, Evidence, Representative

SWITCHED = "bold magenta"
"""The style of a token that the model alone would not have written."""


class Painter:
    """Paints descriptions: their switched tokens stand out where the server says how it splits texts."""

    def __init__(self, client: Mirl | None) -> None:
        self._client = client
        self._tokens: dict[str, list[str]] = {}

    def learn(self, description: Description) -> None:
        """Note the tokens of a description; ask the server for them, once for each text with switches.

        The server sends them only beside `token_mi`, which would cost the forward passes of a further score.
        """
        has_switches = description.decoding is not None and description.decoding.switches
        if description.token_texts is not None:
            self._tokens[description.text] = list(description.token_texts)
        if self._client is None or not has_switches or description.text in self._tokens:
            return
        tokens = self._client.tokens(description.text)
        if tokens is None:
            # It will not say for the next one either.
            self._client = None
        else:
            self._tokens[description.text] = tokens

    def tokenize(self, text: str) -> list[str]:
        """Return a text's tokens; the text whole where they are unknown."""
        return self._tokens.get(text, [text])

    def __call__(self, description: Description) -> Text:
        """Return a description on one line, its switched tokens styled."""
        tokens = self._tokens.get(description.text)
        if description.decoding is None or tokens is None:
            return Text(shorten(description.text))
        switched = {
            switch.position
            for switch in description.decoding.switches
            if switch.position < len(tokens) and tokens[switch.position].strip() == switch.chosen.strip()
        }
        line = Text()
        for position, token in enumerate(tokens):
            line.append(token.replace("\n", " "), SWITCHED if position in switched else "")
        line.truncate(len(shorten(description.text)), overflow="ellipsis")
        return line


class LiveAnswer:
    """The stages of one answer as far as they have come; rich draws it."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._descriptions: dict[int, Description] = {}
        self._chains: list[Chain] = []
        self._most_descriptions: int | None = None
        self._expected_chains = 0
        self._chains_of_kept = 0
        self._decided: Decided | None = None
        self._text = ""
        self.stage = "sending the picture …"
        """What happens now, in words."""

    def apply(self, event: Event) -> None:
        """Take an event of the stream into account."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Described):
            self._describe(event.description)
        elif isinstance(event, Gated):
            self._gate(event)
        elif isinstance(event, FellBack):
            self.stage = f"no description is usable ({event.reason}); answering plainly …"
        elif isinstance(event, Branched):
            self._expected_chains += event.chains
            self.stage = self._reasoning()
        elif isinstance(event, ChainDone):
            self._chains.append(event.chain)
            if self._decided is None:
                self.stage = self._reasoning()
        elif isinstance(event, Decided):
            self._decided = event
            self.stage = f"decided{_early(event.outstanding)}"
        elif isinstance(event, TextDelta):
            self._text += event.text

    def _start(self, event: Started) -> None:
        budget = event.budget
        self.stage = f"looking at the picture ({event.prompt_tokens} tokens with the question) …"
        if budget is not None:
            self._most_descriptions = budget.descriptions + (budget.decoded or 0)
            self._chains_of_kept = budget.forks or 0

    def _describe(self, description: Description) -> None:
        self._painter.learn(description)
        self._descriptions[description.index] = description
        most = "" if self._most_descriptions is None else f" of at most {self._most_descriptions}"
        self.stage = f"described it {len(self._descriptions)} times{most} …"

    def _gate(self, event: Gated) -> None:
        self._descriptions = {description.index: description for description in event.descriptions}
        kept = sum(description.kept for description in event.descriptions)
        self._expected_chains = max(self._expected_chains, kept * self._chains_of_kept)
        self.stage = self._reasoning()

    def _reasoning(self) -> str:
        expected = f" of at most {self._expected_chains}" if self._expected_chains else ""
        return f"reasoning: {len(self._chains)}{expected} chains have ended …"

    def __rich__(self) -> RenderableType:
        """Return what happens now, and the descriptions by rank with their chains, a line each."""
        # The stage first: a terminal that is too low cuts the end.
        parts: list[RenderableType] = [Text(self.stage, "dim")]
        if self._descriptions:
            parts.append(descriptions_table(self._so_far(), self._line, bars=True))
        if self._text:
            parts.append(Text(self._text))
        return Group(*parts)

    def _line(self, description: Description) -> Text:
        text = self._painter(description)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _so_far(self) -> Evidence:
        winner = self._decided.representative if self._decided else None
        return Evidence(
            descriptions=tuple(self._descriptions[index] for index in sorted(self._descriptions)),
            chains=tuple(self._chains),
            representative=winner or Representative(description=None, fork=0),
            vote=self._decided.vote if self._decided else None,
            confidence=None,
            margin=None,
            aggregation="",
            partial=False,
            fallback=None,
            stages=(),
        )


def final_view(answer: Answer, painter: Painter) -> RenderableType:
    """Return a complete answer: descriptions, switches, vote, cost, and the answer itself with warnings."""
    details = answer.evidence
    parts: list[RenderableType] = []
    if details is not None:
        if details.fallback:
            parts.append(Text(f"the gate was not used: {details.fallback}"))
        if details.descriptions:
            parts += [descriptions_table(details, painter, bars=True), ""]
        parts += [
            Padding(Text(line, "dim"), (0, 0, 0, 2)) for line in largest_switches(details, painter.tokenize)
        ]
        parts.append(summary(details))
        parts += [Text(line, "dim") for line in notes(details)]
    answered = Text.assemble(("answer: ", "bold"), (answer.text or "(none)", "bold green"))
    return Group(*parts, answered, *(Text(f"! {warning}", "yellow") for warning in answer.warnings))


def notes(details: Evidence) -> list[str]:
    """Return sentences about an answer: stopped chains, the cost of full answers, its confidence."""
    sentences = []
    chains = len(details.chains)
    stopped = sum(chain.finish_reason == "abort" for chain in details.chains)
    if stopped:
        sentences.append(
            f"Chains that were stopped, since they could not change the winner: {stopped} of {chains}."
        )
    sampled = sum(stage.generated_tokens for stage in details.stages)
    full = full_answers_tokens(details)
    if full:
        sentences.append(
            f"{sampled:,} tokens were sampled, {_ratio(sampled, full)} than the about {full:,} of "
            f"{VOTES} full answers."
        )
    if details.uncalibrated and details.confidence is not None:
        sentences.append(f"The confidence is not calibrated: {details.uncalibrated}")
    if details.partial:
        sentences.append("The time ran out: this is the best answer so far.")
    return sentences


def _ratio(sampled: int, full: int) -> str:
    difference = 1 - sampled / full
    return f"{difference:.0%} less" if difference >= 0 else f"{-difference:.0%} more"


def _early(outstanding: int) -> str:
    if not outstanding:
        return ""
    return f" early; chains stopped, since they can no longer change the winner: {outstanding}"
