import { complete } from "./api.js";
import { FULL_ANSWERS } from "../lib/words.js";

/** @typedef {import("../lib/types.js").Plain} Plain */
/** @typedef {import("./api.js").Access} Access */

/**
 * Yield the plain model's greedy answer, then the most frequent of 16 samples at temperature 1.
 *
 * @param {string} model the gated name
 * @param {object[]} messages
 * @param {{seed?: unknown}} fields
 * @param {Access} access
 * @returns {AsyncGenerator<Plain>}
 */
export async function* plainAnswers(model, messages, fields, access) {
  const body = { ...fields, model: `${model}:direct`, messages };
  yield answered("greedy", "Greedy, one answer", await timed({ ...body, temperature: 0 }, access));
  const votes = { ...body, temperature: 1, n: FULL_ANSWERS };
  yield answered("sc", `${FULL_ANSWERS} votes`, await timed(votes, access));
}

/**
 * @param {object} body
 * @param {Access} access
 */
async function timed(body, access) {
  const started = performance.now();
  const response = await complete(body, access);
  return { response, seconds: (performance.now() - started) / 1000 };
}

/**
 * @param {"greedy" | "sc"} method
 * @param {string} way
 * @param {{response: any, seconds: number}} result
 * @returns {Plain}
 */
function answered(method, way, { response, seconds }) {
  const counts = votesOf(response.choices);
  const tokens = response.usage?.completion_tokens ?? 0;
  return { way, method, answer: counts[0]?.[0] ?? "", tokens, seconds, counts };
}

/**
 * Return the answers with their votes, the most frequent first and the earlier of equals. Answers are equal
 * where they read the same but for case, spaces and a full stop, or are the same number; an answer that was cut
 * off has no vote.
 *
 * @param {any[]} choices
 * @returns {[string, number][]}
 */
export function votesOf(choices) {
  /** @type {Map<string, [string, number]>} */
  const counts = new Map();
  for (const choice of choices) {
    const text = (choice.message.content ?? "").trim();
    if (!text || choice.finish_reason !== "stop") continue;
    const key = keyOf(text);
    const known = counts.get(key);
    if (known) known[1] += 1;
    else counts.set(key, [text, 1]);
  }
  return [...counts.values()].sort((a, b) => b[1] - a[1]);
}

/** @param {string} text */
function keyOf(text) {
  const plain = text.toLowerCase().split(/\s+/).join(" ").replace(/\.$/, "");
  const number = Number(plain);
  return plain && Number.isFinite(number) ? String(number) : plain;
}
