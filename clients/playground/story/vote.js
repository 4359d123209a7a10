import { html } from "../vendor/htm-preact.js";
import { voteWords } from "../lib/words.js";
import { tally } from "../wire/stages.js";

/** @typedef {import("../wire/stages.js").Run} Run */

/**
 * The vote of the chains as one bar, as it stands.
 *
 * @param {{run: Run}} props
 */
export function VotePanel({ run }) {
  const votes = tally(run);
  const stopped = run.chains.filter((chain) => chain.finish_reason === "abort").length;
  const open = run.decided ? 0 : Math.max(0, run.started - run.chains.length);
  const unused = run.decided ? Math.max(stopped, run.phase === "answered" ? 0 : run.decided.outstanding) : 0;
  const winner = run.decided?.vote?.answer;
  const leader = winner ?? votes[0]?.[0];
  return html`
    <section class="card vote" aria-label="Vote">
      <h3>Vote</h3>
      <div class="vote-bar" aria-hidden="true">
        ${votes.map(([answer, count]) => html`<span key=${answer} style=${{ flexGrow: count }}
          class=${answer === leader ? "wins" : "loses"}></span>`)}
        ${open > 0 && html`<span class="open" style=${{ flexGrow: open }}></span>`}
        ${unused > 0 && html`<span class="unused" style=${{ flexGrow: unused }}></span>`}
      </div>
      <ul class="votes">
        ${votes.map(([answer, count]) => html`<li key=${answer} class=${answer === winner ? "wins" : ""}>
          <span class="choice">${answer}</span> <span class="count">× ${Number(count.toFixed(2))}</span>
        </li>`)}
        ${open > 0 && html`<li class="muted">${open} still reasoning</li>`}
        ${unused > 0 && html`<li class="muted">${unused} stopped</li>`}
      </ul>
      <p class="hint">${voteWords(run)}</p>
    </section>
  `;
}
