"""The command line of `mirl`: `ask` and `score`.

Exit codes: 0; 1 where the server fails or can't be reached; 2 where the command line or a picture is wrong;
130 after Ctrl-C. An error is one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, NoReturn

from openai import APIConnectionError, APIError, APITimeoutError, OpenAIError
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mirl_client.answers import Answer
from mirl_client.cli import WIDTH
from mirl_client.cli.attempts import Attempt, plain_attempts
from mirl_client.cli.live import LiveAnswer, Painter, final_view
from mirl_client.cli.pictures import COLUMNS, half_blocks, shows_pictures
from mirl_client.cli.scores import legend, scores_table
from mirl_client.cli.serving import serving
from mirl_client.cli.sources import read_pictures
from mirl_client.cli.tables import answers_table
from mirl_client.client import Mirl
from mirl_client.errors import PictureError
from mirl_client.events import Finished
from mirl_client.pictures import Picture, open_image, picture_bytes

_REFUSED = (400, 404, 413, 422)
"""Statuses of requests that no repetition helps: an option, a model's name or a picture is wrong."""


class UsageError(Exception):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the error.

        Raises:
            UsageError: always.
        """
        raise UsageError(message)


def pixels(word: str) -> int:
    """Return a number of pixels, at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no number of pixels")
    return int(word)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        options = parser().parse_args(arguments)
        options.run(options)
    except (UsageError, PictureError) as error:
        return fail(str(error), 2)
    except APITimeoutError:
        return fail("the server took too long to answer; --timeout allows it more", 1)
    except APIConnectionError as error:
        url = error.request.url
        address = f"{url.scheme}://{url.netloc.decode()}"
        return fail(f"no server answers at {address} (mirl-serve starts one)", 1)
    except APIError as error:
        status = getattr(error, "status_code", None)
        body = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)
        code = 2 if status in _REFUSED else 1
        return fail(message if status is None else f"{status}: {message}", code)
    except OpenAIError as error:
        return fail(str(error), 1)
    except BrokenPipeError:
        # The reader of a pipe left; a second error at the interpreter's end is no use.
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return 130
    return 0


def fail(message: str, code: int) -> int:
    """Print an error on one line of stderr; return the exit code."""
    sys.stderr.write(f"mirl: {' '.join(message.split())}\n")
    return code


def parser() -> Parser:
    """Return the parser of the command line."""
    top = Parser(prog="mirl", description="Ask a MIRL server about pictures, and see how it answers.")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    ask_parser = commands.add_parser("ask", help="ask a question about pictures", description=ask.__doc__)
    ask_parser.add_argument(
        "words",
        nargs="+",
        metavar="PICTURE ... QUESTION",
        help="files or URLs, '-' for stdin; the question last",
    )
    ask_parser.add_argument("--preset", help="a named set of options: gate, steered, fast, …")
    ask_parser.add_argument(
        "--compare", action="store_true", help="ask the plain model too: greedily, and by 16 votes"
    )
    ask_parser.add_argument("--seed", type=int, help="the seed of the sampling")
    ask_parser.set_defaults(run=ask)
    score_parser = commands.add_parser("score", help="measure how much descriptions owe to a picture",
                                       description=score.__doc__)  # fmt: skip
    score_parser.add_argument("words", nargs="+", metavar="PICTURE DESCRIPTION ...", help="the picture first")
    score_parser.add_argument(
        "--question", default="Describe the picture.", help="what the descriptions answer"
    )
    score_parser.set_defaults(run=score)
    for command in (ask_parser, score_parser):
        command.add_argument("--url", help="the server's address (MIRL_BASE_URL; http://127.0.0.1:8000)")
        command.add_argument("--key", help="the API key (MIRL_API_KEY)")
        command.add_argument("--model", help="the model's name; the server's first gated one otherwise")
        command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                             help="an option of the mirl object, such as keep=3")  # fmt: skip
        command.add_argument("--clipboard", action="store_true", help="take the clipboard's picture")
        command.add_argument("--max-side", type=pixels, metavar="PIXELS", help="scale larger pictures down")
        command.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="600")
        command.add_argument("--json", action="store_true", help="print one JSON object instead")
        command.add_argument("--serve", action="store_true", help="start the bundled model for this call")
    return top


