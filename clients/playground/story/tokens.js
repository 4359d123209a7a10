import { html } from "../vendor/htm-preact.js";
import { nats } from "../lib/words.js";

/** @typedef {import("../lib/types.js").Switch} Switch */

/**
 * Return the largest distance of a token's MI from 0 among texts, for one scale of colours.
 *
 * @param {{token_pmi?: number[]}[]} items
 */
export function largest(items) {
  return Math.max(0, ...items.flatMap(({ token_pmi }) => (token_pmi ?? []).map(Math.abs)));
}

/**
 * A text, each of its tokens coloured by how much it owes to the picture. A switched token stands behind the token that
 * the model alone would have written.
 *
 * @param {{text: string, texts?: string[], values?: number[], scale: number, switches?: Switch[]}} props
 */
export function Tokens({ text, texts, values, scale, switches = [] }) {
  if (!texts || !values || texts.length !== values.length) return html`<span class="tokens">${text}</span>`;
  return html`<span class="tokens">${texts.map((token, position) => {
    const switched = switches.find((item) => item.position === position);
    // White space is not coloured: the colour would seem to belong to the word before.
    const space = position === 0 ? "" : (token.match(/^\s+/)?.[0] ?? "");
    const piece = html`<${Token} text=${token.trimStart()} value=${values[position]} scale=${scale} />`;
    if (!switched) return [space, piece];
    const alone = ends(switched.drafted) ? END : switched.drafted.trim() || "␣";
    return [
      space,
      html`<span class="switch" title=${switchWords(switched)}><del aria-hidden="true">${alone}</del>${piece}</span>`,
    ];
  })}<${Stop} switches=${switches} length=${texts.length} /></span>`;
}

/** @param {{text: string, value: number, scale: number}} props */
function Token({ text, value, scale }) {
  const share = scale ? Math.min(1, Math.abs(value) / scale) : 0;
  const sign = share < 0.06 ? "" : value > 0 ? "owes" : "without";
  const style = { "--heat": share.toFixed(3) };
  return html`<span class=${`token ${sign}`} style=${style} title=${`${nats(value)} nats`}>${text}</span>`;
}

/**
 * The end of a description where the model alone would have gone on.
 *
 * @param {{switches: Switch[], length: number}} props
 */
function Stop({ switches, length }) {
  const last = switches.find(({ position }) => position >= length);
  if (!last) return null;
  return html`<span class="switch" title=${switchWords(last)}>${" "}<del aria-hidden="true">${last.drafted.trim()}</del>
    <span class="token end" aria-hidden="true">${END}</span></span>`;
}

/**
 * Return a switch in words.
 *
 * @param {Switch} switched
 */
export function switchWords({ drafted, chosen, gain }) {
  const worth = gain === null ? "impossible without the picture" : `${nats(gain)} nats`;
  const does = ends(chosen) ? "It ends" : `It writes “${chosen.trim()}”`;
  const alone = ends(drafted) ? "have ended" : `have written “${drafted.trim()}”`;
  return `${does} where the model alone would ${alone} (${worth}).`;
}

/** Stands for the tag that ends a description. */
const END = "∎";

/** @param {string} token */
function ends(token) {
  return token.trim().startsWith("</");
}

/**
 * What the colours of tokens mean.
 *
 * @param {{switches?: boolean}} props
 */
export function TokenLegend({ switches = false }) {
  return html`<p class="token-legend">
    <span><span class="token owes strong">token</span> owes to the picture</span>
    <span><span class="token without strong">token</span> likelier without it</span>
    ${switches &&
    html`<span><span class="switch"><del>habit</del><span class="token">seen</span></span>
      ${" "}what the model alone would have written</span>`}
  </p>`;
}
