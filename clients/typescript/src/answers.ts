/** Results of the client's calls. Fields that the server sends keep its names. */

import type OpenAI from "openai";
import type { components, paths } from "./openapi.js";

type Schemas = components["schemas"];
type ChatBody = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"];

/** One sampled or decoded description, with its MI (nats) and whether or why not it is kept. */
export type Description = Schemas["Description"];
/** How a description is decoded instead of sampled. */
export type Decoding = Schemas["Decoding"];
/** A position at which a decoded description takes another token than the model, given the picture, alone. */
export type Switch = Schemas["Switch"];
/** A reasoning chain's outcome. */
export type Chain = Schemas["Chain"];
/** The result of a vote over answers that cluster. */
export type Vote = Schemas["Vote"];
/** The chain whose answer is returned. */
export type Representative = Schemas["Representative"];
/** The cost of a stage. */
export type Stage = Schemas["Stage"];
/** Most descriptions and chains of a request. */
export type Budget = Schemas["Budget"];
/** The server's record of an answer. */
export type Evidence = Schemas["Evidence"];
/** How much a description owes to the pictures: its MI, whole and of each token, in nats. */
export type Score = Schemas["Score"];
/** A named set of options. */
export type Preset = NonNullable<NonNullable<ChatBody["mirl"]>["preset"]>;
/** Options of a request: the fields of its `mirl` object. */
export type Options = Omit<NonNullable<ChatBody["mirl"]>, "preset">;
/** A message of a conversation. */
export type Message = OpenAI.ChatCompletionMessageParam;

/** The cost of a request. */
export interface Cost {
  /** Tokens of the prompt, pictures included; counted once. */
  prompt_tokens: number;
  /** Tokens that the model sampled, those of dropped descriptions and stopped chains included. */
  sampled_tokens: number;
  /** Tokens whose probability was computed without sampling them. */
  scored_tokens: number;
  /** Time from the request to the end of its response, measured by the client. */
  seconds: number;
  /** The cost of each stage; empty for a plain answer. */
  stages: Stage[];
}

/**
 * An answer to a question about pictures, and how the server reached it.
 *
 * A plain answer (of `NAME:direct`, or to a follow-up without a new picture) has no evidence: `confidence` and `vote`
 * are null there, and `descriptions`, `chains` and `warnings` are empty.
 */
export interface Answer {
  /** The answer, verbatim. */
  text: string;
  /** The description and the reasoning that lead to it; empty where the server sends none. */
  reasoning: string;
  /** Name of the model that answered. */
  model: string;
  /** `stop`, or `length` where the answer was cut off. */
  finish_reason: string | null;
  /** The confidence, 0 to 1: the probability that the answer is right where `calibrated`. */
  confidence: number | null;
  /** Whether `confidence` is a probability, and not just the share of the votes. */
  calibrated: boolean;
  /** Why `confidence` is not calibrated, in words; null where it is. */
  uncalibrated: string | null;
  /** What to know before trusting the answer, a sentence each. */
  warnings: string[];
  /** The descriptions of the pictures, kept and dropped. */
  descriptions: Description[];
  /** The reasoning chains, in the order in which they ended. */
  chains: Chain[];
  /** The vote of the chains; null where no answers cluster. */
  vote: Vote | null;
  cost: Cost;
  /** The server's record of the answer; null for a plain answer. */
  evidence: Evidence | null;
  /** The conversation up to this answer: the `history` of a follow-up question. */
  messages: Message[];
}

/** The descriptions of pictures for a question: the first half of an answer. */
export interface Descriptions {
  /** With their MI (nats), and whether or why not each is kept. */
  descriptions: Description[];
  /** The kept ones, in descending order of their score. */
  kept: Description[];
  /** λ of their MI; null where no description has one. */
  mi_weight: number | null;
  model: string;
  cost: Cost;
}

/** The MI of descriptions with pictures. */
export interface Scores {
  /** In the order of the request. */
  scores: Score[];
  /** λ of every `mi`. */
  mi_weight: number | null;
  model: string;
  cost: Cost;
}

/** Return the kept descriptions, in descending order of their score. */
export function kept(descriptions: readonly Description[]): Description[] {
  return descriptions
    .filter((description) => description.kept)
    .sort((first, second) => (second.score ?? 0) - (first.score ?? 0));
}

/**
 * Return the evidence of a chat completion or of a stream's chunk; null where there is none.
 *
 * Plain answers, and chunks before a stream's last stage, have none.
 *
 * @param response an object of the openai package, or the JSON of a response.
 * @param choice index of the answer, of `n`. A chunk is about the answer of its own `choices[0].index`.
 * @throws {RangeError} the response has fewer choices.
 */
export function evidence(response: object, choice = 0): Evidence | null {
  const mirl: unknown = (response as { mirl?: unknown }).mirl;
  if (!isObject(mirl)) return null;
  // A stream's last stage is an event, too.
  const { event: _event, ...fields } = mirl;
  if (!Array.isArray(fields["choices"])) return isEvidence(fields) ? fields : null;
  const record: unknown = fields["choices"][choice];
  if (record === undefined) throw new RangeError(`the response has ${fields["choices"].length} choices`);
  const whole = { budget: fields["budget"], ...(record as object) };
  return isEvidence(whole) ? whole : null;
}

function isEvidence(fields: object): fields is Evidence {
  return "representative" in fields && "descriptions" in fields;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
