import { html, useEffect, useRef } from "../vendor/htm-preact.js";
import { methodLabel } from "../lib/methods.js";
import { nowWords } from "../lib/words.js";
import { isPlain } from "../wire/stages.js";
import { AnswerPanel, CostPanel } from "./answer.js";
import { Compare } from "./compare.js";
import { Descriptions } from "./descriptions.js";
import { Strip } from "./strip.js";
import { VotePanel } from "./vote.js";

/** @typedef {import("../lib/types.js").Turn} Turn */

/**
 * A question and how its answer comes about.
 *
 * @param {{turn: Turn}} props
 */
export function TurnStory({ turn }) {
  const { run, status } = turn;
  const running = status === "running";
  const root = useRef(/** @type {HTMLElement | null} */ (null));
  const plain = isPlain(run) || !turn.pictures.length;
  const votes = run.chains.length > 0 || run.decided !== null;

  useEffect(() => {
    // On narrow screens the answer begins below the form.
    const top = root.current?.getBoundingClientRect().top ?? 0;
    if (top > innerHeight * 0.6) root.current?.scrollIntoView({ block: "start" });
  }, []);

  return html`
    <article class=${`turn method-${turn.method}`} aria-busy=${String(running)} ref=${root}>
      <header>
        ${turn.pictures
          .slice(0, 3)
          .map(({ url, width }) => html`<img src=${url} alt="" class=${width < 200 ? "pixels" : ""} />`)}
        <h2>${turn.question}</h2>
        <p class="now">
          ${!plain && html`<span class="dot" aria-hidden="true"></span>${methodLabel(turn.method)} · `}
          ${running ? html`<span class="pending">${nowWords(run)} …</span>` : ended(turn)}
        </p>
      </header>
      ${!plain && (running || run.descriptions.length > 0) && html`<${Strip} run=${run} running=${running} />`}
      ${turn.error && html`<p class="problem" role="alert">${turn.error}</p>`}
      ${status === "cancelled" && html`<p class="problem">Cancelled: the server has stopped working on it.</p>`}
      <div class="body">
        ${(run.descriptions.length > 0 || (running && !plain)) && html`<${Descriptions} run=${run} />`}
        <div class="outcome">
          ${votes && html`<${VotePanel} run=${run} />`}
          ${(run.text || votes || (plain && running)) && html`<${AnswerPanel} turn=${turn} />`}
          ${run.evidence && html`<${CostPanel} turn=${turn} />`}
        </div>
      </div>
      ${turn.compares && run.phase === "answered" && html`<${Compare} turn=${turn} />`}
    </article>
  `;
}

/** @param {Turn} turn */
function ended(turn) {
  if (turn.status === "failed") return "failed";
  if (turn.status === "cancelled") return "cancelled";
  return `answered in ${turn.seconds.toFixed(1)} s`;
}
