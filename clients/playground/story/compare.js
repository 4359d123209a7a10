import { html } from "../vendor/htm-preact.js";
import { methodLabel } from "../lib/methods.js";
import { sampledTokens, seconds, whole } from "../lib/words.js";

/** @typedef {import("../lib/types.js").Turn} Turn */

/**
 * The plain model's answers beside MIRL's.
 *
 * @param {{turn: Turn}} props
 */
export function Compare({ turn }) {
  const own = { way: methodLabel(turn.method), method: turn.method, answer: turn.run.text,
    tokens: sampledTokens(turn.run), seconds: turn.seconds, counts: /** @type {[string, number][]} */ ([]) };
  const rows = [own, ...turn.plain];
  const most = Math.max(1, ...rows.map((row) => row.tokens));
  const missing = turn.status === "comparing" ? 2 - turn.plain.length : 0;
  return html`
    <section class="card compare" aria-label="Comparison">
      <h3>Beside the plain model, sampled tokens and time</h3>
      <table>
        <thead><tr><th scope="col">Way</th><th scope="col">Answer</th><th scope="col">Tokens</th>
          <th scope="col">Time</th></tr></thead>
        <tbody>
          ${rows.map((row) => html`<tr key=${row.way} class=${`method-${row.method}`}>
            <th scope="row"><span class="dot" aria-hidden="true"></span>${row.way}</th>
            <td><span class="choice">${row.answer || "(none)"}</span>
              ${row.counts.length > 1 && html`<small>${countWords(row.counts)}</small>`}</td>
            <td><span class="amount own" aria-hidden="true" style=${{ width: `${(60 * row.tokens) / most}%` }}></span>
              ${" "}${whole(row.tokens)}</td>
            <td>${seconds(row.seconds)}</td>
          </tr>`)}
          ${missing > 0 && html`<tr><td colspan="4" class="muted pending">The plain model answers …</td></tr>`}
        </tbody>
      </table>
    </section>
  `;
}

/** Answers of a vote that are listed; the rest is an ellipsis. */
const LISTED = 4;

/** @param {[string, number][]} counts */
function countWords(counts) {
  const listed = counts.slice(0, LISTED).map(([answer, count]) => `${answer} × ${count}`);
  return [...listed, ...(counts.length > LISTED ? ["…"] : [])].join(", ");
}
