import { Problem, problemOf } from "./errors.js";
import { events } from "./sse.js";

/** @typedef {import("../lib/types.js").Sample} Sample */
/** @typedef {import("../lib/types.js").Scores} Scores */
/** @typedef {{key: string, signal?: AbortSignal}} Access a key, which is sent to this server alone */

/**
 * @param {string} path relative to the page, so that a server behind a path works too
 * @param {Access} access
 * @param {object} [body]
 */
async function call(path, access, body) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json" };
  if (access.key) headers.Authorization = `Bearer ${access.key}`;
  const response = await fetch(new URL(path, document.baseURI), {
    method: body ? "POST" : "GET",
    headers,
    body: body ? JSON.stringify(body) : undefined,
    signal: access.signal,
    credentials: "omit",
    cache: "no-store",
    referrerPolicy: "no-referrer",
  });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw problemOf(answer?.error, response.status, response.headers.get("Retry-After"));
}

/**
 * Return the names of the gated models.
 *
 * @param {Access} access
 * @returns {Promise<string[]>}
 */
export async function gatedModels(access) {
  const { data } = await (await call("v1/models", access)).json();
  const names = /** @type {string[]} */ (data.map((/** @type {any} */ card) => card.id));
  return names.filter((name) => names.includes(`${name}:direct`));
}

/**
 * Return the bundled worlds' questions.
 *
 * @returns {Promise<Sample[]>}
 */
export async function samples() {
  return (await (await call("playground/samples.json", { key: "" })).json()).data;
}

/**
 * Yield the chunks of a streamed answer.
 *
 * @param {object} body a chat completion's fields
 * @param {Access} access
 * @returns {AsyncGenerator<any>}
 */
export async function* stream(body, access) {
  const fields = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", access, fields);
  if (!response.body) throw new Problem("The server sent no answer.");
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw problemOf(chunk.error);
    yield chunk;
  }
}

/**
 * Return a whole chat completion.
 *
 * @param {object} body
 * @param {Access} access
 * @returns {Promise<any>}
 */
export async function complete(body, access) {
  return (await call("v1/chat/completions", access, body)).json();
}

/**
 * Return the MI of descriptions.
 *
 * @param {object} body
 * @param {Access} access
 * @returns {Promise<Scores>}
 */
export async function score(body, access) {
  return (await call("v1/mirl/score", access, body)).json();
}