def ask(options: argparse.Namespace) -> None:
    """Ask a question about pictures; show the stages of the answer as they happen."""
    *words, question = options.words
    if not words and not options.clipboard:
        raise UsageError("ask takes a picture and a question: mirl ask picture.png 'what is it?'")
    if not question.strip() or os.path.isfile(question):
        raise UsageError(f"the question comes last, and '{question}' is none")
    pictures = read_pictures(words, options.clipboard)
    console = new_console()
    fields = {
        "preset": options.preset,
        "options": parsed_options(options.option),
        "seed": options.seed,
        "max_side": options.max_side,
    }
    with client_of(options, console) as client:
        if options.json:
            answer = client.ask(pictures, question, **fields)
            print(json.dumps(answer.as_json() | compared_json(options, client, answer), ensure_ascii=False))
            return
        console.print(Text(question, "bold"))
        show_pictures(console, pictures)
        painter = Painter(client)
        view = LiveAnswer(painter)
        stream = client.stream(pictures, question, **fields)
        # Drawn at each event: a thread that draws in between would read a state that changes.
        with (
            closing(stream) as events,
            Live(view, console=console, auto_refresh=False, transient=True) as live,
        ):
            for event in events:
                view.apply(event)
                live.refresh()
        assert isinstance(event, Finished), "a stream ends with its answer"
        console.print(final_view(event.answer, painter))
        if options.compare:
            console.print()
            with console.status("Asking the plain model …"):
                attempts = compared(options, client, event.answer)
            console.print(answers_table(attempts))


def score(options: argparse.Namespace) -> None:
    """Measure how much descriptions owe to a picture: their mutual information (MI) with it, in nats."""
    words, descriptions = ([], options.words) if options.clipboard else (options.words[:1], options.words[1:])
    if not descriptions:
        raise UsageError("score takes a picture and descriptions: mirl score picture.png 'a brown circle'")
    pictures = read_pictures(words, options.clipboard)
    console = new_console()
    with client_of(options, console) as client:
        result = client.score(
            pictures, options.question, descriptions,
            options={"mi_weight": 1.0} | parsed_options(options.option), max_side=options.max_side,
        )  # fmt: skip
        if options.json:
            data = [each.model_dump(mode="json") for each in result.scores]
            print(
                json.dumps(
                    {"model": result.model, "mi_weight": result.mi_weight, "data": data}, ensure_ascii=False
                )
            )
            return
    show_pictures(console, pictures)
    console.print(scores_table(result))
    console.print(Text(legend(result), "dim"))


def compared(options: argparse.Namespace, client: Mirl, answer: Answer) -> list[Attempt]:
    """Return the plain model's answers to a question, then MIRL's."""
    mirl = Attempt(f"MIRL, {options.preset}" if options.preset else "MIRL", answer.text or None,
                   answer.cost.sampled_tokens, answer.cost.seconds)  # fmt: skip
    return [*plain_attempts(client, answer.model, answer.messages[:-1], options.seed), mirl]


def compared_json(options: argparse.Namespace, client: Mirl, answer: Answer) -> dict[str, Any]:
    """Return the comparison for JSON; nothing where none is wanted."""
    if not options.compare:
        return {}
    return {"comparison": [asdict(attempt) for attempt in compared(options, client, answer)]}


def parsed_options(words: Sequence[str]) -> dict[str, Any]:
    """Return options of the `mirl` object from `NAME=VALUE`; a value is JSON, or else a text.

    Raises:
        UsageError: a word has no `=`.
    """
    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--option takes NAME=VALUE, not '{word}'")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def new_console() -> Console:
    """Return the terminal, or a pipe, at most `WIDTH` columns wide."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    return console


@contextmanager
def client_of(options: argparse.Namespace, console: Console) -> Iterator[Mirl]:
    """Yield a client of the server that the command line names, or of one that runs for this call.

    Raises:
        UsageError: the address is wrong, or `--serve` is without the main distribution or beside `--url`.
    """
    if options.serve and options.url:
        raise UsageError("--serve starts a server; --url names another one")
    if options.serve and find_spec("mirl_server") is None:
        raise UsageError("--serve needs the main package: pip install mirl")
    # Only the JSON belongs on stdout.
    notices = Console(stderr=True, highlight=False) if options.json else console
    with serving(notices) if options.serve else nullcontext(options.url) as url:
        try:
            client = Mirl(url, options.key, options.model, timeout=options.timeout)
        except ValueError as error:
            raise UsageError(str(error)) from error
        with client:
            yield client


def show_pictures(console: Console, pictures: Sequence[Picture]) -> None:
    """Print pictures in half-blocks, where the terminal has colours and Pillow reads them."""
    if not shows_pictures(console):
        return
    for picture in pictures:
        if isinstance(picture, str) and picture.startswith(("http://", "https://")):
            continue
        try:
            is_image = hasattr(picture, "getpixel")
            image: Any = picture if is_image else open_image(picture_bytes(picture))
        except PictureError:
            # The server judges the picture; a preview is no condition.
            continue
        console.print(half_blocks(image, min(COLUMNS, console.width)))
