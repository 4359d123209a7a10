/** @typedef {import("../lib/types.js").Picture} Picture */
/** @typedef {import("../lib/types.js").Settings} Settings */
/** @typedef {import("../lib/types.js").Turn} Turn */

/** @type {Settings} */
export const DEFAULTS = {
  preset: "",
  descriptions: "",
  keep: "",
  forks: "",
  mi_weight: "",
  seed: "",
  timeout: "",
  compare: false,
};
export const NUMBERS = /** @type {const} */ (["descriptions", "keep", "forks", "mi_weight", "timeout"]);

/**
 * Return the `mirl` object and the seed of a request.
 *
 * @param {Settings} settings
 */
export function fieldsOf(settings) {
  /** @type {Record<string, unknown>} */
  const mirl = { token_mi: true };
  if (settings.preset) mirl.preset = settings.preset;
  for (const name of NUMBERS) {
    const value = settings[name].trim();
    // The server refuses what is no number, in words that name the field.
    if (value) mirl[name] = Number.isNaN(Number(value)) ? value : Number(value);
  }
  const seed = settings.seed.trim();
  return { mirl, ...(seed ? { seed: Number.isNaN(Number(seed)) ? seed : Number(seed) } : {}) };
}

/**
 * Return a user's message.
 *
 * @param {string} text
 * @param {Picture[]} pictures
 */
export function message(text, pictures) {
  if (!pictures.length) return { role: "user", content: text };
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: [...parts, ...(text ? [{ type: "text", text }] : [])] };
}

/**
 * Return a conversation that ends with a question.
 *
 * @param {Turn[]} turns
 * @param {string} question
 * @param {Picture[]} pictures those of the question; then the pictures of earlier turns are left out
 */
export function conversation(turns, question, pictures) {
  const answered = turns.filter((turn) => turn.status === "done");
  const history = answered.flatMap((turn) => [
    message(turn.question, pictures.length ? [] : turn.pictures),
    { role: "assistant", content: turn.run.text },
  ]);
  return [...history, message(question, pictures)];
}
