/** The client. */

import OpenAI, { APIConnectionError, APIUserAbortError, type ClientOptions } from "openai";
import type { Answer, Descriptions, Scores } from "./answers.js";
import type { MirlEvent } from "./events.js";
import type { Picture } from "./pictures.js";
import { Clock, StreamReader, answerOf, descriptionsOf, scoresOf } from "./reading.js";
import { type AskSettings, type ScoreSettings, apiURL, conversation, fieldsOf, gatedModel } from "./requests.js";
import { environment } from "./runtime.js";

/** Settings of a client: those of the openai package's (`timeout` in milliseconds, `maxRetries`, `fetch`, …), and: */
export interface MirlSettings extends Omit<ClientOptions, "apiKey" | "baseURL"> {
  /** Undefined: `MIRL_API_KEY`, else none. */
  apiKey?: string;
  /** The name to ask; undefined: the first gated name that the server lists. `NAME:direct` is the plain model. */
  model?: string;
}

/**
 * A client of a MIRL server.
 *
 * It stands on the openai package: retries, time-outs and errors (`OpenAIError` and those below it) are that package's.
 */
export class Mirl {
  /** The client of the openai package. */
  readonly openai: OpenAI;
  #model: string | undefined;

  /**
   * @param baseURL the server's address; undefined: `MIRL_BASE_URL`, else http://127.0.0.1:8000.
   * @throws {TypeError} `baseURL` is no http(s) URL.
   */
  constructor(baseURL?: string, { apiKey, model, ...settings }: MirlSettings = {}) {
    const key = apiKey || environment("MIRL_API_KEY");
    this.openai = new OpenAI({
      // A page without a key has no secret to lose.
      dangerouslyAllowBrowser: key === undefined,
      ...settings,
      baseURL: apiURL(baseURL),
      // A header can't be empty.
      apiKey: key ?? "none",
    });
    this.#model = model;
  }

  /**
   * Return the answer to a question about pictures.
   *
   * @param pictures one picture or several; `[]` for a follow-up, which gets a plain answer.
   * @param question the question, or what to do.
   * @throws {PictureError} a picture can't be read.
   * @throws {TypeError} `extra` has a field that the client sets.
   * @throws {OpenAIError} the request failed.
   */
  async ask(pictures: Picture | readonly Picture[], question: string, settings: AskSettings = {}): Promise<Answer> {
    const fields = fieldsOf(settings);
    const messages = await conversation(pictures, question, settings);
    const model = await this.#name(settings);
    const clock = new Clock();
    const body = { ...fields, model, messages };
    const response = await this.openai.chat.completions.create(body, requestOptions(settings));
    return answerOf(response, messages, clock);
  }

  /**
   * Yield the stages of an answer as they happen; the last event is `finished`, with the answer.
   *
   * The parameters and errors are those of `ask`. Leaving the loop, or the `signal`, cancels the request.
   */
  async *stream(
    pictures: Picture | readonly Picture[],
    question: string,
    settings: AskSettings = {},
  ): AsyncGenerator<MirlEvent, void, undefined> {
    const fields = fieldsOf(settings);
    const messages = await conversation(pictures, question, settings);
    const model = await this.#name(settings);
    const reader = new StreamReader(messages, new Clock());
    const chunks = await this.openai.chat.completions.create(
      { ...fields, model, messages, stream: true, stream_options: { include_usage: true } },
      requestOptions(settings),
    );
    for await (const chunk of unbroken(chunks)) yield* reader.read(chunk);
    // The openai package ends the stream of an aborted request without an error.
    if (settings.signal?.aborted) throw new APIUserAbortError();
    yield reader.finished();
  }

  /**
   * Return the descriptions that an answer would reason from, with their MI; no chain starts.
   *
   * The parameters and errors are those of `ask`. The same seed gives the descriptions of the full answer.
   */
  async describe(
    pictures: Picture | readonly Picture[],
    question: string,
    settings: AskSettings = {},
  ): Promise<Descriptions> {
    const fields = fieldsOf(settings);
    const messages = await conversation(pictures, question, settings);
    const model = await this.#name(settings);
    const clock = new Clock();
    const body = { ...fields, model, messages };
    const response = await this.openai.post("/mirl/describe", { body, ...requestOptions(settings) });
    return descriptionsOf(response, clock);
  }

  /**
   * Return how much descriptions owe to pictures: their MI, whole and of each token, in nats.
   *
   * @param pictures one picture or several.
   * @param question the question that the descriptions are about.
   * @param descriptions one text or several.
   * @throws {PictureError} a picture can't be read.
   * @throws {OpenAIError} the request failed.
   */
  async score(
    pictures: Picture | readonly Picture[],
    question: string,
    descriptions: string | readonly string[],
    settings: ScoreSettings = {},
  ): Promise<Scores> {
    const messages = await conversation(pictures, question, settings);
    const model = await this.#name(settings);
    const clock = new Clock();
    const body = {
      model,
      messages,
      descriptions: typeof descriptions === "string" ? [descriptions] : descriptions,
      mirl: { token_mi: true, ...settings.options },
    };
    const response = await this.openai.post("/mirl/score", { body, ...requestOptions(settings) });
    return scoresOf(response, clock);
  }

  /**
   * Return the names that the server lists: gated ones, their `:direct` forms, and adapters.
   *
   * @throws {OpenAIError} the request failed.
   */
  async models(settings: Pick<AskSettings, "signal"> = {}): Promise<string[]> {
    return (await this.openai.models.list(requestOptions(settings))).data.map((model) => model.id);
  }

  /** Return the name to ask; the server's is looked up once. */
  async #name({ model, signal }: Pick<AskSettings, "model" | "signal">): Promise<string> {
    if (model !== undefined) return model;
    this.#model ??= gatedModel(await this.models(signal ? { signal } : {}));
    return this.#model;
  }
}

function requestOptions({ signal }: Pick<AskSettings, "signal">): OpenAI.RequestOptions {
  return signal ? { signal } : {};
}

/** Yield the pieces of a stream; a connection that breaks is an error of the openai package. */
async function* unbroken<Piece>(pieces: AsyncIterable<Piece>): AsyncGenerator<Piece, void, undefined> {
  try {
    yield* pieces;
  } catch (error) {
    // `fetch` reports it so.
    if (!(error instanceof TypeError)) throw error;
    throw new APIConnectionError({ message: "the connection broke", cause: error });
  }
}
