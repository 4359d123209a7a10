"""The asynchronous client; `client.py` is the same without `await`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from mirl_client.answers import Answer, Descriptions, Scores
from mirl_client.errors import transport_errors
from mirl_client.events import Event
from mirl_client.pictures import Picture
from mirl_client.reading import Clock, StreamReader, answer_of, descriptions_of, scores_of
from mirl_client.requests import api_key_of, api_url, conversation, fields_of, gated_model
from mirl_client.tokens import token_texts


class AsyncMirl:
    """A client of a MIRL server, for `asyncio`.

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
        self.openai = AsyncOpenAI(
            base_url=api_url(base_url),
            api_key=api_key_of(api_key),
            timeout=timeout,
            max_retries=max_retries,
            http_client=http_client,
        )
        """The client of the openai package."""
        self._model = model

    async def ask(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        *,
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] = (),
        seed: int | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        max_side: int | None = None,
    ) -> Answer:
        """Return the answer to a question about pictures.

        Args:
            pictures: one picture or several; `()` for a follow-up, which gets a plain answer.
            question: the question, or what to do.
            preset: a named set of options, such as `gate` or `steered`.
            options: options of the `mirl` object, such as `{"keep": 3}`; they win over the preset.
            history: the conversation so far, such as the `messages` of an earlier answer.
            seed: the seed of the sampling; the same seed gives the same answer on the same server.
            model: a name in place of the client's.
            extra: further fields of a chat completion, such as `{"max_completion_tokens": 400}`.
            max_pixels: most pixels of a picture; a larger one is scaled down.
            max_side: most pixels of a picture's longer side.

        Raises:
            PictureError: a picture can't be read.
            ValueError: `extra` has a field that the client sets.
            openai.OpenAIError: the request failed.
        """
        messages = conversation(pictures, question, history, max_pixels=max_pixels, max_side=max_side)
        fields = fields_of(preset, options, seed, extra)
        name = await self._name(model)
        clock = Clock()
        sent: Any = messages
        response = await self.openai.chat.completions.create(model=name, messages=sent, extra_body=fields)
        return answer_of(response, messages, clock)

    async def stream(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        *,
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] = (),
        seed: int | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        max_side: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield the stages of an answer as they happen; the last event is `Finished`, with the answer.

        The arguments and errors are those of `ask`. Closing the generator (`aclose`) cancels the request.
        """
        messages = conversation(pictures, question, history, max_pixels=max_pixels, max_side=max_side)
        fields = fields_of(preset, options, seed, extra)
        name = await self._name(model)
        reader = StreamReader(messages, Clock())
        sent: Any = messages
        chunks = await self.openai.chat.completions.create(
            model=name,
            messages=sent,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=fields,
        )
        try:
            async with chunks:
                async for chunk in chunks:
                    for event in reader.read(chunk):
                        yield event
        except transport_errors() as error:
            raise APIConnectionError(
                message="the connection broke", request=chunks.response.request
            ) from error
        yield reader.finished()

    async def describe(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        *,
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] = (),
        seed: int | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        max_pixels: int | None = None,
        max_side: int | None = None,
    ) -> Descriptions:
        """Return the descriptions that an answer would reason from, with their MI; no chain starts.

        The arguments and errors are those of `ask`. The same seed gives the descriptions of the full answer.
        """
        messages = conversation(pictures, question, history, max_pixels=max_pixels, max_side=max_side)
        fields = fields_of(preset, options, seed, extra)
        name = await self._name(model)
        clock = Clock()
        body = {"model": name, "messages": messages, **fields}
        return descriptions_of(await self.openai.post("/mirl/describe", cast_to=object, body=body), clock)

    async def score(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        descriptions: str | Sequence[str],
        *,
        options: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] = (),
        model: str | None = None,
        max_pixels: int | None = None,
        max_side: int | None = None,
    ) -> Scores:
        """Return how much descriptions owe to pictures: their MI, whole and of each token, in nats.

        Args:
            pictures: one picture or several.
            question: the question that the descriptions are about.
            descriptions: one text or several.
            options: options of the `mirl` object, such as `{"mi_weight": 1.0}`; `token_mi` is on unless set.
            history: the conversation before the question.
            model: a name in place of the client's.
            max_pixels: most pixels of a picture; a larger one is scaled down.
            max_side: most pixels of a picture's longer side.

        Raises:
            PictureError: a picture can't be read.
            openai.OpenAIError: the request failed.
        """
        messages = conversation(pictures, question, history, max_pixels=max_pixels, max_side=max_side)
        texts = [descriptions] if isinstance(descriptions, str) else list(descriptions)
        fields = fields_of(None, {"token_mi": True} | dict(options or {}), None, None)
        name = await self._name(model)
        clock = Clock()
        body = {"model": name, "messages": messages, "descriptions": texts, **fields}
        return scores_of(await self.openai.post("/mirl/score", cast_to=object, body=body), clock)

    async def tokens(self, text: str) -> list[str] | None:
        """Return a text's tokens as texts, as the model splits it; None where the server does not say.

        Raises:
            openai.OpenAIError: the request failed otherwise than by a refusal.
        """
        url = str(self.openai.base_url).removesuffix("/").removesuffix("/v1") + "/tokenize"
        body = {
            "model": await self._name(None),
            "prompt": text,
            "add_special_tokens": False,
            "return_token_strs": True,
        }
        try:
            fields: Any = await self.openai.post(url, cast_to=object, body=body)
        except APIStatusError:
            return None
        strings = fields.get("token_strs") if isinstance(fields, dict) else None
        return token_texts(strings, text) if strings else None

    async def models(self) -> list[str]:
        """Return the names that the server lists: gated ones, their `:direct` forms, and adapters.

        Raises:
            openai.OpenAIError: the request failed.
        """
        return [model.id for model in (await self.openai.models.list()).data]

    async def _name(self, model: str | None) -> str:
        """Return the name to ask; the server's is looked up once."""
        if model is not None:
            return model
        if self._model is None:
            self._model = gated_model(await self.models())
        return self._model

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()

    async def __aenter__(self) -> AsyncMirl:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
