import { html } from "../vendor/htm-preact.js";
import { counted } from "../lib/words.js";

/** @typedef {import("../lib/types.js").Chain} Chain */

/**
 * The chains of a description, each with its answer.
 *
 * @param {{chains: Chain[], running: number, winner: string | null}} props
 */
export function Chips({ chains, running, winner }) {
  if (!chains.length && !running) return null;
  const stopped = chains.filter((chain) => chain.finish_reason === "abort").length;
  const ended = chains.filter((chain) => chain.finish_reason !== "abort");
  return html`<span class="chips">
    ${ended.map((chain) => html`<${Chip} key=${chain.fork} chain=${chain} winner=${winner} />`)}
    ${Array.from({ length: running }, (_, index) => html`<span class="chip running" key=${`r${index}`}>
      <span aria-hidden="true">…</span><span class="hidden">a chain reasons</span></span>`)}
    ${stopped > 0 && html`<span class="chip stopped" title="The vote was decided without it">${stopped} stopped</span>`}
  </span>`;
}

/** @param {{chain: Chain, winner: string | null}} props */
function Chip({ chain, winner }) {
  const answer = chain.answer?.trim();
  const cut = chain.finish_reason === "length" ? ", cut off" : "";
  const votes = chain.votes === 1 ? "" : `, ${chain.votes} votes`;
  const about = `A chain of ${counted(chain.tokens, "token")}${cut}${votes}`;
  const wins = answer !== undefined && winner !== null && same(answer, winner);
  return html`<span class=${`chip ${wins ? "wins" : ""} ${answer ? "" : "stopped"}`} title=${about}>
    ${answer ? answer : "no answer"}${chain.votes > 1 && html`<span class="times">×${chain.votes}</span>`}
  </span>`;
}

/**
 * Return whether an answer is the vote's winner, which the server writes in its normal form.
 *
 * @param {string} answer
 * @param {string} winner
 */
export function same(answer, winner) {
  const plain = (/** @type {string} */ text) => text.toLowerCase().replace(/[\s.]+/g, " ").trim();
  return plain(answer) === plain(winner) || (answer !== "" && Number(answer) === Number(winner));
}
