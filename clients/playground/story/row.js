import { html, useState } from "../vendor/htm-preact.js";
import { counted, nats, reasonOf } from "../lib/words.js";
import { Bar } from "./bar.js";
import { Chips } from "./chips.js";
import { switchWords, Tokens } from "./tokens.js";

/** @typedef {import("../lib/types.js").Description} Description */
/** @typedef {import("../lib/types.js").Chain} Chain */

/**
 * One description: its text, its MI as a bar, and what its chains answer.
 *
 * @param {{description: Description, chains: Chain[], running: number, winner: string | null, wins: boolean,
 *   over: boolean, scale: number, span: import("./bar.js").Span}} props
 */
export function Row({ description, chains, running, winner, wins, over, scale, span }) {
  const [open, setOpen] = useState(false);
  const { decoding, token_pmi: values, token_texts: texts } = description;
  const id = `details-${description.index}`;
  const value = description.mi_per_token;
  const shares = description.repeats !== null && description.repeats !== undefined;
  const fate = reasonOf(description) || (shares ? "says the same" : over && !chains.length ? "not needed" : "");

  return html`
    <li class=${`row ${description.reason ? "dropped" : ""} ${wins ? "wins" : ""}`} data-key=${description.index}>
      <div class="line">
        <button type="button" class="toggle" aria-expanded=${String(open)} aria-controls=${id}
          aria-label=${`Details of description ${description.index + 1}`} onClick=${() => setOpen(!open)}>
          <span aria-hidden="true">›</span>
        </button>
        <p class="text">
          <${Tokens} text=${description.text || "(nothing)"} texts=${texts} values=${values} scale=${scale}
            switches=${decoding?.switches} />
          ${wins && html`<span class="mark">gives the answer</span>`}
        </p>
        <${Bar} value=${value} span=${span} />
        <span class="value">${value === null ? "" : nats(value)}<span class="hidden"> nats a token</span></span>
        <span class="fate">
          ${decoding && html`<span class="lambda" title="Decoded with this weight of the contrast">λ ${decoding.mi_weight}</span>`}
          ${fate
            ? html`<span class="reason">${fate}</span>`
            : html`<${Chips} chains=${chains} running=${running} winner=${winner} />`}
        </span>
      </div>
      ${open && html`<${Details} id=${id} description=${description} />`}
    </li>
  `;
}

/** @param {{id: string, description: Description}} props */
function Details({ id, description }) {
  const { decoding, token_pmi: values, token_texts: texts } = description;
  const facts = [
    counted(description.tokens, "token"),
    description.mi === null ? "not scored" : `${nats(description.mi)} nats in all`,
    decoding ? `decoded in ${counted(decoding.rounds, "draft")}` : "sampled",
    description.votes ? counted(description.votes, "vote") : "",
    description.repeats === null || description.repeats === undefined
      ? ""
      : `the same text as description ${description.repeats + 1}, whose chain it shares`,
  ].filter(Boolean);
  return html`
    <div class="details" id=${id}>
      <p>${facts.join(" · ")}</p>
      ${decoding && decoding.switches.length > 0 &&
      html`<ul class="switches">${decoding.switches.map((each) => html`<li>${switchWords(each)}</li>`)}</ul>`}
      ${values && texts &&
      html`<ul class="token-values" aria-label="MI of each token in nats">
        ${texts.map((text, position) => html`<li><code>${text.trim() || "␣"}</code> ${nats(values[position])}</li>`)}
      </ul>`}
    </div>
  `;
}
