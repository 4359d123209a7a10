/** Events of a streamed answer. */

import type { Answer, Budget, Chain, Description, Representative, Vote } from "./answers.js";

/** The server has read the request. */
export interface Started {
  type: "started";
  prompt_tokens: number;
  /** Most descriptions and chains of the request. */
  budget: Budget;
}

/** One description is complete: sampled and not yet scored, or decoded. */
export interface Described {
  type: "described";
  description: Description;
}

/** All descriptions are scored, and each is kept or dropped. */
export interface Gated {
  type: "gated";
  descriptions: Description[];
  /** λ of their MI; null where no description has one. */
  mi_weight: number | null;
}

/** No description was usable; the answer is a plain one. */
export interface FellBack {
  type: "fell_back";
  reason: string;
}

/** More descriptions or chains have started, where their number is not known from the beginning. */
export interface Branched {
  type: "branched";
  descriptions: number;
  chains: number;
}

/** One reasoning chain has ended, or was stopped. */
export interface ChainDone {
  type: "chain";
  chain: Chain;
}

/** The winner is final: no chain that still runs can change it. */
export interface Decided {
  type: "decided";
  vote: Vote | null;
  /** The chain whose answer wins. */
  representative: Representative;
  /** Chains that still run, and are stopped. */
  outstanding: number;
}

/** A piece of the answer's text, of its reasoning, or of both. */
export interface TextDelta {
  type: "text";
  text: string;
  reasoning: string;
}

/** The answer is complete; the last event. */
export interface Finished {
  type: "finished";
  answer: Answer;
}

/**
 * An event of a streamed answer, told apart by its `type`. They come in this order (`*`: any number of them):
 *
 *     started, described*, gated, (branched | chain)*, decided, chain*, text*, finished
 *     started, described*, fell_back, chain, decided, text*, finished              no usable description
 *     started, (branched | described | chain)*, decided, chain*, text*, finished   steered
 *     text*, finished                                                              a plain answer
 *
 * `decided` is missing where no chain gave an answer.
 */
export type MirlEvent =
  | Started
  | Described
  | Gated
  | FellBack
  | Branched
  | ChainDone
  | Decided
  | TextDelta
  | Finished;
