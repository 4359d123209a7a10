"""The command against a stub: what it prints, sends, and exits with."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.cells import cell_len
from rich.console import Console

from mirl_client.cli import command, main, sources
from tests.unit.clients.stub import Stub
from tests.unit.server.harness import data_url, png

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    """A server of the command; the working directory has `a.png` and `b.png`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIRL_BASE_URL", raising=False)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png("blue"))
    server = Stub()
    monkeypatch.setattr(command, "Mirl", server.client)
    return server


@pytest.fixture
def run(stub: Stub, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capsys.readouterr()

    return call


def chat_bodies(stub: Stub) -> list[dict[str, Any]]:
    return [body for path, body in stub.requests if path == "/v1/chat/completions"]


def test_a_gated_answer_is_shown_with_its_cut_vote_and_cost(stub: Stub, run: Run) -> None:
    code, out, err = run("ask", "a.png", "how many?", "--seed", "3", "--option", "keep=3")
    assert (code, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines == [
        "how many?",
        "   description              MI/token            gate       answers",
        "─" * 72,
        "   apples 18, limes 6          +0.75  ████████  kept       25, 1 stopped",
        "►  limes 6, apples 18          +0.50  █████▍    kept       24 × 2",
        "   18 limes, 6 apples          -0.50  █████▍    kept       2 stopped",
        "   ── 3 kept, 2 dropped ──",
        "   limes 6, apples 17          +0.25  ██▋       dropped",
        "   limes 6                         –            truncated",
        "",
        "vote:       24 × 3, 25 × 1 → 24 (75%)",
        "confidence: 75% (the votes' share: not calibrated)",
        "tokens:     describe 92 in 1.1 s, score 18 in 0.2 s, fork 120 in 3.0 s",
        "Chains that were stopped, since they could not change the winner: 3 of 6.",
        "212 tokens were sampled, 73% less than the about 784 of 16 full answers.",
        "answer: 24",
    ]
    (body,) = chat_bodies(stub)
    assert (body["model"], body["seed"], body["mirl"]) == ("toy", 3, {"keep": 3})


def test_a_steered_answer_names_its_switches_in_their_clause(run: Run) -> None:
    code, out, _ = run("ask", "a.png", "how many?", "--preset", "steered")
    assert code == 0
    assert '  λ = 1 writes "limes 4" where the model alone writes "limes 5" (1.2 nats)' in out
    assert "►  limes 6, apples 18" in out
    assert "λ = 0.5" in out
    assert max(map(cell_len, out.splitlines())) <= 80


def test_a_question_may_be_longer_than_a_path(stub: Stub, run: Run) -> None:
    question = "is this so? " * 1000
    assert run("ask", "a.png", question, "--json")[0] == 0
    (body,) = chat_bodies(stub)
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": question}
    assert run("ask", question, "why?")[0] == 2


def test_comparison_sends_the_plain_model_the_same_messages(stub: Stub, run: Run) -> None:
    code, out, _ = run("ask", "a.png", "b.png", "how many?", "--compare", "--seed", "1")
    assert code == 0
    rows = [line.split()[:3] for line in out.splitlines()[-3:]]
    assert rows == [["greedy", "25", "40"], ["16", "votes", "25"], ["MIRL", "24", "212"]]
    gated, greedy, votes = chat_bodies(stub)
    assert gated["messages"] == greedy["messages"] == votes["messages"]
    assert [part["type"] for part in gated["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert (greedy["model"], greedy["temperature"], greedy["seed"]) == ("toy:direct", 0.0, 1)
    assert (votes["model"], votes["temperature"], votes["n"]) == ("toy:direct", 1.0, 16)


def test_json_is_one_object(run: Run) -> None:
    code, out, _ = run("ask", "a.png", "how many?", "--json", "--compare")
    assert code == 0
    fields = json.loads(out)
    assert (fields["text"], fields["vote"]["share"], fields["cost"]["sampled_tokens"]) == ("24", 0.75, 40)
    assert [row["way"] for row in fields["comparison"]] == ["greedy", "16 votes", "MIRL"]
    code, out, _ = run("score", "a.png", "a red dog", "--json")
    assert [score["mi"] for score in json.loads(out)["data"]] == [1.5]


def test_scores_are_ordered_by_mi(stub: Stub, run: Run) -> None:
    code, out, _ = run("score", "a.png", "a dog", "a big red dog", "--option", "clip=0.5")
    assert code == 0
    rows = [line.rstrip() for line in out.splitlines()][2:4]
    assert rows == ["+2.50     +0.62  ████████  a big red dog", "+0.50     +0.25  ███▎      a dog"]
    (body,) = [body for path, body in stub.requests if path == "/v1/mirl/score"]
    assert body["mirl"] == {"token_mi": True, "mi_weight": 1, "clip": 0.5}
    assert body["descriptions"] == ["a dog", "a big red dog"]


def test_scores_come_with_the_texts_of_their_tokens(stub: Stub, run: Run) -> None:
    assert run("score", "a.png", "a dog")[0] == 0
    assert [path for path, _ in stub.requests] == ["/v1/models", "/v1/mirl/score"]


def test_a_terminal_gets_picture_colours_and_stages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminal(**_: object) -> Console:
        return Console(
            file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor", no_color=False
        )

    console = terminal()
    monkeypatch.setattr(command, "Console", lambda **_: console)
    assert run("ask", "a.png", "how many?", "--preset", "steered")[0] == 0
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("\x1b[38;2;255;0;0;48;2;255;0;0m▀") == 8
    assert "\x1b[1;35m 4\x1b[0m" in text  # a switched token
    for stage in (
        "looking at the picture (70 tokens",
        "described it 2 times",
        "chains have ended",
        "decided early; chains stopped",
    ):
        assert stage in text
    console = terminal()
    assert run("score", "a.png", "a red dog")[0] == 0
    assert "\x1b[38;2;0;200;0m red\x1b[0m" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ask", "a.png"], "takes a picture and a question"),
        (["ask", "a.png", "b.png"], "the question comes last, and 'b.png' is none"),
        (["ask", "c.png", "why?"], "c.png: no such file"),
        (["ask", "-", "-", "why?"], "one picture only"),
        (["ask", "a.png", "why?", "--option", "keep"], "NAME=VALUE"),
        (["ask", "a.png", "why?", "--max-side", "0"], "no number of pixels"),
        (["ask", "a.png", "why?", "--serve", "--url", "http://x"], "--url"),
        (["ask", "a.png", "why?", "--url", "x"], "address"),
        (["ask", "a.png", "why?", "--seed", "x"], "invalid int"),
        (["score", "a.png"], "takes a picture and descriptions"),
        (["tell"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out.strip()) == (2, "")
    assert err.startswith("mirl: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 2), (413, 2), (422, 2), (401, 1), (500, 1)])
def test_a_request_that_the_server_refuses_is_a_wrong_command_line(
    stub: Stub, run: Run, status: int, code: int
) -> None:
    stub.failure = httpx.Response(status, json={"error": {"message": "no"}})
    assert run("ask", "a.png", "why?", "--json") == (code, "", f"mirl: {status}: no\n")


def test_errors_of_the_server_are_one_line_and_exit_code_1(stub: Stub, run: Run) -> None:
    stub.failure = httpx.Response(
        429, json={"error": {"message": "the queue\nis full", "code": "overloaded"}}
    )
    assert run("ask", "a.png", "why?", "--json") == (1, "", "mirl: 429: the queue is full\n")
    stub.failure, stub.broken_stream = None, True
    code, _, err = run("ask", "a.png", "why?")
    assert (code, err) == (1, "mirl: the engine has died\n")


def test_a_server_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    monkeypatch.setattr(Stub, "respond", lambda _, request: refuse(request))
    code, _, err = run("ask", "a.png", "why?", "--url", "http://host:9", "--json")
    assert (code, err) == (1, "mirl: no server answers at http://host:9 (mirl-serve starts one)\n")


def test_pictures_from_stdin_and_the_clipboard(stub: Stub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(png())

    monkeypatch.setattr(sys, "stdin", Stdin)
    monkeypatch.setattr(sources, "clipboard_pictures", lambda: [png("blue")])
    assert run("ask", "-", "why?", "--clipboard", "--json")[0] == 0
    (body,) = chat_bodies(stub)
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:2]]
    assert urls == [data_url(), data_url("blue")]
    code, _, err = run("ask", "-", "why?")
    assert (code, err) == (2, "mirl: stdin ('-') has no data\n")


def test_serve_starts_a_server_for_the_call(stub: Stub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    @contextmanager
    def serving(console: Console) -> Iterator[str]:
        assert console.stderr
        yield "http://served"
        ran.append("stopped")

    monkeypatch.setattr(command, "serving", serving)
    assert run("ask", "a.png", "why?", "--serve", "--json")[0] == 0
    assert ran == ["stopped"]
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    code, _, err = run("ask", "a.png", "why?", "--serve")
    assert (code, err) == (2, "mirl: --serve needs the main package: pip install mirl\n")
