import { html } from "../vendor/htm-preact.js";
import {
  comparedCost, confidenceWords, FULL_ANSWERS, fullAnswersTokens, percent, sampledTokens, stageWords, whole,
} from "../lib/words.js";

/** @typedef {import("../lib/types.js").Turn} Turn */
/** @typedef {import("../lib/types.js").Evidence} Evidence */

/**
 * The answer, how sure it is, and what to know before trusting it.
 *
 * @param {{turn: Turn}} props
 */
export function AnswerPanel({ turn }) {
  const { run } = turn;
  const { evidence, text } = run;
  const warnings = [
    ...(evidence?.warnings ?? []),
    run.finish === "length" ? "It was cut off at its length limit." : "",
    evidence?.partial ? "The time ran out: this is the best answer so far." : "",
    evidence?.fallback ? `The gate was not used: ${evidence.fallback}` : "",
  ];
  return html`
    <section class="card answer" aria-label="Answer">
      <h3>Answer</h3>
      <p class=${`text ${text.length > 40 ? "long" : ""}`}>${text || (run.phase === "answered" ? "(none)" : "…")}</p>
      ${evidence && html`<${Confidence} evidence=${evidence} />`}
      ${!evidence && run.phase === "answered" &&
      html`<p class="hint">A plain answer, without the gate: the question brought no picture.</p>`}
      ${warnings
        .filter(Boolean)
        .map((warning) => html`<p class="warning"><span aria-hidden="true">!</span> ${warning}</p>`)}
      ${run.reasoning && html`<details class="reasoning">
        <summary>Its reasoning</summary>
        ${run.reasoning.split(/\n{2,}/).map((part) => html`<p>${part}</p>`)}
      </details>`}
    </section>
  `;
}

/** @param {{evidence: Evidence}} props */
function Confidence({ evidence }) {
  const { confidence, calibrated } = evidence;
  return html`
    <div class="confidence">
      ${confidence !== null && html`
        <p><strong>${percent(confidence)}</strong> ${calibrated ? "confident" : "of the votes"}
          <span class=${`badge ${calibrated ? "good" : ""}`}>${calibrated ? "calibrated" : "not calibrated"}</span></p>
        <div class="gauge" aria-hidden="true"><span style=${{ width: `${confidence * 100}%` }}></span></div>`}
      <p class="hint">${confidenceWords(evidence)}</p>
    </div>
  `;
}

/**
 * What the answer cost, beside 16 full answers: those of the comparison, else an estimate.
 *
 * @param {{turn: Turn}} props
 */
export function CostPanel({ turn }) {
  const { evidence } = turn.run;
  if (!evidence) return null;
  const sampled = sampledTokens(turn.run);
  const full = fullAnswersTokens(evidence);
  const most = Math.max(sampled, full ?? 0, 1);
  return html`
    <section class="card cost" aria-label="Cost">
      <h3>Cost</h3>
      <dl class="costs">
        <dt>this answer</dt>
        <dd><span class="amount own" style=${{ width: `${(100 * sampled) / most}%` }}></span> ${whole(sampled)}</dd>
        ${full !== null && html`<dt>${FULL_ANSWERS} full answers</dt>
        <dd><span class="amount sc" style=${{ width: `${(100 * full) / most}%` }}></span> ≈ ${whole(full)}</dd>`}
      </dl>
      <p class="hint">
        ${full !== null && `${comparedCost(sampled, full)} tokens sampled than in ${FULL_ANSWERS} full answers. `}
        ${capital(evidence.stages.map(stageWords).join(", "))}.</p>
    </section>
  `;
}

/** @param {string} text */
function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
