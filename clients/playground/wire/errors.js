/** An error whose message a reader of the page understands. */
export class Problem extends Error {}

/** @type {Record<string, string>} */
const ADVICE = {
  invalid_api_key: "Enter a key of this server under Settings.",
  overloaded: "The server is busy. Try again in a moment.",
  rate_limit_exceeded: "The limits of this key are used up. Try again in a moment.",
  draining: "The server is shutting down.",
  engine_dead: "The engine has stopped. The server must be started again.",
  deadline_exceeded: "Give the request more time under Settings.",
};

/**
 * Return the problem that a server's error describes, with what to do about it.
 *
 * @param {any} error the `error` object of a response or of an event
 * @param {number} [status] HTTP status
 * @param {string | null} [retryAfter] seconds until the server has room
 */
export function problemOf(error, status, retryAfter) {
  const said = typeof error?.message === "string" ? error.message : "";
  const message = said || (status ? `The server answered ${status} without an explanation.` : "The server failed.");
  // `mirl.keep` is `keep` in most messages.
  const field = typeof error?.param === "string" ? (error.param.split(".").at(-1) ?? "") : "";
  const parts = [sentence(message, field)];
  if (field && !message.includes(field)) parts.push(`The field is ${error.param}.`);
  if (ADVICE[error?.code]) parts.push(ADVICE[error.code]);
  if (retryAfter) parts.push(`It expects room in ${retryAfter} s.`);
  return new Problem(parts.join(" "));
}

/**
 * Return what went wrong in words; null for a request that its user cancelled.
 *
 * @param {unknown} error
 */
export function inWords(error) {
  if (error instanceof DOMException && error.name === "AbortError") return null;
  if (error instanceof Problem) return error.message;
  if (error instanceof TypeError) return "The server can't be reached. Does it still run?";
  if (error instanceof SyntaxError) return "The server's answer can't be read.";
  return `Something went wrong: ${error instanceof Error ? error.message : String(error)}`;
}

/**
 * @param {string} text
 * @param {string} field whose name stays as it is
 */
function sentence(text, field) {
  const trimmed = text.trim();
  const named = field && trimmed.startsWith(field);
  const begun = named ? trimmed : trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
