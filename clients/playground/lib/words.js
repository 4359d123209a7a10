/** @typedef {import("./types.js").Description} Description */
/** @typedef {import("./types.js").Evidence} Evidence */
/** @typedef {import("../wire/stages.js").Run} Run */

export const FULL_ANSWERS = 16;

/** @type {Record<string, string>} */
const REASONS = {
  gate: "below the cut",
  duplicate: "said before",
  truncated: "too long",
  empty: "empty",
  unparsable: "not closed",
  stopped: "not needed any more",
};

/** @param {Description} description */
export function reasonOf(description) {
  return description.reason ? (REASONS[description.reason] ?? description.reason) : "";
}

const WHOLE = new Intl.NumberFormat("en");

/** @param {number} value */
export function whole(value) {
  return WHOLE.format(Math.round(value));
}

/**
 * Return nats with their sign; a dash where they are unknown.
 *
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function nats(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}

/** @param {number} share */
export function percent(share) {
  return `${Math.round(share * 100)}\u00a0%`;
}

/** @param {number} value */
export function seconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)}\u00a0s`;
}

/**
 * @param {number} count
 * @param {string} singular
 * @param {string} [plural]
 */
export function counted(count, singular, plural = `${singular}s`) {
  return `${whole(count)} ${count === 1 ? singular : plural}`;
}

/**
 * Return all sampled tokens of an answer.
 *
 * @param {Run} run
 */
export function sampledTokens(run) {
  if (!run.evidence) return run.usage?.completion_tokens ?? 0;
  return run.evidence.stages.reduce((sum, stage) => sum + stage.generated_tokens, 0);
}

/**
 * Return about how many tokens 16 full answers would sample, each with a description of its own; null where
 * the answer has no complete chain to estimate it from.
 *
 * @param {Evidence} evidence
 */
export function fullAnswersTokens(evidence) {
  const chains = evidence.chains.filter((chain) => chain.finish_reason === "stop").map((chain) => chain.tokens);
  const complete = evidence.descriptions.filter(
    ({ reason }) => !reason || !["truncated", "stopped", "empty"].includes(reason),
  );
  if (!chains.length) return null;
  const described = complete.map((description) => description.tokens);
  return Math.round(FULL_ANSWERS * (mean(described) + mean(chains)));
}

/** @param {number[]} values */
function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

/**
 * Return how the number of sampled tokens compares.
 *
 * @param {number} sampled
 * @param {number} full
 */
export function comparedCost(sampled, full) {
  const difference = 1 - sampled / full;
  return `${percent(Math.abs(difference))} ${difference >= 0 ? "fewer" : "more"}`;
}

/**
 * Return in words how the vote ended; empty while it is open.
 *
 * @param {Run} run
 */
export function voteWords(run) {
  if (!run.decided) return "";
  const stopped = run.chains.filter((chain) => chain.finish_reason === "abort").length;
  const ended = run.chains.length - stopped;
  const outstanding = run.phase === "answered" ? stopped : Math.max(stopped, run.decided.outstanding);
  if (!run.decided.vote) return "No vote: these answers can't be counted. The best description's chain answers.";
  const most = mostChains(run);
  if (outstanding) {
    const were = outstanding === 1 ? "was" : "were";
    const could = run.waves || run.descriptions.some((item) => item.decoding) ? "would hardly" : "could no longer";
    return `Closed early: ${counted(outstanding, "chain")} ${could} change the winner and ${were} stopped.`;
  }
  if (run.waves && most && ended < most) {
    return `Closed early: ${counted(ended, "chain")} of at most ${most} agreed well enough.`;
  }
  return ended === 1 ? "One chain decides." : `All ${ended} chains have voted.`;
}

/**
 * Return the most chains that the budget allows; null where it is not known.
 *
 * @param {Run} run
 */
export function mostChains(run) {
  const { budget } = run;
  if (!budget) return null;
  if (budget.decoded !== undefined) return budget.decoded + budget.descriptions;
  const kept = run.gated ? run.descriptions.filter((item) => item.kept).length : (budget.keep ?? 0);
  return kept * (budget.forks ?? 0);
}

/** @type {Record<string, string>} */
const STAGES = { describe: "looking", score: "weighing", fork: "reasoning", plain: "answering" };

/** @param {import("./types.js").Stage} stage */
export function stageWords(stage) {
  return `${STAGES[stage.stage] ?? stage.stage} ${seconds(stage.seconds)}`;
}

/**
 * Return what the confidence means.
 *
 * @param {Evidence} evidence
 */
export function confidenceWords(evidence) {
  if (evidence.confidence === null) return "There is no confidence without a vote.";
  if (evidence.calibrated) return "Calibrated: answers with this number are right about this often.";
  const why = evidence.uncalibrated ? ` Not calibrated: ${evidence.uncalibrated}` : " Not calibrated.";
  const ended = /[.!?]$/.test(why) ? why : `${why}.`;
  return `This is the share of the votes, which tends to be too high.${ended}`;
}

/**
 * Return what happens now, for the line above the answer and for screen readers.
 *
 * @param {Run} run
 */
export function nowWords(run) {
  const { phase } = run;
  if (phase === "sending") return "Sending the picture";
  if (phase === "describing") {
    return run.descriptions.length ? "Looking again, and again" : "Looking at the picture";
  }
  if (phase === "reasoning") {
    if (run.fallback) return "No description is usable: answering without them";
    return run.chains.length ? "Chains are voting" : "Chains of reasoning have started";
  }
  if (phase === "decided") return "The vote is decided";
  return "Answered";
}
