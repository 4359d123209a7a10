/** Requests of the client: addresses, bodies, and the defaults that the environment sets. */

import type { Message, Options, Preset } from "./answers.js";
import { NotMIRLError } from "./errors.js";
import type { paths } from "./openapi.js";
import { type Picture, pictureURL } from "./pictures.js";
import { environment } from "./runtime.js";
import type { Bounds } from "./scaling.js";

/** The address of `mirl-serve` with its defaults. */
const DEFAULT_URL = "http://127.0.0.1:8000";
/** Ends the name of the plain model beside each gated one. */
const DIRECT = ":direct";
const OWN_FIELDS = ["messages", "mirl", "model", "n", "stream", "stream_options"] as const;

type ChatBody = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"];
/** Further fields of a chat completion; a server may take fields that have no type here. */
export type Extra = Partial<Omit<ChatBody, (typeof OWN_FIELDS)[number]>> & Record<string, unknown>;

/** Settings of one question. */
export interface AskSettings extends Bounds {
  /** A named set of options. */
  preset?: Preset;
  /** Options of the `mirl` object, such as `{ keep: 3 }`; they win over the preset. */
  options?: Options;
  /** The conversation so far, such as the `messages` of an earlier answer. */
  history?: readonly Message[];
  /** The seed of the sampling; the same seed gives the same answer on the same server. */
  seed?: number;
  /** A name in place of the client's. */
  model?: string;
  /** Further fields of a chat completion, such as `{ max_completion_tokens: 400 }`. */
  extra?: Extra;
  /** Cancels the request, which then throws `APIUserAbortError` of the openai package. */
  signal?: AbortSignal;
}

/** Settings of one call of `score`; `token_mi` is on unless `options` sets it. */
export type ScoreSettings = Bounds & Pick<AskSettings, "options" | "history" | "model" | "signal">;

/**
 * Return the address of a server's API, which ends with `/v1`.
 *
 * @param baseURL with or without `/v1`; undefined: `MIRL_BASE_URL`, else http://127.0.0.1:8000.
 * @throws {TypeError} it is no http(s) URL.
 */
export function apiURL(baseURL?: string): string {
  const url = (baseURL || environment("MIRL_BASE_URL") || DEFAULT_URL).replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/i.test(url)) throw new TypeError(`not the http(s) address of a server: ${url}`);
  return url.endsWith("/v1") ? url : `${url}/v1`;
}

/**
 * Return the first of a server's model names that is gated.
 *
 * @throws {NotMIRLError} none is.
 */
export function gatedModel(names: readonly string[]): string {
  const name = names.find((each) => names.includes(each + DIRECT));
  if (name === undefined) {
    throw new NotMIRLError("the server lists no gated model: it is no MIRL server, or its plugin is off");
  }
  return name;
}

/**
 * Return a conversation that ends with a question about pictures; without pictures it is text alone.
 *
 * @throws {PictureError} a picture can't be read, or not scaled down to the bounds.
 */
export async function conversation(
  pictures: Picture | readonly Picture[],
  question: string,
  { history = [], ...bounds }: Bounds & Pick<AskSettings, "history"> = {},
): Promise<Message[]> {
  const list = Array.isArray(pictures) ? (pictures as readonly Picture[]) : [pictures as Picture];
  const urls = await Promise.all(list.map((picture) => pictureURL(picture, bounds)));
  const images = urls.map((url) => ({ type: "image_url", image_url: { url } }) as const);
  const content = images.length ? [...images, { type: "text", text: question } as const] : question;
  return [...history, { role: "user", content }];
}

/**
 * Return the fields of a request beside its model and messages.
 *
 * @throws {TypeError} `extra` has a field that the client sets, or one that a single answer excludes.
 */
export function fieldsOf({ preset, options, seed, extra = {} }: AskSettings): Record<string, unknown> {
  const refused = OWN_FIELDS.filter((name) => name in extra);
  if (refused.length) throw new TypeError(`not a field of extra: ${refused.join(", ")}`);
  const mirl = { ...(preset === undefined ? {} : { preset }), ...options };
  return {
    ...extra,
    ...(Object.keys(mirl).length ? { mirl } : {}),
    ...(seed === undefined ? {} : { seed }),
  };
}
