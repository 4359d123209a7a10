"""The synchronous client; `async_client.py` is the same for `asyncio`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Unpack

from openai import APIConnectionError, APIStatusError, OpenAI

from mirl_client.answers import Answer, Descriptions, Scores
from mirl_client.errors import transport_errors
from mirl_client.events import Event
from mirl_client.pictures import Picture
from mirl_client.reading import Clock, StreamReader, answer_of, descriptions_of, scores_of
from mirl_client.requests import (
    AskSettings,
    ScoreSettings,
    api_key_of,
    api_url,
    ask_call,
    gated_model,
    score_call,
)
from mirl_client.tokens import token_texts


class Mirl:
    """A client of a MIRL server.

    It stands on the openai package, which is `openai` here: retries, time-outs, proxies and errors
    (`openai.OpenAIError` and those below it) are that package's.

    Args:
        base_url: the server's address; None: `MIRL_BASE_URL`, else http://127.0.0.1:8000.
        api_key: None: `MIRL_API_KEY`, else none.
        model: the name to ask; None: the first gated name that the server lists. `NAME:direct` is the model
            without MIRL.
        timeout: longest wait for a piece of a response, in seconds.
        max_retries: most repetitions of a request that could not connect, met a full server or a failing one.
        http_client: the HTTP client for the openai package, where its own does not fit.

    Raises:
        ValueError: `base_url` is no http(s) URL.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        *,
        timeout: float = 600.0,
        max_retries: int = 2,
        http_client: Any = None,
    ) -> None:
        self.openai = OpenAI(
            base_url=api_url(base_url),
            api_key=api_key_of(api_key),
            timeout=timeout,
            max_retries=max_retries,
            http_client=http_client,
        )
        """The client of the openai package."""
        self._model = model

    def ask(
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> Answer:
        """Return the answer to a question about pictures.

        Args:
            pictures: one picture or several; `()` for a follow-up, which gets a plain answer.
            question: the question, or what to do.
            settings: `preset`, `options`, `history`, `seed`, `model`, `extra`, `max_pixels`, `max_side`;
                `AskSettings` says what each does.

        Raises:
            PictureError: a picture can't be read.
            TypeError: there is no such setting.
            ValueError: `extra` has a field that the client sets.
            openai.OpenAIError: the request failed.
        """
        call = ask_call(pictures, question, settings, "ask")
        name = self._name(settings.get("model"))
        clock = Clock()
        sent: Any = call.messages
        response = self.openai.chat.completions.create(model=name, messages=sent, extra_body=call.fields)
        return answer_of(response, call.messages, clock)

    def stream(
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> Generator[Event, None, None]:
        """Yield the stages of an answer as they happen; the last event is `Finished`, with the answer.

        The arguments and errors are those of `ask`. Closing the generator (`close`) cancels the request.
        """
        call = ask_call(pictures, question, settings, "stream")
        name = self._name(settings.get("model"))
        reader = StreamReader(call.messages, Clock())
        sent: Any = call.messages
        chunks = self.openai.chat.completions.create(
            model=name,
            messages=sent,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=call.fields,
        )
        try:
            with chunks:
                for chunk in chunks:
                    yield from reader.read(chunk)
        except transport_errors() as error:
            raise APIConnectionError(
                message="the connection broke", request=chunks.response.request
            ) from error
        yield reader.finished()

    def describe(
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> Descriptions:
        """Return the descriptions that an answer would reason from, with their MI; no chain starts.

        The arguments and errors are those of `ask`. The same seed gives the descriptions of the full answer.
        """
        call = ask_call(pictures, question, settings, "describe")
        body = call.body(self._name(settings.get("model")))
        clock = Clock()
        return descriptions_of(self.openai.post("/mirl/describe", cast_to=object, body=body), clock)

    def score(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        descriptions: str | Sequence[str],
        **settings: Unpack[ScoreSettings],
    ) -> Scores:
        """Return how much descriptions owe to pictures: their MI, whole and of each token, in nats.

        Args:
            pictures: one picture or several.
            question: the question that the descriptions are about.
            descriptions: one text or several.
            settings: `options`, `history`, `model`, `max_pixels`, `max_side`; `ScoreSettings` says what each
                does. The option `token_mi` is on unless set.

        Raises:
            PictureError: a picture can't be read.
            TypeError: there is no such setting.
            openai.OpenAIError: the request failed.
        """
        call = score_call(pictures, question, descriptions, settings)
        body = call.body(self._name(settings.get("model")))
        clock = Clock()
        return scores_of(self.openai.post("/mirl/score", cast_to=object, body=body), clock)

    def tokens(self, text: str) -> list[str] | None:
        """Return a text's tokens as texts, as the model splits it; None where the server does not say.

        Raises:
            openai.OpenAIError: the request failed otherwise than by a refusal.
        """
        url = str(self.openai.base_url).removesuffix("/").removesuffix("/v1") + "/tokenize"
        body = {
            "model": self._name(None),
            "prompt": text,
            "add_special_tokens": False,
            "return_token_strs": True,
        }
        try:
            fields: Any = self.openai.post(url, cast_to=object, body=body)
        except APIStatusError:
            return None
        strings = fields.get("token_strs") if isinstance(fields, dict) else None
        return token_texts(strings, text) if strings else None

    def models(self) -> list[str]:
        """Return the names that the server lists: gated ones, their `:direct` forms, and adapters.

        Raises:
            openai.OpenAIError: the request failed.
        """
        return [model.id for model in (self.openai.models.list()).data]

    def _name(self, model: str | None) -> str:
        """Return the name to ask; the server's is looked up once."""
        if model is not None:
            return model
        if self._model is None:
            self._model = gated_model(self.models())
        return self._model

    def close(self) -> None:
        """Close the connections."""
        self.openai.close()

    def __enter__(self) -> Mirl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
