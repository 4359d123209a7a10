import { html } from "../vendor/htm-preact.js";
import { chainsOf, ranked, runningOf } from "../wire/stages.js";
import { spanOf } from "./bar.js";
import { useGliding } from "../lib/gliding.js";
import { Row } from "./row.js";
import { largest, TokenLegend } from "./tokens.js";

/** @typedef {import("../lib/types.js").Description} Description */
/** @typedef {import("../wire/stages.js").Run} Run */

/**
 * The descriptions, best first, with the cut between those that go on and those that don't.
 *
 * @param {{run: Run}} props
 */
export function Descriptions({ run }) {
  const { kept, dropped } = ranked(run);
  const order = [...kept, ...dropped];
  const root = useGliding(order.map(({ index }) => index).join());
  const scale = largest(order);
  const span = spanOf(order.map((description) => description.mi_per_token), run.weight);
  const switched = order.some(({ decoding }) => decoding?.switches.length);
  const winner = run.decided?.vote?.answer ?? null;
  const steered = order.some(({ decoding }) => decoding);
  const expected = steered || run.gated ? 0 : Math.max(0, (run.budget?.descriptions ?? 0) - order.length);
  const waiting = run.phase === "describing" ? expected : 0;

  /** @param {Description} description */
  const row = (description) => {
    const source = description.repeats ?? description.index;
    return html`<${Row} key=${description.index} description=${description}
      chains=${chainsOf(run, description)} over=${run.phase === "answered"} running=${runningOf(run, description)} winner=${winner}
      wins=${run.decided?.description === source && run.phase !== "reasoning" && !description.reason}
      scale=${scale} span=${span} />`;
  };

  return html`
    <section class="descriptions" aria-label="Descriptions" ref=${root}>
      <div class="heads" aria-hidden="true">
        <span>What it saw</span>
        <span class="head-mi" title="In nats a token: log p with the picture less λ log p without it">
          MI with the picture
          ${run.weight !== null && run.weight !== 1 && html`<small>${" "}λ ${Number(run.weight.toFixed(2))}</small>`}
        </span>
        <span>Its chains answer</span>
      </div>
      <ol class="rows">${kept.map(row)}</ol>
      ${Array.from({ length: waiting }, (_, index) => html`<div class="ghost" key=${index} aria-hidden="true"></div>`)}
      ${dropped.length > 0 &&
      html`<p class="cut"><span>${cutWords(steered, kept, dropped)}</span></p>
        <ol class="rows" aria-label="Dropped descriptions">${dropped.map(row)}</ol>`}
      ${scale > 0 && html`<${TokenLegend} switches=${switched} />`}
    </section>
  `;
}

/**
 * @param {boolean} steered
 * @param {Description[]} kept
 * @param {Description[]} dropped
 */
function cutWords(steered, kept, dropped) {
  if (steered) return `${dropped.length} left out`;
  const gap = gapOf(kept, dropped);
  const apart = gap === null ? "" : `, ${gap.toFixed(2)} nats apart`;
  return `The cut: ${kept.length} ${kept.length === 1 ? "goes" : "go"} on, ${dropped.length} thrown out${apart}`;
}

/**
 * Return the distance between the worst kept and the best dropped score, in nats.
 *
 * @param {Description[]} kept
 * @param {Description[]} dropped
 */
function gapOf(kept, dropped) {
  const low = kept.at(-1)?.score;
  const high = dropped.find(({ reason }) => reason === "gate")?.score;
  return low == null || high == null || low <= high ? null : low - high;
}
