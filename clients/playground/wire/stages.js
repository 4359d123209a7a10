/** @typedef {import("../lib/types.js").Description} Description */
/** @typedef {import("../lib/types.js").Chain} Chain */
/** @typedef {import("../lib/types.js").Vote} Vote */
/** @typedef {import("../lib/types.js").Evidence} Evidence */
/** @typedef {import("../lib/types.js").Budget} Budget */
/** @typedef {import("../lib/types.js").Usage} Usage */

/** @typedef {"sending" | "describing" | "reasoning" | "decided" | "answered"} Phase */

/**
 * An answer as far as it has come.
 *
 * @typedef {object} Run
 * @property {Phase} phase
 * @property {Budget | null} budget
 * @property {Description[]} descriptions
 * @property {boolean} gated whether each description is kept or dropped
 * @property {number | null} weight λ of every MI
 * @property {Chain[]} chains in the order in which they ended
 * @property {number} started chains that have started, as far as it is known
 * @property {boolean} waves whether chains start one after the other, as the vote needs them
 * @property {{vote: Vote | null, description: number | null, outstanding: number} | null} decided
 * @property {string} fallback why the gate was not used
 * @property {string} text
 * @property {string} reasoning
 * @property {Evidence | null} evidence
 * @property {Usage | null} usage
 * @property {string} finish
 */

/** @type {Run} */
export const EMPTY = {
  phase: "sending",
  budget: null,
  descriptions: [],
  gated: false,
  weight: null,
  chains: [],
  started: 0,
  waves: false,
  decided: null,
  fallback: "",
  text: "",
  reasoning: "",
  evidence: null,
  usage: null,
  finish: "",
};

/**
 * Return a run with one more chunk of its stream.
 *
 * @param {Run} run
 * @param {any} chunk
 * @returns {Run}
 */
export function advance(run, chunk) {
  let next = chunk.mirl ? stage(run, chunk.mirl) : run;
  if (chunk.usage) next = { ...next, usage: chunk.usage };
  const choice = chunk.choices?.[0];
  if (!choice) return next;
  const { content, reasoning, reasoning_content } = choice.delta ?? {};
  const thought = reasoning ?? reasoning_content;
  if (content) next = { ...next, text: next.text + content };
  if (thought) next = { ...next, reasoning: next.reasoning + thought };
  if (choice.finish_reason) next = { ...next, finish: choice.finish_reason, phase: "answered" };
  return next;
}

/**
 * @param {Run} run
 * @param {any} event
 * @returns {Run}
 */
function stage(run, event) {
  switch (event.event) {
    case "started":
      return { ...run, phase: "describing", budget: event.budget ?? null };
    case "described":
      return { ...run, descriptions: [...run.descriptions, event.description] };
    case "gated": {
      const kept = event.descriptions.filter((/** @type {Description} */ item) => item.kept).length;
      const started = Math.max(run.started, kept * (run.budget?.forks ?? 0));
      return {
        ...run,
        phase: "reasoning",
        gated: true,
        descriptions: event.descriptions,
        weight: event.mi_weight ?? null,
        started,
      };
    }
    case "fell_back":
      return { ...run, phase: "reasoning", fallback: event.reason };
    case "branched": {
      // The first wave says that chains come in waves: what the budget allows has not all started.
      const before = run.gated && !run.waves ? 0 : run.started;
      const phase = event.chains && run.phase === "describing" ? "reasoning" : run.phase;
      return { ...run, phase, waves: run.waves || run.gated, started: before + event.chains };
    }
    case "chain":
      return { ...run, chains: [...run.chains, event.chain] };
    case "decided": {
      const { vote, representative, outstanding } = event;
      return { ...run, phase: "decided", decided: { vote, description: representative.description, outstanding } };
    }
    case "finished":
      return finished(run, event);
    default:
      return run; // of a newer server
  }
}

/**
 * @param {Run} run
 * @param {Evidence} evidence
 * @returns {Run}
 */
function finished(run, evidence) {
  return {
    ...run,
    evidence,
    descriptions: evidence.descriptions,
    chains: evidence.chains,
    weight: evidence.mi_weight,
    fallback: evidence.fallback ?? "",
    decided: {
      vote: evidence.vote,
      description: evidence.representative.description,
      outstanding: run.decided?.outstanding ?? 0,
    },
  };
}

/** @param {Run} run */
export function isPlain(run) {
  return run.phase === "answered" && !run.evidence;
}

/**
 * Return the descriptions that go on and those that don't, best first; before the cut all are in the first.
 *
 * @param {Run} run
 * @returns {{kept: Description[], dropped: Description[]}}
 */
export function ranked(run) {
  const steered = run.descriptions.some((item) => item.decoding);
  if (steered || !run.gated) {
    const order = [...run.descriptions].sort((a, b) => Number(!a.decoding) - Number(!b.decoding) || a.index - b.index);
    if (!steered) return { kept: order, dropped: [] };
    return { kept: order.filter((item) => !item.reason), dropped: order.filter((item) => item.reason) };
  }
  const order = [...run.descriptions].sort(
    (a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.index - b.index,
  );
  return { kept: order.filter((item) => item.kept), dropped: order.filter((item) => !item.kept) };
}

/**
 * Return the chains of a description: its own, or those of the equal text that it shares.
 *
 * @param {Run} run
 * @param {Description} description
 */
export function chainsOf(run, description) {
  const source = description.repeats ?? description.index;
  return run.chains.filter((chain) => chain.description === source);
}

/**
 * Return how many chains of a description still run, as far as that is known.
 *
 * @param {Run} run
 * @param {Description} description
 */
export function runningOf(run, description) {
  if (!run.gated || run.waves || !description.kept || run.phase === "answered") return 0;
  return Math.max(0, (run.budget?.forks ?? 0) - chainsOf(run, description).length);
}

/**
 * Return the answers with their votes, the winner or the most frequent first.
 *
 * @param {Run} run
 * @returns {[string, number][]}
 */
export function tally(run) {
  const vote = run.decided?.vote;
  /** @type {Record<string, number>} */
  const counts = vote ? vote.counts : {};
  if (!vote) {
    for (const chain of run.chains) {
      if (chain.answer === null || chain.finish_reason === "abort") continue;
      counts[chain.answer] = (counts[chain.answer] ?? 0) + chain.votes;
    }
  }
  return Object.entries(counts).sort(([a, m], [b, n]) => Number(b === vote?.answer) - Number(a === vote?.answer) || n - m);
}
