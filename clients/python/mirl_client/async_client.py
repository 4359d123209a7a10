"""The asynchronous client; `client.py` is the same without `await`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Unpack

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

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


class AsyncMirl:
    """A client of a MIRL server, for `asyncio`.

    It stands on the openai package, whose client is `openai` here. The arguments and errors are those of
    `Mirl`.
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
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> Answer:
        """Return the answer to a question about pictures.

        The arguments and errors are those of `Mirl.ask`.
        """
        call = ask_call(pictures, question, settings, "ask")
        name = await self._name(settings.get("model"))
        clock = Clock()
        sent: Any = call.messages
        response = await self.openai.chat.completions.create(
            model=name, messages=sent, extra_body=call.fields
        )
        return answer_of(response, call.messages, clock)

    async def stream(
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> AsyncGenerator[Event, None]:
        """Yield the stages of an answer as they happen; the last event is `Finished`, with the answer.

        The arguments and errors are those of `ask`. Closing the generator (`aclose`) cancels the request.
        """
        call = ask_call(pictures, question, settings, "stream")
        name = await self._name(settings.get("model"))
        reader = StreamReader(call.messages, Clock())
        sent: Any = call.messages
        chunks = await self.openai.chat.completions.create(
            model=name,
            messages=sent,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=call.fields,
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
        self, pictures: Picture | Sequence[Picture], question: str, **settings: Unpack[AskSettings]
    ) -> Descriptions:
        """Return the descriptions that an answer would reason from, with their MI; no chain starts.

        The arguments and errors are those of `ask`. The same seed gives the descriptions of the full answer.
        """
        call = ask_call(pictures, question, settings, "describe")
        body = call.body(await self._name(settings.get("model")))
        clock = Clock()
        return descriptions_of(await self.openai.post("/mirl/describe", cast_to=object, body=body), clock)

    async def score(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        descriptions: str | Sequence[str],
        **settings: Unpack[ScoreSettings],
    ) -> Scores:
        """Return how much descriptions owe to pictures: their MI, whole and of each token, in nats.

        The arguments and errors are those of `Mirl.score`.
        """
        call = score_call(pictures, question, descriptions, settings)
        body = call.body(await self._name(settings.get("model")))
        clock = Clock()
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
