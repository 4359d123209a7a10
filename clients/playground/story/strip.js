import { html } from "../vendor/htm-preact.js";
import { isPlain, tally } from "../wire/stages.js";

/** @typedef {import("../wire/stages.js").Run} Run */

/**
 * The steps of an answer in one line: each with its number once it has one.
 *
 * @param {{run: Run, running: boolean}} props
 */
export function Strip({ run, running }) {
  if (isPlain(run)) return null;
  const steps = stepsOf(run);
  const active = steps.findIndex(({ done }) => !done);
  return html`
    <ol class="strip" aria-label="Steps">
      ${steps.map(
        ({ name, value, note, done }, index) => html`<li key=${name}
          class=${done ? "done" : running && index === active ? "active" : ""}>
          <span class="step">${name}</span>
          <strong>${value || "·"}</strong>
          <span class="note">${note}</span>
        </li>`,
      )}
    </ol>
  `;
}

/** @param {Run} run */
function stepsOf(run) {
  const kept = run.descriptions.filter((item) => item.kept).length;
  const decoded = run.descriptions.filter((item) => item.decoding).length;
  const steered = decoded > 0;
  const decided = run.decided !== null;
  const ended = run.chains.filter((chain) => chain.finish_reason !== "abort").length;
  const votes = tally(run);
  const most = run.budget?.descriptions ?? 0;
  const reasoning = run.phase !== "sending" && run.phase !== "describing";
  return [
    {
      name: "Look",
      value: run.descriptions.length ? String(run.descriptions.length) : "",
      note: run.gated || steered || !most ? "descriptions" : `of ${most} descriptions`,
      done: reasoning,
    },
    {
      name: "Weigh",
      value: run.gated ? String(kept) : steered ? String(decoded) : "",
      note: run.gated ? `kept, ${run.descriptions.length - kept} out` : steered ? "decoded by MI" : "by MI",
      done: run.gated || decided || (steered && reasoning),
    },
    {
      name: "Reason",
      value: run.chains.length || run.started ? String(ended) : "",
      note: run.started > ended && !decided ? `of ${run.started} chains` : ended === 1 ? "chain" : "chains",
      done: decided,
    },
    {
      name: "Vote",
      value: votes.map(([, count]) => Number(count.toFixed(2))).join(" : "),
      note: run.decided?.vote ? `${Math.round(run.decided.vote.share * 100)} % agree` : "",
      done: decided,
    },
    {
      name: "Answer",
      value: run.text.length <= 24 ? run.text : "↓",
      note: confidence(run),
      done: run.phase === "answered",
    },
  ];
}

/** @param {Run} run */
function confidence({ evidence }) {
  if (!evidence || evidence.confidence === null) return "";
  const share = `${Math.round(evidence.confidence * 100)} %`;
  return evidence.calibrated ? `${share} sure` : `${share} of votes`;
}
