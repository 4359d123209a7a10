import { html } from "../vendor/htm-preact.js";
import { nats } from "../lib/words.js";
import { Bar, spanOf } from "./bar.js";
import { largest, TokenLegend, Tokens } from "./tokens.js";

/**
 * The MI of the scored descriptions, best first.
 *
 * @param {{scoring: import("../lib/scores.js").Scoring}} props
 */
export function ScoreResults({ scoring }) {
  const { scores, problem, busy } = scoring;
  if (problem) return html`<p class="problem" role="alert">${problem}</p>`;
  if (!scores) {
    return html`<div class="intro">
      <p class="lead">How much does a description owe to the picture? Type a few, true and false ones, and compare.</p>
      ${busy && html`<p class="pending">Scoring …</p>`}
    </div>`;
  }
  // What the model would hardly write stands below the rest, whatever its MI.
  const order = [...scores.data].sort(
    (a, b) => Number(isStrange(a)) - Number(isStrange(b)) || b.mi_per_token - a.mi_per_token,
  );
  const scale = largest(order);
  const span = spanOf(order.map((score) => score.mi_per_token), scores.mi_weight);
  return html`
    <article class=${`turn scores method-mirl ${busy ? "stale" : ""}`} aria-busy=${String(busy)}>
      <header><h2>Mutual information with the picture</h2>
        <p class="now">nats a token, λ ${scores.mi_weight === null ? "–" : Number(scores.mi_weight.toFixed(2))}</p></header>
      <ol class="rows">
        ${order.map((score) => html`<li class=${`row score ${isStrange(score) ? "dropped" : ""}`} key=${score.index}>
          <p class="text"><${Tokens} text=${score.text} texts=${score.token_texts} values=${score.token_pmi} scale=${scale} /></p>
          <${Bar} value=${score.mi_per_token} span=${span} />
          <span class="value">${nats(score.mi_per_token)}</span>
          <p class="hint">${scoreWords(score)}</p>
        </li>`)}
      </ol>
      <${TokenLegend} />
    </article>
  `;
}

/** Nats a token below which a model would hardly write a text. */
const STRANGE = -8;

/** @param {import("../lib/types.js").Score} score */
function isStrange({ logprob, tokens }) {
  return logprob / tokens < STRANGE;
}

/** @param {import("../lib/types.js").Score} score */
function scoreWords(score) {
  const { mi, logprob, marginal } = score;
  const sum = `${nats(mi)} nats in all: log p is ${nats(logprob, 1)} with the picture and ${nats(marginal, 1)} without it.`;
  return isStrange(score) ? `${sum} The model would hardly write this at all, so its MI says little.` : sum;
}
